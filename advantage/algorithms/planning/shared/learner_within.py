"""A learner inside another method, which waits until there is something to learn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advantage.types import Array, Mean, Pytree


def learn_if_begun(
    begun: Array, learn: Callable[[], tuple[Pytree, dict[str, Any]]], learner: Pytree
) -> tuple[Pytree, dict[str, Any]]:
    """`learn() -> learner, metrics` if it has begun; else the learner as it is, and metrics without a value."""

    def wait() -> tuple[Pytree, dict[str, Any]]:
        shapes = jax.eval_shape(learn)[1]
        return learner, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    learner, metrics = jax.lax.cond(begun, learn, wait)
    return learner, {
        name: metric if isinstance(metric, Mean) else Mean(metric, begun.astype(jnp.float32))
        for name, metric in metrics.items()
    }
