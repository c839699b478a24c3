"""Gradient planning: improve a sequence of actions along the gradient of its imagined return."""

from __future__ import annotations

from typing import Any

import jax
import optax

from advantage.planners.imagination import PlanningProblem, mean_return
from advantage.planners.random_shooting import Plan
from advantage.types import Array, Key, Pytree


def gradient_planning(
    problem: PlanningProblem,
    state: Pytree,
    key: Key,
    begin: Array,
    *,
    iterations: int,
    step_size: Array | float,
) -> Plan:
    """A locally best sequence: Adam up the gradient of the mean return, through the model, within the bounds.

    It takes `iterations * particles * horizon` steps of the model and as many of its derivative, with
    new random numbers each time.

    Args:
        problem: model, actions, discount and particles; the actions are a Box.
        state: where the plan begins, one state without an axis in front.
        key: draws what the model leaves to chance.
        begin: the first sequence, `[H, d]`.
        iterations: number of steps.
        step_size: Adam's, in the units of the actions.

    Source: Henaff, Whitney & LeCun 2017, "Model-based planning with discrete and continuous actions", section 3.
    """
    optimiser = optax.adam(step_size)

    def value(sequence: Array, key: Key) -> Array:
        return mean_return(problem, state, sequence[:, None], key)[0]

    def improve(i: Array, carry: Any) -> Any:
        sequence, adam = carry
        gradient = jax.grad(lambda sequence: -value(sequence, jax.random.fold_in(key, i)))(sequence)
        change, adam = optimiser.update(gradient, adam)
        return problem.actions.clipped(sequence + change), adam

    sequence, _ = jax.lax.fori_loop(0, iterations, improve, (begin, optimiser.init(begin)))
    return Plan(sequence, value(sequence, jax.random.fold_in(key, iterations)))
