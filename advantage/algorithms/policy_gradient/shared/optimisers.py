"""The optimisers that methods choose from."""

from __future__ import annotations

import dataclasses
from typing import Literal

import optax

from advantage.algorithms.hyperparameters import ranged
from advantage.types import Array

Optimiser = Literal["rmsprop", "adam"]


@dataclasses.dataclass(frozen=True)
class OptimiserOptions:
    """Fields of a method that takes one step for each rollout; nothing but fields."""

    optimiser: Optimiser = "rmsprop"
    """RMSProp as in the paper, or Adam."""
    rms_decay: float = ranged(0.99, "[0, 1)")
    """How much RMSProp keeps of its mean square in each step."""
    optimiser_epsilon: float = ranged(1e-5, "(0, inf)")
    """Added in the optimiser's denominator."""
    max_grad_norm: float | None = ranged(0.5, "(0, inf)")
    """Largest global norm of a gradient; None does not clip."""


def optimiser_of(options: OptimiserOptions) -> optax.GradientTransformation:
    """RMSProp or Adam for gradients clipped by their global norm; the caller multiplies by the step size.

    Source: Tieleman & Hinton 2012, "Lecture 6.5, RMSProp"; Kingma & Ba 2015, "Adam", algorithm 1.
    """
    if options.optimiser == "adam":
        return clipped(optax.scale_by_adam(eps=options.optimiser_epsilon), options.max_grad_norm)
    return clipped(optax.scale_by_rms(options.rms_decay, options.optimiser_epsilon), options.max_grad_norm)


def clipped(
    scale: optax.GradientTransformation, max_grad_norm: Array | float | None
) -> optax.GradientTransformation:
    """An optimiser of gradients whose global norm is at most `max_grad_norm`; None does not clip."""
    return scale if max_grad_norm is None else optax.chain(optax.clip_by_global_norm(max_grad_norm), scale)
