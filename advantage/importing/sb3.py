"""Policies of stable-baselines3 as runs of this library. Of their files, only tensors and JSON are read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.playable import Playable
from advantage.algorithms.policy_gradient.a2c import A2C
from advantage.algorithms.policy_gradient.ppo import PPO
from advantage.algorithms.policy_gradient.shared.state import PolicyState
from advantage.algorithms.registry import algorithm_name
from advantage.algorithms.value.dqn import DQN
from advantage.algorithms.value.sac import SAC
from advantage.algorithms.value.shared.gradient_steps import LearningState
from advantage.algorithms.value.td3 import TD3
from advantage.environments.make import resolve
from advantage.importing.sb3_layers import Policy, policy_in
from advantage.importing.torch_tensors import Refused, member, read_tensors
from advantage.plain_values import plain_number, plain_path, plain_tuple
from advantage.replay.left_out import without_replay
from advantage.running_moments import Compensated, Moments
from advantage.runs.compilation import enable_compilation_cache, in_single_precision
from advantage.training.callbacks import listeners_of
from advantage.training.loop import Loop, Training
from advantage.training.options import Options
from advantage.training.reporting import Reporter, Silent
from advantage.training.train import Run
from advantage.types import Clock

ACTIVATIONS = {"Tanh": "tanh", "ReLU": "relu", "ELU": "elu", "SiLU": "silu"}
PICKLED = (
    "is a pickle, and reading a pickle runs what is in it. Write its numbers to a JSON file with the library that made "
    'it, {"mean": [...], "variance": [...], "count": ..., "limit": ...}, and give that file with --statistics '
    "(statistics=); docs/import.md has the lines."
)


class Statistics(NamedTuple):
    """Running statistics of observations: `clip((x - mean) / sqrt(variance + 1e-8), -limit, limit)`."""

    mean: np.ndarray
    variance: np.ndarray
    count: float
    limit: float


@in_single_precision
def import_sb3(
    file: str | Path,
    environment: Any,
    *,
    out: str | Path | None = None,
    root: str | Path = "runs",
    statistics: str | Path | Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Write a run folder with the policy of a file that `model.save` of stable-baselines3 has written.

    The weights of policy and critics are taken; options, optimisers and replayed experience are not. PPO, A2C, DQN,
    SAC, TD3 and DDPG with `MlpPolicy` can be read, also of subclasses. Neither torch nor stable-baselines3 is needed,
    and nothing in the file is executed: what it holds besides tensors and JSON is not read.

    Args:
        file: the zip.
        environment: as for `train`: the one in which the policy was trained.
        out: the run folder; by default a new one below `root`.
        root: where new run folders go.
        statistics: what `VecNormalize` knew of observations, if the policy was trained with it: a dict of `mean` and
            `variance`, each a number for each number of an observation, and if they are known `count` and `limit`
            (`clip_obs`), or a JSON file with them.
        reporter: tells the user what was not taken.

    Returns:
        The run, with the steps that the policy was trained for; it can be evaluated, filmed, exported and resumed.

    Raises:
        ValueError: the file is damaged, asks for anything but tensors, holds a policy of another kind, or one that does
            not fit to the environment.
        FileNotFoundError, FileExistsError: there is no such file, or `out` exists.
    """
    file, say = plain_path("file", file), (reporter or Silent()).message
    place, root = None if out is None else plain_path("out", out), plain_path("root", root)
    try:
        data, found = _read(file)
        steps = _steps(data)
        known = None if statistics is None else _statistics(statistics, steps)
        algorithm = _algorithm(found, data, known, steps)
    except Refused as error:
        raise ValueError(f"{file} cannot be imported: {error}.") from None
    target = resolve(environment)
    options = Options(total_timesteps=max(1, steps), keep_replay=False)
    enable_compilation_cache()
    training = Training(algorithm, target, target, options, listeners_of(None), reporter or Silent())
    loop = Loop(training, [options.seed])
    with contextlib.closing(loop), contextlib.ExitStack() as locks:
        drawn = jax.tree.map(lambda leaf: leaf[0], loop.first.state)
        state = _with_weights(file, drawn, found, target.name, say)
        state = _with_statistics(state, known, target.name)
        state = dataclasses.replace(
            state, clock=Clock(jnp.uint32(steps), jnp.uint32(options.total_timesteps))
        )
        loop.first = loop.first._replace(state=jax.tree.map(lambda leaf: jnp.stack([leaf]), state))
        loop.create_folders([place], root, locks)
        metadata = {
            "algorithm": algorithm_name(algorithm),
            "environment": target.name,
            "iteration": 0,
            "step": steps,
            "finished": options.total_timesteps,
        }
        (journal,) = loop.journals
        saved = without_replay(loop.driver.state_of(loop.state, 0))
        journal.save(steps, saved, loop.driver.records(0), metadata, options.keep_checkpoints)
    return Run(journal.folder.path, journal.seed, steps, None, True, algorithm)


