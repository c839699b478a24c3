"""Moves on a grid, as `(down, right)`, shared by the grid worlds."""

from __future__ import annotations

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left: the order of Gymnasium's CliffWalking
KING_MOVES = (*MOVES, (-1, 1), (1, 1), (1, -1), (-1, -1))
Move = tuple[int, int]


def moved(state: int, move: Move, rows: int, columns: int) -> int:
    """The cell that `move` leads to from `state = row * columns + column`; the edge of the grid stops the move."""
    row, column = divmod(state, columns)
    row, column = min(max(row + move[0], 0), rows - 1), min(max(column + move[1], 0), columns - 1)
    return row * columns + column
