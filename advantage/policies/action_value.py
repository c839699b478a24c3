"""An action-value function `Q(s, a)` for any observation and action space."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advantage.policies.actor_critic import ActorCritic, feed_forward
from advantage.policies.distributions import Categorical
from advantage.policies.encoder import network_input
from advantage.policies.heads import BernoulliHead, CategoricalHead, GaussianHead, Head, ProductHead
from advantage.policies.networks import MLP, Initialisation, Network, linear, linear_init, split
from advantage.types import Array, Key, Pytree

Dropout = tuple[Array, ...]  # a factor for each unit of each hidden layer


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ActionValue:
    """`Q(s, a)`: one output for each action of a Discrete space; else the action is part of the network's input.

    Parameters are `{"network", "head"}`.
    """

    head: Head
    network: Network
    initialisation: Initialisation = "orthogonal"

    @property
    def is_discrete(self) -> bool:
        return isinstance(self.head, CategoricalHead)

    def init(self, key: Key, x: Pytree) -> Pytree:
        """Draw parameters; `x` is one encoded observation with a batch axis, and only its shape matters."""
        x = network_input(x)
        key_network, key_head = jax.random.split(key)
        if not self.is_discrete:
            x = join(x, np.zeros((1, action_width(self.head)), np.float32))
        network = self.network.init(key_network, x)
        width = jax.eval_shape(self.network.apply, network, x).shape[-1]
        outputs = self.head.num_outputs if self.is_discrete else 1
        (head,) = linear_init(key_head, [(width, outputs)], [1.0], self.initialisation)
        return {"network": network, "head": head}

    def all(self, params: Pytree, x: Pytree, dropout: Dropout = ()) -> Array:
        """`Q(s, .)` for a Discrete space, `[..., A]`; `dropout` is of `MLP.draw_dropout`, and empty without."""
        return linear(params["head"], self._features(params, network_input(x), dropout))

    def value(self, params: Pytree, x: Pytree, action: Pytree, dropout: Dropout = ()) -> Array:
        """`Q(s, a)`, `[...]`; `dropout` is of `MLP.draw_dropout`, and empty without."""
        if self.is_discrete:
            return jnp.take_along_axis(self.all(params, x, dropout), action[..., None], axis=-1)[..., 0]
        x = join(network_input(x), action_vector(self.head, action))
        return linear(params["head"], self._features(params, x, dropout))[..., 0]

    def expected(self, params: Pytree, x: Pytree, distribution: Any, noise: Pytree) -> Array:
        """`Σ_a pi(a | s) Q(s, a)`, `[...]`: exact for a Discrete space, else the mean over samples.

        Args:
            params, x: as for `value`.
            distribution: `pi(. | s)`.
            noise: the noise for `distribution.sample`, with an axis of samples in front, `[K, ..., d]`, or
                `[K, 1, d]` to use the same noise in all states.
        """
        if isinstance(distribution, Categorical):
            return (jax.nn.softmax(distribution.logits) * self.all(params, x)).sum(-1)
        actions = jax.vmap(distribution.sample)(noise)
        return jax.vmap(self.value, (None, None, 0))(params, x, actions).mean(0)

    def _features(self, params: Pytree, x: Pytree, dropout: Dropout) -> Array:
        if not dropout:
            return self.network.apply(params["network"], x)
        assert isinstance(self.network, MLP)
        return self.network.apply(params["network"], x, dropout)


def action_value(policy: ActorCritic) -> ActionValue:
    """The action-value function with the architecture of a policy. Raises ValueError for a recurrent policy."""
    return ActionValue(policy.head, feed_forward(policy.network), policy.initialisation)


def action_width(head: Head) -> int:
    """The length of `action_vector` of an action."""
    if isinstance(head, ProductHead):
        return sum(map(action_width, head.parts))
    return head.size if isinstance(head, CategoricalHead | BernoulliHead | GaussianHead) else head.num_outputs


def action_vector(head: Head, action: Pytree) -> Array:
    """An action as a vector, float32 `[..., k]`: indices become one-hot, other numbers do not change."""
    if isinstance(head, ProductHead):
        parts = [action_vector(part, a) for part, a in zip(head.parts, action, strict=True)]
        return jnp.concatenate(parts, axis=-1)
    if isinstance(head, CategoricalHead):
        return jax.nn.one_hot(action, head.size)
    return action.astype(jnp.float32)


def join(x: Pytree, vector: Array) -> Pytree:
    """The network's input with `vector` appended to its vector."""
    if not isinstance(x, tuple) and x.ndim == vector.ndim:
        return jnp.concatenate([x, vector], axis=-1)
    old, images = split(x)
    return (vector if old is None else jnp.concatenate([old, vector], axis=-1), *images)
