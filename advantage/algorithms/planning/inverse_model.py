"""A model of the world read backwards: act at random, and learn what came before."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init, progress
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.planning.shared.acting import PlanMemory, no_plan, planning_noise
from advantage.algorithms.planning.shared.learning import (
    ModelLearning,
    learn_model,
    learning_of,
    rollout_rows,
)
from advantage.algorithms.planning.shared.options import ModelOptions
from advantage.algorithms.policy_gradient.shared.options import UnitsOption
from advantage.models.ensemble import Examples, Transitions, std_of
from advantage.models.inverse import (
    InverseAction,
    InverseState,
    action_examples,
    mean_outputs,
    state_examples,
)
from advantage.models.vectors import vector_spaces
from advantage.planners.action_sequences import PlannedActions, planned_actions
from advantage.types import Array, Clock, Key, Pytree, Rollout, Spec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InverseModelState:
    """The training state: the networks and what they learn from, the actions (static), a key, and the clock."""

    learning: ModelLearning
    actions: PlannedActions
    key: Array
    clock: Clock


class RandomActor(NamedTuple):
    """Acts at random: what it chooses from, and the key of evaluations, uint32 `[2]`."""

    actions: PlannedActions
    key: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class InverseModel(ModelOptions, UnitsOption):
    """Learn a model that looks back, from random actions.

    After every n_steps in each environment, an ensemble of networks is fitted until held-out transitions get no better:

        predicts=action    [x, x']  ->  a
        predicts=state     [x', a]  ->  x - x', r

    x is an observation, x' the one after it. error is the distance between predicted and true outputs of new steps,
    before they are learned, in standard deviations of the outputs; 1 is no better than their mean.

    Source: Jordan & Rumelhart 1992, "Forward models: supervised learning with a distal teacher", for inverse models;
    Chua et al. 2018, "Deep reinforcement learning in a handful of trials using probabilistic dynamics models", for
    the ensemble.
    """

    predicts: Literal["action", "state"] = "action"
    """The action between two observations, or the observation and the reward before."""
    n_steps: int = ranged(200, "[1, inf)")
    """Steps taken in each environment between two fits."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> InverseModelState:
        """Draw the initial training state.

        Raises:
            ValueError: spaces that no model predicts, or a replay buffer that does not fit into memory.
        """
        key_model, key_actions = jax.random.split(key)
        vectors = vector_spaces(spec)
        d, k = vectors.size, vectors.action_size
        inputs, outputs = (2 * d, k) if self.predicts == "action" else (d + k, d + 1)
        return InverseModelState(
            learning_of(self, key_model, spec, vectors, inputs, outputs),
            planned_actions(spec),
            jax.random.key_data(key_actions),
            clock_init(spec.total_timesteps),
        )

    def model(self, state: InverseModelState) -> InverseAction | InverseState:
        """The model as it is now."""
        kind = InverseAction if self.predicts == "action" else InverseState
        learning = state.learning
        return kind(learning.ensemble, learning.spaces, learning.learned.members, learning.learned.scales)

    def actor(self, state: InverseModelState) -> RandomActor:
        """Acts at random."""
        return RandomActor(state.actions, state.key)

    initial_memory = no_plan
    noise = planning_noise

    def act(
        self, actor: RandomActor, obs: Pytree, memory: PlanMemory, noise: Array
    ) -> tuple[Array, PlanMemory, tuple[()]]:
        """A random action: `-> action, memory, extras`."""
        keys = jax.random.wrap_key_data(jnp.asarray(noise))
        action = jax.vmap(lambda key: actor.actions.uniform(key, ()))(keys)
        return action, memory._replace(decisions=memory.decisions + 1), ()

    def greedy(self, actor: RandomActor, obs: Pytree, memory: PlanMemory) -> tuple[Array, PlanMemory]:
        """A random action that depends on the number of the decision: `-> action, memory`."""
        begin = jax.random.wrap_key_data(jnp.asarray(actor.key))
        keys = jax.vmap(lambda number: jax.random.fold_in(begin, number))(jnp.asarray(memory.decisions))
        action, memory, _ = self.act(actor, obs, memory, jax.random.key_data(keys))
        return action, memory

    def update(
        self, state: InverseModelState, rollout: Rollout, key: Key
    ) -> tuple[InverseModelState, dict[str, Array]]:
        """Measure the model on the new steps, and fit it to all: `-> state, metrics`."""
        learning = state.learning
        new = self._examples(rollout_rows(learning.spaces, rollout))
        found = mean_outputs(learning.ensemble, learning.learned.members, learning.learned.scales, new.inputs)
        learning, metrics = learn_model(self, learning, rollout, key, progress(state.clock), self._examples)
        std = std_of(learning.learned.scales.outputs)
        error = jnp.sqrt(jnp.square((found - new.outputs) / std).mean())
        clock = advance_clock(state.clock, rollout.reward.size)
        return dataclasses.replace(state, learning=learning, clock=clock), metrics | {"error": error}

    def _examples(self, rows: Transitions) -> Examples:
        return action_examples(rows) if self.predicts == "action" else state_examples(rows)
