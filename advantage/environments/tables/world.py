"""Tables as environments: on the device, and in Gymnasium's interface."""

from __future__ import annotations

import dataclasses
from functools import cached_property, lru_cache
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import scipy

from advantage.environments.tables.ends import goals
from advantage.environments.tables.mdp import MDP, POMDP
from advantage.types import Array, Key

CELL = 48  # pixels
WALL, CLIFF, HOLE, GOAL, AGENT = (87, 96, 106), (160, 82, 45), (87, 32, 27), (46, 160, 67), (31, 111, 235)
FEW = 64  # up to so many entries, comparing all at once is faster than a search


class Outcomes(NamedTuple):
    """The successors of each state and action side by side, padded: `[S, A, K]`.

    Attributes:
        successor: int32.
        cumulative: float32, the probability of this successor or an earlier one; 2 for the last one and the padding.
        reward: float32.
    """

    successor: np.ndarray
    cumulative: np.ndarray
    reward: np.ndarray


def outcomes(mdp: MDP) -> Outcomes:
    """The table in the form used for sampling, with K the largest number of successors."""
    stacked = mdp.transition
    if not mdp.is_sparse:
        stacked = scipy.sparse.csr_array(stacked.swapaxes(0, 1).reshape(-1, mdp.n_states))
    counts = np.diff(stacked.indptr)
    width = int(counts.max())
    row = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(row)) - stacked.indptr[row]
    action, state = np.divmod(row, mdp.n_states)
    shape = mdp.n_states, mdp.n_actions, width
    successor, probability = np.zeros(shape, np.int32), np.zeros(shape)
    successor[state, action, place] = stacked.indices
    probability[state, action, place] = stacked.data
    reward = np.zeros(shape, np.float32)
    if scipy.sparse.issparse(mdp.reward):
        reward[state, action, place] = mdp.reward.data
    elif mdp.reward.ndim == 3:
        reward[state, action, place] = mdp.reward[state, action, stacked.indices]
    else:
        reward[:] = mdp.reward[:, :, None]
    cumulative = probability.cumsum(axis=2).astype(np.float32)
    last = np.arange(width) >= counts.reshape(mdp.n_actions, mdp.n_states).T[:, :, None] - 1
    cumulative[last] = 2.0
    return Outcomes(successor, cumulative, reward)


@dataclasses.dataclass(frozen=True, eq=False)
class TabularWorld:
    """A table on the device: the observation is the number of the state, int32.

    Attributes:
        mdp: the table.
        gymnasium_id: the name of the same world in Gymnasium, used to render.
    """

    mdp: MDP
    gymnasium_id: str | None = None

    @property
    def max_episode_steps(self) -> int:
        return self.mdp.max_episode_steps

    @property
    def observation_space(self) -> gymnasium.Space:
        return gymnasium.spaces.Discrete(self.mdp.n_states)

    @property
    def action_space(self) -> gymnasium.Space:
        return gymnasium.spaces.Discrete(self.mdp.n_actions)

    @cached_property
    def outcomes(self) -> Outcomes:
        return outcomes(self.mdp)

    def reset(self, key: Key) -> tuple[Array, Array]:
        """Draw a start state: `-> state, obs`."""
        state = draw_start(self.mdp.start, key)
        return state, state

    def state_of(self, obs: Array) -> Array:
        """The state, which is what is observed."""
        return obs

    def all_outcomes(self, state: Array, action: Array) -> tuple[Array, Array, Array, Array]:
        """What can follow: `-> probability, next state, reward, terminated`, `[K]` each, padded with probability 0."""
        table, terminal = self.outcomes, jnp.asarray(self.mdp.terminal)
        cumulative = jnp.minimum(jnp.asarray(table.cumulative)[state, action], 1.0)
        successor = jnp.asarray(table.successor)[state, action]
        probability = jnp.diff(cumulative, prepend=0.0)
        return probability, successor, jnp.asarray(table.reward)[state, action], terminal[successor]

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """One step: `-> state, obs, reward, terminated`."""
        state, reward, terminated = draw_outcome(self.outcomes, self.mdp.terminal, state, action, key)
        return state, state, reward, terminated


@dataclasses.dataclass(frozen=True, eq=False)
class PartiallyObservedWorld:
    """A POMDP on the device: the observation is a number, int32; the state stays hidden.

    Attributes:
        pomdp: the tables.
        gymnasium_id: the name of the same world in Gymnasium.
    """

    pomdp: POMDP
    gymnasium_id: str | None = None

    @property
    def max_episode_steps(self) -> int:
        return self.pomdp.mdp.max_episode_steps

    @property
    def observation_space(self) -> gymnasium.Space:
        return gymnasium.spaces.Discrete(self.pomdp.n_observations)

    @property
    def action_space(self) -> gymnasium.Space:
        return gymnasium.spaces.Discrete(self.pomdp.mdp.n_actions)

    @cached_property
    def outcomes(self) -> Outcomes:
        return outcomes(self.pomdp.mdp)

    def reset(self, key: Key) -> tuple[Array, Array]:
        """Draw a start state: `-> state, obs`."""
        key_state, key_obs = jax.random.split(key)
        state = draw_start(self.pomdp.mdp.start, key_state)
        return state, _draw(jnp.asarray(self.pomdp.first_emission, jnp.float32)[state], key_obs)

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """One step: `-> state, obs, reward, terminated`."""
        key_state, key_obs = jax.random.split(key)
        terminal = self.pomdp.mdp.terminal
        state, reward, terminated = draw_outcome(self.outcomes, terminal, state, action, key_state)
        obs = _draw(jnp.asarray(self.pomdp.emission, jnp.float32)[state, action], key_obs)
        return state, obs, reward, terminated


