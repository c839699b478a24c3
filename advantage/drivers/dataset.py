"""The driver of methods that learn from recorded episodes: nothing is played."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.imitation.behaviour_cloning import BehaviourCloning
from advantage.datasets.dataset import Dataset
from advantage.datasets.rollouts import Recording, recording_of
from advantage.drivers.episode_book import NO_EPISODES
from advantage.drivers.metric_rows import metric_rows
from advantage.drivers.only_seed import only_seed
from advantage.drivers.records import RecordFault, check_records, kind_of
from advantage.drivers.schedule import plan_span, row_ends
from advantage.types import Array, DriverFacts, Iterated, Key, Pytree, Span, Spec

ITERATIONS = 64  # in a row of metrics


@partial(jax.jit, static_argnames=("n_steps",))
def _learn(
    algorithm: BehaviourCloning, recording: Recording, state: Pytree, key: Key, span: Any, n_steps: int
) -> tuple[Pytree, dict[str, Array]]:
    """The iterations of a span, `(first, count)`: `-> state, the mean of each metric`."""
    length = math.gcd(n_steps, algorithm.sequence_length)  # in a run's last iteration n_steps may be smaller
    number = len(recording.reward)

    def iteration(state: Pytree, n: Array) -> tuple[Pytree, dict[str, Array]]:
        key_draw, key_update = jax.random.split(jax.random.fold_in(key, n))
        begins = jax.random.randint(key_draw, (n_steps // length,), 0, max(number - length, 0) + 1)
        steps = jnp.minimum(begins + jnp.arange(length)[:, None], number - 1)
        return algorithm.update(state, recording.rollout(steps), key_update)

    first, count = span
    shapes = jax.eval_shape(iteration, state, first)[1]

    def one(i: Array, carry: Any) -> Any:
        state, sums = carry
        state, metrics = iteration(state, first + i)
        return state, jax.tree.map(jnp.add, sums, metrics)

    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    state, sums = jax.lax.fori_loop(0, count, one, (state, sums))
    return state, jax.tree.map(lambda x: x / count, sums)


class DatasetDriver:
    """Draws rollouts from recorded episodes; the budget, `total_timesteps`, counts the steps that are drawn.

    Raises:
        ValueError: a rollout is no whole number of sequences.
    """

    def __init__(self, algorithm: BehaviourCloning, dataset: Dataset, spec: Spec):
        length, size = algorithm.sequence_length, algorithm.n_steps * spec.num_envs
        if size % length:
            near = max(n for n in range(1, length) if size % n == 0)
            raise ValueError(
                f"sequence_length={length} does not divide the {size} steps of a gradient step, "
                f"n_steps={algorithm.n_steps} times num_envs={spec.num_envs}; use a divisor, such as {near} "
                f"(--sequence-length {near}), or a multiple for n_steps (--n-steps {length})."
            )
        self.algorithm, self.dataset, self.spec = algorithm, dataset, spec
        self.recording = recording_of(dataset, spec)

    @property
    def facts(self) -> DriverFacts:
        """The device and the size of the data, for the user."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.recording))
        return DriverFacts(f"from {self.dataset}", unit="recorded steps", nbytes=size)

    finished = False

    def start(self, states: Pytree, keys: Key) -> Pytree:
        """The state of the only seed, without its axis."""
        return only_seed(states)

    def state_of(self, state: Pytree, seed: int) -> Pytree:
        """The state as it is: there is one seed."""
        return state

    def span(self, iteration: int, step: int, until: int) -> Span:
        """The iterations of a row of metrics, or those that are left."""
        learner: Any = self.algorithm
        return plan_span(learner, self.spec, chunk=ITERATIONS, iteration=iteration, step=step, until=until)

    def iterate(self, state: Pytree, run_keys: Key, span: Span) -> Iterated:
        """Learn in the iterations of a span, from steps that depend on their numbers only."""
        place = np.int32(span.iteration), np.int32(span.count)
        n_steps = span.n_steps * self.spec.num_envs
        state, metrics = _learn(self.algorithm, self.recording, state, run_keys[0], place, n_steps)
        rows = {name: np.reshape(x, (1, 1)) for name, x in metric_rows(jax.device_get(metrics)).items()}
        iterations, steps = row_ends(span, ITERATIONS, self.spec.num_envs)
        return Iterated(state, rows, [NO_EPISODES], iterations, steps)

    def conclusion(self, step: int) -> list[str]:
        """How often each recorded step was drawn on average."""
        return [
            f"Each of {self.dataset.num_steps:,} recorded steps was drawn {step / self.dataset.num_steps:.2g} times."
        ]

    def records(self, seed: int) -> dict[str, np.ndarray]:
        """The checksum of the data, from which a resumed run goes on."""
        return {"data": np.frombuffer(self.dataset.fingerprint, np.uint8)}

    def restore(self, state: Pytree, keys: Key, records: dict[str, np.ndarray]) -> tuple[Pytree, list[str]]:
        """Nothing but the data is needed. Raises RecordFault if they are not those of the run."""
        own = self.records(0)
        check_records(records, {name: kind_of(x) for name, x in own.items()})
        if not np.array_equal(records["data"], own["data"]):
            raise RecordFault(
                "records/data: found the checksum of other recorded episodes; give the file of the run"
            )
        return jax.tree.map(jnp.asarray, state), []

    def close(self) -> None:
        """There is nothing to close."""
