"""`advantage population ALGORITHM ENVIRONMENT`: train agents whose settings change while they learn."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

from advantage.algorithms.playable import playable
from advantage.cli.settings import read_flags
from advantage.cli.text_table import line_width, text_table
from advantage.comparison.compare import number
from advantage.drivers.make_driver import takes_many_seeds
from advantage.environments.make import resolve
from advantage.machine import available_cores
from advantage.training.options import Options
from advantage.training.train import Run
from advantage.tuning.population import changing_space, train_population
from advantage.tuning.tune import study_folder

Algorithm = TypeVar("Algorithm")
GENERATIONS = 10  # in a budget, unless `--every` says otherwise


@dataclasses.dataclass(frozen=True)
class Population(Generic[Algorithm]):
    """Train a population: the worst members become copies of the best ones, with other settings, and go on learning.

    Flags of the run and of the algorithm are those of every member; the search space says what changes. The same
    command continues a population that was stopped, but not in an on-device world.
    """

    run: Options
    algorithm: Algorithm
    members: int = 8
    """Number of members."""
    every: int | None = None
    """Steps of each member between two generations; by default a tenth of the budget."""
    space: Path | None = None
    """The search space, a JSON file with ranges of floats; by default those of the library's space."""
    processes: int | None = None
    """Number of processes that train, by default the number of cores; an on-device world has one program."""
    preset: str = "auto"
    """Settings to begin with: auto (the preset of this environment, if any), the name of another environment, a file
    that `advantage tune` wrote, or none."""
    out: Path | None = None
    """The population's folder; by default runs/ENVIRONMENT__ALGORITHM__population."""
    quiet: bool = False
    """Print nothing but errors."""


def command(arguments: Sequence[str]) -> int:
    """Train a population; returns the exit code."""
    given = read_flags(Population, "population", arguments, {"workers": 0})
    flags, environment = given.flags, given.environment

    def say(text: str) -> None:
        if not flags.quiet:
            print(text, flush=True)

    if given.notice:
        say(given.notice)
    at_once = 1 if takes_many_seeds(playable(flags.algorithm), resolve(environment)) else available_cores()
    runs = train_population(
        flags.algorithm,
        environment,
        members=flags.members,
        every=max(1, flags.run.total_timesteps // GENERATIONS) if flags.every is None else flags.every,
        space=flags.space,
        processes=at_once if flags.processes is None else flags.processes,
        out=flags.out or study_folder(flags.algorithm, environment, "population"),
        say=say,
        **vars(flags.run),
    )
    if not flags.quiet:
        _show(runs, list(changing_space(playable(flags.algorithm), flags.run, flags.space)))
    return 0


def _show(runs: list[Run], changing: list[str]) -> None:
    """Print the members, the best one first, with their settings that change, and what to type next."""
    rows = []
    for run in runs:
        mean = "" if run.evaluation is None else number(run.evaluation.mean)
        rows.append([run.path.name, mean, *(f"{getattr(run.algorithm, name):.4g}" for name in changing)])
    header = ["member", "final return", *changing]
    print("\n" + "\n".join(text_table(header, rows, [False] + [True] * (len(header) - 1), line_width())))
    print(f"\nNext: {shlex.join(['advantage', 'eval', str(runs[0].path)])}")
    print(f"      {shlex.join(['advantage', 'board', str(runs[0].path.parent)])}")
