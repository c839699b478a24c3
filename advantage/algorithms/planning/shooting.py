"""Random shooting: draw sequences of actions, take the first action of the best one."""

from __future__ import annotations

import dataclasses

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.planning.shared.acting import (
    PlanningActor,
    act_by_planning,
    greedy_by_planning,
    no_plan,
    planning_actor,
    planning_noise,
    planning_update,
)
from advantage.algorithms.planning.shared.learning import PlanningState, planning_state
from advantage.algorithms.planning.shared.options import PlanningOptions, SequenceOptions
from advantage.algorithms.planning.shared.sequences import problem_of, sequence_steps
from advantage.planners.random_shooting import random_shooting
from advantage.types import Array, Key, Pytree


@hyperparameters
@dataclasses.dataclass(frozen=True)
class Shooting(SequenceOptions, PlanningOptions):
    """Plan by random shooting, at every step anew.

        sequences  <- candidates times horizon actions, drawn uniformly
        value      <- mean over particles of sum_t gamma^t r_t in the model, from the present state
        a          <- the first action of the sequence with the highest value

    With model=learned, after every n_steps in each environment:

        model      <- Adam on each network's own bootstrap sample, until held-out transitions are predicted no better

    Source: Nagabandi et al. 2018, "Neural network dynamics for model-based deep reinforcement learning with model-free
    fine-tuning", algorithm 1.
    """

    candidates: int = ranged(500, "[1, inf)")
    """Sequences drawn for each decision."""

    def __post_init__(self):
        check(self)

    init = planning_state
    actor = planning_actor
    initial_memory = no_plan
    noise = planning_noise
    act = act_by_planning
    greedy = greedy_by_planning
    update = planning_update

    def decide(self, actor: PlanningActor, state: Pytree, plan: Pytree, key: Key) -> tuple[Array, Pytree]:
        """The first action of the best sequence: `-> action, plan`."""
        problem = problem_of(self, actor, self.gamma)
        best = random_shooting(problem, state, key, horizon=self.horizon, candidates=self.candidates)
        return best.actions[0], plan

    def model_steps(self, state: PlanningState) -> int:
        """Those of all candidates."""
        return sequence_steps(self, state, self.candidates)
