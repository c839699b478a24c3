"""Export of a trained policy: as NumPy source, or as a compiled program."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np
import safetensors.numpy
from gymnasium import spaces

from advantage.agent import Agent, load
from advantage.algorithms.registry import algorithm_name
from advantage.environments.defect import MissingExtra
from advantage.environments.spaces import environment_action, leaf_spaces, space_to_json
from advantage.exporting.numpy_source import NotWritable, numpy_source
from advantage.runs.compilation import in_single_precision
from advantage.types import Pytree

Format = Literal["numpy", "stablehlo"]
WEIGHTS, FACTS, MODULE, PROGRAM = "weights.safetensors", "policy.json", "policy.py", "policy.stablehlo"

TEMPLATE = '''"""A trained policy in NumPy, written by `advantage export`; it needs numpy and safetensors.

    from policy import Policy

    policy = Policy()
    memory = policy.initial_memory()            # when an episode begins
    action, memory = policy.act(obs, memory)
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).parent


class Policy:
    """The most likely action for one observation, in the environment's own units."""

    def __init__(self, folder=HERE):
        self.weights = load_file(Path(folder) / "weights.safetensors")
        self.facts = json.loads((Path(folder) / "policy.json").read_text())

    def initial_memory(self):
        """What the policy remembers when an episode begins; [] without memory."""
        return [self.weights[name].copy() for name in self.facts["initial_memory"]]

    def act(self, obs, memory=()):
        """The action for one observation, and the memory for the next call."""
        w = self.weights
{body}
        return {action}, [{memory}]
