"""Recorded episodes as rollouts, in the units of a policy."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.datasets.dataset import Dataset
from advantage.environments.spaces import map_leaves, policy_action
from advantage.types import Array, Pytree, Rollout, Spec


class Recording(NamedTuple):
    """A dataset of N steps on the device, in the units of a policy.

    Attributes:
        obs: `[N + E, ...]`.
        row: int32 `[N]`, the row of the observation before each step; the next row has the one after it.
        action: `[N, ...]`, as a policy chooses it.
        reward, terminated, truncated: `[N]`.
    """

    obs: Pytree
    row: Array
    action: Pytree
    reward: Array
    terminated: Array
    truncated: Array

    def rollout(self, steps: Array) -> Rollout:
        """The rollout of the steps with these numbers, `[T, B]`; each column is consecutive."""
        rows = self.row[steps]
        obs, next_obs = (jax.tree.map(lambda leaf, at=at: leaf[at], self.obs) for at in (rows, rows + 1))
        action = jax.tree.map(lambda leaf: leaf[steps], self.action)
        facts = (x[steps] for x in (self.reward, self.terminated, self.truncated))
        reward, terminated, truncated = facts
        return Rollout(obs, action, reward, next_obs, terminated, truncated)


def recording_of(dataset: Dataset, spec: Spec) -> Recording:
    """The dataset on the device, for a policy of this spec, whose spaces are the dataset's."""
    obs = map_leaves(lambda _, leaf: leaf, spec.observation_space, dataset.observation)
    action = policy_action(spec.action_space, dataset.action, spec.action_units)
    parts = obs, dataset.row.astype(np.int32), action, dataset.reward.astype(np.float32)
    return Recording(*jax.tree.map(jnp.asarray, (*parts, dataset.terminated, dataset.truncated)))


def in_columns(dataset: Dataset, num_envs: int) -> np.ndarray:
    """The numbers of the steps in order, in B columns, int `[T, B]`; at the end fewer than B steps are left out."""
    length = dataset.num_steps // num_envs
    return np.arange(length * num_envs).reshape(num_envs, length).T
