"""A policy given as a table, for methods that only evaluate it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from advantage.algorithms.tabular.table import Sizes
from advantage.types import Array, Pytree

if TYPE_CHECKING:
    PolicyTable = Any
else:
    PolicyTable = str | None  # what the command line can read: a file's name
TOLERANCE = 1e-5  # how far the sum of a row of probabilities, perhaps float32, may be from one


class GivenPolicy:
    """Probabilities `[S, A]`, or an action for each state, int `[S]`; immutable and hashable, so that it is static.

    Raises:
        ValueError: another shape, or a row that is not a distribution; the message names the first.
    """

    def __init__(self, table: Any):
        try:
            table = np.array(table)
        except ValueError:
            raise ValueError(
                "policy has rows of different lengths; give one of A numbers for each state."
            ) from None
        if table.ndim == 1 and table.dtype.kind in "iu":
            for s in np.flatnonzero(table < 0)[:1]:
                raise ValueError(f"policy[{s}] = {table[s]} is not an action; actions are numbered from 0.")
        elif table.ndim == 2 and table.dtype.kind in "iuf":
            table = table.astype(np.float64)
            sound = (table >= 0).all(1) & (np.abs(table.sum(1) - 1) <= TOLERANCE)
            for s in np.flatnonzero(~sound)[:1]:
                raise ValueError(
                    f"policy[{s}] = {table[s].tolist()} is not a distribution: its sum is {table[s].sum():g}; give "
                    "numbers of 0 or more that sum to 1."
                )
        else:
            raise ValueError(
                f"policy has shape {table.shape} and type {table.dtype}; give probabilities [S, A], or an action for "
                "each state, whole numbers [S]."
            )
        table.flags.writeable = False
        self.table = table
        self._hash = hash((table.shape, table.tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, GivenPolicy) and np.array_equal(self.table, other.table))

    def __repr__(self) -> str:
        return f"GivenPolicy(shape={self.table.shape})"

    def tolist(self) -> list:
        """For JSON."""
        return self.table.tolist()


def given(policy: Any) -> GivenPolicy | None:
    """The policy that a user gave: None, a table, a file with one, or a `GivenPolicy`.

    Raises:
        ValueError: a file that cannot be read; `GivenPolicy`'s.
    """
    if isinstance(policy, str | Path):
        policy = _read(Path(policy))
    return policy if policy is None or isinstance(policy, GivenPolicy) else GivenPolicy(policy)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"policy={str(path)!r} cannot be read as a policy ({error}); give a .json file such as [0, 1, 1] or "
            "[[0.5, 0.5], [1, 0]], or an array saved by numpy.save as .npy."
        ) from None


class Follow(NamedTuple):
    """An actor: a fixed policy, restricted to the actions that an observation's mask allows.

    Attributes:
        sizes: of the tables.
        cumulative: `[S, A]`, the probability of this action or one before it; 2 from the last possible one on.
        likeliest: int32 `[S]`, the first of several.
    """

    sizes: Sizes
    cumulative: Array
    likeliest: Array

    def sample(self, obs: Pytree, noise: Array) -> Array:
        """Draw from the policy, `noise` uniform in [0, 1)."""
        cumulative = self.cumulative[self.sizes.index(obs)]
        mask = self.sizes.mask(obs)
        if mask is not None:
            total = self._allowed(obs, mask).cumsum(-1)
            cumulative = jnp.where(total < total[..., -1:], total / total[..., -1:], 2)
        return (noise[..., None] >= cumulative).sum(-1, dtype=jnp.int32)

    def best(self, obs: Pytree) -> Array:
        """The most probable action."""
        mask = self.sizes.mask(obs)
        if mask is not None:
            return self._allowed(obs, mask).argmax(-1).astype(jnp.int32)
        return self.likeliest[self.sizes.index(obs)]

    def _allowed(self, obs: Pytree, mask: Array) -> Array:
        """Weights `[..., A]`: the policy's for the actions that the mask allows; all equal if it takes none of them."""
        until = jnp.minimum(self.cumulative[self.sizes.index(obs)], 1)
        weights = jnp.where(mask, jnp.diff(until, axis=-1, prepend=0), 0)
        return jnp.where(weights.sum(-1, keepdims=True) > 0, weights, 1.0 * mask)


def probabilities(policy: GivenPolicy | None, sizes: Sizes) -> np.ndarray:
    """`pi(a | s)` of a policy, float64 `[S, A]`; None is uniformly random.

    Raises:
        ValueError: a table that does not fit the spaces.
    """
    n_states, actions = sizes.n_states, sizes.actions
    if policy is None:
        return np.full((n_states, actions), 1 / actions)
    table = policy.table
    if table.shape not in ((n_states,), (n_states, actions)):
        raise ValueError(
            f"policy has shape {table.shape}; here it is [S, A] = [{n_states}, {actions}], or [S] = [{n_states}]."
        )
    if table.ndim == 2:
        return table
    for s in np.flatnonzero(table >= actions)[:1]:
        raise ValueError(f"policy[{s}] = {table[s]} is not an action; actions are 0 to {actions - 1}.")
    return np.eye(actions)[table]


def follow(policy: GivenPolicy | None, sizes: Sizes) -> Follow:
    """The actor of a policy; None is uniformly random. Raises ValueError for a table that does not fit the spaces."""
    table = probabilities(policy, sizes)
    last = sizes.actions - 1 - (table[:, ::-1] > 0).argmax(1)
    cumulative = np.where(np.arange(sizes.actions) >= last[:, None], 2, table.cumsum(1))
    return Follow(sizes, jnp.asarray(cumulative, jnp.float32), jnp.asarray(table.argmax(1), jnp.int32))
