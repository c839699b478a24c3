"""How an agent that plans acts and learns: functions that methods use as `actor`, `act`, `update` and so on."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, progress
from advantage.algorithms.planning.shared.learning import PlanningState, learn_model
from advantage.algorithms.planning.shared.options import ModelOptions, UsedModelOptions
from advantage.models.interface import Model
from advantage.planners.action_sequences import PlannedActions
from advantage.types import Array, Key, Pytree, Rollout


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


@runtime_checkable
class LooksAhead(Protocol):
    """A method whose decisions take steps of a model."""

    def model_steps(self, state: Pytree) -> int:
        """How many steps of the model a decision takes; 0 for a method that does not plan."""
        ...


class PlanningAgent(LooksAhead, Protocol):
    """What a method has to say for itself; all else is here."""

    def decide(self, actor: PlanningActor, state: Pytree, plan: Pytree, key: Key) -> tuple[Array, Pytree]:
        """In one environment, from one state of the model and the plan so far: `-> action, plan`."""
        ...


def planning_actor(agent: PlanningAgent, state: PlanningState) -> PlanningActor:
    """The model as it is now; used as a method's `actor`."""
    if state.learning is None:
        assert state.rules is not None
        return PlanningActor(state.rules, state.actions, state.key, jnp.bool_(False))
    assert isinstance(agent, UsedModelOptions)
    random = state.clock.step < jnp.uint32(agent.learning_starts)
    return PlanningActor(state.learning.model, state.actions, state.key, random)


def planning_noise(agent: object, actor: Pytree, key: Key, shape: tuple[int, ...]) -> Array:
    """A key for each decision, uint32 `[*shape, 2]`; used as a method's `noise`."""
    return jax.random.key_data(jax.random.split(key, shape))


def no_plan(agent: object, actor: Pytree) -> PlanMemory:
    """The memory of an agent that begins each decision from nothing; used as a method's `initial_memory`."""
    return PlanMemory((), jnp.int32(0))


def act_by_planning(
    agent: PlanningAgent, actor: PlanningActor, obs: Pytree, memory: PlanMemory, noise: Array
) -> tuple[Array, PlanMemory, tuple[()]]:
    """Plan in each environment, or act at random before a model is learned; used as a method's `act`.

    `-> action, memory, extras`.
    """
    keys = jax.vmap(jax.random.split)(jax.random.wrap_key_data(jnp.asarray(noise)))

    def by_plan() -> tuple[Array, Pytree]:
        begin = partial(_begin, actor.model)
        decide = jax.vmap(lambda obs, plan, key: agent.decide(actor, begin(obs), plan, key))
        return decide(jax.tree.map(jnp.asarray, obs), memory.plan, keys[:, 0])

    def at_random() -> tuple[Array, Pytree]:
        return jax.vmap(lambda key: actor.actions.uniform(key, ()))(keys[:, 1]), memory.plan

    action, plan = jax.lax.cond(actor.random, at_random, by_plan)
    return action, PlanMemory(plan, memory.decisions + 1), ()


def greedy_by_planning(
    agent: PlanningAgent, actor: PlanningActor, obs: Pytree, memory: PlanMemory
) -> tuple[Array, PlanMemory]:
    """Plan with random numbers that depend on the number of the decision; used as a method's `greedy`.

    `-> action, memory`.
    """
    begin = jax.random.wrap_key_data(jnp.asarray(actor.key))

    def one(obs: Pytree, memory: PlanMemory) -> tuple[Array, PlanMemory]:
        key = jax.random.fold_in(begin, memory.decisions)
        action, plan = agent.decide(actor, _begin(actor.model, obs), memory.plan, key)
        return action, PlanMemory(plan, memory.decisions + 1)

    return jax.vmap(one)(jax.tree.map(jnp.asarray, obs), memory)


def planning_update(
    agent: PlanningAgent, state: PlanningState, rollout: Rollout, key: Key
) -> tuple[PlanningState, dict[str, Array]]:
    """Learn the model if there is one to learn; used as a method's `update`: `-> state, metrics`."""
    metrics: dict[str, Array] = {"model_steps": jnp.float32(agent.model_steps(state))}
    learning = state.learning
    if learning is not None:
        assert isinstance(agent, ModelOptions)
        learning, more = learn_model(agent, learning, rollout, key, progress(state.clock))
        metrics |= more
    clock = advance_clock(state.clock, rollout.reward.size)
    return dataclasses.replace(state, learning=learning, clock=clock), metrics


def _begin(model: Model, obs: Pytree) -> Pytree:
    """The model's state for one observation."""
    states = model.begin(jax.tree.map(lambda x: x[None], obs))
    return jax.tree.map(lambda x: x[0], states)
