"""SARSA(lambda) (Rummery & Niranjan 1994) with three kinds of traces."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.table import (
    Sizes,
    act_by_table,
    counted,
    decayed,
    exploring_actor,
    greedy_by_table,
    noise_of_choices,
    one_step,
    progress_of,
    sizes_of,
)
from advantage.types import Array, Key, Rollout, Spec


class Waiting(NamedTuple):
    """The last step, `[B]`, which waits for the next action.

    Attributes:
        s, a, r: what was left, what was done, what it earned.
        alpha: its step size.
        value: Q(s, a) when a was chosen.
        valid: whether there is such a step.
    """

    s: Array
    a: Array
    r: Array
    alpha: Array
    value: Array
    valid: Array


class SarsaLambdaState(NamedTuple):
    """Everything that SARSA(lambda) knows: tables `[S, A]`, traces `[B, S, A]`, the last step, and the clock."""

    sizes: Sizes
    q: Array
    visits: Array
    trace: Array
    waiting: Waiting
    step: Array
    total_timesteps: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class SarsaLambda:
    """SARSA(lambda): SARSA whose every error also corrects the pairs that led there, the less the longer ago.

    At each step t, in each environment, with the trace e the step sizes that are still due:

        a_t          <- argmax_a Q(s_t, a) with probability 1 - epsilon, else any action
        delta        <- r_{t-1} + gamma Q(s_t, a_t) - Q(s_{t-1}, a_{t-1})
        Q            <- Q + delta e
        e            <- gamma lam e
        e(s_t, a_t)  <- e(s_t, a_t) + alpha            accumulating
                        alpha                          replacing
                        (1 - alpha) e(s_t, a_t) + alpha    dutch

    Dutch traces are those of true online SARSA(lambda), which undoes what later updates made of the values it
    bootstrapped from: with D the change of Q(s_{t-1}, a_{t-1}) since a_{t-1} was chosen, it adds D e to Q, and takes
    alpha D from Q(s_{t-1}, a_{t-1}). At the end of an episode no action follows: the last step learns at once, from
    `sum_a pi(a | s') Q(s', a)` where it was truncated and from the reward alone where it terminated. Environments
    side by side share the table, each with a trace of its own, and their updates of one step add up.

    Source: Rummery & Niranjan 1994, "On-line Q-learning using connectionist systems", section 2.3; Singh & Sutton
    1996, "Reinforcement learning with replacing eligibility traces", eq. 5; van Seijen et al. 2016, "True online
    temporal-difference learning", algorithm 3; Sutton & Barto 2018, "Reinforcement learning", section 12.7.
    """

    lam: float = ranged(0.9, "[0, 1]")
    """Reach of credit: 0 is the last step alone, 1 the whole episode."""
    trace: Literal["accumulating", "replacing", "dutch"] = "accumulating"
    """What a visit does to the trace of its pair; where pairs recur and alpha is large, accumulating ones diverge."""
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

    def __post_init__(self):
        check(self)

    @property
    def n_steps(self) -> int:
        return 1

    def init(self, key: Key, spec: Spec) -> SarsaLambdaState:
        """The first state. Raises ValueError for spaces that are not finite."""
        sizes = sizes_of(spec)
        shape = sizes.n_states, sizes.actions
        index, number = jnp.zeros(spec.num_envs, jnp.int32), jnp.zeros(spec.num_envs, jnp.float32)
        return SarsaLambdaState(
            sizes,
            jnp.full(shape, self.initial_value, jnp.float32),
            jnp.zeros(shape, jnp.int32),
            jnp.zeros((spec.num_envs, *shape), jnp.float32),
            Waiting(index, index, number, number, number, jnp.zeros(spec.num_envs, bool)),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    actor, noise, act, greedy = exploring_actor, noise_of_choices, act_by_table, greedy_by_table

    def update(
        self, state: SarsaLambdaState, rollout: Rollout, key: Key
    ) -> tuple[SarsaLambdaState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        s, a, r, next_s = one_step(state.sizes, rollout)
        done = jnp.logical_or(rollout.terminated[0], rollout.truncated[0])

        def learn(q, trace, last, discount, following, now):
            value = q[last.s, last.a]
            delta = now * (last.r + discount * following - value)
            if self.trace != "dutch":
                return q + jnp.einsum("b,bsa->sa", delta, trace), delta
            change = now * (value - last.value)
            q = q + jnp.einsum("b,bsa->sa", delta + change, trace)
            return q.at[last.s, last.a].add(-last.alpha * change), delta

        last, value = state.waiting, state.q[s, a]
        q, first = learn(state.q, state.trace, last, self.gamma, value, last.valid)

        visits = counted(state.visits, s, a, self.learning_rate_power, self.epsilon_power)
        learning_rate = schedule_value(self.learning_rate, progress_of(state))
        alpha = decayed(learning_rate, visits[s, a], self.learning_rate_power) * jnp.ones_like(r)
        trace = (self.gamma * self.lam * last.valid)[:, None, None] * state.trace
        kept = {"accumulating": 1.0, "replacing": 0.0, "dutch": 1 - alpha}[self.trace]
        env = jnp.arange(len(r))
        trace = trace.at[env, s, a].set(kept * trace[env, s, a] + alpha)

        waiting = Waiting(s, a, r, alpha, value, ~done)
        discount = self.gamma * (1 - rollout.terminated[0])
        expected = self.actor(state)._replace(q=q).expected(next_s)
        q, final = learn(q, trace, waiting, discount, expected, done)
        count = jnp.maximum(last.valid.sum() + done.sum(), 1)
        learned = state._replace(
            q=q,
            visits=visits,
            trace=trace,
            waiting=waiting,
            step=state.step + jnp.uint32(rollout.reward.size),
        )
        return learned, {
            "td_error": (jnp.abs(first).sum() + jnp.abs(final).sum()) / count,
            "learning_rate": alpha.mean(),
        }
