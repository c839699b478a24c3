"""A model in a space of its own: a state is what is needed to predict rewards, values and policies, and no more.

Source: Schrittwieser et al. 2020, "Mastering Atari, Go, chess and shogi by planning with a learned model".
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.models.interface import Imagined
from advantage.objectives.value_categories import category_mean
from advantage.policies.encoder import Encoder
from advantage.policies.networks import MLP, Network, linear, linear_init
from advantage.running_moments import Normaliser
from advantage.types import Array, Key, Pytree


class Predicted(NamedTuple):
    """Logits of a policy, `[N, A]`, and of the categories of a value, `[N, C]`."""

    policy: Array
    value: Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LatentNetworks:
    """Representation `s = h(x)`, dynamics `s', r = g(s, a)`, prediction `p, v = f(s)`; states are scaled to [0, 1].

    Parameters are `{"representation", "dynamics", "prediction"}`, each `{"network", "heads"}`.

    Attributes:
        encoder: from observations to inputs.
        encode: the network of h.
        layers: the network of g, and of f.
        size: the length of a state.
        choices: the number of Discrete actions.
        limit: categories of rewards and values are -limit to limit, after `squashed`.
    """

    encoder: Encoder
    encode: Network
    layers: MLP
    size: int
    choices: int
    limit: int

    def init(self, key: Key, x: Pytree) -> Pytree:
        """Draw parameters; `x` is one encoded observation with a batch axis. Values and rewards are 0 at first."""
        categories = 2 * self.limit + 1
        state = np.zeros((1, self.size), np.float32)
        joined = np.zeros((1, self.size + self.choices), np.float32)
        keys = jax.random.split(key, 3)
        return {
            "representation": _part(keys[0], self.encode, x, [(self.size, 1.0)]),
            "dynamics": _part(keys[1], self.layers, joined, [(self.size, 1.0), (categories, 0.0)]),
            "prediction": _part(keys[2], self.layers, state, [(self.choices, 0.01), (categories, 0.0)]),
        }

    def represent(self, params: Pytree, x: Pytree) -> Array:
        """`h(x)`, `[N, size]`."""
        (state,) = _apply(params["representation"], self.encode, x)
        return unit_scaled(state)

    def advance(self, params: Pytree, state: Array, action: Array) -> tuple[Array, Array]:
        """`g(s, a)`: `-> the next states [N, size], logits of the reward's categories [N, C]`."""
        joined = jnp.concatenate([state, jax.nn.one_hot(action, self.choices)], axis=-1)
        state, reward = _apply(params["dynamics"], self.layers, joined)
        return unit_scaled(state), reward

    def predict(self, params: Pytree, state: Array) -> Predicted:
        """`f(s)`."""
        return Predicted(*_apply(params["prediction"], self.layers, state))


def unit_scaled(state: Array) -> Array:
    """Each state from its smallest number to its largest, as [0, 1] (appendix G)."""
    low, high = state.min(-1, keepdims=True), state.max(-1, keepdims=True)
    return (state - low) / jnp.maximum(high - low, 1e-5)


def _part(key: Key, network: Network, x: Pytree, outputs: list[tuple[int, float]]) -> Pytree:
    key_network, key_heads = jax.random.split(key)
    params = network.init(key_network, x)
    width = jax.eval_shape(network.apply, params, x).shape[-1]
    heads = linear_init(key_heads, [(width, size) for size, _ in outputs], [gain for _, gain in outputs])
    return {"network": params, "heads": heads}


def _apply(params: Pytree, network: Network, x: Pytree) -> list[Array]:
    features = network.apply(params["network"], x)
    return [linear(head, features) for head in params["heads"]]


class LatentModel(NamedTuple):
    """The networks with their parameters as a model; nothing terminates in it: rewards and values fade instead.

    Attributes:
        networks: shapes; static.
        params: parameters.
        scale: the statistics that scale observations, or None.
    """

    networks: LatentNetworks
    params: Pytree
    scale: Normaliser | None

    @property
    def sign(self) -> float:
        """1: one player."""
        return 1.0

    def begin(self, obs: Pytree) -> Array:
        return self.networks.represent(self.params, self.networks.encoder.policy_input(obs, self.scale))

    def step(self, state: Array, action: Array, key: Key) -> Imagined:
        state, reward = self.networks.advance(self.params, state, action)
        return Imagined(state, category_mean(reward), jnp.zeros(len(state), bool))

    def observation(self, state: Array) -> Array:
        """The state itself: it is not decoded."""
        return state

    def allowed(self, state: Array) -> None:
        return None

    def guide(self, state: Array) -> tuple[Array, Array]:
        """Log-probabilities and values of N states, for `guided_search`."""
        predicted = self.networks.predict(self.params, state)
        return jax.nn.log_softmax(predicted.policy), category_mean(predicted.value)
