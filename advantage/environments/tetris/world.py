"""The simplified Tetris of the literature: choose a rotation and a column, and the piece falls."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.environments.masks import ACTION_MASK
from advantage.environments.scored_actions import ActionFeatures
from advantage.environments.tetris.board import (
    PIECES,
    TALLEST,
    Landing,
    Placements,
    count,
    land,
    placements,
)
from advantage.environments.tetris.features import FEATURES
from advantage.plain_values import whole_number
from advantage.types import Array, Key

Features = Literal["bertsekas", "dellacherie", "thiery"]
STANDARD = ("Tetris-10x10", "Tetris-10x20")  # the sizes of the literature; lists of environments show these
LARGEST_WIDTH, LARGEST_HEIGHT = 32, 32 - TALLEST


class TetrisObservation(ActionFeatures):
    """An observation; see `Tetris` for the types and shapes."""

    board: Array
    piece: Array


class TetrisState(NamedTuple):
    """The board and the piece to place.

    Attributes:
        columns: uint32 `[W]`, bit i is row i from the floor.
        piece: int32, one of `PIECES` in their order: O, I, S, Z, T, J, L.
    """

    columns: Array
    piece: Array


@dataclasses.dataclass(frozen=True)
class Tetris:
    """Place one of seven pieces, drawn uniformly and independently, on a board; full rows are removed.

    An action is a rotation and a column. The piece falls straight down from above the board until it is stopped. If it
    then reaches above the top, the game is over and no row is removed; otherwise every full row is removed, the rows
    above move down, and the next piece is drawn. Only the current piece is observed, not the next one.

    State: `TetrisState`.
    Action: 0 .. n - 1, n = 4 W - 6 (34 on width 10). The placements of the current piece are listed rotation by
        rotation (quarter turns clockwise, equal ones once), and in each from the leftmost column to the rightmost:
        W - 1 for O, 2 W - 3 for I, S and Z, 4 W - 6 for T, J and L (9, 17 and 34). A list that is shorter than n is
        repeated: for O on width 10, action 9 equals action 0. So every action is a placement.
    Observation: a dict of
        `action_mask` int8 `[n]`, 1 for the placements of the piece, each once, that do not end the game; if every
            placement ends it, 1 for all placements of the piece;
        `board` int8 `[H, W]`, 1 if a cell is filled, the lowest row last;
        `features` float32 `[n, k]`, the features of the board after each placement, with full rows removed;
            0 for an action that ends the game or repeats another one;
        `piece` int32, the current piece.
    Reward: the number of rows removed, 0 to 4; 0 for the placement that ends the game.
    Ends when a placement reaches above the top. The board then stays as it was.
    Starts with an empty board and a drawn piece.

    Attributes:
        width: W, columns, 4 to 32.
        height: H, rows, 4 to 28.
        features: the features of the board after each placement: those of Bertsekas and Tsitsiklis (2 W + 2 numbers),
            of Dellacherie (6), or of Thiery and Scherrer (8); see `tetris_features`.
        max_episode_steps: steps after which the driver truncates an episode. The game has no time limit; this is the
            largest number that the driver can count to.

    Raises:
        ValueError: a size or a set of features that does not exist.

    Source: the game of Bertsekas & Tsitsiklis (1996), "Neuro-dynamic programming", section 8.3, with the end of Thiery
    & Scherrer (2009), "Building controllers for Tetris": their program, MDPTetris, in its standard setting also counts
    no rows for the piece that overflows. Szita & Lőrincz (2006) and Gabillon et al. (2013) use the same game.
    """

    width: int = 10
    height: int = 20
    features: Features = "bertsekas"
    max_episode_steps: int = 2**31 - 1

    def __post_init__(self):
        for name, largest in (("width", LARGEST_WIDTH), ("height", LARGEST_HEIGHT)):
            value = getattr(self, name)
            whole = whole_number(value)
            if whole is None or not 4 <= whole <= largest:
                raise ValueError(f"Tetris with {name}={value!r} is not possible; use 4 to {largest}.")
            object.__setattr__(self, name, whole)
        if self.features not in FEATURES:
            raise ValueError(f"Tetris has no features {self.features!r}; use one of {', '.join(FEATURES)}.")

    @property
    def placements(self) -> Placements:
        """The tables of all placements."""
        return placements(self.width)

    @property
    def observation_space(self) -> gymnasium.spaces.Dict:
        """Action mask, board, features of every placement, and piece."""
        n, k = int(self.action_space.n), FEATURES[self.features][1](self.width)
        return gymnasium.spaces.Dict(
            {
                ACTION_MASK: gymnasium.spaces.MultiBinary(n),
                "board": gymnasium.spaces.MultiBinary((self.height, self.width)),
                "features": gymnasium.spaces.Box(0, np.inf, (n, k), np.float32),
                "piece": gymnasium.spaces.Discrete(len(PIECES)),
            }
        )

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """A placement."""
        return gymnasium.spaces.Discrete(self.placements.tall.shape[1])

    @property
    def gymnasium_id(self) -> str:
        """The name of the same world in Gymnasium."""
        default = Tetris.__dataclass_fields__["features"].default
        suffix = "" if self.features == default else f"-{self.features}"
        return f"advantage/Tetris-{self.width}x{self.height}{suffix}-v0"

    def reset(self, key: Key) -> tuple[TetrisState, TetrisObservation]:
        """An empty board and a piece: `-> state, obs`."""
        state = TetrisState(jnp.zeros(self.width, jnp.uint32), draw_piece(key))
        return state, self.observe(state)

    def step(
        self, state: TetrisState, action: Array, key: Key
    ) -> tuple[TetrisState, TetrisObservation, Array, Array]:
        """Place the piece: `-> state, obs, reward, terminated`."""
        state, reward, terminated = self.place(state, action, draw_piece(key))
        return state, self.observe(state), reward, terminated

    def place(self, state: TetrisState, action: Array, piece: Array) -> tuple[TetrisState, Array, Array]:
        """`step` with the next piece given, and without the observation: `-> state, reward, terminated`."""
        landing = self.drop(state, action)
        over = ~self.fits(landing)
        columns = jnp.where(over, state.columns, jnp.stack(landing.columns))
        return TetrisState(columns, piece), jnp.where(over, 0, landing.lines).astype(jnp.float32), over

    def drop(self, state: TetrisState, action: Array) -> Landing:
        """The board after one action."""
        table = self.placements
        cells, underside = (
            jnp.asarray(part)[state.piece, :, action] for part in (table.cells, table.underside)
        )
        return land(state.columns, cells, underside, jnp.asarray(table.tall)[state.piece, action])

    def fits(self, landing: Landing) -> Array:
        """Whether a piece came to rest below the top."""
        return landing.row + landing.tall <= self.height

    def after(self, state: TetrisState) -> tuple[list[Array], Array]:
        """Each feature after every placement, k times `[n]`, and bool `[n]`, which placements are possible.

        The features of an impossible placement have no meaning.
        """
        table = self.placements
        cells, underside, tall = (
            jnp.asarray(part)[state.piece] for part in (table.cells, table.underside, table.tall)
        )
        landing = land(state.columns, cells, underside, tall)
        filled = count(state.columns).sum(dtype=jnp.int32)
        possible = self.exists(state.piece) & self.fits(landing)
        return FEATURES[self.features][0](landing, filled, self.height), possible

    def exists(self, piece: Array) -> Array:
        """Which actions are placements of a piece that no earlier action makes, bool `[n]`."""
        return jnp.arange(int(self.action_space.n)) < jnp.asarray(self.placements.count)[piece]

    def score_actions(self, state: TetrisState, weights: Array) -> Array:
        """Weights `[k]` times the features after each placement, `[n]`; -inf if the placement is not possible.

        See `ScoredActions`. The features are summed as they are computed, in one loop.
        """
        features, possible = self.after(state)
        total = sum(weight * feature for weight, feature in zip(weights, features, strict=True))
        return jnp.where(possible, total, -jnp.inf)

    def observe(self, state: TetrisState) -> TetrisObservation:
        """The observation of a state."""
        n_features = FEATURES[self.features][1](self.width)
        features, possible = (
            jax.vmap(self.score_actions, (None, 0))(state, jnp.eye(n_features, dtype=jnp.float32)),
            self.after(state)[1],
        )
        rows = jnp.arange(self.height - 1, -1, -1, dtype=jnp.uint32)[:, None]
        mask = jnp.where(possible.any(), possible, self.exists(state.piece))
        return {
            ACTION_MASK: mask.astype(jnp.int8),
            "board": (state.columns >> rows & 1).astype(jnp.int8),
            "features": jnp.where(possible, features, 0).T,
            "piece": state.piece,
        }


def draw_piece(key: Key) -> Array:
    """One of the seven pieces, int32; uniform up to a relative error of 2e-9."""
    return (jax.random.bits(key, (), jnp.uint32) % len(PIECES)).astype(jnp.int32)


def tetris_of(name: str) -> Tetris | None:
    """The world that `Tetris-10x20` or `Tetris-10x20-dellacherie` names; None for a name of another form.

    Raises:
        ValueError: a size or a set of features that does not exist.
    """
    parts = re.fullmatch(r"Tetris-(\d+)x(\d+)(?:-([a-z]+))?", name)
    if parts is None:
        return None
    width, height, features = parts.groups()
    chosen: dict = {} if features is None else {"features": features}
    return Tetris(int(width), int(height), **chosen)
