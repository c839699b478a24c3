"""TD prediction with one-step or n-step targets (Sutton 1988)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.clock import advance_clock, clock_init, progress
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.acting import act_by_table, choice_noise, followed_policy, greedy_by_table
from advantage.algorithms.tabular.given_policy import given
from advantage.algorithms.tabular.options import PredictionOptions
from advantage.algorithms.tabular.state_values import StateValues, state_values
from advantage.algorithms.tabular.step_sizes import decayed
from advantage.algorithms.tabular.table import one_step
from advantage.types import Array, Clock, Key, Rollout, Spec, no_memory


class Recent(NamedTuple):
    """The steps of the running episodes that wait for their n-step target, `[n - 1, B]`, the newest in the last row.

    Attributes:
        state: int32.
        earned: the discounted rewards since then.
        count: int32 `[B]`, how many of the last rows belong to the running episode.
    """

    state: Array
    earned: Array
    count: Array


class TDState(NamedTuple):
    """The training state of TD: the policy's values, recent steps and the clock."""

    table: StateValues
    recent: Recent
    clock: Clock


@hyperparameters
class TD(PredictionOptions):
    """n-step TD: learn the values of a given policy while following it. With n = 1 it is TD(0).

    At step t, in each environment, for the state n steps earlier:

        G            <- r + gamma r' + ... + gamma^{n-1} r^{(n-1)} + gamma^n V(s_{t+1})
        V(s_{t+1-n}) <- V(s_{t+1-n}) + alpha (G - V(s_{t+1-n}))

    At an episode's end the same happens for the n - 1 states after it, the oldest first, with G cut there: it
    bootstraps from the true successor if the end was a truncation. Parallel environments share the table, and their
    updates of one step are summed.

    Source: Sutton 1988, "Learning to predict by the methods of temporal differences"; Sutton & Barto 2018,
    "Reinforcement learning", eq. 6.2, 7.1 and 7.2.
    """

    n: int = ranged(1, "[1, inf)")
    """Number of rewards in a target."""

    def __post_init__(self):
        object.__setattr__(self, "policy", given(self.policy))
        check(self)

    def init(self, key: Key, spec: Spec) -> TDState:
        """The initial training state. Raises ValueError for spaces that are not finite or do not fit the policy."""
        shape = self.n - 1, spec.num_envs
        recent = Recent(
            jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32), jnp.zeros(spec.num_envs, jnp.int32)
        )
        return TDState(state_values(self, spec), recent, clock_init(spec.total_timesteps))

    n_steps = 1
    initial_memory = no_memory
    actor = followed_policy
    noise = choice_noise
    act = act_by_table
    greedy = greedy_by_table

    def update(self, state: TDState, rollout: Rollout, key: Key) -> tuple[TDState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        table, recent, n = state.table, state.recent, self.n
        newest, _, reward, next_s = one_step(table.policy.sizes, rollout)
        terminated: Array = rollout.terminated[0]
        done: Array = terminated | rollout.truncated[0]
        age = np.arange(n - 1, -1, -1)[:, None]  # of each row in steps; the last one is new
        fade = self.gamma**age
        s = jnp.concatenate([recent.state, newest[None]])
        earned = jnp.concatenate([recent.earned, jnp.zeros_like(reward)[None]]) + fade * reward
        future = fade * self.gamma * (1 - terminated)
        due = (age <= recent.count) & (done | (age == n - 1))
        learning_rate = schedule_value(self.learning_rate, progress(state.clock))

        def one(row, carry):
            v, visits, total = carry
            error = jnp.where(due[row], earned[row] + future[row] * v[next_s] - v[s[row]], 0)
            visits = visits.at[s[row]].add(due[row])
            alpha = decayed(learning_rate, visits[s[row]], self.learning_rate_power)
            return v.at[s[row]].add(alpha * error), visits, total + jnp.abs(error).sum()

        carry = table.v, table.visits, jnp.zeros(())
        if n == 1:
            v, visits, total = one(0, carry)
        else:  # the first row alone, except at an episode's end
            v, visits, total = jax.lax.fori_loop(0, jnp.where(done.any(), n, 1), one, carry)
        left = Recent(s[1:], earned[1:], jnp.where(done, 0, jnp.minimum(recent.count + 1, n - 1)))
        clock = advance_clock(state.clock, reward.size)
        return TDState(table._replace(v=v, visits=visits), left, clock), {
            "td_error": total / jnp.maximum(due.sum(), 1),
            "learning_rate": jnp.asarray(learning_rate, jnp.float32),
        }
