"""`advantage train ALGORITHM ENVIRONMENT`: train an agent and write a run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

from advantage.cli.reporting import reporter, sinks, summarise
from advantage.cli.settings import read_flags
from advantage.training.options import Options
from advantage.training.train import train

Algorithm = TypeVar("Algorithm")


@dataclasses.dataclass(frozen=True)
class Train(Generic[Algorithm]):
    """Train an agent on an environment."""

    run: Options
    algorithm: Algorithm
    preset: str = "auto"
    """Tuned defaults: auto (those of this environment, if any), the name of another environment, a file that
    `advantage tune` wrote, or none."""
    out: Path | None = None
    """The run folder; by default a new folder in root."""
    root: Path = Path("runs")
    """Folder for new run folders."""
    wandb: str | None = None
    """Project of Weights & Biases to send metrics to; None sends nothing."""
    mlflow: str | None = None
    """Experiment of MLflow to send metrics to; None sends nothing."""
    quiet: bool = False
    """Print nothing but errors."""


def command(arguments: Sequence[str]) -> int:
    """Train an agent; returns the exit code."""
    given = read_flags(Train, "train", arguments)
    flags, environment = given.flags, given.environment
    runs = train(
        flags.algorithm,
        environment,
        out=flags.out,
        root=flags.root,
        reporter=reporter(flags.quiet, given.notice),
        callback=sinks(flags.wandb, flags.mlflow),
        **vars(flags.run),
    )
    if not flags.quiet:
        summarise(runs if isinstance(runs, list) else [runs])
    return 0
