"""Prioritised sweeping (Moore & Atkeson 1993)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init, progress
from advantage.algorithms.hyperparameters import Schedule, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.acting import act_by_table, choice_noise, exploring_actor, greedy_by_table
from advantage.algorithms.tabular.action_values import (
    ActionValues,
    action_values,
    greedy_value,
    with_masks,
)
from advantage.algorithms.tabular.learned_model import LastOutcome, last_outcome, step_with_end
from advantage.algorithms.tabular.options import ControlOptions
from advantage.types import Array, Clock, Key, Rollout, Spec, no_memory


class PrioritisedSweepingState(NamedTuple):
    """The training state of prioritised sweeping: action values, the model, the queue, and the clock.

    Attributes:
        priority: float32 `[S, A]`, how much a pair's value would change; 0 means not in the queue.
    """

    table: ActionValues
    model: LastOutcome
    priority: Array
    clock: Clock


@hyperparameters
class PrioritisedSweeping(ControlOptions):
    """Prioritised sweeping with a deterministic model: update where values change most, then their predecessors.

    After each step, in each environment:

        Model(s, a)      <- r, s'
        P(s, a)          <- |r + gamma max_a' Q(s', a') - Q(s, a)|, into the queue if above theta
        planning_steps times, while the queue is not empty:
            s, a         <- the pair of the highest priority, which leaves the queue
            Q(s, a)      <- Q(s, a) + alpha (r + gamma max_a' Q(s', a') - Q(s, a)), with r, s' from the model
            for each pair that leads to s, by the model:
                its P    <- |r + gamma max_a Q(s, a) - Q(pair)|, into the queue if above theta

    A pair that is in the queue already keeps the higher of its priorities. Parallel environments share all of it, and
    each has its own planning steps. The model holds the last outcome only. For stochastic environments
    `Dyna(model="frequencies")` is the better choice.

    Source: Sutton & Barto 2018, "Reinforcement learning", section 8.4; Moore & Atkeson 1993, "Prioritized sweeping:
    reinforcement learning with less data and less time".
    """

    learning_rate: float | Schedule = ranged(1.0, "[0, 1]")
    """Step size alpha; 1 trusts the model fully. A number or a schedule of progress."""
    planning_steps: int = ranged(5, "[1, inf)")
    """Largest number of updates for each real step; all learning happens in them."""
    threshold: float = ranged(1e-4, "[0, inf)")
    """Theta, the smallest change that causes an update, in units of return."""

    def init(self, key: Key, spec: Spec) -> PrioritisedSweepingState:
        """The initial training state. Raises ValueError for spaces that are not finite."""
        table = action_values(spec, self.initial_value)
        return PrioritisedSweepingState(
            table,
            last_outcome(table.sizes),
            jnp.zeros(table.q.shape, jnp.float32),
            clock_init(spec.total_timesteps),
        )

    n_steps = 1
    initial_memory = no_memory
    actor = exploring_actor
    noise = choice_noise
    act = act_by_table
    greedy = greedy_by_table

    def update(
        self, state: PrioritisedSweepingState, rollout: Rollout, key: Key
    ) -> tuple[PrioritisedSweepingState, dict[str, Array]]:
        """One step in each environment, and at most `planning_steps` updates for each: `-> state, metrics`."""
        table, clock = with_masks(state.table, rollout), state.clock
        n_states, n_actions = table.q.shape
        step = step_with_end(table.sizes, rollout)
        alpha = schedule_value(self.learning_rate, progress(clock))
        model, visits = state.model.learned(step), table.visits.at[step.s, step.a].add(1)

        def error(q, s, a):
            """TD error by the model; the end has no row in the table, and its value is 0."""
            next_s = model.successor[s, a]
            value = jnp.where(next_s < n_states, greedy_value(q, next_s, table.allowed), 0)
            return model.reward[s, a] + self.gamma * value - q[s, a]

        def queued(change):
            """The priority of a change."""
            return jnp.where(change > self.threshold, change, 0)

        def sweep(carry):
            n, q, priority = carry
            s, a = jnp.divmod(priority.argmax(), n_actions)
            q = q.at[s, a].add(alpha * error(q, s, a))
            leads_here = (model.successor == s) & (visits > 0)
            change = jnp.abs(model.reward + self.gamma * greedy_value(q, s, table.allowed) - q)
            priority = jnp.maximum(priority.at[s, a].set(0), jnp.where(leads_here, queued(change), 0))
            return n + 1, q, priority

        def waiting(carry):
            n, _, priority = carry
            return (n < self.planning_steps * step.r.size) & (priority.max() > 0)

        delta = jnp.abs(error(table.q, step.s, step.a))
        start = jnp.int32(0), table.q, state.priority.at[step.s, step.a].max(queued(delta))
        n, q, priority = jax.lax.while_loop(waiting, sweep, start)
        learned = PrioritisedSweepingState(
            table._replace(q=q, visits=visits), model, priority, advance_clock(clock, step.r.size)
        )
        return learned, {"td_error": delta.mean(), "planning_updates": n.astype(jnp.float32)}
