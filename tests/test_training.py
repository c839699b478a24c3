"""What a training promises whatever the algorithm: budget, schedules, seeds, evaluation, callbacks, run folder."""

import dataclasses
import errno
import functools
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from gymnasium import spaces
from probe_runs import ENVS, SIZE, stop_at, tiny, train

import advantage as adv
from advantage import evaluation
from advantage.agent import Agent
from advantage.algorithms.registry import to_json
from advantage.cli import main
from advantage.environments.tables.world import TabularEnv, TabularWorld
from advantage.runs.folder import RunFolder, read_config
from advantage.runs.log import read_episodes, read_evaluations, read_progress
from advantage.training import reporting, results
from advantage.training.first_state import drawing_message
from advantage.types import Spec

ROOT = Path(__file__).parents[1]
HOST, DEVICE = "CartPole-v1", "jax/CartPole-v1"
PATHS = pytest.mark.parametrize("environment", [HOST, DEVICE])
plot_curve = results.plot_curve


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """A curve takes longer to draw than one of these runs to train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "plot_curve", lambda folder: None)
        yield


class Walk(gymnasium.Env):
    """A noisy walk of 4 to 12 steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Discrete(2)
    steps = 0  # of every instance together

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(4, 13))
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action):
        type(self).steps += 1
        self.left -= 1
        obs = self.np_random.normal(size=3).astype(np.float32)
        return obs, float(obs[0] * (2 * action - 1)), self.left == 0, False, {}


def bits(checkpoint, prefix="state/"):
    tensors = safetensors.numpy.load_file(Path(checkpoint) / "state.safetensors")
    return {k: (v.dtype, v.shape, v.tobytes()) for k, v in tensors.items() if k.startswith(prefix)}


def learned(run):
    """All that a run learned and saw, apart from clocks."""
    return bits(run.path / "last"), (run.path / "episodes.csv").read_text()


def columns(run):
    return read_progress(RunFolder(run.path))


# The budget


@PATHS
@pytest.mark.parametrize("total", [3 * SIZE, 2 * SIZE + 20, 20])
def test_promise_11_the_budget_is_exact(environment, total, tmp_path):
    run = train(environment, tmp_path / "run", total_timesteps=total)
    assert (run.step, run.finished) == (total, True)
    assert columns(run)["step"].tolist() == [*range(SIZE, total, SIZE), total]
    saved = safetensors.numpy.load_file(run.path / "last" / "state.safetensors")
    assert saved["state/clock/step"] == saved["state/clock/total_timesteps"] == total
    finished = read_episodes(RunFolder(run.path))["l"].sum()
    assert finished + saved["records/book/lengths"].sum() == total
    assert run.agent.step == total and (run.path / "last").resolve().name == f"step_{total:012d}"


def test_environments_are_stepped_as_often_as_the_budget_says(tmp_path):
    before = Walk.steps
    run = train(Walk, tmp_path / "run", total_timesteps=2 * SIZE + 20)
    assert Walk.steps - before == 2 * SIZE + 20
    stopped = train(Walk, tmp_path / "stopped", callback=stop_at(1))
    before = Walk.steps
    adv.resume(stopped.path, environment=Walk)
    replayed = safetensors.numpy.load_file(stopped.path / f"checkpoints/step_{SIZE:012d}/state.safetensors")
    assert Walk.steps - before == 2 * SIZE + replayed["records/book/lengths"].sum()
    assert run.step == 2 * SIZE + 20


@PATHS
def test_a_budget_that_environments_cannot_share(environment, tmp_path):
    with pytest.raises(ValueError, match=r"total_timesteps=101 .*num_envs=2.*use 100 or 102\."):
        train(environment, tmp_path / "run", total_timesteps=101)
    with pytest.raises(ValueError, match=r"total_timesteps=1 .*use 2\."):
        train(environment, tmp_path / "run", total_timesteps=1)
    assert not (tmp_path / "run").exists()


# Schedules


@PATHS
def test_promise_11_schedules_follow_the_global_step(environment, tmp_path):
    algorithm = tiny(learning_rate=adv.Linear(1e-3, 1e-4), clip_range=adv.Linear(0.3, 0.1))
    options = {"total_timesteps": 4 * SIZE + 20, "checkpoint_every": SIZE}
    whole = train(environment, tmp_path / "whole", algorithm, **options)
    stopped = train(environment, tmp_path / "stopped", algorithm, callback=stop_at(2), **options)
    assert stopped.step == 2 * SIZE
    adv.resume(stopped.path)
    for run in (whole, stopped):
        row = columns(run)
        progress = (
            np.concatenate([[0], row["step"][:-1]]) / options["total_timesteps"]
        )  # where rollouts begin
        np.testing.assert_allclose(row["train/learning_rate"], 1e-3 - 9e-4 * progress, rtol=1e-6)
        np.testing.assert_allclose(row["train/clip_range"], 0.3 - 0.2 * progress, rtol=1e-6)
    assert learned(whole) == learned(stopped)


