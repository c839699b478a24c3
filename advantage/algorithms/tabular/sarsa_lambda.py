"""SARSA(lambda) (Rummery & Niranjan 1994) with three kinds of traces."""

from __future__ import annotations

from typing import Literal, NamedTuple

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
    """The last step, `[B]`, which waits for the next action.

    Attributes:
        s, a, r: the state, the action and the reward.
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
    """The training state of SARSA(lambda): action values, traces `[B, S, A]`, the last step, and the clock."""

    table: ActionValues
    trace: Array
    waiting: Waiting
    clock: Clock


@hyperparameters
class SarsaLambda(TDControlOptions):
    """SARSA(lambda): each TD error also corrects earlier pairs, with weights that decay with time.

    At each step t, in each environment, where the trace e holds the step sizes still to apply:

        a_t          <- argmax_a Q(s_t, a) with probability 1 - epsilon, else any action
        delta        <- r_{t-1} + gamma Q(s_t, a_t) - Q(s_{t-1}, a_{t-1})
        Q            <- Q + delta e
        e            <- gamma lam e
        e(s_t, a_t)  <- e(s_t, a_t) + alpha            accumulating
                        alpha                          replacing
                        (1 - alpha) e(s_t, a_t) + alpha    dutch

    Dutch traces are those of true online SARSA(lambda), which corrects for later changes of the values that it
    bootstrapped from: with D the change of Q(s_{t-1}, a_{t-1}) since a_{t-1} was chosen, it adds D e to Q, and takes
    alpha D from Q(s_{t-1}, a_{t-1}). At the end of an episode no action follows: the last step learns at once, from
    `sum_a pi(a | s') Q(s', a)` where it was truncated and from the reward alone where it terminated. Parallel
    environments share the table but not the traces, and their updates of one step are summed.

    Source: Rummery & Niranjan 1994, "On-line Q-learning using connectionist systems", section 2.3; Singh & Sutton
    1996, "Reinforcement learning with replacing eligibility traces", eq. 5; van Seijen et al. 2016, "True online
    temporal-difference learning", algorithm 3; Sutton & Barto 2018, "Reinforcement learning", section 12.7.
    """

    lam: float = ranged(0.9, "[0, 1]")
    """Trace decay lambda: 0 corrects the last step alone, 1 the whole episode."""
    trace: Literal["accumulating", "replacing", "dutch"] = "accumulating"
    """How a visit updates the trace of its pair; accumulating traces diverge if pairs recur and alpha is large."""

    def init(self, key: Key, spec: Spec) -> SarsaLambdaState:
        """The initial training state. Raises ValueError for spaces that are not finite."""
        table = action_values(spec, self.initial_value)
        index, number = jnp.zeros(spec.num_envs, jnp.int32), jnp.zeros(spec.num_envs, jnp.float32)
        return SarsaLambdaState(
            table,
            jnp.zeros((spec.num_envs, *table.q.shape), jnp.float32),
            Waiting(index, index, number, number, number, jnp.zeros(spec.num_envs, bool)),
            clock_init(spec.total_timesteps),
        )

    n_steps = 1
    initial_memory = no_memory
    actor = exploring_actor
    noise = choice_noise
    act = act_by_table
    greedy = greedy_by_table

    def update(
        self, state: SarsaLambdaState, rollout: Rollout, key: Key
    ) -> tuple[SarsaLambdaState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        state = state._replace(table=with_masks(state.table, rollout))
        table = state.table
        s, a, r, next_s = one_step(table.sizes, rollout)
        done = jnp.logical_or(rollout.terminated[0], rollout.truncated[0])

        def learn(q, trace, last: Waiting, discount, following, now):
            value = q[last.s, last.a]
            delta = now * (last.r + discount * following - value)
            if self.trace != "dutch":
                return q + jnp.einsum("b,bsa->sa", delta, trace), delta
            change = now * (value - last.value)
            q = q + jnp.einsum("b,bsa->sa", delta + change, trace)
            return q.at[last.s, last.a].add(-last.alpha * change), delta

        last, value = state.waiting, table.q[s, a]
        q, first = learn(table.q, state.trace, last, self.gamma, value, last.valid)

        visits = count_visits(self, table.visits, s, a)
        alpha = step_size(self, state.clock, visits[s, a]) * jnp.ones_like(r)
        trace = (self.gamma * self.lam * last.valid)[:, None, None] * state.trace
        kept = {"accumulating": 1.0, "replacing": 0.0, "dutch": 1 - alpha}[self.trace]
        env = jnp.arange(len(r))
        trace = trace.at[env, s, a].set(kept * trace[env, s, a] + alpha)

        waiting = Waiting(s, a, r, alpha, value, ~done)
        discount = self.gamma * (1 - rollout.terminated[0])
        expected = self.actor(state)._replace(q=q).expected(next_s)
        q, final = learn(q, trace, waiting, discount, expected, done)
        count = jnp.maximum(last.valid.sum() + done.sum(), 1)
        learned = SarsaLambdaState(
            table._replace(q=q, visits=visits),
            trace,
            waiting,
            advance_clock(state.clock, rollout.reward.size),
        )
        return learned, {
            "td_error": (jnp.abs(first).sum() + jnp.abs(final).sum()) / count,
            "learning_rate": alpha.mean(),
        }
