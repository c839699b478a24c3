"""Small networks compute with one thread, which a run records; a run that is resumed takes as many as before."""

import json
import os
import subprocess
import sys

import pytest
from gymnasium import spaces

import advantage as adv
from advantage.algorithms.registry import spec_of
from advantage.machine import available_cores
from advantage.training.announcements import differences
from advantage.training.threads import take_threads, threads_of, threads_that_pay

VECTOR, IMAGE = spaces.Box(-1, 1, (8,)), spaces.Box(0, 255, (36, 36, 3), "uint8")


CORES = available_cores()


def number(algorithm, obs=VECTOR, num_envs=1):
    space = spaces.Box(-1, 1, (2,)) if isinstance(algorithm, adv.SAC) else spaces.Discrete(3)
    return threads_that_pay(
        algorithm, spec_of(algorithm, obs, space, num_envs=num_envs, total_timesteps=10_000)
    )


@pytest.mark.parametrize(
    ("algorithm", "options", "expected"),
    [
        (adv.PPO(batch_size=64), {}, 1),
        (adv.PPO(batch_size=64), {"obs": spaces.Box(-1, 1, (1000,))}, CORES),
        (adv.PPO(batch_size=64), {"obs": IMAGE}, CORES),
        (adv.PPO(batch_size=64, network="gru"), {}, CORES),
        (adv.PPO(batch_size=64, hidden=()), {}, 1),
        (adv.PPO(batch_size=4096), {}, CORES),
        (adv.A2C(n_steps=5), {"num_envs": 8}, 1),
        (adv.A2C(n_steps=5), {"num_envs": 512}, CORES),
        (adv.DQN(hidden=(64, 64)), {}, 1),
        (adv.SAC(), {}, CORES),
        (adv.SAC(hidden=(64, 64)), {}, 1),
        (adv.PolicySearch(adv.CEM()), {}, None),
    ],
)
def test_one_thread_for_small_layers(algorithm, options, expected):
    assert number(algorithm, **options) == expected


def test_a_run_says_with_how_many_threads_it_was_trained(tmp_path):
    """A process of its own, since JAX keeps the number that it starts with; the user's own number stands."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "advantage", "train", "a2c", "CartPole-v1", "--total-timesteps", "200"]
    command += ["--preset", "none", "--eval-episodes", "0", "--out", str(out)]
    environ = {name: value for name, value in os.environ.items() if name != "NPROC"}

    def threads():
        return json.loads((out / "config.json").read_text())["host"]["threads"]

    subprocess.run(command, check=True, env=environ, capture_output=True)
    assert threads() == 1
    resumed = [sys.executable, "-m", "advantage", "resume", str(out), "--total-timesteps"]
    said = subprocess.run([*resumed, "400"], check=True, env=environ, capture_output=True, text=True)
    assert "Resumed with" not in said.stdout + said.stderr
    environ["NPROC"] = "3"
    said = subprocess.run([*resumed, "600"], check=True, env=environ, capture_output=True, text=True)
    assert "Resumed with threads 3 instead of 1" in said.stdout + said.stderr
    command[-1] += "2"
    subprocess.run(command, check=True, env=environ, capture_output=True)
    out = tmp_path / "run2"
    assert threads() == 3


@pytest.mark.parametrize(
    "host", [None, [], {}, {"threads": "2"}, {"threads": 0}, {"threads": 10**9}, {"threads": 1.0}]
)
def test_a_number_that_does_not_fit_is_not_taken(host):
    assert threads_of(host) is None


def test_the_recorded_number_is_taken():
    assert threads_of({"threads": 1}) == 1 and threads_of({"threads": available_cores()}) == available_cores()
    assert differences({"threads": 2}, {"threads": 2, "versions": {}}) == []


def test_a_large_run_is_told_of_cores_that_it_cannot_use(monkeypatch):
    said: list[str] = []
    monkeypatch.setenv("NPROC", "16")
    for wanted in (16, 1, None):
        take_threads(wanted, said.append)
    monkeypatch.setenv("NPROC", "1")
    for wanted in (1, None):
        take_threads(wanted, said.append)
    assert said == []
    take_threads(16, said.append)
    (sentence,) = said
    assert "could use 16 cores" in sentence and "computes with 1" in sentence and "NPROC=16" in sentence
