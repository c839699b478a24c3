"""What runs in a process of the cluster: some of the environments, and the policy that acts in them.

This file imports neither JAX nor Ray at its top: the process first sets what JAX reads when it is imported.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, NamedTuple

import numpy as np

from advantage.types import Gradient, Pytree, Rollout


class Setting(NamedTuple):
    """What a process needs once.

    Attributes:
        make: makes one environment.
        algorithm: who acts.
        indices: the environments that it holds.
        seed: the run's seed.
        shapes: of the buffers of all environments.
        spec: the run's spec.
        whole: act with the shapes of all environments, so that numbers are those of one process, bit for bit.
        gradients: what comes to act is a whole state, and the gradient of each rollout is computed too.
    """

    make: Any
    algorithm: Any
    indices: list[int]
    seed: int
    shapes: Any
    spec: Any
    whole: bool
    gradients: bool


class Order(NamedTuple):
    """A rollout to be made; all leaves are those of the process's own environments.

    Attributes:
        noise: `[T, b, ...]`.
        memory: the policy's memory before the first step, `[b, ...]`.
        initial_memory: what it is where an episode begins, without an axis.
        n_steps: T.
    """

    noise: Pytree
    memory: Pytree
    initial_memory: Pytree
    n_steps: int


class Made(NamedTuple):
    """A rollout, `[T, b, ...]`.

    Attributes:
        obs: `[T + 1, b, ...]`, with the observation to act on next.
        finals: `[E, ...]`, the true successors of the E steps at which an episode ended, row by row.
        action: in the environment's own units.
        chosen: in the policy's.
        extras: what `act` returned besides.
        memory: after the last step, `[b, ...]`.
        reward, terminated, truncated: facts.
        info: numbers that are logged.
        seconds: that it took.
        gradient: at the parameters that have acted, if gradients are computed.
    """

    obs: Pytree
    finals: Pytree
    action: Pytree
    chosen: Pytree
    extras: Pytree
    memory: Pytree
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: dict[str, np.ndarray]
    seconds: float
    gradient: Gradient | None = None


class RolloutActor:
    """Some of the environments, and the newest policy."""

    def __init__(self, path: list[str], setting: bytes):
        os.environ["JAX_PLATFORMS"] = "cpu"
        sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
        import cloudpickle

        from advantage.drivers.host.stepper import Stepper, allocate
        from advantage.environments.spaces import translator

        self.setting: Setting = cloudpickle.loads(setting)
        spec = self.setting.spec
        self.columns = np.array(self.setting.indices)
        self.buffers = allocate(self.setting.shapes)
        self.stepper = Stepper(self.setting.make, self.setting.indices, self.setting.seed, self.buffers)
        self.translate = translator(spec.action_space, spec.action_units)
        self.row, self.version, self.weights, self.actor = 0, -1, None, None
        self.rollout: Rollout | None = None

    def ready(self) -> None:
        """Answer: this process runs."""

    def reset(self) -> Pytree:
        """Begin every first episode: the observations, `[b, ...]`."""
        self.stepper.reset()
        self.row = 0
        return self._own(self.buffers.obs, 0)

    def restore(self, index: int, episode: int, actions: Pytree, length: int) -> Pytree:
        """Replay the first steps of an episode of one environment: the observation that is reached."""
        from advantage.environments.spaces import read

        self.row = 0
        self.stepper.restore(index, episode, actions, length)
        return read(self.buffers.obs, (0, index))

    def info_names(self) -> list[str]:
        """As in `Stepper.info_names`."""
        return self.stepper.info_names()

    def collect(self, weights: Any, order: Any) -> Made:
        """Act with a policy, `(version, actor)`, or `(version, state)` where gradients are computed, for an `Order`.

        Either is pickled if it is small.
        """
        return self._collect(_unpickled(weights), _unpickled(order))

    def _collect(self, weights: tuple[int, Any], order: Order) -> Made:
        import jax

        from advantage.environments.spaces import read, write

        begun = time.perf_counter()
        self._take(*weights)
        assert self.actor is not None
        buffers, memory = self.buffers, self._spread(order.memory)
        if self.row:
            write(buffers.obs, 0, read(buffers.obs, self.row))
        noise = jax.tree.map(lambda x: self._spread(x, axis=1), order.noise)
        act = self.actor.program(self._seen(0), memory, read(noise, 0))
        chosen, extras = [], []
        remembers = bool(jax.tree.leaves(order.initial_memory))
        for t in range(order.n_steps):
            action, memory, extra = act(self._seen(t), memory, read(noise, t))
            taken, place = self.translate(action), slice(None) if self.setting.whole else self.columns
            write(buffers.action, (t, place), taken)
            self.stepper.step(t)
            if remembers:
                done = np.logical_or(buffers.terminated[t], buffers.truncated[t])[place]
                memory = jax.tree.map(
                    lambda x, first, done=done: np.where(done.reshape(-1, *(1,) * (x.ndim - 1)), first, x),
                    memory,
                    order.initial_memory,
                )
            chosen.append(self._mine(action))
            extras.append(self._mine(extra))
        self.row = order.n_steps
        rows = slice(order.n_steps)
        done = np.logical_or(buffers.terminated[rows], buffers.truncated[rows])
        ends = np.nonzero(done[:, self.columns])
        made = Made(
            obs=self._own(buffers.obs, slice(order.n_steps + 1)),
            finals=jax.tree.map(lambda x: x[ends], self._own(buffers.next_obs, rows)),
            action=self._own(buffers.action, rows),
            chosen=jax.tree.map(lambda *x: np.stack(x), *chosen),
            extras=jax.tree.map(lambda *x: np.stack(x), *extras),
            memory=self._mine(memory),
            reward=buffers.reward[rows, self.columns],
            terminated=buffers.terminated[rows, self.columns],
            truncated=buffers.truncated[rows, self.columns],
            info={name: x[rows, self.columns] for name, x in buffers.info.items()},
            seconds=time.perf_counter() - begun,
        )
        return self._with_gradient(made, order) if self.setting.gradients else made

    def gradient(self, n_steps: int) -> Gradient:
        """The gradient of the first steps of the last rollout, at the parameters that have acted."""
        import jax

        from advantage.drivers.cluster.gradients import gradient_of

        assert self.rollout is not None
        first = jax.tree.map(lambda x: x[:n_steps], self.rollout._replace(memory=()))
        rollout = first._replace(memory=self.rollout.memory)
        return jax.device_get(gradient_of(self.setting.algorithm, self.weights, rollout))

    def _with_gradient(self, made: Made, order: Order) -> Made:
        """A rollout with its gradient."""
        import jax

        rows = slice(order.n_steps)
        self.rollout = Rollout(
            obs=jax.tree.map(lambda x: x[rows], made.obs),
            action=made.chosen,
            reward=made.reward,
            next_obs=self._own(self.buffers.next_obs, rows),
            terminated=made.terminated,
            truncated=made.truncated,
            extras=made.extras,
            memory=order.memory,
        )
        return made._replace(gradient=self.gradient(order.n_steps))

    def _take(self, version: int, weights: Pytree) -> None:
        """Act by this version from now on."""
        from advantage.drivers.host.host_actor import HostActor, actor_of

        if version != self.version:
            algorithm = self.setting.algorithm
            actor = actor_of(algorithm, weights) if self.setting.gradients else weights
            self.version, self.weights, self.actor = version, weights, HostActor(algorithm, actor)

    def _seen(self, t: int) -> Pytree:
        """What the policy sees in row t."""
        from advantage.environments.spaces import read

        return read(self.buffers.obs, t) if self.setting.whole else self._own(self.buffers.obs, t)

    def _own(self, tree: Pytree, rows: int | slice) -> Pytree:
        """The columns of the environments that this process holds, as copies."""
        import jax

        return jax.tree.map(
            lambda x: x[rows, self.columns] if isinstance(rows, slice) else x[rows][self.columns], tree
        )

    def _mine(self, tree: Pytree) -> Pytree:
        """The same of what `act` has returned, `[B, ...]` or `[b, ...]`."""
        import jax

        return jax.tree.map(lambda x: np.asarray(x)[self.columns], tree) if self.setting.whole else tree

    def _spread(self, tree: Pytree, axis: int = 0) -> Pytree:
        """Arrays of the own environments with zeros for all others, where it acts with the shapes of all."""
        import jax

        if not self.setting.whole:
            return tree

        def one(x: np.ndarray) -> np.ndarray:
            shape = list(x.shape)
            shape[axis] = self.setting.spec.num_envs
            spread = np.zeros(shape, x.dtype)
            spread[(slice(None),) * axis + (self.columns,)] = x
            return spread

        return jax.tree.map(one, tree)


def _unpickled(given: Any) -> Any:
    import cloudpickle

    return cloudpickle.loads(given) if isinstance(given, bytes) else given
