"""Written by `make format`."""

from advantage.agent import Agent as Agent
from advantage.agent import load as load
from advantage.algorithms import search as search
from advantage.algorithms.bandits.epsilon_greedy import EpsilonGreedyBandit as EpsilonGreedyBandit
from advantage.algorithms.bandits.gradient_bandit import GradientBandit as GradientBandit
from advantage.algorithms.bandits.thompson import Thompson as Thompson
from advantage.algorithms.bandits.ucb import UCB as UCB
from advantage.algorithms.dynamic_programming.backward_induction import BackwardInduction as BackwardInduction
from advantage.algorithms.dynamic_programming.gauss_seidel import GaussSeidel as GaussSeidel
from advantage.algorithms.dynamic_programming.linear_programming import LinearProgramming as LinearProgramming
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
from advantage.algorithms.imitation.behaviour_cloning import BehaviourCloning as BehaviourCloning
from advantage.algorithms.planning.alphazero import AlphaZero as AlphaZero
from advantage.algorithms.planning.autoencoder_policy import AutoencoderPolicy as AutoencoderPolicy
from advantage.algorithms.planning.cem_planning import CEMPlanning as CEMPlanning
from advantage.algorithms.planning.distill import Distill as Distill
from advantage.algorithms.planning.dreamer import Dreamer as Dreamer
from advantage.algorithms.planning.dyna_network import DynaNetwork as DynaNetwork
from advantage.algorithms.planning.exhaustive_search import ExhaustiveSearch as ExhaustiveSearch
from advantage.algorithms.planning.gradient_planning import GradientPlanning as GradientPlanning
from advantage.algorithms.planning.inverse_model import InverseModel as InverseModel
from advantage.algorithms.planning.mcts import MCTS as MCTS
from advantage.algorithms.planning.muzero import MuZero as MuZero
from advantage.algorithms.planning.pets import PETS as PETS
from advantage.algorithms.planning.planet import PlaNet as PlaNet
from advantage.algorithms.planning.shooting import Shooting as Shooting
from advantage.algorithms.planning.world_model import WorldModel as WorldModel
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
from advantage.algorithms.tabular.monte_carlo_prediction import MonteCarloPrediction as MonteCarloPrediction
from advantage.algorithms.tabular.posterior_sampling import PosteriorSampling as PosteriorSampling
from advantage.algorithms.tabular.prioritised_sweeping import PrioritisedSweeping as PrioritisedSweeping
from advantage.algorithms.tabular.q_learning import QLearning as QLearning
from advantage.algorithms.tabular.sarsa import Sarsa as Sarsa
from advantage.algorithms.tabular.sarsa_lambda import SarsaLambda as SarsaLambda
from advantage.algorithms.tabular.td import TD as TD
from advantage.algorithms.tabular.td_lambda import TDLambda as TDLambda
from advantage.algorithms.tabular.tree_backup import TreeBackup as TreeBackup
from advantage.algorithms.tabular.watkins_q_lambda import WatkinsQLambda as WatkinsQLambda
from advantage.algorithms.value.crossq import CrossQ as CrossQ
from advantage.algorithms.value.ddpg import DDPG as DDPG
from advantage.algorithms.value.dpg import DPG as DPG
from advantage.algorithms.value.dqn import DQN as DQN
from advantage.algorithms.value.drqn import DRQN as DRQN
from advantage.algorithms.value.retrace_ac import RetraceAC as RetraceAC
from advantage.algorithms.value.sac import SAC as SAC
from advantage.algorithms.value.svg import SVG as SVG
from advantage.algorithms.value.td3 import TD3 as TD3
from advantage.comparison.compare import Comparison as Comparison
from advantage.comparison.compare import compare as compare
from advantage.datasets.dataset import Dataset as Dataset
from advantage.datasets.dataset import DatasetError as DatasetError
from advantage.datasets.files import load_dataset as load_dataset
from advantage.datasets.files import save_dataset as save_dataset
from advantage.diagnosis import diagnose as diagnose
from advantage.drivers.host.stepper import EnvironmentFailure as EnvironmentFailure
from advantage.environments.check import check_environment as check_environment
from advantage.environments.defect import EnvironmentDefect as EnvironmentDefect
from advantage.environments.make import MissingExtra as MissingExtra
from advantage.environments.make import make as make
from advantage.environments.tables.grid import Grid as Grid
from advantage.environments.tables.markov_chain import MarkovChain as MarkovChain
from advantage.environments.tables.mdp import MDP as MDP
from advantage.environments.tables.mdp import POMDP as POMDP
from advantage.evaluation import Evaluation as Evaluation
from advantage.evaluation import evaluate as evaluate
from advantage.experiment import run_experiment as run_experiment
from advantage.exporting.export import export as export
from advantage.importing.sb3 import import_sb3 as import_sb3
from advantage.offline_evaluation import evaluate_offline as evaluate_offline
from advantage.offline_evaluation import policy_estimates as policy_estimates
from advantage.policies.library_networks import from_equinox as from_equinox
from advantage.policies.library_networks import from_flax as from_flax
from advantage.policies.networks import CNN as CNN
from advantage.policies.networks import MLP as MLP
from advantage.policies.networks import Custom as Custom
from advantage.recording import record as record
from advantage.runs.checkpoint import CheckpointError as CheckpointError
from advantage.runs.lock import RunInUse as RunInUse
from advantage.training.callbacks import Callbacks as Callbacks
from advantage.training.nonfinite import NonFiniteUpdate as NonFiniteUpdate
from advantage.training.reporting import Progress as Progress
from advantage.training.sinks import log_to_logging as log_to_logging
from advantage.training.sinks import log_to_mlflow as log_to_mlflow
from advantage.training.sinks import log_to_wandb as log_to_wandb
from advantage.training.train import Run as Run
from advantage.training.train import resume as resume
from advantage.training.train import train as train
from advantage.training.train import train_side_by_side as train_side_by_side
from advantage.tuning.population import train_population as train_population
from advantage.tuning.result import Tuning as Tuning
from advantage.tuning.tune import tune as tune
from advantage.types import Rollout as Rollout
from advantage.types import Spec as Spec

__version__: str
