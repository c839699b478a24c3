"""The parts of the time of one environment step, for advantage and for other libraries.

.bench/bin/python benchmarks/step_times.py [--jobs halfcheetah cartpole a2c dqn sac] [--picture FILE]

Trains as `run.py` does, with clocks around the parts, and prints the mean microseconds per environment step of
iterations after the first fifth. A clock takes a tenth of a microsecond. Acting includes every call of the policy
outside the update. Where advantage learns after every step, one compiled program learns and acts, and learning is both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import Any

import gymnasium
import run

PARTS = {
    "environment": "#8c959f",
    "stepping": "#d4a72c",  # wrappers, checks, resets, storing
    "acting": "#2da44e",
    "learning": "#1f6feb",
    "the rest": "#cf222e",
}
JOBS = ("halfcheetah", "cartpole", "a2c", "dqn", "sac")
seconds: dict[str, float] = defaultdict(float)
running: set[str] = set()


def timed(name: str, owner: Any, method: str) -> None:
    """Put a clock around a function of a class."""
    setattr(owner, method, clocked(name, getattr(owner, method)))


def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a clock, which does not count calls inside others of the same clock."""

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if name in running:
            return function(*arguments, **keywords)
        running.add(name)
        begin = time.perf_counter()
        result = function(*arguments, **keywords)
        if name == "act" and "jax" in sys.modules:
            sys.modules["jax"].block_until_ready(result)
        seconds[name] += time.perf_counter() - begin
        running.remove(name)
        return result

    return call


class Stamps(run.Stamps):
    """Reads the clocks too, whenever an iteration ends."""

    def __init__(self):
        super().__init__()
        self.read: dict[int, dict[str, float]] = {}

    def add(self, step: int) -> None:
        super().add(step)
        self.read[step] = dict(seconds)

    def result(self) -> dict[str, float]:
        """Microseconds per step, by clock and in `all`, from the end of the first fifth to the end."""
        last_step, end = self.taken[-1]
        first_step, begin = next((step, at) for step, at in self.taken if step >= last_step / 5)
        before, after = self.read[first_step], self.read[last_step]
        spent = {name: after[name] - before.get(name, 0.0) for name in after} | {"all": end - begin}
        return {name: each / (last_step - first_step) * 1e6 for name, each in spent.items()}


def parts(clocks: dict[str, float]) -> dict[str, float]:
    """The parts of a step, without overlap, from clocks of which some run inside others."""
    found = defaultdict(float, clocks)
    environment, acting = found["environment"], found["act"]
    stepping = found["step"] + found["store"] - environment
    learning = found["learn"] or found["iterate"] - found["step"] - acting
    known = environment + stepping + acting + learning
    return dict(zip(PARTS, (environment, stepping, acting, learning, found["all"] - known), strict=True))


def clock_advantage() -> Callable[[run.Job], dict[str, float]]:
    """Put the clocks into advantage: `-> the training`."""
    from advantage.drivers.host import driver as host
    from advantage.drivers.host.staging import Staged

    bind = Staged.bind

    def bound(staged: Staged, constants: Any) -> Any:
        made = bind(staged, constants)
        return made._replace(call=clocked("act", made.call))

    Staged.bind = bound  # pyright: ignore[reportAttributeAccessIssue]
    timed("step", host.Collector, "step")
    timed("iterate", host.HostDriver, "iterate")

    def train(job: run.Job) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as cache:
            return run.advantage(job, cache)

    return train


def clock_peer(library: str) -> Callable[[run.Job], dict[str, float]]:
    """Put the clocks into stable-baselines3 or sbx: `-> the training`."""
    from stable_baselines3 import A2C, DQN, PPO, SAC
    from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.vec_env import DummyVecEnv

    learners: list[Any] = [A2C, DQN, PPO, SAC]
    policies: list[Any] = [(ActorCriticPolicy, "forward")]
    if library == "sbx":
        import sbx
        from sbx.common.policies import BaseJaxPolicy

        learners = [sbx.DQN, sbx.PPO, sbx.SAC]
        policies = [(BaseJaxPolicy, "prepare_obs"), (sbx.ppo.policies.PPOPolicy, "predict_all")]
    for policy, method in policies:
        timed("act", policy, method)
    timed("act", OffPolicyAlgorithm, "_sample_action")
    for learner in learners:
        timed("learn", learner, "train")
    for buffer in (ReplayBuffer, RolloutBuffer):
        timed("store", buffer, "add")
    timed("step", DummyVecEnv, "step")
    return lambda job: run.stable_baselines3(job, library)


def measure(library: str, name: str) -> dict[str, float]:
    """The parts of a step of one library, in this process."""
    job = run.JOBS[name]
    run.Stamps = Stamps
    made = gymnasium.make(job.environment).unwrapped
    timed("environment", type(made), "step")
    train = clock_advantage() if library == "advantage" else clock_peer(library)
    return parts(train(job))


def in_a_process(library: str, name: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", library, "--jobs", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def picture(file: str, found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Draw the parts of each job as one bar for each library."""
    from matplotlib.figure import Figure

    heights = [len(libraries) for libraries in found.values()]
    figure = Figure(figsize=(9, 0.6 + 0.75 * len(found) + 0.3 * sum(heights)), dpi=110, layout="constrained")
    panels = figure.subplots(len(found), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (name, libraries) in zip(panels, found.items(), strict=True):
        for row, times in enumerate(libraries.values()):
            left = 0.0
            for part, color in PARTS.items():
                axes.barh(row, times[part], 0.7, left=left, color=color, label=part if row == 0 else None)
                left += times[part]
            axes.text(left, row, f" {left:,.0f}", va="center", fontsize=8)
        axes.set_yticks(range(len(libraries)), list(libraries))
        axes.invert_yaxis()
        axes.set_title(run.JOBS[name].title, loc="left", fontsize=9)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.margins(x=0.08)
    panels[-1].set_xlabel("microseconds per environment step")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(PARTS), frameon=False)
    figure.savefig(file)


def main() -> None:
    """Measure one library after the other and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=JOBS)
    parser.add_argument("--picture", metavar="FILE")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.jobs[0])))
        return
    print(
        "| job | library | "
        + " | ".join(PARTS)
        + " | all, µs a step |\n|---|---|"
        + "---:|" * (len(PARTS) + 1)
    )
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in given.jobs:
        found[name] = {}
        for library in ("advantage", *run.JOBS[name].peers):
            if library == "advantage" or find_spec(run.MODULES[library]) is not None:
                times = found[name][library] = in_a_process(library, name)
                cells = [*times.values(), sum(times.values())]
                print(
                    f"| {run.JOBS[name].title} | {library} | "
                    + " | ".join(f"{x:,.1f}" for x in cells)
                    + " |",
                    flush=True,
                )
    if given.picture:
        picture(given.picture, found)


if __name__ == "__main__":
    main()
