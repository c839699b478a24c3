"""Cross-entropy planning: draw sequences, fit the distribution to the best, take the first action."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from advantage.algorithms.hyperparameters import check, hyperparameters
from advantage.algorithms.planning.shared.acting import (
    PlanMemory,
    PlanningActor,
    act_by_planning,
    greedy_by_planning,
    planning_actor,
    planning_noise,
)
from advantage.algorithms.planning.shared.learning import PlanningState, planning_state, planning_update
from advantage.algorithms.planning.shared.options import CrossEntropyOptions
from advantage.planners.cross_entropy import CrossEntropy, cross_entropy_planning
from advantage.planners.imagination import PlanningProblem
from advantage.types import Array, Key, Pytree, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class CEMPlanning(CrossEntropyOptions):
    """Plan by the cross-entropy method, at every step.

        p          <- the plan of the step before, one step later, with its full spread
        iterations times:
            sequences  <- candidates drawn from p
            value      <- mean over particles of sum_t gamma^t r_t in the model, from the present state
            p          <- keep p + (1 - keep) fit to the elites with the highest values
        a          <- the first action of the mean of p, or of its most likely sequence if actions are Discrete

    With model=learned, after every n_steps in each environment:

        model      <- Adam on each network's own bootstrap sample, until held-out transitions are predicted no better

    Source: Rubinstein 1999, "The cross-entropy method for combinatorial and continuous optimization"; Hafner et al.
    2019, "Learning latent dynamics for planning from pixels", algorithm 2, here in observations.
    """

    def __post_init__(self):
        check(self)
        if self.elites > self.candidates:
            raise ValueError(
                f"elites={self.elites} is above candidates={self.candidates}; use at most as many elites as candidates."
            )

    def init(self, key: Key, spec: Spec) -> PlanningState:
        """Draw the initial training state. Raises ValueError as `planning_state`."""
        return planning_state(self, key, spec)

    actor = planning_actor

    def initial_memory(self, actor: PlanningActor) -> PlanMemory:
        """The first distribution, if plans are remembered."""
        begin = actor.actions.begin(self.horizon, self.spread) if self.remember else ()
        return PlanMemory(begin, jnp.int32(0))

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
        return planning_update(
            self, state, rollout, key, self.horizon * self.candidates * self.iterations * self.plays
        )

    def _decide(self, actor: PlanningActor, state: Pytree, plan: Pytree, key: Key) -> tuple[Array, Pytree]:
        begin = plan if self.remember else actor.actions.begin(self.horizon, self.spread)
        method = CrossEntropy(
            self.candidates, self.elites, self.iterations, self.keep, self.noise_beta, self.keep_elites
        )
        problem = PlanningProblem(actor.model, actor.actions, self.gamma, self.plays)
        sequences, _ = cross_entropy_planning(problem, state, key, begin, method)
        later = actor.actions.later(sequences, self.spread) if self.remember else ()
        return actor.actions.best(sequences)[0], later
