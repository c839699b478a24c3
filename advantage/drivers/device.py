"""The device driver: world, acting and update inside one compiled program, several iterations per call."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from advantage.drivers.draws import Draws, draw, draw_block, of_block
from advantage.drivers.episode_book import EpisodeBook
from advantage.drivers.metric_rows import metric_rows
from advantage.drivers.records import check_records, kind_of
from advantage.drivers.rollout_size import refuse_what_does_not_fit, rollout_bytes
from advantage.drivers.schedule import (
    BLOCK,
    iterations_per_row,
    plan_span,
    row_ends,
    rows_after,
    rows_per_chunk,
)
from advantage.environments.spaces import translator
from advantage.machine import available_cores, free_device_bytes
from advantage.random_bits import rolled, unrolled
from advantage.rows import choose
from advantage.types import (
    ActionUnits,
    Algorithm,
    Array,
    DriverFacts,
    Iterated,
    Key,
    Pytree,
    Rollout,
    Span,
    Spec,
    World,
)

SEEDS = "seeds"


class WorldState(NamedTuple):
    """Every environment's state, next observation to act on, steps since its reset and policy memory, `[B, ...]`."""

    state: Pytree
    obs: Pytree
    elapsed: Array
    memory: Pytree


def share_cores(num_seeds: int) -> None:
    """Make each CPU core a JAX device, to share the seeds; no effect if JAX has started or the user has chosen."""
    if num_seeds > 1 and jax.config.values["jax_num_cpu_devices"] < 1:
        with contextlib.suppress(RuntimeError):  # JAX has started
            jax.config.update("jax_num_cpu_devices", min(num_seeds, available_cores()))


def start(world: World, key: Key, num_envs: int, initial_memory: Pytree = ()) -> WorldState:
    """Draw every environment's first state."""
    state, obs = jax.vmap(world.reset)(jax.random.split(key, num_envs))
    memory = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_envs, *leaf.shape)), initial_memory)
    return WorldState(state, obs, jnp.zeros(num_envs, jnp.int32), memory)


def rollout_on_device(
    algorithm: Algorithm,
    world: World,
    actor: Pytree,
    worlds: WorldState,
    noise: Pytree,
    key_world: Key,
    units: ActionUnits = "bounds",
) -> tuple[WorldState, Rollout]:
    """Act once for each row of `noise` `[T, B, ...]` in every environment: `-> worlds, rollout [T, B, ...]`.

    `next_obs` is the true successor. A finished environment continues from a newly drawn start state, and its policy
    from the initial memory.
    """
    n_steps, num_envs = jax.tree.leaves(noise)[0].shape[0], worlds.elapsed.shape[0]
    keys = rolled(jax.random.split(unrolled(key_world), (n_steps, 2, num_envs)))
    translate, initial = translator(world.action_space, units), algorithm.initial_memory(actor)

    def step(worlds, inputs):
        noise, (step_keys, reset_keys) = inputs
        action, memory, extras = algorithm.act(actor, worlds.obs, worlds.memory, noise)
        given = translate(action)
        state, next_obs, reward, terminated = jax.vmap(world.step)(worlds.state, given, step_keys)
        elapsed = worlds.elapsed + 1
        truncated = elapsed >= world.max_episode_steps
        done = terminated | truncated
        fresh_state, fresh_obs = jax.vmap(world.reset)(reset_keys)
        state, obs = jax.tree.map(partial(choose, done), (fresh_state, fresh_obs), (state, next_obs))
        memory = jax.tree.map(partial(choose, done), initial, memory)
        facts = Rollout(worlds.obs, action, reward, next_obs, terminated, truncated, extras)
        return WorldState(state, obs, jnp.where(done, 0, elapsed), memory), facts

    after, rollout = jax.lax.scan(step, worlds, (noise, keys))
    return after, rollout._replace(memory=worlds.memory)


