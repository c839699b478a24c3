"""Agents: load one, let it act, and measure it. Training, Python and the command line evaluate through here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.playable import Playable, Trainable, playable
from advantage.algorithms.policy_gradient.shared.options import PolicyOptions
from advantage.algorithms.registry import algorithm_name, from_json, spec_of
from advantage.algorithms.search.policy_search import PolicySearch
from advantage.drivers.host.host_actor import HostActor, actor_of
from advantage.drivers.host.stepper import episode_seed
from advantage.drivers.search.device_games import DeviceGames
from advantage.drivers.search.games import Chance
from advantage.environments.check import check_reset, check_step
from advantage.environments.environment import Environment, fitting
from advantage.environments.make import resolve, resolve_recorded
from advantage.environments.spaces import environment_action, read, space_from_json, translator
from advantage.policies.deterministic import flatten
from advantage.policies.encoder import encoder
from advantage.runs.checkpoint import MANIFEST, CheckpointError, load_checkpoint
from advantage.runs.folder import open_run_folder, read_config
from advantage.types import ActionUnits, Algorithm, Array, Key, Pytree, Spec, World

EVALUATION = 2**31 - 1  # stands for an environment's index in the seeds of evaluation episodes
NOISE_ROWS = 256  # noise is drawn for so many steps at once
CONFIG_FIELDS = {
    "algorithm": str,
    "hyperparameters": dict,
    "environment": str,
    "environment_by_name": bool,
    "seed": int,
    "spaces": dict,
    "training": dict,
}
METADATA_FIELDS = {"step": int, "iteration": int, "evaluated": int}
LONGEST = 30_000  # steps at which an evaluation cuts episodes that no clock does
BLOCK = (
    16  # on-device episodes are played so many at once, whatever their number, so that each stays the same
)
ANY_NUMBER = 2**62  # of steps


class Evaluation(NamedTuple):
    """Episodes in order, with the environment's own rewards, undiscounted.

    `cut` says how many did not end by themselves: a policy may walk in a circle where no time limit is set.
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


@dataclasses.dataclass(frozen=True)
class Agent:
    """A trained policy: what acted in training acts here, bit for bit.

    Attributes:
        algorithm: its hyperparameters.
        state: everything it had learned.
        spec: the spaces that it acts in.
        environment: the name of the environment that it was trained on.
        step: environment steps that it was trained for.
        by_name: whether the name alone brings the environment back.
    """

    algorithm: Playable
    state: Pytree = dataclasses.field(repr=False)
    spec: Spec
    environment: str
    step: int
    by_name: bool = True

    @cached_property
    def actor(self) -> HostActor:
        return HostActor(self.algorithm, actor_of(self.algorithm, self.state))

    def initial_memory(self) -> Pytree:
        """What the policy remembers when an episode begins; `()` for a policy without memory."""
        return read_first(self.actor.initial_memory())

    def act(
        self, obs: Pytree, deterministic: bool = True, key: Key | None = None, *, memory: Pytree = None
    ) -> Any:
        """The action for one observation, in the environment's own units; a recurrent policy's `action, memory`.

        Args:
            obs: one observation, without a batch axis.
            deterministic: the most likely action, or one drawn from the policy.
            key: `jax.random.key(...)`, needed for a drawn one; a new one each time.
            memory: of a recurrent policy: `initial_memory()` when an episode begins, then what the last call returned.

        Raises:
            ValueError: an observation outside the space's structure, a missing key, or a missing memory.
        """
        check_reset(self.spec.observation_space, (obs, {}), "agent.act(obs)")
        initial = self.initial_memory()
        if memory is None and jax.tree.leaves(initial):
            raise ValueError(
                "This policy has a memory: begin each episode with memory = agent.initial_memory(), and call "
                "action, memory = agent.act(obs, memory=memory)."
            )
        remembered = initial if memory is None else memory
        batch, remembered = jax.tree.map(lambda leaf: np.asarray(leaf)[None], (obs, remembered))
        if deterministic:
            action, after = self.actor.greedy(batch, remembered)
        elif key is None:
            raise ValueError(
                "A drawn action needs randomness: pass key=jax.random.key(n), a new one for each action."
            )
        else:
            action, after, _ = self.actor.act(batch, remembered, self.actor.noise(key, (1,)))
        action = read(environment_action(self.spec.action_space, action, self.spec.action_units), 0)
        return action if memory is None else (action, read_first(after))


def read_first(batch: Pytree) -> Pytree:
    """The only row of a batch."""
    return jax.tree.map(lambda leaf: leaf[0], batch)


