"""A model of the world alone: act at random, learn what happens, and say how far ahead it can be predicted."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, progress
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.planning.shared.acting import (
    PlanningActor,
    act_by_planning,
    greedy_by_planning,
    no_plan,
    planning_noise,
)
from advantage.algorithms.planning.shared.learning import PlanningState, learn_model, learned_state
from advantage.algorithms.planning.shared.options import ModelOptions
from advantage.algorithms.policy_gradient.shared.options import UnitsOption
from advantage.models.open_loop import open_loop_errors
from advantage.replay.ring import uniform_draw
from advantage.replay.sequences import sequences_at
from advantage.types import Array, Key, Mean, Pytree, Rollout

SEQUENCES = 256  # that errors are measured on


@hyperparameters
@dataclasses.dataclass(frozen=True)
class WorldModel(ModelOptions, UnitsOption):
    """Learn a model of the world from random actions, and measure its error by horizon.

    After every n_steps in each environment:

        model    <- Adam on each network's own bootstrap sample, until held-out transitions get no better
        error_h  <- the distance between predicted and true observations h steps ahead, in standard deviations

    Errors are of predictions from a first observation and the actions that were taken; the sequences come from the
    whole replay buffer.

    Source: Chua et al. 2018, "Deep reinforcement learning in a handful of trials using probabilistic dynamics models",
    for the ensemble.
    """

    n_steps: int = ranged(200, "[1, inf)")
    """Steps taken in each environment between two fits."""
    horizon: int = ranged(20, "[2, inf)")
    """The furthest prediction, in steps."""

    def __post_init__(self):
        check(self)

    init = learned_state

    def actor(self, state: PlanningState) -> PlanningActor:
        """An actor that always acts at random."""
        assert state.learning is not None
        return PlanningActor(state.learning.model, state.actions, state.key, jnp.bool_(True))

    initial_memory = no_plan
    noise = planning_noise

    act = act_by_planning
    greedy = greedy_by_planning

    def update(
        self, state: PlanningState, rollout: Rollout, key: Key
    ) -> tuple[PlanningState, dict[str, Array | Mean]]:
        """Learn the model and measure it: `-> state, metrics`."""
        assert state.learning is not None
        key_fit, key_draw, key_play = jax.random.split(key, 3)
        learning, metrics = learn_model(self, state.learning, rollout, key_fit, progress(state.clock))
        index = uniform_draw(learning.replay, key_draw, SEQUENCES)
        rows = sequences_at(learning.replay, index, length=self.horizon)
        errors, number = open_loop_errors(learning.model, rows, key_play)
        by_horizon = {
            f"error_{h}": Mean(
                jnp.where(number[h - 1] > 0, errors[h - 1], 0.0), jnp.float32(number[h - 1] > 0)
            )
            for h in sorted({1, max(1, self.horizon // 4), self.horizon})
        }
        clock = advance_clock(state.clock, rollout.reward.size)
        return dataclasses.replace(state, learning=learning, clock=clock), {**metrics, **by_horizon}

    def decide(self, actor: PlanningActor, state: Pytree, plan: Pytree, key: Key) -> tuple[Array, Pytree]:
        """A random action: `-> action, plan`."""
        return actor.actions.uniform(key, ()), plan

    def model_steps(self, state: PlanningState) -> int:
        """None: it does not plan."""
        return 0
