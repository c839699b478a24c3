"""What `eval` and `enjoy` share: an agent plays episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from advantage.agent import Agent, load
from advantage.cli.import_path import find_packages_here
from advantage.environments.environment import Environment
from advantage.environments.make import resolve
from advantage.environments.modifications import Modifications, modified
from advantage.evaluation import environment_of
from advantage.runs.compilation import enable_compilation_cache


@dataclasses.dataclass(frozen=True)
class Play:
    """Flags of the commands in which an agent plays."""

    env: str | None = None
    """Environment to play in; by default the one that the agent was trained on."""
    episodes: int = 10
    """Number of episodes to play."""
    seed: int = 0
    """Seed of the episodes; the same seed gives the same episodes."""
    stochastic: bool = False
    """Draw actions from the policy instead of taking the most likely."""
    env_options: Annotated[dict[str, Any], tyro.conf.arg(name="env-option")] = dataclasses.field(
        default_factory=dict
    )
    """Keyword for the environment of --env, KEY=VALUE with a JSON value; can be repeated."""
    wrappers: Annotated[tuple[Any, ...], tyro.conf.arg(name="wrapper")] = ()
    """Wrapper for the environment of --env, module:Wrapper or module:Wrapper(8); can be repeated."""
    trust: bool = False
    """Allow the import of the package that defines the run's environment, and the run's keywords and wrappers."""

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `evaluate` and `play_episodes`."""
        return {"episodes": self.episodes, "seed": self.seed, "deterministic": not self.stochastic}


def agent_and_environment(path: str, flags: Play) -> tuple[Agent, Environment]:
    """The agent of a run, and the environment to play in."""
    find_packages_here(flags.env, wrappers=flags.wrappers, trust=flags.trust)
    enable_compilation_cache()
    agent = load(path)
    return agent, environment_of(
        agent, named_environment(flags.env, flags.env_options, flags.wrappers), flags.trust
    )


def named_environment(
    name: str | None, options: dict[str, Any], wrappers: Sequence[str]
) -> Environment | None:
    """The environment that the user has named, with its keywords and wrappers; None if none is named.

    Raises:
        ValueError: keywords or wrappers without a name.
    """
    if name is None and (options or wrappers):
        raise ValueError(
            "--env-option and --wrapper belong to an environment that is named beside them: --env NAME."
        )
    return None if name is None else modified(resolve(name), Modifications(options, tuple(wrappers)))
