"""Observations and actions as vectors, and back: what networks that predict the next observation work on."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from advantage.environments.spaces import leaf_spaces, map_leaves, take
from advantage.policies.encoder import Encoder, encoder
from advantage.types import ActionUnits, Array, Pytree, Spec


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class VectorSpaces:
    """The spaces of a run whose observations are numbers and whose actions are numbers or one choice.

    Attributes:
        observation_space: Boxes of numbers.
        action_space: Discrete, or a bounded Box.
        action_units: the units of actions in a Box.
    """

    observation_space: spaces.Space
    action_space: spaces.Discrete | spaces.Box
    action_units: ActionUnits = "bounds"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VectorSpaces) and self._facts == other._facts

    def __hash__(self) -> int:
        return hash(repr(self._facts))

    @property
    def _facts(self) -> tuple[Any, ...]:
        return self.observation_space, self.action_space, self.action_units

    @property
    def size(self) -> int:
        """The length of an observation's vector."""
        return sum(int(np.prod(space.shape or ())) for _, space in leaf_spaces(self.observation_space))

    @property
    def action_size(self) -> int:
        """The length of an action's vector."""
        space = self.action_space
        return int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape))

    def vector(self, obs: Pytree) -> Array:
        """`[N, d]` float32."""
        leaves = [take(obs, path) for path, _ in leaf_spaces(self.observation_space)]
        return jnp.concatenate([x.reshape(len(x), -1).astype(jnp.float32) for x in leaves], axis=-1)

    def obs(self, x: Array) -> Pytree:
        """The observation of a vector, `[N, ...]` in the space's own form."""
        begin = 0

        def leaf(space: spaces.Space) -> Array:
            nonlocal begin
            width = int(np.prod(space.shape or ()))
            part, begin = x[:, begin : begin + width], begin + width
            return part.reshape(-1, *(space.shape or ())).astype(space.dtype)

        return map_leaves(leaf, self.observation_space)

    def bounded(self, x: Array) -> Array:
        """The vector within the bounds of the observation space."""
        boxes = [space for _, space in leaf_spaces(self.observation_space)]
        low, high = (
            np.concatenate([np.ravel(getattr(box, end)) for box in boxes]).astype(np.float32)
            for end in ("low", "high")
        )
        return jnp.clip(x, low, high)

    def action_vector(self, action: Array) -> Array:
        """`[N, k]` float32: a choice as one-hot."""
        if isinstance(self.action_space, spaces.Discrete):
            return jax.nn.one_hot(action, int(self.action_space.n))
        return action.reshape(len(action), -1).astype(jnp.float32)


def vector_spaces(spec: Spec) -> VectorSpaces:
    """The vectors of a run.

    Raises:
        ValueError: observations that are not Boxes of numbers, or actions that are neither Discrete nor a Box.
    """
    seen = encoder(spec.observation_space)
    is_table = {leaf.kind for leaf in seen.leaves} == {"one_hot"}
    remedy = (
        "a finite world is planned with its own table, model='true' (--model true)"
        if is_table
        else "wrap the environment so that it gives numbers"
    )
    refuse_unpredictable(seen, f"{remedy}, or use a method without a model: ppo, dqn")
    if not isinstance(spec.action_space, spaces.Discrete | spaces.Box):
        raise ValueError(
            f"A model of the next observation takes Discrete actions or a Box, and the action space is "
            f"{spec.action_space}; use ppo."
        )
    return VectorSpaces(spec.observation_space, spec.action_space, spec.action_units)


def refuse_unpredictable(seen: Encoder, remedy: str) -> None:
    """Raise ValueError, with what to do instead, for observations that are not Boxes of numbers alone."""
    kinds = {leaf.kind for leaf in seen.leaves}
    if kinds != {"continuous"} or seen.has_mask:
        what = "an image" if "image" in kinds else "an action mask" if kinds == {"continuous"} else "indices"
        raise ValueError(
            f"A model of the next observation needs Boxes of numbers, and the observation has {what}; {remedy}."
        )
