"""Schedules: the learning rate and the clip range as functions of the run's progress, from 0 at its start to 1.

`adv.Linear` is saved with the run. Any other function of progress, here half a cosine, works too; it must be given
again when the agent is loaded.
"""

import csv

import jax.numpy as jnp

import advantage as adv


def cosine(progress):
    """From 0.3 to 0.1."""
    return 0.1 + 0.1 * (1 + jnp.cos(jnp.pi * progress))


def main(total_timesteps: int = 20_480, root: str = "runs") -> adv.Run:
    algorithm = adv.PPO(
        n_steps=128, batch_size=256, n_epochs=4, learning_rate=adv.Linear(1e-3, 0.0), clip_range=cosine
    )
    run = adv.train(algorithm, "CartPole-v1", total_timesteps=total_timesteps, num_envs=8, root=root)
    with open(run.path / "progress.csv") as file:
        for row in csv.DictReader(file):
            rate, clip = float(row["train/learning_rate"]), float(row["train/clip_range"])
            print(f"{row['step']:>7} steps: learning rate {rate:.2e}, clip range {clip:.3f}")
    print(f"{run.path}: {run.evaluation}")
    return run


if __name__ == "__main__":
    main()
