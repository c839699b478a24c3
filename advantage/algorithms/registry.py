"""Algorithms by name, and their hyperparameters to and from JSON."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, cast

import gymnasium
import jax

from advantage.algorithms.dynamic_programming.plan import Solver
from advantage.algorithms.dynamic_programming.planner import Planner
from advantage.algorithms.hyperparameters import Linear
from advantage.algorithms.named_class import named_class, place_of
from advantage.algorithms.planning.alphazero import AlphaZero
from advantage.algorithms.planning.distill import Distill
from advantage.algorithms.planning.shared.options import LookaheadOptions
from advantage.algorithms.planning.shared.teachers import Teacher
from advantage.algorithms.playable import Playable, Trainable, playable
from advantage.algorithms.policy_gradient.shared.options import PolicyOptions, UnitsOption
from advantage.algorithms.search.optimiser import HostOptimiser, Optimiser
from advantage.algorithms.search.optimisers import OPTIMISERS
from advantage.algorithms.search.policy_search import PolicySearch
from advantage.algorithms.tabular.given_policy import GivenPolicy
from advantage.types import ActionUnits, Algorithm, LastPart, Spec, World

ALGORITHMS = {
    "ppo": "policy_gradient.ppo:PPO",
    "trpo": "policy_gradient.trpo:TRPO",
    "npg": "policy_gradient.npg:NPG",
    "a2c": "policy_gradient.a2c:A2C",
    "actor-critic": "policy_gradient.one_step_actor_critic:OneStepActorCritic",
    "vpg": "policy_gradient.vpg:VPG",
    "reinforce": "policy_gradient.reinforce:Reinforce",
    "off-policy-pg": "policy_gradient.off_policy_pg:OffPolicyPG",
    "off-policy-ac": "policy_gradient.off_policy_actor_critic:OffPolicyActorCritic",
    "q-prop": "policy_gradient.q_prop:QProp",
    "impala": "policy_gradient.impala:Impala",
    "dqn": "value.dqn:DQN",
    "drqn": "value.drqn:DRQN",
    "dpg": "value.dpg:DPG",
    "ddpg": "value.ddpg:DDPG",
    "td3": "value.td3:TD3",
    "svg": "value.svg:SVG",
    "sac": "value.sac:SAC",
    "crossq": "value.crossq:CrossQ",
    "retrace-ac": "value.retrace_ac:RetraceAC",
    "shooting": "planning.shooting:Shooting",
    "cem-planning": "planning.cem_planning:CEMPlanning",
    "gradient-planning": "planning.gradient_planning:GradientPlanning",
    "exhaustive-search": "planning.exhaustive_search:ExhaustiveSearch",
    "mcts": "planning.mcts:MCTS",
    "pets": "planning.pets:PETS",
    "model": "planning.world_model:WorldModel",
    "inverse-model": "planning.inverse_model:InverseModel",
    "dyna-network": "planning.dyna_network:DynaNetwork",
    "alphazero": "planning.alphazero:AlphaZero",
    "muzero": "planning.muzero:MuZero",
    "planet": "planning.planet:PlaNet",
    "dreamer": "planning.dreamer:Dreamer",
    "autoencoder-policy": "planning.autoencoder_policy:AutoencoderPolicy",
    "distill": "planning.distill:Distill",
    "behaviour-cloning": "imitation.behaviour_cloning:BehaviourCloning",
    **OPTIMISERS,
    "value-iteration": "dynamic_programming.value_iteration:ValueIteration",
    "gauss-seidel": "dynamic_programming.gauss_seidel:GaussSeidel",
    "prioritised-value-iteration": "dynamic_programming.prioritised_value_iteration:PrioritisedValueIteration",
    "policy-iteration": "dynamic_programming.policy_iteration:PolicyIteration",
    "modified-policy-iteration": "dynamic_programming.modified_policy_iteration:ModifiedPolicyIteration",
    "linear-programming": "dynamic_programming.linear_programming:LinearProgramming",
    "backward-induction": "dynamic_programming.backward_induction:BackwardInduction",
    "relative-value-iteration": "dynamic_programming.relative_value_iteration:RelativeValueIteration",
    "monte-carlo-prediction": "tabular.monte_carlo_prediction:MonteCarloPrediction",
    "monte-carlo-off-policy": "tabular.monte_carlo_off_policy:MonteCarloOffPolicy",
    "td": "tabular.td:TD",
    "td-lambda": "tabular.td_lambda:TDLambda",
    "lambda-return": "tabular.lambda_return:OfflineLambdaReturn",
    "monte-carlo-control": "tabular.monte_carlo_control:MonteCarloControl",
    "sarsa": "tabular.sarsa:Sarsa",
    "expected-sarsa": "tabular.expected_sarsa:ExpectedSarsa",
    "sarsa-lambda": "tabular.sarsa_lambda:SarsaLambda",
    "q-learning": "tabular.q_learning:QLearning",
    "double-q-learning": "tabular.double_q_learning:DoubleQLearning",
    "watkins-q-lambda": "tabular.watkins_q_lambda:WatkinsQLambda",
    "tree-backup": "tabular.tree_backup:TreeBackup",
    "dyna": "tabular.dyna:Dyna",
    "posterior-sampling": "tabular.posterior_sampling:PosteriorSampling",
    "prioritised-sweeping": "tabular.prioritised_sweeping:PrioritisedSweeping",
    "epsilon-greedy-bandit": "bandits.epsilon_greedy:EpsilonGreedyBandit",
    "ucb": "bandits.ucb:UCB",
    "thompson": "bandits.thompson:Thompson",
    "gradient-bandit": "bandits.gradient_bandit:GradientBandit",
}
"""Where the class of each algorithm is: `module:class`, with `module` relative to `advantage.algorithms`.

