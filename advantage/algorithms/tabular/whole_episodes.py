"""Learning from whole episodes, which are put together again from the rollouts that cut them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from advantage.algorithms.tabular.table import Sizes
from advantage.types import Array, Pytree, Rollout

Tables = TypeVar("Tables")
WINDOWS = 16, 128  # an episode that fits uses this many rows instead of L, since most are short


class Steps(NamedTuple):
    """Steps as table indices: `[T, B]`, or `[L]` for one episode.

    Attributes:
        state, next_state: rows of the table, int32; the true successor.
        action: int32.
        reward: float32.
        terminated: bool; the last step of an episode where this is False was truncated.
        extra: what else was recorded when acting, a pytree `[T, B, ...]`.
    """

    state: Array
    action: Array
    reward: Array
    next_state: Array
    terminated: Array
    extra: Pytree = ()


class Pending(NamedTuple):
    """The unfinished episode of each environment.

    Attributes:
        steps: `[L, B]`, the newest in the last row; the last `length` rows count.
        length: int32 `[B]`, steps since the episode's start; `L + 1` stands for any larger number.
    """

    steps: Steps
    length: Array


def steps_of(sizes: Sizes, rollout: Rollout, extra: Pytree = ()) -> Steps:
    """A rollout as table indices."""
    return Steps(
        sizes.index(rollout.obs),
        rollout.action.astype(jnp.int32),
        rollout.reward.astype(jnp.float32),
        sizes.index(rollout.next_obs),
        rollout.terminated,
        extra,
    )


def pending_init(max_episode: int, num_envs: int, extra: Pytree = ()) -> Pending:
    """The state before any step.

    Args:
        max_episode: L, steps of the longest episode that can be learned from.
        num_envs: B.
        extra: `Steps.extra` of one step; only shapes and types matter.
    """
    shape = max_episode, num_envs
    number, index, flag = (jnp.zeros(shape, dtype) for dtype in (jnp.float32, jnp.int32, bool))
    extra = jax.tree.map(lambda x: jnp.zeros(shape + jnp.shape(x), jnp.asarray(x).dtype), extra)
    return Pending(Steps(index, index, number, index, flag, extra), jnp.zeros(num_envs, jnp.int32))


def each_episode(
    learn: Callable[[Tables, Steps, Array], Tables],
    tables: Tables,
    pending: Pending,
    steps: Steps,
    truncated: Array,
) -> tuple[Tables, Pending, dict[str, Array]]:
    """Learn from every episode that these steps complete, one after another in the order of their ends.

    Episodes that end at the same step are taken in the order of the environments. Those of more than L steps are left
    out and counted.

    Args:
        learn: `(tables, episode, here) -> tables`; the episode is `[N]`, N at most L, and ends in its last row; `here`
            bool `[N]` says which rows belong to it: all from its first step on. The other rows hold arbitrary finite
            numbers.
        tables: a pytree of arrays that `learn` changes.
        pending: the unfinished episodes of earlier rollouts.
        steps: a rollout, `[T, B]`.
        truncated: bool `[T, B]`.

    Returns:
        The tables, the unfinished episodes, and the numbers of `episodes` learned from and `episodes_dropped`.
    """
    num_steps, num_envs = truncated.shape
    longest = pending.steps.reward.shape[0]
    done: Array = steps.terminated | truncated
    time = jnp.arange(num_steps)[:, None]
    last_end = jax.lax.cummax(jnp.where(done, time + 1, -pending.length))  # each step's own end included
    length = time + 1 - jnp.concatenate([-pending.length[None], last_end[:-1]])
    complete = done & (length <= longest)
    window = jax.tree.map(lambda old, new: jnp.concatenate([old, new]), pending.steps, steps)
    order = jnp.flatnonzero(complete, size=complete.size, fill_value=0)
    count = complete.sum(dtype=jnp.int32)

    size = length.ravel()[order]

    def one(rows, carry):
        n, tables = carry
        t, env = jnp.divmod(order[n], num_envs)

        def column(x):
            rest = x.shape[2:]
            first = t + 1 + longest - rows
            return jax.lax.dynamic_slice(x, (first, env, *(0 for _ in rest)), (rows, 1, *rest))[:, 0]

        here = jnp.arange(rows) >= rows - size[n]
        return n + 1, learn(tables, jax.tree.map(column, window), here)

    tables = _in_windows(one, tables, size=size, count=count, longest=longest)
    length = jnp.minimum(num_steps - last_end[-1], longest + 1)
    left = Pending(jax.tree.map(lambda x: x[num_steps:], window), length)
    counts = {"episodes": count, "episodes_dropped": done.sum(dtype=jnp.int32) - count}
    return tables, left, counts


def _in_windows(
    one: Callable[[int, tuple[Array, Tables]], tuple[Array, Tables]],
    tables: Tables,
    *,
    size: Array,
    count: Array,
    longest: int,
) -> Tables:
    """`one(rows, (n, tables)) -> n + 1, tables` for each of `count` episodes n, with rows enough for its `size[n]`."""

    def by_size(carry):
        """The next episodes that fit into the smallest window, then those that need a larger one."""
        for shorter, rows in pairwise([0, *(rows for rows in WINDOWS if rows < longest), longest]):

            def fits(carry, shorter=shorter, rows=rows):
                n, _ = carry
                return (n < count) & (shorter < size[n]) & (size[n] <= rows)

            carry = jax.lax.while_loop(fits, partial(one, rows), carry)
        return carry

    return jax.lax.while_loop(lambda carry: carry[0] < count, by_size, (jnp.int32(0), tables))[1]


def first_visits(place: Array, here: Array, size: int) -> Array:
    """Which steps of an episode are the first at their place, bool `[L]`.

    Args:
        place: int `[L]`, a state, or a pair of state and action as one number below `size`.
        here: bool `[L]`, the steps that count.
        size: how many places there are.
    """
    time = jnp.arange(place.shape[0])
    earliest = jnp.full(size, place.shape[0]).at[place].min(jnp.where(here, time, place.shape[0]))
    return here & (earliest[place] == time)