def test_promise_11_schedules_follow_a_new_budget(tmp_path):
    run = train(HOST, tmp_path / "run", tiny(learning_rate=adv.Linear(1e-3)), total_timesteps=2 * SIZE)
    adv.resume(run.path, total_timesteps=4 * SIZE)
    expected = 1e-3 * np.array([1, 0.5, 0.5, 0.25])  # of two rollouts, then of four
    np.testing.assert_allclose(columns(run)["train/learning_rate"], expected, rtol=1e-6)


def test_a_schedule_of_your_own(tmp_path):
    algorithm = tiny(learning_rate=lambda progress: 1e-3 * (1 - progress) ** 2)
    run = train(HOST, tmp_path / "run", algorithm, callback=stop_at(1))
    with pytest.raises(adv.CheckpointError, match="learning_rate.*algorithm="):
        adv.resume(run.path)
    adv.resume(run.path, algorithm=algorithm)
    expected = 1e-3 * (1 - np.arange(3) / 3) ** 2
    np.testing.assert_allclose(columns(run)["train/learning_rate"], expected, rtol=1e-6)


# The numbers depend on the seed, and on nothing that only watches


WATCHING = {
    "evaluation now and then": {"eval_every": 100, "eval_episodes": 2},
    "evaluation at every rollout": {"eval_every": SIZE, "eval_episodes": 1},
    "evaluation at the end": {"eval_episodes": 3},
    "checkpoints": {"checkpoint_every": 1, "keep_checkpoints": 1},
    "no checkpoints": {"checkpoint_every": 10**9},
    "no TensorBoard": {"tensorboard": False},
    "a callback": {"callback": lambda progress: None},
    "a reporter": {"reporter": reporting.Silent()},
    "the device": {"device": "cpu"},
    "a global seed": {},
}


@PATHS
def test_promise_14_numbers_do_not_depend_on_who_watches(environment, tmp_path):
    expected = learned(train(environment, tmp_path / "plain"))
    for name, options in WATCHING.items():
        np.random.seed(len(name))  # noqa: NPY002 - somebody else's random numbers
        assert learned(train(environment, tmp_path / name, **options)) == expected, name
    assert learned(train(environment, tmp_path / "seed", seed=1)) != expected


def test_promise_14_numbers_do_not_depend_on_workers(tmp_path):
    options = {"total_timesteps": 2 * SIZE, "num_envs": 4, "eval_episodes": 1}
    algorithm = tiny(n_steps=16)
    runs = [train(HOST, tmp_path / str(n), algorithm, workers=n, **options) for n in (0, 2, 4, "auto")]
    assert all(learned(run) == learned(runs[0]) for run in runs[1:])
    assert all(run.evaluation.returns.tolist() == runs[0].evaluation.returns.tolist() for run in runs[1:])


