"""What policy-gradient methods share: options, the state, how they act, and a rollout turned into coefficients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.chunks import map_chunks
from advantage.algorithms.hyperparameters import ranged
from advantage.estimators.returns import gae
from advantage.estimators.reward_scale import (
    RewardScale,
    reward_scale_init,
    reward_scale_update,
    scale_reward,
)
from advantage.policies.actor_critic import ActorCritic, Bounds, Spread, actor_critic, choose_network
from advantage.policies.networks import Activation, Initialisation
from advantage.running_moments import Moments, Normaliser, moments_init, moments_update, normaliser
from advantage.types import ActionUnits, Array, Key, Pytree, Rollout, Spec


@dataclasses.dataclass(frozen=True)
class PolicyOptions:
    """Fields that every method with a policy network has; nothing but fields."""

    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    normalize_observation: bool = True
    """Scale observations by running mean and standard deviation."""
    clip_observation: float = ranged(10.0, "(0, inf)")
    """Limit of a scaled observation, in standard deviations."""
    normalize_reward: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""
    clip_reward: float = ranged(10.0, "(0, inf)")
    """Limit of a scaled reward, in standard deviations of the return."""
    hidden: tuple[int, ...] = ranged((64, 64), "[1, inf)")
    """Widths of the hidden layers; observations with images have convolutions instead."""
    activation: Activation = "tanh"
    """After each hidden layer."""
    initialisation: Initialisation = "orthogonal"
    """Of weights: orthogonal with gains, or independent normals."""
    action_bounds: Bounds = "clip"
    """Bounded continuous actions: clip a Gaussian's samples, or squash them by tanh."""
    action_units: ActionUnits = "bounds"
    """Bounded continuous actions: 0 is the middle of the bounds and 1 the upper one, or they are taken as they are."""
    action_spread: Spread = "state-independent"
    """Whether a Gaussian's standard deviation is a parameter or an output of the network."""
    log_std_init: float = ranged(0.0, "[-5, 2]")
    """Logarithm of the first standard deviation, in the units of the actions."""
    network: Any = None
    """A network of your own, from Python only: a pair (init, apply), adv.MLP, adv.CNN, adv.from_flax(...)."""


class LearnerState(NamedTuple):
    """Everything a method knows.

    Attributes:
        policy: the networks' shapes; static.
        params: `{"actor", "critic"}`.
        optimiser: the optimisers' states.
        observations, rewards: running statistics.
        step: environment steps so far, uint32.
        total_timesteps: the budget, uint32.
        extra: what a single method needs beside.
    """

    policy: ActorCritic
    params: Pytree
    optimiser: Pytree
    observations: Moments
    rewards: RewardScale
    step: Array
    total_timesteps: Array
    extra: Pytree = ()


class Actor(NamedTuple):
    """The part that acts: the actor's parameters and the statistics it sees through."""

    policy: ActorCritic
    params: Pytree
    normaliser: Normaliser | None

    def distribution(self, obs: Pytree) -> Any:
        return self.policy.distribution(self.params, encode(self.policy, self.normaliser, obs))


def encode(policy: ActorCritic, normalise: Normaliser | None, obs: Pytree) -> Pytree:
    """What the networks see of an observation."""
    return policy.encoder.encode(obs, normalise) if normalise else policy.encoder.encode(obs)


def learner_init(algorithm: Any, key: Key, spec: Spec, shared: bool = False) -> LearnerState:
    """The first state but for the optimiser: networks drawn for the spaces, nothing seen yet.

    Raises:
        ValueError: a space that no policy covers.
    """
    policy = actor_critic(
        spec.observation_space,
        spec.action_space,
        choose_network(
            algorithm.network,
            spec.observation_space,
            algorithm.hidden,
            algorithm.activation,
            algorithm.initialisation,
        ),
        shared=shared,
        initialisation=algorithm.initialisation,
        bounds=algorithm.action_bounds,
        spread=algorithm.action_spread,
        units=spec.action_units,
    )
    return LearnerState(
        policy,
        policy.init(key, algorithm.log_std_init),
        (),
        moments_init((policy.encoder.num_continuous,)),
        reward_scale_init(spec.num_envs),
        jnp.zeros((), jnp.uint32),
        jnp.asarray(spec.total_timesteps, jnp.uint32),
    )


def policy_actor(algorithm: Any, state: LearnerState) -> Actor:
    """The actor's parameters and the statistics under which it acts; an algorithm's `actor`."""
    return Actor(state.policy, state.params["actor"], _normaliser(algorithm, state))


