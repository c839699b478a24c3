"""Playing sequences of actions in a model."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.models.interface import Imagined, Model
from advantage.planners.action_sequences import PlannedActions
from advantage.rows import choose
from advantage.types import Array, Key, Pytree


def imagined_return(model: Model, state: Pytree, actions: Pytree, key: Key, *, gamma: Array | float) -> Array:
    """The discounted return of N sequences of H actions in a model, `[N]`.

        G = sum over t < H of gamma^t r_t,   up to and with the first termination

    Args:
        model: what to play in.
        state: where each sequence begins, `[N, ...]`.
        actions: `[H, N, ...]`.
        key: draws what the model leaves to chance.
        gamma: discount per step.
    """

    def step(played: Played, now: tuple[Pytree, Key]) -> tuple[Played, None]:
        action, key = now
        return _after(played, model.step(played.state, action, key), gamma), None

    horizon, number = jax.tree.leaves(actions)[0].shape[:2]
    start = Played(state, jnp.zeros(number), jnp.ones(number))
    return jax.lax.scan(step, start, (actions, jax.random.split(key, horizon)))[0].total


class Played(NamedTuple):
    """N sequences so far: states `[N, ...]`, returns, and the discount of what follows, 0 after an end, `[N]`."""

    state: Pytree
    total: Array
    discount: Array


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

    def step(played: Played, key: Key) -> tuple[Played, None]:
        key_choice, key_step = jax.random.split(key)
        score, allowed = (
            jax.random.uniform(key_choice, (playouts, problem.actions.choices)),
            model.allowed(played.state),
        )
        action = (score if allowed is None else jnp.where(allowed, score, -1.0)).argmax(-1).astype(jnp.int32)
        after = model.step(played.state, action, key_step)
        return _after(played, after, problem.gamma * model.sign), None

    begin = jax.tree.map(lambda x: jnp.broadcast_to(x, (playouts, *x.shape)), state)
    start = Played(begin, jnp.zeros(playouts), jnp.ones(playouts))
    return jax.lax.scan(step, start, jax.random.split(key, steps))[0].total.mean()


def _after(played: Played, step: Imagined, factor: Array | float) -> Played:
    """After one more step, whose successor's discount is `factor` times as large.

    At an end the state stays the one before it, and nothing of what follows counts: a model may say anything beyond an
    end, also NaN, so it is never asked about a state there, and no derivative is taken there.
    """
    total = played.total + played.discount * step.reward
    discount = jnp.where(step.terminated, 0.0, factor * played.discount)
    state = jax.tree.map(partial(choose, discount == 0), played.state, step.state)
    return Played(state, total, discount)
