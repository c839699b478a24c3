"""Deterministic policies that learn from a replay buffer: how they explore, and what DDPG and TD3 share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from advantage.algorithms.hyperparameters import ranged
from advantage.algorithms.policy_gradient.shared.acting import encode, statistics_of
from advantage.algorithms.policy_gradient.shared.options import UnitsOption
from advantage.algorithms.policy_gradient.shared.replayed_critic import empty_replay
from advantage.algorithms.policy_gradient.shared.state import PolicyState, extended, network_state_init
from advantage.algorithms.value.shared.gradient_steps import Learning, LearningState, adam_init
from advantage.algorithms.value.shared.options import ReplayOptions, TargetNetwork, check_budget
from advantage.environments.spaces import in_units_of_bounds
from advantage.policies.action_value import ActionValue, Dropout, action_value
from advantage.policies.actor_critic import ActorCritic
from advantage.policies.heads import GaussianHead
from advantage.running_moments import Normaliser
from advantage.types import Array, Key, Pytree, Spec

Exploration = Literal["gaussian", "ornstein-uhlenbeck"]


@dataclasses.dataclass(frozen=True)
class DeterministicOptions(UnitsOption, TargetNetwork, ReplayOptions):
    """Fields of every method with a deterministic policy and a replay buffer."""

    exploration: Exploration = "gaussian"
    """Noise on actions: independent in each step, or an Ornstein-Uhlenbeck process that begins at 0 in each episode."""
    exploration_std: float = ranged(0.1, "[0, inf)")
    """Standard deviation of the noise in a step, as a share of half the range of the action."""
    exploration_theta: float = ranged(0.15, "[0, 1]")
    """Share by which an Ornstein-Uhlenbeck process returns to 0 in each step."""


class DeterministicActor(NamedTuple):
    """The policy `mu`, the statistics that scale its observations, and whether it still acts at random."""

    policy: ActorCritic
    params: Pytree
    normaliser: Normaliser | None
    random: Array

    def mu(self, obs: Pytree) -> Array:
        """`mu(s)`."""
        x = encode(self.policy, self.normaliser, obs)
        return self.policy.distribution(self.params, x).mode()


def deterministic_policy(options: DeterministicOptions, key: Key, spec: Spec) -> PolicyState:
    """The initial state of the policy and of a state-value function.

    Raises:
        ValueError: actions that are not a bounded Box of floats, or learning that starts after the budget.
    """
    _refuse_other_actions(spec.action_space)
    check_budget(options, spec)
    return network_state_init(options, key, spec)


def deterministic_state(
    options: DeterministicOptions,
    key: Key,
    spec: Spec,
    *,
    critics: int,
    critic: Callable[[ActorCritic], ActionValue] = action_value,
) -> LearningState:
    """The initial state: an actor, so many critics (an axis in front), their targets, and an empty replay buffer.

    `critic` makes the action-value function for the policy.

    Raises:
        ValueError: as `deterministic_policy`, a recurrent network, or a replay buffer that does not fit into memory.
    """
    key_policy, key_critics = jax.random.split(key)
    state = deterministic_policy(options, key_policy, spec)
    encoder = state.policy.encoder
    init, x = critic(state.policy).init, encoder.encode(encoder.example())
    params = {
        "actor": state.params["actor"],
        "action_value": jax.vmap(init, (0, None))(jax.random.split(key_critics, critics), x),
    }
    return extended(
        state,
        LearningState,
        params=params,
        optimiser={name: adam_init(part) for name, part in params.items()},
        target=params,
        replay=empty_replay(state.policy, spec, options.buffer_size),
        gradient_steps=jnp.uint32(0),
        critic_memory=(),
    )


def _refuse_other_actions(space: spaces.Space) -> None:
    if not (isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)):
        others = "dqn, sac or ppo" if isinstance(space, spaces.Discrete) else "ppo"
        raise ValueError(
            f"A deterministic policy needs a bounded Box of floats, and the action space is {space}; use {others}."
        )
    if not in_units_of_bounds(space, "bounds").all():
        raise ValueError(
            f"A deterministic policy needs finite bounds, and the action space is {space}; give the actions "
            "bounds with gymnasium.wrappers.TransformAction, or use ppo."
        )


def exploring_actor(options: DeterministicOptions, state: LearningState) -> DeterministicActor:
    """The policy; at random until learning starts. Used as a method's `actor`."""
    random = state.clock.step < jnp.uint32(options.learning_starts)
    return DeterministicActor(state.policy, state.params["actor"], statistics_of(options, state), random)


