"""The actors of a run: their shares of the environments, what they make, and their replacement when one is lost."""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import cloudpickle
import jax
import numpy as np

from advantage.drivers.cluster.connection import cores_of_cluster, first_line, last_line, ray_library
from advantage.drivers.cluster.rollout_actor import Order, RolloutActor, Setting
from advantage.drivers.host.stepper import (
    Buffers,
    EnvironmentFailure,
    MakeEnvironment,
    buffer_shapes,
)
from advantage.environments.defect import EnvironmentDefect
from advantage.types import Algorithm, Gradient, Pytree, Spec

START_SECONDS = 300.0  # for a node to come up and an environment to be made
GATHER_SECONDS = 60.0  # for actors to find cores
TRIES = 5  # replacements of an actor for one rollout
SMALL = 65_536  # bytes of arrays that travel in one piece
SLOW = 5.0  # times the median rollout; a slower actor is named,
SECONDS_TO_NAME = 2.0  # after so many seconds at the earliest


class ClusterWarning(UserWarning):
    """Something happened to an actor, and the run goes on."""


class Lost(Exception):
    """An actor, the one of `place`, or its node is gone."""

    def __init__(self, place: int, why: str):
        super().__init__(why)
        self.place = place


@dataclasses.dataclass(frozen=True)
class ClusterRun:
    """What is run on a cluster.

    Attributes:
        algorithm, spec: the hyperparameters, and the run's spec.
        make: makes one environment.
        seed: the run's seed.
        actors: their number, at most that of the environments.
        timeout: seconds that an actor may take longer than half of the others.
        log_info: names of numbers in the environments' infos, whose means are metrics.
    """

    algorithm: Algorithm
    make: MakeEnvironment
    spec: Spec
    seed: int
    actors: int
    timeout: float
    log_info: Sequence[str] = ()

    def shapes(self, num_envs: int) -> Buffers:
        """The shapes of a rollout's arrays."""
        spaces = self.spec.observation_space, self.spec.action_space
        return buffer_shapes(*spaces, self.algorithm.n_steps, num_envs, self.log_info)


class Seeker(NamedTuple):
    """An actor that waits for a core of its own, and a reference that is there when its process runs."""

    handle: Any
    greeting: Any


