"""The smallest worlds on the device, an algorithm that learns nothing, and ways to watch a driver."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from probe_worlds import TenSteps

from advantage.drivers.episode_book import Episodes
from advantage.policies.distributions import masked
from advantage.policies.encoder import Encoder
from advantage.policies.heads import Head, head
from advantage.types import Rollout, Span, Spec, no_memory


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Random:
    """Uniform over categories and bits, standard normal over boxes, whatever it sees."""

    n_steps: int
    head: Head

    def init(self, key, spec):
        return {"step": jnp.zeros((), jnp.int32)}

    def actor(self, state):
        return state

    initial_memory = no_memory

    def noise(self, actor, key, shape):
        return self.head.noise(key, shape)

    def act(self, actor, obs, memory, noise):
        leaf = jax.tree.leaves(noise)[0]
        xp = leaf.__array_namespace__()
        outputs = xp.zeros((leaf.shape[0], self.head.num_outputs), np.float32)
        distribution = self.head.distribution(outputs, xp.zeros(self.head.num_log_std, np.float32))
        return distribution.sample(noise), memory, {"noise": leaf}

    def update(self, state, rollout, key):
        return {"step": state["step"] + rollout.reward.size}, {"reward": jnp.mean(rollout.reward)}


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class RandomAllowed(Random):
    """Uniform over the actions that the mask allows."""

    encoder: Encoder

    def act(self, actor, obs, memory, noise):
        mask = self.encoder.action_mask(obs)
        outputs = mask.__array_namespace__().zeros(mask.shape, np.float32)
        return masked(self.head.distribution(outputs, outputs[..., :0]), mask).sample(noise), memory, ()


def random_policy(env_or_space: Any, n_steps: int) -> Random:
    return Random(n_steps, head(getattr(env_or_space, "action_space", env_or_space)))


def spec_of(env: Any, num_envs: int, total_timesteps: int = 1000) -> Spec:
    single = getattr(env, "single_observation_space", None)
    if single is not None:
        return Spec(single, env.single_action_space, num_envs, total_timesteps)
    return Spec(env.observation_space, env.action_space, num_envs, total_timesteps)


def first_state(driver: Any) -> Any:
    """The state that a driver's run begins with."""
    return driver.algorithm.init(jax.random.key(7), driver.spec)


def begin(driver: Any) -> None:
    """Start a driver of one seed."""
    driver.start(jax.tree.map(lambda leaf: leaf[None], first_state(driver)), None)


def bring_back(driver: Any, records: Any) -> list[str]:
    """Restore a driver of one seed; returns its notices."""
    return driver.restore(first_state(driver), None, records)[1]


class Played(NamedTuple):
    """What a driver delivered: one rollout over all iterations, the finished episodes, the last state."""

    rollout: Rollout
    episodes: Episodes
    state: Any


def play(
    driver: Any, iterations: int = 1, first: int = 0, n_steps: int | None = None, state: Any = None
) -> Played:
    """Let a host driver iterate, and keep copies of its rollouts, one behind the other."""
    rollouts, finished, rollout = [], [], driver.collector.rollout
    n_steps = n_steps or driver.algorithm.n_steps

    def keep(*args):
        rollouts.append(jax.tree.map(np.copy, rollout(*args)))
        return rollouts[-1]

    driver.collector.rollout = keep
    if state is None:
        state = first_state(driver)
    for iteration in range(first, first + iterations):
        first_step = iteration * n_steps * driver.spec.num_envs
        span = Span(iteration, 1, first_step, n_steps)
        state, _, (episodes,), *_ = driver.iterate(state, jax.random.key(0)[None], span)
        finished.append(episodes)
    del driver.collector.rollout
    return Played(
        jax.tree.map(lambda *leaves: np.concatenate(leaves), *rollouts),
        Episodes(*(np.concatenate(columns) for columns in zip(*finished, strict=True))),
        state,
    )


