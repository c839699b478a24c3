"""The vanilla policy gradient, with all its weights from the literature."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.policy_gradient.shared.acting import (
    act_by_policy,
    encode,
    greedy_by_policy,
    policy_actor,
    policy_memory,
    policy_noise,
)
from advantage.algorithms.policy_gradient.shared.ascent import Weighted, ascend, scores
from advantage.algorithms.policy_gradient.shared.episode_places import Places, places, whole_returns
from advantage.algorithms.policy_gradient.shared.experience import Experience, advance_statistics, experience
from advantage.algorithms.policy_gradient.shared.options import CriticOptions, PolicyOptions
from advantage.algorithms.policy_gradient.shared.state import (
    EpisodicState,
    episodic,
    policy_state_init,
    without_critic,
)
from advantage.algorithms.policy_gradient.shared.value_fit import (
    Critic,
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


ALIASES = {"mean-baseline": "mean", "value-baseline": "value"}  # of reward-to-go


@hyperparameters
@dataclasses.dataclass(frozen=True)
class VPG(CriticOptions, PolicyOptions):
    """Vanilla policy gradient: one step along `mean Psi_t ∇log pi(a_t | s_t)` for each rollout.

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

    If the rollout cuts off an episode, the critic estimates the rest. With critic = "none" only steps count whose
    episode ends in the rollout; `n_steps` should then span several episodes, since long ones are cut more often.

    Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation", eq. 1;
    Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation", theorem 1.
    """

    learning_rate: float | Schedule = ranged(3e-3, "[0, inf)")
    """Adam's step size for the actor; a number or a schedule of progress."""
    weight: Weight = "gae"
    """Weight Psi of each action."""
    baseline: Literal["none", "mean", "time-mean", "value", "optimal"] = "none"
    """Subtracted from total-return or reward-to-go: nothing, means of other episodes over all steps or over the same
    step, V, or for each parameter the constant with the smallest variance."""
    critic: Literal["value", "q", "none"] = "value"
    """Critic learned beside the policy: V(s), Q(s, a), or none."""
    n_step: int = ranged(5, "[1, inf)")
    """Number of rewards in the weight n-step."""
    gae_lambda: float = ranged(0.95, "[0, 1]")
    """Lambda of GAE and of the critic's targets: 0 is the TD error, 1 the Monte-Carlo return."""
    discount_weighting: bool = False
    """Weight step t of an episode by gamma^t, as in the gradient of the discounted return."""
    normalize_advantage: bool = False
    """Scale each rollout's weights to zero mean and unit variance."""
    ent_coef: float = ranged(0.0, "[0, inf)")
    """Weight of the entropy bonus, per nat."""
    max_grad_norm: float | None = ranged(None, "(0, inf)")
    """Largest norm of the actor's gradient; None does not clip."""
    action_samples: int = ranged(8, "[1, inf)")
    """Actions drawn for the mean of Q over the policy if actions are not Discrete."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self):
        check(self)
        for refused, given, reason in self._refusals():
            if refused:
                options = " with ".join(f"{name}={getattr(self, name)!r}" for name in given)
                raise ValueError(f"{options} is not allowed: {reason}.")

    def _refusals(self) -> list[tuple[bool, tuple[str, ...], str]]:
        """Invalid combinations of options: whether each was chosen, its options, and the reason."""
        total, reward_to_go = self.weight == "total-return", "use weight='reward-to-go'"
        of_actions = self.weight in ("q", "advantage")
        of_states = self.weight in ("value-baseline", "td-residual", "n-step", "gae")
        use_critic = "it needs values; use critic='value' or critic='q'"
        return [
            (
                of_actions and self.critic != "q",
                ("weight", "critic"),
                "it needs values of actions; use critic='q'",
            ),
            (of_states and self.critic == "none", ("weight", "critic"), use_critic),
            (self.baseline == "value" and self.critic == "none", ("baseline", "critic"), use_critic),
            (
                self.baseline != "none" and not total and self.weight != "reward-to-go",
                ("baseline", "weight"),
                "that weight has its own baseline or needs none; use weight='reward-to-go' or 'total-return', or "
                "baseline='none'",
            ),
            (
                total and self.baseline == "value",
                ("baseline", "weight"),
                f"V(s) is the return from s on, not that of the whole episode; {reward_to_go}, or baseline='mean'",
            ),
            (
                total and self.discount_weighting,
                ("discount_weighting", "weight"),
                f"the return is already discounted from the episode's start; {reward_to_go}",
            ),
            (
                self.baseline == "optimal" and self.normalize_advantage,
                ("normalize_advantage", "baseline"),
                "each parameter has a baseline of its own; use normalize_advantage=False",
            ),
        ]

    def init(self, key: Key, spec: Spec) -> EpisodicState:
        """Draw the initial training state. Raises ValueError for a space that no policy covers."""
        state = policy_state_init(self, key, spec, batch_size=self.critic_batch_size)
        if self.critic != "value":
            state = without_critic(state)
        if self.critic == "q":
            example = encode(state.policy, None, state.policy.encoder.example())
            critic = action_value(state.policy).init(jax.random.fold_in(key, 1), example)
            state = dataclasses.replace(state, params=state.params | {"critic": critic})
        optimiser = actor_and_critic_optimisers(state.params, self.max_grad_norm)
        return episodic(state, spec.num_envs, optimiser)

    actor = policy_actor
    initial_memory = policy_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(
        self, state: EpisodicState, rollout: Rollout, key: Key
    ) -> tuple[EpisodicState, dict[str, Array]]:
        """One step of the actor: `-> state, metrics`."""
        key_critic, key_actions = jax.random.split(key)
        seen, q = self._look(state, rollout, key_actions)
        where = places(seen.trace, state.elapsed)
        actor = ascend(
            state.policy,
            state.params["actor"],
            state.optimiser["actor"],
            self._weighted(state, seen, q, where),
            learning_rate=schedule_value(self.learning_rate, progress(state.clock)),
            ent_coef=self.ent_coef,
            max_grad_norm=self.max_grad_norm,
        )
        params, optimiser, metrics = {"actor": actor.params}, {"actor": actor.optimiser}, actor.metrics
        if self.critic != "none":
            critic = self._fit(state, seen, key_critic)
            params["critic"], optimiser["critic"] = critic.params, critic.optimiser
            metrics |= critic.metrics
        learned = dataclasses.replace(
            advance_statistics(self, state, rollout, seen.critic_memory),
            params=params,
            optimiser=optimiser,
            elapsed=where.elapsed,
        )
        return learned, metrics

    def _look(self, state: EpisodicState, rollout: Rollout, key: Key) -> tuple[Experience, Array]:
        """The rollout with the critic's values, and `Q(s_t, a_t)`, `[T, B]`."""
        policy, params = state.policy, state.params
        if self.critic != "q":
            return experience(self, state, rollout, batch_size=self.critic_batch_size), jnp.zeros(())
        critic, noise = action_value(policy), policy.head.noise(key, (self.action_samples, 1))

        def expected(x: Pytree) -> Array:
            return critic.expected(params["critic"], x, policy.distribution(params["actor"], x), noise)

        seen = experience(self, state, rollout, value_of=expected)
        (action,) = seen.samples(seen.action)
        return seen, critic.value(params["critic"], seen.x, action).reshape(seen.reward.shape)

    def _weighted(self, state: EpisodicState, seen: Experience, q: Array, where: Places) -> Weighted:
        """The weight of each action, baseline and discount included."""
        facts = seen.action, self._psi(seen, q, where), where.complete, where.episode, where.time
        action, psi, complete, episode, time = seen.samples(*facts)
        used = complete | (self.critic != "none")
        baseline = ALIASES.get(self.weight, self.baseline)
        if baseline == "mean":
            psi -= mean_baseline(psi, episode, used)
        elif baseline == "time-mean":
            psi -= time_mean_baseline(psi, episode, time, used)
        weighting = self.gamma**time if self.discount_weighting else jnp.ones_like(psi)
        if baseline == "optimal":
            score = scores(state.policy, state.params["actor"], seen.x, action)
            score *= (used * weighting)[:, None]
            psi = (psi[:, None] - self._least_variance(score, psi, episode)) * weighting[:, None]
        else:
            psi *= weighting
        if self.normalize_advantage:
            psi = jnp.where(used, (psi - psi.mean(where=used)) / (psi.std(where=used) + 1e-8), 0)
        return Weighted(seen.x, action, psi, used)

    def _psi(self, seen: Experience, q: Array, where: Places) -> Array:
        """The weight before a mean baseline is subtracted, `[T, B]`."""
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
        """The baseline of each step and parameter, `[N, P]`: over episodes for total-return, else over steps."""
        if self.weight != "total-return":
            return optimal_baseline(score, returns, episode)
        size = len(returns)
        counts = jax.ops.segment_sum(jnp.ones_like(returns), episode, size)
        whole = jax.ops.segment_sum(returns, episode, size) / jnp.maximum(counts, 1)
        sums = jax.ops.segment_sum(score, episode, size)
        return optimal_baseline(sums, whole, jnp.arange(size))[episode]

    def _fit(self, state: EpisodicState, seen: Experience, key: Key) -> Fitted:
        """The critic after this rollout, fitted to lambda-returns."""
        facts = seen.reward, seen.discount, seen.value, seen.next_value
        target = gae(*facts, self.gae_lambda * seen.trace) + seen.value
        action, target = seen.samples(seen.action, target)
        if self.critic == "value":
            return fit_value(self, state, seen.x, target, key)
        q = action_value(state.policy)

        def predict(critic: Pytree, inputs: tuple[Pytree, Pytree]) -> Array:
            return q.value(critic, *inputs)

        return fit(
            predict,
            Critic(state.params["critic"], state.optimiser["critic"]),
            (seen.x, action),
            target,
            key,
            learning_rate=schedule_value(self.critic_learning_rate, progress(state.clock)),
            epochs=self.critic_epochs,
            batch_size=self.critic_batch_size,
        )
