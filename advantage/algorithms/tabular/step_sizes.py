"""Step sizes: scheduled by progress, and divided by a power of the visits."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import Schedule, ranged, schedule_value
from advantage.types import Array, Clock


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSizeOptions:
    """How far an update moves a value."""

    learning_rate: float | Schedule = ranged(0.1, "[0, 1]")
    """Step size alpha; a number or a schedule of progress."""
    learning_rate_power: float | None = ranged(None, "[0, 1]")
    """Divides alpha by the visits of the state, or of (s, a), to this power: 1 makes a running mean; None keeps it."""


def decayed(value: Array | float, count: Array, power: Array | float | None) -> Array | float:
    """`value / count^power`: constant for None, harmonic (a running mean) for power 1, polynomial for powers between.

    Args:
        value: the step size or exploration at the first visit.
        count: visits, this one included; 0 counts as 1.
        power: in [0, 1]; step sizes of powers in (1/2, 1] converge with probability one.

    Source: Robbins & Monro 1951, "A stochastic approximation method", eq. 6 and 27.
    """
    if power is None:
        return value
    return value / jnp.maximum(count, 1).astype(jnp.float32) ** power


def step_size(options: StepSizeOptions, clock: Clock, visits: Array) -> Array | float:
    """The step size alpha, scheduled by progress, of values with `visits` visits."""
    learning_rate = schedule_value(options.learning_rate, progress(clock))
    return decayed(learning_rate, visits, options.learning_rate_power)
