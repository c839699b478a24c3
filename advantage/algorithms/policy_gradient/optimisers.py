"""The optimisers that methods choose from."""

from __future__ import annotations

from typing import Literal

import optax

from advantage.types import Array

Optimiser = Literal["rmsprop", "adam"]


def optimiser_of(
    kind: Optimiser, rms_decay: Array | float, epsilon: Array | float, max_grad_norm: Array | float | None
) -> optax.GradientTransformation:
    """RMSProp or Adam for gradients clipped by their global norm; the caller multiplies by the step size.

    Args:
        kind: which.
        rms_decay: what RMSProp keeps of its mean square in each step.
        epsilon: added in the denominator.
        max_grad_norm: largest norm; None does not clip.

    Source: Tieleman & Hinton 2012, "Lecture 6.5, RMSProp"; Kingma & Ba 2015, "Adam", algorithm 1.
    """
    scale = optax.scale_by_adam(eps=epsilon) if kind == "adam" else optax.scale_by_rms(rms_decay, epsilon)
    return clipped(scale, max_grad_norm)


def clipped(
    scale: optax.GradientTransformation, max_grad_norm: Array | float | None
) -> optax.GradientTransformation:
    """An optimiser of gradients whose global norm is at most `max_grad_norm`; None does not clip."""
    return scale if max_grad_norm is None else optax.chain(optax.clip_by_global_norm(max_grad_norm), scale)
