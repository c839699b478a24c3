"""Models of the environment for planning, learned in tables."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from advantage.algorithms.tabular.table import Sizes, Step, one_step
from advantage.machine import readable, refuse_large
from advantage.types import Array, Rollout


class LastOutcome(NamedTuple):
    """A deterministic model: the last outcome of each state and action, `[S, A]`.

    Attributes:
        successor: int32; `S` stands for the end. A pair that was never tried leads back to its state.
        reward: float32; 0 for a pair that was never tried.
    """

    successor: Array
    reward: Array

    def learned(self, step: Step) -> LastOutcome:
        """The model with one more outcome for each entry of `[B]`; of several with the same pair, the last counts."""
        n_states, n_actions = self.successor.shape
        outdated = repeats((step.s * n_actions + step.a)[::-1])[::-1]
        pair = jnp.where(outdated, n_states, step.s), step.a
        return LastOutcome(
            self.successor.at[pair].set(step.next_s, mode="drop"),
            self.reward.at[pair].set(step.r, mode="drop"),
        )

    def imagine(self, s: Array, a: Array, noise: Array) -> tuple[Array, Array]:
        """The predicted outcome: `-> reward, successor`, both `[N]`; the noise is not used."""
        return self.reward[s, a], self.successor[s, a]


class Frequencies(NamedTuple):
    """A stochastic model: how often each state and action led to each successor.

    Attributes:
        count: int32 `[S, A, S + 1]`; the last column counts ends.
        reward: float32 `[S, A]`, the sum of the rewards.
    """

    count: Array
    reward: Array

    def learned(self, step: Step) -> Frequencies:
        """The model with one more outcome for each entry of `[B]`."""
        s, a, r, next_s = step
        return Frequencies(self.count.at[s, a, next_s].add(1), self.reward.at[s, a].add(r))

    def imagine(self, s: Array, a: Array, noise: Array) -> tuple[Array, Array]:
        """A predicted outcome: `-> mean reward, successor`, both `[N]`; noise `[N]`, uniform in [0, 1).

        A pair that was never tried leads back to its state with reward 0.
        """
        until = self.count[s, a].cumsum(-1)
        total = until[..., -1]
        place = (until <= (noise * total)[..., None]).sum(-1, dtype=jnp.int32)
        return self.reward[s, a] / jnp.maximum(total, 1), jnp.where(total > 0, place, s)


def last_outcome(sizes: Sizes) -> LastOutcome:
    """A model before any outcome."""
    shape = sizes.n_states, sizes.actions
    stays = jnp.broadcast_to(jnp.arange(sizes.n_states, dtype=jnp.int32)[:, None], shape)
    return LastOutcome(stays, jnp.zeros(shape, jnp.float32))


def frequencies(sizes: Sizes) -> Frequencies:
    """A model before any outcome.

    Raises:
        ValueError: the counts would not fit into memory; the message says how many bytes they take and are free.
    """
    shape = sizes.n_states, sizes.actions, sizes.n_states + 1
    what = f"A table of successor counts for {shape[0]:_} states and {shape[1]} actions"
    less = readable(8 * shape[0] * shape[1])
    refuse_large(what, 4 * shape[0] * shape[1] * shape[2], f"use model='last', which takes {less}")
    return Frequencies(jnp.zeros(shape, jnp.int32), jnp.zeros(shape[:2], jnp.float32))


def step_with_end(sizes: Sizes, rollout: Rollout) -> Step:
    """One step in each environment for a model to learn from; the successor is `S` where the episode terminated."""
    step = one_step(sizes, rollout)
    return step._replace(next_s=jnp.where(rollout.terminated[0], sizes.n_states, step.next_s))


def repeats(numbers: Array) -> Array:
    """Which entries of `[B]` equal an earlier entry, bool `[B]`."""
    before = np.tri(numbers.shape[0], k=-1, dtype=bool)
    return ((numbers[:, None] == numbers) & before).any(-1)
