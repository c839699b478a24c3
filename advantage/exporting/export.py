"""Export of a trained policy: as NumPy source, as an ONNX model, or as a compiled program."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
import safetensors.numpy
from gymnasium import spaces

from advantage.agent import Agent, load
from advantage.algorithms.registry import algorithm_name
from advantage.environments.defect import needed
from advantage.environments.spaces import environment_action, space_to_json
from advantage.exporting.numpy_source import numpy_source
from advantage.exporting.onnx_model import onnx_model
from advantage.exporting.program import NotWritable, Program, program_of
from advantage.plain_values import plain_path
from advantage.runs.compilation import in_single_precision
from advantage.types import Pytree

Format = Literal["numpy", "onnx", "stablehlo"]
WEIGHTS, FACTS, MODULE = "weights.safetensors", "policy.json", "policy.py"
MODEL, PROGRAM = "policy.onnx", "policy.stablehlo"

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
    """{what} for one observation, in the environment's own units."""

    def __init__(self, folder=HERE{seed}):
        self.weights = load_file(Path(folder) / "weights.safetensors")
        self.facts = json.loads((Path(folder) / "policy.json").read_text())
{generator}
    def initial_memory(self):
        """What the policy remembers when an episode begins; [] without memory."""
        return [self.weights[name].copy() for name in self.facts["initial_memory"]]

    def act(self, obs, memory=(){noise}):
        """The action for one observation, and the memory for the next call."""
        w = self.weights
{body}
        return {action}, [{memory}]
'''

GENERATOR = '''        self.draw = np.random.default_rng(seed)

    def noise(self):
        """The random numbers of one action."""
        draw = {"uniform": self.draw.random, "normal": self.draw.standard_normal}
        return [draw[each["kind"]](each["shape"], np.float32) for each in self.facts["noise"]]
