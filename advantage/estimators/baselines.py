"""Baselines: what may be subtracted from a return without changing the gradient's mean.

A baseline for step t of an episode must not depend on that step's action. A mean over a batch that includes the
episode itself does depend on it, so every mean here is over the other episodes. `episode` numbers the episodes of a
batch `[N]` from 0; if there is no other episode, the baseline is 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from advantage.types import Array


def mean_baseline(returns: Array, episode: Array, used: Array) -> Array:
    """The mean return of the steps of all other episodes, `[N]`.

    Args:
        returns: `[N]`, one for each step.
        episode: int `[N]`, in 0..N-1.
        used: bool `[N]`, the steps that count.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
    section 4 (reinforcement comparison), over a batch.
    """
    return _of_the_others(jnp.where(used, returns, 0.0), used.astype(returns.dtype), episode)


def time_mean_baseline(returns: Array, episode: Array, time: Array, used: Array) -> Array:
    """The mean return from the same step of all other episodes, `b_t`, `[N]`.

    Args:
        returns, episode, used: as for `mean_baseline`.
        time: int `[N]`, steps since the start of the episode; at least 0.

    Source: Greensmith, Bartlett & Baxter 2004, "Variance reduction techniques for gradient estimates in reinforcement
    learning", section 4, per time step.
    """
    # One episode has one step at each time, so all other steps at this time belong to other episodes.
    rank = _dense_rank(time)
    value, weight = jnp.where(used, returns, 0.0), used.astype(returns.dtype)
    totals, counts = (jax.ops.segment_sum(x, rank, len(returns))[rank] for x in (value, weight))
    return (totals - value) / jnp.maximum(counts - weight, 1.0)


def optimal_baseline(score: Array, returns: Array, episode: Array) -> Array:
    """The constant with the smallest variance for each parameter, `b_i = E[g_i^2 R] / E[g_i^2]`, `[N, P]`.

    Args:
        score: `[N, P]`, g: `Σ_t ∇log pi(a_t | s_t)` of each episode with R its return; or `∇log pi` of each step,
            treated as independent, with R its return to go. Zero rows do not count.
        returns: `[N]`, R.
        episode: int `[N]`, in 0..N-1; expectations are over the rows of the other episodes.

    Source: Peters & Schaal 2008, "Reinforcement learning of motor skills with policy gradients", eq. 12: the
    variance of `g_i (R - b_i)` is a parabola in `b_i`.
    """
    square = jnp.square(score)
    top, bottom = (
        x.sum(0) - jax.ops.segment_sum(x, episode, len(returns))[episode]
        for x in (square * returns[:, None], square)
    )
    known = bottom > 1e-6 * square.sum(0)  # sums that are only rounding errors of zero do not count
    return jnp.where(known, top / jnp.where(known, bottom, 1.0), 0.0)


def _of_the_others(value: Array, weight: Array, episode: Array) -> Array:
    size = len(value)
    own_total, own_count = (jax.ops.segment_sum(x, episode, size)[episode] for x in (value, weight))
    return (value.sum() - own_total) / jnp.maximum(weight.sum() - own_count, 1.0)


def _dense_rank(time: Array) -> Array:
    """The rank of each number among the distinct ones, smallest first."""
    return jnp.unique(time, return_inverse=True, size=len(time))[1].reshape(time.shape)
