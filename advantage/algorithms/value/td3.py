"""Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018)."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged, schedule_value
from advantage.algorithms.policy_gradient.shared.replayed_critic import replayed_batch
from advantage.algorithms.value.shared.deterministic import (
    DeterministicOptions,
    deterministic_state,
    exploration_memory,
    exploration_noise,
    explore,
    exploring_actor,
    greedy_by_mu,
    smoothed_action,
    value_of_mu,
)
from advantage.algorithms.value.shared.gradient_steps import (
    Learning,
    LearningState,
    actor_step,
    critics_step,
    take_gradient_steps,
)
from advantage.algorithms.value.shared.options import check_replay
from advantage.algorithms.value.shared.regularised_critics import (
    RegularisedCritics,
    draw_critic_dropout,
    regularised_critic,
)
from advantage.replay.ring import replay_add
from advantage.types import Array, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class TD3(RegularisedCritics, DeterministicOptions):
    """Twin delayed deep deterministic policy gradient.

    After every n_steps in each environment, gradient_steps times for each environment, with batch_size transitions
    (s, a, r, s') drawn from the replay buffer:

        a'      <- clip(mu'(s') + clip(target_std e, -target_clip, target_clip)),  e standard normal
        y       <- r + gamma (1 - terminated) min_i Q'_i(s', a')
        Q_i     <- Adam on mean (Q_i(s, a) - y)^2 / 2                              i = 1, ..., critics
        every policy_delay gradient steps:
            theta   <- Adam along mean ∇_theta Q_1(s, mu(s))
            Q'_i    <- (1 - tau) Q'_i + tau Q_i,  mu' <- (1 - tau) mu' + tau mu

    Actions carry noise (exploration); until learning_starts they are uniform. With n above 1, y has the rewards of n
    steps and bootstraps after them. With layer_norm the critics have layer normalisation; with critic_dropout each pass
    through them, of Q', of Q, and for the policy, has dropout of its own.

    Source: Fujimoto, van Hoof & Meger 2018, "Addressing function approximation error in actor-critic methods",
    algorithm 1.
    """

    critics: int = ranged(2, "[1, inf)")
    """Number of critics; the target takes the lowest of their values."""
    policy_delay: int = ranged(2, "[1, inf)")
    """Gradient steps of the critics for each one of the policy and of the target networks."""
    target_std: float = ranged(0.2, "[0, inf)")
    """Standard deviation of the noise on the target's actions, as a share of half the range of the action."""
    target_clip: float = ranged(0.5, "[0, inf)")
    """Limit of that noise, in the same units."""

    def __post_init__(self):
        check(self)
        check_replay(self)

    def init(self, key: Key, spec: Spec) -> LearningState:
        """Draw the initial training state. Raises ValueError as `deterministic_state` and `regularised_critic` do."""
        critic = partial(regularised_critic, self)
        return deterministic_state(self, key, spec, critics=self.critics, critic=critic)

    actor = exploring_actor
    initial_memory = exploration_memory
    noise = exploration_noise
    act = explore
    greedy = greedy_by_mu

    def update(
        self, state: LearningState, rollout: Rollout, key: Key
    ) -> tuple[LearningState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        policy, q = state.policy, regularised_critic(self, state.policy)
        replay = replay_add(state.replay, rollout)
        rate = schedule_value(self.learning_rate, progress(state.clock))

        def step(learning: Learning, key: Key) -> tuple[Learning, dict[str, Array]]:
            batch = replayed_batch(self, state, replay, key, size=self.batch_size, n=self.n)
            normal = policy.head.noise(jax.random.fold_in(key, 1), (self.batch_size,))
            target = learning.target
            following = smoothed_action(
                policy, target["actor"], batch.next_x, normal, self.target_std, self.target_clip
            )
            next_dropout, dropout = (
                draw_critic_dropout(self, q, jax.random.fold_in(key, n), (self.critics, self.batch_size))
                for n in (2, 3)
            )
            values = jax.vmap(q.value, (0, None, None, 0))(
                target["action_value"], batch.next_x, following, next_dropout
            )
            y = batch.reward + batch.discount * values.min(0)
            learning, metrics = critics_step(q, learning, batch, y, rate, dropout=dropout)
            now_dropout = draw_critic_dropout(self, q, jax.random.fold_in(key, 4), (self.batch_size,))
            value_of = value_of_mu(policy, q, learning, batch.x, dropout=now_dropout)
            return actor_step(self, value_of, learning, rate, delay=self.policy_delay), metrics

        return take_gradient_steps(self, state, rollout, replay=replay, key=key, step=step)
