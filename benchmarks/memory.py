"""Resident memory in a long training, and in many short ones.

python benchmarks/memory.py [--steps 1000000] [--cycles 50]

Prints the change of resident memory, in percent, over the last half of one long run and over the last half of many runs
that are created, trained for one iteration and closed, each with its own worker processes.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np

import advantage as adv


def resident() -> float:
    """Resident memory of this process in megabytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def report(name: str, sizes: list[float]) -> None:
    half = np.array(sizes[len(sizes) // 2 :])
    middle = float(np.median(half))
    low, high = (100 * (edge / middle - 1) for edge in (half.min(), half.max()))
    print(f"{name}: median {middle:.0f} MB in the last half, from {low:+.2f} % to {high:+.2f} %", flush=True)


def long_run(environment: str, steps: int, **options: Any) -> list[float]:
    sizes: list[float] = []
    algorithm = adv.PPO(n_steps=128, batch_size=256, n_epochs=4)
    with tempfile.TemporaryDirectory() as root:
        callback = lambda progress: sizes.append(resident())  # noqa: E731
        adv.train(algorithm, environment, total_timesteps=steps, callback=callback, root=root, **options)
    return sizes


def cycles(number: int) -> list[float]:
    sizes = []
    for seed in range(number):
        algorithm = adv.PPO(n_steps=64, batch_size=64, n_epochs=1)
        options: dict[str, Any] = {"num_envs": 4, "workers": 1, "eval_episodes": 1, "seed": seed}
        with tempfile.TemporaryDirectory() as root:
            adv.train(algorithm, "CartPole-v1", total_timesteps=256, root=root, **options)
        sizes.append(resident())
    return sizes


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2**20)
    parser.add_argument("--cycles", type=int, default=50)
    arguments = parser.parse_args()
    report("host, CartPole-v1", long_run("CartPole-v1", arguments.steps, num_envs=8))
    report("device, jax/CartPole-v1", long_run("jax/CartPole-v1", arguments.steps, num_envs=8))
    report(f"{arguments.cycles} runs created and closed", cycles(arguments.cycles))


if __name__ == "__main__":
    main()
