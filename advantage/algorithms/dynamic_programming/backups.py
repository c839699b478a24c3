"""Bellman backups of a whole table: block by block of states, on several cores if the table is large."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import scipy

from advantage.environments.tables.mdp import MDP
from advantage.machine import available_cores

CACHED = 2**14  # states whose action values stay in a core's cache
FEW = 8  # the rows of a policy are chosen anew once it has changed in more than one state of this many
LARGE = 2**20  # number of probabilities from which several cores are faster
ROUNDING = 2.0**-53  # the largest relative error of one operation

Apply = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]


class Block(NamedTuple):
    """The table of a range of states.

    Attributes:
        states: the range.
        transition: dense `[n * A, S]`; sparse, one CSR `[A * n, S]`, or A of them, `[n, S]`, that share
            the table's memory.
        reward: `[A, n]`.
    """

    states: slice
    transition: Any
    reward: np.ndarray

    def expected(self, value: np.ndarray) -> Sequence[np.ndarray]:
        """`Σ_s' P(s' | s, a) value(s')`, for each action `[n]`."""
        if isinstance(self.transition, tuple):
            return [rows @ value for rows in self.transition]
        expected: Any = self.transition @ value
        if scipy.sparse.issparse(self.transition):
            return expected.reshape(self.reward.shape)
        return expected.reshape(self.reward.shape[::-1]).T

    def action_values(self, gamma: float, value: np.ndarray) -> Sequence[np.ndarray]:
        """`Q(s, a) = r(s, a) + gamma Σ_s' P(s' | s, a) value(s')`, for each action `[n]`."""
        q = self.expected(value)
        for values, reward in zip(q, self.reward, strict=True):
            values *= gamma
            values += reward
        return q


class Backup(NamedTuple):
    """The result of one application of the Bellman operator T to a value `v`.

    Attributes:
        value: `[S]`, `T v = max_a Q(s, a)`.
        policy: int32 `[S]`, the first action that attains the maximum.
        lowest, highest: the smallest and the largest entry of `T v - v`.
        size: the largest `|v|`.
    """

    value: np.ndarray
    policy: np.ndarray
    lowest: float
    highest: float
    size: float


def bellman(mdp: MDP, gamma: float, value: np.ndarray) -> Backup:
    """`T value`: every state backed up from the same value.

    Source: Bellman 1957, "Dynamic programming"; Sutton & Barto 2018, eq. 4.10.
    """
    result, policy = np.empty(mdp.n_states), np.empty(mdp.n_states, np.int32)

    def back_up(block: Block) -> tuple[float, float]:
        here = block.states
        policy[here], best = greedy(block.action_values(gamma, value))
        result[here] = best
        best -= value[here]
        return best.min(), best.max()

    with cores(mdp) as apply:
        lowest, highest = zip(*apply(back_up, blocks(mdp)), strict=True)
    return Backup(result, policy, float(min(lowest)), float(max(highest)), largest(value))


def greedy(action_values: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The first of the best actions, int32 `[n]`, and its value `[n]`, which overwrites the first action's values."""
    best = action_values[0]
    number = np.min_scalar_type(
        len(action_values)
    ).type  # a narrow type and no branches: five times as fast as argmax
    policy = np.zeros(len(best), number)
    for action, values in enumerate(action_values[1:], 1):
        np.maximum(policy, (values > best).view(np.uint8) * number(action), out=policy)
        np.maximum(best, values, out=best)
    return policy, best


def largest(value: np.ndarray) -> float:
    """`max |value|`."""
    return float(max(-value.min(), value.max()))


class Followed(NamedTuple):
    """The result of repeated backups of one policy; `lowest` and `highest` are the bounds of the last change."""

    value: np.ndarray
    lowest: float
    highest: float


def follow(
    mdp: MDP, gamma: float, policy: np.ndarray, value: np.ndarray, sweeps: int, enough: float = -1.0
) -> Followed:
    """`T_π` applied to `value` repeatedly: `v <- r_π + gamma P_π v`.

    Args:
        mdp, gamma: the problem.
        policy: int `[S]`.
        value: `[S]`, not written to.
        sweeps: largest number of sweeps, 1 or more.
        enough: ends the sweeps once the largest and the smallest change differ by no more than this.
    """
    old, new = np.empty(mdp.n_states), np.empty(mdp.n_states)

    def back_up(chain: Chain) -> tuple[float, float]:
        here = chain.states
        result = chain.expected(value)
        result *= gamma
        result += chain.reward
        new[here] = result
        result -= value[here]
        return result.min(), result.max()

    with cores(mdp) as apply:
        chains = _chains(mdp, policy, apply)
        for _ in range(sweeps):
            lowest, highest = map(list, zip(*apply(back_up, chains), strict=True))
            low, high = float(min(lowest)), float(max(highest))
            value, new, old = new, old, new
            if high - low <= enough:
                break
    return Followed(value, low, high)


class Chain(NamedTuple):
    """The rows of one policy for a range of states; rows of the few states where it has changed since are in `patch`.

    Attributes:
        states: the range.
        policy: int `[n]`, the policy that `rows` were chosen by.
        rows: `[n, S]`.
        reward: `[n]`, of the current policy.
        changed: int `[k]`, where the current policy differs from `policy`.
        patch: `[k, S]`, the rows there.
    """

    states: slice
    policy: np.ndarray
    rows: Any
    reward: np.ndarray
    changed: np.ndarray
    patch: Any

    def expected(self, value: np.ndarray) -> np.ndarray:
        """`Σ_s' P_π(s' | s) value(s')`, `[n]`."""
        expected = self.rows @ value
        if len(self.changed):
            expected[self.changed] = self.patch @ value
        return expected


