"""How far a policy is from the actions that it should imitate: what cloning and distillation minimise."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from advantage.policies.distributions import Gaussian, Product, SquashedGaussian
from advantage.types import Array, Pytree


def imitation_loss(distribution: Any, action: Pytree) -> tuple[Array, Array]:
    """`-> loss, difference`, means over N actions.

        loss         |a - mode|²      of numbers
                     -log pi(a | s)   of choices
        difference   |a - mode|, or the share of choices that are not the mode

    Of a product of several actions the loss is the sum of theirs, and the difference their mean.

    Args:
        distribution: pi(. | s), a batch of N.
        action: a, `[N, ...]`, in the policy's own units.
    """
    if isinstance(distribution, Product):
        parts = zip(distribution.parts, action, strict=True)
        losses, differences = zip(*(imitation_loss(part, a) for part, a in parts), strict=True)
        return sum(losses), sum(differences) / len(differences)
    mode = distribution.mode()
    if isinstance(distribution, Gaussian | SquashedGaussian):
        return jnp.square(action - mode).sum(-1).mean(), jnp.abs(action - mode).mean()
    return -distribution.log_prob(action).mean(), (action != mode).mean()
