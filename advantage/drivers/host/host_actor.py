"""Acting on the host: in NumPy where the policy's operations allow it, else through a compiled call."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advantage.drivers.host.staging import Staged, Unsupported, stage
from advantage.types import Algorithm, Key, Pytree, Search


@jax.jit
def actor_of(algorithm: Algorithm, state: Pytree) -> Pytree:
    """The part of the state that acts."""
    return algorithm.actor(state)


@partial(jax.jit, static_argnames="shape")
def _noise(algorithm: Algorithm, actor: Pytree, key: Key, shape: tuple[int, ...]) -> Pytree:
    return algorithm.noise(actor, key, shape)


@jax.jit
def _initial_memory(algorithm: Algorithm, actor: Pytree) -> Pytree:
    return algorithm.initial_memory(actor)


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
    """The function for arrays of these shapes, traced once; None where it needs the compiler."""
    arguments = structure.unflatten([jax.ShapeDtypeStruct(*shape) for shape in shapes])
    try:
        return stage(function, *arguments)
    except Unsupported:
        return None


def dtype_in_jax(value: Any) -> np.dtype:
    """The dtype that JAX gives a value: single precision for a float of Python or a float64 array."""
    return jax.dtypes.canonicalize_dtype(np.asarray(value).dtype)


class HostActor:
    """An actor whose calls take and return NumPy arrays with a leading batch axis."""

    def __init__(self, algorithm: Algorithm | Search, actor: Pytree):
        self.algorithm, self.actor = algorithm, actor
        self.constants = jax.device_get((algorithm, self.actor))
        self.bound: dict[Any, Callable] = {}

    def noise(self, key: Key, shape: tuple[int, ...]) -> Pytree:
        """The randomness that `act` will consume, `[*shape, ...]`, drawn in one call."""
        return jax.device_get(_noise(self.algorithm, self.actor, key, shape))

    def initial_memory(self, num_envs: int = 1) -> Pytree:
        """What a policy remembers when episodes begin, `[B, ...]`."""
        memory = jax.device_get(_initial_memory(self.algorithm, self.actor))
        return jax.tree.map(lambda leaf: np.repeat(leaf[None], num_envs, axis=0), memory)

    def act(self, obs: Pytree, memory: Pytree, noise: Pytree) -> tuple[Pytree, Pytree, Pytree]:
        return self.program(obs, memory, noise)(obs, memory, noise)

    def greedy(self, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]:
        return self.program(obs, memory)(obs, memory)

    def program(self, obs: Pytree, memory: Pytree, *noise: Pytree) -> Callable:
        """`act`, or `greedy` if no noise is given, only for inputs of these shapes."""
        function, batch = _act if noise else _greedy, len(jax.tree.leaves(obs)[0])
        try:
            return self.bound[function, batch]
        except KeyError:
            program = self.bound[function, batch] = self._bind(function, obs, memory, *noise)
            return program

    def _bind(self, function: Callable, *inputs: Pytree) -> Callable:
        staged = self._stage(function, *inputs)
        if staged is not None:
            return staged.bind(self.constants).call
        constants = self.algorithm, self.actor
        return lambda *inputs: jax.tree.map(np.asarray, _compiled[function](constants, *inputs))

    def _stage(self, function: Callable, *inputs: Pytree) -> Staged | None:
        leaves, structure = jax.tree.flatten((self.constants, *inputs))
        return _staged(function, structure, tuple((np.shape(x), dtype_in_jax(x)) for x in leaves))

    def renewable(
        self, leaves: list[np.ndarray], *, obs: Pytree, memory: Pytree, noise: Pytree
    ) -> tuple[Callable, Callable[[], None]]:
        """`act` for inputs of these shapes with an actor of these leaves: `-> act, renew`.

        `renew` is to be called when the numbers in `leaves` have changed.
        """
        staged, structure = self._stage(_act, obs, memory, noise), jax.tree.structure(self.actor)
        if staged is not None:
            return staged.bind([*jax.tree.leaves(self.constants[0]), *leaves])
        actor = structure.unflatten(list(map(jnp.array, leaves)))

        def act(*inputs: Pytree) -> Pytree:
            return jax.tree.map(np.asarray, _compiled[_act]((self.algorithm, actor), *inputs))

        def renew() -> None:
            nonlocal actor
            actor = structure.unflatten(list(map(jnp.array, leaves)))

        return act, renew
