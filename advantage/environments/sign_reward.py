"""Rewards replaced by their signs, as DQN learns Atari's games with scores of every size."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class SignReward(gymnasium.RewardWrapper):
    """`sign(r)`: -1, 0 or 1. Returns, in evaluations too, are then sums of signs and not scores.

    `--wrapper advantage.environments.sign_reward:SignReward`. Source: Mnih et al. 2015, "Human-level control through
    deep reinforcement learning", methods.
    """

    def reward(self, reward: Any) -> float:
        return float(np.sign(reward))
