"""Optimal values of a finite environment with an entropy bonus."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from advantage.environments.tables.mdp import MDP
from advantage.theory.policy_evaluation import action_values


def soft_value_iteration(
    mdp: MDP, alpha: float, *, tolerance: float = 1e-10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best values of `E Σ_t γ^t (R_t + alpha H(π(. | s_t)))`: `-> V [S], Q [S, A], π [S, A]`.

        Q(s, a) = r(s, a) + γ Σ_s' P(s' | s, a) V(s')
        V(s)    = alpha log Σ_a exp(Q(s, a) / alpha),   0 in terminal states
        π       = exp((Q - V) / alpha)

    Iterated from V = 0 until V is within `tolerance` of the solution, or as near as rounding allows; each iteration
    brings it nearer by a factor γ. In terminal states Q is 0 and π uniform.

    Args:
        mdp: with γ below 1.
        alpha: the temperature, in rewards per nat, above 0.
        tolerance: largest error of V, above 0.

    Raises:
        ValueError: γ = 1, or a temperature or tolerance that is not above 0.

    Source: Haarnoja et al. 2017, "Reinforcement learning with deep energy-based policies", eq. 4 to 6 and theorem 3.
    """
    if mdp.gamma == 1:
        raise ValueError(
            "Soft values need gamma below 1, and it is 1: with an entropy bonus it pays never to end. Use "
            "dataclasses.replace(mdp, gamma=0.99)."
        )
    for name, given in (("alpha", alpha), ("tolerance", tolerance)):
        if not 0 < given < np.inf:
            raise ValueError(f"{name}={given} is not allowed; use a number above 0.")
    value, change, rounding = np.zeros(mdp.n_states), np.inf, 0.0
    small = tolerance * (1 / max(mdp.gamma, 1e-9) - 1)  # finite for gamma = 0 too, so that it iterates
    while change > max(small, rounding):
        q = np.where(mdp.terminal[:, None], 0.0, action_values(mdp, value))
        before, value = value, np.where(mdp.terminal, 0.0, alpha * logsumexp(q / alpha, axis=1))
        change, rounding = np.abs(value - before).max(), 8 * np.spacing(np.abs(value).max())
    q = np.where(mdp.terminal[:, None], 0.0, action_values(mdp, value))
    policy = np.exp(q / alpha - logsumexp(q / alpha, axis=1, keepdims=True))
    return value, q, policy
