"""A solver in the form of an algorithm, so that the same functions train, evaluate and resume it."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.clock import advance_clock, clock_init
from advantage.algorithms.dynamic_programming.plan import Plan, Solver
from advantage.algorithms.tabular.table import Sizes, sizes_of
from advantage.environments.tables.mdp import MDP
from advantage.types import Array, Clock, Key, Pytree, Rollout, Spec, no_memory


class PlannedPolicy(NamedTuple):
    """What acting needs from a plan: the best action and the value of each state, `[S]`; the clock counts plans."""

    sizes: Sizes
    policy: Array
    value: Array
    clock: Clock


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Planner:
    """Wraps a solver such as `ValueIteration`; it acts by the plan and does not learn from experience.

    Attributes:
        solver: has `start(mdp)` and `improve(mdp, plan)`.
    """

    solver: Solver

    n_steps = 1

    def start(self, mdp: MDP) -> Plan:
        """The solver's first plan."""
        return self.solver.start(mdp)

    def improve(self, mdp: MDP, plan: Plan) -> Plan:
        """The solver's next plan."""
        return self.solver.improve(mdp, plan)

    def adopt(self, state: PlannedPolicy, plan: Plan) -> PlannedPolicy:
        """The state that acts by a plan."""
        policy, value = np.asarray(plan.policy, np.int32), np.asarray(plan.value, np.float32)
        return PlannedPolicy(state.sizes, policy, value, advance_clock(state.clock, 1))

    def init(self, key: Key, spec: Spec) -> PlannedPolicy:
        """Action 0 everywhere. Raises ValueError for spaces that are not finite."""
        sizes = sizes_of(spec)
        policy, value = jnp.zeros(sizes.n_states, jnp.int32), jnp.zeros(sizes.n_states, jnp.float32)
        return PlannedPolicy(sizes, policy, value, clock_init(spec.total_timesteps))

    initial_memory = no_memory

    def actor(self, state: PlannedPolicy) -> PlannedPolicy:
        return state

    def noise(self, actor: PlannedPolicy, key: Key, shape: tuple[int, ...]) -> Array:
        """Zeros: acting by a plan uses no random numbers."""
        return jnp.zeros(shape, jnp.float32)

    def act(
        self, actor: PlannedPolicy, obs: Pytree, memory: Pytree, noise: Array
    ) -> tuple[Array, Pytree, Pytree]:
        """The planned action: `-> action, memory, extras`."""
        return *self.greedy(actor, obs, memory), ()

    def greedy(self, actor: PlannedPolicy, obs: Pytree, memory: Pytree) -> tuple[Array, Pytree]:
        """The planned action: `-> action, memory`."""
        return actor.policy[actor.sizes.index(obs)], memory

    def update(
        self, state: PlannedPolicy, rollout: Rollout, key: Key
    ) -> tuple[PlannedPolicy, dict[str, Array]]:
        """Experience does not change a plan: `-> state, no metrics`."""
        return state, {}
