"""A trained agent: loading it and choosing actions with it."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.playable import Playable, Trainable, playable
from advantage.algorithms.policy_gradient.shared.options import NetworkOptions
from advantage.algorithms.registry import ALGORITHMS, algorithm_name, from_json, plans, spec_of, trainable
from advantage.algorithms.search.policy_search import PolicySearch
from advantage.drivers.host.host_actor import HostActor, actor_of
from advantage.environments.check import check_reset
from advantage.environments.last_step import last_parts
from advantage.environments.make import resolve, rules_of, word_for, world_names
from advantage.environments.modifications import UNMODIFIED, Modifications
from advantage.environments.spaces import read, space_from_json, translator
from advantage.plain_values import plain_path
from advantage.policies.encoder import encoder
from advantage.replay.left_out import with_empty_replay, without_replay
from advantage.runs.checkpoint import (
    JSON,
    MANIFEST,
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    named_leaves,
    read_manifest,
)
from advantage.runs.compilation import in_single_precision
from advantage.runs.folder import RunFolder, check_types, checkpoint_at, open_run_folder, read_config
from advantage.runs.recorded import as_saved, checksum, config_facts, refuse_other_config
from advantage.types import Algorithm, Key, Pytree, Spec, World

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
KNOWN_METADATA = {
    "algorithm", "environment", "step", "iteration", "finished", "seed", "evaluated", "best", "config", "logs", "sha256"
}  # fmt: skip
MAY_BE_INFINITE = ("best_return", "cost", "point_cost")  # nothing has been evaluated yet


@dataclasses.dataclass(frozen=True)
class Agent:
    """A trained policy. It acts exactly as in training, bit for bit.

    Attributes:
        algorithm: the algorithm with its hyperparameters.
        state: the algorithm's state: everything it has learned.
        spec: the observation and action spaces.
        environment: the name of the environment that it was trained on.
        step: environment steps that it was trained for.
        by_name: whether the environment can be made from its name alone.
        modifications: keywords, wrappers and left out observations of the environment.
    """

    algorithm: Playable
    state: Pytree = dataclasses.field(repr=False)
    spec: Spec
    environment: str
    step: int
    by_name: bool = True
    modifications: Modifications = UNMODIFIED

    @cached_property
    def actor(self) -> HostActor:
        return HostActor(self.algorithm, actor_of(self.algorithm, self.state))

    @cached_property
    def _initial_memory(self) -> Pytree:
        return read_first(self.actor.initial_memory())

    @cached_property
    def _translate(self) -> Callable[[Pytree], Pytree]:
        return translator(self.spec.action_space, self.spec.action_units)

    @in_single_precision
    def initial_memory(self) -> Pytree:
        """What the policy remembers when an episode begins; `()` for a policy without memory."""
        return jax.tree.map(np.copy, self._initial_memory)

    @in_single_precision
    def act(
        self, obs: Pytree, deterministic: bool = True, key: Key | None = None, *, memory: Pytree = None
    ) -> Any:
        """The action for one observation, in the environment's own units; `action, memory` for a recurrent policy.

        Args:
            obs: one observation, without a batch axis.
            deterministic: True for the most likely action, False for an action drawn from the policy.
            key: `jax.random.key(...)`, needed for a drawn action; use a new key for each call.
            memory: only for a recurrent policy: `initial_memory()` when an episode begins, then the last call's memory.

        Raises:
            ValueError: the observation does not have the space's structure, or the key or the memory is missing.
        """
        check_reset(self.spec.observation_space, (obs, {}), "agent.act(obs)")
        initial = self._initial_memory
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
        action = read(self._translate(action), 0)
        return action if memory is None else (action, read_first(after))


def read_first(batch: Pytree) -> Pytree:
    """The only row of a batch."""
    return jax.tree.map(lambda leaf: leaf[0], batch)


@in_single_precision
def load(path: str | Path, algorithm: Trainable | type | str | None = None, environment: Any = None) -> Agent:
    """Load the agent of a run: from its last checkpoint, or from the one at `path`. Reads tensors and JSON, never code.

    Args:
        path: a run folder, its `best` or `last`, or one of its checkpoints.
        algorithm: needed only if the run used your own network or schedule.
        environment: needed only if the run planned in the rules of a world or table of yours, as for `train`.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        CheckpointError: `path` is not a run, or it is damaged; the message names the file and the field.
    """
    path = plain_path("path", path)
    folder = open_run_folder(path)
    config = as_saved(path, folder, read_config(folder, CONFIG_FIELDS))
    own = algorithm is not None
    chosen, spec = restore_config(config, folder.config_path, algorithm, environment)
    saved = read_saved(path, folder, config, given=own, algorithm=chosen, spec=spec)
    return Agent(
        chosen,
        saved.state,
        spec,
        config["environment"],
        step=saved.metadata["step"],
        by_name=config["environment_by_name"],
        modifications=_modifications(config["training"], folder.config_path),
    )


def _modifications(training: dict[str, Any], file: Path) -> Modifications:
    """How the run's environment is made besides its name. Raises a CheckpointError that names the field."""
    kinds = {"env_options": dict, "wrappers": list, "ignore_observation": list}
    values = {name: training.get(name, kind()) for name, kind in kinds.items()}
    check_types(file, "training/", values, kinds)
    for name in ("wrappers", "ignore_observation"):
        check_types(
            file,
            f"training/{name}/",
            dict(enumerate(values[name])),
            dict.fromkeys(range(len(values[name])), str),
        )
    return Modifications(
        values["env_options"], tuple(values["wrappers"]), tuple(values["ignore_observation"])
    )


