"""Fitting an ensemble to replayed transitions, until held-out ones are predicted no better."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from advantage.models.ensemble import Ensemble, Examples, Scales, calibrated
from advantage.replay.ring import Replay, transitions_at
from advantage.rows import choose
from advantage.types import Array, Key, Pytree

HELD_OUT = 10  # one transition of so many is never fitted
STEPS_BETWEEN_CHECKS = 50
IMPROVEMENT = 0.01  # of the held-out loss, as a share of it; less counts as none
PATIENCE = 5  # checks without improvement


class Learned(NamedTuple):
    """What fitting changes.

    Attributes:
        members: parameters, of each member those with the lowest held-out loss.
        optimiser: Adam's state.
        scales: statistics, with the calibration of the new parameters.
        loss: the held-out loss of each member, `[E]`.
        steps: gradient steps taken, uint32.
    """

    members: Pytree
    optimiser: optax.OptState
    scales: Scales
    loss: Array
    steps: Array


def learned_init(ensemble: Ensemble, key: Key) -> Learned:
    """New parameters, with no loss yet."""
    members = ensemble.init(key)
    optimiser = optax.scale_by_adam().init(members)
    loss = jnp.full(ensemble.members, jnp.inf)
    return Learned(members, optimiser, ensemble.scales_init(), loss, jnp.uint32(0))


def train_index(replay: Replay, draw: Array) -> Array:
    """The stored transition that stands in for a drawn one if that is held out: the one before, or the second."""
    return jnp.where(is_held_out(replay, draw), jnp.where(draw > 0, draw - 1, 1), draw)


def is_held_out(replay: Replay, index: Array) -> Array:
    """Whether stored transitions, counted from the oldest, are held out; it stays so as long as they are stored."""
    number = replay.oldest * jnp.uint32(replay.num_envs) + index.astype(jnp.uint32)
    return number % HELD_OUT == HELD_OUT - 1


def bootstrap_index(replay: Replay, key: Key, member: Array, size: int) -> Array:
    """Draws from a member's bootstrap sample: N transitions that were drawn once, with replacement.

    Source: Efron & Tibshirani 1993, "An introduction to the bootstrap", chapter 6.
    """
    stored = jnp.maximum(replay.stored, 1)
    place = jax.random.randint(key, (size,), 0, stored)
    of_member = jax.random.fold_in(jax.random.key(0), member)
    draw = jax.vmap(lambda i: jax.random.randint(jax.random.fold_in(of_member, i), (), 0, stored))(place)
    return train_index(replay, draw)


def held_out_index(replay: Replay, key: Key, size: int) -> Array:
    """Draws from the transitions that are held out."""
    draw = jax.random.randint(key, (size,), 0, jnp.maximum(replay.stored, 1))
    number = replay.oldest * jnp.uint32(replay.num_envs) + draw.astype(jnp.uint32)
    later = draw + (HELD_OUT - 1 - (number % HELD_OUT).astype(jnp.int32))
    return jnp.where(later < replay.stored, later, jnp.maximum(later - HELD_OUT, 0))


def fit(
    ensemble: Ensemble,
    learned: Learned,
    replay: Replay,
    read: Callable[[Pytree], Examples],
    key: Key,
    *,
    learning_rate: Array | float,
    batch_size: int,
    max_steps: Array,
) -> tuple[Learned, dict[str, Array]]:
    """Adam on each member's own bootstrap sample, until the held-out loss of no member falls any more.

    Every 50 steps the loss on held-out transitions is computed. Each member keeps the parameters with the lowest one.
    Fitting stops after five checks without an improvement by one in a hundred, or after `max_steps`.

    Args:
        ensemble: the shapes.
        learned: the parameters so far.
        replay: the buffer; a tenth of it is held out.
        read: from replayed transitions to what is fitted.
        key: draws batches.
        learning_rate: Adam's step size.
        batch_size: transitions of a gradient step of each member.
        max_steps: the most gradient steps, whole checks.

    Returns:
        The learned ensemble, and metrics.
    """
    key_held, key_steps = jax.random.split(key)

    def rows(index: Array) -> Examples:
        return read(transitions_at(replay, index, gamma=1.0))

    held_out = rows(held_out_index(replay, key_held, 4 * batch_size))
    step = _gradient_step(ensemble, learned.scales, replay, rows, key_steps, learning_rate, batch_size)

    def losses(members: Pytree) -> Array:
        return jax.vmap(ensemble.loss, (0, None, None))(members, learned.scales, held_out)

    def check(carry: Any) -> Any:
        taken, members, state, best, lowest, waited = carry
        members, state = jax.lax.fori_loop(taken, taken + STEPS_BETWEEN_CHECKS, step, (members, state))
        loss = losses(members)
        better = loss < lowest
        improved = (lowest - loss > IMPROVEMENT * jnp.abs(lowest)).any()
        best = jax.tree.map(partial(choose, better), members, best)
        waited = jnp.where(improved, 0, waited + 1)
        return taken + STEPS_BETWEEN_CHECKS, members, state, best, jnp.minimum(loss, lowest), waited

    def goes_on(carry: Any) -> Array:
        return (carry[0] < max_steps) & (carry[-1] < PATIENCE)

    before = losses(learned.members)
    start = (jnp.int32(0), learned.members, learned.optimiser, learned.members, before, jnp.int32(0))
    taken, _, state, best, loss, _ = jax.lax.while_loop(goes_on, check, start)
    scales = calibrated(ensemble, best, learned.scales, held_out)
    metrics = {
        "model_loss": loss.mean(),
        "model_gradient_steps": taken.astype(jnp.float32),
        "model_calibration": scales.calibration.mean(),
    }
    return Learned(best, state, scales, loss, learned.steps + taken.astype(jnp.uint32)), metrics


def _gradient_step(
    ensemble: Ensemble,
    scales: Scales,
    replay: Replay,
    rows: Callable[[Array], Examples],
    key: Key,
    learning_rate: Array | float,
    batch_size: int,
) -> Callable[[Array, Any], Any]:
    """The i-th step of Adam, `(i, (members, state)) -> members, state`, with a batch for each member."""
    optimiser = optax.scale_by_adam()

    def step(i: Array, carry: Any) -> Any:
        members, state = carry
        keys = jax.random.split(jax.random.fold_in(key, i), ensemble.members)
        index = jax.vmap(lambda key, member: bootstrap_index(replay, key, member, batch_size))(
            keys, jnp.arange(ensemble.members)
        )
        batch = jax.tree.map(
            lambda x: x.reshape(ensemble.members, batch_size, *x.shape[1:]), rows(index.ravel())
        )

        def total(members: Pytree) -> Array:
            return jax.vmap(ensemble.objective, (0, None, 0))(members, scales, batch).sum()

        updates, state = optimiser.update(jax.grad(total)(members), state)
        return jax.tree.map(lambda p, u: p - learning_rate * u, members, updates), state

    return step
