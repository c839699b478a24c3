"""The smallest environments that expose each fault of a driver. Workers import this file: no JAX here."""

import os
import signal
import sys
import time

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from advantage.environments.spaces import leaf_spaces, map_leaves

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
    """Observes (seed of the episode, step) and a random walk that the actions steer."""

    observation_space = spaces.Dict(
        {
            "who": spaces.Box(0, 2**31, (2,), np.int64),
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
        return {"who": np.array([self.seed, self.t], np.int64), "walk": self.walk.copy()}


class Unrepeatable(Seeded):
    """Its walk comes from the operating system, not from the seed; episodes have seven steps."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.np_random = np.random.default_rng()
        return self.observe(), {}

    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, False, truncated, info


class SeesJax(Counter):
    """Observes the number of JAX's modules that are imported where it is stepped."""

    def observe(self):
        return np.full(2, sum(name.startswith("jax") for name in sys.modules), np.float32)


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
        if map_leaves(_array, self.action_space, action) not in self.action_space:
            raise ValueError(f"{action!r} is outside {self.action_space}")
        self.t += 1
        return (
            map_leaves(lambda space, leaf: np.copy(leaf), self.action_space, action),
            1.0,
            False,
            self.t == 5,
            {},
        )


def _array(space, leaf):
    """Gymnasium warns of NumPy's numbers where a Box has no axis."""
    return np.asarray(leaf) if isinstance(space, spaces.Box) else leaf


class Native(gymnasium.vector.VectorEnv):
    """A vector environment that is not a list of environments from outside: one seed, one array for all steps."""

    single_observation_space, single_action_space = Counter.observation_space, Counter.action_space

    def __init__(self, lengths, mode):
        self.envs, self.num_envs = [Counter(mine) for mine in lengths], len(lengths)
        self.mode, self.metadata = mode, {"autoreset_mode": mode}
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.obs = np.zeros((self.num_envs, 2), np.float32)
        self.done = np.zeros(self.num_envs, bool)
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        for index in np.flatnonzero(mask):
            self.obs[index] = self.envs[index].reset()[0]
        self.done = self.done & ~mask
        return self.obs, {}

    def step(self, actions):
        self.steps += 1
        reward, ends, info = np.zeros(self.num_envs), np.zeros((2, self.num_envs), bool), {}
        for index, env in enumerate(self.envs):
            if self.done[index]:
                assert self.mode is AutoresetMode.NEXT_STEP, "it should have been reset"
                self.obs[index] = env.reset()[0]
                continue
            self.obs[index], reward[index], *ends[:, index], _ = env.step(actions[index])
        self.done = ends.any(0)
        if self.mode is AutoresetMode.SAME_STEP:
            info["final_obs"] = self.obs.copy()
            for index in np.flatnonzero(self.done):
                self.obs[index] = self.envs[index].reset()[0]
            self.done = np.zeros(self.num_envs, bool)
        return self.obs, reward, *ends, info


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
            if how == "exit at once":
                os._exit(3)
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

    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), 1.0, False, self.t == 10, {}


class Masked(gymnasium.Env):
    """Allows some of its choices, drawn anew at each step under the seed, and refuses every other action.

    Observes the mask and the step, so that a test can tell which mask belongs to an observation. Episodes have 1 to 6
    steps; every second one ends by the clock. After a step that terminates nothing is allowed.

    Args:
        offer: where the mask is: "info", "method" or "observation".
        action_space: of choices.
        wrong: (step, what the mask is there) of every episode; None for masks that are right.
    """

    def __init__(self, offer="info", action_space=None, wrong=None):
        self.action_space = spaces.Discrete(5) if action_space is None else action_space
        self.sizes = [
            n
            for _, leaf in leaf_spaces(self.action_space)
            for n in ([int(leaf.n)] if isinstance(leaf, spaces.Discrete) else leaf.nvec.ravel().tolist())
        ]
        self.offer, self.wrong = offer, wrong
        self.observation_space = spaces.Box(-np.inf, np.inf, (sum(self.sizes) + 1,))
        if offer == "method":
            self.action_masks = self.flat
        if offer == "observation":
            parts = {"seen": self.observation_space, "action_mask": spaces.MultiBinary(sum(self.sizes))}
            self.observation_space = spaces.Dict(parts)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(1, 7))
        self.by_clock = self.np_random.random() < 0.5
        self.draw()
        return self.observe(), self.info()

    def step(self, action):
        components = [np.ravel(part) for part in (action if isinstance(action, tuple) else (action,))]
        for mask, chosen in zip(self.masks, np.concatenate(components), strict=True):
            assert mask[chosen], f"{chosen} is not allowed by {mask} at step {self.t}"
        self.t += 1
        ended = self.t == self.length
        self.draw()
        if ended and not self.by_clock:
            self.masks = [0 * mask for mask in self.masks]
        return self.observe(), 1.0, ended and not self.by_clock, ended and self.by_clock, self.info()

    def draw(self):
        self.masks = [(self.np_random.random(n) < 0.4).astype(np.int8) for n in self.sizes]
        for mask in self.masks:
            mask[self.np_random.integers(len(mask))] = 1

    def flat(self):
        if self.wrong is not None and self.wrong[0] == self.t:
            return self.wrong[1]
        return np.concatenate(self.masks)

    def info(self):
        """The mask in Gymnasium's nested form where there are several components."""
        if self.offer != "info":
            return {}
        nested = len(self.masks) > 1 and self.wrong is None
        return {"action_mask": tuple(self.masks) if nested else self.flat()}

    def observe(self):
        seen = np.append(np.concatenate(self.masks), self.t).astype(np.float32)
        return {"seen": seen, "action_mask": self.flat()} if self.offer == "observation" else seen
