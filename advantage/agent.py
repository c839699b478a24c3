"""A trained agent: loading it and choosing actions with it."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np

from advantage.algorithms.playable import Playable, Trainable, playable
from advantage.algorithms.policy_gradient.shared.options import PolicyOptions
from advantage.algorithms.registry import algorithm_name, from_json, spec_of
from advantage.algorithms.search.policy_search import PolicySearch
from advantage.drivers.host.host_actor import HostActor, actor_of
from advantage.environments.check import check_reset
from advantage.environments.dressed import PLAIN, Dress
from advantage.environments.spaces import environment_action, read, space_from_json
from advantage.policies.encoder import encoder
from advantage.runs.checkpoint import MANIFEST, CheckpointError, load_checkpoint
from advantage.runs.folder import open_run_folder, read_config
from advantage.types import Algorithm, Key, Pytree, Spec

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
        frame_stack: number of observations stacked into one, `[n, ...]`, the oldest first; 1 for no stacking.
        dress: keywords, wrappers and left out observations of the environment.
    """

    algorithm: Playable
    state: Pytree = dataclasses.field(repr=False)
    spec: Spec
    environment: str
    step: int
    by_name: bool = True
    frame_stack: int = 1
    dress: Dress = PLAIN

    @cached_property
    def actor(self) -> HostActor:
        return HostActor(self.algorithm, actor_of(self.algorithm, self.state))

    def initial_memory(self) -> Pytree:
        """What the policy remembers when an episode begins; `()` for a policy without memory."""
        return read_first(self.actor.initial_memory())

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
    """Load the agent of a run: from its last checkpoint, or from the one at `path`. Reads tensors and JSON, never code.

    Args:
        path: a run folder, its `best` or `last`, or one of its checkpoints.
        algorithm: needed only if the run used your own network or schedule.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        CheckpointError: `path` is not a run, or it is damaged; the message names the file and the field.
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
    return Agent(
        algorithm,
        state,
        spec,
        environment,
        step=metadata["step"],
        by_name=by_name,
        frame_stack=config["training"].get("frame_stack", 1),
        dress=_dress(config["training"], folder.config_path),
    )


def _dress(training: dict[str, Any], file: Path) -> Dress:
    """How the run's environment is made besides its name. Raises a CheckpointError that names the field."""
    kinds = {"env_options": dict, "wrappers": list, "ignore_observation": list}
    values = {name: training.get(name, kind()) for name, kind in kinds.items()}
    _check_types(file, "training/", values, kinds)
    for name in ("wrappers", "ignore_observation"):
        _check_types(
            file,
            f"training/{name}/",
            dict(enumerate(values[name])),
            dict.fromkeys(range(len(values[name])), str),
        )
    return Dress(values["env_options"], tuple(values["wrappers"]), tuple(values["ignore_observation"]))


def other_agents(agent: Agent) -> dict[str, Agent]:
    """Other agents of a run, by name: the best candidate of a search that plays the mean, or the reverse."""
    search = agent.algorithm
    if not isinstance(search, PolicySearch):
        return {}
    other = "best" if search.play == "mean" else "mean"
    return {other: dataclasses.replace(agent, algorithm=dataclasses.replace(search, play=other))}


def restore_config(config: dict, file: Path, algorithm: Trainable | None = None) -> tuple[Algorithm, Spec]:
    """Algorithm and spec from config.json. Raises a CheckpointError that names the field."""
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
    """Runs older than the option `action_units` divided every picture by 255, and took no stack for a picture."""
    if "action_units" in written or not isinstance(algorithm, PolicyOptions | PolicySearch):
        return
    for leaf in encoder(observation_space).images:
        if (leaf.low, leaf.high) != ((0.0,), (255.0,)) or len(leaf.shape) > 3:
            raise ValueError(
                "this run was trained by advantage 0.1, which scaled pictures differently; train it again"
            )


def restore_checkpoint(
    path: Path, algorithm: Playable, template: Pytree
) -> tuple[Pytree, dict[str, np.ndarray], dict[str, Any]]:
    """State, records and metadata of a checkpoint of `algorithm`. Raises a CheckpointError that names the field."""
    result = load_checkpoint(path, template, expect={"algorithm": algorithm_name(algorithm)})
    _check_types(path / MANIFEST, "metadata/", result[2], METADATA_FIELDS)
    return result


def _check_types(file: Path, prefix: str, values: dict[Any, Any], types: dict[Any, type]) -> None:
    for field, expected in types.items():
        if type(values.get(field)) is not expected:
            found = repr(values[field])[:200] if field in values else "nothing"
            remedy = "restore the file as the run wrote it"
            raise CheckpointError.of(
                file,
                f"{prefix}{field}",
                found=found,
                expected=f"a value of type {expected.__name__}",
                remedy=remedy,
            )
