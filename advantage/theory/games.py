"""Exact values of small board games for two players.

Positions are found forwards, one number of stones after the other, and valued backwards (retrograde analysis).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from advantage.environments.worlds.line_game import LineGame

LARGEST_BOARD = 31  # cells; a position has two bits for each in a whole number of 64


class _Moves(NamedTuple):
    """What each of N positions becomes by one action, arrays `[N]`.

    Attributes:
        after: the position that follows, seen by the other player.
        possible: bool, whether the action is allowed.
        won: bool, whether it completes a row; means nothing where it is not possible.
    """

    after: np.ndarray
    possible: np.ndarray
    won: np.ndarray


@dataclasses.dataclass(frozen=True)
class SolvedGame:
    """A game with the value of every position that can be reached and in which somebody is to move.

    A position is a whole number: bit c for the mover's stone on cell c, bit c + rows * columns for the other's stone.

    Attributes:
        game: the rules.
        positions: int64, those with n stones in place n, in ascending order.
        value: int8, for each of them the result for the player to move with best play: 1, 0 or -1.
        n_ended: number of positions in which the game is over.
    """

    game: LineGame
    positions: tuple[np.ndarray, ...]
    value: tuple[np.ndarray, ...]
    n_ended: int

    @property
    def start_value(self) -> int:
        """The result for the player who begins."""
        return int(self.value[0][0])

    @property
    def n_positions(self) -> int:
        """Number of positions in which somebody is to move."""
        return sum(map(len, self.positions))

    def boards(self, positions: np.ndarray | None = None) -> np.ndarray:
        """Positions `[N]` as states of the world, int8 `[N, rows, columns]`; None for all, fewest stones first."""
        codes = np.concatenate(self.positions) if positions is None else positions
        cells = np.arange(_cells(self.game))
        mine, theirs = (codes[:, None] >> (cells + shift) & 1 for shift in (0, len(cells)))
        return (mine - theirs).astype(np.int8).reshape(-1, self.game.rows, self.game.columns)

    def action_values(self, boards: np.ndarray) -> np.ndarray:
        """The result of each move with best play afterwards, `[N, A]`; minus infinity for one that is not possible.

        Args:
            boards: states of the world, `[N, rows, columns]`, in which the game is not over.

        Raises:
            ValueError: a position that cannot be reached, or in which the game is over.
        """
        flat = boards.reshape(len(boards), -1)
        power = 1 << np.arange(flat.shape[1], dtype=np.int64)
        codes, stones = (flat == 1) @ power | (flat == -1) @ power << flat.shape[1], (flat != 0).sum(1)
        values = np.empty((len(boards), self.game.num_actions))
        for number in np.unique(stones):
            rows = stones == number
            if number >= len(self.positions) or not np.isin(codes[rows], self.positions[number]).all():
                raise ValueError(
                    f"A board with {number} stones cannot be reached by play, or the game is over there; give boards "
                    "in which the player to move has at most as many stones as the other and nobody has won."
                )
            following = self.positions[number + 1], self.value[number + 1]
            values[rows] = _action_values(self.game, codes[rows], *following)
        return values

    def positions_that_matter(self) -> np.ndarray:
        """All positions whose possible moves differ in value, `[N]`, fewest stones first."""
        found = []
        for n, positions in enumerate(self.positions[:-1]):
            values = _action_values(self.game, positions, self.positions[n + 1], self.value[n + 1])
            worst = np.where(np.isfinite(values), values, np.inf).min(1)
            found.append(positions[values.max(1) > worst])
        return np.concatenate(found)


def solve_game(game: LineGame, *, most_positions: int = 20_000_000) -> SolvedGame:
    """The value of every position of a game: `v(s) = max_a r(s, a) - v(s')`, with `v = 0` where the game is over.

    r is 1 for a move that wins, else 0; s' is seen by the other player.

    Args:
        game: the rules and the size of the board.
        most_positions: refuse a game with more positions in which somebody is to move.

    Raises:
        ValueError: a board of more than 31 cells, or too many positions.

    Source: Ströhlein 1970, "Untersuchungen über kombinatorische Spiele"; Thompson 1986, "Retrograde analysis of certain
    endgames".
    """
    if _cells(game) > LARGEST_BOARD:
        raise ValueError(
            f"A board of {game.rows} x {game.columns} has {_cells(game)} cells; at most {LARGEST_BOARD} can be solved."
        )
    positions, n_ended = [np.zeros(1, np.int64)], 0
    for stones in range(1, _cells(game) + 1):
        going, ended = [], []
        for move in _moves(game, positions[-1]):
            is_over = move.won | (stones == _cells(game))
            going.append(np.unique(move.after[move.possible & ~is_over]))
            ended.append(np.unique(move.after[move.possible & is_over]))
        positions.append(np.unique(np.concatenate(going)))
        n_ended += len(np.unique(np.concatenate(ended)))
        if sum(map(len, positions)) > most_positions:
            raise ValueError(
                f"A board of {game.rows} x {game.columns} has more than {most_positions:,} positions; use a smaller "
                "board, or allow more with most_positions."
            )
    value = [np.zeros(0, np.int8)]  # nobody moves on a full board
    for before, after in zip(positions[-2::-1], positions[:0:-1], strict=True):
        value.append(_action_values(game, before, after, value[-1]).max(1).astype(np.int8))
    return SolvedGame(game, tuple(positions), tuple(reversed(value)), n_ended)


def _action_values(
    game: LineGame, positions: np.ndarray, following: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """The result of each action in each position, `[N, A]`, from the values of the positions with one stone more."""
    columns = []
    for move in _moves(game, positions):
        place = np.minimum(np.searchsorted(following, move.after), len(following) - 1)
        later = np.where(following[place] == move.after, -value[place], 0) if len(following) else 0
        columns.append(np.where(move.possible, np.where(move.won, 1, later), -np.inf))
    return np.stack(columns, axis=1)


def _moves(game: LineGame, positions: np.ndarray) -> Iterator[_Moves]:
    """What every action does in each position, action by action."""
    cells = _cells(game)
    mine, theirs = positions & ((1 << cells) - 1), positions >> cells
    lines = (1 << game.lines.astype(np.int64)).sum(1)
    for action in range(game.num_actions):
        placed = np.zeros_like(positions)
        for cell in _cells_of(game, action):
            placed = np.where((placed == 0) & ((mine | theirs) >> cell & 1 == 0), 1 << cell, placed)
        grown, won = mine | placed, np.zeros(len(positions), bool)
        for line in lines:
            won |= grown & line == line
        yield _Moves(theirs | grown << cells, placed != 0, won)


def _cells_of(game: LineGame, action: int) -> range:
    """The cells that a stone of this action may come to lie on, the first empty one of them."""
    if not game.falls:
        return range(action, action + 1)
    return range(_cells(game) - game.columns + action, -1, -game.columns)


def _cells(game: LineGame) -> int:
    return game.rows * game.columns
