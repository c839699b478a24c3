"""How tabular methods act: by an epsilon-greedy policy of their action values, or by a given policy."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import schedule_value
from advantage.algorithms.tabular.action_values import (
    ActionValues,
    allowed_values,
    is_allowed,
    is_best,
    rows_of,
)
from advantage.algorithms.tabular.given_policy import Follow
from advantage.algorithms.tabular.options import ControlOptions, PredictionOptions
from advantage.algorithms.tabular.state_values import StateValues
from advantage.algorithms.tabular.step_sizes import decayed
from advantage.algorithms.tabular.table import Sizes
from advantage.types import Array, Clock, Key, Pytree


class TableActor(Protocol):
    """An actor that chooses actions by a table."""

    def sample(self, obs: Pytree, noise: Array) -> Array:
        """Draw from its policy, with `noise` uniform in [0, 1)."""
        ...

    def best(self, obs: Pytree) -> Array:
        """Its best or most probable action."""
        ...


def choice_noise(algorithm: object, actor: object, key: Key, shape: tuple[int, ...]) -> Array:
    """One number in [0, 1) for each choice, float32 `shape`: enough to explore and to break ties.

    Used as an algorithm's `noise`.
    """
    return jax.random.uniform(key, shape)


def act_by_table(
    algorithm: object, actor: TableActor, obs: Pytree, memory: Pytree, noise: Array
) -> tuple[Array, Pytree, Pytree]:
    """Draw from the actor's policy: `-> action, memory, extras`; used as an algorithm's `act`."""
    return actor.sample(obs, noise), memory, ()


def greedy_by_table(
    algorithm: object, actor: TableActor, obs: Pytree, memory: Pytree
) -> tuple[Array, Pytree]:
    """The actor's best or most probable action: `-> action, memory`; used as an algorithm's `greedy`."""
    return actor.best(obs), memory


class KeepsActionValues(Protocol):
    """The state of any control method."""

    @property
    def table(self) -> ActionValues: ...

    @property
    def clock(self) -> Clock: ...


class EpsilonGreedy(NamedTuple):
    """An actor: a table of action values `[S, A]`, and its epsilon, one number or `[S]`.

    It draws from the actions that the mask of the observation allows; `allowed` is as in `ActionValues`.
    """

    sizes: Sizes
    q: Array
    epsilon: Array | float
    allowed: Array | None = None

    def sample(self, obs: Pytree, noise: Array) -> Array:
        """Explore with probability epsilon, else take the best action."""
        return epsilon_greedy(self._seen(obs), self._epsilon_at(self.sizes.index(obs)), noise)

    def best(self, obs: Pytree) -> Array:
        """The action with the largest value, the first of several."""
        return self._seen(obs).argmax(-1)

    def chances(self, obs: Pytree) -> Array:
        """The probabilities that `sample` draws from, `[..., A]`."""
        return epsilon_greedy_probabilities(self._seen(obs), self._epsilon_at(self.sizes.index(obs)))

    def draw(self, s: Array, noise: Array) -> Array:
        """Actions for rows of the table, `[...]`."""
        return epsilon_greedy(self._row(s), self._epsilon_at(s), noise)

    def probabilities(self, s: Array) -> Array:
        """`pi(. | s)` for rows of the table: `[...] -> [..., A]`."""
        return epsilon_greedy_probabilities(self._row(s), self._epsilon_at(s))

    def expected(self, s: Array) -> Array:
        """`sum_a pi(a | s) Q(s, a)` for rows of the table: `[...] -> [...]`."""
        probability = self.probabilities(s)
        return (probability * jnp.where(probability > 0, self.q[s], 0)).sum(-1)

    def _seen(self, obs: Pytree) -> Array:
        """`Q(s, .)` `[..., A]`, -inf for the actions that the observation's mask forbids."""
        return allowed_values(self.q[self.sizes.index(obs)], self.sizes.mask(obs))

    def _row(self, s: Array) -> Array:
        """`Q(s, .)` `[..., A]`, -inf for the actions that the state's newest mask forbids."""
        return allowed_values(self.q[s], rows_of(self.allowed, s))

    def _epsilon_at(self, s: Array) -> Array:
        epsilon = jnp.asarray(self.epsilon)
        return epsilon[s] if epsilon.ndim else epsilon


def exploring_actor(algorithm: ControlOptions, state: KeepsActionValues) -> EpsilonGreedy:
    """The table and the current epsilon; used as an algorithm's `actor`."""
    table, epsilon = state.table, schedule_value(algorithm.epsilon, progress(state.clock))
    epsilon = decayed(epsilon, table.visits.sum(-1), algorithm.epsilon_power)
    return EpsilonGreedy(table.sizes, table.q, epsilon, table.allowed)


def epsilon_greedy(q: Array, epsilon: Array | float, noise: Array) -> Array:
    """`argmax_a q` with probability `1 - epsilon`, ties broken at random, else any action with the same probability.

    Args:
        q: `[..., A]`; an action of value -inf is never drawn.
        epsilon: `[...]`, in [0, 1].
        noise: `[...]`, uniform in [0, 1): below `epsilon` the action explores; its remainder draws the action.

    Returns:
        Actions, int32 `[...]`.

    Source: Sutton & Barto 2018, "Reinforcement learning", section 2.2.
    """
    explores = noise < epsilon
    share = jnp.where(
        explores, noise / jnp.maximum(epsilon, 1e-9), (noise - epsilon) / jnp.maximum(1 - epsilon, 1e-9)
    )
    candidates = is_best(q) | (explores[..., None] & is_allowed(q))
    until = np.tri(q.shape[-1], dtype=bool)
    order = (candidates[..., None, :] & until).sum(
        -1, dtype=jnp.int32
    )  # a cumulative sum, faster for few actions
    wanted = (share * order[..., -1]).astype(jnp.int32)
    return jnp.minimum((order <= wanted[..., None]).sum(-1, dtype=jnp.int32), q.shape[-1] - 1)


def epsilon_greedy_probabilities(q: Array, epsilon: Array | float) -> Array:
    """The probabilities that `epsilon_greedy` draws from: `[..., A] -> [..., A]`."""
    best = is_best(q).astype(jnp.float32)
    greedy = best / best.sum(-1, keepdims=True)
    epsilon = jnp.asarray(epsilon)[..., None]
    allowed = is_allowed(q)
    return (1 - epsilon) * greedy + jnp.where(allowed, epsilon / allowed.sum(-1, keepdims=True), 0)


class KeepsStateValues(Protocol):
    """The state of any method that follows a given policy."""

    @property
    def table(self) -> StateValues: ...


def followed_policy(algorithm: PredictionOptions, state: KeepsStateValues) -> Follow:
    """The given policy; used as an algorithm's `actor`."""
    return state.table.policy
