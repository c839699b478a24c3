"""Deterministic policies, for searches: the best action by a network's output or by scored actions."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.environments.masks import ACTION_MASK
from advantage.environments.scored_actions import ActionFeatures, num_action_features
from advantage.policies.actor_critic import choose_network, feed_forward
from advantage.policies.distributions import masked
from advantage.policies.encoder import Encoder, encoder, split_input
from advantage.policies.heads import Bounds, Head, head
from advantage.policies.networks import Activation, Initialisation, Network, linear, linear_init
from advantage.types import ActionUnits, Array, Key, Pytree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Deterministic:
    """`a = mode pi(.|s)`: an encoder, a network and a linear head. Parameters are `{"network", "head"}`."""

    encoder: Encoder
    head: Head
    network: Network
    initialisation: Initialisation = "orthogonal"

    @property
    def num_continuous(self) -> int:
        return self.encoder.num_continuous

    def continuous(self, obs: Pytree) -> Array:
        """The part of an observation that is normalised, `[..., num_continuous]`."""
        return self.encoder.continuous(obs)

    def init(self, key: Key) -> Pytree:
        """Draw parameters; the head has gain 0.01, so that all actions have nearly equal outputs."""
        key_network, key_head = jax.random.split(key)
        x = self.encoder.encode(self.encoder.example())
        network = self.network.init(key_network, x)
        width = jax.eval_shape(self.network.apply, network, x).shape[-1]
        (layer,) = linear_init(key_head, [(width, self.head.num_outputs)], [0.01], self.initialisation)
        return {"network": network, "head": layer}

    @cached_property
    def shapes(self) -> Any:
        """Leaves and structure of the parameters."""
        return jax.tree.flatten(jax.eval_shape(self.init, jax.random.key(0)))

    def action(self, params: Pytree, obs: Pytree, normalise: Any = None) -> Pytree:
        """The action for each observation of a batch."""
        x, mask = split_input(self.encoder.policy_input(obs, normalise))
        outputs = linear(params["head"], self.network.apply(params["network"], x))
        log_std = np.zeros(self.head.num_log_std, np.float32)
        distribution = self.head.distribution(outputs, log_std)
        return (distribution if mask is None else masked(distribution, mask)).mode()


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Scoring:
    """`a = argmax w · phi(s, a)` over the allowed actions, the first one among equals. The parameters are `w`.

    It needs observations with `ActionFeatures`.

    Attributes:
        size: the number k of features of an action.
    """

    size: int

    @property
    def num_continuous(self) -> int:
        return self.size

    def continuous(self, obs: ActionFeatures) -> Array:
        """The features, `[..., n, k]`."""
        return obs["features"]

    def init(self, key: Key) -> Array:
        """Zero weights: all actions have equal scores."""
        return jnp.zeros(self.size)

    @cached_property
    def shapes(self) -> Any:
        """Leaves and structure of the parameters."""
        return jax.tree.flatten(jax.eval_shape(self.init, jax.random.key(0)))

    def action(self, params: Array, obs: ActionFeatures, normalise: Any = None) -> Array:
        """The action for each observation of a batch."""
        features, allowed = obs["features"], obs[ACTION_MASK]
        xp = features.__array_namespace__()
        scores = (normalise(features) if normalise else features) @ params
        return first_of_highest(xp.where(allowed > 0, scores, -np.float32(np.inf)))


def first_of_highest(values: Array) -> Array:
    """`argmax` over the last axis, in a form that XLA can vectorise."""
    xp = values.__array_namespace__()
    last = np.int32(values.shape[-1] - 1)
    places = xp.arange(values.shape[-1], dtype=np.int32)
    return xp.where(values == values.max(axis=-1, keepdims=True), places, last).min(axis=-1)


def flatten(params: Pytree) -> Array:
    """All parameters as one vector, in the order of their leaves."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])


def unflatten(policy: Deterministic | Scoring, vector: Array) -> Pytree:
    """The parameters from one flat vector, in the order of their leaves."""
    leaves, structure = policy.shapes
    ends = np.cumsum([leaf.size for leaf in leaves]).tolist()
    parts = [
        vector[end - leaf.size : end].reshape(leaf.shape) for end, leaf in zip(ends, leaves, strict=True)
    ]
    return structure.unflatten(parts)


def deterministic(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    *,
    network: Any,
    hidden: tuple[int, ...],
    activation: Activation,
    initialisation: Initialisation,
    bounds: Bounds,
    units: ActionUnits = "bounds",
) -> Deterministic | Scoring:
    """The policy for a pair of spaces: `Scoring` if observations describe each action, else a network.

    If `network` or `hidden` is given, the policy is a network.

    Raises:
        ValueError: a space that no policy supports.
    """
    size = num_action_features(observation_space, action_space)
    if network is None and not hidden and size is not None:
        return Scoring(size)
    chosen = feed_forward(choose_network(network, observation_space, hidden, activation, initialisation))
    parts = encoder(observation_space), head(action_space, bounds, units=units), chosen
    return Deterministic(*parts, initialisation)
