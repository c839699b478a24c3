"""Iterations of few steps on the host, where the overhead of an iteration would cost more than its work.

One compiled call ends an iteration and begins the next. The results are those of the plain driver: only where a call
begins and ends differs.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.drivers.draws import Draws, draw, draw_block, of_block
from advantage.drivers.host.collector import Collector
from advantage.drivers.host.host_actor import HostActor, pack, unpack
from advantage.drivers.host.in_place import compiled
from advantage.drivers.schedule import BLOCK
from advantage.environments.spaces import read
from advantage.types import Algorithm, Array, Episodes, Key, Pytree, Rollout, Span


class Parts(NamedTuple):
    """An algorithm split into its traced numbers and the rest: flattening it for each short call would cost time."""

    structure: Any
    leaves: list[Array]

    def whole(self, leaves: list[Array] | None = None) -> Algorithm:
        return self.structure.unflatten(self.leaves if leaves is None else leaves)


def parts_of(algorithm: Algorithm) -> Parts:
    """Split an algorithm into its parts, once."""
    leaves, structure = jax.tree.flatten(algorithm)
    return Parts(structure, [jnp.asarray(leaf) for leaf in leaves])


class ShortIterations:
    """Iterations of a few steps: the update, the next actor and its noise are one compiled call.

    Args:
        algorithm: the hyperparameters.
        collector: steps the environments.
        in_place: whether an update may overwrite the state that it is given.
    """

    def __init__(self, algorithm: Algorithm, collector: Collector, in_place: bool):
        self.algorithm, self.collector, self.parts = algorithm, collector, parts_of(algorithm)
        self.update = compiled(_update_and_begin, in_place, static=("structure", "shape"))
        self.acting: dict[tuple[int, int], Any] = {}  # shapes of actor and noise, by a rollout's shape

    def __call__(self, state: Pytree, run_key: Key, span: Span) -> tuple[Pytree, dict[str, Any], Episodes]:
        """The iterations of a span: `-> state, mean metrics, episodes`."""
        collector, collected, n_steps = self.collector, [], span.n_steps
        shape, now, first = (n_steps, collector.spec.num_envs), np.uint32(span.iteration), None
        collector.go_on()
        packed, key_update = _begin_packed(*self.parts, state, run_key, now, shape=shape)
        (of_actor, actor), (of_noise, noise) = self._shapes(state, run_key, shape)
        for i in range(span.count):
            leaves = unpack(packed, [*of_actor, *of_noise])
            numbers, drawn = leaves[: len(of_actor)], noise.unflatten(leaves[len(of_actor) :])
            if first is None:
                first = HostActor(self.algorithm, actor.unflatten(numbers))
                renew = first.renewable(read(collector.buffers.obs, 0), collector.memory, read(drawn, 0))
            rows, memory = slice(i * n_steps, (i + 1) * n_steps), collector.memory
            actions, extras = collector.gather(renew(numbers), drawn, rows)
            rollout = collector.rollout(actions, extras, memory, rows)
            now = np.uint32(span.iteration + i)
            state, metrics, packed, key_update = self.update(
                *self.parts, state, rollout, key_update, run_key, now, shape=shape
            )
            collected.append(metrics)
        episodes = collector.end_at(span.count * n_steps, span.first_step)
        collected = jax.device_get(collected)
        metrics = jax.tree.map(lambda *values: np.mean(values), *collected)
        return state, metrics, episodes

    def _shapes(self, state: Pytree, run_key: Key, shape: tuple[int, int]) -> Any:
        """Shapes of the leaves, and the structure, of the actor and of the noise."""
        if shape not in self.acting:
            (actor, noise), _ = jax.eval_shape(
                lambda state: _begin(self.parts.whole(), state, run_key, np.uint32(0), shape), state
            )
            self.acting[shape] = jax.tree.flatten(actor), jax.tree.flatten(noise)
        return self.acting[shape]


class SingleSteps:
    """Iterations of one step: the update and the choice of the next action are one compiled call.

    The arguments are those of `ShortIterations`.
    """

    def __init__(self, algorithm: Algorithm, collector: Collector, in_place: bool):
        self.algorithm, self.collector, self.parts = algorithm, collector, parts_of(algorithm)
        self.update = compiled(_update_and_choose, in_place, static=("structure",))

    def __call__(self, state: Pytree, run_key: Key, span: Span) -> tuple[Pytree, dict[str, Any], Episodes]:
        """The iterations of a span: `-> state, mean metrics, episodes`."""
        collector, buffers, sums = self.collector, self.collector.buffers, {}
        now, num_envs = np.uint32(span.iteration), collector.spec.num_envs
        collector.go_on()
        obs = read(buffers.obs, 0)
        block = _draw_block(self.algorithm, state, run_key, now, num_envs=num_envs)
        choice = _choose(*self.parts, state, block, now, obs, collector.memory)
        for t in range(span.count):
            memory = collector.memory
            action, collector.memory, extras = choice
            collector.step(t, jax.tree.map(np.asarray, action))
            step = Rollout(
                obs=obs,
                action=action,
                reward=buffers.reward[t],
                next_obs=read(buffers.next_obs, t),
                terminated=buffers.terminated[t],
                truncated=buffers.truncated[t],
                extras=extras,
            )
            now, obs, following = np.uint32(span.iteration + t), read(buffers.obs, t + 1), block
            if (span.iteration + t + 1) % BLOCK == 0:
                following = _draw_block(self.algorithm, state, run_key, now + 1, num_envs=num_envs)
            acting = Acting((block, following), now, obs, (memory, collector.memory))
            state, sums, choice = self.update(*self.parts, state, step, sums, acting)
            block = following
        episodes = collector.end_at(span.count, span.first_step)
        metrics = jax.tree.map(lambda value: value / span.count, jax.device_get(sums))
        return state, metrics, episodes


class Acting(NamedTuple):
    """Inputs for ending one step and choosing the next action; a pair is for this step and for the next."""

    blocks: tuple[Draws, Draws]
    iteration: Any
    obs: Pytree
    memories: tuple[Pytree, Pytree]


@partial(jax.jit, static_argnames="num_envs")
def _draw_block(algorithm: Algorithm, state: Pytree, run_key: Key, iteration: Any, num_envs: int) -> Draws:
    return draw_block(algorithm, state, run_key, iteration, num_envs)


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
    """The action of an iteration of one step: `-> action, memory, extras`."""
    algorithm = Parts(structure, leaves).whole()
    noise = jax.tree.map(lambda x: x[0], of_block(block, iteration).noise)
    return algorithm.act(algorithm.actor(state), obs, memory, noise)


def _update_and_choose(
    structure: Any, leaves: list[Array], state: Pytree, step: Rollout, sums: dict[str, Any], acting: Acting
) -> Any:
    """End an iteration of one step and begin the next: `-> state, sums of metrics, (action, memory, extras)`."""
    (block, following), now, obs, (memory, next_memory) = acting
    rollout = jax.tree.map(lambda x: x[None], step)._replace(memory=memory)
    learned, metrics = (
        Parts(structure, leaves).whole().update(state, rollout, of_block(block, now).key_update)
    )
    sums = jax.tree.map(lambda x, total: x + total, metrics, sums or jax.tree.map(lambda _: 0.0, metrics))
    return learned, sums, _choose(structure, leaves, learned, following, now + 1, obs, next_memory)


def _begin(
    algorithm: Algorithm, state: Pytree, run_key: Key, iteration: Any, shape: tuple[int, int]
) -> tuple[tuple[Pytree, Pytree], Key]:
    """The actor, noise and key of an iteration: `-> (actor, noise), the update's key`."""
    actor, draws = draw(algorithm, state, run_key, iteration, shape)
    return (actor, draws.noise), draws.key_update


@partial(jax.jit, static_argnames=("structure", "shape"))
def _begin_packed(
    structure: Any, leaves: list[Array], state: Pytree, run_key: Key, iteration: Any, shape: tuple[int, int]
) -> Any:
    algorithm = Parts(structure, leaves).whole()
    acting, key_update = _begin(algorithm, state, run_key, iteration, shape)
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
    algorithm = Parts(structure, leaves).whole()
    learned, metrics = algorithm.update(state, rollout, key_update)
    acting, key_update = _begin(algorithm, learned, run_key, iteration + 1, shape)
    return learned, metrics, pack(acting), key_update
