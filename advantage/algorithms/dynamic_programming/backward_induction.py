"""Backward induction: the best policy for a given number of steps."""

from __future__ import annotations

import numpy as np

from advantage.algorithms.dynamic_programming.backups import action_values, bellman, facts
from advantage.algorithms.dynamic_programming.options import discount
from advantage.algorithms.dynamic_programming.plan import Plan, rounding
from advantage.algorithms.hyperparameters import hyperparameters, ranged
from advantage.environments.tables.mdp import MDP
from advantage.machine import refuse_large


@hyperparameters
class BackwardInduction:
    """Backward induction over a finite horizon of T steps.

        v_T(s)   <- 0
        for t = T - 1, ..., 0:
                 v_t(s), π_t(s) <- max, argmax over a of r(s, a) + gamma Σ_s' P(s' | s, a) v_{t+1}(s')

    `value[t]` is `v_t`, `[T + 1, S]`, and `policy[t]` is `π_t`, `[T, S]`. The first iteration does all of it. The
    result is exact: `error_bound` covers rounding alone.

    Source: Puterman 1994, "Markov decision processes", section 4.5.
    """

    gamma: float | None = ranged(None, "[0, 1]")
    """Discount per step; None takes the table's own."""
    horizon: int | None = ranged(None, "[1, inf)")
    """Horizon T in steps; None takes the table's `max_episode_steps`."""

    def start(self, mdp: MDP) -> Plan:
        """The plan before the induction: all values are zero."""
        steps = mdp.max_episode_steps if self.horizon is None else self.horizon
        what = f"A plan of {steps:_} steps in {mdp.n_states:_} states"
        refuse_large(what, 12 * (steps + 1) * mdp.n_states, "use a smaller horizon")
        policy = np.zeros((steps, mdp.n_states), np.int32)
        return Plan(np.zeros((steps + 1, mdp.n_states)), policy, np.inf, np.inf, False, {})

    def improve(self, mdp: MDP, plan: Plan) -> Plan:
        """The whole induction."""
        gamma, error = discount(self.gamma, mdp), 0.0
        value, policy = np.zeros_like(plan.value), np.zeros_like(plan.policy)
        for t in reversed(range(len(policy))):
            backup = bellman(mdp, gamma, value[t + 1])
            value[t], policy[t] = backup.value, backup.policy
            error = gamma * facts(mdp).most * error + rounding(mdp, gamma, backup.size)
        return Plan(value, policy, error, 0.0, True, {})

    def action_value(self, mdp: MDP, plan: Plan) -> np.ndarray:
        """`Q_0(s, a)`, `[S, A]`, the action values of the first step."""
        return action_values(mdp, discount(self.gamma, mdp), plan.value[1])
