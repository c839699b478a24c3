"""Compiled functions that may write into the state that they are given."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax


@lru_cache(maxsize=64)
def compiled(function: Callable, in_place: bool, static: tuple[str, ...] = ()) -> Any:
    """The compiled function; with `in_place` it may write into its argument `state`, which is gone then."""
    return jax.jit(function, static_argnames=static, donate_argnames="state" if in_place else ())
