"""Tree backup (Precup, Sutton & Singh 2000) over n steps."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.table import (
    EpsilonGreedy,
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
from advantage.estimators.returns import credit, td_errors
from advantage.types import Array, Key, Rollout, Spec


class Recent(NamedTuple):
    """The last steps of the running episode, `[n, B]`, oldest first; `valid` says whether there is such a step."""

    s: Array
    a: Array
    reward: Array
    discount: Array
    valid: Array


class TreeBackupState(NamedTuple):
    """Everything that tree backup knows: tables `[S, A]`, the last n steps, and the clock."""

    sizes: Sizes
    q: Array
    visits: Array
    recent: Recent
    step: Array
    total_timesteps: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class TreeBackup:
    """Tree backup: learn another policy's action values over n steps, without importance sampling.

    Behaviour is epsilon-greedy; pi, which is learned about, is epsilon-greedy with `target_epsilon`. At each step t, in
    each environment, with V(s) = sum_a pi(a | s) Q(s, a) and n the steps until it bootstraps:

        delta_k  <- r_k + gamma V(s_{k+1}) - Q(s_k, a_k)
        Psi_k    <- delta_k + gamma pi(a_{k+1} | s_{k+1}) Psi_{k+1}    for k = t, ..., t - n + 1;  Psi_{t+1} = 0
        Q(s_{t-n+1}, a_{t-n+1})  <- Q(s_{t-n+1}, a_{t-n+1}) + alpha Psi_{t-n+1}

    `Q(s_k, a_k) + Psi_k` is the tree-backup return. With n = 1 and target_epsilon = 0 it is Q-learning. When an episode
    ends, all steps that still wait learn at once, the oldest first. A truncated step bootstraps from the true
    successor; a terminated one does not. Environments side by side share the table, and their updates add up.

    Source: Precup, Sutton & Singh 2000, "Eligibility traces for off-policy policy evaluation", section 4; Sutton &
    Barto 2018, "Reinforcement learning", eq. 7.15 and 7.16.
    """

    n: int = ranged(4, "[1, inf)")
    """Steps until it bootstraps."""
    target_epsilon: float | Schedule = ranged(0.0, "[0, 1]")
    """Exploration of the policy that is learned about: 0 learns about the best."""
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

    def init(self, key: Key, spec: Spec) -> TreeBackupState:
        """The first state. Raises ValueError for spaces that are not finite."""
        sizes = sizes_of(spec)
        shape = sizes.n_states, sizes.actions
        recent = self.n, spec.num_envs
        index, number = jnp.zeros(recent, jnp.int32), jnp.zeros(recent, jnp.float32)
        return TreeBackupState(
            sizes,
            jnp.full(shape, self.initial_value, jnp.float32),
            jnp.zeros(shape, jnp.int32),
            Recent(index, index, number, number, jnp.zeros(recent, bool)),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    actor, noise, act, greedy = exploring_actor, noise_of_choices, act_by_table, greedy_by_table

    def update(
        self, state: TreeBackupState, rollout: Rollout, key: Key
    ) -> tuple[TreeBackupState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        s, a, r, next_s = one_step(state.sizes, rollout)
        done = jnp.logical_or(rollout.terminated[0], rollout.truncated[0])
        new = Recent(s, a, r, self.gamma * (1 - rollout.terminated[0]), jnp.ones_like(done))
        recent = jax.tree.map(lambda old, x: jnp.concatenate([old[1:], x[None]]), state.recent, new)
        following = jnp.concatenate([recent.s[1:], next_s[None]])
        taken = jnp.concatenate([recent.a[1:], a[None]])[
            ..., None
        ]  # the last one is not known, and not needed

        visits = counted(state.visits, s, a, self.learning_rate_power, self.epsilon_power)
        learning_rate = schedule_value(self.learning_rate, progress_of(state))
        alpha = decayed(learning_rate, visits[recent.s, recent.a], self.learning_rate_power)
        alpha = alpha * (recent.valid & (done | (jnp.arange(self.n) == 0)[:, None]))
        target_epsilon = schedule_value(self.target_epsilon, progress_of(state))

        def learn(q, k):
            target = EpsilonGreedy(state.sizes, q, target_epsilon)
            delta = td_errors(
                recent.reward, recent.discount, q[recent.s, recent.a], target.expected(following)
            )
            c = jnp.take_along_axis(target.probabilities(following), taken, -1)[..., 0]
            psi = credit(delta, recent.discount, c)[k]
            return q.at[recent.s[k], recent.a[k]].add(alpha[k] * psi), delta[-1]

        q, delta = jax.lax.scan(learn, state.q, jnp.arange(self.n))
        learned = state._replace(
            q=q,
            visits=visits,
            recent=recent._replace(valid=recent.valid & ~done),
            step=state.step + jnp.uint32(rollout.reward.size),
        )
        return learned, {"td_error": jnp.abs(delta[0]).mean(), "learning_rate": jnp.mean(alpha)}
