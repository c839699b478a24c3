"""The replay buffer, a ring of past transitions. It is part of an algorithm's state; its functions are pure."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advantage.machine import free_device_bytes, refuse_large
from advantage.types import Array, Key, Pytree, Rollout


class Transition(NamedTuple):
    """One step, or many `[N, ...]`. There is no truncation flag, because `next_obs` is the true successor."""

    obs: Pytree
    action: Pytree
    reward: Array
    next_obs: Pytree
    terminated: Array


class Replay(NamedTuple):
    """The last `C` transitions.

    Attributes:
        rows: a `Transition` of `[C, ...]`; unused rows are zero.
        place: int32, the row for the next transition; in a full ring, that of the oldest one.
        stored: int32, number of used rows, at most C.
    """

    rows: Transition
    place: Array
    stored: Array


def replay_init(example: Transition, capacity: int) -> Replay:
    """An empty ring.

    Args:
        example: one transition without batch axes, arrays or `jax.ShapeDtypeStruct`; every leaf keeps its dtype.
        capacity: C, 1 or more.

    Raises:
        ValueError: a capacity below 1, or one that does not fit into memory.
    """
    if capacity < 1:
        raise ValueError(f"A replay ring of {capacity} transitions is not allowed; use 1 or more.")
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(example))
    what = f"A replay ring of {capacity:_} transitions of {size} bytes each"
    with jax.ensure_compile_time_eval():  # rings are made inside compiled programs too
        refuse_large(what, capacity * size, "make it smaller", free_device_bytes())
    rows: Any = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), example)
    return Replay(rows, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def replay_add(replay: Replay, rollout: Rollout) -> Replay:
    """Store a rollout `[T, B, ...]`, earlier steps first; it replaces the oldest transitions.

    Only the last C transitions of a rollout are stored.
    """
    facts = Transition(rollout.obs, rollout.action, rollout.reward, rollout.next_obs, rollout.terminated)
    capacity, size = _length(replay.rows), rollout.reward.size
    kept = min(size, capacity)
    place = (replay.place + (size - kept) + jnp.arange(kept, dtype=jnp.int32)) % capacity

    def write(ring: Array, new: Array) -> Array:
        new = jnp.asarray(new).reshape(size, *ring.shape[1:])[size - kept :]
        return ring.at[place].set(new.astype(ring.dtype), unique_indices=True)

    return Replay(
        jax.tree.map(write, replay.rows, facts),
        (replay.place + size) % capacity,
        jnp.minimum(replay.stored + size, capacity),
    )


def replay_sample(replay: Replay, key: Key, n: int) -> Transition:
    """`n` transitions `[n, ...]`, each drawn uniformly from all that are stored, with replacement.

    An empty ring gives zeros.

    Source: Lin 1992, "Self-improving reactive agents based on reinforcement learning, planning and teaching"; Mnih et
    al. 2015, "Human-level control through deep reinforcement learning", algorithm 1.
    """
    drawn = jax.random.randint(key, (n,), 0, jnp.maximum(replay.stored, 1))
    return jax.tree.map(lambda ring: ring[drawn], replay.rows)


def _length(rows: Transition) -> int:
    return len(rows.reward)
