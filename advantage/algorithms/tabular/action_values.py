"""Action values in a table: what control methods share."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init
from advantage.algorithms.tabular.options import ControlOptions, TDControlOptions
from advantage.algorithms.tabular.step_sizes import step_size
from advantage.algorithms.tabular.table import Sizes, Step, sizes_of
from advantage.types import Array, Clock, Key, Rollout, Spec


class ActionValues(NamedTuple):
    """Q, and how often each pair was visited.

    Attributes:
        sizes: of the table.
        q: float32 `[S, A]`.
        visits: int32 `[S, A]`; some methods count only if a `_power` option needs it.
        allowed: bool `[S, A]`, the newest mask of each state; None where observations have no mask.
    """

    sizes: Sizes
    q: Array
    visits: Array
    allowed: Array | None = None


class TableState(NamedTuple):
    """The state of a method that learns from one step at a time: action values and the clock."""

    table: ActionValues
    clock: Clock


def action_values(spec: Spec, initial_value: float) -> ActionValues:
    """All action values equal, no pair visited. Raises ValueError for spaces that are not finite."""
    sizes = sizes_of(spec)
    shape = sizes.n_states, sizes.actions
    allowed = jnp.ones(shape, bool) if sizes.has_mask else None
    return ActionValues(
        sizes, jnp.full(shape, initial_value, jnp.float32), jnp.zeros(shape, jnp.int32), allowed
    )


def control_init(algorithm: ControlOptions, key: Key, spec: Spec) -> TableState:
    """The initial training state; used as an algorithm's `init`. Raises ValueError for spaces that are not finite."""
    return TableState(action_values(spec, algorithm.initial_value), clock_init(spec.total_timesteps))


def with_masks(table: ActionValues, rollout: Rollout) -> ActionValues:
    """The table with the masks of a rollout; if a state had several, the newest counts."""
    sizes, allowed = table.sizes, table.allowed
    goes_on = jnp.logical_not(rollout.terminated)  # no action follows where an episode terminated
    for obs, acts in ((rollout.obs, jnp.ones_like(goes_on)), (rollout.next_obs, goes_on)):
        mask = sizes.mask(obs)
        if mask is None or allowed is None:
            return table
        s = jnp.where(acts, sizes.index(obs), sizes.n_states).ravel()
        allowed = allowed.at[s].set(mask.reshape(-1, sizes.actions), mode="drop")
    return table._replace(allowed=allowed)


def allowed_values(q: Array, mask: Array | None) -> Array:
    """`q` `[..., A]`, -inf where the mask, if there is one, is false."""
    return q if mask is None else jnp.where(mask, q, -jnp.inf)


def is_allowed(q: Array) -> Array:
    """Which actions no mask forbids: `[..., A] -> bool [..., A]`."""
    return q > -jnp.inf


def greedy_value(q: Array, s: Array, allowed: Array | None) -> Array:
    """`max_a Q(s, a)` over the actions that are allowed, for rows of the table, `[...]`."""
    return allowed_values(q[s], rows_of(allowed, s)).max(-1)


def rows_of(allowed: Array | None, s: Array) -> Array | None:
    """The rows of `ActionValues.allowed`, if there is one."""
    return None if allowed is None else allowed[s]


def is_best(q: Array) -> Array:
    """Which actions have the largest of their row's values: `[..., A] -> bool [..., A]`."""
    return q == q.max(-1, keepdims=True)


def count_visits(options: TDControlOptions, visits: Array, s: Array, a: Array) -> Array:
    """`visits` with (s, a) counted, once for each of `[B]`; unchanged if no `_power` option needs it."""
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
