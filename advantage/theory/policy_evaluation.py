"""Values of a policy in a finite environment, by linear algebra.

A policy is int `[S]`, an action for each state, or `[S, A]`, a distribution over actions for each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

from advantage.environments.tables.markov_chain import MarkovChain
from advantage.environments.tables.mdp import MDP
from advantage.theory.chains import CommunicatingClass, closed_classes, leading_to, name_classes, reached_from
from advantage.theory.linear import solve


def expected_rewards(mdp: MDP, policy: Any) -> np.ndarray:
    """`r_π(s) = Σ_a π(a | s) r(s, a)`, `[S]`."""
    return (mdp.probabilities(policy) * mdp.expected_reward).sum(axis=1)


def values(mdp: MDP, policy: Any) -> np.ndarray:
    """`V = (I - γ P_π)^{-1} r_π`, `[S]`: the expected sum of `γ^t R_t` from each state; 0 in terminal states.

    With γ = 1 the system is solved on the states from which episodes surely end. A state from which an episode may go
    on forever has no value: this is an error if the start leads there, and NaN otherwise.

    Raises:
        ValueError: γ = 1, and the start leads to states that the policy never leaves and that are not terminal.

    Source: Puterman 1994, "Markov decision processes", theorem 6.1.1.
    """
    transition = mdp.rows(policy)
    ends = ending(mdp, transition)
    value = np.where(mdp.terminal, 0.0, np.nan)
    value[ends] = solve(transition[ends][:, ends], mdp.gamma, expected_rewards(mdp, policy)[ends])
    return value


def action_values(mdp: MDP, value: np.ndarray) -> np.ndarray:
    """`Q(s, a) = r(s, a) + γ Σ_s' P(s' | s, a) V(s')`, `[S, A]`, from `V`, `[S]`; NaN where a successor has no value.

    Source: Sutton & Barto 2018, "Reinforcement learning", eq. 4.6.
    """
    unknown = np.isnan(value)
    result = mdp.expected_reward + mdp.gamma * mdp.expected(np.where(unknown, 0.0, value))
    return np.where(mdp.expected(unknown.astype(float)) > 0, np.nan, result) if unknown.any() else result


def advantages(mdp: MDP, policy: Any) -> np.ndarray:
    """`A(s, a) = Q(s, a) - V(s)`, `[S, A]`; `Σ_a π(a | s) A(s, a) = 0`."""
    value = values(mdp, policy)
    return action_values(mdp, value) - value[:, None]


def performance(mdp: MDP, policy: Any) -> float:
    """`J = μ0 · V`: the expected return of an episode."""
    begins = mdp.start > 0
    return float(mdp.start[begins] @ values(mdp, policy)[begins])


def visitation(mdp: MDP, policy: Any) -> np.ndarray:
    """`d_π = (1 - γ) μ0^T (I - γ P_π)^{-1}`, `[S]`, sums to one: the discounted distribution of states.

    A terminal state has the share of the steps after the end.

    Raises:
        ValueError: γ = 1, where only `expected_visits` is defined.

    Source: Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation",
    section 1, normalised.
    """
    if mdp.gamma == 1:
        raise ValueError(
            "gamma=1 leaves visitation undefined, as (1 - gamma) is 0; use expected_visits, or gamma below 1."
        )
    return (1 - mdp.gamma) * solve(mdp.rows(policy), mdp.gamma, mdp.start, transposed=True)


def expected_visits(mdp: MDP, policy: Any) -> np.ndarray:
    """`ρ_π(s) = Σ_t γ^t P(s_t = s)`, `[S]`: the discounted number of decisions in each state.

    `ρ_π = d_π / (1 - γ)` except in terminal states, where no action is chosen and `ρ_π = 0`. With γ = 1 it is the
    expected number of visits in an episode, and `Σ ρ_π` its expected length.

    Raises:
        ValueError: γ = 1, and the start leads to states that the policy never leaves and that are not terminal.

    Source: Schulman et al. 2015, "Trust region policy optimization", section 2.
    """
    transition = mdp.rows(policy)
    ends = ending(mdp, transition)
    visits = np.zeros(mdp.n_states)
    visits[ends] = solve(transition[ends][:, ends], mdp.gamma, mdp.start[ends], transposed=True)
    return visits


def variances(mdp: MDP, policy: Any) -> np.ndarray:
    """The variance of the return from each state, `[S]`: `σ² = (I - γ² P_π)^{-1} E[δ²]`, `δ = R + γ V(s') - V(s)`.

    `R` is the table's reward for the step, taken as certain given `s, a` (and `s'`, if the rewards depend on it).

    Raises:
        ValueError: as `values`.

    Source: Sobel 1982, "The variance of discounted Markov decision processes", theorem 1.
    """
    value = values(mdp, policy)
    transition = mdp.rows(policy)
    ends = ending(mdp, transition)
    squares = (mdp.probabilities(policy) * _expected_squared_errors(mdp, np.nan_to_num(value))).sum(axis=1)
    variance = np.where(mdp.terminal, 0.0, np.nan)
    variance[ends] = solve(transition[ends][:, ends], mdp.gamma**2, squares[ends])
    return variance


def ending(mdp: MDP, transition: Any) -> np.ndarray:
    """The states on which the systems are solved, bool `[S]`: none is terminal, and the discounted future is finite.

    Args:
        mdp: its γ, start and terminal states are used.
        transition: `P_π`, `[S, S]`.

    Raises:
        ValueError: as `values`.
    """
    if mdp.gamma < 1:
        return ~mdp.terminal
    chain = MarkovChain(transition, mdp.start)
    reached = reached_from(chain, np.flatnonzero(mdp.start))
    endless = [found for found in closed_classes(chain) if not mdp.terminal[found.states[0]]]
    _refuse([found for found in endless if reached[found.states[0]]])
    forever = np.concatenate([found.states for found in endless]) if endless else np.array([], int)
    return ~mdp.terminal & ~leading_to(chain, forever)


def _refuse(endless: list[CommunicatingClass]) -> None:
    if endless:
        raise ValueError(
            f"gamma=1, and under this policy episodes reach {name_classes(endless)} and never end there, so that the "
            "return is an infinite sum; use gamma below 1, a policy whose episodes end, or gain_and_bias."
        )


def _expected_squared_errors(mdp: MDP, value: np.ndarray) -> np.ndarray:
    """`E[(R + γ V(s') - V(s))² | s, a]`, `[S, A]`."""
    gamma, reward, table = mdp.gamma, mdp.reward, mdp.transition
    if not mdp.is_sparse:
        earned = reward if reward.ndim == 3 else reward[:, :, None]
        return (table * (earned + gamma * value - value[:, None, None]) ** 2).sum(axis=2)
    action, state = np.divmod(np.repeat(np.arange(table.shape[0]), np.diff(table.indptr)), mdp.n_states)
    earned = reward.data if scipy.sparse.issparse(reward) else reward[state, action]
    squares = table.data * (earned + gamma * value[table.indices] - value[state]) ** 2
    rows = np.bincount(action * mdp.n_states + state, squares, minlength=table.shape[0])
    return rows.reshape(mdp.n_actions, mdp.n_states).T
