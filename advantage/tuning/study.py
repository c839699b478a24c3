"""A study: what is tuned, in which space, judged by what, and where its files are.

study/
  study.json    what is tuned: refused if a later call differs
  journal.log   Optuna's journal: the trials, their settings and their values
  trials/0007/  the run of a trial
  best/         the repeated runs: trial_0007/seed_1/, and default/seed_1/ with the settings without tuning
  ppo.json      the winner, as a preset file
  locks/        which process works on what
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from advantage.algorithms.playable import Trainable
from advantage.algorithms.registry import algorithm_name, to_json
from advantage.cells import Cell
from advantage.environments.make import resolve
from advantage.runs.checkpoint import read_json
from advantage.runs.folder import RunFolder, write_atomically
from advantage.runs.log import read_episodes, read_evaluations
from advantage.runs.plot import WINDOW, running_mean
from advantage.training.options import Options, modifications_of, recorded
from advantage.tuning.space import Space, space_to_json, with_settings
from advantage.tuning.storage import locked

DEFAULT = "default"  # the name of the settings without tuning
By = Literal["training", "evaluation"]


class Goal(NamedTuple):
    """A return that is to be reached in few steps.

    Attributes:
        target: the return.
        by: which mean reaches it: that of 100 training episodes, not fewer, as in `compare`, or of an evaluation.
    """

    target: float
    by: By

    @property
    def fewest(self) -> int:
        """How many entries come before the first one that counts, and this one."""
        return WINDOW if self.by == "training" else 1


@dataclasses.dataclass(frozen=True)
class Study:
    """What is tuned, and how far.

    Attributes:
        algorithm: the algorithm; what the space does not name stays as it is here.
        environment: as for `train`.
        options: the options of every run; trials have its seed, repeated runs the seeds after it.
        space: the search space.
        goal: a return that should be reached in few steps; None judges by the last evaluation.
        path: the study's folder.
        trials: number of trials.
        best: number of best trials that are repeated.
        seeds: number of seeds of each of them.
        batch: number of settings that one program trains side by side.
    """

    algorithm: Trainable
    environment: Any
    options: Options
    space: Space
    goal: Goal | None
    path: Path
    trials: int
    best: int
    seeds: int
    batch: int = 1

    @property
    def journal(self) -> Path:
        return self.path / "journal.log"

    @property
    def preset(self) -> Path:
        """The preset file of the winner; its name is the algorithm's, as for the library's own presets."""
        return self.path / f"{algorithm_name(self.algorithm)}.json"

    @property
    def direction(self) -> str:
        """Whether a trial's value should be high, a return, or low, a number of steps."""
        return "maximize" if self.goal is None else "minimize"

    @property
    def sign(self) -> float:
        """1 if a higher return is a higher value, -1 if it is a lower one."""
        return 1.0 if self.goal is None else -1.0

    @property
    def warmup(self) -> int:
        """The first evaluation after which a trial may be pruned: the second, and not before a fifth of the budget."""
        every = self.options.eval_every or self.options.total_timesteps
        return max(2, -(-self.options.total_timesteps // (5 * every)))

    def lock(self, name: str) -> Path:
        """The lock of a part of the study."""
        return self.path / "locks" / name

    def cell(self, settings: dict[str, Any], path: Path, seed: int) -> Cell:
        """The run of some settings. Raises ValueError for settings that are not allowed."""
        algorithm, options = with_settings(self.algorithm, self.options, settings)
        return Cell(algorithm, self.environment, dataclasses.replace(options, seed=seed), path)

    def trial_cell(self, number: int, settings: dict[str, Any]) -> Cell:
        """The run of a trial."""
        return self.cell(settings, self.path / "trials" / f"{number:04d}", self.options.seed)

    def repeated_cells(self, name: str, settings: dict[str, Any]) -> list[Cell]:
        """The runs of a trial's settings with other seeds than the trial's."""
        seeds = (self.options.seed + n for n in range(1, self.seeds + 1))
        return [self.cell(settings, self.path / "best" / name / f"seed_{seed}", seed) for seed in seeds]

    def record(self) -> dict[str, Any]:
        """What makes this study this study, as JSON: two calls that differ in it do not share a folder."""
        return {
            "algorithm": algorithm_name(self.algorithm),
            "hyperparameters": to_json(self.algorithm),
            "environment": resolve(self.environment).name,
            "training": recorded(self.options),
            "space": space_to_json(self.space),
            "goal": self.goal and self.goal._asdict(),
        }


def open_study(study: Study) -> None:
    """Make the study's folder, or find out that it is this study's.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: the folder holds a study of another space, algorithm, environment, or other options.
        CheckpointError: its study.json is damaged.
    """
    path, file = study.path, study.path / "study.json"
    if path.exists() and not file.is_file() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"{path} exists and is not a study: it has no study.json. Give a new folder, or that of a study: --out."
        )
    path.mkdir(parents=True, exist_ok=True)
    with locked(study.lock("study")):
        if not file.exists():
            write_atomically(file, json.dumps(study.record(), indent=1, sort_keys=True) + "\n")
            return
        found = read_json(file, "restore the file, or begin a new study in another folder: --out")
    wanted = json.loads(json.dumps(study.record()))
    if differing := differing_parts(found, wanted):
        raise ValueError(
            f"{path} is a study that differs from this one in {', '.join(differing)}; a study has one space and one "
            "budget, because only then its trials can be compared. Begin a new one in another folder: --out."
        )


def refuse_objects(environment: object, options: Options) -> None:
    """Raises ValueError if other processes cannot be told what to train on."""
    if not isinstance(environment, str) or not modifications_of(options).by_name:
        raise ValueError(
            "Other processes can only make an environment, and wrappers, that have a name, with env_options of JSON's "
            "values; give names and Python's own numbers, or use processes=1."
        )


def differing_parts(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """The parts in which two records differ, the parts of an object by `name.part`."""
    differing = []
    for name, value in wanted.items():
        other = found.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            parts = sorted(part for part in value.keys() | other.keys() if value.get(part) != other.get(part))
            differing += [f"{name}.{part}"[:80] for part in parts]
        elif value != other:
            differing.append(name)
    return differing


def steps_to(folder: RunFolder, goal: Goal) -> float:
    """Steps until a run first reached the target; infinity if it never did."""
    step, mean = _means(folder, goal)
    there = np.flatnonzero(mean[goal.fewest - 1 :] >= goal.target)
    return float(step[goal.fewest - 1 + there[0]]) if there.size else np.inf


def value_of(folder: RunFolder, goal: Goal | None, total: int) -> float:
    """The value of a run that has ended.

    Without a goal it is the mean return of the last evaluation. With one it is the number of steps until the run first
    reached the target; a run that never did is worse than one that used the whole budget, by its distance R from it:

        value = total + max(1, total max(target - R, 0) / max(|target|, 1)),    R: the last mean

    Args:
        folder: the run.
        goal: the target, if there is one.
        total: the budget in steps.

    Raises:
        CheckpointError: the run's logs are damaged.
        ValueError: the logs hold no evaluation, or no training episode, by which it is judged.
    """
    mean = _means(folder, goal or Goal(np.inf, "evaluation"))[1]
    if not mean.size:
        what = (
            "has no evaluation"
            if goal is None or goal.by == "evaluation"
            else "has ended no training episode"
        )
        raise ValueError(f"{folder.path} {what}, by which it could be judged; give a larger budget.")
    if goal is None:
        return float(mean[-1])
    reached = steps_to(folder, goal)
    short = max(goal.target - float(mean[-1]), 0.0) / max(abs(goal.target), 1.0)
    return reached if np.isfinite(reached) else total + max(1.0, total * short)


def _means(folder: RunFolder, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
    """Steps, in order, and the mean returns at them: of each evaluation, or of the last 100 training episodes."""
    if goal.by == "evaluation":
        evaluations = read_evaluations(folder)
        steps = np.unique(evaluations["step"])
        return steps, np.array([evaluations["return"][evaluations["step"] == step].mean() for step in steps])
    episodes = read_episodes(folder, ("r", "step"))
    order = np.argsort(episodes["step"], kind="stable")
    return episodes["step"][order], running_mean(episodes["r"][order], WINDOW)
