"""A corridor in which eight of ten actions do nothing: what an action mask is for."""

from __future__ import annotations

import dataclasses

import gymnasium
import jax.numpy as jnp
import numpy as np

from advantage.environments.masks import ACTION_MASK, OBSERVATION
from advantage.types import Array, Key

CELLS, ACTIONS = 20, 10


@dataclasses.dataclass(frozen=True)
class WastedActions:
    """Walk from the first to the last of twenty cells, where of ten actions one leads forward and one back.

    In cell c the action `3 c mod 10` leads to cell `c + 1`, and `3 c + 5 mod 10` to cell `c - 1`, or nowhere from cell
    0. The other eight do nothing but take a step, and the mask forbids them. A policy that obeys the mask has two
    actions to choose from. One that ignores it has ten, and while it draws them uniformly it moves in one step of five,
    so that it hardly ever arrives.

    State: int32, the cell.
    Action: 0 to 9.
    Observation: a dict of `action_mask` int8 `[10]` and `observation`, the cell.
    Reward: 1 for the step into the last cell, else 0.
    Ends in the last cell.
    Starts in cell 0.

    Attributes:
        max_episode_steps: where the driver truncates.
    """

    max_episode_steps: int = 100

    @property
    def observation_space(self) -> gymnasium.spaces.Dict:
        """The mask and the cell."""
        cell, mask = gymnasium.spaces.Discrete(CELLS), gymnasium.spaces.MultiBinary(ACTIONS)
        return gymnasium.spaces.Dict({ACTION_MASK: mask, OBSERVATION: cell})

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """Forward, back, and eight actions that do nothing."""
        return gymnasium.spaces.Discrete(ACTIONS)

    @property
    def gymnasium_id(self) -> None:
        """There is no such world in Gymnasium."""
        return

    def reset(self, key: Key) -> tuple[Array, dict[str, Array]]:
        """Begin in cell 0: `-> state, obs`. Nothing is random, `key` is not used."""
        return jnp.int32(0), self.observe(jnp.int32(0))

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, dict[str, Array], Array, Array]:
        """One step: `-> state, obs, reward, terminated`. Nothing is random, `key` is not used."""
        action = jnp.asarray(action, jnp.int32)
        forward, back = action == 3 * state % ACTIONS, action == (3 * state + 5) % ACTIONS
        cell = jnp.maximum(state + forward.astype(jnp.int32) - back.astype(jnp.int32), 0)
        arrived = cell == CELLS - 1
        return cell, self.observe(cell), arrived.astype(jnp.float32), arrived

    def observe(self, state: Array) -> dict[str, Array]:
        """What is seen of a cell."""
        choice = np.arange(ACTIONS, dtype=np.int32)
        moves = (choice == 3 * state % ACTIONS) | (choice == (3 * state + 5) % ACTIONS)
        return {ACTION_MASK: moves.astype(jnp.int8), OBSERVATION: state}
