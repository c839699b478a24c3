"""Exact values of board games: against a plain recursion, against published counts, and what is refused."""

import numpy as np
import pytest

from advantage import theory
from advantage.environments.worlds.line_game import LineGame
from advantage.environments.worlds.opponents import _table

SMALL = [
    LineGame(),
    LineGame(2, 3, 2),
    LineGame(3, 3, 3, falls=True),
    LineGame(3, 4, 3, falls=True),
    LineGame(2, 4, 3),
]


def plain(game):
    """Every position before the end, as a tuple of +1, -1 and 0, with the value of each move: by recursion."""
    lines, known = game.lines.tolist(), {}

    def moves(board):
        for action in range(game.num_actions):
            cells = range(action, game.rows * game.columns, game.columns) if game.falls else [action]
            free = [cell for cell in cells if board[cell] == 0]
            if free:
                yield action, free[-1]

    def value(board):
        if board in known:
            return max(known[board].values())
        found = {}
        for action, cell in moves(board):
            after = list(board)
            after[cell] = 1
            if any(all(after[c] == 1 for c in line) for line in lines):
                found[action] = 1
            elif 0 not in after:
                found[action] = 0
            else:
                found[action] = -value(tuple(-x for x in after))
        known[board] = found
        return max(found.values())

    value((0,) * (game.rows * game.columns))
    return known


@pytest.mark.parametrize("game", SMALL, ids=str)
def test_every_position_has_the_value_of_a_plain_recursion(game):
    solved, known = theory.solve_game(game), plain(game)
    boards = solved.boards()
    values = solved.action_values(boards)
    assert solved.n_positions == len(boards) == len(known)
    assert np.isin(boards, (-1, 0, 1)).all()
    for board, row in zip(boards.reshape(len(boards), -1).tolist(), values, strict=True):
        expected = [known[tuple(board)].get(action, -np.inf) for action in range(game.num_actions)]
        np.testing.assert_array_equal(row, expected)
    np.testing.assert_array_equal(np.concatenate(solved.value), values.max(1))
    differ = [
        len(set(known[tuple(board)].values())) > 1 for board in boards.reshape(len(boards), -1).tolist()
    ]
    np.testing.assert_array_equal(solved.boards(solved.positions_that_matter()), boards[differ])


def test_tic_tac_toe():
    """5,478 positions, 958 of them ended; a draw; and the moves of the opponent that is called perfect."""
    solved = theory.solve_game(LineGame())
    assert (solved.n_positions, solved.n_ended, solved.start_value) == (4520, 958, 0)
    boards = solved.boards()
    codes = (boards.reshape(-1, 9) + 1) @ 3 ** np.arange(9)
    np.testing.assert_array_equal(solved.action_values(boards), _table(LineGame())[codes])


def test_connect_four_on_4_by_4():
    """161,029 positions as published (Tromp, "John's Connect Four Playground"), and a draw."""
    solved = theory.solve_game(LineGame(4, 4, 4, falls=True))
    assert (solved.n_positions + solved.n_ended, solved.start_value) == (161_029, 0)


def test_boards_that_are_asked_for_in_any_order():
    solved = theory.solve_game(LineGame())
    boards = solved.boards()
    order = np.random.default_rng(0).permutation(len(boards))
    np.testing.assert_array_equal(solved.action_values(boards[order]), solved.action_values(boards)[order])


def test_what_cannot_be_solved():
    with pytest.raises(ValueError, match="42 cells; at most 31 can be solved"):
        theory.solve_game(LineGame(6, 7, 4, falls=True))
    with pytest.raises(ValueError, match="more than 1,000 positions"):
        theory.solve_game(LineGame(), most_positions=1000)
    solved = theory.solve_game(LineGame())
    won, full = np.zeros((1, 3, 3), np.int8), np.ones((1, 3, 3), np.int8)
    won[0, 0], won[0, 1, :2] = -1, 1
    for board in (won, full, np.eye(3, dtype=np.int8)[None]):
        with pytest.raises(ValueError, match="cannot be reached by play, or the game is over"):
            solved.action_values(board)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "columns", "positions"), [(4, 5, 3_945_711), (5, 4, 1_706_255)])
def test_connect_four_on_20_cells(rows, columns, positions):
    """Published numbers of positions, ended ones too; a draw."""
    solved = theory.solve_game(LineGame(rows, columns, 4, falls=True))
    assert (solved.n_positions + solved.n_ended, solved.start_value) == (positions, 0)
