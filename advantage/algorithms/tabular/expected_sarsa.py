"""Expected SARSA (van Seijen et al. 2009)."""

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


class ExpectedSarsaState(NamedTuple):
    """Everything that Expected SARSA knows: tables `[S, A]` and the clock."""

    sizes: Sizes
    q: Array
    visits: Array
    step: Array
    total_timesteps: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class ExpectedSarsa:
    """Expected SARSA: like SARSA, with the mean over the next action in place of the one that chance chose.

    At each step, in each environment:

        a        <- argmax_a Q(s, a) with probability 1 - epsilon, else any action
        delta    <- r + gamma sum_a' pi(a' | s') Q(s', a') - Q(s, a)
        Q(s, a)  <- Q(s, a) + alpha delta

    where pi is the policy that chose a. With epsilon = 0 it is Q-learning. A truncated step bootstraps from the true
    successor; a terminated one does not. Environments side by side share the table, and their updates of one step
    add up.

    Source: van Seijen et al. 2009, "A theoretical and empirical analysis of Expected Sarsa", eq. 5 and 6; Sutton &
    Barto 2018, "Reinforcement learning", eq. 6.9.
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

    def init(self, key: Key, spec: Spec) -> ExpectedSarsaState:
        """The first state. Raises ValueError for spaces that are not finite."""
        sizes = sizes_of(spec)
        shape = sizes.n_states, sizes.actions
        return ExpectedSarsaState(
            sizes,
            jnp.full(shape, self.initial_value, jnp.float32),
            jnp.zeros(shape, jnp.int32),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    actor, noise, act, greedy = exploring_actor, noise_of_choices, act_by_table, greedy_by_table

    def update(
        self, state: ExpectedSarsaState, rollout: Rollout, key: Key
    ) -> tuple[ExpectedSarsaState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        s, a, r, next_s = one_step(state.sizes, rollout)
        discount = self.gamma * (1 - rollout.terminated[0])
        delta = r + discount * self.actor(state).expected(next_s) - state.q[s, a]
        visits = counted(state.visits, s, a, self.learning_rate_power, self.epsilon_power)
        learning_rate = schedule_value(self.learning_rate, progress_of(state))
        alpha = decayed(learning_rate, visits[s, a], self.learning_rate_power)
        learned = state._replace(
            q=state.q.at[s, a].add(alpha * delta),
            visits=visits,
            step=state.step + jnp.uint32(rollout.reward.size),
        )
        return learned, {"td_error": jnp.abs(delta).mean(), "learning_rate": jnp.mean(alpha)}
