"""Evaluation of an agent. Training, the Python interface and the command line all use this file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.error import DependencyNotInstalled

from advantage.agent import Agent, load
from advantage.algorithms.search.policy_search import PolicySearch
from advantage.drivers.cluster.connection import Connection, cores_of_cluster
from advantage.drivers.cluster.tasks import spread
from advantage.drivers.host.stepper import episode_seed, failure
from advantage.drivers.search.device_games import DeviceGames
from advantage.drivers.search.games import Chance
from advantage.environments.check import check_reset, check_step
from advantage.environments.current_folder import EnvironmentsFolder
from advantage.environments.environment import Environment, Maker, close, fitting, observing
from advantage.environments.make import resolve, resolve_recorded
from advantage.environments.modifications import Modifications, ModifiedMaker, modified
from advantage.environments.spaces import environment_action, read, translator
from advantage.environments.step_checks import Extremes, step_test
from advantage.environments.watchdog import BY_HAND, Watchdog
from advantage.plain_values import require_whole, whole_number
from advantage.policies.deterministic import flatten
from advantage.precise_sum import PreciseSum, precise_add, precise_value, precise_zero
from advantage.runs.compilation import in_single_precision
from advantage.types import ActionUnits, Algorithm, Array, Key, Pytree, World

EVALUATION = 2**31 - 1  # takes the place of an environment's index in the seeds of evaluation episodes
NOISE_ROWS = 256  # steps whose noise is drawn at once
LONGEST = 30_000  # steps after which an evaluation cuts an episode that has no time limit
BLOCK = 16  # on-device episodes are always played in blocks of this size, so that no episode depends on their number
ANY_NUMBER = 2**62  # a number of steps that no game reaches


class Evaluation(NamedTuple):
    """Undiscounted returns and lengths of episodes, in order, with the environment's own rewards.

    `cut` is the number of episodes that did not end by themselves: without a time limit a policy may walk in a circle.
    """

    returns: np.ndarray
    lengths: np.ndarray
    deterministic: bool
    seed: int
    cut: int = 0

    @property
    def mean(self) -> float:
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        return float(self.returns.std())

    def __str__(self) -> str:
        how = "deterministic" if self.deterministic else "stochastic"
        episodes = f"{len(self.returns)} {how} episodes, mean length {self.lengths.mean():.1f}"
        cut = f"; {self.cut} of them endless, cut at {LONGEST:,} steps" if self.cut else ""
        return f"return {self.mean:.2f} ± {self.std:.2f} over {episodes}{cut}"


@in_single_precision
def evaluate(
    agent: Agent | str | Path,
    environment: Any = None,
    *,
    episodes: int = 10,
    seed: int = 0,
    deterministic: bool = True,
    trust: bool = False,
    cluster: str | None = None,
) -> Evaluation:
    """Play episodes and report each one. The agent and its statistics do not change.

    Args:
        agent: an agent, or a path as for `load`.
        environment: as for `train`; by default the one that the agent was trained on.
        episodes: number of episodes; each has its own seed, so the first 10 of 100 episodes equal those of 10.
        seed: seed of the evaluation.
        deterministic: True for the most likely action, False for an action drawn from the policy.
        trust: whether the package of the run's own environment may be imported.
        cluster: the episodes are played as tasks of this Ray cluster, see `Options.cluster`; they are the same.

    Raises:
        ValueError: `episodes` is below 1, the environment has other spaces than the agent's, or it needs an import
            that `trust` does not allow.
    """
    episodes, seed = check_request(episodes, seed)
    if not isinstance(agent, Agent):
        agent = load(agent)
    target = environment_of(agent, environment, trust)
    if target.kind == "vector":
        raise ValueError("An evaluation steps one environment at a time; give a name, a class or a function.")
    if cluster is None:
        played = [_evaluate_part(agent, target, seed, deterministic, range(episodes))]
    else:
        with Connection(cluster, f"advantage eval {agent.environment}"):
            what = dataclasses.replace(agent), target, seed, deterministic  # without what it has compiled
            size = BLOCK if target.kind == "device" else -(-episodes // cores_of_cluster())
            played = spread(
                _evaluate_part, what, [range(episodes)[n : n + size] for n in range(0, episodes, size)]
            )
    returns, lengths, cut = zip(*played, strict=True)
    return Evaluation(np.concatenate(returns), np.concatenate(lengths), deterministic, seed, sum(cut))


@in_single_precision
def _evaluate_part(
    agent: Agent, target: Environment, seed: int, deterministic: bool, numbers: range
) -> tuple[np.ndarray, np.ndarray, int]:
    """Some of the episodes of an evaluation: `-> returns, lengths, how many were cut`."""
    if target.kind == "device":
        return *_evaluate_world(agent, target.source, numbers, seed, deterministic), 0
    return _evaluate_host(agent, target, numbers, seed, deterministic)


def check_request(episodes: Any, seed: Any) -> tuple[int, int]:
    """The number of episodes and the seed, as ints. Raises ValueError if one of them is out of range."""
    number = whole_number(seed)
    if number is None or not 0 <= number < 2**32:
        raise ValueError(f"seed={seed!r} is not allowed; use a whole number from 0 to {2**32 - 1}.")
    return require_whole("episodes", episodes, 1), number


def environment_of(agent: Agent, environment: Any = None, trust: bool = False) -> Environment:
    """The environment to evaluate in: `environment`, or that of the agent's training, which shows what the agent saw.

    Raises:
        ValueError: none is given and the agent's has no name, or its name needs an import; see `resolve_recorded`.
    """
    if environment is None and not agent.by_name:
        raise ValueError(
            f"The agent was trained on the Python object {agent.environment}, which has no name; give the environment "
            "again: adv.evaluate(agent, environment)."
        )
    if environment is None:
        target = resolve_recorded(agent.environment, trust, agent.modifications)
    else:
        target = _without_ignored(resolve(environment), agent)
    target = fitting(target, agent.spec.observation_space)
    return observing(target, agent.spec.observe_last, agent.spec.frame_stack)


def _without_ignored(environment: Environment, agent: Agent) -> Environment:
    """An environment that the user has given, without the observations that the agent was trained without."""
    source, ignored = environment.source, agent.modifications.ignored
    is_left_out = (
        isinstance(source, Maker)
        and isinstance(source.make, ModifiedMaker)
        and source.make.modifications.ignored == ignored
    )
    return (
        environment if is_left_out or not ignored else modified(environment, Modifications(ignored=ignored))
    )


def play_episodes(
    agent: Agent,
    env: Any,
    name: str,
    *,
    episodes: int | range,
    seed: int,
    deterministic: bool = True,
    on_step: Any = None,
) -> Iterator[tuple[float, int, bool]]:
    """Episodes of an evaluation in a Gymnasium environment, one after another, as `play` returns them.

    `episodes` is how many, or the numbers of some.
    """
    _same_spaces(agent, env.observation_space, env.action_space, name)
    key = jax.random.key(seed)
    for n in range(episodes) if isinstance(episodes, int) else episodes:
        episode_key = jax.random.fold_in(key, n)
        yield play(agent, env, episode_key, episode_seed(seed, EVALUATION, n), deterministic, on_step)


def play(
    agent: Agent, env: Any, key: Key, seed: int, deterministic: bool = True, on_step: Any = None
) -> tuple[float, int, bool]:
    """One episode in a Gymnasium environment: `-> return, length, whether it ended by itself`.

    `on_step(env)` is called after each step. Without a time limit the episode is cut after `LONGEST` steps.
    """
    called = [-1]  # the step that is being taken
    with Watchdog(lambda: f"Evaluation, step {called[0]} after reset(seed={seed})", remedy=BY_HAND):
        return _play(agent, env, key, seed, deterministic, on_step, called)


def _play(
    agent: Agent, env: Any, key: Key, seed: int, deterministic: bool, on_step: Any, called: list[int]
) -> tuple[float, int, bool]:
    actor, memory = agent.actor, agent.actor.initial_memory()
    translate = translator(agent.spec.action_space, agent.spec.action_units)
    space = agent.spec.observation_space
    is_step, extremes = step_test(space), Extremes(space)
    result = _called(env.reset, "reset", seed=seed)
    check_reset(space, result, f"evaluation, reset(seed={seed})")
    obs, noise = result[0], None
    total, length, done = 0.0, 0, False
    longest = None if env.spec is not None and env.spec.max_episode_steps else LONGEST
    while not done and length != longest:
        batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], obs)
        if deterministic:
            action, memory = actor.greedy(batch, memory)
        else:
            row = length % NOISE_ROWS
            if row == 0:
                noise = actor.noise(jax.random.fold_in(key, length // NOISE_ROWS), (NOISE_ROWS, 1))
            action, memory, _ = actor.act(batch, memory, read(noise, row))
        given = read(translate(action), 0)
        called[0] = length
        result = _called(env.step, "step", given)
        if length < 2 or not is_step(result) or not math.isfinite(result[1]):
            check_step(space, result, f"evaluation, step {length} after reset(seed={seed})")
        obs, reward, terminated, truncated, _ = result
        extremes.add(obs)
        total, length, done = total + float(reward), length + 1, bool(terminated or truncated)
        if on_step is not None:
            on_step(env)
    extremes.check(f"evaluation, a step after reset(seed={seed})")
    return total, length, done


def _called(function: Callable[..., Any], name: str, *arguments: Any, **keywords: Any) -> Any:
    """Call an environment; its own error becomes an EnvironmentFailure, but for that about a missing package."""
    try:
        return function(*arguments, **keywords)
    except (DependencyNotInstalled, ImportError):
        raise
    except (Exception, SystemExit) as error:
        given = [*map(repr, arguments), *(f"{key}={value!r}" for key, value in keywords.items())]
        raise failure("evaluation", f"{name}({', '.join(given)})", error) from error


def made(target: Environment) -> Any:
    """A Gymnasium environment that is made, with its own errors explained."""
    with Watchdog(lambda: f"Making {target.name}", remedy=BY_HAND):
        return _called(target.source, "make")


def _evaluate_host(
    agent: Agent, target: Environment, episodes: range, seed: int, deterministic: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    options = {"episodes": episodes, "seed": seed, "deterministic": deterministic}
    with EnvironmentsFolder():
        env = made(target)
        try:
            played = list(play_episodes(agent, env, target.name, **options))
        finally:
            close(env)
    returns, lengths, ended = zip(*played, strict=True)
    return np.array(returns), np.array(lengths), ended.count(False)


def _evaluate_world(
    agent: Agent, world: World, episodes: range, seed: int, deterministic: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`episodes` begin at a multiple of `BLOCK`."""
    _same_spaces(agent, world.observation_space, world.action_space, type(world).__name__)
    key, algorithm, units = jax.random.key(seed), agent.algorithm, agent.spec.action_units

    def play(first: int) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(algorithm, PolicySearch):
            return _play_search(algorithm, world, units, agent.state, key, first)
        returns, lengths = _play_world(algorithm, world, units, agent.state, key, first, deterministic)
        return precise_value(returns), np.asarray(lengths)

    blocks = [play(first) for first in episodes[::BLOCK]]
    returns, lengths = (np.concatenate(parts)[: len(episodes)] for parts in zip(*blocks, strict=True))
    return returns, lengths


