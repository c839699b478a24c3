"""How a policy with a network acts: functions that methods take for `actor`, `noise`, `act` and the like."""

from __future__ import annotations

from typing import Any, NamedTuple

from advantage.algorithms.policy_gradient.shared.options import PolicyOptions
from advantage.algorithms.policy_gradient.shared.state import PolicyState
from advantage.policies.actor_critic import ActorCritic
from advantage.running_moments import Normaliser, normaliser
from advantage.types import Key, Pytree


class Actor(NamedTuple):
    """The part that acts: the actor's parameters and the statistics it sees through."""

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
    """What the networks see of an observation."""
    return policy.encoder.policy_input(obs, normalise)


def policy_actor(options: PolicyOptions, state: PolicyState) -> Actor:
    """The actor's parameters and the statistics under which it acts; a method's `actor`."""
    return Actor(state.policy, state.params["actor"], statistics_of(options, state))


def policy_memory(options: PolicyOptions, actor: Actor) -> Pytree:
    """What the policy remembers when an episode begins; a method's `initial_memory`."""
    return actor.policy.initial_memory()


def policy_noise(options: PolicyOptions, actor: Actor, key: Key, shape: tuple[int, ...]) -> Pytree:
    """What `act` will consume, `[*shape, ...]`; a method's `noise`."""
    return actor.policy.head.noise(key, shape)


def act_by_policy(
    options: PolicyOptions, actor: Actor, obs: Pytree, memory: Pytree, noise: Pytree
) -> tuple[Pytree, Pytree, Pytree]:
    """Sample: `-> action, memory, extras`; a method's `act`."""
    distribution, memory = actor.step(obs, memory)
    return distribution.sample(noise), memory, ()


def greedy_by_policy(
    options: PolicyOptions, actor: Actor, obs: Pytree, memory: Pytree
) -> tuple[Pytree, Pytree]:
    """The mode: `-> action, memory`; a method's `greedy`."""
    distribution, memory = actor.step(obs, memory)
    return distribution.mode(), memory


def normalises(options: PolicyOptions, state: PolicyState) -> bool:
    """Whether there is anything in an observation to be scaled, and it is to be."""
    return bool(options.normalize_observation and state.policy.encoder.num_continuous)


def statistics_of(options: PolicyOptions, state: PolicyState) -> Normaliser | None:
    """The statistics that observations are scaled by, if they are."""
    return normaliser(state.observations, options.clip_observation) if normalises(options, state) else None
