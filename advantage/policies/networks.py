"""Small networks as `init` and `apply`; the same code runs in NumPy and in JAX.

Every object with `init(key, x) -> params` and `apply(params, x) -> features` is a network. `x` is an encoded
observation: a float32 vector `[..., d]`, an image `[..., H, W, C]` in [0, 1], or a tuple `(vector, image, ...)` if an
observation has both.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from advantage.matrices import orthonormal_columns, qr
from advantage.types import Array, Key, Pytree

TALL = 1024  # rows from which a matrix is made orthonormal by products, which take a fraction of the time
HALF_WORDS = 2**16  # numbers of 16 bits

Activation = Literal["tanh", "relu", "elu", "silu"]


class Network(Protocol):
    """A pair of pure functions."""

    def init(self, key: Key, x: Pytree) -> Pytree: ...

    def apply(self, params: Pytree, x: Pytree) -> Array: ...


Initialisation = Literal["orthogonal", "normal"]


def linear_init(
    key: Key,
    shapes: Sequence[tuple[int, int]],
    gains: Sequence[float],
    initialisation: Initialisation = "orthogonal",
) -> list[dict[str, Array]]:
    """Layers `[inputs, outputs]` with zero bias; all numbers are drawn at once, which compiles fastest.

    Weights are orthonormal columns or rows times the layer's gain (Saxe et al. 2014), or independent normals of
    variance 1 / inputs (LeCun et al. 1998), without the gain.
    """
    normals, layers = jax.random.normal(key, (sum(inputs * outputs for inputs, outputs in shapes),)), []
    for (inputs, outputs), gain in zip(shapes, gains, strict=True):
        weight, normals = normals[: inputs * outputs].reshape(inputs, outputs), normals[inputs * outputs :]
        if initialisation == "orthogonal":
            weight = np.float32(gain) * _orthonormal(weight)
        else:
            weight = weight / np.float32(np.sqrt(inputs))
        layers.append({"weight": weight, "bias": jnp.zeros(outputs)})
    return layers


def _orthonormal(normals: Array) -> Array:
    """Uniformly distributed columns, or rows if they are fewer (Mezzadri 2007, "How to generate random matrices")."""
    rows, columns = normals.shape
    if rows < columns:
        return _orthonormal(normals.T).T
    if rows >= TALL and rows >= 4 * columns:
        return orthonormal_columns(
            orthonormal_columns(normals)
        )  # the second time removes what float32 has left
    q, r = qr(normals)
    return q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)


def linear(params: dict[str, Array], x: Array) -> Array:
    """`x W + b`."""
    return x @ params["weight"] + params["bias"]


def activate(name: Activation, x: Array) -> Array:
    """The activation function of this name, elementwise."""
    xp = x.__array_namespace__()
    if name == "tanh":
        return xp.tanh(x)
    if name == "relu":
        # the derivative of a maximum is a division, which takes longer than the layer's other elementwise operations
        return jax.nn.relu(x) if isinstance(x, jax.Array) else xp.maximum(x, 0)
    if name == "elu":
        return xp.where(x > 0, x, xp.expm1(xp.minimum(x, 0)))
    return (
        0.5 * x * (1 + xp.tanh(0.5 * x))
    )  # equals x / (1 + exp(-x)), which would overflow for very negative x


def layer_normalised(params: dict[str, Array], x: Array) -> Array:
    """`scale (x - m) / sqrt(v + 1e-5) + offset`, with mean m and variance v of the last axis.

    Source: Ba, Kiros & Hinton 2016, "Layer normalization", eq. 3 and 4.
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    deviation = x.__array_namespace__().sqrt(variance + np.float32(1e-5))
    return params["scale"] * (centred / deviation) + params["offset"]


