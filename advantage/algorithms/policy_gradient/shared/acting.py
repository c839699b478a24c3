"""How a policy with a network acts: functions that methods use as `actor`, `noise`, `act` and so on."""

from __future__ import annotations

from typing import Any, NamedTuple

from advantage.algorithms.policy_gradient.shared.options import NetworkOptions
from advantage.algorithms.policy_gradient.shared.state import PolicyState
from advantage.estimators.reward_scale import scale_reward
from advantage.policies.actor_critic import ActorCritic
from advantage.running_moments import Normaliser, normaliser
from advantage.types import Array, Key, Pytree


class Actor(NamedTuple):
    """The acting policy: the actor's parameters and the statistics that scale its observations."""

    policy: ActorCritic
    params: Pytree
    normaliser: Normaliser | None

    def step(self, obs: Pytree, memory: Pytree) -> tuple[Any, Pytree]:
        """`pi(.|s)` for one step of every environment: `-> distribution, the next memory`."""
        return self.policy.step(self.params, encode(self.policy, self.normaliser, obs), memory)

    def distribution(self, obs: Pytree) -> Any:
        """`pi(.|s)` of a policy without memory."""
        return self.policy.distribution(self.params, encode(self.policy, self.normaliser, obs))


def encode(policy: ActorCritic, normalise: Normaliser | None, obs: Pytree) -> Pytree:
    """The networks' input for an observation."""
    return policy.encoder.policy_input(obs, normalise)


def policy_actor(options: NetworkOptions, state: PolicyState) -> Actor:
    """The actor's parameters and its observation statistics; used as a method's `actor`."""
    return Actor(state.policy, state.params["actor"], statistics_of(options, state))


def policy_memory(options: NetworkOptions, actor: Actor) -> Pytree:
    """The policy's memory when an episode begins; used as a method's `initial_memory`."""
    return actor.policy.initial_memory()


def policy_noise(options: NetworkOptions, actor: Actor, key: Key, shape: tuple[int, ...]) -> Pytree:
    """The random numbers for `act`, `[*shape, ...]`; used as a method's `noise`."""
    return actor.policy.head.noise(key, shape)


def act_by_policy(
    options: NetworkOptions, actor: Actor, obs: Pytree, memory: Pytree, noise: Pytree
) -> tuple[Pytree, Pytree, Pytree]:
    """Sample: `-> action, memory, extras`; used as a method's `act`."""
    distribution, memory = actor.step(obs, memory)
    return distribution.sample(noise), memory, ()


def act_with_log_prob(
    options: NetworkOptions, actor: Actor, obs: Pytree, memory: Pytree, noise: Pytree
) -> tuple[Pytree, Pytree, Array]:
    """Sample: `-> action, memory, log mu(a|s)`; used as a method's `act`."""
    distribution, memory = actor.step(obs, memory)
    action = distribution.sample(noise)
    return action, memory, distribution.log_prob(action)


def greedy_by_policy(
    options: NetworkOptions, actor: Actor, obs: Pytree, memory: Pytree
) -> tuple[Pytree, Pytree]:
    """The mode: `-> action, memory`; used as a method's `greedy`."""
    distribution, memory = actor.step(obs, memory)
    return distribution.mode(), memory


def normalises(options: NetworkOptions, state: PolicyState) -> bool:
    """Whether observations have numbers to scale, and the options ask for it."""
    return bool(options.normalize_observation and state.policy.encoder.num_continuous)


def statistics_of(options: NetworkOptions, state: PolicyState) -> Normaliser | None:
    """The statistics that observations are scaled by; None if they are not scaled."""
    return normaliser(state.observations, options.clip_observation) if normalises(options, state) else None


def scaled_reward(options: NetworkOptions, state: PolicyState, reward: Array) -> Array:
    """Rewards, divided by the running deviation of the discounted return if the options ask for it."""
    return scale_reward(state.rewards, reward, options.clip_reward) if options.normalize_reward else reward
