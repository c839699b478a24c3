"""Iterations of a few steps on the host: several to a row of metrics, with the numbers that each has alone."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_runs import stop_at

import advantage as adv
from advantage.drivers import schedule
from advantage.drivers.host.host_actor import HostActor, pack, unpack

TINY = adv.A2C(hidden=(8,), n_steps=5, learning_rate=1e-2, normalize_observation=True)
QUIET = {"num_envs": 4, "eval_episodes": 0, "tensorboard": False, "workers": 0, "checkpoint_every": 10_000}


def init_network(key, x):
    return {"weight": jax.random.normal(key, (x.shape[-1], 8))}


def apply_network(params, x):
    return jnp.sort(jnp.tanh(x @ params["weight"]), axis=-1)  # for which acting has no NumPy


def rows(run):
    with (run.path / "progress.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("network", [None, (init_network, apply_network)], ids=["NumPy", "compiled"])
def test_the_numbers_are_those_of_one_iteration_at_a_time(network, tmp_path, monkeypatch):
    algorithm = adv.A2C(hidden=(8,), n_steps=5, learning_rate=1e-2, network=network)
    together = adv.train(algorithm, "CartPole-v1", out=tmp_path / "a", total_timesteps=644, **QUIET)
    monkeypatch.setattr(schedule, "SHORT", 0)
    alone = adv.train(algorithm, "CartPole-v1", out=tmp_path / "b", total_timesteps=644, **QUIET)
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


def test_what_is_packed_comes_back():
    tree = {
        "a": jnp.arange(6.0).reshape(2, 3),
        "b": jnp.int32(7),
        "c": (jnp.ones((0, 4)), jnp.zeros(2, bool)),
    }
    shapes = jax.tree.leaves(jax.eval_shape(lambda: tree))
    for leaf, back in zip(jax.tree.leaves(tree), unpack(pack(tree), shapes), strict=True):
        assert back.dtype == leaf.dtype
        np.testing.assert_array_equal(leaf, back)


def test_an_actor_that_has_learned_acts_like_one_made_anew():
    algorithm = adv.A2C(hidden=(8,))
    spec = adv.Spec(spaces.Box(-1, 1, (3,)), spaces.Discrete(4), 5, 100)
    first, later = (algorithm.actor(algorithm.init(jax.random.key(n), spec)) for n in (0, 1))
    obs, noise = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    act = HostActor(algorithm, first).renewable(obs[:, :3], (), noise)
    program = act([np.asarray(leaf) for leaf in jax.tree.leaves(later)])
    np.testing.assert_array_equal(
        program(obs[:, :3], (), noise)[0], HostActor(algorithm, later).act(obs[:, :3], (), noise)[0]
    )
