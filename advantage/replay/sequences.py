"""Sequences of successive steps from a replay buffer, for methods whose targets follow a trajectory."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.replay.ring import Replay, observations, place_of, successors, uniform_draw
from advantage.types import Array, Key, Pytree


class ReplayedSequences(NamedTuple):
    """Successive steps, `[L, N, ...]`: time first, as in a rollout.

    Attributes:
        obs, action, reward, terminated, truncated: as in `Rollout`.
        next_obs: the true successor of each step.
        extras: what the buffer keeps besides.
        mask: bool, which steps there are: False beyond the newest row. There the newest step is repeated.
    """

    obs: Pytree
    action: Pytree
    reward: Array
    terminated: Array
    truncated: Array
    next_obs: Pytree
    extras: Pytree
    mask: Array


def replay_sequences(replay: Replay, key: Key, size: int, *, length: int) -> ReplayedSequences:
    """`size` sequences, each begun at a step drawn uniformly from all that are stored, with replacement.

    See `sequences_at`.
    """
    return sequences_at(replay, uniform_draw(replay, key, size), length=length)


def sequences_at(replay: Replay, index: Array, *, length: int) -> ReplayedSequences:
    """The `length` successive steps of one environment from each of the steps `index` on, `[N]`.

    Steps are counted from the oldest, row by row, as in `transitions_at`. A sequence stops at the newest row. At the
    end of an episode it goes on with the environment's next one, and `terminated` or `truncated` says so: a trace must
    stop there. From an empty buffer it has no steps.
    """
    env = index % replay.num_envs
    first = replay.oldest + (index // replay.num_envs).astype(jnp.uint32)
    row = first + jnp.arange(length, dtype=jnp.uint32)[:, None]
    mask = row < replay.head
    row = jnp.minimum(row, jnp.maximum(replay.head, 1) - 1)
    envs = jnp.broadcast_to(env, row.shape)
    here = place_of(replay, row), envs

    def each(part: Pytree) -> Pytree:
        return jax.tree.map(lambda x: x.reshape(*row.shape, *x.shape[1:]), part)

    return ReplayedSequences(
        obs=each(observations(replay, row.ravel(), envs.ravel())),
        action=jax.tree.map(lambda x: x[here], replay.action),
        reward=replay.reward[here],
        terminated=replay.terminated[here],
        truncated=replay.truncated[here],
        next_obs=each(successors(replay, row.ravel(), envs.ravel())),
        extras=jax.tree.map(lambda x: x[here], replay.extras),
        mask=mask,
    )
