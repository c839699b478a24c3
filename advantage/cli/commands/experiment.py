"""`advantage experiment FILE`: train a grid of runs on all cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from advantage.cli.import_path import find_packages_here
from advantage.cli.parse import parse
from advantage.experiment import run_experiment


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Train the runs that a TOML file declares. Finished runs are skipped, stopped runs are resumed."""

    processes: int | None = None
    """Number of runs trained at once; by default the number of cores."""
    cluster: str | None = None
    """Train them as tasks of a Ray cluster: auto, an address, local or local:4; nodes share the current folder."""


def command(arguments: Sequence[str]) -> int:
    """Run an experiment; returns the exit code, 1 if a run failed."""
    (file,), flags = parse(arguments, "experiment FILE", Experiment)
    find_packages_here(None, trust=True)  # the user has chosen the file
    outcome = run_experiment(
        file, processes=flags.processes, cluster=flags.cluster, say=lambda text: print(text, flush=True)
    )
    print(f"\n{len(outcome.finished)} runs have finished, {len(outcome.failed)} failed.")
    for path, error in outcome.failed.items():
        print(f"  {path}: {error}")
    if outcome.failed:
        print("Repeat the command to try the failed runs again.")
    for line in outcome.commands:
        print(f"Next: {line}")
    return 1 if outcome.failed else 0