@PATHS
def test_several_seeds_are_each_what_they_are_alone(environment, tmp_path):
    options = {"eval_every": SIZE, "eval_episodes": 2}
    seen = []
    runs = train(environment, tmp_path / "runs", seed=3, num_seeds=3, callback=seen.append, **options)
    assert [run.seed for run in runs] == [3, 4, 5] and all(run.finished for run in runs)
    assert [run.path for run in runs] == [tmp_path / "runs" / f"seed_{seed}" for seed in (3, 4, 5)]
    alone = train(environment, tmp_path / "alone", seed=4, **options)
    assert (runs[1].path / "episodes.csv").read_text() == (alone.path / "episodes.csv").read_text()
    assert (runs[1].path / "evaluations.csv").read_text() == (alone.path / "evaluations.csv").read_text()
    together, single = (
        safetensors.numpy.load_file(run.path / "last/state.safetensors") for run in (runs[1], alone)
    )
    assert together.keys() == single.keys()
    for name, array in single.items():
        np.testing.assert_allclose(together[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    assert learned(runs[0])[1] != learned(runs[1])[1]
    assert read_config(RunFolder(runs[1].path))["training"]["seed"] == 4
    of_seed = [[p.iteration for p in seen if p.seed == seed] for seed in (3, 4, 5)]
    assert of_seed == [[1, 2, 3]] * 3
    resumed = adv.resume(runs[1].path, total_timesteps=4 * SIZE)  # each is a run of its own
    assert (resumed.seed, resumed.step) == (4, 4 * SIZE)


# Agents


FRESH = """
import sys
import jax
import numpy as np
import advantage as adv

for path in sys.argv[1:]:
    agent = adv.load(path)
    observations = np.load(f"{path}/observations.npy")
    greedy = [agent.act(obs) for obs in observations]
    drawn = [agent.act(obs, deterministic=False, key=jax.random.key(i)) for i, obs in enumerate(observations)]
    played = adv.evaluate(agent, episodes=3, seed=5, deterministic=False)
    np.savez(f"{path}/fresh.npz", greedy=greedy, drawn=drawn, returns=played.returns, lengths=played.lengths)
"""


def test_promise_3_a_fresh_process_acts_bit_for_bit(tmp_path):
    runs = {name: train(name, tmp_path / str(i)) for i, name in enumerate((HOST, DEVICE, "Pendulum-v1"))}
    for run in runs.values():
        space = run.agent.spec.observation_space
        drawn = np.random.default_rng(0).normal(size=(20, *space.shape)).astype(space.dtype)
        np.save(run.path / "observations.npy", np.clip(drawn, space.low, space.high))
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *(str(run.path) for run in runs.values())],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    for name, run in runs.items():
        agent, fresh = run.agent, np.load(run.path / "fresh.npz")
        observations = np.load(run.path / "observations.npy")
        greedy = np.array([agent.act(obs) for obs in observations])
        drawn = [
            agent.act(obs, deterministic=False, key=jax.random.key(i)) for i, obs in enumerate(observations)
        ]
        assert greedy.dtype == fresh["greedy"].dtype and greedy.tobytes() == fresh["greedy"].tobytes(), name
        assert np.array(drawn).tobytes() == fresh["drawn"].tobytes() != greedy.tobytes(), name
        played = adv.evaluate(agent, episodes=3, seed=5, deterministic=False)
        assert played.returns.tobytes() == fresh["returns"].tobytes(), name
        assert played.lengths.tolist() == fresh["lengths"].tolist(), name
        assert agent.spec.action_space.contains(agent.act(observations[0])), name


@PATHS
def test_promise_3_evaluation_changes_nothing(environment, tmp_path):
    run = train(environment, tmp_path / "run")
    agent, before = run.agent, bits(run.path / "last")
    assert np.any(agent.state.observations.mean.value)  # there are statistics that could change
    leaves = [np.array(leaf) for leaf in jax.tree.leaves(agent.state)]
    first = adv.evaluate(agent, episodes=3)
    again = adv.evaluate(agent, episodes=3)
    assert first.returns.tolist() == again.returns.tolist()
    for old, new in zip(leaves, jax.tree.leaves(agent.state), strict=True):
        np.testing.assert_array_equal(old, new)
    assert bits(run.path / "last") == before
    assert sorted(p.name for p in run.path.iterdir()) == sorted(p.name for p in (tmp_path / "run").iterdir())


def test_acting_says_what_is_wrong(tmp_path):
    agent = train(HOST, tmp_path / "run", total_timesteps=SIZE).agent
    with pytest.raises(ValueError, match=r"agent\.act\(obs\).*shape"):
        agent.act(np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match=r"key=jax\.random\.key"):
        agent.act(np.zeros(4, np.float32), deterministic=False)


# Evaluation


@PATHS
def test_promise_15_every_way_of_evaluating_gives_the_same_episodes(environment, tmp_path, capsys):
    run = train(environment, tmp_path / "run", seed=3, eval_every=SIZE, eval_episodes=4, keep_checkpoints=9)
    table = read_evaluations(RunFolder(run.path))
    assert table["step"].tolist() == [SIZE] * 4 + [2 * SIZE] * 4 + [3 * SIZE] * 4
    assert table["episode"].tolist() == [0, 1, 2, 3] * 3
    assert set(table["deterministic"]) == {1} and set(table["seed"]) == {3}
    for step in (SIZE, 2 * SIZE, 3 * SIZE):
        rows = table["step"] == step
        checkpoint = run.path / "checkpoints" / f"step_{step:012d}"
        python = adv.evaluate(adv.load(checkpoint), episodes=4, seed=3)
        assert python.returns.tolist() == table["return"][rows].tolist()
        assert python.lengths.tolist() == table["length"][rows].tolist()
        assert (python.deterministic, python.seed) == (True, 3)
        capsys.readouterr()
        assert main(["eval", str(checkpoint), "--episodes", "4", "--seed", "3", "--json"]) == 0
        command = json.loads(capsys.readouterr().out)
        assert command["returns"] == python.returns.tolist()
        assert command["lengths"] == python.lengths.tolist()
        assert (command["deterministic"], command["seed"], command["episodes"]) == (True, 3, 4)
        assert command["mean"] == python.mean == np.mean(command["returns"])
    assert run.evaluation.returns.tolist() == table["return"][-4:].tolist()
    assert len(set(table["length"])) > 1


@pytest.mark.parametrize("environment", [HOST, DEVICE, "jax/Pendulum-v1"])
def test_a_longer_evaluation_begins_with_a_shorter(environment, tmp_path, capsys):
    agent = train(environment, tmp_path / "run", total_timesteps=SIZE).agent
    results = {}
    for deterministic in (True, False):
        options = {"seed": 2, "deterministic": deterministic}
        longer = results[deterministic] = adv.evaluate(agent, episodes=7, **options)
        for count in (1, 3):
            shorter = adv.evaluate(str(tmp_path / "run"), episodes=count, **options)
            assert shorter.returns.tolist() == longer.returns[:count].tolist()
            assert shorter.lengths.tolist() == longer.lengths[:count].tolist()
        word = "deterministic" if deterministic else "stochastic"
        assert f"over 7 {word} episodes" in str(longer) and longer.deterministic is deterministic
        flag = [] if deterministic else ["--stochastic"]
        assert main(["eval", str(tmp_path / "run"), "--episodes", "3", "--seed", "2", *flag]) == 0
        out = capsys.readouterr().out
        assert f"over 3 {word} episodes" in out
        assert f"episode 2: return {longer.returns[2]:.2f}, length {longer.lengths[2]}\n" in out
    assert results[True].returns.tolist() != results[False].returns.tolist()
    other = adv.evaluate(agent, episodes=7, seed=3)
    assert other.returns.tolist() != results[True].returns.tolist()
    assert len(adv.evaluate(agent, episodes=33).returns) == 33
    for wrong in ({"episodes": 0}, {"seed": -1}, {"seed": 2**32}):
        with pytest.raises(ValueError, match="=(0|-1|4294967296) is not allowed; use"):
            adv.evaluate(agent, **wrong)


HOPS = 12


def coins(state, action):
    """A chain of `HOPS` steps: the reward of step t is 4^t times one digit, the action plus twice a coin's side."""
    t = state // 2
    ends = t >= HOPS - 1
    return [(0.5, min(2 * t + 2, 2 * HOPS) + side, 4.0**t * (action + 2 * side), ends) for side in (0, 1)]


COINS = adv.MDP.from_function(2 * HOPS + 2, 2, coins, start=np.eye(2 * HOPS + 2)[0], max_episode_steps=HOPS)


@pytest.mark.parametrize(
    "environment", [lambda: TabularEnv(COINS), TabularWorld(COINS)], ids=["host", "device"]
)
def test_every_step_and_episode_of_an_evaluation_has_its_own_chance(environment, monkeypatch):
    """Returns spell out all actions and all coins. The policy's noise is drawn anew after 5 steps on the host."""
    monkeypatch.setattr(evaluation, "NOISE_ROWS", 5)
    algorithm = adv.QLearning(epsilon=1.0)
    world = TabularWorld(COINS)
    spec = Spec(world.observation_space, world.action_space)
    agent = Agent(algorithm, algorithm.init(jax.random.key(0), spec), spec, "coins", 0)
    returns = adv.evaluate(agent, environment, episodes=40, deterministic=False).returns
    digits = returns[:, None] // 4 ** np.arange(HOPS) % 4
    actions, sides = digits % 2, digits // 2
    steps = np.concatenate([actions, sides], axis=1).T
    assert len(np.unique(steps, axis=0)) == 2 * HOPS, "two steps with the same chance in all episodes"
    for name, rows in (("action", actions), ("coin", sides)):
        assert len(np.unique(rows, axis=0)) > 36, f"episodes with the same {name}s"
    again = adv.evaluate(agent, environment, episodes=40, deterministic=False, seed=1).returns
    assert np.mean(again == returns) < 0.1
    greedy = adv.evaluate(agent, environment, episodes=8).returns
    assert (greedy[:, None] // 4 ** np.arange(HOPS) % 2 == 0).all(), "greedy takes the first of equal actions"


def test_evaluation_in_other_environments(tmp_path):
    run = train(HOST, tmp_path / "run", total_timesteps=SIZE)
    agent = run.agent
    assert adv.evaluate(agent, DEVICE, episodes=2).lengths.min() > 0  # the same spaces
    for other in ("Pendulum-v1", "jax/Pendulum-v1", "Acrobot-v1", Walk):
        with pytest.raises(ValueError, match="trained on CartPole-v1 with observation space.*same spaces"):
            adv.evaluate(agent, other)
    with pytest.raises(ValueError, match="one environment at a time"):
        adv.evaluate(agent, gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(HOST)]))


