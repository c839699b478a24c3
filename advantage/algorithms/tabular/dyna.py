"""Dyna: learning from real steps and from imagined ones (Sutton 1990)."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.learned_model import (
    Frequencies,
    LastOutcome,
    frequencies,
    last_outcome,
    repeats,
)
from advantage.algorithms.tabular.table import (
    Sizes,
    act_by_table,
    decayed,
    epsilon_greedy,
    epsilon_greedy_probabilities,
    exploring_actor,
    greedy_by_table,
    noise_of_choices,
    progress_of,
    sizes_of,
)
from advantage.types import Array, Key, Rollout, Spec


class DynaState(NamedTuple):
    """Everything that Dyna knows: tables `[S, A]`, the model, what it may imagine, and the clock.

    Attributes:
        observed: int32, in the order of their first visits, pairs `s * A + a` `[S * A]`, or states `[S]` with a bonus.
        n_observed: int32, how many of these there are.
        tried: uint32 `[S, A]`, the step at which each pair was last tried; None without a bonus.
    """

    sizes: Sizes
    q: Array
    visits: Array
    model: LastOutcome | Frequencies
    observed: Array
    n_observed: Array
    tried: Array | None
    step: Array
    total_timesteps: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class Dyna:
    """Dyna-Q and Dyna-Q+: each real step is learned from, is learned into a model, and is followed by imagined ones.

    After each step, in each environment:

        Q(s, a)      <- Q(s, a) + alpha (r + gamma V(s') - Q(s, a))
        Model(s, a)  <- r, s'
        planning_steps times, one after another:
            s, a     <- one of the pairs observed so far, all with the same probability
            r, s'    <- Model(s, a)
            Q(s, a)  <- Q(s, a) + alpha (r + kappa sqrt(tau(s, a)) + gamma V(s') - Q(s, a))

    V(s') is max_a' Q(s', a') by Q-learning, Q(s', a') with a' drawn from the epsilon-greedy policy by SARSA, and the
    mean over that policy by Expected SARSA; 0 after the end, which the model remembers. With a bonus kappa, tau(s, a)
    is the number of real steps since the pair was last tried, or since the beginning, and the pairs are all actions
    of the states visited so far: one that was never tried is imagined to lead back and to earn 0. The bonus is part of
    Q, so that the best action by the table may be one to try again, and not the one that pays most. With
    planning_steps=0 and target="q-learning" this is Q-learning, number for number.

    Environments side by side share tables and model, and each brings its own imagined steps. The a' of a real step
    is drawn as in an imagined one and need not be the one taken next, which has the same distribution.

    Source: Sutton & Barto 2018, "Reinforcement learning", sections 8.2 (Tabular Dyna-Q) and 8.3 (Dyna-Q+); Sutton
    1990, "Integrated architectures for learning, planning, and reacting based on approximating dynamic programming".
    """

    learning_rate: float | Schedule = ranged(0.1, "[0, 1]")
    """Step size alpha; a number or a schedule of progress."""
    learning_rate_power: float | None = ranged(None, "[0, 1]")
    """Divides alpha by the visits of (s, a) to this power: 1 makes a running mean; None keeps it."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    epsilon: float | Schedule = ranged(0.1, "[0, 1]")
    """Probability of an action at random; a number or a schedule of progress."""
    epsilon_power: float | None = ranged(None, "[0, 1]")
    """Divides epsilon by the visits of s to this power; None keeps it."""
    initial_value: float = ranged(0.0, "(-inf, inf)")
    """Of every Q(s, a); above what can be earned, it makes for exploration."""
    planning_steps: int = ranged(10, "[0, inf)")
    """Imagined steps for each real one."""
    target: Literal["q-learning", "sarsa", "expected-sarsa"] = "q-learning"
    """What real and imagined steps are learned by."""
    model: Literal["last", "frequencies"] = "last"
    """Imagine what happened last, or draw from all that happened; that takes counts `[S, A, S + 1]`."""
    exploration_bonus: float | None = ranged(None, "[0, inf)")
    """Kappa of Dyna-Q+, in units of reward per square root of a step; None is Dyna-Q."""

    def __post_init__(self):
        check(self)

    @property
    def n_steps(self) -> int:
        return 1

    def init(self, key: Key, spec: Spec) -> DynaState:
        """The first state. Raises ValueError for spaces that are not finite, and for a model that would not fit."""
        sizes = sizes_of(spec)
        shape = sizes.n_states, sizes.actions
        return DynaState(
            sizes,
            jnp.full(shape, self.initial_value, jnp.float32),
            jnp.zeros(shape, jnp.int32),
            last_outcome(sizes) if self.model == "last" else frequencies(sizes),
            jnp.zeros(sizes.n_states * (sizes.actions // self._together(sizes.actions)), jnp.int32),
            jnp.zeros((), jnp.int32),
            None if self.exploration_bonus is None else jnp.zeros(shape, jnp.uint32),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    actor, noise, act, greedy = exploring_actor, noise_of_choices, act_by_table, greedy_by_table

    def update(self, state: DynaState, rollout: Rollout, key: Key) -> tuple[DynaState, dict[str, Array]]:
        """One real step in each environment, and `planning_steps` imagined ones for each: `-> state, metrics`."""
        n_states, n_actions = state.q.shape
        s, a, r, next_s = (
            state.sizes.index(rollout.obs)[0],
            rollout.action[0],
            rollout.reward[0].astype(jnp.float32),
            jnp.where(rollout.terminated[0], n_states, state.sizes.index(rollout.next_obs)[0]),
        )
        together = self._together(n_actions)
        entry = (s * n_actions + a) // together
        new = (state.visits.reshape(-1, together)[entry].sum(-1) == 0) & ~repeats(entry)
        place = jnp.where(new, state.n_observed + new.cumsum() - 1, state.observed.size)
        step = state.step + jnp.uint32(r.size)
        known = state._replace(
            visits=state.visits.at[s, a].add(1),
            model=state.model.learned(s, a, r, next_s),
            observed=state.observed.at[place].set(entry, mode="drop"),
            n_observed=state.n_observed + new.sum(dtype=jnp.int32),
            tried=None if state.tried is None else state.tried.at[s, a].set(step),
        )
        learning_rate = schedule_value(self.learning_rate, progress_of(state))
        epsilon = jnp.broadcast_to(self.actor(state).epsilon, (n_states,))
        key_real, key_imagined = jax.random.split(key)

        def learn(q, s, a, r, next_s, alpha, epsilon, noise):
            """One update of the table for each entry of the others: `-> q, delta`."""
            delta = r + self.gamma * self._value(q, next_s, epsilon, noise) - q[s, a]
            return q.at[s, a].add(alpha * delta), delta

        def rates(s, a, next_s):
            alpha = decayed(learning_rate, known.visits[s, a], self.learning_rate_power)
            return jnp.broadcast_to(alpha, s.shape), epsilon.at[next_s].get(mode="clip")

        alpha, explore = rates(s, a, next_s)
        q, delta = learn(state.q, s, a, r, next_s, alpha, explore, jax.random.uniform(key_real, r.shape))
        metrics = {"td_error": jnp.abs(delta).mean(), "learning_rate": alpha.mean()}
        if self.planning_steps:
            s, a, r, next_s, noise = self._imagine(known, step, key_imagined, r.size * self.planning_steps)
            imagined = s, a, r, next_s, *rates(s, a, next_s), noise
            q, _ = jax.lax.scan(lambda q, one: (learn(q, *one)[0], None), q, imagined)
        return known._replace(q=q, step=step), metrics

    def _together(self, n_actions: int) -> int:
        """How many pairs become imaginable at once: with a bonus, all that a state has."""
        return 1 if self.exploration_bonus is None else n_actions

    def _imagine(self, state: DynaState, step: Array, key: Key, size: int) -> tuple[Array, ...]:
        """Draw pairs and what they lead to: `-> s, a, r, s', noise`, each `[size]`; the noise is for a'."""
        key_pair, key_outcome, key_action = jax.random.split(key, 3)
        n_actions, together = state.q.shape[1], self._together(state.q.shape[1])
        n_pairs = state.n_observed * together
        which = jnp.minimum((jax.random.uniform(key_pair, (size,)) * n_pairs).astype(jnp.int32), n_pairs - 1)
        pair = state.observed[which // together] * together + which % together
        s, a = jnp.divmod(pair, n_actions)
        r, next_s = state.model.imagine(s, a, jax.random.uniform(key_outcome, (size,)))
        if state.tried is not None and self.exploration_bonus is not None:
            r += self.exploration_bonus * jnp.sqrt((step - state.tried[s, a]).astype(jnp.float32))
        return s, a, r, next_s, jax.random.uniform(key_action, (size,))

    def _value(self, q: Array, s: Array, epsilon: Array, noise: Array) -> Array:
        """What follows from `s`, by the target; 0 from the end, which is no row of the table."""
        values = q.at[s].get(mode="fill", fill_value=0)
        if self.target == "q-learning":
            return values.max(-1)
        if self.target == "expected-sarsa":
            return (epsilon_greedy_probabilities(values, epsilon) * values).sum(-1)
        a = epsilon_greedy(values, epsilon, noise)
        return jnp.take_along_axis(values, a[..., None], -1)[..., 0]
