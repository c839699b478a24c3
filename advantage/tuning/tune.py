"""`adv.tune`: search for good settings of an algorithm in an environment, in one process or in several."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from advantage.algorithms.dynamic_programming.planner import Planner
from advantage.algorithms.playable import Trainable, playable
from advantage.algorithms.registry import algorithm_name, from_json, trainable
from advantage.cells import exit_code
from advantage.comparison.seed_statistics import FEWEST_SEEDS
from advantage.drivers.host.crew import interpreter
from advantage.drivers.make_driver import takes_many_seeds
from advantage.environments.make import resolve
from advantage.plain_values import plain_number, plain_path, require_whole
from advantage.training.options import Options, options_from
from advantage.tuning.result import Tuning, result_of
from advantage.tuning.space import read_space, why_no_array
from advantage.tuning.storage import StudyFailure, locked, open_journal, optuna_library
from advantage.tuning.study import By, Goal, Study, open_study, refuse_objects
from advantage.tuning.work import PAUSE, new_trials, said_value, work

BATCH = 8
EVALUATIONS = 10  # of a trial, unless `eval_every` says otherwise


def tune(
    algorithm: Trainable | type | str,
    environment: Any,
    *,
    trials: int = 50,
    space: str | Path | Mapping[str, Any] | None = None,
    target: float | None = None,
    target_by: By = "training",
    best: int = 3,
    seeds: int = 5,
    processes: int = 1,
    batch: int | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Tuning:
    """Search for settings of an algorithm, and repeat the best ones with other seeds.

    Each trial is a training with its own run folder, `trials/0007` in the study's folder. A trial that is worse than
    half of the others at the same evaluation is stopped, and so is one that has reached the target. The best trials
    and the settings without tuning are then trained with `seeds` other seeds, to the end of the budget; the best of
    them is written as a preset file.

    The study is on disk: the same call continues it, after a kill too, and several processes may call it at once.

    Args:
        algorithm: as for `train`; what the space does not name stays as it is.
        environment: as for `train`; a name if `processes` is above 1.
        trials: number of trials, with those of earlier calls.
        space: the search space, see `read_space`: a JSON file or its content; by default the library's.
        target: a return. A trial's value is then the number of steps until it is first reached; without a target it is
            the mean return of the last evaluation.
        target_by: which mean must reach it: that of 100 `training` episodes, or of an `evaluation`.
        best: number of best trials that are repeated, 1 or more.
        seeds: number of seeds of each, 3 or more.
        processes: number of processes that work; with 1 it is this one.
        batch: number of trials that a process trains side by side in one program, all to the end of the budget. Above
            1 only in on-device worlds and for spaces of floats, where it is 8 by default.
        out: the study's folder; by default `runs/ENVIRONMENT__ALGORITHM__tune`.
        say: called with a text about each event.
        **options: the fields of `Options`; `eval_every` is by default a tenth of the budget.

    Raises:
        MissingExtra: Optuna is not installed.
        ValueError: an argument that is not allowed, or `out` holds another study; nothing has run.
        FileExistsError: `out` holds something else.
        CheckpointError: the study's files, or those of a run in it, are damaged.
        StudyFailure: a process of the study failed; the message has its last words.
    """
    optuna_library()
    chosen, settings = _declare(algorithm, environment, options)
    study = Study(
        algorithm=chosen,
        environment=environment,
        options=settings,
        space=read_space(chosen, settings, space),
        goal=_goal(target, target_by),
        path=study_folder(chosen, environment, "tune") if out is None else plain_path("out", out),
        trials=require_whole("trials", trials, 1),
        best=require_whole("best", best, 1),
        seeds=require_whole("seeds", seeds, FEWEST_SEEDS),
    )
    study = dataclasses.replace(study, batch=_batch(study, batch))
    processes = require_whole("processes", processes, 1)
    if processes > 1:
        refuse_objects(study.environment, study.options)
    open_study(study)
    journal = _journal(study)
    if processes == 1:
        work(study, journal, goes_on=lambda: True, say=say)
    else:
        _work_together(study, journal, processes, say)
    return result_of(study, journal)


def _declare(
    algorithm: Trainable | type | str, environment: Any, options: dict[str, Any]
) -> tuple[Trainable, Options]:
    """The algorithm and the options of every run. Raises ValueError for what cannot be tuned."""
    chosen, settings = playable(trainable(algorithm)), options_from({"workers": 0} | options)
    if isinstance(chosen, Planner):
        raise ValueError(
            f"{algorithm_name(chosen)} solves a table and has no training to tune; use `adv.solve`."
        )
    if not settings.eval_episodes or settings.num_seeds > 1:
        raise ValueError(
            f"eval_episodes={settings.eval_episodes} and num_seeds={settings.num_seeds} are not allowed: a trial has "
            "one seed and is judged by its evaluations; use eval_episodes of 1 or more, and seeds= (--seeds) for the "
            "runs that repeat the best trials."
        )
    for name in ("stop_at_return", "patience"):
        if (value := getattr(settings, name)) is not None:
            raise ValueError(
                f"{name}={value:g} is not allowed: a study compares runs with one budget, and ends bad trials itself; "
                "leave it out, and to end a trial at a return, use target= (--target)."
            )
    if resolve(environment).kind == "vector":
        raise ValueError(
            "A vector environment has its own number of environments and cannot be evaluated; give the name, class or "
            "function of a single environment."
        )
    every = settings.eval_every or max(1, settings.total_timesteps // EVALUATIONS)
    return chosen, dataclasses.replace(settings, eval_every=every)


def _batch(study: Study, batch: int | None) -> int:
    """How many trials are trained side by side. Raises ValueError for more than one where that is not possible."""
    reason = _why_one_by_one(study)
    if batch is None:
        return 1 if reason else BATCH
    if require_whole("batch", batch, 1) > 1 and reason:
        raise ValueError(f"batch={batch} is not possible: {reason}; use batch=1 (--batch 1).")
    return batch


def _why_one_by_one(study: Study) -> str:
    """Why one program cannot train settings of this study side by side; empty if it can."""
    environment = resolve(study.environment)
    if not takes_many_seeds(playable(study.algorithm), environment):
        return f"{algorithm_name(study.algorithm)} in {environment.name} is not trained by one program on the device"
    return why_no_array(study.algorithm, study.options, study.space)


def _goal(target: float | None, by: By) -> Goal | None:
    if by not in get_args(By):
        raise ValueError(f"target_by={by!r} is not allowed; use one of {', '.join(get_args(By))}.")
    number = None if target is None else plain_number(target)
    if target is not None and (number is None or not math.isfinite(number)):
        raise ValueError(f"target={target!r} is not allowed; use a finite return, or None.")
    return None if number is None else Goal(number, by)


def study_folder(algorithm: Trainable, environment: Any, what: str) -> Path:
    """The folder of a study or a population, if none is given."""
    parts = resolve(environment).name, algorithm_name(algorithm), what
    return Path("runs") / "__".join(re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip(".-") for part in parts)


def _journal(study: Study) -> Any:
    with locked(study.lock("study")):
        return open_journal(study.journal, study.direction, study.warmup)


def _work_together(study: Study, journal: Any, processes: int, say: Callable[[str], None]) -> None:
    """Let several processes work on the study until they end; say what they have done."""
    declaration = json.dumps(
        study.record()
        | {"path": str(study.path), "counts": [study.trials, study.best, study.seeds, study.batch]}
    )
    known = sum(1 for _ in new_trials(journal, 0))
    logs = [study.path / "logs" / f"{os.getpid()}_{n}.log" for n in range(processes)]
    logs[0].parent.mkdir(exist_ok=True)
    running: list[subprocess.Popen] = []
    try:
        for log in logs:
            command, inherited = interpreter("advantage.tuning.tune", declaration, os.getpid())
            with log.open("wb") as file:
                kinds = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
                running.append(subprocess.Popen(command, env=inherited, **kinds))
        ends = repeating = False
        while not ends:
            ends = all(process.poll() is not None for process in running)
            for trial in new_trials(journal, known):
                known += 1
                pruned = trial.value is None or trial.state.name == "PRUNED"
                say(f"trial {trial.number}: {'pruned' if pruned else said_value(study, trial.value)}")
            if not repeating and known >= study.trials and not ends:
                repeating = True
                say("All trials have ended; the best ones and the default are trained with other seeds.")
            time.sleep(0 if ends else PAUSE)
    except BaseException:
        for process in running:  # Ctrl-C has reached them too; they save and stop
            process.terminate()
        for process in running:
            process.wait()
        raise
    failed = [log for process, log in zip(running, logs, strict=True) if process.returncode]
    if failed:
        lines = failed[0].read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
        raise StudyFailure(
            f"{len(failed)} of {processes} processes of the study failed; the first one said: {lines[-1]} (full output "
            f"in {failed[0]}). What they did is saved: repeat the call to go on."
        )


def _serve(declaration: str, parent: int) -> int:
    """What a process of the study does: it works until there is nothing left, or until its parent has ended."""
    declared = json.loads(declaration)
    algorithm = from_json(declared["algorithm"], declared["hyperparameters"])
    options, (trials, best, seeds, batch) = options_from(declared["training"]), declared["counts"]
    study = Study(
        algorithm=algorithm,
        environment=declared["environment"],
        options=options,
        space=read_space(algorithm, options, declared["space"]),
        goal=declared["goal"] and Goal(**declared["goal"]),
        path=Path(declared["path"]),
        trials=trials,
        best=best,
        seeds=seeds,
        batch=batch,
    )
    return exit_code(lambda goes_on: work(study, _journal(study), goes_on=goes_on, say=print), parent)


if __name__ == "__main__":
    sys.exit(_serve(sys.argv[1], int(sys.argv[2])))
