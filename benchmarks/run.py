"""Environment steps per second of whole trainings, compared with other libraries in one run of this script.

python benchmarks/run.py [--repeats 3] [--jobs halfcheetah cartpole] [--json FILE]

Every figure is measured in its own process, library after library, then all again, and the table shows the median. A
rate includes everything that training does (stepping, acting, learning, and for advantage logs and checkpoints too)
from the end of the first iteration to the end of the last. Compilation and start-up are not included; they have their
own column. Libraries that are not installed show a dash.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Literal, NamedTuple


class Job(NamedTuple):
    """What is trained, for how many steps, and by which other libraries.

    `batch_size` and `n_epochs` are PPO's; TRPO uses the same numbers for its critic, and A2C has none. For methods with
    a replay buffer `n_epochs` is the number of gradient steps after `n_steps`.
    """

    environment: str
    num_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    steps: int
    peers: tuple[str, ...]
    algorithm: str = "ppo"
    network: Literal["lstm"] | None = None

    @property
    def title(self) -> str:
        method = self.algorithm.upper() + (f" with {self.network.upper()}" if self.network else "")
        rollout = f"{method}, {self.environment}, {self.num_envs} × {self.n_steps}"
        if self.algorithm == "a2c":
            return rollout
        what = "gradient step" if self.algorithm in FROM_REPLAY else "epoch"
        return f"{rollout}, batch {self.batch_size}, {self.n_epochs} {what}{'s' * (self.n_epochs > 1)}"


HOST = ("stable-baselines3", "sbx")
FROM_REPLAY = ("sac", "td3", "ddpg", "dqn")
REPLAYED = {"buffer_size": 100_000, "learning_starts": 500}
JOBS = {
    "halfcheetah": Job("HalfCheetah-v5", 1, 2048, 64, 10, 20_480, HOST),
    "halfcheetah-8": Job("HalfCheetah-v5", 8, 256, 64, 10, 20_480, HOST),
    "cartpole": Job("CartPole-v1", 8, 128, 256, 4, 61_440, HOST),
    "recurrent": Job("CartPole-v1", 8, 128, 256, 4, 20_480, ("stable-baselines3",), network="lstm"),
    "trpo": Job("HalfCheetah-v5", 1, 2048, 128, 10, 40_960, ("stable-baselines3",), "trpo"),
    "a2c": Job("CartPole-v1", 8, 5, 40, 1, 102_400, ("stable-baselines3",), "a2c"),
    "sac": Job("HalfCheetah-v5", 1, 1, 256, 1, 2_000, HOST, "sac"),
    "td3": Job("HalfCheetah-v5", 1, 1, 256, 1, 2_000, HOST, "td3"),
    "ddpg": Job("HalfCheetah-v5", 1, 1, 256, 1, 2_000, HOST, "ddpg"),
    "dqn": Job("CartPole-v1", 1, 1, 64, 1, 10_000, HOST, "dqn"),
    "dqn-4": Job("CartPole-v1", 1, 4, 64, 1, 20_000, HOST, "dqn"),
    "device-sac": Job("jax/Pendulum-v1", 1, 1, 256, 1, 8_192, ("rejax",), "sac"),
    "device-td3": Job("jax/Pendulum-v1", 1, 1, 256, 1, 8_192, ("rejax",), "td3"),
    "device-dqn": Job("jax/CartPole-v1", 1, 1, 64, 1, 32_768, ("rejax",), "dqn"),
    "device-4": Job("jax/CartPole-v1", 4, 128, 128, 4, 2**18, ("rejax",)),
    "device-64": Job("jax/CartPole-v1", 64, 128, 2048, 4, 2**20, ("rejax",)),
    "device-512": Job("jax/CartPole-v1", 512, 128, 16384, 4, 2**21, ("rejax",)),
    "device-2048": Job("jax/CartPole-v1", 2048, 128, 65536, 4, 2**22, ("rejax",)),
}
MODULES = {"stable-baselines3": "stable_baselines3", "sbx": "sbx", "rejax": "rejax"}


class Stamps:
    """The number of steps and the time at the end of each iteration."""

    def __init__(self):
        self.begin, self.taken = time.perf_counter(), []

    def add(self, step: int) -> None:
        self.taken.append((step, time.perf_counter()))

    def result(self) -> dict[str, float]:
        (first_step, first), (last_step, last) = self.taken[0], self.taken[-1]
        return {"rate": (last_step - first_step) / (last - first), "start": first - self.begin}


def bare(job: Job, checked: bool) -> dict[str, float]:
    """One environment in a Python loop with actions drawn before, with or without Gymnasium's checker."""
    import gymnasium

    env = gymnasium.make(job.environment, disable_env_checker=not checked)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(1000)]
    env.reset(seed=0)
    begin = time.perf_counter()
    for step in range(20_000):
        _, _, terminated, truncated, _ = env.step(actions[step % 1000])
        if terminated or truncated:
            env.reset()
    return {"rate": 20_000 / (time.perf_counter() - begin)}


