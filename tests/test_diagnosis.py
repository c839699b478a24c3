"""The doctor: each rule finds its trouble, and stays silent on a run without it."""

import json
from pathlib import Path

import numpy as np
import pytest

import advantage as adv
from advantage.cli import main
from advantage.diagnosis import RULES, SEEDS, RunFacts, diagnose, disagreements
from advantage.runs.folder import RunFolder, write_config

RISING = np.concatenate([np.linspace(20, 400, 150), np.full(50, 410) + np.arange(50) % 7])


def facts(*, algorithm="ppo", hyperparameters=None, returns=RISING, seed=0, step=100_000, **columns):
    rows = len(next(iter(columns.values()), np.zeros(40)))
    progress = {"iteration": np.arange(1, rows + 1), "step": np.linspace(step / rows, step, rows)}
    progress |= {f"train/{name}": np.asarray(column, float) for name, column in columns.items()}
    returns = np.asarray(returns, float)
    steps = np.linspace(1, step, len(returns))
    settings = {"n_steps": 128} | (hyperparameters or {})
    return RunFacts(
        Path(f"run{seed}"), algorithm, "World-v0", seed, settings, {"total_timesteps": step, "num_envs": 1}, progress,
        returns, np.full(len(returns), 50.0), steps,
    )  # fmt: skip


