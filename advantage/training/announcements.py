"""What a run says before it begins, and about a run that had finished."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advantage.algorithms.playable import Playable
from advantage.algorithms.policy_gradient.shared.options import NetworkOptions, PolicyOptions
from advantage.algorithms.search.policy_search import PolicySearch
from advantage.environments.check import far_bounds
from advantage.environments.environment import Environment
from advantage.environments.make import word_for
from advantage.environments.modifications import Modifications
from advantage.policies.interface import describe_interface, large_layers
from advantage.types import DriverFacts, Spec


def interface_notes(algorithm: Playable, spec: Spec) -> list[str]:
    """How a policy translates the spaces; tabular methods and solvers use them unchanged."""
    if not isinstance(algorithm, NetworkOptions | PolicySearch):
        return []
    return describe_interface(spec.observation_space, spec.action_space, spec.action_units)


def warnings_before(algorithm: Playable, spec: Spec) -> list[str]:
    """What the user should know before the run begins."""
    if not isinstance(algorithm, NetworkOptions | PolicySearch):
        return []
    acts = isinstance(algorithm, PolicyOptions | PolicySearch)
    clips = acts and algorithm.action_bounds == "clip"  # squashed actions fill any bounds, however far
    far = far_bounds(spec.action_space, spec.action_units) if clips else []
    large = large_layers(spec.observation_space) if algorithm.network is None else []
    return [*map(str, far), *large]


def beginning(
    algorithm: Playable,
    spec: Spec,
    configs: Sequence[dict[str, Any]],
    *,
    folders: Sequence[Path],
    driver: DriverFacts,
    step: int,
) -> dict[str, Any]:
    """What a reporter is told when runs begin; there is one of `configs` and `folders` for each seed."""
    config = configs[0]
    return {
        "algorithm": config["algorithm"],
        "environment": config["environment"],
        "seeds": [config["seed"] for config in configs],
        "total_timesteps": spec.total_timesteps,
        "step": step,
        "num_envs": spec.num_envs,
        "driver": driver,
        "folders": list(folders),
        "interface": interface_notes(algorithm, spec),
        "warnings": warnings_before(algorithm, spec),
    }


def finished_before(path: Path, step: int, total: int, unit: str) -> str:
    """What is said about a run that had finished when it was resumed."""
    if step >= total:
        ended = f"has taken its {step:_} {unit}"
        more = f"give a larger budget: --total-timesteps {2 * step} (total_timesteps=)"
    elif unit == "iterations":
        ended = f"has converged after {step:_} iterations"
        more = "train with a smaller tolerance (--tolerance)"
    else:
        ended = (
            f"it has taken {step:_} of its {total:_} steps, and the next generation takes more than are left"
        )
        more = f"give a larger budget: --total-timesteps {2 * total} (total_timesteps=)"
    return f"{path} {ended}, and is finished. To continue, {more}."


def differences(recorded: Any, here: dict[str, Any]) -> list[str]:
    """A sentence about what differs between the host of a run, as config.json describes it, and this one."""
    if not isinstance(recorded, dict):
        return []
    names = ("python", "platform", "backend", "threads", "environment")
    pairs = [(name, recorded.get(name), here.get(name)) for name in names]
    versions = recorded.get("versions")
    if isinstance(versions, dict):
        pairs += [(name, version, here["versions"].get(name)) for name, version in sorted(versions.items())]
    other = [f"{name} {new} instead of {old}" for name, old, new in pairs if old is not None and old != new]
    if not other:
        return []
    return [
        f"Resumed with {', '.join(other)}: the numbers may differ from those of a run that was not stopped."
    ]


def farewell(
    folders: Sequence[Path], step: int, environment: Environment, modifications: Modifications
) -> str:
    """How runs that were interrupted are resumed."""
    named = word_for(environment.name, modifications) if environment.by_name else []
    commands = "; ".join(shlex.join(["advantage", "resume", str(folder), *named]) for folder in folders)
    return f"Stopped at step {step:_} and saved. To resume: {commands}"
