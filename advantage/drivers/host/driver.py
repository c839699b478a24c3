"""The host driver: environments stepped outside compiled code, then one compiled update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import gymnasium
import jax
import numpy as np

from advantage.drivers.draws import draw_compiled
from advantage.drivers.host.collector import Collector
from advantage.drivers.host.fused import ShortIterations, SingleSteps
from advantage.drivers.host.host_actor import HostActor
from advantage.drivers.host.in_place import compiled
from advantage.drivers.host.stepper import (
    Buffers,
    EpisodeStepper,
    MakeEnvironment,
    Stepper,
    allocate,
    buffer_shapes,
)
from advantage.drivers.host.vector_stepper import VectorStepper
from advantage.drivers.host.worker_choice import choose_workers
from advantage.drivers.host.workers import SharedStepper, Workers
from advantage.drivers.info_means import InfoMeans, mean_of
from advantage.drivers.metric_rows import metric_rows
from advantage.drivers.only_seed import only_seed
from advantage.drivers.rollout_size import bytes_with_update, refuse_what_does_not_fit, rollout_bytes
from advantage.drivers.schedule import iterations_per_row, plan_span, row_ends
from advantage.environments.check import check_spaces
from advantage.environments.current_folder import EnvironmentsFolder
from advantage.environments.watchdog import BY_HAND, Watchdog
from advantage.machine import free_host_bytes
from advantage.types import Algorithm, DriverFacts, Episodes, Iterated, Key, Pytree, Rollout, Span, Spec


class HostDriver:
    """Steps `spec.num_envs` environments, in this process or in worker processes, and updates the state.

    Args:
        algorithm: the hyperparameters.
        environments: makes one environment, or a Gymnasium vector environment.
        spec: the run's spec.
        seed: the run's seed; every episode is reset with `episode_seed(seed, environment, episode)`.
        workers: number of worker processes; 0 steps in this process; "auto" measures a step and chooses.
        worker_timeout: seconds after which a worker counts as hung.
        in_place: whether an update may overwrite the state that it is given. Otherwise every update copies the state,
            which is slow for a large one, such as one with a replay ring.
        log_info: names of numbers in the environments' infos, whose means are metrics.

    The results do not depend on `workers`.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        environments: MakeEnvironment | gymnasium.vector.VectorEnv,
        spec: Spec,
        seed: int,
        workers: int | Literal["auto"] = 0,
        worker_timeout: float = 60.0,
        in_place: bool = False,
        log_info: Sequence[str] = (),
    ):
        self.algorithm, self.spec = algorithm, spec
        check_spaces(spec.observation_space, spec.action_space, 0)
        self.per_row = iterations_per_row(algorithm, spec)
        self.rollout_bytes = rollout_bytes(algorithm, spec)
        size = bytes_with_update(algorithm, spec)
        refuse_what_does_not_fit(
            size, free_host_bytes(), algorithm.n_steps, spec.num_envs, " with its update"
        )
        shapes = buffer_shapes(
            spec.observation_space,
            spec.action_space,
            algorithm.n_steps * self.per_row,
            spec.num_envs,
            log_info,
        )
        self.workers, self.folder = 0, EnvironmentsFolder()
        if isinstance(environments, gymnasium.vector.VectorEnv):
            self.stepper: EpisodeStepper | VectorStepper = VectorStepper(environments, seed, allocate(shapes))
            if self.stepper.skips_resets:
                self.per_row = 1
        else:
            with self.folder:
                self.stepper = self._episode_stepper(environments, seed, workers, worker_timeout, shapes)
        self.collector = Collector(self.stepper, spec)
        self.info = InfoMeans(log_info, self.stepper.info_names)
        self.update = compiled(updated, in_place)
        self.iterations: Callable[[Pytree, Key, Span], tuple[Pytree, dict[str, Any], Episodes]]
        if self.per_row == 1:
            self.iterations = self._one_iteration
        elif algorithm.n_steps == 1:
            self.iterations = SingleSteps(algorithm, self.collector, in_place)
        else:
            self.iterations = ShortIterations(algorithm, self.collector, in_place)

    def _episode_stepper(
        self,
        make: MakeEnvironment,
        seed: int,
        workers: int | Literal["auto"],
        timeout: float,
        shapes: Buffers,
    ) -> EpisodeStepper:
        """The environments, in this process, in workers, or in both."""
        num_envs, shared = self.spec.num_envs, workers == "auto"
        self.workers = min(choose_workers(make, num_envs) if workers == "auto" else workers, num_envs)
        if not self.workers:
            with Watchdog(lambda: "Making the environments"):
                return Stepper(make, range(num_envs), seed, allocate(shapes))
        first = num_envs // (self.workers + 1) if shared else 0
        processes = Workers(
            make,
            num_envs,
            seed,
            num_workers=self.workers,
            timeout=timeout,
            shapes=shapes,
            first=first,
        )
        # chosen for speed: this process is not idle
        return SharedStepper(processes, make, seed) if shared else processes

    @property
    def facts(self) -> DriverFacts:
        """Which processes step, for the user."""
        where = f"in {self.workers} worker process{'es' * (self.workers > 1)}"
        if isinstance(self.stepper, SharedStepper):
            where = f"in this process and {where.removeprefix('in ')}"
        return DriverFacts(where if self.workers else "in this process", nbytes=self.rollout_bytes)

    finished = False

    def _watchdog(self) -> Watchdog:
        """Watches the calls of environments in this process."""
        stepper = self.stepper.stepper if isinstance(self.stepper, SharedStepper) else self.stepper
        if isinstance(stepper, VectorStepper):
            return Watchdog(stepper.call_now, remedy=BY_HAND)
        return Watchdog(stepper.call_now if isinstance(stepper, Stepper) else lambda: None)

    def start(self, states: Pytree, keys: Key) -> Pytree:
        """Begin the first episode of every environment; returns the state of the only seed, without its axis."""
        state = only_seed(states)
        with self.folder, self._watchdog():
            self.collector.start(first_memory(self.algorithm, state))
        return state

    def state_of(self, state: Pytree, seed: int) -> Pytree:
        """The state as it is: there is one seed."""
        return state

    def span(self, iteration: int, step: int, until: int) -> Span:
        """The iterations of a row, or those that are left."""
        return plan_span(
            self.algorithm, self.spec, chunk=self.per_row, iteration=iteration, step=step, until=until
        )

    def iterate(self, state: Pytree, run_keys: Key, span: Span) -> Iterated:
        """Run the rollouts of a span, each with its update.

        Raises:
            EnvironmentDefect: a wrong or non-finite observation or reward.
            EnvironmentFailure: an environment raised, or its worker died or hung.
        """
        with self.folder, self._watchdog():
            state, metrics, episodes = self.iterations(state, run_keys[0], span)
        rows = slice(self.collector.row)
        logged = {name: mean_of(each[rows]) for name, each in self.collector.buffers.info.items()}
        metrics |= self.info.metrics(logged, len(episodes.returns))
        row = {name: value.reshape(1, 1) for name, value in metric_rows(metrics).items()}
        return Iterated(state, row, [episodes], *row_ends(span, self.per_row, self.spec.num_envs))

    def _one_iteration(
        self, state: Pytree, run_key: Key, span: Span
    ) -> tuple[Pytree, dict[str, Any], Episodes]:
        """Run one rollout and its update: `-> state, metrics, episodes`."""
        shape = span.n_steps, self.spec.num_envs
        actor, draws = draw_compiled(self.algorithm, state, run_key, np.uint32(span.iteration), shape=shape)
        noise = jax.device_get(draws.noise)
        rollout, episodes = self.collector.collect(HostActor(self.algorithm, actor), noise, span)
        state, metrics = self.update(self.algorithm, state, rollout, draws.key_update)
        return state, jax.device_get(metrics), episodes

    def conclusion(self, step: int) -> list[str]:
        """Empty; warns about names in `log_info` that no step has had."""
        self.info.end()
        return []

    def records(self, seed: int) -> dict[str, np.ndarray]:
        """What a checkpoint needs to restore every environment: episode numbers, which give the seeds, and actions."""
        return self.collector.records()

    def restore(self, state: Pytree, keys: Key, records: dict[str, np.ndarray]) -> tuple[Pytree, list[str]]:
        """Replay every environment's running episode; with a notice for each that could not be restored."""
        with self.folder, self._watchdog():
            return state, self.collector.restore(first_memory(self.algorithm, state), records)

    def close(self) -> None:
        with self.folder:
            self.collector.close()


def updated(algorithm: Algorithm, state: Pytree, rollout: Rollout, key: Key) -> tuple[Pytree, dict[str, Any]]:
    """One update, to be compiled."""
    return algorithm.update(state, rollout, key)


@jax.jit
def _compute_initial_memory(algorithm: Algorithm, state: Pytree) -> Pytree:
    return algorithm.initial_memory(algorithm.actor(state))


def first_memory(algorithm: Algorithm, state: Pytree) -> Pytree:
    """The memory in which episodes begin, in NumPy."""
    return jax.device_get(_compute_initial_memory(algorithm, state))
