"""`advantage resume RUN`: continue a stopped run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from advantage.cli.import_path import find_packages_here
from advantage.cli.parse import parse
from advantage.cli.play import named_environment
from advantage.cli.reporting import reporter, sinks, summarise
from advantage.training.train import resume


@dataclasses.dataclass(frozen=True)
class Resume:
    """Resume a run from its last checkpoint, as if it had never stopped."""

    total_timesteps: int | None = None
    """A new budget in environment steps; the old one if not given."""
    env: str | None = None
    """Environment to use in place of the one that the run has recorded."""
    env_options: Annotated[dict[str, Any], tyro.conf.arg(name="env-option")] = dataclasses.field(
        default_factory=dict
    )
    """Keyword for the environment of --env, KEY=VALUE with a JSON value; can be repeated."""
    wrappers: Annotated[tuple[Any, ...], tyro.conf.arg(name="wrapper")] = ()
    """Wrapper for the environment of --env, module:Wrapper or module:Wrapper(8); can be repeated."""
    trust: bool = False
    """Allow the import of the package that defines the run's environment, and the run's keywords and wrappers."""
    cluster: str | None = None
    """Go on by actors of a Ray cluster: auto, an address, local or local:4; without it, on this machine."""
    wandb: str | None = None
    """Project of Weights & Biases to send metrics to; None sends nothing."""
    mlflow: str | None = None
    """Experiment of MLflow to send metrics to; None sends nothing."""
    quiet: bool = False
    """Print nothing but errors."""


def command(arguments: Sequence[str]) -> int:
    """Resume a run; returns the exit code."""
    (path,), flags = parse(arguments, "resume RUN", Resume)
    find_packages_here(flags.env, wrappers=flags.wrappers, trust=flags.trust)
    named_environment(flags.env, flags.env_options, flags.wrappers)
    run = resume(
        path,
        total_timesteps=flags.total_timesteps,
        environment=flags.env,
        env_options=flags.env_options,
        wrappers=flags.wrappers,
        reporter=reporter(flags.quiet),
        callback=sinks(flags.wandb, flags.mlflow),
        trust=flags.trust,
        cluster=flags.cluster,
    )
    if not flags.quiet:
        summarise([run])
    return 0
