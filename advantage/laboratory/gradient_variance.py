"""Estimators of the policy gradient, measured against the exact gradient."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.estimators.baselines import mean_baseline, optimal_baseline, time_mean_baseline
from advantage.estimators.returns import gae, lambda_returns, n_step_returns, td_errors
from advantage.laboratory.estimate_quality import Measured, measured
from advantage.laboratory.problem import Episodes, Problem
from advantage.types import Array

LAMBDAS = (0.0, 0.5, 0.9, 0.95, 0.98, 1.0)


class Facts(NamedTuple):
    """Episodes as the estimators see them, `[T, N]`.

    Attributes:
        reward, discount, value, next_value: with the critic's values.
        trace: `1 - done`.
        to_go: the discounted return from each step on.
        earned: the episode's discounted return, in units of step t: `gamma^-t R`.
        action_value: the exact `Q_t(s_t, a_t)`.
        alive: bool.
        episode, step: int, index of the episode and of the step.
    """

    reward: Array
    discount: Array
    value: Array
    next_value: Array
    trace: Array
    to_go: Array
    earned: Array
    action_value: Array
    alive: Array
    episode: Array
    step: Array


Weight = Callable[[Facts], Array]


def facts(problem: Problem, episodes: Episodes, value: np.ndarray) -> Facts:
    """The estimators' inputs, with `value`, `[T + 1, S]`, as the critic."""
    time = np.arange(problem.horizon)[:, None]
    trace, gamma = 1.0 - episodes.done, problem.mdp.gamma
    now, later = value[time, episodes.state], value[time + 1, episodes.next_state]
    columns = episodes.reward, gamma * trace, now, later, trace
    reward, discount, now, later, trace = (jnp.asarray(x * episodes.alive, jnp.float32) for x in columns)
    to_go = jax.jit(lambda_returns)(reward, discount, jnp.zeros_like(reward), trace)
    earned = (gamma**time * episodes.reward * episodes.alive).sum(0) / gamma ** time.astype(float)
    exact = problem.action_value[time, episodes.state, episodes.action]
    alive = jnp.asarray(episodes.alive)
    episode, step = (
        jnp.broadcast_to(x, alive.shape) for x in (jnp.arange(alive.shape[1]), jnp.asarray(time))
    )
    earned, exact = (jnp.asarray(x, jnp.float32) for x in (earned, exact))
    return Facts(reward, discount, now, later, trace, to_go, earned, exact, alive, episode, step)


def _less_mean(f: Facts, x: Array) -> Array:
    return x - mean_baseline(x.ravel(), f.episode.ravel(), f.alive.ravel()).reshape(x.shape)


def _less_mean_at_t(f: Facts, x: Array) -> Array:
    mean = time_mean_baseline(x.ravel(), f.episode.ravel(), f.step.ravel(), f.alive.ravel())
    return x - mean.reshape(x.shape)


WEIGHTS: dict[str, Weight] = {
    "total return": lambda f: f.earned,
    "total return - mean": lambda f: _less_mean_at_t(f, f.earned),
    "reward to go": lambda f: f.to_go,
    "reward to go - mean": lambda f: _less_mean(f, f.to_go),
    "reward to go - mean at t": lambda f: _less_mean_at_t(f, f.to_go),
    "reward to go - V": lambda f: f.to_go - f.value,
    "Q": lambda f: f.action_value,
    "Q - V": lambda f: f.action_value - f.value,
    "TD residual": lambda f: td_errors(f.reward, f.discount, f.value, f.next_value),
    "5 steps": lambda f: n_step_returns(f.reward, f.discount, f.next_value, f.trace, 5) - f.value,
}
"""Every weight Psi of `Σ_t Psi_t ∇log pi(a_t | s_t)`: Schulman et al. 2016, eq. 1."""


def gae_weight(lam: float) -> Weight:
    """GAE with one lambda, as a function of `Facts`."""
    return lambda f: gae(f.reward, f.discount, f.value, f.next_value, lam * f.trace)


