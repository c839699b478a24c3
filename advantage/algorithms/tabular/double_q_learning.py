"""Double Q-learning (van Hasselt 2010)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock
from advantage.algorithms.hyperparameters import hyperparameters
from advantage.algorithms.tabular.acting import (
    EpsilonGreedy,
    act_by_table,
    choice_noise,
    exploring_actor,
    greedy_by_table,
)
from advantage.algorithms.tabular.action_values import (
    TableState,
    allowed_values,
    control_init,
    rows_of,
    with_masks,
)
from advantage.algorithms.tabular.options import TDControlOptions
from advantage.algorithms.tabular.step_sizes import step_size
from advantage.algorithms.tabular.table import one_step
from advantage.types import Array, Key, Rollout, Spec, no_memory


@hyperparameters
class DoubleQLearning(TDControlOptions):
    """Double Q-learning: one table chooses the best action, the other gives its value.

    At each step, in each environment:

        a          <- argmax_a Q_1(s, a) + Q_2(s, a) with probability 1 - epsilon, else any action
        (i, j)     <- (1, 2) or (2, 1), each with probability 1/2
        delta      <- r + gamma Q_j(s', argmax_a' Q_i(s', a')) - Q_i(s, a)
        Q_i(s, a)  <- Q_i(s, a) + alpha delta

    The maximum over noisy estimates is too large on average; an independent table's value of the chosen action is not.
    A truncated step bootstraps from the true successor; a terminated one does not. Parallel environments share the
    tables, and their updates of one step are summed.

    Source: van Hasselt 2010, "Double Q-learning", algorithm 1; Sutton & Barto 2018, "Reinforcement learning",
    eq. 6.10.
    """

    def init(self, key: Key, spec: Spec) -> TableState:
        """The initial training state, with two tables `[2, S, A]`. Raises ValueError for spaces that are not finite."""
        state = control_init(self, key, spec)
        q, visits = (jnp.stack([x, x]) for x in (state.table.q, state.table.visits))
        return state._replace(table=state.table._replace(q=q, visits=visits))

    initial_memory = no_memory

    def actor(self, state: TableState) -> EpsilonGreedy:
        """The mean of the tables and the current epsilon."""
        table = state.table
        mean = table._replace(q=table.q.mean(0), visits=table.visits.sum(0))
        return exploring_actor(self, state._replace(table=mean))

    n_steps = 1
    noise = choice_noise
    act = act_by_table
    greedy = greedy_by_table

    def update(self, state: TableState, rollout: Rollout, key: Key) -> tuple[TableState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        table = with_masks(state.table, rollout)
        s, a, r, next_s = one_step(table.sizes, rollout)
        chosen = jax.random.bernoulli(key, 0.5, s.shape).astype(jnp.int32)
        best = allowed_values(table.q[chosen, next_s], rows_of(table.allowed, next_s)).argmax(-1)
        discount = self.gamma * (1 - rollout.terminated[0])
        delta = r + discount * table.q[1 - chosen, next_s, best] - table.q[chosen, s, a]
        visits = table.visits.at[chosen, s, a].add(1)
        alpha = step_size(self, state.clock, visits[chosen, s, a])
        learned = TableState(
            table._replace(q=table.q.at[chosen, s, a].add(alpha * delta), visits=visits),
            advance_clock(state.clock, rollout.reward.size),
        )
        return learned, {"td_error": jnp.abs(delta).mean(), "learning_rate": jnp.mean(alpha)}
