"""Steps the environments of a host run, and keeps the data for rollouts and for resuming."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import cast

import gymnasium
import jax
import numpy as np

from advantage.drivers.episode_book import EpisodeBook
from advantage.drivers.host.host_actor import HostActor
from advantage.drivers.host.stepper import Buffers, EpisodeHolder, EpisodeStepper
from advantage.drivers.host.vector_stepper import VectorStepper
from advantage.drivers.records import RecordKind, check_records, kind_of
from advantage.environments.defect import EnvironmentWarning
from advantage.environments.space_faults import leaf_bounds
from advantage.environments.spaces import equal, leaf_spaces, nest, read, take, translator, write
from advantage.environments.step_checks import RolloutChecks
from advantage.types import Array, Episodes, Pytree, Rollout, Span, Spec

REPLAYED_STEPS = 1_000_000  # of one episode: the most whose actions are kept
REPLAYED_BYTES = 2**26  # of the actions of all environments


class Collector:
    """Acts in every environment, step after step.

    Attributes:
        stepper: holds the environments, in this process or in workers, and the buffers that they write to.
        memory: the policy's memory, `[B, ...]`, before the next step.
        row: the row of the observation buffer with the observations to act on next.
        history: each environment's actions since its last reset, in pieces; replaying them resumes an episode.
        replayable: the length of an episode after which its actions are no longer kept, because it may never end.
    """

    def __init__(self, stepper: EpisodeHolder | VectorStepper, spec: Spec):
        self.stepper, self.spec = stepper, spec
        self.by_step = cast(
            EpisodeStepper | VectorStepper, stepper
        )  # who makes whole rollouts never calls `step`
        self.translate = translator(spec.action_space, spec.action_units)
        self.book = EpisodeBook(spec.num_envs)
        self.history: list[list[Pytree]] = [[] for _ in range(spec.num_envs)]
        self.replayable = min(REPLAYED_STEPS, REPLAYED_BYTES // (_action_bytes(spec) * spec.num_envs))
        self.gave_up = False
        self.row = 0
        self.checks, self.noted = RolloutChecks(spec.observation_space), False
        self._begin_memories(())

    @property
    def buffers(self) -> Buffers:
        return self.stepper.buffers

    def start(self, initial_memory: Pytree) -> None:
        """Begin every environment's first episode, with the initial memory."""
        self._begin_memories(initial_memory)
        self.stepper.reset()

    def collect(self, actor: HostActor, noise: Pytree, span: Span) -> tuple[Rollout, Episodes]:
        """Act for an iteration in every environment; the arrays are views that the next call overwrites."""
        n_steps = span.n_steps
        self.go_on()
        memory, rows = self.memory, slice(0, n_steps)
        if isinstance(self.stepper, VectorStepper) and self.stepper.skips_resets:
            actions, extras, self.memory = self.stepper.collect(
                actor, noise, n_steps, translate=self.translate, memory=memory, forget=self._forget_where
            )
        else:
            act = actor.program(read(self.buffers.obs, 0), memory, read(noise, 0))
            actions, extras = self.gather(act, noise, rows)
        episodes = self.end_at(n_steps, span.first_step)
        return self.rollout(actions, extras, memory, rows), episodes

    def go_on(self) -> None:
        """Move the observations to act on next to the first row."""
        if self.row:
            write(self.buffers.obs, 0, read(self.buffers.obs, self.row))

    def gather(self, act: Callable, noise: Pytree, rows: slice) -> tuple[Pytree, Pytree]:
        """Act and step, row by row of the buffers: `-> actions, extras`, `[T, B, ...]`."""
        actions, extras = [], []
        for n, t in enumerate(range(rows.start, rows.stop)):
            action, self.memory, extra = act(read(self.buffers.obs, t), self.memory, read(noise, n))
            self.step(t, action)
            actions.append(action)
            extras.append(extra)
        return _stack(actions), _stack(extras)

    def step(self, t: int, action: Pytree) -> None:
        """Take a policy's actions in row t; where an episode ends, the memory is reset."""
        buffers = self.buffers
        write(buffers.action, t, self.translate(action))
        self.by_step.step(t)
        if self.remembers:
            self.memory = self._forget_where(buffers.terminated[t] | buffers.truncated[t], self.memory)

    def end_at(self, row: int, first_step: int) -> Episodes:
        """End a call that began at `first_step`, before this row; returns the episodes that ended.

        Raises:
            EnvironmentDefect: something in the rows is not finite, or outside its bounds.
        """
        self.row, buffers = row, self.buffers
        rows = read(buffers.next_obs, slice(row)), read(buffers.obs, slice(1, row + 1)), buffers.reward[:row]
        notes = self.checks(*rows)
        if notes and not self.noted:
            self.noted = True
            warnings.warn(str(notes[0]), EnvironmentWarning, stacklevel=2)
        return self._enter(first_step)

    def rollout(self, actions: Pytree, extras: Pytree, memory: Pytree, rows: slice) -> Rollout:
        """The rollout of some rows; `memory` is the policy's memory before the first of them."""
        buffers = self.buffers
        return Rollout(
            obs=read(buffers.obs, rows),
            action=actions,
            reward=buffers.reward[rows],
            next_obs=read(buffers.next_obs, rows),
            terminated=buffers.terminated[rows],
            truncated=buffers.truncated[rows],
            extras=extras,
            memory=memory,
        )

    def _enter(self, first_step: int) -> Episodes:
        """Record the rows of a call: keeps the actions since the last resets, returns the episodes that ended."""
        rows = slice(0, self.row)
        terminated, truncated = self.buffers.terminated[rows], self.buffers.truncated[rows]
        done = np.asarray(terminated | truncated)
        episodes = self.book.record(self.buffers.reward[rows], done, first_step)
        for env, history in enumerate(self.history):
            ends = np.flatnonzero(done[:, env])
            if len(ends):
                history.clear()
            if self.book.lengths[env] > self.replayable:
                self._give_up(env)
                continue
            begin = ends[-1] + 1 if len(ends) else 0
            segment = read(self.buffers.action, (slice(begin, len(done)), env))
            history.append(jax.tree.map(np.copy, segment))
        return self._enter_surplus(terminated[-1], truncated[-1], episodes, first_step + done.size)

    def _give_up(self, env: int) -> None:
        """Forget the actions of a long episode; said once, unless it cannot be replayed anyway."""
        self.history[env].clear()
        if self.gave_up or isinstance(self.stepper, VectorStepper):
            return
        self.gave_up = True
        warnings.warn(
            f"An episode of environment {env} has taken more than {self.replayable:_} steps. Checkpoints no longer "
            "keep its actions, so a resumed run will begin a new episode there and differ from an uninterrupted one. "
            "A time limit (gymnasium.wrappers.TimeLimit) avoids this.",
            EnvironmentWarning,
            stacklevel=2,
        )

    def _enter_surplus(
        self, terminated: np.ndarray, truncated: np.ndarray, episodes: Episodes, step: int
    ) -> Episodes:
        """Count a vector environment's unrecorded steps: an episode that ended in them is recorded at `step`.

        For the algorithm that episode is truncated at its last recorded step, whose flags are given.
        """
        surplus = self.stepper.surplus if isinstance(self.stepper, VectorStepper) else ()
        for reward, done, taken in surplus:
            self.book.lengths -= ~taken
            late = self.book.record(reward[None], done[None], step)
            late = late._replace(steps=np.full_like(late.steps, step))
            episodes = Episodes(*map(np.concatenate, zip(episodes, late, strict=True)))
            np.logical_or(truncated, done & ~terminated, out=truncated)
        return episodes

    def records(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs to restore every environment: episode numbers, which give the seeds, and actions."""
        records = {f"book/{name}": array for name, array in self.book.records().items()}
        records |= {f"memory/{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self.memory))}
        for path, _ in leaf_spaces(self.spec.observation_space):
            records["/".join(("obs", *map(str, path)))] = take(read(self.buffers.obs, self.row), path)
        for path, space in leaf_spaces(self.spec.action_space):
            for env, history in enumerate(self.history):
                segments = [take(segment, path) for segment in history]
                empty = np.zeros((0, *(space.shape or ())), space.dtype)
                records["/".join((f"actions/{env}", *map(str, path)))] = np.concatenate([empty, *segments])
        return records

    def restore(self, initial_memory: Pytree, records: dict[str, np.ndarray]) -> list[str]:
        """Replay every environment's running episode; returns a notice for each that could not be restored.

        Raises:
            RecordFault: the records are not those of such a run.
        """
        self._begin_memories(initial_memory)
        self._check(records)
        leaves, structure = jax.tree.flatten(self.memory)
        self.memory = structure.unflatten([records[f"memory/{i}"] for i in range(len(leaves))])
        self.book.restore({n.removeprefix("book/"): a for n, a in records.items() if n.startswith("book/")})
        if isinstance(self.stepper, VectorStepper):
            self._forget(range(self.spec.num_envs))
            self.stepper.begin(self.book.numbers)
            return [
                "The episodes of a vector environment cannot be replayed: new episodes begin, and the resumed run "
                "differs from an uninterrupted one."
            ]
        notices = [notice for env in range(self.spec.num_envs) for notice in self.replay(env, records)]
        self.row = 0
        return notices

    def _check(self, records: dict[str, np.ndarray]) -> None:
        """Refuse records that this run cannot have written."""
        kinds = {f"book/{name}": kind for name, kind in self.book.kinds().items()}
        check_records({name: records[name] for name in kinds if name in records}, kinds)
        lengths = records["book/lengths"]
        kinds |= {f"memory/{i}": kind_of(leaf) for i, leaf in enumerate(jax.tree.leaves(self.memory))}
        for path, space in leaf_spaces(self.spec.observation_space):
            shape, dtype = (self.spec.num_envs, *(space.shape or ())), space.dtype
            kinds["/".join(("obs", *map(str, path)))] = RecordKind(shape, np.dtype(dtype))
        for path, space in leaf_spaces(self.spec.action_space):
            low, high = _range_of(space)
            for env, length in enumerate(lengths.tolist()):
                name = "/".join((f"actions/{env}", *map(str, path)))
                found = np.shape(records.get(name, ()))[:1]  # an older version kept all of them
                kept = length if length <= self.replayable or found == (length,) else 0
                shape = None if isinstance(self.stepper, VectorStepper) else kept
                kinds[name] = RecordKind((shape, *(space.shape or ())), np.dtype(space.dtype), low, high)
        check_records(records, kinds)

    def replay(self, env: int, records: dict[str, np.ndarray]) -> list[str]:
        """Restore one environment, or begin a new episode and return a notice."""
        assert not isinstance(self.stepper, VectorStepper)
        actions = nest(
            self.spec.action_space, lambda path: records["/".join((f"actions/{env}", *map(str, path)))]
        )
        expected = nest(
            self.spec.observation_space, lambda path: records["/".join(("obs", *map(str, path)))][env]
        )
        episode, length = int(self.book.numbers[env]), int(self.book.lengths[env])
        if length > min(map(len, jax.tree.leaves(actions))):
            reason = (
                f"has taken {length:_} steps in episode {episode}, and a checkpoint keeps the actions of at most "
                f"{self.replayable:_}, so the episode cannot be replayed"
            )
        else:
            self.stepper.restore(env, episode, actions, length)
            self.history[env] = [actions] if length else []
            if equal(read(self.buffers.obs, (0, env)), expected):
                return []
            reason = (
                f"is not deterministic under its seed: replaying episode {episode} ({length} steps) gave another "
                "observation"
            )
        self._forget([env])
        self.stepper.restore(env, episode + 1, actions, 0)
        return [
            f"Environment {env} {reason}. A new episode begins; the resumed run differs from an uninterrupted one."
        ]

    def _forget(self, envs: Iterable[int]) -> None:
        """Drop the running episodes of `envs`, before the next ones begin."""
        for env in envs:
            self.book.numbers[env] += 1
            self.book.returns[env] = self.book.lengths[env] = 0
            self.history[env] = []
            self.memory = self._forget_where(np.arange(self.spec.num_envs) == env, self.memory)

    def _forget_where(self, done: Array, memory: Pytree) -> Pytree:
        """The memory `[B, ...]`, with the initial memory where `done`, `[B]`."""
        return jax.tree.map(
            lambda leaf, initial: np.where(done.reshape(-1, *(1,) * (leaf.ndim - 1)), initial, leaf),
            memory,
            self.initial_memory,
        )

    def _begin_memories(self, initial_memory: Pytree) -> None:
        self.initial_memory, self.remembers = initial_memory, bool(jax.tree.leaves(initial_memory))
        self.memory = jax.tree.map(
            lambda leaf: np.repeat(np.asarray(leaf)[None], self.spec.num_envs, axis=0), initial_memory
        )

    def close(self) -> None:
        self.stepper.close()


def _stack(trees: list[Pytree]) -> Pytree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _action_bytes(spec: Spec) -> int:
    """The size of one environment's action."""
    leaves = [leaf for _, leaf in leaf_spaces(spec.action_space)]
    return sum(math.prod(leaf.shape or ()) * np.dtype(leaf.dtype).itemsize for leaf in leaves)


def _range_of(space: gymnasium.Space) -> tuple[float, float]:
    """The smallest and the largest number of an action's part."""
    bounds = leaf_bounds(space)
    assert bounds is not None  # other spaces have been refused
    low, high = (bound.astype(np.float64) for bound in bounds)
    return float(low.min(initial=np.inf)), float(high.max(initial=-np.inf))
