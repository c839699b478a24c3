"""SARSA (Rummery & Niranjan 1994), over one or n steps."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init
from advantage.algorithms.hyperparameters import hyperparameters, ranged
from advantage.algorithms.tabular.acting import act_by_table, choice_noise, exploring_actor, greedy_by_table
from advantage.algorithms.tabular.action_values import (
    ActionValues,
    action_values,
    count_visits,
    with_masks,
)
from advantage.algorithms.tabular.options import TDControlOptions
from advantage.algorithms.tabular.step_sizes import step_size
from advantage.algorithms.tabular.table import one_step
from advantage.types import Array, Clock, Key, Rollout, Spec, no_memory


class Waiting(NamedTuple):
    """Steps that wait for what follows, `[n, B]`, oldest first.

    Attributes:
        s, a: the pair.
        earned: its rewards so far, discounted.
        discount: the factor of the value that it bootstraps from.
        valid: whether there is such a step.
    """

    s: Array
    a: Array
    earned: Array
    discount: Array
    valid: Array


class SarsaState(NamedTuple):
    """The training state of SARSA: action values, the last n steps, and the clock."""

    table: ActionValues
    waiting: Waiting
    clock: Clock


@hyperparameters
class Sarsa(TDControlOptions):
    """SARSA: learn the action values of the policy that is followed, while it improves.

    At each step t, in each environment, with n the number of steps before bootstrapping:

        a_t                  <- argmax_a Q(s_t, a) with probability 1 - epsilon, else any action
        G                    <- r_{t-n} + gamma r_{t-n+1} + ... + gamma^n Q(s_t, a_t)
        Q(s_{t-n}, a_{t-n})  <- Q(s_{t-n}, a_{t-n}) + alpha (G - Q(s_{t-n}, a_{t-n}))

    So an action is chosen before learning from the step that leads to it. At the end of an episode no action follows:
    all waiting steps learn at once, the oldest first, from `sum_a pi(a | s') Q(s', a)` where it was truncated and from
    the rewards alone where it terminated. Parallel environments share the table, and their updates of one step are
    summed.

    Source: Rummery & Niranjan 1994, "On-line Q-learning using connectionist systems", section 2.2; Sutton & Barto
    2018, "Reinforcement learning", eq. 6.7, 7.4 and 7.5.
    """

    n: int = ranged(1, "[1, inf)")
    """Number of steps before bootstrapping."""

    def init(self, key: Key, spec: Spec) -> SarsaState:
        """The initial training state. Raises ValueError for spaces that are not finite."""
        shape = self.n, spec.num_envs
        index, number = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)
        waiting = Waiting(index, index, number, number, jnp.zeros(shape, bool))
        return SarsaState(action_values(spec, self.initial_value), waiting, clock_init(spec.total_timesteps))

    n_steps = 1
    initial_memory = no_memory
    actor = exploring_actor
    noise = choice_noise
    act = act_by_table
    greedy = greedy_by_table

    def update(self, state: SarsaState, rollout: Rollout, key: Key) -> tuple[SarsaState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        state = state._replace(table=with_masks(state.table, rollout))
        table, clock = state.table, state.clock
        s, a, r, next_s = one_step(table.sizes, rollout)
        done = jnp.logical_or(rollout.terminated[0], rollout.truncated[0])

        def learn(q, visits, step: Waiting, following, now):
            alpha = step_size(self, clock, visits[step.s, step.a])
            delta = now * (step.earned + step.discount * following - q[step.s, step.a])
            return q.at[step.s, step.a].add(alpha * delta), (jnp.abs(delta), now)

        oldest = jax.tree.map(lambda x: x[0], state.waiting)
        q, first = learn(table.q, table.visits, oldest, table.q[s, a], oldest.valid)

        visits = count_visits(self, table.visits, s, a)
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
        learned = SarsaState(
            table._replace(q=q, visits=visits),
            waiting._replace(valid=waiting.valid & ~done),
            advance_clock(clock, rollout.reward.size),
        )
        alpha = step_size(self, clock, visits[s, a])
        return learned, {"td_error": error / jnp.maximum(count, 1), "learning_rate": jnp.mean(alpha)}
