"""Tree backup (Precup, Sutton & Singh 2000) over n steps."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init, progress
from advantage.algorithms.hyperparameters import Schedule, hyperparameters, ranged, schedule_value
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
    count_visits,
    with_masks,
)
from advantage.algorithms.tabular.options import TDControlOptions
from advantage.algorithms.tabular.step_sizes import step_size
from advantage.algorithms.tabular.table import one_step
from advantage.estimators.returns import credit, td_errors
from advantage.types import Array, Clock, Key, Rollout, Spec, no_memory


class Recent(NamedTuple):
    """The last steps of the running episode, `[n, B]`, oldest first; `valid` says whether there is such a step."""

    s: Array
    a: Array
    reward: Array
    discount: Array
    valid: Array


class TreeBackupState(NamedTuple):
    """The training state of tree backup: action values, the last n steps, and the clock."""

    table: ActionValues
    recent: Recent
    clock: Clock


@hyperparameters
class TreeBackup(TDControlOptions):
    """Tree backup: learn another policy's action values over n steps, without importance sampling.

    The behaviour is epsilon-greedy; the target policy pi is epsilon-greedy with `target_epsilon`. At each step t, in
    each environment, with V(s) = sum_a pi(a | s) Q(s, a) and n the number of steps before bootstrapping:

        delta_k  <- r_k + gamma V(s_{k+1}) - Q(s_k, a_k)
        Psi_k    <- delta_k + gamma pi(a_{k+1} | s_{k+1}) Psi_{k+1}    for k = t, ..., t - n + 1;  Psi_{t+1} = 0
        Q(s_{t-n+1}, a_{t-n+1})  <- Q(s_{t-n+1}, a_{t-n+1}) + alpha Psi_{t-n+1}

    `Q(s_k, a_k) + Psi_k` is the tree-backup return. With n = 1 and target_epsilon = 0 it is Q-learning. When an episode
    ends, all waiting steps learn at once, the oldest first. A truncated step bootstraps from the true successor; a
    terminated one does not. Parallel environments share the table, and their updates are summed.

    Source: Precup, Sutton & Singh 2000, "Eligibility traces for off-policy policy evaluation", section 4; Sutton &
    Barto 2018, "Reinforcement learning", eq. 7.15 and 7.16.
    """

    n: int = ranged(4, "[1, inf)")
    """Number of steps before bootstrapping."""
    target_epsilon: float | Schedule = ranged(0.0, "[0, 1]")
    """Epsilon of the target policy; 0 makes it greedy."""

    def init(self, key: Key, spec: Spec) -> TreeBackupState:
        """The initial training state. Raises ValueError for spaces that are not finite."""
        shape = self.n, spec.num_envs
        index, number = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)
        recent = Recent(index, index, number, number, jnp.zeros(shape, bool))
        return TreeBackupState(
            action_values(spec, self.initial_value), recent, clock_init(spec.total_timesteps)
        )

    n_steps = 1
    initial_memory = no_memory
    actor = exploring_actor
    noise = choice_noise
    act = act_by_table
    greedy = greedy_by_table

    def update(
        self, state: TreeBackupState, rollout: Rollout, key: Key
    ) -> tuple[TreeBackupState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        table, clock = with_masks(state.table, rollout), state.clock
        s, a, r, next_s = one_step(table.sizes, rollout)
        done = jnp.logical_or(rollout.terminated[0], rollout.truncated[0])
        new = Recent(s, a, r, self.gamma * (1 - rollout.terminated[0]), jnp.ones_like(done))
        recent = jax.tree.map(lambda old, x: jnp.concatenate([old[1:], x[None]]), state.recent, new)
        following = jnp.concatenate([recent.s[1:], next_s[None]])
        taken = jnp.concatenate([recent.a[1:], a[None]])  # the last one is not known, and not needed

        visits = count_visits(self, table.visits, s, a)
        alpha = step_size(self, clock, visits[recent.s, recent.a])
        alpha = alpha * (recent.valid & (done | (jnp.arange(self.n) == 0)[:, None]))
        target_epsilon = schedule_value(self.target_epsilon, progress(clock))

        def learn(q, k):
            target = EpsilonGreedy(table.sizes, q, target_epsilon, table.allowed)
            delta = td_errors(
                recent.reward, recent.discount, q[recent.s, recent.a], target.expected(following)
            )
            c = jnp.take_along_axis(target.probabilities(following), taken[..., None], -1)[..., 0]
            psi = credit(delta, recent.discount, c)[k]
            return q.at[recent.s[k], recent.a[k]].add(alpha[k] * psi), delta[-1]

        q, delta = jax.lax.scan(learn, table.q, jnp.arange(self.n))
        learned = TreeBackupState(
            table._replace(q=q, visits=visits),
            recent._replace(valid=recent.valid & ~done),
            advance_clock(clock, rollout.reward.size),
        )
        return learned, {"td_error": jnp.abs(delta[0]).mean(), "learning_rate": jnp.mean(alpha)}
