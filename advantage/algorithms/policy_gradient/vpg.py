"""The vanilla policy gradient, with every weight that the literature gives it."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.policy_gradient.shared.ascent import ascend, scores
from advantage.algorithms.policy_gradient.shared.episode_places import Places, places, whole_returns
from advantage.algorithms.policy_gradient.shared.learner import (
    Experience,
    LearnerState,
    PolicyOptions,
    act_by_policy,
    advance_statistics,
    advantage_and_target,
    encode,
    experience,
    greedy_by_policy,
    learner_init,
    merge_time_and_envs,
    policy_actor,
    policy_noise,
    progress_of,
)
from advantage.algorithms.policy_gradient.shared.value_fit import (
    Fitted,
    actor_and_critic_optimisers,
    fit,
    fit_value,
)
from advantage.estimators.baselines import mean_baseline, optimal_baseline, time_mean_baseline
from advantage.estimators.returns import gae, lambda_returns, n_step_returns, td_errors
from advantage.policies.action_value import action_value
from advantage.types import Array, Key, Pytree, Rollout, Spec

Weight = Literal[
    "total-return",
    "reward-to-go",
    "mean-baseline",
    "value-baseline",
    "q",
    "advantage",
    "td-residual",
    "n-step",
    "gae",
]


def no_value(x: Pytree) -> Array:
    """0 for each state."""
    return jnp.zeros(jax.tree.leaves(x)[0].shape[0])


ALIASES = {"mean-baseline": "mean", "value-baseline": "value"}  # of reward-to-go


@hyperparameters
@dataclasses.dataclass(frozen=True)
class VPG(PolicyOptions):
    """The vanilla policy gradient: one step along `mean Psi_t ∇log pi(a_t | s_t)` for each rollout.

        weight             Psi_t
        total-return       R(tau) = Σ_k gamma^k r_k over the whole episode
        reward-to-go       G_t = r_t + gamma G_{t+1}
        mean-baseline      G_t - the mean G of other episodes
        value-baseline     G_t - V(s_t)
        q                  Q(s_t, a_t)
        advantage          Q(s_t, a_t) - Σ_a pi(a | s_t) Q(s_t, a)
        td-residual        delta_t = r_t + gamma V(s_{t+1}) - V(s_t)
        n-step             r_t + ... + gamma^n V(s_{t+n}) - V(s_t)
        gae                Σ_l (gamma gae_lambda)^l delta_{t+l}

    and, for each rollout of `n_steps` in each environment:

        Psi_t    <- the weight - the baseline;  times gamma^t with discount_weighting
        theta    <- Adam(theta, mean Psi_t ∇log pi(a_t | s_t) + ent_coef ∇H(pi(. | s_t)))
        critic   <- critic_epochs passes of Adam over (V(s_t) - G_t)^2 / 2, or Q(s_t, a_t) in place of V,
                    with G_t the lam-return, lam = gae_lambda

    Of an episode that the rollout cuts off, the critic's value stands for the rest. With critic = "none" only steps
    count whose episode ends in the rollout; long ones are cut more often, so let `n_steps` be several episodes.

    Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation", eq. 1;
    Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation", theorem 1.
    """

    learning_rate: float | Schedule = ranged(3e-3, "[0, inf)")
    """Adam's step size for the actor; a number or a schedule of progress."""
    n_steps: int = ranged(2048, "[1, inf)")
    """Steps taken in each environment for one update."""
    weight: Weight = "gae"
    """What each action is weighted with."""
    baseline: Literal["none", "mean", "time-mean", "value", "optimal"] = "none"
    """Subtracted from total-return or reward-to-go: nothing, means of other episodes over all steps or over the same
    step, V, or for each parameter the constant of least variance."""
    critic: Literal["value", "q", "none"] = "value"
    """What is learned beside the policy: V(s), Q(s, a), or nothing."""
    n_step: int = ranged(5, "[1, inf)")
    """Rewards that the weight n-step looks ahead."""
    gae_lambda: float = ranged(0.95, "[0, 1]")
    """Reach of credit in GAE and in the critic's targets: 0 is the TD error, 1 the Monte-Carlo return."""
    discount_weighting: bool = False
    """Weigh step t of an episode with gamma^t, as the gradient of the discounted return has it."""
    normalize_advantage: bool = False
    """Scale each rollout's weights to zero mean and unit variance."""
    ent_coef: float = ranged(0.0, "[0, inf)")
    """Weight of the entropy bonus, per nat."""
    max_grad_norm: float | None = ranged(None, "(0, inf)")
    """Largest norm of the actor's gradient; None does not clip."""
    critic_learning_rate: float | Schedule = ranged(3e-3, "[0, inf)")
    """Adam's step size for the critic; a number or a schedule of progress."""
    critic_epochs: int = ranged(20, "[1, inf)")
    """Passes of the critic over each rollout."""
    critic_batch_size: int | None = ranged(None, "[1, inf)")
    """Samples in a minibatch of the critic; None takes the whole rollout."""
    action_samples: int = ranged(8, "[1, inf)")
    """Actions drawn for a mean of Q over a policy that is not Discrete."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self):
        check(self)
        needed = {"q": "q", "advantage": "q"}.get(self.weight)
        if needed and self.critic != needed:
            raise ValueError(
                f"weight={self.weight!r} with critic={self.critic!r} is not allowed: it needs values of actions; use "
                "critic='q'."
            )
        needs_value = self.weight in ("value-baseline", "td-residual", "n-step", "gae")
        if self.critic == "none" and (needs_value or self.baseline == "value"):
            option = f"weight={self.weight!r}" if needs_value else f"baseline={self.baseline!r}"
            raise ValueError(
                f"{option} with critic='none' is not allowed: it needs values; use critic='value' or critic='q'."
            )
        if self.baseline != "none" and self.weight not in ("total-return", "reward-to-go"):
            raise ValueError(
                f"baseline={self.baseline!r} with weight={self.weight!r} is not allowed: that weight has its own "
                "baseline or needs none; use weight='reward-to-go' or 'total-return', or baseline='none'."
            )
        if self.weight == "total-return" and self.baseline == "value":
            raise ValueError(
                "baseline='value' with weight='total-return' is not allowed: V(s) is the return from s on, not that of "
                "the whole episode; use weight='reward-to-go', or baseline='mean'."
            )
        if self.weight == "total-return" and self.discount_weighting:
            raise ValueError(
                "discount_weighting=True with weight='total-return' is not allowed: the return is discounted from the "
                "episode's start already; use weight='reward-to-go'."
            )
        if self.baseline == "optimal" and self.normalize_advantage:
            raise ValueError(
                "normalize_advantage=True with baseline='optimal' is not allowed: each parameter has a baseline of its "
                "own; use normalize_advantage=False."
            )

    def init(self, key: Key, spec: Spec) -> LearnerState:
        """Draw the first state. Raises ValueError for a space that no policy covers."""
        state = learner_init(self, key, spec)
        params = state.params
        if self.critic == "q":
            example = encode(state.policy, None, state.policy.encoder.example())
            params = params | {"critic": action_value(state.policy).init(jax.random.fold_in(key, 1), example)}
        optimiser = actor_and_critic_optimisers(params, self.max_grad_norm)
        return state._replace(params=params, optimiser=optimiser, extra=jnp.zeros(spec.num_envs, jnp.int32))

    actor, noise, act, greedy = policy_actor, policy_noise, act_by_policy, greedy_by_policy

    def update(
        self, state: LearnerState, rollout: Rollout, key: Key
    ) -> tuple[LearnerState, dict[str, Array]]:
        """One step of the actor: `-> state, metrics`; `extra` counts the steps of the running episodes."""
        policy, (key_critic, key_actions) = state.policy, jax.random.split(key)
        seen, q = self._look(state, rollout, key_actions)
        where = places(seen.trace, state.extra)
        _, target = advantage_and_target(self, seen)
        psi = self._psi(seen, q, where)
        x, action, psi, target = merge_time_and_envs((seen.x, seen.action, psi, target))
        used, episode, time = (part.ravel() for part in (where.complete, where.episode, where.time))
        used = used | (self.critic != "none")
        baseline = ALIASES.get(self.weight, self.baseline)
        if baseline == "mean":
            psi -= mean_baseline(psi, episode, used)
        elif baseline == "time-mean":
            psi -= time_mean_baseline(psi, episode, time, used)
        weighting = self.gamma**time if self.discount_weighting else jnp.ones_like(psi)
        if baseline == "optimal":
            score = scores(policy, state.params["actor"], x, action) * (used * weighting)[:, None]
            psi = (psi[:, None] - self._least_variance(score, psi, episode)) * weighting[:, None]
        else:
            psi *= weighting
        if self.normalize_advantage:
            psi = jnp.where(used, (psi - psi.mean(where=used)) / (psi.std(where=used) + 1e-8), 0)
        rate = schedule_value(self.learning_rate, progress_of(state))
        batch = state.params["actor"], state.optimiser["actor"], x, action, psi, used, rate
        actor = ascend(policy, *batch, self.ent_coef, self.max_grad_norm)
        critic = self._fit(state, (x, action), target, key_critic)
        learned = advance_statistics(self, state, rollout)._replace(
            params={"actor": actor.params, "critic": critic.params},
            optimiser={"actor": actor.optimiser, "critic": critic.optimiser},
            extra=where.elapsed,
        )
        return learned, actor.metrics | critic.metrics

    def _look(self, state: LearnerState, rollout: Rollout, key: Key) -> tuple[Experience, Array]:
        """The rollout with values of the critic that there is, and `Q(s_t, a_t)`."""
        policy, params = state.policy, state.params
        if self.critic == "value":
            return experience(self, state, rollout), jnp.zeros(())
        if self.critic == "none":
            return experience(self, state, rollout, no_value), jnp.zeros(())
        critic, noise = action_value(policy), policy.head.noise(key, (self.action_samples, 1))

        def expected(x: Pytree) -> Array:
            return critic.expected(params["critic"], x, policy.distribution(params["actor"], x), noise)

        seen = experience(self, state, rollout, expected)
        return seen, critic.value(params["critic"], seen.x, seen.action)

    def _psi(self, seen: Experience, q: Array, where: Places) -> Array:
        """The weight without a baseline of means, `[T, B]`."""
        facts = seen.reward, seen.discount
        if self.weight in ("q", "advantage"):
            return q if self.weight == "q" else q - seen.value
        if self.weight == "td-residual":
            return td_errors(*facts, seen.value, seen.next_value)
        if self.weight == "n-step":
            return n_step_returns(*facts, seen.next_value, seen.trace, self.n_step) - seen.value
        if self.weight == "gae":
            return gae(*facts, seen.value, seen.next_value, self.gae_lambda * seen.trace)
        to_go = lambda_returns(*facts, seen.next_value, seen.trace)
        if self.weight == "total-return":
            return whole_returns(seen.reward, to_go, seen.trace, where.time, self.gamma)
        return to_go - seen.value if ALIASES.get(self.weight, self.baseline) == "value" else to_go

    def _least_variance(self, score: Array, returns: Array, episode: Array) -> Array:
        """The baseline of each step and parameter, `[N, P]`: over episodes for their returns, else over steps."""
        if self.weight != "total-return":
            return optimal_baseline(score, returns, episode)
        size = len(returns)
        counts = jax.ops.segment_sum(jnp.ones_like(returns), episode, size)
        whole = jax.ops.segment_sum(returns, episode, size) / jnp.maximum(counts, 1)
        sums = jax.ops.segment_sum(score, episode, size)
        return optimal_baseline(sums, whole, jnp.arange(size))[episode]

    def _fit(self, state: LearnerState, inputs: tuple[Pytree, Pytree], target: Array, key: Key) -> Fitted:
        """The critic after this rollout."""
        critic, optimiser = state.params["critic"], state.optimiser["critic"]
        if self.critic == "none":
            return Fitted(critic, optimiser, {})
        if self.critic == "value":
            return fit_value(self, state, inputs[0], target, key)
        of_actions, rate = (
            action_value(state.policy),
            schedule_value(self.critic_learning_rate, progress_of(state)),
        )
        options = rate, self.critic_epochs, self.critic_batch_size

        def predict(critic: Pytree, inputs: tuple[Pytree, Pytree]) -> Array:
            return of_actions.value(critic, *inputs)

        return fit(predict, critic, optimiser, inputs, target, key, *options)