def iterate_on_device(
    algorithm: Algorithm,
    world: World,
    state: Pytree,
    worlds: WorldState,
    actor: Pytree,
    draws: Draws,
    units: ActionUnits = "bounds",
) -> tuple[Pytree, WorldState, dict[str, Array], tuple[Array, Array]]:
    """One rollout and one update: `-> state, worlds, metrics, (reward, done)`."""
    noise, key_world = draws.noise, draws.key_world
    worlds, rollout = rollout_on_device(algorithm, world, actor, worlds, noise, key_world, units)
    state, metrics = algorithm.update(state, rollout, draws.key_update)
    return state, worlds, metrics, (rollout.reward, rollout.terminated | rollout.truncated)


class Sizes(NamedTuple):
    """Sizes of a call: steps per iteration, rows of metrics, iterations per row, devices that share the seeds.

    `settings` is 0 if every seed has its own hyperparameters, arrays with a leading axis of seeds; None if all have the
    same.
    """

    n_steps: int
    rows: int
    per_row: int
    mesh: Mesh | None
    settings: int | None


class Begun(NamedTuple):
    """The start of a call: states, worlds and keys with a leading axis of seeds, and the first iteration's index."""

    state: Pytree
    worlds: WorldState
    run_keys: Key
    iteration: Array


@partial(jax.jit, static_argnames=("world", "units", "sizes"))
def _chunk(
    algorithm: Algorithm, world: World, units: ActionUnits, begun: Begun, count: Array, sizes: Sizes
) -> Any:
    """Run `count` iterations, at most `rows * per_row`, for every seed.

    `-> state, worlds, metrics [rows, S], (reward, done) [iterations, S, T, B]`; a row is the mean of its iterations.
    """

    def run(algorithm: Algorithm, begun: Begun, count: Array) -> Any:
        return _iterations(algorithm, world, units, begun, count, sizes)

    if sizes.mesh is not None:  # each device runs its own seeds and never waits for another
        one, each, later = PartitionSpec(), PartitionSpec(SEEDS), PartitionSpec(None, SEEDS)
        settings = one if sizes.settings is None else each
        places: Any = (settings, Begun(*cast(Any, (each, each, each, one))), one), (each, each, later, later)
        run = jax.shard_map(run, mesh=sizes.mesh, in_specs=places[0], out_specs=places[1], check_vma=False)
    return run(algorithm, begun, count)


