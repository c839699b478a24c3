"""Stochastic value gradients of order 0 and 1 (Heess et al. 2015)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged, schedule_value
from advantage.algorithms.policy_gradient.shared.acting import (
    act_with_log_prob,
    encode,
    greedy_by_policy,
    policy_actor,
    policy_memory,
    policy_noise,
    statistics_of,
)
from advantage.algorithms.policy_gradient.shared.options import PolicyOptions
from advantage.algorithms.policy_gradient.shared.replayed_critic import (
    ReplayBatch,
    empty_replay,
    polyak,
    scaled_batch,
)
from advantage.algorithms.policy_gradient.shared.state import extended, policy_state_init
from advantage.algorithms.value.shared.gradient_steps import (
    Learning,
    LearningState,
    adam_init,
    part_step,
    take_gradient_steps,
)
from advantage.algorithms.value.shared.options import ReplayOptions, TargetNetwork, check_budget, check_replay
from advantage.models.gaussian_step import gaussian_model, model_init
from advantage.objectives.surrogates import squared_error
from advantage.policies.action_value import action_value
from advantage.policies.actor_critic import ActorCritic, feed_forward
from advantage.policies.distributions import Gaussian, SquashedGaussian
from advantage.policies.heads import Bounds, GaussianHead, Spread
from advantage.policies.inferred_noise import inferred_noise
from advantage.replay.ring import replay_add, transitions_at, uniform_draw
from advantage.replay.sequences import sequences_at
from advantage.running_moments import Moments, moments_init, moments_update
from advantage.types import Array, Key, Pytree, Rollout, Spec

Distribution = Gaussian | SquashedGaussian


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SVGState(LearningState):
    """A training state with the statistics of `s' - s`, for the model of order 1; `()` for order 0."""

    changes: Moments | tuple[()]


@hyperparameters
@dataclasses.dataclass(frozen=True)
class SVG(TargetNetwork, ReplayOptions, PolicyOptions):
    """Stochastic value gradients: through an action-value function, or through a learned model of one step.

    Actions are a = pi(s, eta) with noise eta, and the policy's gradient goes through them. After every n_steps in each
    environment, gradient_steps times for each environment, with batch_size transitions (s, a, r, s') drawn from the
    replay buffer, of which mu(a|s) is the density with which a was drawn:

    order 0, through an action-value function:

        y       <- r + gamma (1 - terminated) Q'(s', pi(s', eta'))
        Q       <- Adam on mean (Q(s, a) - y)^2 / 2
        theta   <- Adam along mean ∇_theta Q(s, pi(s, eta)),  eta drawn

    order 1, through a model s' = f(s, a) + g(s, a) xi and a model of the reward:

        w       <- min(pi(a|s) / mu(a|s), max_weight)
        f, g    <- Adam on mean -log N(s'; f(s, a), g(s, a)^2)
        rhat    <- Adam on mean (rhat(s, a) - r)^2 / 2
        V       <- Adam on mean w (V(s) - y)^2 / 2,  y = r + gamma (1 - terminated) V'(s')
        eta, xi <- the noise with pi(s, eta) = a and f(s, a) + g(s, a) xi = s'
        theta   <- Adam along mean w ∇_theta (rhat(s, a) + gamma (1 - terminated) V(f(s, a) + g(s, a) xi)),
                   a = pi(s, eta) moves with theta

    To theta's gradient is added ent_coef mean ∇_theta H(pi(.|s)). The target networks Q' and V' follow by tau.

    Source: Heess et al. 2015, "Learning continuous control policies by stochastic value gradients", eq. 9 to 12,
    section 4 and the algorithms with replay.
    """

    order: int = ranged(1, "[0, 1]")
    """0: through an action-value function. 1: through a learned model of one step, and a state-value function."""
    ent_coef: float = ranged(0.1, "[0, inf)")
    """Weight of the entropy bonus, in rewards per nat; without one the policy may stop exploring."""
    max_weight: float = ranged(1.0, "(0, inf)")
    """Largest importance weight of an action, of order 1."""
    action_bounds: Bounds = "squash"
    """Bounded continuous actions: squash a Gaussian's samples by tanh, or clip them."""
    action_spread: Spread = "state-dependent"
    """Whether a Gaussian's standard deviation is a parameter or an output of the network."""

    def __post_init__(self):
        check(self)
        check_replay(self)
        if self.order == 1 and self.n > 1:
            raise ValueError(
                f"n={self.n} with order=1 is not allowed: its model is of one step; use n=1 or order=0."
            )

    def init(self, key: Key, spec: Spec) -> SVGState:
        """Draw the initial training state.

        Raises:
            ValueError: actions that are not a Box of floats, observations that the model of order 1 cannot predict, a
                recurrent network, learning that starts after the budget, or a replay buffer that does not fit into
                memory.
        """
        check_budget(self, spec)
        key_policy, key_value, key_model = jax.random.split(key, 3)
        state = policy_state_init(self, key_policy, spec)
        policy, actor = state.policy, state.params["actor"]
        if not isinstance(policy.head, GaussianHead):
            raise ValueError(
                f"A gradient through actions needs a Box of floats, and the action space is {spec.action_space}; use "
                "sac, dqn or ppo."
            )
        feed_forward(policy.network)
        q = action_value(policy).init(key_value, policy.encoder.encode(policy.encoder.example()))
        if self.order == 0:
            params, target, changes = {"actor": actor, "action_value": q}, q, ()
        else:
            model = gaussian_model(policy)
            target = state.params["critic"]
            params = {
                "actor": actor,
                "critic": target,
                "reward": q,
                "model": model_init(model, policy, key_model),
            }
            changes = moments_init((model.size,))
        return extended(
            state,
            SVGState,
            params=params,
            optimiser={name: adam_init(part) for name, part in params.items()},
            target=target,
            replay=empty_replay(policy, spec, self.buffer_size, extras=jax.ShapeDtypeStruct((), jnp.float32)),
            gradient_steps=jnp.uint32(0),
            critic_memory=(),
            changes=changes,
        )

    actor = policy_actor
    initial_memory = policy_memory
    noise = policy_noise
    act = act_with_log_prob
    greedy = greedy_by_policy

    def update(self, state: SVGState, rollout: Rollout, key: Key) -> tuple[SVGState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        replay, changes = replay_add(state.replay, rollout), state.changes
        rate = schedule_value(self.learning_rate, progress(state.clock))
        if isinstance(changes, Moments):
            normalise = statistics_of(self, state)
            x, next_x = (encode(state.policy, normalise, obs) for obs in (rollout.obs, rollout.next_obs))
            changes = moments_update(changes, next_x - x)

        def step(learning: Learning, key: Key) -> tuple[Learning, dict[str, Array]]:
            key_batch, key_noise = jax.random.split(key)
            index = uniform_draw(replay, key_batch, self.batch_size)
            batch = scaled_batch(self, state, transitions_at(replay, index, gamma=self.gamma, n=self.n))
            if isinstance(changes, Moments):
                log_mu = sequences_at(replay, index, length=1).extras[0]
                return self._first_order(state.policy, learning, batch, log_mu, changes, rate)
            noise = state.policy.head.noise(key_noise, (2, self.batch_size))
            return self._zeroth_order(state.policy, learning, batch, noise, rate)

        state, metrics = take_gradient_steps(self, state, rollout, replay=replay, key=key, step=step)
        return dataclasses.replace(state, changes=changes), metrics

    def _zeroth_order(
        self, policy: ActorCritic, learning: Learning, batch: ReplayBatch, noise: Array, rate: Array | float
    ) -> tuple[Learning, dict[str, Array]]:
        q = action_value(policy)
        following = policy.distribution(learning.params["actor"], batch.next_x).sample(noise[1])
        y = batch.reward + batch.discount * q.value(learning.target, batch.next_x, following)

        def critic_loss(critic: Pytree) -> tuple[Array, dict[str, Array]]:
            value = q.value(critic, batch.x, batch.action)
            loss = squared_error(value, y).mean()
            return loss, {"action_value_loss": loss, "action_value": value.mean()}

        learning, metrics = part_step("action_value", critic_loss, learning, rate)
        critic = learning.params["action_value"]

        def value_of(distribution: Distribution) -> Array:
            return q.value(critic, batch.x, distribution.sample(noise[0]))

        learning, more = self._actor_step(policy, learning, batch.x, value_of, rate)
        return learning._replace(target=polyak(learning.target, critic, self.tau)), metrics | more

    def _first_order(
        self,
        policy: ActorCritic,
        learning: Learning,
        batch: ReplayBatch,
        log_mu: Array,
        changes: Moments,
        rate: Array | float,
    ) -> tuple[Learning, dict[str, Array]]:
        model, q = gaussian_model(policy), action_value(policy)
        x, action, next_x = batch.x, batch.action, batch.next_x
        log_pi = policy.distribution(learning.params["actor"], x).log_prob(action)
        weight = jnp.minimum(jnp.exp(log_pi - log_mu), self.max_weight)
        y = batch.reward + batch.discount * policy.value({"critic": learning.target}, next_x)

        def model_loss(params: Pytree) -> tuple[Array, dict[str, Array]]:
            loss = -model.successor(params, changes, x, action).log_prob(next_x).mean()
            return loss, {"model_loss": loss}

        def reward_loss(params: Pytree) -> tuple[Array, dict[str, Array]]:
            loss = squared_error(q.value(params, x, action), batch.reward).mean()
            return loss, {"reward_loss": loss}

        def value_loss(critic: Pytree) -> tuple[Array, dict[str, Array]]:
            value = policy.value({"critic": critic}, x)
            loss = (weight * squared_error(value, y)).mean()
            return loss, {"value_loss": loss, "value": value.mean()}

        metrics = {"weight": weight.mean()}
        for name, loss in (("model", model_loss), ("reward", reward_loss), ("critic", value_loss)):
            learning, more = part_step(name, loss, learning, rate)
            metrics |= more
        params = learning.params

        def value_of(distribution: Distribution) -> Array:
            return weight * one_step_value(
                distribution,
                lambda action: model.successor(params["model"], changes, x, action),
                lambda action: q.value(params["reward"], x, action),
                lambda next_x: policy.value(params, next_x),
                batch,
            )

        learning, more = self._actor_step(policy, learning, x, value_of, rate)
        target = polyak(learning.target, params["critic"], self.tau)
        return learning._replace(target=target), metrics | more

    def _actor_step(
        self,
        policy: ActorCritic,
        learning: Learning,
        x: Pytree,
        value_of: Callable[[Distribution], Array],
        rate: Array | float,
    ) -> tuple[Learning, dict[str, Array]]:
        """One step of Adam up `mean value_of(pi) + ent_coef H(pi)`, at the states x."""

        def loss(actor: Pytree) -> tuple[Array, dict[str, Array]]:
            distribution = policy.distribution(actor, x)
            entropy = distribution.entropy().mean()
            return -value_of(distribution).mean() - self.ent_coef * entropy, {"entropy": entropy}

        learning, metrics = part_step("actor", loss, learning, rate)
        return learning._replace(gradient_steps=learning.gradient_steps + 1), metrics


def one_step_value(
    distribution: Distribution,
    successor: Callable[[Array], Gaussian],
    reward: Callable[[Array], Array],
    value: Callable[[Array], Array],
    batch: ReplayBatch,
) -> Array:
    """`r(s, a) + gamma (1 - terminated) V(s')` of the batch's transitions, done again by a policy and a model, `[N]`.

    Action and successor are those of the batch, up to rounding, and move with the policy: `a = pi(s, eta)` and
    `s' = f(s, a) + g(s, a) xi`, where eta and xi are inferred from the transition and held fixed.

    Args:
        distribution: pi(.|s), squashed or not.
        successor: from actions to the distribution of s'.
        reward, value: r(s, .) and V.
        batch: the transitions.
    """
    fixed, model = jax.lax.stop_gradient(distribution), jax.lax.stop_gradient(successor(batch.action))
    eta, xi = inferred_noise(fixed, batch.action), inferred_noise(model, batch.next_x)
    action = distribution.sample(eta)
    return reward(action) + batch.discount * value(successor(action).sample(xi))
