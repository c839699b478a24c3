"""Tuned settings by environment: files `advantage/presets/<algorithm>.json`, and files of users' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from advantage.algorithms.playable import Trainable
from advantage.algorithms.registry import (
    algorithm_class,
    algorithm_name,
    default_algorithm,
    from_json,
    to_json,
)

FOLDER = Path(__file__).parents[1] / "presets"
# options in users' files; none of them runs code
FILE_OPTIONS = "total_timesteps", "num_envs", "observe_last", "frame_stack"


class Preset(NamedTuple):
    """Settings for a training run.

    Attributes:
        algorithm: the algorithm with its hyperparameters.
        options: arguments of `adv.train`: `num_envs`, `total_timesteps`.
    """

    algorithm: Any
    options: dict[str, Any]


def presets(algorithm: str) -> dict[str, dict[str, Any]]:
    """The library's presets of an algorithm by environment, as its file holds them."""
    algorithm_class(algorithm)
    file = FOLDER / f"{algorithm}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def preset(algorithm: str, environment: str, file: str | Path | None = None) -> Preset:
    """The tuned settings of an algorithm for an environment; `jax/Name` uses those of `Name`.

    `adv.train(preset.algorithm, environment, **preset.options)` trains with them; change one of them with
    `dataclasses.replace(preset.algorithm, gamma=0.9)`.

    Args:
        algorithm: its name.
        environment: the environment's name.
        file: a preset file, such as `advantage tune` writes; by default the library's.

    Raises:
        ValueError: there is none, and the message names the existing ones; or the file is not a preset file.
    """
    known = presets(algorithm) if file is None else _read(Path(file))
    name = environment.removeprefix("jax/")
    if name not in known:
        where = algorithm if file is None else str(file)
        there = f"It has presets for: {', '.join(known)}" if known else "It has no presets"
        raise ValueError(f"{where} has no preset for {environment!r}. {there}.")
    values = known[name]
    defaults = to_json(default_algorithm(algorithm))
    hyperparameters = {field: value for field, value in values.items() if field in defaults}
    options = {field: value for field, value in values.items() if field not in defaults}
    if file is not None and (unknown := sorted(options.keys() - set(FILE_OPTIONS))):
        raise ValueError(
            f"{file}: {name}: {unknown[0]!r} is not allowed in a preset file for {algorithm}; it may have the "
            f"hyperparameters of {algorithm}, and {', '.join(FILE_OPTIONS)}."
        )
    try:
        return Preset(from_json(algorithm, defaults | hyperparameters), options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file or algorithm}: {name}: {error}") from None


def preset_text(algorithm: Trainable, environment: str, options: dict[str, Any]) -> str:
    """The text of a preset file with these settings: every hyperparameter that is not the default, and the options.

    Args:
        algorithm: the algorithm with its hyperparameters.
        environment: the name of the environment that it was tuned for.
        options: values of `FILE_OPTIONS`.
    """
    defaults = to_json(default_algorithm(algorithm_name(algorithm)))
    chosen = {name: value for name, value in to_json(algorithm).items() if value != defaults[name]}
    return json.dumps({environment.removeprefix("jax/"): options | chosen}, indent=1) + "\n"


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """The presets in a user's file. Raises ValueError if it is not a preset file."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as a preset file: {error}.") from None
    if not isinstance(known, dict) or not all(isinstance(values, dict) for values in known.values()):
        raise ValueError(
            f'{file} is not a preset file; it holds settings by environment: {{"CartPole-v1": {{"gamma": 0.98}}}}.'
        )
    return known
