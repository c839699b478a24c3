"""The options of `train` that are not hyperparameters of the algorithm."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any, Literal, get_args

import tyro

from advantage.drivers.cluster.connection import check_cluster, cores_of_cluster
from advantage.drivers.make_driver import ClusterMode, Processes
from advantage.environments.last_step import last_parts
from advantage.environments.modifications import Modifications
from advantage.plain_values import plain_bool, plain_number, whole_number
from advantage.types import LastPart

LARGEST = 2**32 - 1  # seeds and the step counter are uint32
_LOWEST = {
    "total_timesteps": 1,
    "seed": 0,
    "num_seeds": 1,
    "num_envs": 1,
    "frame_stack": 1,
    "eval_episodes": 0,
    "keep_checkpoints": 1,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a run. What it learns depends on its seed, budget, `num_envs` and environment, and on nothing else."""

    total_timesteps: int = 1_000_000
    """Exact number of environment steps to take."""
    seed: int = 0
    """Seed of all random numbers in the run."""
    num_seeds: int = 1
    """Number of independent runs, with seeds seed, seed + 1, ...; on-device worlds train them all at once."""
    num_envs: int = 1
    """Number of environments stepped together."""
    observe_last: tuple[LastPart, ...] = ()
    """Part of the last step, action or reward, that each observation has too, for a policy with memory; can be
    repeated."""
    frame_stack: int = 1
    """Number of latest observations stacked into one, so that a policy without memory sees motion; 1: no stack."""
    data: str | None = None
    """File of recorded episodes (advantage record, or Minari's): the examples of behaviour-cloning; in dqn, dpg, ddpg,
    td3, sac and crossq the first transitions of the replay buffer."""
    env_options: Annotated[dict[str, Any], tyro.conf.arg(name="env-option")] = dataclasses.field(
        default_factory=dict
    )
    """Keyword of the environment's constructor, KEY=VALUE with a JSON value; can be repeated."""
    wrappers: Annotated[tuple[Any, ...], tyro.conf.arg(name="wrapper")] = ()
    """Wrapper to put around the environment, module:Wrapper or module:Wrapper(8, key="value"); can be repeated."""
    ignore_observation: tuple[str, ...] = ()
    """Part of a Dict observation to leave out, such as a text; can be repeated."""
    log_info: tuple[str, ...] = ()
    """Number in the environment's info to log, as info/NAME; episode.r reaches into a dict; can be repeated."""
    eval_every: int | None = None
    """Environment steps between evaluations; None evaluates once, at the end."""
    eval_episodes: int = 10
    """Number of episodes in an evaluation; 0 never evaluates."""
    stop_at_return: float | None = None
    """Stop when the mean return of an evaluation reaches this; needs eval_every."""
    patience: int | None = None
    """Stop when this many evaluations in a row are not better than the best one before; needs eval_every."""
    video_every: int | None = None
    """Environment steps between films of one episode, in the run's folder videos/; None films none."""
    checkpoint_every: int | None = None
    """Environment steps between checkpoints; None makes ten in a run."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints to keep; the best one is always kept."""
    keep_replay: bool = True
    """Checkpoints contain the replay buffer, so that a resumed run is exact; without, they are small."""
    workers: int | Literal["auto"] = "auto"
    """Number of worker processes that step host environments; 0 is none, auto measures and chooses."""
    worker_timeout: float = 60.0
    """Seconds after which a worker counts as hung."""
    cluster: str | None = None
    """Step environments by actors of a Ray cluster: auto joins the one that runs on this machine, an address such as
    10.0.0.5:6379 another one, local or local:4 starts one here; None uses no cluster."""
    cluster_mode: ClusterMode = "synchronous"
    """All actors make each rollout with the newest policy, as on one machine (synchronous), and each computes the
    gradient of its part (averaged); or each goes on without waiting, and the method corrects for late data
    (asynchronous), or applies late gradients (a3c)."""
    actors: int | None = None
    """Number of actors on the cluster, each with its share of num_envs; None takes one for each core."""
    device: str | None = None
    """Device to compute on: cpu, gpu or tpu; None uses JAX's choice."""
    tensorboard: bool = True
    """Write TensorBoard files."""

    def __post_init__(self):
        _check_modifications(self)
        for name, low in _LOWEST.items():
            self._set(name, whole_number, lambda n, low=low: n >= low, f"use a whole number of {low} or more")
        if self.cluster is not None:
            check_cluster(self.cluster)
        if self.data is not None:
            remedy = "give the path of a file of recorded episodes"
            self._set("data", lambda x: str(x) if isinstance(x, str | Path) else None, bool, remedy)
        if self.actors is not None:
            self._set("actors", whole_number, lambda n: n >= 1, "use a whole number of 1 or more, or None")
        for name in ("eval_every", "checkpoint_every", "video_every"):
            if getattr(self, name) is not None:
                remedy = "use a whole number of steps of 1 or more, or None"
                self._set(name, whole_number, lambda n: n >= 1, remedy)
        _check_early_stopping(self)
        if self.workers != "auto":
            remedy = "use 'auto', or a whole number of 0 or more"
            self._set("workers", whole_number, lambda n: n >= 0, remedy)
        remedy = "use a finite number of seconds above 0"
        self._set("worker_timeout", plain_number, lambda seconds: 0 < seconds < math.inf, remedy)
        if self.cluster_mode not in get_args(ClusterMode):
            raise ValueError(
                f"cluster_mode={self.cluster_mode!r} is not allowed; use one of {', '.join(get_args(ClusterMode))}."
            )
        for name in ("tensorboard", "keep_replay"):
            self._set(name, plain_bool, lambda flag: True, "use True or False")
        if self.seed + self.num_seeds > LARGEST:
            raise ValueError(
                f"seed={self.seed!r} is not allowed; use a whole number of at most {LARGEST - 1:_}."
            )
        if self.total_timesteps % self.num_envs:
            below = self.total_timesteps // self.num_envs * self.num_envs
            near = " or ".join(f"{n:_}" for n in (below, below + self.num_envs) if n)
            raise ValueError(
                f"total_timesteps={self.total_timesteps:_} is not a multiple of num_envs={self.num_envs}, which step "
                f"together; use {near}."
            )
        if self.total_timesteps > LARGEST:
            raise ValueError(
                f"total_timesteps={self.total_timesteps:_} is above the step counter's limit {LARGEST:_}."
            )
        if self.device is not None and self.device not in ("cpu", "gpu", "tpu", "cuda"):
            raise ValueError(f"device={self.device!r} is not allowed; use 'cpu', 'gpu' or 'tpu'.")

    def _set(self, name: str, read: Callable[[Any], Any], allows: Callable[[Any], bool], remedy: str) -> None:
        """Replace an option by Python's own value. Raises ValueError if it has none, or one that is not allowed."""
        given = getattr(self, name)
        value = read(given)
        if value is None or not allows(value):
            raise ValueError(f"{name}={given!r} is not allowed; {remedy}.")
        object.__setattr__(self, name, value)


