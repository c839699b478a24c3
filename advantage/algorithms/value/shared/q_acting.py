"""How a method with action values of a Discrete space acts: epsilon-greedily, or by noise on its weights."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.clock import progress
from advantage.algorithms.policy_gradient.shared.acting import encode
from advantage.algorithms.value.shared.options import ExplorationOptions
from advantage.objectives.distributional import Categories, MeanReturn, Quantiles
from advantage.policies.actor_critic import ActorCritic
from advantage.policies.encoder import split_input
from advantage.policies.q_network import QNetwork
from advantage.running_moments import Normaliser
from advantage.types import Array, Clock, Key, Pytree


class QActor(NamedTuple):
    """The acting network, the statistics that scale its observations, and epsilon (0 of a noisy network)."""

    policy: ActorCritic
    network: QNetwork
    params: Pytree
    normaliser: Normaliser | None
    epsilon: Array
    returns: MeanReturn | Categories | Quantiles

    def values(self, x: Pytree, memory: Pytree = (), noise: Pytree = ()) -> tuple[Array, Pytree]:
        """`-> Q(s, .) [..., A], the next memory`; without noise by the means of noisy weights."""
        z, memory = self.network.step(self.params, x, memory, noise)
        return self.returns.mean(z), memory


def q_memory(algorithm: object, actor: QActor) -> Pytree:
    """The network's memory when an episode begins; used as a method's `initial_memory`."""
    return actor.network.initial_memory()


def epsilon_now(options: ExplorationOptions, clock: Clock) -> Array:
    """Epsilon, which falls to its end over a share of the budget."""
    fallen = jnp.minimum(progress(clock) / options.epsilon_fraction, 1.0)
    return options.epsilon_start + (options.epsilon - options.epsilon_start) * fallen


def q_noise(algorithm: object, actor: QActor, key: Key, shape: tuple[int, ...]) -> Pytree:
    """A number in [0, 1) that decides whether to explore, Gumbel noise for the action then, and noise for the weights.

    Used as a method's `noise`.
    """
    key_explore, key_action, key_weights = jax.random.split(key, 3)
    return (
        jax.random.uniform(key_explore, shape),
        actor.policy.head.noise(key_action, shape),
        actor.network.noise(actor.params, key_weights, shape),
    )


def act_by_q(
    algorithm: object, actor: QActor, obs: Pytree, memory: Pytree, noise: Pytree
) -> tuple[Array, Pytree, Pytree]:
    """Choose by the epsilon-greedy policy: `-> action, memory, extras`; used as a method's `act`."""
    explore, random, weights = noise
    x = encode(actor.policy, actor.normaliser, obs)
    xp = explore.__array_namespace__()
    values, memory = actor.values(x, memory, weights)
    values = xp.where((explore < actor.epsilon)[..., None], random, values)
    return best_action(values, x), memory, ()


def greedy_by_q(algorithm: object, actor: QActor, obs: Pytree, memory: Pytree) -> tuple[Array, Pytree]:
    """The action with the largest value: `-> action, memory`; used as a method's `greedy`."""
    x = encode(actor.policy, actor.normaliser, obs)
    values, memory = actor.values(x, memory)
    return best_action(values, x), memory


def best_action(values: Array, x: Pytree) -> Array:
    """The allowed action with the largest value, int32; the mask is part of the input x."""
    mask = split_input(x)[1]
    if mask is not None:
        xp, allowed = values.__array_namespace__(), mask.astype(bool)
        allowed = allowed | ~allowed.any(-1, keepdims=True)
        values = xp.where(allowed, values, np.float32(-np.inf))
    return values.argmax(-1).astype(np.int32)
