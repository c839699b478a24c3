"""Rollouts by the actors of a cluster, all with the newest policy: the numbers are those of one machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from advantage.drivers.cluster.actors import Actors, Lost, RemoteEnvironments, nbytes, share_of
from advantage.drivers.cluster.rollout_actor import Made, Order
from advantage.drivers.draws import draw_compiled
from advantage.drivers.host.collector import Collector
from advantage.drivers.host.driver import first_memory, updated
from advantage.drivers.host.in_place import compiled
from advantage.drivers.host.stepper import MakeEnvironment, allocate
from advantage.drivers.info_means import InfoMeans, mean_of
from advantage.drivers.metric_rows import metric_rows
from advantage.drivers.only_seed import only_seed
from advantage.drivers.rollout_size import refuse_what_does_not_fit, rollout_bytes
from advantage.drivers.schedule import SHORT, plan_span, row_ends
from advantage.environments.check import check_spaces
from advantage.machine import free_host_bytes
from advantage.types import Algorithm, DriverFacts, Iterated, Key, Pytree, Span, Spec


class SynchronousDriver:
    """Every actor makes its columns of each rollout; this process learns.

    An actor acts with the shapes of all environments, and noise is drawn here. So each number is that of one machine
    with the same number of environments, bit for bit. An actor that is lost is replaced: its environments' episodes are
    replayed and its part of the rollout is made again, which gives the same numbers too.

    Args:
        algorithm, spec: the hyperparameters, and the run's spec.
        make: makes one environment.
        seed: the run's seed.
        number: of actors.
        timeout: seconds that an actor may take longer than half of the others.
        log_info: names of numbers in the environments' infos, whose means are metrics.
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
        self.algorithm, self.spec = algorithm, spec
        refuse_short(algorithm)
        check_spaces(spec.observation_space, spec.action_space, 0)
        self.rollout_bytes = rollout_bytes(algorithm, spec)
        refuse_what_does_not_fit(self.rollout_bytes, free_host_bytes(), algorithm.n_steps, spec.num_envs)
        self.actors = Actors(algorithm, make, spec, seed, number, timeout, True, log_info)
        self.places = range(len(self.actors.shares))
        self.environments = RemoteEnvironments(self.actors, self.places, allocate(self.actors.shapes))
        self.collector = Collector(self.environments, spec)
        self.info = InfoMeans(log_info, self.environments.info_names)
        self.update = compiled(updated, True)

    @property
    def facts(self) -> DriverFacts:
        """How many actors step, and on which nodes."""
        return DriverFacts(self.actors.where(), nbytes=self.rollout_bytes)

    finished = False

    def start(self, states: Pytree, keys: Key) -> Pytree:
        """Begin the first episode of every environment; returns the state of the only seed, without its axis."""
        state = only_seed(states)
        self.collector.start(first_memory(self.algorithm, state))
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
        made = self._made(jax.device_get(actor), jax.device_get(draws.noise), span)
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
        state, metrics = self.update(self.algorithm, state, rollout, draws.key_update)
        logged = {name: mean_of(x[rows]) for name, x in self.collector.buffers.info.items()}
        traffic = sum(nbytes(each) for each in made.values()) / (shape[0] * shape[1])
        metrics = jax.device_get(metrics) | self.info.metrics(logged, len(episodes.returns))
        metrics |= {"bytes_per_step": np.float32(traffic), "actors_lost": np.float32(self.actors.lost)}
        row = {name: value.reshape(1, 1) for name, value in metric_rows(metrics).items()}
        return Iterated(state, row, [episodes], *row_ends(span, 1, self.spec.num_envs))

    def _made(self, actor: Pytree, noise: Pytree, span: Span) -> dict[int, Made]:
        """The part of the rollout of every actor, by its place."""
        weights = self.actors.share((span.iteration, actor))
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
        return state, self.collector.restore(first_memory(self.algorithm, state), records)

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
