"""Replay buffers in training states, for checkpoints: where they are, and states without their contents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advantage.replay.prioritised import Priorities
from advantage.replay.ring import Replay
from advantage.types import Pytree


def has_replay(state: Pytree) -> bool:
    """Whether a state, or its shapes, contains a replay buffer."""
    return any(map(_is_contents, jax.tree.leaves(state, is_leaf=_is_contents)))


def is_replay(state: Pytree) -> Pytree:
    """For each leaf of a state whether it belongs to a replay buffer or its priorities, bool."""

    def mark(part: Any) -> Pytree:
        return jax.tree.map(lambda _: _is_contents(part), part)

    return jax.tree.map(mark, state, is_leaf=_is_contents)


def without_replay(state: Pytree) -> Pytree:
    """The state, or its shapes, with replay buffers and priorities of size 0."""

    def cut(leaf: Any) -> Any:
        shape = (0, *leaf.shape[1:]) if leaf.shape else ()
        return jax.ShapeDtypeStruct(shape, leaf.dtype) if _is_shape(leaf) else jnp.zeros(shape, leaf.dtype)

    return _map_contents(lambda contents: jax.tree.map(cut, contents), state)


def with_empty_replay(state: Pytree, template: Pytree) -> Pytree:
    """The state with empty replay buffers of the template's sizes, the reverse of `without_replay`."""

    def empty(_: Pytree, contents: Pytree) -> Pytree:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), contents)

    return _map_contents(empty, state, template)


def _map_contents(function: Callable[..., Pytree], state: Pytree, *rest: Pytree) -> Pytree:
    return jax.tree.map(
        lambda part, *others: function(part, *others) if _is_contents(part) else part,
        state,
        *rest,
        is_leaf=_is_contents,
    )


def _is_contents(part: Any) -> bool:
    return isinstance(part, Replay | Priorities)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