class Actors:
    """All actors of a run.

    Attributes:
        handles: the actor of each place.
        seekers: of places whose actor has no core of its own, the one that will have.
        lost: how many were lost so far.

    Args:
        run: what is run.
        whole: act with the shapes of all environments; see `Setting`.
        gradients: compute gradients too; see `Setting`.
    """

    def __init__(self, run: ClusterRun, *, whole: bool, gradients: bool):
        self.ray, self.timeout, self.spec = ray_library(), run.timeout, run.spec
        number, shapes = min(run.actors, run.spec.num_envs), run.shapes(run.spec.num_envs)
        self.shares = [part.tolist() for part in np.array_split(np.arange(run.spec.num_envs), number)]
        self.settings = [
            cloudpickle.dumps(
                Setting(run.make, run.algorithm, share, run.seed, shapes, run.spec, whole, gradients)
            )
            for share in self.shares
        ]
        self.lost = 0
        self.seekers: dict[int, Seeker] = {}
        self.handles: list[Any] = [self._new(place) for place in range(number)]

    def _new(self, place: int, *, cores: int = 1) -> Any:
        remote = self.ray.remote(RolloutActor)
        return remote.options(num_cpus=cores, max_restarts=0, max_task_retries=0).remote(
            list(sys.path), self.settings[place]
        )

    def with_cores(self) -> int:
        """How many actors have a core of their own."""
        return len(self.handles) - len(self.seekers)

    def where(self) -> str:
        """How many there are, and on which nodes, for the user."""
        return where(self.ray, len(self.handles))

    def greeting(self, place: int) -> Any:
        """A reference that is there when the actor's process runs."""
        return self.handles[place].ready.remote()

    def gradient(self, place: int, n_steps: int) -> Gradient:
        """The gradient of the first steps of an actor's last rollout."""
        return self.answer(place, self.handles[place].gradient.remote(n_steps), self.timeout)

    def share(self, weights: Any) -> Any:
        """What orders take along of a policy: a small one itself, or a reference to the store, once for each node."""
        return small(weights) or self.ray.put(weights)

    def check_number(self, others: str) -> None:
        """Warn if there are more actors than cores; `others` says what becomes of those without one."""
        cores = cores_of_cluster()
        if len(self.handles) > cores:
            warnings.warn(
                f"{len(self.handles)} actors share the {cores} cores of the cluster; those that find no core {others}. "
                "Use fewer actors (--actors), or more nodes.",
                ClusterWarning,
                stacklevel=2,
            )

    def settle(self, places: Collection[int]) -> None:
        """Wait until new actors run. One that finds no core shares another's, until a seeker has found one."""
        new = {place: self.greeting(place) for place in places if place not in self.seekers}
        awaited = new | {place: seeker.greeting for place, seeker in self.seekers.items()}
        due, running = time.monotonic() + GATHER_SECONDS, list[int]()
        while time.monotonic() < due:
            free = cores_of_cluster() - self.with_cores() + len(new)
            if len(running) >= min(free, len(awaited)):
                break
            self.ray.wait([*awaited.values()], num_returns=len(running) + 1, timeout=1.0)
            running = self.finished(awaited)
        for place in new.keys() - {*running}:
            self.seekers[place] = Seeker(self.handles[place], new[place])
            self.handles[place] = self._new(place, cores=0)

    def move(self, replay: Callable[[int], list[str]]) -> None:
        """Let seekers that have found a core take their places, and replay the episodes there; see `replace`."""
        greetings = {place: seeker.greeting for place, seeker in self.seekers.items()}
        for place in self.finished(greetings) if greetings else []:
            self.ray.kill(self.handles[place])
            self.handles[place] = self.seekers.pop(place).handle
            try:
                self._say(replay(place))
            except Lost as error:
                self.replace(place, str(error), replay)

    def order(self, place: int, weights: Any, order: Order) -> Any:
        """Ask an actor for a rollout: a reference to what it will make."""
        return self.handles[place].collect.remote(weights, small(order) or order)

    def reset(self, place: int) -> Pytree:
        """Begin the first episodes of an actor's environments: the observations."""
        return self.answer(place, self.handles[place].reset.remote(), START_SECONDS)

    def info_names(self) -> list[str]:
        """The names in the infos of the first actor's environments."""
        return self.answer(0, self.handles[0].info_names.remote(), self.timeout)

    def restore(self, place: int, index: int, episode: int, actions: Pytree, length: int) -> Pytree:
        """Replay an episode in an actor: the observation that is reached."""
        call = self.handles[place].restore.remote(index, episode, actions, length)
        return self.answer(place, call, START_SECONDS)

    def answer(self, place: int, reference: Any, seconds: float) -> Any:
        """What an actor answers.

        Raises:
            Lost: the actor or its node is gone.
            EnvironmentFailure, EnvironmentDefect: an environment failed, or the actor takes too long.
        """
        return answer(self.ray, place, reference, seconds, f"environments {self.names(place)}")

    def hung(self, place: int, seconds: float) -> EnvironmentFailure:
        """The exception for an actor that does not answer."""
        return hung(place, seconds, f"environments {self.names(place)}")

    def names(self, place: int) -> str:
        """The numbers of an actor's environments."""
        return ", ".join(map(str, self.shares[place]))

    def replace(self, place: int, why: str, replay: Callable[[int], list[str]]) -> None:
        """Make another actor for a share of the environments, and replay their episodes.

        Args:
            place: of the actor.
            why: it is gone.
            replay: restores the environments of a place, and says what could not be.
        """
        for _ in range(TRIES):
            self.renew(place, why)
            self.settle([place])
            try:
                return self._say(replay(place))
            except Lost as error:
                why = str(error)
        raise self.hopeless(place, why)

    def renew(self, place: int, why: str) -> None:
        """Ask for another actor in the place of one that is lost; its process may not run yet."""
        self.lost += 1
        warnings.warn(
            f"Actor {place} (environments {self.names(place)}) is lost: {why}. Another one takes its place, "
            "replays its episodes and makes its rollout again.",
            ClusterWarning,
            stacklevel=2,
        )
        self.ray.kill(self.handles[place])
        self.handles[place] = self._new(place, cores=0 if place in self.seekers else 1)

    def _say(self, notices: Sequence[str]) -> None:
        """Warn of what could not be restored."""
        for notice in notices:
            warnings.warn(notice, ClusterWarning, stacklevel=3)

    def hopeless(self, place: int, why: str) -> EnvironmentFailure:
        """The exception for an actor that is lost again and again."""
        return EnvironmentFailure(
            f"Actor {place} (environments {self.names(place)}) was lost {TRIES} times in a row: {why}. The last "
            "checkpoint is intact; advantage resume goes on from it."
        )

    def wait(self, references: dict[int, Any], *, all_of_them: bool) -> list[int]:
        """Wait for one of the references, or for all: the places that have answered, or are lost.

        Names an actor that takes far longer than the others; raises EnvironmentFailure after the timeout.
        """
        begun, named, first = time.perf_counter(), False, None
        while True:
            number = len(references) if all_of_them else 1
            ready, _ = self.ray.wait([*references.values()], num_returns=number, timeout=0.2)
            answered = [place for place, reference in references.items() if reference in ready]
            now = time.perf_counter()
            if len(answered) == len(references) or (answered and not all_of_them):
                return answered
            if first is None and 2 * len(answered) >= len(references):
                first = now  # half of them are there
            slow = [place for place in references if place not in answered]
            waited, allowed = now - begun, max(self.timeout, START_SECONDS)
            if first is not None:
                waited, allowed = now - first, self.timeout
                if not named and waited > max(SECONDS_TO_NAME, SLOW * (first - begun)):
                    named = True
                    warnings.warn(
                        f"Waiting for actor {', '.join(map(str, slow))}, which takes more than {SLOW:.0f} times as "
                        "long as half of the others.",
                        ClusterWarning,
                        stacklevel=2,
                    )
            if waited > allowed:
                raise self.hung(slow[0], waited)

    def arrived(self, greetings: dict[int, Any], seconds: float) -> list[int]:
        """The places whose processes run by now, or are lost; waits so long for the first of them."""
        self.ray.wait([*greetings.values()], num_returns=1, timeout=seconds)
        return self.finished(greetings)

    def finished(self, references: dict[int, Any]) -> list[int]:
        """The places whose references are there already."""
        ready, _ = self.ray.wait([*references.values()], num_returns=len(references), timeout=0)
        return [place for place, reference in references.items() if reference in ready]

    def close(self) -> None:
        """End every actor."""
        for handle in [*self.handles, *(seeker.handle for seeker in self.seekers.values())]:
            self.ray.kill(handle)