def load(path: str | Path, algorithm: Trainable | None = None) -> Agent:
    """The agent of a run: of its last checkpoint, or of the one at `path`. Reads tensors and JSON, never code.

    Args:
        path: a run folder, its `best` or `last`, or one of its checkpoints.
        algorithm: needed only where the run had a network or schedule of your own.

    Raises:
        FileNotFoundError: nothing there.
        CheckpointError: not a run, or damaged; names the file and the field.
    """
    folder = open_run_folder(Path(path))
    config = read_config(folder, CONFIG_FIELDS)
    algorithm, spec = restore_config(config, folder.config_path, algorithm)
    checkpoint = folder.last if (Path(path) / "config.json").is_file() else Path(path)
    if not checkpoint.exists():
        raise CheckpointError(
            f"{folder.path} holds no checkpoint yet; train it further, or look into {folder.checkpoints}."
        )
    try:
        template = jax.eval_shape(lambda key: algorithm.init(key, spec), jax.random.key(0))
    except ValueError as error:
        raise CheckpointError(f"{folder.config_path}: {error}") from None
    state, _, metadata = restore_checkpoint(checkpoint, algorithm, template)
    environment, by_name = config["environment"], config["environment_by_name"]
    return Agent(algorithm, state, spec, environment, metadata["step"], by_name)


def other_agents(agent: Agent) -> dict[str, Agent]:
    """Who else a run has found, by name: of a search its best candidate beside the mean, or the other way round."""
    search = agent.algorithm
    if not isinstance(search, PolicySearch):
        return {}
    other = "best" if search.play == "mean" else "mean"
    return {other: dataclasses.replace(agent, algorithm=dataclasses.replace(search, play=other))}


def restore_config(config: dict, file: Path, algorithm: Trainable | None = None) -> tuple[Algorithm, Spec]:
    """Algorithm and spec from config.json. Raises CheckpointError that names the field."""
    _check_types(file, "", config, CONFIG_FIELDS)
    field = "hyperparameters"
    try:
        chosen: Any = playable(algorithm or from_json(config["algorithm"], config["hyperparameters"]))
        field = "spaces"
        observation, action = (space_from_json(config["spaces"][name]) for name in ("observation", "action"))
        field = "training"
        sizes = {name: config["training"][name] for name in ("num_envs", "total_timesteps")}
        for name, size in sizes.items():
            if type(size) is not int or size < 1:
                raise ValueError(f"{name}={size!r} is not allowed; use a whole number of 1 or more")
        field = "hyperparameters"
        _refuse_older_pictures(chosen, config["hyperparameters"], observation)
        return chosen, spec_of(chosen, observation, action, **sizes)
    except KeyError as error:
        raise CheckpointError(
            f"{file}: {field} has no entry {error}; restore the file from a copy."
        ) from None
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{file}: {field}: {error}") from None


def _refuse_older_pictures(algorithm: Playable, written: dict, observation_space: gymnasium.Space) -> None:
    """A run from before the option `action_units` divided every picture by 255, and made no picture of a stack."""
    if "action_units" in written or not isinstance(algorithm, PolicyOptions | PolicySearch):
        return
    for leaf in encoder(observation_space).images:
        if (leaf.low, leaf.high) != ((0.0,), (255.0,)) or len(leaf.shape) > 3:
            raise ValueError(
                "this run was trained by advantage 0.1, which scaled its pictures in another way; train it anew"
            )


def restore_checkpoint(
    path: Path, algorithm: Playable, template: Pytree
) -> tuple[Pytree, dict[str, np.ndarray], dict[str, Any]]:
    """State, records and metadata of a checkpoint of `algorithm`. Raises CheckpointError that names the field."""
    result = load_checkpoint(path, template, expect={"algorithm": algorithm_name(algorithm)})
    _check_types(path / MANIFEST, "metadata/", result[2], METADATA_FIELDS)
    return result


def _check_types(file: Path, prefix: str, values: dict[str, Any], types: dict[str, type]) -> None:
    for field, expected in types.items():
        if type(values.get(field)) is not expected:
            found = repr(values[field])[:200] if field in values else "nothing"
            remedy = "restore the file as the run wrote it"
            raise CheckpointError.of(
                file,
                prefix + field,
                found=found,
                expected=f"a value of type {expected.__name__}",
                remedy=remedy,
            )


def evaluate(
    agent: Agent | str | Path,
    environment: Any = None,
    *,
    episodes: int = 10,
    seed: int = 0,
    deterministic: bool = True,
    trust: bool = False,
) -> Evaluation:
    """Play episodes and report each one. The agent, its statistics too, stays as it is.

    Args:
        agent: an agent, or the path of one.
        environment: as for `train`; by default the one that the agent was trained on.
        episodes: how many; each begins from its own seed, so the first ten of a hundred are those of ten.
        seed: of the evaluation.
        deterministic: the most likely action, or one drawn from the policy.
        trust: whether the package may be imported that the run's own environment comes from.

    Raises:
        ValueError: no episodes asked for, an environment with other spaces than the agent's, or one that only an
            import brings back which you have not allowed.
    """
    check_request(episodes, seed)
    if not isinstance(agent, Agent):
        agent = load(agent)
    target = environment_of(agent, environment, trust)
    if target.kind == "vector":
        raise ValueError("An evaluation steps one environment at a time; give a name, a class or a function.")
    if target.kind == "device":
        returns, lengths, cut = *_evaluate_world(agent, target.source, episodes, seed, deterministic), 0
    else:
        returns, lengths, cut = _evaluate_host(agent, target, episodes, seed, deterministic)
    return Evaluation(returns, lengths, deterministic, seed, cut)


