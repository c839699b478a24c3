"""The value of one policy: `v_π = (I - gamma P_π)^-1 r_π`, by sweeps or by solving."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from advantage.algorithms.dynamic_programming.backups import facts, follow, largest
from advantage.algorithms.dynamic_programming.plan import rounding
from advantage.environments.tables.mdp import MDP
from advantage.machine import free_host_bytes, refuse_large

Method = Literal["automatic", "sweeps", "solve"]
PATIENCE = 200  # sweeps after which a sparse system is factored instead


class PolicyValue(NamedTuple):
    """The value of a policy, `[S]`, exact to within `error` in every state."""

    value: np.ndarray
    error: float


def evaluate(
    mdp: MDP,
    gamma: float,
    policy: np.ndarray,
    guess: np.ndarray,
    precision: float,
    method: Method = "automatic",
) -> PolicyValue:
    """The value of a policy, as exactly as `precision` says or rounding allows.

    Args:
        mdp, gamma: the problem; at a discount of 1 every episode must end under the policy.
        policy: int `[S]`.
        guess: `[S]`, the value that sweeps start from.
        precision: the largest error wanted.
        method: "sweeps" `v <- r_π + gamma P_π v` with bounds as in value iteration, which is fast if the chain
            mixes within some steps; "solve", the linear system, as in `theory`; "automatic": solve for a dense
            table or a discount of 1, otherwise sweeps, and solve after 200 sweeps if the factors fit into memory.

    Raises:
        ValueError: factors that would not fit into memory.

    Source: Puterman 1994, "Markov decision processes", theorem 6.1.1.
    """
    if method == "solve" or (method == "automatic" and (gamma == 1 or not mdp.is_sparse)):
        return _by_solve(mdp, gamma, policy)
    patience = PATIENCE if method == "automatic" else 10 * PATIENCE
    found = _by_sweeps(mdp, gamma, policy, guess=guess, precision=precision, sweeps=patience)
    if found.error <= precision:
        return found
    free = free_host_bytes()
    if method == "automatic" and (free is None or _bytes_of_factors(mdp, policy) < free):
        return _by_solve(mdp, gamma, policy)
    return _by_sweeps(mdp, gamma, policy, guess=found.value, precision=precision, sweeps=100 * PATIENCE)


def _by_sweeps(
    mdp: MDP, gamma: float, policy: np.ndarray, guess: np.ndarray, precision: float, sweeps: int
) -> PolicyValue:
    rates = [gamma * total for total in (facts(mdp).least, facts(mdp).most)]
    if rates[1] >= 1:
        return PolicyValue(follow(mdp, gamma, policy, value=guess, sweeps=sweeps, enough=0.0).value, np.inf)
    weights = [rate / (1 - rate) for rate in rates]
    enough = precision / max(weights[1], 1.0)
    found = follow(mdp, gamma, policy, value=guess, sweeps=sweeps, enough=enough)
    slack = rounding(mdp, gamma, largest(found.value) + max(-found.lowest, found.highest))
    low = min(w * (found.lowest - slack) for w in weights) - slack
    high = max(w * (found.highest + slack) for w in weights) + slack
    value = found.value + (low + high) / 2
    value[mdp.terminal] = 0.0
    return PolicyValue(value, (high - low) / 2)


def _by_solve(mdp: MDP, gamma: float, policy: np.ndarray) -> PolicyValue:
    """Terminal states have value 0. `(I - gamma P_π)^-1` has no negative entry, so its norm is its largest row sum."""
    from advantage.theory.linear import solve  # takes half a second, which sweeps can save

    states = np.flatnonzero(~mdp.terminal)
    if mdp.is_sparse:
        size, kind = _bytes_of_factors(mdp, policy), "sparse factorisation"
    else:
        size, kind = 4 * 8 * len(states) ** 2, "dense system"
    remedy = "evaluate by sweeps, or use ModifiedPolicyIteration"
    refuse_large(f"A {kind} of {len(states):_} states", size, remedy)
    rows = mdp.rows(policy)[states]
    rows = rows if len(states) == mdp.n_states else rows[:, states]
    reward = mdp.expected_reward[states, policy[states]]
    value = np.zeros(mdp.n_states)
    value[states] = solve(rows, gamma, reward)
    left = largest(reward + gamma * (rows @ value[states]) - value[states])
    rate = gamma * facts(mdp).most
    norm = (
        1 / (1 - rate) if rate < 1 else 1.01 * float(solve(rows, gamma, np.ones(len(states))).max(initial=0))
    )
    return PolicyValue(value, norm * (left + rounding(mdp, gamma, largest(value))))


def _bytes_of_factors(mdp: MDP, policy: np.ndarray) -> float:
    """The largest size of the factors if the states are ordered so that successors are near: a band matrix."""
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    chain = mdp.rows(policy)
    order = np.empty(mdp.n_states, np.int64)
    order[reverse_cuthill_mckee(chain)] = np.arange(mdp.n_states)
    rows = np.repeat(np.arange(mdp.n_states), np.diff(chain.indptr))
    width = int(np.abs(order[rows] - order[chain.indices]).max(initial=0))
    return 12.0 * mdp.n_states * min(3 * width + 1, 2 * mdp.n_states)
