"""Dyna with networks: a learner off policy that learns from imagined experience (Janner et al. 2019)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init, progress
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged
from advantage.algorithms.named_class import named_class
from advantage.algorithms.planning.shared.imagined_rollout import imagined_rollout, mean_metrics
from advantage.algorithms.planning.shared.learner_within import learn_if_begun
from advantage.algorithms.planning.shared.learning import ModelLearning, learn_model, model_learning
from advantage.algorithms.planning.shared.options import UsedModelOptions
from advantage.algorithms.policy_gradient.shared.options import UnitsOption
from advantage.algorithms.policy_gradient.shared.replayed_critic import empty_replay
from advantage.algorithms.value.shared.options import check_budget
from advantage.planners.action_sequences import PlannedActions, planned_actions
from advantage.policies.networks import Activation
from advantage.types import Algorithm, Array, Clock, Key, Pytree, Rollout, Spec

LEARNERS = {"sac": "value.sac:SAC", "dqn": "value.dqn:DQN"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DynaState:
    """The training state.

    Attributes:
        learning: the model that is learned.
        learner: the learner's own state.
        actions: what is done at random; static.
        clock: of real steps, also the learner's.
    """

    learning: ModelLearning
    learner: Pytree
    actions: PlannedActions
    clock: Clock


class DynaActor(NamedTuple):
    """What acting needs: the learner's actor, random actions, and whether it still acts at random."""

    learner: Pytree
    actions: PlannedActions
    random: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class DynaNetwork(UsedModelOptions, UnitsOption):
    """Learn a model from real steps, and a policy from imagined ones.

    Collect learning_starts steps with random actions; then, after every n_steps in each environment:

        model  <- Adam on each network's own bootstrap sample, until held-out transitions get no better
        once for each of these steps:
            imagined_envs times, from an observation of the replay buffer:
                imagined_steps steps of the policy in the model; where one terminates, begin at another observation
            the learner stores them and takes gradient_steps steps

    The learner is SAC or DQN with the options below, and never sees a real transition. Later actions in the environment
    are the learner's own, with its exploration.

    Source: Sutton 1991, "Dyna, an integrated architecture for learning, planning, and reacting"; Janner et al. 2019,
    "When to trust your model: model-based policy optimization", algorithm 2.
    """

    learner: Literal["sac", "dqn"] = "sac"
    """The method that learns from imagined experience; both take Discrete actions, and sac a Box too."""
    n_steps: int = ranged(200, "[1, inf)")
    """Steps taken in each environment between two fits of the model."""
    imagined_envs: int = ranged(64, "[1, inf)")
    """Imagined environments side by side."""
    imagined_steps: int = ranged(5, "[1, inf)")
    """Steps from a real observation; the more, the more the model's errors add up."""
    gradient_steps: int = ranged(10, "[1, inf)")
    """Gradient steps of the learner for each real step."""
    imagined_buffer_size: int = ranged(100_000, "[1, inf)")
    """Number of imagined transitions that the learner keeps; the ends of very short ones leave less room."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    learning_rate: float | Schedule = ranged(3e-4, "[0, inf)")
    """The learner's step size; a number or a schedule of progress."""
    batch_size: int = ranged(256, "[1, inf)")
    """Imagined transitions in a gradient step of the learner."""
    tau: float = ranged(0.005, "(0, 1]")
    """Fraction by which the learner's target networks move in each gradient step."""
    hidden: tuple[int, ...] = ranged((256, 256), "[1, inf)")
    """Widths of the hidden layers of the learner's networks."""
    activation: Activation = "relu"
    """Activation after each hidden layer of the learner's networks."""

    def __post_init__(self):
        check(self)
        if self.imagined_buffer_size < self.batch_size:
            raise ValueError(
                f"imagined_buffer_size={self.imagined_buffer_size} is below batch_size={self.batch_size}; use "
                f"{self.batch_size} or more, or a smaller batch_size."
            )

    def init(self, key: Key, spec: Spec) -> DynaState:
        """Draw the initial training state.

        Raises:
            ValueError: observations or actions that no model predicts, actions that the learner does not take,
                learning that starts after the budget, or a replay buffer that does not fit into memory.
        """
        check_budget(self, spec)
        key_model, key_learner = jax.random.split(key)
        # imagined rows are not successive observations, from which a ring could put stacks together
        imagined = dataclasses.replace(spec, num_envs=self.imagined_envs, frame_stack=1)
        learning = model_learning(self, key_model, spec)
        learner = self._learner().init(key_learner, imagined)
        replay = empty_replay(
            learner.policy, imagined, self.imagined_buffer_size, longest_episode=self.imagined_steps
        )
        learner = dataclasses.replace(learner, replay=replay)
        return DynaState(learning, learner, planned_actions(spec), clock_init(spec.total_timesteps))

    def actor(self, state: DynaState) -> DynaActor:
        """The learner's actor; at random until learning starts."""
        random = state.clock.step < jnp.uint32(self.learning_starts)
        return DynaActor(self._learner().actor(state.learner), state.actions, random)

    def initial_memory(self, actor: DynaActor) -> Pytree:
        return self._learner().initial_memory(actor.learner)

    def noise(self, actor: DynaActor, key: Key, shape: tuple[int, ...]) -> tuple[Pytree, Array]:
        """What the learner's action consumes, and an action at random."""
        key_learner, key_random = jax.random.split(key)
        at_random = actor.actions.uniform(key_random, shape)
        return self._learner().noise(actor.learner, key_learner, shape), at_random

    def act(
        self, actor: DynaActor, obs: Pytree, memory: Pytree, noise: tuple[Pytree, Array]
    ) -> tuple[Pytree, Pytree, Pytree]:
        """What the learner does, or at random: `-> action, memory, extras`."""
        of_learner, at_random = noise
        action, memory, extras = self._learner().act(actor.learner, obs, memory, of_learner)
        xp = action.__array_namespace__()
        return xp.where(actor.random, at_random.astype(action.dtype), action), memory, extras

    def greedy(self, actor: DynaActor, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]:
        """What the learner holds best: `-> action, memory`."""
        return self._learner().greedy(actor.learner, obs, memory)

    def update(self, state: DynaState, rollout: Rollout, key: Key) -> tuple[DynaState, dict[str, Any]]:
        """Fit the model, then let the learner imagine, once learning has started: `-> state, metrics`."""
        key_model, key_imagine = jax.random.split(key)
        learning, metrics = learn_model(self, state.learning, rollout, key_model, progress(state.clock))
        learner, clock = self._learner(), advance_clock(state.clock, rollout.reward.size)

        def turn(carry: tuple[Pytree, Clock], key: Key) -> tuple[tuple[Pytree, Clock], dict[str, Any]]:
            state, clock = carry
            key_play, key_learn = jax.random.split(key)
            imagined = imagined_rollout(
                learner,
                learner.actor(state),
                learning.model,
                learning.replay,
                key_play,
                (self.imagined_steps, self.imagined_envs),
            )
            learned, found = learner.update(state, imagined, key_learn)
            clock = advance_clock(clock, 1)
            return (dataclasses.replace(learned, clock=clock), clock), found

        def imagine() -> tuple[Pytree, dict[str, Any]]:
            turns = jax.random.split(key_imagine, rollout.reward.size)
            (learned, _), of_turns = jax.lax.scan(turn, (state.learner, state.clock), turns)
            return learned, mean_metrics(of_turns)

        begun = clock.step >= jnp.uint32(self.learning_starts)
        learned, found = learn_if_begun(begun, imagine, dataclasses.replace(state.learner, clock=clock))
        state = dataclasses.replace(state, learning=learning, learner=learned, clock=clock)
        return state, metrics | found

    def _learner(self) -> Algorithm:
        """The learner: one rollout is one turn, with gradient_steps gradient steps."""
        make: Callable[..., Algorithm] = named_class(LEARNERS[self.learner])
        units = (
            {"action_units": self.action_units} if self.learner == "sac" else {"target_update_interval": 1}
        )
        return make(
            n_steps=self.imagined_steps * self.imagined_envs,
            gradient_steps=self.gradient_steps,
            batch_size=self.batch_size,
            buffer_size=self.imagined_buffer_size,
            learning_starts=0,
            learning_rate=self.learning_rate,
            gamma=self.gamma,
            tau=self.tau,
            hidden=self.hidden,
            activation=self.activation,
            **units,
        )
