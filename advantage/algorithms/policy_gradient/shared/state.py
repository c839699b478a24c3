"""The training state of policy-gradient methods, and its initialisation."""

from __future__ import annotations

import dataclasses
import math
from typing import TypeVar

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import clock_init
from advantage.algorithms.policy_gradient.shared.options import ArchitectureOptions, PolicyOptions
from advantage.estimators.reward_scale import RewardScale, reward_scale_init
from advantage.policies.actor_critic import ActorCritic, actor_critic, choose_network
from advantage.policies.heads import Bounds, Spread
from advantage.running_moments import Moments, moments_init
from advantage.types import Array, Clock, Key, Pytree, Spec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyState:
    """Fields of every method's training state; a method may add fields of its own.

    Attributes:
        policy: the networks' shapes; static.
        params: `{"actor", "critic"}`, without a critic if the method has none.
        optimiser: the optimisers' states.
        observations, rewards: running statistics.
        clock: the share of the budget spent.
        critic_memory: memory of a recurrent critic with a separate network, in the running episodes, `[B, ...]`;
            else `()`.
    """

    policy: ActorCritic
    params: Pytree
    optimiser: Pytree
    observations: Moments
    rewards: RewardScale
    clock: Clock
    critic_memory: Pytree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EpisodicState(PolicyState):
    """A state that counts the steps of the running episodes, int32 `[B]`."""

    elapsed: Array


State = TypeVar("State", bound=PolicyState)


def policy_state_init(
    options: PolicyOptions, key: Key, spec: Spec, *, shared: bool = False, batch_size: int | None = None
) -> PolicyState:
    """The initial training state without the optimiser's: networks drawn for the spaces, empty statistics.

    Args:
        options: the method's options.
        key: draws the weights.
        spec: the spec of the run.
        shared: whether actor and critic are one network.
        batch_size: samples in a minibatch; None if the method has none.

    Raises:
        ValueError: a space that no policy covers, or a sequence_length that does not fit.
    """
    state = network_state_init(
        options,
        key,
        spec,
        shared=shared,
        bounds=options.action_bounds,
        spread=options.action_spread,
        log_std=options.log_std_init,
        memory_span=options.memory_span,
    )
    _check_sequence_length(options, batch_size, state.policy.is_recurrent)
    return state


def network_state_init(
    options: ArchitectureOptions,
    key: Key,
    spec: Spec,
    *,
    shared: bool = False,
    bounds: Bounds = "squash",
    spread: Spread = "state-independent",
    log_std: Array | float = 0.0,
    memory_span: int | None = None,
) -> PolicyState:
    """`policy_state_init` of a method whose head is not among its options. Raises ValueError as it does."""
    network = choose_network(
        options.network,
        spec.observation_space,
        options.hidden,
        options.activation,
        options.initialisation,
        memory_span,
    )
    policy = actor_critic(
        spec.observation_space,
        spec.action_space,
        network,
        shared=shared,
        initialisation=options.initialisation,
        bounds=bounds,
        spread=spread,
        units=spec.action_units,
    )
    memory = () if shared else policy.initial_memory()
    return PolicyState(
        policy=policy,
        params=policy.init(key, log_std),
        optimiser=(),
        observations=moments_init((policy.encoder.num_continuous,)),
        rewards=reward_scale_init(spec.num_envs),
        clock=clock_init(spec.total_timesteps),
        critic_memory=jax.tree.map(lambda leaf: jnp.stack([leaf] * spec.num_envs), memory),
    )


def without_critic(state: State) -> State:
    """The state of a method that learns no value."""
    return dataclasses.replace(state, params={"actor": state.params["actor"]}, critic_memory=())


def extended(state: PolicyState, kind: type[State], **fields: Pytree) -> State:
    """A method's own state: the shared fields and its own."""
    shared = {field.name: getattr(state, field.name) for field in dataclasses.fields(PolicyState)}
    return kind(**shared | fields)


def episodic(state: PolicyState, num_envs: int, optimiser: Pytree) -> EpisodicState:
    """The initial training state of a method that counts the steps of episodes."""
    return extended(state, EpisodicState, optimiser=optimiser, elapsed=jnp.zeros(num_envs, jnp.int32))


def _check_sequence_length(options: PolicyOptions, batch_size: int | None, is_recurrent: bool) -> None:
    length = options.sequence_length
    if length is None:
        return
    if not is_recurrent:
        raise ValueError(
            f"sequence_length={length} is for recurrent networks: use network='gru' or 'lstm', or leave it out."
        )
    sizes = {"n_steps": options.n_steps, "the samples of a minibatch": batch_size}
    for name, size in sizes.items():
        if size is not None and size % length:
            allowed = math.gcd(*(n for n in sizes.values() if n is not None))
            raise ValueError(
                f"sequence_length={length} does not divide {name} = {size}; use a divisor of {allowed}, such as "
                f"{allowed}, or leave it out."
            )
