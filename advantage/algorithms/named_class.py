"""Classes by module and name, imported on demand."""

from __future__ import annotations

import importlib


def named_class(place: str) -> type:
    """The class at `module:class`, with `module` relative to `advantage.algorithms`; imported on demand."""
    module, _, cls = place.partition(":")
    return getattr(importlib.import_module(f"advantage.algorithms.{module}"), cls)


def place_of(cls: type) -> str:
    """The place of a class, as `named_class` takes it."""
    return f"{cls.__module__.removeprefix('advantage.algorithms.')}:{cls.__name__}"
