"""A metric that an iteration lacks counts in no row's mean, and a row of iterations that all lack it leaves it out."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import advantage as adv
from advantage.drivers.metric_rows import metric_rows
from advantage.environments.worlds.cartpole import CartPole
from advantage.runs.folder import RunFolder
from advantage.runs.log import read_progress
from advantage.training.nonfinite import find_nonfinite
from advantage.types import Iterated, Mean


def cartpole() -> gymnasium.Env:
    return gymnasium.make("CartPole-v1")


@pytest.mark.parametrize("environment", [cartpole, CartPole()], ids=["host", "device"])
@pytest.mark.parametrize("n_steps", [1, 4, 64], ids=["single steps", "short iterations", "rollouts"])
def test_rows_show_what_was_measured(tmp_path, environment, n_steps):
    """Nothing is learned in 384 steps, one row and a half; a policy that never changes keeps its entropy."""
    algorithm = adv.OffPolicyActorCritic(
        n_steps=n_steps, gradient_steps=1, learning_starts=384, learning_rate=0.0, batch_size=64, hidden=(8,)
    )
    options = {"total_timesteps": 768, "eval_episodes": 0, "tensorboard": False}
    adv.train(algorithm, environment, out=tmp_path / "run", **options)
    rows = read_progress(RunFolder(tmp_path / "run"))
    absent = rows["step"] < 384
    assert absent.any() and not absent.all()
    for name in ("train/entropy", "train/action_value_loss", "train/gradient_norm"):
        assert (np.isnan(rows[name]) == absent).all(), name
    np.testing.assert_allclose(rows["train/entropy"][~absent], np.log(2), atol=0.01)
    assert (rows["train/gradient_steps"][absent] == 0).all()


def test_the_mean_of_a_row_is_that_of_its_measurements():
    rows = metric_rows(
        {"loss": Mean(np.array([[0.0, 1.5]]), np.array([[0.0, 0.5]])), "rate": np.ones((1, 2))}
    )
    assert rows["loss"].mask.tolist() == [[True, False]]
    assert (rows["loss"][0, 1], rows["rate"].tolist()) == (3.0, [[1.0, 1.0]])


@pytest.mark.parametrize(("total", "found"), [(np.nan, "loss"), (np.inf, "loss"), (1.0, None)])
def test_what_is_absent_is_not_taken_for_a_failure_and_a_failure_not_for_absent(total, found):
    rows = metric_rows({"loss": Mean(np.array([[0.0, total]]), np.array([[0.0, 1.0]]))})
    wrong = find_nonfinite(Iterated((), rows, [], np.array([1, 2]), np.array([1, 2])), 1)
    assert (wrong.names if wrong else None) == found
    assert wrong is None or wrong.row == 1
