"""The interface of a solver: its first plan, its iterations and its error bounds."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from advantage.algorithms.dynamic_programming.backups import ROUNDING, Backup, action_values, facts, largest
from advantage.algorithms.dynamic_programming.episode_ends import horizon
from advantage.algorithms.dynamic_programming.options import SolverOptions, discount
from advantage.environments.tables.mdp import MDP


class Plan(NamedTuple):
    """The state of a solver after some iterations: arrays and numbers only, so that a checkpoint can hold it.

    Attributes:
        value: float64 `[S]`, the estimate of the optimal value; for a finite horizon `[T + 1, S]`.
        policy: int32 `[S]`, an action for each state; for a finite horizon `[T, S]`.
        error_bound: no entry of `value` is further from the optimal value than this (for the average reward: the gain
            from the optimal gain), rounding included. Infinite while nothing is guaranteed.
        residual: half the difference between the largest and the smallest entry of `T v - v`, with `v` the iterate
            and T the Bellman operator; at a discount of 1 the largest `|T v - v|`.
        converged: the solver is done: `error_bound <= tolerance`, or, where no bound is finite, `residual <=
            tolerance`.
        extra: other arrays that the method needs or returns.
    """

    value: np.ndarray
    policy: np.ndarray
    error_bound: float
    residual: float
    converged: bool
    extra: dict[str, np.ndarray]


@runtime_checkable
class Solver(Protocol):
    """A frozen dataclass of hyperparameters and three pure functions of a table and a plan."""

    def start(self, mdp: MDP) -> Plan:
        """The plan before the first iteration.

        Raises:
            ValueError: a table that the method cannot solve, or that would not fit into memory.
        """
        ...

    def improve(self, mdp: MDP, plan: Plan) -> Plan:
        """One iteration; the same arguments give the same numbers."""
        ...

    def action_value(self, mdp: MDP, plan: Plan) -> np.ndarray:
        """`Q(s, a)` of the plan's value, `[S, A]`."""
        ...


def rounding(mdp: MDP, gamma: float, size: float) -> float:
    """A bound on the rounding error of a computed `r + gamma P v`, with `size = max |v|`.

    Source: Higham 2002, "Accuracy and stability of numerical algorithms", section 3.1.
    """
    known = facts(mdp)
    return (2 * known.widest + 4) * ROUNDING * (known.reward + gamma * size)


def bracket(mdp: MDP, gamma: float, horizon: float, backup: Backup) -> tuple[float, float]:
    """Two constants with `low <= v* - T v <= high` in every state, rounding included.

    With `m` and `M` the smallest and largest entry of `T v - v`,

        gamma / (1 - gamma) m <= v* - T v <= gamma / (1 - gamma) M

    if each row sums to one; otherwise `gamma` times the smallest or largest sum takes the place of `gamma`. At a
    discount of 1, `horizon`, the largest expected number of steps to the end of an episode under any policy, takes the
    place of `gamma / (1 - gamma)`. Shorter episodes stay within these bounds, since `m <= 0 <= M`: the value of a
    terminal state does not change.

    Source: MacQueen 1966, "A modified dynamic programming method for Markovian decision problems"; Porteus 1971,
    "Some bounds for discounted sequential decision processes"; Puterman 1994, "Markov decision processes", theorem
    6.6.3.
    """
    slack = rounding(mdp, gamma, backup.size)
    low, high = backup.lowest - slack, backup.highest + slack
    if gamma == 1:
        weights = [horizon]
    else:
        rates = [gamma * total for total in (facts(mdp).least, facts(mdp).most)]
        weights = [rate / (1 - rate) if rate < 1 else np.inf for rate in rates]
    if np.inf in weights:
        return -np.inf, np.inf
    return min(w * low for w in weights) - slack, max(w * high for w in weights) + slack


def bounded(solver: SolverOptions, mdp: MDP, backup: Backup, extra: dict[str, np.ndarray]) -> Plan:
    """The plan after a backup of every state; its value is shifted to the middle of the bounds.

    The backup's policy is greedy for the value before the backup. Its value is at least the lower bound, so it is at
    most twice `error_bound` below the optimal value in any state.
    """
    gamma, tolerance = discount(solver.gamma, mdp), solver.tolerance
    low, high = bracket(mdp, gamma, float(extra["horizon"]), backup)
    shift, error = ((low + high) / 2, (high - low) / 2) if high < np.inf else (0.0, np.inf)
    value = backup.value + shift
    value[mdp.terminal] = 0.0
    error += 2 * ROUNDING * (largest(value) + abs(shift))
    centred = gamma < 1
    residual = (backup.highest - backup.lowest) / 2 if centred else max(backup.highest, -backup.lowest)
    converged = error <= tolerance or (error == np.inf and residual <= tolerance)
    return Plan(value, backup.policy, float(error), float(residual), bool(converged), extra)


def blank(mdp: MDP, **extra: np.ndarray | float) -> Plan:
    """A plan with nothing known yet."""
    zeros = np.zeros(mdp.n_states)
    named = {name: np.asarray(value) for name, value in extra.items()}
    return Plan(zeros, np.zeros(mdp.n_states, np.int32), np.inf, np.inf, False, named)


def start_from_zero(solver: SolverOptions, mdp: MDP) -> Plan:
    """A plan whose iterate is zero everywhere; used as a solver's `start`.

    Raises:
        ValueError: at a discount of 1, a state from which no episode can end.
    """
    longest = horizon(mdp, discount(solver.gamma, mdp))
    return blank(mdp, iterate=np.zeros(mdp.n_states), horizon=longest)


def plan_action_values(solver: SolverOptions, mdp: MDP, plan: Plan) -> np.ndarray:
    """`Q(s, a)` of the plan's value, `[S, A]`; used as a solver's `action_value`."""
    return action_values(mdp, discount(solver.gamma, mdp), plan.value)
