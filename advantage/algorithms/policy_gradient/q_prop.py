"""Q-Prop (Gu et al. 2017)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
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
from advantage.algorithms.policy_gradient.shared.replayed_critic import (
    Learned,
    ReplayedState,
    fit_action_value,
    polyak,
    repeat,
    replayed_batch,
    replayed_state,
)
from advantage.algorithms.policy_gradient.shared.state import policy_state_init
from advantage.algorithms.policy_gradient.shared.value_fit import critic_optimiser, fit_value
from advantage.estimators.control_variate import Eta, control_variate, control_weight, expected_control
from advantage.estimators.returns import gae
from advantage.policies.action_value import action_value
from advantage.policies.heads import CategoricalHead, GaussianHead
from advantage.replay.ring import Replay, replay_add
from advantage.types import Array, Key, Pytree, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class QProp(TrustRegionOptions):
    """Q-Prop: an on-policy policy gradient with an off-policy critic as control variate, which reduces its variance.

    For each rollout of n_steps in each environment, which is also stored in a replay buffer, with theta_old the acting
    parameters, and V and Q from before the rollout:

        A        <- GAE(gamma, gae_lambda);  G <- A + V(s)
        Abar     <- ∇_a Q(s, mu(s)) (a - mu(s))              Gaussian policies
                    Q(s, a) - Σ_b pi(b|s) Q(s, b)            Discrete actions
        L(theta) =  mean pi_theta(a|s) / pi_old(a|s) (A - eta Abar) + mean eta Qbar(theta) + ent_coef mean H(pi_theta)
                    with Qbar = ∇_a Q(s, mu_old(s)) mu_theta(s)  or  Σ_a pi_theta(a|s) Q(s, a)
        theta    <- the largest natural step with KL <= target_kl and L(theta) > L(theta_old), as in TRPO
        V        <- critic_epochs passes of Adam over (V(s) - G)^2 / 2
        Q        <- gradient_steps times for each environment, on transitions from the buffer:
                        y <- r + gamma (1 - terminated) Q'(s', a'),  a' ~ pi(.|s')
                        Adam on mean (Q(s, a) - y)^2 / 2;  Q' <- (1 - tau) Q' + tau Q

    With eta = one, the expected gradient of L at theta_old is that of GAE for any Q. The other two choose eta(s, a) by
    the sign of A Abar: 1 or 0 (conservative), 1 or -1 (aggressive).

    A, Abar and Qbar are divided by the standard deviation of A, and A's mean is subtracted from A.

    Departures from the paper: the target of Q samples a' where the paper takes the mean action; Q is updated after the
    actor, so that it has not learned from the actions in the actor's gradient.

    Source: Gu et al. 2017, "Q-Prop: sample-efficient policy gradient with an off-policy critic", algorithm 1 and
    section 3.3.
    """

    n_steps: int = ranged(1000, "[1, inf)")
    """Steps taken in each environment for one update."""
    eta: Eta = "conservative"
    """Weight of the control variate: one, or by the sign of its covariance with the advantage."""
    normalize_advantage: bool = True
    """Scale each rollout's advantages to zero mean and unit variance, and the control variate with them."""
    learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size for Q; a number or a schedule of progress."""
    gradient_steps: int = ranged(1000, "[1, inf)")
    """Adam steps of Q per n_steps of one environment."""
    batch_size: int = ranged(64, "[1, inf)")
    """Transitions in a gradient step of Q."""
    buffer_size: int = ranged(1_000_000, "[1, inf)")
    """Number of transitions that the replay buffer holds."""
    tau: float = ranged(0.005, "(0, 1]")
    """Share by which the target network moves towards Q in each gradient step."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> ReplayedState:
        """Draw the initial training state.

        Raises:
            ValueError: actions that are neither Discrete nor a Gaussian's, or a buffer that does not fit into memory.
        """
        key_policy, key_critic = jax.random.split(key)
        state = policy_state_init(self, key_policy, spec)
        head = state.policy.head
        if isinstance(head, GaussianHead) and head.bounds is not None:
            raise ValueError(
                "action_bounds='squash' has no control variate: the mean action of a squashed Gaussian is not known; "
                "use action_bounds='clip'."
            )
        if not isinstance(head, GaussianHead | CategoricalHead):
            raise ValueError(
                f"Q-Prop has no control variate for the action space {spec.action_space}; allowed are Discrete and Box "
                "of floats. Use trpo, or flatten the actions with gymnasium.wrappers.TransformAction."
            )
        state = dataclasses.replace(state, optimiser={"critic": critic_optimiser(state.params["critic"])})
        return replayed_state(key_critic, state, spec, self.buffer_size)

    actor = policy_actor
    initial_memory = policy_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(
        self, state: ReplayedState, rollout: Rollout, key: Key
    ) -> tuple[ReplayedState, dict[str, Array]]:
        """One step of the actor within the trust region, then of both critics: `-> state, metrics`."""
        key_value, key_action_value = jax.random.split(key)
        policy, old, limit = (
            state.policy,
            state.params["actor"],
            schedule_value(self.target_kl, progress(state.clock)),
        )
        seen = experience(self, state, rollout)
        advantage = gae(seen.reward, seen.discount, seen.value, seen.next_value, self.gae_lambda * seen.trace)
        target = advantage + seen.value
        facts = seen.action, seen.log_prob, advantage, target
        action, log_prob, advantage, target = seen.samples(*facts)

        def q(action: Array) -> Array:
            return action_value(policy).value(state.params["action_value"], seen.x, action)

        control = control_variate(q, policy.distribution(old, seen.x), action)
        if self.normalize_advantage:
            scale = 1 / (advantage.std() + 1e-8)
            advantage = scale * (advantage - advantage.mean())
            control = jax.tree.map(lambda leaf: scale * leaf, control)
        eta = control_weight(self.eta, advantage, control.advantage)
        residual = advantage - eta * control.advantage
        batch = OldSamples(seen.x, action, log_prob, residual)

        def surrogate(actor):
            now = surrogate_of(policy, old, actor, batch, self.ent_coef)
            computed = eta * expected_control(control, policy.distribution(actor, seen.x))
            return now._replace(gain=now.gain + computed.mean())

        actor, metrics = trust_region_step(self, policy, old, surrogate, seen.x, limit)
        critic = fit_value(self, state, seen.x, target, key_value)
        replay = replay_add(state.replay, rollout)
        (params, optimiser, slow), losses = self._learn_action_value(
            state, actor, replay, rollout, key_action_value
        )
        learned = dataclasses.replace(
            advance_statistics(self, state, rollout),
            params={"actor": actor, "critic": critic.params, "action_value": params},
            optimiser={"critic": critic.optimiser, "action_value": optimiser},
            target=slow,
            replay=replay,
        )
        metrics |= {
            "eta": eta.mean(),
            "variance_explained": 1 - residual.var() / (advantage.var() + 1e-8),
        }
        return learned, metrics | critic.metrics | losses

    def _learn_action_value(
        self, state: ReplayedState, actor: Pytree, replay: Replay, rollout: Rollout, key: Key
    ) -> tuple[Learned, dict[str, Array]]:
        """The gradient steps of Q under the current policy."""
        rate = schedule_value(self.learning_rate, progress(state.clock))

        def step(learned: Learned, key: Key) -> tuple[Learned, dict[str, Array]]:
            key_batch, key_target = jax.random.split(key)
            batch = replayed_batch(self, state, replay, key_batch, size=self.batch_size)
            fitted = fit_action_value(state.policy, actor, learned, batch, key_target, rate)
            slow = polyak(learned.target, fitted.params, self.tau)
            return Learned(fitted.params, fitted.optimiser, slow), {
                "action_value_loss": fitted.metrics["value_loss"]
            }

        before = Learned(state.params["action_value"], state.optimiser["action_value"], state.target)
        count = jnp.int32(self.gradient_steps * rollout.reward.size // self.n_steps)
        return repeat(step, before, count, key)
