"""Monte-Carlo tree search with upper confidence bounds (UCT)."""

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
from advantage.algorithms.planning.shared.learning import PlanningState, planning_state
from advantage.algorithms.planning.shared.options import PlanningOptions
from advantage.models.ensemble import reordered
from advantage.planners.imagination import PlanningProblem, random_playouts
from advantage.planners.tree_search import most_visited, tree_search
from advantage.types import Array, Key, Pytree, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class MCTS(PlanningOptions):
    """Plan by Monte-Carlo tree search, at every step anew.

        simulations times, from the present state:
            go down the tree by  a = argmax_a Q(s, a) + exploration sqrt(log sum_b n(s, b) / n(s, a))
            add the first state that is not in the tree, and estimate its value by rollouts with random actions
            add  G = r + gamma (1 - terminated) G'  to each action on the way back
        a  <- the action that was taken most often at the root

    Q is scaled to [0, 1] by the lowest and the highest return in the tree. With model=learned, the model is fitted
    after every n_steps in each environment, and each simulation and each rollout follows one member of the ensemble.

    Source: Kocsis & Szepesvári 2006, "Bandit based Monte-Carlo planning".
    """

    simulations: int = ranged(200, "[1, inf)")
    """Simulations for each decision."""
    exploration: float = ranged(1.0, "[0, inf)")
    """Weight of the bonus of actions that were taken rarely."""
    successors: int = ranged(1, "[1, inf)")
    """How many successors of an action the tree tells apart: 1 in a world without chance, more in one with it, and in
    an ensemble of models, whose members differ."""
    rollouts: int = ranged(4, "[1, inf)")
    """Rollouts that estimate a new state's value."""
    rollout_steps: int = ranged(50, "[1, inf)")
    """Steps of a rollout."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> PlanningState:
        """Draw the initial training state. Raises ValueError as `planning_state`, and for a Box of actions."""
        state = planning_state(self, key, spec)
        if not state.actions.choices:
            raise ValueError(
                f"A search over actions needs Discrete ones, and the action space is {spec.action_space}; use "
                "cem-planning, shooting or gradient-planning."
            )
        return state

    actor = planning_actor
    initial_memory = no_plan
    noise = planning_noise
    act = act_by_planning
    greedy = greedy_by_planning
    update = planning_update

    def decide(self, actor: PlanningActor, state: Pytree, plan: Pytree, key: Key) -> tuple[Array, Pytree]:
        """The action that was taken most often at the root: `-> action, plan`."""
        problem = PlanningProblem(actor.model, actor.actions, self.gamma)

        def value(state: Pytree, key: Key) -> Array:
            # the rollouts fold the numbers of their steps into the key, so this number is free
            model = reordered(problem.model, jax.random.fold_in(key, self.rollout_steps))
            own = problem._replace(model=model)
            return random_playouts(own, state, key, playouts=self.rollouts, steps=self.rollout_steps)

        tree = tree_search(
            problem,
            state,
            key,
            value,
            simulations=self.simulations,
            successors=self.successors,
            exploration=self.exploration,
        )
        return most_visited(tree).astype(jnp.int32), plan

    def model_steps(self, state: PlanningState) -> int:
        """Those of the rollouts, and at least one for each simulation."""
        return self.simulations * (1 + self.rollouts * self.rollout_steps)
