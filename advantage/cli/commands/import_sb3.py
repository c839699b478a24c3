"""`advantage import-sb3 FILE ENVIRONMENT`: a policy of stable-baselines3 as a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from advantage.cli.import_path import find_packages_here
from advantage.cli.parse import parse
from advantage.cli.reporting import reporter, summarise
from advantage.importing.sb3 import import_sb3


@dataclasses.dataclass(frozen=True)
class ImportSB3:
    """Write a run folder with the policy in a file of stable-baselines3. Nothing in the file is executed."""

    out: Path | None = None
    """The run folder; by default a new folder in root."""
    root: Path = Path("runs")
    """Folder for new run folders."""
    statistics: Path | None = None
    """JSON file with the mean and the variance of observations, of a policy that was trained with VecNormalize."""


def command(arguments: Sequence[str]) -> int:
    """Import a policy; returns the exit code."""
    (file, environment), flags = parse(arguments, "import-sb3 FILE ENVIRONMENT", ImportSB3)
    find_packages_here(environment)
    summarise([import_sb3(file, environment, reporter=reporter(quiet=False), **vars(flags))])
    return 0
