"""Follow a training with a callback, and stop it when the mean return is high enough.

The callback is called after every iteration; if it returns False, the run saves a checkpoint and stops. The run can be
resumed.
"""

import advantage as adv


def stop_at(target: float):
    """A callback that prints progress, and stops at a mean return of `target` over the last 100 episodes."""

    def callback(progress: adv.Progress) -> bool:
        mean = progress.row.get("rollout/ep_rew_mean", float("-inf"))  # missing until an episode ends
        print(f"{progress.step:>9,} of {progress.total_timesteps:,} steps: mean return {mean:.1f}")
        return mean < target

    return callback


def main(total_timesteps: int = 200_000, root: str = "runs", target: float = 150.0) -> adv.Run:
    algorithm = adv.PPO(n_steps=128, batch_size=256, n_epochs=4)
    run = adv.train(
        algorithm,
        "CartPole-v1",
        total_timesteps=total_timesteps,
        num_envs=8,
        root=root,
        callback=stop_at(target),
    )
    if not run.finished:
        print(
            f"Stopped after {run.step:,} steps. To spend the rest of the budget: advantage resume {run.path}"
        )
    return run


if __name__ == "__main__":
    main()
