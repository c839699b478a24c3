"""Deep deterministic policy gradient (Lillicrap et al. 2016)."""

from __future__ import annotations

import dataclasses

import jax

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import check, hyperparameters, schedule_value
from advantage.algorithms.policy_gradient.shared.replayed_critic import replayed_batch
from advantage.algorithms.value.shared.deterministic import (
    DeterministicOptions,
    deterministic_state,
    exploration_memory,
    exploration_noise,
    explore,
    exploring_actor,
    greedy_by_mu,
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
from advantage.policies.action_value import action_value
from advantage.replay.ring import replay_add
from advantage.types import Array, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class DDPG(DeterministicOptions):
    """Deep deterministic policy gradient.

    After every n_steps in each environment, gradient_steps times for each environment, with batch_size transitions
    (s, a, r, s') drawn from the replay buffer:

        y       <- r + gamma (1 - terminated) Q'(s', mu'(s'))
        Q       <- Adam on mean (Q(s, a) - y)^2 / 2
        theta   <- Adam along mean ∇_theta Q(s, mu(s))
        Q'      <- (1 - tau) Q' + tau Q,  mu' <- (1 - tau) mu' + tau mu

    Actions carry noise (exploration); until learning_starts they are uniform. With n above 1, y has the rewards of n
    steps and bootstraps after them.

    Departures from the paper: one learning rate, the critic takes the action in its first layer and has no weight
    decay, and the first actions are uniform.

    Source: Lillicrap et al. 2016, "Continuous control with deep reinforcement learning", algorithm 1; Silver et al.
    2014, "Deterministic policy gradient algorithms", eq. 16 to 18.
    """

    def __post_init__(self):
        check(self)
        check_replay(self)

    def init(self, key: Key, spec: Spec) -> LearningState:
        """Draw the initial training state. Raises ValueError as `deterministic_state` does."""
        return deterministic_state(self, key, spec, critics=1)

    actor = exploring_actor
    initial_memory = exploration_memory
    noise = exploration_noise
    act = explore
    greedy = greedy_by_mu

    def update(
        self, state: LearningState, rollout: Rollout, key: Key
    ) -> tuple[LearningState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        policy, q = state.policy, action_value(state.policy)
        replay = replay_add(state.replay, rollout)
        rate = schedule_value(self.learning_rate, progress(state.clock))

        def step(learning: Learning, key: Key) -> tuple[Learning, dict[str, Array]]:
            batch = replayed_batch(self, state, replay, key, size=self.batch_size, n=self.n)
            target = learning.target
            following = policy.distribution(target["actor"], batch.next_x).mode()
            value = jax.vmap(q.value, (0, None, None))(target["action_value"], batch.next_x, following)[0]
            y = batch.reward + batch.discount * value
            learning, metrics = critics_step(q, learning, batch, y, rate)
            value_of = value_of_mu(policy, q, learning, batch.x)
            return actor_step(self, value_of, learning, rate), metrics

        return take_gradient_steps(self, state, rollout, replay=replay, key=key, step=step)
