"""The choice of the driver that runs an algorithm in an environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from advantage.algorithms.dynamic_programming.planner import Planner
from advantage.algorithms.imitation.behaviour_cloning import BehaviourCloning
from advantage.algorithms.playable import Playable
from advantage.algorithms.search.policy_search import PolicySearch
from advantage.datasets.dataset import Dataset
from advantage.drivers.dataset import DatasetDriver
from advantage.drivers.device import DeviceDriver
from advantage.drivers.host.driver import HostDriver
from advantage.drivers.search.device_games import DeviceGames
from advantage.drivers.search.driver import SearchDriver
from advantage.drivers.search.games import GamePlayer
from advantage.drivers.search.host_games import HostGames
from advantage.drivers.solver import SolverDriver
from advantage.environments.environment import Environment
from advantage.environments.make import table_of
from advantage.types import Algorithm, Driver, Search, Spec

ClusterMode = Literal["synchronous", "asynchronous", "averaged", "a3c"]


class Processes(NamedTuple):
    """Which processes step host environments.

    Attributes:
        workers: number of worker processes here; "auto" measures and chooses.
        worker_timeout: seconds after which a worker, or an actor, counts as hung.
        actors: number of actors on the cluster that this process has joined; 0 uses none.
        mode: how actors and learner work together; see `Options.cluster_mode`.
    """

    workers: int | Literal["auto"]
    worker_timeout: float
    actors: int = 0
    mode: ClusterMode = "synchronous"


def takes_many_seeds(algorithm: Playable, environment: Environment) -> bool:
    """Whether one driver runs several seeds side by side; otherwise they run one after the other."""
    alone = isinstance(algorithm, Planner | PolicySearch | BehaviourCloning)
    return environment.kind == "device" and not alone


class Given(NamedTuple):
    """What some runs are given besides their algorithm and environment.

    Attributes:
        log_info: names of numbers in the environment's info, whose means are metrics.
        members: an algorithm for each seed, if they differ.
        dataset: recorded episodes, for a method that learns from nothing else.
    """

    log_info: Sequence[str] = ()
    members: Sequence[Algorithm] = ()
    dataset: Dataset | None = None


NOTHING = Given()


def make_driver(
    algorithm: Playable,
    environment: Environment,
    spec: Spec,
    *,
    seeds: list[int],
    processes: Processes,
    stopped: Callable[[], bool],
    given: Given = NOTHING,
) -> Driver:
    """The driver of a run.

    Args:
        algorithm: a learner, a search, or a solver in a `Planner`.
        environment: the environment to act in.
        spec: the run's spec.
        seeds: seeds of the runs that are trained together; one, unless `takes_many_seeds`.
        processes: which processes step.
        stopped: returns whether the run should stop.
        given: what some runs are given besides.

    Raises:
        ValueError: the algorithm cannot run in this environment or on a cluster, or there is no info to log.
    """
    log_info = given.log_info
    if log_info:
        _refuse_without_info(algorithm, environment, log_info)
    workers, worker_timeout = processes[:2]
    if isinstance(algorithm, BehaviourCloning):
        assert given.dataset is not None  # it was asked for
        return DatasetDriver(algorithm, given.dataset, spec)
    if processes.actors and (isinstance(algorithm, Planner) or environment.kind != "host"):
        _refuse_cluster(environment)
    if isinstance(algorithm, Planner):
        return SolverDriver(algorithm, table_of(environment), spec.total_timesteps)
    if isinstance(algorithm, PolicySearch):
        player = _game_player(algorithm, environment, spec, processes, log_info)
        return SearchDriver(
            algorithm,
            player,
            seed=seeds[0],
            total_timesteps=spec.total_timesteps,
            stopped=stopped,
            log_info=log_info,
        )
    if processes.actors:
        return _cluster_driver(algorithm, environment, spec, seeds[0], processes, log_info)
    if environment.kind == "device":
        return DeviceDriver(algorithm, environment.source, spec, len(seeds), given.members)
    return HostDriver(
        algorithm,
        environment.source,
        spec,
        seeds[0],
        workers=workers,
        worker_timeout=worker_timeout,
        in_place=True,
        log_info=log_info,
    )


def _refuse_cluster(environment: Environment) -> None:
    kinds = {"device": "an on-device world", "vector": "a vector environment"}
    what = kinds.get(environment.kind, "a solver")
    raise ValueError(
        f"A cluster steps Gymnasium environments, for methods that learn from them, and {what} is not that; leave out "
        "cluster (--cluster)."
    )


def _cluster_driver(
    algorithm: Algorithm,
    environment: Environment,
    spec: Spec,
    seed: int,
    processes: Processes,
    log_info: Sequence[str],
) -> Driver:
    from advantage.drivers.cluster.actors import ClusterRun
    from advantage.drivers.cluster.asynchronous import AsynchronousDriver
    from advantage.drivers.cluster.synchronous import SynchronousDriver

    actors, mode = min(processes.actors, spec.num_envs), processes.mode
    run = ClusterRun(algorithm, environment.source, spec, seed, actors, processes.worker_timeout, log_info)
    if mode in ("synchronous", "averaged"):
        return SynchronousDriver(run, averaged=mode == "averaged")
    return AsynchronousDriver(run, gradients=mode == "a3c")


def _refuse_without_info(algorithm: Playable, environment: Environment, log_info: Sequence[str]) -> None:
    if isinstance(algorithm, Planner | BehaviourCloning):
        reason = "this method takes no steps"
    elif environment.kind == "device":
        reason = f"{environment.name} is an on-device world, whose steps have no info"
    else:
        return
    raise ValueError(
        f"log_info={list(log_info)!r} (--log-info) is not possible here: {reason}. Leave it out, or train a method "
        "that learns from steps in a Gymnasium environment, whose step() returns an info."
    )


def _game_player(
    algorithm: Search,
    environment: Environment,
    spec: Spec,
    processes: Processes,
    log_info: Sequence[str],
) -> GamePlayer:
    if environment.kind == "vector":
        raise ValueError(
            "A search plays whole episodes, one after another, which a vector environment does not support; give "
            "the name, class or function of a single environment."
        )
    if spec.num_envs != 1:
        raise ValueError(
            f"num_envs={spec.num_envs} is not allowed: a search plays all games of a generation side by side "
            "on the device, and on the host one in each worker; leave out num_envs, or set workers."
        )
    if environment.kind == "device":
        return DeviceGames(algorithm, environment.source, spec.action_units)
    workers, timeout = processes[:2]
    if processes.actors:
        from advantage.drivers.cluster.games import ClusterGames

        return ClusterGames(algorithm, environment.source, spec, processes.actors, timeout, log_info)
    return HostGames(algorithm, environment.source, spec, workers, timeout, log_info)