@lru_cache(maxsize=16)
def world_of(table: MDP | POMDP) -> TabularWorld | PartiallyObservedWorld:
    """The world of a table; the same object each time, so that nothing is compiled twice."""
    return PartiallyObservedWorld(table) if isinstance(table, POMDP) else TabularWorld(table)


def draw_start(start: np.ndarray, key: Key) -> Array:
    """A state from the distribution `start`, int32."""
    possible = np.flatnonzero(start).astype(np.int32)
    if len(possible) == 1:
        return jnp.int32(possible[0])
    cumulative = start[possible].cumsum()
    cumulative = (cumulative / cumulative[-1]).astype(np.float32)
    method = "compare_all" if len(possible) <= FEW else "scan"
    place = jnp.searchsorted(cumulative, jax.random.uniform(key), side="right", method=method)
    return jnp.asarray(possible)[jnp.minimum(place, len(possible) - 1)]


def draw_outcome(
    table: Outcomes, terminal: np.ndarray, state: Array, action: Array, key: Key
) -> tuple[Array, Array, Array]:
    """`-> next state, reward, terminated`."""
    place = jnp.int32(0)
    if table.successor.shape[2] > 1:
        place = (jax.random.uniform(key) >= jnp.asarray(table.cumulative)[state, action]).sum()
    successor = jnp.asarray(table.successor)[state, action, place]
    ends = jnp.asarray(terminal)[successor] if terminal.any() else jnp.bool_(False)
    return successor, jnp.asarray(table.reward)[state, action, place], ends


def _draw(probabilities: Array, key: Key) -> Array:
    """An index from a distribution `[N]`, int32."""
    cumulative = jnp.cumsum(probabilities)
    place = (jax.random.uniform(key) * cumulative[-1] >= cumulative).sum(dtype=jnp.int32)
    return jnp.minimum(place, probabilities.shape[0] - 1)


class TabularEnv(gymnasium.Env):
    """A table in Gymnasium's interface: `TabularEnv(mdp)` or `TabularEnv(pomdp)`.

    `info["state"]` is the state, which a POMDP's observation hides. A table with a grid can be rendered as an image.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}

    def __init__(self, table: MDP | POMDP, render_mode: str | None = None):
        self.pomdp = table if isinstance(table, POMDP) else None
        self.mdp: MDP = table.mdp if isinstance(table, POMDP) else table
        n_observations = self.mdp.n_states if self.pomdp is None else self.pomdp.n_observations
        self.observation_space = gymnasium.spaces.Discrete(n_observations)
        self.action_space = gymnasium.spaces.Discrete(self.mdp.n_actions)
        self.render_mode = render_mode
        self.table = outcomes(self.mdp)
        self.state = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self._draw(self.mdp.start)
        obs = self.state if self.pomdp is None else self._draw(self.pomdp.first_emission[self.state])
        return obs, {"state": self.state}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        before = self.state, action
        cumulative = self.table.cumulative[before]
        place = int((self.np_random.random() >= cumulative).sum()) if len(cumulative) > 1 else 0
        self.state = int(self.table.successor[before][place])
        obs = self.state if self.pomdp is None else self._draw(self.pomdp.emission[self.state, action])
        reward = float(self.table.reward[before][place])
        return obs, reward, bool(self.mdp.terminal[self.state]), False, {"state": self.state}

    def render(self) -> Any:
        grid = self.mdp.grid
        if self.render_mode == "ansi":
            return f"state {self.state}"
        if self.render_mode != "rgb_array" or grid is None:
            return None
        picture = np.full((grid.rows, grid.columns, 3), 255, np.uint8)
        cells = picture.reshape(-1, 3)
        cells[list(grid.walls)] = WALL
        cells[list(grid.cliffs)] = CLIFF
        cells[self.mdp.terminal] = HOLE
        cells[self._goals] = GOAL
        picture = picture.repeat(CELL, axis=0).repeat(CELL, axis=1)
        picture[::CELL] = picture[:, ::CELL] = 200
        row, column = divmod(self.state, grid.columns)
        down, right = np.ogrid[: picture.shape[0], : picture.shape[1]]
        far = np.hypot(down - (row + 0.5) * CELL, right - (column + 0.5) * CELL)
        picture[far < 0.36 * CELL] = 255
        picture[far < 0.32 * CELL] = AGENT
        return picture

    @cached_property
    def _goals(self) -> np.ndarray:
        return goals(self.mdp)

    def _draw(self, probabilities: np.ndarray) -> int:
        return int(self.np_random.choice(len(probabilities), p=probabilities))
