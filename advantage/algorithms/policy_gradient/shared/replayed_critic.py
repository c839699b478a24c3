"""An action-value critic that learns from a replay buffer: what methods with off-policy critics share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from gymnasium import spaces

from advantage.algorithms.policy_gradient.shared.acting import (
    encode,
    scaled_reward,
    statistics_of,
)
from advantage.algorithms.policy_gradient.shared.options import NetworkOptions
from advantage.algorithms.policy_gradient.shared.state import PolicyState, extended
from advantage.algorithms.policy_gradient.shared.value_fit import Critic, Fitted, critic_optimiser, fit
from advantage.environments.frame_stack import frame_counts
from advantage.environments.spaces import map_leaves
from advantage.policies.action_value import action_value
from advantage.policies.actor_critic import ActorCritic
from advantage.random_bits import unrolled
from advantage.replay.frames import Frames
from advantage.replay.loop_count import largest_of_seeds
from advantage.replay.ring import Replay, Transition, replay_init, replay_sample
from advantage.types import Array, Key, Mean, Pytree, Spec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReplayedState(PolicyState):
    """A training state with a replay buffer and a target network `Q'`, whose parameters follow those of Q slowly."""

    target: Pytree
    replay: Replay


T = TypeVar("T")


class Learned(NamedTuple):
    """What a gradient step updates: parameters, their optimiser, and the target's parameters."""

    params: Pytree
    optimiser: Pytree
    target: Pytree


class ReplayBatch(NamedTuple):
    """Transitions from the buffer as the networks' current input, `[N, ...]`; `discount` as in `Transition`."""

    x: Pytree
    action: Pytree
    reward: Array
    discount: Array
    next_x: Pytree


def replayed_state(key: Key, state: PolicyState, spec: Spec, buffer_size: int) -> ReplayedState:
    """The state with an action-value critic, `params["action_value"]`, its optimiser, target and an empty buffer.

    Raises:
        ValueError: a recurrent policy, or a buffer of `buffer_size` transitions that does not fit into memory.
    """
    encoder = state.policy.encoder
    critic = action_value(state.policy).init(key, encoder.encode(encoder.example()))
    return extended(
        state,
        ReplayedState,
        params=state.params | {"action_value": critic},
        optimiser={**(state.optimiser or {}), "action_value": critic_optimiser(critic)},
        target=critic,
        replay=empty_replay(state.policy, spec, buffer_size),
    )


def empty_replay(
    policy: ActorCritic,
    spec: Spec,
    buffer_size: int,
    *,
    extras: Pytree = (),
    longest_episode: int | None = None,
) -> Replay:
    """A replay buffer for the observations of the spec and the actions of the policy, without transitions.

    See `replay_init` for `extras` of each transition, and for the `longest_episode`.

    Raises:
        ValueError: one that does not fit into memory.
    """

    def action(key: Key) -> Pytree:
        outputs, log_std = jnp.zeros(policy.head.num_outputs), jnp.zeros(policy.head.num_log_std)
        return policy.head.distribution(outputs, log_std).sample(policy.head.noise(key, ()))

    shape = jax.eval_shape(action, jax.random.key(0))
    return replay_of(spec, shape, buffer_size, extras=extras, longest_episode=longest_episode)


def replay_of(
    spec: Spec,
    action: Pytree,
    buffer_size: int,
    *,
    extras: Pytree = (),
    longest_episode: int | None = None,
) -> Replay:
    """A replay buffer for the observations of the spec and actions of these shapes, without transitions.

    Raises:
        ValueError: one that does not fit into memory.
    """

    def leaf(space: spaces.Space) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(space.shape or (), jax.dtypes.canonicalize_dtype(space.dtype))

    obs = map_leaves(leaf, spec.observation_space)
    frames = Frames(tuple(jax.tree.leaves(frame_counts(spec.observation_space, spec.frame_stack))))
    return replay_init(
        obs,
        action,
        capacity=buffer_size,
        num_envs=spec.num_envs,
        extras=extras,
        frames=frames,
        longest_episode=longest_episode,
    )


def replayed_batch(
    options: NetworkOptions, state: PolicyState, replay: Replay, key: Key, *, size: int, n: int = 1
) -> ReplayBatch:
    """Draw transitions over n steps and scale them by the state's current statistics."""
    return scaled_batch(options, state, replay_sample(replay, key, size, gamma=options.gamma, n=n))


def scaled_batch(options: NetworkOptions, state: PolicyState, rows: Transition) -> ReplayBatch:
    """Transitions scaled by the state's current statistics."""
    normalise, reward = statistics_of(options, state), scaled_reward(options, state, rows.reward)
    x, next_x = (encode(state.policy, normalise, obs) for obs in (rows.obs, rows.next_obs))
    return ReplayBatch(x, rows.action, reward, rows.discount, next_x)


def fit_action_value(
    policy: ActorCritic,
    actor: Pytree,
    learned: Learned,
    batch: ReplayBatch,
    key: Key,
    learning_rate: Array | float,
) -> Fitted:
    """One step of Adam on `(Q(s, a) - y)^2 / 2` with `y = r + gamma (1 - terminated) Q'(s', a')`, `a' ~ pi(. | s')`.

    For Discrete actions the expectation over a' is exact; otherwise it is one sample.

    Args:
        policy, actor: the networks, and the parameters of pi.
        learned: the parameters of Q, of its Adam, and of Q'.
        batch: from `replayed_batch`.
        key: draws a'.
        learning_rate: Adam's step size.

    Source: Degris, White & Sutton 2012, "Off-policy actor-critic", with critic Q; Gu et al. 2017, "Q-Prop",
    section 2.2.
    """
    q = action_value(policy)
    key_action, key_fit = jax.random.split(key)
    noise = policy.head.noise(key_action, (1, len(batch.reward)))
    following = q.expected(learned.target, batch.next_x, policy.distribution(actor, batch.next_x), noise)
    y = batch.reward + batch.discount * following

    def predict(critic: Pytree, inputs: tuple[Pytree, Pytree]) -> Array:
        return q.value(critic, *inputs)

    critic = Critic(learned.params, learned.optimiser)
    inputs = batch.x, batch.action
    return fit(predict, critic, inputs, y, key_fit, learning_rate=learning_rate, epochs=1)


def polyak(target: Pytree, params: Pytree, tau: Array | float) -> Pytree:
    """`(1 - tau) target + tau params`.

    Source: Lillicrap et al. 2016, "Continuous control with deep reinforcement learning", algorithm 1.
    """
    return jax.tree.map(lambda old, new: old + tau * (new - old), target, params)


def repeat(
    step: Callable[[T, Key], tuple[T, dict[str, Array]]], learned: T, count: Array, key: Key
) -> tuple[T, dict[str, Mean]]:
    """`count` steps, the same for all seeds, with different keys: `-> learned, the mean of each metric`."""
    count, key = largest_of_seeds(count), unrolled(key)
    shapes: Any = jax.eval_shape(step, learned, key)[1]
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def one(i: Array, carry: Any) -> Any:
        learned, sums = carry
        learned, metrics = step(learned, jax.random.fold_in(key, i))
        return learned, jax.tree.map(jnp.add, sums, metrics)

    learned, sums = jax.lax.fori_loop(0, count, one, (learned, sums))
    return learned, {name: Mean(total, count.astype(jnp.float32)) for name, total in sums.items()}
