"""A rollout as the acting networks see it, and the statistics that the state keeps of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.chunks import map_chunks
from advantage.algorithms.clock import advance_clock
from advantage.algorithms.policy_gradient.shared.acting import (
    encode,
    normalises,
    scaled_reward,
    statistics_of,
)
from advantage.algorithms.policy_gradient.shared.options import NetworkOptions, PolicyOptions
from advantage.algorithms.policy_gradient.shared.state import PolicyState, State
from advantage.estimators.reward_scale import reward_scale_update
from advantage.policies.recurrent import Memories, Sequences, choose
from advantage.running_moments import moments_update
from advantage.types import Array, Pytree, Rollout


class Experience(NamedTuple):
    """A rollout as coefficients `[T, B]`, with the networks' inputs and the actions.

    Attributes:
        x: the networks' input, one sample for each step `[T * B, ...]`; for a recurrent policy, `Sequences`.
        action: the chosen action, `[T, B, ...]`.
        log_prob: `log pi_old(a | s)`.
        value, next_value: `V(s_t)`, and `V` of the true successor.
        reward: scaled if the method scales rewards.
        discount: `gamma (1 - terminated)`.
        trace: `1 - done`: whether the episode goes on in the next row.
        length: steps of a sequence; T without recurrence.
        critic_memory: the critic's memory for the next rollout.
    """

    x: Pytree
    action: Pytree
    log_prob: Array
    value: Array
    next_value: Array
    reward: Array
    discount: Array
    trace: Array
    length: int
    critic_memory: Pytree

    def samples(self, *trees: Pytree) -> tuple[Pytree, ...]:
        """Arrays `[T, B, ...]` as `[T * B, ...]`, in the order of the samples of `x`."""
        return tuple(merge_time_and_envs(tree, self.length) for tree in trees)

    def in_time(self, samples: Array) -> Array:
        """The opposite of `samples`: `[T * B] -> [T, B]`."""
        n_steps, num_envs = self.reward.shape
        rows = samples.reshape(self.length, n_steps // self.length, num_envs)
        return rows.swapaxes(0, 1).reshape(n_steps, num_envs)


def experience(
    options: PolicyOptions,
    state: PolicyState,
    rollout: Rollout,
    *,
    value_of: Callable[[Pytree], Array] | None = None,
    batch_size: int | None = None,
) -> Experience:
    """A rollout evaluated with the acting parameters and statistics.

    Args:
        options: the method's options.
        state: the state before the update.
        rollout: gathered with that state.
        value_of: maps the networks' input to values; by default the state's own critic, or 0 without one.
        batch_size: samples in a minibatch, which sequences must fit into; None if the method has none.
    """
    if state.policy.is_recurrent:
        seen = _seen_in_sequence(options, state, rollout, batch_size)
    else:
        seen = _seen_step_by_step(options, state, rollout, value_of)
    return Experience(
        x=seen.x,
        action=rollout.action,
        log_prob=seen.log_prob,
        value=seen.value,
        next_value=seen.next_value,
        reward=scaled_reward(options, state, rollout.reward),
        discount=options.gamma * (1 - rollout.terminated),
        trace=1.0 - (rollout.terminated | rollout.truncated),
        length=seen.length,
        critic_memory=seen.critic_memory,
    )


class _Seen(NamedTuple):
    x: Pytree
    log_prob: Array
    value: Array
    next_value: Array
    length: int
    critic_memory: Pytree


def _seen_step_by_step(
    options: PolicyOptions,
    state: PolicyState,
    rollout: Rollout,
    value_of: Callable[[Pytree], Array] | None,
) -> _Seen:
    """Every step is one sample."""
    policy, normalise = state.policy, statistics_of(options, state)
    if value_of is None:
        value_of = partial(policy.value, state.params) if "critic" in state.params else _no_value

    def look(rows: tuple[Pytree, Pytree, Pytree]) -> tuple[Pytree, Array, Array, Array]:
        obs, next_obs, action = rows
        x, next_x = encode(policy, normalise, obs), encode(policy, normalise, next_obs)
        log_prob = policy.distribution(state.params["actor"], x).log_prob(action)
        return x, log_prob, value_of(x), value_of(next_x)

    shape = rollout.reward.shape
    seen = map_chunks(look, merge_time_and_envs((rollout.obs, rollout.next_obs, rollout.action)))
    x, log_prob, value, next_value = merge_time_and_envs(seen)
    log_prob, value, next_value = (leaf.reshape(shape) for leaf in (log_prob, value, next_value))
    return _Seen(x, log_prob, value, next_value, shape[0], ())


def _seen_in_sequence(
    options: PolicyOptions, state: PolicyState, rollout: Rollout, batch_size: int | None
) -> _Seen:
    """Each environment's steps in order, from the memory at the start of the rollout."""
    policy, normalise = state.policy, statistics_of(options, state)
    x, next_x = (encode(policy, normalise, obs) for obs in (rollout.obs, rollout.next_obs))
    done = jnp.asarray(rollout.terminated | rollout.truncated)
    begins = jnp.concatenate([jnp.zeros_like(done[:1]), done[:-1]])  # the first row's memory is already right
    whole = Sequences(x, begins, Memories(rollout.memory, state.critic_memory))
    looked = policy.look(state.params, whole, next_x)
    shape = rollout.reward.shape
    length = sequence_length(options, shape[0], batch_size)
    initial = jax.tree.map(jnp.asarray, policy.initial_memory())
    return _Seen(
        x=cut(whole, looked.before, length),
        log_prob=looked.distribution.log_prob(merge_time_and_envs(rollout.action)).reshape(shape),
        value=looked.value.reshape(shape),
        next_value=looked.next_value.reshape(shape),
        length=length,
        critic_memory=jax.tree.map(partial(choose, done[-1]), initial, looked.last.critic)
        if jax.tree.leaves(looked.last.critic)
        else (),
    )


