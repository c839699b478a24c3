"""Networks written with Flax or Equinox, as `init` and `apply`, with or without a memory.

The parameters are a module's trainable arrays and nothing else; they are saved and restored like those of any network.
The rest of a module (activation functions, sizes, constants) is built again by the function that makes the module.
Modules with state besides their parameters, such as batch statistics or random streams, are refused.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, overload

import jax
import jax.numpy as jnp

from advantage.environments.defect import needed
from advantage.policies.networks import Network
from advantage.policies.recurrent import Recurrent
from advantage.types import Array, Key, Pytree


@overload
def from_flax(module: Any) -> Network: ...
@overload
def from_flax(module: Any, initial: Callable[[], Pytree]) -> Recurrent: ...
def from_flax(module: Any, initial: Callable[[], Pytree] | None = None) -> Network | Recurrent:
    """A network from Flax: a `flax.linen` module, or a function that makes a `flax.nnx` module.

    The module takes `x` with leading batch axes, a vector `[..., d]`, an image `[..., H, W, C]` or a tuple of
    both, and returns features `[..., k]`.

    Args:
        module: a `flax.linen.Module`; or `make(rngs, x) -> flax.nnx.Module`, where `x` is one zero input with
            a batch axis and has the sizes. Actor and critic each get their own parameters from it.
        initial: for a recurrent network, `initial() -> memory` for one environment. The module then takes
            `x, memory` and returns `features, memory`, all with the same batch axes.

    Raises:
        MissingExtra: Flax is not installed.
        ValueError: an argument of another type, or a module that cannot be hashed.
    """
    needed("flax", "adv.from_flax", "flax")
    from flax import linen, nnx

    if isinstance(module, linen.Module):
        try:
            hash(module)
        except TypeError:
            raise ValueError(
                f"The Flax module {type(module).__name__} cannot be hashed, so no program can be compiled "
                "for it; use tuples for its attributes instead of lists or arrays."
            ) from None
        return _with_memory(LinenNetwork(module), initial)
    unmade = isinstance(module, type) and issubclass(module, linen.Module)
    if callable(module) and not unmade and not isinstance(module, nnx.Module):
        return _with_memory(NNXNetwork(module), initial)
    raise ValueError(
        f"from_flax was given {_describe(module)}; give a flax.linen module, or a function that makes a "
        "flax.nnx module: from_flax(lambda rngs, x: MyModule(x.shape[-1], rngs=rngs))."
    )


@overload
def from_equinox(make: Callable[[Key, Any], Any]) -> Network: ...
@overload
def from_equinox(make: Callable[[Key, Any], Any], initial: Callable[[], Pytree]) -> Recurrent: ...
def from_equinox(
    make: Callable[[Key, Any], Any], initial: Callable[[], Pytree] | None = None
) -> Network | Recurrent:
    """A network from Equinox: a function that makes a module.

    As usual in Equinox, the module takes one `x` without batch axes, a vector `[d]`, an image `[H, W, C]` or
    a tuple of both, and returns features `[k]`; batch axes are added by vmap. Images have their channels last,
    but `eqx.nn.Conv2d` needs them first: begin with `jnp.moveaxis(x, -1, 0)`.

    Args:
        make: `(key, x) -> eqx.Module`, where `x` is one zero input and has the sizes. The parameters, which are
            floating-point arrays, are drawn with the key; all the rest must be the same for every key.
        initial: for a recurrent network, `initial() -> memory`. The module then takes `x, memory` and returns
            `features, memory`.

    Raises:
        MissingExtra: Equinox is not installed.
        ValueError: `make` is not a function.
    """
    eqx = needed("equinox", "adv.from_equinox", "equinox")
    if not callable(make) or isinstance(make, eqx.Module):
        raise ValueError(
            f"from_equinox was given {_describe(make)}; give a function that makes the module, because actor "
            "and critic each make their own: from_equinox(lambda key, x: MyModule(x.size, key=key))."
        )
    return _with_memory(EquinoxNetwork(make), initial)


def _with_memory(network: LibraryNetwork, initial: Callable[[], Pytree] | None) -> LibraryNetwork | Recurrent:
    return network if initial is None else Recurrent(LibraryCell(network, initial))


@dataclasses.dataclass(frozen=True)
class LibraryCell:
    """A module that takes `x, memory` and returns `features, memory`, and its initial memory."""

    network: LibraryNetwork
    initial_function: Callable[[], Pytree]

    def init(self, key: Key, x: Pytree) -> Pytree:
        rows = jax.tree.leaves(x)[0].shape[0]
        memory = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *jnp.shape(leaf))), self.initial())
        try:
            return self.network.init(key, x, memory)
        except ValueError:
            raise
        except Exception as error:
            shapes = ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(memory))
            raise ValueError(
                f"The recurrent network cannot be called as module(x, memory) with a memory of {shapes}, batch axis "
                f"included ({type(error).__name__}: {error}). It must take x and memory and return features and "
                "memory, and initial() must return a memory of the shapes that it expects."
            ) from error

    def initial(self) -> Pytree:
        return self.initial_function()

    def apply(self, params: Pytree, x: Pytree, memory: Pytree) -> tuple[Array, Pytree]:
        return self.network.apply(params, x, memory)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["sample"])
@dataclasses.dataclass(frozen=True)
class ModuleParams:
    """A module's trainable arrays by name, and the structure and shapes of one input, without batch axes."""

    arrays: Pytree
    sample: Any


