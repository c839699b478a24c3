"""Objectives beside the discounted one of `policy_evaluation`: a finite horizon, and the average reward."""

from __future__ import annotations

from typing import Any

import numpy as np

from advantage.environments.tables.mdp import MDP
from advantage.machine import refuse_array
from advantage.theory.chains import stationary_distribution
from advantage.theory.linear import solve
from advantage.theory.policy_evaluation import expected_rewards


def finite_horizon_values(mdp: MDP, policy: Any, horizon: int) -> np.ndarray:
    """`V_t = r_{π_t} + P_{π_t} V_{t+1}`, `V_T = 0`: the undiscounted sum of the rewards from step t to T - 1.

    γ is not used.

    Args:
        mdp: any; terminal states keep earning 0.
        policy: int `[S]` or `[S, A]`, or one that depends on time, `[T, S, A]`.
        horizon: `T`, 1 or more steps.

    Returns:
        `V`, `[T + 1, S]`.

    Raises:
        ValueError: a horizon below 1, a policy for another horizon, or values that would not fit into memory.

    Source: Puterman 1994, "Markov decision processes", section 4.2.
    """
    if horizon < 1:
        raise ValueError(f"horizon={horizon} is not allowed; use 1 step or more.")
    refuse_array("V", (horizon + 1, mdp.n_states), "use a shorter horizon")
    policy = np.asarray(policy)
    if policy.ndim == 3 and len(policy) != horizon:
        raise ValueError(f"policy is for {len(policy)} steps and horizon={horizon}; give one table for each.")
    value = np.zeros((horizon + 1, mdp.n_states))
    for t in reversed(range(horizon)):
        pi = mdp.probabilities(policy[t] if policy.ndim == 3 else policy)
        value[t] = (pi * (mdp.expected_reward + mdp.expected(value[t + 1]))).sum(axis=1)
    return value


def finite_horizon_action_values(mdp: MDP, value: np.ndarray) -> np.ndarray:
    """`Q_t(s, a) = r(s, a) + Σ_s' P(s' | s, a) V_{t+1}(s')`, `[T, S, A]`, from `V`, `[T + 1, S]`.

    Raises:
        ValueError: a table that would not fit into memory.

    Source: Puterman 1994, "Markov decision processes", section 4.2.
    """
    refuse_array("Q", (len(value) - 1, mdp.n_states, mdp.n_actions), "use a shorter horizon")
    return np.array([mdp.expected_reward + mdp.expected(later) for later in value[1:]])


def finite_horizon_advantages(mdp: MDP, policy: Any, horizon: int) -> np.ndarray:
    """`A_t(s, a) = Q_t(s, a) - V_t(s)`, `[T, S, A]`; `Σ_a π_t(a | s) A_t(s, a) = 0`. Raises as the two above."""
    value = finite_horizon_values(mdp, policy, horizon)
    return finite_horizon_action_values(mdp, value) - value[:-1, :, None]


def finite_horizon_performance(mdp: MDP, policy: Any, horizon: int) -> float:
    """`J = μ0 · V_0`: the expected undiscounted sum of T rewards. Raises as `finite_horizon_values`."""
    return float(mdp.start @ finite_horizon_values(mdp, policy, horizon)[0])


def gain_and_bias(mdp: MDP, policy: Any) -> tuple[float, np.ndarray]:
    """The average reward `g = μ · r_π`, and the bias `h`, `[S]`, of Poisson's equation `g + h = r_π + P_π h`.

    `μ` is the stationary distribution; among the solutions, which differ by a constant, it is the one with
    `μ · h = 0`. For an aperiodic chain `h(s)` is the total reward from `s` in excess of `g` per step. γ is not used; a
    terminal state keeps earning 0.

    Returns:
        `g`, `h`.

    Raises:
        ValueError: several closed classes under this policy, each with its own gain; the message names them.

    Source: Puterman 1994, "Markov decision processes", theorem 8.2.6 and corollary 8.2.7.
    """
    chain = mdp.chain(policy)
    mu, reward = stationary_distribution(chain), expected_rewards(mdp, policy)
    gain = float(mu @ reward)
    others = np.delete(np.arange(mdp.n_states), mu.argmax())
    bias = np.zeros(mdp.n_states)
    bias[others] = solve(chain.transition[others][:, others], 1.0, (reward - gain)[others])
    return gain, bias - mu @ bias


def differential_action_values(mdp: MDP, gain: float, bias: np.ndarray) -> np.ndarray:
    """`Q(s, a) = r(s, a) - g + Σ_s' P(s' | s, a) h(s')`, `[S, A]`: the total excess over the average after `s, a`.

    Source: Sutton & Barto 2018, "Reinforcement learning", section 10.3.
    """
    return mdp.expected_reward - gain + mdp.expected(bias)


def differential_advantages(mdp: MDP, policy: Any) -> np.ndarray:
    """`A(s, a) = Q(s, a) - h(s)`, `[S, A]`; `Σ_a π(a | s) A(s, a) = 0`. Raises as `gain_and_bias`.

    Source: Sutton & Barto 2018, "Reinforcement learning", section 10.3.
    """
    gain, bias = gain_and_bias(mdp, policy)
    return differential_action_values(mdp, gain, bias) - bias[:, None]