class Graded(Walk):
    """Pays every episode what the list says."""

    grades: list[float] = []

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        self.grade, self.left = self.grades.pop(0), 1
        return result

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, self.grade, *rest


def test_best_follows_the_evaluations_across_a_resume(tmp_path):
    def best():
        return int((tmp_path / "run" / "best").resolve().name.removeprefix("step_")) // SIZE

    Graded.grades = [1.0, 5.0]
    options = {"eval_environment": Graded, "eval_every": SIZE, "eval_episodes": 1, "keep_checkpoints": 1}
    stopped = train(Walk, tmp_path / "run", total_timesteps=5 * SIZE, callback=stop_at(2), **options)
    assert best() == 2 and stopped.evaluation.returns.tolist() == [5.0]
    Graded.grades = [2.0]
    adv.resume(stopped.path, environment=Walk, eval_environment=Graded, callback=stop_at(3))
    assert best() == 2 and len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
    Graded.grades = [9.0, 9.0]
    run = adv.resume(stopped.path, environment=Walk, eval_environment=Graded)
    assert best() == 4 and run.finished
    assert read_evaluations(RunFolder(run.path))["return"].tolist() == [1, 5, 2, 9, 9]


# Callbacks and reporters


@PATHS
def test_callbacks_see_every_iteration_in_order(environment, tmp_path):
    seen = []
    run = train(environment, tmp_path / "run", total_timesteps=3 * SIZE + 20, callback=seen.append)
    assert [(p.seed, p.iteration, p.total_timesteps) for p in seen] == [
        (0, n, 3 * SIZE + 20) for n in (1, 2, 3, 4)
    ]
    assert [p.step for p in seen] == [SIZE, 2 * SIZE, 3 * SIZE, 3 * SIZE + 20]
    logged = columns(run)
    for place, progress in enumerate(seen):
        assert isinstance(progress, adv.Progress) and {"train/approx_kl", "time/fps"} <= progress.row.keys()
        assert all(logged[name][place] == value for name, value in progress.row.items())
    assert run.finished and run.seed == 0


