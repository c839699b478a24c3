"""Gradient steps from replayed experience: how many there are, and what one is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from advantage.algorithms.value.shared.options import ReplayOptions
from advantage.types import Array, Clock, Pytree

Loss = Callable[[Pytree], tuple[Array, dict[str, Array]]]


def number_of_gradient_steps(options: ReplayOptions, clock: Clock, steps: int) -> Array:
    """Gradient steps after a rollout of so many environment steps: the same number for each transition.

    None are taken until `learning_starts` steps have been made.
    """
    begun = clock.step + jnp.uint32(steps) >= jnp.uint32(options.learning_starts)
    return jnp.where(begun, options.gradient_steps * steps // options.n_steps, 0)


def adam_init(params: Pytree) -> optax.OptState:
    """Adam's initial state."""
    return optax.scale_by_adam().init(ravel_pytree(params)[0])


def adam_step(
    loss: Loss, params: Pytree, optimiser: optax.OptState, learning_rate: Array | float
) -> tuple[Pytree, optax.OptState, dict[str, Array]]:
    """One step of Adam down `loss(params) -> loss, metrics`: `-> parameters, optimiser, metrics`.

    The parameters are one vector, so that the step is one loop over memory.
    """
    start, unflatten = ravel_pytree(params)
    gradient, metrics = jax.grad(lambda flat: loss(unflatten(flat)), has_aux=True)(start)
    updates: Any
    updates, optimiser = optax.scale_by_adam().update(gradient, optimiser)
    return unflatten(start - learning_rate * cast(Array, updates)), optimiser, metrics
