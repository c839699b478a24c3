"""The smallest environments that expose each fault of a driver. Workers import this file: no JAX here."""

import os
import signal
import sys
import time

import gymnasium
import numpy as np
from gymnasium import spaces

POISON = 1e6


class Counter(gymnasium.Env):
    """Observes (episode, step); ends by the MDP, by the clock, and by both, in turn.

    Args:
        lengths: of the episodes, again and again from the front; None draws 1 to 8 under the episode's seed.
        poison: the first observation of every episode but the first is 1e6.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, lengths=None, poison=False):
        self.lengths, self.poison, self.episode = lengths, poison, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.t = 0
        drawn = int(self.np_random.integers(1, 9))
        self.length = self.lengths[self.episode % len(self.lengths)] if self.lengths else drawn
        if self.poison and self.episode:
            return np.full(2, POISON, np.float32), {}
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        ended, why = self.t == self.length, self.episode % 3
        reward = self.episode + self.t / 10 + float(action) / 100
        return self.observe(), reward, ended and why != 1, ended and why != 0, {}

    def observe(self):
        return np.array([self.episode, self.t], np.float32)


class Seeded(gymnasium.Env):
    """Observes (seed of the episode, step, a random walk that the actions steer, whether JAX is there)."""

    observation_space = spaces.Dict(
        {
            "who": spaces.Box(0, 2**31, (3,), np.int64),
            "walk": spaces.Box(-np.inf, np.inf, (2,), np.float64),
        }
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.t = seed, 0
        self.walk = self.np_random.normal(size=2)
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        self.walk = self.walk + self.np_random.normal(size=2) * (1 + int(action))
        return self.observe(), float(self.walk[0]), self.walk[1] > 4, self.t == 7, {}

    def observe(self):
        who = np.array([self.seed, self.t, "jax" in sys.modules], np.int64)
        return {"who": who, "walk": self.walk.copy()}


class Unrepeatable(Seeded):
    """Its walk comes from the operating system, not from the seed."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.np_random = np.random.default_rng()
        return self.observe(), {}


class Echo(gymnasium.Env):
    """Observes the last action; a space of any kind for both. Refuses what is outside the space."""

    def __init__(self, space):
        self.observation_space = self.action_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        if action not in self.action_space:
            raise ValueError(f"{action!r} is outside {self.action_space}")
        self.t += 1
        return copy_of(action), 1.0, False, self.t == 5, {}


def copy_of(tree):
    if isinstance(tree, dict):
        return {name: copy_of(part) for name, part in tree.items()}
    return tuple(map(copy_of, tree)) if isinstance(tree, tuple) else np.copy(tree)[()]


class Failing(gymnasium.Env):
    """Fails `how` at step `at` (0: at the reset) of the episode that is reset with `seed`."""

    observation_space = spaces.Box(-10.0, 1000.0, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, how, at, seed, length=30):
        self.how, self.at, self.fatal, self.length = how, at, seed, length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.t = seed, 0
        return self.result()[0], {}

    def step(self, action):
        self.t += 1
        return self.result()

    def result(self):
        obs, reward, how = np.array([self.t, 0], np.float32), 1.0, self.how
        if self.t == self.at and self.seed == self.fatal:
            if how == "raise":
                raise ZeroDivisionError("the pole has no length")
            if how == "hang":
                time.sleep(1000)
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "exit":
                sys.exit(3)
            if how == "nan observation":
                obs[1] = np.nan
            if how == "infinite reward":
                reward = np.inf
            if how == "wrong shape":
                obs = np.zeros(3, np.float32)
        return obs, reward, self.t == self.length, False, {}


class Slow(Counter):
    """Takes five milliseconds a step."""

    def step(self, action):
        time.sleep(0.005)
        return super().step(action)


class TenSteps(gymnasium.Env):
    """Reward 1, a clock of ten steps, nothing to see."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 1.0, False, self.t == 10, {}
