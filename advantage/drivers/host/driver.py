"""The host driver: Gymnasium environments stepped outside jit, then one compiled update."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.drivers.draws import BLOCK, Draws, draw, draw_block, of_block
from advantage.drivers.episode_book import EpisodeBook, Episodes, iterations_per_row
from advantage.drivers.host.host_actor import HostActor, pack, unpack
from advantage.drivers.host.stepper import (
    Buffers,
    EpisodeStepper,
    MakeEnvironment,
    Stepper,
    allocate,
    buffer_shapes,
    first_non_finite,
)
from advantage.drivers.host.vector_stepper import VectorStepper
from advantage.drivers.host.workers import SharedStepper, Workers, watching_pays
from advantage.drivers.rollout_size import refuse_what_does_not_fit, rollout_bytes
from advantage.environments.check import check_spaces
from advantage.environments.spaces import equal, leaf_spaces, read, take, translator, write
from advantage.machine import available_cores, free_host_bytes
from advantage.types import Algorithm, Array, Key, Pytree, Rollout, Spec

PIPED_ROUND_TRIP = 150e-6  # seconds that handing a step to worker processes costs, about
WATCHED_ROUND_TRIP = 60e-6


_draw = partial(jax.jit, static_argnames="shape")(draw)
_draw_block = partial(jax.jit, static_argnames="num_envs")(draw_block)


def _update(algorithm: Algorithm, state: Pytree, rollout: Rollout, key: Key) -> Any:
    return algorithm.update(state, rollout, key)


_updates = {False: jax.jit(_update), True: jax.jit(_update, donate_argnames="state")}  # in place or not


class Parts(NamedTuple):
    """An algorithm taken apart once, which else every one of many short calls would do."""

    structure: Any
    leaves: list[Array]


@partial(jax.jit, static_argnames="structure")
def _choose(
    structure: Any,
    leaves: list[Array],
    state: Pytree,
    block: Draws,
    iteration: Any,
    obs: Pytree,
    memory: Pytree,
) -> Any:
    """The one action of an iteration: `-> action, memory, extras`."""
    algorithm = structure.unflatten(leaves)
    noise = jax.tree.map(lambda x: x[0], of_block(block, iteration).noise)
    return algorithm.act(algorithm.actor(state), obs, memory, noise)


def _update_and_choose(
    structure: Any,
    leaves: list[Array],
    state: Pytree,
    step: Rollout,
    sums: dict[str, Any],
    blocks: tuple[Draws, Draws],
    iteration: Any,
    obs: Pytree,
    memory: Pytree,
) -> Any:
    """End an iteration of one step and begin the next: `-> state, sums of metrics, (action, memory, extras)`."""
    block, next_block = blocks
    algorithm = structure.unflatten(leaves)
    rollout = jax.tree.map(lambda x: x[None], step)
    state, metrics = algorithm.update(state, rollout, of_block(block, iteration).key_update)
    sums = {name: value + sums.get(name, 0.0) for name, value in metrics.items()}
    return state, sums, _choose(structure, leaves, state, next_block, iteration + 1, obs, memory)


def _begin(
    structure: Any, leaves: list[Array], state: Pytree, run_key: Key, iteration: Any, shape: tuple[int, int]
) -> Any:
    """What an iteration acts with: `-> (actor, noise), the update's key`."""
    actor, draws = draw(structure.unflatten(leaves), state, run_key, iteration, shape)
    return (actor, draws.noise), draws.key_update


@partial(jax.jit, static_argnames=("structure", "shape"))
def _begin_packed(
    structure: Any, leaves: list[Array], state: Pytree, run_key: Key, iteration: Any, shape: tuple[int, int]
) -> Any:
    acting, key_update = _begin(structure, leaves, state, run_key, iteration, shape)
    return pack(acting), key_update


def _update_and_begin(
    structure: Any,
    leaves: list[Array],
    state: Pytree,
    rollout: Rollout,
    key_update: Key,
    run_key: Key,
    iteration: Any,
    shape: tuple[int, int],
) -> Any:
    """End an iteration and begin the next: `-> state, metrics, packed (actor, noise), key`."""
    state, metrics = structure.unflatten(leaves).update(state, rollout, key_update)
    acting, key_update = _begin(structure, leaves, state, run_key, iteration + 1, shape)
    return state, metrics, pack(acting), key_update


_short_updates = {
    False: jax.jit(_update_and_begin, static_argnames=("structure", "shape")),
    True: jax.jit(_update_and_begin, static_argnames=("structure", "shape"), donate_argnames="state"),
}
_step_updates = {
    False: jax.jit(_update_and_choose, static_argnames="structure"),
    True: jax.jit(_update_and_choose, static_argnames="structure", donate_argnames="state"),
}


class HostDriver:
    """Steps `spec.num_envs` environments, in this process or over worker processes, and updates.

    Args:
        algorithm: the hyperparameters.
        environments: makes one environment, or a Gymnasium vector environment.
        spec: of the run.
        seed: of the run; every episode is reset with `episode_seed(seed, environment, episode)`.
        workers: number of worker processes; 0 steps in this process; "auto" measures a step and picks.
        worker_timeout: seconds after which a worker counts as hung.
        in_place: an update may write into the state that it is given, which is gone then. A large state, such as one
            with a replay ring, is else copied by every update.

    The numbers do not depend on `workers`.
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
    ):
        self.algorithm, self.spec, self.in_place = algorithm, spec, in_place
        check_spaces(spec.observation_space, spec.action_space, 0)
        self.translate = translator(spec.action_space, spec.action_units)
        self.per_row = self.chunk = iterations_per_row(algorithm, spec)
        n_steps = algorithm.n_steps * self.chunk
        shapes = buffer_shapes(spec.observation_space, spec.action_space, n_steps, spec.num_envs)
        self.rollout_bytes = rollout_bytes(algorithm, spec)
        refuse_what_does_not_fit(self.rollout_bytes, free_host_bytes(), algorithm.n_steps, spec.num_envs)
        self.workers = 0
        self.stepper: EpisodeStepper | VectorStepper
        if isinstance(environments, gymnasium.vector.VectorEnv):
            self.stepper = VectorStepper(environments, seed, allocate(shapes))
            if self.stepper.skips_resets:
                self.per_row = self.chunk = 1
        else:
            self.workers = choose_workers(environments, spec.num_envs) if workers == "auto" else workers
            self.workers = min(self.workers, spec.num_envs)
            if self.workers:
                first = spec.num_envs // (self.workers + 1) if workers == "auto" else 0
                args = environments, spec.num_envs, seed, self.workers, worker_timeout, shapes, first
                self.stepper = Workers(*args)
                if workers == "auto":  # chosen for speed: this process does not stand idle
                    self.stepper = SharedStepper(self.stepper, environments, seed)
            else:
                self.stepper = Stepper(environments, range(spec.num_envs), seed, allocate(shapes))
        self.book = EpisodeBook(spec.num_envs)
        self.history: list[list[Pytree]] = [[] for _ in range(spec.num_envs)]
        leaves, structure = jax.tree.flatten(algorithm)
        self.parts = Parts(structure, [jnp.asarray(leaf) for leaf in leaves])
        self.acting: dict[tuple[int, int], Any] = {}  # shapes of an actor and its noise, by that of a rollout
        self.row = 0  # of the observation buffer that holds what to act on next
        self.memory: Pytree = ()

    @property
    def buffers(self) -> Buffers:
        return self.stepper.buffers

    @property
    def where(self) -> str:
        """Which processes step, for people."""
        processes = f"{self.workers} worker process{'es' * (self.workers > 1)}"
        if isinstance(self.stepper, SharedStepper):
            return f"in this process and {processes}"
        return f"in {processes}" if self.workers else "in this process"

    def start(self) -> None:
        """Begin the first episode of every environment."""
        self.stepper.reset()

    def iterate(
        self, state: Pytree, run_key: Key, iteration: int, count: int, first_step: int, n_steps: int
    ) -> tuple[Pytree, dict, Episodes]:
        """`count` rollouts of `n_steps`, each with its update: `-> state, mean metrics, episodes`.

        Raises:
            EnvironmentDefect: a wrong or non-finite observation or reward.
            EnvironmentFailure: an environment raised, or its worker died or hung.
        """
        if self.chunk > 1 and self.algorithm.n_steps == 1:
            return self._iterate_by_step(state, run_key, iteration, count, first_step)
        if self.chunk > 1:
            return self._iterate_short(state, run_key, iteration, count, first_step, n_steps)
        shape = n_steps, self.spec.num_envs
        actor, draws = _draw(self.algorithm, state, run_key, np.uint32(iteration), shape)
        rollout = self.collect(HostActor(self.algorithm, actor), jax.device_get(draws.noise), n_steps)
        episodes = self._enter(rollout.reward, rollout.terminated, rollout.truncated, first_step)
        state, metrics = _updates[self.in_place](self.algorithm, state, rollout, draws.key_update)
        return state, jax.device_get(metrics), episodes

    def _iterate_short(
        self, state: Pytree, run_key: Key, iteration: int, count: int, first_step: int, n_steps: int
    ) -> tuple[Pytree, dict, Episodes]:
        """Iterations of a few steps: the update, the next actor and its noise are one compiled call."""
        buffers, collected, shape = self.buffers, [], (n_steps, self.spec.num_envs)
        self._go_on()
        now = np.uint32(iteration)
        packed, key_update = _begin_packed(*self.parts, state, run_key, now, shape=shape)
        if shape not in self.acting:
            (actor, noise), _ = jax.eval_shape(
                lambda state: _begin(self.parts.structure, self.parts.leaves, state, run_key, now, shape),
                state,
            )
            self.acting[shape] = jax.tree.flatten(actor), jax.tree.flatten(noise)
        (of_actor, actor), (of_noise, noise) = self.acting[shape]
        renew = None
        for i in range(count):
            leaves = unpack(packed, [*of_actor, *of_noise])
            numbers, drawn = leaves[: len(of_actor)], noise.unflatten(leaves[len(of_actor) :])
            if renew is None:
                first = HostActor(self.algorithm, actor.unflatten(numbers))
                renew = first.renewable(read(buffers.obs, 0), self.memory, read(drawn, 0))
            rows = slice(i * n_steps, (i + 1) * n_steps)
            actions, extras = self._gather(renew(numbers), drawn, rows)
            rollout, now = self._rollout(actions, extras, rows), np.uint32(iteration + i)
            args = state, rollout, key_update, run_key, now, shape
            state, metrics, packed, key_update = _short_updates[self.in_place](*self.parts, *args)
            collected.append(metrics)
        self.row = past = count * n_steps
        self._refuse_non_finite()
        facts = buffers.reward[:past], buffers.terminated[:past], buffers.truncated[:past]
        episodes, collected = self._enter(*facts, first_step), jax.device_get(collected)
        return state, {name: np.mean([row[name] for row in collected]) for name in collected[0]}, episodes

    def _iterate_by_step(
        self, state: Pytree, run_key: Key, iteration: int, count: int, first_step: int
    ) -> tuple[Pytree, dict, Episodes]:
        """Iterations of one step: the update and the choice of the next action are one compiled call."""
        buffers, sums = self.buffers, {}
        self._go_on()
        obs = read(buffers.obs, 0)
        now, num_envs = np.uint32(iteration), self.spec.num_envs
        block = _draw_block(self.algorithm, state, run_key, now, num_envs)
        choice = _choose(*self.parts, state, block, now, obs, self.memory)
        for t in range(count):
            action, self.memory, extras = choice
            write(buffers.action, t, self.translate(jax.tree.map(np.asarray, action)))
            self.stepper.step(t)
            step = Rollout(
                obs,
                action,
                buffers.reward[t],
                read(buffers.next_obs, t),
                buffers.terminated[t],
                buffers.truncated[t],
                extras,
            )
            now, obs, blocks = np.uint32(iteration + t), read(buffers.obs, t + 1), (block, block)
            if (iteration + t + 1) % BLOCK == 0:
                blocks = block, _draw_block(self.algorithm, state, run_key, now + 1, num_envs)
            args = state, step, sums, blocks, now, obs, self.memory
            state, sums, choice = _step_updates[self.in_place](*self.parts, *args)
            block = blocks[1]
        self.row = count
        self._refuse_non_finite()
        facts = buffers.reward[:count], buffers.terminated[:count], buffers.truncated[:count]
        episodes = self._enter(*facts, first_step)
        return state, {name: value / count for name, value in jax.device_get(sums).items()}, episodes

    def collect(self, actor: HostActor, noise: Pytree, n_steps: int) -> Rollout:
        """Act for `n_steps` in every environment; the arrays are views that the next call overwrites."""
        self._go_on()
        if isinstance(self.stepper, VectorStepper) and self.stepper.skips_resets:
            actions, extras = self.stepper.collect(actor, noise, n_steps, self.translate)
        else:
            act = actor.program(read(self.buffers.obs, 0), self.memory, read(noise, 0))
            actions, extras = self._gather(act, noise, slice(0, n_steps))
        self.row = n_steps
        self._refuse_non_finite()
        return self._rollout(actions, extras, slice(0, n_steps))

    def _go_on(self) -> None:
        """What is to be acted on next goes to the first row."""
        if self.row:
            write(self.buffers.obs, 0, read(self.buffers.obs, self.row))

    def _gather(self, act: Callable, noise: Pytree, rows: slice) -> tuple[Pytree, Pytree]:
        """Act and step, row by row of the buffers: `-> actions, extras`, `[T, B, ...]`."""
        buffers, actions, extras = self.buffers, [], []
        for n, t in enumerate(range(rows.start, rows.stop)):
            action, self.memory, extra = act(read(buffers.obs, t), self.memory, read(noise, n))
            write(buffers.action, t, self.translate(action))
            self.stepper.step(t)
            actions.append(action)
            extras.append(extra)
        return _stack(actions), _stack(extras)

    def _refuse_non_finite(self) -> None:
        defect = first_non_finite(self.buffers, self.spec.observation_space, self.row)
        if defect is not None:
            raise defect

    def _rollout(self, actions: Pytree, extras: Pytree, rows: slice) -> Rollout:
        buffers = self.buffers
        return Rollout(
            read(buffers.obs, rows),
            actions,
            buffers.reward[rows],
            read(buffers.next_obs, rows),
            buffers.terminated[rows],
            buffers.truncated[rows],
            extras,
        )

    def _enter(
        self, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, first_step: int
    ) -> Episodes:
        """Keep books: the episodes that ended, and the actions since each environment's last reset."""
        done = terminated | truncated
        for env, history in enumerate(self.history):
            ends = np.flatnonzero(done[:, env])
            if len(ends):
                history.clear()
            begin = ends[-1] + 1 if len(ends) else 0
            segment = read(self.buffers.action, (slice(begin, len(done)), env))
            history.append(jax.tree.map(np.copy, segment))
        episodes = self.book.record(reward, done, first_step)
        return self._enter_surplus(terminated[-1], truncated[-1], episodes, first_step + done.size)

    def _enter_surplus(
        self, terminated: np.ndarray, truncated: np.ndarray, episodes: Episodes, step: int
    ) -> Episodes:
        """Count what a vector environment did unrecorded: such an episode ends, for the books, at `step`.

        For the algorithm its last recorded step, whose ends are given, was cut by a clock.
        """
        for reward, done, taken in getattr(self.stepper, "surplus", ()):
            self.book.lengths -= ~taken
            late = self.book.record(reward[None], done[None], step)
            late = late._replace(steps=np.full_like(late.steps, step))
            episodes = Episodes(*map(np.concatenate, zip(episodes, late, strict=True)))
            np.logical_or(truncated, done & ~terminated, out=truncated)
        return episodes

    def records(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs to bring every environment back to where it is: seeds' numbers and actions."""
        records = {f"book/{name}": array for name, array in self.book.records().items()}
        for path, _ in leaf_spaces(self.spec.observation_space):
            records["/".join(("obs", *map(str, path)))] = take(read(self.buffers.obs, self.row), path)
        for path, space in leaf_spaces(self.spec.action_space):
            for env, history in enumerate(self.history):
                segments = [take(segment, path) for segment in history]
                empty = np.zeros((0, *(space.shape or ())), space.dtype)
                records["/".join((f"actions/{env}", *map(str, path)))] = np.concatenate([empty, *segments])
        return records

    def restore(self, records: dict[str, np.ndarray]) -> list[str]:
        """Replay every environment's running episode; returns a notice for each that did not come back."""
        notices = []
        self.book.restore({n.removeprefix("book/"): a for n, a in records.items() if n.startswith("book/")})
        if isinstance(self.stepper, VectorStepper):
            self._forget(range(self.spec.num_envs))
            self.stepper.begin(self.book.numbers)
            return [
                "The episodes of a vector environment cannot be replayed: all of them begin anew, and the resumed "
                "run is not the one that stopped."
            ]
        space = self.spec.action_space
        for env in range(self.spec.num_envs):
            prefix = f"actions/{env}"
            actions = _nest(space, lambda path, p=prefix: records["/".join((p, *map(str, path)))])
            episode, length = int(self.book.numbers[env]), int(self.book.lengths[env])
            self.stepper.restore(env, episode, actions, length)
            reached = read(self.buffers.obs, (0, env))
            expected = _nest(
                self.spec.observation_space,
                lambda path, e=env: records["/".join(("obs", *map(str, path)))][e],
            )
            self.history[env] = [actions] if length else []
            if not equal(reached, expected):
                notices.append(
                    f"Environment {env} is not deterministic under its seed: replaying the {length} steps of episode "
                    f"{episode} led elsewhere. It begins a new episode; the resumed run is not the one that stopped."
                )
                self._forget([env])
                self.stepper.restore(env, episode + 1, actions, 0)
        self.row = 0
        return notices

    def _forget(self, envs: Iterable[int]) -> None:
        """Drop the running episodes; the next ones are about to begin."""
        for env in envs:
            self.book.numbers[env] += 1
            self.book.returns[env] = self.book.lengths[env] = 0
            self.history[env] = []

    def close(self) -> None:
        self.stepper.close()


def _stack(trees: list[Pytree]) -> Pytree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _nest(space: gymnasium.Space, leaf: Any, path: tuple = ()) -> Pytree:
    if isinstance(space, gymnasium.spaces.Dict):
        return {name: _nest(part, leaf, (*path, name)) for name, part in space.spaces.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(_nest(part, leaf, (*path, i)) for i, part in enumerate(space.spaces))
    return leaf(path)


def choose_workers(make: MakeEnvironment, num_envs: int) -> int:
    """Worker processes beside this one that pay: one a core where it saves more than handing over costs, else none."""
    workers = min(available_cores(), num_envs) - 1
    if workers < 1:
        return 0
    try:
        seconds = _step_seconds(make)
    except Exception:
        return 0  # what is wrong will show where it can be named
    saved = seconds * (num_envs - math.ceil(num_envs / (workers + 1)))
    return workers if saved > (WATCHED_ROUND_TRIP if watching_pays(workers) else PIPED_ROUND_TRIP) else 0


def _step_seconds(make: MakeEnvironment) -> float:
    """The median time of a step, over 64 random ones or a quarter of a second."""
    seconds, begin = [], time.perf_counter()
    with contextlib.closing(make()) as env:
        env.action_space.seed(0)
        env.reset(seed=0)
        for seed in range(1, 65):
            action = env.action_space.sample()
            start = time.perf_counter()
            _, _, terminated, truncated, _ = env.step(action)
            seconds.append(time.perf_counter() - start)
            if terminated or truncated:
                env.reset(seed=seed)
            if time.perf_counter() - begin > 0.25 and len(seconds) > 3:
                break
    return float(np.median(seconds))
