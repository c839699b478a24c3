"""A critic of actions that learns from a replay ring: what methods with off-policy critics share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnasium import spaces

from advantage.algorithms.policy_gradient.shared.learner import LearnerState, encode, policy_actor
from advantage.algorithms.policy_gradient.shared.value_fit import Fitted, critic_optimiser, fit
from advantage.environments.spaces import map_leaves
from advantage.estimators.reward_scale import scale_reward
from advantage.policies.action_value import action_value
from advantage.replay.ring import Replay, Transition, replay_init, replay_sample
from advantage.types import Array, Key, Pytree, Spec


class Learned(NamedTuple):
    """What a gradient step changes: parameters, their optimiser, and the target's parameters."""

    params: Pytree
    optimiser: Pytree
    target: Pytree


class Memory(NamedTuple):
    """A state's `extra`: the parameters of the target `Q'`, which follow those of Q slowly, and the ring."""

    target: Pytree
    replay: Replay


class Batch(NamedTuple):
    """Transitions from the ring as the networks see them now, `[N, ...]`; `discount = gamma (1 - terminated)`."""

    x: Pytree
    action: Pytree
    reward: Array
    discount: Array
    next_x: Pytree


def replayed_critic_init(algorithm: Any, key: Key, state: LearnerState, spec: Spec) -> LearnerState:
    """The state with a critic of actions, `params["action_value"]`, its optimiser, target and an empty ring.

    Raises:
        ValueError: a ring of `algorithm.buffer_size` transitions does not fit into memory.
    """
    encoder = state.policy.encoder
    critic = action_value(state.policy).init(key, encoder.encode(encoder.example()))
    replay = replay_init(_example(algorithm, state, spec), algorithm.buffer_size)
    return state._replace(
        params=state.params | {"action_value": critic},
        optimiser={**(state.optimiser or {}), "action_value": critic_optimiser(critic)},
        extra=Memory(critic, replay),
    )


def _example(algorithm: Any, state: LearnerState, spec: Spec) -> Transition:
    """The shapes and dtypes of one transition."""

    def leaf(space: spaces.Space) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(space.shape or (), jax.dtypes.canonicalize_dtype(space.dtype))

    def act(key: Key, obs: Pytree) -> Pytree:
        actor = algorithm.actor(state)
        noise = algorithm.noise(actor, key, (1,))
        return jax.tree.map(lambda x: x[0], algorithm.act(actor, obs, (), noise)[0])

    obs = map_leaves(leaf, spec.observation_space)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), obs)
    action = jax.eval_shape(act, jax.random.key(0), one)
    number, flag = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, jnp.bool_))
    return Transition(obs, action, number, obs, flag)


def replayed_batch(algorithm: Any, state: LearnerState, replay: Replay, key: Key, size: int) -> Batch:
    """Draw transitions and see them through the state's statistics, whatever they were when they happened."""
    rows, normalise = replay_sample(replay, key, size), policy_actor(algorithm, state).normaliser
    reward = rows.reward
    if algorithm.normalize_reward:
        reward = scale_reward(state.rewards, reward, algorithm.clip_reward)
    discount = algorithm.gamma * (1 - rows.terminated)
    x, next_x = (encode(state.policy, normalise, obs) for obs in (rows.obs, rows.next_obs))
    return Batch(x, rows.action, reward, discount, next_x)


def fit_action_value(
    state: LearnerState,
    actor: Pytree,
    critic: Pytree,
    optimiser: Any,
    target: Pytree,
    batch: Batch,
    key: Key,
    learning_rate: Array | float,
) -> Fitted:
    """One step of Adam on `(Q(s, a) - y)^2 / 2` with `y = r + gamma (1 - terminated) Q'(s', a')`, `a' ~ pi(. | s')`.

    Of Discrete actions the expectation over a' is exact; else it is one draw.

    Args:
        state: for the shapes of the networks.
        actor, critic, optimiser, target: the parameters of pi, Q, Q's Adam, and of Q'.
        batch: of `replayed_batch`.
        key: draws a'.
        learning_rate: Adam's step size.

    Source: Degris, White & Sutton 2012, "Off-policy actor-critic", with a critic of actions; Gu et al. 2017, "Q-Prop",
    section 2.2.
    """
    q, policy = action_value(state.policy), state.policy
    key_action, key_fit = jax.random.split(key)
    noise = policy.head.noise(key_action, (1, len(batch.reward)))
    following = q.expected(target, batch.next_x, policy.distribution(actor, batch.next_x), noise)
    y = batch.reward + batch.discount * following

    def predict(critic: Pytree, inputs: tuple[Pytree, Pytree]) -> Array:
        return q.value(critic, *inputs)

    return fit(predict, critic, optimiser, (batch.x, batch.action), y, key_fit, learning_rate, 1)


def polyak(target: Pytree, params: Pytree, tau: Array | float) -> Pytree:
    """`(1 - tau) target + tau params`.

    Source: Lillicrap et al. 2016, "Continuous control with deep reinforcement learning", algorithm 1.
    """
    return jax.tree.map(lambda old, new: old + tau * (new - old), target, params)


def repeat(
    step: Callable[[Learned, Key], tuple[Learned, dict[str, Array]]], learned: Learned, count: Array, key: Key
) -> tuple[Learned, dict[str, Array]]:
    """`count` steps, each with a key of its own: `-> learned, the mean of each metric`, which is 0 after no step."""
    shapes: Any = jax.eval_shape(step, learned, key)[1]
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def one(i: Array, carry: Any) -> Any:
        learned, sums = carry
        learned, metrics = step(learned, jax.random.fold_in(key, i))
        return learned, jax.tree.map(jnp.add, sums, metrics)

    learned, sums = jax.lax.fori_loop(0, count, one, (learned, sums))
    return learned, jax.tree.map(lambda x: x / jnp.maximum(count, 1), sums)
