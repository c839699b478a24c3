"""Models that look back: which action led from one state to the next, and what came before."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from gymnasium import spaces

from advantage.models.ensemble import Ensemble, Scales, Transitions, std_of
from advantage.models.vectors import VectorSpaces
from advantage.types import Array, Pytree


class ActionExamples(NamedTuple):
    """Transitions as examples of `[x, x'] -> a`, `[N, ...]`; an action that is a choice is one-hot."""

    inputs: Array
    outputs: Array
    terminated: Array


def action_examples(rows: Transitions) -> ActionExamples:
    """From what came before and after to the action between."""
    return ActionExamples(jnp.concatenate([rows.x, rows.next_x], axis=-1), rows.action, rows.terminated)


def state_examples(rows: Transitions) -> Transitions:
    """From what came after and the action to what came before, `[x', a] -> [x - x', r]`: transitions turned round."""
    return rows._replace(x=rows.next_x, next_x=rows.x)


class InverseAction(NamedTuple):
    """Which action leads from one observation to another: the mean over an ensemble of `[x, x'] -> a`.

    Where several actions do, it is their mean over the experience that was learned from, or the most probable choice.

    Attributes:
        ensemble, spaces: shapes; static.
        members: parameters, E in front.
        scales: statistics.
    """

    ensemble: Ensemble
    spaces: VectorSpaces
    members: Pytree
    scales: Scales

    def action(self, obs: Pytree, next_obs: Pytree) -> Array:
        """Actions in the policy's own units, `[N, k]`, or choices, int32 `[N]`; both observations `[N, ...]`."""
        inputs = [self.spaces.vector(obs), self.spaces.vector(next_obs)]
        found = mean_outputs(self.ensemble, self.members, self.scales, jnp.concatenate(inputs, axis=-1))
        is_choice = isinstance(self.spaces.action_space, spaces.Discrete)
        return found.argmax(-1).astype(jnp.int32) if is_choice else found


class InverseState(NamedTuple):
    """What came before an observation that an action led to: the mean over an ensemble of `[x', a] -> [x - x', r]`.

    Attributes as in `InverseAction`.
    """

    ensemble: Ensemble
    spaces: VectorSpaces
    members: Pytree
    scales: Scales

    def before(self, next_obs: Pytree, action: Array) -> tuple[Pytree, Array]:
        """The observations before, and the rewards that were earned between, `[N]`: `-> obs, reward`."""
        x = self.spaces.vector(next_obs)
        inputs = jnp.concatenate([x, self.spaces.action_vector(action)], axis=-1)
        found = mean_outputs(self.ensemble, self.members, self.scales, inputs)
        return self.spaces.obs(self.spaces.bounded(x + found[:, :-1])), found[:, -1]


def mean_outputs(ensemble: Ensemble, members: Pytree, scales: Scales, inputs: Array) -> Array:
    """The mean over members of what they predict, in the outputs' own units: `[N, I] -> [N, D]`."""
    predicted = jax.vmap(ensemble.predict, (0, None, None))(members, scales, inputs)
    return scales.outputs.mean.value + std_of(scales.outputs) * predicted.mean.mean(0)
