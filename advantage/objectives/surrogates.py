"""Losses of the policy-gradient family, per sample: `[N] -> [N]`. The caller takes the mean."""

from __future__ import annotations

import jax.numpy as jnp

from advantage.types import Array


def clipped_surrogate(log_ratio: Array, advantage: Array, clip_range: Array | float) -> Array:
    """The loss `-min(rho A, clip(rho, 1 - eps, 1 + eps) A)`, `rho = exp(log_ratio) = pi(a|s) / pi_old(a|s)`.

    Args:
        log_ratio: `[N]`, log-probability now minus log-probability when acting.
        advantage: `[N]`.
        clip_range: `eps`, above 0.

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 7.
    """
    ratio = jnp.exp(log_ratio)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip_range, 1 + clip_range) * advantage)


def importance_surrogate(log_ratio: Array, weight: Array) -> Array:
    """The loss `-rho Psi`; at `rho = 1` its gradient is that of `-log pi Psi`.

    Source: Kakade & Langford 2002, "Approximately optimal approximate reinforcement learning"; Schulman et al. 2015,
    "Trust region policy optimization", eq. 14.
    """
    return -jnp.exp(log_ratio) * weight


def score_function_loss(log_prob: Array, weight: Array) -> Array:
    """The loss `-log pi(a|s) Psi`, whose gradient is `-Psi ∇log pi(a|s)`.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
    eq. 4, 5.
    """
    return -log_prob * weight


def penalised_surrogate(log_ratio: Array, advantage: Array, kl: Array, coefficient: Array | float) -> Array:
    """The loss `-(rho A - beta KL(pi_old(.|s) || pi(.|s)))`, `kl` `[N]` and `beta = coefficient`.

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 8.
    """
    return importance_surrogate(log_ratio, advantage) + coefficient * kl


def adapted_coefficient(coefficient: Array, kl: Array, target: Array | float) -> Array:
    """The next penalty: halved if `kl < target / 1.5`, doubled if `kl > 1.5 target`; it stays in [1e-10, 1e10].

    Source: Schulman et al. 2017, section 4.
    """
    factor = jnp.where(kl < target / 1.5, 0.5, jnp.where(kl > 1.5 * target, 2.0, 1.0))
    return jnp.clip(coefficient * factor, 1e-10, 1e10)


def squared_error(value: Array, target: Array) -> Array:
    """The critic's loss `(V - G)^2 / 2`."""
    return jnp.square(value - target) / 2


def clipped_squared_error(value: Array, old_value: Array, target: Array, clip_range: Array | float) -> Array:
    """The larger of the squared errors of `V` and of `V` clipped to within `clip_range` of the value when acting.

    Source: the implementation that accompanies Schulman et al. 2017; it is not in the paper.
    """
    held = old_value + jnp.clip(value - old_value, -clip_range, clip_range)
    return jnp.maximum(squared_error(value, target), squared_error(held, target))


def kl_estimate(log_ratio: Array) -> Array:
    """An unbiased, never negative estimate of KL(old || new) from old samples: `(rho - 1) - log rho`.

    Source: Schulman 2020, "Approximating KL divergence", estimator k3.
    """
    return jnp.expm1(log_ratio) - log_ratio
