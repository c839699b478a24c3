"""Gauss–Seidel value iteration: backups from the newest values."""

from __future__ import annotations

from advantage.algorithms.dynamic_programming.backups import bellman, blocks, greedy
from advantage.algorithms.dynamic_programming.options import SolverOptions, discount
from advantage.algorithms.dynamic_programming.plan import Plan, bounded, plan_action_values, start_from_zero
from advantage.algorithms.hyperparameters import hyperparameters, ranged
from advantage.environments.tables.mdp import MDP


@hyperparameters
class GaussSeidel(SolverOptions):
    """Gauss–Seidel value iteration, in place, block by block of states.

        v        <- 0
        repeat   for each block B of states, in order:
                     v(s)  <- max_a r(s, a) + gamma Σ_s' P(s' | s, a) v(s')        for s in B
                 u        <- T v, all states from the same v
                 v        <- u + gamma / (1 - gamma) (m + M) / 2,        m, M = min, max of u - v
        until    gamma / (1 - gamma) (M - m) / 2 <= tolerance

    With one block per state this is the method of the textbooks. Fewer blocks take less time, since a block is one
    operation on arrays. The bounds of an in-place sweep are looser than those of a sweep in which all states use the
    same v, so each iteration is one sweep of each kind. If episodes can end, `v <- u`, because a constant added
    everywhere would be wrong in the terminal states.

    At a discount of 1 the same holds as for value iteration.

    Source: Sutton & Barto 2018, section 4.4 (in place); Puterman 1994, "Markov decision processes", section 6.3.3.
    """

    blocks: int = ranged(4, "[1, inf)")
    """Number of blocks of states, backed up one after another; at most the number of states."""

    start = start_from_zero
    action_value = plan_action_values

    def improve(self, mdp: MDP, plan: Plan) -> Plan:
        """One sweep in place, then one in which all states use the same value."""
        gamma = discount(self.gamma, mdp)
        value = plan.extra["iterate"].copy()
        for block in blocks(mdp, self.blocks):
            value[block.states] = greedy(block.action_values(gamma, value))[1]
        backup = bellman(mdp, gamma, value)
        improved = bounded(self, mdp, backup, plan.extra)
        iterate = backup.value if mdp.terminal.any() else improved.value
        return improved._replace(extra=plan.extra | {"iterate": iterate})
