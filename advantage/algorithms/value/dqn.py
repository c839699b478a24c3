"""Deep Q-learning (Mnih et al. 2015) and its improvements, each of them a switch."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import (
    Linear,
    Schedule,
    check,
    hyperparameters,
    ranged,
    schedule_value,
)
from advantage.algorithms.policy_gradient.shared.acting import statistics_of
from advantage.algorithms.policy_gradient.shared.experience import advance_statistics
from advantage.algorithms.policy_gradient.shared.replayed_critic import (
    ReplayBatch,
    empty_replay,
    repeat,
    scaled_batch,
)
from advantage.algorithms.policy_gradient.shared.state import extended, network_state_init
from advantage.algorithms.value.shared.gradient_steps import (
    Learning,
    LearningState,
    adam_init,
    adam_step,
    number_of_gradient_steps,
    target_step,
)
from advantage.algorithms.value.shared.options import ExplorationOptions, check_budget, check_replay
from advantage.algorithms.value.shared.q_acting import (
    QActor,
    act_by_q,
    best_action,
    epsilon_now,
    greedy_by_q,
    q_memory,
    q_noise,
)
from advantage.objectives.distributional import Categories, MeanReturn, Quantiles
from advantage.policies.actor_critic import ActorCritic, feed_forward
from advantage.policies.heads import CategoricalHead
from advantage.policies.q_network import QNetwork
from advantage.replay.prioritised import (
    Priorities,
    priorities_add,
    priorities_init,
    priorities_sample,
    priorities_update,
)
from advantage.replay.ring import replay_add, transitions_at, uniform_draw
from advantage.types import Array, Key, Pytree, Rollout, Spec

Returns = Literal["mean", "categorical", "quantile"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DQNState(LearningState):
    """A state with the priorities of the transitions in the replay buffer; None if replay is uniform."""

    priorities: Priorities | None


@hyperparameters
@dataclasses.dataclass(frozen=True)
class DQN(ExplorationOptions):
    """Deep Q-network: Q-learning with a network, replayed experience and a target network.

    After every n_steps in each environment, gradient_steps times for each environment, with batch_size transitions
    (s, a, r, s') drawn from the replay buffer:

        b       <- argmax_b Q'(s', b)                  double: argmax_b Q(s', b)
        y       <- r + gamma (1 - terminated) Q'(s', b)
        theta   <- Adam on mean huber(y - Q(s, a))
        Q'      <- (1 - tau) Q' + tau Q                every target_update_interval gradient steps

    It acts by an epsilon-greedy policy of Q. With n above 1, y has the rewards of n steps and bootstraps after them.
    With returns "categorical" or "quantile" the network gives a distribution of returns for each action, Q is its mean,
    and the loss compares distributions:

        categorical   mean of the cross-entropy from the projection of r + gamma Z'(s', b) on the atoms
        quantile      mean of the quantile Huber loss

    Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning", algorithm 1; van Hasselt, Guez
    & Silver 2016, "Deep reinforcement learning with double Q-learning", eq. 4; Wang et al. 2016, "Dueling network
    architectures"; Fortunato et al. 2018, "Noisy networks for exploration"; Bellemare, Dabney & Munos 2017, "A
    distributional perspective on reinforcement learning", algorithm 1; Dabney et al. 2018, "Distributional
    reinforcement learning with quantile regression", algorithm 1.
    """

    double: bool = False
    """The trained network chooses the action whose value the target network gives."""
    dueling: bool = False
    """The network adds a value of the state and advantages of the actions."""
    noisy: bool = False
    """Explore by noise on the weights of the last layers, instead of epsilon."""
    returns: Returns = "mean"
    """What the network gives for each action: the mean return, or a distribution by categories (C51) or quantiles."""
    atoms: int = ranged(51, "[2, inf)")
    """Number of categories or quantiles."""
    min_return: float = ranged(-10.0, "(-inf, inf)")
    """The lowest category."""
    max_return: float = ranged(10.0, "(-inf, inf)")
    """The highest category."""
    target_update_interval: int = ranged(250, "[1, inf)")
    """Gradient steps between updates of the target network."""
    tau: float = ranged(1.0, "(0, 1]")
    """Fraction by which the target network moves towards the trained one in an update; 1 copies it."""
    prioritised: bool = False
    """Replay transitions with large errors more often, and weight their losses less."""
    priority_exponent: float = ranged(0.6, "[0, 1]")
    """Power of the error in a priority; 0 is uniform replay."""
    importance_exponent: float | Schedule = ranged(Linear(0.4, 1.0), "[0, 1]")
    """Power of the importance weights, a number or a schedule of progress; 1 corrects for the priorities in full."""
    max_grad_norm: float | None = ranged(10.0, "(0, inf)")
    """Largest global norm of a gradient; None does not clip."""
    n_steps: int = ranged(4, "[1, inf)")
    """Steps taken in each environment between updates."""
    batch_size: int = ranged(64, "[1, inf)")
    """Transitions in a gradient step."""

    def __post_init__(self):
        check(self)
        check_replay(self)
        if self.returns == "categorical" and not self.min_return < self.max_return:
            raise ValueError(
                f"min_return={self.min_return} is not below max_return={self.max_return}; give the range of returns."
            )

    def init(self, key: Key, spec: Spec) -> DQNState:
        """Draw the initial training state.

        Raises:
            ValueError: actions that are not Discrete, a recurrent network, learning that starts after the budget, or a
                replay buffer that does not fit into memory.
        """
        check_budget(self, spec)
        key_policy, key_network = jax.random.split(key)
        state = network_state_init(self, key_policy, spec, bounds="clip")
        if not isinstance(state.policy.head, CategoricalHead):
            raise ValueError(
                f"DQN needs Discrete actions, and the action space is {spec.action_space}; use sac, td3 or ppo."
            )
        encoder = state.policy.encoder
        params = self._network(state.policy).init(key_network, encoder.encode(encoder.example()))
        replay = empty_replay(state.policy, spec, self.buffer_size)
        return extended(
            state,
            DQNState,
            params=params,
            optimiser=adam_init(params, self.max_grad_norm),
            target=params,
            replay=replay,
            priorities=priorities_init(replay) if self.prioritised else None,
            gradient_steps=jnp.uint32(0),
            critic_memory=(),
        )

    def actor(self, state: DQNState) -> QActor:
        """The network and the current epsilon."""
        epsilon = epsilon_now(self, state.clock)
        return QActor(
            state.policy,
            self._network(state.policy),
            state.params,
            statistics_of(self, state),
            0 * epsilon if self.noisy else epsilon,
            self._returns(),
        )

    initial_memory = q_memory
    noise = q_noise
    act = act_by_q
    greedy = greedy_by_q

    def update(self, state: DQNState, rollout: Rollout, key: Key) -> tuple[DQNState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        network, returns = self._network(state.policy), self._returns()
        replay = replay_add(state.replay, rollout)
        rate, beta = (
            schedule_value(x, progress(state.clock)) for x in (self.learning_rate, self.importance_exponent)
        )
        count = number_of_gradient_steps(self, replay, rollout.reward.size)

        def step(
            learned: tuple[Learning, Priorities | None], key: Key
        ) -> tuple[tuple[Learning, Priorities | None], dict[str, Array]]:
            learning, priorities = learned
            key_batch, key_noise = jax.random.split(key)
            if priorities is None:
                drawn, weights = uniform_draw(replay, key_batch, self.batch_size), 1.0
            else:
                drawn, places, weights = priorities_sample(
                    priorities, replay, key_batch, self.batch_size, beta=beta
                )
            rows = transitions_at(replay, drawn, gamma=self.gamma, n=self.n)
            batch = scaled_batch(self, state, rows)
            noises = [network.noise(learning.params, key, (1,)) for key in jax.random.split(key_noise, 3)]
            target = self._target(network, learning, batch, noises[:2])

            def loss(params: Pytree) -> tuple[Array, dict[str, Array]]:
                z = _of(network.outputs(params, batch.x, noises[2]), batch.action)
                losses, error = returns.losses(z, target)
                metrics = {"action_value_loss": losses.mean(), "action_value": returns.mean(z).mean()}
                return (weights * losses).mean(), metrics | {"error": error}

            params, optimiser, metrics = adam_step(
                loss, learning.params, learning.optimiser, rate, max_grad_norm=self.max_grad_norm
            )
            error = metrics.pop("error")
            if priorities is not None:
                priorities = priorities_update(priorities, places, error, alpha=self.priority_exponent)
            taken = learning.gradient_steps + 1
            moved = target_step(learning.target, params, taken, self.target_update_interval, self.tau)
            return (Learning(params, optimiser, moved, taken), priorities), metrics

        priorities = state.priorities
        if priorities is not None:
            priorities = priorities_add(priorities, state.replay, replay, steps=len(rollout.reward))
        before = Learning(state.params, state.optimiser, state.target, state.gradient_steps)
        (learning, priorities), metrics = repeat(step, (before, priorities), count, key)
        learned = dataclasses.replace(
            advance_statistics(self, state, rollout),
            replay=replay,
            priorities=priorities,
            **learning._asdict(),
        )
        return learned, metrics | {"epsilon": self.actor(state).epsilon, "gradient_steps": count}

    def _network(self, policy: ActorCritic) -> QNetwork:
        assert isinstance(policy.head, CategoricalHead)
        return QNetwork(
            feed_forward(policy.network),
            policy.head.size,
            policy.initialisation,
            dueling=self.dueling,
            noisy=self.noisy,
            atoms=self._returns().atoms,
        )

    def _returns(self) -> MeanReturn | Categories | Quantiles:
        if self.returns == "mean":
            return MeanReturn()
        if self.returns == "quantile":
            return Quantiles(self.atoms)
        return Categories(self.min_return, self.max_return, self.atoms)

    def _target(
        self, network: QNetwork, learning: Learning, batch: ReplayBatch, noises: list[Pytree]
    ) -> Array:
        """What the outputs of `Q(s, a)` are compared with, `[N, K]`."""
        returns, z = self._returns(), network.outputs(learning.target, batch.next_x, noises[0])
        chooser = network.outputs(learning.params, batch.next_x, noises[1]) if self.double else z
        best = best_action(returns.mean(chooser), batch.next_x)
        return returns.target(_of(z, best), batch.reward, batch.discount)


def _of(z: Array, action: Array) -> Array:
    """The outputs of one action, `[..., A, K] -> [..., K]`."""
    return jnp.take_along_axis(z, action[..., None, None], axis=-2)[..., 0, :]
