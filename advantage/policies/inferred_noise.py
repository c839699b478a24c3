"""The noise that gave a sample: the opposite of `sample`."""

from __future__ import annotations

from advantage.policies.distributions import Gaussian, SquashedGaussian
from advantage.types import Array

NEAREST = 5e-7  # share of the range: no squashed sample is nearer to a bound


def inferred_noise(distribution: Gaussian | SquashedGaussian, value: Array) -> Array:
    """The noise with `distribution.sample(noise) = value`, up to rounding, `[..., d]`.

        Gaussian           e = (a - mean) / std
        SquashedGaussian   e = (u - mean) / std,  u = log((a - low) / (high - a)) / 2

    Source: Heess et al. 2015, "Learning continuous control policies by stochastic value gradients", section 4.1.
    """
    xp = value.__array_namespace__()
    if isinstance(distribution, SquashedGaussian):
        low, high = distribution.low, distribution.high
        nearest = NEAREST * (high - low)
        value = 0.5 * (xp.log(xp.maximum(value - low, nearest)) - xp.log(xp.maximum(high - value, nearest)))
    return (value - distribution.mean) * xp.exp(-distribution.log_std)
