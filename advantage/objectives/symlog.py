"""A function that shrinks large numbers and keeps small ones, and its inverse.

Source: Hafner et al. 2023, "Mastering diverse domains through world models", eq. 9.
"""

from __future__ import annotations

import jax.numpy as jnp

from advantage.types import Array


def symlog(x: Array) -> Array:
    """`sign(x) log(1 + |x|)`."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Array) -> Array:
    """`sign(x) (exp(|x|) - 1)`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))