def advantage(job: Job, cache: str) -> dict[str, float]:
    """`adv.train` as a user calls it."""
    import advantage as adv

    os.environ["XDG_CACHE_HOME"] = cache
    sizes = {"n_steps": job.n_steps, "batch_size": job.batch_size, "n_epochs": job.n_epochs}
    algorithm: Any = adv.PPO(**sizes, network=job.network)
    if job.algorithm == "trpo":
        algorithm = adv.TRPO(
            n_steps=job.n_steps, critic_batch_size=job.batch_size, critic_epochs=job.n_epochs
        )
    elif job.algorithm == "a2c":
        algorithm = adv.A2C(n_steps=job.n_steps)
    elif job.algorithm in FROM_REPLAY:
        method: Any = {"sac": adv.SAC, "td3": adv.TD3, "ddpg": adv.DDPG, "dqn": adv.DQN}[job.algorithm]
        sizes = {"n_steps": job.n_steps, "batch_size": job.batch_size, "gradient_steps": job.n_epochs}
        algorithm = method(**sizes, **REPLAYED, hidden=hidden_layers(job))
    options = {"total_timesteps": job.steps, "num_envs": job.num_envs, "eval_episodes": 0}
    stamps, rows = Stamps(), {}

    def callback(progress: Any) -> None:
        rows[progress.row["time/elapsed"]] = progress  # iterations of one call are reported together
        stamps.add(progress.step)

    with tempfile.TemporaryDirectory() as root:
        adv.train(algorithm, job.environment, root=root, callback=callback, **options)
    ends = {progress.step for progress in rows.values()}
    stamps.taken = [(step, seconds) for step, seconds in stamps.taken if step in ends]
    return stamps.result() | {"compile": list(rows.values())[-1].row["time/compile"]}


def stable_baselines3(job: Job, library: str) -> dict[str, float]:
    """The same in stable-baselines3 or sbx, with one thread on the CPU, which is fastest for networks this small."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    stamps = Stamps()

    class Clock(BaseCallback):
        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                stamps.add(self.num_timesteps)

        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            stamps.add(self.num_timesteps)

    sizes: dict[str, Any] = {"n_steps": job.n_steps, "batch_size": job.batch_size, "n_epochs": job.n_epochs}
    if job.algorithm in FROM_REPLAY:
        method: Any = getattr(__import__(MODULES[library]), job.algorithm.upper())
        sizes = {"train_freq": job.n_steps, "batch_size": job.batch_size, "gradient_steps": job.n_epochs}
        sizes |= REPLAYED | {"policy_kwargs": {"net_arch": list(hidden_layers(job))}}
    elif library == "sbx":
        from sbx import PPO as method
    elif job.algorithm == "trpo":
        from sb3_contrib import TRPO as method

        sizes = {
            "n_steps": job.n_steps,
            "batch_size": job.batch_size,
            "n_critic_updates": job.n_epochs,
            "cg_max_steps": 10,
        }
    elif job.algorithm == "a2c":
        from stable_baselines3 import A2C as method

        sizes = {"n_steps": job.n_steps}
    elif job.network == "lstm":
        from sb3_contrib import RecurrentPPO as method

        sizes["policy_kwargs"] = {"lstm_hidden_size": 64}
    else:
        from stable_baselines3 import PPO as method
    envs = make_vec_env(job.environment, n_envs=job.num_envs, seed=0)
    policy = "MlpLstmPolicy" if job.network else "MlpPolicy"
    model: Any = method(policy, envs, device="cpu", seed=0, **sizes)
    model.learn(job.steps, callback=Clock())
    return stamps.result()


def hidden_layers(job: Job) -> tuple[int, int]:
    """Widths of the networks of methods with a replay buffer: stable-baselines3's; on the device those of rejax."""
    small = job.algorithm == "dqn" or job.environment.startswith("jax/")
    return (64, 64) if small else (256, 256)


def rejax_from_replay(job: Job) -> Any:
    """SAC, TD3 or DQN of rejax with the job's sizes."""
    import rejax

    method: Any = {"sac": rejax.SAC, "td3": rejax.TD3, "dqn": rejax.DQN}[job.algorithm]
    return method.create(
        env=job.environment.removeprefix("jax/"),
        num_envs=job.num_envs,
        num_epochs=job.n_epochs,
        batch_size=job.batch_size,
        buffer_size=REPLAYED["buffer_size"],
        fill_buffer=REPLAYED["learning_starts"],
        total_timesteps=job.steps,
        eval_freq=job.steps,
        skip_initial_evaluation=True,
        normalize_observations=False,
    )


