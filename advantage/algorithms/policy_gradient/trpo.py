"""Trust region policy optimization (Schulman et al. 2015)."""

from __future__ import annotations

import dataclasses

from advantage.algorithms.hyperparameters import Schedule, at, check, hyperparameters, ranged
from advantage.algorithms.policy_gradient.critic import critic_optimiser, fit_value
from advantage.algorithms.policy_gradient.learner import (
    LearnerState,
    PolicyOptions,
    act_by_policy,
    experience,
    flat,
    greedy_by_policy,
    learner_init,
    observed,
    policy_actor,
    policy_noise,
    progress_of,
)
from advantage.algorithms.policy_gradient.natural_step import surrogate_of, trust_region_step
from advantage.estimators.credit import gae, standardise
from advantage.types import Array, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class TRPO(PolicyOptions):
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

    n_steps: int = ranged(2048, "[1, inf)")
    """Steps taken in each environment for one update."""
    target_kl: float | Schedule = ranged(0.01, "(0, inf)")
    """Largest mean KL divergence of an update, in nats; a number or a schedule of progress."""
    gae_lambda: float = ranged(0.95, "[0, 1]")
    """Reach of credit in GAE: 0 is the TD error, 1 the Monte-Carlo return."""
    normalize_advantage: bool = True
    """Scale each rollout's advantages to zero mean and unit variance."""
    ent_coef: float = ranged(0.0, "[0, inf)")
    """Weight of the entropy bonus, per nat."""
    cg_iterations: int = ranged(10, "[1, inf)")
    """Of conjugate gradients, at most."""
    cg_damping: float = ranged(0.1, "[0, inf)")
    """Added to the Fisher matrix's diagonal."""
    line_search_attempts: int = ranged(10, "[1, inf)")
    """How many step lengths are tried."""
    line_search_shrink: float = ranged(0.8, "(0, 1)")
    """Each is this share of the one before."""
    critic_learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size for the value; a number or a schedule of progress."""
    critic_epochs: int = ranged(10, "[1, inf)")
    """Passes of the value over each rollout."""
    critic_batch_size: int | None = ranged(128, "[1, inf)")
    """Samples in a minibatch of the value; None takes the whole rollout."""

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
        policy, old, limit = state.policy, state.params["actor"], at(self.target_kl, progress_of(state))
        seen = experience(self, state, rollout)
        trace = self.gae_lambda * seen.trace
        advantage = gae(seen.reward, seen.discount, seen.value, seen.next_value, trace)
        target = advantage + seen.value
        x, action, log_prob, advantage, target = flat((seen.x, seen.action, seen.log_prob, advantage, target))
        if self.normalize_advantage:
            advantage = standardise(advantage)

        def surrogate(actor):
            return surrogate_of(policy, old, actor, x, action, log_prob, advantage, self.ent_coef)

        actor, metrics = trust_region_step(self, policy, old, surrogate, x, limit)
        critic = fit_value(self, state, x, target, key)
        learned = observed(self, state, rollout)._replace(
            params={"actor": actor, "critic": critic.params}, optimiser={"critic": critic.optimiser}
        )
        return learned, metrics | critic.metrics
