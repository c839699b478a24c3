"""Random Markov decision processes of any size."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy

from advantage.environments.tables.arrays import LARGEST_DENSE, refuse_dense
from advantage.environments.tables.mdp import MDP
from advantage.machine import refuse_large
from advantage.plain_values import require_whole

BYTES_TO_DRAW = 32  # bytes per entry, about: its value, its index, and temporary arrays


def random_mdp(
    n_states: int = 100,
    n_actions: int = 4,
    branching: int = 5,
    seed: int = 0,
    *,
    reward: Literal["action", "transition"] = "action",
    as_sparse: bool | None = None,
    gamma: float = 0.95,
    max_episode_steps: int = 1000,
) -> MDP:
    """A "Garnet": every state and action leads to `branching` different states, drawn at random.

    The successors are a uniformly drawn subset. Their probabilities are the gaps between `branching - 1` uniform
    numbers in [0, 1] and thus uniform on the simplex. Rewards are standard normal. Episodes start in any state, never
    terminate, and are truncated.

    Args:
        n_states, n_actions, branching: the size; `branching` is at most `n_states`.
        seed: the same seed gives the same table.
        reward: one reward for each state and action, `[S, A]`, or one for each transition.
        as_sparse: whether the table is sparse; None decides by its size.
        gamma, max_episode_steps: as in `MDP`.

    Raises:
        ValueError: a size that is not allowed, or a table that would not fit into memory.

    Source: Archibald, McKinnon & Thomas 1995, "On the generation of Markov decision processes".
    """
    sizes = {"n_states": n_states, "n_actions": n_actions, "branching": branching}
    n_states, n_actions, branching = (require_whole(name, size, 1) for name, size in sizes.items())
    if branching > n_states:
        raise ValueError(f"branching={branching} is more than the number of states, {n_states}; use fewer.")
    if reward not in ("action", "transition"):
        raise ValueError(f"reward={reward!r} is not allowed; use 'action' or 'transition'.")
    if as_sparse is None:
        as_sparse = n_states * n_actions * n_states > LARGEST_DENSE
    if not as_sparse:
        refuse_dense(n_states, n_actions, tables=2)
    entries = n_states * n_actions * branching
    what = f"Drawing a table of {n_states:_} states, {n_actions} actions and {branching} successors"
    refuse_large(what, BYTES_TO_DRAW * entries, "use fewer")
    rng, rows = np.random.default_rng(seed), n_actions * n_states
    successor = _subsets(rng, rows, n_states, branching)
    probability = rng.standard_exponential((rows, branching))  # normalised: gaps between uniform numbers
    probability /= probability.sum(axis=1, keepdims=True)
    offsets = np.arange(0, rows * branching + 1, branching, dtype=_index_type(rows * branching))

    def table(values: np.ndarray) -> Any:
        flat = scipy.sparse.csr_array((values.ravel(), successor.ravel(), offsets), shape=(rows, n_states))
        if as_sparse:
            return flat
        return np.ascontiguousarray(flat.toarray().reshape(n_actions, n_states, n_states).swapaxes(0, 1))

    if reward == "transition":
        rewards = table(rng.standard_normal((rows, branching)))
    else:
        rewards = rng.standard_normal((n_states, n_actions))
    return MDP(table(probability), rewards, gamma=gamma, max_episode_steps=max_episode_steps)


def _subsets(rng: np.random.Generator, rows: int, size: int, count: int) -> np.ndarray:
    """`rows` uniformly drawn subsets of `count` numbers below `size`, sorted: `[rows, count]`.

    Floyd's method, for all rows at once: draw from the first `j + 1` numbers, and take `j` if the drawn number is in
    the subset already (Bentley & Floyd 1987, "A sample of brilliance").
    """
    chosen = np.empty((rows, count), _index_type(max(size, rows * count)))
    for place, last in enumerate(range(size - count, size)):
        drawn = rng.integers(0, last + 1, rows, dtype=chosen.dtype)
        taken = np.zeros(rows, bool)
        for earlier in range(place):
            taken |= chosen[:, earlier] == drawn
        drawn[taken] = last
        chosen[:, place] = drawn
    chosen.sort(axis=1)
    return chosen


def _index_type(largest: int) -> type:
    """The integer type that SciPy uses for indices up to `largest`."""
    return np.int32 if largest < 2**31 else np.int64