'''


@in_single_precision
def export(
    agent: Agent | str | Path, out: str | Path, *, format: Format = "numpy", deterministic: bool = True
) -> Path:
    """Write a trained policy so that programs without this library can use it.

    Observations are the environment's, without a batch axis; their statistics, masks and memories are part of the
    policy. The file `policy.json` says where the policy comes from, and in these formats:

        numpy      `policy.py`, which needs numpy and safetensors only, and `weights.safetensors`
        onnx       `policy.onnx`, a model of opset 18 for onnxruntime and its like
        stablehlo  `policy.stablehlo`, a program for `jax.export`

    A policy that samples takes random numbers too: in NumPy they are drawn if they are not given, in ONNX they are
    inputs, uniform in [0, 1) or standard normal, and in StableHLO the data of a key takes their place.

    Args:
        agent: an agent, or the folder of its run.
        out: a new folder.
        format: see above.
        deterministic: the most likely action; False samples.

    Returns:
        The folder.

    Raises:
        ValueError: a format that there is not, or a policy with an operation that the format does not have.
        MissingExtra: the format needs a package that is not installed.
        FileExistsError: `out` exists.
    """
    if format not in get_args(Format):
        raise ValueError(f"format={format!r} is not allowed; use one of {', '.join(get_args(Format))}.")
    trained = agent if isinstance(agent, Agent) else load(agent)
    folder = plain_path("out", out)
    folder.mkdir(parents=True)
    write = {"numpy": _write_numpy, "onnx": _write_onnx, "stablehlo": _write_stablehlo}[format]
    try:
        facts = {"format": format, "deterministic": deterministic} | write(trained, folder, deterministic)
        (folder / FACTS).write_text(json.dumps(_facts(trained) | facts, indent=1) + "\n")
    except NotWritable as error:
        shutil.rmtree(folder)
        others = "stablehlo" if format == "numpy" else "numpy or stablehlo"
        raise ValueError(
            f"This policy needs the operation {error}, which the format {format} does not have; use another one: "
            f"--format {others} (format=)."
        ) from None
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
    """`(obs, memory[, key]) -> action, memory`, of one environment."""
    algorithm: Any = agent.algorithm
    actor, spec = agent.actor.actor, agent.spec

    def act(obs: Pytree, memory: Pytree, *key: Any) -> tuple[Pytree, Pytree]:
        batch, remembered = jax.tree.map(lambda x: x[None], (obs, memory))
        if deterministic:
            action, after = algorithm.greedy(actor, batch, remembered)
        else:
            noise = algorithm.noise(actor, *key, (1,))
            action, after, _ = algorithm.act(actor, batch, remembered, noise)
        action = environment_action(spec.action_space, action, spec.action_units)
        return jax.tree.map(lambda x: x[0], (action, after))

    return act


class Traced(NamedTuple):
    """A policy as a program; its inputs are the leaves of an observation and of the memory, and a key without use.

    Attributes:
        observation, action: shapes and types, in the environment's structure.
        memory: the leaves of the initial memory.
    """

    program: Program
    observation: Pytree
    action: Pytree
    memory: list[np.ndarray]


def _traced(agent: Agent, deterministic: bool) -> Traced:
    act, example, memory = (
        _act(agent, deterministic),
        _example(agent.spec.observation_space),
        agent.initial_memory(),
    )
    key = () if deterministic else (jax.eval_shape(jax.random.key, 0),)
    program = program_of(act, example, memory, *key)
    shapes = jax.eval_shape(act, example, memory, *key)
    return Traced(program, example, shapes[0], list(map(np.asarray, jax.tree.leaves(memory))))


def _noise_facts(program: Program) -> list[dict[str, Any]]:
    return [
        {"name": f"noise_{n}", "kind": each.kind, "shape": list(each.shape)}
        for n, each in enumerate(program.noise)
    ]


def _write_numpy(agent: Agent, folder: Path, deterministic: bool) -> dict[str, Any]:
    program, example, shapes, memory = _traced(agent, deterministic)
    source = numpy_source(program)
    leaves, names = jax.tree_util.tree_leaves_with_path(example), iter(program.inputs)
    lines = [
        f"{next(names)} = np.asarray(obs{jax.tree_util.keystr(path)}, np.{leaf.dtype})"
        for path, leaf in leaves
    ]
    lines += [f"{next(names)} = memory[{n}]" for n in range(len(memory))]
    if program.noise:
        lines.append("noise = self.noise() if noise is None else noise")
    lines += [f"{each.name} = noise[{n}]" for n, each in enumerate(program.noise)]
    count = len(jax.tree.leaves(shapes))
    results = iter(source.outputs[:count])
    text = TEMPLATE.format(
        what="An action drawn from the policy" if program.noise else "The most likely action",
        seed=", seed=None" if program.noise else "",
        generator=GENERATOR if program.noise else "",
        noise=", noise=None" if program.noise else "",
        body="\n".join(f"        {line}" for line in lines + source.lines),
        action=_literal(jax.tree.map(lambda _: next(results), shapes)),
        memory=", ".join(source.outputs[count:]),
    )
    (folder / MODULE).write_text(text)
    tensors = source.constants | {f"memory{n}": x for n, x in enumerate(memory)}
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in tensors.items()}, folder / WEIGHTS
    )
    return {"noise": _noise_facts(program), "initial_memory": [f"memory{n}" for n in range(len(memory))]}


def _literal(tree: Pytree) -> str:
    """A nested structure of names as Python source."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{name!r}: {_literal(part)}" for name, part in tree.items()) + "}"
    if isinstance(tree, tuple):
        return "(" + "".join(f"{_literal(part)}, " for part in tree) + ")"
    return str(tree)


def _write_onnx(agent: Agent, folder: Path, deterministic: bool) -> dict[str, Any]:
    program, example, shapes, memory = _traced(agent, deterministic)
    observation, action = _named("obs", example), _named("action", shapes)
    remembered = {f"memory_{n}": x for n, x in enumerate(memory)}
    noise = _noise_facts(program)
    described = observation | remembered
    described |= {each["name"]: jax.ShapeDtypeStruct(each["shape"], np.float32) for each in noise}
    inner = [*program.inputs[: len(observation) + len(memory)], *(each.name for each in program.noise)]
    outputs = [*action, *(f"next_{name}" for name in remembered)]
    model = onnx_model(program, dict(zip(inner, described, strict=True)), outputs, [*described.values()])
    (folder / MODEL).write_bytes(model)
    return {
        "observation": [_described(name, x) for name, x in observation.items()],
        "action": [_described(name, x) for name, x in action.items()],
        "memory": [_described(name, x) | {"initial": x.tolist()} for name, x in remembered.items()],
        "noise": noise,
    }


def _named(root: str, tree: Pytree) -> dict[str, Any]:
    """The leaves of a nested structure by their place in it, such as `obs/camera`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join([root, *(jax.tree_util.keystr((step,), simple=True) for step in path)]): x
        for path, x in leaves
    }


def _described(name: str, x: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(x.shape), "dtype": str(x.dtype)}


def _write_stablehlo(agent: Agent, folder: Path, deterministic: bool) -> dict[str, Any]:
    from jax import export as jax_export

    needed("flatbuffers", "The format stablehlo", "export")
    example, memory = _example(agent.spec.observation_space), agent.initial_memory()
    shapes = jax.eval_shape(lambda: memory)
    key = () if deterministic else (jax.ShapeDtypeStruct((2,), np.uint32),)
    flat, structure = jax.tree.flatten((example, shapes, *key))
    act = _act(agent, deterministic)

    def program(*leaves: Any) -> list[Any]:
        obs, memory, *data = structure.unflatten(leaves)
        return jax.tree.leaves(act(obs, memory, *map(jax.random.wrap_key_data, data)))

    exported = jax_export.export(jax.jit(program), platforms=("cpu", "cuda", "tpu"))(*flat)
    (folder / PROGRAM).write_bytes(exported.serialize())
    tensors = {f"memory{n}": np.asarray(x) for n, x in enumerate(jax.tree.leaves(memory))}
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)
    return {
        "arguments": [{"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for leaf in flat],
        "initial_memory": [*tensors],
    }
