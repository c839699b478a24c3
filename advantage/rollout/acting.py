"""Acting on the host: in NumPy where the policy's operations allow it, else through a compiled call."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from advantage.rollout.staging import Staged, Unsupported, stage
from advantage.types import Algorithm, Key, Pytree


@jax.jit
def actor_of(algorithm: Algorithm, state: Pytree) -> Pytree:
    """The part of the state that acts."""
    return algorithm.actor(state)


@partial(jax.jit, static_argnames="shape")
def _noise(algorithm: Algorithm, actor: Pytree, key: Key, shape: tuple[int, ...]) -> Pytree:
    return algorithm.noise(actor, key, shape)


def _act(constants: tuple[Algorithm, Pytree], obs: Pytree, memory: Pytree, noise: Pytree) -> Any:
    algorithm, actor = constants
    return algorithm.act(actor, obs, memory, noise)


def _greedy(constants: tuple[Algorithm, Pytree], obs: Pytree, memory: Pytree) -> Any:
    algorithm, actor = constants
    return algorithm.greedy(actor, obs, memory)


_compiled = {function: jax.jit(function) for function in (_act, _greedy)}


@lru_cache(maxsize=64)
def _staged(
    function: Callable, structure: Any, shapes: tuple[tuple[tuple[int, ...], np.dtype], ...]
) -> Staged | None:
    """The function for arrays of these shapes, traced once; None where only the compiler will do."""
    arguments = structure.unflatten([jax.ShapeDtypeStruct(*shape) for shape in shapes])
    try:
        return stage(function, *arguments)
    except Unsupported:
        return None


class HostActor:
    """An actor whose calls take and return NumPy arrays with a leading batch axis."""

    def __init__(self, algorithm: Algorithm, actor: Pytree):
        self.algorithm, self.actor = algorithm, actor
        self.constants = jax.device_get((algorithm, self.actor))
        self.bound: dict[Any, Callable] = {}

    def noise(self, key: Key, shape: tuple[int, ...]) -> Pytree:
        """What `act` will consume, `[*shape, ...]`, drawn in one call."""
        return jax.device_get(_noise(self.algorithm, self.actor, key, shape))

    def act(self, obs: Pytree, memory: Pytree, noise: Pytree) -> tuple[Pytree, Pytree, Pytree]:
        return self.program(obs, memory, noise)(obs, memory, noise)

    def greedy(self, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]:
        return self.program(obs, memory)(obs, memory)

    def program(self, obs: Pytree, memory: Pytree, *noise: Pytree) -> Callable:
        """`act`, or `greedy` where no noise is given, for inputs of these shapes alone."""
        function, batch = _act if noise else _greedy, len(jax.tree.leaves(obs)[0])
        try:
            return self.bound[function, batch]
        except KeyError:
            program = self.bound[function, batch] = self._bind(function, obs, memory, *noise)
            return program

    def _bind(self, function: Callable, *inputs: Pytree) -> Callable:
        leaves, structure = jax.tree.flatten((self.constants, *inputs))
        shapes = tuple((np.shape(leaf), np.asarray(leaf).dtype) for leaf in leaves)
        staged = _staged(function, structure, shapes)
        if staged is not None:
            return staged.bind(self.constants)
        constants = self.algorithm, self.actor
        return lambda *inputs: jax.tree.map(np.asarray, _compiled[function](constants, *inputs))
