"""The pieces of Tetris, their placements, and the board after a piece has fallen: one bit mask per column."""

from __future__ import annotations

import functools
import operator
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.types import Array

PIECES = {  # rows from the top
    "O": ("##", "##"),
    "I": ("####",),
    "S": (".##", "##."),
    "Z": ("##.", ".##"),
    "T": (".#.", "###"),
    "J": ("#..", "###"),
    "L": ("..#", "###"),
}
TALLEST = 4  # rows of the tallest piece, which are needed above the top
NOWHERE = -64  # the underside of a piece in a column that it does not touch; no column is that high


class Placements(NamedTuple):
    """Every rotation and column of every piece. `n` is the largest number of placements; shorter lists are repeated.

    Attributes:
        cells: uint32 `[7, W, n]`, the piece's cells in each column when its lowest row is row 0.
        underside: int32 `[7, W, n]`, minus the lowest of these rows; `NOWHERE` in columns that it does not touch.
        tall: int32 `[7, n]`, how many rows the piece takes.
        count: int32 `[7]`, how many placements each piece has.
    """

    cells: np.ndarray
    underside: np.ndarray
    tall: np.ndarray
    count: np.ndarray


@lru_cache(maxsize=64)
def rotations(piece: int) -> tuple[np.ndarray, ...]:
    """The different rotations of a piece, quarter turns clockwise: bool `[rows, columns]`, row 0 is the lowest."""
    drawn = np.array([[cell == "#" for cell in row] for row in reversed(list(PIECES.values())[piece])])
    turns = [np.rot90(drawn, k) for k in range(4)]
    return tuple(
        turn for k, turn in enumerate(turns) if not any(np.array_equal(turn, other) for other in turns[:k])
    )


@lru_cache(maxsize=64)
def placements(width: int) -> Placements:
    """The placements on a board of `width` columns: rotation by rotation, each from left to right."""
    lists = [
        [(turn, left) for turn in rotations(piece) for left in range(width - turn.shape[1] + 1)]
        for piece in range(len(PIECES))
    ]
    n = max(map(len, lists))
    cells = np.zeros((len(lists), width, n), np.uint32)
    underside = np.full(cells.shape, NOWHERE, np.int32)
    tall = np.zeros((len(lists), n), np.int32)
    for piece, options in enumerate(lists):
        for action in range(n):
            turn, left = options[action % len(options)]
            tall[piece, action] = turn.shape[0]
            for column in range(turn.shape[1]):
                rows = np.flatnonzero(turn[:, column])
                cells[piece, left + column, action] = (1 << rows).sum()
                underside[piece, left + column, action] = -rows[0]
    return Placements(cells, underside, tall, np.array([len(options) for options in lists], np.int32))


class Landing(NamedTuple):
    """The board after a piece has fallen, for one placement or for many in parallel.

    Columns are a list, so that computations on them compile to one loop over the placements.

    Attributes:
        columns: W times uint32, the board afterwards: bit i of a column is its row i from the floor.
        added: W times uint32, the cells of the piece where it came to rest, before rows are removed.
        row: int32, the lowest row of the piece where it came to rest; the floor is row 0.
        tall: int32, how many rows the piece takes.
        full: uint32, the rows that were full and are removed.
        lines: int32, the number of these rows.
    """

    columns: list[Array]
    added: list[Array]
    row: Array
    tall: Array
    full: Array
    lines: Array


def land(columns: Array, cells: Array, underside: Array, tall: Array) -> Landing:
    """Let a piece fall straight onto a board `[W]`; the piece has the form of `Placements`, `[W]` or `[W, n]`."""
    clearances = [top(column) + low for column, low in zip(columns, underside, strict=True)]
    row = functools.reduce(jnp.maximum, clearances)
    added = [piece << row.astype(jnp.uint32) for piece in cells]
    after = [column | piece for column, piece in zip(columns, added, strict=True)]
    full = functools.reduce(operator.and_, after)
    return Landing(_without(after, full), added, row, tall, full, count(full))


def top(column: Array) -> Array:
    """The highest filled row of a column, counted from 1; 0 if there is none. int32."""
    return 32 - jax.lax.clz(column).astype(jnp.int32)


def count(bits: Array) -> Array:
    """How many bits are set, int32."""
    return jax.lax.population_count(bits).astype(jnp.int32)


def _without(columns: list[Array], full: Array) -> list[Array]:
    """The columns without the rows `full`, of which there are four at most."""
    for _ in range(TALLEST):
        lowest = full & (~full + 1)
        below = lowest - 1  # all rows if no row is full
        columns = [(column & below) | ((column >> 1) & ~below) for column in columns]
        full = (full ^ lowest) >> 1
    return columns
