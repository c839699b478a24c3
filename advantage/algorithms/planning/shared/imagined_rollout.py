"""Rollouts in a model, in the form of real ones, so that any method can learn from them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from advantage.models.interface import Model
from advantage.replay.ring import Replay, observations, uniform_draw
from advantage.rows import choose
from advantage.types import Algorithm, Array, Key, Mean, Pytree, Rollout


def imagined_rollout(
    algorithm: Algorithm, actor: Pytree, model: Model, replay: Replay, key: Key, shape: tuple[int, int]
) -> Rollout:
    """`[T, B, ...]` steps of an actor in a model, each column begun at an observation of a replay buffer.

    Where a step terminates, the column goes on from another observation. The last row is truncated unless it
    terminates, because the next rollout begins elsewhere.

    Args:
        algorithm, actor: who acts; a policy without memory.
        model: where.
        replay: real experience.
        key: draws beginnings, actions and what the model leaves to chance.
        shape: T, B.
    """
    steps, envs = shape
    key_begin, key_noise, key_model = jax.random.split(key, 3)
    begin = uniform_draw(replay, key_begin, (steps + 1) * envs).reshape(steps + 1, envs)
    noise = algorithm.noise(actor, key_noise, shape)

    def beginnings(index: Array) -> Pytree:
        row = replay.oldest + (index // replay.num_envs).astype(jnp.uint32)
        return model.begin(observations(replay, row, index % replay.num_envs))

    def step(state: Pytree, now: Any) -> tuple[Pytree, Rollout]:
        noise, key, index = now
        obs = model.observation(state)
        action, _, extras = algorithm.act(actor, obs, (), noise)
        after = model.step(state, action, key)
        next_obs, truncated = model.observation(after.state), jnp.zeros(envs, bool)
        following = jax.tree.map(partial(choose, after.terminated), beginnings(index), after.state)
        row = Rollout(obs, action, after.reward, next_obs, after.terminated, truncated, extras)
        return following, row

    keys = jax.random.split(key_model, steps)
    _, rollout = jax.lax.scan(step, beginnings(begin[0]), (noise, keys, begin[1:]))
    last = jnp.arange(steps)[:, None] == steps - 1
    return rollout._replace(truncated=last & ~rollout.terminated)


def mean_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """The means over turns of metrics `[turns]`; of a `Mean` the sums."""

    def over(metric: Any) -> Any:
        return jax.tree.map(jnp.sum, metric) if isinstance(metric, Mean) else metric.mean()

    return {name: over(metric) for name, metric in metrics.items()}
