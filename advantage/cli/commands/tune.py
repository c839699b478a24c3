"""`advantage tune ALGORITHM ENVIRONMENT`: search for good settings, and repeat the best ones with other seeds."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from advantage.cli.settings import read_flags
from advantage.cli.text_table import line_width, text_table
from advantage.comparison.compare import number
from advantage.comparison.seed_statistics import LEVEL, Interval
from advantage.machine import available_cores
from advantage.training.options import Options
from advantage.tuning.result import Tuning
from advantage.tuning.study import By
from advantage.tuning.tune import tune

Algorithm = TypeVar("Algorithm")


@dataclasses.dataclass(frozen=True)
class Tune(Generic[Algorithm]):
    """Search for good settings of an algorithm in an environment. The same command continues a study.

    Flags of the run and of the algorithm are those of every trial; the search space says what trials change.
    """

    run: Options
    algorithm: Algorithm
    trials: int = 50
    """Number of trials, with those of earlier calls."""
    space: Path | None = None
    """The search space, a JSON file; by default the library's for this algorithm."""
    target: float | None = None
    """A return: trials are judged by the steps until they reach it; without it by the last evaluation."""
    target_by: By = "training"
    """Which mean must reach the target: that of 100 training episodes, or of an evaluation."""
    best: int = 3
    """Number of best trials that are repeated with other seeds."""
    seeds: int = 5
    """Number of these seeds, 3 or more; the settings without tuning get them too."""
    processes: int | None = None
    """Number of processes that work; by default the number of cores."""
    batch: int | None = None
    """Number of trials trained side by side in one program: on-device worlds with spaces of floats only, where it is 8
    by default."""
    preset: str = "auto"
    """Settings to begin with: auto (the preset of this environment, if any), the name of another environment, a file
    that `advantage tune` wrote, or none."""
    out: Path | None = None
    """The study's folder; by default runs/ENVIRONMENT__ALGORITHM__tune."""
    quiet: bool = False
    """Print nothing but errors."""


def command(arguments: Sequence[str]) -> int:
    """Tune; returns the exit code, 1 if no trial gave a value."""
    given = read_flags(Tune, "tune", arguments, {"workers": 0})
    flags = given.flags

    def say(text: str) -> None:
        if not flags.quiet:
            print(text, flush=True)

    if given.notice:
        say(given.notice)
    result = tune(
        flags.algorithm,
        given.environment,
        trials=flags.trials,
        space=flags.space,
        target=flags.target,
        target_by=flags.target_by,
        best=flags.best,
        seeds=flags.seeds,
        processes=available_cores() if flags.processes is None else flags.processes,
        batch=flags.batch,
        out=flags.out,
        say=say,
        **vars(flags.run),
    )
    if not flags.quiet:
        _show(result, [given.name, given.environment])
    return 0 if result.standings else 1


def _show(result: Tuning, words: list[str]) -> None:
    """Print the table of standings, what could not be finished, and what to type next."""
    print(f"\n{result.trials} trials in {result.path}, {result.pruned} of them pruned.")
    what = "final return" if result.goal is None else f"steps to {result.goal.target:g}"
    header = ["settings", "seeds", what, f"{LEVEL:.0%} interval", "better than default"]
    numeric = [False, True, True, True, True]
    if result.goal is not None:
        header, numeric = [*header, "seeds that reached it"], [*numeric, True]
    rows = []
    for row in result.standings:
        better = (
            "" if row.better is None else f"{row.better[0]:.2f}{_interval(row.better[1], '{:.2f}'.format)}"
        )
        cells = [
            row.name,
            f"{len(row.values)}",
            number(row.mean),
            _interval(row.interval, number).strip(),
            better,
        ]
        rows.append(cells + ([] if result.goal is None else [f"{row.reached} of {len(row.values)}"]))
    print("\n".join(text_table(header, rows, numeric, line_width())))
    for path, why in result.failed.items():
        print(f"{path} could not be finished: {why}")
    if not result.standings:
        print("No settings gave a value with every seed; train longer, or change the space.")
        return
    settings = " ".join(f"{name}={value}" for name, value in result.winner.settings.items())
    print(f"\nBest: {result.winner.name} {settings}")
    print(f"Next: {shlex.join(['advantage', 'train', *words, '--preset', str(result.preset)])}")
    threshold = [] if result.goal is None else ["--threshold", f"{result.goal.target:g}"]
    print(f"      {shlex.join(['advantage', 'compare', str(result.path / 'best'), *threshold])}")


def _interval(interval: Interval | None, text: Any) -> str:
    return "" if interval is None else f" [{text(interval.low)}, {text(interval.high)}]"
