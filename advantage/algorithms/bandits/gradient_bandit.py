"""The gradient bandit (Sutton & Barto 2018, section 2.8)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.bandits.arms import for_each, number_of_arms
from advantage.algorithms.clock import advance_clock, clock_init, progress
from advantage.algorithms.hyperparameters import Schedule, hyperparameters, ranged, schedule_value
from advantage.policies.distributions import Categorical
from advantage.types import Array, Clock, Key, Pytree, Rollout, Spec, no_memory


class GradientBanditState(NamedTuple):
    """The training state of the gradient bandit: preferences `[A]`, the mean of all rewards, the clock."""

    preference: Array
    mean_reward: Array
    clock: Clock


@hyperparameters
class GradientBandit:
    """Stochastic gradient ascent on the expected reward of a softmax over preferences.

        pi(a)  =  exp H(a) / sum_b exp H(b)
        H(b)   <- H(b) + alpha (R - R_mean) (1[b = a] - pi(b)), for every arm b

    R_mean, the baseline, is the mean of all rewards before this one, and at the first step that reward itself. It does
    not change the mean of the update, the gradient of E[R], only its variance. Parallel environments share the
    preferences, and their updates of one step are summed.

    Source: Sutton & Barto 2018, "Reinforcement learning", eq. 2.12; Williams 1992, "Simple statistical
    gradient-following algorithms for connectionist reinforcement learning", section 4.
    """

    learning_rate: float | Schedule = ranged(0.1, "[0, inf)")
    """Step size alpha; a number or a schedule of progress."""
    baseline: bool = True
    """Compare rewards with their mean, or with 0."""

    n_steps = 1

    def init(self, key: Key, spec: Spec) -> GradientBanditState:
        """The initial training state, all arms equal. Raises ValueError for spaces that are not a bandit's."""
        return GradientBanditState(
            jnp.zeros(number_of_arms(spec), jnp.float32),
            jnp.zeros((), jnp.float32),
            clock_init(spec.total_timesteps),
        )

    initial_memory = no_memory

    def actor(self, state: GradientBanditState) -> Categorical:
        """The policy."""
        return Categorical(state.preference)

    def noise(self, actor: Categorical, key: Key, shape: tuple[int, ...]) -> Array:
        """The random numbers for `act`."""
        return actor.noise(key, shape, actor.logits.shape[-1])

    def act(
        self, actor: Categorical, obs: Pytree, memory: Pytree, noise: Array
    ) -> tuple[Array, Pytree, Pytree]:
        """Draw an arm: `-> action, memory, extras`."""
        return actor.sample(noise), memory, ()

    def greedy(self, actor: Categorical, obs: Pytree, memory: Pytree) -> tuple[Array, Pytree]:
        """The likeliest arm: `-> action, memory`."""
        return for_each(obs, actor.mode()), memory

    def update(
        self, state: GradientBanditState, rollout: Rollout, key: Key
    ) -> tuple[GradientBanditState, dict[str, Array]]:
        """One pull in each environment: `-> state, metrics`."""
        a, r = rollout.action[0], rollout.reward[0].astype(jnp.float32)
        clock = advance_clock(state.clock, r.size)
        mean_reward = state.mean_reward + (r - state.mean_reward).sum() / clock.step.astype(jnp.float32)
        before = jnp.where(state.clock.step > 0, state.mean_reward, r.mean()) if self.baseline else 0.0
        policy = jax.nn.softmax(state.preference)
        score = jax.nn.one_hot(a, policy.size) - policy
        alpha = schedule_value(self.learning_rate, progress(state.clock))
        preference = state.preference + alpha * ((r - before)[:, None] * score).sum(0)
        learned = GradientBanditState(preference, mean_reward, clock)
        return learned, {"reward": r.mean(), "entropy": Categorical(preference).entropy()}
