"""Three sets of features of the Tetris board after a placement, from the literature.

Each function takes a `Landing`, the number of cells filled before it, and the board's height, and returns a list of
float32 numbers. A hole is an empty cell with a filled cell somewhere above it in its column.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable

import jax.numpy as jnp

from advantage.environments.tetris.board import Landing, count, top
from advantage.types import Array

DELLACHERIE = (-1.0, 1.0, -1.0, -1.0, -4.0, -1.0)  # Dellacherie's own weights, found by hand (Fahey 2003)
THIERY = (-12.63, 6.60, -9.22, -19.77, -13.08, -10.49, -1.61, -24.04)  # BCTS of Thiery & Scherrer (2009)


def bertsekas(landing: Landing, filled: Array, height: int) -> list[Array]:
    """Column heights, absolute differences of neighbours, the greatest height, holes, 1: `2 W + 2` numbers.

    Source: Bertsekas & Tsitsiklis (1996), "Neuro-dynamic programming", section 8.3.
    """
    tops = [top(column) for column in landing.columns]
    differences = [jnp.abs(left - right) for left, right in itertools.pairwise(tops)]
    highest = functools.reduce(jnp.maximum, tops)
    return _floats([*tops, *differences, highest, _holes(landing, filled), jnp.ones_like(highest)])


def dellacherie(landing: Landing, filled: Array, height: int) -> list[Array]:
    """Six numbers, the first two about the piece, the others about the board after full rows are removed.

        1  landing height: the middle of the rows where the piece came to rest, row + (tall - 1) / 2
        2  eroded piece cells: rows removed, times the piece's cells in them
        3  row transitions: neighbours in a row of which one is filled and one empty; the walls are filled
        4  column transitions: the same in columns; the floor is filled, cells above the top are empty
        5  holes
        6  cumulative wells: for each empty cell between two filled ones (or walls), the number of consecutive empty
           cells from it downwards, itself included

    Source: Dellacherie's controller as described by Fahey (2003), "Tetris AI", and Thiery & Scherrer (2009),
    "Building controllers for Tetris".
    """
    columns = landing.columns
    eroded = landing.lines * sum(count(piece & landing.full) for piece in landing.added)
    wall = jnp.full_like(columns[0], 2**height - 1)
    walled = [wall, *columns, wall]
    row_transitions = sum(count(left ^ right) for left, right in itertools.pairwise(walled))
    column_transitions = sum(count(column ^ (column << 1 | 1)) for column in columns)
    wells = sum(
        count(~column & left & right & digit) << k
        for left, column, right in zip(walled, columns, walled[2:], strict=False)
        for k, digit in enumerate(_runs(~column, height))
    )
    middle = landing.row + 0.5 * (landing.tall - 1)
    return _floats([middle, eroded, row_transitions, column_transitions, _holes(landing, filled), wells])


def thiery(landing: Landing, filled: Array, height: int) -> list[Array]:
    """Dellacherie's six features, and two more about holes.

        7  hole depth: filled cells above a hole with only filled cells between them and the hole
        8  rows with holes: rows with at least one hole

    Source: Thiery & Scherrer (2009), "Building controllers for Tetris".
    """
    depth = sum(count(column & (column + 1)) for column in landing.columns)
    one = jnp.uint32(1)
    holes = [~column & ((one << top(column).astype(jnp.uint32)) - 1) for column in landing.columns]
    rows = count(functools.reduce(operator.or_, holes))
    return [*dellacherie(landing, filled, height), *_floats([depth, rows])]


def _floats(numbers: list[Array]) -> list[Array]:
    return [number.astype(jnp.float32) for number in numbers]


def _holes(landing: Landing, filled: Array) -> Array:
    """Empty cells below the tops; the number of filled cells follows from `filled`, without counting."""
    return sum(map(top, landing.columns)) - (filled + 4 - len(landing.columns) * landing.lines)


def _runs(empty: Array, height: int) -> list[Array]:
    """The number of consecutive empty cells from each cell downwards, in binary: a mask for each digit.

    Runs counted up to 2^k become runs counted up to 2^(k+1): if the first 2^k cells are empty, add the run 2^k lower.
    """
    digits = [empty]
    for k in range((height - 1).bit_length()):
        whole, lower = digits[-1], [digit << 2**k for digit in digits]
        digits = [digit | (whole & below) for digit, below in zip(digits[:-1], lower[:-1], strict=True)]
        digits += [whole & ~lower[-1], whole & lower[-1]]
    return digits


Feature = Callable[[Landing, Array, int], list[Array]]
FEATURES: dict[str, tuple[Feature, Callable[[int], int]]] = {  # with the number of features by width
    "bertsekas": (bertsekas, lambda width: 2 * width + 2),
    "dellacherie": (dellacherie, lambda width: 6),
    "thiery": (thiery, lambda width: 8),
}
