"""The optimal value as a linear programme (d'Epenoux 1960)."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

from advantage.algorithms.dynamic_programming.backups import bellman, stacked
from advantage.algorithms.dynamic_programming.episode_ends import horizon
from advantage.algorithms.dynamic_programming.options import SolverOptions, discount
from advantage.algorithms.dynamic_programming.plan import Plan, blank, bounded, plan_action_values
from advantage.algorithms.dynamic_programming.policy_evaluation import evaluate
from advantage.algorithms.hyperparameters import hyperparameters
from advantage.environments.tables.mdp import MDP
from advantage.machine import refuse_large

COPIES = 6  # of the constraints in memory: SciPy's, the solver's by rows and by columns, and the factors


@hyperparameters
class LinearProgramming(SolverOptions):
    """Linear programming: the smallest value that no action improves.

        minimise   Σ_s v(s) / S
        subject to v(s) >= r(s, a) + gamma Σ_s' P(s' | s, a) v(s')        for all s that are not terminal, and a
                   v(s) = 0                                               for terminal s

    The multiplier of a constraint is `x(s, a) = Σ_t gamma^t P(s_t = s, a_t = a)`: the discounted number of visits
    under the optimal policy if episodes start in every state with equal probability. It is
    `extra["occupancy"]`, `[S, A]`, and `Σ x r = Σ v / S`. The policy takes the action with the largest x. The value
    returned is that policy's, computed again, since the linear solver's is exact only to about 1e-9. The first
    iteration does all of it. Suitable for some thousand states.

    At a discount of 1 the result is, as in policy iteration, the best among the policies under which episodes end.

    Source: d'Epenoux 1960, "Sur un problème de production et de stockage dans l'aléatoire"; Puterman 1994, "Markov
    decision processes", section 6.9.
    """

    action_value = plan_action_values

    def start(self, mdp: MDP) -> Plan:
        """The plan before the programme is solved, if there is memory for it."""
        entries = mdp.transition.nnz if mdp.is_sparse else mdp.transition.size
        what = f"A linear programme of {mdp.n_states:_} states and {mdp.n_actions} actions"
        size = COPIES * 12 * (entries + mdp.n_states * mdp.n_actions)
        refuse_large(what, size, "use ModifiedPolicyIteration")
        longest = horizon(mdp, discount(self.gamma, mdp))
        return blank(mdp, occupancy=np.zeros((mdp.n_states, mdp.n_actions)), horizon=longest)

    def improve(self, mdp: MDP, plan: Plan) -> Plan:
        """Solve the programme.

        Raises:
            ValueError: the linear solver found no optimum; the message repeats the solver's.
        """
        gamma = discount(self.gamma, mdp)
        occupancy = self._occupancy(mdp, gamma)
        policy = occupancy.argmax(axis=1).astype(np.int32)
        precision = self.tolerance * (1 - gamma) / 16
        value = evaluate(mdp, gamma, policy, guess=plan.value, precision=precision).value
        extra = plan.extra | {"occupancy": occupancy}
        return bounded(self, mdp, bellman(mdp, gamma, value), extra)

    def _occupancy(self, mdp: MDP, gamma: float) -> np.ndarray:
        shape = mdp.n_actions, mdp.n_states
        going = np.flatnonzero(np.tile(~mdp.terminal, mdp.n_actions))
        here = scipy.sparse.csr_array(
            scipy.sparse.vstack([scipy.sparse.eye_array(mdp.n_states)] * mdp.n_actions)
        )
        from scipy.optimize import linprog  # takes a quarter of a second, which other methods can save

        result: Any = linprog(
            np.full(mdp.n_states, 1 / mdp.n_states),
            A_ub=(gamma * stacked(mdp) - here).tocsr()[going],
            b_ub=-mdp.expected_reward.T.ravel()[going],
            bounds=[(0, 0) if terminal else (None, None) for terminal in mdp.terminal],
            method="highs",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if result.status != 0:
            raise ValueError(f"The linear programme has no solution: {result.message}")
        occupancy = np.zeros(shape).ravel()
        occupancy[going] = -result.ineqlin.marginals
        return occupancy.reshape(shape).T