def rows(*values):
    return np.repeat(values, 40 // len(values))


REPLAY = dict(buffer_size=1_000_000, gradient_steps=4, n_steps=1)
FELL = np.concatenate([np.linspace(0, 300, 100), np.linspace(300, 20, 100)])
TROUBLES = {
    "policy moves too far": (facts(approx_kl=rows(0.01, 0.12)), facts(approx_kl=rows(0.12, 0.02))),
    "clipping is saturated": (facts(clip_fraction=rows(0.2, 0.6)), facts(clip_fraction=rows(0.1, 0.25))),
    "exploration ended early": (
        facts(entropy=np.concatenate([[0.69], np.full(39, 0.001)])),
        facts(entropy=np.linspace(0.69, 0.001, 40)),
    ),
    "critic is worse than a constant": (
        facts(explained_variance=rows(0.1, -0.4)),
        facts(explained_variance=rows(-0.4, 0.8)),
    ),
    "values explode": (
        facts(action_value=np.geomspace(1, 1e5, 40)),
        facts(action_value=np.linspace(1, 500, 40)),
    ),
    "reward is never seen": (facts(returns=np.zeros(50)), facts(returns=[0.0] * 49 + [1.0])),
    "advantages are all equal": (
        facts(returns=np.full(60, -200.0)),
        facts(returns=np.concatenate([np.linspace(20, 400, 100), np.full(100, 500.0)])),
    ),
    "episodes never end": (facts(returns=[]), facts(returns=[], step=5_000)),
    "too few updates": (facts(approx_kl=np.full(8, 0.01)), facts(approx_kl=np.full(40, 0.01))),
    "replay is too old": (
        facts(algorithm="dqn", hyperparameters=REPLAY, returns=FELL),
        facts(algorithm="dqn", hyperparameters=REPLAY | {"buffer_size": 10_000}, returns=FELL),
    ),
    "inputs are not scaled": (
        facts(value_loss=np.full(40, 1e6), hyperparameters={"normalize_observation": False}),
        facts(value_loss=np.full(40, 1e6), hyperparameters={"normalize_observation": True}),
    ),
}


def test_every_rule_has_its_trouble():
    assert {rule.name for rule in RULES} == set(TROUBLES)
    assert all(rule.advice and rule.source for rule in (*RULES, SEEDS))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_finds_its_trouble_and_nothing_else(rule):
    sick, healthy = TROUBLES[rule.name]
    found = [other.name for other in RULES if other(sick) is not None]
    assert found == [rule.name]
    assert [other.name for other in RULES if other(healthy) is not None] == []
    finding = rule(sick)
    assert any(character.isdigit() for character in finding.evidence) and str(finding).startswith(rule.name)


def test_a_critic_of_returns_that_are_nearly_equal_is_not_accused():
    """A policy that reaches the limit in each episode has nearly the same return from every state."""
    critic = next(rule for rule in RULES if rule.name == "critic is worse than a constant")
    explained = rows(0.8, -9.0)
    assert critic.find(facts(explained_variance=explained, value_loss=rows(30.0, 3e-4))) is None
    assert critic.find(facts(explained_variance=explained, value_loss=rows(30.0, 20.0)))


def test_seeds_that_disagree_are_named_and_those_that_agree_are_not():
    spread = [facts(seed=seed, returns=RISING * scale) for seed, scale in enumerate((0.2, 0.6, 1.0))]
    ((run, finding),) = disagreements(spread)
    assert run.seed == 0 and "3 seeds" in finding.evidence
    assert not disagreements([facts(seed=seed, returns=RISING + seed) for seed in range(3)])
    assert not disagreements(spread[:2])
    assert not disagreements([facts(seed=0, returns=RISING * scale) for scale in (0.2, 0.6, 1.0)])


def test_runs_with_other_options_of_their_environment_are_no_seeds_of_one_another():
    """A budget, keywords of the environment or stacked frames are what the returns depend on."""
    easy, hard = ([facts(seed=seed, returns=RISING * scale) for seed in range(3)] for scale in (1.0, 0.1))
    assert disagreements(easy + hard) and not disagreements(easy)
    for option, value in (("env_options", {"size": 8}), ("frame_stack", 4), ("total_timesteps", 10)):
        other = [run._replace(training=run.training | {option: value}) for run in hard]
        assert not disagreements(easy + other)


def short(tmp_path, name, **options):
    options = dict(total_timesteps=4_096, num_envs=4, eval_episodes=0, tensorboard=False) | options
    algorithm = options.pop("algorithm", adv.PPO(n_steps=32, batch_size=64, hidden=(16,)))
    return adv.train(algorithm, "CartPole-v1", out=tmp_path / name, **options)


def test_real_runs_from_python_and_from_the_command_line(tmp_path, capsys):
    """A healthy run is healthy; one whose step size is a thousand times too large is not."""
    short(tmp_path, "well", total_timesteps=20_480)
    short(tmp_path, "ill", algorithm=adv.PPO(n_steps=32, batch_size=64, hidden=(16,), learning_rate=0.3))
    found = diagnose([tmp_path / "well", tmp_path / "ill"])
    assert found[tmp_path / "well"] == [] == adv.diagnose(tmp_path / "well")[tmp_path / "well"]
    names = {finding.rule for finding in found[tmp_path / "ill"]}
    assert names & {"policy moves too far", "clipping is saturated", "exploration ended early"}
    assert main(["doctor", str(tmp_path / "well")]) == 0
    assert f"none of {len(RULES)} rules applies" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path / "ill")]) == 0
    assert "Source: " in capsys.readouterr().out
    assert main(["doctor", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {finding["rule"] for finding in told[str(tmp_path / "ill")]} == names


def test_the_end_of_a_run_says_what_the_doctor_finds(tmp_path, capsys):
    command = [
        "train",
        "ppo",
        "CartPole-v1",
        "--preset",
        "none",
        "--total-timesteps",
        "4096",
        "--num-envs",
        "4",
    ]
    assert main([*command, "--n-steps", "256", "--eval-episodes", "0", "--out", str(tmp_path / "run")]) == 0
    assert "doctor      too few updates: the whole run has 4 updates" in capsys.readouterr().out


def test_what_is_no_run(tmp_path, capsys):
    with pytest.raises(ValueError, match="There is no run at .*nothing.*give a run folder"):
        diagnose(tmp_path / "nothing")
    assert main(["doctor", str(tmp_path / "nothing")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["doctor", str(tmp_path / "empty")]) == 2
    assert "There is no run at" in capsys.readouterr().err


def test_a_study_is_diagnosed_without_its_folders_that_are_no_runs(tmp_path):
    run = RunFolder(tmp_path / "trials" / "0000")
    (tmp_path / "locks").mkdir()
    run.path.mkdir(parents=True)
    config = {"algorithm": "ppo", "environment": "E", "hyperparameters": {}, "seed": 0, "training": {}}
    write_config(run, config)
    assert diagnose(tmp_path) == {run.path: []}
    run.config_path.unlink()
    (run.path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="config.json does not exist"):
        diagnose(tmp_path)
