"""Training: the loop that every algorithm and both drivers share, its run folder, and resuming it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import shlex
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import gymnasium
import jax
import numpy as np

from advantage.algorithms.dynamic_programming.planner import Planner, playable
from advantage.algorithms.policy_gradient.shared.learner import LearnerState, PolicyOptions
from advantage.algorithms.registry import algorithm_name, spec_of, to_json
from advantage.algorithms.search.options import SearchOptions
from advantage.drivers.device import DeviceDriver, share_cores
from advantage.drivers.episode_book import Episodes
from advantage.drivers.host.driver import HostDriver
from advantage.drivers.host.stepper import failure
from advantage.drivers.search.device_games import DeviceGames
from advantage.drivers.search.driver import SearchDriver
from advantage.drivers.search.host_games import HostGames
from advantage.drivers.solver import PlanningDriver
from advantage.environments.check import check_instance, far_bounds
from advantage.environments.make import (
    Environment,
    MissingExtra,
    resolve,
    resolve_recorded,
    table_of,
    word_for,
)
from advantage.environments.spaces import space_to_json
from advantage.evaluation import (
    CONFIG_FIELDS,
    Agent,
    Evaluation,
    evaluate,
    load,
    other_agents,
    restore_checkpoint,
    restore_config,
)
from advantage.machine import available_cores, free_device_bytes, refuse_large
from advantage.matrices import for_each
from advantage.policies.interface import describe_interface, large_layers
from advantage.report import table_report
from advantage.runs.checkpoint import CheckpointError, checkpoint_path, point, prune, save_checkpoint
from advantage.runs.compilation import COMPILE_CLOCK, enable_compilation_cache
from advantage.runs.folder import (
    RunFolder,
    claim_run_folder,
    describe_host,
    open_run_folder,
    read_config,
    write_config,
)
from advantage.runs.interrupt import Interrupt
from advantage.runs.lock import RunLock
from advantage.runs.log import Logger
from advantage.runs.patience import saying
from advantage.runs.plot import plot_curve
from advantage.types import Algorithm, Pytree

RECENT_EPISODES = 100  # over which rollout/ep_rew_mean is taken
LARGEST = 2**32 - 1  # seeds and the step counter are uint32


class NonFiniteUpdate(FloatingPointError):
    """A loss or a gradient became NaN or infinite; the update was not applied."""


class Progress(NamedTuple):
    """What a callback is told after every iteration.

    Attributes:
        seed: which run.
        iteration: updates so far.
        step: environment steps so far, of `total_timesteps`.
        row: the metrics as they are logged: `train/approx_kl`, `rollout/ep_rew_mean`, `time/fps`, ...
    """

    seed: int
    iteration: int
    step: int
    total_timesteps: int
    row: dict[str, float]


Callback = Callable[[Progress], bool | None]


class Reporter(Protocol):
    """Who tells the user what happens; the command line has one, Python's default is silent."""

    def begin(self, facts: dict[str, Any]) -> None: ...
    def update(self, progress: Progress) -> None: ...
    def message(self, text: str) -> None: ...
    def end(self) -> None: ...


