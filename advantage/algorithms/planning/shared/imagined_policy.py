"""An actor and a critic in the states of a recurrent model, and what they imagine there."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advantage.models.recurrent_state_space import Belief, LatentWorld
from advantage.policies.heads import Head
from advantage.policies.networks import MLP, linear, linear_init
from advantage.replay.arrivals import Arrivals
from advantage.types import Array, Key, Pytree

KEEP = 0.99  # share of the spread of returns that each gradient step keeps


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ImaginedPolicy:
    """An actor and a critic on the features of a belief; parameters of each are a list of layers."""

    layers: MLP
    head: Head
    num_values: int

    def init(self, key: Key, num_features: int) -> Pytree:
        """Draw parameters. Values are 0 at first, and actions nearly alike everywhere."""
        features, width = jnp.zeros((1, num_features)), (num_features, *self.layers.hidden)[-1]
        keys = jax.random.split(key, 4)

        def part(key: Key, key_out: Key, outputs: int, gain: float) -> Pytree:
            return [*self.layers.init(key, features), *linear_init(key_out, [(width, outputs)], [gain])]

        return {
            "actor": part(keys[0], keys[1], self.head.num_outputs, 0.01),
            "value": part(keys[2], keys[3], self.num_values, 0.0),
        }

    def distribution(self, actor: Pytree, features: Array) -> Any:
        """pi( . | belief)."""
        return self.head.distribution(self._apply(actor, features), jnp.zeros(0))

    def value(self, value: Pytree, features: Array) -> Array:
        """Outputs for the value, `[..., num_values]`."""
        return self._apply(value, features)

    def _apply(self, layers: Pytree, features: Array) -> Array:
        return linear(layers[-1], self.layers.apply(layers[:-1], features))


class Imagination(NamedTuple):
    """H steps from N beliefs: features `[H + 1, N, k]`, log-probabilities and entropies of actions `[H, N]`."""

    features: Array
    log_prob: Array
    entropy: Array


def imagine(
    model: LatentWorld,
    policy: ImaginedPolicy,
    actor: Pytree,
    begin: Belief,
    key: Key,
    horizon: int,
    *,
    pathwise: bool,
) -> Imagination:
    """What a policy does in the model from N beliefs, in so many steps.

    Args:
        model, policy: where, and who.
        actor: the policy's parameters.
        begin: the first beliefs, `[N, ...]`.
        key: draws actions and beliefs.
        horizon: H.
        pathwise: whether features move with the actor's parameters. Otherwise only log-probabilities and entropies do.
    """
    networks, number = model.networks, len(begin.memory)

    def step(belief: Belief, key: Key) -> tuple[Belief, tuple[Array, Array, Array]]:
        key_action, key_belief = jax.random.split(key)
        distribution = policy.distribution(actor, belief.features)
        noise = policy.head.noise(key_action, (number,))
        if pathwise:
            action, log_prob = distribution.sample_and_log_prob(noise)
            entropy = -log_prob
        else:
            action = jax.lax.stop_gradient(distribution.sample(noise))
            log_prob, entropy = distribution.log_prob(action), distribution.entropy()
        drawn = networks.latent.noise(key_belief, (number,))
        after = networks.imagine(model.params, belief, networks.action_vector(action), drawn)
        return after, (after.features, log_prob, entropy)

    _, (features, log_prob, entropy) = jax.lax.scan(step, begin, jax.random.split(key, horizon))
    return Imagination(jnp.concatenate([begin.features[None], features]), log_prob, entropy)


def starts(beliefs: Belief, rows: Arrivals, key: Key, number: int) -> tuple[Belief, Array]:
    """Beliefs of sequences `[L, N, ...]`, drawn uniformly: `-> [number, ...], weights`.

    The weight is 0 where the MDP had ended, or where there was no step, and 1 elsewhere. No gradient passes.
    """
    counts = (rows.mask & ~rows.terminated).ravel()
    index = jax.random.randint(key, (number,), 0, counts.size)
    drawn = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[index], beliefs)
    return jax.lax.stop_gradient(drawn), counts[index].astype(jnp.float32)


def running_spread(before: Array, returns: Array) -> Array:
    """The running distance between the 5th and the 95th percentile; at first that of these returns.

    Source: Hafner et al. 2023, "Mastering diverse domains through world models", eq. 7.
    """
    low, high = jnp.percentile(returns, jnp.array([5.0, 95.0]))
    return jnp.where(before == 0, high - low, KEEP * before + (1 - KEEP) * (high - low))
