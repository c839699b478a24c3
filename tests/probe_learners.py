"""A made-up environment for updates by themselves, and ways to compare what comes of them."""

from __future__ import annotations

import functools

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

import advantage as adv
from advantage.environments.tabular.world import TabularEnv, TabularWorld
from advantage.types import Rollout, Spec

OBS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
DISCRETE = spaces.Discrete(3)
CONTINUOUS = spaces.Box(np.float32(-1), np.float32(1), (2,))
NUM_ENVS = 2


def begin(algorithm, action_space=DISCRETE, seed=0):
    """The first state."""
    return algorithm.init(jax.random.key(seed), Spec(OBS, action_space, NUM_ENVS, 160))


def play(algorithm, state, seed):
    """A rollout: observations far from zero, large rewards, all kinds of ends."""
    rng = np.random.default_rng(seed)
    shape = algorithm.n_steps, NUM_ENVS
    terminated, truncated = rng.uniform(size=(2, *shape)) < 0.15
    obs, fresh = (np.array([0, 4, -6]) + 2 * rng.normal(size=(2, shape[0] + 1, NUM_ENVS, 3))).astype(
        np.float32
    )
    next_obs = obs[1:].copy()
    obs[1:] = np.where((terminated | truncated)[..., None], fresh[1:], obs[1:])
    reward = (1 + 5 * rng.normal(size=shape)).astype(np.float32)
    actor = jax.device_get(algorithm.actor(state))
    noise = jax.device_get(algorithm.noise(actor, jax.random.key(100 + seed), shape))
    action, _, extras = algorithm.act(actor, obs[:-1], (), noise)
    return Rollout(obs[:-1], action, reward, next_obs, terminated, truncated, extras)


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
        reports.append(jax.device_get(metrics))
    return states, rollouts, reports


def differs(left, right, threshold=1e-4):
    """Whether two pytrees of arrays differ by more than rounding."""
    if jax.tree.structure(left) != jax.tree.structure(right):
        return True
    pairs = list(zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))
    return any(a.shape != b.shape or np.max(np.abs(a - b), initial=0) > threshold for a, b in pairs)


def same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


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


def both_drivers_and_every_seed_learn_the_same(algorithm, path):
    """One seed on the host is that seed among two on the device."""
    host = train(algorithm, on_host, path / "host", seed=1)
    many = train(algorithm, WORLD, path / "many", num_seeds=2)
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