def by_pair(episodes: Episodes, weight: np.ndarray, pairs: int, n_actions: int) -> np.ndarray:
    """The weights of each episode summed by state and action, `[N, S * A]`."""
    count = episodes.state.shape[1]
    place = np.arange(count) * pairs + episodes.state * n_actions + episodes.action
    kept = np.where(episodes.alive, weight, 0.0)
    return np.bincount(place.ravel(), kept.ravel(), count * pairs).reshape(count, pairs)


def estimates(
    problem: Problem, episodes: Episodes, weight: np.ndarray, discount_weighting: bool
) -> np.ndarray:
    """`Σ_t gamma^t Psi_t ∇log pi(a_t | s_t)` of each episode, `[N, S * A]`; else without `gamma^t`."""
    pairs, actions = problem.logits.size, problem.mdp.n_actions
    time = np.arange(problem.horizon)[:, None]
    power = problem.mdp.gamma**time if discount_weighting else 1.0
    return by_pair(episodes, power * np.asarray(weight, float), pairs, actions) @ problem.score()


def optimal(problem: Problem, episodes: Episodes, f: Facts, discount_weighting: bool) -> np.ndarray:
    """`g_i (R - b_i)` with the variance-minimising `b_i = E[g_i^2 R] / E[g_i^2]` for each parameter, `[N, S * A]`.

    `R` is the episode's return and `g` its score, in which row t has the factor `gamma^-t` without weighting.

    Source: Peters & Schaal 2008, "Reinforcement learning of motor skills with policy gradients", eq. 12.
    """
    time = np.arange(problem.horizon)[:, None]
    power = np.ones((problem.horizon, 1)) if discount_weighting else problem.mdp.gamma ** -time.astype(float)
    score = by_pair(
        episodes, np.broadcast_to(power, episodes.state.shape), problem.logits.size, problem.mdp.n_actions
    )
    score, returns = score @ problem.score(), np.asarray(f.earned[0], float)
    baseline = optimal_baseline(jnp.asarray(score), jnp.asarray(returns), jnp.arange(len(returns)))
    return score * (returns[:, None] - np.asarray(baseline, float))


def measure_gradients(
    problem: Problem,
    episodes: Episodes,
    value_error: np.ndarray | float = 0.0,
    discount_weighting: bool = True,
) -> dict[str, Measured]:
    """Measure every estimator against the exact gradient.

    Args:
        problem: a table and its policy.
        episodes: from `problem.sample`.
        value_error: the critic's error, `[T + 1, S]` or 0.
        discount_weighting: whether steps are weighted by `gamma^t`, so that the target is `∇J`; else it is `g^gamma`.
    """
    truth = problem.gradient(discount_weighting).ravel()
    f = facts(problem, episodes, problem.value + value_error)
    count = episodes.state.shape[1]
    found: dict[str, Measured] = {}
    lambdas = {f"GAE, lambda {lam:g}": gae_weight(lam) for lam in LAMBDAS[1:-1]}
    for name, weight in (WEIGHTS | lambdas).items():
        compiled = jax.jit(weight)
        psi, seconds = _timed(lambda compiled=compiled: np.asarray(compiled(f)))
        samples, more = _timed(lambda psi=psi: estimates(problem, episodes, psi, discount_weighting), 1)
        found[name] = measured(samples, truth, cost=(seconds + more) / count * 1e6)
        if name == "total return - mean":
            samples, seconds = _timed(lambda: optimal(problem, episodes, f, discount_weighting), 1)
            found["total return - optimal"] = measured(samples, truth, cost=seconds / count * 1e6)
    return found


def _timed(function: Callable[[], np.ndarray], warm: int = 0) -> tuple[np.ndarray, float]:
    """A result, and the smallest time in seconds of up to two calls after compilation."""
    result, seconds = function(), []
    for _ in range(1 if warm else 2):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return result, min(seconds)