class Silent:
    """A reporter that says nothing but Python's warnings."""

    def begin(self, facts: dict[str, Any]) -> None:
        for text in facts["warnings"]:
            warnings.warn(text, stacklevel=2)

    def update(self, progress: Progress) -> None: ...
    def message(self, text: str) -> None: ...
    def end(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Run:
    """A training that has ended, or was stopped.

    Attributes:
        path: its folder.
        seed: its seed.
        step: environment steps taken.
        evaluation: the last evaluation, if there was one.
        finished: whether the budget was spent; a run that a callback stopped can be resumed.
        algorithm: its hyperparameters.
    """

    path: Path
    seed: int
    step: int
    evaluation: Evaluation | None
    finished: bool
    algorithm: Algorithm = dataclasses.field(repr=False)

    @property
    def agent(self) -> Agent:
        """The trained agent, loaded from the last checkpoint."""
        return load(self.path, self.algorithm)


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is organised; nothing here changes what it learns, except `num_envs` and the budget."""

    total_timesteps: int = 1_000_000
    """Environment steps to take, exactly."""
    seed: int = 0
    """Of everything random in the run."""
    num_seeds: int = 1
    """Independent runs with seeds seed, seed + 1, ...; on-device worlds train all at once."""
    num_envs: int = 1
    """Environments stepped side by side."""
    eval_every: int | None = None
    """Environment steps between evaluations; None evaluates once, at the end."""
    eval_episodes: int = 10
    """Episodes of an evaluation; 0 never evaluates."""
    checkpoint_every: int | None = None
    """Environment steps between checkpoints; None makes ten in a run."""
    keep_checkpoints: int = 3
    """Newest checkpoints to keep; the best one is kept besides."""
    workers: int | Literal["auto"] = "auto"
    """Worker processes that step host environments; 0 is none, auto measures and picks."""
    worker_timeout: float = 60.0
    """Seconds after which a worker counts as hung."""
    device: str | None = None
    """Where to compute: cpu, gpu or tpu; None takes JAX's choice."""
    tensorboard: bool = True
    """Write TensorBoard files."""

    def __post_init__(self):
        lowest = {
            "total_timesteps": 1,
            "seed": 0,
            "num_seeds": 1,
            "num_envs": 1,
            "eval_episodes": 0,
            "keep_checkpoints": 1,
        }
        for name, low in lowest.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(f"{name}={value!r} is not allowed; use a whole number of {low} or more.")
        if self.seed + self.num_seeds > LARGEST:
            raise ValueError(
                f"seed={self.seed!r} is not allowed; use a whole number of at most {LARGEST - 1:_}."
            )
        for name in ("eval_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(
                    f"{name}={value!r} is not allowed; use a whole number of steps of 1 or more, or None."
                )
        if self.workers != "auto" and (type(self.workers) is not int or self.workers < 0):
            raise ValueError(
                f"workers={self.workers!r} is not allowed; use 'auto', or a whole number of 0 or more."
            )
        if type(self.worker_timeout) not in (int, float) or not self.worker_timeout > 0:
            raise ValueError(f"worker_timeout={self.worker_timeout!r} is not allowed; use seconds above 0.")
        if type(self.tensorboard) is not bool:
            raise ValueError(f"tensorboard={self.tensorboard!r} is not allowed; use True or False.")
        if self.total_timesteps % self.num_envs:
            below = self.total_timesteps // self.num_envs * self.num_envs
            near = " or ".join(f"{n:_}" for n in (below, below + self.num_envs) if n)
            raise ValueError(
                f"total_timesteps={self.total_timesteps:_} is not a multiple of num_envs={self.num_envs}, which step "
                f"together; use {near}."
            )
        if self.total_timesteps > LARGEST:
            raise ValueError(
                f"total_timesteps={self.total_timesteps:_} is above the step counter's {LARGEST:_}."
            )
        if self.device is not None and self.device not in ("cpu", "gpu", "tpu", "cuda"):
            raise ValueError(f"device={self.device!r} is not allowed; use 'cpu', 'gpu' or 'tpu'.")


def train(
    algorithm: Algorithm,
    environment: Any,
    *,
    out: str | Path | None = None,
    root: str | Path = "runs",
    eval_environment: Any = None,
    callback: Callback | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Any:
    """Train, and leave a run folder.

    Args:
        algorithm: such as `adv.PPO(clip_range=0.2)`.
        environment: a name (`CartPole-v1`, `package:Env-v0`, `jax/CartPole-v1`), a class or function that makes a
            `gymnasium.Env`, a Gymnasium vector environment, or an on-device world.
        out: the run folder; by default a new one below `root`.
        root: where new run folders go.
        eval_environment: what evaluations play; by default the same.
        callback: called with a `Progress` after every iteration; returning False stops the run after a checkpoint.
        reporter: who tells the user what happens; by default only Python's warnings do.
        **options: the fields of `Options`.

    Returns:
        A `Run`, or a list of them for `num_seeds` above 1.

    Raises:
        ValueError: an option, hyperparameter, name or space that is not allowed.
        FileExistsError: `out` exists; RunInUse, which is one, if somebody is writing there.
        EnvironmentDefect, EnvironmentFailure: the environment is wrong, or broke.
        NonFiniteUpdate: the update produced NaN or infinity; the last checkpoint is as it was.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was saved.
    """
    settings, algorithm = _options(options), playable(algorithm)
    target, searching = resolve(environment), hasattr(algorithm, "propose")
    share_cores(available_cores() if searching and target.kind == "device" else settings.num_seeds)
    if target.kind == "vector":
        settings = dataclasses.replace(settings, num_envs=environment.num_envs)
    reporter = reporter or Silent()
    seeds = [settings.seed + n for n in range(settings.num_seeds)]
    at_once = target.kind == "device" and not (isinstance(algorithm, Planner) or searching)
    groups = [seeds] if at_once else [[seed] for seed in seeds]
    runs: list[Run] = []
    for group in groups:
        started = time.perf_counter()
        with _device(settings.device), contextlib.ExitStack() as locks:
            loop = _Loop(algorithm, target, settings, group, callback, reporter, eval_environment, started)
            with contextlib.closing(loop):
                loop.create_folders(Path(out) if out is not None else None, Path(root), locks)
                runs.extend(loop.run())
    return runs if settings.num_seeds > 1 else runs[0]


def resume(
    path: str | Path,
    *,
    total_timesteps: int | None = None,
    environment: Any = None,
    algorithm: Algorithm | None = None,
    eval_environment: Any = None,
    callback: Callback | None = None,
    reporter: Reporter | None = None,
    trust: bool = False,
) -> Run:
    """Go on with a run from its last checkpoint, as if it had never stopped.

    Args:
        path: the run folder.
        total_timesteps: a new budget; by default the old one.
        environment: as for `train`; by default the run's own, and needed where that was a Python object.
        algorithm: needed only where the run had a network or schedule of your own.
        eval_environment, callback, reporter: as for `train`.
        trust: whether the package may be imported that the run's own environment comes from.

    Raises:
        FileNotFoundError, CheckpointError: not a run, no checkpoint, or a damaged one.
        RunInUse: somebody is writing the run; says who.
        ValueError: nothing is left to do, or the environment must be given or its import allowed.
    """
    folder = open_run_folder(Path(path))
    given = environment, algorithm, eval_environment
    with RunLock(folder.path):
        return _go_on(folder, total_timesteps, *given, callback, reporter or Silent(), trust)


def _go_on(
    folder: RunFolder,
    total_timesteps: int | None,
    environment: Any,
    algorithm: Algorithm | None,
    eval_environment: Any,
    callback: Callback | None,
    reporter: Reporter,
    trust: bool,
) -> Run:
    """What `resume` does in a folder that no other process writes."""
    started = time.perf_counter()
    config = read_config(folder, CONFIG_FIELDS)
    algorithm, spec = restore_config(config, folder.config_path, algorithm)
    try:
        settings = _options(config["training"])
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder.config_path}: training: {error}") from None
    if total_timesteps is not None:
        settings = dataclasses.replace(settings, total_timesteps=total_timesteps)
    if environment is None and not config["environment_by_name"]:
        raise ValueError(
            f"The environment of {folder.path} was the Python object {config['environment']}, which no name brings "
            "back; give it again: adv.resume(path, environment=...), or --env NAME for one that has a name."
        )
    with _device(settings.device):
        recorded = environment is None
        target = resolve_recorded(config["environment"], trust) if recorded else resolve(environment)
        loop = _Loop(
            algorithm, target, settings, [settings.seed], callback, reporter, eval_environment, started
        )
        with contextlib.closing(loop):
            if (spec.observation_space, spec.action_space) != (
                loop.spec.observation_space,
                loop.spec.action_space,
            ):
                raise ValueError(
                    f"{target.name} has other spaces than the run in {folder.path} was trained with."
                )
            loop.restore(folder, config)
            return loop.run()[0]


def _options(options: dict[str, Any]) -> Options:
    known = [field.name for field in dataclasses.fields(Options)]
    for name in options:
        if name not in known:
            raise ValueError(f"train() has no option {name!r}; there are: {', '.join(known)}.")
    return Options(**options)


@contextlib.contextmanager
def _device(device: str | None) -> Iterator[None]:
    enable_compilation_cache()
    if device is None:
        yield
        return
    try:
        chosen = jax.devices(device)[0]
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not there: {error}; JAX sees {jax.devices()}.") from None
    with jax.default_device(chosen):
        yield


def _remedy(algorithm: Algorithm) -> str:
    """Which of its options keep a method's steps small, as a sentence."""
    options = {
        name: getattr(algorithm, name, ()) for name in ("learning_rate", "critic_learning_rate", "target_kl")
    }
    lower = [name for name, value in options.items() if value not in ((), None)]
    bound = [name for name in ("max_grad_norm", "target_kl") if getattr(algorithm, name, ()) is None]
    parts = ([f"lower {' or '.join(lower)}"] if lower else []) + (
        [f"set {' or '.join(bound)}"] if bound else []
    )
    advice = ", or ".join(parts) or "check the rewards and observations of the environment"
    return advice[0].upper() + advice[1:] + "."


@dataclasses.dataclass
class _Journal:
    """What one seed's run has written and seen."""

    folder: RunFolder
    logger: Logger
    seed: int
    recent: collections.deque
    best: float = -float("inf")
    evaluation: Evaluation | None = None
    evaluated: int = -1  # the step of the last evaluation


class _Loop:
    """One training: driver, state and journals of one seed, or of several at once on the device."""

    def __init__(
        self,
        algorithm: Algorithm,
        target: Environment,
        settings: Options,
        seeds: list[int],
        callback: Callback | None,
        reporter: Reporter,
        eval_environment: Any,
        started: float,
    ):
        self.algorithm, self.target, self.settings, self.seeds = algorithm, target, settings, seeds
        self.callback, self.reporter, self.started = callback, reporter, started
        self.eval_environment = resolve(eval_environment) if eval_environment is not None else target
        self.planning = isinstance(algorithm, Planner)
        propose: Any = getattr(algorithm, "propose", None)
        self.searching = propose is not None
        self.on_device = target.kind == "device" and not (self.planning or self.searching)
        with saying(f"Making {target.name}.", self.reporter.message):
            spaces = _spaces(target)
        sizes = {"num_envs": settings.num_envs, "total_timesteps": settings.total_timesteps}
        self.spec = spec_of(algorithm, *spaces, **sizes)
        self.iteration, self.step, self.saved_step = 0, 0, -1
        self.has_iterated = False

        @jax.jit
        def begin(algorithm, seeds, total_timesteps):
            spec = dataclasses.replace(self.spec, total_timesteps=total_timesteps)

            def one(seed):
                key_init, key_worlds, key_run = jax.random.split(jax.random.key(seed), 3)
                return algorithm.init(key_init, spec), key_worlds, key_run

            return for_each(one, seeds)

        total = np.uint32(settings.total_timesteps)
        arguments = algorithm, np.array(seeds, np.uint32), total
        size = _bytes_to_learn(begin.eval_shape(*arguments)[0])
        remedy = "use a smaller network (hidden=), or make the observations smaller"
        refuse_large("Learning (weights, their gradient, the optimiser)", size, remedy, free_device_bytes())
        with saying("Drawing the first weights.", self.reporter.message):
            drawn = jax.block_until_ready(begin(*arguments))
        self.state, key_worlds, self.run_keys = drawn
        self.journals: list[_Journal] = []
        self.population = 0, 0  # a search's candidates, and their parameters
        if self.on_device:
            self.driver: Any = DeviceDriver(algorithm, target.source, self.spec, len(seeds))
            self.driver.start(key_worlds)
        else:
            self.state, self.run_key = jax.tree.map(lambda leaf: leaf[0], (self.state, self.run_keys))
        if self.planning:
            self.driver = PlanningDriver(algorithm, table_of(target))
        elif self.searching:
            self.population = jax.eval_shape(propose, self.state, jax.random.key(0)).shape
            self.driver = self._search_driver()
        elif not self.on_device:
            args = algorithm, target.source, self.spec, seeds[0], settings.workers, settings.worker_timeout
            self.driver = HostDriver(*args, in_place=True)

    def _search_driver(self) -> SearchDriver:
        target, settings = self.target, self.settings
        algorithm: Any = self.algorithm
        if target.kind == "vector":
            raise ValueError(
                "A search plays whole episodes, each begun when the last one ends, which a vector environment does not "
                "do; give the name, class or function of a single environment."
            )
        if settings.num_envs != 1:
            raise ValueError(
                f"num_envs={settings.num_envs} is not allowed: a search plays all games of a generation side by side "
                "on the device, and on the host one in each worker; leave num_envs away, or set workers."
            )
        if target.kind == "device":
            games: Any = DeviceGames(algorithm, target.source, self.spec.action_units)
        else:
            games = self.population[0] * algorithm.episodes
            processes = settings.workers, settings.worker_timeout
            games = HostGames(algorithm, target.source, self.spec, games, *processes)
        return SearchDriver(algorithm, games, self.seeds[0], settings.total_timesteps)

    def create_folders(self, out: Path | None, root: Path, locks: contextlib.ExitStack) -> None:
        """Make the run folders and hold them with `locks`, write their configs, begin the first episodes."""
        name = algorithm_name(self.algorithm)
        if not self.on_device:
            with saying("Starting the environments.", self.reporter.message):
                self.driver.start()
        host, folders = describe_host(), []
        for seed in self.seeds:
            path = out if out is None or self.settings.num_seeds == 1 else out / f"seed_{seed}"
            folder, lock = claim_run_folder(
                path, root=root, environment=self.target.name, algorithm=name, seed=seed
            )
            locks.enter_context(lock)
            folders.append(folder)
        for folder, seed in zip(folders, self.seeds, strict=True):
            training = dataclasses.asdict(dataclasses.replace(self.settings, seed=seed, num_seeds=1))
            config = {
                "algorithm": name,
                "hyperparameters": to_json(self.algorithm),
                "environment": self.target.name,
                "environment_by_name": self.target.by_name,
                "seed": seed,
                "spaces": {
                    "observation": space_to_json(self.spec.observation_space),
                    "action": space_to_json(self.spec.action_space),
                },
                "training": training,
                "host": host,
            }
            write_config(folder, config)
            self.journals.append(self._journal(folder, seed))

    def restore(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """Take everything back from the folder's last checkpoint."""
        if not folder.last.exists():
            raise CheckpointError(
                f"{folder.path} holds no checkpoint; the run stopped before its first. Train it anew."
            )
        template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._state_of(0))
        state, records, metadata = restore_checkpoint(folder.last, self.algorithm, template)
        self.step, self.iteration = metadata["step"], metadata["iteration"]
        total = self.settings.total_timesteps
        if not self.on_device and self.target.kind == "vector":
            self.driver.start()
        notices = self.driver.restore(records)
        if self._finished and (not self._evaluates or metadata["evaluated"] >= self.step):
            if self.step < total:
                raise ValueError(
                    f"{folder.path} has converged; to go on, train anew with a smaller tolerance."
                )
            raise ValueError(
                f"{folder.path} has taken its {self.step:_} steps; to go on, give a larger budget: "
                f"--total-timesteps {2 * self.step} (total_timesteps=)."
            )
        state = state._replace(total_timesteps=np.uint32(total))
        self.state = (
            jax.tree.map(lambda leaf: jax.numpy.asarray(leaf)[None], state) if self.on_device else state
        )
        for notice in notices:
            self.reporter.message(notice)
        config["training"]["total_timesteps"] = total
        write_config(folder, config)
        journal = self._journal(folder, self.seeds[0], resume_step=self.step, evaluated=metadata["evaluated"])
        self.journals.append(journal)
        journal.evaluated = metadata["evaluated"]
        journal.best = metadata["best"] if metadata["best"] is not None else -float("inf")
        journal.recent.extend(zip(records["recent/returns"], records["recent/lengths"], strict=True))

    def run(self) -> list[Run]:
        """Iterate until the budget is spent, a callback says stop, or a signal does."""
        settings, total = self.settings, self.settings.total_timesteps
        checkpoint_every = settings.checkpoint_every or max(1, total // 10)
        self.reporter.begin(self._facts())
        clock, first_step, compiling = time.perf_counter(), self.step, COMPILE_CLOCK.seconds
        stopped = False
        if not self.step:
            self._save()  # a run that is killed early can be resumed too
        tell = self.reporter.message
        with Interrupt(tell, self._is_saved, self._farewell) as interrupt, self._last_words():
            if self.searching:
                self.driver.stopped = lambda: interrupt.signal is not None
            while not (self._finished or stopped or interrupt.signal is not None):
                n_steps = 1 if self.searching else self.algorithm.n_steps
                n_steps = min(n_steps, (total - self.step) // settings.num_envs)
                size = n_steps * settings.num_envs
                due = [_next(self.step, checkpoint_every), _next(self.step, settings.eval_every), total]
                count = self._count(min(due) - self.step, size)
                with self._saying_what_compiles():
                    metrics, episodes = self._advance(n_steps, count)
                if self.searching:
                    size = int(episodes[0].lengths.sum())
                    if not size:  # this generation was not told
                        self._say_why_not()
                        continue
                before, self.step = self.step, self.step + count * size
                self.iteration += count
                seconds = time.perf_counter() - clock - (COMPILE_CLOCK.seconds - compiling)
                times = {
                    "time/fps": (self.step - first_step) / max(seconds, 1e-9),
                    "time/elapsed": time.perf_counter() - self.started,
                    "time/compile": COMPILE_CLOCK.seconds - compiling,
                }
                for place in range(len(self.journals)):
                    stopped |= self._report(place, metrics, episodes[place], before, size, count, times)
                evaluating = _crossed(before, self.step, settings.eval_every) and self.step < total
                if evaluating:
                    self._evaluate()
                if _crossed(before, self.step, checkpoint_every) or evaluating:
                    self._save()
            finished = self._finished
            self._save()
            if finished and interrupt.signal is None:
                self._evaluate()
                self._save()
        for place, journal in enumerate(self.journals):
            journal.logger.flush()
            plot_curve(journal.folder)
            self._report_table(place)
        self.reporter.end()
        if interrupt.signal is not None:
            self.reporter.message(self._farewell())
            if interrupt.signal == signal.SIGTERM:
                raise SystemExit(128 + signal.SIGTERM)
            raise KeyboardInterrupt
        runs = ((j.folder.path, j.seed, self.step, j.evaluation, finished) for j in self.journals)
        return [Run(*facts, self.algorithm) for facts in runs]

    def _is_saved(self) -> bool:
        """Whether the last checkpoint holds all that was learned."""
        return self.saved_step == self.step

    def _farewell(self) -> str:
        named = word_for(self.target.name) if self.target.by_name else []
        commands = "; ".join(
            shlex.join(["advantage", "resume", str(journal.folder.path), *named]) for journal in self.journals
        )
        return f"Stopped at step {self.step:_} and saved. To go on: {commands}"

    def _saying_what_compiles(self) -> contextlib.AbstractContextManager[None]:
        """The first call of a driver compiles."""
        if self.has_iterated:
            return contextlib.nullcontext()
        self.has_iterated = True
        return saying(
            "Compiling the programs of this run, and taking its first steps.", self.reporter.message
        )

    @contextlib.contextmanager
    def _last_words(self) -> Iterator[None]:
        """Whatever goes wrong, say where the run can be taken up again."""
        try:
            yield
        except Exception:
            for journal in self.journals:
                with contextlib.suppress(OSError):  # a full disk has been told of already
                    journal.logger.flush()
                saved = int(journal.folder.last.resolve().name.removeprefix("step_"))
                self.reporter.message(
                    f"The run stopped. {journal.folder.last} is as it was at step {saved:_}."
                )
            raise

    def close(self) -> None:
        for journal in self.journals:
            journal.logger.close()
        self.driver.close()
        self.reporter.end()

    def _journal(self, folder: RunFolder, seed: int, **resumed: int) -> _Journal:
        logger = Logger(folder, tensorboard=self.settings.tensorboard, **resumed)
        return _Journal(folder, logger, seed, collections.deque(maxlen=RECENT_EPISODES))

    @property
    def _finished(self) -> bool:
        """Whether the budget is spent, or a plan needs no more of it."""
        return self.step >= self.settings.total_timesteps or (
            (self.planning or self.searching) and self.driver.finished
        )

    @property
    def _evaluates(self) -> bool:
        return self.settings.eval_episodes > 0 and self.eval_environment.kind != "vector"

    def _facts(self) -> dict[str, Any]:
        where = f"on {jax.devices()[0].platform}"
        if not self.on_device:
            where = self.driver.where
        return {
            "algorithm": algorithm_name(self.algorithm),
            "environment": self.target.name,
            "seeds": self.seeds,
            "total_timesteps": self.settings.total_timesteps,
            "step": self.step,
            "num_envs": self.settings.num_envs,
            "stepping": where,
            "rollout_bytes": self.driver.rollout_bytes,
            "planning": self.planning,
            "candidates": self.population[0],
            "parameters": self.population[1],
            "folders": [journal.folder.path for journal in self.journals],
            "interface": self._interface(),
            "warnings": self._warnings(),
        }

    def _interface(self) -> list[str]:
        """What a policy makes of the spaces; tables and solvers take them as they are."""
        if not isinstance(self.algorithm, PolicyOptions | SearchOptions):
            return []
        spec = self.spec
        return describe_interface(spec.observation_space, spec.action_space, spec.action_units)

    def _warnings(self) -> list[str]:
        """What a user should know before time is spent."""
        algorithm, spec = self.algorithm, self.spec
        if not isinstance(algorithm, PolicyOptions | SearchOptions):
            return []
        clips = algorithm.action_bounds == "clip"  # what is squashed fills the bounds wherever they are
        far = far_bounds(spec.action_space, spec.action_units) if clips else []
        large = large_layers(spec.observation_space) if algorithm.network is None else []
        return [*map(str, far), *large]

    def _state_of(self, place: int) -> Pytree:
        """One seed's state; on the device all of them lie side by side."""
        return jax.tree.map(lambda leaf: leaf[place], self.state) if self.on_device else self.state

    def _count(self, steps: int, size: int) -> int:
        """Iterations of `size` steps until `steps` are taken, as far as the driver takes at once."""
        left = self.settings.total_timesteps - self.step
        return max(1, min(self.driver.chunk, -(-steps // size), left // size))

    def _advance(self, n_steps: int, count: int) -> tuple[dict[str, np.ndarray], list[Episodes]]:
        """Iterate; the new state is taken only if every metric is finite."""
        if self.on_device:
            state, metrics, episodes = self.driver.iterate(
                self.state, self.run_keys, self.iteration, count, self.step, n_steps
            )
        else:
            state, metrics, finished = self.driver.iterate(
                self.state, self.run_key, self.iteration, count, self.step, n_steps
            )
            metrics = {name: np.reshape(value, (1, 1)) for name, value in metrics.items()}
            episodes = [finished]
        wrong = {name: ~np.isfinite(value) for name, value in metrics.items() if not np.isfinite(value).all()}
        if wrong:
            place, late = np.argwhere(np.any(list(wrong.values()), axis=0))[0]
            names = ", ".join(sorted(name for name, bad in wrong.items() if bad[place, late]))
            self._refuse(place, min((int(late) + 1) * self.driver.per_row, count), n_steps, names)
        for leaf in jax.tree.leaves(getattr(state, "params", ())):  # not every metric sees them
            if not np.isfinite(leaf).all():
                place = int(np.argwhere(~np.isfinite(leaf))[0][0]) if self.on_device else 0
                self._refuse(place, count, n_steps, "parameters")
        self.state = state
        return metrics, episodes

    def _say_why_not(self) -> None:
        """A search's generation was broken off: it does not fit into the budget, or somebody wishes to stop."""
        total = self.settings.total_timesteps
        if self.driver.finished and not self.step:
            raise ValueError(
                f"total_timesteps={total:_} does not let a first generation play to the end; give more, fewer "
                "candidates, or fewer episodes."
            )
        if self.driver.finished:
            self.reporter.message(
                f"A further generation takes more than the {total - self.step:_} steps left."
            )

    def _refuse(self, place: int, iterations: int, n_steps: int, names: str) -> None:
        """Say what came out of the last of so many iterations, and that it was not applied."""
        last = self.iteration + iterations - 1
        raise NonFiniteUpdate(
            f"The update after step {self.step + iterations * n_steps * self.settings.num_envs:_} (iteration {last}, "
            f"seed {self.seeds[place]}) gave a value that is not finite: {names}. It was not applied; the last "
            f"checkpoint is {self.journals[place].folder.last}. {_remedy(self.algorithm)}"
        )

    def _report(self, place, metrics, episodes: Episodes, before: int, size: int, count: int, times) -> bool:
        journal, stop = self.journals[place], False
        columns = {"r": episodes.returns, "l": episodes.lengths, "step": episodes.steps}
        journal.logger.episodes(columns | {"env": episodes.envs, "episode": episodes.numbers})
        counts = np.minimum(
            np.arange(self.driver.per_row, count + self.driver.per_row, self.driver.per_row), count
        )  # iterations up to each row
        ends = np.searchsorted(episodes.steps, before + size * counts, side="right")
        begin = 0
        for n, end in enumerate(ends):
            journal.recent.extend(zip(episodes.returns[begin:end], episodes.lengths[begin:end], strict=True))
            begin = end
            row = {f"train/{name}": float(value[place, n]) for name, value in metrics.items()}
            if journal.recent:
                returns, lengths = zip(*journal.recent, strict=True)
                row |= {
                    "rollout/ep_rew_mean": float(np.mean(returns)),
                    "rollout/ep_len_mean": float(np.mean(lengths)),
                }
            row |= times
            step, iteration = before + size * int(counts[n]), self.iteration - count + int(counts[n])
            journal.logger.progress(step, {"iteration": iteration, **row})
            progress = Progress(journal.seed, iteration, step, self.settings.total_timesteps, row)
            if place == 0:
                self.reporter.update(progress)
            if self.callback is not None and self.callback(progress) is False:
                stop = True
        return stop

    def _evaluate(self) -> None:
        """Play the same episodes as `adv.evaluate` with the run's seed does, on the current agents."""
        settings = self.settings
        if not self._evaluates:
            if settings.eval_episodes:
                self.reporter.message(
                    "Not evaluated: a vector environment needs an eval_environment beside it."
                )
            return
        for place, journal in enumerate(self.journals):
            with saying(f"Evaluating: {settings.eval_episodes} episodes.", self.reporter.message):
                result = evaluate(
                    self._agent(place),
                    self.eval_environment,
                    episodes=settings.eval_episodes,
                    seed=journal.seed,
                )
            journal.evaluation, journal.evaluated = result, self.step
            journal.logger.evaluation(self.step, result.returns, result.lengths, True, journal.seed)
            who = f"seed {journal.seed}, " if len(self.journals) > 1 else ""
            who += f"{getattr(self.algorithm, 'play', '')}: " if self.searching else ""
            self.reporter.message(f"Evaluation at step {self.step:_}: {who}{result}")
            for name, other in other_agents(self._agent(place)).items():
                result = evaluate(
                    other, self.eval_environment, episodes=settings.eval_episodes, seed=journal.seed
                )
                self.reporter.message(f"Evaluation at step {self.step:_}: {name}: {result}")

    def _agent(self, place: int) -> Agent:
        return Agent(self.algorithm, self._state_of(place), self.spec, self.target.name, self.step)

    def _report_table(self, place: int) -> None:
        """In a finite world, tell and draw the policy of an agent that keeps a table."""
        report, journal = table_report(self._agent(place), self.target), self.journals[place]
        if report is not None:
            unit = "iterations" if self.planning else "steps"
            name = f"{algorithm_name(self.algorithm)} on {self.target.name}"
            report.plot(journal.folder, f"{name}\nseed {journal.seed}, after {self.step:,} {unit}")
            if place == 0:
                verdict = self.driver.verdict if self.planning else None
                for line in report.lines(journal.evaluation, verdict):
                    self.reporter.message(line)

    def _save(self) -> None:
        """Checkpoint every seed; `best` follows the evaluations."""
        for place, journal in enumerate(self.journals):
            records = self.driver.records(place) if self.on_device else self.driver.records()
            returns, lengths = zip(*journal.recent, strict=True) if journal.recent else ((), ())
            records |= {
                "recent/returns": np.array(returns, float),
                "recent/lengths": np.array(lengths, np.int64),
            }
            score = journal.evaluation.mean if journal.evaluation is not None else journal.best
            better = score > journal.best
            journal.best = max(score, journal.best)
            metadata = {
                "algorithm": algorithm_name(self.algorithm),
                "environment": self.target.name,
                "iteration": self.iteration,
                "step": self.step,
                "seed": journal.seed,
                "evaluated": journal.evaluated,
                "best": journal.best if np.isfinite(journal.best) else None,
                "finished": self.settings.total_timesteps if self._finished else None,
            }
            state = self._state_of(place)
            journal.logger.flush()
            folder = journal.folder
            path = checkpoint_path(folder.checkpoints, self.step)
            saved = path.exists()
            # `best` moves before `last` or its checkpoint knows: who is killed in between evaluates again
            if better and saved:
                point(folder.best, path)
            save_checkpoint(folder.checkpoints, self.step, state, records=records, metadata=metadata)
            if better and not saved:
                point(folder.best, path)
            point(folder.last, path)
            protected = {link.resolve() for link in (folder.last, folder.best) if link.exists()}
            prune(folder.checkpoints, self.settings.keep_checkpoints, protected)
        self.saved_step = self.step


def _bytes_to_learn(state: Pytree) -> int:
    """Bytes of a state, and of what an update of its weights needs besides: their gradient and their successors."""
    parts = [state, state.params, state.params] if isinstance(state, LearnerState) else [state]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(parts))


def _spaces(target: Environment) -> tuple[gymnasium.Space, gymnasium.Space]:
    if target.kind == "device":
        return target.source.observation_space, target.source.action_space
    if target.kind == "vector":
        return target.source.single_observation_space, target.source.single_action_space
    try:
        env = target.source()
    except MissingExtra:
        raise
    except Exception as error:
        raise failure("environment 0", "making it", error) from error
    check_instance(env)
    spaces = env.observation_space, env.action_space
    env.close()
    return spaces


def _next(step: int, every: int | None) -> int:
    """The next multiple of `every` after `step`."""
    return LARGEST if every is None else (step // every + 1) * every


def _crossed(before: int, after: int, every: int | None) -> bool:
    return every is not None and after // every > before // every
