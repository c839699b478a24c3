"""SARSA (Rummery & Niranjan 1994), over one step or n."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
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
    """Steps that wait for what follows, `[n, B]`, oldest first.

    Attributes:
        s, a: the pair.
        earned: its rewards so far, discounted.
        discount: what the future is worth to it.
        valid: whether there is such a step.
    """

    s: Array
    a: Array
    earned: Array
    discount: Array
    valid: Array


class SarsaState(NamedTuple):
    """Everything that SARSA knows: tables `[S, A]`, the last n steps, and the clock."""

    sizes: Sizes
    q: Array
    visits: Array
    waiting: Waiting
    step: Array
    total_timesteps: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class Sarsa:
    """SARSA: learn the action values of the policy that is followed, while it improves.

    At each step t, in each environment, with n the steps until it bootstraps:

        a_t                  <- argmax_a Q(s_t, a) with probability 1 - epsilon, else any action
        G                    <- r_{t-n} + gamma r_{t-n+1} + ... + gamma^n Q(s_t, a_t)
        Q(s_{t-n}, a_{t-n})  <- Q(s_{t-n}, a_{t-n}) + alpha (G - Q(s_{t-n}, a_{t-n}))

    So an action is chosen before the step that leads to it is learned from. At the end of an episode no action
    follows: all steps that wait learn at once, the oldest first, from `sum_a pi(a | s') Q(s', a)` where it was
    truncated and from the rewards alone where it terminated. Environments side by side share the table, and their
    updates of one step add up.

    Source: Rummery & Niranjan 1994, "On-line Q-learning using connectionist systems", section 2.2; Sutton & Barto
    2018, "Reinforcement learning", eq. 6.7, 7.4 and 7.5.
    """

    n: int = ranged(1, "[1, inf)")
    """Steps until it bootstraps."""
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

    def init(self, key: Key, spec: Spec) -> SarsaState:
        """The first state. Raises ValueError for spaces that are not finite."""
        sizes = sizes_of(spec)
        shape = sizes.n_states, sizes.actions
        waiting = self.n, spec.num_envs
        index, number = jnp.zeros(waiting, jnp.int32), jnp.zeros(waiting, jnp.float32)
        return SarsaState(
            sizes,
            jnp.full(shape, self.initial_value, jnp.float32),
            jnp.zeros(shape, jnp.int32),
            Waiting(index, index, number, number, jnp.zeros(waiting, bool)),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    actor, noise, act, greedy = exploring_actor, noise_of_choices, act_by_table, greedy_by_table

    def update(self, state: SarsaState, rollout: Rollout, key: Key) -> tuple[SarsaState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        s, a, r, next_s = one_step(state.sizes, rollout)
        done = jnp.logical_or(rollout.terminated[0], rollout.truncated[0])
        learning_rate = schedule_value(self.learning_rate, progress_of(state))

        def learn(q, visits, step, following, now):
            alpha = decayed(learning_rate, visits[step.s, step.a], self.learning_rate_power)
            delta = now * (step.earned + step.discount * following - q[step.s, step.a])
            return q.at[step.s, step.a].add(alpha * delta), (jnp.abs(delta), now)

        oldest = jax.tree.map(lambda x: x[0], state.waiting)
        q, first = learn(state.q, state.visits, oldest, state.q[s, a], oldest.valid)

        visits = counted(state.visits, s, a, self.learning_rate_power, self.epsilon_power)
        new = Waiting(s, a, jnp.zeros_like(r), jnp.ones_like(r), jnp.ones_like(done))
        waiting = jax.tree.map(lambda old, x: jnp.concatenate([old[1:], x[None]]), state.waiting, new)
        waiting = waiting._replace(
            earned=waiting.earned + waiting.discount * r,
            discount=waiting.discount * self.gamma * (1 - rollout.terminated[0]),
        )

        expected = self.actor(state)._replace(q=q).expected(next_s)
        q, rest = jax.lax.scan(
            lambda q, step: learn(q, visits, step, expected, step.valid & done), q, waiting
        )
        error, count = (one.sum() + several.sum() for one, several in zip(first, rest, strict=True))
        alpha = decayed(learning_rate, visits[s, a], self.learning_rate_power)
        learned = state._replace(
            q=q,
            visits=visits,
            waiting=waiting._replace(valid=waiting.valid & ~done),
            step=state.step + jnp.uint32(rollout.reward.size),
        )
        return learned, {"td_error": error / jnp.maximum(count, 1), "learning_rate": jnp.mean(alpha)}