def _iterations(
    algorithm: Algorithm, world: World, units: ActionUnits, begun: Begun, count: Array, sizes: Sizes
) -> Any:
    (state, worlds, run_keys, first), (n_steps, rows, per_row, _, settings) = begun, sizes
    by_block, num_envs = per_row > 1 and algorithm.n_steps == 1, worlds.elapsed.shape[1]

    @partial(jax.vmap, in_axes=(settings, 0, 0, None))
    def next_block(algorithm: Algorithm, state, run_key, iteration):
        return draw_block(algorithm, state, run_key, iteration, num_envs)

    @jax.jit  # so that it is traced once, for the shapes and for the loop
    @partial(jax.vmap, in_axes=(settings, None, 0, 0, 0, 0))
    def one(algorithm: Algorithm, iteration, state, worlds, run_key, block):
        if by_block:
            actor, draws = algorithm.actor(state), of_block(block, iteration)
        else:
            actor, draws = draw(algorithm, state, run_key, iteration, (n_steps, num_envs))
        return iterate_on_device(algorithm, world, state, worlds, actor, draws, units)

    def zeros(size, shapes):
        return jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), shapes)

    block = next_block(algorithm, state, run_keys, first) if by_block else None
    metrics, facts = jax.eval_shape(one, algorithm, first, state, worlds, run_keys, block)[2:]
    metrics = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), metrics)

    def row(r, carry):
        state, worlds, block, means, facts = carry
        begin, end = r * per_row, jnp.minimum((r + 1) * per_row, count)

        def iteration(i, carry):
            state, worlds, block, sums, facts = carry
            now = first + i
            if by_block:
                block = jax.lax.cond(
                    now % BLOCK == 0, lambda: next_block(algorithm, state, run_keys, now), lambda: block
                )
            state, worlds, metrics, new = one(algorithm, now, state, worlds, run_keys, block)
            facts = jax.tree.map(lambda all, x: all.at[i].set(x), facts, new)
            return state, worlds, block, jax.tree.map(jnp.add, sums, metrics), facts

        sums = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), means)
        start = state, worlds, block, sums, facts
        state, worlds, block, sums, facts = jax.lax.fori_loop(begin, end, iteration, start)
        means = jax.tree.map(lambda all, x: all.at[r].set(x / (end - begin)), means, sums)
        return state, worlds, block, means, facts

    start = state, worlds, block, zeros(rows, metrics), zeros(rows * per_row, facts)
    state, worlds, _, *report = jax.lax.fori_loop(0, (count + per_row - 1) // per_row, row, start)
    return state, worlds, *report


@partial(jax.jit, static_argnames=("world", "num_envs", "settings"))
def _start(
    algorithm: Algorithm, world: World, state: Pytree, keys: Key, num_envs: int, settings: int | None
) -> WorldState:
    def one(algorithm: Algorithm, state, key):
        return start(world, key, num_envs, algorithm.initial_memory(algorithm.actor(state)))

    return jax.vmap(one, in_axes=(settings, 0, 0))(algorithm, state, keys)


def stack_settings(members: Sequence[Algorithm]) -> Algorithm:
    """Algorithms that differ in floats only as one, whose floats are arrays with an entry for each of them.

    Raises:
        ValueError: they differ in something else, which a program cannot hold side by side.
    """
    first, *others = map(jax.tree.structure, members)
    if any(other != first for other in others):
        raise ValueError(
            "These settings differ in more than the values of floats, so one program cannot train them side by side; "
            "train them one after the other."
        )
    return jax.tree.map(lambda *values: jnp.stack([jnp.asarray(value) for value in values]), *members)


def _by_time(facts: np.ndarray) -> np.ndarray:
    """`[iterations, S, T, B] -> [iterations * T, S, B]`."""
    return facts.swapaxes(1, 2).reshape(-1, facts.shape[1], facts.shape[3])


class DeviceDriver:
    """Runs whole iterations on the device, for one seed or for many at once.

    Every array of the state has a leading axis of seeds; each seed gives the same numbers as when it runs alone. If JAX
    has several devices they share the seeds; if some get one fewer, the first seeds run twice and one run is discarded.

    Args:
        algorithm: the algorithm; with `members`, one of them.
        world, spec: the world and the spec of each run.
        num_seeds: number of runs side by side.
        members: an algorithm for each run, if they differ; they may differ in the values of floats.

    Attributes:
        settings: the algorithm of all runs, or the members' stacked one.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        world: World,
        spec: Spec,
        num_seeds: int = 1,
        members: Sequence[Algorithm] = (),
    ):
        self.algorithm, self.world, self.spec = algorithm, world, spec
        self.settings = stack_settings(members) if members else algorithm
        self.axis = 0 if members else None
        self.rollout_bytes = rollout_bytes(algorithm, spec, num_seeds)
        refuse_what_does_not_fit(self.rollout_bytes, free_device_bytes(), algorithm.n_steps, spec.num_envs)
        self.book = EpisodeBook(spec.num_envs, num_seeds)
        self.per_row = iterations_per_row(algorithm, spec)
        self.rows = self.allowed_rows = rows_per_chunk(algorithm, spec, num_seeds)
        (here,) = jnp.zeros(()).devices()
        self.num_seeds, devices = num_seeds, jax.devices(here.platform)[:num_seeds]
        self.mesh = Mesh(np.array(devices), (SEEDS,)) if len(devices) > 1 else None
        self.worlds: Any = None

    @property
    def facts(self) -> DriverFacts:
        """The device and the size of a rollout, for the user."""
        return DriverFacts(f"on {jax.devices()[0].platform}", nbytes=self.rollout_bytes)

    finished = False

    def start(self, states: Pytree, keys: Key) -> Pytree:
        """Begin every environment's first episode, with one key for each seed; returns the states unchanged."""
        self.worlds = _start(self.settings, self.world, states, keys, self.spec.num_envs, self.axis)
        return states

    def state_of(self, state: Pytree, seed: int) -> Pytree:
        """One seed's part of every leaf of the state."""
        return jax.tree.map(lambda leaf: leaf[seed], state)

    def span(self, iteration: int, step: int, until: int) -> Span:
        """The iterations of a chunk, or those that are left."""
        chunk = self.allowed_rows * self.per_row
        return plan_span(self.algorithm, self.spec, chunk=chunk, iteration=iteration, step=step, until=until)

    def iterate(self, state: Pytree, run_keys: Key, span: Span) -> Iterated:
        """Run the iterations of a span, at most one chunk."""
        begun = time.perf_counter()
        state, worlds, run_keys = self._spread((state, self.worlds, run_keys))
        settings = self.settings if self.axis is None else self._spread(self.settings)
        sizes = Sizes(span.n_steps, self.rows, self.per_row, self.mesh, self.axis)
        state, self.worlds, metrics, facts = _chunk(
            settings,
            self.world,
            self.spec.action_units,
            Begun(state, worlds, run_keys, np.int32(span.iteration)),
            np.int32(span.count),
            sizes,
        )
        metrics, (reward, done) = jax.tree.map(
            lambda x: x[:, : self.num_seeds], jax.device_get((metrics, facts))
        )
        if self.mesh is not None:
            state, self.worlds = jax.tree.map(lambda x: x[: self.num_seeds], (state, self.worlds))
        reward, done = (_by_time(fact[: span.count]) for fact in (reward, done))
        episodes = self.book.record_seeds(reward, done, span.first_step)
        iterations, steps = row_ends(span, self.per_row, self.spec.num_envs)
        rows = {name: value[: len(steps)].T for name, value in metric_rows(metrics).items()}
        self.allowed_rows = rows_after(
            self.allowed_rows, self.rows, ran=len(steps), seconds=time.perf_counter() - begun
        )
        return Iterated(state, rows, episodes, iterations, steps)

    def conclusion(self, step: int) -> list[str]:
        """Empty: there is nothing to add."""
        return []

    def records(self, seed: int) -> dict[str, np.ndarray]:
        """What a checkpoint needs to restore one seed's environments: their arrays."""
        leaves = jax.device_get([leaf[seed] for leaf in jax.tree.leaves(self.worlds)])
        books = {f"book/{name}": array for name, array in self.book.records(seed).items()}
        return books | {f"worlds/{i}": leaf for i, leaf in enumerate(leaves)}

    def restore(self, state: Pytree, keys: Key, records: dict[str, np.ndarray]) -> tuple[Pytree, list[str]]:
        """Restore the only seed's environments from `records`. This is exact, so there are no notices."""
        states = self.start(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], state), keys)
        kinds = {f"book/{name}": kind for name, kind in self.book.kinds().items()}
        fresh = {name: x for name, x in self.records(0).items() if name.startswith("worlds/")}
        check_records(records, kinds | {name: kind_of(x) for name, x in fresh.items()})
        self.book.restore(
            {name.removeprefix("book/"): array for name, array in records.items() if name.startswith("book/")}
        )
        leaves, structure = jax.tree.flatten(self.worlds)
        stored = [jnp.asarray(records[f"worlds/{i}"], leaf.dtype)[None] for i, leaf in enumerate(leaves)]
        self.worlds = structure.unflatten(stored)
        return states, []

    def close(self) -> None:
        """There is nothing to close."""

    def _spread(self, tree: Pytree) -> Pytree:
        """Place the seeds on the devices, the same number on each."""
        if self.mesh is None:
            return tree
        devices = self.mesh.size
        size = -(-self.num_seeds // devices) * devices
        rows = np.arange(size) % self.num_seeds
        return jax.device_put(
            jax.tree.map(lambda x: x if size == self.num_seeds else x[rows], tree),
            NamedSharding(self.mesh, PartitionSpec(SEEDS)),
        )
