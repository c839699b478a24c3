"""Trust region policy optimization (Schulman et al. 2015)."""

from __future__ import annotations

import dataclasses

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import check, hyperparameters, schedule_value
from advantage.algorithms.policy_gradient.shared.acting import (
    act_by_policy,
    greedy_by_policy,
    policy_actor,
    policy_memory,
    policy_noise,
)
from advantage.algorithms.policy_gradient.shared.experience import advance_statistics, experience
from advantage.algorithms.policy_gradient.shared.natural_step import (
    OldSamples,
    surrogate_of,
    trust_region_step,
)
from advantage.algorithms.policy_gradient.shared.options import TrustRegionOptions
from advantage.algorithms.policy_gradient.shared.state import PolicyState, policy_state_init
from advantage.algorithms.policy_gradient.shared.value_fit import critic_optimiser, fit_value
from advantage.estimators.returns import gae, standardise
from advantage.types import Array, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class TRPO(TrustRegionOptions):
    """Trust region policy optimization: the largest natural step whose KL divergence stays within target_kl.

    For each rollout of n_steps in each environment, with theta_old the acting parameters:

        A_t      <- GAE(gamma, gae_lambda);  G_t <- A_t + V(s_t)
        L(theta) =  mean pi_theta(a|s) / pi_old(a|s) A + ent_coef mean H(pi_theta)
        x        <- conjugate gradients on (F + cg_damping I) x = ∇L(theta_old)
        beta     <- sqrt(2 target_kl / x^T (F + cg_damping I) x)
        theta    <- theta_old + line_search_shrink^k beta x        for the first k with
                        mean KL(pi_old || pi_theta) <= target_kl  and  L(theta) > L(theta_old)
                    theta_old                                      if there is none
        V        <- critic_epochs passes of Adam over (V(s_t) - G_t)^2 / 2

    Departures from the paper: advantages come from GAE and a value network and are normalised, observations and
    rewards are scaled by running statistics, initial weights are orthogonal; each is an option. The Fisher matrix is
    computed analytically, F = J^T M J, without samples of actions.

    Source: Schulman et al. 2015, "Trust region policy optimization", eq. 14 and appendix C.
    """

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> PolicyState:
        """Draw the initial training state. Raises ValueError for a space that no policy covers."""
        state = policy_state_init(self, key, spec, batch_size=self.critic_batch_size)
        return dataclasses.replace(state, optimiser={"critic": critic_optimiser(state.params["critic"])})

    actor = policy_actor
    initial_memory = policy_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(self, state: PolicyState, rollout: Rollout, key: Key) -> tuple[PolicyState, dict[str, Array]]:
        """One step of the actor within the trust region: `-> state, metrics`."""
        policy, old, limit = (
            state.policy,
            state.params["actor"],
            schedule_value(self.target_kl, progress(state.clock)),
        )
        seen = experience(self, state, rollout, batch_size=self.critic_batch_size)
        advantage = gae(seen.reward, seen.discount, seen.value, seen.next_value, self.gae_lambda * seen.trace)
        target = advantage + seen.value
        facts = seen.action, seen.log_prob, advantage, target
        action, log_prob, advantage, target = seen.samples(*facts)
        if self.normalize_advantage:
            advantage = standardise(advantage)
        batch = OldSamples(seen.x, action, log_prob, advantage)

        def surrogate(actor):
            return surrogate_of(policy, old, actor, batch, self.ent_coef)

        actor, metrics = trust_region_step(self, policy, old, surrogate, seen.x, limit)
        critic = fit_value(self, state, seen.x, target, key)
        learned = dataclasses.replace(
            advance_statistics(self, state, rollout, seen.critic_memory),
            params={"actor": actor, "critic": critic.params},
            optimiser={"critic": critic.optimiser},
        )
        return learned, metrics | critic.metrics
