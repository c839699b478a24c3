"""`advantage train ALGORITHM ENVIRONMENT`: train an agent and write a run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from advantage.algorithms.presets import Preset, preset, presets
from advantage.algorithms.registry import ALGORITHMS, default_algorithm, hyperparameters_of
from advantage.cli.import_path import find_packages_here
from advantage.cli.parse import leading_words, parse
from advantage.cli.reporting import reporter, sinks, summarise
from advantage.training.options import Options
from advantage.training.train import train

Algorithm = TypeVar("Algorithm")


@dataclasses.dataclass(frozen=True)
class Train(Generic[Algorithm]):
    """Train an agent on an environment."""

    run: Options
    algorithm: Algorithm
    preset: str = "auto"
    """Tuned defaults: auto (those of this environment, if any), the name of another environment, or none."""
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
    tuned_for, settings = _defaults(name, environment, _wanted_preset(arguments))
    flags_class: Any = Train[type(settings.algorithm)]
    default = Train(Options(**settings.options), settings.algorithm)
    try:
        (_, environment), flags = parse(arguments, "train ALGORITHM ENVIRONMENT", flags_class, default)
    except ValueError as error:
        raise ValueError(f"{error}{_who_has(arguments, default, name)}") from None
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


def _defaults(name: str | None, environment: str | None, wish: str) -> tuple[str | None, Preset]:
    """The environment whose preset gives the flags' defaults, if any, and the defaults."""
    if name is not None and environment is not None and wish != "none":
        tuned_for = (environment if wish == "auto" else wish).removeprefix("jax/")
        if wish != "auto" or tuned_for in presets(name):
            return tuned_for, preset(name, tuned_for)
    return None, Preset(default_algorithm(name or next(iter(ALGORITHMS))), {})


def _wanted_preset(arguments: Sequence[str]) -> str:
    """The value of `--preset`, which is needed before the other flags are read: it decides on their defaults."""
    wish = "auto"
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == "--preset":
            wish = value if equals else "".join(arguments[place + 1 : place + 2])
    return wish


def _who_has(arguments: Sequence[str], default: Train, name: str | None) -> str:
    """A sentence on the first flag that belongs to other algorithms only; empty if there is none."""
    known = _options(Train) | _options(Options) | set(hyperparameters_of(default.algorithm))
    for argument in arguments:
        flag = argument.partition("=")[0]
        option = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
        if flag.startswith("--") and option not in known:
            having = [other for other in ALGORITHMS if option in hyperparameters_of(default_algorithm(other))]
            if having:
                return f" {name} has no {flag}; it is an option of {', '.join(having)}."
    return ""


def _options(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}
