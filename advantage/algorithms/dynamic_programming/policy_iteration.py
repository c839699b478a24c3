"""Policy iteration (Howard 1960)."""

from __future__ import annotations

import numpy as np

from advantage.algorithms.dynamic_programming.backups import bellman
from advantage.algorithms.dynamic_programming.episode_ends import proper_policy
from advantage.algorithms.dynamic_programming.options import SolverOptions, discount
from advantage.algorithms.dynamic_programming.plan import Plan, bounded, plan_action_values, start_from_zero
from advantage.algorithms.dynamic_programming.policy_evaluation import Method, evaluate
from advantage.algorithms.hyperparameters import hyperparameters
from advantage.environments.tables.mdp import MDP


@hyperparameters
class PolicyIteration(SolverOptions):
    """Policy iteration: evaluate exactly, improve greedily.

        π(s)     <- argmax_a r(s, a)
        repeat   v    <- (I - gamma P_π)^-1 r_π
                 q    <- r + gamma P v
                 π(s) <- argmax_a q(s, a)        where max_a q(s, a) > v(s) + four times the error of v
        until    the bounds of value iteration, from v and max_a q, are within tolerance

    Because of the threshold, rounding changes no action: every change is an improvement and ties never cycle. If
    sweeps give no bound on the error, as at a discount of 1, the threshold is `tolerance`.

    At a discount of 1 the first policy is one under which every episode ends, and every later one is better. The
    result is the best among such policies; if never ending can pay more, it is not optimal. `error_bound` is infinite
    if an episode may never end under some policy.

    Source: Howard 1960, "Dynamic programming and Markov processes"; Sutton & Barto 2018, section 4.3.
    """

    evaluation: Method = "automatic"
    """By "sweeps" until nothing changes, by a "solve" of the linear system, or by what is likely faster."""

    action_value = plan_action_values

    def start(self, mdp: MDP) -> Plan:
        """The first policy takes the largest immediate reward, or at a discount of 1 leads towards an end."""
        gamma = discount(self.gamma, mdp)
        plan = start_from_zero(self, mdp)
        policy = proper_policy(mdp) if gamma == 1 else mdp.expected_reward.argmax(axis=1).astype(np.int32)
        return plan._replace(policy=policy)

    def improve(self, mdp: MDP, plan: Plan) -> Plan:
        """One evaluation and one improvement."""
        gamma = discount(self.gamma, mdp)
        precision = self.tolerance * (1 - gamma) / 16
        value, error = evaluate(
            mdp, gamma, plan.policy, guess=plan.extra["iterate"], precision=precision, method=self.evaluation
        )
        backup = bellman(mdp, gamma, value)
        better = backup.value - value > (4 * error if error < np.inf else self.tolerance)
        policy = np.where(better, backup.policy, plan.policy)
        improved = bounded(self, mdp, backup, plan.extra | {"iterate": value})
        return improved._replace(policy=policy)
