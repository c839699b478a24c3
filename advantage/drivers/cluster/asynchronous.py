"""Rollouts by actors that do not wait for the learner: each has the newest policy of the time at which it began."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from advantage.algorithms.policy_gradient.impala import Impala
from advantage.drivers.cluster.actors import Actors, Lost, RemoteEnvironments, nbytes, share_of
from advantage.drivers.cluster.rollout_actor import Made, Order
from advantage.drivers.cluster.synchronous import refuse_short
from advantage.drivers.draws import Draws, draw_compiled
from advantage.drivers.host.collector import Collector
from advantage.drivers.host.driver import first_memory, updated
from advantage.drivers.host.in_place import compiled
from advantage.drivers.host.stepper import MakeEnvironment, allocate, buffer_shapes
from advantage.drivers.metric_rows import metric_rows
from advantage.drivers.only_seed import only_seed
from advantage.drivers.rollout_size import rollout_bytes
from advantage.drivers.schedule import plan_span, row_ends
from advantage.environments.check import check_spaces
from advantage.types import Algorithm, DriverFacts, Episodes, Iterated, Key, Pytree, Rollout, Span, Spec

FRESH = 2**31  # numbers of draws for rollouts that follow no other: the first ones, and those of new actors


class Ordered(NamedTuple):
    """A rollout under way: the reference to it, and the version of the policy that makes it."""

    reference: Any
    version: int


class Newest(NamedTuple):
    """The policy of a version: a reference to it, the key of the next update, and noise by the turn of its use."""

    version: int
    weights: Any
    key_update: Key
    noise: Callable[[int], Pytree]


class AsynchronousDriver:
    """Every actor makes rollouts of its own environments; this process learns from each as it comes.

    An actor has at most one rollout that waits for the learner and one that it makes, so the queue is bounded and data
    is a few updates old. How old, the metric `lag` says: the number of updates between the policy that acted and the
    one that learns. One update is one actor's rollout.

    Args:
        algorithm, spec: the hyperparameters, and the run's spec.
        make: makes one environment.
        seed: the run's seed.
        number: of actors; it divides the number of environments.
        timeout: seconds that may pass without any rollout.
        log_info: must be empty.

    Raises:
        ValueError: an algorithm that does not correct for late data, or environments that cannot be shared equally.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        make: MakeEnvironment,
        spec: Spec,
        seed: int,
        *,
        number: int,
        timeout: float,
        log_info: Sequence[str] = (),
    ):
        refuse_asynchronous(algorithm)
        refuse_short(algorithm)
        if log_info:
            raise ValueError("log_info is not possible with cluster_mode='asynchronous'; leave it out.")
        if spec.num_envs % number:
            raise ValueError(
                f"num_envs={spec.num_envs} is no multiple of actors={number}, which have equal shares; use "
                f"num_envs={number * max(1, spec.num_envs // number)}."
            )
        check_spaces(spec.observation_space, spec.action_space, 0)
        self.algorithm = algorithm
        self.spec = dataclasses.replace(spec, num_envs=spec.num_envs // number)
        self.rollout_bytes = rollout_bytes(algorithm, self.spec)
        self.actors = Actors(algorithm, make, spec, seed, number, timeout, False)
        shapes = buffer_shapes(
            spec.observation_space, spec.action_space, algorithm.n_steps, self.spec.num_envs
        )
        self.places = range(number)
        self.environments = [
            RemoteEnvironments(self.actors, [place], allocate(shapes)) for place in self.places
        ]
        self.collectors = [Collector(each, self.spec) for each in self.environments]
        self.update = compiled(updated, True)
        self.orders: dict[int, Ordered] = {}

    @property
    def facts(self) -> DriverFacts:
        """How many actors step, and on which nodes."""
        return DriverFacts(f"{self.actors.where()}, asynchronously", nbytes=self.rollout_bytes)

    finished = False

    def start(self, states: Pytree, keys: Key) -> Pytree:
        """Begin the first episode of every environment; returns the state of the only seed, without its axis."""
        state = only_seed(states)
        memory = first_memory(self.algorithm, state)
        for collector in self.collectors:
            collector.start(memory)
        return state

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
            for place in self.places:
                if place not in self.orders:
                    self._order(place, newest, FRESH)
            place, made, began = self._next(newest)
            rollout, ended = self._accept(place, made, span.n_steps, first)
            self._order(place, newest, 0)
            state, metrics = self.update(self.algorithm, state, rollout, newest.key_update)
            waiting = len(self.actors.finished({p: each.reference for p, each in self.orders.items()}))
            traffic = nbytes(made) / made.reward.size
            found.append(
                metrics
                | {"lag": version - began, "queue": waiting, "bytes_per_step": traffic}
                | {"actors_lost": self.actors.lost}
            )
            episodes.append(ended)
        means = {
            name: np.mean([np.float32(value) for value in values], keepdims=True).reshape(1, 1)
            for name, values in _columns(jax.device_get(found)).items()
        }
        row = {name: value.reshape(1, 1) for name, value in metric_rows(means).items()}
        ended = Episodes(*map(np.concatenate, zip(*episodes, strict=True)))
        return Iterated(state, row, [ended], *row_ends(span, span.count, self.spec.num_envs))

    def _newest(self, state: Pytree, run_key: Key, version: int) -> Newest:
        """The policy of a version, shared with all nodes."""
        actor, draws = self._draw(state, run_key, version)
        weights = self.actors.share((version, jax.device_get(actor)))

        def noise(turn: int) -> Pytree:
            drawn = draws if turn == 0 else self._draw(state, run_key, version + turn)[1]
            return jax.device_get(drawn.noise)

        return Newest(version, weights, draws.key_update, noise)

    def _draw(self, state: Pytree, run_key: Key, number: int) -> tuple[Pytree, Draws]:
        shape = self.algorithm.n_steps, self.spec.num_envs * len(self.places)
        return draw_compiled(self.algorithm, state, run_key, np.uint32(number), shape=shape)

    def _order(self, place: int, newest: Newest, turn: int) -> None:
        """Let an actor begin its next rollout with a policy, and its own columns of the noise."""
        collector, size = self.collectors[place], self.spec.num_envs
        noise = share_of(newest.noise(turn), slice(place * size, (place + 1) * size), 1)
        order = Order(noise, collector.memory, collector.initial_memory, self.algorithm.n_steps)
        self.orders[place] = Ordered(self.actors.order(place, newest.weights, order), newest.version)

    def _next(self, newest: Newest) -> tuple[int, Made, int]:
        """The next rollout that is there, its actor, and the version that made it."""
        while True:
            references = {place: each.reference for place, each in self.orders.items()}
            place = self.actors.wait(references, all_of_them=False)[0]
            ordered = self.orders.pop(place)
            try:
                return (
                    place,
                    self.actors.answer(place, ordered.reference, self.actors.timeout),
                    ordered.version,
                )
            except Lost as error:
                self.actors.replace(place, str(error), self._replay)
                self._order(place, newest, FRESH + self.actors.lost)

    def _replay(self, place: int) -> list[str]:
        """Restore the environments of an actor as they were after its last rollout."""
        collector = self.collectors[place]
        records = collector.records()
        return [n for env in range(self.spec.num_envs) for n in collector.replay(env, records)]

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
        """What a checkpoint needs to restore every environment, as it was after its actor's last rollout."""
        return {
            f"actor/{place}/{name}": x
            for place, collector in enumerate(self.collectors)
            for name, x in collector.records().items()
        }

    def restore(self, state: Pytree, keys: Key, records: dict[str, np.ndarray]) -> tuple[Pytree, list[str]]:
        """Replay every environment's running episode; with a notice for each that could not be restored."""
        memory, notices = first_memory(self.algorithm, state), []
        for place, collector in enumerate(self.collectors):
            prefix = f"actor/{place}/"
            own = {name.removeprefix(prefix): x for name, x in records.items() if name.startswith(prefix)}
            notices += collector.restore(memory, own)
        return state, notices

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