'''


@in_single_precision
def export(
    agent: Agent | str | Path, out: str | Path, *, format: Format = "numpy", deterministic: bool = True
) -> Path:
    """Write a trained policy so that programs without this library can use it.

    `numpy` writes a folder with `policy.py`, which needs numpy and safetensors only, `weights.safetensors` and
    `policy.json`. `stablehlo` writes `policy.stablehlo`, a program of (observation, memory) for `jax.export`, or of
    (observation, memory, key data) if it samples. Observations are the environment's, without a batch axis; their
    statistics, masks and memories are part of the policy.

    Args:
        agent: an agent, or the folder of its run.
        out: a new folder.
        format: see above.
        deterministic: the most likely action; False samples, which only `stablehlo` can.

    Returns:
        The folder.

    Raises:
        ValueError: a format that there is not, sampling in NumPy, or a policy whose operations NumPy does not have.
        MissingExtra: the format needs a package that is not installed.
        FileExistsError: `out` exists.
    """
    if format not in get_args(Format):
        raise ValueError(f"format={format!r} is not allowed; use one of {', '.join(get_args(Format))}.")
    if format == "numpy" and not deterministic:
        raise ValueError(
            "The format numpy has no random numbers of JAX; use format='stablehlo' to sample, or deterministic=True."
        )
    trained = agent if isinstance(agent, Agent) else load(agent)
    folder = Path(out)
    folder.mkdir(parents=True)
    try:
        write = _write_numpy if format == "numpy" else _write_stablehlo
        facts = write(trained, folder, deterministic)
        (folder / FACTS).write_text(json.dumps(_facts(trained) | facts, indent=1) + "\n")
    except BaseException:
        shutil.rmtree(folder)
        raise
    return folder


def _facts(agent: Agent) -> dict[str, Any]:
    return {
        "algorithm": algorithm_name(agent.algorithm),
        "environment": agent.environment,
        "step": agent.step,
        "observation_space": space_to_json(agent.spec.observation_space),
        "action_space": space_to_json(agent.spec.action_space),
    }


def _example(space: spaces.Space) -> Pytree:
    """Shapes and types of one observation."""
    if isinstance(space, spaces.Dict):
        return {name: _example(part) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_example(part) for part in space.spaces)
    return jax.ShapeDtypeStruct(space.shape or (), jax.dtypes.canonicalize_dtype(space.dtype))


def _act(agent: Agent, deterministic: bool) -> Any:
    """`(obs, memory[, key data]) -> action, memory`, of one environment."""
    algorithm: Any = agent.algorithm
    actor, spec = agent.actor.actor, agent.spec

    def act(obs: Pytree, memory: Pytree, *key: Any) -> tuple[Pytree, Pytree]:
        batch, remembered = jax.tree.map(lambda x: x[None], (obs, memory))
        if deterministic:
            action, after = algorithm.greedy(actor, batch, remembered)
        else:
            noise = algorithm.noise(actor, jax.random.wrap_key_data(key[0]), (1,))
            action, after, _ = algorithm.act(actor, batch, remembered, noise)
        action = environment_action(spec.action_space, action, spec.action_units)
        return jax.tree.map(lambda x: x[0], (action, after))

    return act


def _write_numpy(agent: Agent, folder: Path, deterministic: bool) -> dict[str, Any]:
    example, memory = _example(agent.spec.observation_space), agent.initial_memory()
    act = _act(agent, deterministic)
    try:
        source = numpy_source(act, example, memory)
    except NotWritable as error:
        raise ValueError(
            f"This policy needs the operation {error}, which the format numpy does not have; use format='stablehlo' "
            "(--format stablehlo)."
        ) from None
    shapes = jax.eval_shape(act, example, memory)
    paths = [path for path, _ in leaf_spaces(agent.spec.observation_space)]
    order = [str(jax.tree_util.keystr(path)) for path, _ in jax.tree_util.tree_leaves_with_path(example)]
    known = {"".join(f"[{step!r}]" for step in path): path for path in paths}
    lines = []
    for name, place, leaf in zip(source.inputs, order, jax.tree.leaves(example), strict=False):
        lines.append(f"{name} = np.asarray(obs{place if place in known else ''}, np.{leaf.dtype})")
    remembered = jax.tree.leaves(memory)
    for number, name in enumerate(source.inputs[len(order) :]):
        lines.append(f"{name} = memory[{number}]")
    lines += source.lines
    results = source.outputs
    count = len(jax.tree.leaves(shapes[0]))
    names = iter(results[:count])
    structure = jax.tree.map(lambda _: next(names), shapes[0])
    body = "\n".join(f"        {line}" for line in lines)
    text = TEMPLATE.format(body=body, action=_literal(structure), memory=", ".join(results[count:]))
    (folder / MODULE).write_text(text)
    tensors = source.constants | {f"memory{n}": np.asarray(x) for n, x in enumerate(remembered)}
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in tensors.items()}, folder / WEIGHTS
    )
    return {"format": "numpy", "initial_memory": [f"memory{n}" for n in range(len(remembered))]}


def _literal(tree: Pytree) -> str:
    """A nested structure of names as Python source."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{name!r}: {_literal(part)}" for name, part in tree.items()) + "}"
    if isinstance(tree, tuple):
        return "(" + "".join(f"{_literal(part)}, " for part in tree) + ")"
    return str(tree)


def _write_stablehlo(agent: Agent, folder: Path, deterministic: bool) -> dict[str, Any]:
    from jax import export as jax_export

    try:
        importlib.import_module("flatbuffers")
    except ImportError as error:
        raise MissingExtra(
            f"The format stablehlo needs a package that is not installed ({error}). Install it with: pip install "
            '"advantage[export]"'
        ) from None
    example, memory = _example(agent.spec.observation_space), agent.initial_memory()
    shapes = jax.eval_shape(lambda: memory)
    key = () if deterministic else (jax.ShapeDtypeStruct((2,), np.uint32),)
    flat, structure = jax.tree.flatten((example, shapes, *key))
    act = _act(agent, deterministic)

    def program(*leaves: Any) -> list[Any]:
        return jax.tree.leaves(act(*structure.unflatten(leaves)))

    exported = jax_export.export(jax.jit(program), platforms=("cpu", "cuda", "tpu"))(*flat)
    (folder / PROGRAM).write_bytes(exported.serialize())
    tensors = {f"memory{n}": np.asarray(x) for n, x in enumerate(jax.tree.leaves(memory))}
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)
    return {
        "format": "stablehlo",
        "deterministic": deterministic,
        "arguments": [{"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for leaf in flat],
        "initial_memory": [*tensors],
    }
