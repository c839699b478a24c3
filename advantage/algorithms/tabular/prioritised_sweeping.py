"""Prioritised sweeping (Moore & Atkeson 1993)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.learned_model import LastOutcome, last_outcome
from advantage.algorithms.tabular.table import (
    Sizes,
    act_by_table,
    exploring_actor,
    greedy_by_table,
    noise_of_choices,
    progress_of,
    sizes_of,
)
from advantage.types import Array, Key, Rollout, Spec


class PrioritisedSweepingState(NamedTuple):
    """Everything that prioritised sweeping knows: tables `[S, A]`, the model, and the clock.

    Attributes:
        priority: float32 `[S, A]`, how much a pair's value would change; 0 is not in the queue.
    """

    sizes: Sizes
    q: Array
    visits: Array
    model: LastOutcome
    priority: Array
    step: Array
    total_timesteps: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class PrioritisedSweeping:
    """Prioritised sweeping for a deterministic world: plan first where values change most, and go on backwards.

    After each step, in each environment:

        Model(s, a)      <- r, s'
        P(s, a)          <- |r + gamma max_a' Q(s', a') - Q(s, a)|, into the queue if above theta
        planning_steps times, while the queue is not empty:
            s, a         <- the pair of the highest priority, which leaves the queue
            Q(s, a)      <- Q(s, a) + alpha (r + gamma max_a' Q(s', a') - Q(s, a)), with r, s' from the model
            for each pair that leads to s, by the model:
                its P    <- |r + gamma max_a Q(s, a) - Q(pair)|, into the queue if above theta

    A pair that is in the queue already keeps the higher of its priorities. Environments side by side share it all,
    and each brings its own planning steps. The model holds the last outcome only: where chance decides, values
    follow it, and `Dyna(model="frequencies")` is the better choice.

    Source: Sutton & Barto 2018, "Reinforcement learning", section 8.4; Moore & Atkeson 1993, "Prioritized sweeping:
    reinforcement learning with less data and less time".
    """

    learning_rate: float | Schedule = ranged(1.0, "[0, 1]")
    """Step size alpha; 1 takes the model at its word. A number or a schedule of progress."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    epsilon: float | Schedule = ranged(0.1, "[0, 1]")
    """Probability of an action at random; a number or a schedule of progress."""
    epsilon_power: float | None = ranged(None, "[0, 1]")
    """Divides epsilon by the visits of s to this power; None keeps it."""
    initial_value: float = ranged(0.0, "(-inf, inf)")
    """Of every Q(s, a); above what can be earned, it makes for exploration."""
    planning_steps: int = ranged(5, "[1, inf)")
    """Updates for each real step, at most; nothing is learned but by them."""
    threshold: float = ranged(1e-4, "[0, inf)")
    """Theta, the smallest change that is worth an update, in units of return."""

    def __post_init__(self):
        check(self)

    @property
    def n_steps(self) -> int:
        return 1

    def init(self, key: Key, spec: Spec) -> PrioritisedSweepingState:
        """The first state. Raises ValueError for spaces that are not finite."""
        sizes = sizes_of(spec)
        shape = sizes.n_states, sizes.actions
        return PrioritisedSweepingState(
            sizes,
            jnp.full(shape, self.initial_value, jnp.float32),
            jnp.zeros(shape, jnp.int32),
            last_outcome(sizes),
            jnp.zeros(shape, jnp.float32),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    actor, noise, act, greedy = exploring_actor, noise_of_choices, act_by_table, greedy_by_table

    def update(
        self, state: PrioritisedSweepingState, rollout: Rollout, key: Key
    ) -> tuple[PrioritisedSweepingState, dict[str, Array]]:
        """One step in each environment, and at most `planning_steps` updates for each: `-> state, metrics`."""
        n_states, n_actions = state.q.shape
        s, a, r, next_s = (
            state.sizes.index(rollout.obs)[0],
            rollout.action[0],
            rollout.reward[0].astype(jnp.float32),
            jnp.where(rollout.terminated[0], n_states, state.sizes.index(rollout.next_obs)[0]),
        )
        alpha = schedule_value(self.learning_rate, progress_of(state))
        model, visits = state.model.learned(s, a, r, next_s), state.visits.at[s, a].add(1)

        def error(q, s, a):
            """By the model; the end is no row of the table, and its value is 0."""
            values = q.at[model.successor[s, a]].get(mode="fill", fill_value=0)
            return model.reward[s, a] + self.gamma * values.max(-1) - q[s, a]

        def queued(change):
            """The priority that a change brings."""
            return jnp.where(change > self.threshold, change, 0)

        def sweep(carry):
            n, q, priority = carry
            s, a = jnp.divmod(priority.argmax(), n_actions)
            q = q.at[s, a].add(alpha * error(q, s, a))
            leads_here = (model.successor == s) & (visits > 0)
            change = jnp.abs(model.reward + self.gamma * q[s].max() - q)
            priority = jnp.maximum(priority.at[s, a].set(0), jnp.where(leads_here, queued(change), 0))
            return n + 1, q, priority

        def waiting(carry):
            n, _, priority = carry
            return (n < self.planning_steps * r.size) & (priority.max() > 0)

        delta = jnp.abs(error(state.q, s, a))
        start = jnp.int32(0), state.q, state.priority.at[s, a].max(queued(delta))
        n, q, priority = jax.lax.while_loop(waiting, sweep, start)
        learned = state._replace(
            q=q, visits=visits, model=model, priority=priority, step=state.step + jnp.uint32(r.size)
        )
        return learned, {"td_error": delta.mean(), "planning_updates": n.astype(jnp.float32)}
