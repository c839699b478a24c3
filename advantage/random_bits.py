"""JAX's random numbers, bit for bit, in fewer operations: for programs in which a step is a few microseconds.

On a CPU, JAX computes the hash function of its keys in a loop of five turns, which compiles quickly; but every turn is
a dozen operations of the compiled program, each with a cost of its own. Here the five turns are written out, and the
compiler makes one operation of them.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp

from advantage.types import Array, Key

ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
PARITY = 0x1BD11BDA
USUAL = "threefry2x32"


def threefry(key: tuple[Array, Array], count: tuple[Array, Array]) -> tuple[Array, Array]:
    """The hash function Threefry-2x32 with 20 rounds: two words of 32 bits from a key and a counter of two.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3.
    """
    words = *key, key[0] ^ key[1] ^ jnp.uint32(PARITY)
    left, right = count[0] + words[0], count[1] + words[1]
    for turn in range(5):
        for bits in ROTATIONS[turn % 2]:
            left = left + right
            right = left ^ (right << bits | right >> (32 - bits))
        left = left + words[(turn + 1) % 3]
        right = right + words[(turn + 2) % 3] + jnp.uint32(turn + 1)
    return left, right


def _hashed(key: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The hashes of the numbers of all places of an array, counted from 0.

    The barrier keeps the compiler from hashing again in every operation that uses them.
    """
    count = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    return jax.lax.optimization_barrier(threefry((key[0], key[1]), (jnp.zeros_like(count), count)))


def _bits(key: Array, width: int, shape: tuple[int, ...]) -> Array:
    high, low = _hashed(key, shape)
    if width == 64:
        return high.astype(jnp.uint64) << 32 | low.astype(jnp.uint64)
    return (high ^ low).astype(jnp.dtype(f"uint{width}"))


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.stack(_hashed(key, shape), axis=-1)


def _fold_in(key: Array, data: Array) -> Array:
    return jnp.stack(threefry((key[0], key[1]), (jnp.uint32(0), jnp.asarray(data, jnp.uint32))))


def _seed(seed: Array) -> Array:
    return jax.random.key_data(jax.random.key(seed, impl=USUAL))


UNROLLED: Any = jex.random.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_bits,
    fold_in=_fold_in,
    name="threefry_unrolled",
    tag="fry_unrolled",
)


def unrolled(key: Key) -> Key:
    """The same key, with the hash function written out: every draw from it has the same bits.

    Keys of another kind than JAX's usual one, which a user may have chosen, stay as they are.
    """
    if jax.random.key_impl(key) != USUAL:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=UNROLLED)


def rolled(key: Key) -> Key:
    """The same key as JAX's own, for code of others: some of JAX's draws, as `poisson`, take no other kind."""
    if jax.random.key_impl(key) != UNROLLED:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=USUAL)
