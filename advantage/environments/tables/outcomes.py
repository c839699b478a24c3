"""Tables of transitions and rewards from the outcomes of each state and action."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy

from advantage.environments.tables.arrays import LARGEST_DENSE, refuse_dense, require_shape

Outcome = tuple[float, int, float, bool]
"""`(probability, next state, reward, terminated)`, as in Gymnasium's toy-text environments."""

OutcomeFunction = Callable[[int, int], Iterable[Outcome]]
"""The outcomes of a state and an action, `(s, a) -> [(p, s', r, terminated), ...]`."""


class Tables(NamedTuple):
    """The tables of a Markov decision process, as `MDP` takes them.

    Attributes:
        transition, reward: `[S, A, S]`, or CSR `[A * S, S]`.
        terminal: bool `[S]`.
    """

    transition: Any
    reward: Any
    terminal: np.ndarray


def tables_of_outcomes(
    n_states: int,
    n_actions: int,
    outcomes: OutcomeFunction,
    *,
    start: Any = None,
    as_sparse: bool | None = None,
) -> Tables:
    """The tables of a function; see `MDP.from_function` for the arguments and errors."""
    as_sparse = n_states * n_actions * n_states > LARGEST_DENSE if as_sparse is None else as_sparse
    if not as_sparse:
        refuse_dense(n_states, n_actions, tables=2)
    listed = _list_outcomes(n_states, n_actions, outcomes)
    state, action, weight, successor, reward, ends = map(np.array, zip(*listed, strict=True))
    terminal = _entered_terminated(state, successor, ends.astype(bool), start, n_states)
    kept, absorbed = ~terminal[state], np.flatnonzero(terminal)
    stay = (np.arange(n_actions)[:, None] * n_states + absorbed).ravel()
    rows = np.concatenate([(action * n_states + state)[kept], stay])
    columns = np.concatenate([successor[kept], stay % n_states])
    ones = np.ones(len(stay))
    weights = np.concatenate([weight[kept], ones])
    earned = np.concatenate([(weight * reward)[kept], 0 * ones])
    shape = n_actions * n_states, n_states
    transition = scipy.sparse.coo_array((weights, (rows, columns)), shape=shape).tocsr()
    sums = scipy.sparse.coo_array((earned, (rows, columns)), shape=shape).tocsr()
    means = np.divide(sums.data, transition.data)
    rewards = scipy.sparse.csr_array((means, transition.indices, transition.indptr), shape=shape)
    if as_sparse:
        return Tables(transition, rewards, terminal)

    def dense(table: scipy.sparse.csr_array) -> np.ndarray:
        by_action = table.toarray().reshape(n_actions, n_states, n_states)
        return np.ascontiguousarray(by_action.swapaxes(0, 1))

    return Tables(dense(transition), dense(rewards), terminal)


def _list_outcomes(
    n_states: int, n_actions: int, outcomes: OutcomeFunction
) -> list[tuple[int, int, float, int, float, bool]]:
    """All outcomes with a probability other than 0, `(s, a, p, s', r, terminated)`."""
    listed = [
        (state, action, *outcome)
        for state in range(n_states)
        for action in range(n_actions)
        for outcome in outcomes(state, action)
        if outcome[0] != 0
    ]
    if not listed:
        raise ValueError(
            "outcomes returns nothing for every state and action; let it list (p, s', r, terminated)."
        )
    for state, action, _, successor, *_ in listed:
        if not 0 <= successor < n_states:
            raise ValueError(
                f"outcomes({state}, {action}) leads to state {successor}; states are 0 to {n_states - 1}."
            )
    return listed


def _entered_terminated(
    state: np.ndarray, successor: np.ndarray, ends: np.ndarray, start: Any, n_states: int
) -> np.ndarray:
    """The states that reachable states enter with `terminated`, bool `[S]`."""
    reached = np.ones(n_states, bool) if start is None else np.asarray(start) > 0
    require_shape("start", reached.shape, (n_states,), "[S]")
    while True:
        grown = reached.copy()
        grown[successor[reached[state] & ~ends]] = True
        if (grown == reached).all():
            break
        reached = grown
    terminal = np.zeros(n_states, bool)
    terminal[successor[reached[state] & ends]] = True
    if start is None:
        reached = ~terminal
    wrong = np.flatnonzero(reached[state] & ~terminal[state] & terminal[successor] & ~ends)
    if len(wrong):
        raise ValueError(
            f"State {state[wrong[0]]} leads to state {successor[wrong[0]]} without terminated, but another outcome "
            "enters that state with it; give the terminal state a number of its own."
        )
    return terminal
