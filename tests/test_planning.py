"""Solvers as agents: trained, resumed, evaluated and drawn by the same verbs as any other."""

import contextlib
import json

import gymnasium
import numpy as np
import pytest

import advantage as adv
from advantage.cli import main
from advantage.drivers import solver as solver_driver
from advantage.environments.make import resolve, table_of
from advantage.report import table_report
from advantage.runs.folder import RunFolder
from advantage.runs.grid import grid_text
from advantage.runs.log import read_progress

SOLVERS = {
    "value-iteration": adv.ValueIteration,
    "gauss-seidel": adv.GaussSeidel,
    "prioritised-value-iteration": adv.PrioritisedValueIteration,
    "policy-iteration": adv.PolicyIteration,
    "modified-policy-iteration": adv.ModifiedPolicyIteration,
    "linear-programming": adv.LinearProgramming,
}


class Messages:
    """A reporter that remembers what it was told."""

    def __init__(self):
        self.said = []

    def begin(self, facts): ...
    def update(self, progress): ...
    def end(self): ...

    def message(self, text):
        self.said.append(text)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_is_trained_like_an_agent(name, tmp_path):
    reporter = Messages()
    run = adv.train(SOLVERS[name](gamma=0.99), "FrozenLake-v1", out=tmp_path / "run", reporter=reporter)
    assert run.finished and run.step < 1000
    state, interior = run.agent.state, np.array([0, 1, 2, 3, 4, 6, 8, 9, 10, 13, 14])
    assert state.value[0] == pytest.approx(0.542026, abs=2e-6)
    assert np.asarray(state.policy)[interior].tolist() == [0, 3, 3, 3, 0, 0, 3, 1, 0, 2, 1]
    assert run.evaluation is not None and 0.3 <= run.evaluation.mean <= 1
    said = "\n".join(reporter.said)
    assert "value of the start 0.54202" in said and "off by at most" in said
    assert "success rate 74.0% within 100 steps, exactly; " in said and "\n← ↑ ↑ ↑\n← * ← *\n" in said
    folder, progress = RunFolder(run.path), read_progress(RunFolder(run.path))
    assert folder.policy_path.stat().st_size > 5000 and folder.curve_path.stat().st_size > 5000
    assert progress["train/error_bound"][-1] <= 1e-6 and len(progress["step"]) == run.step
    assert adv.resume(run.path, total_timesteps=10**7, reporter=reporter).finished
    assert "has converged after" in reporter.said[-1] and "smaller tolerance" in reporter.said[-1]


def test_a_fixed_point_ends_a_run_whose_tolerance_rounding_does_not_allow(tmp_path):
    """The residual is exactly 0; the bound that rounding leaves is said, and a resumed run has nothing to do."""
    reporter, solver = Messages(), adv.ValueIteration(gamma=0.9, tolerance=1e-15)
    run = adv.train(solver, "jax/GridWorld5x5-v0", out=tmp_path / "run", reporter=reporter, eval_episodes=0)
    progress = read_progress(RunFolder(run.path))
    assert progress["train/residual"][-1] == 0 < progress["train/residual"][-2]
    assert run.step < 1000 and 1e-15 < progress["train/error_bound"][-1] < 1e-10
    assert "no iteration changes the plan any more" in "\n".join(reporter.said)
    assert adv.resume(run.path, total_timesteps=10**7).step == run.step


@pytest.mark.parametrize(
    "solver",
    [
        adv.ModifiedPolicyIteration(),
        *(
            pytest.param(solver(), marks=pytest.mark.slow)
            for solver in (adv.ValueIteration, adv.RelativeValueIteration)
        ),
    ],
)
def test_an_interrupted_solver_goes_on_bit_for_bit(solver, tmp_path):
    whole = adv.train(solver, "jax/CliffWalking-v1", out=tmp_path / "whole", eval_episodes=0)
    adv.train(solver, "jax/CliffWalking-v1", out=tmp_path / "part", total_timesteps=2, eval_episodes=0)
    part = adv.resume(tmp_path / "part", total_timesteps=10**6)
    assert part.step == whole.step > 2
    for name in ("policy", "value"):
        np.testing.assert_array_equal(getattr(part.agent.state, name), getattr(whole.agent.state, name))
    for name in ("train/residual", "train/error_bound"):
        one, other = (read_progress(RunFolder(run.path)).get(name) for run in (whole, part))
        np.testing.assert_array_equal(one, other)


def test_logs_of_long_runs_are_thinned_and_resumed_alike(tmp_path, monkeypatch):
    """All of the first rows, then ever fewer, and the last; a stop in between leaves no trace."""
    monkeypatch.setattr(solver_driver, "ALL_LOGGED", 4)
    solver, seen = adv.ValueIteration(gamma=0.9), []
    options = {"environment": "jax/GridWorld5x5-v0", "eval_episodes": 0, "tensorboard": False}
    whole = adv.train(
        solver, out=tmp_path / "whole", callback=lambda progress: seen.append(progress.step), **options
    )
    adv.train(solver, out=tmp_path / "part", callback=lambda progress: progress.step < 21, **options)
    part = adv.resume(tmp_path / "part")
    rows, other = (read_progress(RunFolder(run.path)) for run in (whole, part))
    steps = rows["step"].tolist()
    assert steps[:9] == [1, 2, 3, 4, 6, 8, 12, 16, 24]
    assert steps[-1] == whole.step == len(seen) > len(steps)
    for name in ("step", "iteration", "train/residual"):
        np.testing.assert_array_equal(rows[name], other[name])


