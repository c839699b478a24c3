"""Whole-training speed, environment steps per second, beside the bare environment and, where installed, a peer.

python benchmarks/run.py [--steps 40960] [--jobs CartPole-v1 HalfCheetah-v5]

Every figure of a job comes from the same run of this script, one after the other, compilation apart.
"""

import argparse
import importlib.util
import tempfile
import time
from typing import NamedTuple

import gymnasium

import advantage as adv


class Job(NamedTuple):
    """What is trained: environments side by side, and PPO's sizes."""

    environment: str
    num_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int


JOBS = (
    Job("CartPole-v1", 8, 128, 256, 4),
    Job("HalfCheetah-v5", 1, 2048, 64, 10),
    Job("HalfCheetah-v5", 8, 256, 64, 10),
    Job("jax/CartPole-v1", 64, 128, 2048, 4),
)


def bare(job: Job, steps: int) -> float:
    """One environment in a Python loop, with actions drawn beforehand."""
    env = gymnasium.make(job.environment, disable_env_checker=True)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(1000)]
    env.reset(seed=0)
    begin = time.perf_counter()
    for step in range(steps):
        _, _, terminated, truncated, _ = env.step(actions[step % 1000])
        if terminated or truncated:
            env.reset()
    return steps / (time.perf_counter() - begin)


def ours(job: Job, steps: int) -> float:
    """The rate that training reports: learning, logs and checkpoints included, compilation left out."""
    algorithm = adv.PPO(n_steps=job.n_steps, batch_size=job.batch_size, n_epochs=job.n_epochs)
    rates = []
    with tempfile.TemporaryDirectory() as root:
        adv.train(
            algorithm,
            job.environment,
            total_timesteps=steps,
            num_envs=job.num_envs,
            eval_episodes=0,
            root=root,
            callback=lambda progress: rates.append(progress.row["time/fps"]),
        )
    return rates[-1]


def stable_baselines3(job: Job, steps: int) -> float:
    """The same job in stable-baselines3, on one thread and the CPU as its authors advise for small networks."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    envs = make_vec_env(job.environment, n_envs=job.num_envs, seed=0)
    sizes = {"n_steps": job.n_steps, "batch_size": job.batch_size, "n_epochs": job.n_epochs}
    model = PPO("MlpPolicy", envs, device="cpu", seed=0, **sizes)
    begin = time.perf_counter()
    model.learn(steps)
    return steps / (time.perf_counter() - begin)


def main() -> None:
    """Print one line a job."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=40_960, help="a multiple of every job's rollout")
    parser.add_argument("--jobs", nargs="*", default=None, help="environments to keep; all if not given")
    arguments = parser.parse_args()
    has_peer = importlib.util.find_spec("stable_baselines3") is not None
    print(f"{'job':<42} {'bare':>9} {'advantage':>10} {'SB3':>8} {'ratio':>7}   steps per second")
    for job in JOBS:
        if arguments.jobs is not None and job.environment not in arguments.jobs:
            continue
        on_device = job.environment.startswith("jax/")
        name = f"PPO {job.environment}, {job.num_envs} x {job.n_steps}, batch {job.batch_size}"
        limit = f"{bare(job, 20_000):,.0f}" if not on_device else "-"
        rate = ours(job, arguments.steps)
        peer = stable_baselines3(job, arguments.steps // 2) if has_peer and not on_device else None
        beside = f"{peer:>8,.0f} {rate / peer:>6.1f}x" if peer else f"{'-':>8} {'-':>7}"
        print(f"{name:<42} {limit:>9} {rate:>10,.0f} {beside}", flush=True)


if __name__ == "__main__":
    main()
