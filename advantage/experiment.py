"""An experiment: a grid of trainings that a file declares. Each runs in its own process and can be resumed.

environments = ["jax/CartPole-v1"]
seeds = [0, 1, 2]
out = "runs/clipping"                  # by default runs/ and the name of the file

[training]                             # options of every run
total_timesteps = 40_960

[[algorithms]]
name = "ppo"
options = {n_steps = 128}              # hyperparameters of every run of this algorithm
grid = {clip_range = [0.1, 0.2]}       # every combination of these values is tried
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from advantage.algorithms.dynamic_programming.planner import Planner
from advantage.algorithms.playable import playable
from advantage.algorithms.registry import default_algorithm, from_json, to_json
from advantage.cells import (
    Cell,
    Process,
    last_words,
    process_here,
    process_there,
    refuse_others,
    run_at_once,
)
from advantage.drivers.cluster.connection import Connection, cores_of_cluster
from advantage.environments.make import resolve
from advantage.machine import available_cores
from advantage.plain_values import plain_path, require_whole
from advantage.training.options import Options, modifications_of

_FIELDS = {"environments": list, "seeds": list, "algorithms": list, "training": dict, "out": str}
_ALGORITHM_FIELDS = {"name": str, "options": dict, "grid": dict}


class Outcome(NamedTuple):
    """Result of an experiment: finished cells, failed cells with their errors, and commands to type next."""

    finished: list[Path]
    failed: dict[Path, str]
    commands: list[str]


def read_experiment(file: str | Path) -> list[Cell]:
    """The cells that `file` declares. All are checked before any of them runs.

    Raises:
        ValueError: the file is not TOML, or names something unknown; the message begins with file and line.
    """
    file = plain_path("file", file)
    text = file.read_text(encoding="utf-8")
    try:
        grid = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: not readable as TOML: {error}.") from None
    lines = text.splitlines()

    def at(word: str, after: int = 0) -> str:
        """`file:line` of the first line from `after` on that contains the word."""
        found = (
            n
            for n, line in enumerate(lines[after:], after + 1)
            if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", line)
        )
        return f"{file}:{next(found, after + 1)}"

    _check(grid, _FIELDS, ("environments", "seeds", "algorithms"), at, "an experiment")
    for name in {"seed", "num_seeds"} & grid.get("training", {}).keys():
        raise ValueError(f"{at(name)}: training has no {name}; write all seeds before it: seeds = [0, 1, 2].")
    try:
        training = Options(**grid.get("training", {}))
    except (TypeError, ValueError) as error:
        name = next((name for name in grid["training"] if f"{name}" in str(error)), "training")
        known = ", ".join(field.name for field in dataclasses.fields(Options))
        raise ValueError(f"{at(name)}: training: {error}. Options are: {known}.") from None
    if not modifications_of(training).by_name:
        raise ValueError(
            f"{at('env_options')}: training: env_options has a date or a time; write it as a string."
        )
    if "workers" not in grid.get("training", {}):
        training = dataclasses.replace(training, workers=0)  # the cores are busy with other cells
    for environment in grid["environments"]:
        try:
            resolve(environment)
        except Exception as error:
            raise ValueError(f"{at(str(environment))}: {error}") from None
    heads = [n for n, line in enumerate(lines) if re.match(r"\s*\[\[\s*algorithms\s*\]\]", line)]
    heads += [0] * (len(grid["algorithms"]) - len(heads))
    root = plain_path("out", grid.get("out", Path("runs") / file.stem))
    cells = []
    for head, entry in zip(heads, grid["algorithms"], strict=True):
        for label, algorithm in _algorithms(entry, head, at):
            for environment, seed in itertools.product(grid["environments"], grid["seeds"]):
                try:
                    options = dataclasses.replace(training, seed=seed)
                except ValueError as error:
                    raise ValueError(f"{at('seeds')}: {error}") from None
                path = root / _slug(environment) / _slug(label) / f"seed_{seed}"
                cells.append(Cell(algorithm, environment, options, path))
    twice = {cell.path for n, cell in enumerate(cells) if cell.path in {other.path for other in cells[:n]}}
    if twice:
        raise ValueError(f"{file}: declares {min(twice)} twice; remove one of them.")
    for cell in cells:
        refuse_others(cell, file)
    return cells


def _algorithms(entry: dict[str, Any], head: int, at: Callable) -> list[tuple[str, Any]]:
    """Labels and algorithms of one entry, one for each point of its grid."""
    _check(entry, _ALGORITHM_FIELDS, ("name",), lambda word: at(word, head), "an algorithm")
    name, given, grid = entry["name"], entry.get("options", {}), entry.get("grid", {})
    for option, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(
                f"{at(option, head)}: grid: {option} must be a list of values, such as [0.1, 0.2]."
            )
    made = []
    for point in itertools.product(*grid.values()):
        chosen = dict(zip(grid, point, strict=True))
        try:
            defaults = to_json(default_algorithm(name))
            algorithm = from_json(name, defaults | given | chosen)
        except (TypeError, ValueError) as error:
            word = next((option for option in given | chosen if option in str(error)), name)
            raise ValueError(f"{at(word, head)}: {error}") from None
        if isinstance(playable(algorithm), Planner):
            raise ValueError(
                f"{at(name, head)}: {name} solves a table and has no training episodes; use `adv.solve`."
            )
        made.append((" ".join([name, *(f"{option}={value}" for option, value in chosen.items())]), algorithm))
    return made


def _check(
    table: dict[str, Any], fields: dict[str, type], required: tuple[str, ...], at: Callable, what: str
) -> None:
    for name, value in table.items():
        if name not in fields:
            raise ValueError(f"{at(name)}: {what} has no {name!r}; there are: {', '.join(fields)}.")
        if not isinstance(value, fields[name]) or (name in required and not value):
            kind = {list: "a list that is not empty", dict: "a table", str: "a string"}[fields[name]]
            raise ValueError(f"{at(name)}: {name} must be {kind}; it is {value!r}.")
    for name in required:
        if name not in table:
            raise ValueError(f"{at('')}: {what} needs {name!r}.")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip(".-")


def run_experiment(
    file: str | Path,
    *,
    processes: int | None = None,
    cluster: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Train every cell that has not finished, and return the outcome of all cells.

    A cell that was started is resumed from its last checkpoint; a finished cell is skipped. So an experiment that was
    killed at any moment continues with the same call. When this process ends, the processes of its cells save a
    checkpoint and stop; a new process of the same cell waits for that.

    Args:
        file: the grid, see `read_experiment`.
        processes: number of cells trained at once; by default the number of cores.
        cluster: cells are tasks of this Ray cluster; see `Options.cluster`. All its nodes must have the current folder
            and `out` in the same place.
        say: called with a text about each event.

    Raises:
        ValueError: the grid is wrong; nothing has run.
        KeyboardInterrupt: Ctrl-C was pressed; the cells have saved.
    """
    cells = read_experiment(file)
    processes = None if processes is None else require_whole("processes", processes, 1)
    if cluster is None:
        return _run_cells(cells, processes or available_cores(), process_here, say)
    with Connection(cluster, f"advantage experiment {file}"):
        return _run_cells(cells, processes or cores_of_cluster(), process_there, say)


def _run_cells(
    cells: list[Cell], processes: int, start: Callable[[Cell], Process], say: Callable[[str], None]
) -> Outcome:
    """Train the cells that have not finished, so many at once."""
    waiting = [number for number, cell in enumerate(cells) if not cell.finished]
    say(f"{len(cells)} runs, {len(cells) - len(waiting)} finished already, {processes} at once.")
    failed: dict[Path, str] = {}

    def begin(number: int) -> Process:
        cells[number].path.parent.mkdir(parents=True, exist_ok=True)
        return start(cells[number])

    def ended(number: int, code: int) -> None:
        cell = cells[number]
        if cell.finished:
            say(f"finished {cell.path}")
        else:
            failed[cell.path] = last_words(cell, code)
            say(f"failed   {cell.path}: {failed[cell.path]}")

    run_at_once(waiting, processes, begin, ended)
    finished = [cell.path for cell in cells if cell.finished]
    roots = sorted({str(path.parents[1]) for path in finished})
    commands = [shlex.join(["advantage", "compare", root]) for root in roots]
    return Outcome(finished, failed, commands)
