"""Exhaustive search: the best action by everything that can happen, to a depth."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

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
from advantage.algorithms.planning.shared.learning import PlanningState, rules_state
from advantage.algorithms.planning.shared.options import LookaheadOptions
from advantage.machine import free_device_bytes, refuse_large
from advantage.models.interface import EnumerableModel
from advantage.planners.exhaustive import exhaustive_search
from advantage.planners.imagination import PlanningProblem
from advantage.types import Array, Key, Pytree, Spec

BYTES = 16  # of a successor: its number, probability, reward and value


@hyperparameters
@dataclasses.dataclass(frozen=True)
class ExhaustiveSearch(LookaheadOptions):
    """Look at everything that can happen to a depth, at every step, in a finite world whose table is known.

        Q_d(s, a)  <- sum over s' of P(s'|s, a) (r + gamma (1 - terminated) max_b Q_{d-1}(s', b)),   Q_0 = 0
        a          <- argmax_a Q_depth(s, a)

    Source: Bellman 1957, "Dynamic programming", chapter 3.
    """

    depth: int = ranged(4, "[1, 12]")
    """Number of steps to look ahead."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> PlanningState:
        """Draw the initial training state.

        Raises:
            ValueError: a world without a table, or more successors than fit into memory.
        """
        state = rules_state(self, key, spec)
        if not isinstance(state.rules, EnumerableModel):
            raise ValueError(
                f"Exhaustive search needs a finite world whose table is known, and observations are "
                f"{spec.observation_space}; use mcts or shooting."
            )
        successors = self._width(state) ** self.depth
        with jax.ensure_compile_time_eval():  # states are drawn inside compiled programs too
            refuse_large(
                f"Exhaustive search to depth={self.depth} looks at {successors:_} successors at once, which",
                BYTES * successors * spec.num_envs,
                "use a smaller depth (--depth), or mcts or shooting",
                free_device_bytes(),
            )
        return state

    actor = planning_actor
    initial_memory = no_plan
    noise = planning_noise
    act = act_by_planning
    greedy = greedy_by_planning
    update = planning_update

    def decide(self, actor: PlanningActor, state: Pytree, plan: Pytree, key: Key) -> tuple[Array, Pytree]:
        """The action with the highest value: `-> action, plan`."""
        problem = PlanningProblem(actor.model, actor.actions, self.gamma)
        q = exhaustive_search(problem, state, depth=self.depth)
        return q.argmax().astype(jnp.int32), plan

    def model_steps(self, state: PlanningState) -> int:
        """All successors that it looks at, level by level."""
        return sum(self._width(state) ** level for level in range(1, self.depth + 1))

    def _width(self, state: PlanningState) -> int:
        """Successors of a state, of all actions together."""
        assert isinstance(state.rules, EnumerableModel)
        return state.actions.choices * state.rules.successors