def other_agents(agent: Agent) -> dict[str, Agent]:
    """Other agents of a run, by name: the best candidate of a search that plays the mean, or the reverse."""
    search = agent.algorithm
    if not isinstance(search, PolicySearch):
        return {}
    other = "best" if search.play == "mean" else "mean"
    return {other: dataclasses.replace(agent, algorithm=dataclasses.replace(search, play=other))}


def restore_config(
    config: dict, file: Path, algorithm: Trainable | type | str | None = None, environment: Any = None
) -> tuple[Algorithm, Spec]:
    """Algorithm and spec from config.json. Raises a CheckpointError that names the field.

    A method that plans gets the rules of `environment`, or of the world that config.json names.
    """
    check_types(file, "", config, CONFIG_FIELDS)
    field = "hyperparameters"
    try:
        given = None if algorithm is None else trainable(algorithm)
        chosen: Any = playable(given or from_json(config["algorithm"], config["hyperparameters"]))
        field = "spaces"
        observation, action = (space_from_json(config["spaces"][name]) for name in ("observation", "action"))
        field = "training"
        training = {"observe_last": [], "frame_stack": 1} | config["training"]
        last = last_parts(training["observe_last"])
        sizes = {name: training[name] for name in ("num_envs", "total_timesteps", "frame_stack")}
        for name, size in sizes.items():
            if type(size) is not int or size < 1:
                raise ValueError(f"{name}={size!r} is not allowed; use a whole number of 1 or more")
        field = "hyperparameters"
        _refuse_older_pictures(chosen, config["hyperparameters"], observation)
        rules = _rules(config) if environment is None else rules_of(resolve(environment))
        world = rules if plans(chosen) else None
        return chosen, spec_of(chosen, observation, action, **sizes, observe_last=last, world=world)
    except KeyError as error:
        raise CheckpointError(
            f"{file}: {field} has no entry {error}; restore the file from a copy."
        ) from None
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{file}: {field}: {error or type(error).__name__}") from None


def _rules(config: dict) -> World | None:
    """The rules of the environment that a planner was trained in, if it is one of ours."""
    name = f"jax/{config['environment'].removeprefix('jax/').removeprefix('advantage/')}"
    return rules_of(resolve(name)) if name in world_names() else None


def _refuse_older_pictures(algorithm: Playable, written: dict, observation_space: gymnasium.Space) -> None:
    """Runs older than the option `action_units` divided every picture by 255, and took no stack for a picture."""
    if "action_units" in written or not isinstance(algorithm, NetworkOptions | PolicySearch):
        return
    for leaf in encoder(observation_space).images:
        if (leaf.low, leaf.high) != ((0.0,), (255.0,)) or len(leaf.shape) > 3:
            raise ValueError(
                "this run was trained by advantage 0.1, which scaled pictures differently; train it again"
            )


class Saved(NamedTuple):
    """What a checkpoint holds, and where it is: the state, the records of the environments, facts as JSON values."""

    checkpoint: Path
    state: Pytree
    records: dict[str, np.ndarray]
    metadata: dict[str, Any]


