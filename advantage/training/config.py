"""What config.json says of a run."""

from __future__ import annotations

import dataclasses
from typing import Any

from advantage.algorithms.playable import Playable
from advantage.algorithms.registry import algorithm_name, to_json
from advantage.environments.environment import Environment
from advantage.environments.spaces import space_to_json
from advantage.training.options import Options, recorded
from advantage.types import Spec


def run_config(
    algorithm: Playable,
    environment: Environment,
    spec: Spec,
    options: Options,
    *,
    seed: int,
    host: dict[str, Any],
) -> dict[str, Any]:
    """The config of one seed, as JSON values; `host` is that of `describe_host`."""
    return {
        "algorithm": algorithm_name(algorithm),
        "hyperparameters": to_json(algorithm),
        "environment": environment.name,
        "environment_by_name": environment.by_name,
        "seed": seed,
        "spaces": {
            "observation": space_to_json(spec.observation_space),
            "action": space_to_json(spec.action_space),
        },
        "training": recorded(dataclasses.replace(options, seed=seed, num_seeds=1)),
        "host": host,
    }
