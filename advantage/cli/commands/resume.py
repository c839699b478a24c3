"""`advantage resume RUN`: go on with a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from advantage.cli.import_path import find_packages_here
from advantage.cli.parse import parse
from advantage.cli.reporting import reporter, summarise
from advantage.training.train import resume


@dataclasses.dataclass(frozen=True)
class Resume:
    """Go on with a run from its last checkpoint, as if it had never stopped."""

    total_timesteps: int | None = None
    """A new budget in environment steps; the old one if not given."""
    env: str | None = None
    """The environment, in place of the name that the run has recorded."""
    trust: bool = False
    """Import the package that the run's environment comes from."""
    quiet: bool = False
    """Print nothing but errors."""


def command(arguments: Sequence[str]) -> int:
    """Resume a run: the exit code."""
    (path,), flags = parse(arguments, "resume RUN", Resume)
    find_packages_here(flags.env, trust=flags.trust)
    run = resume(
        path,
        total_timesteps=flags.total_timesteps,
        environment=flags.env,
        reporter=reporter(flags.quiet),
        trust=flags.trust,
    )
    if not flags.quiet:
        summarise([run])
    return 0
