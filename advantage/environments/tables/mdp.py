"""Markov chains, Markov decision processes and partially observed ones as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import gymnasium
import numpy as np
from scipy import sparse

from advantage.machine import refuse_large

TOLERANCE = 1e-8  # by which a row of probabilities may miss one
LARGEST_DENSE = 2**21  # entries up to which a table that may be either is dense

Outcome = tuple[float, int, float, bool]
"""`(probability, next state, reward, terminated)`, as in Gymnasium's toy-text environments."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the states of a world lie in the plane, for pictures: state `row * columns + column`.

    Attributes:
        rows, columns: the size.
        moves: what each action does, `(down, right)`; for arrows.
        walls: states that are none.
    """

    rows: int
    columns: int
    moves: tuple[tuple[int, int], ...]
    walls: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class MarkovChain:
    """A Markov chain: `P(s_{t+1} = j | s_t = i) = transition[i, j]`.

    Attributes:
        transition: `[S, S]`, a NumPy array or a SciPy CSR array; rows sum to one.
        start: `[S]`, the distribution of `s_0`; uniform if not given.

    Raises:
        ValueError: a wrong shape, or an entry or row that is no distribution; names the first.
    """

    transition: Any
    start: Any = None

    def __post_init__(self):
        transition = _freeze(_table(self.transition, "transition"))
        _require_shape("transition", transition.shape, (transition.shape[0], transition.shape[0]), "[S, S]")
        _check_rows(transition, lambda row: f"transition[{row}]")
        _set(self, transition=transition, start=_start(self.start, np.ones(transition.shape[0], bool)))

    @property
    def n_states(self) -> int:
        return self.transition.shape[0]


@dataclasses.dataclass(frozen=True, eq=False)
class MDP:
    """A finite Markov decision process; immutable.

    Dense, `transition[s, a, s'] = P(s' | s, a)`. Sparse, the same table as one SciPy CSR array `[A * S, S]` whose
    row `a * S + s` is that distribution: the actions' matrices stacked.

    Attributes:
        transition: `[S, A, S]`, or CSR `[A * S, S]`, or a sequence of A sparse `[S, S]`; each row sums to one.
        reward: what a step earns: `[S, A]`, or by successor too: `[S, A, S]`, or CSR with the entries of `transition`.
        start: `[S]`, the distribution of the first state; uniform over the states that are not terminal if not given.
        terminal: bool `[S]`: an episode that arrives here has terminated. Such a state leads to itself and earns 0.
        gamma: the discount that the problem is posed with, in [0, 1].
        grid: where the states lie, if they do, for pictures.
        max_episode_steps: where episodes are truncated when the table is played as an environment.

    Raises:
        ValueError: a table that is not one; names the first offence by its index.
    """

    transition: Any
    reward: Any
    start: Any = None
    terminal: Any = None
    gamma: float = 0.99
    grid: Grid | None = None
    max_episode_steps: int = 1000

    def __post_init__(self):
        transition, reward = self.transition, self.reward
        if isinstance(transition, Sequence) and transition and sparse.issparse(transition[0]):
            transition = sparse.vstack(transition, format="csr")
        transition = _table(transition, "transition")
        if sparse.issparse(transition):
            n_states = transition.shape[1]
            if n_states == 0 or transition.shape[0] % n_states:
                raise ValueError(
                    f"transition has shape {transition.shape}; sparse, it is [A * S, S]: row a * S + s holds "
                    "P(. | s, a)."
                )
            n_actions = transition.shape[0] // n_states
        else:
            _require_shape(
                "transition", transition.shape, (*transition.shape[:2], transition.shape[0]), "[S, A, S]"
            )
            n_states, n_actions = transition.shape[:2]
        terminal = np.zeros(n_states, bool) if self.terminal is None else np.asarray(self.terminal)
        if terminal.dtype != bool:
            raise ValueError(f"terminal has type {terminal.dtype}; use an array of bool, one for each state.")
        _require_shape("terminal", terminal.shape, (n_states,), "[S]")
        number = isinstance(self.gamma, int | float) and not isinstance(self.gamma, bool)
        if not number or not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma={self.gamma!r} is not allowed; use a value in [0, 1].")
        if type(self.max_episode_steps) is not int or self.max_episode_steps < 1:
            raise ValueError(
                f"max_episode_steps={self.max_episode_steps!r} is not allowed; use a whole number of 1 or more."
            )
        _set(
            self,
            transition=_freeze(transition),
            reward=_freeze(_table(reward, "reward")),
            start=_start(self.start, ~terminal),
            terminal=_freeze(np.array(terminal)),
            gamma=float(self.gamma),
        )
        self._check(n_states, n_actions)

    @property
    def n_states(self) -> int:
        return self.transition.shape[-1]

    @property
    def n_actions(self) -> int:
        return self.transition.shape[0] // self.n_states if self.is_sparse else self.transition.shape[1]

    @property
    def is_sparse(self) -> bool:
        return sparse.issparse(self.transition)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(map(_nbytes, (self.transition, self.reward, self.start, self.terminal)))

    @cached_property
    def expected_reward(self) -> np.ndarray:
        """`r(s, a) = E[R | s, a]`, `[S, A]`."""
        if self.reward.ndim == 2 and not sparse.issparse(self.reward):
            return self.reward
        if not self.is_sparse:
            return _freeze(np.einsum("ijk,ijk->ij", self.transition, self.reward))
        earned = self.transition.data * self.reward.data  # entry by entry: a successor may be listed twice
        products = sparse.csr_array(
            (earned, self.transition.indices, self.transition.indptr), shape=self.transition.shape
        ).sum(axis=1)
        return _freeze(np.asarray(products, float).reshape(self.n_actions, self.n_states).T)

    def expected(self, value: np.ndarray) -> np.ndarray:
        """`E[value(s') | s, a] = Σ_s' P(s' | s, a) value(s')`: `[S] -> [S, A]`."""
        if self.is_sparse:
            return (self.transition @ value).reshape(self.n_actions, self.n_states).T
        return self.transition @ value

    def rows(self, policy: Any) -> Any:
        """`P_π[s, s'] = Σ_a π(a | s) P(s' | s, a)`, `[S, S]`, sparse where the table is.

        Args:
            policy: int `[S]`, an action for each state, or `[S, A]`, a distribution over actions for each.
        """
        probabilities = self.probabilities(policy)
        if not self.is_sparse:
            return np.einsum("ij,ijk->ik", probabilities, self.transition)
        if np.ndim(policy) == 1:
            return self.transition[np.asarray(policy, np.int64) * self.n_states + np.arange(self.n_states)]
        action, state = np.nonzero(probabilities.T)
        weights = (probabilities.T[action, state], (state, action * self.n_states + state))
        return sparse.csr_array(weights, shape=(self.n_states, self.transition.shape[0])) @ self.transition

    def probabilities(self, policy: Any) -> np.ndarray:
        """A policy as a table `[S, A]` of probabilities; `[S]` holds an action for each state.

        Raises:
            ValueError: a wrong shape, an unknown action, or a row that is no distribution; names the first.
        """
        policy = np.asarray(policy)
        if policy.ndim == 1 and policy.dtype.kind in "iu":
            _require_shape("policy", policy.shape, (self.n_states,), "[S]")
            bad = np.flatnonzero((policy < 0) | (policy >= self.n_actions))
            if len(bad):
                raise ValueError(
                    f"policy[{bad[0]}] = {policy[bad[0]]} is no action; there are 0 to {self.n_actions - 1}."
                )
            return np.eye(self.n_actions)[policy]
        _require_shape("policy", policy.shape, (self.n_states, self.n_actions), "[S, A]")
        _check_rows(policy.astype(float), lambda row: f"policy[{row}]")
        return policy.astype(float)

    def chain(self, policy: Any) -> MarkovChain:
        """What remains when a policy decides: the chain with `P_π` and the same start."""
        return MarkovChain(self.rows(policy), self.start)

    def _check(self, n_states: int, n_actions: int) -> None:
        """Raises ValueError for the first entry that makes this no MDP."""

        def name(row: int) -> str:
            if not self.is_sparse:
                return f"transition[{row // n_actions}, {row % n_actions}]"
            return f"transition[{row}] (state {row % n_states}, action {row // n_states})"

        dense = not self.is_sparse
        _check_rows(self.transition.reshape(-1, n_states) if dense else self.transition, name)
        reward = self.reward
        if sparse.issparse(reward) or (dense and reward.ndim == 3):
            _require_shape("reward", reward.shape, self.transition.shape, "that of transition")
        else:
            _require_shape("reward", reward.shape, (n_states, n_actions), "[S, A]")
        entries = reward.data if sparse.issparse(reward) else reward
        if entries.size and not (np.isfinite(entries.min()) and np.isfinite(entries.max())):
            first = np.flatnonzero(~np.isfinite(entries))[0]
            index = _place(reward, int(first))
            raise ValueError(f"reward{list(index)} = {entries.ravel()[first]}; rewards are finite numbers.")
        if sparse.issparse(reward) and not (
            np.array_equal(reward.indptr, self.transition.indptr)
            and np.array_equal(reward.indices, self.transition.indices)
        ):
            raise ValueError("A sparse reward has the entries of transition: the same indptr and indices.")
        self._check_terminal(n_states, n_actions)

    def _check_terminal(self, n_states: int, n_actions: int) -> None:
        ends = np.flatnonzero(self.terminal)
        if not len(ends):
            return
        stays, earned = self._stays(ends), self.expected_reward[ends]
        wrong = np.argwhere((stays < 1 - TOLERANCE) | (abs(earned) > TOLERANCE))
        if len(wrong):
            place, action = map(int, wrong[0])
            raise ValueError(
                f"State {ends[place]} is terminal, but action {action} there stays with probability "
                f"{stays[place, action]:g} and earns {earned[place, action]:g}; a terminal state leads to itself and "
                "earns 0."
            )
        reached = reachable(self)
        lost = ends[~reached[ends]]
        if len(lost):
            raise ValueError(
                f"State {lost[0]} is terminal, but no start state leads to it; drop it from terminal, or mend start "
                "or transition."
            )

    def _stays(self, states: np.ndarray) -> np.ndarray:
        """`P(s | s, a)` of some states, `[N, A]`."""
        if not self.is_sparse:
            return self.transition[states, :, states]
        rows = (states[:, None] + self.n_states * np.arange(self.n_actions)).ravel()
        part = self.transition[rows]
        row = np.repeat(np.arange(len(rows)), np.diff(part.indptr))
        here = part.indices == rows[row] % self.n_states
        return np.bincount(row[here], part.data[here], len(rows)).reshape(len(states), self.n_actions)

    @classmethod
    def from_function(
        cls,
        n_states: int,
        n_actions: int,
        outcomes: Callable[[int, int], Iterable[Outcome]],
        *,
        as_sparse: bool | None = None,
        **fields: Any,
    ) -> MDP:
        """The table of a function `outcomes(s, a) -> [(p, s', r, terminated), ...]`.

        A state that is entered with `terminated` becomes terminal: whatever `outcomes` says of it afterwards is
        ignored, and from any state that the start leads to it must always be entered so. Outcomes with the same
        successor are merged and earn their mean.

        Args:
            n_states, n_actions: the size.
            outcomes: called once for each state and action.
            as_sparse: whether the table is sparse; None decides by its size.
            **fields: `start`, `gamma`, `grid`, `max_episode_steps`.

        Raises:
            ValueError: a successor out of range, one that is entered both with `terminated` and without, or a table
                that would not fit into memory.
        """
        as_sparse = n_states * n_actions * n_states > LARGEST_DENSE if as_sparse is None else as_sparse
        if not as_sparse:
            refuse_dense(n_states, n_actions, tables=2)
        listed = [
            (state, action, *outcome)
            for state in range(n_states)
            for action in range(n_actions)
            for outcome in outcomes(state, action)
            if outcome[0] != 0
        ]
        if not listed:
            raise ValueError(
                "outcomes gives nothing for any state and action; it lists (p, s', r, terminated)."
            )
        state, action, weight, successor, reward, ends = map(np.array, zip(*listed, strict=True))
        out_of_range = np.flatnonzero((successor < 0) | (successor >= n_states))
        if len(out_of_range):
            s, a, _, wrong, *_ = listed[out_of_range[0]]
            raise ValueError(f"outcomes({s}, {a}) leads to state {wrong}; there are 0 to {n_states - 1}.")
        terminal = _ends(state, successor, ends.astype(bool), fields.get("start"), n_states)
        kept, absorbed = ~terminal[state], np.flatnonzero(terminal)
        stay = (np.arange(n_actions)[:, None] * n_states + absorbed).ravel()
        rows = np.concatenate([(action * n_states + state)[kept], stay])
        columns = np.concatenate([successor[kept], stay % n_states])
        ones = np.ones(len(stay))
        weights = np.concatenate([weight[kept], ones])
        earned = np.concatenate([(weight * reward)[kept], 0 * ones])
        shape = n_actions * n_states, n_states
        transition = sparse.coo_array((weights, (rows, columns)), shape=shape).tocsr()
        sums = sparse.coo_array((earned, (rows, columns)), shape=shape).tocsr()
        means = np.divide(sums.data, transition.data)
        rewards = sparse.csr_array((means, transition.indices, transition.indptr), shape=shape)
        if as_sparse:
            return cls(transition, rewards, terminal=terminal, **fields)
        dense = [
            table.toarray().reshape(n_actions, n_states, n_states).swapaxes(0, 1)
            for table in (transition, rewards)
        ]
        return cls(*map(np.ascontiguousarray, dense), terminal=terminal, **fields)

    @classmethod
    def from_gymnasium(cls, environment: Any, **fields: Any) -> MDP:
        """The table of a Gymnasium environment that has one: FrozenLake, Taxi, CliffWalking, or your own.

        Args:
            environment: a name, or an environment whose `unwrapped` has `P[s][a] = [(p, s', r, terminated), ...]`
                and, for its starts, `initial_state_distrib` `[S]`.
            **fields: `gamma`, `as_sparse`, or what replaces what was found: `start`, `grid`, `max_episode_steps`.

        Raises:
            ValueError: an environment without a table.
        """
        env = gymnasium.make(environment) if isinstance(environment, str) else environment
        inner: Any = env.unwrapped
        table = getattr(inner, "P", None)
        if table is None:
            raise ValueError(
                f"{env} has no table: P[s][a] = [(probability, next state, reward, terminated), ...]. Build one with "
                "adv.MDP.from_function, or from its transitions with adv.MDP.from_samples."
            )
        found: dict[str, Any] = {"start": getattr(inner, "initial_state_distrib", None)}
        if env.spec is not None and env.spec.max_episode_steps:
            found["max_episode_steps"] = env.spec.max_episode_steps
        spaces: Any = env.observation_space, env.action_space
        n_states, n_actions = (int(space.n) for space in spaces)
        rows, columns = getattr(inner, "shape", None) or (
            getattr(inner, "nrow", 0),
            getattr(inner, "ncol", 0),
        )
        moves = {
            "FrozenLake": ((0, -1), (1, 0), (0, 1), (-1, 0)),
            "CliffWalking": ((-1, 0), (0, 1), (1, 0), (0, -1)),
        }
        known = next((arrows for name, arrows in moves.items() if name in type(inner).__name__), None)
        if known and rows * columns == n_states:
            found["grid"] = Grid(int(rows), int(columns), known)
        return cls.from_function(n_states, n_actions, lambda s, a: table[s][a], **(found | fields))

    @classmethod
    def from_samples(
        cls,
        state: Any,
        action: Any,
        reward: Any,
        next_state: Any,
        terminated: Any,
        *,
        n_states: int | None = None,
        n_actions: int | None = None,
        unseen: Literal["refuse", "stay"] = "refuse",
        **fields: Any,
    ) -> MDP:
        """The most likely table for transitions that were seen: relative frequencies and mean rewards.

        Args:
            state, action, reward, next_state, terminated: arrays `[N]`.
            n_states, n_actions: the size; by default the largest number seen plus one.
            unseen: what a pair of state and action does that was never seen: refuse to build the table, or lead back
                to its state and earn nothing.
            **fields: `start`, `gamma`, `as_sparse`, `grid`, `max_episode_steps`.

        Raises:
            ValueError: arrays of different lengths, a number out of range, or an unseen pair.
        """
        columns = [np.asarray(x) for x in (state, action, reward, next_state, terminated)]
        lengths = {len(x) for x in columns}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError(
                f"The samples have lengths {[len(x) for x in columns]}; give as many of each, and some."
            )
        if unseen not in ("refuse", "stay"):
            raise ValueError(f"unseen={unseen!r} is not allowed; use 'refuse' or 'stay'.")
        n_states = int(max(columns[0].max(), columns[3].max())) + 1 if n_states is None else n_states
        n_actions = int(columns[1].max()) + 1 if n_actions is None else n_actions
        for name, numbers, size in (
            ("state", columns[0], n_states),
            ("action", columns[1], n_actions),
            ("next_state", columns[3], n_states),
        ):
            wrong = np.flatnonzero((numbers < 0) | (numbers >= size))
            if len(wrong):
                raise ValueError(
                    f"{name}[{wrong[0]}] = {numbers[wrong[0]]} is out of range; there are 0 to {size - 1}."
                )
        seen: dict[tuple[int, int], dict[tuple[int, bool], list[float]]] = {}
        for s, a, r, successor, ended in zip(*(x.tolist() for x in columns), strict=True):
            seen.setdefault((s, a), {}).setdefault((successor, bool(ended)), []).append(r)
        ends = {successor for outcomes in seen.values() for successor, ended in outcomes if ended}

        def outcomes(s: int, a: int) -> list[Outcome]:
            if (s, a) not in seen:
                if unseen == "refuse" and s not in ends:
                    raise ValueError(
                        f"State {s} with action {a} was never seen; take more samples, or pass unseen='stay'."
                    )
                return [(1.0, s, 0.0, s in ends)]
            count = sum(map(len, seen[s, a].values()))
            return [
                (len(rewards) / count, successor, float(np.mean(rewards)), ended)
                for (successor, ended), rewards in seen[s, a].items()
            ]

        return cls.from_function(n_states, n_actions, outcomes, **fields)


@dataclasses.dataclass(frozen=True, eq=False)
class POMDP:
    """A Markov decision process whose state is seen through observations only.

    Attributes:
        mdp: the process below.
        emission: `[S, A, O]`: `emission[s', a, o] = P(o | s', a)`, after action `a` led to `s'`.
        first_emission: `[S, O]`, the distribution of what is seen before the first action; uniform, which tells
            nothing, if not given.

    Raises:
        ValueError: a wrong shape, or a row that is no distribution; names the first.
    """

    mdp: MDP
    emission: Any
    first_emission: Any = None

    def __post_init__(self):
        emission = _table(self.emission, "emission")
        sizes = self.mdp.n_states, self.mdp.n_actions, emission.shape[-1]
        _require_shape("emission", emission.shape, sizes, "[S, A, O]")
        _check_rows(
            emission.reshape(-1, sizes[2]), lambda row: f"emission[{row // sizes[1]}, {row % sizes[1]}]"
        )
        first = self.first_emission
        first = np.full(sizes[::2], 1 / sizes[2]) if first is None else _table(first, "first_emission")
        _require_shape("first_emission", first.shape, sizes[::2], "[S, O]")
        _check_rows(first, lambda row: f"first_emission[{row}]")
        _set(self, emission=_freeze(emission), first_emission=_freeze(first))

    @property
    def n_observations(self) -> int:
        return self.emission.shape[-1]


def reachable(mdp: MDP) -> np.ndarray:
    """Which states some policy reaches from the start, bool `[S]`."""
    reached = mdp.start > 0
    frontier = np.flatnonzero(reached)
    while len(frontier):
        if mdp.is_sparse:
            rows = (np.arange(mdp.n_actions)[:, None] * mdp.n_states + frontier).ravel()
            part = mdp.transition[rows]
            found = part.indices[part.data > 0]
        else:
            found = np.flatnonzero((mdp.transition[frontier] > 0).any(axis=(0, 1)))
        new = np.zeros(mdp.n_states, bool)
        new[found] = True
        frontier = np.flatnonzero(new & ~reached)
        reached[frontier] = True
    return reached


def _ends(
    state: np.ndarray, successor: np.ndarray, ends: np.ndarray, start: Any, n_states: int
) -> np.ndarray:
    """The states that are entered with `terminated`, bool `[S]`, from those that the start leads to."""
    reached = np.ones(n_states, bool) if start is None else np.asarray(start) > 0
    _require_shape("start", reached.shape, (n_states,), "[S]")
    while True:
        grown = reached.copy()
        grown[successor[reached[state] & ~ends]] = True
        if (grown == reached).all():
            break
        reached = grown
    terminal = np.zeros(n_states, bool)
    terminal[successor[reached[state] & ends]] = True
    if start is None:
        reached = ~terminal
    wrong = np.flatnonzero(reached[state] & ~terminal[state] & terminal[successor] & ~ends)
    if len(wrong):
        raise ValueError(
            f"State {state[wrong[0]]} leads to state {successor[wrong[0]]} without terminated, and elsewhere that "
            "state is entered with it; a terminal state needs a number of its own."
        )
    return terminal


def refuse_dense(n_states: int, n_actions: int, tables: int = 1) -> None:
    """Raises ValueError for dense tables that would not fit into memory, before they are allocated."""
    what, size = (
        f"A dense table of {n_states:_} states and {n_actions} actions",
        n_states * n_actions * n_states,
    )
    refuse_large(what, 8 * tables * size, "use a sparse one")


def _set(self: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(self, name, value)


def _table(table: Any, name: str) -> Any:
    """As float64, dense or CSR; what is that already is not copied."""
    if sparse.issparse(table):
        table = sparse.csr_array(table, dtype=np.float64)
        if table.nnz < np.iinfo(np.int32).max:  # half the memory, and faster
            indices, indptr = (part.astype(np.int32, copy=False) for part in (table.indices, table.indptr))
            table = sparse.csr_array((table.data, indices, indptr), shape=table.shape)
        return table
    try:
        array = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not a table of numbers: {error}.") from None
    if array.ndim == 0:
        raise ValueError(f"{name} = {array} is one number; give a table.")
    return array


def _freeze(table: Any) -> Any:
    """Read-only from here on; the caller's own arrays stay writable."""
    if sparse.issparse(table):
        parts = [part.view() for part in (table.data, table.indices, table.indptr)]
        frozen = sparse.csr_array((parts[0], parts[1], parts[2]), shape=table.shape, copy=False)
        for part in (frozen.data, frozen.indices, frozen.indptr):
            part.flags.writeable = False
        return frozen
    view = table.view()
    view.flags.writeable = False
    return view


