"""The value of a policy from whole episodes of another one, which acted.

Arrays are `[T, N]`: N episodes side by side, each beginning in row 0; rows after an episode's end have reward 0 and
ratio 1. `rho_t = pi(a_t | s_t) / mu(a_t | s_t)` with pi the policy that is judged and mu the one that acted, and
`w_t = rho_0 ... rho_t`, from `importance_weights`. The value is the expected discounted sum of an episode's rewards,
and an episode that is truncated ends there.

A function returns a term for each episode, `[N]`. The estimate is the mean of the terms, or a ratio of two means.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from advantage.estimators.off_policy_corrections import (
    Form,
    effective_sample_size,
    importance_sampled_returns,
    importance_weights,
)
from advantage.types import Array

RESAMPLES = 2000
LEVEL = 0.95
LARGEST_WEIGHT = 1e30  # float32 holds its products with rewards
_AT_ONCE = 4_000_000  # numbers that are resampled together


class Estimate(NamedTuple):
    """An estimate and its confidence interval; the ends are NaN where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan


def ordinary_terms(reward: np.ndarray, log_ratio: np.ndarray, gamma: float) -> np.ndarray:
    """`w_{T-1} Σ_t gamma^t r_t`: importance sampling, unbiased.

    Args:
        reward: `[T, N]`.
        log_ratio: `log rho_t`, `[T, N]`; -inf for an action that pi never takes.
        gamma: discount per step, in [0, 1].

    Source: Precup, Sutton & Singh 2000, "Eligibility traces for off-policy policy evaluation", eq. 1.
    """
    return _returns_from_start(reward, log_ratio, gamma, "trajectory")


