"""Random permutations without sorting."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from advantage.random_bits import unrolled
from advantage.types import Array, Key

ROUNDS = 24  # with fewer, the orders of four to six items are measurably not equally likely


def random_permutation(key: Key, n: int) -> Array:
    """The numbers 0..n-1 in random order, int32 `[n]`.

    Each number goes through a keyed bijection of 0..2^k-1, where 2^k is the next power of two: a Feistel network. Its
    low bits are xored with a hash of its high bits, then the high bits with a hash of the low, and so on. A result of
    n or more goes through again until it is below n. The numbers are independent of each other, so this takes one pass
    over n, where a sort takes log n passes.

    Source: Luby & Rackoff 1988, "How to construct pseudorandom permutations"; Mitchell et al. 2022,
    "Bandwidth-optimal random shuffling for GPUs", sec. 4; the hash ends like MurmurHash3's (Appleby 2011).
    """
    bits = max(2, (n - 1).bit_length())
    low_bits, high_bits = bits // 2, bits - bits // 2
    keys = jax.random.bits(unrolled(key), (ROUNDS // 2, 2))

    def two_rounds(halves, key):  # a loop: unrolled rounds would be fused into every use, and so repeated
        high, low = halves
        high = high ^ (_hash(low + key[0]) >> (32 - high_bits))
        low = low ^ (_hash(high + key[1]) >> (32 - low_bits))
        return (high, low), None

    def bijection(x: Array) -> Array:
        halves = x >> low_bits, x & jnp.uint32(2**low_bits - 1)
        (high, low), _ = jax.lax.scan(two_rounds, halves, keys)
        return (high << low_bits) | low

    x = bijection(jnp.arange(n, dtype=jnp.uint32))
    if n < 2**bits:
        x = jax.lax.while_loop(lambda x: (x >= n).any(), lambda x: jnp.where(x >= n, bijection(x), x), x)
    return x.astype(jnp.int32)


def _hash(x: Array) -> Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