@partial(jax.jit, static_argnames=("world", "units", "deterministic"))
def _play_world(
    algorithm: Algorithm,
    world: World,
    units: ActionUnits,
    state: Pytree,
    key: Key,
    first: Array,
    deterministic: bool,
) -> tuple[PreciseSum, Array]:
    """The episodes `first, first + 1, ..., first + BLOCK - 1`: `-> returns, lengths`."""
    actor = algorithm.actor(state)
    keys = jax.vmap(partial(jax.random.fold_in, key))(first + jnp.arange(BLOCK))

    def episode(key):
        key_reset, key_steps = jax.random.split(key)
        world_state, obs = world.reset(key_reset)

        def step(carry):
            world_state, obs, memory, total, length, _ = carry
            key_noise, key_world = jax.random.split(jax.random.fold_in(key_steps, length))
            batch = jax.tree.map(lambda leaf: leaf[None], obs)
            if deterministic:
                action, memory = algorithm.greedy(actor, batch, memory)
            else:
                action, memory, _ = algorithm.act(
                    actor, batch, memory, algorithm.noise(actor, key_noise, (1,))
                )
            given = read(environment_action(world.action_space, action, units), 0)
            world_state, obs, reward, terminated = world.step(world_state, given, key_world)
            done = terminated | (length + 1 >= world.max_episode_steps)
            return world_state, obs, memory, precise_add(total, reward), length + 1, done

        memory = jax.tree.map(lambda leaf: leaf[None], algorithm.initial_memory(actor))
        start = (world_state, obs, memory, precise_zero(), jnp.int32(0), jnp.bool_(False))
        return jax.lax.while_loop(lambda carry: ~carry[-1], step, start)[3:5]

    return jax.vmap(episode)(keys)


def _play_search(
    algorithm: PolicySearch,
    world: World,
    units: ActionUnits,
    state: Pytree,
    key: Key,
    first: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The same for the policy that a search has found: it is deterministic and plays as candidates do."""
    actor = algorithm.actor(state)
    chance = Chance(first + np.arange(BLOCK), key)
    vectors = jnp.tile(flatten(actor.params), (BLOCK, 1))
    games = DeviceGames(algorithm, world, units).play(actor, vectors, chance, ANY_NUMBER, lambda: False)
    assert games is not None  # neither out of steps nor stopped
    return games.returns, games.lengths


def _same_spaces(agent: Agent, observation_space: Any, action_space: Any, name: str) -> None:
    for what, ours, theirs in (
        ("observation", agent.spec.observation_space, observation_space),
        ("action", agent.spec.action_space, action_space),
    ):
        if ours != theirs:
            raise ValueError(
                f"The agent was trained on {agent.environment} with {what} space {ours}, and {name} has {theirs}; "
                "evaluate it on an environment with the same spaces."
            )
