"""Trust region policy optimization (Schulman et al. 2015)."""

from __future__ import annotations

import dataclasses

from advantage.algorithms.hyperparameters import check, hyperparameters, schedule_value
from advantage.algorithms.policy_gradient.shared.learner import (
    LearnerState,
    act_by_policy,
    advance_statistics,
    advantage_and_target,
    experience,
    greedy_by_policy,
    learner_init,
    merge_time_and_envs,
    policy_actor,
    policy_noise,
    progress_of,
)
from advantage.algorithms.policy_gradient.shared.natural_step import (
    TrustRegionOptions,
    surrogate_of,
    trust_region_step,
)
from advantage.algorithms.policy_gradient.shared.value_fit import critic_optimiser, fit_value
from advantage.estimators.returns import standardise
from advantage.types import Array, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class TRPO(TrustRegionOptions):
    """Trust region policy optimization: the largest natural step whose KL divergence stays within target_kl.

    For each rollout of n_steps in each environment, with theta_old the parameters that acted:

        A_t      <- GAE(gamma, gae_lambda);  G_t <- A_t + V(s_t)
        L(theta) =  mean pi_theta(a|s) / pi_old(a|s) A + ent_coef mean H(pi_theta)
        x        <- conjugate gradients on (F + cg_damping I) x = ∇L(theta_old)
        beta     <- sqrt(2 target_kl / x^T (F + cg_damping I) x)
        theta    <- theta_old + line_search_shrink^k beta x        for the first k with
                        mean KL(pi_old || pi_theta) <= target_kl  and  L(theta) > L(theta_old)
                    theta_old                                      if there is none
        V        <- critic_epochs passes of Adam over (V(s_t) - G_t)^2 / 2

    Departures from the paper: advantages come from GAE and a value network and are normalised, observations and
    rewards are scaled by running statistics, weights are orthogonal; each is an option. The Fisher matrix is the
    distribution's own, F = J^T M J, and takes no samples of actions.

    Source: Schulman et al. 2015, "Trust region policy optimization", eq. 14 and appendix C.
    """

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> LearnerState:
        """Draw the first state. Raises ValueError for a space that no policy covers."""
        state = learner_init(self, key, spec)
        return state._replace(optimiser={"critic": critic_optimiser(state.params["critic"])})

    actor, noise, act, greedy = policy_actor, policy_noise, act_by_policy, greedy_by_policy

    def update(
        self, state: LearnerState, rollout: Rollout, key: Key
    ) -> tuple[LearnerState, dict[str, Array]]:
        """One step of the actor, within the region: `-> state, metrics`."""
        policy, old, limit = (
            state.policy,
            state.params["actor"],
            schedule_value(self.target_kl, progress_of(state)),
        )
        seen = experience(self, state, rollout)
        advantage, target = advantage_and_target(self, seen)
        x, action, log_prob, advantage, target = merge_time_and_envs(
            (seen.x, seen.action, seen.log_prob, advantage, target)
        )
        if self.normalize_advantage:
            advantage = standardise(advantage)

        def surrogate(actor):
            return surrogate_of(policy, old, actor, x, action, log_prob, advantage, self.ent_coef)

        actor, metrics = trust_region_step(self, policy, old, surrogate, x, limit)
        critic = fit_value(self, state, x, target, key)
        learned = advance_statistics(self, state, rollout)._replace(
            params={"actor": actor, "critic": critic.params}, optimiser={"critic": critic.optimiser}
        )
        return learned, metrics | critic.metrics
