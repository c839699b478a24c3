"""Fully connected layers with batch normalisation."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from advantage.policies.networks import Activation, Initialisation, activate, linear, linear_init
from advantage.types import Array, Key, Pytree

EPSILON = np.float32(1e-5)
LARGEST_RATIO, LARGEST_SHIFT = np.float32(3), np.float32(5)


@dataclasses.dataclass(frozen=True)
class BatchNormMLP:
    """Fully connected layers, with a normalisation of their input and one after each activation.

    The parameters of a layer are `{"weight", "bias"}`, those of a normalisation `{"scale", "offset"}`. `"moments"` has
    the running `{"mean", "variance"}` of what each normalisation takes in, which no gradient changes.
    """

    hidden: tuple[int, ...]
    activation: Activation = "relu"
    initialisation: Initialisation = "orthogonal"

    def init(self, key: Key, x: Array) -> Pytree:
        widths = (x.shape[-1], *self.hidden)
        shapes = list(itertools.pairwise(widths))
        return {
            "layers": linear_init(key, shapes, [2**0.5] * len(shapes), self.initialisation),
            "norms": [{"scale": jnp.ones(width), "offset": jnp.zeros(width)} for width in widths],
            "moments": [{"mean": jnp.zeros(width), "variance": jnp.ones(width)} for width in widths],
        }

    def apply(self, params: Pytree, x: Array) -> Array:
        """The features `[..., k]`, normalised by the running moments."""
        return self._features(params, x, normalised)

    def apply_to_batch(
        self, params: Pytree, x: Array, *, momentum: Array | float, renormalise: Array | bool
    ) -> tuple[Array, Pytree]:
        """The features of a batch `[N, d]`, normalised by its own moments, and the running moments after it.

        Args:
            params, x: those of `init`, and the batch.
            momentum: the share of the running moments that is kept.
            renormalise: whether the normalisation is `renormalised`.
        """
        after = []

        def normalise(norm: Pytree, x: Array, running: Pytree) -> Array:
            batch = batch_moments(x)
            after.append({name: momentum * running[name] + (1 - momentum) * batch[name] for name in batch})
            ratio, shift = corrections(batch, running)
            ratio, shift = jnp.where(renormalise, ratio, 1), jnp.where(renormalise, shift, 0)
            unit = {"scale": ratio, "offset": shift}
            return norm["scale"] * normalised(unit, x, batch) + norm["offset"]

        features = self._features(params, x, normalise)
        return features, jax.lax.stop_gradient(after)

    def _features(
        self, params: Pytree, x: Array, normalise: Callable[[Pytree, Array, Pytree], Array]
    ) -> Array:
        first, *norms = zip(params["norms"], params["moments"], strict=True)
        x = normalise(first[0], x, first[1])
        for layer, (norm, moments) in zip(params["layers"], norms, strict=True):
            x = normalise(norm, activate(self.activation, linear(layer, x)), moments)
        return x


def batch_moments(x: Array) -> dict[str, Array]:
    """Mean and variance over the batch, `[N, k] -> [k]`."""
    return {"mean": x.mean(axis=0), "variance": x.var(axis=0)}


def normalised(norm: Pytree, x: Array, moments: Pytree) -> Array:
    """`scale (x - mean) / sqrt(variance + 1e-5) + offset`.

    Source: Ioffe & Szegedy 2015, "Batch normalization", algorithm 1.
    """
    deviation = x.__array_namespace__().sqrt(moments["variance"] + EPSILON)
    return norm["scale"] * ((x - moments["mean"]) / deviation) + norm["offset"]


def corrections(batch: Pytree, running: Pytree) -> tuple[Array, Array]:
    """Ratio and shift with which a batch is normalised as by the running moments, within limits and without gradient.

    With deviations `s = sqrt(variance + 1e-5)`, ratio `r = s_batch / s_running` within [1/3, 3], and shift
    `d = (mean_batch - mean_running) / s_running` within [-5, 5]: `r (x - mean_batch) / s_batch + d` is
    `(x - mean_running) / s_running` as long as no limit is reached.

    Source: Ioffe 2017, "Batch renormalization", algorithm 1; the limits are those of its section 4.
    """
    batch, running = jax.lax.stop_gradient((batch, running))
    deviation = jnp.sqrt(running["variance"] + EPSILON)
    ratio = jnp.sqrt(batch["variance"] + EPSILON) / deviation
    shift = (batch["mean"] - running["mean"]) / deviation
    return (
        jnp.clip(ratio, 1 / LARGEST_RATIO, LARGEST_RATIO),
        jnp.clip(shift, -LARGEST_SHIFT, LARGEST_SHIFT),
    )