@PATHS
def test_false_stops_and_resume_goes_on(environment, tmp_path):
    options = {"total_timesteps": 4 * SIZE, "checkpoint_every": SIZE, "eval_every": 2 * SIZE}
    whole = train(environment, tmp_path / "whole", eval_episodes=2, **options)
    run = train(environment, tmp_path / "run", eval_episodes=2, callback=stop_at(2), **options)
    assert not run.finished and run.step == 2 * SIZE
    assert adv.load(run.path).step == 2 * SIZE and run.evaluation is not None
    seen = []
    resumed = adv.resume(run.path, callback=seen.append)
    assert [(p.iteration, p.step) for p in seen] == [(3, 3 * SIZE), (4, 4 * SIZE)]
    assert resumed.finished and resumed.path == run.path
    assert learned(whole) == learned(resumed)
    assert resumed.evaluation.returns.tolist() == whole.evaluation.returns.tolist()


@pytest.mark.parametrize("answer", [None, True, 0, "stop"])
def test_only_false_stops(answer, tmp_path):
    assert train(HOST, tmp_path / "run", callback=lambda progress: answer).finished


def test_an_error_in_a_callback_is_the_callers(tmp_path):
    def broken(progress):
        if progress.iteration == 2:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train(HOST, tmp_path / "run", callback=broken, checkpoint_every=SIZE)
    assert adv.load(tmp_path / "run").step == SIZE  # where the last checkpoint was
    assert adv.resume(tmp_path / "run").finished
    assert learned(train(HOST, tmp_path / "whole")) == (
        bits(tmp_path / "run/last"),
        (tmp_path / "run/episodes.csv").read_text(),
    )


class Listener(reporting.Silent):
    def __init__(self):
        self.calls = []

    def begin(self, facts):
        self.calls.append(("begin", facts))

    def update(self, progress):
        self.calls.append(("update", progress.step))

    def message(self, text):
        self.calls.append(("message", text))

    def end(self):
        self.calls.append(("end", None))


def test_a_reporter_is_told_what_happens(tmp_path):
    listener = Listener()
    run = train(HOST, tmp_path / "run", reporter=listener, eval_every=2 * SIZE, eval_episodes=1)
    facts = listener.calls[0][1]
    assert listener.calls[0][0] == "begin" and listener.calls[-1][0] == "end"
    assert facts["algorithm"] == "ppo" and facts["environment"] == HOST and facts["folders"] == [run.path]
    assert (facts["total_timesteps"], facts["step"], facts["num_envs"]) == (3 * SIZE, 0, ENVS)
    assert SIZE * 2 * 16 < facts["driver"].nbytes < SIZE * 2 * 32
    told = [call for call in listener.calls if call[0] in ("update", "message")]
    assert [call[0] for call in told] == ["update", "update", "message", "update", "message"]
    assert told[2][1].startswith("Evaluation at step 128: return ") and "deterministic" in told[2][1]


# The run folder