def _check_early_stopping(options: Options) -> None:
    """Raise ValueError unless the rules of early stopping are numbers and there are evaluations to go by."""
    if options.patience is not None:
        options._set(
            "patience", whole_number, lambda n: n >= 1, "use a whole number of evaluations of 1 or more"
        )
    if options.stop_at_return is not None:
        options._set("stop_at_return", plain_number, math.isfinite, "use a finite number, or None")
    rules = [name for name in ("stop_at_return", "patience") if getattr(options, name) is not None]
    if rules and (options.eval_every is None or not options.eval_episodes):
        raise ValueError(
            f"{rules[0]} goes by the evaluations during the run, and there are none; set eval_every (--eval-every) to "
            "the number of steps between them, and eval_episodes to 1 or more."
        )


def _check_modifications(options: Options) -> None:
    """Raise ValueError for keywords, wrappers or names of another form; lists become tuples.

    Also for `observe_last` and `log_info`.
    """
    if not isinstance(options.env_options, dict) or not all(
        isinstance(name, str) for name in options.env_options
    ):
        raise ValueError(
            f"env_options={options.env_options!r} is not allowed; use a dict of keywords for the environment's "
            'constructor, such as {"size": 8}.'
        )
    examples = {"wrappers": "module:Wrapper", "ignore_observation": "mission", "log_info": "is_success"}
    for name, example in examples.items():
        value = getattr(options, name)
        texts = isinstance(value, list | tuple) and all(
            isinstance(each, str) or (name == "wrappers" and callable(each)) for each in value
        )
        if not texts:
            raise ValueError(f"{name}={value!r} is not allowed; use a list such as [{example!r}].")
        object.__setattr__(options, name, tuple(value))
    object.__setattr__(options, "observe_last", last_parts(options.observe_last))
    wrong = [name for name in options.log_info if not name or set(name) & set(',"\r\n')]
    if wrong or len(set(options.log_info)) < len(options.log_info):
        raise ValueError(
            f"log_info={list(options.log_info)!r} is not allowed; use each name once, without commas, quotes and line "
            "breaks, which a CSV file could not hold."
        )


def recorded(options: Options) -> dict[str, Any]:
    """The options as config.json records them: what has no form in JSON is named, and has to be given again."""
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(Options)}
    wrappers = [
        each.__qualname__ if isinstance(each, type | FunctionType) else str(each) for each in options.wrappers
    ]
    keywords = json.loads(json.dumps(options.env_options, default=repr))
    return fields | {
        "wrappers": wrappers,
        "env_options": keywords,
        "ignore_observation": list(options.ignore_observation),
        "observe_last": list(options.observe_last),
        "log_info": list(options.log_info),
    }


def modifications_of(options: Options) -> Modifications:
    """How the environment of a run is made besides its name."""
    return Modifications(options.env_options, options.wrappers, options.ignore_observation)


def processes_of(options: Options) -> Processes:
    """Which processes step the environments of a run; it has joined its cluster."""
    actors = 0 if options.cluster is None else options.actors or cores_of_cluster()
    return Processes(options.workers, options.worker_timeout, actors, options.cluster_mode)


def options_from(options: dict[str, Any]) -> Options:
    """The options with these values. Raises ValueError for a name or a value that is not allowed."""
    known = [field.name for field in dataclasses.fields(Options)]
    for name in options:
        if name not in known:
            raise ValueError(f"train() has no option {name!r}; there are: {', '.join(known)}.")
    return Options(**options)
