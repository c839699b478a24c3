"""Iterations of few steps on the host, where the overhead of an iteration would cost more than its work.

One compiled call ends an iteration and begins the next, and its arguments are packed. The results are those of the
plain driver: only where a call begins and ends differs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.drivers.draws import Draws, draw, draw_block, of_block
from advantage.drivers.host.collector import Collector
from advantage.drivers.host.host_actor import HostActor
from advantage.drivers.host.in_place import compiled
from advantage.drivers.host.packing import HostPacker, HostTree, Packed, Packing, pack, stacked, unpack
from advantage.drivers.schedule import BLOCK
from advantage.environments.spaces import read
from advantage.types import Algorithm, Array, Episodes, Key, Pytree, Rollout, Span


class Parts(NamedTuple):
    """An algorithm split into its traced numbers and the rest: flattening it for each short call would cost time."""

    structure: Any
    leaves: list[Array]

    def whole(self) -> Algorithm:
        return self.structure.unflatten(self.leaves)


def parts_of(algorithm: Algorithm) -> Parts:
    """Split an algorithm into its parts, once."""
    leaves, structure = jax.tree.flatten(algorithm)
    return Parts(structure, [jnp.asarray(leaf) for leaf in leaves])


class PackedActing(NamedTuple):
    """Acting by an actor, and with noise, that a compiled call returns in one piece.

    Attributes:
        drawn: the arrays of the actor and of the noise.
        act: acts by the actor in these arrays.
        renew: to be called when their numbers have changed.
    """

    drawn: HostTree
    act: Callable[..., Any]
    renew: Callable[[], None]


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
        self.state_in = compiled(_state_in, in_place, static=("packing",))
        self.acting: dict[tuple[int, int], PackedActing] = {}  # by a rollout's shape
        self.packers: dict[tuple[int, int], HostPacker] = {}

    def __call__(self, state: Pytree, run_key: Key, span: Span) -> tuple[Pytree, dict[str, Any], Episodes]:
        """The iterations of a span: `-> state, mean metrics, episodes`."""
        collector, collected, n_steps = self.collector, [], span.n_steps
        shape, now = (n_steps, collector.spec.num_envs), np.uint32(span.iteration)
        collector.go_on()
        state, drawn = _begin_packed(*self.parts, state, run_key, now, shape=shape)
        acting = self._acting(drawn, shape)
        for i in range(span.count):
            acting.drawn.take(drawn)
            acting.renew()
            rows, memory = slice(i * n_steps, (i + 1) * n_steps), collector.memory
            actions, extras = collector.gather(acting.act, acting.drawn.tree[1], rows)
            inputs = collector.rollout(actions, extras, memory, rows), np.uint32(span.iteration + i)
            if shape not in self.packers:
                self.packers[shape] = HostPacker(inputs)
            packed = self.packers[shape](inputs)
            state, metrics, drawn = self.update(*self.parts, state, packed, run_key, shape=shape)
            collected.append(metrics)
        episodes = collector.end_at(span.count * n_steps, span.first_step)
        return (
            self.state_in(state.packing, state.words, state.apart),
            jax.tree.map(np.mean, stacked(collected)),
            episodes,
        )

    def _acting(self, drawn: Packed, shape: tuple[int, int]) -> PackedActing:
        """What acts in rollouts of this shape, made once."""
        if shape not in self.acting:
            on_host, collector = HostTree(drawn.packing), self.collector
            on_host.take(drawn)
            actor, noise = on_host.tree
            act, renew = HostActor(self.algorithm, actor).renewable(
                jax.tree.leaves(actor),
                obs=read(collector.buffers.obs, 0),
                memory=collector.memory,
                noise=read(noise, 0),
            )
            self.acting[shape] = PackedActing(on_host, act, renew)
        return self.acting[shape]


class SingleSteps:
    """Iterations of one step: the update and the choice of the next action are one compiled call.

    The arguments are those of `ShortIterations`.
    """

    def __init__(self, algorithm: Algorithm, collector: Collector, in_place: bool):
        self.algorithm, self.collector, self.parts = algorithm, collector, parts_of(algorithm)
        self.update = compiled(_update_and_choose, in_place, static=("structure",))
        self.state_in = compiled(_state_in, in_place, static=("packing",))
        self.chosen: HostTree | None = None
        self.packer: HostPacker | None = None

    def __call__(self, state: Pytree, run_key: Key, span: Span) -> tuple[Pytree, dict[str, Any], Episodes]:
        """The iterations of a span: `-> state, mean metrics, episodes`."""
        collector, buffers, collected = self.collector, self.collector.buffers, []
        now, num_envs = np.uint32(span.iteration), collector.spec.num_envs
        collector.go_on()
        obs = read(buffers.obs, 0)
        block = _draw_block(*self.parts, state, run_key, now, num_envs=num_envs)
        state, choice = _choose_first(*self.parts, state, block, now, obs, collector.memory)
        self.chosen = chosen = self.chosen or HostTree(choice.packing)
        for t in range(span.count):
            memory = collector.memory
            chosen.take(choice)
            action, collector.memory = chosen.tree[0], jax.tree.map(np.copy, chosen.tree[1])
            collector.step(t, action)
            now, obs, following = np.uint32(span.iteration + t), read(buffers.obs, t + 1), block
            inputs = Stepped(
                obs=read(buffers.obs, t),
                reward=buffers.reward[t],
                next_obs=read(buffers.next_obs, t),
                terminated=buffers.terminated[t],
                truncated=buffers.truncated[t],
                obs_to_act_on=obs,
                memories=(memory, collector.memory),
                iteration=now,
            )
            if (span.iteration + t + 1) % BLOCK == 0:
                following = _draw_block(*self.parts, state, run_key, now + 1, num_envs=num_envs)
            self.packer = self.packer or HostPacker(inputs)
            state, metrics, choice = self.update(*self.parts, state, self.packer(inputs), (block, following))
            collected.append(metrics)
            block = following
        episodes = collector.end_at(span.count, span.first_step)
        return (
            self.state_in(state.packing, state.words, state.apart),
            jax.tree.map(_mean, stacked(collected)),
            episodes,
        )


class Stepped(NamedTuple):
    """What the host knows after a step; a pair is for this step and for the next."""

    obs: Pytree
    reward: np.ndarray
    next_obs: Pytree
    terminated: np.ndarray
    truncated: np.ndarray
    obs_to_act_on: Pytree
    memories: tuple[Pytree, Pytree]
    iteration: np.uint32


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean of `[N]` numbers, added one after the other."""
    return np.add.accumulate(values, dtype=np.float32)[-1] / len(values)


