"""What one seed's run writes: its configuration, logs, checkpoints and evaluations."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np

from advantage.drivers.episode_book import LARGEST_COUNT
from advantage.drivers.records import RecordKind
from advantage.evaluation import Evaluation
from advantage.runs.checkpoint import checkpoint_path, point, prune, save_checkpoint
from advantage.runs.folder import RunFolder
from advantage.runs.log import Logger, read_evaluations
from advantage.runs.recorded import checksum
from advantage.training.reporting import Progress
from advantage.types import Episodes, Iterated, Pytree

RECENT_EPISODES = 100  # number of episodes that rollout/ep_rew_mean averages


def recent_kinds(records: dict[str, np.ndarray]) -> dict[str, RecordKind]:
    """What a journal's own records must be; the episodes of both are the same."""
    number = records["recent/returns"].shape[0] if records.get("recent/returns", np.zeros(())).ndim else None
    lengths = RecordKind((number,), np.dtype(np.int64), low=0, high=LARGEST_COUNT)
    return {"recent/returns": RecordKind((None,), np.dtype(np.float64)), "recent/lengths": lengths}


class Journal:
    """The files of one seed.

    Attributes:
        recent: returns and lengths of the latest episodes.
        best: the highest mean return of an evaluation.
        evaluation: the last evaluation of this process.
        evaluated: the step of the last evaluation; -1 before the first.
        saved_step: the step of the last checkpoint.
    """

    def __init__(self, folder: RunFolder, seed: int, logger: Logger, facts: dict[str, Any]):
        """`facts` are those of `config_facts`."""
        self.folder, self.seed, self.logger, self.facts = folder, seed, logger, facts
        self.saved_step = 0
        self.recent: collections.deque = collections.deque(maxlen=RECENT_EPISODES)
        self.best = -float("inf")
        self.evaluation: Evaluation | None = None
        self.evaluated = -1

    def rows(
        self, place: int, result: Iterated, *, iteration: int, step: int, total: int, times: dict[str, float]
    ) -> Iterator[Progress]:
        """Log a driver's rows for the seed at `place`; `iteration` and `step` are those before the first row."""
        episodes, begin = result.episodes[place], 0
        self._log_episodes(episodes)
        ends = np.searchsorted(episodes.steps, step + result.steps, side="right")
        for n, end in enumerate(ends):
            self.recent.extend(zip(episodes.returns[begin:end], episodes.lengths[begin:end], strict=True))
            begin = end
            row = {
                name if name.startswith("info/") else f"train/{name}": float(value[place, n])
                for name, value in result.metrics.items()
                if value[place, n] is not np.ma.masked
            }
            row |= self._recent_means() | times
            at, updates = step + int(result.steps[n]), iteration + int(result.iterations[n])
            if result.logged:
                self.logger.progress(at, {"iteration": updates, **row})
            yield Progress(self.seed, updates, at, total, row)

    def _log_episodes(self, episodes: Episodes) -> None:
        columns = {"r": episodes.returns, "l": episodes.lengths, "step": episodes.steps}
        self.logger.episodes(columns | {"env": episodes.envs, "episode": episodes.numbers})

    def _recent_means(self) -> dict[str, float]:
        if not self.recent:
            return {}
        returns, lengths = zip(*self.recent, strict=True)
        return {
            "rollout/ep_rew_mean": float(np.mean(returns)),
            "rollout/ep_len_mean": float(np.mean(lengths)),
        }

    def evaluate(self, step: int, result: Evaluation) -> None:
        """Record an evaluation."""
        self.evaluation, self.evaluated = result, step
        self.logger.evaluation(step, result.returns, result.lengths, True, self.seed)

    def last_evaluation(self) -> Evaluation | None:
        """The last evaluation, also of a process that was before this one."""
        if self.evaluation is not None or self.evaluated < 0:
            return self.evaluation
        log = read_evaluations(self.folder)
        last = log["step"] == self.evaluated
        if not last.any():
            return None
        returns, lengths = (log[name][last] for name in ("return", "length"))
        return Evaluation(returns, lengths.astype(int), bool(log["deterministic"][last][0]), self.seed)

    def save(
        self, step: int, state: Pytree, records: dict[str, np.ndarray], metadata: dict[str, Any], keep: int
    ) -> None:
        """Write a checkpoint of one seed's state; `last` points to it, and `best` if no evaluation was better."""
        returns, lengths = zip(*self.recent, strict=True) if self.recent else ((), ())
        records = records | {
            "recent/returns": np.array(returns, float),
            "recent/lengths": np.array(lengths, np.int64),
        }
        score = self.evaluation.mean if self.evaluation is not None else self.best
        better = score > self.best
        self.best = max(score, self.best)
        metadata = metadata | {
            "seed": self.seed,
            "evaluated": self.evaluated,
            "best": self.best if np.isfinite(self.best) else None,
            "config": self.facts,
            "logs": self.logger.tallies(),
        }
        metadata["sha256"] = checksum(metadata)
        self.logger.flush()
        folder = self.folder
        path = checkpoint_path(folder.checkpoints, step)
        saved = path.exists()
        # `best` moves before `last` or its checkpoint is written: a run killed in between evaluates again
        if better and saved:
            point(folder.best, path)
        save_checkpoint(folder.checkpoints, step, state, records=records, metadata=metadata)
        if better and not saved:
            point(folder.best, path)
        point(folder.last, path)
        self.saved_step = step
        protected = {link.resolve() for link in (folder.last, folder.best) if link.exists()}
        prune(folder.checkpoints, keep, protected)

    def restore(self, records: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
        """Restore what `save` wrote."""
        self.saved_step, self.evaluated = metadata["step"], metadata["evaluated"]
        self.best = metadata["best"] if metadata.get("best") is not None else -float("inf")
        if not self.folder.best.exists():  # the next evaluation is the best one that there is
            self.best = -float("inf")
        self.recent.extend(zip(records["recent/returns"], records["recent/lengths"], strict=True))
