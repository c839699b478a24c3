"""Worlds that hide some numbers of the observation, so that an agent needs memory to estimate them."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np

from advantage.environments.worlds.cartpole import CartPole
from advantage.environments.worlds.pendulum import Pendulum
from advantage.types import Array, Key, Pytree, World

STATELESS = {  # name: the world, and the entries of its observation that are kept
    "StatelessCartPole-v1": (CartPole(), (0, 2)),
    "StatelessPendulum-v1": (Pendulum(), (0, 1)),
}


@dataclasses.dataclass(frozen=True)
class Partial:
    """A world with only some entries of its observation; everything else is as in that world.

    Attributes:
        world: a world with a Box of observations with one axis.
        kept: the indices of the entries that are kept.
        gymnasium_id: the name of the same world in Gymnasium.
    """

    world: World
    kept: tuple[int, ...]
    gymnasium_id: str | None = None

    @property
    def max_episode_steps(self) -> int:
        return self.world.max_episode_steps

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The space of the entries that are kept."""
        return _part_of(self.world.observation_space, self.kept)

    @property
    def action_space(self) -> gymnasium.Space:
        """The action space of the world."""
        return self.world.action_space

    def reset(self, key: Key) -> tuple[Pytree, Array]:
        """Draw a start state: `-> state, obs [k]`."""
        state, obs = self.world.reset(key)
        return state, obs[np.array(self.kept)]

    def step(self, state: Pytree, action: Array, key: Key) -> tuple[Pytree, Array, Array, Array]:
        """One step: `-> state, obs [k], reward, terminated`."""
        state, obs, reward, terminated = self.world.step(state, action, key)
        return state, obs[np.array(self.kept)], reward, terminated


def _part_of(space: Any, kept: tuple[int, ...]) -> gymnasium.spaces.Box:
    entries = list(kept)
    return gymnasium.spaces.Box(space.low[entries], space.high[entries], dtype=space.dtype)


def stateless_cart_pole() -> Partial:
    """CartPole-v1 without velocities: only the cart's position [m] and the pole's angle [rad] are observed.

    Source: Morad et al. (2023), "POPGym: benchmarking partially observable reinforcement learning"; the name is theirs.
    Rewards and the time limit are those of CartPole-v1.
    """
    return _stateless("StatelessCartPole-v1")


def stateless_pendulum() -> Partial:
    """Pendulum-v1 without the angular velocity: only the cosine and the sine of the angle are observed.

    Source: Morad et al. (2023), as above. Rewards and the time limit are those of Pendulum-v1.
    """
    return _stateless("StatelessPendulum-v1")


def _stateless(name: str) -> Partial:
    world, kept = STATELESS[name]
    return Partial(world, kept, f"advantage/{name}")


def make_environment(name: str, **keywords: Any) -> gymnasium.Env:
    """The same world in Gymnasium's interface, without a time limit: the registration sets it."""
    world, kept = STATELESS[name]
    env = gymnasium.make(world.gymnasium_id, disable_env_checker=True, max_episode_steps=-1, **keywords)
    seen = _part_of(env.observation_space, kept)
    return gymnasium.wrappers.TransformObservation(env.unwrapped, lambda obs: obs[list(kept)], seen)
