"""Playing sequences of actions in a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.models.interface import Model
from advantage.planners.action_sequences import PlannedActions
from advantage.types import Array, Key, Pytree


def imagined_return(
    model: Model,
    state: Pytree,
    actions: Pytree,
    key: Key,
    *,
    gamma: Array | float,
    value: Callable[[Pytree], Array] | None = None,
) -> Array:
    """The discounted return of N sequences of H actions in a model, `[N]`.

        G = sum over t < H of gamma^t r_t,   up to and with the first termination
          + gamma^H v(s_H)                   if there was none

    Args:
        model: what to play in.
        state: where each sequence begins, `[N, ...]`.
        actions: `[H, N, ...]`.
        key: draws what the model leaves to chance.
        gamma: discount per step.
        value: v, for `[N, ...]` states; 0 if there is none.
    """

    def step(carry: tuple[Pytree, Array, Array], now: tuple[Pytree, Key]) -> tuple[tuple, None]:
        state, total, discount = carry
        action, key = now
        following = model.step(state, action, key)
        total = total + discount * following.reward
        return (following.state, total, gamma * discount * (1 - following.terminated)), None

    horizon, number = jax.tree.leaves(actions)[0].shape[:2]
    start = state, jnp.zeros(number), jnp.ones(number)
    (state, total, discount), _ = jax.lax.scan(step, start, (actions, jax.random.split(key, horizon)))
    return total if value is None else total + discount * value(state)


class PlanningProblem(NamedTuple):
    """What planners need to know besides where a plan begins.

    Attributes:
        model: what to plan in.
        actions: what to choose from.
        gamma: discount per step.
        particles: how often a sequence of actions is played; its value is the mean.
    """

    model: Model
    actions: PlannedActions
    gamma: Array | float
    particles: int = 1


def mean_return(problem: PlanningProblem, state: Pytree, actions: Pytree, key: Key) -> Array:
    """The mean return over particles of N sequences `[H, N, ...]` from one state, `[N]`."""
    number, particles = jax.tree.leaves(actions)[0].shape[1], problem.particles

    def repeat(x: Array) -> Array:
        return jnp.repeat(x, particles, axis=1)

    begin = jax.tree.map(lambda x: jnp.broadcast_to(x, (number * particles, *x.shape)), state)
    total = imagined_return(problem.model, begin, jax.tree.map(repeat, actions), key, gamma=problem.gamma)
    return total.reshape(number, particles).mean(1)


def random_playouts(problem: PlanningProblem, state: Pytree, key: Key, *, playouts: int, steps: int) -> Array:
    """The mean discounted return of random Discrete actions from one state, for the player to move.

        G_t = r_t + gamma sign (1 - terminated) G_{t+1}

    with the model's sign. Each action is one of those that are possible.
    """
    model = problem.model

    def step(carry: tuple[Pytree, Array, Array], key: Key) -> tuple[tuple, None]:
        state, total, discount = carry
        key_choice, key_step = jax.random.split(key)
        score, allowed = (
            jax.random.uniform(key_choice, (playouts, problem.actions.choices)),
            model.allowed(state),
        )
        action = (score if allowed is None else jnp.where(allowed, score, -1.0)).argmax(-1).astype(jnp.int32)
        after = model.step(state, action, key_step)
        total = total + discount * after.reward
        return (after.state, total, problem.gamma * model.sign * discount * (1 - after.terminated)), None

    begin = jax.tree.map(lambda x: jnp.broadcast_to(x, (playouts, *x.shape)), state)
    start = begin, jnp.zeros(playouts), jnp.ones(playouts)
    (_, total, _), _ = jax.lax.scan(step, start, jax.random.split(key, steps))
    return total.mean()
