"""Undiscounted problems: whether episodes end, under which policy, and how soon."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

from advantage.algorithms.dynamic_programming.backups import blocks, stacked
from advantage.environments.tables.mdp import MDP

SWEEPS = 10_000  # after which a horizon counts as unbounded


def proper_policy(mdp: MDP) -> np.ndarray:
    """A policy under which every episode ends: in each state the action most likely to lead nearer to an end.

    Int32 `[S]`; the distance to an end is the smallest possible number of steps. Takes time linear in the table's
    non-zeros.

    Raises:
        ValueError: no terminal state, or a state from which none can be reached.
    """
    away = _steps_to_an_end(mdp, _entries(mdp))
    table = stacked(mdp)
    row = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    nearer = away[table.indices] < away[row % mdp.n_states]
    chance = np.bincount(row, table.data * nearer, table.shape[0])
    return chance.reshape(mdp.n_actions, mdp.n_states).argmax(axis=0).astype(np.int32)


def horizon(mdp: MDP, gamma: float) -> float:
    """A bound on the expected number of steps to the end of an episode under any policy; infinite if there is none.

    Let `a_n` be the largest probability, over states and policies, that an episode outlasts n steps. The bound is
    `n / (1 - a_n)`. Discounted problems need no bound: the result is 0.

    Raises:
        ValueError: a state from which no episode can end.

    Source: Bertsekas & Tsitsiklis 1991, "An analysis of stochastic shortest path problems", proposition 1.
    """
    if gamma < 1:
        return 0.0
    entries = _entries(mdp)
    _steps_to_an_end(mdp, entries)
    if _can_go_on_for_ever(mdp, entries):
        return np.inf
    alive = (~mdp.terminal).astype(float)
    steps = 0
    while alive.max() > 0.5 and steps < SWEEPS:
        alive = np.concatenate([np.max(block.expected(alive), axis=0) for block in blocks(mdp)])
        alive[mdp.terminal] = 0.0
        steps += 1
    left = float(alive.max())
    return max(steps, 1) / (1 - left) * (1 + 1e-6) if left < 1 - 1e-6 else np.inf


def _entries(mdp: MDP) -> Any:
    """Row s' marks the rows `a * S + s` that may lead to s': bool CSR `[S, A * S]`."""
    table = stacked(mdp)
    possible = scipy.sparse.csr_array(
        (table.data > 0, table.indices, table.indptr), shape=table.shape
    ).tocsc()
    possible.eliminate_zeros()
    return possible.T


def _steps_to_an_end(mdp: MDP, entries: Any) -> np.ndarray:
    """The fewest steps from each state to a terminal one, `[S]`. Raises ValueError where there is no way."""
    away = np.where(mdp.terminal, 0, -1)
    frontier, steps = np.flatnonzero(mdp.terminal), 0
    while len(frontier):
        steps += 1
        found = entries[frontier].indices % mdp.n_states
        frontier = np.unique(found[away[found] < 0])
        away[frontier] = steps
    if away.min() < 0:
        raise ValueError(
            "With a discount of 1 an episode must be able to end, but no terminal state can be reached from state "
            f"{away.argmin()}; use gamma below 1, mark the states that end an episode as terminal, or solve for the "
            "average reward with RelativeValueIteration."
        )
    return away


def _can_go_on_for_ever(mdp: MDP, entries: Any) -> bool:
    """Whether some policy can stay outside the terminal states for ever.

    Starting from the terminal states, drops every state all of whose actions may lead to a dropped state, and checks
    whether any state is left.
    """
    inside = ~mdp.terminal
    keeps = np.ones(mdp.n_actions * mdp.n_states, bool)
    actions = np.full(mdp.n_states, mdp.n_actions)
    frontier = np.flatnonzero(mdp.terminal)
    while len(frontier):
        rows = np.unique(entries[frontier].indices)
        rows = rows[keeps[rows]]
        keeps[rows] = False
        states = rows % mdp.n_states
        np.subtract.at(actions, states, 1)
        frontier = np.unique(states[(actions[states] == 0) & inside[states]])
        inside[frontier] = False
    return bool(inside.any())