def exploration_memory(options: DeterministicOptions, actor: DeterministicActor) -> Pytree:
    """The state of the noise when an episode begins; used as a method's `initial_memory`."""
    return () if options.exploration == "gaussian" else np.zeros(_size(actor), np.float32)


def exploration_noise(
    options: DeterministicOptions, actor: DeterministicActor, key: Key, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """A uniform action in [-1, 1], and standard normal numbers, for each step; used as a method's `noise`."""
    key_uniform, key_normal = jax.random.split(key)
    size = *shape, _size(actor)
    uniform = jax.random.uniform(key_uniform, size, minval=-1.0)
    return uniform, jax.random.normal(key_normal, size)


def explore(
    options: DeterministicOptions, actor: DeterministicActor, obs: Pytree, memory: Pytree, noise: Pytree
) -> tuple[Array, Pytree, Pytree]:
    """`mu(s)` and noise, within the bounds: `-> action, memory, extras`; used as a method's `act`.

        gaussian             a = mu(s) + h std e
        ornstein-uhlenbeck   x <- (1 - theta) x + std e,   a = mu(s) + h x

    with e standard normal and h half the range of the action. Until learning starts, actions are uniform.

    Source: Lillicrap et al. 2016, "Continuous control with deep reinforcement learning", section 3; Uhlenbeck &
    Ornstein 1930, "On the theory of the Brownian motion".
    """
    uniform, normal = noise
    xp = uniform.__array_namespace__()
    low, high = bounds(actor.policy)
    middle, half = (high + low) / 2, (high - low) / 2
    x = options.exploration_std * normal
    if options.exploration == "ornstein-uhlenbeck":
        memory = x = (1 - options.exploration_theta) * memory + x
    action = xp.clip(actor.mu(obs) + half * x, low, high)
    return xp.where(actor.random, middle + half * uniform, action), memory, ()


def greedy_by_mu(
    options: DeterministicOptions, actor: DeterministicActor, obs: Pytree, memory: Pytree
) -> tuple[Array, Pytree]:
    """`mu(s)`: `-> action, memory`; used as a method's `greedy`."""
    return actor.mu(obs), memory


def bounds(policy: ActorCritic) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of the policy's actions, `[d]` each."""
    head = policy.head
    assert isinstance(head, GaussianHead)
    assert head.bounds is not None
    low, high = (np.asarray(bound, np.float32) for bound in head.bounds)
    return low, high


def smoothed_action(
    policy: ActorCritic, actor: Pytree, x: Pytree, normal: Array, std: Array | float, limit: Array | float
) -> Array:
    """`clip(mu(s) + h clip(std e, -limit, limit))`, within the bounds; h is half their range.

    Source: Fujimoto, van Hoof & Meger 2018, "Addressing function approximation error in actor-critic methods", eq. 14.
    """
    low, high = bounds(policy)
    noise = (high - low) / 2 * jnp.clip(std * normal, -limit, limit)
    return jnp.clip(policy.distribution(actor, x).mode() + noise, low, high)


def value_of_mu(
    policy: ActorCritic, q: ActionValue, learning: Learning, x: Pytree, *, dropout: Dropout = ()
) -> Callable[[Pytree], Array]:
    """`theta -> Q_1(s, mu_theta(s))`, `[N]`; its gradient is `∇_a Q_1(s, a) ∇_theta mu(s)` at `a = mu(s)`.

    `dropout` is of the one critic.

    Source: Silver et al. 2014, "Deterministic policy gradient algorithms", eq. 7; Q_1 as in Fujimoto, van Hoof & Meger
    2018, algorithm 1.
    """
    first = jax.tree.map(lambda leaf: leaf[0], learning.params["action_value"])
    return lambda actor: q.value(first, x, policy.distribution(actor, x).mode(), dropout)


def _size(actor: DeterministicActor) -> int:
    return bounds(actor.policy)[0].size