def assert_same(left: Any, right: Any) -> None:
    """Two pytrees are equal bit for bit, dtypes included."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for path, a in jax.tree_util.tree_leaves_with_path(left):
        b = dict(jax.tree_util.tree_leaves_with_path(right))[path]
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype, jax.tree_util.keystr(path)
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


class SmallWorld:
    """What the smallest worlds on the device share: two numbers to see, two actions."""

    observation_space, action_space = TenSteps.observation_space, TenSteps.action_space
    gymnasium_id = None


@dataclasses.dataclass(frozen=True)
class TenStepsWorld(SmallWorld):
    """`TenSteps` on the device."""

    max_episode_steps: int = 10

    def reset(self, key):
        return jnp.zeros(()), jnp.zeros(2)

    def step(self, state, action, key):
        return state, jnp.zeros(2), jnp.ones(()), jnp.zeros((), bool)


@dataclasses.dataclass(frozen=True)
class Door(SmallWorld):
    """From the door (1, 0) into the room (0, 1), where each step earns 1.

    Args:
        max_episode_steps: when the clock sends everybody back to the door.
        last: after how many steps the MDP ends, 0 for never.
    """

    max_episode_steps: int = 4
    last: int = 0

    def reset(self, key):
        return jnp.zeros((), jnp.int32), jnp.array([1.0, 0.0])

    def step(self, state, action, key):
        return state + 1, jnp.array([0.0, 1.0]), jnp.where(state > 0, 1.0, 0.0), state + 1 == self.last


@dataclasses.dataclass(frozen=True)
class Match(SmallWorld):
    """Shows a coin, (1, 0) or (0, 1), and earns 1 for its number, once."""

    max_episode_steps: int = 10

    def reset(self, key):
        coin = jax.random.bernoulli(key).astype(jnp.int32)
        return coin, jax.nn.one_hot(coin, 2)

    def step(self, state, action, key):
        return state, jax.nn.one_hot(state, 2), (action == state).astype(jnp.float32), jnp.ones((), bool)


@dataclasses.dataclass(frozen=True)
class Drift:
    """A point drawn in the unit square drifts by 10 a step; reward is where it was; chance ends an episode.

    Observation: (start, steps since), so that a successor tells its predecessor and its episode.
    """

    chance: float = 0.2
    max_episode_steps: int = 5
    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Discrete(3)
    gymnasium_id = None

    def reset(self, key):
        state = jnp.concatenate([jax.random.uniform(key, (2,)), jnp.zeros(1)])
        return state, state

    def step(self, state, action, key):
        terminated = jax.random.uniform(key) < self.chance
        successor = state.at[2].add(1)
        return successor, successor, state[0] + action, terminated


@dataclasses.dataclass(frozen=True)
class Spiral:
    """A point turns, grows and is pushed, always from the same start."""

    max_episode_steps: int = 20
    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Box(-1.0, 1.0, (2,))
    gymnasium_id = None

    def reset(self, key):
        return jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0])

    def step(self, state, action, key):
        turn = jnp.array([[0.9, -0.5], [0.5, 0.9]])
        state = turn @ state + 0.1 * action
        return state, state, -jnp.abs(state).sum(), jnp.abs(state).max() > 1.6


class OnHost(gymnasium.Env):
    """An on-device world as a Gymnasium environment, its clock included."""

    def __init__(self, world):
        self.world, self._reset, self._step = world, jax.jit(world.reset), jax.jit(world.step)
        self.observation_space, self.action_space = world.observation_space, world.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.state, obs = self._reset(jax.random.key(seed))
        return np.asarray(obs), {}

    def step(self, action):
        self.t += 1
        key = jax.random.key(self.t)
        self.state, obs, reward, terminated = self._step(self.state, action, key)
        truncated = self.t == self.world.max_episode_steps
        return np.asarray(obs), float(reward), bool(terminated), truncated, {}
