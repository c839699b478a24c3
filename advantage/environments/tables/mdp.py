"""Markov decision processes, fully and partially observed, as tables."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, Literal

import gymnasium
import numpy as np
import scipy

from advantage.environments.tables.arrays import (
    TOLERANCE,
    as_table,
    bytes_of,
    check_distributions,
    read_only,
    require_shape,
    set_fields,
    start_distribution,
)
from advantage.environments.tables.forms import read_form, reward_table, row_name, transition_table
from advantage.environments.tables.grid import Grid
from advantage.environments.tables.gymnasium_table import read_gymnasium_table
from advantage.environments.tables.markov_chain import MarkovChain
from advantage.environments.tables.outcomes import OutcomeFunction, tables_of_outcomes
from advantage.environments.tables.samples import Samples, sampled_outcomes
from advantage.plain_values import plain_number, require_whole


@dataclasses.dataclass(frozen=True, eq=False)
class MDP:
    """A finite Markov decision process; immutable.

    A dense table is `transition[s, a, s'] = P(s' | s, a)`. A sparse one is a SciPy CSR array `[A * S, S]` whose row
    `a * S + s` is `P(. | s, a)`: the matrices of the actions, stacked.

    Attributes:
        transition: `[S, A, S]`, or CSR `[A * S, S]`, or a sequence of A sparse `[S, S]`; each row sums to one.
        reward: by state and action `[S, A]`, or also by successor, in any form of `transition`, whichever that has. It
            is kept as `[S, A]`, or in the form of `transition`; an entry that a sparse reward lacks is 0.
        start: `[S]`, the distribution of the first state; uniform over the states that are not terminal if not given.
        terminal: bool `[S]`: an episode that reaches this state terminates. Such a state leads to itself and earns 0.
        gamma: the discount factor of the problem, in [0, 1].
        grid: the positions of the states in the plane, for pictures; None if they have none.
        max_episode_steps: steps after which an episode is truncated when the table is played as an environment.

    Raises:
        ValueError: a wrong table; names the index of the first wrong entry.
    """

    transition: Any
    reward: Any
    start: Any = None
    terminal: Any = None
    gamma: float = 0.99
    grid: Grid | None = None
    max_episode_steps: int = 1000

    def __post_init__(self):
        form = read_form(self.transition, "transition")
        transition = transition_table(form)
        n_states = transition.shape[-1]
        n_actions = (
            transition.shape[0] // n_states if scipy.sparse.issparse(transition) else transition.shape[1]
        )
        rows = transition if scipy.sparse.issparse(transition) else transition.reshape(-1, n_states)
        check_distributions(rows, lambda row: row_name(form, n_states, n_actions, row))
        terminal = np.zeros(n_states, bool) if self.terminal is None else np.asarray(self.terminal)
        if terminal.dtype != bool:
            raise ValueError(f"terminal has type {terminal.dtype}; use an array of bool, one for each state.")
        require_shape("terminal", terminal.shape, (n_states,), "[S]")
        gamma = plain_number(self.gamma)
        if gamma is None or not 0 <= gamma <= 1:
            raise ValueError(f"gamma={self.gamma!r} is not allowed; use a value in [0, 1].")
        set_fields(
            self,
            transition=read_only(transition),
            reward=read_only(reward_table(read_form(self.reward, "reward"), transition, n_actions)),
            start=start_distribution(self.start, ~terminal),
            terminal=read_only(np.array(terminal)),
            gamma=float(gamma),
            max_episode_steps=require_whole("max_episode_steps", self.max_episode_steps, 1),
        )
        _check_terminal(self)

    @property
    def n_states(self) -> int:
        return self.transition.shape[-1]

    @property
    def n_actions(self) -> int:
        return self.transition.shape[0] // self.n_states if self.is_sparse else self.transition.shape[1]

    @property
    def is_sparse(self) -> bool:
        return scipy.sparse.issparse(self.transition)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(map(bytes_of, (self.transition, self.reward, self.start, self.terminal)))

    @cached_property
    def expected_reward(self) -> np.ndarray:
        """`r(s, a) = E[R | s, a]`, `[S, A]`."""
        if self.reward.ndim == 2 and not scipy.sparse.issparse(self.reward):
            return self.reward
        if not self.is_sparse:
            return read_only(np.einsum("ijk,ijk->ij", self.transition, self.reward))
        earned = self.transition.data * self.reward.data  # entry by entry: a successor may be listed twice
        products = scipy.sparse.csr_array(
            (earned, self.transition.indices, self.transition.indptr), shape=self.transition.shape
        ).sum(axis=1)
        return read_only(np.asarray(products, float).reshape(self.n_actions, self.n_states).T)

    def expected(self, value: np.ndarray) -> np.ndarray:
        """`E[value(s') | s, a] = Σ_s' P(s' | s, a) value(s')`: `[S] -> [S, A]`."""
        if self.is_sparse:
            return (self.transition @ value).reshape(self.n_actions, self.n_states).T
        return self.transition @ value

    def rows(self, policy: Any) -> Any:
        """`P_π[s, s'] = Σ_a π(a | s) P(s' | s, a)`, `[S, S]`, sparse if the table is.

        Args:
            policy: int `[S]`, an action for each state, or `[S, A]`, a distribution over actions for each state.
        """
        probabilities = self.probabilities(policy)
        if not self.is_sparse:
            return np.einsum("ij,ijk->ik", probabilities, self.transition)
        if np.ndim(policy) == 1:
            return self.transition[np.asarray(policy, np.int64) * self.n_states + np.arange(self.n_states)]
        action, state = np.nonzero(probabilities.T)
        weights = (probabilities.T[action, state], (state, action * self.n_states + state))
        return (
            scipy.sparse.csr_array(weights, shape=(self.n_states, self.transition.shape[0])) @ self.transition
        )

    def probabilities(self, policy: Any) -> np.ndarray:
        """A policy as a table `[S, A]` of probabilities; `[S]` holds an action for each state.

        Raises:
            ValueError: a wrong shape, an unknown action, or a row that is not a distribution; names the first one.
        """
        policy = np.asarray(policy)
        if policy.ndim == 1 and policy.dtype.kind in "iu":
            require_shape("policy", policy.shape, (self.n_states,), "[S]")
            bad = np.flatnonzero((policy < 0) | (policy >= self.n_actions))
            if len(bad):
                raise ValueError(
                    f"policy[{bad[0]}] = {policy[bad[0]]} is not an action; use 0 to {self.n_actions - 1}."
                )
            return np.eye(self.n_actions)[policy]
        require_shape("policy", policy.shape, (self.n_states, self.n_actions), "[S, A]")
        check_distributions(policy.astype(float), lambda row: f"policy[{row}]")
        return policy.astype(float)

    def chain(self, policy: Any) -> MarkovChain:
        """The Markov chain that a policy makes of this process, with `P_π` and the same start distribution."""
        return MarkovChain(self.rows(policy), self.start)

    @classmethod
    def from_function(
        cls,
        n_states: int,
        n_actions: int,
        outcomes: OutcomeFunction,
        *,
        as_sparse: bool | None = None,
        **fields: Any,
    ) -> MDP:
        """The table of a function `outcomes(s, a) -> [(p, s', r, terminated), ...]`.

        A state that is entered with `terminated` becomes terminal: its own outcomes are ignored, and every reachable
        state that leads to it must do so with `terminated`. Outcomes with the same successor are merged, with the mean
        of their rewards.

        Args:
            n_states, n_actions: the size.
            outcomes: called once for each state and action.
            as_sparse: whether the table is sparse; None decides by its size.
            **fields: `start`, `gamma`, `grid`, `max_episode_steps`.

        Raises:
            ValueError: a successor that is out of range or is entered both with `terminated` and without, or a table
                that would not fit into memory.
        """
        start = fields.get("start")
        tables = tables_of_outcomes(n_states, n_actions, outcomes, start=start, as_sparse=as_sparse)
        return cls(tables.transition, tables.reward, terminal=tables.terminal, **fields)

    @classmethod
    def from_gymnasium(cls, environment: str | gymnasium.Env, **fields: Any) -> MDP:
        """The table of a Gymnasium environment that has one: FrozenLake, Taxi, CliffWalking, or your own.

        Args:
            environment: a name, or an environment whose `unwrapped` has `P[s][a] = [(p, s', r, terminated), ...]`
                and, for its start states, `initial_state_distrib` `[S]`.
            **fields: `gamma`, `as_sparse`, and `start`, `grid` or `max_episode_steps` to replace the environment's.

        Raises:
            ValueError: an environment without a table.
        """
        found = read_gymnasium_table(environment)
        fields = found.fields | fields
        return cls.from_function(found.n_states, found.n_actions, found.outcomes, **fields)

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
        """The maximum-likelihood table for observed transitions: relative frequencies and mean rewards.

        Args:
            state, action, reward, next_state, terminated: arrays `[N]`.
            n_states, n_actions: the size; by default the largest number in the arrays plus one.
            unseen: for pairs of state and action that are not in the arrays: `"refuse"` raises an error, `"stay"` lets
                the pair lead back to its state and earn 0.
            **fields: `start`, `gamma`, `as_sparse`, `grid`, `max_episode_steps`.

        Raises:
            ValueError: arrays of different lengths, a number out of range, or an unseen pair.
        """
        samples = Samples(
            state=np.asarray(state),
            action=np.asarray(action),
            reward=np.asarray(reward),
            next_state=np.asarray(next_state),
            terminated=np.asarray(terminated),
        )
        n_states, n_actions, outcomes = sampled_outcomes(
            samples, n_states=n_states, n_actions=n_actions, unseen=unseen
        )
        return cls.from_function(n_states, n_actions, outcomes, **fields)


@dataclasses.dataclass(frozen=True, eq=False)
class POMDP:
    """A partially observed Markov decision process: the agent gets observations instead of the state.

    Attributes:
        mdp: the process of the hidden states.
        emission: `[S, A, O]`: `emission[s', a, o] = P(o | s', a)`, after action `a` led to `s'`.
        first_emission: `[S, O]`, the distribution of the observation before the first action; if not given, it is
            uniform and has no information.

    Raises:
        ValueError: a wrong shape, or a row that is not a distribution; names the first one.
    """

    mdp: MDP
    emission: Any
    first_emission: Any = None

    def __post_init__(self):
        emission = as_table(self.emission, "emission")
        sizes = self.mdp.n_states, self.mdp.n_actions, emission.shape[-1]
        require_shape("emission", emission.shape, sizes, "[S, A, O]")
        check_distributions(
            emission.reshape(-1, sizes[2]), lambda row: f"emission[{row // sizes[1]}, {row % sizes[1]}]"
        )
        first = self.first_emission
        first = np.full(sizes[::2], 1 / sizes[2]) if first is None else as_table(first, "first_emission")
        require_shape("first_emission", first.shape, sizes[::2], "[S, O]")
        check_distributions(first, lambda row: f"first_emission[{row}]")
        set_fields(self, emission=read_only(emission), first_emission=read_only(first))

    @property
    def n_observations(self) -> int:
        return self.emission.shape[-1]


def reachable(mdp: MDP) -> np.ndarray:
    """Which states can be reached from the start by some policy, bool `[S]`."""
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


def _check_terminal(mdp: MDP) -> None:
    ends = np.flatnonzero(mdp.terminal)
    if not len(ends):
        return
    stays, earned = _stays(mdp, ends), mdp.expected_reward[ends]
    wrong = np.argwhere((stays < 1 - TOLERANCE) | (abs(earned) > TOLERANCE))
    if len(wrong):
        place, action = map(int, wrong[0])
        raise ValueError(
            f"State {ends[place]} is terminal, but action {action} there stays with probability "
            f"{stays[place, action]:g} and earns {earned[place, action]:g}; a terminal state must lead to itself and "
            "earn 0."
        )
    reached = reachable(mdp)
    lost = ends[~reached[ends]]
    if len(lost):
        raise ValueError(
            f"State {lost[0]} is terminal, but no start state leads to it; remove it from terminal, or correct start "
            "or transition."
        )


def _stays(mdp: MDP, states: np.ndarray) -> np.ndarray:
    """`P(s | s, a)` for the given states, `[N, A]`."""
    if not mdp.is_sparse:
        return mdp.transition[states, :, states]
    rows = (states[:, None] + mdp.n_states * np.arange(mdp.n_actions)).ravel()
    part = mdp.transition[rows]
    row = np.repeat(np.arange(len(rows)), np.diff(part.indptr))
    here = part.indices == rows[row] % mdp.n_states
    return np.bincount(row[here], part.data[here], len(rows)).reshape(len(states), mdp.n_actions)
