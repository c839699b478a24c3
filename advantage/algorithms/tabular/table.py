"""Finite spaces as the rows and columns of a table."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.environments.masks import ACTION_MASK, split_mask
from advantage.types import Array, Pytree, Rollout, Spec


class Sizes(NamedTuple):
    """The sizes of the tables. A pytree without leaves, so that a training state can contain it.

    Attributes:
        states: the number of values of each part of the observation; one part if it is Discrete.
        first: the smallest number of each part.
        actions: A.
        names: names of the parts if an observation is a dict.
        has_mask: whether observations have an action mask.
    """

    states: tuple[int, ...]
    first: tuple[int, ...]
    actions: int
    names: tuple[str, ...] = ()
    has_mask: bool = False

    @property
    def n_states(self) -> int:
        return math.prod(self.states)

    def index(self, obs: Pytree) -> Array:
        """The row of a table that an observation stands for, int32 `[...]`; parts are its digits."""
        if self.names:
            obs = tuple(obs[name] for name in self.names)
        parts = obs if isinstance(obs, tuple) else (obs,) if len(self.states) == 1 else _unstack(obs)
        index = None
        for part, size, first in zip(parts, self.states, self.first, strict=True):
            digit = part.astype(np.int32) - np.int32(first)
            index = digit if index is None else index * np.int32(size) + digit
        assert index is not None
        return index

    def mask(self, obs: Pytree) -> Array | None:
        """Which actions are allowed, bool `[..., A]`; None where observations have no mask."""
        if not self.has_mask:
            return None
        parts = jax.tree.leaves(obs[ACTION_MASK])
        whole = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
        return whole.astype(bool)


jax.tree_util.register_pytree_node(Sizes, lambda sizes: ((), sizes), lambda sizes, _: sizes)


def _unstack(obs: Array) -> list[Array]:
    return [obs[..., i] for i in range(obs.shape[-1])]


def sizes_of(spec: Spec) -> Sizes:
    """The sizes of the tables for a run. An action mask is not part of the state.

    Raises:
        ValueError: a space that is not finite; the message names it and says what to use instead.
    """
    (observation, mask), action = split_mask(spec.observation_space), spec.action_space
    if not isinstance(action, gymnasium.spaces.Discrete):
        raise ValueError(
            f"A table needs a Discrete action space, but this one is {action}; use a method with a network."
        )
    parts: Any = None
    names = tuple(observation.spaces) if isinstance(observation, gymnasium.spaces.Dict) else ()
    if isinstance(observation, gymnasium.spaces.Dict):
        parts = tuple(observation.spaces.values())
    elif isinstance(observation, gymnasium.spaces.Discrete):
        parts = (observation,)
    elif isinstance(observation, gymnasium.spaces.Tuple):
        parts = observation.spaces
    elif isinstance(observation, gymnasium.spaces.MultiDiscrete) and observation.nvec.ndim == 1:
        parts = [
            gymnasium.spaces.Discrete(int(n), start=int(first))
            for n, first in zip(observation.nvec, observation.start, strict=True)
        ]
    if not parts or not all(isinstance(part, gymnasium.spaces.Discrete) for part in parts):
        raise ValueError(
            "A table needs a finite observation space: Discrete, MultiDiscrete, or a Tuple or Dict of Discrete. This "
            f"one is {observation}; use a method with a network, or an environment whose observations are binned."
        )
    return Sizes(
        states=tuple(int(part.n) for part in parts),
        first=tuple(int(part.start) for part in parts),
        actions=int(action.n),
        names=names,
        has_mask=mask is not None,
    )


class Step(NamedTuple):
    """One step in each environment, `[B]`: the row of the table, the action, the reward, the successor's row."""

    s: Array
    a: Array
    r: Array
    next_s: Array


def one_step(sizes: Sizes, rollout: Rollout) -> Step:
    """The step that a method with `n_steps = 1` learns from."""
    index = sizes.index
    return Step(
        index(rollout.obs)[0],
        rollout.action[0],
        rollout.reward[0].astype(jnp.float32),
        index(rollout.next_obs)[0],
    )
