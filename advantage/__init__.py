"""advantage: policy optimization on JAX.

    import advantage as adv
    run = adv.train(adv.PPO(), "CartPole-v1", total_timesteps=100_000)
    agent = adv.load(run.path)

Names are imported when they are first used, so that the command line answers at once.
"""

import importlib

# Nothing else is imported, typing neither: `python -m advantage` comes here while the current folder is still first.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from advantage.algorithms import search as search
    from advantage.algorithms.bandits.epsilon_greedy import EpsilonGreedyBandit as EpsilonGreedyBandit
    from advantage.algorithms.bandits.gradient_bandit import GradientBandit as GradientBandit
    from advantage.algorithms.bandits.thompson import Thompson as Thompson
    from advantage.algorithms.bandits.ucb import UCB as UCB
    from advantage.algorithms.dynamic_programming.backward_induction import (
        BackwardInduction as BackwardInduction,
    )
    from advantage.algorithms.dynamic_programming.gauss_seidel import GaussSeidel as GaussSeidel
    from advantage.algorithms.dynamic_programming.linear_programming import (
        LinearProgramming as LinearProgramming,
    )
    from advantage.algorithms.dynamic_programming.modified_policy_iteration import (
        ModifiedPolicyIteration as ModifiedPolicyIteration,
    )
    from advantage.algorithms.dynamic_programming.policy_iteration import PolicyIteration as PolicyIteration
    from advantage.algorithms.dynamic_programming.prioritised_value_iteration import (
        PrioritisedValueIteration as PrioritisedValueIteration,
    )
    from advantage.algorithms.dynamic_programming.relative_value_iteration import (
        RelativeValueIteration as RelativeValueIteration,
    )
    from advantage.algorithms.dynamic_programming.solve import Solution as Solution
    from advantage.algorithms.dynamic_programming.solve import solve as solve
    from advantage.algorithms.dynamic_programming.value_iteration import ValueIteration as ValueIteration
    from advantage.algorithms.hyperparameters import Linear as Linear
    from advantage.algorithms.policy_gradient.a2c import A2C as A2C
    from advantage.algorithms.policy_gradient.impala import Impala as Impala
    from advantage.algorithms.policy_gradient.npg import NPG as NPG
    from advantage.algorithms.policy_gradient.off_policy_actor_critic import (
        OffPolicyActorCritic as OffPolicyActorCritic,
    )
    from advantage.algorithms.policy_gradient.off_policy_pg import OffPolicyPG as OffPolicyPG
    from advantage.algorithms.policy_gradient.one_step_actor_critic import (
        OneStepActorCritic as OneStepActorCritic,
    )
    from advantage.algorithms.policy_gradient.ppo import PPO as PPO
    from advantage.algorithms.policy_gradient.q_prop import QProp as QProp
    from advantage.algorithms.policy_gradient.reinforce import Reinforce as Reinforce
    from advantage.algorithms.policy_gradient.trpo import TRPO as TRPO
    from advantage.algorithms.policy_gradient.vpg import VPG as VPG
    from advantage.algorithms.presets import Preset as Preset
    from advantage.algorithms.presets import preset as preset
    from advantage.algorithms.search.cma_es import CMAES as CMAES
    from advantage.algorithms.search.cross_entropy import CEM as CEM
    from advantage.algorithms.search.evolution_strategy import EvolutionStrategy as EvolutionStrategy
    from advantage.algorithms.search.finite_differences import FiniteDifferences as FiniteDifferences
    from advantage.algorithms.search.genetic import GeneticAlgorithm as GeneticAlgorithm
    from advantage.algorithms.search.pattern_search import PatternSearch as PatternSearch
    from advantage.algorithms.search.policy_search import PolicySearch as PolicySearch
    from advantage.algorithms.search.random_search import AugmentedRandomSearch as AugmentedRandomSearch
    from advantage.algorithms.tabular.double_q_learning import DoubleQLearning as DoubleQLearning
    from advantage.algorithms.tabular.dyna import Dyna as Dyna
    from advantage.algorithms.tabular.expected_sarsa import ExpectedSarsa as ExpectedSarsa
    from advantage.algorithms.tabular.lambda_return import OfflineLambdaReturn as OfflineLambdaReturn
    from advantage.algorithms.tabular.monte_carlo_control import MonteCarloControl as MonteCarloControl
    from advantage.algorithms.tabular.monte_carlo_off_policy import MonteCarloOffPolicy as MonteCarloOffPolicy
    from advantage.algorithms.tabular.monte_carlo_prediction import (
        MonteCarloPrediction as MonteCarloPrediction,
    )
    from advantage.algorithms.tabular.prioritised_sweeping import PrioritisedSweeping as PrioritisedSweeping
    from advantage.algorithms.tabular.q_learning import QLearning as QLearning
    from advantage.algorithms.tabular.sarsa import Sarsa as Sarsa
    from advantage.algorithms.tabular.sarsa_lambda import SarsaLambda as SarsaLambda
    from advantage.algorithms.tabular.td import TD as TD
    from advantage.algorithms.tabular.td_lambda import TDLambda as TDLambda
    from advantage.algorithms.tabular.tree_backup import TreeBackup as TreeBackup
    from advantage.algorithms.tabular.watkins_q_lambda import WatkinsQLambda as WatkinsQLambda
    from advantage.comparison.compare import Comparison as Comparison
    from advantage.comparison.compare import compare as compare
    from advantage.drivers.host.stepper import EnvironmentFailure as EnvironmentFailure
    from advantage.environments.check import EnvironmentDefect as EnvironmentDefect
    from advantage.environments.check import check_environment as check_environment
    from advantage.environments.make import MissingExtra as MissingExtra
    from advantage.environments.make import make as make
    from advantage.environments.tables.mdp import MDP as MDP
    from advantage.environments.tables.mdp import POMDP as POMDP
    from advantage.environments.tables.mdp import Grid as Grid
    from advantage.environments.tables.mdp import MarkovChain as MarkovChain
    from advantage.evaluation import Agent as Agent
    from advantage.evaluation import Evaluation as Evaluation
    from advantage.evaluation import evaluate as evaluate
    from advantage.evaluation import load as load
    from advantage.experiment import run_experiment as run_experiment
    from advantage.policies.library_networks import from_equinox as from_equinox
    from advantage.policies.library_networks import from_flax as from_flax
    from advantage.policies.networks import CNN as CNN
    from advantage.policies.networks import MLP as MLP
    from advantage.policies.networks import Custom as Custom
    from advantage.runs.checkpoint import CheckpointError as CheckpointError
    from advantage.runs.lock import RunInUse as RunInUse
    from advantage.training.nonfinite import NonFiniteUpdate as NonFiniteUpdate
    from advantage.training.reporting import Progress as Progress
    from advantage.training.train import Run as Run
    from advantage.training.train import resume as resume
    from advantage.training.train import train as train
    from advantage.types import Rollout as Rollout
    from advantage.types import Spec as Spec

