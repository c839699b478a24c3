"""A class by the place where it is."""

from __future__ import annotations

import importlib


def named_class(place: str) -> type:
    """The class at `module:class`, the module below `advantage.algorithms`; it is imported when asked for."""
    module, _, cls = place.partition(":")
    return getattr(importlib.import_module(f"advantage.algorithms.{module}"), cls)


def place_of(cls: type) -> str:
    """The place of a class, as `named_class` takes it."""
    return f"{cls.__module__.removeprefix('advantage.algorithms.')}:{cls.__name__}"
