"""Upper confidence bounds (Auer, Cesa-Bianchi & Fischer 2002)."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from advantage.algorithms.bandits.arms import Arms, arms_of, for_each, pulled
from advantage.algorithms.hyperparameters import hyperparameters, ranged
from advantage.algorithms.tabular.acting import choice_noise, epsilon_greedy
from advantage.types import Array, Key, Pytree, Rollout, Spec, no_memory


class UCBActor(NamedTuple):
    """Estimates and their upper bounds, `[A]`."""

    value: Array
    bound: Array


@hyperparameters
class UCB:
    """Upper confidence bounds: pull the arm whose mean could be the largest.

        a     <- argmax_a Q(a) + c sqrt(ln t / N(a)), ties broken at random; first each arm once
        Q(a)  <- the mean of the rewards of a

    t counts pulls, this one included, and N(a) those of the arm so far. UCB1 is c = sqrt 2, for rewards in [0, 1].
    Parallel environments share the estimates, and pull the same arm in a step except for ties.

    Source: Auer et al. 2002, "Finite-time analysis of the multiarmed bandit problem", figure 1; Sutton & Barto 2018,
    "Reinforcement learning", eq. 2.10.
    """

    confidence: float = ranged(2.0, "[0, inf)")
    """Width c of the bounds, in units of reward."""

    def init(self, key: Key, spec: Spec) -> Arms:
        """The initial training state. Raises ValueError for spaces that are not a bandit's."""
        return arms_of(spec)

    initial_memory = no_memory

    def actor(self, state: Arms) -> UCBActor:
        """The estimates and their upper bounds, infinite for an arm that was never pulled."""
        time = (state.clock.step + 1).astype(jnp.float32)
        width = self.confidence * jnp.sqrt(jnp.log(time) / jnp.maximum(state.count, 1))
        return UCBActor(state.value, jnp.where(state.count > 0, state.value + width, jnp.inf))

    n_steps = 1
    noise = choice_noise

    def act(self, actor: UCBActor, obs: Pytree, memory: Pytree, noise: Array) -> tuple[Array, Pytree, Pytree]:
        """The highest bound: `-> action, memory, extras`."""
        return epsilon_greedy(actor.bound, 0.0, noise), memory, ()

    def greedy(self, actor: UCBActor, obs: Pytree, memory: Pytree) -> tuple[Array, Pytree]:
        """The best arm so far: `-> action, memory`."""
        return for_each(obs, actor.value.argmax()), memory

    def update(self, state: Arms, rollout: Rollout, key: Key) -> tuple[Arms, dict[str, Array]]:
        """One pull in each environment: `-> state, metrics`."""
        return pulled(state, rollout)
