"""Acting on the host: in NumPy where the policy can, else through a compiled call."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from advantage.types import Algorithm, Key, Pytree


@jax.jit
def _actor(algorithm: Algorithm, state: Pytree) -> Pytree:
    return algorithm.actor(state)


@partial(jax.jit, static_argnames="shape")
def _noise(algorithm: Algorithm, actor: Pytree, key: Key, shape: tuple[int, ...]) -> Pytree:
    return algorithm.noise(actor, key, shape)


@jax.jit
def _act(algorithm: Algorithm, actor: Pytree, obs: Pytree, memory: Pytree, noise: Pytree) -> Any:
    return algorithm.act(actor, obs, memory, noise)


@jax.jit
def _greedy(algorithm: Algorithm, actor: Pytree, obs: Pytree, memory: Pytree) -> Any:
    return algorithm.greedy(actor, obs, memory)


class HostActor:
    """An actor whose calls take and return NumPy arrays with a leading batch axis."""

    def __init__(self, algorithm: Algorithm, state: Pytree):
        self.algorithm = algorithm
        self.actor = _actor(algorithm, state)
        self.in_numpy = getattr(self.actor, "runs_in_numpy", True)
        if self.in_numpy:
            self.actor = jax.device_get(self.actor)

    def noise(self, key: Key, shape: tuple[int, ...]) -> Pytree:
        """What `act` will consume, `[*shape, ...]`, drawn in one call."""
        return jax.device_get(_noise(self.algorithm, self.actor, key, shape))

    def act(self, obs: Pytree, memory: Pytree, noise: Pytree) -> tuple[Pytree, Pytree, Pytree]:
        if self.in_numpy:
            return self.algorithm.act(self.actor, obs, memory, noise)
        action, memory, extras = _act(self.algorithm, self.actor, obs, memory, noise)
        return jax.tree.map(np.asarray, action), memory, extras

    def greedy(self, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]:
        if self.in_numpy:
            return self.algorithm.greedy(self.actor, obs, memory)
        action, memory = _greedy(self.algorithm, self.actor, obs, memory)
        return jax.tree.map(np.asarray, action), memory
