"""Cross-entropy planning: draw sequences, fit the distribution to the best, take the first action."""

from __future__ import annotations

import dataclasses

from advantage.algorithms.hyperparameters import check, hyperparameters
from advantage.algorithms.planning.shared.acting import (
    PlanningActor,
    act_by_planning,
    greedy_by_planning,
    planning_actor,
    planning_noise,
    planning_update,
)
from advantage.algorithms.planning.shared.learning import PlanningState, planning_state
from advantage.algorithms.planning.shared.options import CrossEntropyOptions, PlanningOptions
from advantage.algorithms.planning.shared.sequences import (
    check_elites,
    decide_by_cross_entropy,
    first_distribution,
    sequence_steps,
)
from advantage.types import Array, Key, Pytree


@hyperparameters
@dataclasses.dataclass(frozen=True)
class CEMPlanning(CrossEntropyOptions, PlanningOptions):
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
        check_elites(self)

    init = planning_state
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
