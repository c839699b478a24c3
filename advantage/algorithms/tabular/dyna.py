"""Dyna: learning from real steps and from imagined ones (Sutton 1990)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init
from advantage.algorithms.hyperparameters import hyperparameters, ranged
from advantage.algorithms.tabular.acting import (
    EpsilonGreedy,
    act_by_table,
    choice_noise,
    exploring_actor,
    greedy_by_table,
)
from advantage.algorithms.tabular.action_values import (
    ActionValues,
    action_values,
    greedy_value,
    with_masks,
)
from advantage.algorithms.tabular.learned_model import (
    Frequencies,
    LastOutcome,
    frequencies,
    last_outcome,
    repeats,
    step_with_end,
)
from advantage.algorithms.tabular.options import TDControlOptions
from advantage.algorithms.tabular.step_sizes import step_size
from advantage.algorithms.tabular.table import Step
from advantage.types import Array, Clock, Key, Rollout, Spec, no_memory


class DynaState(NamedTuple):
    """The state of Dyna: action values, the model, the pairs that it may imagine, and the clock.

    Attributes:
        observed: int32, in the order of their first visits, pairs `s * A + a` `[S * A]`, or states `[S]` with a bonus.
        n_observed: int32, how many of these there are.
        tried: uint32 `[S, A]`, the step at which each pair was last tried; None without a bonus.
    """

    table: ActionValues
    model: LastOutcome | Frequencies
    observed: Array
    n_observed: Array
    tried: Array | None
    clock: Clock


@hyperparameters
class Dyna(TDControlOptions):
    """Dyna-Q and Dyna-Q+: each real step updates the values and a model, and is followed by imagined steps.

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
    of the states visited so far: a pair that was never tried is imagined to lead back to its state with reward 0. The
    bonus is part of Q, so that the greedy action may be one to try again, and not the one with the largest return.
    With planning_steps=0 and target="q-learning" this is exactly Q-learning.

    Parallel environments share the table and the model, and each has its own imagined steps. The a' of a real step is
    drawn as in an imagined one; it need not be the action taken next, which has the same distribution.

    Source: Sutton & Barto 2018, "Reinforcement learning", sections 8.2 (Tabular Dyna-Q) and 8.3 (Dyna-Q+); Sutton
    1990, "Integrated architectures for learning, planning, and reacting based on approximating dynamic programming".
    """

    planning_steps: int = ranged(10, "[0, inf)")
    """Imagined steps for each real one."""
    target: Literal["q-learning", "sarsa", "expected-sarsa"] = "q-learning"
    """Update target of real and imagined steps."""
    model: Literal["last", "frequencies"] = "last"
    """Imagine the last outcome of a pair, or draw from all its outcomes, which takes counts `[S, A, S + 1]`."""
    exploration_bonus: float | None = ranged(None, "[0, inf)")
    """Kappa of Dyna-Q+, in units of reward per square root of a step; None is Dyna-Q."""

    def init(self, key: Key, spec: Spec) -> DynaState:
        """The initial training state. Raises ValueError for spaces that are not finite, or too large a model."""
        table = action_values(spec, self.initial_value)
        sizes = table.sizes
        return DynaState(
            table,
            last_outcome(sizes) if self.model == "last" else frequencies(sizes),
            jnp.zeros(sizes.n_states * (sizes.actions // self._together(sizes.actions)), jnp.int32),
            jnp.zeros((), jnp.int32),
            None if self.exploration_bonus is None else jnp.zeros(table.q.shape, jnp.uint32),
            clock_init(spec.total_timesteps),
        )

    n_steps = 1
    initial_memory = no_memory
    actor = exploring_actor
    noise = choice_noise
    act = act_by_table
    greedy = greedy_by_table

    def update(self, state: DynaState, rollout: Rollout, key: Key) -> tuple[DynaState, dict[str, Array]]:
        """One real step in each environment, and `planning_steps` imagined ones for each: `-> state, metrics`."""
        state = state._replace(table=with_masks(state.table, rollout))
        table = state.table
        step = step_with_end(table.sizes, rollout)
        known = self._remember(state, step)
        policy = self.actor(state)
        key_real, key_imagined = jax.random.split(key)

        def rates(step: Step):
            alpha = step_size(self, state.clock, known.table.visits[step.s, step.a])
            return jnp.broadcast_to(alpha, step.s.shape)

        def learn(q, inputs):
            """One update of the table for each entry of the inputs: `-> q, delta`."""
            step, alpha, noise = inputs
            target = step.r + self.gamma * self._value(policy._replace(q=q), step.next_s, noise)
            delta = target - q[step.s, step.a]
            return q.at[step.s, step.a].add(alpha * delta), delta

        alpha = rates(step)
        q, delta = learn(table.q, (step, alpha, jax.random.uniform(key_real, step.r.shape)))
        metrics = {"td_error": jnp.abs(delta).mean(), "learning_rate": alpha.mean()}
        if self.planning_steps:
            steps, noise = self._imagine(known, key_imagined, step.r.size * self.planning_steps)
            q, _ = jax.lax.scan(learn, q, (steps, rates(steps), noise))
        return known._replace(table=known.table._replace(q=q)), metrics

    def _remember(self, state: DynaState, step: Step) -> DynaState:
        """The state with a real step in each environment counted and learned into the model."""
        together, clock = self._together(state.table.sizes.actions), advance_clock(state.clock, step.r.size)
        s, a, visits = step.s, step.a, state.table.visits
        entry = (s * state.table.sizes.actions + a) // together
        new = (visits.reshape(-1, together)[entry].sum(-1) == 0) & ~repeats(entry)
        place = jnp.where(new, state.n_observed + new.cumsum() - 1, state.observed.size)
        return DynaState(
            state.table._replace(visits=visits.at[s, a].add(1)),
            state.model.learned(step),
            state.observed.at[place].set(entry, mode="drop"),
            state.n_observed + new.sum(dtype=jnp.int32),
            None if state.tried is None else state.tried.at[s, a].set(clock.step),
            clock,
        )

    def _together(self, n_actions: int) -> int:
        """How many pairs a first visit makes available: with a bonus, all pairs of the state."""
        return 1 if self.exploration_bonus is None else n_actions

    def _imagine(self, state: DynaState, key: Key, size: int) -> tuple[Step, Array]:
        """Draw pairs and their outcomes, `[size]`: `-> steps, noise`; the noise is for a'."""
        key_pair, key_outcome, key_action = jax.random.split(key, 3)
        n_actions = state.table.sizes.actions
        together = self._together(n_actions)
        n_pairs = state.n_observed * together
        which = jnp.minimum((jax.random.uniform(key_pair, (size,)) * n_pairs).astype(jnp.int32), n_pairs - 1)
        pair = state.observed[which // together] * together + which % together
        s, a = jnp.divmod(pair, n_actions)
        r, next_s = state.model.imagine(s, a, jax.random.uniform(key_outcome, (size,)))
        if state.tried is not None and self.exploration_bonus is not None:
            waited = (state.clock.step - state.tried[s, a]).astype(jnp.float32)
            r += self.exploration_bonus * jnp.sqrt(waited)
        return Step(s, a, r, next_s), jax.random.uniform(key_action, (size,))

    def _value(self, policy: EpsilonGreedy, s: Array, noise: Array) -> Array:
        """The value of `s` by the target; 0 at the end, which has no row in the table."""
        if self.target == "q-learning":
            value = greedy_value(policy.q, s, policy.allowed)
        elif self.target == "expected-sarsa":
            value = policy.expected(s)
        else:
            value = policy.q[s, policy.draw(s, noise)]
        return jnp.where(s < policy.sizes.n_states, value, 0)
