"""Functions of the user that a training calls as it goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from advantage.agent import Agent
from advantage.evaluation import Evaluation
from advantage.plain_values import plain_bool
from advantage.training.reporting import Progress
from advantage.types import Episodes


class Started(NamedTuple):
    """A training begins, or goes on.

    Attributes:
        seeds: the seed of each run.
        configs: what config.json says of each run: algorithm, hyperparameters, environment, options.
        folders: the folder of each run.
        step: environment steps so far, of `total_timesteps`.
    """

    seeds: Sequence[int]
    configs: Sequence[dict[str, Any]]
    folders: Sequence[Path]
    step: int
    total_timesteps: int


class EpisodeEnd(NamedTuple):
    """An episode of the training has ended.

    Attributes:
        seed: the run's seed.
        step: environment steps of the run when it ended.
        env: index of the environment.
        total: sum of its rewards.
        length: its steps.
    """

    seed: int
    step: int
    env: int
    total: float
    length: int


class Evaluated(NamedTuple):
    """An agent was evaluated.

    Attributes:
        seed: the run's seed.
        step: environment steps so far.
        evaluation: returns and lengths of its episodes.
        agent: the agent as it is now.
    """

    seed: int
    step: int
    evaluation: Evaluation
    agent: Agent


class Ended(NamedTuple):
    """A training ends: its budget is spent, or it was stopped.

    Attributes:
        seeds: the seed of each run.
        folders: the folder of each run.
        step: environment steps taken.
        finished: whether the budget is spent.
    """

    seeds: Sequence[int]
    folders: Sequence[Path]
    step: int
    finished: bool


@dataclasses.dataclass(frozen=True)
class Callbacks:
    """Functions that a training calls. Those of `iteration`, `episode` and `evaluation` stop it by returning False.

    A run that is stopped saves a checkpoint first, so it can be resumed.
    """

    start: Callable[[Started], object] | None = None
    """Called before the first iteration."""
    iteration: Callable[[Progress], bool | None] | None = None
    """Called after each iteration, with its metrics."""
    episode: Callable[[EpisodeEnd], bool | None] | None = None
    """Called for each episode that has ended, in order of their ends, before `iteration`."""
    evaluation: Callable[[Evaluated], bool | None] | None = None
    """Called after each evaluation, once a seed."""
    end: Callable[[Ended], object] | None = None
    """Called at the end, also after an error or Ctrl-C."""


Callback = Callable[[Progress], bool | None] | Callbacks


@dataclasses.dataclass(frozen=True)
class Listeners:
    """Several callbacks as one; each method says whether one of them stops the run."""

    callbacks: tuple[Callbacks, ...]

    def start(self, event: Started) -> None:
        self._call(event, [each.start for each in self.callbacks])

    def iteration(self, event: Progress) -> bool:
        return self._call(event, [each.iteration for each in self.callbacks])

    def episodes(self, seed: int, ended: Episodes) -> bool:
        functions, stopped = [each.episode for each in self.callbacks if each.episode], False
        if functions:
            columns = (ended.steps, ended.envs, ended.returns, ended.lengths)
            for end in zip(*(column.tolist() for column in columns), strict=True):
                stopped |= self._call(EpisodeEnd(seed, *end), functions)
        return stopped

    def evaluation(self, event: Evaluated) -> bool:
        return self._call(event, [each.evaluation for each in self.callbacks])

    def end(self, event: Ended) -> None:
        self._call(event, [each.end for each in self.callbacks])

    def _call(self, event: NamedTuple, functions: Iterable[Callable[[Any], object] | None]) -> bool:
        answers = [function(event) for function in functions if function is not None]
        return any(map(stops, answers))


def listeners_of(given: Callback | list[Callback] | tuple[Callback, ...] | None) -> Listeners:
    """Those of one callback, of several or of none; a function is called after each iteration.

    Raises:
        ValueError: something else.
    """
    several = given if isinstance(given, list | tuple) else [] if given is None else [given]
    for each in several:
        if not (isinstance(each, Callbacks) or callable(each)):
            raise ValueError(
                f"callback={each!r} is not allowed; use a function of the progress, adv.Callbacks(...), or a list of "
                "them."
            )
    return Listeners(tuple(map(_as_callbacks, several)))


def _as_callbacks(callback: Callback) -> Callbacks:
    return callback if isinstance(callback, Callbacks) else Callbacks(iteration=callback)


def stops(answer: Any) -> bool:
    """Whether a callback's answer stops the run: False does, NumPy's and JAX's too; None and 0 do not."""
    return answer is not None and plain_bool(answer) is False
