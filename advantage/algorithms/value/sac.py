"""Soft actor-critic (Haarnoja et al. 2018), for continuous and for Discrete actions."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged, schedule_value
from advantage.algorithms.policy_gradient.shared.acting import policy_actor, policy_noise
from advantage.algorithms.policy_gradient.shared.options import PolicyOptions
from advantage.algorithms.policy_gradient.shared.replayed_critic import (
    polyak,
    replayed_batch,
)
from advantage.algorithms.policy_gradient.shared.state import policy_state_init, without_critic
from advantage.algorithms.value.shared.correlated_noise import (
    act_with_lasting_noise,
    greedy_beside_noise,
    noise_memory,
)
from advantage.algorithms.value.shared.entropy import (
    EntropyOptions,
    EntropyState,
    entropy_aim,
    entropy_state,
    lowest_value,
)
from advantage.algorithms.value.shared.gradient_steps import (
    Learning,
    critics_step,
    part_step,
    take_gradient_steps,
)
from advantage.algorithms.value.shared.options import ReplayOptions, TargetNetwork, check_budget, check_replay
from advantage.algorithms.value.shared.regularised_critics import (
    RegularisedCritics,
    draw_critic_dropout,
    regularised_critic,
)
from advantage.policies.heads import CategoricalHead, GaussianHead
from advantage.replay.ring import replay_add
from advantage.types import Array, Key, Pytree, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class SAC(RegularisedCritics, EntropyOptions, TargetNetwork, ReplayOptions, PolicyOptions):
    """Soft actor-critic: maximise rewards and the policy's entropy, with two critics from replayed experience.

    After every n_steps in each environment, gradient_steps times for each environment, with batch_size transitions
    (s, a, r, s') drawn from the replay buffer:

        y          <- r + gamma (1 - terminated) (min_i Q'_i(s', a') - alpha log pi(a'|s')),  a' ~ pi(.|s')
        Q_i        <- Adam on mean (Q_i(s, a) - y)^2 / 2                                      i = 1, 2
        theta      <- Adam on mean (alpha log pi(a|s) - min_i Q_i(s, a)),  a ~ pi(.|s) moves with theta
        log alpha  <- Adam on -log alpha (mean log pi(a|s) + target_entropy)
        Q'_i       <- (1 - tau) Q'_i + tau Q_i

    For Discrete actions the expectations over a and a' are exact sums. With n above 1, y has the rewards of n steps and
    bootstraps after them. With layer_norm the critics have layer normalisation; with critic_dropout each pass through
    them, of Q', of Q, and for the policy, has dropout of its own: with both and gradient_steps = 20 this is DroQ.

    Source: Haarnoja et al. 2018, "Soft actor-critic algorithms and applications", algorithm 1, eq. 5, 9 and 18, with
    Discrete actions as in Christodoulou 2019, "Soft actor-critic for discrete action settings", eq. 10 to 12;
    DroQ: Hiraoka et al. 2022, "Dropout Q-functions for doubly efficient reinforcement learning", algorithm 2.
    """

    noise_correlation: float | None = ranged(None, "[0, 1)")
    """Correlation of the noise of successive continuous actions of an episode, to explore further; None: independent
    noise."""

    def __post_init__(self):
        check(self)
        check_replay(self)

    def init(self, key: Key, spec: Spec) -> EntropyState:
        """Draw the initial training state.

        Raises:
            ValueError: actions that are neither Discrete nor a Box of floats, a recurrent network, a network without
                hidden layers to regularise, correlated noise of Discrete actions, learning that starts after the
                budget, or a replay buffer that does not fit into memory.
        """
        check_budget(self, spec)
        key_policy, key_critics = jax.random.split(key)
        state = without_critic(policy_state_init(self, key_policy, spec))
        if not isinstance(state.policy.head, CategoricalHead | GaussianHead):
            raise ValueError(
                f"SAC needs Discrete actions or a Box of floats, and the action space is {spec.action_space}; use PPO."
            )
        if self.noise_correlation is not None and isinstance(state.policy.head, CategoricalHead):
            raise ValueError(
                f"noise_correlation is that of Gaussian noise, and the action space is {spec.action_space}; leave it "
                "out, and raise alpha or target_entropy to explore more."
            )
        return entropy_state(
            state, key_critics, spec, q=regularised_critic(self, state.policy), size=self.buffer_size
        )

    actor = policy_actor
    initial_memory = noise_memory
    noise = policy_noise
    act = act_with_lasting_noise
    greedy = greedy_beside_noise

    def update(
        self, state: EntropyState, rollout: Rollout, key: Key
    ) -> tuple[EntropyState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        policy, q = state.policy, regularised_critic(self, state.policy)
        replay, rate = (
            replay_add(state.replay, rollout),
            schedule_value(self.learning_rate, progress(state.clock)),
        )

        def step(learning: Learning, key: Key) -> tuple[Learning, dict[str, Array]]:
            key_batch, key_next, key_now = jax.random.split(key, 3)
            batch = replayed_batch(self, state, replay, key_batch, size=self.batch_size, n=self.n)
            log_alpha = learning.params["log_alpha"]
            alpha = jnp.exp(log_alpha) if self.alpha is None else self.alpha

            # keys 0 to 2 are those of the split
            next_dropout, dropout, now_dropout = (
                draw_critic_dropout(self, q, jax.random.fold_in(key, n), (2, self.batch_size))
                for n in (3, 4, 5)
            )
            following = policy.distribution(learning.params["actor"], batch.next_x)
            noise = policy.head.noise(key_next, (self.batch_size,))
            value, log_prob = lowest_value(q, learning.target, batch.next_x, following, noise, next_dropout)
            y = batch.reward + batch.discount * (value - alpha * log_prob)
            learning, metrics = critics_step(q, learning, batch, y, rate, dropout=dropout)

            critics, noise = learning.params["action_value"], policy.head.noise(key_now, (self.batch_size,))

            def actor_loss(actor: Pytree) -> tuple[Array, dict[str, Array]]:
                distribution = policy.distribution(actor, batch.x)
                value, log_prob = lowest_value(q, critics, batch.x, distribution, noise, now_dropout)
                return (alpha * log_prob - value).mean(), {"entropy": -log_prob.mean()}

            learning, more = part_step("actor", actor_loss, learning, rate)
            if self.alpha is None:
                surplus = more["entropy"] - entropy_aim(self, state)
                learning, _ = part_step(
                    "log_alpha", lambda log_alpha: (log_alpha * surplus, {}), learning, rate
                )
            learning = learning._replace(target=polyak(learning.target, critics, self.tau))
            return learning, metrics | more | {"alpha": jnp.asarray(alpha, jnp.float32)}

        return take_gradient_steps(self, state, rollout, replay=replay, key=key, step=step)