def _nbytes(table: Any) -> int:
    parts = (table.data, table.indices, table.indptr) if sparse.issparse(table) else (table,)
    return sum(part.nbytes for part in parts)


def _require_shape(name: str, shape: tuple, wanted: tuple, words: str) -> None:
    if shape != wanted:
        raise ValueError(f"{name} has shape {shape}; it must be {words}: {wanted}.")


def _place(table: Any, entry: int) -> tuple[int, ...]:
    """The index of an entry, counted through the table, or through what a sparse one stores."""
    if not sparse.issparse(table):
        return tuple(map(int, np.unravel_index(entry, table.shape)))
    return int(np.searchsorted(table.indptr, entry, side="right")) - 1, int(table.indices[entry])


def _start(start: Any, allowed: np.ndarray) -> np.ndarray:
    if start is None:
        start = allowed / max(1, allowed.sum())
    start = _table(start, "start")
    _require_shape("start", start.shape, allowed.shape, "[S]")
    _check_rows(start[None], lambda row: "start")
    bad = np.flatnonzero((start > 0) & ~allowed)
    if len(bad):
        raise ValueError(
            f"start[{bad[0]}] = {start[bad[0]]:g}, but state {bad[0]} is terminal; episodes cannot begin there."
        )
    return _freeze(start)


def _check_rows(table: Any, name: Callable[[int], str]) -> None:
    """Raises ValueError unless every row `[N, S]` is a distribution; names the first entry or row that is wrong."""
    entries = table.data if sparse.issparse(table) else table
    if entries.size and not entries.min() >= 0:  # NaN too
        first = np.flatnonzero(~(entries.ravel() >= 0))[0]
        row, column = _place(table, int(first))
        raise ValueError(f"{name(row)}[{column}] = {entries.ravel()[first]}; a probability is 0 or more.")
    sums = np.asarray(table.sum(axis=1)).ravel()
    wrong = np.flatnonzero(~(np.abs(sums - 1) <= TOLERANCE))
    if len(wrong):
        raise ValueError(f"{name(int(wrong[0]))} sums to {sums[wrong[0]]:.9g}; probabilities sum to 1.")
