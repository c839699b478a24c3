"""Games in which a row of stones wins: tic-tac-toe, and Connect Four on boards of any size."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import gymnasium
import jax.numpy as jnp
import numpy as np

from advantage.environments.masks import ACTION_MASK, OBSERVATION
from advantage.types import Array, Key


@dataclasses.dataclass(frozen=True)
class LineGame:
    """Two players place stones in turn; a row of `length` stones, in any direction, wins.

    As a world it is self-play: each step is a move of the player whose turn it is, and what is observed and rewarded is
    seen from that player's side. So the value of a position is minus that of the next one: `players` is 2.

    State: int8 `[rows, columns]`, 1 for stones of the player to move, -1 for the other's, 0 for empty cells.
    Observation: a dict of `action_mask`, int8, and `observation`, int8 `[2, rows, columns]`: the player's own stones,
    and the other's.
    Action: with `falls`, a column, whose lowest empty cell is taken; otherwise a cell, row by row.
    Reward: 1 for the move that wins, else 0.
    Ends with a win, or when the board is full.
    Starts with an empty board.

    Attributes:
        rows, columns: size of the board.
        length: stones in a row that win.
        falls: whether stones fall to the lowest empty cell of a column.

    Raises:
        ValueError: a board without cells, or on which no row of `length` fits.
    """

    rows: int = 3
    columns: int = 3
    length: int = 3
    falls: bool = False

    players = 2

    def __post_init__(self):
        if min(self.rows, self.columns) < 1:
            raise ValueError(
                f"rows={self.rows} and columns={self.columns} are not allowed; use 1 or more of each."
            )
        longest = max(self.rows, self.columns)
        if not 1 <= self.length <= longest:
            raise ValueError(
                f"length={self.length} is not allowed on a board of {self.rows} x {self.columns}, where a row has 1 to "
                f"{longest} stones; use one of these lengths, or a larger board."
            )

    @property
    def max_episode_steps(self) -> int:
        """One more than there are cells: no game is cut."""
        return self.rows * self.columns + 1

    @property
    def num_actions(self) -> int:
        """Columns, or cells."""
        return self.columns if self.falls else self.rows * self.columns

    @property
    def observation_space(self) -> gymnasium.spaces.Dict:
        """The mask, and the stones of both players."""
        stones = gymnasium.spaces.MultiBinary((2, self.rows, self.columns))
        return gymnasium.spaces.Dict(
            {ACTION_MASK: gymnasium.spaces.MultiBinary(self.num_actions), OBSERVATION: stones}
        )

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """A column, or a cell."""
        return gymnasium.spaces.Discrete(self.num_actions)

    @property
    def gymnasium_id(self) -> None:
        """None: this world does not exist in Gymnasium."""
        return

    @cached_property
    def lines(self) -> np.ndarray:
        """The cells of every row of `length` cells, `[L, length]`."""
        found = []
        for row in range(self.rows):
            for column in range(self.columns):
                for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    last = row + (self.length - 1) * down, column + (self.length - 1) * right
                    if last[0] < self.rows and 0 <= last[1] < self.columns:
                        cells = [(row + i * down, column + i * right) for i in range(self.length)]
                        found.append([r * self.columns + c for r, c in cells])
        return np.array(found, np.int32)

    def reset(self, key: Key) -> tuple[Array, dict[str, Array]]:
        """An empty board: `-> state, obs`. Nothing is random, `key` is not used."""
        board = jnp.zeros((self.rows, self.columns), jnp.int8)
        return board, self.observe(board)

    def state_of(self, obs: dict[str, Array]) -> Array:
        """The board."""
        mine, theirs = obs[OBSERVATION]
        return mine.astype(jnp.int8) - theirs.astype(jnp.int8)

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, dict[str, Array], Array, Array]:
        """One move: `-> the board from the other player's side, obs, reward, terminated`."""
        board = self.placed(state, action)
        won = self.has_line(board)
        terminated = won | (board != 0).all()
        board = -board
        return board, self.observe(board), won.astype(jnp.float32), terminated

    def placed(self, board: Array, action: Array) -> Array:
        """The board with a stone of the player to move."""
        if self.falls:
            row = (board[:, action] == 0).sum() - 1
            return board.at[row, action].set(jnp.int8(1))
        return board.at[action // self.columns, action % self.columns].set(jnp.int8(1))

    def has_line(self, board: Array) -> Array:
        """Whether the stones that are 1 have a row."""
        return (board.ravel()[self.lines] == 1).all(-1).any()

    def allowed(self, board: Array) -> Array:
        """Which actions are possible, bool `[A]`; none once the other player has won."""
        free = (board[0] == 0) if self.falls else (board.ravel() == 0)
        return free & ~self.has_line(-board)

    def observe(self, board: Array) -> dict[str, Array]:
        """What the player to move sees."""
        stones = jnp.stack([board == 1, board == -1]).astype(jnp.int8)
        return {ACTION_MASK: self.allowed(board).astype(jnp.int8), OBSERVATION: stones}


def tic_tac_toe() -> LineGame:
    """Tic-tac-toe, in self-play."""
    return LineGame()


def connect_four() -> LineGame:
    """Connect Four, in self-play."""
    return LineGame(6, 7, 4, falls=True)


def connect_four_4x4() -> LineGame:
    """Connect Four on a board of 4 x 4, in self-play; with best play nobody wins."""
    return LineGame(4, 4, 4, falls=True)


def connect_four_5x4() -> LineGame:
    """Connect Four with 5 columns and 4 rows, in self-play; with best play nobody wins."""
    return LineGame(4, 5, 4, falls=True)
