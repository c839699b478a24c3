"""Tuned settings that come with the library: data files `advantage/presets/<algorithm>.json`, by environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from advantage.algorithms.registry import algorithm_class, default_algorithm, from_json, to_json

FOLDER = Path(__file__).parents[1] / "presets"


class Preset(NamedTuple):
    """Settings for a training run.

    Attributes:
        algorithm: the algorithm with its hyperparameters.
        options: arguments of `adv.train`: `num_envs`, `total_timesteps`.
    """

    algorithm: Any
    options: dict[str, Any]


def presets(algorithm: str) -> dict[str, dict[str, Any]]:
    """The presets of an algorithm by environment, as its file holds them."""
    algorithm_class(algorithm)
    file = FOLDER / f"{algorithm}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def preset(algorithm: str, environment: str) -> Preset:
    """The tuned settings of an algorithm for an environment; `jax/Name` uses those of `Name`.

    `adv.train(preset.algorithm, environment, **preset.options)` trains with them; change one of them with
    `dataclasses.replace(preset.algorithm, gamma=0.9)`.

    Raises:
        ValueError: there is none; the message names the existing ones.
    """
    known = presets(algorithm)
    name = environment.removeprefix("jax/")
    if name not in known:
        there = f"It has presets for: {', '.join(known)}" if known else "It has no presets"
        raise ValueError(f"{algorithm} has no preset for {environment!r}. {there}.")
    values = known[name]
    defaults = to_json(default_algorithm(algorithm))
    hyperparameters = {field: value for field, value in values.items() if field in defaults}
    options = {field: value for field, value in values.items() if field not in defaults}
    return Preset(from_json(algorithm, defaults | hyperparameters), options)
