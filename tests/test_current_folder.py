"""An environment may change the current folder, as games do for their files; a run's files are where they should be."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import advantage as adv
from advantage.decisions import decision_cost
from advantage.environments.current_folder import EnvironmentsFolder
from advantage.environments.make import resolve, table_of
from advantage.film import watch


class Moving(gymnasium.Env):
    """Changes the current folder when it is made, at a reset or at a step, and reads a file there at each step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    observation_space, action_space = spaces.Box(0, 1, (2,), np.float32), spaces.Discrete(2)

    def __init__(self, place, when="made", render_mode=None):
        self.place, self.when, self.render_mode, self.t = place, when, render_mode, 0
        self.moved = False
        self._move("made")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, self.np_random.random(2, dtype=np.float32)
        self._move("reset")
        return self.x, {}

    def step(self, action):
        self.t += 1
        self._move("step")
        with open("level.txt") as file:
            length = int(file.read())
        return self.x, 1.0, self.t >= length, False, {}

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)

    def close(self):
        if self.moved:
            open("level.txt").close()

    def _move(self, moment):
        if self.when == moment:
            os.chdir(self.place)
            self.moved = True


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the environment's file is; the current folder is another one."""
    (tmp_path / "game").mkdir()
    (tmp_path / "game" / "level.txt").write_text("9")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "game"


METHODS = {
    "rollouts": adv.PPO(n_steps=32, batch_size=32, n_epochs=1, hidden=(8,)),
    "steps": adv.DQN(hidden=(8,), n_steps=1, learning_starts=16, buffer_size=200),
    "episodes": adv.CEM(candidates=4, elite=0.5),
}


@pytest.mark.parametrize(
    ("method", "when"),
    [
        ("rollouts", "made"),
        ("rollouts", "reset"),
        ("steps", "step"),
        ("episodes", "made"),
        ("episodes", "step"),
    ],
)
def test_a_run_is_where_it_was_asked_for(method, when, place):
    work, make = os.getcwd(), lambda render_mode=None: Moving(place, when, render_mode)
    options = dict(eval_episodes=2, eval_every=128, workers=0, tensorboard=True)
    run = adv.train(METHODS[method], make, total_timesteps=256, out="run", **options)
    assert os.getcwd() == work
    assert sorted(os.listdir()) == ["run"] and os.listdir(place) == ["level.txt"]
    assert {"config.json", "curve.png", "report.html", "last", "episodes.csv"} <= set(os.listdir("run"))
    assert run.evaluation is not None and run.evaluation.lengths.tolist() == [9, 9]
    assert adv.resume("run", total_timesteps=320, environment=make).finished
    assert adv.load(run.path).step > 256 - 36
    assert sorted(os.listdir()) == ["run"] and os.listdir(place) == ["level.txt"]


def test_evaluations_recordings_and_films(place):
    work, make = os.getcwd(), lambda render_mode=None: Moving(place, "step", render_mode)
    run = adv.train(METHODS["rollouts"], make, total_timesteps=64, out="run", eval_episodes=0, workers=0)
    assert adv.evaluate(run.agent, make, episodes=2).lengths.tolist() == [9, 9]
    assert adv.record(run.agent, make, episodes=2).num_steps == 18
    assert os.getcwd() == work
    list(watch(run.agent, resolve(make), Path("film.gif")))
    assert os.getcwd() == work
    assert sorted(os.listdir()) == ["film.gif", "run"]


def test_a_look_at_an_environment(place, monkeypatch):
    """For its table, and for the first observation of the time that a decision takes."""
    monkeypatch.setattr("advantage.decisions.SECONDS", 0.01)
    work, actor = os.getcwd(), SimpleNamespace(initial_memory=lambda _: (), greedy=lambda *_: None)
    agent: Any = SimpleNamespace(algorithm=adv.MuZero(simulations=1), state=None, actor=actor)
    with pytest.raises(ValueError, match="has no table"):
        table_of(resolve(lambda: Moving(place)))
    assert os.getcwd() == work
    assert decision_cost(agent, resolve(lambda: Moving(place))) is not None
    assert os.getcwd() == work


def test_folders(place, tmp_path):
    folder, work = EnvironmentsFolder(), os.getcwd()
    with folder:
        assert os.getcwd() == work
        os.chdir(place)
    assert os.getcwd() == work
    with pytest.raises(FileNotFoundError, match="nowhere"), folder:
        os.chdir("../nowhere" if os.getcwd() == str(place) else place)
    assert os.getcwd() == work
    with folder:
        assert os.getcwd() == str(place)
        os.chdir(tmp_path)
        os.mkdir("gone")
        os.chdir("gone")
        os.rmdir(tmp_path / "gone")
    assert os.getcwd() == work
    with folder:
        assert os.getcwd() == work
