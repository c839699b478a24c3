"""How an agent that plans acts: functions that methods use as `actor`, `noise` and so on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.planning.shared.learning import PlanningState
from advantage.algorithms.planning.shared.options import LookaheadOptions, PlanningOptions
from advantage.models.interface import Model
from advantage.planners.action_sequences import PlannedActions
from advantage.types import Array, Key, Pytree


class PlanningActor(NamedTuple):
    """What acting needs: the model, the actions, the key of evaluations, and whether it still acts at random."""

    model: Model
    actions: PlannedActions
    key: Array
    random: Array


class PlanMemory(NamedTuple):
    """What an agent that plans remembers within an episode.

    Attributes:
        plan: what it planned, for the next decision; `()` if it begins from nothing.
        decisions: how many there were, int32.
    """

    plan: Pytree
    decisions: Array


def planning_actor(options: LookaheadOptions, state: PlanningState) -> PlanningActor:
    """The model as it is now; used as a method's `actor`."""
    if state.learning is None:
        assert state.rules is not None
        return PlanningActor(state.rules, state.actions, state.key, jnp.bool_(False))
    assert isinstance(options, PlanningOptions)
    random = state.clock.step < jnp.uint32(options.learning_starts)
    return PlanningActor(state.learning.model, state.actions, state.key, random)


def planning_noise(
    options: LookaheadOptions, actor: PlanningActor, key: Key, shape: tuple[int, ...]
) -> Array:
    """A key for each decision, uint32 `[*shape, 2]`; used as a method's `noise`."""
    return jax.random.key_data(jax.random.split(key, shape))


def no_plan(options: LookaheadOptions, actor: PlanningActor) -> PlanMemory:
    """The memory of an agent that begins each decision from nothing; used as a method's `initial_memory`."""
    return PlanMemory((), jnp.int32(0))


Decide = Callable[[PlanningActor, Pytree, Pytree, Key], tuple[Array, Pytree]]
"""`(actor, the model's state, the plan so far, key) -> action, plan`, for one environment."""


def act_by_planning(
    decide: Decide, actor: PlanningActor, obs: Pytree, memory: PlanMemory, noise: Array
) -> tuple[Array, PlanMemory, tuple[()]]:
    """Plan in each environment, or act at random before a model is learned: `-> action, memory, extras`."""
    keys = jax.random.wrap_key_data(jnp.asarray(noise))

    def one(obs: Pytree, memory: PlanMemory, key: Key) -> tuple[Array, PlanMemory]:
        key_plan, key_random = jax.random.split(key)
        action, plan = decide(actor, _begin(actor.model, obs), memory.plan, key_plan)
        random = actor.actions.uniform(key_random, ()).astype(action.dtype)
        return jnp.where(actor.random, random, action), PlanMemory(plan, memory.decisions + 1)

    action, memory = jax.vmap(one)(jax.tree.map(jnp.asarray, obs), memory, keys)
    return action, memory, ()


def greedy_by_planning(
    decide: Decide, actor: PlanningActor, obs: Pytree, memory: PlanMemory
) -> tuple[Array, PlanMemory]:
    """Plan in each environment with random numbers that depend on the number of the decision: `-> action, memory`."""
    begin = jax.random.wrap_key_data(jnp.asarray(actor.key))

    def one(obs: Pytree, memory: PlanMemory) -> tuple[Array, PlanMemory]:
        key = jax.random.fold_in(begin, memory.decisions)
        action, plan = decide(actor, _begin(actor.model, obs), memory.plan, key)
        return action, PlanMemory(plan, memory.decisions + 1)

    return jax.vmap(one)(jax.tree.map(jnp.asarray, obs), memory)


def _begin(model: Model, obs: Pytree) -> Pytree:
    """The model's state for one observation."""
    states = model.begin(jax.tree.map(lambda x: x[None], obs))
    return jax.tree.map(lambda x: x[0], states)
