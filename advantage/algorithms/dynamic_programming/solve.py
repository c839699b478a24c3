"""Solve a known Markov decision process."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from advantage.algorithms.dynamic_programming.modified_policy_iteration import ModifiedPolicyIteration
from advantage.algorithms.dynamic_programming.plan import Plan, Solver
from advantage.environments.tables.mdp import MDP
from advantage.plain_values import require_whole

PATIENCE = 100  # iterations without progress, after which changes of the size of rounding end the run


class Solution(NamedTuple):
    """The result of `solve`.

    Attributes:
        value: float64 `[S]`, or `[T + 1, S]` for a finite horizon; the bias for the average reward.
        action_value: float64 `[S, A]`, `r(s, a) + gamma Σ_s' P(s' | s, a) value(s')`.
        policy: int32 `[S]`, or `[T, S]` for a finite horizon.
        error_bound: no entry of `value` is further from the optimal value than this, rounding included; for the average
            reward, the gain from the optimal gain.
        iterations: number of iterations.
        residuals: float64 `[iterations]`, how far each was from a fixed point; see `Plan.residual`.
        converged: whether the tolerance was reached.
        extra: other results of the method, such as "gain" or "occupancy", and its iterate.
    """

    value: np.ndarray
    action_value: np.ndarray
    policy: np.ndarray
    error_bound: float
    iterations: int
    residuals: np.ndarray
    converged: bool
    extra: dict[str, np.ndarray]


def solve(mdp: MDP, solver: Solver | None = None, max_iterations: int = 100_000) -> Solution:
    """The optimal value and policy of a table.

    Args:
        mdp: the problem.
        solver: the method, by default `ModifiedPolicyIteration()`.
        max_iterations: number of iterations after which it stops without convergence.

    Raises:
        ValueError: `max_iterations` below 1, or a table that the method cannot solve.
    """
    max_iterations = require_whole("max_iterations", max_iterations, 1)
    solver = ModifiedPolicyIteration() if solver is None else solver
    plan, residuals = solver.start(mdp), []
    lowest, idle = np.inf, 0
    while not plan.converged and len(residuals) < max_iterations:
        before, plan = plan, solver.improve(mdp, plan)
        residuals.append(plan.residual)
        idle = 0 if plan.residual < lowest else idle + 1
        lowest = min(lowest, plan.residual)
        waits = idle > PATIENCE and plan.residual <= 64 * np.spacing(np.abs(plan.value).max())
        if waits or (plan.error_bound == before.error_bound and _same(before, plan)):
            break  # as exact as rounding allows: nothing would change any more, or only the last digits
    return Solution(
        value=plan.value,
        action_value=solver.action_value(mdp, plan),
        policy=plan.policy,
        error_bound=plan.error_bound,
        iterations=len(residuals),
        residuals=np.array(residuals),
        converged=plan.converged,
        extra=plan.extra,
    )


def _same(before: Plan, plan: Plan) -> bool:
    pairs = [(before.value, plan.value), *((before.extra[name], plan.extra[name]) for name in plan.extra)]
    return all(np.array_equal(*pair) for pair in pairs)