def test_a_run_folder_has_the_promised_files(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "plot_curve", plot_curve)
    run = train(HOST, tmp_path / "run", eval_episodes=1, eval_every=SIZE, checkpoint_every=SIZE)
    names = {re.sub(r"(tfevents).*", r"\1", path.name) for path in run.path.iterdir()}
    logs = {"progress.csv", "episodes.csv", "evaluations.csv", "events.out.tfevents"}
    assert names == {"config.json", "checkpoints", "last", "best", "curve.png", "report.html"} | logs
    assert "<title>ppo on " in (run.path / "report.html").read_text(encoding="utf-8")
    for checkpoint in (run.path / "checkpoints").iterdir():
        assert re.fullmatch(r"step_\d{12}", checkpoint.name)
        assert {file.name for file in checkpoint.iterdir()} == {"manifest.json", "state.safetensors"}
    for link in (run.path / "last", run.path / "best"):
        assert link.is_symlink() and not Path(os.readlink(link)).is_absolute()
        assert adv.load(link).algorithm == run.agent.algorithm
    config = read_config(RunFolder(run.path))
    assert config["algorithm"] == "ppo" and config["environment"] == HOST and config["seed"] == 0
    assert config["hyperparameters"] == json.loads(json.dumps(to_json(tiny())))
    assert config["training"]["total_timesteps"] == 3 * SIZE and config["training"]["num_envs"] == ENVS
    assert {"versions", "commit", "command", "devices"} <= config["host"].keys()
    moved = run.path.rename(tmp_path / "moved")  # nothing in it knows where it lies
    assert adv.resume(moved, total_timesteps=4 * SIZE).path == moved


