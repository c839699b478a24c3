"""Estimators of the advantage, measured against the exact one."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from advantage.laboratory.estimate_quality import Interval, interval, measured
from advantage.laboratory.gradient_variance import estimates, facts, gae_weight
from advantage.laboratory.problem import Episodes, Problem


class Credit(NamedTuple):
    """Errors of GAE with one lambda and one critic, over the policy's steps, relative to the exact advantage's size.

    Attributes:
        bias: root mean square of `E[Ahat_t | s_t, a_t] - A_t(s_t, a_t)`, exact, less its mean over the actions of each
            state. That mean is a baseline, which does not bias the gradient.
        deviation: root mean square of the noise, `Ahat_t - E[Ahat_t | s_t, a_t]`.
        gradient_bias: bias of the resulting gradient, relative to the exact one; 0 if the estimator is gamma-just.
        gradient_variance: variance of one episode's gradient.
    """

    bias: float
    deviation: Interval
    gradient_bias: Interval
    gradient_variance: Interval


def expected_gae(problem: Problem, value: np.ndarray, lam: float) -> np.ndarray:
    """`E[Ahat_t | s_t = s, a_t = a]`, exactly, `[T, S, A]`.

        Ebar_t(s, a) = E[delta_t | s, a] + gamma lam Σ_s' P(s' | s, a) Σ_a' pi(a' | s') Ebar_{t+1}(s', a')

    Args:
        problem: a table and its policy.
        value: the critic, `[T + 1, S]`; values after an episode's end are 0.
        lam: lambda of GAE.

    Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation", eq. 16.
    """
    result, rest = np.zeros_like(problem.action_value), np.zeros(problem.mdp.n_states)
    for t in reversed(range(problem.horizon)):
        later = value[t + 1] if t + 1 < problem.horizon else np.zeros(problem.mdp.n_states)
        worth = problem.mdp.gamma * np.where(problem.mdp.terminal, 0.0, later + lam * rest)
        backed_up = np.einsum("sat,sat->sa", problem.transition, problem.earned + worth)
        result[t] = backed_up - value[t][:, None]
        rest = (problem.policy * result[t]).sum(axis=1)
    return result


def measure_credit(
    problem: Problem, episodes: Episodes, lam: float, value_error: np.ndarray | float = 0.0
) -> Credit:
    """Errors of GAE with one lambda and a critic with the error `value_error`, `[T + 1, S]` or 0."""
    value = problem.value + value_error
    f = facts(problem, episodes, value)
    found = np.asarray(jax.jit(gae_weight(lam))(f), float)
    expected, advantage = (
        expected_gae(problem, value, lam),
        problem.action_value - problem.value[:-1, :, None],
    )
    weight, off = problem.visits[..., None] * problem.policy, expected - advantage
    off = off - (problem.policy * off).sum(axis=2, keepdims=True)
    size = np.sqrt((weight * advantage**2).sum())
    place = np.arange(problem.horizon)[:, None], episodes.state, episodes.action
    left = np.where(episodes.alive, found - expected[place], 0.0)
    spread = interval(np.square(left).sum(axis=0))
    truth = problem.gradient().ravel()
    gradient = measured(estimates(problem, episodes, found, True), truth)
    return Credit(
        float(np.sqrt((weight * off**2).sum()) / size),
        Interval(*(float(np.sqrt(x) / size) for x in spread)),
        gradient.bias,
        gradient.variance,
    )