def policy_noise(algorithm: Any, actor: Actor, key: Key, shape: tuple[int, ...]) -> Pytree:
    """What `act` will consume, `[*shape, ...]`; an algorithm's `noise`."""
    return actor.policy.head.noise(key, shape)


def act_by_policy(
    algorithm: Any, actor: Actor, obs: Pytree, memory: Pytree, noise: Pytree
) -> tuple[Pytree, Pytree, Pytree]:
    """Sample: `-> action, memory, extras`; an algorithm's `act`."""
    return actor.distribution(obs).sample(noise), memory, ()


def greedy_by_policy(algorithm: Any, actor: Actor, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]:
    """The mode: `-> action, memory`; an algorithm's `greedy`."""
    return actor.distribution(obs).mode(), memory


def progress_of(state: LearnerState) -> Array:
    """The share of the budget spent, in [0, 1]."""
    return state.step.astype(jnp.float32) / state.total_timesteps.astype(jnp.float32)


class Experience(NamedTuple):
    """A rollout as the networks that acted see it, and its facts as coefficients; `[T, B, ...]`.

    Attributes:
        x: the networks' input.
        action: what was chosen.
        log_prob: `log pi_old(a | s)`.
        value, next_value: `V(s_t)`, and `V` of the true successor.
        reward: scaled, if the method scales.
        discount: `gamma (1 - terminated)`.
        trace: `1 - done`: whether credit goes on to the next row.
    """

    x: Pytree
    action: Pytree
    log_prob: Array
    value: Array
    next_value: Array
    reward: Array
    discount: Array
    trace: Array


def experience(
    algorithm: Any,
    state: LearnerState,
    rollout: Rollout,
    value_of: Callable[[Pytree], Array] | None = None,
) -> Experience:
    """What the parameters and statistics that acted make of a rollout, in one batch.

    `value_of` takes the networks' input to values; by default it is the state's own critic.
    """
    policy, normalise = state.policy, _normaliser(algorithm, state)
    value_of = partial(policy.value, state.params) if value_of is None else value_of

    def look(rows):
        obs, next_obs, action = rows
        x, next_x = encode(policy, normalise, obs), encode(policy, normalise, next_obs)
        log_prob = policy.distribution(state.params["actor"], x).log_prob(action)
        return x, log_prob, value_of(x), value_of(next_x)

    shape = rollout.reward.shape
    seen = map_chunks(look, merge_time_and_envs((rollout.obs, rollout.next_obs, rollout.action)))
    x, log_prob, value, next_value = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[2:]), seen)
    reward = rollout.reward
    if algorithm.normalize_reward:
        reward = scale_reward(state.rewards, reward, algorithm.clip_reward)
    discount = algorithm.gamma * (1 - rollout.terminated)
    trace = 1.0 - (rollout.terminated | rollout.truncated)
    return Experience(x, rollout.action, log_prob, value, next_value, reward, discount, trace)


def advantage_and_target(algorithm: Any, seen: Experience) -> tuple[Array, Array]:
    """`A_t` by GAE with the method's `gae_lambda`, and the critic's target `G_t = A_t + V(s_t)`, `[T, B]`."""
    trace = algorithm.gae_lambda * seen.trace
    advantage = gae(seen.reward, seen.discount, seen.value, seen.next_value, trace)
    return advantage, advantage + seen.value


def merge_time_and_envs(tree: Pytree) -> Pytree:
    """Time and environments as one axis: `[T, B, ...] -> [T * B, ...]`."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def advance_statistics(algorithm: Any, state: LearnerState, rollout: Rollout) -> LearnerState:
    """The state with its clock moved on and the rollout merged into its statistics, for the next one to use."""
    observations, rewards = state.observations, state.rewards
    if _normalises(algorithm, state):
        observations = moments_update(observations, state.policy.encoder.continuous(rollout.obs))
    if algorithm.normalize_reward:
        done = rollout.terminated | rollout.truncated
        rewards = reward_scale_update(rewards, rollout.reward, done, algorithm.gamma)
    return state._replace(
        observations=observations,
        rewards=rewards,
        step=state.step + jnp.uint32(rollout.reward.size),
    )


def _normalises(algorithm: Any, state: LearnerState) -> bool:
    return bool(algorithm.normalize_observation and state.policy.encoder.num_continuous)


def _normaliser(algorithm: Any, state: LearnerState) -> Normaliser | None:
    if not _normalises(algorithm, state):
        return None
    return normaliser(state.observations, algorithm.clip_observation)
