"""The randomness of each iteration, from the run's key and the iteration's number: the same on both drivers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from advantage.drivers.schedule import BLOCK
from advantage.random_bits import rolled, unrolled
from advantage.types import Algorithm, Key, Pytree


class Draws(NamedTuple):
    """Noise for acting, `[T, B, ...]`, and keys for the worlds and for the update."""

    noise: Pytree
    key_world: Key
    key_update: Key


def draw(
    algorithm: Algorithm, state: Pytree, run_key: Key, iteration: Any, shape: tuple[int, int]
) -> tuple[Pytree, Draws]:
    """The actor and the randomness of an iteration of `shape = (T, B)`: `-> actor, draws`."""
    key_noise, key_world, key_update = jax.random.split(jax.random.fold_in(run_key, iteration), 3)
    actor = algorithm.actor(state)
    return actor, Draws(algorithm.noise(actor, key_noise, shape), key_world, key_update)


draw_compiled = jax.jit(draw, static_argnames="shape")


def draw_block(algorithm: Algorithm, state: Pytree, run_key: Key, iteration: Any, num_envs: int) -> Draws:
    """The draws of the block of `BLOCK` one-step iterations that contains this iteration."""
    return draw(algorithm, state, run_key, iteration // BLOCK, (BLOCK, num_envs))[1]


def of_block(block: Draws, iteration: Any) -> Draws:
    """One iteration's share of its block, with noise `[1, B, ...]`."""
    place = iteration % BLOCK
    noise = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, place, 1), block.noise)
    return Draws(noise, *(rolled(jax.random.fold_in(unrolled(key), place)) for key in block[1:]))
