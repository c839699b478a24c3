"""`advantage train ALGORITHM ENVIRONMENT`: train an agent and write a run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from advantage.cli.import_path import find_packages_here
from advantage.cli.parse import flag_names, leading_words, parse
from advantage.cli.reporting import reporter, sinks, summarise
from advantage.cli.settings import default_settings, who_has
from advantage.training.options import Options, options_from
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
    name, environment = [*leading_words(arguments, 2), None, None][:2]
    tuned_for, settings = default_settings(name, environment, arguments)
    flags_class: Any = Train[type(settings.algorithm)]
    default = Train(options_from(settings.options), settings.algorithm)
    try:
        (_, environment), flags = parse(arguments, "train ALGORITHM ENVIRONMENT", flags_class, default)
    except ValueError as error:
        raise ValueError(f"{error}{who_has(arguments, flag_names(Train, default), name)}") from None
    find_packages_here(environment, wrappers=flags.run.wrappers)
    notice = (
        f"Defaults from the preset for {tuned_for} (--preset none for {name}'s own)." if tuned_for else ""
    )
    runs = train(
        flags.algorithm,
        environment,
        out=flags.out,
        root=flags.root,
        reporter=reporter(flags.quiet, notice),
        callback=sinks(flags.wandb, flags.mlflow),
        **vars(flags.run),
    )
    if not flags.quiet:
        summarise(runs if isinstance(runs, list) else [runs])
    return 0
