"""The forms in which transitions and rewards may be given: dense, sparse, or a sparse matrix for each action."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from advantage.environments.tables.arrays import as_table, entry_index, require_shape


class Form(NamedTuple):
    """A table, and how its user gave it.

    Attributes:
        table: float64, dense or CSR.
        by_action: whether it was given as a matrix `[S, S]` for each action; `table` then is their stack `[A * S, S]`.
    """

    table: Any
    by_action: bool


def read_form(given: Any, name: str) -> Form:
    """The table in one of its forms.

    Raises:
        ValueError: no numbers, or matrices of actions that are not square or of different sizes.
    """
    is_list = isinstance(given, Sequence) or (isinstance(given, np.ndarray) and given.dtype == object)
    matrices = list(given) if is_list else []
    if not any(map(scipy.sparse.issparse, matrices)):
        return Form(as_table(given, name), False)
    tables = [as_table(matrix, f"{name}[{action}]") for action, matrix in enumerate(matrices)]
    size = tables[0].shape[-1]
    for action, table in enumerate(tables):
        require_shape(f"{name}[{action}]", table.shape, (size, size), "[S, S]")
    return Form(as_table(scipy.sparse.vstack(tables, format="csr"), name), True)


def transition_table(form: Form) -> Any:
    """The table of transitions, dense `[S, A, S]` or CSR `[A * S, S]`. Raises ValueError for another shape."""
    table, shape = form.table, form.table.shape
    if not scipy.sparse.issparse(table):
        hint = ""
        if len(shape) == 3 and shape[0] != shape[1] == shape[2]:
            hint = " If its first axis is the action, give transition.transpose(1, 0, 2)."
        if len(shape) != 3 or shape[2] != shape[0]:
            raise ValueError(
                f"transition has shape {shape}; it must be [S, A, S]: {(*shape[:2], shape[0])}.{hint}"
            )
    elif shape[1] == 0 or shape[0] % shape[1]:
        raise ValueError(
            f"transition has shape {shape}; a sparse one must be [A * S, S]: row a * S + s holds P(. | s, a)."
        )
    return table


def reward_table(form: Form, transition: Any, n_actions: int) -> Any:
    """The rewards by state and action, `[S, A]`, or by transition as `transition` is: `[S, A, S]`, or its entries.

    A sparse reward that lacks an entry of `transition` is 0 there; rewards of impossible transitions are left out.

    Raises:
        ValueError: a wrong shape, or a reward that is not finite, by its place in the form that was given.
    """
    table, n_states = form.table, transition.shape[-1]
    _refuse_infinite(form, n_states)
    by_pair, by_transition = (n_states, n_actions), (n_states, n_actions, n_states)
    stacked = n_actions * n_states, n_states
    if not scipy.sparse.issparse(table):
        if table.shape not in (by_pair, by_transition):
            raise ValueError(
                f"reward has shape {table.shape}; it must be [S, A]: {by_pair}, or [S, A, S]: {by_transition}."
            )
        return (
            _dense_at(table, transition) if scipy.sparse.issparse(transition) and table.ndim == 3 else table
        )
    if form.by_action and table.shape != stacked:
        raise ValueError(
            f"reward has {table.shape[0] // table.shape[1]} matrices of shape {(table.shape[1],) * 2}; it must have "
            f"one [S, S] for each action: {n_actions} of {(n_states, n_states)}."
        )
    if table.shape == by_pair != stacked:
        return table.toarray()
    if table.shape != stacked:
        raise ValueError(
            f"reward has shape {table.shape}; a sparse one must be [A * S, S]: {stacked}, where row a * S + s holds "
            f"the rewards of action a in state s, or [S, A]: {by_pair}."
        )
    if scipy.sparse.issparse(transition):
        return _sparse_at(table, transition)
    return table.toarray().reshape(n_actions, n_states, n_states).transpose(1, 0, 2).copy()


def row_name(form: Form, n_states: int, n_actions: int, row: int) -> str:
    """The name of `P(. | s, a)` in the form in which transitions were given; `row` counts those of the table."""
    if form.by_action:
        return f"transition[{row // n_states}][{row % n_states}]"
    if scipy.sparse.issparse(form.table):
        return f"transition[{row}] (state {row % n_states}, action {row // n_states})"
    return f"transition[{row // n_actions}, {row % n_actions}]"


def _refuse_infinite(form: Form, n_states: int) -> None:
    entries = form.table.data if scipy.sparse.issparse(form.table) else form.table
    if not entries.size or (np.isfinite(entries.min()) and np.isfinite(entries.max())):
        return
    first = int(np.flatnonzero(~np.isfinite(entries))[0])
    value, index = entries.ravel()[first], entry_index(form.table, first)
    place = (
        f"[{index[0] // n_states}][{index[0] % n_states}, {index[1]}]" if form.by_action else f"{[*index]}"
    )
    forbids = (
        " To forbid an action in a state, give it the transitions and rewards of an allowed one, or a penalty that no "
        "return makes up for, such as -1e6."
    )
    raise ValueError(
        f"reward{place} = {value}; rewards must be finite numbers.{forbids if value == -np.inf else ''}"
    )


def _places(table: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the entries of a CSR table, int64."""
    rows = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    return rows, table.indices.astype(np.int64)


def _with_entries_of(transition: Any, data: np.ndarray) -> Any:
    return scipy.sparse.csr_array((data, transition.indices, transition.indptr), shape=transition.shape)


def _dense_at(reward: np.ndarray, transition: Any) -> Any:
    """The rewards `[S, A, S]` at the entries of `transition`."""
    rows, successor = _places(transition)
    action, state = np.divmod(rows, transition.shape[1])
    return _with_entries_of(transition, reward[state, action, successor])


def _sparse_at(reward: Any, transition: Any) -> Any:
    """The rewards `[A * S, S]` at the entries of `transition`; the same table if it has these entries already."""
    if np.array_equal(reward.indptr, transition.indptr) and np.array_equal(
        reward.indices, transition.indices
    ):
        return reward
    reward = reward.copy()
    reward.sum_duplicates()  # sorts, too
    (rows, columns), (wanted_rows, wanted_columns) = _places(reward), _places(transition)
    n_states = transition.shape[1]
    known, wanted = rows * n_states + columns, wanted_rows * n_states + wanted_columns
    place = np.searchsorted(known, wanted)
    found = np.append(known, -1)[place] == wanted
    return _with_entries_of(transition, np.where(found, np.append(reward.data, 0.0)[place], 0.0))
