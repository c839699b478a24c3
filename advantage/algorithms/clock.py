"""The clock of a run: how much of the budget is spent. Every algorithm's state has one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from advantage.types import Array, Clock, Pytree


def clock_init(total_timesteps: int | Array) -> Clock:
    """A clock with nothing of the budget spent."""
    return Clock(jnp.zeros((), jnp.uint32), jnp.asarray(total_timesteps, jnp.uint32))


def advance_clock(clock: Clock, steps: int | Array) -> Clock:
    """The clock after `steps` more environment steps."""
    return clock._replace(step=clock.step + jnp.uint32(steps))


def progress(clock: Clock) -> Array:
    """The share of the budget spent, in [0, 1]."""
    return clock.step.astype(jnp.float32) / clock.total_timesteps.astype(jnp.float32)


def with_budget(state: Pytree, total_timesteps: int | Array) -> Pytree:
    """The state with a new budget, wherever in the state the clock is."""

    def budgeted(node: Pytree) -> Pytree:
        is_clock = isinstance(node, Clock)
        return node._replace(total_timesteps=jnp.asarray(total_timesteps, jnp.uint32)) if is_clock else node

    return jax.tree.map(budgeted, state, is_leaf=lambda node: isinstance(node, Clock))