def test_the_longest_log_is_below_ten_megabytes():
    """A row has at most eight cells: two counts below 2^32 and six numbers of 24 characters."""
    most = 2**20 * solver_driver.ALL_LOGGED
    doublings = np.log2(2**32 / solver_driver.ALL_LOGGED)
    assert most == 2**32 and solver_driver.is_logged(most)
    rows = sum(map(solver_driver.is_logged, range(1, 8 * solver_driver.ALL_LOGGED + 1)))
    assert rows == (1 + 3 / 2) * solver_driver.ALL_LOGGED
    assert (1 + doublings / 2) * solver_driver.ALL_LOGGED * (2 * 11 + 6 * 25) < 10e6


def test_a_table_of_ones_own_is_an_environment(tmp_path):
    mdp = adv.MDP.from_function(
        2, 2, lambda s, a: [(1.0, 1 - s if a else s, float(s == 1), False)], gamma=0.5
    )
    run = adv.train(adv.PolicyIteration(), mdp, out=tmp_path / "plan", eval_episodes=1, total_timesteps=50)
    assert run.agent.state.policy.tolist() == [1, 0] and run.agent.state.value.tolist() == [1.0, 2.0]
    learned = adv.train(
        adv.QLearning(gamma=0.5, epsilon=0.5, learning_rate=0.5),
        mdp,
        out=tmp_path / "learn",
        total_timesteps=2000,
    )
    assert np.asarray(learned.agent.state.table.q).argmax(axis=1).tolist() == [1, 0]
    np.testing.assert_allclose(learned.agent.state.table.q, [[0.5, 1.0], [2.0, 1.5]], atol=1e-3)


class Own(gymnasium.Env):
    """Two states; action 1 ends it well."""

    observation_space, action_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(2)
    P = {0: {0: [(1.0, 0, 0.0, False)], 1: [(0.5, 1, 1.0, True), (0.5, 0, 0.0, False)]}}
    P[1] = {a: [(1.0, 1, 0.0, True)] for a in (0, 1)}
    initial_state_distrib = np.array([1.0, 0.0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        ends = bool(action == 1 and self.np_random.random() < 0.5)
        return int(ends), float(ends), ends, False, {}


def test_an_environment_with_a_table_is_solved(tmp_path):
    run = adv.train(adv.ValueIteration(gamma=0.9), Own, out=tmp_path / "run", eval_episodes=5)
    assert run.agent.state.value[0] == pytest.approx(0.5 / (1 - 0.45)) and run.evaluation.mean == 1.0


def test_what_cannot_be_solved_says_why(tmp_path):
    solver = adv.ValueIteration()
    for environment in ("Blackjack-v1", "advantage/Tiger-v0", "jax/Tiger-v0"):
        with pytest.raises(
            ValueError, match=r"has no table of transitions between observed states.*q-learning"
        ):
            adv.train(solver, environment, out=tmp_path / "run")
    with pytest.raises(ValueError, match="finite observation space"):
        adv.train(solver, "CartPole-v1", out=tmp_path / "run")
    with pytest.raises(ValueError, match="depends on how many steps are left"):
        adv.train(adv.BackwardInduction(), "FrozenLake-v1", out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"is not an environment; .* adv.MDP"):
        adv.train(solver, adv.MarkovChain(np.eye(2)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_table_is_found_behind_every_kind_of_environment():
    for name in ("FrozenLake-v1", "jax/FrozenLake-v1", "CliffWalking-v1", "advantage/GridWorld4x4-v0"):
        assert isinstance(table_of(resolve(name)), adv.MDP)


@pytest.mark.slow
def test_only_tables_in_finite_worlds_are_reported(tmp_path):
    small = {"total_timesteps": 64, "eval_episodes": 0}
    ppo = adv.train(
        adv.PPO(n_steps=32, batch_size=32, hidden=(4,)), "CartPole-v1", out=tmp_path / "a", **small
    )
    assert table_report(ppo.agent, resolve("CartPole-v1")) is None
    walker = adv.train(adv.QLearning(gamma=1.0), "jax/RandomWalk-v0", out=tmp_path / "c", **small)
    report = table_report(walker.agent, resolve("jax/RandomWalk-v0"))
    assert report is not None and report.policy.shape == (report.mdp.n_states,)
    assert not RunFolder(ppo.path).policy_path.exists()


def test_the_grid_as_text():
    grid = adv.Grid(2, 3, ((-1, 0), (0, 1), (1, 1), (0, 0)), walls=(1,))
    policy, ends = np.array([0, 0, 2, 3, 1, 0]), np.array([0, 0, 0, 0, 0, 1], bool)
    reached = np.array([1, 0, 1, 1, 0, 1], bool)
    assert grid_text(grid, policy, ends, reached) == "↑ # ↘\n·   *"


def test_from_the_command_line(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "value-iteration", "FrozenLake-v1", "--gamma", "0.99", "--out", out]) == 0
    text = capsys.readouterr().out
    assert "Solving FrozenLake-v1 with value-iteration, whose table takes" in text
    assert "value of the start 0.54202" in text and "policy.png" in text and "iterations" in text
    assert json.loads((tmp_path / "run" / "config.json").read_text())["algorithm"] == "value-iteration"
    assert main(["eval", out, "--episodes", "3"]) == 0
    assert "over 3 deterministic episodes" in capsys.readouterr().out
    with contextlib.suppress(ImportError):
        assert main(["enjoy", out, "--episodes", "1", "--video", str(tmp_path / "play.mp4")]) == 0
        assert (tmp_path / "play.mp4").stat().st_size > 1000
    assert main(["train", "value-iteration", "FrozenLake-v1", "--gamma", "1.5", "--out", out + "2"]) == 2
    assert "gamma" in capsys.readouterr().err
