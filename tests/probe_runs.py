"""Runs so small that a test can afford many."""

import advantage as adv

ENVS, SIZE = 2, 64  # environments, and steps of one rollout in all of them


def tiny(**changes):
    return adv.PPO(**({"n_steps": SIZE // ENVS, "batch_size": 32, "n_epochs": 1, "hidden": (8,)} | changes))


def train(environment, path, algorithm=None, **options):
    options = {"total_timesteps": 3 * SIZE, "num_envs": ENVS, "workers": 0, "eval_episodes": 0} | options
    return adv.train(algorithm or tiny(), environment, out=path, **options)


def stop_at(iteration):
    return lambda progress: progress.iteration < iteration


def tiny_grid(environment: str) -> str:
    """An experiment's file with one quick run."""
    return f"""environments = ["{environment}"]
seeds = [0]
[training]
total_timesteps = 128
num_envs = 2
eval_episodes = 1
[[algorithms]]
name = "ppo"
options = {{n_steps = 16, batch_size = 32, n_epochs = 1, hidden = [8]}}
"""
