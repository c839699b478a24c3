"""How many turns a loop takes if several seeds run side by side."""

from __future__ import annotations

from jax.custom_batching import custom_vmap

from advantage.types import Array


@custom_vmap
def largest_of_seeds(count: Array) -> Array:
    """The count itself, and under `vmap` the largest one, without an axis.

    `vmap` of a loop whose counts differ copies everything that the loop carries at each turn.
    """
    return count


@largest_of_seeds.def_vmap
def _(size: int, batched: list[bool], count: Array) -> tuple[Array, bool]:
    return largest_of_seeds(count.max()), False
