"""Rollouts by actors that do not wait for the learner: each has the newest policy of the time at which it began."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from advantage.algorithms.policy_gradient.impala import Impala
from advantage.drivers.cluster.actors import (
    GATHER_SECONDS,
    START_SECONDS,
    TRIES,
    Actors,
    ClusterRun,
    ClusterWarning,
    Lost,
    nbytes,
)
from advantage.drivers.cluster.connection import cores_of_cluster
from advantage.drivers.cluster.gradients import descended, for_gradients, refuse_gradients
from advantage.drivers.cluster.remote_environments import RemoteEnvironments
from advantage.drivers.cluster.rollout_actor import Made, Order
from advantage.drivers.cluster.synchronous import refuse_short
from advantage.drivers.draws import Draws, draw_compiled
from advantage.drivers.host.collector import Collector
from advantage.drivers.host.driver import first_memory, updated
from advantage.drivers.host.in_place import compiled
from advantage.drivers.host.stepper import allocate
from advantage.drivers.metric_rows import metric_rows
from advantage.drivers.only_seed import only_seed
from advantage.drivers.rollout_size import rollout_bytes
from advantage.drivers.schedule import plan_span, row_ends
from advantage.environments.check import check_spaces
from advantage.types import Algorithm, DriverFacts, Episodes, Iterated, Key, Pytree, Rollout, Span

FRESH = 2**31  # where numbers of draws for rollouts that follow no other begin


class Ordered(NamedTuple):
    """A rollout under way: the reference to it, the version of the policy that makes it, and when it was ordered."""

    reference: Any
    version: int
    begun: float


class Absent(NamedTuple):
    """An actor whose process may not run yet: a reference that is there when it does, and its environments' records.

    Without records its first episodes begin.
    """

    greeting: Any
    records: dict[str, np.ndarray]


class Newest(NamedTuple):
    """The policy of a version: a reference to it, the key of the next update, and noise by the number of its draw."""

    version: int
    weights: Any
    key_update: Key
    noise: Callable[[int], Pytree]


class AsynchronousDriver:
    """Every actor makes rollouts of its own environments; this process learns from each as it comes.

    An actor has at most one rollout that waits for the learner and one that it makes, so the queue is bounded and data
    is a few updates old. How old, the metric `lag` says: the number of updates between the policy that acted and the
    one that learns. One update is one actor's rollout.

    With `gradients` an actor also computes the gradient of its rollout at the parameters that acted, and this process
    steps down it from the newest parameters, with one state of the optimiser for all: A3C. An actor then begins its
    next rollout when its gradient has been applied, so a single actor is never late.

    Actors come and go: the environments of one that is lost wait until a process for them runs, and so do those of
    actors that found no core when the run began. All others go on.

    Args:
        run: what is run; `run.actors` divides the number of environments.
        gradients: actors compute gradients.

    Raises:
        ValueError: an algorithm that late data would bias, or environments that cannot be shared equally.

    Source: Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning", algorithm S3, for A3C; Espeholt et
    al. 2018, "IMPALA", section 3.
    """

    def __init__(self, run: ClusterRun, *, gradients: bool = False):
        algorithm, spec, number = run.algorithm, run.spec, run.actors
        if gradients:
            refuse_gradients(algorithm, "a3c")
        else:
            refuse_asynchronous(algorithm)
        refuse_short(algorithm)
        if run.log_info:
            raise ValueError(
                "log_info is only possible with cluster_mode='synchronous' and 'averaged'; leave it out."
            )
        if spec.num_envs % number:
            raise ValueError(
                f"num_envs={spec.num_envs} is no multiple of actors={number}, which have equal shares; use "
                f"num_envs={number * max(1, spec.num_envs // number)}."
            )
        check_spaces(spec.observation_space, spec.action_space, 0)
        self.algorithm, self.gradients = algorithm, gradients
        self.spec = dataclasses.replace(spec, num_envs=spec.num_envs // number)
        self.rollout_bytes = rollout_bytes(algorithm, self.spec)
        self.at_once = min(cores_of_cluster(), number)
        self.actors = Actors(run, whole=False, gradients=gradients)
        self.actors.check_number("wait for nodes to join")
        self.places = range(number)
        shapes = run.shapes(self.spec.num_envs)
        self.environments = [
            RemoteEnvironments(self.actors, [place], allocate(shapes)) for place in self.places
        ]
        self.collectors = [Collector(each, self.spec) for each in self.environments]
        self.update, self.descend = compiled(updated, True), compiled(descended, True)
        self.orders: dict[int, Ordered] = {}
        self.absent: dict[int, Absent] = {}
        self.losses = [0] * number  # of each actor, since its last rollout
        self.seconds: dict[int, float] = {}  # that the last rollout of a process took

    @property
    def facts(self) -> DriverFacts:
        """How many actors step, and on which nodes."""
        return DriverFacts(f"{self.actors.where()}, asynchronously", nbytes=self.rollout_bytes)

    finished = False

    def start(self, states: Pytree, keys: Key) -> Pytree:
        """Begin the first episodes, where processes run; returns the state of the only seed, without its axis."""
        state = only_seed(states)
        self._begin(state, {place: {} for place in self.places})
        return state

    def _begin(self, state: Pytree, records: dict[int, dict[str, np.ndarray]]) -> list[str]:
        """Wait for an actor, a little for others that a core can have, and begin: notices about their episodes."""
        self.memory = first_memory(self.algorithm, state)
        self.absent = {place: Absent(self.actors.greeting(place), own) for place, own in records.items()}
        notices, due = self._take_up(START_SECONDS), time.monotonic() + GATHER_SECONDS
        while len(self.absent) > len(self.places) - self.at_once and time.monotonic() < due:
            notices += self._take_up(1.0)
        return notices

    def _take_up(self, seconds: float) -> list[str]:
        """Let absent actors whose processes run begin: notices about their episodes.

        Raises:
            EnvironmentFailure: no process runs after START_SECONDS.
        """
        greetings = {place: each.greeting for place, each in self.absent.items()}
        arrived = self.actors.arrived(greetings, seconds) if greetings else []
        if not arrived and seconds >= START_SECONDS:
            raise self.actors.hung(0, seconds)
        notices: list[str] = []
        for place in arrived:
            _, records = self.absent.pop(place)
            try:
                self.actors.answer(place, greetings[place], START_SECONDS)
                if records:
                    notices += self.collectors[place].restore(self.memory, records)
                else:
                    self.collectors[place].start(self.memory)
            except Lost as error:
                self._lose(place, error, records)
        return notices

    def _lose(self, place: int, why: Lost, records: dict[str, np.ndarray]) -> None:
        """Ask for another actor, which restores these records when its process runs."""
        self.losses[place] += 1
        self.seconds.pop(place, None)
        if self.losses[place] >= TRIES:
            raise self.actors.hopeless(place, str(why))
        self.actors.renew(place, str(why))
        self.absent[place] = Absent(self.actors.greeting(place), records)

    def state_of(self, state: Pytree, seed: int) -> Pytree:
        """The state as it is: there is one seed."""
        return state

    def span(self, iteration: int, step: int, until: int) -> Span:
        """As many updates as there are actors, or those that are left."""
        chunk = len(self.places)
        return plan_span(self.algorithm, self.spec, chunk=chunk, iteration=iteration, step=step, until=until)

    def iterate(self, state: Pytree, run_keys: Key, span: Span) -> Iterated:
        """Learn from the next rollouts.

        Raises:
            EnvironmentDefect: a wrong or non-finite observation or reward.
            EnvironmentFailure: an environment raised, no rollout came in time, or an actor was lost again and again.
        """
        found: list[dict[str, Any]] = []
        episodes: list[Episodes] = []
        for n in range(span.count):
            version, first = span.iteration + n, span.first_step + n * span.n_steps * self.spec.num_envs
            newest = self._newest(state, run_keys[0], version)
            place, made, began = self._next(newest, span.n_steps)
            rollout, ended = self._accept(place, made, span.n_steps, first)
            if self.gradients:
                state, metrics = self.descend(self.algorithm, state, rollout, made.gradient)
            else:
                self._order(place, newest, version)  # it need not wait for this update
                state, metrics = self.update(self.algorithm, state, rollout, newest.key_update)
            waiting = len(self.actors.finished({p: each.reference for p, each in self.orders.items()}))
            traffic = nbytes(made) / made.reward.size
            found.append(
                metrics
                | {"lag": version - began, "queue": waiting, "bytes_per_step": traffic}
                | {"actors": len(self.places) - len(self.absent), "actors_lost": self.actors.lost}
            )
            episodes.append(ended)
        largest = {"lag_max": np.full((1, 1), max(each["lag"] for each in found), np.float32)}
        means = largest | {
            name: np.mean([np.float32(value) for value in values], keepdims=True).reshape(1, 1)
            for name, values in _columns(jax.device_get(found)).items()
        }
        row = {name: value.reshape(1, 1) for name, value in metric_rows(means).items()}
        ended = Episodes(*map(np.concatenate, zip(*episodes, strict=True)))
        return Iterated(state, row, [ended], *row_ends(span, span.count, self.spec.num_envs))

    def _newest(self, state: Pytree, run_key: Key, version: int) -> Newest:
        """The policy of a version, shared with all nodes."""
        actor, draws = self._draw(state, run_key, version)
        policy = for_gradients(state) if self.gradients else jax.device_get(actor)
        weights = self.actors.share((version, policy))

        def noise(number: int) -> Pytree:
            drawn = draws if number == version else self._draw(state, run_key, number)[1]
            return jax.device_get(drawn.noise)

        return Newest(version, weights, draws.key_update, noise)

    def _draw(self, state: Pytree, run_key: Key, number: int) -> tuple[Pytree, Draws]:
        shape = self.algorithm.n_steps, self.spec.num_envs
        return draw_compiled(self.algorithm, state, run_key, np.uint32(number), shape=shape)

    def _order(self, place: int, newest: Newest, number: int) -> None:
        """Let an actor begin its next rollout with a policy, and with the noise of a draw that nobody else has."""
        collector, n_steps = self.collectors[place], self.algorithm.n_steps
        order = Order(newest.noise(number), collector.memory, collector.initial_memory, n_steps)
        reference = self.actors.order(place, newest.weights, order)
        self.orders[place] = Ordered(reference, newest.version, time.monotonic())

    def _next(self, newest: Newest, steps: int) -> tuple[int, Made, int]:
        """The next rollout that is there, its actor, and the version that made it; `steps` of it are used."""
        while True:
            for notice in self._take_up(0 if len(self.absent) < len(self.places) else START_SECONDS):
                warnings.warn(notice, ClusterWarning, stacklevel=2)
            idle = sorted({*self.places} - {*self.absent} - {*self.orders})
            for place in idle:
                own = FRESH + (newest.version * len(self.places) + place) % FRESH
                first = self.gradients and place == idle[0]  # the one whose gradient has been applied
                self._order(place, newest, newest.version if first else own)
            if not self.orders:
                continue
            self._refuse_hung()
            references = {place: each.reference for place, each in self.orders.items()}
            place = self.actors.wait(references, all_of_them=False)[0]
            ordered = self.orders.pop(place)
            try:
                made = self.actors.answer(place, ordered.reference, self.actors.timeout)
                if self.gradients and steps < self.algorithm.n_steps:  # the run's last update
                    made = made._replace(gradient=self.actors.gradient(place, steps))
                self.losses[place], self.seconds[place] = 0, made.seconds
                return place, made, ordered.version
            except Lost as error:
                self._lose(place, error, self.collectors[place].records())

    def _refuse_hung(self) -> None:
        """Raise EnvironmentFailure if a rollout takes too long while others come; a first one has time to compile."""
        usual = self.actors.timeout + float(np.median([*self.seconds.values()] or [0.0]))
        for place, (reference, _, begun) in self.orders.items():
            allowed = usual if place in self.seconds else max(usual, START_SECONDS)
            seconds = time.monotonic() - begun
            if seconds > allowed and not self.actors.finished({place: reference}):
                raise self.actors.hung(place, seconds)

    def _accept(self, place: int, made: Made, steps: int, first_step: int) -> tuple[Rollout, Episodes]:
        """An actor's rollout, as far as the budget reaches, and the episodes that ended in it."""
        collector, rows = self.collectors[place], slice(0, steps)
        collector.go_on()
        before = collector.memory
        self.environments[place].enter(place, made, steps)
        collector.memory = made.memory
        episodes = collector.end_at(steps, first_step)
        chosen, extras = (jax.tree.map(lambda x: x[rows], part) for part in (made.chosen, made.extras))
        first_env = place * self.spec.num_envs
        return (
            collector.rollout(chosen, extras, before, rows),
            episodes._replace(envs=episodes.envs + first_env),
        )

    def conclusion(self, step: int) -> list[str]:
        """How many actors were lost, if any."""
        lost = self.actors.lost
        return [f"{lost} actors were lost and replaced."] if lost else []

    def records(self, seed: int) -> dict[str, np.ndarray]:
        """What a checkpoint needs to restore every environment, as it was after its actor's last rollout.

        Environments that have not begun yet are left out.
        """
        kept = {
            place: self.absent[place].records if place in self.absent else self.collectors[place].records()
            for place in self.places
        }
        return {f"actor/{place}/{name}": x for place, own in kept.items() for name, x in own.items()}

    def restore(self, state: Pytree, keys: Key, records: dict[str, np.ndarray]) -> tuple[Pytree, list[str]]:
        """Replay the running episodes, where processes run; with a notice for each that could not be restored."""
        kept: dict[int, dict[str, np.ndarray]] = {}
        for place in self.places:
            prefix = f"actor/{place}/"
            kept[place] = {
                name.removeprefix(prefix): x for name, x in records.items() if name.startswith(prefix)
            }
        return state, self._begin(state, kept)

    def close(self) -> None:
        self.actors.close()


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def refuse_asynchronous(algorithm: Algorithm) -> None:
    """Raise ValueError for a method whose gradient late data would bias, or that mixes rollouts of several actors."""
    name = type(algorithm).__name__
    if not isinstance(algorithm, Impala):
        raise ValueError(
            f"{name} cannot learn asynchronously: its gradient is that of the policy that acted, and data of an older "
            "policy would bias it. Use impala, which corrects for that, or cluster_mode=synchronous."
        )
    if algorithm.correction == "none" or algorithm.lag:
        raise ValueError(
            f"correction={algorithm.correction!r} with lag={algorithm.lag} is not allowed on asynchronous actors, "
            "lag is real; use correction='vtrace', or 'ignored' to see the effect, and lag=0."
        )
    if algorithm.network in ("gru", "lstm") or algorithm.normalize_reward:
        what = "normalize_reward=True" if algorithm.normalize_reward else f"network={algorithm.network!r}"
        raise ValueError(
            f"{what} is not allowed on asynchronous actors: what it remembers belongs to one environment, and rollouts "
            "come in any order. Use cluster_mode=synchronous, or switch it off."
        )
