"""Rollouts by the actors of a cluster, all with the newest policy: the numbers are those of one machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from advantage.drivers.cluster.actors import TRIES, Actors, ClusterRun, Lost, nbytes
from advantage.drivers.cluster.gradients import descended, for_gradients, mean_gradient, refuse_gradients
from advantage.drivers.cluster.remote_environments import RemoteEnvironments, share_of
from advantage.drivers.cluster.rollout_actor import Made, Order
from advantage.drivers.draws import draw_compiled
from advantage.drivers.host.collector import Collector
from advantage.drivers.host.driver import first_memory, updated
from advantage.drivers.host.in_place import compiled
from advantage.drivers.host.stepper import allocate
from advantage.drivers.info_means import InfoMeans, mean_of
from advantage.drivers.metric_rows import metric_rows
from advantage.drivers.only_seed import only_seed
from advantage.drivers.rollout_size import refuse_what_does_not_fit, rollout_bytes
from advantage.drivers.schedule import SHORT, plan_span, row_ends
from advantage.environments.check import check_spaces
from advantage.machine import free_host_bytes
from advantage.types import Algorithm, DriverFacts, Iterated, Key, Pytree, Span


class SynchronousDriver:
    """Every actor makes its columns of each rollout; this process learns.

    An actor acts with the shapes of all environments, and noise is drawn here. So each number is that of one machine
    with the same number of environments, bit for bit. An actor that is lost is replaced: its environments' episodes are
    replayed and its part of the rollout is made again, which gives the same numbers too. Actors that find no core share
    those of others, and move when one comes free: nodes come and go, and no number changes.

    With `averaged` the actors are learners too: each computes the gradient of its own columns, and this process steps
    down their mean. That is the gradient of one learner with all columns, to the rounding of a sum.

    Args:
        run: what is run.
        averaged: the actors compute gradients.

    Raises:
        ValueError: the algorithm cannot learn in this way, or a rollout does not fit into memory.
    """

    def __init__(self, run: ClusterRun, *, averaged: bool = False):
        algorithm, spec = self.algorithm, self.spec = run.algorithm, run.spec
        refuse_short(algorithm)
        if averaged:
            refuse_gradients(algorithm, "averaged")
        check_spaces(spec.observation_space, spec.action_space, 0)
        self.rollout_bytes = rollout_bytes(algorithm, spec)
        refuse_what_does_not_fit(self.rollout_bytes, free_host_bytes(), algorithm.n_steps, spec.num_envs)
        self.averaged = averaged
        self.actors = Actors(run, whole=True, gradients=averaged)
        self.places = range(len(self.actors.shares))
        self.actors.check_number("share one with others until nodes join")
        self.actors.settle(self.places)
        self.environments = RemoteEnvironments(self.actors, self.places, allocate(run.shapes(spec.num_envs)))
        self.collector = Collector(self.environments, spec)
        self.info = InfoMeans(run.log_info, self.environments.info_names)
        self.update, self.descend = compiled(updated, True), compiled(descended, True)

    @property
    def facts(self) -> DriverFacts:
        """How many actors step, and on which nodes."""
        return DriverFacts(self.actors.where(), nbytes=self.rollout_bytes)

    finished = False

    def start(self, states: Pytree, keys: Key) -> Pytree:
        """Begin the first episode of every environment; returns the state of the only seed, without its axis."""
        state = only_seed(states)
        memory = first_memory(self.algorithm, state)
        self._in_all_actors(lambda: self.collector.start(memory))
        return state

    def state_of(self, state: Pytree, seed: int) -> Pytree:
        """The state as it is: there is one seed."""
        return state

    def span(self, iteration: int, step: int, until: int) -> Span:
        """One iteration."""
        return plan_span(self.algorithm, self.spec, chunk=1, iteration=iteration, step=step, until=until)

    def iterate(self, state: Pytree, run_keys: Key, span: Span) -> Iterated:
        """Make one rollout and its update.

        Raises:
            EnvironmentDefect: a wrong or non-finite observation or reward.
            EnvironmentFailure: an environment raised, or an actor hung or was lost again and again.
        """
        shape = span.n_steps, self.spec.num_envs
        actor, draws = draw_compiled(
            self.algorithm, state, run_keys[0], np.uint32(span.iteration), shape=shape
        )
        self.collector.go_on()
        weights = for_gradients(state) if self.averaged else jax.device_get(actor)
        made = self._made(weights, jax.device_get(draws.noise), span)
        for place in self.places:
            self.environments.enter(place, made[place], span.n_steps)
        action, extras = (
            jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)
            for parts in ([made[p].chosen for p in self.places], [made[p].extras for p in self.places])
        )
        before = self.collector.memory
        self.collector.memory = jax.tree.map(
            lambda *x: np.concatenate(x), *(made[place].memory for place in self.places)
        )
        episodes = self.collector.end_at(span.n_steps, span.first_step)
        rows = slice(0, span.n_steps)
        rollout = self.collector.rollout(action, extras, before, rows)
        if self.averaged:
            parts: list[Any] = [made[place].gradient for place in self.places]
            gradient = mean_gradient(parts, [len(share) for share in self.actors.shares])
            state, metrics = self.descend(self.algorithm, state, rollout, gradient)
        else:
            state, metrics = self.update(self.algorithm, state, rollout, draws.key_update)
        logged = {name: mean_of(x[rows]) for name, x in self.collector.buffers.info.items()}
        traffic = sum(nbytes(each) for each in made.values()) / (shape[0] * shape[1])
        metrics = jax.device_get(metrics) | self.info.metrics(logged, len(episodes.returns))
        counts = {"actors": self.actors.with_cores(), "actors_lost": self.actors.lost}
        metrics |= {"bytes_per_step": np.float32(traffic)} | {
            name: np.float32(n) for name, n in counts.items()
        }
        row = {name: value.reshape(1, 1) for name, value in metric_rows(metrics).items()}
        return Iterated(state, row, [episodes], *row_ends(span, 1, self.spec.num_envs))

    def _made(self, policy: Pytree, noise: Pytree, span: Span) -> dict[int, Made]:
        """The part of the rollout of every actor, by its place."""
        self.actors.move(self._replay)
        weights = self.actors.share((span.iteration, policy))
        made: dict[int, Made] = {}

        def order(place: int) -> Any:
            columns = self.environments.columns[place]
            what = Order(
                share_of(noise, columns, 1),
                share_of(self.collector.memory, columns, 0),
                self.collector.initial_memory,
                span.n_steps,
            )
            return self.actors.order(place, weights, what)

        references = {place: order(place) for place in self.places}
        while references:
            for place in self.actors.wait(references, all_of_them=True):
                reference = references.pop(place)
                try:
                    made[place] = self.actors.answer(place, reference, self.actors.timeout)
                except Lost as error:
                    self.actors.replace(place, str(error), self._replay)
                    references[place] = order(place)
        return made

    def _in_all_actors(self, begin: Callable[[], Any]) -> Any:
        """What `begin` returns, which is called again when an actor was lost meanwhile and another took its place."""
        losses: Counter[int] = Counter()
        while True:
            try:
                return begin()
            except Lost as error:
                losses[error.place] += 1
                if losses[error.place] == TRIES:
                    raise self.actors.hopeless(error.place, str(error)) from None
                self.actors.renew(error.place, str(error))
                self.actors.settle([error.place])

    def _replay(self, place: int) -> list[str]:
        """Restore the environments of an actor as they were before the rollout."""
        records, columns = self.collector.records(), self.environments.columns[place]
        return [
            notice
            for env in range(columns.start, columns.stop)
            for notice in self.collector.replay(env, records)
        ]

    def conclusion(self, step: int) -> list[str]:
        """How many actors were lost, if any."""
        self.info.end()
        lost = self.actors.lost
        return [f"{lost} actors were lost and replaced."] if lost else []

    def records(self, seed: int) -> dict[str, np.ndarray]:
        """What a checkpoint needs to restore every environment: those of a run on one machine."""
        return self.collector.records()

    def restore(self, state: Pytree, keys: Key, records: dict[str, np.ndarray]) -> tuple[Pytree, list[str]]:
        """Replay every environment's running episode; with a notice for each that could not be restored."""
        memory = first_memory(self.algorithm, state)
        return state, self._in_all_actors(lambda: self.collector.restore(memory, records))

    def close(self) -> None:
        self.collector.close()


def refuse_short(algorithm: Algorithm) -> None:
    """Raise ValueError for iterations that are shorter than a message to an actor."""
    if algorithm.n_steps < SHORT:
        raise ValueError(
            f"n_steps={algorithm.n_steps} is not allowed on a cluster, where every rollout takes a message to each "
            f"actor and back; use {SHORT} or more. Gradient steps are counted for each environment step where a method "
            "has gradient_steps, so set that in proportion."
        )
