"""CrossQ (Bhatt et al. 2024): soft actor-critic with batch-normalised critics and without target networks."""

from __future__ import annotations

import dataclasses
import functools

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
from advantage.algorithms.policy_gradient.shared.options import PolicyOptions
from advantage.algorithms.policy_gradient.shared.replayed_critic import replayed_batch
from advantage.algorithms.policy_gradient.shared.state import policy_state_init, without_critic
from advantage.algorithms.value.shared.entropy import (
    EntropyOptions,
    EntropyState,
    entropy_aim,
    entropy_state,
    lowest_value,
)
from advantage.algorithms.value.shared.gradient_steps import (
    Learning,
    part_step,
    take_gradient_steps,
)
from advantage.algorithms.value.shared.options import ReplayOptions, check_budget, check_replay
from advantage.objectives.surrogates import squared_error
from advantage.policies.action_value import ActionValue, action_value, action_vector, join
from advantage.policies.actor_critic import ActorCritic
from advantage.policies.batch_norm import BatchNormMLP
from advantage.policies.encoder import network_input
from advantage.policies.heads import GaussianHead
from advantage.policies.networks import MLP, linear
from advantage.replay.ring import replay_add
from advantage.types import Array, Key, Pytree, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class CrossQ(EntropyOptions, ReplayOptions, PolicyOptions):
    """CrossQ: soft actor-critic whose critics are batch-normalised, so that they need no target networks.

    After every n_steps in each environment, gradient_steps times for each environment, with batch_size transitions
    (s, a, r, s') drawn from the replay buffer:

        a'            ~ pi(.|s')
        q_i, q'_i     <- Q_i of (s, a) and of (s', a') in one batch, normalised by the moments of both together
        y             <- r + gamma (1 - terminated) (min_i q'_i - alpha log pi(a'|s')), without gradient
        Q_i           <- Adam on mean (q_i - y)^2 / 2                                          i = 1, 2
        M_i           <- batch_momentum M_i + (1 - batch_momentum) (moments of the batch)
        every policy_delay gradient steps, with Q_i normalised by the running moments M_i:
            theta     <- Adam on mean (alpha log pi(a|s) - min_i Q_i(s, a)),  a ~ pi(.|s) moves with theta
            log alpha <- Adam on -log alpha (mean log pi(a|s) + target_entropy)

    From gradient step renormalise_after on, the normalisation of a batch is corrected towards the running moments.
    With n above 1, y has the rewards of n steps and bootstraps after them.

    Source: Bhatt et al. 2024, "CrossQ: Batch normalization in deep reinforcement learning for greater sample efficiency
    and simplicity", section 3; Ioffe 2017, "Batch renormalization", algorithm 1.
    """

    learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size; a number or a schedule of progress."""
    critic_hidden: tuple[int, ...] | None = ranged(None, "[1, inf)")
    """Widths of the critics' hidden layers; None: those of hidden."""
    policy_delay: int = ranged(3, "[1, inf)")
    """Gradient steps of the critics for each one of the policy and of the temperature."""
    batch_momentum: float = ranged(0.99, "[0, 1)")
    """Share of the running moments that a gradient step keeps."""
    renormalise_after: int = ranged(100_000, "[0, inf)")
    """Gradient steps with plain batch normalisation, before batch renormalisation begins."""
    adam_b1: float = ranged(0.5, "[0, 1)")
    """Share of the mean gradient that Adam keeps in each step."""

    def __post_init__(self):
        check(self)
        check_replay(self)

    def init(self, key: Key, spec: Spec) -> EntropyState:
        """Draw the initial training state; it has no target network.

        Raises:
            ValueError: actions that are not a Box of floats, a network without fully connected hidden layers, learning
                that starts after the budget, or a replay buffer that does not fit into memory.
        """
        check_budget(self, spec)
        key_policy, key_critics = jax.random.split(key)
        state = without_critic(policy_state_init(self, key_policy, spec))
        if not isinstance(state.policy.head, GaussianHead):
            raise ValueError(
                f"CrossQ needs a Box of floats, and the action space is {spec.action_space}; use sac, dqn or ppo."
            )
        q = batch_normalised_critic(self, state.policy)
        begun = entropy_state(state, key_critics, spec, q=q, size=self.buffer_size)
        return dataclasses.replace(begun, target=())

    actor = policy_actor
    initial_memory = policy_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(
        self, state: EntropyState, rollout: Rollout, key: Key
    ) -> tuple[EntropyState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        policy, q = state.policy, batch_normalised_critic(self, state.policy)
        replay = replay_add(state.replay, rollout)
        rate = schedule_value(self.learning_rate, progress(state.clock))
        adam = functools.partial(part_step, learning_rate=rate, b1=self.adam_b1)

        def step(learning: Learning, key: Key) -> tuple[Learning, dict[str, Array]]:
            key_batch, key_next, key_now = jax.random.split(key, 3)
            batch = replayed_batch(self, state, replay, key_batch, size=self.batch_size, n=self.n)
            noise, next_noise = (policy.head.noise(key, (self.batch_size,)) for key in (key_now, key_next))
            log_alpha = learning.params["log_alpha"]
            alpha = jnp.exp(log_alpha) if self.alpha is None else jnp.float32(self.alpha)
            following = policy.distribution(learning.params["actor"], batch.next_x)
            next_action, next_log_prob = following.sample_and_log_prob(next_noise)
            halves = (batch.x, batch.action), (batch.next_x, next_action)
            x, action = jax.tree.map(lambda now, following: jnp.concatenate([now, following]), *halves)
            values_of = functools.partial(
                value_in_batch,
                q,
                momentum=self.batch_momentum,
                renormalise=learning.gradient_steps >= jnp.uint32(self.renormalise_after),
            )

            def critics_loss(critics: Pytree) -> tuple[Array, tuple[Pytree, dict[str, Array]]]:
                values, moments = jax.vmap(values_of, (0, None, None))(critics, x, action)
                value, next_value = jnp.split(values, 2, axis=1)
                y = batch.reward + batch.discount * (next_value.min(0) - alpha * next_log_prob)
                losses = squared_error(value, jax.lax.stop_gradient(y)).mean(1)
                return losses.sum(), (
                    moments,
                    {"action_value_loss": losses.mean(), "action_value": value.mean()},
                )

            learning, (moments, metrics) = adam("action_value", critics_loss, learning)
            critics = learning.params["action_value"]
            critics = critics | {"network": critics["network"] | {"moments": moments}}
            learning = learning._replace(
                params=learning.params | {"action_value": critics}, gradient_steps=learning.gradient_steps + 1
            )

            def actor_loss(actor: Pytree) -> tuple[Array, Array]:
                value, log_prob = lowest_value(
                    q, critics, batch.x, policy.distribution(actor, batch.x), noise
                )
                return (alpha * log_prob - value).mean(), -log_prob.mean()

            def move() -> Learning:
                moved, entropy = adam("actor", actor_loss, learning)
                if self.alpha is not None:
                    return moved
                surplus = entropy - entropy_aim(self, state)
                return adam("log_alpha", lambda log_alpha: (log_alpha * surplus, ()), moved)[0]

            due = learning.gradient_steps % jnp.uint32(self.policy_delay) == 0
            metrics |= {"entropy": -next_log_prob.mean(), "alpha": alpha}
            return jax.lax.cond(due, move, lambda: learning), metrics

        return take_gradient_steps(self, state, rollout, replay=replay, key=key, step=step)


def batch_normalised_critic(options: CrossQ, policy: ActorCritic) -> ActionValue:
    """The action-value function of a policy's observations and actions, with batch-normalised layers.

    Raises:
        ValueError: a recurrent network, or one without fully connected hidden layers.
    """
    q = action_value(policy)
    hidden = options.critic_hidden or (q.network.hidden if isinstance(q.network, MLP) else ())
    if not isinstance(q.network, MLP) or not hidden:
        raise ValueError(
            "CrossQ normalises the fully connected hidden layers of its critics, and this run has none; give the "
            "critics hidden layers, critic_hidden=(256, 256), or use sac for images and networks of your own."
        )
    network = BatchNormMLP(hidden, q.network.activation, q.network.initialisation)
    return dataclasses.replace(q, network=network)


def value_in_batch(
    q: ActionValue,
    critic: Pytree,
    x: Pytree,
    action: Array,
    *,
    momentum: float,
    renormalise: Array | bool,
) -> tuple[Array, Pytree]:
    """`Q(s, a)` of a batch, normalised by its own moments, and the running moments after it: `-> [N], moments`.

    `momentum` and `renormalise` are those of `BatchNormMLP.apply_to_batch`.
    """
    assert isinstance(q.network, BatchNormMLP)
    inputs = join(network_input(x), action_vector(q.head, action))
    features, moments = q.network.apply_to_batch(
        critic["network"], inputs, momentum=momentum, renormalise=renormalise
    )
    return linear(critic["head"], features)[..., 0], moments
