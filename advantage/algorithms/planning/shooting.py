"""Random shooting: draw sequences of actions, take the first action of the best one."""

from __future__ import annotations

import dataclasses

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.planning.shared.acting import (
    PlanMemory,
    PlanningActor,
    act_by_planning,
    greedy_by_planning,
    no_plan,
    planning_actor,
    planning_noise,
)
from advantage.algorithms.planning.shared.learning import PlanningState, planning_state, planning_update
from advantage.algorithms.planning.shared.options import SequenceOptions
from advantage.planners.imagination import PlanningProblem
from advantage.planners.random_shooting import random_shooting
from advantage.types import Array, Key, Pytree, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class Shooting(SequenceOptions):
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

    def init(self, key: Key, spec: Spec) -> PlanningState:
        """Draw the initial training state. Raises ValueError as `planning_state`."""
        return planning_state(self, key, spec)

    actor = planning_actor
    initial_memory = no_plan
    noise = planning_noise

    def act(
        self, actor: PlanningActor, obs: Pytree, memory: PlanMemory, noise: Array
    ) -> tuple[Array, PlanMemory, tuple[()]]:
        """Plan: `-> action, memory, extras`."""
        return act_by_planning(self._decide, actor, obs, memory, noise)

    def greedy(self, actor: PlanningActor, obs: Pytree, memory: PlanMemory) -> tuple[Array, PlanMemory]:
        """Plan: `-> action, memory`."""
        return greedy_by_planning(self._decide, actor, obs, memory)

    def update(
        self, state: PlanningState, rollout: Rollout, key: Key
    ) -> tuple[PlanningState, dict[str, Array]]:
        """Learn the model if there is one to learn: `-> state, metrics`."""
        return planning_update(self, state, rollout, key, self.horizon * self.candidates * self.plays)

    def _decide(self, actor: PlanningActor, state: Pytree, plan: Pytree, key: Key) -> tuple[Array, Pytree]:
        problem = PlanningProblem(actor.model, actor.actions, self.gamma, self.plays)
        best = random_shooting(problem, state, key, horizon=self.horizon, candidates=self.candidates)
        return best.actions[0], plan
