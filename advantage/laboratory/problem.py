"""A small problem with exact answers for its policy, and episodes drawn from it."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import NamedTuple

import numpy as np

from advantage.environments.tables.mdp import MDP
from advantage.machine import refuse_large


class Episodes(NamedTuple):
    """N parallel episodes, `[T, N]`; steps after an episode's end are not `alive`.

    Attributes:
        state, action: int.
        reward: float64.
        next_state: int, the true successor.
        done: bool, the episode's last step: a terminal state, or the horizon, after which there are no rewards.
        alive: bool.
    """

    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_state: np.ndarray
    done: np.ndarray
    alive: np.ndarray


@dataclasses.dataclass(frozen=True)
class Problem:
    """A table, a softmax policy over it, and a horizon; all quantities are exact, in float64.

    Episodes end in a terminal state or after `horizon` steps, so values depend on the step: `V_t`, with `V_T = 0`.

    Attributes:
        mdp: the table; its `gamma` is the discount.
        logits: `[S, A]`, theta: `pi(a | s) = softmax(theta_s)_a`.
        horizon: T, 1 or more.

    Raises:
        ValueError: logits of another shape, a horizon below 1, or a table that would not fit into memory.
    """

    mdp: MDP
    logits: np.ndarray
    horizon: int

    def __post_init__(self):
        shape = self.mdp.n_states, self.mdp.n_actions
        if np.shape(self.logits) != shape:
            raise ValueError(f"logits has shape {np.shape(self.logits)}; the table needs {shape}.")
        if self.horizon < 1:
            raise ValueError(f"horizon={self.horizon} is not allowed; use 1 step or more.")
        size = 8 * (shape[0] * shape[1]) * (3 * shape[0] + 2 * self.horizon)
        refuse_large("The exact answers", size, "use a smaller table or a shorter horizon")

    @cached_property
    def policy(self) -> np.ndarray:
        """`pi(a | s)`, `[S, A]`."""
        return softmax(self.logits)

    @cached_property
    def transition(self) -> np.ndarray:
        """`P(s' | s, a)`, `[S, A, S]`."""
        states = np.arange(self.mdp.n_states)
        rows = [self.mdp.rows(np.full_like(states, a)) for a in range(self.mdp.n_actions)]
        return np.stack([row if isinstance(row, np.ndarray) else row.toarray() for row in rows], axis=1)

    @cached_property
    def earned(self) -> np.ndarray:
        """`r(s, a, s')`, `[S, A, S]`."""
        reward = self.mdp.reward
        if not isinstance(reward, np.ndarray):  # sparse: the actions' matrices stacked
            return reward.toarray().reshape(self.mdp.n_actions, self.mdp.n_states, -1).swapaxes(0, 1)
        return reward if reward.ndim == 3 else np.broadcast_to(reward[..., None], self.transition.shape)

    @cached_property
    def value(self) -> np.ndarray:
        """`V_t(s)`, `[T + 1, S]`: `V_t = Σ_a pi(a | s) Q_t(s, a)`, `V_T = 0`."""
        value = np.zeros((self.horizon + 1, self.mdp.n_states))
        for t in reversed(range(self.horizon)):
            value[t] = (self.policy * self._backed_up(value[t + 1])).sum(axis=1)
        return value

    @cached_property
    def action_value(self) -> np.ndarray:
        """`Q_t(s, a) = Σ_s' P(s' | s, a) (r(s, a, s') + gamma V_{t+1}(s'))`, `[T, S, A]`."""
        return np.array([self._backed_up(later) for later in self.value[1:]])

    @cached_property
    def visits(self) -> np.ndarray:
        """`P(s_t = s)` before the episode's end, `[T, S]`."""
        chain = np.einsum("sa,sat->st", self.policy, self.transition)
        visits = np.zeros((self.horizon, self.mdp.n_states))
        visits[0] = self.mdp.start
        for t in range(1, self.horizon):
            visits[t] = np.where(self.mdp.terminal, 0, visits[t - 1] @ chain)
        return visits

    @property
    def performance(self) -> float:
        """`J = μ0 · V_0`, the expected discounted return."""
        return float(self.mdp.start @ self.value[0])

    def gradient(self, discount_weighting: bool = True) -> np.ndarray:
        """`∇J = Σ_t gamma^t Σ_s P(s_t = s) Σ_a ∇pi(a | s) A_t(s, a)`, `[S, A]`; else `g^gamma`, without `gamma^t`.

        Source: Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation",
        theorem 1; Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation",
        eq. 6, for the second.
        """
        weight = self.mdp.gamma ** np.arange(self.horizon) if discount_weighting else np.ones(self.horizon)
        advantage = self.action_value - self.value[:-1, :, None]
        return self.policy * np.einsum("t,ts,tsa->sa", weight, self.visits, advantage)

    def sample(self, rng: np.random.Generator, size: int, behaviour: np.ndarray | None = None) -> Episodes:
        """`size` episodes of the policy, or of `behaviour`, `[S, A]`."""
        acting = (self.policy if behaviour is None else behaviour).cumsum(axis=1)
        reached = self.transition.cumsum(axis=2)
        state = rng.choice(self.mdp.n_states, size, p=self.mdp.start)
        alive, rows = np.ones(size, bool), []
        for t in range(self.horizon):
            action = _draw(acting[state], rng)
            following = _draw(reached[state, action], rng)
            over = self.mdp.terminal[following] | (t == self.horizon - 1)
            row = state, action, self.earned[state, action, following], following, over & alive, alive
            rows.append(row)
            state, alive = following, alive & ~over
        return Episodes(*(np.array(column) for column in zip(*rows, strict=True)))

    def score(self) -> np.ndarray:
        """`∇_theta log pi(a | s)`, `[S * A, S * A]`: a row for each state and action."""
        states, actions = self.logits.shape
        result = np.zeros((states, actions, states, actions))
        for s in range(states):
            result[s, :, s] = np.eye(actions) - self.policy[s]
        return result.reshape(states * actions, states * actions)

    def _backed_up(self, value: np.ndarray) -> np.ndarray:
        return np.einsum("sat,sat->sa", self.transition, self.earned + self.mdp.gamma * value)


def softmax(logits: np.ndarray) -> np.ndarray:
    """`exp(x) / Σ exp(x)` over the last axis."""
    weight = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def _draw(cumulative: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One index for each row of `cumulative`, `[N, K]`."""
    return (cumulative[:, :-1] <= rng.random((len(cumulative), 1)) * cumulative[:, -1:]).sum(axis=1)