def small(tree: Pytree) -> bytes | None:
    """A tree pickled, if it is small: Ray takes one piece faster than arrays, and much faster than its store."""
    return cloudpickle.dumps(tree) if nbytes(tree) <= SMALL else None


def nbytes(tree: Pytree) -> int:
    """The bytes of all arrays."""
    return sum(np.asarray(x).nbytes for x in jax.tree.leaves(tree))


def where(ray: Any, number: int) -> str:
    """How many actors there are and on which nodes, for the user."""
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    addresses = sorted(set(nodes.values()))
    actors, places = (
        f"{count} {word}{'s' * (count > 1)}" for count, word in ((number, "actor"), (len(nodes), "node"))
    )
    return f"by {actors} on {places} ({', '.join(addresses)})"


def answer(ray: Any, place: int, reference: Any, seconds: float, holds: str) -> Any:
    """What an actor answers.

    Args:
        ray: the library.
        place: of the actor.
        reference: to the answer.
        seconds: to wait for it.
        holds: what the actor does, for messages.

    Raises:
        Lost: the actor or its node is gone.
        EnvironmentFailure, EnvironmentDefect: an environment failed, or the actor takes too long.
    """
    try:
        return ray.get(reference, timeout=seconds)
    except ray.exceptions.GetTimeoutError:
        raise hung(place, seconds, holds) from None
    except ray.exceptions.RayTaskError as error:
        raise _failed(place, error, holds) from error
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayActorError) and error.actor_init_failed:
            own = f"{EnvironmentFailure.__module__}.{EnvironmentFailure.__name__}: "
            raise _not_made(place, last_line(error).removeprefix(own)) from error
        raise Lost(place, first_line(error)) from None


def hung(place: int, seconds: float, holds: str) -> EnvironmentFailure:
    """The exception for an actor that does not answer."""
    return EnvironmentFailure(
        f"Actor {place} ({holds}) has not answered for {seconds:.0f} s. Its environments hang, or no node has a core "
        "for it; set worker_timeout (--worker-timeout) if they are that slow."
    )


def _failed(place: int, error: Any, holds: str) -> Exception:
    """The exception for an error in an actor: that of the environment, with its text."""
    cause = error.cause if error.cause is not None else error
    if isinstance(cause, EnvironmentDefect | EnvironmentFailure):
        return cause
    if isinstance(cause, ImportError | AttributeError):
        return _not_made(place, cause)
    return EnvironmentFailure(f"Actor {place} ({holds}) failed: {error}")


def _not_made(place: int, why: object) -> EnvironmentFailure:
    """The exception for an actor that could not begin."""
    return EnvironmentFailure(
        f"Actor {place} cannot make its environments: {why}. Every node needs the package of the environment, and the "
        "same version of this library and of Python."
    )
