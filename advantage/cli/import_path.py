"""Where commands look for the packages of a user's environments."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def find_packages_here(name: str | None, *, wrappers: Sequence[str] = (), trust: bool = False) -> None:
    """Add the current folder at the end of the import path, if the user has asked for a package.

    Args:
        name: the environment that the user has named; `package:Env-v0` asks for `package`.
        wrappers: those that the user has named; each asks for its module.
        trust: whether the user has allowed the import that a run's config.json, or an experiment's file, asks for.
    """
    if trust or wrappers or (name is not None and ":" in name):
        sys.path.append(os.getcwd())
