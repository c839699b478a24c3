"""The optimisers that methods choose from."""

from __future__ import annotations

import optax

from advantage.algorithms.policy_gradient.shared.options import OptimiserOptions
from advantage.types import Array


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
