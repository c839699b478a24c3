"""Tetris once more, from its definition: an array of cells, top row first, and a piece that is lowered row by row.

The tests compare `advantage.environments.tetris.world` with it, and the benchmark its speed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DRAWN = ["## ##", "####", ".## ##.", "##. .##", ".#. ###", "#.. ###", "..# ###"]  # O I S Z T J L


def turns(piece: int) -> list[np.ndarray]:
    """The ways in which a piece stands, each once, each a quarter turn clockwise further."""
    rows, seen = DRAWN[piece].split(), []
    for _ in range(4):
        if rows not in seen:
            seen.append(rows)
        rows = ["".join(column) for column in zip(*rows[::-1], strict=True)]
    return [np.array([[cell == "#" for cell in row] for row in rows]) for rows in seen]


TURNS = [turns(piece) for piece in range(len(DRAWN))]


def options(piece: int, width: int) -> list[tuple[np.ndarray, int]]:
    """Every placement of a piece: how it stands, and its leftmost column."""
    return [(turn, left) for turn in TURNS[piece] for left in range(width - turn.shape[1] + 1)]


class Outcome(NamedTuple):
    """What a placement does; `board` is None where the piece reaches above the top."""

    board: np.ndarray | None
    lines: int = 0
    middle: float = 0.0  # of the rows where the piece came to rest, the floor's row is 0
    eroded: int = 0  # cells of the piece in rows that vanished


def drop(board: np.ndarray, turn: np.ndarray, left: int) -> Outcome:
    """Lower the piece from above the board until one row further would not be free."""
    height, width = board.shape
    tall, wide = turn.shape
    field = np.vstack([np.zeros((tall, width), bool), board])
    columns = slice(left, left + wide)
    top = 0
    while top + tall < len(field) and not (field[top + 1 : top + 1 + tall, columns] & turn).any():
        top += 1
    if top < tall:
        return Outcome(None)
    piece = np.zeros_like(field)
    piece[top : top + tall, columns] = turn
    field = (field | piece)[tall:]
    full = field.all(axis=1)
    lines = int(full.sum())
    rest = np.vstack([np.zeros((lines, width), bool), field[~full]])
    floor = height - (top - tall) - tall  # rows below the piece
    return Outcome(rest, lines, floor + (tall - 1) / 2, int(piece[tall:][full].sum()))


def column_heights(board: np.ndarray) -> np.ndarray:
    return np.where(board.any(axis=0), len(board) - board.argmax(axis=0), 0)


def holes(board: np.ndarray) -> np.ndarray:
    """Empty cells with a filled one somewhere above."""
    return ~board & np.logical_or.accumulate(board, axis=0)


def bertsekas(outcome: Outcome) -> list[float]:
    board = outcome.board
    tops = column_heights(board)
    return [*tops, *np.abs(np.diff(tops)), tops.max(), holes(board).sum(), 1]


def dellacherie(outcome: Outcome) -> list[float]:
    board = outcome.board
    height, width = board.shape
    walled = np.pad(board, ((0, 0), (1, 1)), constant_values=True)
    floored = np.vstack([np.zeros(width, bool), board, np.ones(width, bool)])
    wells = 0
    for row in range(height):
        for column in range(width):
            if not board[row, column] and walled[row, column] and walled[row, column + 2]:
                below = row
                while below < height and not board[below, column]:
                    below += 1
                wells += below - row
    return [
        outcome.middle,
        outcome.lines * outcome.eroded,
        (walled[:, 1:] != walled[:, :-1]).sum(),
        (floored[1:] != floored[:-1]).sum(),
        holes(board).sum(),
        wells,
    ]


def thiery(outcome: Outcome) -> list[float]:
    board = outcome.board
    height, width = board.shape
    depth = 0
    for column in range(width):
        for row in range(height):
            below = row
            while below < height and board[below, column]:
                below += 1
            depth += below > row and below < height  # filled, and filled cells lead down to an empty one
    return [*dellacherie(outcome), depth, holes(board).any(axis=1).sum()]


FEATURES = {"bertsekas": bertsekas, "dellacherie": dellacherie, "thiery": thiery}


def after(board: np.ndarray, piece: int, features: str) -> tuple[np.ndarray, np.ndarray]:
    """Features `[n, k]` of every placement in the list, 0 where the game ends, and bool `[n]` where it does not."""
    outcomes = [drop(board, *option) for option in options(piece, board.shape[1])]
    possible = np.array([outcome.board is not None for outcome in outcomes])
    rows = [FEATURES[features](outcome) for outcome in outcomes if outcome.board is not None]
    seen = np.zeros((len(outcomes), len(rows[0]) if rows else 1))
    if rows:
        seen[possible] = rows
    return seen, possible


def play(width: int, height: int, weights: np.ndarray, features: str, placements: int, seed: int) -> int:
    """Games of a linear policy until so many placements are scored: `-> how many were`."""
    rng, scored = np.random.default_rng(seed), 0
    board = np.zeros((height, width), bool)
    while scored < placements:
        piece = int(rng.integers(len(DRAWN)))
        seen, possible = after(board, piece, features)
        scored += len(possible)
        if not possible.any():
            board = np.zeros((height, width), bool)
            continue
        action = int(np.where(possible, seen @ weights, -np.inf).argmax())
        board = drop(board, *options(piece, width)[action]).board
    return scored