def test_the_newest_checkpoints_are_kept(tmp_path):
    def steps(run):
        return sorted(int(p.name.removeprefix("step_")) // SIZE for p in (run.path / "checkpoints").iterdir())

    options = {"total_timesteps": 6 * SIZE, "checkpoint_every": SIZE}
    assert steps(train(HOST, tmp_path / "three", **options)) == [4, 5, 6]
    assert steps(train(HOST, tmp_path / "one", keep_checkpoints=1, **options)) == [6]
    assert steps(train(HOST, tmp_path / "all", keep_checkpoints=99, **options)) == [0, 1, 2, 3, 4, 5, 6]


@PATHS
def test_progress_has_the_columns_that_users_know(environment, tmp_path):
    run = train(environment, tmp_path / "run")
    table = columns(run)
    assert list(table)[:2] == ["iteration", "step"]
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean"} <= table.keys()
    assert {"time/fps", "time/elapsed", "time/compile"} <= table.keys()
    learning = "approx_kl clip_fraction entropy explained_variance value_loss policy_gradient_loss loss"
    assert {f"train/{name}" for name in [*learning.split(), "learning_rate", "clip_range"]} <= table.keys()
    assert {name.split("/")[0] for name in table} == {"iteration", "step", "rollout", "time", "train"}
    assert table["step"].tolist() == [SIZE, 2 * SIZE, 3 * SIZE] and table["iteration"].tolist() == [1, 2, 3]
    assert all(np.isfinite(column).all() for column in table.values())
    episodes = read_episodes(RunFolder(run.path))
    for place, step in enumerate(table["step"]):
        done = episodes["step"] <= step
        assert table["rollout/ep_rew_mean"][place] == pytest.approx(episodes["r"][done][-100:].mean())
        assert table["rollout/ep_len_mean"][place] == pytest.approx(episodes["l"][done][-100:].mean())
    assert (np.diff(table["time/elapsed"]) >= 0).all() and (table["time/fps"] > 0).all()


def test_where_a_run_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(HOST, None, total_timesteps=SIZE)
    assert re.fullmatch(r"runs/CartPole-v1__ppo__0__\d{8}-\d{6}", str(run.path))
    second = train(DEVICE, None, root="elsewhere", seed=7, total_timesteps=SIZE)
    assert re.fullmatch(r"elsewhere/jax-CartPole-v1__ppo__7__\d{8}-\d{6}", str(second.path))
    Path("empty").mkdir()
    assert train(HOST, "empty", total_timesteps=SIZE).path == Path("empty")
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    for taken in ("full", "full/notes.txt", str(run.path)):
        with pytest.raises(FileExistsError, match=rf"{re.escape(taken)} exists already.*advantage resume"):
            train(HOST, taken, total_timesteps=SIZE)
    assert [p.name for p in Path("full").iterdir()] == ["notes.txt"]
    assert Path("full/notes.txt").read_text() == "mine"


# Environments and networks of one's own


def test_environments_of_your_own(tmp_path):
    algorithm = tiny()
    by_class = train(Walk, tmp_path / "class", algorithm, callback=stop_at(2), eval_episodes=1)
    by_call = train(lambda: Walk(), tmp_path / "call", algorithm, callback=stop_at(2))
    assert learned(by_class) == learned(by_call)
    assert read_config(RunFolder(by_class.path))["environment"] == "Walk"
    with pytest.raises(ValueError, match=r"Python object Walk.*environment="):
        adv.resume(by_class.path)
    with pytest.raises(ValueError, match=r"Python object Walk.*adv\.evaluate\(agent, environment\)"):
        adv.evaluate(by_class.agent)
    assert adv.evaluate(by_class.agent, Walk, episodes=2).lengths.min() >= 4
    assert adv.resume(by_class.path, environment=functools.partial(Walk)).finished
    with pytest.raises(ValueError, match="other spaces"):
        adv.resume(by_call.path, environment=HOST)
    assert adv.load(by_call.path).step == 2 * SIZE


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (42, "42 is not an environment; give a name such as"),
        (Walk(), "is one environment.*give its class, or a function"),
        ("CartPol-v1", r"no environment 'CartPol-v1'; the nearest are .*CartPole-v1"),
        ("jax/CartPol", r"no environment 'jax/CartPol'; the nearest are jax/CartPole-v1"),
        ("nowhere_at_all:Env-v0", "nowhere_at_all.*cannot be imported"),
    ],
)
def test_what_is_no_environment(environment, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(environment, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_existing_vector_environment(tmp_path):
    envs = gymnasium.vector.SyncVectorEnv([Walk, Walk])
    run = train(envs, tmp_path / "run", num_envs=1, eval_environment=Walk, eval_episodes=1)
    assert run.finished and len(run.evaluation.returns) == 1
    assert read_config(RunFolder(run.path))["training"]["num_envs"] == 2
    assert learned(run) == learned(train(Walk, tmp_path / "own"))
    envs.close()


def network_init(key, x):
    return {"weight": jax.random.normal(key, (x.shape[-1], 5))}


def network_apply(params, x):
    return jnp.tanh(x @ params["weight"])


@PATHS
def test_a_network_of_your_own(environment, tmp_path):
    algorithm = tiny(network=(network_init, network_apply))
    run = train(environment, tmp_path / "run", algorithm, callback=stop_at(1), checkpoint_every=SIZE)
    for attempt in (adv.load, adv.resume):
        with pytest.raises(adv.CheckpointError, match=r"config\.json: hyperparameters: network.*algorithm="):
            attempt(run.path)
    agent = adv.load(run.path, algorithm=algorithm)
    assert agent.act(np.zeros(4, np.float32)) in (0, 1)
    assert adv.resume(run.path, algorithm=algorithm).finished
    whole = train(environment, tmp_path / "whole", algorithm, checkpoint_every=SIZE)
    assert learned(whole) == learned(run)
    with pytest.raises(adv.CheckpointError, match="tensors/state/"):
        adv.load(run.path, algorithm=tiny())


def test_the_agent_of_a_run_with_a_network_of_your_own(tmp_path):
    run = train(HOST, tmp_path / "run", tiny(network=(network_init, network_apply)), total_timesteps=SIZE)
    assert run.agent.act(np.zeros(4, np.float32)) in (0, 1)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_timestep": 64}, r"no option 'total_timestep'.*total_timesteps"),
        ({"total_timesteps": 0}, "total_timesteps=0 is not allowed; use a whole number of 1 or more"),
        ({"total_timesteps": 1e5 + 0.5}, r"total_timesteps=100000\.5 is not allowed"),
        ({"total_timesteps": 2**32}, "above the step counter's limit"),
        ({"num_envs": True}, "num_envs=True is not allowed"),
        ({"seed": -1}, "seed=-1 is not allowed; use a whole number of 0 or more"),
        ({"num_seeds": 0}, "num_seeds=0 is not allowed"),
        ({"eval_every": 0}, "eval_every=0 is not allowed; use a whole number of steps of 1 or more, or None"),
        ({"eval_episodes": -1}, "eval_episodes=-1 is not allowed"),
        ({"checkpoint_every": 0.5}, r"checkpoint_every=0\.5 is not allowed"),
        ({"keep_checkpoints": 0}, "keep_checkpoints=0 is not allowed"),
        ({"workers": -1}, "workers=-1 is not allowed; use 'auto', or"),
        ({"workers": "many"}, "workers='many' is not allowed"),
        ({"worker_timeout": 0}, "worker_timeout=0 is not allowed"),
        ({"worker_timeout": "long"}, "worker_timeout='long' is not allowed; use a finite number"),
        ({"worker_timeout": math.inf}, "worker_timeout=inf is not allowed"),
        ({"cluster": 4}, "cluster=4 is not allowed; use 'auto'"),
        ({"cluster_mode": "sync"}, "cluster_mode='sync' is not allowed; use one of synchronous, "),
        ({"tensorboard": "yes"}, "tensorboard='yes' is not allowed; use True or False"),
        ({"seed": 2**32}, "seed=4294967296 is not allowed"),
        ({"device": "nonsense"}, "device='nonsense' is not allowed; use 'cpu', 'gpu' or 'tpu'"),
        ({"device": "tpu"}, "device='tpu' is not available.*JAX sees"),
    ],
)
@PATHS
def test_options_that_are_not_allowed(environment, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(environment, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_the_rollout(tmp_path):
    with pytest.raises(
        ValueError, match=r"batch_size=33 does not divide .* = 64; use a divisor such as 16 or 32"
    ):
        train(HOST, tmp_path / "run", tiny(batch_size=33))
    assert not (tmp_path / "run").exists()


# Numerical failure


@PATHS
def test_parameters_that_are_not_finite_are_never_saved(environment, tmp_path, monkeypatch):
    """Even where no metric shows it."""
    honest = adv.PPO.update

    def broken(self, state, rollout, key):
        learned, _ = honest(self, state, rollout, key)
        late = learned.clock.step > 3 * SIZE
        params = jax.tree.map(lambda leaf: jax.numpy.where(late, np.nan, leaf), learned.params)
        return dataclasses.replace(learned, params=params), {
            "loss": 0 * learned.clock.step.astype(np.float32)
        }

    monkeypatch.setattr(adv.PPO, "update", broken)
    options = {"total_timesteps": 8 * SIZE, "checkpoint_every": SIZE, "eval_episodes": 0}
    with pytest.raises(adv.NonFiniteUpdate, match=r"not finite: parameters. It was not applied; .*Lower"):
        train(environment, tmp_path / "run", tiny(hidden=(7,)), **options)  # not compiled before
    good = adv.load(tmp_path / "run")
    assert 0 < good.step <= 4 * SIZE
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(good.state))


@PATHS
def test_a_value_that_is_not_finite_stops_the_run(environment, tmp_path):
    listener = Listener()
    options = {"total_timesteps": 8 * SIZE, "checkpoint_every": SIZE, "eval_episodes": 2}
    with pytest.raises(
        adv.NonFiniteUpdate, match=r"not finite: .*It was not applied.*Lower learning_rate"
    ) as e:
        train(environment, tmp_path / "run", tiny(learning_rate=1e30), reporter=listener, **options)
    folder = RunFolder(tmp_path / "run")
    failed, iteration = map(int, re.search(r"after step (\d+) \(iteration (\d+)", str(e.value)).groups())
    assert failed == (iteration + 1) * SIZE
    good = adv.load(folder.path)
    assert good.step < failed
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(good.state))
    assert listener.calls[-1][0] == "end"
    assert f"{folder.last} is the checkpoint of step {good.step}" in listener.calls[-2][1]
    assert not list((folder.checkpoints).glob(".*"))
    episodes = read_episodes(folder)["step"]
    assert math.isfinite(episodes.sum()) and (episodes <= good.step).all()


