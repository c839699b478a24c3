"""PETS: cross-entropy planning with an ensemble that is learned on the way (Chua et al. 2018)."""

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
)
from advantage.algorithms.planning.shared.learning import PlanningState, planning_state, planning_update
from advantage.algorithms.planning.shared.options import CrossEntropyOptions, Rules
from advantage.planners.cross_entropy import CrossEntropy, cross_entropy_planning
from advantage.planners.imagination import PlanningProblem
from advantage.types import Array, Key, Pytree, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class PETS(CrossEntropyOptions):
    """Plan by the cross-entropy method, with particles that each follow one network of a learned ensemble.

        collect learning_starts steps with random actions; then, after every n_steps in each environment:
            model      <- Adam on each network's own bootstrap sample, until held-out transitions get no better
        at every step:
            p          <- the plan of the step before, one step later
            iterations times:
                value  <- mean over particles of sum_t gamma^t r_t, of candidates drawn from p
                p      <- keep p + (1 - keep) fit to the elites
            a          <- the first action of the mean of p

    Source: Chua et al. 2018, "Deep reinforcement learning in a handful of trials using probabilistic dynamics models",
    algorithm 1, with trajectory sampling TS-infinity.
    """

    model: Rules = "learned"
    """Always learned."""
    candidates: int = ranged(350, "[2, inf)")
    """Sequences drawn in an iteration."""
    elites: int = ranged(35, "[1, inf)")
    """The best sequences of an iteration, to which the distribution is fitted."""
    particles: int | None = ranged(20, "[1, inf)")
    """How often a sequence is played, divided among the networks; its value is the mean."""
    keep: float = ranged(0.1, "[0, 1)")
    """Share of the distribution that each iteration keeps."""

    def __post_init__(self):
        check(self)
        if self.model != "learned":
            raise ValueError("PETS learns its model; for the world's own rules use cem-planning.")
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
