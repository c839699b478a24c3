"""PETS: cross-entropy planning with an ensemble that is learned on the way (Chua et al. 2018)."""

from __future__ import annotations

import dataclasses

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.planning.shared.acting import (
    PlanningActor,
    act_by_planning,
    greedy_by_planning,
    planning_actor,
    planning_noise,
    planning_update,
)
from advantage.algorithms.planning.shared.learning import PlanningState, learned_state
from advantage.algorithms.planning.shared.options import (
    CrossEntropyOptions,
    LookaheadOptions,
    UsedModelOptions,
)
from advantage.algorithms.planning.shared.sequences import (
    check_elites,
    decide_by_cross_entropy,
    first_distribution,
    sequence_steps,
)
from advantage.types import Array, Key, Pytree


@hyperparameters
@dataclasses.dataclass(frozen=True)
class PETS(CrossEntropyOptions, UsedModelOptions, LookaheadOptions):
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
        check_elites(self)

    init = learned_state
    actor = planning_actor
    initial_memory = first_distribution
    noise = planning_noise
    act = act_by_planning
    greedy = greedy_by_planning
    update = planning_update

    def decide(self, actor: PlanningActor, state: Pytree, plan: Pytree, key: Key) -> tuple[Array, Pytree]:
        """The first action of the best sequence: `-> action, plan`."""
        return decide_by_cross_entropy(self, actor, state, plan, key, self.gamma)

    def model_steps(self, state: PlanningState) -> int:
        """Those of all candidates in all iterations."""
        return sequence_steps(self, state, self.candidates * self.iterations)
