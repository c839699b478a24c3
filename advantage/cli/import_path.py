"""Where commands look for the packages of a user's environments."""

from __future__ import annotations

import os
import sys


def find_packages_here(name: str | None, *, trust: bool = False) -> None:
    """Let packages of the current folder be found, after all others, if the user's own words ask for one.

    Args:
        name: an environment that the user has named; `package:Env-v0` asks for `package`.
        trust: whether the user has allowed the import that a run's config.json, or an experiment's file, asks for.
    """
    if trust or (name is not None and ":" in name):
        sys.path.append(os.getcwd())
