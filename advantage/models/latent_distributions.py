"""The random part of a latent state: one-hot categories, or normal numbers."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from advantage.policies.distributions import Categorical, Gaussian
from advantage.types import Array, Key

UNIFORM = 0.01  # share of the uniform distribution in probabilities of categories
LEAST_STD = 0.1


class Latent(Protocol):
    """Outputs of a network, `[..., num_outputs]`, as a distribution over vectors `[..., size]`."""

    @property
    def size(self) -> int: ...

    @property
    def num_outputs(self) -> int: ...

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """What `sample` consumes."""
        ...

    def sample(self, outputs: Array, noise: Array) -> Array:
        """A vector that moves with the outputs."""
        ...

    def mode(self, outputs: Array) -> Array:
        """The most likely vector."""
        ...

    def kl(self, outputs: Array, other: Array) -> Array:
        """KL divergence from one distribution to another, in nats, `[...]`."""
        ...


@dataclasses.dataclass(frozen=True)
class Categories:
    """`groups` choices, each one of `classes`, as one-hot vectors.

    Probabilities are mixed with a little of the uniform distribution. The gradient of a sample is that of its
    probabilities.

    Source: Hafner et al. 2021, "Mastering Atari with discrete world models", section 2; Bengio, Léonard & Courville
    2013, "Estimating or propagating gradients through stochastic neurons", for the gradient.
    """

    groups: int
    classes: int

    @property
    def size(self) -> int:
        return self.groups * self.classes

    @property
    def num_outputs(self) -> int:
        return self.size

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.gumbel(key, (*shape, self.groups, self.classes))

    def sample(self, outputs: Array, noise: Array) -> Array:
        distribution = self._of(outputs)
        return self._vector(distribution, distribution.sample(noise))

    def mode(self, outputs: Array) -> Array:
        distribution = self._of(outputs)
        return self._vector(distribution, distribution.mode())

    def kl(self, outputs: Array, other: Array) -> Array:
        return self._of(outputs).kl(self._of(other)).sum(-1)

    def _of(self, outputs: Array) -> Categorical:
        logits = outputs.reshape(*outputs.shape[:-1], self.groups, self.classes)
        return Categorical(jnp.log((1 - UNIFORM) * jax.nn.softmax(logits) + UNIFORM / self.classes))

    def _vector(self, distribution: Categorical, choice: Array) -> Array:
        probability = jnp.exp(distribution.logits)
        chosen = jax.nn.one_hot(choice, self.classes) + probability - jax.lax.stop_gradient(probability)
        return chosen.reshape(*choice.shape[:-1], self.size)


@dataclasses.dataclass(frozen=True)
class Normals:
    """`size` independent normal numbers, with a least standard deviation.

    Source: Hafner et al. 2019, "Learning latent dynamics for planning from pixels", appendix A.
    """

    size: int

    @property
    def num_outputs(self) -> int:
        return 2 * self.size

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.normal(key, (*shape, self.size))

    def sample(self, outputs: Array, noise: Array) -> Array:
        return self._of(outputs).sample(noise)

    def mode(self, outputs: Array) -> Array:
        return self._of(outputs).mode()

    def kl(self, outputs: Array, other: Array) -> Array:
        return self._of(outputs).kl(self._of(other))

    def _of(self, outputs: Array) -> Gaussian:
        mean, raw = jnp.split(outputs, 2, axis=-1)
        return Gaussian(mean, jnp.log(jax.nn.softplus(raw) + LEAST_STD))