`advantage` exports the classes, and `advantage list` and the presets follow this order.
"""


# Methods that users know from other libraries, without hyphens, and what is here for their tasks.
_NOT_OFFERED = {
    "doubledqn ddqn": "dqn with --double",
    "duelingdqn": "dqn with --dueling",
    "c51": "dqn with --returns categorical",
    "qrdqn iqn": "dqn with --returns quantile",
    "rainbow": "dqn with --preset rainbow",
    "r2d2 recurrentdqn": "drqn",
    "sacdiscrete discretesac": "sac, which takes Discrete actions too",
    "tqc redq": "sac or td3, with --layer-norm and a higher --gradient-steps",
    "droq": "sac with --layer-norm --critic-dropout 0.01 --gradient-steps 20",
    "a3c": "a2c with --cluster and --cluster-mode a3c, or impala for policies that lag behind",
    "acer": "retrace-ac, or impala",
    "acktr": "npg or trpo",
    "recurrentppo ppolstm ppornn": 'ppo with --network lstm (network="lstm")',
    "maskableppo": "ppo, which reads the action masks that an environment gives",
}

# Values of these options in runs that were saved before the options existed.
MEANT_BEFORE: dict[str, Any] = {
    "objective": "clip",
    "kl_target": 0.01,
    "kl_coef": 1.0,
    "action_units": "raw",
    "sequence_length": None,
    "memory_span": None,
    "taught_by": None,
    "loss": "action",
    "layer_norm": False,
    "critic_dropout": None,
}

# Options that had no effect, in the config.json of runs that were saved before they were removed.
NO_LONGER = {"model": ("gamma", "learning_starts"), "inverse-model": ("learning_starts",)}


def algorithm_class(name: str) -> type:
    """The dataclass of an algorithm. Raises ValueError with the nearest names, or with what to use instead."""
    if name in ALGORITHMS:
        return named_class(ALGORITHMS[name])
    bare = name.lower().replace("-", "").replace("_", "")
    instead = next((words for names, words in _NOT_OFFERED.items() if bare in names.split()), None)
    spelt = {known.replace("-", ""): known for known in ALGORITHMS}
    near = (
        [spelt[bare]]
        if bare in spelt
        else difflib.get_close_matches(name.lower(), ALGORITHMS, n=3, cutoff=0.6)
    )
    hint = f"; use {instead}." if instead else f"; did you mean {' or '.join(near)}?" if near else "."
    raise ValueError(
        f"There is no algorithm {name!r}{hint} The algorithms are: {', '.join(ALGORITHMS)}. A class of "
        "your own has no name here; give it in Python: adv.train(YourClass(...), ...), or "
        "adv.load(path, algorithm=YourClass(...))."
    )


def default_algorithm(name: str) -> Trainable:
    """The algorithm of this name with its defaults; for an optimiser, the policy search that uses it.

    Raises:
        ValueError: an unknown name, with the nearest ones.
    """
    algorithm = algorithm_class(name)()
    return PolicySearch(algorithm) if isinstance(algorithm, Optimiser) else algorithm


def trainable(given: Any) -> Trainable:
    """The algorithm that a user gave: an algorithm, its class, or its name on the command line, with its defaults.

    Raises:
        ValueError: an unknown name, a class that needs arguments, or an object that is no algorithm.
    """
    if isinstance(given, str):
        return default_algorithm(given)
    if isinstance(given, type) and dataclasses.is_dataclass(given):
        try:
            given = given()
        except TypeError as error:
            raise ValueError(
                f"The class {given.__name__} was given without its arguments: {error}; write {given.__name__}(...)."
            ) from None
    if not isinstance(given, PolicySearch | Algorithm | Optimiser | Solver) or isinstance(given, type):
        raise ValueError(
            f"{given!r} is not an algorithm; give a name such as 'ppo' (`advantage list` shows all), an object such as "
            "adv.PPO(clip_range=0.2), or a frozen dataclass of your own with the functions of an algorithm, which "
            'docs/design.md lists under "The contract".'
        )
    is_compiled = not isinstance(given, Solver | HostOptimiser)
    if not dataclasses.is_dataclass(given) or (is_compiled and jax.tree_util.all_leaves([given])):
        raise ValueError(
            f"JAX does not know how to take the {type(given).__name__} apart: an algorithm is a frozen dataclass; put "
            "@hyperparameters, from advantage.algorithms.hyperparameters, above its class."
        )
    return given


def algorithm_name(algorithm: Trainable) -> str:
    """The name that an algorithm has on the command line, or the name of its class."""
    cls = type(_inner(algorithm))
    return next((name for name, place in ALGORITHMS.items() if place == place_of(cls)), cls.__name__)


def _inner(algorithm: Trainable) -> Trainable:
    """The part that has the name: the optimiser of a search, the solver of a planner, or the algorithm itself."""
    if isinstance(algorithm, PolicySearch):
        return algorithm.optimiser
    return algorithm.solver if isinstance(algorithm, Planner) else algorithm


def spec_of(
    algorithm: Playable,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    *,
    num_envs: int,
    total_timesteps: int,
    observe_last: tuple[LastPart, ...] = (),
    frame_stack: int = 1,
    world: World | None = None,
) -> Spec:
    """The spec of a run; an algorithm without the option `action_units` acts in units of the bounds."""
    units: ActionUnits = "bounds"
    if isinstance(algorithm, UnitsOption | PolicySearch):
        units = algorithm.action_units
    if isinstance(algorithm, PolicyOptions | PolicySearch) and algorithm.action_bounds == "none":
        units = "unclipped"
    return Spec(
        observation_space, action_space, num_envs, total_timesteps, units, observe_last, frame_stack, world
    )


def plans(algorithm: Trainable) -> bool:
    """Whether an algorithm may plan with the rules of its world, `Spec.world`."""
    return isinstance(algorithm, LookaheadOptions | AlphaZero | Distill)


def hyperparameters_of(algorithm: Trainable) -> dict[str, Any]:
    """All hyperparameters by name: for a search its own and its optimiser's together, for a planner its solver's."""
    values = _fields(_inner(algorithm))
    if not isinstance(algorithm, PolicySearch):
        return values
    of_search = _fields(algorithm)
    del of_search["optimiser"]
    return of_search | values


def with_hyperparameters(algorithm: Trainable, values: dict[str, Any]) -> Trainable:
    """The same algorithm with other values of some hyperparameters, by the names of `hyperparameters_of`."""
    if not isinstance(algorithm, PolicySearch):
        return dataclasses.replace(cast(Any, algorithm), **values)
    own = {name: values[name] for name in values if name in _fields(algorithm.optimiser)}
    rest = {name: values[name] for name in values if name not in own}
    optimiser = dataclasses.replace(cast(Any, algorithm.optimiser), **own)
    return dataclasses.replace(algorithm, optimiser=optimiser, **rest)


def _fields(dataclass: Any) -> dict[str, Any]:
    return {field.name: getattr(dataclass, field.name) for field in dataclasses.fields(dataclass)}


def to_json(algorithm: Trainable) -> dict[str, Any]:
    """Every hyperparameter as JSON; a user's function or network becomes `{"python": its name}`."""
    return {name: _value_to_json(value) for name, value in hyperparameters_of(algorithm).items()}