def sequence_length(options: PolicyOptions, n_steps: int, batch_size: int | None) -> int:
    """Length of the sequences in a rollout of `n_steps`, which may be smaller at the end of a run."""
    length = options.sequence_length
    if length is None:
        return n_steps if batch_size is None else math.gcd(n_steps, batch_size)
    return math.gcd(n_steps, length)


def cut(whole: Sequences, before: Memories, length: int) -> Sequences:
    """Sequences of `length` steps `[L, T / L * B, ...]` out of `[T, B, ...]`, each with the memory before it."""
    n_steps = whole.begins.shape[0]
    if length == n_steps:
        return whole

    def pieces(leaf: Array) -> Array:
        leaf = leaf.reshape(n_steps // length, length, *leaf.shape[1:]).swapaxes(0, 1)
        return leaf.reshape(length, -1, *leaf.shape[3:])

    memory = jax.tree.map(lambda leaf: leaf[::length].reshape(-1, *leaf.shape[2:]), before)
    return Sequences(jax.tree.map(pieces, whole.x), pieces(whole.begins), memory)


def merge_time_and_envs(tree: Pytree, length: int | None = None) -> Pytree:
    """`[T, B, ...] -> [T * B, ...]`: step after step, or in the order of sequences of `length` steps."""

    def merge(leaf: Array) -> Array:
        n_steps = leaf.shape[0]
        if length is not None and length != n_steps:
            leaf = leaf.reshape(n_steps // length, length, *leaf.shape[1:]).swapaxes(0, 1)
            leaf = leaf.reshape(length, -1, *leaf.shape[3:])
        return leaf.reshape(-1, *leaf.shape[2:])

    return jax.tree.map(merge, tree)


def advance_statistics(
    options: NetworkOptions, state: State, rollout: Rollout, critic_memory: Pytree = ()
) -> State:
    """The state with its clock advanced and the rollout merged into its statistics, for the next rollout."""
    observations, rewards = state.observations, state.rewards
    if normalises(options, state):
        observations = moments_update(observations, state.policy.encoder.continuous(rollout.obs))
    if options.normalize_reward:
        done = rollout.terminated | rollout.truncated
        rewards = reward_scale_update(rewards, rollout.reward, done, options.gamma)
    return dataclasses.replace(
        state,
        observations=observations,
        rewards=rewards,
        clock=advance_clock(state.clock, rollout.reward.size),
        critic_memory=critic_memory,
    )


def _no_value(x: Pytree) -> Array:
    return jnp.zeros(jax.tree.leaves(x)[0].shape[0])
