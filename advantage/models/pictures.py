"""Networks from pictures to vectors and back, for models that predict observations."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from advantage.policies.encoder import Encoder
from advantage.policies.networks import CNN, MLP, Activation, Network, activate, linear, linear_init, split
from advantage.types import Array, Key, Pytree

FILTERS = (16, 32, 64)
SMALLEST = 4  # pixels of a side that is still halved


def picture_network(seen: Encoder, hidden: tuple[int, ...], activation: Activation) -> Network:
    """What turns encoded observations into features: layers, or convolutions that halve the sides of images.

    Raises:
        ValueError: no layer after the convolutions.
    """
    if not seen.images:
        return MLP(hidden, activation)
    if not hidden:
        raise ValueError(
            "The observation has an image, and no hidden layers are given: one follows the convolutions; use one or "
            "more widths, such as (128,)."
        )
    side, layers = min(min(leaf.height_width) for leaf in seen.images), []
    for filters in FILTERS:
        if side < SMALLEST:
            break
        layers.append((filters, 4, 2))
        side = (side - 4) // 2 + 1
    return CNN(tuple(layers or [(FILTERS[0], side, 1)]), hidden[-1])


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Features to what an encoder makes of an observation: a vector, images, or a tuple of both.

    An image grows from a few pixels; each layer doubles its sides by turning channels into pixels.

    Parameters are `{"layers", "vector", "images"}`.

    Attributes:
        layers: hidden layers before everything.
        width: numbers of the vector.
        images: height, width and channels of each image.

    Source: Shi et al. 2016, "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network", section 3.
    """

    layers: MLP
    width: int
    images: tuple[tuple[int, int, int], ...] = ()

    def init(self, key: Key, features: Array) -> Pytree:
        """Draw parameters; `features` `[..., k]` is an example. The vector is 0 at first."""
        key_layers, key_vector, *keys = jax.random.split(key, 2 + len(self.images))
        size = self.layers.hidden[-1] if self.layers.hidden else features.shape[-1]
        vector = linear_init(key_vector, [(size, self.width)], [0.0]) if self.width else []
        images = []
        for key, (height, width, channels) in zip(keys, self.images, strict=True):
            high, wide, filters = _start(height, width)
            shapes = [(size, high * wide * filters[0])]
            following = [*filters[1:], channels]
            shapes += [(a, 4 * b) for a, b in zip(filters, following, strict=True)]
            images.append(linear_init(key, shapes, [2**0.5] * len(filters) + [1.0]))
        return {"layers": self.layers.init(key_layers, features), "vector": vector, "images": images}

    def apply(self, params: Pytree, features: Array) -> Pytree:
        """`-> [..., d]`, or `[..., H, W, C]` without bounds, or a tuple of the vector, or None, and the images."""
        x = self.layers.apply(params["layers"], features)
        vector = linear(params["vector"][0], x) if self.width else None
        images = tuple(
            self._image(layers, x, shape) for layers, shape in zip(params["images"], self.images, strict=True)
        )
        if not images:
            return vector
        return images[0] if vector is None and len(images) == 1 else (vector, *images)

    def loss(self, predicted: Pytree, x: Pytree) -> Array:
        """Half the squared distance between two encoded observations, summed over numbers and pixels, `[...]`.

        It is the negative log-likelihood of normal numbers of variance 1, up to a constant.
        """

        def half_square(p: Array, x: Array, axes: tuple[int, ...]) -> Array:
            return 0.5 * jnp.square(p - x).sum(axes)

        if not self.images:
            return half_square(predicted, x, (-1,))
        (vector_p, images_p), (vector, images) = split(predicted), split(x)
        total = jnp.zeros(()) if vector is None else half_square(vector_p, vector, (-1,))
        for p, image in zip(images_p, images, strict=True):
            total = total + half_square(p, image, (-3, -2, -1))
        return total

    def _image(self, layers: Pytree, x: Array, shape: tuple[int, int, int]) -> Array:
        height, width, _ = shape
        high, wide, filters = _start(height, width)
        x = linear(layers[0], x).reshape(*x.shape[:-1], high, wide, filters[0])
        for layer in layers[1:]:
            x = doubled(linear(layer, activate("relu", x)))
        return x[..., :height, :width, :]


def doubled(x: Array) -> Array:
    """Channels into pixels: `[..., H, W, 4 C] -> [..., 2 H, 2 W, C]`."""
    *batch, height, width, channels = x.shape
    x = x.reshape(*batch, height, width, 2, 2, channels // 4)
    return x.swapaxes(-4, -3).reshape(*batch, 2 * height, 2 * width, channels // 4)


def _start(height: int, width: int) -> tuple[int, int, tuple[int, ...]]:
    """The sides of an image before it grows, and the channels before each doubling."""
    times = min(len(FILTERS), max(1, math.ceil(math.log2(max(height, width) / SMALLEST))))
    scale = 2**times
    return -(-height // scale), -(-width // scale), tuple(reversed(FILTERS[:times]))


def decoder_of(seen: Encoder, hidden: tuple[int, ...], activation: Activation) -> Decoder:
    """The decoder for what an encoder makes of observations."""
    width = sum(leaf.width for leaf in seen.leaves if leaf.kind != "image")
    images = tuple((*leaf.height_width, leaf.channels) for leaf in seen.images)
    return Decoder(MLP(hidden, activation), width, images)
