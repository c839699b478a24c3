"""A corridor in which eight of ten actions do nothing, to show the use of an action mask."""

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
    """Walk from the first to the last of twenty cells; of ten actions, one leads forward and one back.

    In cell c the action `3 c mod 10` leads to cell `c + 1`, and `3 c + 5 mod 10` leads to cell `c - 1`, or nowhere in
    cell 0. The other eight actions do nothing but use up a step, and the mask forbids them. A policy that obeys the
    mask chooses from two actions. A policy that ignores it chooses from ten; a uniformly random one then moves in one
    step of five and hardly ever arrives.

    State: int32, the cell.
    Action: 0 to 9.
    Observation: a dict of `action_mask` int8 `[10]` and `observation`, the cell.
    Reward: 1 for the step into the last cell, else 0.
    Ends in the last cell.
    Starts in cell 0.

    Attributes:
        max_episode_steps: steps after which the driver truncates an episode.
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
        """None: this world does not exist in Gymnasium."""
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
        """The observation of a cell."""
        choice = np.arange(ACTIONS, dtype=np.int32)
        moves = (choice == 3 * state % ACTIONS) | (choice == (3 * state + 5) % ACTIONS)
        return {ACTION_MASK: moves.astype(jnp.int8), OBSERVATION: state}
