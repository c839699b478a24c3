"""How far a model's predictions go wrong when nothing corrects them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from advantage.models.ensemble import LearnedModel, std_of
from advantage.replay.sequences import ReplayedSequences
from advantage.types import Array, Key, Pytree


def open_loop_errors(model: LearnedModel, rows: ReplayedSequences, key: Key) -> tuple[Array, Array]:
    """The error of predictions 1, ..., H steps ahead: `-> errors [H], how many there are of each [H]`.

        e_h = sqrt(mean over sequences and numbers of ((x_h - predicted x_h) / std)^2)

    The model is given the first observation and all actions, and its members predict without noise, each its share of
    the sequences. std is that of the observations seen. A prediction beyond an end of an episode does not count.

    Args:
        model: the model.
        rows: sequences of real steps, `[H, N, ...]`.
        key: not used by predictions without noise.
    """
    spaces = model.spaces
    plain = model._replace(ensemble=dataclasses.replace(model.ensemble, kind="deterministic"))
    std = std_of(model.scales.inputs)[: spaces.size]

    def step(x: Array, now: Pytree) -> tuple[Array, Array]:
        action, true, key = now
        after = plain.step(x, action, key).state
        return after, jnp.square((after - spaces.vector(true)) / std).mean(-1)

    horizon = rows.reward.shape[0]
    begin = spaces.vector(jax.tree.map(lambda leaf: leaf[0], rows.obs))
    _, squares = jax.lax.scan(step, begin, (rows.action, rows.next_obs, jax.random.split(key, horizon)))
    done = jnp.logical_or(rows.terminated, rows.truncated)
    before = jnp.concatenate([jnp.zeros_like(done[:1]), done[:-1]])
    counts = rows.mask & (jnp.cumsum(before, axis=0) == 0)
    number = counts.sum(1)
    return jnp.sqrt(jnp.where(counts, squares, 0.0).sum(1) / jnp.maximum(number, 1)), number
