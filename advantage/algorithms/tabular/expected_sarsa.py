"""Expected SARSA (van Seijen et al. 2009)."""

from __future__ import annotations

from advantage.algorithms.hyperparameters import hyperparameters
from advantage.algorithms.tabular.acting import act_by_table, choice_noise, exploring_actor, greedy_by_table
from advantage.algorithms.tabular.action_values import (
    TableState,
    control_init,
    learn_target,
    with_masks,
)
from advantage.algorithms.tabular.options import TDControlOptions
from advantage.algorithms.tabular.table import one_step
from advantage.types import Array, Key, Rollout, no_memory


@hyperparameters
class ExpectedSarsa(TDControlOptions):
    """Expected SARSA: like SARSA, with the mean over the next action in place of a sampled one.

    At each step, in each environment:

        a        <- argmax_a Q(s, a) with probability 1 - epsilon, else any action
        delta    <- r + gamma sum_a' pi(a' | s') Q(s', a') - Q(s, a)
        Q(s, a)  <- Q(s, a) + alpha delta

    where pi is the policy that chose a. With epsilon = 0 it is Q-learning. A truncated step bootstraps from the true
    successor; a terminated one does not. Parallel environments share the table, and their updates of one step are
    summed.

    Source: van Seijen et al. 2009, "A theoretical and empirical analysis of Expected Sarsa", eq. 5 and 6; Sutton &
    Barto 2018, "Reinforcement learning", eq. 6.9.
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
        target = step.r + discount * self.actor(state).expected(step.next_s)
        return learn_target(self, state, step, target)
