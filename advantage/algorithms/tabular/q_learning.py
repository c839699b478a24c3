"""Q-learning (Watkins 1989)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.table import (
    Sizes,
    act_by_table,
    counted,
    decayed,
    exploring_actor,
    greedy_by_table,
    noise_of_choices,
    one_step,
    progress_of,
    sizes_of,
)
from advantage.types import Array, Key, Rollout, Spec


class QLearningState(NamedTuple):
    """Everything that Q-learning knows: tables `[S, A]` and the clock; visits are counted where a power asks."""

    sizes: Sizes
    q: Array
    visits: Array
    step: Array
    total_timesteps: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class QLearning:
    """Q-learning: learn the best policy's action values while following another.

    At each step, in each environment:

        a        <- argmax_a Q(s, a) with probability 1 - epsilon, else any action
        delta    <- r + gamma max_a' Q(s', a') - Q(s, a)
        Q(s, a)  <- Q(s, a) + alpha delta

    A truncated step bootstraps from the true successor; a terminated one does not. Environments side by side share
    the table, and their updates of one step add up.

    Source: Watkins & Dayan 1992, "Q-learning", eq. 1; Sutton & Barto 2018, "Reinforcement learning", eq. 6.8.
    """

    learning_rate: float | Schedule = ranged(0.1, "[0, 1]")
    """Step size alpha; a number or a schedule of progress."""
    learning_rate_power: float | None = ranged(None, "[0, 1]")
    """Divides alpha by the visits of (s, a) to this power: 1 makes a running mean; None keeps it."""
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

    def init(self, key: Key, spec: Spec) -> QLearningState:
        """The first state. Raises ValueError for spaces that are not finite."""
        sizes = sizes_of(spec)
        shape = sizes.n_states, sizes.actions
        return QLearningState(
            sizes,
            jnp.full(shape, self.initial_value, jnp.float32),
            jnp.zeros(shape, jnp.int32),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    actor, noise, act, greedy = exploring_actor, noise_of_choices, act_by_table, greedy_by_table

    def update(
        self, state: QLearningState, rollout: Rollout, key: Key
    ) -> tuple[QLearningState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        s, a, r, next_s = one_step(state.sizes, rollout)
        discount = self.gamma * (1 - rollout.terminated[0])
        delta = r + discount * state.q[next_s].max(-1) - state.q[s, a]
        visits = counted(state.visits, s, a, self.learning_rate_power, self.epsilon_power)
        learning_rate = schedule_value(self.learning_rate, progress_of(state))
        alpha = decayed(learning_rate, visits[s, a], self.learning_rate_power)
        learned = state._replace(
            q=state.q.at[s, a].add(alpha * delta),
            visits=visits,
            step=state.step + jnp.uint32(rollout.reward.size),
        )
        return learned, {"td_error": jnp.abs(delta).mean(), "learning_rate": jnp.mean(alpha)}
