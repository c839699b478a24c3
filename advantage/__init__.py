"""advantage: policy optimization on JAX.

    import advantage as adv
    run = adv.train(adv.PPO(), "CartPole-v1", total_timesteps=100_000)
    agent = adv.load(run.path)

Names are imported when they are first used, so that the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advantage.algorithms.hyperparameters import Linear as Linear
    from advantage.algorithms.policy_gradient.ppo import PPO as PPO
    from advantage.algorithms.presets import Preset as Preset
    from advantage.algorithms.presets import preset as preset
    from advantage.algorithms.tabular.q_learning import QLearning as QLearning
    from advantage.environments.check import EnvironmentDefect as EnvironmentDefect
    from advantage.environments.check import check_environment as check_environment
    from advantage.environments.make import MissingExtra as MissingExtra
    from advantage.environments.make import make as make
    from advantage.environments.tabular.mdp import MDP as MDP
    from advantage.environments.tabular.mdp import POMDP as POMDP
    from advantage.environments.tabular.mdp import Grid as Grid
    from advantage.environments.tabular.mdp import MarkovChain as MarkovChain
    from advantage.evaluation import Agent as Agent
    from advantage.evaluation import Evaluation as Evaluation
    from advantage.evaluation import evaluate as evaluate
    from advantage.evaluation import load as load
    from advantage.policies.adapters import from_equinox as from_equinox
    from advantage.policies.adapters import from_flax as from_flax
    from advantage.policies.networks import CNN as CNN
    from advantage.policies.networks import MLP as MLP
    from advantage.policies.networks import Custom as Custom
    from advantage.rollout.stepper import EnvironmentFailure as EnvironmentFailure
    from advantage.runs.checkpoint import CheckpointError as CheckpointError
    from advantage.training import NonFiniteUpdate as NonFiniteUpdate
    from advantage.training import Progress as Progress
    from advantage.training import Run as Run
    from advantage.training import resume as resume
    from advantage.training import train as train
    from advantage.types import Rollout as Rollout
    from advantage.types import Spec as Spec

__version__ = "0.1.0"

_HOMES = {
    "Linear": "algorithms.hyperparameters",
    "PPO": "algorithms.policy_gradient.ppo",
    "Preset": "algorithms.presets",
    "preset": "algorithms.presets",
    "QLearning": "algorithms.tabular.q_learning",
    "MDP": "environments.tabular.mdp",
    "POMDP": "environments.tabular.mdp",
    "MarkovChain": "environments.tabular.mdp",
    "Grid": "environments.tabular.mdp",
    "EnvironmentDefect": "environments.check",
    "check_environment": "environments.check",
    "MissingExtra": "environments.make",
    "make": "environments.make",
    "Agent": "evaluation",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "load": "evaluation",
    "from_equinox": "policies.adapters",
    "from_flax": "policies.adapters",
    "CNN": "policies.networks",
    "MLP": "policies.networks",
    "Custom": "policies.networks",
    "EnvironmentFailure": "rollout.stepper",
    "CheckpointError": "runs.checkpoint",
    "NonFiniteUpdate": "training",
    "Progress": "training",
    "Run": "training",
    "resume": "training",
    "train": "training",
    "Rollout": "types",
    "Spec": "types",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'advantage' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"advantage.{_HOMES[name]}"), name)
    globals()[name] = (
        value  # also where a submodule of the same name, such as advantage.train, took its place
    )
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