__version__ = "0.1.0"

_HOMES = {
    "Linear": "algorithms.hyperparameters",
    "A2C": "algorithms.policy_gradient.a2c",
    "Impala": "algorithms.policy_gradient.impala",
    "NPG": "algorithms.policy_gradient.npg",
    "OffPolicyPG": "algorithms.policy_gradient.off_policy_pg",
    "OffPolicyActorCritic": "algorithms.policy_gradient.off_policy_actor_critic",
    "OneStepActorCritic": "algorithms.policy_gradient.one_step_actor_critic",
    "Reinforce": "algorithms.policy_gradient.reinforce",
    "TRPO": "algorithms.policy_gradient.trpo",
    "VPG": "algorithms.policy_gradient.vpg",
    "PPO": "algorithms.policy_gradient.ppo",
    "QProp": "algorithms.policy_gradient.q_prop",
    "Preset": "algorithms.presets",
    "preset": "algorithms.presets",
    "search": "algorithms",
    "CMAES": "algorithms.search.cma_es",
    "CEM": "algorithms.search.cross_entropy",
    "EvolutionStrategy": "algorithms.search.evolution_strategy",
    "FiniteDifferences": "algorithms.search.finite_differences",
    "GeneticAlgorithm": "algorithms.search.genetic",
    "PatternSearch": "algorithms.search.pattern_search",
    "PolicySearch": "algorithms.search.policy_search",
    "AugmentedRandomSearch": "algorithms.search.random_search",
    "QLearning": "algorithms.tabular.q_learning",
    "MonteCarloPrediction": "algorithms.tabular.monte_carlo_prediction",
    "TD": "algorithms.tabular.td",
    "TDLambda": "algorithms.tabular.td_lambda",
    "OfflineLambdaReturn": "algorithms.tabular.lambda_return",
    "DoubleQLearning": "algorithms.tabular.double_q_learning",
    "ExpectedSarsa": "algorithms.tabular.expected_sarsa",
    "Sarsa": "algorithms.tabular.sarsa",
    "SarsaLambda": "algorithms.tabular.sarsa_lambda",
    "TreeBackup": "algorithms.tabular.tree_backup",
    "WatkinsQLambda": "algorithms.tabular.watkins_q_lambda",
    "MonteCarloControl": "algorithms.tabular.monte_carlo_control",
    "MonteCarloOffPolicy": "algorithms.tabular.monte_carlo_off_policy",
    "EpsilonGreedyBandit": "algorithms.bandits.epsilon_greedy",
    "GradientBandit": "algorithms.bandits.gradient_bandit",
    "Thompson": "algorithms.bandits.thompson",
    "UCB": "algorithms.bandits.ucb",
    "Dyna": "algorithms.tabular.dyna",
    "PrioritisedSweeping": "algorithms.tabular.prioritised_sweeping",
    "ValueIteration": "algorithms.dynamic_programming.value_iteration",
    "GaussSeidel": "algorithms.dynamic_programming.gauss_seidel",
    "PrioritisedValueIteration": "algorithms.dynamic_programming.prioritised_value_iteration",
    "PolicyIteration": "algorithms.dynamic_programming.policy_iteration",
    "ModifiedPolicyIteration": "algorithms.dynamic_programming.modified_policy_iteration",
    "BackwardInduction": "algorithms.dynamic_programming.backward_induction",
    "RelativeValueIteration": "algorithms.dynamic_programming.relative_value_iteration",
    "LinearProgramming": "algorithms.dynamic_programming.linear_programming",
    "Solution": "algorithms.dynamic_programming.solve",
    "solve": "algorithms.dynamic_programming.solve",
    "Comparison": "comparison.compare",
    "compare": "comparison.compare",
    "MDP": "environments.tables.mdp",
    "POMDP": "environments.tables.mdp",
    "MarkovChain": "environments.tables.mdp",
    "Grid": "environments.tables.mdp",
    "EnvironmentDefect": "environments.check",
    "check_environment": "environments.check",
    "MissingExtra": "environments.make",
    "make": "environments.make",
    "Agent": "evaluation",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "load": "evaluation",
    "run_experiment": "experiment",
    "from_equinox": "policies.library_networks",
    "from_flax": "policies.library_networks",
    "CNN": "policies.networks",
    "MLP": "policies.networks",
    "Custom": "policies.networks",
    "EnvironmentFailure": "drivers.host.stepper",
    "CheckpointError": "runs.checkpoint",
    "RunInUse": "runs.lock",
    "NonFiniteUpdate": "training.nonfinite",
    "Progress": "training.reporting",
    "Run": "training.train",
    "resume": "training.train",
    "train": "training.train",
    "Rollout": "types",
    "Spec": "types",
}


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module 'advantage' has no attribute {name!r}")
    home = importlib.import_module(f"advantage.{_HOMES[name]}")
    value = getattr(home, name, None) or importlib.import_module(f"{home.__name__}.{name}")
    globals()[name] = (
        value  # also where a submodule of the same name, such as advantage.train, took its place
    )
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
