"""Networks for the action values of a Discrete space: dueling, noisy, and with a distribution of returns."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from advantage.policies.encoder import network_input
from advantage.policies.networks import Initialisation, Network, linear, linear_init
from advantage.policies.recurrent import Recurrent
from advantage.types import Array, Key, Pytree

NOISE_INIT = 0.5  # sigma_0 of factorised noise


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class QNetwork:
    """`atoms` numbers for each action, `[..., A, atoms]`: of them `Q(s, a)` is made.

        plain    z(s, a) = w_a · f(s) + b_a
        dueling  z(s, a) = v(s) + u(s, a) - mean over b of u(s, b)

    Parameters are `{"network", "advantage"}`, and `"value"` of a dueling network. The linear layers after the network
    are noisy if `noisy`: `y = (W + S * E) x + b + s * e`, where E and e are factorised noise.

    Source: Wang et al. 2016, "Dueling network architectures for deep reinforcement learning", eq. 9; Fortunato et al.
    2018, "Noisy networks for exploration", eq. 9 to 11.
    """

    network: Network | Recurrent
    num_actions: int
    initialisation: Initialisation = "orthogonal"
    dueling: bool = False
    noisy: bool = False
    atoms: int = 1

    def init(self, key: Key, x: Pytree) -> Pytree:
        """Draw parameters; `x` is one encoded observation with a batch axis, and only its shape matters."""
        key_network, key_heads = jax.random.split(key)
        x = network_input(x)
        network = self.network.init(key_network, x)
        width = jax.eval_shape(self._features, network, x, self._first_memory(x))[0].shape[-1]
        sizes = {"advantage": self.num_actions * self.atoms} | ({"value": self.atoms} if self.dueling else {})
        shapes = [(width, size) for size in sizes.values()]
        heads = linear_init(key_heads, shapes, [1.0] * len(shapes), self.initialisation)
        if self.noisy:
            heads = [layer | _noise_scale(layer) for layer in heads]
        return {"network": network} | dict(zip(sizes, heads, strict=True))

    def noise(self, params: Pytree, key: Key, shape: tuple[int, ...]) -> Pytree:
        """The random numbers that noisy layers take, `[*shape, ...]`; `()` without such layers."""
        if not self.noisy:
            return ()
        layers = {name: layer["weight"].shape for name, layer in params.items() if name != "network"}
        keys = jax.random.split(key, len(layers))
        return {
            name: jax.random.normal(keys[i], (*shape, sum(size)), np.float32)
            for i, (name, size) in enumerate(layers.items())
        }

    def outputs(self, params: Pytree, x: Pytree, noise: Pytree = ()) -> Array:
        """`z(s, .)`, `[..., A, atoms]`, of a network without memory; without noise, noisy layers use their means."""
        return self.step(params, x, (), noise)[0]

    def step(self, params: Pytree, x: Pytree, memory: Pytree, noise: Pytree = ()) -> tuple[Array, Pytree]:
        """`outputs` for one step of every environment: `-> z, the next memory`, which is `()` without recurrence."""
        features, memory = self._features(params["network"], network_input(x), memory)
        return self._heads(params, features, noise), memory

    def unroll(self, params: Pytree, x: Pytree, begins: Array, memory: Pytree) -> tuple[Array, Pytree]:
        """`outputs` of a recurrent network for sequences: `-> z [L, N, A, atoms], the memory after each step`.

        Arguments as in `Recurrent.unroll`.
        """
        assert isinstance(self.network, Recurrent)
        unrolled = self.network.unroll(params["network"], network_input(x), begins, memory)
        return self._heads(params, unrolled.features, ()), unrolled.after

    @property
    def is_recurrent(self) -> bool:
        return isinstance(self.network, Recurrent)

    def initial_memory(self) -> Pytree:
        """The memory of one environment at the beginning of an episode; `()` without recurrence."""
        return self.network.initial() if isinstance(self.network, Recurrent) else ()

    def _first_memory(self, x: Pytree) -> Pytree:
        rows = jax.tree.leaves(x)[0].shape[0]
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), self.initial_memory())

    def _features(self, network: Pytree, x: Pytree, memory: Pytree) -> tuple[Array, Pytree]:
        if isinstance(self.network, Recurrent):
            return self.network.apply(network, x, memory)
        return self.network.apply(network, x), memory

    def _heads(self, params: Pytree, features: Array, noise: Pytree) -> Array:
        z = _layer(params["advantage"], features, noise["advantage"] if noise else None)
        z = z.reshape(*z.shape[:-1], self.num_actions, self.atoms)
        if not self.dueling:
            return z
        v = _layer(params["value"], features, noise["value"] if noise else None)
        return v[..., None, :] + z - z.mean(-2, keepdims=True)


def _noise_scale(layer: dict[str, Array]) -> dict[str, Array]:
    start = NOISE_INIT / np.sqrt(layer["weight"].shape[0])
    return {f"{name}_scale": jnp.full(layer[name].shape, start, jnp.float32) for name in ("weight", "bias")}


def _layer(layer: dict[str, Array], x: Array, noise: Array | None) -> Array:
    """A linear layer with factorised noise `[..., inputs + outputs]`: `E_ij = f(e_i) f(e_j)`, `f(e) = ±sqrt|e|`."""
    mean = linear(layer, x)
    if noise is None:
        return mean
    xp = x.__array_namespace__()
    scaled = xp.sign(noise) * xp.sqrt(xp.abs(noise))
    inputs, outputs = scaled[..., : x.shape[-1]], scaled[..., x.shape[-1] :]
    return mean + outputs * ((inputs * x) @ layer["weight_scale"] + layer["bias_scale"])
