"""Value iteration in the order of prioritised sweeping: the states with the largest errors come first."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

from advantage.algorithms.dynamic_programming.backups import (
    bellman,
    greedy,
    once,
    rows_between,
)
from advantage.algorithms.dynamic_programming.options import SolverOptions, discount
from advantage.algorithms.dynamic_programming.plan import Plan, bounded, plan_action_values, start_from_zero
from advantage.algorithms.hyperparameters import hyperparameters, ranged
from advantage.environments.tables.mdp import MDP
from advantage.machine import refuse_large


@hyperparameters
class PrioritisedValueIteration(SolverOptions):
    """Prioritised sweeping of a known table: the states with the largest priority are backed up next.

        v        <- 0
        repeat   u    <- T v, all states from the same v
                 stop if gamma / (1 - gamma) (M - m) / 2 <= tolerance,        m, M = min, max of u - v
                 v    <- v + (m + M) / 2 / (1 - gamma),    p(s) <- |u(s) - v_before(s) - (m + M) / 2|
                 `batches` times:
                     B    <- the S / batches states with the largest p above 0
                     Δ(s) <- (T v - v)(s),    v(s) <- v(s) + Δ(s),    p(s) <- 0        for s in B
                     p(s) <- p(s) + gamma max_a Σ_{s' in B} P(s' | s, a) |Δ(s')|       for all s
        return   u + gamma / (1 - gamma) (m + M) / 2

    With one batch per state this is the paper's method, except that the paper takes the largest term instead of the
    sum; with the sum, p(s) is never below `|(T v - v)(s)|`. Fewer batches take less time, since a batch is one
    operation on arrays. After every S backups the priorities are computed anew, which gives the bounds of value
    iteration. If episodes can end, nothing is added to v: a constant would be wrong in the terminal states. The
    predecessors in a sparse table are listed at first use and take two thirds of its memory.

    At a discount of 1 the same holds as for value iteration.

    Source: Moore & Atkeson 1993, "Prioritized sweeping: reinforcement learning with less data and less time"; the
    bounds, Puterman 1994, "Markov decision processes", section 6.6.3.
    """

    batches: int = ranged(4, "[1, inf)")
    """Number of batches in which S states are backed up; at most the number of states."""

    action_value = plan_action_values

    def start(self, mdp: MDP) -> Plan:
        """A plan whose iterate is zero everywhere."""
        if mdp.is_sparse:
            size = 8 * mdp.transition.nnz
            refuse_large(
                f"A list of {mdp.transition.nnz:_} predecessors", size, "use ModifiedPolicyIteration"
            )
        return start_from_zero(self, mdp)

    def improve(self, mdp: MDP, plan: Plan) -> Plan:
        """One sweep from the same value, which sets the priorities, then as many backups in their order."""
        gamma = discount(self.gamma, mdp)
        value = plan.extra["iterate"]
        backup = bellman(mdp, gamma, value)
        improved = bounded(self, mdp, backup, plan.extra)
        if improved.converged:
            return improved
        change = 0.0 if gamma == 1 or mdp.terminal.any() else (backup.lowest + backup.highest) / 2
        priority = np.abs(backup.value - value - change)
        value = value + (change / (1 - gamma) if change else 0.0)
        batch = -(-mdp.n_states // min(self.batches, mdp.n_states))
        for _ in range(-(-mdp.n_states // batch)):
            states = np.argpartition(priority, -batch)[-batch:]
            states = np.sort(states[priority[states] > 0])
            if not len(states):
                break
            _, backed_up = greedy(list(_action_values(mdp, gamma, value, states)))
            difference = np.abs(backed_up - value[states])
            value[states] = backed_up
            priority[states] = 0.0
            priority += gamma * _spread(mdp, states, difference)
        return improved._replace(extra=plan.extra | {"iterate": value})


def _action_values(mdp: MDP, gamma: float, value: np.ndarray, states: np.ndarray) -> np.ndarray:
    """`Q(s, a)` of some states, `[A, n]`."""
    if mdp.is_sparse:
        rows = np.arange(mdp.n_actions)[:, None] * mdp.n_states + states
        expected = (mdp.transition[rows.ravel()] @ value).reshape(rows.shape)
    else:
        expected = (mdp.transition[states] @ value).T
    return mdp.expected_reward[states].T + gamma * expected


def _spread(mdp: MDP, states: np.ndarray, change: np.ndarray) -> np.ndarray:
    """`max_a Σ_{s' in states} P(s' | s, a) change(s')` for every s, `[S]`."""
    if not mdp.is_sparse:
        return (mdp.transition[:, :, states] @ change).max(axis=1)
    lists = once(mdp, "predecessors", lambda: [_predecessors(mdp, action) for action in range(mdp.n_actions)])
    return np.max([change @ predecessors[states] for predecessors in lists], axis=0)


def _predecessors(mdp: MDP, action: int) -> Any:
    """`P(s' | s, a)` with row s' and column s, in float32, which is precise enough for priorities."""
    forward = rows_between(mdp.transition, action * mdp.n_states, (action + 1) * mdp.n_states)
    narrow = scipy.sparse.csr_array(
        (forward.data.astype(np.float32), forward.indices, forward.indptr), shape=forward.shape
    )
    return narrow.tocsc().T
