"""Recording episodes of a trained policy, or of a random one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

from advantage.agent import Agent, load
from advantage.algorithms.actors import action_probabilities
from advantage.algorithms.registry import algorithm_name
from advantage.datasets.dataset import Dataset
from advantage.environments.current_folder import EnvironmentsFolder
from advantage.environments.environment import Environment, closing
from advantage.environments.make import resolve
from advantage.environments.masks import ACTION_MASK, PLACES, flat_mask, mask_sizes, split_mask
from advantage.environments.spaces import leaf_spaces, map_leaves, policy_action, read
from advantage.environments.world_env import WorldEnv
from advantage.evaluation import ANY_NUMBER, check_request, environment_of, made, play_episodes
from advantage.plain_values import require_whole
from advantage.runs.compilation import in_single_precision
from advantage.types import Array, Key, Pytree, Spec

RANDOM = "random"
UNIFORM = "a uniformly random policy"


@in_single_precision
def record(
    policy: Agent | str | Path,
    environment: Any = None,
    *,
    episodes: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    deterministic: bool = True,
    trust: bool = False,
) -> Dataset:
    """Play whole episodes and keep every transition. In a Gymnasium environment they are those of `evaluate`.

    Args:
        policy: an agent, a path as for `load`, or "random" for actions drawn uniformly from the action space.
        environment: as for `train`; by default the one that the agent was trained on.
        episodes: how many to record; 10 if `steps` is not given either.
        steps: record whole episodes until there are at least so many steps, in place of `episodes`.
        seed: seed of the episodes.
        deterministic: True for the most likely action, False for an action drawn from the policy; a random policy
            always draws.
        trust: whether the package of the run's own environment may be imported.

    Raises:
        ValueError: a number that is not allowed, both of `episodes` and `steps`, a vector environment, a random policy
            without an environment, or other errors of `evaluate`.
    """
    if episodes is not None and steps is not None:
        raise ValueError(f"episodes={episodes} and steps={steps} were both given; give one of them.")
    count, seed = check_request(10 if episodes is None else episodes, seed)
    wanted = None if steps is None else require_whole("steps", steps, 1)
    if policy == RANDOM:
        if environment is None:
            raise ValueError("A random policy needs an environment: advantage record random ENVIRONMENT")
        player, target = None, resolve(environment)
    else:
        player = policy if isinstance(policy, Agent) else load(policy)
        target = environment_of(player, environment, trust)
    with EnvironmentsFolder(), closing(_made(target)) as env:
        recorder = _Recorder(env)
        agent = cast(Agent, _uniform_player(env)) if player is None else player
        play = partial(play_episodes, agent, recorder, target.name, seed=seed)
        played = play(
            episodes=count if wanted is None else ANY_NUMBER,
            deterministic=player is not None and deterministic,
        )
        for _ in played:
            if wanted is not None and recorder.num_steps >= wanted:
                break
        return _dataset(recorder, player, deterministic, target.name)


def _made(target: Environment) -> gymnasium.Env:
    if target.kind == "vector":
        raise ValueError("A recording steps one environment at a time; give a name, a class or a function.")
    return WorldEnv(target.source) if target.kind == "device" else made(target)


class _Recorder(gymnasium.Wrapper):
    """Keeps what goes in and out of an environment."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.observations: list[Pytree] = []
        self.steps: list[tuple[Pytree, float, bool, bool]] = []

    @property
    def num_steps(self) -> int:
        return len(self.steps)

    def reset(self, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        if self.steps and not (self.steps[-1][2] or self.steps[-1][3]):  # an endless episode was cut
            self.steps[-1] = (*self.steps[-1][:3], True)
        obs, info = self.env.reset(**keywords)
        self._see(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        given = map_leaves(_kept, self.env.action_space, action)  # before the environment may change it
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._see(obs)
        self.steps.append((given, float(reward), bool(terminated), bool(truncated)))
        return obs, reward, terminated, truncated, info

    def _see(self, obs: Any) -> None:
        self.observations.append(map_leaves(_kept, self.env.observation_space, obs))


def _kept(space: gymnasium.Space, leaf: Any) -> np.ndarray:
    return np.array(leaf, space.dtype)


def _dataset(recorder: _Recorder, agent: Agent | None, deterministic: bool, name: str) -> Dataset:
    actions, reward, terminated, truncated = zip(*recorder.steps, strict=True)
    ended = np.array(truncated)
    ended[-1] |= not terminated[-1]
    observation_space, action_space = recorder.env.observation_space, recorder.env.action_space
    observation = map_leaves(lambda _, *leaves: np.stack(leaves), observation_space, *recorder.observations)
    action = map_leaves(lambda _, *leaves: np.stack(leaves), action_space, *actions)
    who = UNIFORM
    if agent is not None:
        how = "most likely actions" if deterministic else "drawn actions"
        who = f"{algorithm_name(agent.algorithm)} after {agent.step:_} steps ({how})"
    dataset = Dataset(
        observation_space,
        action_space,
        observation,
        action,
        np.array(reward, np.float64),
        np.array(terminated),
        ended,
        environment=name,
        policy=who,
    )
    return _with_log_prob(dataset, agent, deterministic)


def _with_log_prob(dataset: Dataset, agent: Agent | None, deterministic: bool) -> Dataset:
    """The dataset with the log-probabilities of its actions, if they are known."""
    seen = read(dataset.observation, dataset.row)
    if agent is None:
        return dataclasses.replace(dataset, log_prob=_uniform_log_prob(dataset, seen))
    if not isinstance(dataset.action_space, spaces.Discrete):
        return dataset
    table = action_probabilities(agent.algorithm, agent.actor.actor, seen, deterministic=deterministic)
    if table is None:
        return dataset
    if deterministic:  # a near tie may be decided otherwise in a batch, but what was done was certain
        return dataclasses.replace(dataset, log_prob=np.zeros(dataset.num_steps))
    chosen = np.take_along_axis(table, (dataset.action - dataset.action_space.start)[:, None], axis=1)
    return dataclasses.replace(dataset, log_prob=np.log(chosen[:, 0]))


def _uniform_log_prob(dataset: Dataset, seen: Pytree) -> np.ndarray | None:
    """`-log` of the number of actions that were allowed in each step; None if there are infinitely many."""
    leaves = [leaf for _, leaf in leaf_spaces(dataset.action_space)]
    if any(isinstance(leaf, spaces.Box) for leaf in leaves):
        return None
    if split_mask(dataset.observation_space)[1] is None:
        coins = sum(math.prod(leaf.shape) for leaf in leaves if isinstance(leaf, spaces.MultiBinary))
        choices = [leaf for leaf in leaves if not isinstance(leaf, spaces.MultiBinary)]
        count = np.log(mask_sizes(spaces.Tuple(choices))).sum() if choices else 0.0
        return np.full(dataset.num_steps, -count - coins * np.log(2.0))
    sizes = mask_sizes(dataset.action_space)
    allowed = np.stack([_flat_mask(read(seen, t), sizes) for t in range(dataset.num_steps)])
    return -np.log(np.add.reduceat(allowed, np.cumsum((0, *sizes[:-1])), axis=1)).sum(axis=1)


class _UniformActor(NamedTuple):
    """Acts as an agent's actor does, one environment at a time; draws from the action space."""

    action_space: gymnasium.Space

    def initial_memory(self) -> Pytree:
        return ()

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Seeds the space; what it draws from then on is the noise."""
        self.action_space.seed(int(jax.random.randint(key, (), 0, 2**31 - 1)))
        return np.zeros(shape)

    def act(self, obs: Pytree, memory: Pytree, noise: Pytree) -> tuple[Pytree, Pytree, Pytree]:
        masked = isinstance(obs, dict) and ACTION_MASK in obs
        mask = self._mask(read(obs, 0)) if masked else None
        batch = map_leaves(
            lambda _, leaf: np.asarray(leaf)[None], self.action_space, self.action_space.sample(mask)
        )
        return policy_action(self.action_space, batch, "raw"), memory, ()

    def _mask(self, obs: Pytree) -> Any:
        """The mask in the form that `space.sample(mask)` takes."""
        sizes = mask_sizes(self.action_space)
        parts = iter(np.split(_flat_mask(obs, sizes), np.cumsum(sizes)[:-1]))

        def leaf(space: gymnasium.Space) -> Any:
            return next(parts) if isinstance(space, spaces.Discrete) else _nested(parts, space.shape or ())

        return map_leaves(leaf, self.action_space)


def _nested(parts: Iterator[np.ndarray], shape: tuple[int, ...]) -> Any:
    return tuple(_nested(parts, shape[1:]) for _ in range(shape[0])) if shape else next(parts)


def _flat_mask(obs: Pytree, sizes: tuple[int, ...]) -> np.ndarray:
    return flat_mask(obs[ACTION_MASK], sizes, PLACES["observation"])


class _UniformPlayer(NamedTuple):
    """What `play_episodes` needs of an agent."""

    actor: _UniformActor
    spec: Spec
    environment: str = RANDOM


def _uniform_player(env: gymnasium.Env) -> _UniformPlayer:
    spec = Spec(env.observation_space, env.action_space, action_units="raw")
    return _UniformPlayer(_UniformActor(env.action_space), spec)
