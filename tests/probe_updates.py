"""Made-up rollouts over any space, and every other value of an option."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Literal, get_args, get_origin

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

from advantage.types import Rollout


def batch_of(space: gymnasium.Space, rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Random members of a space in its own structure, `[*shape, ...]`."""
    if isinstance(space, spaces.Dict):
        return {name: batch_of(part, rng, shape) for name, part in space.spaces.items()}
    assert isinstance(space, spaces.Box)
    size = *shape, *space.shape
    if np.issubdtype(space.dtype, np.floating):
        return rng.normal(2, 2, size).astype(space.dtype)
    return rng.integers(space.low, space.high, size).astype(space.dtype)


def made_up_rollout(
    algorithm: Any, state: Any, space: gymnasium.Space, seed: int, shape: tuple[int, int]
) -> Rollout:
    """Random observations, large rewards, all kinds of ends, and the actions that the state's actor chooses."""
    rng = np.random.default_rng(seed)
    obs, fresh = (batch_of(space, rng, (shape[0] + 1, shape[1])) for _ in range(2))
    terminated, truncated = rng.random((2, *shape)) < 0.15
    done = terminated | truncated
    next_obs = jax.tree.map(lambda leaf: leaf[1:].copy(), obs)

    def reset(leaf, new):
        spread = done[:-1].reshape(shape[0] - 1, shape[1], *(1,) * (leaf.ndim - 2))
        return np.concatenate([leaf[:1], np.where(spread, new[1:-1], leaf[1:-1])])

    obs = jax.tree.map(reset, obs, fresh)
    actor = jax.device_get(algorithm.actor(state))
    noise = jax.device_get(algorithm.noise(actor, jax.random.key(100 + seed), shape))
    action, _, extras = algorithm.act(actor, obs, (), noise)
    reward = rng.normal(1, 5, shape).astype(np.float32)
    return Rollout(obs, action, reward, next_obs, terminated, truncated, extras)


def assert_finite(tree: Any) -> None:
    """Fails at the first leaf with a number that is not finite."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        assert np.isfinite(leaf).all(), f"{jax.tree_util.keystr(path)} is {leaf}"


def alternatives(algorithm: Any, field: dataclasses.Field, changes: dict[str, Any]) -> list[Any]:
    """Every other value of a choice, and that of `changes` for a number."""
    hint = typing.get_type_hints(type(algorithm))[field.name]
    if hint is bool:
        return [not getattr(algorithm, field.name)]
    if get_origin(hint) is Literal:
        return [value for value in get_args(hint) if value != getattr(algorithm, field.name)]
    assert field.name in changes, f"say which value of {field.name} shows what it does"
    return [changes[field.name]]