def _read(file: Path) -> tuple[dict[str, Any], Policy]:
    """The settings and the policy in a file. Raises Refused if they are not there or not whole."""
    if file.suffix in (".pkl", ".pickle"):
        raise Refused(f"it {PICKLED}")
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist.")
    try:
        with zipfile.ZipFile(file) as archive:
            parts = [member(archive, name) for name in ("data", "policy.pth")]
        data = json.loads(parts[0])
    except Refused:
        raise
    except KeyError as error:
        raise Refused(f"it is not what model.save of stable-baselines3 writes ({error})") from None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError) as error:
        raise Refused(f"it is not a zip that model.save of stable-baselines3 has written ({error})") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"its settings (data) are not JSON ({error})") from None
    if not isinstance(data, dict):
        raise Refused("its settings (data) are not a JSON object")
    return data, policy_in(read_tensors(parts[1]))


def _steps(data: dict[str, Any]) -> int:
    steps = data.get("num_timesteps")
    if type(steps) is not int or not 0 <= steps < 2**32 - 1:
        raise Refused(f"its num_timesteps is {steps!r:.100}, and a whole number was expected")
    return steps


def _activation(data: dict[str, Any], kind: str) -> str:
    """The activation, by the text that stands beside what is pickled: `<class 'torch.nn.modules.activation.ReLU'>`."""
    settings = data.get("policy_kwargs")
    named = settings.get("activation_fn") if isinstance(settings, dict) else None
    if named is None:
        return "tanh" if kind == "actor-critic" else "relu"
    name = str(named).rpartition(".")[2].strip("'> ")
    if name not in ACTIVATIONS:
        raise Refused(
            f"its activation is {name[:100]}, and those that are known here are {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def _algorithm(found: Policy, data: dict[str, Any], known: Statistics | None, steps: int) -> Playable:
    """The method with the policy's architecture, and our defaults for the rest."""
    if data.get("use_sde"):
        raise Refused("it was trained with use_sde=True, and there is no state-dependent exploration here")
    shared: dict[str, Any] = {
        "hidden": found.hidden,
        "activation": _activation(data, found.kind),
        "normalize_observation": known is not None,
        "normalize_reward": False,
    }
    if known is not None:
        shared["clip_observation"] = known.limit
    if found.kind == "actor-critic":
        return (PPO if "clip_range" in data else A2C)(**shared, action_units="raw", action_bounds="clip")
    shared["learning_starts"] = min(1000, steps)
    if found.kind == "dqn":
        return DQN(**shared)
    if found.kind == "sac":
        return SAC(**shared)
    return TD3(**shared, critics=len(found.params["action_value"]["head"]["bias"]))


def _with_weights(
    file: Path, state: PolicyState, found: Policy, name: str, say: Callable[[str], None]
) -> PolicyState:
    """The state with the weights of the file. Raises ValueError if its policy does not fit to the spaces."""
    encoder, head = state.policy.encoder, state.policy.head
    if encoder.images or len(encoder.leaves) != 1:
        raise ValueError(
            f"{file} cannot be imported for {name}: an MlpPolicy takes observations of one part that is no picture."
        )
    ours = encoder.leaves[0].width, head.num_outputs
    if ours != (found.inputs, found.outputs):
        raise ValueError(
            f"{file} does not fit to {name}: its policy takes {found.inputs} numbers and gives {found.outputs}, and "
            f"one for {name} takes {ours[0]} and gives {ours[1]}; name the environment in which it was trained."
        )
    params, left_out = _placed(state.params, found.params)
    if left_out:
        say(f"Not imported: {', '.join(left_out)}, which has other layers than the policy; it begins anew.")
    state = dataclasses.replace(state, params=params)
    if not isinstance(state, LearningState):
        return state
    target = {"action_value": state.target} if found.kind == "sac" else state.target
    target, _ = _placed(target, found.target)
    return dataclasses.replace(state, target=target["action_value"] if found.kind == "sac" else target)


def _placed(drawn: dict[str, Any], given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The drawn parameters with the given ones in their places, and the names of the critics that have other shapes.

    Raises ValueError for other shapes of what acts.
    """
    params, left_out = dict(drawn), []
    for name, new in given.items():
        new = {**drawn[name], **new} if name == "actor" else new
        here, there = (jax.tree.map(np.shape, tree) for tree in (drawn[name], new))
        if here == there:
            params[name] = jax.tree.map(jnp.asarray, new)
        elif name in ("critic", "action_value"):
            left_out.append(name)
        else:
            raise ValueError(f"The part {name} of the policy has the shapes {there}; {here} were expected.")
    return params, left_out


def _statistics(given: str | Path | Mapping[str, Any], steps: int) -> Statistics:
    """The statistics that the user has given. Raises ValueError if they are not whole."""
    source = "statistics" if isinstance(given, Mapping) else str(given)
    if not isinstance(given, Mapping):
        if Path(given).suffix in (".pkl", ".pickle"):
            raise ValueError(f"{given} {PICKLED}.")
        try:
            given = json.loads(Path(given).read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source} is not JSON ({error}).") from None
    expected = (
        'an object such as {"mean": [0.1, 0.2], "variance": [1.0, 2.5], "count": 100000, "limit": 10.0}'
    )
    if not isinstance(given, Mapping) or not {"mean", "variance"} <= given.keys() <= {*Statistics._fields}:
        raise ValueError(f"{source} is not allowed as statistics; use {expected}.")
    mean, variance = (_numbers(given[name]) for name in ("mean", "variance"))
    if mean is None or variance is None:
        raise ValueError(f"The mean and the variance of {source} are not lists of numbers; use {expected}.")
    count_and_limit = given.get("count", max(1, steps)), given.get("limit", 10.0)
    positive = _numbers(count_and_limit)
    if positive is None or not (
        len(mean) == len(variance)
        and np.isfinite([*mean, *variance, *positive]).all()
        and (variance >= 0).all()
        and (positive > 0).all()
    ):
        raise ValueError(f"The numbers of {source} are no statistics; use {expected}.")
    return Statistics(mean, variance, *map(float, count_and_limit))


def _numbers(given: Any) -> np.ndarray | None:
    """A list of numbers as float32, infinite where one is too large; None if it is none."""
    numbers = [plain_number(each) for each in plain_tuple(given) or (None,)]
    known = [x for x in numbers if x is not None]
    largest = float(np.finfo(np.float32).max)
    rounded = np.array([x if abs(x) <= largest else np.inf for x in known], np.float32)
    return rounded if len(known) == len(numbers) else None


def _with_statistics(state: PolicyState, known: Statistics | None, name: str) -> PolicyState:
    if known is None:
        return state
    if known.mean.shape != state.observations.mean.value.shape:
        raise ValueError(
            f"The statistics are of {len(known.mean)} numbers, and an observation of {name} has "
            f"{state.policy.encoder.num_continuous} that are scaled."
        )
    zero = jnp.zeros_like(state.observations.mean.value)
    moments = Moments(
        Compensated(jnp.float32(known.count), jnp.float32(0)),
        Compensated(jnp.asarray(known.mean), zero),
        Compensated(jnp.asarray(known.variance), zero),
    )
    return dataclasses.replace(state, observations=moments)