@dataclasses.dataclass(frozen=True)
class LinenNetwork:
    """A `flax.linen` module; its parameters are the collection `params`."""

    module: Any

    def init(self, key: Key, x: Pytree, *memory: Pytree) -> Pytree:
        variables = self.module.init(key, x, *memory)
        _refuse(self.module, sorted(variables.keys() - {"params"}))
        params = variables.get("params", {})
        _check_output(
            self.module, jax.eval_shape(self.apply, params, x, *memory), _leading(x, _sample(x)), memory
        )
        return params

    def apply(self, params: Pytree, x: Pytree, *memory: Pytree) -> Any:
        return self.module.apply({"params": params}, x, *memory)


@dataclasses.dataclass(frozen=True)
class NNXNetwork:
    """A `flax.nnx` module, given by a function that makes it; its parameters are its `nnx.Param`s."""

    make: Callable[[Any, Any], Any]

    def init(self, key: Key, x: Pytree, *memory: Pytree) -> ModuleParams:
        sample = _sample(x)
        _, arrays = _nnx_parts(self.make, sample, key)
        params = ModuleParams(arrays, sample)
        _check_output(self.make, jax.eval_shape(self.apply, params, x, *memory), _leading(x, sample), memory)
        return params

    def apply(self, params: ModuleParams, x: Pytree, *memory: Pytree) -> Any:
        from flax import nnx

        return nnx.merge(_nnx_graph(self.make, params.sample), params.arrays)(x, *memory)


def _nnx_parts(make: Callable, sample: Any, key: Key) -> tuple[Any, Pytree]:
    from flax import nnx

    module = make(nnx.Rngs(key), _zeros(sample, batch=(1,)))
    if not isinstance(module, nnx.Module):
        raise ValueError(
            f"from_flax: the function made {_describe(module)}; it must return a flax.nnx.Module."
        )
    graph, params, others = nnx.split(module, nnx.Param, ...)
    states = jax.tree.leaves(others, is_leaf=lambda node: isinstance(node, nnx.Variable))
    _refuse(module, sorted({type(state).__name__ for state in states}))
    return graph, nnx.to_pure_dict(params)


@functools.lru_cache(maxsize=64)
def _nnx_graph(make: Callable, sample: Any) -> Any:
    with jax.ensure_compile_time_eval():
        return _nnx_parts(make, sample, jax.random.key(0))[0]


