"""Search spaces: which values of which options a study may try. They are data, JSON files beside the presets.

{"learning_rate": {"log": [1e-4, 1e-2]},
 "gamma": {"log_below_one": [0.9, 0.999]},
 "ent_coef": {"uniform": [0.0, 0.02]},
 "n_epochs": {"integers": [3, 12]},
 "batch_size": {"choices": [64, 128, 256]}}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

from advantage.algorithms.playable import Trainable
from advantage.algorithms.presets import FOLDER
from advantage.algorithms.registry import algorithm_name, from_json, to_json
from advantage.plain_values import plain_bool, plain_number, plain_tuple, whole_number
from advantage.training.options import Options

KINDS = "uniform", "log", "log_below_one", "integers", "choices"
OPTIONS = "num_envs", "frame_stack"  # options of a run that a space may name, besides hyperparameters


class Suggests(Protocol):
    """The part of Optuna's trials that a space needs; a finished trial gives the values that it had."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str: ...


class Domain(NamedTuple):
    """The values that one option may take.

    Attributes:
        kind: `uniform` and `log` draw a float between two ends, `log_below_one` one whose distance from 1 is
            log-uniform, `integers` a whole number between two ends, both included, `choices` one of several values.
        values: the two ends, or the choices, as JSON values.
    """

    kind: str
    values: list[Any]

    def suggest(self, trial: Suggests, name: str) -> Any:
        """The trial's value for the option `name`, as JSON."""
        if self.kind == "choices":
            return json.loads(trial.suggest_categorical(name, [json.dumps(value) for value in self.values]))
        low, high = self.values
        if self.kind == "integers":
            return trial.suggest_int(name, low, high)
        if self.kind == "log_below_one":
            return 1 - trial.suggest_float(f"1 - {name}", 1 - high, 1 - low, log=True)
        return trial.suggest_float(name, low, high, log=self.kind == "log")


Space = dict[str, Domain]


def suggest(space: Space, trial: Suggests) -> dict[str, Any]:
    """The trial's value of every option, as JSON values."""
    return {name: domain.suggest(trial, name) for name, domain in space.items()}


def with_settings(
    algorithm: Trainable, options: Options, settings: Mapping[str, Any]
) -> tuple[Trainable, Options]:
    """The algorithm and the options of a run with these settings, JSON values by name.

    Raises:
        ValueError: a setting that is not allowed.
    """
    of_run = {name: value for name, value in settings.items() if name in OPTIONS}
    rest = {name: value for name, value in settings.items() if name not in OPTIONS}
    chosen = from_json(algorithm_name(algorithm), to_json(algorithm) | rest)
    return chosen, dataclasses.replace(options, **of_run)


def read_space(
    algorithm: Trainable,
    options: Options,
    source: str | Path | Mapping[str, Any] | None = None,
    *,
    without: Collection[str] = (),
) -> Space:
    """The search space of a study.

    Args:
        algorithm: the algorithm whose settings are tuned; what the space does not name stays as it is.
        options: the options of the runs.
        source: a JSON file, or what such a file holds, also with tuples and with NumPy's numbers and arrays; by
            default the library's space for this algorithm.
        without: kinds of domains that are left out.

    Raises:
        ValueError: the file is not a space, or it names an option or a value that is not allowed.
    """
    name = algorithm_name(algorithm)
    if isinstance(source, Mapping):
        where, entries = "space", _as_json(source)
    else:
        file = FOLDER / "spaces" / f"{name}.json" if source is None else Path(source)
        where = str(file)
        if source is None and not Path(file).exists():
            known = ", ".join(sorted(path.stem for path in (FOLDER / "spaces").glob("*.json")))
            raise ValueError(
                f"There is no search space for {name} (there are: {known}). Write one, a JSON file such as "
                '{"gamma": {"log_below_one": [0.9, 0.999]}}, and give it: --space FILE (space=).'
            )
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{where} cannot be read as a search space: {error}.") from None
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f'{where} is not a search space; write {{"gamma": {{"uniform": [0.9, 0.99]}}}}.')
    space = {option: _domain(where, option, entry) for option, entry in entries.items()}
    space = {option: domain for option, domain in space.items() if domain.kind not in without}
    for option, domain in space.items():
        for value in domain.values:
            try:
                with_settings(algorithm, options, {option: value})
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}: {option}: {error}") from None
    return space


def why_no_array(algorithm: Trainable, options: Options, space: Space) -> str:
    """Why one program cannot hold several settings of a space as arrays; empty if it can."""
    for name, domain in space.items():
        made = [with_settings(algorithm, options, {name: value})[0] for value in domain.values]
        if name in OPTIONS or len({jax.tree.structure(each) for each in made}) > 1:
            return f"{name} is not a float, so every value of it is a program of its own"
    return ""


def space_to_json(space: Space) -> dict[str, Any]:
    """The space as a file holds it."""
    return {name: {domain.kind: domain.values} for name, domain in space.items()}


def _as_json(source: Mapping[str, Any]) -> Any:
    """A space from Python as a file would hold it. Raises ValueError for what no file can hold."""

    def plain(value: Any) -> Any:
        for read in (plain_bool, plain_number, plain_tuple):
            if (found := read(value)) is not None:
                return found
        raise TypeError(f"{value!r:.200} has no form in JSON")

    try:
        return json.loads(json.dumps(dict(source), default=plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"space: {error}; use numbers, texts, true, false, null, lists and objects."
        ) from None


def _domain(where: str, option: str, entry: Any) -> Domain:
    """One entry of a file, checked. Raises ValueError."""
    kind, values = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (None, None)
    if kind not in KINDS or not isinstance(values, list):
        raise ValueError(
            f"{where}: {option}: {json.dumps(entry)[:200]} is not allowed; use one of "
            '{"uniform": [low, high]}, {"log": [low, high]}, {"log_below_one": [low, high]}, '
            '{"integers": [low, high]} and {"choices": [a, b, ...]}.'
        )
    if kind == "choices":
        if len(values) < 2 or len({json.dumps(value) for value in values}) < len(values):
            raise ValueError(
                f"{where}: {option}: choices need two or more different values; it has {values}."
            )
        return Domain(kind, values)
    read = whole_number if kind == "integers" else plain_number
    ends = [end for value in values if (end := read(value)) is not None]
    bounds = {"log": "above 0", "log_below_one": "below 1"}
    if len(values) != 2 or len(ends) != 2 or not ends[0] < ends[1] or not _inside(kind, ends):
        wanted = "whole numbers" if kind == "integers" else f"numbers {bounds.get(kind, '')}".strip()
        raise ValueError(
            f"{where}: {option}: {kind} needs two {wanted}, the lower one first; it has {values}."
        )
    return Domain(kind, ends)


def _inside(kind: str, ends: Sequence[float]) -> bool:
    return not (kind == "log" and ends[0] <= 0) and not (kind == "log_below_one" and ends[1] >= 1)
