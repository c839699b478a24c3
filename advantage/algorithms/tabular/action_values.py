"""Action values in a table: what control methods share."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init
from advantage.algorithms.tabular.options import ControlOptions, TDControlOptions
from advantage.algorithms.tabular.step_sizes import step_size
from advantage.algorithms.tabular.table import Sizes, Step, sizes_of
from advantage.types import Array, Clock, Key, Spec


class ActionValues(NamedTuple):
    """Q, and how often each pair was visited.

    Attributes:
        sizes: of the table.
        q: float32 `[S, A]`.
        visits: int32 `[S, A]`; some methods count only where a power asks for it.
    """

    sizes: Sizes
    q: Array
    visits: Array


class TableState(NamedTuple):
    """Everything that a method knows which learns from one step at a time: action values and the clock."""

    table: ActionValues
    clock: Clock


def action_values(spec: Spec, initial_value: float) -> ActionValues:
    """All values alike, no pair visited. Raises ValueError for spaces that are not finite."""
    sizes = sizes_of(spec)
    shape = sizes.n_states, sizes.actions
    return ActionValues(sizes, jnp.full(shape, initial_value, jnp.float32), jnp.zeros(shape, jnp.int32))


def control_init(algorithm: ControlOptions, key: Key, spec: Spec) -> TableState:
    """The first state; an algorithm's `init`. Raises ValueError for spaces that are not finite."""
    return TableState(action_values(spec, algorithm.initial_value), clock_init(spec.total_timesteps))


def greedy_value(q: Array, s: Array) -> Array:
    """`max_a Q(s, a)` for rows of the table, `[...]`."""
    return q[s].max(-1)


def greedy_action(q: Array, s: Array | tuple[Array, ...]) -> Array:
    """`argmax_a Q(s, a)` for rows of the table, the first of several: int `[...]`."""
    return q[s].argmax(-1)


def is_best(q: Array) -> Array:
    """Which actions have the largest of their row's values: `[..., A] -> bool [..., A]`."""
    return q == q.max(-1, keepdims=True)


def count_visits(options: TDControlOptions, visits: Array, s: Array, a: Array) -> Array:
    """`visits` with (s, a) counted, once for each of `[B]`; as it was where no power asks for it."""
    asked = options.learning_rate_power is not None or options.epsilon_power is not None
    return visits.at[s, a].add(1) if asked else visits


def learn_target(
    options: TDControlOptions, state: TableState, step: Step, target: Array
) -> tuple[TableState, dict[str, Array]]:
    """`Q(s, a) <- Q(s, a) + alpha (target - Q(s, a))` in each environment: `-> state, metrics`."""
    table, s, a = state.table, step.s, step.a
    delta = target - table.q[s, a]
    visits = count_visits(options, table.visits, s, a)
    alpha = step_size(options, state.clock, visits[s, a])
    table = table._replace(q=table.q.at[s, a].add(alpha * delta), visits=visits)
    learned = TableState(table, advance_clock(state.clock, delta.size))
    return learned, {"td_error": jnp.abs(delta).mean(), "learning_rate": jnp.mean(alpha)}
