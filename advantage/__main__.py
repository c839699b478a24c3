"""`python -m advantage` is `advantage`."""

import os
import sys

# `python -m` puts the current folder first, where its files would stand before the libraries of the same names.
if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):
    del sys.path[0]

from advantage.cli import run

run()
