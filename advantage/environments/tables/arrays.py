"""Tables of numbers: float64, dense or CSR, read-only, and checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy

from advantage.machine import refuse_large

TOLERANCE = 1e-8  # largest error allowed in the sum of a row of probabilities
LARGEST_DENSE = 2**21  # entries; a larger table is sparse unless the caller decides


def refuse_dense(n_states: int, n_actions: int, tables: int = 1) -> None:
    """Raises ValueError for dense tables that would not fit into memory, before they are allocated."""
    what, size = (
        f"A dense table of {n_states:_} states and {n_actions} actions",
        n_states * n_actions * n_states,
    )
    refuse_large(what, 8 * tables * size, "use a sparse one")


def as_table(table: Any, name: str) -> Any:
    """The table as float64, dense or CSR; it is copied only if it has to be converted."""
    if scipy.sparse.issparse(table):
        table = scipy.sparse.csr_array(table, dtype=np.float64)
        if table.nnz < np.iinfo(np.int32).max:  # int32 indices take half the memory and are faster
            indices, indptr = (part.astype(np.int32, copy=False) for part in (table.indices, table.indptr))
            table = scipy.sparse.csr_array((table.data, indices, indptr), shape=table.shape)
        return table
    try:
        array = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not a table of numbers: {error}.") from None
    if array.ndim == 0:
        raise ValueError(f"{name} = {array} is one number; give a table.")
    return array


def read_only(table: Any) -> Any:
    """A read-only view of the table; the caller's own arrays stay writable."""
    if scipy.sparse.issparse(table):
        parts = [part.view() for part in (table.data, table.indices, table.indptr)]
        frozen = scipy.sparse.csr_array((parts[0], parts[1], parts[2]), shape=table.shape, copy=False)
        for part in (frozen.data, frozen.indices, frozen.indptr):
            part.flags.writeable = False
        return frozen
    view = table.view()
    view.flags.writeable = False
    return view


def bytes_of(table: Any) -> int:
    """The size of a table in bytes."""
    parts = (table.data, table.indices, table.indptr) if scipy.sparse.issparse(table) else (table,)
    return sum(part.nbytes for part in parts)


def require_shape(name: str, shape: tuple, wanted: tuple, words: str) -> None:
    """Raises ValueError unless `shape` is `wanted`; `words` describes it in the message, such as `[S, A]`."""
    if shape != wanted:
        raise ValueError(f"{name} has shape {shape}; it must be {words}: {wanted}.")


def entry_index(table: Any, entry: int) -> tuple[int, ...]:
    """The index of entry number `entry` of a dense table, or of the stored entries of a sparse one."""
    if not scipy.sparse.issparse(table):
        return tuple(map(int, np.unravel_index(entry, table.shape)))
    return int(np.searchsorted(table.indptr, entry, side="right")) - 1, int(table.indices[entry])


def check_distributions(table: Any, name: Callable[[int], str]) -> None:
    """Raises ValueError unless every row `[N, S]` is a distribution; names the first entry or row that is wrong."""
    entries = table.data if scipy.sparse.issparse(table) else table
    if entries.size and not entries.min() >= 0:  # NaN too
        first = np.flatnonzero(~(entries.ravel() >= 0))[0]
        row, column = entry_index(table, int(first))
        raise ValueError(
            f"{name(row)}[{column}] = {entries.ravel()[first]}; a probability must be 0 or more."
        )
    sums = np.asarray(table.sum(axis=1)).ravel()
    wrong = np.flatnonzero(~(np.abs(sums - 1) <= TOLERANCE))
    if len(wrong):
        raise ValueError(f"{name(int(wrong[0]))} sums to {sums[wrong[0]]:.9g}; probabilities must sum to 1.")


def start_distribution(start: Any, allowed: np.ndarray) -> np.ndarray:
    """A distribution `[S]` over states that are `allowed`, bool `[S]`; uniform if `start` is None."""
    if start is None:
        start = allowed / max(1, allowed.sum())
    start = as_table(start, "start")
    require_shape("start", start.shape, allowed.shape, "[S]")
    check_distributions(start[None], lambda row: "start")
    bad = np.flatnonzero((start > 0) & ~allowed)
    if len(bad):
        raise ValueError(
            f"start[{bad[0]}] = {start[bad[0]]:g}, but state {bad[0]} is terminal; episodes cannot begin there."
        )
    return read_only(start)


def set_fields(dataclass: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass, in its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(dataclass, name, value)
