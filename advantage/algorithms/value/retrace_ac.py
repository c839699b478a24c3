"""Actor-critic with a critic trained by Retrace (Munos et al. 2016) on replayed sequences."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

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
    scaled_reward,
    statistics_of,
)
from advantage.algorithms.policy_gradient.shared.experience import merge_time_and_envs
from advantage.algorithms.policy_gradient.shared.options import PolicyOptions
from advantage.algorithms.policy_gradient.shared.replayed_critic import empty_replay, polyak
from advantage.algorithms.policy_gradient.shared.state import extended, policy_state_init, without_critic
from advantage.algorithms.value.shared.gradient_steps import (
    Learning,
    LearningState,
    adam_init,
    part_step,
    take_gradient_steps,
)
from advantage.algorithms.value.shared.options import BufferOptions, TargetNetwork, check_budget
from advantage.estimators.off_policy_corrections import retrace
from advantage.objectives.surrogates import squared_error
from advantage.policies.action_value import action_value
from advantage.policies.actor_critic import ActorCritic
from advantage.policies.heads import Bounds, CategoricalHead, GaussianHead, Spread
from advantage.replay.ring import Replay, replay_add
from advantage.replay.sequences import replay_sequences
from advantage.types import Array, Key, Pytree, Rollout, Spec


class SequenceBatch(NamedTuple):
    """Replayed sequences: the networks' current input, a sample for each step `[L * N, ...]`, and numbers `[L, N]`.

    Attributes:
        x, next_x, action: inputs of the step and of its true successor, and the action taken.
        log_prob: `log mu(a|s)`, of the policy that acted.
        reward: scaled if the method scales rewards.
        discount: `gamma (1 - terminated)`.
        trace: `lam (1 - done)`, and 0 at the newest step of the buffer, which nothing follows.
        mask: bool, which steps there are.
    """

    x: Pytree
    next_x: Pytree
    action: Pytree
    log_prob: Array
    reward: Array
    discount: Array
    trace: Array
    mask: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class RetraceAC(TargetNetwork, BufferOptions, PolicyOptions):
    """Actor-critic with Retrace(lambda): the critic learns from whole replayed sequences, whichever policy acted.

    log mu(a|s) of the policy that acts is stored too. After every n_steps in each environment, gradient_steps times for
    each environment, with batch_size sequences of replay_length successive steps from the replay buffer:

        c_t      <- lam min(1, pi(a_t|s_t) / mu(a_t|s_t))
        delta_t  <- r_t + gamma (1 - terminated_t) E_{a~pi} Q'(s_{t+1}, a) - Q'(s_t, a_t)
        y_t      <- Q'(s_t, a_t) + sum_{k>=t} gamma^{k-t} c_{t+1} ... c_k delta_k     to the episode's or sequence's end
        Q        <- Adam on mean (Q(s_t, a_t) - y_t)^2 / 2
        theta    <- Adam along mean ∇_theta E_{a~pi} Q(s_t, a) + ent_coef mean ∇H(pi(.|s_t))
        Q'       <- (1 - tau) Q' + tau Q

    For Discrete actions the expectations are exact sums, and the actor's gradient is sum_a ∇pi(a|s) (Q(s, a) - V(s));
    for continuous ones they are means over action_samples actions, which move with theta. Q is the value of rewards
    alone; the entropy bonus is the actor's.

    Departures from the paper, which evaluates greedy policies of DQN: an actor, and pi of the current parameters.

    Source: Munos et al. 2016, "Safe and efficient off-policy reinforcement learning", eq. 3 and 4; Silver et al. 2014,
    "Deterministic policy gradient algorithms", section 2.4, for the actor at replayed states.
    """

    lam: float = ranged(0.95, "[0, 1]")
    """Lambda of Retrace: 0 uses one step; 1 all steps up to the first action that pi would choose less often."""
    replay_length: int = ranged(8, "[1, inf)")
    """Steps of a replayed sequence."""
    batch_size: int = ranged(32, "[1, inf)")
    """Sequences in a gradient step."""
    action_samples: int = ranged(1, "[1, inf)")
    """Continuous actions drawn in each state for an expectation."""
    ent_coef: float = ranged(0.1, "[0, inf)")
    """Weight of the entropy bonus, in rewards per nat; without one the policy may stop exploring."""
    action_bounds: Bounds = "squash"
    """Bounded continuous actions: squash a Gaussian's samples by tanh, or clip them."""
    action_spread: Spread = "state-dependent"
    """Whether a Gaussian's standard deviation is a parameter or an output of the network."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> LearningState:
        """Draw the initial training state.

        Raises:
            ValueError: actions that are neither Discrete nor a Box of floats, a recurrent network, learning that
                starts after the budget, or a replay buffer that has no room for one sequence or does not fit into
                memory.
        """
        check_budget(self, spec)
        key_policy, key_critic = jax.random.split(key)
        state = without_critic(policy_state_init(self, key_policy, spec))
        if not isinstance(state.policy.head, CategoricalHead | GaussianHead):
            raise ValueError(
                f"Retrace needs Discrete actions or a Box of floats, and the action space is {spec.action_space}; use "
                "off-policy-ac or ppo."
            )
        if self.replay_length > self.buffer_size // spec.num_envs:
            raise ValueError(
                f"replay_length={self.replay_length} is longer than the {self.buffer_size // spec.num_envs} steps that "
                f"buffer_size={self.buffer_size} holds of each of {spec.num_envs} environments; use "
                f"buffer_size={self.replay_length * spec.num_envs} or more, or shorter sequences."
            )
        encoder = state.policy.encoder
        critic = action_value(state.policy).init(key_critic, encoder.encode(encoder.example()))
        params = {"actor": state.params["actor"], "action_value": critic}
        log_prob = jax.ShapeDtypeStruct((), jnp.float32)
        return extended(
            state,
            LearningState,
            params=params,
            optimiser={name: adam_init(part) for name, part in params.items()},
            target=critic,
            replay=empty_replay(state.policy, spec, self.buffer_size, extras=log_prob),
            gradient_steps=jnp.uint32(0),
        )

    actor = policy_actor
    initial_memory = policy_memory
    noise = policy_noise
    act = act_with_log_prob
    greedy = greedy_by_policy

    def update(
        self, state: LearningState, rollout: Rollout, key: Key
    ) -> tuple[LearningState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        policy, q = state.policy, action_value(state.policy)
        replay = replay_add(state.replay, rollout)
        rate = schedule_value(self.learning_rate, progress(state.clock))

        def step(learning: Learning, key: Key) -> tuple[Learning, dict[str, Array]]:
            key_batch, key_next, key_now = jax.random.split(key, 3)
            batch = sequence_batch(self, state, replay, key_batch)
            there, steps = batch.mask.ravel(), batch.mask.sum()
            shape = self.action_samples, there.size
            noise_next, noise_now = policy.head.noise(key_next, shape), policy.head.noise(key_now, shape)
            target, metrics = retrace_targets(
                policy, learning.params["actor"], learning.target, batch, noise_next
            )

            def critic_loss(critic: Pytree) -> tuple[Array, dict[str, Array]]:
                value = q.value(critic, batch.x, batch.action)
                loss = (there * squared_error(value, target.ravel())).sum() / steps
                return loss, {"action_value_loss": loss, "action_value": (there * value).sum() / steps}

            learning, fitted = part_step("action_value", critic_loss, learning, rate)
            critic = learning.params["action_value"]

            def actor_loss(actor: Pytree) -> tuple[Array, dict[str, Array]]:
                distribution = policy.distribution(actor, batch.x)
                gain = q.expected(critic, batch.x, distribution, noise_now)
                entropy = (there * distribution.entropy()).sum() / steps
                return -(there * gain).sum() / steps - self.ent_coef * entropy, {"entropy": entropy}

            learning, climbed = part_step("actor", actor_loss, learning, rate)
            learning = learning._replace(
                target=polyak(learning.target, critic, self.tau), gradient_steps=learning.gradient_steps + 1
            )
            return learning, metrics | fitted | climbed

        return take_gradient_steps(self, state, rollout, replay=replay, key=key, step=step)


def sequence_batch(options: RetraceAC, state: LearningState, replay: Replay, key: Key) -> SequenceBatch:
    """Draw sequences, scale them by the state's current statistics, and turn ends into numbers."""
    rows = replay_sequences(replay, key, options.batch_size, length=options.replay_length)
    normalise, reward = statistics_of(options, state), scaled_reward(options, state, rows.reward)
    obs, next_obs, action = merge_time_and_envs((rows.obs, rows.next_obs, rows.action))
    followed = jnp.concatenate([rows.mask[1:], jnp.zeros_like(rows.mask[:1])])
    return SequenceBatch(
        x=encode(state.policy, normalise, obs),
        next_x=encode(state.policy, normalise, next_obs),
        action=action,
        log_prob=rows.extras,
        reward=reward,
        discount=options.gamma * (1 - rows.terminated),
        trace=options.lam * followed * (1 - (rows.terminated | rows.truncated)),
        mask=rows.mask,
    )


def retrace_targets(
    policy: ActorCritic, actor: Pytree, critic: Pytree, batch: SequenceBatch, noise: Pytree
) -> tuple[Array, dict[str, Array]]:
    """`y_t` for every step, `[L, N]`, and the mean of `min(1, rho)` as a metric.

    Args:
        policy, actor: the networks, and the parameters of pi.
        critic: the parameters of Q'.
        batch: from `sequence_batch`.
        noise: for the actions in the successors, `[action_samples, L * N, ...]`.
    """
    q, shape = action_value(policy), batch.reward.shape
    log_prob = policy.distribution(actor, batch.x).log_prob(batch.action).reshape(shape)
    following = q.expected(critic, batch.next_x, policy.distribution(actor, batch.next_x), noise)
    value = q.value(critic, batch.x, batch.action)
    rho = jnp.exp(log_prob - batch.log_prob)
    target = retrace(
        batch.reward, batch.discount, value.reshape(shape), following.reshape(shape), rho, batch.trace
    )
    clipped = (batch.mask * jnp.minimum(rho, 1.0)).sum() / batch.mask.sum()
    return target, {"clipped_ratio": clipped}
