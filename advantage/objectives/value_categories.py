"""Numbers of any size as probabilities of categories, so that their scale does not matter to a gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from advantage.objectives.distributional import cross_entropy
from advantage.types import Array

EPSILON = 1e-3


def squashed(x: Array) -> Array:
    """`h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x`, with eps = 0.001.

    Source: Pohlen et al. 2018, "Observe and look further: achieving consistent performance on Atari", proposition A.2.
    """
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1) - 1) + EPSILON * x


def unsquashed(y: Array) -> Array:
    """The inverse of `squashed`."""
    root = jnp.sqrt(1 + 4 * EPSILON * (jnp.abs(y) + 1 + EPSILON))
    return jnp.sign(y) * (jnp.square((root - 1) / (2 * EPSILON)) - 1)


def two_hot(x: Array, limit: int) -> Array:
    """The probabilities of the categories `-limit, ..., limit`, `[..., 2 limit + 1]`, with mean `squashed(x)`.

    The two neighbours of the number share the probability. What is beyond the limit counts as the limit.

    Source: Schrittwieser et al. 2020, "Mastering Atari, Go, chess and shogi by planning with a learned model",
    appendix F.
    """
    y = jnp.clip(squashed(x), -limit, limit)
    return jnp.maximum(0, 1 - jnp.abs(y[..., None] - jnp.arange(-limit, limit + 1)))


def category_mean(logits: Array) -> Array:
    """The number that logits of categories stand for, `[..., 2 limit + 1] -> [...]`; equal logits give exactly 0."""
    limit, p = (logits.shape[-1] - 1) // 2, jax.nn.softmax(logits)
    surplus = p[..., limit + 1 :] - p[..., :limit][..., ::-1]
    return unsquashed((surplus * jnp.arange(1, limit + 1)).sum(-1))


def category_loss(logits: Array, x: Array) -> Array:
    """The cross-entropy from the two-hot probabilities of `x`, `[...]`."""
    return cross_entropy(two_hot(x, (logits.shape[-1] - 1) // 2), logits)
