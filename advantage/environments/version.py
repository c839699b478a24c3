"""The version of the package that an environment is from."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
from collections.abc import Mapping
from typing import Any

from advantage.environments.environment import Environment, Maker
from advantage.environments.make import NamedEnvironment
from advantage.environments.modifications import ModifiedMaker

OURS = ("advantage", "gymnasium")  # their versions are recorded in any case


def version_of(environment: Environment) -> str | None:
    """`minigrid 3.0.0`; None if the environment is ours or Gymnasium's, or is in no installed package."""
    make = environment.source.make if isinstance(environment.source, Maker) else None
    while isinstance(make, ModifiedMaker):
        make = make.make
    if isinstance(make, NamedEnvironment):
        made_by = make.spec.entry_point
    else:
        made_by = make
    module = made_by.partition(":")[0] if isinstance(made_by, str) else _module_of(made_by)
    package = module.partition(".")[0]
    if package in ("", "__main__", *OURS):
        return None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return f"{package} {importlib.metadata.version(package)}"
    for name in _distributions().get(package, ()):
        return f"{name} {importlib.metadata.version(name)}"
    return None


@functools.cache  # it reads a file of every installed distribution
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _module_of(made_by: Any) -> str:
    module = None if made_by is None else inspect.getmodule(made_by)
    return "" if module is None else module.__name__
