"""Catch a falling ball with a paddle: the smallest world of pixels."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.random_bits import unrolled
from advantage.types import Array, Key

ROWS, COLUMNS = 10, 5


class CatchState(NamedTuple):
    """Where the ball and the paddle are, int32.

    Attributes:
        row, column: the ball's place; row 0 is the top one.
        paddle: the paddle's column; its row is the lowest one.
    """

    row: Array
    column: Array
    paddle: Array


@dataclasses.dataclass(frozen=True)
class Catch:
    """A ball falls down a board of 10 x 5 cells; move the paddle in the lowest row under it.

    A step first moves the paddle one column to the left or to the right, not over the border, or leaves it. Then the
    ball falls one row.

    State: `CatchState`.
    Observation: uint8 `[10, 5, 1]`, 255 in the cells of the ball and of the paddle, else 0.
    Action: 0 moves left, 1 stays, 2 moves right.
    Reward: in the last step 1 if the ball falls on the paddle, else -1; 0 before.
    Ends when the ball is in the lowest row, which takes nine steps. An episode is never truncated.
    Starts with the ball in any column of the top row, and the paddle in the middle.

    The best policy catches each ball. Standing still catches one ball in five: the mean return is -0.6.

    Attributes:
        max_episode_steps: steps after which the driver truncates an episode.

    Source: Osband et al. (2020), "Behaviour suite for reinforcement learning", whose Catch has this size and these
    rewards; the game is from Mnih et al. (2014), "Recurrent models of visual attention".
    """

    max_episode_steps: int = 10

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """One channel."""
        return gymnasium.spaces.Box(0, 255, (ROWS, COLUMNS, 1), np.uint8)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """Left, stay, right."""
        return gymnasium.spaces.Discrete(3)

    @property
    def gymnasium_id(self) -> str:
        """The name of the same world in Gymnasium's interface."""
        return "advantage/Catch-v0"

    def reset(self, key: Key) -> tuple[CatchState, Array]:
        """Drop a ball: `-> state, obs`."""
        column = jax.random.randint(unrolled(key), (), 0, COLUMNS, jnp.int32)
        state = CatchState(jnp.int32(0), column, jnp.int32(COLUMNS // 2))
        return state, self.observe(state)

    def step(self, state: CatchState, action: Array, key: Key) -> tuple[CatchState, Array, Array, Array]:
        """One step: `-> state, obs, reward, terminated`. Nothing is random, `key` is not used."""
        paddle = jnp.clip(state.paddle + jnp.asarray(action, jnp.int32) - 1, 0, COLUMNS - 1)
        state = CatchState(state.row + 1, state.column, paddle)
        down = state.row == ROWS - 1
        reward = jnp.where(down, jnp.where(state.column == paddle, 1.0, -1.0), 0.0).astype(jnp.float32)
        return state, self.observe(state), reward, down

    def observe(self, state: CatchState) -> Array:
        """The picture of a state."""
        rows, columns = np.arange(ROWS)[:, None], np.arange(COLUMNS)
        ball = (rows == state.row) & (columns == state.column)
        paddle = (rows == ROWS - 1) & (columns == state.paddle)
        return jnp.where(ball | paddle, 255, 0).astype(jnp.uint8)[..., None]
