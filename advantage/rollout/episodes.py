"""Bookkeeping of episodes, from rewards and ends alone, the same for every driver."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Episodes(NamedTuple):
    """Finished episodes in the order of their ends, one row each.

    Attributes:
        returns: undiscounted sum of the environment's own rewards.
        lengths: in steps.
        steps: global step at the end.
        envs: index of the environment.
        numbers: which episode of that environment, from 0.
    """

    returns: np.ndarray
    lengths: np.ndarray
    steps: np.ndarray
    envs: np.ndarray
    numbers: np.ndarray


class EpisodeBook:
    """What the running episode of each environment has earned so far."""

    def __init__(self, num_envs: int):
        self.returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, np.int64)
        self.numbers = np.zeros(num_envs, np.int64)

    def record(self, reward: np.ndarray, done: np.ndarray, first_step: int) -> Episodes:
        """Enter a rollout, `[T, B]`, that began at global step `first_step`; returns the episodes that it ended."""
        num_envs = reward.shape[1]
        earned = np.empty(reward.shape)
        for so_far, r, ended in zip(earned, reward, done, strict=True):  # step by step: no sum depends on
            np.add(self.returns, r, out=so_far)  # where a rollout begins, or on another episode
            self.returns = np.where(ended, 0, so_far)
        env, t = np.nonzero(done.T)  # by environment, then by time
        first = np.ones(len(env), bool)
        first[1:] = env[1:] != env[:-1]
        last = np.ones(len(env), bool)
        last[:-1] = first[1:]

        elapsed = t + 1
        passed = np.where(first, -self.lengths[env], np.roll(elapsed, 1))
        starts = np.flatnonzero(first)
        order = np.arange(len(env)) - np.repeat(starts, np.diff(np.append(starts, len(env))))
        numbers = self.numbers[env] + order
        episodes = Episodes(
            earned[t, env], elapsed - passed, first_step + t * num_envs + env + 1, env, numbers
        )

        self.lengths += len(reward)
        self.lengths[env[last]] = len(reward) - elapsed[last]
        self.numbers += np.bincount(env, minlength=num_envs)
        by_end = np.argsort(episodes.steps, kind="stable")
        return Episodes(*(column[by_end] for column in episodes))

    def records(self) -> dict[str, np.ndarray]:
        """For the checkpoint."""
        return {"returns": self.returns, "lengths": self.lengths, "numbers": self.numbers}

    def restore(self, records: dict[str, np.ndarray]) -> None:
        for name, array in records.items():
            setattr(self, name, array.copy())
