"""`advantage check ENVIRONMENT`: find what is wrong with an environment."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from advantage.cli.import_path import find_packages_here
from advantage.cli.parse import parse
from advantage.environments.check import answer_beyond_bounds, check_environment, describe
from advantage.environments.defect import EnvironmentDefect
from advantage.environments.environment import close
from advantage.environments.make import resolve
from advantage.environments.modifications import Modifications, modified
from advantage.policies.interface import describe_interface, large_layers


@dataclasses.dataclass(frozen=True)
class Check:
    """Find what is wrong with an environment."""

    steps: int = 200
    """Random steps to take."""
    seed: int = 0
    """Seed of the resets and the actions."""
    env_options: Annotated[dict[str, Any], tyro.conf.arg(name="env-option")] = dataclasses.field(
        default_factory=dict
    )
    """Keyword of the environment's constructor, KEY=VALUE with a JSON value; can be repeated."""
    wrappers: Annotated[tuple[Any, ...], tyro.conf.arg(name="wrapper")] = ()
    """Wrapper to put around the environment, module:Wrapper or module:Wrapper(8); can be repeated."""
    ignore_observation: tuple[str, ...] = ()
    """Part of a Dict observation to leave out, such as a text; can be repeated."""


def command(arguments: Sequence[str]) -> int:
    """Check an environment; returns the exit code, 1 if it has an error."""
    (name,), flags = parse(arguments, "check ENVIRONMENT", Check)
    find_packages_here(name, wrappers=flags.wrappers)
    environment = modified(
        resolve(name), Modifications(flags.env_options, flags.wrappers, flags.ignore_observation)
    )
    if environment.kind == "device":
        raise ValueError(f"{name} is an on-device world; check is for Gymnasium environments.")
    defects = check_environment(environment.source, steps=flags.steps, seed=flags.seed)
    causes = [defect.__cause__ for defect in defects if defect.severity == "error"]
    for cause in causes:
        if cause is not None and not isinstance(cause, EnvironmentDefect):
            traceback.print_exception(cause)  # the environment's own
    for defect in defects:
        print(f"{defect.severity}: {defect}\n")
    if errors := sum(defect.severity == "error" for defect in defects):
        print(
            f"{name}: {errors} error{'s' * (errors > 1)}, {(rest := len(defects) - errors)} warning{'s' * (rest != 1)}."
        )
        return 1
    env = environment.source()
    facts = describe(env)
    facts += [
        ("policy", text) for text in describe_interface(env.observation_space, env.action_space, "bounds")
    ]
    facts += [("note", text) for text in large_layers(env.observation_space)]
    facts += [("beyond bounds", answer)] if (answer := answer_beyond_bounds(env)) else []
    for label, fact in facts:
        print(f"{label:>16}: {fact}")
    close(env)
    told = f", with {len(defects)} warning{'s' * (len(defects) > 1)}" if defects else ""
    print(f"{name} is ready to train on{told}.")
    return 0
