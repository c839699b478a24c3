"""Watkins's Q(lambda) (Watkins 1989)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init
from advantage.algorithms.hyperparameters import hyperparameters, ranged
from advantage.algorithms.tabular.acting import act_by_table, choice_noise, exploring_actor, greedy_by_table
from advantage.algorithms.tabular.action_values import (
    ActionValues,
    action_values,
    count_visits,
    greedy_value,
    with_masks,
)
from advantage.algorithms.tabular.options import TDControlOptions
from advantage.algorithms.tabular.step_sizes import step_size
from advantage.algorithms.tabular.table import one_step
from advantage.types import Array, Clock, Key, Rollout, Spec, no_memory


class WatkinsQLambdaState(NamedTuple):
    """The training state of Q(lambda): action values, traces `[B, S, A]` and the clock."""

    table: ActionValues
    trace: Array
    clock: Clock


@hyperparameters
class WatkinsQLambda(TDControlOptions):
    """Watkins's Q(lambda): each TD error of Q-learning also corrects the pairs that led there by greedy actions.

    At each step, in each environment, where the trace e holds the step sizes still to apply:

        a        <- argmax_a Q(s, a) with probability 1 - epsilon, else any action
        e        <- gamma lam e if Q(s, a) = max_a Q(s, a), else 0
        e(s, a)  <- e(s, a) + alpha    accumulating
                    alpha              replacing
        delta    <- r + gamma max_a' Q(s', a') - Q(s, a)
        Q        <- Q + delta e

    The reward of an action that is not greedy says nothing about the greedy policy's return from the pairs before it,
    so their traces end there. A truncated step bootstraps from the true successor; a terminated one does not; no trace
    crosses an episode's end. Parallel environments share the table but not the traces, and their updates of one step
    are summed.

    Source: Watkins 1989, "Learning from delayed rewards", chapter 12; Sutton & Barto 2018, "Reinforcement learning",
    section 12.10.
    """

    lam: float = ranged(0.9, "[0, 1]")
    """Trace decay lambda: 0 corrects the last step alone, 1 all steps since the last action that was not greedy."""
    trace: Literal["accumulating", "replacing"] = "accumulating"
    """How a visit updates the trace of its pair; accumulating traces diverge if pairs recur and alpha is large."""

    def init(self, key: Key, spec: Spec) -> WatkinsQLambdaState:
        """The initial training state. Raises ValueError for spaces that are not finite."""
        table = action_values(spec, self.initial_value)
        trace = jnp.zeros((spec.num_envs, *table.q.shape), jnp.float32)
        return WatkinsQLambdaState(table, trace, clock_init(spec.total_timesteps))

    n_steps = 1
    initial_memory = no_memory
    actor = exploring_actor
    noise = choice_noise
    act = act_by_table
    greedy = greedy_by_table

    def update(
        self, state: WatkinsQLambdaState, rollout: Rollout, key: Key
    ) -> tuple[WatkinsQLambdaState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        table = with_masks(state.table, rollout)
        q = table.q
        s, a, r, next_s = one_step(table.sizes, rollout)
        visits = count_visits(self, table.visits, s, a)
        alpha = step_size(self, state.clock, visits[s, a])

        best = q[s, a] == greedy_value(q, s, table.allowed)
        env = jnp.arange(len(r))
        trace = (self.gamma * self.lam * best)[:, None, None] * state.trace
        before = trace[env, s, a] if self.trace == "accumulating" else 0.0
        trace = trace.at[env, s, a].set(before + alpha)

        discount = self.gamma * (1 - rollout.terminated[0])
        delta = r + discount * greedy_value(q, next_s, table.allowed) - q[s, a]
        done = jnp.logical_or(rollout.terminated[0], rollout.truncated[0])
        learned = WatkinsQLambdaState(
            table._replace(q=q + jnp.einsum("b,bsa->sa", delta, trace), visits=visits),
            (1.0 - done)[:, None, None] * trace,
            advance_clock(state.clock, rollout.reward.size),
        )
        return learned, {"td_error": jnp.abs(delta).mean(), "learning_rate": jnp.mean(alpha)}
