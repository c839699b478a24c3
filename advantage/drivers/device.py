"""The device driver: world, acting and update inside one compiled program, several iterations a call."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from advantage.drivers.draws import BLOCK, Draws, draw, draw_block, of_block
from advantage.drivers.episode_book import EpisodeBook, Episodes, iterations_per_row
from advantage.drivers.rollout_size import refuse_what_does_not_fit, rollout_bytes
from advantage.environments.spaces import translator
from advantage.machine import available_cores, free_device_bytes
from advantage.types import ActionUnits, Algorithm, Array, Key, Pytree, Rollout, Spec, World

CHUNK_STEPS = 2**17  # environment steps, about, that one call takes before it reports, in each seed
ALL_CHUNK_STEPS = 2**22  # in all seeds together
MAX_CHUNK = 64  # rows of metrics
SEEDS = "seeds"


class WorldState(NamedTuple):
    """Where every environment is, `[B, ...]`: its state, what to act on next, steps since its last reset."""

    state: Pytree
    obs: Pytree
    elapsed: Array
    memory: Pytree


def share_cores(num_seeds: int) -> None:
    """Let a CPU's cores be devices of their own, which share the seeds; nothing if JAX has begun or the user chose."""
    if num_seeds > 1 and jax.config.values["jax_num_cpu_devices"] < 1:
        with contextlib.suppress(RuntimeError):  # JAX has begun
            jax.config.update("jax_num_cpu_devices", min(num_seeds, available_cores()))


