"""Rewards divided by the running standard deviation of the discounted return."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from advantage.estimators.returns import credit
from advantage.running_moments import Moments, moments_init, moments_update
from advantage.types import Array


class RewardScale(NamedTuple):
    """The discounted return so far in each environment, `[B]`, and the moments of all such returns."""

    running_return: Array
    moments: Moments


def reward_scale_init(num_envs: int) -> RewardScale:
    """The scale before any reward: rewards are divided by one."""
    return RewardScale(jnp.zeros(num_envs), moments_init(()))


def reward_scale_update(scale: RewardScale, reward: Array, done: Array, gamma: Array | float) -> RewardScale:
    """Compute `R_t = r_t + gamma (1 - done_{t-1}) R_{t-1}` over a rollout `[T, B]` and merge every `R_t`.

    It is the credit recursion run forward in time. The return is not shifted by its mean: rewards keep their sign.

    Source: the implementation that accompanies Schulman et al. 2017; see also Engstrom et al. 2020,
    "Implementation matters in deep RL", section 3.
    """
    alive = 1 - done.astype(jnp.float32)
    carried = jnp.concatenate([jnp.ones_like(alive[:1]), alive[:-1]])
    returns = credit(reward[::-1], (gamma * carried)[::-1], jnp.ones_like(reward), scale.running_return)[::-1]
    return RewardScale(returns[-1] * alive[-1], moments_update(scale.moments, returns))


def scale_reward(scale: RewardScale, reward: Array, limit: Array | float) -> Array:
    """`clip(r / std(R), -limit, limit)`."""
    return jnp.clip(reward / jnp.sqrt(scale.moments.variance.value + 1e-8), -limit, limit)
