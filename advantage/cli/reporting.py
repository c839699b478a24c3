"""What `train` and `resume` print while they run and at the end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from advantage.algorithms.dynamic_programming.planner import Planner
from advantage.diagnosis import diagnose
from advantage.environments.make import word_for
from advantage.runs.folder import RunFolder, read_config
from advantage.runs.terminal import Quiet, Terminal
from advantage.training.callbacks import Callbacks
from advantage.training.options import modifications_of, options_from
from advantage.training.sinks import log_to_mlflow, log_to_wandb
from advantage.training.train import Run


def reporter(quiet: bool, notice: str = "") -> Quiet | Terminal:
    """The reporter of a training, which prints `notice` at the beginning."""
    return Quiet() if quiet else Terminal(notice=notice)


def sinks(wandb: str | None, mlflow: str | None) -> tuple[Callbacks, ...]:
    """The callbacks that send a run's metrics to the services whose project or experiment is named."""
    wanted = () if wandb is None else (log_to_wandb(wandb),)
    return wanted if mlflow is None else (*wanted, log_to_mlflow(mlflow))


def summarise(runs: Sequence[Run]) -> None:
    """Print what happened, where the files are, and what to type next."""
    unit = "iterations" if isinstance(runs[0].algorithm, Planner) else "steps"
    for run in runs:
        folder = RunFolder(run.path)
        pictures = {
            "curve": folder.curve_path,
            "policy": folder.policy_path,
            "model": folder.model_path,
            "report": folder.report_path,
        }
        shown = "".join(f"  {name:<10}  {path}\n" for name, path in pictures.items() if path.exists())
        result = f": {run.evaluation}" if run.evaluation is not None else ""
        print(
            f"\nSeed {run.seed}: {run.step:,} {unit}{result}\n{shown}"
            f"  numbers     {folder.progress_path}, {folder.episodes_path}\n"
            f"  checkpoint  {folder.last}"
        )
        for finding in diagnose(run.path)[run.path]:
            print(f"  doctor      {finding.rule}: {finding.evidence} {finding.advice}")
    first = RunFolder(runs[0].path)
    path, video = shlex.quote(str(first.path)), shlex.quote(str(first.videos / "play.mp4"))
    config: dict[str, Any] = read_config(first)
    modifications = modifications_of(options_from(config["training"]))
    word = "".join(f" {shlex.quote(text)}" for text in word_for(str(config["environment"]), modifications))
    print(
        f"\nNext: advantage eval {path} --episodes 100{word}\n      advantage enjoy {path} --video {video}{word}"
    )
