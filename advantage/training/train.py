"""The two functions of training: `train` begins a run, `resume` continues one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from advantage.agent import CONFIG_FIELDS, Agent, load, read_saved, restore_config
from advantage.algorithms.imitation.behaviour_cloning import BehaviourCloning
from advantage.algorithms.playable import Playable, Trainable, playable
from advantage.algorithms.registry import algorithm_name, to_json, trainable
from advantage.drivers.cluster.connection import Connection
from advantage.drivers.device import share_cores
from advantage.drivers.make_driver import takes_many_seeds
from advantage.environments.environment import Environment, fitting, observing
from advantage.environments.make import resolve, resolve_recorded
from advantage.environments.modifications import Modifications, Wrapper, modified
from advantage.environments.version import version_of
from advantage.evaluation import Evaluation
from advantage.machine import available_cores
from advantage.plain_values import plain_path
from advantage.replay.left_out import has_replay
from advantage.runs.checkpoint import CheckpointError
from advantage.runs.compilation import enable_compilation_cache, in_single_precision, use_threads
from advantage.runs.folder import RunFolder, describe_host, open_run_folder, read_config, refuse_links_out
from advantage.runs.lock import RunLock
from advantage.runs.recorded import as_saved
from advantage.training.announcements import differences
from advantage.training.callbacks import Callback, listeners_of
from advantage.training.first_state import spaces_of
from advantage.training.loop import Loop, Training
from advantage.training.options import Options, modifications_of, options_from
from advantage.training.reporting import Reporter, Silent
from advantage.training.teacher import with_teacher
from advantage.training.threads import threads_of
from advantage.types import Algorithm, Spec

BEGINS_EMPTY = (
    "The run's checkpoints are without its replay buffer (--no-keep-replay, keep_replay=False): it begins empty, so "
    "the numbers differ from those of a run that was not stopped."
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A training that has ended, or was stopped.

    Attributes:
        path: the run folder.
        seed: the run's seed.
        step: environment steps taken.
        evaluation: the last evaluation, if there was one.
        finished: whether the budget was spent; a run that a callback stopped can be resumed.
        algorithm: the algorithm with its hyperparameters.
        environment: where it was trained; None for a run that was imported.
    """

    path: Path
    seed: int
    step: int
    evaluation: Evaluation | None
    finished: bool
    algorithm: Playable = dataclasses.field(repr=False)
    environment: Environment | None = dataclasses.field(default=None, repr=False)

    @property
    def agent(self) -> Agent:
        """The trained agent, loaded from the last checkpoint."""
        return load(self.path, self.algorithm, self.environment)


