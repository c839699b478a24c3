"""Gradient planning: improve a sequence of actions through the model, take the first."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.planning.shared.acting import (
    PlanMemory,
    PlanningActor,
    act_by_planning,
    greedy_by_planning,
    planning_actor,
    planning_noise,
    planning_update,
)
from advantage.algorithms.planning.shared.learning import PlanningState, planning_state
from advantage.algorithms.planning.shared.options import PlanningOptions, SequenceOptions
from advantage.algorithms.planning.shared.sequences import problem_of, sequence_steps
from advantage.planners.gradient import gradient_planning
from advantage.types import Array, Key, Pytree, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class GradientPlanning(SequenceOptions, PlanningOptions):
    """Plan by gradient ascent through the model, at every step.

        a_0 .. a_H-1  <- the plan of the step before, one step later; at first the middle of the bounds
        iterations times:
            a_0 .. a_H-1  <- Adam up ∇_a mean over particles of sum_t gamma^t r_t, within the bounds
        a  <- a_0

    The plan is a local maximum. With model=learned, the model is fitted after every n_steps in each environment.

    Source: Henaff, Whitney & LeCun 2017, "Model-based planning with discrete and continuous actions", section 3.
    """

    iterations: int = ranged(20, "[1, inf)")
    """Gradient steps for each decision."""
    step_size: float = ranged(0.1, "(0, inf)")
    """Adam's step size, in the units of the actions."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> PlanningState:
        """Draw the initial training state. Raises ValueError as `planning_state`, and for Discrete actions."""
        state = planning_state(self, key, spec)
        if state.actions.choices:
            raise ValueError(
                f"A gradient through actions needs a Box of floats, and the action space is {spec.action_space}; use "
                "cem-planning or mcts."
            )
        return state

    actor = planning_actor

    def initial_memory(self, actor: PlanningActor) -> PlanMemory:
        """The middle of the bounds."""
        middle = jnp.asarray(actor.actions.middle)
        return PlanMemory(jnp.broadcast_to(middle, (self.horizon, len(middle))), jnp.int32(0))

    noise = planning_noise
    act = act_by_planning
    greedy = greedy_by_planning
    update = planning_update

    def decide(self, actor: PlanningActor, state: Pytree, plan: Pytree, key: Key) -> tuple[Array, Pytree]:
        """The first action of the best sequence: `-> action, plan`."""
        problem = problem_of(self, actor, self.gamma)
        best = gradient_planning(
            problem, state, key, plan, iterations=self.iterations, step_size=self.step_size
        )
        return best.actions[0], jnp.concatenate([best.actions[1:], best.actions[-1:]])

    def model_steps(self, state: PlanningState) -> int:
        """Those of all iterations, and as many of the derivative."""
        return sequence_steps(self, state, 2 * self.iterations)
