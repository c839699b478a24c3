"""Stacked observations in a replay buffer: each frame is stored once, and stacks are put together when drawn.

The stack of a step holds the frames of the steps before it in the same episode, the oldest first; where the episode is
younger than the stack, its first frame stands in the earlier places: see `environments.frame_stack`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from advantage.types import Array, Pytree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Frames:
    """How many frames each leaf of an observation stacks along its first axis, in the order of the leaves.

    1 stands for a leaf without that axis, and so does a leaf that is not named.
    """

    counts: tuple[int, ...] = ()

    @property
    def depth(self) -> int:
        """The largest number of frames of a leaf."""
        return max(self.counts, default=1)

    def newest(self, obs: Pytree, axis: int = 0) -> Pytree:
        """The newest frame of each leaf, whose stack is `axis`; arrays or `jax.ShapeDtypeStruct`."""

        def last(leaf: Array, count: int) -> Array:
            if count == 1:
                return leaf
            shape = leaf.shape[:axis] + leaf.shape[axis + 1 :]
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(shape, leaf.dtype)
            return leaf[(slice(None),) * axis + (-1,)]

        return self._map(last, obs)

    def after(self, stack: Pytree, frame: Pytree) -> Pytree:
        """The stacks `[N, k, ...]` after one more frame `[N, ...]`: the oldest is dropped."""

        def push(new: Array, count: int, old: Array) -> Array:
            return new if count == 1 else jnp.concatenate([old[:, 1:], new[:, None]], axis=1)

        return self._map(push, frame, stack)

    def rows_back(self, ended: Array) -> Array:
        """How many rows before a step the frames of its stack are, int32 `[N, depth]`, the oldest frame first.

        Args:
            ended: bool `[N, depth - 1]`, whether an episode ended 1, 2, ... rows before the step.
        """
        available = jnp.cumprod(~ended, axis=1).sum(1, keepdims=True)
        return jnp.minimum(jnp.arange(self.depth - 1, -1, -1), available)

    def gather(self, rings: Pytree, place: Array, env: Array) -> Pytree:
        """The stacks whose frames lie at `place`, `[N, depth]`, in the columns `env`, `[N]`, of rings `[R, B, ...]`."""

        def stack(ring: Array, count: int) -> Array:
            return ring[place[:, -1], env] if count == 1 else ring[place[:, -count:], env[:, None]]

        return self._map(stack, rings)

    def _map(self, function, tree: Pytree, *rest: Pytree) -> Pytree:
        leaves, structure = jax.tree.flatten(tree)
        counts = self.counts or (1,) * len(leaves)
        others = [structure.flatten_up_to(other) for other in rest]
        return structure.unflatten(map(function, leaves, counts, *others))