@dataclasses.dataclass(frozen=True)
class MLP:
    """Fully connected layers, each followed by the activation, with layer normalisation between them if `layer_norm`.

    The parameters of a layer are `{"weight", "bias"}`, and `"scale"` and `"offset"` with `layer_norm`.
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    initialisation: Initialisation = "orthogonal"
    layer_norm: bool = False

    def init(self, key: Key, x: Array) -> Pytree:
        shapes = list(itertools.pairwise((x.shape[-1], *self.hidden)))
        layers = linear_init(key, shapes, [2**0.5] * len(shapes), self.initialisation)
        if not self.layer_norm:
            return layers
        return [
            layer | {"scale": jnp.ones(width), "offset": jnp.zeros(width)}
            for layer, width in zip(layers, self.hidden, strict=True)
        ]

    def apply(self, params: Pytree, x: Array, dropout: tuple[Array, ...] = ()) -> Array:
        """The features `[..., k]`; `dropout` has a factor for each unit, from `draw_dropout`, and is empty without."""
        for n, layer in enumerate(params):
            x = linear(layer, x)
            if dropout:
                x = x * dropout[n]
            if self.layer_norm:
                x = layer_normalised(layer, x)
            x = activate(self.activation, x)
        return x

    def draw_dropout(self, key: Key, shape: tuple[int, ...], rate: Array | float) -> tuple[Array, ...]:
        """What dropout multiplies the units of each layer by, `[*shape, width]`: 0 with probability `rate`, below 1.

        The others are 1 / (1 - rate), so that the mean of each is 1. The probability is a multiple of 2^-16.

        Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting", section 10.
        """
        units = sum(self.hidden)
        words = jax.random.bits(
            key, (*shape, (units + 1) // 2), jnp.uint32
        )  # drawing costs most: 16 bits a unit
        halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(*shape, -1)[..., :units]
        left_out = jnp.minimum(jnp.round(rate * np.float32(HALF_WORDS)), np.float32(HALF_WORDS - 1))
        factors = jnp.where(halves >= left_out, HALF_WORDS / (HALF_WORDS - left_out), np.float32(0))
        return tuple(jnp.split(factors, list(itertools.accumulate(self.hidden))[:-1], axis=-1))


def patches(x: Array, kernel: int, stride: int) -> Array:
    """The windows of an image, flattened: `[..., H, W, C] -> [..., H', W', kernel * kernel * C]`."""
    xp = x.__array_namespace__()
    height = (x.shape[-3] - kernel) // stride + 1
    width = (x.shape[-2] - kernel) // stride + 1
    windows = [
        x[..., i : i + height * stride : stride, j : j + width * stride : stride, :]
        for i in range(kernel)
        for j in range(kernel)
    ]
    return xp.concatenate(windows, axis=-1)


def convolve(params: dict[str, Array], x: Array, kernel: int, stride: int) -> Array:
    """A convolution without padding, as one matrix product.

    If the stride divides the kernel, it is first folded into channels, which gives fewer, wider windows.
    """
    if stride > 1 and kernel % stride == 0:
        height = ((x.shape[-3] - kernel) // stride * stride + kernel) // stride
        width = ((x.shape[-2] - kernel) // stride * stride + kernel) // stride
        x = x[..., : height * stride, : width * stride, :]
        x = x.reshape(*x.shape[:-3], height, stride, width, stride, x.shape[-1])
        x = x.swapaxes(-4, -3).reshape(*x.shape[:-5], height, width, stride * stride * x.shape[-1])
        kernel, stride = kernel // stride, 1
    return linear(params, patches(x, kernel, stride))


NATURE_LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
SMALL_IMAGE_LAYERS = ((16, 3, 1),)  # Young & Tian 2019, "MinAtar": for images under 36 pixels


@dataclasses.dataclass(frozen=True)
class CNN:
    """Convolutions `(filters, kernel, stride)`, relu after each, then one dense layer.

    The default is the network of Mnih et al. 2015, "Human-level control through deep reinforcement learning"
    (Methods). A vector in the observation is appended before the dense layer.
    """

    layers: tuple[tuple[int, int, int], ...] = NATURE_LAYERS
    features: int = 512
    initialisation: Initialisation = "orthogonal"

    def features_of(self, height: int, width: int) -> int:
        """The number of outputs of the convolutions for one image."""
        for _, kernel, stride in self.layers:
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        return height * width * self.layers[-1][0]

    def init(self, key: Key, x: Pytree) -> Pytree:
        vector, images = split(x)
        shapes, width, depth = [], 0 if vector is None else vector.shape[-1], len(self.layers)
        for image in images:
            channels = image.shape[-1]
            for filters, kernel, _ in self.layers:
                shapes.append((kernel * kernel * channels, filters))
                channels = filters
            width += self.features_of(*image.shape[-3:-1])
        shapes.append((width, self.features))
        *convolutions, dense = linear_init(key, shapes, [2**0.5] * len(shapes), self.initialisation)
        stacks = [convolutions[n * depth : (n + 1) * depth] for n in range(len(images))]
        return {"convolutions": stacks, "dense": dense}

    def apply(self, params: Pytree, x: Pytree) -> Array:
        vector, images = split(x)
        parts = [] if vector is None else [vector]
        for stack, image in zip(params["convolutions"], images, strict=True):
            for layer, (_, kernel, stride) in zip(stack, self.layers, strict=True):
                image = activate("relu", convolve(layer, image, kernel, stride))
            parts.append(image.reshape(*image.shape[:-3], -1))
        features = parts[0] if len(parts) == 1 else parts[0].__array_namespace__().concatenate(parts, axis=-1)
        return activate("relu", linear(params["dense"], features))


def split(x: Pytree) -> tuple[Array | None, tuple[Array, ...]]:
    """An encoded observation as `(vector or None, images)`."""
    if isinstance(x, tuple):
        return x[0], x[1:]
    return None, (x,)


@dataclasses.dataclass(frozen=True)
class Custom:
    """A network from a pair of functions of your own.

    Attributes:
        init_function: `(key, x) -> params`.
        apply_function: `(params, x) -> features [..., k]`.
    """

    init_function: Callable[[Key, Any], Pytree]
    apply_function: Callable[[Pytree, Any], Array]

    def init(self, key: Key, x: Pytree) -> Pytree:
        return self.init_function(key, x)

    def apply(self, params: Pytree, x: Pytree) -> Array:
        return self.apply_function(params, x)


def as_network(network: Any) -> Network:
    """A network from a network or from an `(init, apply)` pair.

    Raises:
        ValueError: anything else.
    """
    if type(network) is tuple and len(network) == 2 and all(callable(part) for part in network):
        return Custom(*network)
    init, apply = getattr(network, "init", None), getattr(network, "apply", None)
    if callable(init) and callable(apply):
        known: Any = network
        return known if dataclasses.is_dataclass(network) else Custom(init, apply)
    raise ValueError(
        f"network={network!r} is not a network; give a pair (init, apply) with init(key, x) -> params and "
        "apply(params, x) -> features, or adv.MLP / adv.CNN, or a Flax or Equinox module through "
        "adv.from_flax / adv.from_equinox."
    )
