"""The parts of the time of a step when Gymnasium environments are stepped in this process.

python benchmarks/profile.py [HalfCheetah-v5] [--num-envs 1] [--n-steps 2048] [--batch-size 64] [--n-epochs 10]

Trains for about twenty iterations and prints the medians of the parts of an iteration, in microseconds per environment
step; the measurement itself takes a tenth of a microsecond of each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import gymnasium

import advantage as adv
from advantage.drivers.host import driver as host

PARTS = {
    "environment": "the environment's own step",
    "step": "the same with storing, resets and checks",
    "act": "the call of the policy",
    "collect": "the whole rollout",
    "iterate": "the rollout and the update",
    "all": "the iteration with logs, bookkeeping and checkpoints",
}
seconds: dict[str, float] = defaultdict(float)


def timed(name: str, function: Callable) -> Callable:
    def call(*arguments: Any, **keywords: Any) -> Any:
        begin = time.perf_counter()
        result = function(*arguments, **keywords)
        seconds[name] += time.perf_counter() - begin
        return result

    return call


def main() -> None:
    """Print one line per part; each part contains those before it, except that `act` does not contain `step`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("environment", nargs="?", default="HalfCheetah-v5")
    for option, default in (("num-envs", 1), ("n-steps", 2048), ("batch-size", 64), ("n-epochs", 10)):
        parser.add_argument(f"--{option}", type=int, default=default)
    given = parser.parse_args()

    def make() -> gymnasium.Env:
        env = gymnasium.make(given.environment, disable_env_checker=True)
        env.step = timed("environment", env.step)
        return env

    driver, actor = host.HostDriver, host.HostActor
    collector = host.Collector
    program = actor.program
    actor.program = lambda *inputs: timed("act", program(*inputs))  # pyright: ignore[reportAttributeAccessIssue]
    host.Stepper.step = timed("step", host.Stepper.step)
    collector.collect = timed("collect", collector.collect)
    driver.iterate = timed("iterate", driver.iterate)
    size, rows, last = given.n_steps * given.num_envs, [], [time.perf_counter()]

    def record(progress: Any) -> None:
        now = time.perf_counter()
        rows.append(dict(seconds) | {"all": now - last[0]})
        last[0] = now
        seconds.clear()

    algorithm = adv.PPO(n_steps=given.n_steps, batch_size=given.batch_size, n_epochs=given.n_epochs)
    with tempfile.TemporaryDirectory() as root:
        options = {"num_envs": given.num_envs, "workers": 0, "eval_episodes": 0, "root": root}
        adv.train(algorithm, make, total_timesteps=22 * size, callback=record, **options)
    for name, meaning in PARTS.items():
        median = statistics.median(row[name] for row in rows[2:])
        print(f"{name:12s} {median / size * 1e6:7.1f} us   {meaning}")
    print(f"{size / statistics.median(row['all'] for row in rows[2:]):,.0f} steps per second")


if __name__ == "__main__":
    main()
