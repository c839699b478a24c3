"""What agents that plan sequences of actions share."""

from __future__ import annotations

import jax.numpy as jnp

from advantage.algorithms.planning.shared.acting import PlanMemory, PlanningActor
from advantage.algorithms.planning.shared.learning import PlanningState
from advantage.algorithms.planning.shared.options import CrossEntropyOptions, SequenceOptions
from advantage.models.ensemble import LearnedModel
from advantage.models.interface import Model
from advantage.planners.cross_entropy import CrossEntropy, cross_entropy_planning
from advantage.planners.imagination import PlanningProblem
from advantage.types import Array, Key, Pytree


def particles_in(options: SequenceOptions, model: Model) -> int:
    """How often a sequence is played: as often as the options say, else once for each network of a learned model."""
    return options.particles or (model.ensemble.members if isinstance(model, LearnedModel) else 1)


def sequence_steps(options: SequenceOptions, state: PlanningState, sequences: int) -> int:
    """The steps of the model that so many sequences take."""
    model = state.rules if state.learning is None else state.learning.model
    assert model is not None
    return options.horizon * particles_in(options, model) * sequences


def problem_of(options: SequenceOptions, actor: PlanningActor, gamma: Array | float) -> PlanningProblem:
    """What is planned."""
    return PlanningProblem(actor.model, actor.actions, gamma, particles_in(options, actor.model))


def check_elites(options: CrossEntropyOptions) -> None:
    """Raise ValueError if there are more elites than candidates."""
    if options.elites > options.candidates:
        raise ValueError(
            f"elites={options.elites} is above candidates={options.candidates}; use at most as many elites as "
            "candidates."
        )


def first_distribution(options: CrossEntropyOptions, actor: PlanningActor) -> PlanMemory:
    """The distribution that the first decision begins with, if plans are remembered; used as `initial_memory`."""
    begin = actor.actions.begin(options.horizon, options.spread) if options.remember else ()
    return PlanMemory(begin, jnp.int32(0))


def decide_by_cross_entropy(
    options: CrossEntropyOptions,
    actor: PlanningActor,
    state: Pytree,
    plan: Pytree,
    key: Key,
    gamma: Array | float,
) -> tuple[Array, Pytree]:
    """The first action of the best sequence, and the distribution for the next decision."""
    begin = plan if options.remember else actor.actions.begin(options.horizon, options.spread)
    method = CrossEntropy(
        options.candidates,
        options.elites,
        options.iterations,
        options.keep,
        options.noise_beta,
        options.keep_elites,
    )
    sequences, _ = cross_entropy_planning(problem_of(options, actor, gamma), state, key, begin, method)
    later = actor.actions.later(sequences, options.spread) if options.remember else ()
    return actor.actions.best(sequences)[0], later
