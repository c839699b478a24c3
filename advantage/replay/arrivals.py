"""Replayed steps as a model of sequences sees them: an observation, with the action and the reward that led to it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.replay.ring import Replay
from advantage.replay.sequences import ReplayedSequences, sequences_at
from advantage.types import Array, Key, Pytree


class Arrivals(NamedTuple):
    """Observations in the order in which they were made, `[L, N, ...]`, the last ones of episodes among them.

    Attributes:
        obs: the observation.
        action: what was done before it; that of some other step where `first`.
        reward: what that earned; 0 where `first`.
        first: bool, the first observation of an episode, or of the sequence.
        terminated: bool, the MDP ended here.
        mask: bool, False beyond the newest step of the buffer.
    """

    obs: Pytree
    action: Pytree
    reward: Array
    first: Array
    terminated: Array
    mask: Array


def arrivals(rows: ReplayedSequences) -> Arrivals:
    """The first L observations of sequences of L steps, `[L, N, ...]`.

    A step has two observations, before and after, and mostly the second is the first of the next step. Where an
    episode ends it is not, and takes a place of its own.
    """
    length, number = rows.reward.shape
    done = jnp.logical_or(rows.terminated, rows.truncated)
    ended = jnp.concatenate([jnp.zeros((1, number), bool), done[:-1]])
    time = jnp.arange(length)[:, None]
    place = time + jnp.cumsum(ended, axis=0)  # of the observation before each step
    row = jax.vmap(lambda p: jnp.searchsorted(p, jnp.arange(length), side="right") - 1, 1, 1)(place)
    column = jnp.arange(number)[None, :]
    is_last = place[row, column] < time
    before = jnp.where(is_last, row, jnp.maximum(row - 1, 0))
    first = ~is_last & ((row == 0) | ended[row, column])

    def pick(now: Array, after: Array) -> Array:
        flag = is_last.reshape(*is_last.shape, *(1,) * (now.ndim - 2))
        return jnp.where(flag, after[row, column], now[row, column])

    return Arrivals(
        obs=jax.tree.map(pick, rows.obs, rows.next_obs),
        action=jax.tree.map(lambda x: x[before, column], rows.action),
        reward=jnp.where(first, 0.0, rows.reward[before, column]),
        first=first,
        terminated=is_last & rows.terminated[row, column],
        mask=rows.mask[row, column],
    )


def draw_arrivals(replay: Replay, key: Key, size: int, *, length: int) -> Arrivals:
    """`size` sequences of `length` observations, begun at steps drawn uniformly among those that enough others follow.

    Before so many steps are stored, sequences begin at the oldest one, and `mask` says how far they go.
    """
    begins = jnp.maximum(replay.stored - (length - 1) * replay.num_envs, replay.num_envs)
    index = jax.random.randint(key, (size,), 0, begins)
    return arrivals(sequences_at(replay, index, length=length))
