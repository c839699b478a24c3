"""What `eval` and `enjoy` share: an agent plays episodes."""

from __future__ import annotations

import dataclasses
from typing import Any

from advantage.agent import Agent, load
from advantage.cli.import_path import find_packages_here
from advantage.environments.environment import Environment
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
    trust: bool = False
    """Allow the import of the package that defines the run's environment."""

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `evaluate` and `play_episodes`."""
        return {"episodes": self.episodes, "seed": self.seed, "deterministic": not self.stochastic}


def agent_and_environment(path: str, flags: Play) -> tuple[Agent, Environment]:
    """The agent of a run, and the environment to play in."""
    find_packages_here(flags.env, trust=flags.trust)
    enable_compilation_cache()
    agent = load(path)
    return agent, environment_of(agent, flags.env, flags.trust)
