"""What config.json says of a run, and the folder that it goes to."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advantage.algorithms.playable import Playable
from advantage.algorithms.registry import algorithm_name, to_json
from advantage.environments.environment import Environment
from advantage.environments.spaces import space_to_json
from advantage.runs.folder import RunFolder, claim_run_folder
from advantage.training.options import Options, recorded
from advantage.types import Spec


def run_config(
    algorithm: Playable, environment: Environment, spec: Spec, options: Options, seed: int
) -> dict[str, Any]:
    """The facts of one seed's run, without its host."""
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
    }


def claim_folders(
    paths: Sequence[Path | None], root: Path, configs: Sequence[dict[str, Any]], locks: contextlib.ExitStack
) -> list[RunFolder]:
    """Make and lock the folder of each run, a new one below `root` where its path is None; `locks` releases them."""
    folders = []
    for path, config in zip(paths, configs, strict=True):
        names = {name: config[name] for name in ("environment", "algorithm", "seed")}
        folder, lock = claim_run_folder(path, root=root, **names)
        locks.enter_context(lock)
        folders.append(folder)
    return folders
