"""advantage: policy optimization on JAX.

    import advantage as adv
    run = adv.train(adv.PPO(), "CartPole-v1", total_timesteps=100_000)
    agent = adv.load(run.path)

A name is imported when it is first used, so that the command line starts quickly. `__init__.pyi` tells type checkers
where each name comes from; `make format` writes it.
"""

import importlib

__version__ = "1.0.0"

# The module of each name, relative to `advantage`; algorithms are in `algorithms/registry.py`.
_HOMES = {
    "Linear": "algorithms.hyperparameters",
    "Preset": "algorithms.presets",
    "preset": "algorithms.presets",
    "search": "algorithms",
    "PolicySearch": "algorithms.search.policy_search",
    "Solution": "algorithms.dynamic_programming.solve",
    "solve": "algorithms.dynamic_programming.solve",
    "Comparison": "comparison.compare",
    "compare": "comparison.compare",
    "diagnose": "diagnosis",
    "Dataset": "datasets.dataset",
    "DatasetError": "datasets.dataset",
    "load_dataset": "datasets.files",
    "save_dataset": "datasets.files",
    "MDP": "environments.tables.mdp",
    "POMDP": "environments.tables.mdp",
    "MarkovChain": "environments.tables.markov_chain",
    "Grid": "environments.tables.grid",
    "EnvironmentDefect": "environments.defect",
    "check_environment": "environments.check",
    "MissingExtra": "environments.make",
    "make": "environments.make",
    "Agent": "agent",
    "Evaluation": "evaluation",
    "export": "exporting.export",
    "evaluate": "evaluation",
    "import_sb3": "importing.sb3",
    "load": "agent",
    "evaluate_offline": "offline_evaluation",
    "policy_estimates": "offline_evaluation",
    "record": "recording",
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
    "Callbacks": "training.callbacks",
    "log_to_logging": "training.sinks",
    "log_to_mlflow": "training.sinks",
    "log_to_wandb": "training.sinks",
    "Run": "training.train",
    "resume": "training.train",
    "train": "training.train",
    "train_side_by_side": "training.train",
    "train_population": "tuning.population",
    "Tuning": "tuning.result",
    "tune": "tuning.tune",
    "Rollout": "types",
    "Spec": "types",
}


def __getattr__(name: str) -> object:
    homes = _homes()
    if name not in homes:
        raise AttributeError(f"module 'advantage' has no attribute {name!r}")
    home = importlib.import_module(f"advantage.{homes[name]}")
    value = getattr(home, name, None) or importlib.import_module(f"{home.__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_homes()})


def _homes() -> dict[str, str]:
    """The module of every name, relative to `advantage`: the names above and the classes of all algorithms."""
    from advantage.algorithms.registry import ALGORITHMS

    algorithms = (place.split(":") for place in ALGORITHMS.values())
    return _HOMES | {cls: f"algorithms.{module}" for module, cls in algorithms}
