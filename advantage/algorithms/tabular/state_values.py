"""Tabular state values of a given policy: what prediction methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init, progress
from advantage.algorithms.hyperparameters import schedule_value
from advantage.algorithms.tabular.given_policy import Follow, follow
from advantage.algorithms.tabular.importance import move_by_weight
from advantage.algorithms.tabular.options import EpisodicPredictionOptions, PredictionOptions
from advantage.algorithms.tabular.table import sizes_of
from advantage.algorithms.tabular.whole_episodes import (
    Pending,
    Steps,
    each_episode,
    first_visits,
    pending_init,
    steps_of,
)
from advantage.types import Array, Clock, Key, Rollout, Spec


class StateValues(NamedTuple):
    """V of a policy.

    Attributes:
        policy: the policy that is followed.
        v: float32 `[S]`.
        visits: int32 `[S]`, how many visits each value has learned from.
    """

    policy: Follow
    v: Array
    visits: Array


class EpisodicState(NamedTuple):
    """The training state of a method that learns from whole episodes: values, unfinished episodes and the clock."""

    table: StateValues
    pending: Pending
    clock: Clock


def state_values(options: PredictionOptions, spec: Spec) -> StateValues:
    """All values equal. Raises ValueError for spaces that are not finite, or that the policy does not fit."""
    sizes = sizes_of(spec)
    value = jnp.full(sizes.n_states, options.initial_value, jnp.float32)
    return StateValues(follow(options.policy, sizes), value, jnp.zeros(sizes.n_states, jnp.int32))


def episodic_init(algorithm: EpisodicPredictionOptions, key: Key, spec: Spec) -> EpisodicState:
    """The initial training state; used as an algorithm's `init`. Raises ValueError as `state_values` does."""
    pending = pending_init(algorithm.max_episode, spec.num_envs)
    return EpisodicState(state_values(algorithm, spec), pending, clock_init(spec.total_timesteps))


def learn_episodes(
    options: EpisodicPredictionOptions,
    state: EpisodicState,
    rollout: Rollout,
    returns: Callable[[Array, Array, Array], Array],
    first_visit: bool = False,
) -> tuple[EpisodicState, dict[str, Array]]:
    """Move values towards the returns of the episodes that ended in a rollout: `-> state, metrics`.

    Args:
        options: the algorithm's options.
        state: the state before the rollout.
        rollout: `[T, B]`.
        returns: `(reward, discount, next_value) -> G`, each `[L]`, of one episode.
        first_visit: learn only from the first visit of a state in an episode.
    """
    learning_rate, table = schedule_value(options.learning_rate, progress(state.clock)), state.table

    def learn(carry, episode: Steps, here: Array):
        v, visits, total = carry
        target = returns(episode.reward, options.gamma * (1 - episode.terminated), v[episode.next_state])
        here = first_visits(episode.state, here, v.shape[0]) if first_visit else here
        power = options.learning_rate_power
        v, visits, error = move_by_weight(
            v, visits, episode.state, target=target, weight=here, learning_rate=learning_rate, power=power
        )
        return v, visits, total + error

    steps, carry = steps_of(table.policy.sizes, rollout), (table.v, table.visits, jnp.zeros(()))
    carry, pending, counts = each_episode(learn, carry, state.pending, steps, rollout.truncated)
    v, visits, total = carry
    clock = advance_clock(state.clock, rollout.reward.size)
    metrics = {
        "return_error": total / jnp.maximum(counts["episodes"], 1),
        "learning_rate": jnp.asarray(learning_rate, jnp.float32),
    }
    return EpisodicState(table._replace(v=v, visits=visits), pending, clock), metrics | counts