class Full(io.FileIO):
    """A file on a disk that is full."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["progress.csv", "episodes.csv"])
def test_a_disk_that_fills_up_is_named_and_leaves_the_last_checkpoint(name, tmp_path, monkeypatch):
    listener, opened = Listener(), Path.open

    def open_file(path, *args, **kwargs):
        is_full = path.name == name and args[:1] == ("ab",)
        return Full(path, "ab") if is_full else opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_file)
    with pytest.raises(OSError, match=rf"No space left on device: '.*{name}'"):
        train(HOST, tmp_path / "run", reporter=listener)
    assert listener.calls[-1][0] == "end"
    assert f"{tmp_path / 'run' / 'last'} is the checkpoint of step 0" in listener.calls[-2][1]
    monkeypatch.undo()
    monkeypatch.setattr(results, "plot_curve", lambda folder: None)
    assert adv.resume(tmp_path / "run").finished
    assert learned(adv.resume(tmp_path / "run", total_timesteps=4 * SIZE)) == learned(
        train(HOST, tmp_path / "again", total_timesteps=4 * SIZE)
    )


def test_weights_that_do_not_fit_into_memory_are_refused_before_they_are_drawn(tmp_path):
    with pytest.raises(ValueError) as error:
        adv.train(adv.PPO(hidden=(3_000_000, 3_000_000)), HOST, out=tmp_path / "run")
    for part in ("weights, their gradient, the optimiser", "TiB", "of memory are free", "hidden="):
        assert part in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (adv.PPO, ["--hidden", "--initialisation normal"]),
        (adv.Dreamer, ["--hidden", "--model-hidden"]),
        (adv.QLearning, []),
    ],
    ids=["ppo", "dreamer", "q-learning"],
)
def test_what_makes_drawing_weights_shorter_are_options_of_the_algorithm(algorithm, options):
    message = drawing_message(algorithm())
    assert re.findall(r"--[a-z-]+(?: normal)?", message) == options
