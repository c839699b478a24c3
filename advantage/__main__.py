"""`python -m advantage` does the same as the command `advantage`."""

import contextlib
import os
import sys

# `python -m` puts the current folder first in the import path: its files would hide libraries of the same names.
with contextlib.suppress(FileNotFoundError):  # the folder has been deleted
    if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):
        del sys.path[0]

from advantage.cli import run

run()
