"""Games for two players as a world for one: the other's moves belong to the world."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Literal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.environments.worlds.line_game import LineGame, connect_four, connect_four_5x4
from advantage.types import Array, Key

Opponent = Literal["random", "search", "perfect"]


@dataclasses.dataclass(frozen=True)
class AgainstOpponent:
    """A game against an opponent; a coin decides who begins.

    State and observation are those of the game, before a move of the agent.
    Reward: 1 for a win, -1 for a loss, 0 for a draw and for all other moves.

    Attributes:
        game: the rules.
        opponent: `random` plays any possible move, `search` looks `depth` moves ahead, `perfect` looks to the end. The
            last two choose at random among moves that they hold equally good.
        depth: of the opponent that searches.
    """

    game: LineGame
    opponent: Opponent = "random"
    depth: int = 4

    @property
    def max_episode_steps(self) -> int:
        return self.game.max_episode_steps

    @property
    def observation_space(self) -> gymnasium.spaces.Dict:
        """Those of the game."""
        return self.game.observation_space

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """Those of the game."""
        return self.game.action_space

    @property
    def gymnasium_id(self) -> None:
        """None: this world does not exist in Gymnasium."""
        return

    def reset(self, key: Key) -> tuple[Array, dict[str, Array]]:
        """An empty board, or one with the opponent's first move: `-> state, obs`."""
        key_begin, key_game, key_move = jax.random.split(key, 3)
        board, _ = self.game.reset(key_game)
        after, _, _, _ = self.game.step(board, self.reply(board, key_move), key_game)
        board = jnp.where(jax.random.bernoulli(key_begin), board, after)
        return board, self.game.observe(board)

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, dict[str, Array], Array, Array]:
        """A move of the agent and the answer: `-> state, obs, reward, terminated`."""
        key_move, key_game = jax.random.split(key)
        board, _, won, ended = self.game.step(state, action, key_game)
        after, _, lost, lost_or_full = self.game.step(board, self.reply(board, key_move), key_game)
        board = jnp.where(ended, -board, after)
        reward = jnp.where(ended, won, -lost)
        return board, self.game.observe(board), reward, ended | lost_or_full

    def reply(self, board: Array, key: Key) -> Array:
        """The opponent's move on a board seen from its side."""
        allowed = self.game.allowed(board)
        if self.opponent == "random":
            best = allowed
        else:
            depth = self.depth if self.opponent == "search" else self.game.rows * self.game.columns
            values = best_values(self.game, board, depth)
            best = allowed & (values == jnp.where(allowed, values, -jnp.inf).max())
        return jax.random.categorical(key, jnp.where(best, 0.0, -jnp.inf)).astype(jnp.int32)


def best_values(game: LineGame, board: Array, depth: int) -> Array:
    """The value of each move with best play of both sides to a depth, `[A]`; unfinished games count 0.

    Tic-tac-toe is looked up in a table of all positions, made once.
    """
    if not game.falls and game.rows * game.columns <= 9 and depth >= game.rows * game.columns:
        code = (jnp.ravel(board).astype(jnp.int32) + 1) @ (3 ** np.arange(board.size, dtype=np.int32))
        return jnp.asarray(_table(game))[code]
    return _values(game, board, depth)


def _values(game: LineGame, board: Array, depth: int) -> Array:
    """Negamax: `v(s) = max_a -v(s')` over the moves that are possible."""

    def of(action: Array) -> Array:
        after = game.placed(board, action)
        won, full = game.has_line(after), (after != 0).all()
        if depth == 1:
            later = jnp.float32(0)
        else:
            allowed = game.allowed(-after)
            later = -jnp.where(allowed, _values(game, -after, depth - 1), -jnp.inf).max()
        return jnp.where(won, 1.0, jnp.where(full, 0.0, later))

    return jax.vmap(of)(jnp.arange(game.num_actions))


@lru_cache(maxsize=4)
def _table(game: LineGame) -> np.ndarray:
    """The value of every move in every position of a small game without falling stones, float32 `[3^cells, A]`.

    A position's number has a digit for each cell: 0 for the other's stone, 1 for an empty cell, 2 for an own stone.
    """
    cells = game.rows * game.columns
    table = np.full((3**cells, cells), -np.inf, np.float32)
    power, lines = 3 ** np.arange(cells), game.lines
    known: dict[int, float] = {}

    def value(board: np.ndarray) -> float:
        """Of the player to move, filling the table."""
        code = int((board + 1) @ power)
        if code not in known:
            if (board[lines] == -1).all(1).any():
                known[code] = -1.0
            elif (board != 0).all():
                known[code] = 0.0
            else:
                for cell in np.flatnonzero(board == 0):
                    after = board.copy()
                    after[cell] = 1
                    table[code, cell] = -value(-after)
                known[code] = float(table[code].max())
        return known[code]

    value(np.zeros(cells, int))
    return table


def tic_tac_toe_random() -> AgainstOpponent:
    """Tic-tac-toe against an opponent that plays at random."""
    return AgainstOpponent(LineGame())


def tic_tac_toe_perfect() -> AgainstOpponent:
    """Tic-tac-toe against an opponent that never loses."""
    return AgainstOpponent(LineGame(), "perfect")


def connect_four_random() -> AgainstOpponent:
    """Connect Four against an opponent that plays at random."""
    return AgainstOpponent(connect_four())


def connect_four_search() -> AgainstOpponent:
    """Connect Four against an opponent that looks four moves ahead."""
    return AgainstOpponent(connect_four(), "search", depth=4)


def connect_four_5x4_search() -> AgainstOpponent:
    """Connect Four with 5 columns and 4 rows against an opponent that looks four moves ahead."""
    return AgainstOpponent(connect_four_5x4(), "search", depth=4)
