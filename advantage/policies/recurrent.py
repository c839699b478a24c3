"""Recurrent networks: a feed-forward base, and a cell that passes a memory from step to step.

`Recurrent.unroll` unrolls a sequence. Gradients go back through time within the sequence, but not across the beginning
of an episode, where the memory is reset to the initial one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from advantage.policies.networks import Initialisation, Network, linear, linear_init
from advantage.rows import choose
from advantage.types import Array, Key, Pytree


class Cell(Protocol):
    """One step of recurrence, as pure functions; frozen and hashable."""

    def init(self, key: Key, x: Array) -> Pytree:
        """Draw parameters; `x` `[..., d]` is an input, and only its shape matters."""
        ...

    def initial(self) -> Pytree:
        """The memory of one environment at the beginning of an episode, without a batch axis."""
        ...

    def apply(self, params: Pytree, x: Array, memory: Pytree) -> tuple[Array, Pytree]:
        """`-> features [..., k], the next memory`, in NumPy or JAX."""
        ...


@dataclasses.dataclass(frozen=True)
class GRU:
    """Gated recurrent unit: the features are the memory, `[..., size]`.

        r, z = sigmoid(x W_r + h U_r + b_r), sigmoid(x W_z + h U_z + b_z)
        n    = tanh(x W_n + b_n + r (h U_n + c_n))
        h'   = (1 - z) n + z h

    With a `span`, the biases of z are drawn so that units remember for 1 to span - 1 steps at first: see `span_bias`.

    Source: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", eq. 5 to 8, with the reset
    gate applied after the matrix product, as in cuDNN.
    """

    size: int
    initialisation: Initialisation = "orthogonal"
    span: int | None = None

    def init(self, key: Key, x: Array) -> Pytree:
        params = _gates_init(key, x.shape[-1], self.size, gates=3, initialisation=self.initialisation)
        if self.span is None:
            return params
        keep = span_bias(key, self.size, self.span)
        bias = jnp.zeros(3 * self.size).at[self.size : 2 * self.size].set(keep)
        return params | {"input": params["input"] | {"bias": bias}}

    def initial(self) -> Array:
        return jnp.zeros(self.size)

    def apply(self, params: Pytree, x: Array, memory: Array) -> tuple[Array, Array]:
        seen, remembered, n = linear(params["input"], x), linear(params["memory"], memory), self.size
        reset = sigmoid(seen[..., :n] + remembered[..., :n])
        keep = sigmoid(seen[..., n : 2 * n] + remembered[..., n : 2 * n])
        xp = x.__array_namespace__()
        new = xp.tanh(seen[..., 2 * n :] + reset * remembered[..., 2 * n :])
        after = (1 - keep) * new + keep * memory
        return after, after


@dataclasses.dataclass(frozen=True)
class LSTM:
    """Long short-term memory: the memory is `(h, c)`, each `[..., size]`, and the features are `h`.

        i, f, o = sigmoid(x W + h U + b) of each gate;  g = tanh(x W_g + h U_g + b_g)
        c'      = f c + i g
        h'      = o tanh(c')

    The bias of the forget gate is initialised to 1; with a `span`, it is drawn as `span_bias` says, and the bias of the
    input gate is its negative.

    Source: Hochreiter & Schmidhuber 1997, "Long short-term memory"; Gers et al. 2000, "Learning to forget", for the
    forget gate.
    """

    size: int
    initialisation: Initialisation = "orthogonal"
    span: int | None = None

    def init(self, key: Key, x: Array) -> Pytree:
        params = _gates_init(key, x.shape[-1], self.size, gates=4, initialisation=self.initialisation)
        keep = jnp.ones(self.size) if self.span is None else span_bias(key, self.size, self.span)
        take = 0.0 if self.span is None else -keep
        bias = jnp.zeros(4 * self.size).at[: self.size].set(take).at[self.size : 2 * self.size].set(keep)
        return params | {"input": params["input"] | {"bias": bias}}

    def initial(self) -> tuple[Array, Array]:
        return jnp.zeros(self.size), jnp.zeros(self.size)

    def apply(
        self, params: Pytree, x: Array, memory: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array, Array]]:
        (h, c), n, xp = memory, self.size, x.__array_namespace__()
        gates = linear(params["input"], x) + linear(params["memory"], h)
        take, keep, show = (sigmoid(gates[..., i * n : (i + 1) * n]) for i in range(3))
        c = keep * c + take * xp.tanh(gates[..., 3 * n :])
        h = show * xp.tanh(c)
        return h, (h, c)


@dataclasses.dataclass(frozen=True)
class CustomCell:
    """A cell from three functions of your own.

    Attributes:
        init_function: `(key, x) -> params`.
        apply_function: `(params, x, memory) -> features [..., k], memory`.
        initial_function: `() -> memory` for one environment.
    """

    init_function: Callable[[Key, Array], Pytree]
    apply_function: Callable[[Pytree, Array, Pytree], tuple[Array, Pytree]]
    initial_function: Callable[[], Pytree]

    def init(self, key: Key, x: Array) -> Pytree:
        return self.init_function(key, x)

    def initial(self) -> Pytree:
        return self.initial_function()

    def apply(self, params: Pytree, x: Array, memory: Pytree) -> tuple[Array, Pytree]:
        return self.apply_function(params, x, memory)


class Sequences(NamedTuple):
    """Parts of episodes that a recurrent network processes step by step.

    Attributes:
        x: the networks' input, `[L, N, ...]`: N sequences of L steps.
        begins: bool `[L, N]`, whether an episode begins with this step.
        memory: the memories of actor and critic before the first step, `[N, ...]`.
    """

    x: Pytree
    begins: Array
    memory: Memories


class Memories(NamedTuple):
    """The memories of the actor's and of the critic's network; the critic's is `()` if they share a network."""

    actor: Pytree
    critic: Pytree


