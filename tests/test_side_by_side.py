"""Several settings of an algorithm in one program on the device: each is what it is alone."""

import json

import jax
import numpy as np
import pytest

import advantage as adv
from advantage.algorithms.registry import to_json

TINY = adv.PPO(n_steps=32, batch_size=32, n_epochs=1, hidden=(8,))
DEVICE = "jax/CartPole-v1"
RUN = dict(num_envs=2, total_timesteps=256, eval_episodes=2, tensorboard=False)


def params_of(path):
    return jax.tree.leaves(adv.load(path).state.params)


@pytest.mark.slow
def test_settings_side_by_side_are_each_what_they_are_alone(tmp_path):
    """Each has the floats, the weights, the files and the evaluation of a run of its own."""
    settings = [
        adv.PPO(n_steps=32, batch_size=32, n_epochs=1, hidden=(8,), learning_rate=rate, gamma=gamma)
        for rate, gamma in ((1e-3, 0.9), (1e-2, 0.5))
    ]
    folders = [tmp_path / name for name in "ab"]
    runs = adv.train_side_by_side(settings, DEVICE, out=folders, **RUN)
    assert [run.algorithm for run in runs] == settings and all(run.finished for run in runs)
    for run, algorithm in zip(runs, settings, strict=True):
        alone = adv.train(algorithm, DEVICE, out=tmp_path / f"{run.path.name} alone", **RUN)
        for ours, theirs in zip(params_of(run.path), params_of(alone.path), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(run.evaluation.returns, alone.evaluation.returns)
        assert (run.path / "episodes.csv").read_text() == (alone.path / "episodes.csv").read_text()
        assert json.loads((run.path / "config.json").read_text())["hyperparameters"] == to_json(algorithm)
    first, second = params_of(folders[0]), params_of(folders[1])
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(first, second, strict=True))


def test_what_is_not_trained_side_by_side(tmp_path):
    for others, environment, word in (
        ([TINY, adv.PPO(n_steps=64)], DEVICE, "more than the values of floats"),
        ([TINY, TINY], "CartPole-v1", "only an on-device world"),
    ):
        with pytest.raises(ValueError, match=word):
            adv.train_side_by_side(others, environment, out=[tmp_path / "a", tmp_path / "b"], **RUN)
    assert not list(tmp_path.iterdir())
