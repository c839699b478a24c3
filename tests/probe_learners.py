"""Made-up rollouts for updates by themselves, small worlds for whole runs, and ways to compare what comes of them."""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any, Literal, get_args, get_origin

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

import advantage as adv
from advantage.algorithms.registry import spec_of
from advantage.drivers.metric_rows import metric_rows
from advantage.environments.tables.world import TabularEnv, TabularWorld
from advantage.types import Rollout

OBS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
DISCRETE = spaces.Discrete(3)
CONTINUOUS = spaces.Box(np.float32(-1), np.float32(1), (2,))
NUM_ENVS = 2


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
    action, extras = acted(algorithm, actor, obs, noise, done)
    reward = rng.normal(1, 5, shape).astype(np.float32)
    return Rollout(obs, action, reward, next_obs, terminated, truncated, extras)


def acted(algorithm: Any, actor: Any, obs: Any, noise: Any, done: np.ndarray) -> tuple[Any, Any]:
    """Actions and extras for observations `[T, B, ...]`; a memory passes from step to step, and begins anew at ends."""
    initial = jax.device_get(algorithm.initial_memory(actor))
    if not jax.tree.leaves(initial):
        action, _, extras = algorithm.act(actor, obs, (), noise)
        return action, extras
    first = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (done.shape[1], *leaf.shape)), initial)
    memory, rows = first, []
    for t in range(len(done)):
        here = jax.tree.map(lambda leaf, t=t: leaf[t], (obs, noise))
        action, memory, extras = algorithm.act(actor, here[0], memory, here[1])
        ended = jax.tree.map(lambda leaf, t=t: done[t].reshape(-1, *(1,) * (leaf.ndim - 1)), memory)
        memory = jax.tree.map(np.where, ended, first, memory)
        rows.append((action, extras))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def begin(algorithm, action_space=DISCRETE, seed=0, num_envs=NUM_ENVS, total_timesteps=160):
    """The first state."""
    return algorithm.init(
        jax.random.key(seed),
        spec_of(algorithm, OBS, action_space, num_envs=num_envs, total_timesteps=total_timesteps),
    )


def play(algorithm, state, seed, num_steps=None):
    """A made-up rollout over OBS."""
    shape = num_steps or algorithm.n_steps, state.rewards.running_return.shape[0]
    return made_up_rollout(algorithm, state, OBS, seed, shape)


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def update(algorithm, state, rollout, key):
    return algorithm.update(state, rollout, key)


def learn(algorithm, state, updates):
    """Rollouts and updates in turn: every state, every rollout, and the metrics of every update."""
    states, rollouts, reports = [state], [], []
    for i in range(updates):
        rollouts.append(play(algorithm, states[-1], i))
        state, metrics = update(algorithm, states[-1], rollouts[-1], jax.random.key(i))
        states.append(state)
        reports.append(metric_rows(jax.device_get(metrics)))
    return states, rollouts, reports


def differs(left, right, threshold=1e-4):
    """Whether two pytrees of arrays differ by more than rounding."""
    if jax.tree.structure(left) != jax.tree.structure(right):
        return True
    pairs = list(zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))
    exact = np.float64
    return any(
        a.shape != b.shape or np.max(np.abs(exact(a) - exact(b)), initial=0) > threshold for a, b in pairs
    )


def same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_finite(tree: Any) -> None:
    """Fails at the first leaf with a number that is not finite."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        assert np.isfinite(leaf).all(), f"{jax.tree_util.keystr(path)} is {leaf}"


def alternatives(algorithm: Any, field: dataclasses.Field, changes: dict[str, Any]) -> list[Any]:
    """Every other value of a choice, and that of `changes` for a number."""
    hint = typing.get_type_hints(type(algorithm))[field.name]
    if field.name in (
        "sequence_length",
        "memory_span",
    ):  # for recurrent networks alone: see test_recurrent.py
        return []
    if hint is bool:
        return [not getattr(algorithm, field.name)]
    if get_origin(hint) is Literal:
        return [value for value in get_args(hint) if value != getattr(algorithm, field.name)]
    assert field.name in changes, f"say which value of {field.name} shows what it does"
    return [changes[field.name]]


def seeds_side_by_side_are_each_alone(algorithm, action_space):
    """Two seeds in one program: the parameters and rings of each are those that it has by itself."""
    states = [begin(algorithm, action_space, seed=seed) for seed in (0, 1)]
    rollouts = [play(algorithm, state, seed) for seed, state in enumerate(states)]
    stack = functools.partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    keys = jax.vmap(jax.random.key)(np.arange(2))
    together, _ = jax.jit(jax.vmap(algorithm.update))(stack(*states), stack(*rollouts), keys)
    for seed in (0, 1):
        alone, _ = update(algorithm, states[seed], rollouts[seed], jax.random.key(seed))
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], together)
        for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        same_bits(one.replay, alone.replay)


def outcomes(state, action):
    """A row of eight states with the end on the right; walking left from the first one costs more."""
    if action == 0:
        return [(1.0, max(state - 1, 0), -1.0 - (state == 0), False)]
    return [(1.0, min(state + 1, 7), -1.0, state >= 6)]


ROW = adv.MDP.from_function(8, 2, outcomes, start=np.eye(8)[2], max_episode_steps=40)
WORLD = TabularWorld(ROW)


def on_host():
    return gymnasium.wrappers.TimeLimit(TabularEnv(ROW), ROW.max_episode_steps)


def train(algorithm, environment, path, **options):
    """Twelve rollouts in a world without chance."""
    options = {"total_timesteps": 24 * algorithm.n_steps, "workers": 0, **options}
    quiet = {"num_envs": NUM_ENVS, "eval_episodes": 0, "tensorboard": False}
    return adv.train(algorithm, environment, out=path, **quiet, **options)


def both_drivers_and_every_seed_learn_the_same(algorithm, path, *, on_host=on_host, world=WORLD):
    """One seed on the host is that seed among two on the device."""
    host = train(algorithm, on_host, path / "host", seed=1)
    many = train(algorithm, world, path / "many", num_seeds=2)
    first = algorithm.init(jax.random.key(1), host.agent.spec)
    assert differs(host.agent.state.params, first.params, 1e-2)
    assert differs(many[0].agent.state.params, many[1].agent.state.params, 1e-2)
    assert not differs(many[1].agent.state, host.agent.state, 1e-3)
    assert (host.path / "episodes.csv").read_text() == (many[1].path / "episodes.csv").read_text()


def a_stopped_run_goes_on_bit_for_bit(algorithm, environment, path):
    size = NUM_ENVS * algorithm.n_steps
    options = {"checkpoint_every": 5 * size}
    whole = train(algorithm, environment, path / "whole", **options)
    part = train(
        algorithm, environment, path / "part", callback=lambda progress: progress.iteration < 5, **options
    )
    assert 0 < part.step < whole.step
    adv.resume(part.path, environment=environment)
    tensors = [(run.path / "last" / "state.safetensors").read_bytes() for run in (whole, part)]
    assert tensors[0] == tensors[1]
