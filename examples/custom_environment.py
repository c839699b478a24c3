"""Train PPO on your own environment: any `gymnasium.Env`, given as its class.

The agent starts between -1 and 1 and moves left or right; each step costs its distance from 0.
"""

import gymnasium
import numpy as np

import advantage as adv


class Centre(gymnasium.Env):
    """Get to 0 and stay there, for 50 steps."""

    observation_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-0.1, 0.1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.clock = self.np_random.uniform(-1, 1, 1).astype(np.float32), 0
        return self.x, {}

    def step(self, action):
        self.x, self.clock = np.clip(self.x + action, -2, 2).astype(np.float32), self.clock + 1
        return self.x, -abs(float(self.x[0])), False, self.clock == 50, {}  # truncated by the time limit


def main(total_timesteps: int = 16_384, root: str = "runs") -> adv.Run:
    for defect in adv.check_environment(Centre):
        print(defect)
    algorithm = adv.PPO(n_steps=128, batch_size=128, n_epochs=4, learning_rate=1e-3, gamma=0.9)
    run = adv.train(algorithm, Centre, total_timesteps=total_timesteps, num_envs=4, root=root)
    print(f"{run.path}: {run.evaluation}")
    return run


if __name__ == "__main__":
    main()