def start(world: World, key: Key, num_envs: int) -> WorldState:
    """Draw every environment's first state."""
    state, obs = jax.vmap(world.reset)(jax.random.split(key, num_envs))
    return WorldState(state, obs, jnp.zeros(num_envs, jnp.int32), ())


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

    `next_obs` is the true successor; a finished environment goes on from a newly drawn start.
    """
    n_steps, num_envs = jax.tree.leaves(noise)[0].shape[0], worlds.elapsed.shape[0]
    keys = jax.random.split(key_world, (n_steps, 2, num_envs))
    translate = translator(world.action_space, units)

    def step(worlds, inputs):
        noise, (step_keys, reset_keys) = inputs
        action, memory, extras = algorithm.act(actor, worlds.obs, worlds.memory, noise)
        given = translate(action)
        state, next_obs, reward, terminated = jax.vmap(world.step)(worlds.state, given, step_keys)
        elapsed = worlds.elapsed + 1
        truncated = elapsed >= world.max_episode_steps
        done = terminated | truncated
        fresh_state, fresh_obs = jax.vmap(world.reset)(reset_keys)
        state, obs = jax.tree.map(partial(_where, done), (fresh_state, fresh_obs), (state, next_obs))
        facts = Rollout(worlds.obs, action, reward, next_obs, terminated, truncated, extras)
        return WorldState(state, obs, jnp.where(done, 0, elapsed), memory), facts

    return jax.lax.scan(step, worlds, (noise, keys))


def _where(condition: Array, yes: Array, no: Array) -> Array:
    return jnp.where(condition.reshape(condition.shape + (1,) * (yes.ndim - 1)), yes, no)


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


@partial(jax.jit, static_argnames=("world", "units", "n_steps", "rows", "per_row", "mesh"))
def _chunk(algorithm, world, units, state, worlds, run_keys, first, count, n_steps, rows, per_row, mesh):
    """`count` of at most `rows * per_row` iterations, for every seed in the leading axis of the arrays.

    `-> state, worlds, metrics [rows, S], (reward, done) [iterations, S, T, B]`; a row is the mean of its iterations.
    """
    sizes = n_steps, rows, per_row

    def run(algorithm, state, worlds, run_keys, first, count):
        return _iterations(algorithm, world, units, state, worlds, run_keys, first, count, *sizes)

    if mesh is not None:  # each device has its seeds to itself, and none waits for another
        one, each, later = PartitionSpec(), PartitionSpec(SEEDS), PartitionSpec(None, SEEDS)
        places = (one, each, each, each, one, one), (each, each, later, later)
        run = jax.shard_map(run, mesh=mesh, in_specs=places[0], out_specs=places[1], check_vma=False)
    return run(algorithm, state, worlds, run_keys, first, count)


def _iterations(algorithm, world, units, state, worlds, run_keys, first, count, n_steps, rows, per_row):
    by_block, num_envs = per_row > 1 and algorithm.n_steps == 1, worlds.elapsed.shape[1]

    @partial(jax.vmap, in_axes=(0, 0, None))
    def next_block(state, run_key, iteration):
        return draw_block(algorithm, state, run_key, iteration, num_envs)

    @jax.jit  # so that it is traced once, for the shapes and for the loop
    @partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
    def one(iteration, state, worlds, run_key, block):
        if by_block:
            actor, draws = algorithm.actor(state), of_block(block, iteration)
        else:
            actor, draws = draw(algorithm, state, run_key, iteration, (n_steps, num_envs))
        return iterate_on_device(algorithm, world, state, worlds, actor, draws, units)

    def zeros(size, shapes):
        return jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), shapes)

    block = next_block(state, run_keys, first) if by_block else None
    metrics, facts = jax.eval_shape(one, first, state, worlds, run_keys, block)[2:]
    metrics = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), metrics)

    def row(r, carry):
        state, worlds, block, means, facts = carry
        begin, end = r * per_row, jnp.minimum((r + 1) * per_row, count)

        def iteration(i, carry):
            state, worlds, block, sums, facts = carry
            now = first + i
            if by_block:
                block = jax.lax.cond(
                    now % BLOCK == 0, lambda: next_block(state, run_keys, now), lambda: block
                )
            state, worlds, metrics, new = one(now, state, worlds, run_keys, block)
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


@partial(jax.jit, static_argnames=("world", "num_envs"))
def _start(world: World, keys: Key, num_envs: int) -> WorldState:
    return jax.vmap(partial(start, world, num_envs=num_envs))(keys)


def _by_time(facts: np.ndarray) -> np.ndarray:
    """`[iterations, S, T, B] -> [iterations * T, S, B]`."""
    return facts.swapaxes(1, 2).reshape(-1, facts.shape[1], facts.shape[3])


class DeviceDriver:
    """Runs whole iterations on the device, for one seed or for many at once.

    Every array of the state has a leading axis of seeds; each seed's numbers are those that it has alone. Where JAX
    has several devices they share the seeds; if some get one fewer, the first seeds run twice and once is thrown away.
    """

    def __init__(self, algorithm: Algorithm, world: World, spec: Spec, num_seeds: int = 1):
        self.algorithm, self.world, self.spec = algorithm, world, spec
        self.rollout_bytes = rollout_bytes(algorithm, spec, num_seeds)
        refuse_what_does_not_fit(self.rollout_bytes, free_device_bytes(), algorithm.n_steps, spec.num_envs)
        self.book = EpisodeBook(spec.num_envs, num_seeds)
        self.per_row = iterations_per_row(algorithm, spec)
        steps = algorithm.n_steps * spec.num_envs * self.per_row
        self.rows = int(np.clip(min(CHUNK_STEPS, ALL_CHUNK_STEPS // num_seeds) // steps, 1, MAX_CHUNK))
        self.chunk = self.rows * self.per_row
        (here,) = jnp.zeros(()).devices()
        self.num_seeds, devices = num_seeds, jax.devices(here.platform)[:num_seeds]
        self.mesh = Mesh(np.array(devices), (SEEDS,)) if len(devices) > 1 else None
        self.worlds: Any = None

    def start(self, keys: Key) -> None:
        """Begin every environment's first episode, `keys` one a seed."""
        self.worlds = _start(self.world, keys, self.spec.num_envs)

    def records(self, seed: int) -> dict[str, np.ndarray]:
        """What a checkpoint needs to put one seed's environments where they are: their arrays."""
        leaves = jax.device_get([leaf[seed] for leaf in jax.tree.leaves(self.worlds)])
        books = {f"book/{name}": array for name, array in self.book.records(seed).items()}
        return books | {f"worlds/{i}": leaf for i, leaf in enumerate(leaves)}

    def restore(self, records: dict[str, np.ndarray]) -> list[str]:
        """Put the one seed's environments where `records` says; call after `start`. Nothing can go astray."""
        self.book.restore(
            {name.removeprefix("book/"): array for name, array in records.items() if name.startswith("book/")}
        )
        leaves, structure = jax.tree.flatten(self.worlds)
        stored = [jnp.asarray(records[f"worlds/{i}"], leaf.dtype)[None] for i, leaf in enumerate(leaves)]
        self.worlds = structure.unflatten(stored)
        return []

    def close(self) -> None:
        """Nothing to give back."""

    def iterate(
        self, state: Pytree, run_keys: Key, iteration: int, count: int, first_step: int, n_steps: int
    ) -> tuple[Pytree, dict[str, np.ndarray], list[Episodes]]:
        """`count` iterations: `-> state, metrics [S, rows], episodes of each seed`."""
        sizes = n_steps, self.rows, self.per_row, self.mesh
        inputs = self._spread((state, self.worlds, run_keys))
        state, self.worlds, metrics, facts = _chunk(
            self.algorithm, self.world, self.spec.action_units, *inputs, iteration, count, *sizes
        )
        metrics, (reward, done) = jax.tree.map(
            lambda x: x[:, : self.num_seeds], jax.device_get((metrics, facts))
        )
        if self.mesh is not None:
            state, self.worlds = jax.tree.map(lambda x: x[: self.num_seeds], (state, self.worlds))
        reward, done = (_by_time(fact[:count]) for fact in (reward, done))
        episodes, rows = self.book.record_seeds(reward, done, first_step), -(-count // self.per_row)
        return state, {name: value[:rows].T for name, value in metrics.items()}, episodes

    def _spread(self, tree: Pytree) -> Pytree:
        """Seeds on the devices that run them, as many on each."""
        if self.mesh is None:
            return tree
        devices = self.mesh.size
        size = -(-self.num_seeds // devices) * devices
        rows = np.arange(size) % self.num_seeds
        return jax.device_put(
            jax.tree.map(lambda x: x if size == self.num_seeds else x[rows], tree),
            NamedSharding(self.mesh, PartitionSpec(SEEDS)),
        )
