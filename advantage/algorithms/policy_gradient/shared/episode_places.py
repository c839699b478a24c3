"""The episode of each step of a rollout, and its place in the episode."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from advantage.estimators.off_policy_corrections import past_sums
from advantage.estimators.returns import credit
from advantage.types import Array


class Places(NamedTuple):
    """The places of steps in episodes, `[T, B]` except `elapsed`.

    Attributes:
        episode: int32, numbered from 0 over the whole rollout; below `T * B`.
        time: int32, steps since the episode began, earlier rollouts included.
        complete: bool, whether the episode's end lies in this rollout.
        elapsed: int32 `[B]`, the time at which the next rollout begins.
    """

    episode: Array
    time: Array
    complete: Array
    elapsed: Array


def places(trace: Array, elapsed: Array) -> Places:
    """The place of every step.

    Args:
        trace: `[T, B]`, `1 - done`.
        elapsed: int32 `[B]`, steps of the running episodes before this rollout.
    """
    steps, envs = trace.shape
    ended = jnp.cumsum(1 - trace, axis=0).astype(jnp.int32)
    before = jnp.concatenate([jnp.zeros((1, envs), jnp.int32), ended[:-1]])
    in_this_rollout = past_sums(jnp.ones_like(trace), trace).astype(jnp.int32) - 1
    time = in_this_rollout + jnp.where(before == 0, elapsed, 0)
    ends = credit(1 - trace, trace, jnp.ones_like(trace)) > 0
    left = jnp.where(trace[-1] > 0, time[-1] + 1, 0)
    return Places(before + steps * jnp.arange(envs, dtype=jnp.int32), time, ends, left)


def whole_returns(reward: Array, to_go: Array, trace: Array, time: Array, gamma: Array | float) -> Array:
    """`R(tau) = Σ_k gamma^k r_k` of the episode of each step, `[T, B]`, as far as it lies in this rollout.

    Rewards before a step do not depend on its action, so those of earlier rollouts may be left out.

    Args:
        reward, trace: `[T, B]`.
        to_go: `[T, B]`, the discounted return from each step on.
        time: `[T, B]`, of `places`.
        gamma: in [0, 1].
    """
    weight = jnp.asarray(gamma, reward.dtype) ** time
    return past_sums(weight * reward, trace) - weight * reward + weight * to_go