def read_saved(
    path: Path, folder: RunFolder, config: dict, *, given: bool, algorithm: Playable, spec: Spec
) -> Saved:
    """The checkpoint that a path into a run means, checked whole, against config.json too.

    Args:
        path: a run folder, one of its checkpoints, its `last` or its `best`.
        folder, config: the run and its config.json.
        given: whether the caller gave the algorithm, whose hyperparameters then need not be the file's.
        algorithm, spec: what the run trained.

    Raises:
        CheckpointError: anything is wrong; names the file, the field and, if there is one, the newest checkpoint that
            can be used.
    """
    try:
        template = jax.eval_shape(lambda key: algorithm.init(key, spec), jax.random.key(0))
    except ValueError as error:
        raise CheckpointError(f"{folder.config_path}: {error}") from None

    kept = config["training"].get("keep_replay", True)
    facts = config_facts(config)
    if given:
        facts = {name: value for name, value in facts.items() if not name.startswith("hyperparameters/")}

    def read_from(checkpoint: Path) -> Saved:
        if kept:
            return _read_checkpoint(checkpoint, algorithm, template, facts, folder)
        saved = _read_checkpoint(checkpoint, algorithm, without_replay(template), facts, folder)
        return saved._replace(state=with_empty_replay(saved.state, template))

    def can_be_read(checkpoint: Path) -> bool:
        with contextlib.suppress(CheckpointError):
            return bool(read_from(checkpoint))
        return False

    wanted = path
    before = path.resolve()
    try:
        wanted = checkpoint_at(path, folder)
        before = wanted.resolve()
        return read_from(wanted)
    except CheckpointError as error:
        if (
            wanted.resolve() != before
        ):  # the run goes on, and has moved its link to a newer checkpoint meanwhile
            return read_saved(path, folder, config, given=given, algorithm=algorithm, spec=spec)
        for other in reversed(list_checkpoints(folder.checkpoints)):
            if other.resolve() == wanted.resolve():
                continue
            if can_be_read(other):
                words = shlex.join(["advantage", "resume", str(other), *word_for(config["environment"])])
                raise CheckpointError(
                    f"{error} The newest checkpoint that can be used is {other.name}; to continue from it: {words}"
                ) from None
        raise


def _read_checkpoint(
    path: Path, algorithm: Playable, template: Pytree, facts: dict[str, JSON], folder: RunFolder
) -> Saved:
    saved = Saved(path, *load_checkpoint(path, template, expect={"algorithm": algorithm_name(algorithm)}))
    manifest, metadata = path / MANIFEST, saved.metadata
    check_types(manifest, "metadata/", metadata, METADATA_FIELDS)
    remedy = "the file is damaged or was edited; use another checkpoint of the run"
    if metadata.get("sha256", checksum(metadata)) != checksum(metadata):
        found, expected = checksum(metadata), metadata["sha256"]
        raise CheckpointError.of(manifest, "metadata/sha256", found=found, expected=expected, remedy=remedy)
    best = metadata.get("best")
    if type(best) not in (type(None), int, float) or not np.isfinite(best or 0.0):
        raise CheckpointError.of(
            manifest,
            "metadata/best",
            found=repr(best)[:200],
            expected="a finite number or null",
            remedy=remedy,
        )
    if unknown := metadata.keys() - KNOWN_METADATA:
        raise CheckpointError.of(
            manifest, f"metadata/{min(unknown)}", found="a value", expected="nothing", remedy=remedy
        )
    seen = {"state's clock": saved.state.clock.step, "manifest": read_manifest(path)["step"]}
    for name, step in seen.items():
        if int(step) != metadata["step"]:
            raise CheckpointError.of(
                manifest,
                "metadata/step",
                found=metadata["step"],
                expected=f"{step} as in the {name}",
                remedy=remedy,
            )
    if algorithm_name(algorithm) in ALGORITHMS:
        _refuse_nonfinite(path, saved.state)
    refuse_other_config(folder, facts, metadata, path.name)
    return saved


def _refuse_nonfinite(path: Path, state: Pytree) -> None:
    """Raises CheckpointError if a number of the state is not finite; costs that are not known yet are infinite."""
    for name, leaf in named_leaves(state).items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or np.isfinite(leaf).all():
            continue
        if name.rpartition("/")[2] in MAY_BE_INFINITE and not np.isnan(leaf).any():
            continue
        raise CheckpointError.of(
            path,
            name,
            found="a number that is not finite",
            expected="finite numbers",
            remedy="use another checkpoint of the run",
        )
