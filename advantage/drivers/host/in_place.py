"""Compiled functions that may overwrite the state that they are given."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax


@lru_cache(maxsize=64)
def compiled(function: Callable, in_place: bool, static: tuple[str, ...] = ()) -> Any:
    """The compiled function; with `in_place` it may overwrite its argument `state`, which is then invalid."""
    return jax.jit(function, static_argnames=static, donate_argnames="state" if in_place else ())