def check_request(episodes: int, seed: int) -> None:
    """Raises ValueError for a number of episodes or a seed that cannot be."""
    if episodes < 1:
        raise ValueError(f"episodes={episodes} is not allowed; use 1 or more.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} is not allowed; use a whole number from 0 to {2**32 - 1}.")


def environment_of(agent: Agent, environment: Any = None, trust: bool = False) -> Environment:
    """What an evaluation plays: `environment`, or the one that the agent was trained on.

    Raises:
        ValueError: neither is given by a name or an object, or the agent's asks for an import; see `resolve_recorded`.
    """
    if environment is None and not agent.by_name:
        raise ValueError(
            f"The agent was trained on the Python object {agent.environment}, which no name brings back; give the "
            "environment again: adv.evaluate(agent, environment)."
        )
    target = resolve_recorded(agent.environment, trust) if environment is None else resolve(environment)
    return fitting(target, agent.spec.observation_space)


def play_episodes(
    agent: Agent,
    env: Any,
    name: str,
    *,
    episodes: int,
    seed: int,
    deterministic: bool = True,
    on_step: Any = None,
) -> Iterator[tuple[float, int, bool]]:
    """The episodes of an evaluation in a Gymnasium environment, one after another, as `play` returns them."""
    _same_spaces(agent, env.observation_space, env.action_space, name)
    key = jax.random.key(seed)
    for n in range(episodes):
        episode_key = jax.random.fold_in(key, n)
        yield play(agent, env, episode_key, episode_seed(seed, EVALUATION, n), deterministic, on_step)


def play(
    agent: Agent, env: Any, key: Key, seed: int, deterministic: bool = True, on_step: Any = None
) -> tuple[float, int, bool]:
    """One episode in a Gymnasium environment: `-> return, length, whether it ended by itself`.

    `on_step(env)` is called after each step. Where no time limit is set, `LONGEST` is.
    """
    actor, memory = agent.actor, agent.actor.initial_memory()
    translate = translator(agent.spec.action_space, agent.spec.action_units)
    result = env.reset(seed=seed)
    check_reset(agent.spec.observation_space, result, f"evaluation, reset(seed={seed})")
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
        result = env.step(read(translate(action), 0))
        if length < 2:
            check_step(agent.spec.observation_space, result, f"evaluation, step {length}")
        obs, reward, terminated, truncated, _ = result
        total, length, done = total + float(reward), length + 1, terminated or truncated
        if on_step is not None:
            on_step(env)
    return total, length, done


def _evaluate_host(
    agent: Agent, target: Environment, episodes: int, seed: int, deterministic: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    env = target.source()
    options = {"episodes": episodes, "seed": seed, "deterministic": deterministic}
    try:
        played = list(play_episodes(agent, env, target.name, **options))
    finally:
        env.close()
    returns, lengths, ended = zip(*played, strict=True)
    return np.array(returns), np.array(lengths), ended.count(False)


def _evaluate_world(
    agent: Agent, world: World, episodes: int, seed: int, deterministic: bool
) -> tuple[np.ndarray, np.ndarray]:
    _same_spaces(agent, world.observation_space, world.action_space, type(world).__name__)
    key, algorithm, units = jax.random.key(seed), agent.algorithm, agent.spec.action_units

    def play(first: int) -> tuple[Array, Array]:
        if isinstance(algorithm, PolicySearch):
            return _play_search(algorithm, world, units, agent.state, key, first)
        return _play_world(algorithm, world, units, agent.state, key, first, deterministic)

    blocks = [jax.device_get(play(first)) for first in range(0, episodes, BLOCK)]
    returns, lengths = (np.concatenate(parts)[:episodes] for parts in zip(*blocks, strict=True))
    return returns.astype(np.float64), lengths


@partial(jax.jit, static_argnames=("world", "units", "deterministic"))
def _play_world(
    algorithm: Algorithm,
    world: World,
    units: ActionUnits,
    state: Pytree,
    key: Key,
    first: Array,
    deterministic: bool,
) -> tuple[Array, Array]:
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
            return world_state, obs, memory, total + reward, length + 1, done

        memory = jax.tree.map(lambda leaf: leaf[None], algorithm.initial_memory(actor))
        start = (world_state, obs, memory, jnp.float32(0), jnp.int32(0), jnp.bool_(False))
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
    """The same for what a search has found, which leaves nothing to chance, as its candidates play."""
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
