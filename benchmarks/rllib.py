"""Steps a second on a cluster of this machine beside those of RLlib: PPO and IMPALA on CartPole-v1.

    pip install "ray[rllib]" torch
    python benchmarks/rllib.py [--seconds 30] [--actors 2]

Both have the same environments, actors, networks, rollouts, minibatches and epochs, and PPO's learner is the process
that has started the run. What is counted are environment steps that were learned from, after the first seconds, in
which programs are compiled and processes start.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import advantage as adv
from advantage.drivers.cluster.connection import Connection

ENVIRONMENT = "CartPole-v1"
NUM_ENVS = 8
FIRST = 10.0  # seconds that are not counted


class Meter:
    """Counts steps between the end of the first seconds and the end of all."""

    def __init__(self, seconds: float):
        self.begun, self.seconds = time.perf_counter(), seconds
        self.first: tuple[float, int] | None = None
        self.rate = 0.0

    def goes_on(self, step: int) -> bool:
        """Note how many steps there are by now."""
        now = time.perf_counter()
        if self.first is None and now - self.begun > FIRST:
            self.first = now, step
        if self.first is not None and now > self.first[0]:
            self.rate = (step - self.first[1]) / (now - self.first[0])
        return now - self.begun < FIRST + self.seconds


def ours(algorithm: Any, mode: str, actors: int, seconds: float) -> float:
    meter = Meter(seconds)
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adv.train(
            algorithm, ENVIRONMENT, root=root, cluster="auto", cluster_mode=mode, actors=actors, num_envs=NUM_ENVS,
            total_timesteps=10**8, eval_episodes=0, tensorboard=False, checkpoint_every=10**8,
            callback=lambda progress: meter.goes_on(progress.step),
        )  # fmt: skip
    return meter.rate


def theirs(config: Any, actors: int, seconds: float) -> float:
    config = (
        config.environment(ENVIRONMENT)
        .env_runners(num_env_runners=actors, num_envs_per_env_runner=NUM_ENVS // actors)
        .rl_module(model_config={"fcnet_hiddens": [64, 64], "fcnet_activation": "tanh"})
    )
    algorithm, meter = config.build_algo(), Meter(seconds)
    while meter.goes_on(int(algorithm.train().get("num_env_steps_sampled_lifetime", 0))):
        pass
    algorithm.stop()
    return meter.rate


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--actors", type=int, default=2)
    given = parser.parse_args()
    import ray
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.algorithms.ppo import PPOConfig

    ppo = PPOConfig().training(train_batch_size_per_learner=1024, minibatch_size=256, num_epochs=4)
    impala = IMPALAConfig().training(train_batch_size_per_learner=500).env_runners(rollout_fragment_length=50)
    cases: list[tuple[str, Callable[[], float], Callable[[], float]]] = [
        (
            "PPO",
            lambda: ours(
                adv.PPO(n_steps=128, batch_size=256, n_epochs=4), "synchronous", given.actors, given.seconds
            ),
            lambda: theirs(ppo, given.actors, given.seconds),
        ),
        (
            "IMPALA",
            lambda: ours(adv.Impala(n_steps=125), "asynchronous", given.actors, given.seconds),
            lambda: theirs(impala, given.actors, given.seconds),
        ),
    ]
    with Connection(f"local:{given.actors + 2}", "benchmark"):
        for name, measured, compared in cases:
            mine, other = measured(), compared()
            print(
                f"{name}: {mine:,.0f} steps/s, RLlib {ray.__version__} {other:,.0f}: {mine / other:.1f} times as many "
                "(asked: 5)",
                flush=True,
            )


if __name__ == "__main__":
    main()
