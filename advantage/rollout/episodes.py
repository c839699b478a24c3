"""Bookkeeping of episodes and of rows of metrics, the same for every driver."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from advantage.types import Algorithm, Spec

ROW_STEPS = 256  # environment steps, about, that a row of metrics covers when every step is an iteration


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
        """Enter a rollout, `[T, B]`, that began at global step `first_step`; returns the episodes that it ended.

        Rewards are added one by one, so a return does not depend on where rollouts begin or on other episodes.
        """
        num_envs = reward.shape[1]
        earned = np.array(reward.T, np.float64, order="C")  # by environment, then by time
        earned[:, 0] += self.returns
        flat = earned.reshape(-1)
        begins = np.concatenate([np.ones((num_envs, 1), bool), done.T[:, :-1]], axis=1)
        for begin, end in pairwise([*np.flatnonzero(begins).tolist(), earned.size]):
            np.add.accumulate(flat[begin:end], out=flat[begin:end])
        env, t = np.nonzero(done.T)
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
            earned[env, t], elapsed - passed, first_step + t * num_envs + env + 1, env, numbers
        )

        self.returns = np.where(done[-1], 0, earned[:, -1])
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


def iterations_per_row(algorithm: Algorithm, spec: Spec) -> int:
    """Iterations that a row of metrics is the mean of: 1, or more for an algorithm that learns at every step."""
    return max(1, ROW_STEPS // spec.num_envs) if algorithm.n_steps == 1 else 1