def from_json(name: str, values: dict[str, Any]) -> Trainable:
    """The algorithm that `to_json` described.

    Raises:
        ValueError: an unknown algorithm or field, a value that is not allowed, or one that only Python can give.
    """
    default = default_algorithm(name)
    known = to_json(default)
    values = {field: value for field, value in values.items() if field not in NO_LONGER.get(name, ())}
    for field in values:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f" (the nearest is {near[0]})" if near else ""
            raise ValueError(f"{name} has no hyperparameter {field!r}{hint}; remove it.")
    values = {name: meant for name, meant in MEANT_BEFORE.items() if name in known} | values
    for field, value in known.items():
        if field not in values:
            raise ValueError(f"{name}'s hyperparameter {field!r} is missing; its default is {value!r}.")
    return with_hyperparameters(
        default, {field: _value_from_json(field, value) for field, value in values.items()}
    )


def _value_to_json(value: Any) -> Any:
    if isinstance(value, Linear):
        return {"linear": [float(value.start), float(value.end)]}
    if isinstance(value, tuple) and all(isinstance(item, int | float) for item in value):
        return list(value)
    if isinstance(value, jax.Array | GivenPolicy):
        return value.tolist()
    if isinstance(value, Teacher):
        return {"algorithm": algorithm_name(value.algorithm), "hyperparameters": to_json(value.algorithm)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {"python": repr(value)}


def _value_from_json(field: str, value: Any) -> Any:
    ends = value.get("linear") if isinstance(value, dict) else None
    if isinstance(ends, list) and len(ends) == 2:
        return Linear(*ends)
    if isinstance(value, dict) and isinstance(value.get("hyperparameters"), dict):
        return Teacher(playable(from_json(str(value.get("algorithm")), value["hyperparameters"])))
    if isinstance(value, dict):
        raise ValueError(
            f"{field} was given from Python as {value.get('python', value)!r} and cannot be read from a file; give the "
            "algorithm again: adv.load(path, algorithm=adv.PPO(...)) or adv.resume(path, algorithm=...)."
        )
    return tuple(value) if isinstance(value, list) else value
