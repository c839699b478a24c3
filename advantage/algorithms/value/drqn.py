"""Deep recurrent Q-learning: DQN for hidden state, from replayed sequences (Kapturowski et al. 2019)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged, schedule_value
from advantage.algorithms.policy_gradient.shared.acting import encode, scaled_reward, statistics_of
from advantage.algorithms.policy_gradient.shared.experience import merge_time_and_envs
from advantage.algorithms.policy_gradient.shared.replayed_critic import empty_replay
from advantage.algorithms.policy_gradient.shared.state import extended, network_state_init
from advantage.algorithms.value.shared.gradient_steps import (
    Learning,
    LearningState,
    adam_init,
    adam_step,
    take_gradient_steps,
    target_step,
)
from advantage.algorithms.value.shared.options import ExplorationOptions, check_budget
from advantage.algorithms.value.shared.q_acting import (
    QActor,
    act_by_q,
    best_action,
    epsilon_now,
    greedy_by_q,
    q_memory,
    q_noise,
)
from advantage.estimators.returns import n_step_returns
from advantage.objectives.distributional import MeanReturn, huber
from advantage.policies.actor_critic import ActorCritic
from advantage.policies.heads import CategoricalHead
from advantage.policies.q_network import QNetwork
from advantage.policies.recurrent import NetworkChoice
from advantage.replay.ring import Replay, replay_add
from advantage.replay.sequences import replay_sequences
from advantage.types import Array, Key, Pytree, Rollout, Spec


class MemoryBatch(NamedTuple):
    """Replayed sequences, `[L, N, ...]`, and the memory before their first step, `[N, ...]`.

    Attributes:
        x, next_x, action: inputs of the step and of its true successor, and the action taken.
        begins: bool, whether an episode begins with this step; False in the first one, whose memory is `memory`.
        reward: scaled if the method scales rewards.
        discount: `gamma (1 - terminated)`.
        trace: 0 where nothing follows: at the end of an episode and at the newest step of the buffer; else 1.
        mask: bool, which steps there are.
        memory: the memory that the acting network had.
    """

    x: Pytree
    next_x: Pytree
    action: Array
    begins: Array
    reward: Array
    discount: Array
    trace: Array
    mask: Array
    memory: Pytree


@hyperparameters
@dataclasses.dataclass(frozen=True)
class DRQN(ExplorationOptions):
    """Deep recurrent Q-network: Q-learning with a memory, from replayed sequences.

    The memory before each step is stored too. After every n_steps in each environment, gradient_steps times for each
    environment, with batch_size sequences of burn_in + replay_length successive steps from the replay buffer:

        h_t      <- the memory after o_t: from the stored one on, and the initial one where an episode begins
        b        <- argmax_b Q(h_{t+1}, b)                     without double: argmax_b Q'(h'_{t+1}, b)
        y_t      <- r_t + gamma (1 - terminated_t) Q'(h'_{t+1}, b)
        theta    <- Adam on mean huber(y_t - Q(h_t, a_t))      over the last replay_length steps of each sequence
        Q'       <- (1 - tau) Q' + tau Q                       every target_update_interval gradient steps

    The first burn_in steps only renew the memory, by the current parameters, and no gradient goes through them. It acts
    by an epsilon-greedy policy of Q. With n above 1, y has the rewards of n steps and bootstraps after them.

    Departures from the paper: uniform replay, one process, rewards and values as they are, without a rescaling.

    Source: Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning", section 3;
    Hausknecht & Stone 2015, "Deep recurrent Q-learning for partially observable MDPs"; van Hasselt, Guez & Silver 2016,
    "Deep reinforcement learning with double Q-learning", eq. 4.
    """

    network: NetworkChoice = "gru"
    """gru or lstm, whose memory has the last width of hidden; or, from Python, a recurrent triple of your own (init,
    apply, initial), or a recurrent module by adv.from_flax or adv.from_equinox."""
    memory_span: int | None = ranged(None, "[2, inf)")
    """About the number of steps for which the gates remember at first, at most; None leaves their biases as drawn."""
    double: bool = True
    """The trained network chooses the action whose value the target network gives."""
    dueling: bool = False
    """The network adds a value of the history and advantages of the actions."""
    replay_length: int = ranged(16, "[1, inf)")
    """Steps of a replayed sequence that are learned from."""
    burn_in: int = ranged(8, "[0, inf)")
    """Steps before them that renew the memory."""
    target_update_interval: int = ranged(100, "[1, inf)")
    """Gradient steps between updates of the target network."""
    tau: float = ranged(1.0, "(0, 1]")
    """Fraction by which the target network moves towards the trained one in an update; 1 copies it."""
    max_grad_norm: float | None = ranged(10.0, "(0, inf)")
    """Largest global norm of a gradient; None does not clip."""
    n_steps: int = ranged(16, "[1, inf)")
    """Steps taken in each environment between updates."""
    batch_size: int = ranged(32, "[1, inf)")
    """Sequences in a gradient step."""
    buffer_size: int = ranged(100_000, "[1, inf)")
    """Number of steps that the replay buffer holds, each with a memory."""
    hidden: tuple[int, ...] = ranged((64, 64), "[1, inf)")
    """Widths of the hidden layers and, last, of the memory; observations with images have convolutions first."""

    def __post_init__(self):
        check(self)
        if self.n > self.replay_length:
            raise ValueError(
                f"n={self.n} is above replay_length={self.replay_length}, and a target has rewards of one sequence; "
                f"use n={self.replay_length} or less, or longer sequences."
            )

    def init(self, key: Key, spec: Spec) -> LearningState:
        """Draw the initial training state.

        Raises:
            ValueError: actions that are not Discrete, a network without memory, learning that starts after the budget,
                or a replay buffer that has no room for one sequence or does not fit into memory.
        """
        check_budget(self, spec)
        key_policy, key_network = jax.random.split(key)
        state = network_state_init(self, key_policy, spec, bounds="clip", memory_span=self.memory_span)
        if not isinstance(state.policy.head, CategoricalHead):
            raise ValueError(
                f"DRQN needs Discrete actions, and the action space is {spec.action_space}; use ppo with network='gru' "
                "(--network gru)."
            )
        if not state.policy.is_recurrent:
            raise ValueError(
                f"network={self.network!r} has no memory, and DRQN learns from sequences; use dqn, or network='gru'."
            )
        length, rows = self.burn_in + self.replay_length, self.buffer_size // spec.num_envs
        if length > rows:
            raise ValueError(
                f"burn_in + replay_length = {length} is longer than the {rows} steps that buffer_size="
                f"{self.buffer_size} holds of each of {spec.num_envs} environments; use "
                f"buffer_size={length * spec.num_envs} or more, or shorter sequences."
            )
        encoder, network = state.policy.encoder, self._network(state.policy)
        params = network.init(key_network, encoder.encode(encoder.example()))
        return extended(
            state,
            LearningState,
            params=params,
            optimiser=adam_init(params, self.max_grad_norm),
            target=params,
            replay=empty_replay(state.policy, spec, self.buffer_size, extras=network.initial_memory()),
            gradient_steps=jnp.uint32(0),
            critic_memory=(),
        )

    def actor(self, state: LearningState) -> QActor:
        """The network and the current epsilon."""
        network, normalise = self._network(state.policy), statistics_of(self, state)
        epsilon = epsilon_now(self, state.clock)
        return QActor(state.policy, network, state.params, normalise, epsilon, MeanReturn())

    initial_memory = q_memory
    noise = q_noise
    greedy = greedy_by_q

    def act(self, actor: QActor, obs: Pytree, memory: Pytree, noise: Pytree) -> tuple[Array, Pytree, Pytree]:
        """Choose by the epsilon-greedy policy: `-> action, memory, the memory before`."""
        action, after, _ = act_by_q(self, actor, obs, memory, noise)
        return action, after, memory

    def update(
        self, state: LearningState, rollout: Rollout, key: Key
    ) -> tuple[LearningState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        network, replay = self._network(state.policy), replay_add(state.replay, rollout)
        rate = schedule_value(self.learning_rate, progress(state.clock))

        def step(learning: Learning, key: Key) -> tuple[Learning, dict[str, Array]]:
            batch = memory_batch(self, state, replay, key)
            target, action = self._target(network, learning, batch), batch.action[self.burn_in :]
            there = batch.mask[self.burn_in :]
            steps = jnp.maximum(there.sum(), 1)

            def loss(params: Pytree) -> tuple[Array, dict[str, Array]]:
                values, _ = values_after_burn_in(network, params, batch, self.burn_in)
                value = _of(values, action)
                total = (there * huber(target - value)).sum() / steps
                mean = (there[..., None] * values).sum() / (steps * values.shape[-1])
                return total, {"action_value_loss": total, "action_value": mean}

            params, optimiser, metrics = adam_step(
                loss, learning.params, learning.optimiser, rate, max_grad_norm=self.max_grad_norm
            )
            taken = learning.gradient_steps + 1
            moved = target_step(learning.target, params, taken, self.target_update_interval, self.tau)
            return Learning(params, optimiser, moved, taken), metrics

        after, metrics = take_gradient_steps(self, state, rollout, replay=replay, key=key, step=step)
        return after, metrics | {"epsilon": self.actor(state).epsilon}

    def _network(self, policy: ActorCritic) -> QNetwork:
        assert isinstance(policy.head, CategoricalHead)
        return QNetwork(policy.network, policy.head.size, policy.initialisation, dueling=self.dueling)

    def _target(self, network: QNetwork, learning: Learning, batch: MemoryBatch) -> Array:
        """`y_t` for the steps that are learned from, `[replay_length, N]`."""
        reward, discount, trace, next_x = jax.tree.map(
            lambda leaf: leaf[self.burn_in :], (batch.reward, batch.discount, batch.trace, batch.next_x)
        )

        def following(params: Pytree) -> Array:
            _, after = values_after_burn_in(network, params, batch, self.burn_in)
            return network.step(params, next_x, after)[0][..., 0]

        values = following(learning.target)
        chooser = following(learning.params) if self.double else values
        next_value = _of(values, best_action(chooser, next_x))
        return n_step_returns(reward, discount, next_value, trace, self.n)


def memory_batch(options: DRQN, state: LearningState, replay: Replay, key: Key) -> MemoryBatch:
    """Draw sequences, scale them by the state's current statistics, and turn ends into numbers."""
    length = options.burn_in + options.replay_length
    rows = replay_sequences(replay, key, options.batch_size, length=length)
    normalise, reward = statistics_of(options, state), scaled_reward(options, state, rows.reward)

    def inputs(obs: Pytree) -> Pytree:
        x = encode(state.policy, normalise, merge_time_and_envs(obs))
        return jax.tree.map(lambda leaf: leaf.reshape(*rows.reward.shape, *leaf.shape[1:]), x)

    done = jnp.logical_or(rows.terminated, rows.truncated)
    nothing = jnp.zeros_like(rows.mask[:1])
    return MemoryBatch(
        x=inputs(rows.obs),
        next_x=inputs(rows.next_obs),
        action=rows.action,
        begins=jnp.concatenate([nothing, done[:-1]]),
        reward=reward,
        discount=options.gamma * (1 - rows.terminated),
        trace=jnp.concatenate([rows.mask[1:], nothing]) * (1.0 - done),
        mask=rows.mask,
        memory=jax.tree.map(lambda leaf: leaf[0], rows.extras),
    )


def values_after_burn_in(
    network: QNetwork, params: Pytree, batch: MemoryBatch, burn_in: int
) -> tuple[Array, Pytree]:
    """`-> Q(h_t, .) [L - burn_in, N, A]`, and the memory after each of these steps.

    No gradient goes through the first `burn_in` steps.
    """
    memory, begins = batch.memory, batch.begins
    if burn_in:
        early = jax.tree.map(lambda leaf: leaf[:burn_in], batch.x)
        _, renewed = network.unroll(jax.lax.stop_gradient(params), early, begins[:burn_in], memory)
        memory = jax.tree.map(lambda leaf: leaf[-1], renewed)
    late = jax.tree.map(lambda leaf: leaf[burn_in:], batch.x)
    z, after = network.unroll(params, late, begins[burn_in:], memory)
    return z[..., 0], after


def _of(values: Array, action: Array) -> Array:
    """The value of one action, `[..., A] -> [...]`."""
    return jnp.take_along_axis(values, action[..., None], axis=-1)[..., 0]
