"""Tuned settings: data that the command line and Python read alike."""

import json

import jax
import pytest

import advantage as adv
from advantage.algorithms.presets import presets
from advantage.algorithms.registry import ALGORITHMS, to_json
from advantage.cli import main
from advantage.environments.environment import observing
from advantage.environments.make import environment_names, resolve
from advantage.environments.modifications import modified
from advantage.training.options import Options, modifications_of

KINDS = {"rainbow": "CartPole-v1"}  # presets that are no environment's, and one that they fit
PAIRS = [(algorithm, environment) for algorithm in ALGORITHMS for environment in presets(algorithm)]


@pytest.mark.parametrize(("algorithm", "environment"), PAIRS)
def test_every_preset_fits_its_environment(algorithm, environment):
    tuned = adv.preset(algorithm, environment)
    assert tuned == adv.preset(algorithm, f"jax/{environment}")
    options = Options(**tuned.options)
    environment = KINDS.get(environment, environment)
    name = f"jax/{environment}" if f"jax/{environment}" in environment_names() else environment
    if name.startswith("ALE/"):
        pytest.importorskip("ale_py")
    if name.startswith("LunarLander"):
        pytest.importorskip("Box2D")
    target = observing(
        modified(resolve(name), modifications_of(options)), options.observe_last, options.frame_stack
    )
    world = target.source if target.kind == "device" else None
    spec = adv.Spec(*target.spaces, options.num_envs, options.total_timesteps, world=world)
    tuned.algorithm.init(jax.random.key(0), spec)
    rollout = getattr(tuned.algorithm, "n_steps", 1) * options.num_envs  # a search has none
    assert options.total_timesteps % rollout == 0


def trained(tmp_path, capsys, *flags, environment="CartPole-v1"):
    out = tmp_path / str(len(list(tmp_path.iterdir())))
    short = ["--total-timesteps", "64", "--num-envs", "2", "--n-steps", "32", "--batch-size", "32"]
    command = ["train", "ppo", environment, *short, "--eval-episodes", "0", "--out", str(out), *flags]
    assert main(command) == 0, capsys.readouterr().err
    config = json.loads((out / "config.json").read_text())
    return config["hyperparameters"], config["training"], capsys.readouterr().out


def test_the_command_line_takes_the_preset_and_what_is_given_wins(tmp_path, capsys):
    tuned = to_json(adv.preset("ppo", "CartPole-v1").algorithm)
    assert tuned["learning_rate"] != to_json(adv.PPO())["learning_rate"]
    hyperparameters, training, said = trained(tmp_path, capsys)
    assert hyperparameters == tuned | {"n_steps": 32, "batch_size": 32}
    assert training["num_envs"] == 2 and training["total_timesteps"] == 64
    assert "preset for CartPole-v1" in said and "--preset none" in said
    hyperparameters, _, _ = trained(tmp_path, capsys, "--learning-rate", "0.5", "--preset", "auto")
    assert hyperparameters["learning_rate"] == 0.5


@pytest.mark.parametrize("flags", [("--preset", "none"), ("--preset=none",)])
def test_presets_are_switched_off(flags, tmp_path, capsys):
    hyperparameters, _, said = trained(tmp_path, capsys, *flags)
    assert hyperparameters == to_json(adv.PPO(n_steps=32, batch_size=32))
    assert "Defaults from" not in said


@pytest.mark.slow
def test_the_preset_of_another_environment(tmp_path, capsys):
    hyperparameters, _, said = trained(tmp_path, capsys, "--preset", "Acrobot-v1")
    assert hyperparameters["gae_lambda"] == adv.preset("ppo", "Acrobot-v1").algorithm.gae_lambda
    assert "preset for Acrobot-v1" in said
    _, _, said = trained(tmp_path, capsys, environment="jax/CartPole-v1")
    assert "preset for CartPole-v1" in said


def test_a_preset_that_is_not_there(capsys):
    assert main(["train", "ppo", "CartPole-v1", "--preset", "Chess"]) == 2
    complaint = capsys.readouterr().err
    assert "'Chess'" in complaint and "CartPole-v1" in complaint
    with pytest.raises(ValueError, match="no algorithm 'popo'"):
        adv.preset("popo", "CartPole-v1")


def test_they_are_listed(capsys):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    for algorithm, environment in PAIRS:
        line = next(line for line in listed.splitlines() if line.split()[:1] == [algorithm] and "-v" in line)
        assert environment in line


def test_preset_files(tmp_path, capsys):
    file = tmp_path / "ppo.json"
    file.write_text(json.dumps({"CartPole-v1": {"gamma": 0.5, "num_envs": 2, "total_timesteps": 64}}))
    tuned = adv.preset("ppo", "jax/CartPole-v1", file)
    assert tuned.algorithm.gamma == 0.5 and tuned.options == {"num_envs": 2, "total_timesteps": 64}
    for content, word in (
        ("{", "cannot be read as a preset file"),
        ("[]", "is not a preset file"),
        ('{"Acrobot-v1": {}}', "has no preset for"),
        ('{"CartPole-v1": {"gamma": 7}}', "gamma=7"),
        ('{"CartPole-v1": {"wrappers": ["os:system"]}}', "'wrappers' is not allowed in a preset file"),
    ):
        file.write_text(content)
        assert main(["train", "ppo", "CartPole-v1", "--preset", str(file)]) == 2
        said = capsys.readouterr().err
        assert word in said and said.count("\n") == 1
