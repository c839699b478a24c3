"""Double Q-learning (van Hasselt 2010)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.table import (
    EpsilonGreedy,
    Sizes,
    act_by_table,
    decayed,
    greedy_by_table,
    noise_of_choices,
    one_step,
    progress_of,
    sizes_of,
)
from advantage.types import Array, Key, Rollout, Spec


class DoubleQLearningState(NamedTuple):
    """Everything that double Q-learning knows: tables `[2, S, A]` and the clock."""

    sizes: Sizes
    q: Array
    visits: Array
    step: Array
    total_timesteps: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class DoubleQLearning:
    """Double Q-learning: one table says which action is best, another what it is worth.

    At each step, in each environment:

        a          <- argmax_a Q_1(s, a) + Q_2(s, a) with probability 1 - epsilon, else any action
        (i, j)     <- (1, 2) or (2, 1), each with probability 1/2
        delta      <- r + gamma Q_j(s', argmax_a' Q_i(s', a')) - Q_i(s, a)
        Q_i(s, a)  <- Q_i(s, a) + alpha delta

    The maximum over noisy values is too large on average; an independent table's value of its action is not. A
    truncated step bootstraps from the true successor; a terminated one does not. Environments side by side share
    the tables, and their updates of one step add up.

    Source: van Hasselt 2010, "Double Q-learning", algorithm 1; Sutton & Barto 2018, "Reinforcement learning",
    eq. 6.10.
    """

    learning_rate: float | Schedule = ranged(0.1, "[0, 1]")
    """Step size alpha; a number or a schedule of progress."""
    learning_rate_power: float | None = ranged(None, "[0, 1]")
    """Divides alpha by the visits of (s, a) in that table to this power: 1 makes a running mean; None keeps it."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    epsilon: float | Schedule = ranged(0.1, "[0, 1]")
    """Probability of an action at random; a number or a schedule of progress."""
    epsilon_power: float | None = ranged(None, "[0, 1]")
    """Divides epsilon by the visits of s to this power; None keeps it."""
    initial_value: float = ranged(0.0, "(-inf, inf)")
    """Of every Q(s, a); above what can be earned, it makes for exploration."""

    def __post_init__(self):
        check(self)

    @property
    def n_steps(self) -> int:
        return 1

    def init(self, key: Key, spec: Spec) -> DoubleQLearningState:
        """The first state. Raises ValueError for spaces that are not finite."""
        sizes = sizes_of(spec)
        shape = 2, sizes.n_states, sizes.actions
        return DoubleQLearningState(
            sizes,
            jnp.full(shape, self.initial_value, jnp.float32),
            jnp.zeros(shape, jnp.int32),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    def actor(self, state: DoubleQLearningState) -> EpsilonGreedy:
        """The table and how much to explore."""
        epsilon = schedule_value(self.epsilon, progress_of(state))
        return EpsilonGreedy(
            state.sizes, state.q.sum(0), decayed(epsilon, state.visits.sum((0, -1)), self.epsilon_power)
        )

    noise, act, greedy = noise_of_choices, act_by_table, greedy_by_table

    def update(
        self, state: DoubleQLearningState, rollout: Rollout, key: Key
    ) -> tuple[DoubleQLearningState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        s, a, r, next_s = one_step(state.sizes, rollout)
        chosen = jax.random.bernoulli(key, 0.5, s.shape).astype(jnp.int32)
        best = state.q[chosen, next_s].argmax(-1)
        discount = self.gamma * (1 - rollout.terminated[0])
        delta = r + discount * state.q[1 - chosen, next_s, best] - state.q[chosen, s, a]
        visits = state.visits.at[chosen, s, a].add(1)
        learning_rate = schedule_value(self.learning_rate, progress_of(state))
        alpha = decayed(learning_rate, visits[chosen, s, a], self.learning_rate_power)
        learned = state._replace(
            q=state.q.at[chosen, s, a].add(alpha * delta),
            visits=visits,
            step=state.step + jnp.uint32(rollout.reward.size),
        )
        return learned, {"td_error": jnp.abs(delta).mean(), "learning_rate": jnp.mean(alpha)}
