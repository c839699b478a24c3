"""Modified policy iteration (Puterman & Shin 1978): policies are evaluated by a few sweeps only."""

from __future__ import annotations

from advantage.algorithms.dynamic_programming.backups import bellman, follow
from advantage.algorithms.dynamic_programming.episode_ends import horizon, proper_policy
from advantage.algorithms.dynamic_programming.options import SolverOptions, discount
from advantage.algorithms.dynamic_programming.plan import Plan, blank, bounded, plan_action_values
from advantage.algorithms.dynamic_programming.policy_evaluation import evaluate
from advantage.algorithms.hyperparameters import hyperparameters, ranged
from advantage.environments.tables.mdp import MDP


@hyperparameters
class ModifiedPolicyIteration(SolverOptions):
    """Modified policy iteration: one greedy improvement, then up to `sweeps` backups of that policy alone.

        v        <- max_a r(s, a)
        repeat   u    <- T v,    π greedy for v
                 stop if gamma / (1 - gamma) (M - m) / 2 <= tolerance,        m, M = min, max of u - v
                 v    <- T_π ... T_π u        until a change spans no more than `share` of M - m
        return   u + gamma / (1 - gamma) (m + M) / 2

    A sweep of one policy costs 1 / A of a sweep of the Bellman operator. Few sweeps make this similar to value
    iteration, very many to policy iteration.

    At a discount of 1 it starts from the value of a policy under which every episode ends, and values only rise from
    there. The result is as for policy iteration.

    Source: Puterman & Shin 1978, "Modified policy iteration algorithms for discounted Markov decision problems";
    Puterman 1994, "Markov decision processes", sections 6.5 and 6.6.3.
    """

    sweeps: int = ranged(100, "[1, inf)")
    """Largest number of backups of a policy before the next improvement."""
    share: float = ranged(0.02, "[0, 1)")
    """Backups of a policy end once the span of their change is at most this share of the improvement's span."""

    action_value = plan_action_values

    def start(self, mdp: MDP) -> Plan:
        """Start from the largest rewards, or at a discount of 1 from the value of a policy under which episodes end."""
        gamma = discount(self.gamma, mdp)
        longest = horizon(mdp, gamma)
        value = mdp.expected_reward.max(axis=1)
        if gamma == 1:
            value = evaluate(mdp, gamma, proper_policy(mdp), guess=value, precision=self.tolerance).value
        return blank(mdp, iterate=value, horizon=longest)

    def improve(self, mdp: MDP, plan: Plan) -> Plan:
        """One improvement and the backups of its policy."""
        gamma = discount(self.gamma, mdp)
        backup = bellman(mdp, gamma, plan.extra["iterate"])
        improved = bounded(self, mdp, backup, plan.extra | {"iterate": backup.value})
        if improved.converged:
            return improved
        span = backup.highest - backup.lowest
        enough = max(self.share * span, self.tolerance * (1 - gamma))
        followed = follow(mdp, gamma, backup.policy, value=backup.value, sweeps=self.sweeps, enough=enough)
        return improved._replace(extra=plan.extra | {"iterate": followed.value})
