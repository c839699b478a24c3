"""Value iteration (Bellman 1957), stopped by the bounds of MacQueen and Porteus."""

from __future__ import annotations

from advantage.algorithms.dynamic_programming.backups import bellman
from advantage.algorithms.dynamic_programming.options import SolverOptions, discount
from advantage.algorithms.dynamic_programming.plan import Plan, bounded, plan_action_values, start_from_zero
from advantage.algorithms.hyperparameters import hyperparameters
from advantage.environments.tables.mdp import MDP


@hyperparameters
class ValueIteration(SolverOptions):
    """Value iteration: apply the Bellman operator repeatedly.

        v        <- 0
        repeat   u(s) <- max_a r(s, a) + gamma Σ_s' P(s' | s, a) v(s')        for all s, from the same v
                 m, M <- min, max of u - v
                 v    <- u
        until    gamma / (1 - gamma) (M - m) / 2 <= tolerance
        return   u + gamma / (1 - gamma) (m + M) / 2

    The optimal value lies between `u + gamma / (1 - gamma) m` and `u + gamma / (1 - gamma) M`. Their distance shrinks
    as fast as the differences between states vanish, the largest change `max |u - v|` only by a factor gamma per
    sweep.

    At a discount of 1 the operator need not contract. If episodes end under every policy, the bounds use the longest
    expected episode in place of `gamma / (1 - gamma)`. Otherwise `error_bound` is infinite and the iteration ends once
    no state changes by more than `tolerance`, which guarantees nothing.

    Source: Sutton & Barto 2018, section 4.4; Puterman 1994, "Markov decision processes", sections 6.3 and 6.6.3.
    """

    start = start_from_zero
    action_value = plan_action_values

    def improve(self, mdp: MDP, plan: Plan) -> Plan:
        """One sweep over all states."""
        gamma = discount(self.gamma, mdp)
        backup = bellman(mdp, gamma, plan.extra["iterate"])
        return bounded(self, mdp, backup, plan.extra | {"iterate": backup.value})
