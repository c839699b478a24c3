"""The deterministic policy gradient with compatible features (Silver et al. 2014)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.policy_gradient.shared.replayed_critic import (
    ReplayBatch,
    empty_replay,
    replayed_batch,
)
from advantage.algorithms.policy_gradient.shared.state import extended
from advantage.algorithms.value.shared.deterministic import (
    DeterministicActor,
    DeterministicOptions,
    deterministic_policy,
    exploration_memory,
    exploration_noise,
    explore,
    exploring_actor,
    greedy_by_mu,
)
from advantage.algorithms.value.shared.gradient_steps import (
    Learning,
    LearningState,
    actor_step,
    adam_init,
    part_step,
    take_gradient_steps,
)
from advantage.algorithms.value.shared.options import check_replay
from advantage.objectives.surrogates import squared_error
from advantage.policies.actor_critic import ActorCritic, feed_forward
from advantage.replay.ring import replay_add
from advantage.types import Array, Key, Pytree, Rollout, Spec

Behaviour = Literal["off-policy", "on-policy"]


@hyperparameters
@dataclasses.dataclass(frozen=True)
class DPG(DeterministicOptions):
    """Deterministic policy gradient with a compatible critic.

    The critic is linear in the action, with the only features that leave the policy's gradient unbiased:

        Q(s, a) = (a - mu(s))^T ∇_theta mu(s)^T w + V(s)

    After every n_steps in each environment, gradient_steps times for each environment, with batch_size transitions
    (s, a, r, s') drawn from the replay buffer (off-policy) or from the last n_steps alone (on-policy):

        y       <- r + gamma (1 - terminated) V'(s')              Q(s', mu(s')) = V(s')
        w, V    <- Adam on mean (Q(s, a) - y)^2 / 2
        theta   <- Adam along mean ∇_theta mu(s) ∇_theta mu(s)^T w
        V'      <- (1 - tau) V' + tau V

    Actions carry noise (exploration), without which w could not be found. On policy V is the value with this noise:
    as its mean is 0, E Q(s', a') = V(s') too. Off policy, actions are uniform until learning_starts.

    Source: Silver et al. 2014, "Deterministic policy gradient algorithms", theorem 3 and COPDAC-Q, eq. 24 to 27.
    """

    behaviour: Behaviour = "off-policy"
    """Learn from all that the replay buffer holds, or from the last n_steps alone."""
    critic_learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size for w and V; a number or a schedule of progress."""

    def __post_init__(self):
        check(self)
        check_replay(self)

    def init(self, key: Key, spec: Spec) -> LearningState:
        """Draw the initial training state.

        Raises:
            ValueError: as `deterministic_policy`, a recurrent network, a rollout that is smaller than a batch, or a
                replay buffer that does not fit into memory.
        """
        state = deterministic_policy(self, key, spec)
        feed_forward(state.policy.network)
        actor = state.params["actor"]
        critic = {"w": jax.tree.map(jnp.zeros_like, actor), "critic": state.params["critic"]}
        params = {"actor": actor, "action_value": critic}
        capacity = self.buffer_size
        if self.behaviour == "on-policy":
            capacity = self.n_steps * spec.num_envs
            if capacity < self.batch_size:
                raise ValueError(
                    f"behaviour='on-policy' learns from n_steps={self.n_steps} in {spec.num_envs} environments, which "
                    f"is below batch_size={self.batch_size}; use more steps or a smaller batch."
                )
        return extended(
            state,
            LearningState,
            params=params,
            optimiser={name: adam_init(part) for name, part in params.items()},
            target=params,
            replay=empty_replay(state.policy, spec, capacity),
            gradient_steps=jnp.uint32(0),
            critic_memory=(),
        )

    initial_memory = exploration_memory
    noise = exploration_noise
    act = explore
    greedy = greedy_by_mu

    def actor(self, state: LearningState) -> DeterministicActor:
        """The policy; off policy, at random until learning starts."""
        actor = exploring_actor(self, state)
        return actor if self.behaviour == "off-policy" else actor._replace(random=jnp.zeros((), bool))

    def update(
        self, state: LearningState, rollout: Rollout, key: Key
    ) -> tuple[LearningState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        policy, replay, spent = state.policy, replay_add(state.replay, rollout), progress(state.clock)
        rate, critic_rate = (
            schedule_value(schedule, spent) for schedule in (self.learning_rate, self.critic_learning_rate)
        )

        def step(learning: Learning, key: Key) -> tuple[Learning, dict[str, Array]]:
            batch = replayed_batch(self, state, replay, key, size=self.batch_size, n=self.n)
            y = batch.reward + batch.discount * policy.value(learning.target["action_value"], batch.next_x)
            actor = learning.params["actor"]

            def critic_loss(critic: Pytree) -> tuple[Array, dict[str, Array]]:
                value = compatible_value(policy, actor, critic, batch.x, batch.action)
                loss = squared_error(value, y).mean()
                return loss, {"action_value_loss": loss, "action_value": value.mean()}

            learning, metrics = part_step("action_value", critic_loss, learning, critic_rate)
            learning = learning._replace(gradient_steps=learning.gradient_steps + 1)
            return self._actor_step(policy, learning, batch, rate), metrics

        return take_gradient_steps(self, state, rollout, replay=replay, key=key, step=step)

    def _actor_step(
        self, policy: ActorCritic, learning: Learning, batch: ReplayBatch, rate: Array | float
    ) -> Learning:
        actor, w = learning.params["actor"], learning.params["action_value"]["w"]
        _, slope = mu_and_slope(policy, actor, w, batch.x)

        def value_of(actor: Pytree) -> Array:
            return (policy.distribution(actor, batch.x).mode() * slope).sum(-1)

        return actor_step(self, value_of, learning, rate)


def mu_and_slope(policy: ActorCritic, actor: Pytree, w: Pytree, x: Pytree) -> tuple[Array, Array]:
    """`mu(s)` and `∇_theta mu(s)^T w`, the critic's gradient in the action, `[N, d]` each."""
    return jax.jvp(lambda actor: policy.distribution(actor, x).mode(), (actor,), (w,))


def compatible_value(policy: ActorCritic, actor: Pytree, critic: Pytree, x: Pytree, action: Array) -> Array:
    """`(a - mu(s))^T ∇_theta mu(s)^T w + V(s)`, `[N]`; the critic is `{"w", "critic"}`.

    Source: Silver et al. 2014, "Deterministic policy gradient algorithms", theorem 3.
    """
    mu, slope = mu_and_slope(policy, actor, critic["w"], x)
    return ((action - mu) * slope).sum(-1) + policy.value(critic, x)
