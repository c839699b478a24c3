"""Losses of the policy-gradient family, per sample: `[N] -> [N]`. The caller takes the mean."""

from __future__ import annotations

import jax.numpy as jnp

from advantage.types import Array


def clipped_surrogate(log_ratio: Array, advantage: Array, clip_range: Array | float) -> Array:
    """The loss `-min(rho A, clip(rho, 1 - eps, 1 + eps) A)`, `rho = exp(log_ratio) = pi(a|s) / pi_old(a|s)`.

    Args:
        log_ratio: `[N]`, log-probability now minus when acting.
        advantage: `[N]`.
        clip_range: `eps`, above 0.

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 7.
    """
    ratio = jnp.exp(log_ratio)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip_range, 1 + clip_range) * advantage)


def squared_error(value: Array, target: Array) -> Array:
    """The critic's loss `(V - G)^2 / 2`."""
    return jnp.square(value - target) / 2


def clipped_squared_error(value: Array, old_value: Array, target: Array, clip_range: Array | float) -> Array:
    """The larger of the squared error at `V` and at `V` held within `clip_range` of the value when acting.

    Source: the implementation that accompanies Schulman et al. 2017; it is not in the paper.
    """
    held = old_value + jnp.clip(value - old_value, -clip_range, clip_range)
    return jnp.maximum(squared_error(value, target), squared_error(held, target))


def kl_estimate(log_ratio: Array) -> Array:
    """An unbiased, never negative estimate of KL(old || new) from old samples: `(rho - 1) - log rho`.

    Source: Schulman 2020, "Approximating KL divergence", estimator k3.
    """
    return jnp.expm1(log_ratio) - log_ratio
