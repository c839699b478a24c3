"""A learned one-step model of a world with vectors as observations."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from advantage.models.vectors import refuse_unpredictable
from advantage.policies.action_value import action_width
from advantage.policies.actor_critic import ActorCritic, feed_forward
from advantage.policies.distributions import Gaussian
from advantage.policies.heads import LOG_STD_RANGE
from advantage.policies.networks import Initialisation, Network, linear, linear_init
from advantage.running_moments import Moments
from advantage.types import Array, Key, Pytree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class GaussianModel:
    """`s' = s + m + c (f(s, a) + g(s, a) xi)`, `xi ~ N(0, 1)`: m and c are mean and standard deviation of the changes.

    States are the networks' inputs, vectors `[..., d]`. Parameters are `{"network", "head"}`; the head gives f and
    log g, which is clipped to the range of a policy's.
    """

    network: Network
    size: int
    initialisation: Initialisation = "orthogonal"

    def init(self, key: Key, num_actions: int) -> Pytree:
        """Draw parameters; f is nearly 0 at first."""
        key_network, key_head = jax.random.split(key)
        x = np.zeros((1, self.size + num_actions), np.float32)
        network = self.network.init(key_network, x)
        width = jax.eval_shape(self.network.apply, network, x).shape[-1]
        (head,) = linear_init(key_head, [(width, 2 * self.size)], [0.01], self.initialisation)
        return {"network": network, "head": head}

    def successor(self, params: Pytree, changes: Moments, x: Array, action: Array) -> Gaussian:
        """The distribution of s', given `changes`, the statistics of `s' - s`."""
        features = self.network.apply(params["network"], jnp.concatenate([x, action], axis=-1))
        f, log_g = jnp.split(linear(params["head"], features), 2, axis=-1)
        log_c = 0.5 * jnp.log(changes.variance.value + 1e-8)
        log_std = log_c + jnp.clip(log_g, *LOG_STD_RANGE)
        return Gaussian(x + changes.mean.value + jnp.exp(log_c) * f, log_std)


def gaussian_model(policy: ActorCritic) -> GaussianModel:
    """The model with the architecture of a policy.

    Raises:
        ValueError: an observation that is not made of numbers in Boxes alone, or a recurrent policy.
    """
    refuse_unpredictable(policy.encoder, "use order=0 (--order 0), which has no model, or sac")
    return GaussianModel(feed_forward(policy.network), policy.encoder.num_continuous, policy.initialisation)


def model_init(model: GaussianModel, policy: ActorCritic, key: Key) -> Pytree:
    """Parameters of a policy's model."""
    return model.init(key, action_width(policy.head))
