"""How far a model's predictions go wrong when nothing corrects them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from advantage.models.ensemble import LearnedModel, std_of
from advantage.replay.sequences import ReplayedSequences
from advantage.types import Array, Key, Pytree


def open_loop(model: LearnedModel, rows: ReplayedSequences, key: Key) -> Array:
    """What a model predicts from a first observation and all actions: vectors of observations, `[H, N, d]`.

    Its members predict without noise, each its share of the sequences.

    Args:
        model: the model.
        rows: sequences of real steps, `[H, N, ...]`.
        key: not used by predictions without noise.
    """
    plain = model._replace(ensemble=dataclasses.replace(model.ensemble, kind="deterministic"))

    def step(x: Array, now: tuple[Pytree, Key]) -> tuple[Array, Array]:
        action, key = now
        after = plain.step(x, action, key).state
        return after, after

    begin = model.spaces.vector(jax.tree.map(lambda leaf: leaf[0], rows.obs))
    return jax.lax.scan(step, begin, (rows.action, jax.random.split(key, rows.reward.shape[0])))[1]


def open_loop_counts(rows: ReplayedSequences) -> Array:
    """Which predictions have a true observation, bool `[H, N]`: none beyond the end of an episode."""
    done = jnp.logical_or(rows.terminated, rows.truncated)
    before = jnp.concatenate([jnp.zeros_like(done[:1]), done[:-1]])
    return rows.mask & (jnp.cumsum(before, axis=0) == 0)


def open_loop_errors(model: LearnedModel, rows: ReplayedSequences, key: Key) -> tuple[Array, Array]:
    """The error of predictions 1, ..., H steps ahead: `-> errors [H], how many there are of each [H]`.

        e_h = sqrt(mean over sequences and numbers of ((x_h - predicted x_h) / std)^2)

    std is that of the observations seen. Arguments as in `open_loop`.
    """
    std = std_of(model.scales.inputs)[: model.spaces.size]
    true = jax.vmap(model.spaces.vector)(rows.next_obs)
    squares = jnp.square((open_loop(model, rows, key) - true) / std).mean(-1)
    counts = open_loop_counts(rows)
    number = counts.sum(1)
    return jnp.sqrt(jnp.where(counts, squares, 0.0).sum(1) / jnp.maximum(number, 1)), number
