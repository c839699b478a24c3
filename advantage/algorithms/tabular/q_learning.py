"""Q-learning (Watkins 1989)."""

from __future__ import annotations

from advantage.algorithms.hyperparameters import hyperparameters
from advantage.algorithms.tabular.acting import act_by_table, choice_noise, exploring_actor, greedy_by_table
from advantage.algorithms.tabular.action_values import (
    TableState,
    control_init,
    greedy_value,
    learn_target,
    with_masks,
)
from advantage.algorithms.tabular.options import TDControlOptions
from advantage.algorithms.tabular.table import one_step
from advantage.types import Array, Key, Rollout, no_memory


@hyperparameters
class QLearning(TDControlOptions):
    """Q-learning: learn the optimal policy's action values while following another.

    At each step, in each environment:

        a        <- argmax_a Q(s, a) with probability 1 - epsilon, else any action
        delta    <- r + gamma max_a' Q(s', a') - Q(s, a)
        Q(s, a)  <- Q(s, a) + alpha delta

    A truncated step bootstraps from the true successor; a terminated one does not. Parallel environments share
    the table, and their updates of one step are summed.

    Source: Watkins & Dayan 1992, "Q-learning", eq. 1; Sutton & Barto 2018, "Reinforcement learning", eq. 6.8.
    """

    n_steps = 1
    init = control_init
    initial_memory = no_memory
    actor = exploring_actor
    noise = choice_noise
    act = act_by_table
    greedy = greedy_by_table

    def update(self, state: TableState, rollout: Rollout, key: Key) -> tuple[TableState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        state = state._replace(table=with_masks(state.table, rollout))
        step = one_step(state.table.sizes, rollout)
        discount = self.gamma * (1 - rollout.terminated[0])
        target = step.r + discount * greedy_value(state.table.q, step.next_s, state.table.allowed)
        return learn_target(self, state, step, target)
