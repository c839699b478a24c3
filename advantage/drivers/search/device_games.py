"""Whole episodes of many candidates on the device: one compiled program plays all games of a generation together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from advantage.algorithms.search.policy_search import SearchActor
from advantage.drivers.search.games import Chance, Games
from advantage.environments.scored_actions import ScoredActions
from advantage.environments.spaces import environment_action, read
from advantage.policies.deterministic import Scoring, first_of_highest
from advantage.precise_sum import PreciseSum, precise_add, precise_value, precise_zero
from advantage.types import ActionUnits, Array, Key, Pytree, Search, World

TICKS = 2**12  # steps of every game in one call, before the host checks whether to stop
FEWER = 4  # games move to a smaller program once at most one in so many is left
GAMES = "games"


class Lanes(NamedTuple):
    """Running games, `[L, ...]`; `game` is the index of each game."""

    vector: Array
    world: Pytree
    obs: Pytree
    key: Key
    game: Array
    total: PreciseSum
    length: Array
    done: Array
    sums: Array
    squares: Array


@partial(jax.jit, static_argnames="world")
def _begin(algorithm: Search, world: World, actor: Pytree, vectors: Array, keys: Key, game: Array) -> Lanes:
    """Games at their start states. An index below 0 marks an empty lane, which is done."""

    def begin(vector, key, game):
        key_reset, key_steps = jax.random.split(key)
        world_state, obs = world.reset(key_reset)
        seen = algorithm.seen(actor, jax.tree.map(lambda leaf: leaf[None], obs))
        obs = () if _scores(world, actor) else obs
        zero = jnp.zeros(seen.shape[-1])
        facts = game, precise_zero(), jnp.int32(0), game < 0
        return Lanes(vector, world_state, obs, key_steps, *facts, zero, zero)

    return jax.vmap(begin)(vectors, keys, game)


@partial(jax.jit, static_argnames=("world", "units", "mesh"))
def _play(
    algorithm: Search,
    world: World,
    units: ActionUnits,
    actor: Pytree,
    lanes: Lanes,
    left: Array,
    mesh: Mesh | None,
) -> Lanes:
    """Continue until all games are over, or `TICKS` steps are taken in each, or more than `left` in all."""

    def play(algorithm: Search, actor: Pytree, lanes: Lanes, left: Array) -> Lanes:
        def going_on(carry):
            lanes, ticks, steps = carry
            return (~lanes.done).any() & (ticks < TICKS) & (steps <= left)

        def tick(carry):
            lanes, ticks, steps = carry
            steps += (~lanes.done).sum().astype(jnp.uint32)
            return jax.vmap(partial(_step, algorithm, world, units, actor))(lanes), ticks + 1, steps

        return jax.lax.while_loop(going_on, tick, (lanes, jnp.int32(0), jnp.uint32(0)))[0]

    if mesh is not None:  # each device plays its own games and never waits for another
        one, each = PartitionSpec(), PartitionSpec(GAMES)
        play = jax.shard_map(play, mesh=mesh, in_specs=(one, one, each, one), out_specs=each, check_vma=False)
    return play(algorithm, actor, lanes, left)


def _scores(world: World, actor: SearchActor) -> TypeGuard[ScoredActions]:
    """Whether the world scores its actions for the policy, so that no observation is needed."""
    return isinstance(world, ScoredActions) and isinstance(actor.policy, Scoring) and actor.normaliser is None


def _step(algorithm: Search, world: World, units: ActionUnits, actor: Pytree, lane: Lanes) -> Lanes:
    """One step of one game; a game that is over does not change."""
    batch, who = jax.tree.map(lambda leaf: leaf[None], lane.obs), algorithm.candidate(actor, lane.vector)
    seen = algorithm.seen(actor, batch)
    if _scores(world, actor):
        action = first_of_highest(world.score_actions(lane.world, who.params))[None]
    else:
        action, _ = algorithm.greedy(who, batch, ())
    given = read(environment_action(world.action_space, action, units), 0)
    key = jax.random.fold_in(lane.key, lane.length)
    world_state, obs, reward, terminated = world.step(lane.world, given, key)
    obs = () if _scores(world, actor) else obs
    length = lane.length + 1
    total = precise_add(lane.total, reward)
    done = terminated | (length >= world.max_episode_steps) | ~jnp.isfinite(total.high)
    sums, squares = lane.sums + seen.sum(0), lane.squares + jnp.square(seen).sum(0)
    fields = "world", "obs", "total", "length", "done", "sums", "squares"
    after = dict(zip(fields, (world_state, obs, total, length, done, sums, squares), strict=True))
    before = {name: getattr(lane, name) for name in fields}
    return lane._replace(**jax.tree.map(partial(jnp.where, lane.done), before, after))


@jax.jit
def _keep(lanes: Lanes, rows: Array, real: Array) -> Lanes:
    """Keep the games at `rows`; those that are not `real` become empty lanes."""
    kept = jax.tree.map(lambda leaf: leaf[rows], lanes)
    return kept._replace(done=kept.done | ~real, game=jnp.where(real, kept.game, -1))


class DeviceGames:
    """Plays candidates in an on-device world; if JAX has several devices they share the games."""

    def __init__(self, algorithm: Search, world: World, units: ActionUnits = "bounds"):
        self.algorithm, self.world, self.units = algorithm, world, units
        (here,) = jnp.zeros(()).devices()
        devices = jax.devices(here.platform)
        self.mesh = Mesh(np.array(devices), (GAMES,)) if len(devices) > 1 else None
        self.devices = len(devices)
        self.where = f"on {here.platform}" + (f" ({len(devices)} devices)" if self.mesh else "")

    def start(self, games: int) -> None:
        """There is nothing to prepare: each generation begins its own games."""

    def info_names(self) -> list[str]:
        """Empty: worlds have no info."""
        return []

    def close(self) -> None:
        """There is nothing to close."""

    def play(
        self, actor: Pytree, vectors: Array, chance: Chance, left: int, stopped: Callable[[], bool]
    ) -> Games | None:
        """Play one episode with each parameter vector, `[G, d]`.

        Returns None if they take more than `left` steps together, or `stopped()` becomes true.
        """
        number, chances = len(vectors), jax.vmap(partial(jax.random.fold_in, chance.key))(chance.numbers)
        size = -(-number // self.devices) * self.devices
        rows = np.arange(size) % number
        game = np.where(np.arange(size) < number, rows, -1).astype(np.int32)
        lanes = _begin(self.algorithm, self.world, actor, vectors[rows], chances[rows], game)
        lanes = self._spread(lanes)
        width = lanes.sums.shape[-1]
        (sums, squares), infos = np.zeros((2, number, width)), np.zeros((number, 0, 2))  # worlds have no info
        games = Games(np.zeros(number), np.zeros(number, np.int64), sums, squares, infos)
        while True:
            limit = np.uint32(min(left - games.lengths.sum(), 2**31))
            everywhere = self._everywhere(actor)
            lanes = _play(self.algorithm, self.world, self.units, everywhere, lanes, limit, self.mesh)
            facts = lanes.game, lanes.total, lanes.length, lanes.sums, lanes.squares
            game, total, *others = jax.device_get(facts)
            real = game >= 0
            for place, found in zip(games[:-1], (precise_value(total), *others), strict=True):
                place[game[real]] = found[real]
            if games.lengths.sum() > left or stopped():
                return None
            going = np.flatnonzero(~np.asarray(lanes.done))
            if len(going) == 0:
                return games
            size = self.devices * 2 ** int(
                np.ceil(np.log2(-(-len(going) // self.devices)))
            )  # few sizes occur
            if size * FEWER <= len(game):
                rows = np.resize(going, size)
                lanes = self._spread(_keep(lanes, rows, np.arange(size) < len(going)))

    def _spread(self, lanes: Lanes) -> Lanes:
        if self.mesh is None:
            return lanes
        return jax.device_put(lanes, NamedSharding(self.mesh, PartitionSpec(GAMES)))

    def _everywhere(self, actor: Pytree) -> Pytree:
        if self.mesh is None:
            return actor
        return jax.device_put(actor, NamedSharding(self.mesh, PartitionSpec()))