def rejax(job: Job) -> dict[str, float]:
    """The same in rejax, where the whole training is one compiled program; its evaluations are switched off."""
    import jax
    from rejax import PPO

    algorithm: Any = (
        rejax_from_replay(job)
        if job.algorithm in FROM_REPLAY
        else PPO.create(
            env=job.environment.removeprefix("jax/"),
            num_envs=job.num_envs,
            num_steps=job.n_steps,
            num_minibatches=job.num_envs * job.n_steps // job.batch_size,
            num_epochs=job.n_epochs,
            total_timesteps=job.steps,
            eval_freq=job.steps,
            skip_initial_evaluation=True,
            learning_rate=3e-4,
            gae_lambda=0.95,
            max_grad_norm=0.5,
            normalize_observations=True,
            normalize_rewards=True,
            agent_kwargs={"activation": "tanh"},
        )
    )
    algorithm = algorithm.replace(eval_callback=lambda *arguments: ())
    begin = time.perf_counter()
    train = jax.jit(algorithm.train).lower(jax.random.PRNGKey(0)).compile()
    compiled = time.perf_counter()
    jax.block_until_ready(train(jax.random.PRNGKey(0)))
    seconds = time.perf_counter() - compiled
    return {"rate": job.steps / seconds, "compile": compiled - begin, "start": compiled - begin}


def measure(what: str, job: Job, cache: str) -> dict[str, float]:
    if what == "advantage":
        return advantage(job, cache)
    if what == "rejax":
        return rejax(job)
    if what in ("bare", "bare, unchecked"):
        return bare(job, checked=what == "bare")
    return stable_baselines3(job, what)


def in_a_process(what: str, name: str, cache: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, "--jobs", name, "--cache", cache]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def line(name: str, job: Job, repeats: int) -> dict[str, Any]:
    """All figures of one job; advantage's first run has an empty compilation cache, its later runs a filled one."""
    contenders = [peer for peer in job.peers if importlib.util.find_spec(MODULES[peer])]
    if not job.environment.startswith("jax/"):
        contenders = ["bare", "bare, unchecked", *contenders]
    results: dict[str, list[dict[str, float]]] = {what: [] for what in ["advantage", *contenders]}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(repeats):
            for what in results:
                results[what].append(in_a_process(what, name, cache))
    facts: dict[str, Any] = {"job": job.title}
    for what, runs in results.items():
        facts[what] = statistics.median(run["rate"] for run in runs)
    first, last = results["advantage"][0], results["advantage"][-1]
    facts["cold start"], facts["warm start"] = first["start"], last["start"]
    facts["compile"] = first["compile"]
    if "rejax" in results:
        facts["rejax compile"] = statistics.median(run["compile"] for run in results["rejax"])
    return facts


def print_table(lines: list[dict[str, Any]]) -> None:
    """A Markdown table; each figure of another library has advantage's speed as a multiple of it in brackets."""
    columns = ["bare", "bare, unchecked", "advantage", *MODULES]
    print("| job | " + " | ".join(columns) + " | start, cold / warm cache |")
    print("|---|" + "---:|" * (len(columns) + 1))
    for facts in lines:
        cells = []
        for column in columns:
            rate = facts.get(column)
            if rate is None:
                cells.append("–")
            elif column == "advantage":
                cells.append(f"**{rate:,.0f}**")
            elif column.startswith("bare"):
                cells.append(f"{rate:,.0f} ({facts['advantage'] / rate:.0%})")
            else:
                cells.append(f"{rate:,.0f} ({facts['advantage'] / rate:.1f}×)")
        start = f"{facts['cold start']:.1f} s / {facts['warm start']:.1f} s"
        if "rejax compile" in facts:
            start += f" (compiling {facts['compile']:.1f} s, rejax {facts['rejax compile']:.1f} s)"
        print(f"| {facts['job']} | " + " | ".join(cells) + f" | {start} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", nargs="*", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, JOBS[arguments.jobs[0]], arguments.cache)))
        return
    lines = []
    for name in arguments.jobs:
        print(f"measuring {JOBS[name].title} ...", file=sys.stderr, flush=True)
        lines.append(line(name, JOBS[name], arguments.repeats))
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump(lines, file, indent=1)
    print_table(lines)


if __name__ == "__main__":
    main()
