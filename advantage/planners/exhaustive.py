"""Exhaustive search: the exact value of every action to a depth, by looking at everything that can happen."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from advantage.models.interface import EnumerableModel
from advantage.planners.imagination import PlanningProblem
from advantage.types import Array, Pytree


def exhaustive_search(
    problem: PlanningProblem,
    state: Pytree,
    *,
    depth: int,
    value: Callable[[Pytree], Array] | None = None,
) -> Array:
    """`Q_depth(s, a)` for every action, `[A]`, the value of the best plan that reacts to what happens.

        Q_0(s, a) undefined,   V_0 = v
        Q_d(s, a) = sum over s' of P(s'|s, a) (r(s, a, s') + gamma (1 - terminated) V_{d-1}(s'))
        V_d(s)    = max_a Q_d(s, a)

    It looks at `(A K)^depth` successors, K of them for each action.

    Args:
        problem: a model that knows all successors, Discrete actions, and the discount.
        state: the root, one state.
        depth: at least 1.
        value: v, of one state; 0 if there is none.

    Source: Bellman 1957, "Dynamic programming", chapter 3.
    """
    model, gamma = problem.model, problem.gamma
    assert isinstance(model, EnumerableModel)

    def action_value(state: Pytree, depth: int) -> Array:
        def of(action: Array) -> Array:
            after = model.outcomes(state, action)
            if depth > 1:
                later = jax.vmap(lambda s: action_value(s, depth - 1).max())(after.state)
            else:
                later = jnp.zeros_like(after.reward) if value is None else jax.vmap(value)(after.state)
            return (after.probability * (after.reward + gamma * (1 - after.terminated) * later)).sum()

        return jax.vmap(of)(jnp.arange(problem.actions.choices))

    return action_value(state, depth)
