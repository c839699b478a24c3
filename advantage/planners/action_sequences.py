"""Distributions over sequences of H actions: what random shooting draws from and cross-entropy planning improves."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from advantage.environments.spaces import policy_bounds
from advantage.types import Array, Key, Spec


class Normals(NamedTuple):
    """Independent normal actions within bounds: mean and standard deviation, `[H, d]`."""

    mean: Array
    std: Array


class Choices(NamedTuple):
    """Independent choices with these probabilities, `[H, A]`."""

    probability: Array


Sequences = Normals | Choices


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class PlannedActions:
    """The actions that planners choose among, in the policy's own units.

    Attributes:
        choices: the number of Discrete actions; 0 for a Box.
        low, high: the bounds of a Box.
    """

    choices: int = 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def middle(self) -> np.ndarray:
        return (np.array(self.high, np.float32) + np.array(self.low, np.float32)) / 2

    @property
    def half(self) -> np.ndarray:
        return (np.array(self.high, np.float32) - np.array(self.low, np.float32)) / 2

    def uniform(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Actions drawn uniformly, `[*shape, ...]`."""
        if self.choices:
            return jax.random.randint(key, shape, 0, self.choices)
        return self.middle + self.half * jax.random.uniform(key, (*shape, len(self.low)), minval=-1.0)

    def begin(self, horizon: int, spread: Array | float) -> Sequences:
        """Before anything is known: all choices alike, or normals around the middle with `spread` half-widths."""
        if self.choices:
            return Choices(jnp.full((horizon, self.choices), 1 / self.choices))
        mean = jnp.broadcast_to(self.middle, (horizon, len(self.low)))
        return Normals(mean, jnp.broadcast_to(spread * self.half, mean.shape))

    def later(self, sequences: Sequences, spread: Array | float) -> Sequences:
        """One step later: what was planned for the steps that remain; the new last step repeats the last one.

        A choice's probabilities are mixed with as much of the uniform distribution, and normals get their full spread.
        """
        if isinstance(sequences, Choices):
            moved = _moved(sequences.probability)
            return Choices((moved + 1 / self.choices) / 2)
        fresh = self.begin(len(sequences.mean), spread)
        assert isinstance(fresh, Normals)
        return Normals(_moved(sequences.mean), fresh.std)

    def sample(self, sequences: Sequences, key: Key, size: int, *, beta: Array | float = 0.0) -> Array:
        """Draws, `[H, size, ...]`; normals are clipped to the bounds.

        Args:
            sequences: what to draw from.
            key: one draw for each step and candidate.
            size: number of sequences.
            beta: the exponent of the power spectrum of normals over time, `1 / f^beta`; 0 for independent steps.
        """
        if isinstance(sequences, Choices):
            log = jnp.log(jnp.maximum(sequences.probability, 1e-30))
            return jax.random.categorical(key, log[:, None], axis=-1, shape=(len(log), size))
        horizon, width = sequences.mean.shape
        noise = coloured_noise(key, (size, width, horizon), beta).transpose(2, 0, 1)
        drawn = sequences.mean[:, None] + sequences.std[:, None] * noise
        return self.clipped(drawn)

    def clipped(self, actions: Array) -> Array:
        """Actions within the bounds."""
        if self.choices:
            return actions
        return jnp.clip(actions, np.array(self.low, np.float32), np.array(self.high, np.float32))

    def best(self, sequences: Sequences) -> Array:
        """The most likely sequence, `[H, ...]`."""
        if isinstance(sequences, Choices):
            return sequences.probability.argmax(-1)
        return self.clipped(sequences.mean)

    def refit(self, sequences: Sequences, elites: Array, keep: Array | float) -> Sequences:
        """The distribution that fits the elites, `[H, K, ...]`, mixed with a share `keep` of the one before."""

        def mix(old: Array, new: Array) -> Array:
            return keep * old + (1 - keep) * new

        if isinstance(sequences, Choices):
            share = jax.nn.one_hot(elites, self.choices).mean(1)
            return Choices(mix(sequences.probability, share))
        mean, std = elites.mean(1), elites.std(1)
        return Normals(mix(sequences.mean, mean), mix(sequences.std, std))


def planned_actions(spec: Spec) -> PlannedActions:
    """The actions of a run.

    Raises:
        ValueError: neither Discrete nor a bounded Box.
    """
    space = spec.action_space
    if isinstance(space, spaces.Discrete):
        return PlannedActions(choices=int(space.n))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high = (bound.ravel() for bound in policy_bounds(space, spec.action_units))
        if np.isfinite(low).all() and np.isfinite(high).all() and max(abs(low).max(), abs(high).max()) < 1e6:
            return PlannedActions(low=tuple(map(float, low)), high=tuple(map(float, high)))
    raise ValueError(
        f"A planner chooses among Discrete actions, or within the bounds of a Box of floats, and the action space is "
        f"{space}; give the actions bounds with gymnasium.wrappers.TransformAction, or use ppo."
    )


def coloured_noise(key: Key, shape: tuple[int, ...], beta: Array | float) -> Array:
    """Standard normal numbers whose power spectrum along the last axis falls with the frequency f as `1 / f^beta`.

        x_t = sum_k c_k (u_k cos(2 pi k t / L) - v_k sin(2 pi k t / L)) / sqrt(sum_k c_k^2),   c_k = w_k f_k^(-beta / 2)

    with u and v standard normal and f_k = max(k, 1) / L. w is 2, and sqrt(2) for the frequencies 0 and 1/2, which
    have no sine. With beta = 0 the numbers are independent.

    Source: Timmer & König 1995, "On generating power law noise"; Pinneri et al. 2020, "Sample-efficient cross-entropy
    method for real-time planning", section 3.1.
    """
    length = shape[-1]
    k = np.arange(length // 2 + 1)
    weight = np.where((k == 0) | (2 * k == length), np.sqrt(2), 2.0)
    c = weight * (np.maximum(k, 1) / length) ** (-jnp.asarray(beta, jnp.float32) / 2)
    phase = 2 * np.pi * np.outer(k, np.arange(length)) / length
    u, v = jax.random.normal(key, (2, *shape[:-1], len(k))) * (c / jnp.sqrt(jnp.square(c).sum()))
    return u @ np.cos(phase).astype(np.float32) - v @ np.sin(phase).astype(np.float32)


def _moved(x: Array) -> Array:
    return jnp.concatenate([x[1:], x[-1:]])