def _state_in(packing: Packing, words: Array, state: list[Array]) -> Pytree:
    """The training state, the first of what is packed; `state` are the leaves that lie apart."""
    return unpack(Packed(words, state, packing))[0]


@partial(jax.jit, static_argnames=("structure", "num_envs"))
def _draw_block(
    structure: Any, leaves: list[Array], state: Pytree, run_key: Key, iteration: Any, num_envs: int
) -> Packed:
    """The draws of a block; `state` may be packed."""
    state = unpack(state)[0] if isinstance(state, Packed) else state
    return pack(draw_block(Parts(structure, leaves).whole(), state, run_key, iteration, num_envs))


def _choose(
    algorithm: Algorithm, state: Pytree, block: Draws, iteration: Any, obs: Pytree, memory: Pytree
) -> tuple[Packed, Packed]:
    """The action of an iteration of one step: `-> (state, action, extras), (action, memory)`, packed."""
    noise = jax.tree.map(lambda x: x[0], of_block(block, iteration).noise)
    action, memory, extras = algorithm.act(algorithm.actor(state), obs, memory, noise)
    return pack((state, action, extras)), pack((action, memory))


@partial(jax.jit, static_argnames="structure")
def _choose_first(
    structure: Any,
    leaves: list[Array],
    state: Pytree,
    block: Packed,
    iteration: Any,
    obs: Pytree,
    memory: Pytree,
) -> tuple[Packed, Packed]:
    return _choose(Parts(structure, leaves).whole(), state, unpack(block), iteration, obs, memory)


def _update_and_choose(
    structure: Any, leaves: list[Array], state: Packed, inputs: Packed, blocks: tuple[Packed, Packed]
) -> tuple[Packed, Packed, Packed]:
    """End an iteration of one step and begin the next: `-> (state, action, extras), metrics, (action, memory)`."""
    algorithm, (block, following), now = Parts(structure, leaves).whole(), map(unpack, blocks), unpack(inputs)
    before, action, extras = unpack(state)
    memory, next_memory = now.memories
    step = Rollout(
        obs=now.obs,
        action=action,
        reward=now.reward,
        next_obs=now.next_obs,
        terminated=now.terminated,
        truncated=now.truncated,
        extras=extras,
    )
    rollout = jax.tree.map(lambda x: x[None], step)._replace(memory=memory)
    learned, metrics = algorithm.update(before, rollout, of_block(block, now.iteration).key_update)
    chosen = _choose(algorithm, learned, following, now.iteration + 1, now.obs_to_act_on, next_memory)
    return chosen[0], pack(metrics), chosen[1]


def _begin(
    algorithm: Algorithm, state: Pytree, run_key: Key, iteration: Any, shape: tuple[int, int]
) -> tuple[Packed, Packed]:
    """The actor and noise of an iteration: `-> (state, the update's key), (actor, noise)`, packed."""
    actor, draws = draw(algorithm, state, run_key, iteration, shape)
    return pack((state, draws.key_update)), pack((actor, draws.noise))


@partial(jax.jit, static_argnames=("structure", "shape"))
def _begin_packed(
    structure: Any, leaves: list[Array], state: Pytree, run_key: Key, iteration: Any, shape: tuple[int, int]
) -> tuple[Packed, Packed]:
    return _begin(Parts(structure, leaves).whole(), state, run_key, iteration, shape)


def _update_and_begin(
    structure: Any, leaves: list[Array], state: Packed, inputs: Packed, run_key: Key, shape: tuple[int, int]
) -> tuple[Packed, Packed, Packed]:
    """End an iteration and begin the next: `-> (state, key), metrics, (actor, noise)`, packed."""
    algorithm, (rollout, iteration), (before, key) = (
        Parts(structure, leaves).whole(),
        unpack(inputs),
        unpack(state),
    )
    learned, metrics = algorithm.update(before, rollout, key)
    following, drawn = _begin(algorithm, learned, run_key, iteration + 1, shape)
    return following, pack(metrics), drawn