class Unrolled(NamedTuple):
    """A network's features `[L, N, k]`, and its memory before and after each step, `[L, N, ...]`."""

    features: Array
    before: Pytree
    after: Pytree


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """A network with a memory: a `cell` after the features of `base`, or after the input if there is no base.

    Parameters are `{"base", "cell"}`.
    """

    cell: Cell
    base: Network | None = None

    def init(self, key: Key, x: Pytree) -> Pytree:
        key_base, key_cell = jax.random.split(key)
        base = () if self.base is None else self.base.init(key_base, x)
        shapes = jax.eval_shape(self._features, base, x)
        features = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        params = {"base": base, "cell": self.cell.init(key_cell, features)}
        self._check(params, x)
        return params

    def initial(self) -> Pytree:
        """The memory at the beginning of an episode, without a batch axis."""
        return jax.tree.map(jnp.asarray, self.cell.initial())

    def apply(self, params: Pytree, x: Pytree, memory: Pytree) -> tuple[Array, Pytree]:
        """One step of every environment: `-> features [..., k], the next memory`."""
        return self.cell.apply(params["cell"], self._features(params["base"], x), memory)

    def unroll(self, params: Pytree, x: Pytree, begins: Array, memory: Pytree) -> Unrolled:
        """Apply the network to sequences, step by step.

        Args:
            params: the network's parameters.
            x: the input, `[L, N, ...]`.
            begins: bool `[L, N]`; steps where it is true use the initial memory.
            memory: the memory before the first step, `[N, ...]`.
        """
        initial = self.initial()

        def step(memory: Pytree, row: tuple[Array, Array]) -> tuple[Pytree, tuple[Array, Pytree, Pytree]]:
            features, begins = row
            memory = jax.tree.map(partial(choose, begins), initial, memory)
            out, after = self.cell.apply(params["cell"], features, memory)
            return after, (out, memory, after)

        rows = (
            self._features(params["base"], x),
            begins,
        )  # the base has no memory, so it is computed for all steps at once
        return Unrolled(*jax.lax.scan(step, memory, rows)[1])

    def _features(self, base: Pytree, x: Pytree) -> Pytree:
        return x if self.base is None else self.base.apply(base, x)

    def _check(self, params: Pytree, x: Pytree) -> None:
        """Raises ValueError for a cell whose memory changes its structure, shapes or dtypes from step to step."""
        rows = jax.tree.leaves(x)[0].shape[0]
        memory = jax.eval_shape(
            lambda: jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), self.initial())
        )
        after = jax.eval_shape(self.apply, params, x, memory)[1]
        here, there = _describe(memory), _describe(after)
        if here != there:
            raise ValueError(
                f"The recurrent network begins with a memory of {here} and returns one of {there}, with the axis of "
                "environments in front. Both must have the same structure, shapes and dtypes: correct what "
                "initial() returns, or the memory that apply(params, x, memory) returns."
            )


Gated = Literal["gru", "lstm"]
NetworkChoice = Gated | Network | Recurrent | tuple[Callable[..., Any], ...] | None
"""What a method takes as its `network`; None gives a network of `hidden` layers, or of convolutions for images."""


def span_bias(key: Key, size: int, span: int) -> Array:
    """Biases of a gate that keeps a memory, `[size]`: `log u`, u uniform from 1 to `span - 1`, 2 or more.

    A gate with bias b and no other input keeps the share `sigmoid(b) = u / (1 + u)` in each step, so what a unit
    remembers fades in about `1 + u` steps.

    Source: Tallec & Ollivier 2018, "Can recurrent neural networks warp time?", eq. 16.
    """
    drawn = jax.random.uniform(jax.random.fold_in(key, 1), (size,), minval=1.0, maxval=float(span - 1))
    return jnp.log(drawn)


def sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))`, without overflow."""
    return 0.5 * (1 + x.__array_namespace__().tanh(0.5 * x))


def _gates_init(key: Key, inputs: int, size: int, *, gates: int, initialisation: Initialisation) -> Pytree:
    """Weights of all gates for the input and for the memory, side by side."""
    shapes = [(inputs, size)] * gates + [(size, size)] * gates
    layers = linear_init(key, shapes, [1.0] * len(shapes), initialisation)

    def joined(parts: list[Pytree]) -> Pytree:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), *parts)

    return {"input": joined(layers[:gates]), "memory": joined(layers[gates:])}


def _describe(memory: Pytree) -> str:
    leaves, structure = jax.tree.flatten(memory)
    return f"{structure} with " + ", ".join(f"{leaf.dtype} {list(leaf.shape)}" for leaf in leaves)
