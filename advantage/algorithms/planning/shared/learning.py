"""The state of an agent that plans, and how it learns its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from gymnasium import spaces

from advantage.algorithms.clock import clock_init
from advantage.algorithms.hyperparameters import schedule_value
from advantage.algorithms.planning.shared.options import (
    LookaheadOptions,
    ModelOptions,
    PlanningOptions,
    SequenceOptions,
    UsedModelOptions,
)
from advantage.algorithms.policy_gradient.shared.experience import merge_time_and_envs
from advantage.algorithms.policy_gradient.shared.replayed_critic import replay_of
from advantage.algorithms.value.shared.options import check_budget
from advantage.environments.masks import split_mask
from advantage.models.ensemble import Ensemble, Examples, LearnedModel, Transitions, scales_update
from advantage.models.fit import STEPS_BETWEEN_CHECKS, Learned, fit, learned_init
from advantage.models.interface import Model
from advantage.models.true_world import true_model
from advantage.models.vectors import VectorSpaces, vector_spaces
from advantage.planners.action_sequences import PlannedActions, planned_actions
from advantage.policies.networks import MLP
from advantage.replay.ring import Replay, Transition, replay_add
from advantage.types import Array, Clock, Key, Rollout, Spec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModelLearning:
    """A model that is being learned.

    Attributes:
        ensemble, spaces: shapes; static.
        learned: parameters, optimiser and statistics.
        replay: what it is learned from.
    """

    ensemble: Ensemble
    spaces: VectorSpaces
    learned: Learned
    replay: Replay

    @property
    def model(self) -> LearnedModel:
        """The model as it is now."""
        return LearnedModel(self.ensemble, self.spaces, self.learned.members, self.learned.scales)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlanningState:
    """The training state of an agent that plans.

    Attributes:
        rules: the world's own model, static; None if a model is learned.
        learning: the learned model; None if the world's own rules are used.
        actions: what planners choose from; static.
        key: uint32 `[2]`, the random numbers of evaluations.
        clock: the share of the budget spent.
    """

    rules: Model | None
    learning: ModelLearning | None
    actions: PlannedActions
    key: Array
    clock: Clock


def planning_state(options: PlanningOptions, key: Key, spec: Spec) -> PlanningState:
    """The initial training state; used as a method's `init`.

    Raises:
        ValueError: see `rules_state` and `learned_state`.
    """
    return (rules_state if options.model == "true" else learned_state)(options, key, spec)


def rules_state(options: LookaheadOptions, key: Key, spec: Spec) -> PlanningState:
    """The initial training state of an agent that plans with the world's own rules.

    Raises:
        ValueError: a world whose rules are not known, actions that no planner chooses from, or an action mask that a
            planner of sequences would not obey.
    """
    if isinstance(options, SequenceOptions) and split_mask(spec.observation_space)[1] is not None:
        raise ValueError(
            "A plan is a sequence of actions that are always possible, and the observation has an action mask; use "
            "mcts or alphazero, which obey it."
        )
    remedy = "Use mcts with a model that it learns (--model learned)"
    if isinstance(options, PlanningOptions):
        remedy = "Learn a model, model='learned' (--model learned)"
    rules, actions = true_model(spec, remedy), planned_actions(spec)
    return PlanningState(rules, None, actions, jax.random.key_data(key), clock_init(spec.total_timesteps))


def learned_state(options: ModelOptions, key: Key, spec: Spec) -> PlanningState:
    """The initial training state of an agent that learns its model; used as a method's `init`.

    Raises:
        ValueError: observations or actions that no model predicts, actions that no planner chooses from, learning that
            starts after the budget, or a replay buffer that does not fit into memory.
    """
    if isinstance(options, UsedModelOptions):
        check_budget(options, spec)
    key_model, key_plans = jax.random.split(key)
    learning, actions = model_learning(options, key_model, spec), planned_actions(spec)
    return PlanningState(
        None, learning, actions, jax.random.key_data(key_plans), clock_init(spec.total_timesteps)
    )


def model_learning(options: ModelOptions, key: Key, spec: Spec) -> ModelLearning:
    """A model before the first transition.

    Raises:
        ValueError: observations or actions that it cannot predict, or a replay buffer that does not fit into memory.
    """
    vectors = vector_spaces(spec)
    inputs, outputs = vectors.size + vectors.action_size, vectors.size + 1
    return learning_of(options, key, spec, vectors, inputs, outputs)


def learning_of(
    options: ModelOptions, key: Key, spec: Spec, vectors: VectorSpaces, inputs: int, outputs: int
) -> ModelLearning:
    """Networks with so many inputs and outputs, before the first transition; raises as `model_learning`."""
    ensemble = Ensemble(
        MLP(options.model_hidden, "silu"), inputs, outputs, options.members, options.model_kind
    )
    is_choice = isinstance(spec.action_space, spaces.Discrete)
    action = (
        jax.ShapeDtypeStruct((), jnp.int32)
        if is_choice
        else jax.ShapeDtypeStruct((vectors.action_size,), jnp.float32)
    )
    replay = replay_of(spec, action, options.buffer_size)
    return ModelLearning(ensemble, vectors, learned_init(ensemble, key), replay)


def learn_model(
    options: ModelOptions,
    learning: ModelLearning,
    rollout: Rollout,
    key: Key,
    share: Array,
    examples: Callable[[Transitions], Examples] = lambda rows: rows,
) -> tuple[ModelLearning, dict[str, Array]]:
    """Store a rollout and fit the model: `-> learning, metrics`.

    Args:
        options: the method's options.
        learning: the model so far.
        rollout: new experience.
        key: draws batches.
        share: the share of the budget spent, for the step size.
        examples: what is learned of transitions; what follows from states and actions, unless told otherwise.
    """
    replay = replay_add(learning.replay, rollout)
    scales = scales_update(learning.learned.scales, examples(rollout_rows(learning.spaces, rollout)))
    passes = -(-replay.stored * options.model_epochs // options.model_batch_size)
    learned, metrics = fit(
        learning.ensemble,
        learning.learned._replace(scales=scales),
        replay,
        lambda rows: examples(replayed_rows(learning.spaces, rows)),
        key,
        learning_rate=schedule_value(options.model_learning_rate, share),
        batch_size=options.model_batch_size,
        max_steps=jnp.maximum(passes, STEPS_BETWEEN_CHECKS),
    )
    return dataclasses.replace(learning, learned=learned, replay=replay), metrics


def rollout_rows(vectors: VectorSpaces, rollout: Rollout) -> Transitions:
    """The transitions of a rollout as vectors, `[T B, ...]`."""
    rows = merge_time_and_envs(rollout._replace(extras=(), memory=()))
    return Transitions(
        vectors.vector(rows.obs),
        vectors.action_vector(rows.action),
        rows.reward,
        vectors.vector(rows.next_obs),
        rows.terminated,
    )


def replayed_rows(vectors: VectorSpaces, rows: Transition) -> Transitions:
    """Transitions of one step from a replay buffer as vectors."""
    return Transitions(
        vectors.vector(rows.obs),
        vectors.action_vector(rows.action),
        rows.reward,
        vectors.vector(rows.next_obs),
        rows.discount == 0,
    )
