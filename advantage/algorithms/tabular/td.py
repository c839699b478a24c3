"""TD prediction with targets of one step or of n (Sutton 1988)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.given_policy import Follow, PolicyTable, follow, given
from advantage.algorithms.tabular.table import (
    act_by_table,
    decayed,
    greedy_by_table,
    noise_of_choices,
    progress_of,
    sizes_of,
)
from advantage.types import Array, Key, Rollout, Spec


class Recent(NamedTuple):
    """The steps of the running episodes whose n steps are not over yet, `[n - 1, B]`, the newest in the last row.

    Attributes:
        state: int32.
        earned: the discounted rewards since then.
        count: int32 `[B]`, how many rows, from the last one up, are of the running episode.
    """

    state: Array
    earned: Array
    count: Array


class TDState(NamedTuple):
    """Everything that TD knows: the policy, tables `[S]`, recent steps and the clock."""

    policy: Follow
    v: Array
    visits: Array
    recent: Recent
    step: Array
    total_timesteps: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class TD:
    """n-step TD: learn the values of a policy that is given while following it. TD(0) with n = 1.

    At step t, in each environment, for the state of n steps before:

        G            <- r + gamma r' + ... + gamma^{n-1} r^{(n-1)} + gamma^n V(s_{t+1})
        V(s_{t+1-n}) <- V(s_{t+1-n}) + alpha (G - V(s_{t+1-n}))

    At an episode's end the same happens for the n - 1 states after it, the oldest first, with G cut there: it
    bootstraps from the true successor if the end was a truncation. Environments side by side share the table, and their
    updates of one moment add up.

    Source: Sutton 1988, "Learning to predict by the methods of temporal differences"; Sutton & Barto 2018,
    "Reinforcement learning", eq. 6.2, 7.1 and 7.2.
    """

    learning_rate: float | Schedule = ranged(0.1, "[0, 1]")
    """Step size alpha; a number or a schedule of progress."""
    learning_rate_power: float | None = ranged(None, "[0, 1]")
    """Divides alpha by the updates of V(s) to this power: 1 makes a running mean; None keeps it."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    n: int = ranged(1, "[1, inf)")
    """Rewards in a target."""
    initial_value: float = ranged(0.0, "(-inf, inf)")
    """Of every V(s)."""
    policy: PolicyTable = None
    """Probabilities [S, A], or an action for each state [S]: a table, or the name of a .json or .npy file with one.
    Observations of several parts are numbered like digits, the last part fastest. None is uniformly random."""

    def __post_init__(self):
        object.__setattr__(self, "policy", given(self.policy))
        check(self)

    @property
    def n_steps(self) -> int:
        return 1

    def init(self, key: Key, spec: Spec) -> TDState:
        """The first state. Raises ValueError for spaces that are not finite, or that the policy does not fit."""
        sizes, waiting = sizes_of(spec), (self.n - 1, spec.num_envs)
        return TDState(
            follow(self.policy, sizes),
            jnp.full(sizes.n_states, self.initial_value, jnp.float32),
            jnp.zeros(sizes.n_states, jnp.int32),
            Recent(
                jnp.zeros(waiting, jnp.int32),
                jnp.zeros(waiting, jnp.float32),
                jnp.zeros(waiting[1:], jnp.int32),
            ),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    def actor(self, state: TDState) -> Follow:
        """The policy."""
        return state.policy

    noise, act, greedy = noise_of_choices, act_by_table, greedy_by_table

    def update(self, state: TDState, rollout: Rollout, key: Key) -> tuple[TDState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        index, recent, n = state.policy.sizes.index, state.recent, self.n
        reward, next_s = rollout.reward[0].astype(jnp.float32), index(rollout.next_obs)[0]
        terminated: Array = rollout.terminated[0]
        done: Array = terminated | rollout.truncated[0]
        age = np.arange(n - 1, -1, -1)[:, None]  # of each row in steps; the last one is new
        fade = self.gamma**age
        s = jnp.concatenate([recent.state, index(rollout.obs)])
        earned = jnp.concatenate([recent.earned, jnp.zeros_like(reward)[None]]) + fade * reward
        future = fade * self.gamma * (1 - terminated)
        due = (age <= recent.count) & (done | (age == n - 1))
        learning_rate = schedule_value(self.learning_rate, progress_of(state))

        def one(row, carry):
            v, visits, total = carry
            error = jnp.where(due[row], earned[row] + future[row] * v[next_s] - v[s[row]], 0)
            visits = visits.at[s[row]].add(due[row])
            alpha = decayed(learning_rate, visits[s[row]], self.learning_rate_power)
            return v.at[s[row]].add(alpha * error), visits, total + jnp.abs(error).sum()

        carry = state.v, state.visits, jnp.zeros(())
        if n == 1:
            v, visits, total = one(0, carry)
        else:  # the first row alone, but for an episode's end
            v, visits, total = jax.lax.fori_loop(0, jnp.where(done.any(), n, 1), one, carry)
        left = Recent(s[1:], earned[1:], jnp.where(done, 0, jnp.minimum(recent.count + 1, n - 1)))
        learned = state._replace(
            v=v, visits=visits, recent=left, step=state.step + jnp.uint32(rollout.reward.size)
        )
        metrics = {
            "td_error": total / jnp.maximum(due.sum(), 1),
            "learning_rate": jnp.asarray(learning_rate, jnp.float32),
        }
        return learned, metrics
