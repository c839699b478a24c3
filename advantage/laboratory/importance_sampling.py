"""Off-policy corrections, measured for different distances of the policies and lengths of the episodes."""

from __future__ import annotations

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.estimators.off_policy_corrections import (
    Form,
    TraceKind,
    corrected_action_values,
    effective_sample_size,
    importance_sampled_returns,
    importance_weights,
    trace_coefficients,
)
from advantage.laboratory.estimate_quality import Interval, Measured, measured
from advantage.laboratory.gradient_variance import estimates, facts
from advantage.laboratory.problem import Problem

# Compiled once for each shape; otherwise every call would trace and compile them.
_returns = jax.jit(importance_sampled_returns, static_argnums=6)
_weights = jax.jit(importance_weights, static_argnums=2)
_corrected = jax.jit(corrected_action_values)

FORMS: dict[str, tuple[Form, float]] = {
    "trajectory": ("trajectory", np.inf),
    "trajectory, <= 5": ("trajectory", 5.0),
    "per decision": ("per-decision", np.inf),
    "per decision, <= 5": ("per-decision", 5.0),
    "action": ("action", np.inf),
}
TRACES: dict[str, TraceKind] = {
    "one step": "one-step",
    "Q(lambda), uncorrected": "lambda",
    "importance sampling": "importance",
    "tree backup": "tree-backup",
    "Retrace": "retrace",
}


class Correction(NamedTuple):
    """Errors of a target of `Q(s_0, a_0)` with a wrong critic, in units of the critic's error.

    Attributes:
        bias: `|E target - Q|`, root mean square over first states and actions; below 1 it is a contraction.
        deviation: standard deviation of one target.
    """

    bias: Interval
    deviation: float


def behaviour(problem: Problem, distance: float, seed: int = 0) -> np.ndarray:
    """`mu = (1 - distance) pi + distance nu`, `[S, A]`, with nu another random policy.

    Raises:
        ValueError: a distance outside [0, 1).
    """
    if not 0 <= distance < 1:
        raise ValueError(
            f"distance={distance} is not allowed; use 0 (on policy) or more, and less than 1: the acting policy "
            "must try every action that the other policy takes."
        )
    other = np.random.default_rng(seed).dirichlet(np.ones(problem.mdp.n_actions), problem.mdp.n_states)
    return (1 - distance) * problem.policy + distance * other


def divergence(problem: Problem, mu: np.ndarray) -> float:
    """The mean of `KL(pi(.|s) || mu(.|s))` over the steps that pi takes, in nats."""
    visits = problem.visits.sum(axis=0)
    return float(visits @ (problem.policy * np.log(problem.policy / mu)).sum(axis=1) / visits.sum())


def measure_importance(problem: Problem, mu: np.ndarray, size: int, seed: int = 0) -> dict[str, Measured]:
    """Importance-sampled gradients of pi from `size` episodes of mu, `[S, A]`, against `∇J`."""
    episodes = problem.sample(np.random.default_rng(seed), size, mu)
    place = episodes.state, episodes.action
    f, truth = facts(problem, episodes, problem.value), problem.gradient().ravel()
    log_ratio = jnp.asarray(np.where(episodes.alive, np.log(problem.policy / mu)[place], 0.0), jnp.float32)
    found: dict[str, Measured] = {}
    for name, (form, largest) in FORMS.items():
        begin = time.perf_counter()
        nothing = jnp.zeros_like(f.value)
        psi = _returns(f.reward, f.discount, nothing, nothing, log_ratio, f.trace, form, largest)
        samples = estimates(problem, episodes, np.asarray(psi), True)
        cost = (time.perf_counter() - begin) / size * 1e6
        weight = _weights(log_ratio, f.trace, form, largest)[f.alive]
        effective = float(effective_sample_size(weight)) / len(weight)
        found[name] = measured(samples, truth, effective, cost)
    return found


def measure_traces(
    problem: Problem, mu: np.ndarray, size: int, error: np.ndarray, lam: float = 1.0, seed: int = 0
) -> dict[str, Correction]:
    """Corrected targets of `Q(s_0, a_0)` from episodes of mu, with a critic whose error is `error`, `[S, A]`.

    The critic is the exact `Q_t` plus `error`; values after an episode's end are 0.
    """
    episodes = problem.sample(np.random.default_rng(seed), size, mu)
    t, pi = np.arange(problem.horizon)[:, None], problem.policy
    critic = problem.action_value + error
    expected = np.concatenate([(critic * pi).sum(axis=2), np.zeros((1, problem.mdp.n_states))])
    q, later = critic[t, episodes.state, episodes.action], expected[t + 1, episodes.next_state]
    place = episodes.state, episodes.action
    trace = jnp.asarray((1.0 - episodes.done) * episodes.alive, jnp.float32)
    rho, probability = (jnp.asarray(table[place], jnp.float32) for table in (pi / mu, pi))
    reward, q, later = (jnp.asarray(x * episodes.alive, jnp.float32) for x in (episodes.reward, q, later))
    truth, off = problem.action_value[0][episodes.state[0], episodes.action[0]], error[place][0]
    pair = episodes.state[0] * problem.mdp.n_actions + episodes.action[0]
    scale, found = float(np.sqrt(np.mean(off**2))), {}
    for name, kind in TRACES.items():
        c = trace_coefficients(kind, rho, lam * trace, probability)
        target = np.asarray(_corrected(reward, problem.mdp.gamma * trace, q, later, c)[0], float)
        found[name] = _correction(target - truth, pair, scale)
    return found


def _correction(away: np.ndarray, pair: np.ndarray, scale: float) -> Correction:
    """The squared mean of each pair, less the part due to noise, averaged; intervals by a jackknife over tenths."""

    def squared(keep: np.ndarray) -> tuple[float, float]:
        n, total, square = (np.bincount(pair[keep], w) for w in (None, away[keep], away[keep] ** 2))
        known = n > 1
        n, mean, square = n[known], (total[known] / n[known]), square[known] / n[known]
        variance = (square - mean**2) * n / (n - 1)
        return float(np.average(mean**2 - variance / n, weights=n)), float(np.average(variance, weights=n))

    tenth = np.arange(len(away)) % 10
    whole, variance = squared(np.ones(len(away), bool))
    parts = np.array([squared(tenth != k)[0] for k in range(10)])
    error = np.sqrt(0.9 * np.square(parts - parts.mean()).sum())
    low, high = whole - 1.96 * error, whole + 1.96 * error
    return Correction(
        Interval(*(float(np.sqrt(max(x, 0))) / scale for x in (whole, low, high))),
        float(np.sqrt(variance)) / scale,
    )