def weighted_terms(reward: np.ndarray, log_ratio: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """`-> (w_{T-1} Σ_t gamma^t r_t, w_{T-1})`, whose means' ratio is the weighted estimate: biased, but consistent.

    Its variance is smaller and it never leaves the range of the returns. Both are divided by the largest weight, which
    changes no ratio. The arguments are those of `ordinary_terms`.

    Source: Precup, Sutton & Singh 2000, section 3.
    """
    total = np.sum(log_ratio, axis=0)
    largest = total.max() if np.isfinite(total).any() else 0.0
    scaled = np.concatenate([log_ratio[:1] - largest, log_ratio[1:]])
    weight = np.asarray(_weights(_float32(scaled))[-1], np.float64)
    return ordinary_terms(reward, scaled, gamma), weight


def per_decision_terms(reward: np.ndarray, log_ratio: np.ndarray, gamma: float) -> np.ndarray:
    """`Σ_t gamma^t w_t r_t`: unbiased, and a reward is not weighted by later actions.

    The arguments are those of `ordinary_terms`.

    Source: Precup, Sutton & Singh 2000, eq. 3.
    """
    return _returns_from_start(reward, log_ratio, gamma, "per-decision")


def doubly_robust_terms(
    reward: np.ndarray, log_ratio: np.ndarray, gamma: float, q: np.ndarray, v: np.ndarray
) -> np.ndarray:
    """`v_0 + Σ_t gamma^t w_t (r_t + gamma v_{t+1} - q_t)`.

    Unbiased for every q that was not fitted to the same episode; the better q is, the smaller is the variance.

    Args:
        reward, log_ratio, gamma: as for `ordinary_terms`.
        q: `Q(s_t, a_t)`, `[T, N]`; 0 after the end.
        v: `Σ_a pi(a | s_t) Q(s_t, a)`, `[T, N]`; 0 after the end.

    Source: Jiang & Li 2016, "Doubly robust off-policy value evaluation for reinforcement learning", eq. 10, unrolled as
    in Thomas & Brunskill 2016, "Data-efficient off-policy policy evaluation for reinforcement learning", section 5.
    """
    following = np.concatenate([v[1:], np.zeros_like(v[:1])])
    return v[0] + per_decision_terms(reward + gamma * following - q, log_ratio, gamma)


@partial(jax.jit, static_argnames="form")
def _returns(reward: Array, log_ratio: Array, gamma: Array, form: Form) -> Array:
    one, zero = jnp.ones_like(reward), jnp.zeros_like(reward)
    return importance_sampled_returns(reward, gamma * one, zero, zero, log_ratio, one, form, LARGEST_WEIGHT)


@jax.jit
def _weights(log_ratio: Array) -> Array:
    return importance_weights(log_ratio, jnp.ones_like(log_ratio), "per-decision", LARGEST_WEIGHT)


def _returns_from_start(reward: np.ndarray, log_ratio: np.ndarray, gamma: float, form: Form) -> np.ndarray:
    found = _returns(_float32(reward), _float32(log_ratio), jnp.float32(gamma), form)
    return np.asarray(found[0], np.float64)


def _float32(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32)


def effective_episodes(log_ratio: np.ndarray) -> float:
    """`(Σ w)² / Σ w²` of the weights of whole episodes: how many episodes of pi the data are worth."""
    _, weight = weighted_terms(np.zeros_like(log_ratio), log_ratio, 1.0)
    return float(effective_sample_size(jnp.asarray(weight, jnp.float32))) if weight.any() else 0.0


def bootstrapped(
    terms: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """`Σ terms / Σ weight` with a percentile interval from resampled episodes.

    Args:
        terms: `[N]`.
        weight: `[N]`, at least 0; None is 1 for each, so that the estimate is the mean.
        seed: seed of the draws.
        resamples: number of resamples.
        level: confidence level.

    Returns:
        NaN if all weights are 0.

    Source: Efron & Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
    """
    weight = np.ones_like(terms) if weight is None else weight
    if not weight.any():
        return Estimate(np.nan)
    rng, number = np.random.default_rng(seed), len(terms)
    block, found = max(1, _AT_ONCE // number), []
    for begin in range(0, resamples, block):
        drawn = rng.integers(0, number, (min(block, resamples - begin), number))
        total = weight[drawn].sum(axis=1)
        found.append(np.where(total > 0, terms[drawn].sum(axis=1) / np.where(total > 0, total, 1), np.nan))
    return Estimate(float(terms.sum() / weight.sum()), *percentiles(np.concatenate(found), level))


def percentiles(resampled: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The ends of the middle `level` of resampled estimates; those that are NaN are left out."""
    low, high = np.nanpercentile(resampled, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


class Transitions(NamedTuple):
    """N steps of a finite world.

    Attributes:
        state, action, next_state: int `[N]`.
        reward: `[N]`.
        goes_on: `[N]`, 0 where the task ended, else 1.
    """

    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_state: np.ndarray
    goes_on: np.ndarray


def fitted_q_table(
    steps: Transitions, policy: np.ndarray, gamma: float, iterations: int, weight: np.ndarray | None = None
) -> np.ndarray:
    """Fitted Q evaluation with a table, `[S, A]`.

    From `Q = 0`, `iterations` times:

        Q(s, a) <- mean over the steps at (s, a) of r + gamma (1 - terminated) Σ_b pi(b | s') Q(s', b)

    After k iterations it is the value of k steps, so a time limit of k steps needs k of them. A pair that is not in the
    data keeps the value 0.

    Args:
        steps: the data.
        policy: `pi(a | s)`, `[S, A]`.
        gamma: discount per step, in [0, 1].
        iterations: 1 or more.
        weight: `[N]`, how often each step counts; once by default.

    Source: Le, Voloshin & Yue 2019, "Batch policy learning under constraints", algorithm 3.
    """
    states, actions = policy.shape
    weight = np.ones(len(steps.reward)) if weight is None else weight
    pair = steps.state * actions + steps.action
    count = np.bincount(pair, weight, minlength=states * actions)
    share = weight / np.where(count > 0, count, 1)[pair]
    reward = np.bincount(pair, share * steps.reward, minlength=states * actions)
    places = (pair, steps.next_state)
    following = scipy.sparse.csr_array((share * steps.goes_on, places), shape=(states * actions, states))
    q = np.zeros((states, actions))
    for _ in range(iterations):
        q = (reward + gamma * (following @ (policy * q).sum(axis=1))).reshape(states, actions)
    return q
