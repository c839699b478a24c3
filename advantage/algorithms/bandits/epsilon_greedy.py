"""Epsilon-greedy choice among arms (Sutton & Barto 2018, section 2.2)."""

from __future__ import annotations

from typing import NamedTuple

from advantage.algorithms.bandits.arms import Arms, arms_of, for_each, pulled
from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import Schedule, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.acting import choice_noise, epsilon_greedy
from advantage.types import Array, Key, Pytree, Rollout, Spec, no_memory


class EpsilonGreedyBanditActor(NamedTuple):
    """The estimates `[A]` and epsilon."""

    value: Array
    epsilon: Array | float


@hyperparameters
class EpsilonGreedyBandit:
    """Epsilon-greedy bandit: pull the arm with the best estimate, and sometimes a random one.

        a     <- argmax_a Q(a) with probability 1 - epsilon, ties broken at random, else any arm
        Q(a)  <- Q(a) + alpha (R - Q(a))

    By default alpha is one over the pulls of the arm, so that Q(a) is the mean of its rewards. A constant alpha
    forgets old rewards, which suits arms that change. A high `initial_value` then encourages exploration; a mean
    forgets it after the first pull. Parallel environments share the estimates.

    Source: Sutton & Barto 2018, "Reinforcement learning", sections 2.2 to 2.6, eq. 2.3 and 2.5.
    """

    epsilon: float | Schedule = ranged(0.1, "[0, 1]")
    """Probability of a random arm; a number or a schedule of progress."""
    learning_rate: float | Schedule | None = ranged(None, "[0, 1]")
    """Step size alpha; a number or a schedule of progress; None takes the mean of all rewards."""
    initial_value: float = ranged(0.0, "(-inf, inf)")
    """Initial Q(a); above the largest possible mean reward it encourages exploration."""

    def init(self, key: Key, spec: Spec) -> Arms:
        """The initial training state. Raises ValueError for spaces that are not a bandit's."""
        return arms_of(spec, self.initial_value)

    initial_memory = no_memory

    def actor(self, state: Arms) -> EpsilonGreedyBanditActor:
        """The estimates and the current epsilon."""
        return EpsilonGreedyBanditActor(state.value, schedule_value(self.epsilon, progress(state.clock)))

    n_steps = 1
    noise = choice_noise

    def act(
        self, actor: EpsilonGreedyBanditActor, obs: Pytree, memory: Pytree, noise: Array
    ) -> tuple[Array, Pytree, Pytree]:
        """An epsilon-greedy arm: `-> action, memory, extras`."""
        return epsilon_greedy(actor.value, actor.epsilon, noise), memory, ()

    def greedy(self, actor: EpsilonGreedyBanditActor, obs: Pytree, memory: Pytree) -> tuple[Array, Pytree]:
        """The best arm: `-> action, memory`."""
        return for_each(obs, actor.value.argmax()), memory

    def update(self, state: Arms, rollout: Rollout, key: Key) -> tuple[Arms, dict[str, Array]]:
        """One pull in each environment: `-> state, metrics`."""
        return pulled(state, rollout, schedule_value(self.learning_rate, progress(state.clock)))
