"""Methods with a replay buffer train many seeds in one program, and each seed is what it is alone."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from probe_learners import differs

import advantage as adv
from advantage.drivers import device
from advantage.training.train import Run

OPTIONS: dict[str, Any] = {
    "gradient_steps": 4,
    "n_steps": 8,
    "batch_size": 16,
    "learning_starts": 64,
    "buffer_size": 96,
    "hidden": (16,),
}
CASES = {
    "dqn": (adv.DQN(**OPTIONS), "jax/CartPole-v1"),
    "prioritised dqn": (adv.DQN(**OPTIONS, prioritised=True), "jax/CartPole-v1"),
    "sac": (adv.SAC(**OPTIONS), "jax/Pendulum-v1"),
    "td3": (adv.TD3(**OPTIONS), "jax/Pendulum-v1"),
}


def train(name: str, out: Path, **options: Any) -> Any:
    """Random actions for 64 steps, then 64 with learning; the ring of 96 wraps."""
    algorithm, environment = CASES[name]
    settings: dict[str, Any] = {
        "num_envs": 2,
        "total_timesteps": 128,
        "keep_checkpoints": 20,
        "eval_episodes": 0,
        "tensorboard": False,
    }
    return adv.train(algorithm, environment, out=out, **(settings | options))


def each_is_what_it_is_alone(
    name: str, number: int, path: Path, monkeypatch: pytest.MonkeyPatch, *, again: tuple[int, ...]
) -> None:
    """Every seed in the same calls of one program; those of `again` by themselves too."""
    chunk, sizes = device._chunk, []

    def counted(algorithm, world, units, begun, count, call):
        sizes.append(len(begun.worlds.elapsed))
        return chunk(algorithm, world, units, begun, count, call)

    with monkeypatch.context() as patch:
        patch.setattr(device, "_chunk", counted)
        together = train(name, path / "together", num_seeds=number)
    assert len(together) == number and len(set(sizes)) == 1
    assert number <= sizes[0] < number + len(jax.devices())  # devices share the seeds evenly
    for run in [together[seed] for seed in again]:
        alone = train(name, path / f"alone_{run.seed}", seed=run.seed)
        same_steps_and_nearly_the_same_numbers(run, alone)
    actions = {np.asarray(run.agent.state.replay.action).tobytes() for run in together}
    assert len(actions) == number


def same_steps_and_nearly_the_same_numbers(run: Run, alone: Run) -> None:
    """Sums over a batch are added up in another order, so numbers that are learned have other last digits."""
    states: Any = run.agent.state, alone.agent.state
    one, other = states
    assert (run.path / "episodes.csv").read_text().count("\n") == (
        alone.path / "episodes.csv"
    ).read_text().count("\n")
    for field in ("terminated", "truncated", "final", "final_rows", "ends", "head", "oldest"):
        np.testing.assert_array_equal(getattr(one.replay, field), getattr(other.replay, field))
    assert int(one.replay.head) == 64 and int(one.gradient_steps) == int(other.gradient_steps) > 0
    for part in ("obs", "action", "reward", "finals", "newest"):
        np.testing.assert_allclose(
            getattr(one.replay, part), getattr(other.replay, part), rtol=1e-3, atol=1e-3
        )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3), one.params, other.params
    )
    first: Any = adv.load(alone.path / "checkpoints" / "step_000000000000").state
    assert differs(other.params, first.params, 2e-3)  # above the tolerance: learning is part of what agrees


def test_a_few_seeds_of_dqn(tmp_path, monkeypatch):
    each_is_what_it_is_alone("dqn", 3, tmp_path, monkeypatch, again=(1,))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_sixteen_seeds(name, tmp_path, monkeypatch):
    each_is_what_it_is_alone(name, 16, tmp_path, monkeypatch, again=(0, 7, 15))
