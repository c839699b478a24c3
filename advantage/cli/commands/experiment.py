"""`advantage experiment FILE`: train a declared grid over the cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from advantage.cli.import_path import find_packages_here
from advantage.cli.parse import parse
from advantage.experiment import run_experiment


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Train every run that a TOML file declares and that has not finished; go on where it stopped."""

    processes: int | None = None
    """How many runs at once; by default as many as there are cores."""


def command(arguments: Sequence[str]) -> int:
    """Run an experiment: the exit code, 1 where a run failed."""
    (file,), flags = parse(arguments, "experiment FILE", Experiment)
    find_packages_here(None, trust=True)  # the file is the user's word
    outcome = run_experiment(file, processes=flags.processes, say=lambda text: print(text, flush=True))
    print(f"\n{len(outcome.finished)} runs have finished, {len(outcome.failed)} failed.")
    for path, error in outcome.failed.items():
        print(f"  {path}: {error}")
    if outcome.failed:
        print("The same command tries the failed ones again.")
    for line in outcome.commands:
        print(f"Next: {line}")
    return 1 if outcome.failed else 0
