"""Steps a second of IMPALA and PPO on CartPole-v1 beside RLlib's, with all processes on this machine.

    python -m venv build/rllib && build/rllib/bin/pip install "ray[rllib]==2.60.0" torch gymnasium
    .venv/bin/python benchmarks/cluster_peer.py --rllib build/rllib/bin/python [--jobs impala ppo] [--repeats 2]

RLlib has a Python environment of its own, which the first line makes. Both libraries get the same number of actors and
environments, the same rollouts, minibatches, epochs and networks, and are measured in turns, each in a process of its
own. A rate is that of steps that are made and learned from, after the first seconds, in which programs are compiled.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ACTORS = 2
START = 120.0  # seconds that processes may need to start,
WARM_UP = 10.0  # and seconds that are not measured
HIDDEN = (64, 64)


@dataclasses.dataclass(frozen=True)
class Job:
    """What both libraries do; a batch is what one update learns from."""

    envs: int  # of each actor
    n_steps: int
    batch: int
    minibatch: int
    epochs: int


JOBS = {
    "impala": Job(envs=16, n_steps=20, batch=320, minibatch=320, epochs=1),
    "ppo": Job(envs=8, n_steps=128, batch=2048, minibatch=256, epochs=4),
}


class Meter:
    """Steps a second after a warm-up, which begins with the first steps: processes may need long to start."""

    def __init__(self, seconds: float):
        self.made, self.first = time.perf_counter(), 0.0
        self.seconds = seconds
        self.looks: list[tuple[float, float]] = []

    def look(self, steps: float) -> bool:
        """Note the steps so far; returns whether to go on."""
        now = time.perf_counter() - self.made
        if not steps:
            return now < START
        self.first = self.first or now
        if now - self.first > WARM_UP:
            self.looks.append((now, steps))
        return now - self.first < WARM_UP + self.seconds

    def rate(self) -> float:
        if not self.looks:
            sys.exit(f"no steps within {START:.0f} s")
        (begin, first), (end, last) = self.looks[0], self.looks[-1]
        return (last - first) / (end - begin)


def advantage(name: str, job: Job, seconds: float) -> float:
    import advantage as adv

    common = dict(n_steps=job.n_steps, hidden=HIDDEN)
    if name == "impala":
        algorithm, mode = adv.Impala(**common), "asynchronous"
    else:
        algorithm, mode = adv.PPO(**common, batch_size=job.minibatch, n_epochs=job.epochs), "synchronous"
    meter = Meter(seconds)
    with tempfile.TemporaryDirectory() as folder:
        adv.train(
            algorithm, "CartPole-v1", out=Path(folder, "run"), num_envs=ACTORS * job.envs, total_timesteps=10**8,
            eval_episodes=0, tensorboard=False, cluster=f"local:{ACTORS}", cluster_mode=mode, actors=ACTORS,
            callback=lambda progress: meter.look(progress.step),
        )  # fmt: skip
    return meter.rate()


def rllib(name: str, job: Job, seconds: float) -> float:
    import logging

    import ray
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    ray.init(num_cpus=ACTORS + 1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    config = (IMPALAConfig if name == "impala" else PPOConfig)()
    config = (
        config.environment("CartPole-v1")
        .env_runners(
            num_env_runners=ACTORS, num_envs_per_env_runner=job.envs, rollout_fragment_length=job.n_steps
        )
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=job.batch)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=list(HIDDEN), fcnet_activation="tanh"))
        .reporting(min_time_s_per_iteration=1)
    )
    if name == "ppo":
        config.training(minibatch_size=job.minibatch, num_epochs=job.epochs)
    algorithm, meter, going = config.build_algo(), Meter(seconds), True
    while going:
        result = algorithm.train()
        going = meter.look(result["env_runners"].get("num_env_steps_sampled_lifetime", 0))
    algorithm.stop()
    return meter.rate()


def in_a_process(python: str, library: str, name: str, seconds: float) -> float:
    command = [python, __file__, "--measure", library, "--jobs", name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{library} has failed in {python}:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure in turns and print a table; the rates are medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rllib", help="the Python that has RLlib")
    parser.add_argument("--jobs", nargs="*", default=[*JOBS], choices=[*JOBS])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--measure", choices=["advantage", "rllib"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        name = given.jobs[0]
        measure = advantage if given.measure == "advantage" else rllib
        print(json.dumps(measure(name, JOBS[name], given.seconds)))
        return
    if not given.rllib or not Path(given.rllib).exists():
        parser.error(f"--rllib={given.rllib} is no Python; make one that has RLlib as --help says")
    print("| method | steps/s | RLlib, steps/s | ratio |\n|---|---:|---:|---:|")
    for name in given.jobs:
        rates: dict[str, list[float]] = {"advantage": [], "rllib": []}
        for _ in range(given.repeats):
            for library, found in rates.items():
                python = given.rllib if library == "rllib" else sys.executable
                found.append(in_a_process(python, library, name, given.seconds))
        ours, theirs = map(statistics.median, rates.values())
        print(f"| {name} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.1f} |", flush=True)


if __name__ == "__main__":
    main()