@in_single_precision
def train(
    algorithm: Trainable | type | str,
    environment: Any,
    *,
    out: str | Path | None = None,
    root: str | Path = "runs",
    eval_environment: Any = None,
    callback: Callback | list[Callback] | tuple[Callback, ...] | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Any:
    """Train an agent and write a run folder.

    Args:
        algorithm: such as `adv.PPO(clip_range=0.2)` or `adv.PolicySearch(adv.CEM(), hidden=(8,))`. An optimiser such as
            `adv.CEM()` is turned into a policy search. A class or a name, `"ppo"`, is taken with its defaults.
        environment: a name (`CartPole-v1`, `package:Env-v0`, `jax/CartPole-v1`), a class or function that makes a
            `gymnasium.Env`, a Gymnasium vector environment, or an on-device world.
        out: the run folder; by default a new one below `root`.
        root: where new run folders go.
        eval_environment: the environment for evaluations; by default the same.
        callback: a function of the `Progress` after each iteration, `adv.Callbacks(...)` with functions for the start,
            iterations, episodes, evaluations and the end, or a list of these; one that returns False stops the run
            after a checkpoint.
        reporter: tells the user what happens; by default only Python warnings are issued.
        **options: the fields of `Options`.

    Returns:
        A `Run`, or a list of them for `num_seeds` above 1.

    Raises:
        ValueError: an option, hyperparameter, name or space that is not allowed.
        FileExistsError: `out` exists; its subclass RunInUse if another process is writing there.
        EnvironmentDefect, EnvironmentFailure: the environment has a defect, or it failed.
        NonFiniteUpdate: the update produced NaN or infinity; the last checkpoint is unchanged.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was saved.
    """
    settings, chosen = options_from(options), playable(trainable(algorithm))
    place, root = None if out is None else plain_path("out", out), plain_path("root", root)
    modifications = modifications_of(settings)
    target = observing(
        modified(resolve(environment), modifications), settings.observe_last, settings.frame_stack
    )
    if target.kind == "vector":
        settings = dataclasses.replace(settings, num_envs=target.source.num_envs)
    chosen = with_teacher(chosen, target)
    seeds = [settings.seed + n for n in range(settings.num_seeds)]
    at_once = takes_many_seeds(chosen, target)
    if target.kind == "device":
        share_cores(settings.num_seeds if at_once else available_cores())
    evaluated_on = target if eval_environment is None else resolve(eval_environment)
    training = Training(chosen, target, evaluated_on, settings, listeners_of(callback), reporter or Silent())
    runs: list[Run] = []
    for group in [seeds] if at_once else [[seed] for seed in seeds]:
        name = f"advantage train {algorithm_name(chosen)} {target.name} --seed {group[0]}"
        with _device(settings.device), _cluster(settings, name), contextlib.ExitStack() as locks:
            loop = Loop(training, group)
            with contextlib.closing(loop):
                loop.create_folders(_paths(place, group, settings), root, locks)
                runs.extend(_run(loop))
    return runs if settings.num_seeds > 1 else runs[0]


def train_side_by_side(
    algorithms: Sequence[Algorithm],
    environment: Any,
    *,
    out: Sequence[Path],
    callback: Callback | None = None,
    **options: Any,
) -> list[Run]:
    """Train several settings of an algorithm in an on-device world in one program, with one seed each.

    Each run has the numbers that it has alone, up to rounding, and a run folder of its own, which `resume` continues.

    Args:
        algorithms: the settings, which differ in the values of floats only.
        environment: an on-device world, as for `train`.
        out: the run folder of each.
        callback: as for `train`; it hears of all runs, and stops all.
        **options: the fields of `Options`, the same for all.

    Raises:
        ValueError: the settings differ in more than floats, or the environment is no on-device world.
    """
    seeds = [options_from(options).seed] * len(algorithms)
    return train_members(
        algorithms, environment, seeds=seeds, out=out, callback_of=lambda _: callback, **options
    )


@in_single_precision
def train_members(
    algorithms: Sequence[Algorithm],
    environment: Any,
    *,
    seeds: Sequence[int],
    out: Sequence[Path],
    callback_of: Callable[[Loop], Callback | None],
    **options: Any,
) -> list[Run]:
    """What `train_side_by_side` does, with a seed for each run.

    Args:
        algorithms, environment, out: as there.
        seeds: the seed of each run.
        callback_of: makes the callback, from the loop that it may look into and change.
        **options: the fields of `Options`, the same for all.
    """
    settings = options_from(options)
    target = observing(
        modified(resolve(environment), modifications_of(settings)),
        settings.observe_last,
        settings.frame_stack,
    )
    if settings.num_seeds > 1 or not takes_many_seeds(algorithms[0], target):
        raise ValueError(
            f"{target.name}: only an on-device world (jax/...), with one seed for each run, trains several settings "
            "side by side; train them one after the other."
        )
    share_cores(len(algorithms))
    training = Training(
        algorithms[0], target, target, settings, listeners_of(None), Silent(), list(algorithms)
    )
    with _device(settings.device), contextlib.ExitStack() as locks:
        loop = Loop(training, list(seeds))
        loop.listeners = listeners_of(callback_of(loop))
        with contextlib.closing(loop):
            loop.create_folders([Path(path) for path in out], Path("runs"), locks)
            return _run(loop)


def _paths(out: Path | None, seeds: Sequence[int], settings: Options) -> list[Path | None]:
    """The run folder of each seed; None for a new one."""
    if out is None or settings.num_seeds == 1:
        return [out for _ in seeds]
    return [out / f"seed_{seed}" for seed in seeds]


def _run(loop: Loop) -> list[Run]:
    finished = loop.run()
    return [
        Run(
            path=journal.folder.path,
            seed=journal.seed,
            step=loop.step,
            evaluation=journal.last_evaluation(),
            finished=finished,
            algorithm=algorithm,
            environment=loop.environment,
        )
        for journal, algorithm in zip(loop.journals, loop.algorithms, strict=True)
    ]


@in_single_precision
def resume(
    path: str | Path,
    *,
    total_timesteps: int | None = None,
    environment: Any = None,
    algorithm: Trainable | type | str | None = None,
    env_options: dict[str, Any] | None = None,
    wrappers: Sequence[Wrapper] = (),
    eval_environment: Any = None,
    callback: Callback | list[Callback] | tuple[Callback, ...] | None = None,
    reporter: Reporter | None = None,
    trust: bool = False,
    cluster: str | None = None,
) -> Run:
    """Resume a run from a checkpoint, as if it had never stopped; a run that had finished gets what it lacks.

    Args:
        path: the run folder, whose last checkpoint is taken, or one of its checkpoints (`checkpoints/step_...`,
            `best`). If it has later checkpoints they are moved to `set_aside`, with a copy of the logs.
        total_timesteps: a new budget, by which the run no longer stops early; by default the old one.
        environment: as for `train`; by default the run's own. Needed if that was a Python object.
        algorithm: needed only if the run used your own network or schedule.
        env_options, wrappers: as for `train`, for an `environment` that is given; the run's own come with `trust`.
        eval_environment, callback, reporter: as for `train`.
        trust: whether the package, keywords and wrappers of the run's own environment may be used.
        cluster: as for `train`; what the run's folder says of it is not followed.

    Raises:
        FileNotFoundError, CheckpointError: there is no run at `path`, or it has no checkpoint or a damaged one.
        RunInUse: another process is writing the run; the message says which.
        ValueError: the budget is below the steps that were taken, or the environment must be given or its import
            allowed.
    """
    path = plain_path("path", path)
    folder = open_run_folder(path)
    with RunLock(folder.path):
        refuse_links_out(folder, folder.checkpoints, folder.last, folder.best, folder.videos)
        config = as_saved(path, folder, read_config(folder, CONFIG_FIELDS))
        chosen, spec = restore_config(config, folder.config_path, algorithm, environment)
        settings = _recorded_options(folder, config, total_timesteps, cluster)
        if not isinstance(
            chosen, BehaviourCloning
        ):  # the replay buffer has had the data since the first step
            settings = dataclasses.replace(settings, data=None)
        if environment is None and not config["environment_by_name"]:
            raise ValueError(
                f"The environment of {folder.path} was the Python object {config['environment']}, which has no "
                "name; give it again: adv.resume(path, environment=...), or --env NAME for one that has a name."
            )
        use_threads(threads_of(config.get("host")))
        with _device(settings.device), _cluster(settings, f"advantage resume {folder.path}"):
            modifications = modifications_of(settings)
            if environment is None:
                target = resolve_recorded(config["environment"], trust, modifications)
            else:
                own = Modifications(env_options or {}, tuple(wrappers), modifications.ignored)
                target = modified(resolve(environment), own)
            target = observing(
                fitting(target, spec.observation_space), settings.observe_last, settings.frame_stack
            )
            _refuse_other_spaces(target, spec, folder)
            given = algorithm is not None
            saved = read_saved(path, folder, config, given=given, algorithm=chosen, spec=spec)
            _refuse_smaller_budget(folder, saved.metadata["step"], total_timesteps)
            evaluated_on = target if eval_environment is None else resolve(eval_environment)
            training = Training(
                chosen, target, evaluated_on, settings, listeners_of(callback), reporter or Silent()
            )
            loop = Loop(training, [settings.seed])
            with contextlib.closing(loop):
                for notice in differences(config.get("host"), describe_host(version_of(target))):
                    loop.say(notice)
                if not settings.keep_replay and has_replay(saved.state):
                    loop.say(BEGINS_EMPTY)
                if given:
                    config["hyperparameters"] = to_json(chosen)
                loop.restore(folder, config, saved)
                return _run(loop)[0]


def _refuse_smaller_budget(folder: RunFolder, step: int, total_timesteps: int | None) -> None:
    if total_timesteps is not None and total_timesteps < step:
        raise ValueError(
            f"{folder.path} has taken its {step:_} steps, and total_timesteps={total_timesteps:_} is below them; give "
            f"a larger budget: --total-timesteps {2 * step} (total_timesteps=)."
        )


def _recorded_options(
    folder: RunFolder, config: dict[str, Any], total_timesteps: int | None, cluster: str | None
) -> Options:
    """The run's own options, with a new budget if one is given, and with the cluster that is given or none."""
    try:
        settings = options_from(config["training"])
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder.config_path}: training: {error}") from None
    if settings.cluster is not None and settings.cluster_mode in ("asynchronous", "a3c") and cluster is None:
        raise ValueError(
            f"{folder.path} was trained by asynchronous actors of a cluster; say which one goes on: --cluster local, "
            "auto or an address (cluster=)."
        )
    settings = dataclasses.replace(settings, cluster=cluster)
    if total_timesteps is None:
        return settings
    return dataclasses.replace(settings, total_timesteps=total_timesteps, stop_at_return=None, patience=None)


def _refuse_other_spaces(target: Environment, spec: Spec, folder: RunFolder) -> None:
    if (spec.observation_space, spec.action_space) != spaces_of(target):
        raise ValueError(f"{target.name} has other spaces than the run in {folder.path} was trained with.")


def _cluster(settings: Options, name: str) -> contextlib.AbstractContextManager[Any]:
    """The cluster that this process belongs to while it trains, if there is one."""
    if settings.cluster is None:
        return contextlib.nullcontext()
    return Connection(settings.cluster, name)


@contextlib.contextmanager
def _device(device: str | None) -> Iterator[None]:
    enable_compilation_cache()
    if device is None:
        yield
        return
    try:
        chosen = jax.devices(device)[0]
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not available: {error}; JAX sees {jax.devices()}.") from None
    with jax.default_device(chosen):
        yield
