"""Who teaches in distillation: a planner, or an agent that was trained before."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import jax

from advantage.algorithms.named_class import named_class
from advantage.algorithms.planning.dyna_network import DynaActor
from advantage.algorithms.policy_gradient.impala import LaggingActor
from advantage.algorithms.policy_gradient.shared.acting import Actor
from advantage.types import ActionUnits, Algorithm, Key, Pytree, Spec

PLANNERS = {
    "shooting": "planning.shooting:Shooting",
    "cem-planning": "planning.cem_planning:CEMPlanning",
    "gradient-planning": "planning.gradient_planning:GradientPlanning",
    "mcts": "planning.mcts:MCTS",
    "exhaustive-search": "planning.exhaustive_search:ExhaustiveSearch",
}
Loss = Literal["action", "kl"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Teacher:
    """An algorithm and what it acts with.

    Attributes:
        algorithm: its `greedy` gives the answers.
        actor: `algorithm.actor(state)`; None where only the shapes are known, as in a run that is read from its files.
    """

    algorithm: Any
    actor: Pytree = None


if TYPE_CHECKING:
    TaughtBy = Teacher | None
else:
    TaughtBy = object  # the command line has no word for it


def planner(name: str, action_units: ActionUnits) -> Algorithm:
    """A planner of this name with its default options."""
    make: Any = named_class(PLANNERS[name])
    return make(action_units=action_units)


def teaching_actor(algorithm: Algorithm, actor: Pytree, key: Key, spec: Spec) -> Pytree:
    """The actor that teaches: the one given, or that of a new state of the algorithm, which for a planner is enough."""
    return algorithm.actor(algorithm.init(key, spec)) if actor is None else actor


def policy_of(actor: Pytree) -> Actor | None:
    """The part of an actor that has probabilities of actions; None for a planner, a table, or a policy without."""
    if isinstance(actor, LaggingActor):
        return actor.newest
    if isinstance(actor, DynaActor):
        actor = actor.learner
    return actor if isinstance(actor, Actor) else None