def _chains(mdp: MDP, policy: np.ndarray, apply: Apply) -> list[Chain]:
    """The rows of a policy, block by block. Choosing rows costs as much as two sweeps, so they are kept."""
    kept: dict[int, Chain] = once(mdp, "chains", dict)

    def rows(here: slice, place: np.ndarray, action: np.ndarray) -> Any:
        state = here.start + place
        return (
            mdp.transition[action * mdp.n_states + state] if mdp.is_sparse else mdp.transition[state, action]
        )

    def choose(block: Block) -> Chain:
        here = block.states
        action, place = policy[here].astype(np.int64), np.arange(here.stop - here.start)
        reward = mdp.expected_reward[here][place, action]
        last = kept.get(here.start)
        changed = place if last is None else np.flatnonzero(last.policy != action)
        if last is None or FEW * len(changed) > len(place):
            last = Chain(here, action, rows(here, place, action), reward, place[:0], None)
            changed = place[:0]
        patch = rows(here, changed, action[changed]) if len(changed) else None
        kept[here.start] = last._replace(reward=reward, changed=changed, patch=patch)
        return kept[here.start]

    return apply(choose, blocks(mdp))


def action_values(mdp: MDP, gamma: float, value: np.ndarray) -> np.ndarray:
    """`Q(s, a) = r(s, a) + gamma Σ_s' P(s' | s, a) value(s')`, `[S, A]`."""
    result = np.empty((mdp.n_actions, mdp.n_states))

    def write(block: Block) -> None:
        for row, values in zip(result, block.action_values(gamma, value), strict=True):
            row[block.states] = values

    with cores(mdp) as apply:
        apply(write, blocks(mdp))
    return result.T


def blocks(mdp: MDP, number: int | None = None) -> tuple[Block, ...]:
    """The table cut into `number` ranges of states; by default each fits the cache."""

    def cut() -> tuple[Block, ...]:
        fitting = -(-mdp.n_states // CACHED) if mdp.is_sparse else 1
        ranges = min(number or fitting, mdp.n_states)
        edges = np.linspace(0, mdp.n_states, ranges + 1).astype(int).tolist()
        return tuple(_block(mdp, *edge) for edge in pairwise(edges))

    return once(mdp, ("blocks", number), cut)


class Facts(NamedTuple):
    """Properties of a table that the error bounds need.

    Attributes:
        widest: the largest number of successors of a state and action.
        least, most: the smallest and largest sum of a row of probabilities; 1 up to rounding.
        reward: the largest `|R|` of any outcome.
    """

    widest: int
    least: float
    most: float
    reward: float


def facts(mdp: MDP) -> Facts:
    """The properties of a table, computed at the first call."""

    def measure() -> Facts:
        if mdp.is_sparse:
            widest = int(np.diff(mdp.transition.indptr).max())
        else:
            widest = max(int(np.count_nonzero(rows, axis=1).max()) for rows in mdp.transition)
        ones = np.ones(mdp.n_states)
        with cores(mdp) as apply:
            sums = apply(
                lambda block: [edge(x) for x in block.expected(ones) for edge in (np.min, np.max)],
                blocks(mdp),
            )
        margin = widest * ROUNDING
        least, most = min(map(min, sums)) - margin, max(map(max, sums)) + margin
        rewards = mdp.reward.data if scipy.sparse.issparse(mdp.reward) else mdp.reward
        return Facts(widest, float(least), float(most), largest(rewards))

    return once(mdp, "facts", measure)


_KEPT: WeakKeyDictionary[MDP, dict[Any, Any]] = WeakKeyDictionary()


def once(mdp: MDP, name: Any, make: Callable[[], Any]) -> Any:
    """A result that depends on the table alone: made at the first call and kept as long as the table."""
    kept = _KEPT.setdefault(mdp, {})
    if name not in kept:
        kept[name] = make()
    return kept[name]


def stacked(mdp: MDP) -> Any:
    """The table as CSR `[A * S, S]`, row `a * S + s`: a sparse table as it is, a dense one converted."""
    if mdp.is_sparse:
        return mdp.transition
    return scipy.sparse.csr_array(mdp.transition.swapaxes(0, 1).reshape(-1, mdp.n_states))


def _block(mdp: MDP, first: int, last: int) -> Block:
    reward, n_states = mdp.expected_reward[first:last].T, mdp.n_states
    if not mdp.is_sparse:
        return Block(slice(first, last), mdp.transition[first:last].reshape(-1, n_states), reward)
    if (first, last) == (0, n_states):
        return Block(slice(first, last), mdp.transition, reward)
    rows = (
        rows_between(mdp.transition, a * n_states + first, a * n_states + last) for a in range(mdp.n_actions)
    )
    return Block(slice(first, last), tuple(rows), reward)


def rows_between(table: Any, first: int, last: int) -> Any:
    """Rows `first` to `last`, which share the table's memory; SciPy's constructor would copy a short piece."""
    begin, end = table.indptr[first], table.indptr[last]
    rows = scipy.sparse.csr_array((last - first, table.shape[1]))
    rows.data, rows.indices = table.data[begin:end], table.indices[begin:end]
    rows.indptr = table.indptr[first : last + 1] - begin
    return rows


@contextmanager
def cores(mdp: MDP) -> Iterator[Apply]:
    """A function that maps a function over blocks: in this thread, or on all cores if the table is sparse and large."""
    number = available_cores()
    if not mdp.is_sparse or mdp.transition.nnz < LARGE or number == 1:
        yield lambda function, items: [function(item) for item in items]
        return
    with ThreadPoolExecutor(number) as pool:
        yield lambda function, items: list(pool.map(function, items))
