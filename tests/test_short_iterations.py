"""Iterations of a few steps on the host: several to a row of metrics, with the numbers that each has alone."""

import csv
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_runs import stop_at

import advantage as adv
from advantage.algorithms.clock import advance_clock, clock_init
from advantage.algorithms.hyperparameters import hyperparameters, ranged
from advantage.drivers import schedule
from advantage.drivers.host.host_actor import HostActor
from advantage.drivers.host.packing import LARGE, HostPacker, HostTree, pack, stacked, unpack
from advantage.types import Clock, no_memory

TINY = adv.A2C(hidden=(8,), n_steps=5, learning_rate=1e-2, normalize_observation=True)
QUIET = {"num_envs": 4, "eval_episodes": 0, "tensorboard": False, "workers": 0, "checkpoint_every": 10_000}


def init_network(key, x):
    return {"weight": jax.random.normal(key, (x.shape[-1], 8))}


def apply_network(params, x):
    return jnp.sort(jnp.tanh(x @ params["weight"]), axis=-1)  # for which acting has no NumPy


def rows(run):
    with (run.path / "progress.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("network", "environment"),
    [(None, "CartPole-v1"), ((init_network, apply_network), "CartPole-v1"), (None, "Pendulum-v1")],
    ids=["NumPy", "compiled", "a spread that is learned"],
)
def test_the_numbers_are_those_of_one_iteration_at_a_time(network, environment, tmp_path, monkeypatch):
    algorithm = adv.A2C(hidden=(8,), n_steps=5, learning_rate=1e-2, network=network)
    together = adv.train(algorithm, environment, out=tmp_path / "a", total_timesteps=644, **QUIET)
    monkeypatch.setattr(schedule, "SHORT", 0)
    alone = adv.train(algorithm, environment, out=tmp_path / "b", total_timesteps=644, **QUIET)
    assert (tmp_path / "a/episodes.csv").read_text() == (tmp_path / "b/episodes.csv").read_text()
    leaves = (jax.tree.leaves(run.agent.state) for run in (together, alone))
    for one, other in zip(*leaves, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    few, many = rows(together), rows(alone)
    assert [int(row["step"]) for row in few] == [240, 480, 640, 644]
    assert [int(row["step"]) for row in many] == [*range(20, 641, 20), 644]
    for name in ("train/entropy", "train/value_loss"):
        means = [np.mean([float(row[name]) for row in many[a:b]]) for a, b in ((0, 12), (12, 24), (24, 32))]
        np.testing.assert_allclose([float(row[name]) for row in few[:3]], means, rtol=1e-4)


def test_promise_11_a_stopped_run_goes_on_to_the_same_numbers(tmp_path):
    options = QUIET | {"total_timesteps": 600, "checkpoint_every": 220}
    whole = adv.train(TINY, "CartPole-v1", out=tmp_path / "whole", **options)
    adv.train(TINY, "CartPole-v1", out=tmp_path / "part", callback=stop_at(11), **options)
    assert adv.load(tmp_path / "part").step == 220
    part = adv.resume(tmp_path / "part")
    for one, other in zip(jax.tree.leaves(whole.agent.state), jax.tree.leaves(part.agent.state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (whole.path / "episodes.csv").read_text() == (part.path / "episodes.csv").read_text()


def test_promise_2_host_and_device_agree_on_the_rows(tmp_path):
    device = adv.train(TINY, "jax/CartPole-v1", out=tmp_path / "device", total_timesteps=600, **QUIET)
    assert [int(row["step"]) for row in rows(device)] == [240, 480, 600]


TREE = {
    "floats": np.arange(6.0, dtype=np.float32).reshape(2, 3),
    "number": np.int32(-7),
    "none of them, and flags": (np.ones((0, 4), np.float32), np.array([True, False, True])),
    "of another size": np.arange(5, dtype=np.uint8),
    "large": np.random.default_rng(0).normal(size=(LARGE + 1,)).astype(np.float32),
    "not finite": np.array([np.nan, -np.inf, -0.0], np.float32),
    "counts": np.array([2**32 - 1, 0], np.uint32),
}


def same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for one, two in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert one.dtype == two.dtype and one.shape == two.shape
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


def test_what_is_packed_comes_back():
    packed = jax.jit(pack)(TREE)
    same(jax.jit(unpack)(packed), TREE)
    on_host = HostTree(packed.packing)
    arrays = jax.tree.leaves(on_host.tree)
    for sign in (1, -1):
        tree = TREE | {"number": np.int32(sign), "floats": sign * TREE["floats"]}
        packed = HostPacker(TREE)(tree)
        on_host.take(packed)
        same(on_host.tree, tree)
        same(jax.jit(unpack)(packed), tree)
        assert all(one is other for one, other in zip(arrays, jax.tree.leaves(on_host.tree), strict=True))
    same(stacked([packed, packed]), jax.tree.map(lambda leaf: np.stack([leaf, leaf]), tree))


def test_keys_are_packed_too_and_numbers_of_64_bits_become_those_of_jax():
    key = jax.random.split(jax.random.key(5), 3)
    back = jax.jit(lambda key: unpack(pack({"key": key})))(key)["key"]
    assert back.dtype == key.dtype
    np.testing.assert_array_equal(jax.random.key_data(back), jax.random.key_data(key))
    wide = {"reward": np.array([0.1, 2.0]), "action": np.array([3, -1])}
    same(jax.jit(unpack)(HostPacker(wide)(wide)), jax.tree.map(jnp.asarray, wide))


class Counted(NamedTuple):
    theta: jax.Array
    clock: Clock


@hyperparameters
class NumbersOfPython:
    """A user's method whose metrics are plain numbers."""

    n_steps: int = ranged(4, "[1, inf)")

    def init(self, key, spec):
        return Counted(jnp.zeros(int(spec.action_space.n)), clock_init(spec.total_timesteps))

    def actor(self, state):
        return state.theta

    initial_memory = no_memory

    def noise(self, actor, key, shape):
        return jax.random.gumbel(key, (*shape, *actor.shape))

    def act(self, actor, obs, memory, noise):
        return (actor + noise).argmax(-1), memory, {}

    def greedy(self, actor, obs, memory):
        return jnp.zeros(obs.shape[:-1], int), memory

    def update(self, state, rollout, key):
        clock = advance_clock(state.clock, rollout.reward.size)
        return state._replace(clock=clock), {"loss": 0.5, "count": 3}


@pytest.mark.parametrize("n_steps", [1, 4])
def test_metrics_may_be_numbers_of_python(n_steps, tmp_path):
    run = adv.train(
        NumbersOfPython(n_steps), "CartPole-v1", out=tmp_path / "run", total_timesteps=64, **QUIET
    )
    assert [(float(row["train/loss"]), float(row["train/count"])) for row in rows(run)] == [(0.5, 3)]


def test_an_actor_that_has_learned_acts_like_one_made_anew():
    algorithm = adv.A2C(hidden=(8,))
    spec = adv.Spec(spaces.Box(-1, 1, (3,)), spaces.Discrete(4), 5, 100)
    first, later = (algorithm.actor(algorithm.init(jax.random.key(n), spec)) for n in (0, 1))
    obs, noise = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    leaves = [np.array(leaf) for leaf in jax.tree.leaves(first)]
    act, renew = HostActor(algorithm, first).renewable(leaves, obs=obs[:, :3], memory=(), noise=noise)
    for place, leaf in zip(leaves, jax.tree.leaves(later), strict=True):
        place[...] = leaf
    renew()
    np.testing.assert_array_equal(
        act(obs[:, :3], (), noise)[0], HostActor(algorithm, later).act(obs[:, :3], (), noise)[0]
    )
