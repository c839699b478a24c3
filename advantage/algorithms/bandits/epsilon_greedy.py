"""Epsilon-greedy choice among arms (Sutton & Barto 2018, section 2.2)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from advantage.algorithms.bandits.arms import Arms, arms_of, for_each, pulled
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.table import epsilon_greedy, progress_of, uniform_noise
from advantage.types import Array, Key, Pytree, Rollout, Spec


class Actor(NamedTuple):
    """The estimates `[A]`, and how much to explore."""

    value: Array
    epsilon: Array | float


@hyperparameters
@dataclasses.dataclass(frozen=True)
class EpsilonGreedyBandit:
    """The arm that has paid most so far, and now and then any.

        a     <- argmax_a Q(a) with probability 1 - epsilon, ties by chance, else any arm
        Q(a)  <- Q(a) + alpha (R - Q(a))

    By default alpha is one over the pulls of the arm, so that Q(a) is the mean of its rewards. A constant alpha
    forgets, for arms that change; then a high `initial_value` makes for exploration, which a mean does not
    remember after the first pull. Environments side by side share the estimates.

    Source: Sutton & Barto 2018, "Reinforcement learning", sections 2.2 to 2.6, eq. 2.3 and 2.5.
    """

    epsilon: float | Schedule = ranged(0.1, "[0, 1]")
    """Probability of an arm at random; a number or a schedule of progress."""
    learning_rate: float | Schedule | None = ranged(None, "[0, 1]")
    """Step size alpha; a number or a schedule of progress; None takes the mean of all rewards."""
    initial_value: float = ranged(0.0, "(-inf, inf)")
    """Of every Q(a); above what can be earned, it makes for exploration."""

    def __post_init__(self):
        check(self)

    @property
    def n_steps(self) -> int:
        return 1

    def init(self, key: Key, spec: Spec) -> Arms:
        """The first state. Raises ValueError for spaces that are no bandit's."""
        return arms_of(spec, self.initial_value)

    def actor(self, state: Arms) -> Actor:
        """The estimates and how much to explore."""
        return Actor(state.value, schedule_value(self.epsilon, progress_of(state)))

    def noise(self, actor: Actor, key: Key, shape: tuple[int, ...]) -> Array:
        """What `act` will consume."""
        return uniform_noise(key, shape)

    def act(self, actor: Actor, obs: Pytree, memory: Pytree, noise: Array) -> tuple[Array, Pytree, Pytree]:
        """Explore, or take the best: `-> action, memory, extras`."""
        return epsilon_greedy(actor.value, actor.epsilon, noise), memory, ()

    def greedy(self, actor: Actor, obs: Pytree, memory: Pytree) -> tuple[Array, Pytree]:
        """The best arm: `-> action, memory`."""
        return for_each(obs, actor.value.argmax()), memory

    def update(self, state: Arms, rollout: Rollout, key: Key) -> tuple[Arms, dict[str, Array]]:
        """One pull in each environment: `-> state, metrics`."""
        return pulled(state, rollout, schedule_value(self.learning_rate, progress_of(state)))
