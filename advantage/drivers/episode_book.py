"""Bookkeeping of episodes, the same for every driver."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from advantage.drivers.records import RecordKind
from advantage.types import Episodes

LARGEST_COUNT = 2**32 - 1  # the step counter's limit, which no number of steps or episodes passes

NO_EPISODES = Episodes(np.zeros(0), *(np.zeros(0, np.int64) for _ in range(4)))


class EpisodeBook:
    """Return and length so far of each environment's running episode, for one seed or for many.

    The arrays are `[S * B]`, seed after seed.
    """

    def __init__(self, num_envs: int, num_seeds: int = 1):
        self.num_envs = num_envs
        self.returns = np.zeros(num_seeds * num_envs)
        self.lengths = np.zeros(num_seeds * num_envs, np.int64)
        self.numbers = np.zeros(num_seeds * num_envs, np.int64)

    def record(self, reward: np.ndarray, done: np.ndarray, first_step: int) -> Episodes:
        """Record a rollout, `[T, B]`, that began at global step `first_step`; returns the episodes that ended.

        Rewards are added one by one, so a return does not depend on where rollouts begin or on other episodes.
        """
        return self.record_seeds(reward[:, None], done[:, None], first_step)[0]

    def record_seeds(self, reward: np.ndarray, done: np.ndarray, first_step: int) -> list[Episodes]:
        """The same for every seed, `[T, S, B]`; `first_step` counts the steps of one seed."""
        n_steps, num_seeds = reward.shape[:2]
        earned = np.array(
            reward.reshape(n_steps, -1).T, np.float64, order="C"
        )  # by environment, then by time
        earned[:, 0] += self.returns
        ends = np.ascontiguousarray(done.reshape(n_steps, -1).T)
        stops = ends.copy()
        stops[:, -1] = True
        stops = np.flatnonzero(stops)  # the last step of each part of an episode
        column, t = np.divmod(stops, n_steps)
        bounds = np.append(0, stops + 1)
        is_last = t == n_steps - 1  # one for each environment
        firsts = np.flatnonzero(np.append(True, is_last[:-1]))
        returns, lengths, finished = (
            _sums(earned.reshape(-1), bounds),
            np.diff(bounds),
            ends.reshape(-1)[stops],
        )
        lengths[firsts] += self.lengths
        order = np.arange(len(stops)) - np.repeat(firsts, np.diff(np.append(firsts, len(stops))))
        numbers = self.numbers[column] + order

        going_on = ~finished[is_last]
        self.returns = np.where(going_on, returns[is_last], 0.0)
        self.lengths = np.where(going_on, lengths[is_last], 0)
        self.numbers = numbers[is_last] + ~going_on

        seed, env = np.divmod(column, self.num_envs)
        steps = first_step + t * self.num_envs + env + 1
        by_end = np.lexsort((steps, seed))
        by_end = by_end[finished[by_end]]
        columns = [x[by_end] for x in (returns, lengths, steps, env, numbers)]
        cuts = np.searchsorted(seed[by_end], np.arange(num_seeds + 1))
        return [Episodes(*(x[begin:end] for x in columns)) for begin, end in pairwise(cuts)]

    def records(self, seed: int = 0) -> dict[str, np.ndarray]:
        """The arrays for the checkpoint of one seed."""
        mine = slice(seed * self.num_envs, (seed + 1) * self.num_envs)
        return {"returns": self.returns[mine], "lengths": self.lengths[mine], "numbers": self.numbers[mine]}

    def kinds(self) -> dict[str, RecordKind]:
        """What the arrays of one seed must be."""
        counted = RecordKind((self.num_envs,), np.dtype(np.int64), low=0, high=LARGEST_COUNT)
        returns = RecordKind((self.num_envs,), np.dtype(np.float64))
        return {"returns": returns, "lengths": counted, "numbers": counted}

    def restore(self, records: dict[str, np.ndarray]) -> None:
        """Restore the arrays of the only seed."""
        self.returns, self.lengths, self.numbers = (
            records[name].copy() for name in ("returns", "lengths", "numbers")
        )


def _sums(numbers: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The sum of each part of `numbers`, in order: `bincount` adds one by one, unlike NumPy's other sums."""
    parts = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    return np.bincount(parts, numbers[: len(parts)], len(bounds) - 1)
