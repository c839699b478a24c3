"""Breakout on a small board: break bricks with a ball that must not be lost."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.plain_values import plain_number
from advantage.random_bits import unrolled
from advantage.types import Array, Key

SIZE = 10  # rows and columns
WALL = slice(1, 4)  # rows of bricks
START_ROW = 4  # of the ball, below the bricks
BOTTOM = SIZE - 1  # row of the paddle
STAY = 1


class BreakoutState(NamedTuple):
    """Everything on the board; numbers are int32, row 0 is the top one.

    Attributes:
        row, column: the ball's place.
        down, right: the ball's velocity, each 1 or -1 cells a step.
        trail_row, trail_column: the ball's place one step before.
        paddle: the paddle's column.
        bricks: bool `[10, 10]`, where bricks are.
        action: the last action that was carried out.
    """

    row: Array
    column: Array
    down: Array
    right: Array
    trail_row: Array
    trail_column: Array
    paddle: Array
    bricks: Array
    action: Array


@dataclasses.dataclass(frozen=True)
class MinBreakout:
    """Breakout on a board of 10 x 10 cells with three rows of bricks.

    The paddle is one cell of the lowest row. In a step it moves one column, not over the border. Then the ball moves
    one cell along its diagonal. Where something is in its way, one component of its velocity is reversed, and the ball
    does not move in that direction in this step:

        side walls                                        right ← -right
        ceiling                                           down ← -down
        a brick, which is removed                         down ← -down
        the paddle in the column that the ball leaves     down ← -down
        the paddle in the column that the ball enters     down ← -down, right ← -right

    In the last case the ball does move into that column. If no brick is left when the ball arrives at the lowest row, a
    new wall is built.

    With probability `repeat_action_probability` the last action that was carried out is carried out again in place of
    the chosen one, independently in each step.

    State: `BreakoutState`.
    Observation: uint8 `[10, 10, 4]`, 255 in the cells of each channel, else 0. The channels are the paddle, the ball,
        its trail (where it was one step before), and the bricks.
    Action: 0 moves left, 1 stays, 2 moves right.
    Reward: 1 for each brick.
    Ends when the ball is in the lowest row, beside the paddle.
    Starts with bricks in the rows 1 to 3, the paddle in column 4, and the ball in row 4 at the left or at the right
    border, on its way down and away from it.

    Attributes:
        repeat_action_probability: 0 or more and below 1. With 0 nothing but the first side is random.
        max_episode_steps: steps after which the driver truncates an episode.

    Raises:
        ValueError: a probability that is not allowed.

    Source: after Breakout of Young & Tian (2019), "MinAtar: an Atari-inspired testbed for thorough and reproducible
    reinforcement learning experiments", written from the rules in the paper. Returns are not comparable to the paper's:
    here the ball starts below the bricks, each brick in its way counts, and episodes have a limit.
    """

    repeat_action_probability: float = 0.1
    max_episode_steps: int = 1000

    def __post_init__(self):
        given = plain_number(self.repeat_action_probability)
        if given is None or not 0 <= given < 1:
            raise ValueError(
                f"repeat_action_probability={self.repeat_action_probability!r} is not allowed; use a number of 0 or "
                "more and below 1."
            )
        object.__setattr__(self, "repeat_action_probability", float(given))

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Four channels: paddle, ball, trail, bricks."""
        return gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 4), np.uint8)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """Left, stay, right."""
        return gymnasium.spaces.Discrete(3)

    @property
    def gymnasium_id(self) -> str:
        """The name of the same world in Gymnasium's interface."""
        return "advantage/MinBreakout-v0"

    def reset(self, key: Key) -> tuple[BreakoutState, Array]:
        """Build a wall and throw the ball in from one side: `-> state, obs`."""
        right = jnp.where(jax.random.bernoulli(unrolled(key)), jnp.int32(1), jnp.int32(-1))
        row, column = jnp.int32(START_ROW), jnp.where(right > 0, jnp.int32(0), jnp.int32(SIZE - 1))
        state = BreakoutState(
            row=row,
            column=column,
            down=jnp.int32(1),
            right=right,
            trail_row=row,
            trail_column=column,
            paddle=jnp.int32(SIZE // 2 - 1),
            bricks=jnp.asarray(_wall()),
            action=jnp.int32(STAY),
        )
        return state, self.observe(state)

    def step(
        self, state: BreakoutState, action: Array, key: Key
    ) -> tuple[BreakoutState, Array, Array, Array]:
        """One step: `-> state, obs, reward, terminated`."""
        action = jnp.asarray(action, jnp.int32)
        if self.repeat_action_probability > 0:
            repeated = jax.random.uniform(unrolled(key)) < self.repeat_action_probability
            action = jnp.where(repeated, state.action, action)
        paddle = jnp.clip(state.paddle + action - 1, 0, SIZE - 1)

        aside = state.column + state.right
        right = jnp.where((aside < 0) | (aside >= SIZE), -state.right, state.right)
        column = jnp.clip(aside, 0, SIZE - 1)

        ahead = state.row + state.down
        hit = state.bricks & _cell(ahead, column)
        broke, arrives = hit.any(), ahead == BOTTOM
        above, beside = state.column == paddle, column == paddle
        saved = arrives & (above | beside)
        right = jnp.where(arrives & beside & ~above, -right, right)
        turned = (ahead < 0) | broke | saved
        bricks = state.bricks & ~hit
        after = BreakoutState(
            row=jnp.where(turned, state.row, ahead),
            column=column,
            down=jnp.where(turned, -state.down, state.down),
            right=right,
            trail_row=state.row,
            trail_column=state.column,
            paddle=paddle,
            bricks=jnp.where(arrives & ~bricks.any(), _wall(), bricks),
            action=action,
        )
        return after, self.observe(after), broke.astype(jnp.float32), arrives & ~saved

    def observe(self, state: BreakoutState) -> Array:
        """The picture of a state."""
        channels = (
            _cell(jnp.int32(BOTTOM), state.paddle),
            _cell(state.row, state.column),
            _cell(state.trail_row, state.trail_column),
            state.bricks,
        )
        return jnp.where(jnp.stack(channels, axis=-1), 255, 0).astype(jnp.uint8)


def _cell(row: Array, column: Array) -> Array:
    """True in one cell, bool `[10, 10]`; nowhere if the row is not on the board."""
    return (np.arange(SIZE)[:, None] == row) & (np.arange(SIZE) == column)


def _wall() -> np.ndarray:
    bricks = np.zeros((SIZE, SIZE), bool)
    bricks[WALL] = True
    return bricks
