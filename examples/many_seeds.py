"""Train eight seeds at once: environment, policy and update are one compiled program, vmapped over seeds.

Each seed has its own run folder and the same results as if it were trained alone.
"""

import numpy as np

import advantage as adv


def main(total_timesteps: int = 20_480, root: str = "runs", num_seeds: int = 8) -> list[adv.Run]:
    runs = adv.train(
        adv.PPO(n_steps=64, batch_size=128, n_epochs=4, learning_rate=1e-3),
        "jax/CartPole-v1",
        total_timesteps=total_timesteps,
        num_envs=8,
        num_seeds=num_seeds,
        root=root,
    )
    returns = np.array([run.evaluation.mean for run in runs])
    low, median, high = np.percentile(returns, [25, 50, 75])
    print(f"evaluation of {num_seeds} seeds: median {median:.1f}, quartiles {low:.1f} and {high:.1f}")
    return runs


if __name__ == "__main__":
    main()