@dataclasses.dataclass(frozen=True)
class EquinoxNetwork:
    """An Equinox module, given by a function that makes it; its parameters are its floating-point arrays."""

    make: Callable[[Key, Any], Any]

    def init(self, key: Key, x: Pytree, *memory: Pytree) -> ModuleParams:
        sample = _sample(x)
        arrays, _ = _equinox_parts(self.make, sample, key)
        params = ModuleParams(_by_name(arrays), sample)
        _check_output(self.make, jax.eval_shape(self.apply, params, x, *memory), _leading(x, sample), memory)
        return params

    def apply(self, params: ModuleParams, x: Pytree, *memory: Pytree) -> Any:
        import equinox as eqx

        names, treedef, static = _equinox_static(self.make, params.sample)
        module = eqx.combine(treedef.unflatten([params.arrays[name] for name in names]), static)
        leading = _leading(x, params.sample)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(leading) :]), (x, *memory))
        return jax.tree.map(lambda leaf: leaf.reshape(*leading, *leaf.shape[1:]), jax.vmap(module)(*flat))


def _equinox_parts(make: Callable, sample: Any, key: Key) -> tuple[Any, Any]:
    """The module's floating-point arrays, and the rest of the module."""
    import equinox as eqx

    with jax.debug_key_reuse(False):  # another library may use a key twice
        module = make(key, _zeros(sample))
    if not isinstance(module, eqx.Module) or not callable(module):
        raise ValueError(
            f"from_equinox: the function made {_describe(module)}; it must return a callable eqx.Module."
        )
    nodes = jax.tree.leaves(module, is_leaf=lambda node: isinstance(node, eqx.nn.StateIndex))
    _refuse(module, sorted({type(node).__name__ for node in nodes if isinstance(node, eqx.nn.StateIndex)}))
    return eqx.partition(module, eqx.is_inexact_array)


@functools.lru_cache(maxsize=64)
def _equinox_static(make: Callable, sample: Any) -> tuple[list[str], Any, Any]:
    """The parameters' names and structure, and the rest of the module, which is the same for every key."""
    with jax.ensure_compile_time_eval():
        arrays, static = _equinox_parts(make, sample, jax.random.key(0))
    return list(_by_name(arrays)), jax.tree.structure(arrays), static


LibraryNetwork = LinenNetwork | NNXNetwork | EquinoxNetwork


def _by_name(tree: Pytree) -> dict[str, Array]:
    """The leaves in order, with their paths as names: `layers.0.weight`."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def _sample(x: Pytree) -> tuple[Any, tuple[tuple[int, ...], ...]]:
    """Structure and shapes of one input, from a batch with one leading axis; hashable."""
    leaves, structure = jax.tree.flatten(x)
    return structure, tuple(tuple(leaf.shape[1:]) for leaf in leaves)


def _zeros(sample: Any, batch: tuple[int, ...] = ()) -> Pytree:
    structure, shapes = sample
    return structure.unflatten([jnp.zeros((*batch, *shape)) for shape in shapes])


def _leading(x: Pytree, sample: Any) -> tuple[int, ...]:
    leaf, shape = jax.tree.leaves(x)[0], sample[1][0]
    return tuple(leaf.shape[: leaf.ndim - len(shape)])


def _check_output(module: Any, output: Any, leading: tuple[int, ...], memory: tuple[Pytree, ...]) -> None:
    """Raises ValueError unless the output is features, or, for a recurrent network, features and a memory."""
    if memory and (not isinstance(output, tuple) or len(output) != 2):
        raise ValueError(
            f"The network from {_describe(module)} is recurrent and returned {type(output).__name__}; it must return a "
            "tuple of two, features and the next memory."
        )
    features = output[0] if memory else output
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) != len(leading) + 1 or shape[:-1] != leading:
        found = f"shape {shape}" if shape is not None else type(features).__name__
        raise ValueError(
            f"The network from {_describe(module)} returned {found} for inputs with batch axes {leading}; it "
            f"must return one vector of features for each: shape ({', '.join(map(str, leading))}, k)."
        )


def _refuse(module: Any, others: list[str]) -> None:
    if others:
        raise ValueError(
            f"The module {type(module).__name__} has {', '.join(others)} besides its parameters, but only "
            "parameters are trained and saved; use LayerNorm instead of BatchNorm, and no dropout."
        )


def _describe(thing: Any) -> str:
    name = getattr(thing, "__qualname__", None)
    return name if name else f"a {type(thing).__name__}"
