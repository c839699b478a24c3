"""The offline lambda-return algorithm: TD(lambda)'s forward view (Watkins 1989)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.given_policy import Follow, PolicyTable, follow, given
from advantage.algorithms.tabular.table import (
    act_by_table,
    greedy_by_table,
    noise_of_choices,
    progress_of,
    sizes_of,
)
from advantage.algorithms.tabular.whole_episodes import (
    Pending,
    Steps,
    each_episode,
    move,
    pending_init,
    steps_of,
)
from advantage.estimators.returns import lambda_returns
from advantage.types import Array, Key, Rollout, Spec


class OfflineLambdaReturnState(NamedTuple):
    """Everything that it knows: the policy, tables `[S]`, unfinished episodes and the clock."""

    policy: Follow
    v: Array
    visits: Array
    pending: Pending
    step: Array
    total_timesteps: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class OfflineLambdaReturn:
    """The offline lambda-return algorithm: when an episode has ended, move each of its states towards its return.

        G_t  <- r_t + gamma ((1 - lam) V(s_{t+1}) + lam G_{t+1})     backwards; the last one bootstraps if truncated
        V(s) <- V(s) + alpha sum of (G_t - V(s)) over t with s_t = s

    All targets and errors of an episode are taken from the values before it. Learning happens when the rollout ends:
    from the episodes that ended in it, one after another in the order of their ends, with whatever part of them lay in
    earlier rollouts. With lam = 1 it is Monte-Carlo prediction.

    Source: Watkins 1989, "Learning from delayed rewards", section 7; Sutton & Barto 2018, "Reinforcement learning",
    section 12.1.
    """

    learning_rate: float | Schedule = ranged(0.1, "[0, 1]")
    """Step size alpha; a number or a schedule of progress."""
    learning_rate_power: float | None = ranged(None, "[0, 1]")
    """Divides alpha by the visits of s to this power: 1 makes a running mean; None keeps it."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    lam: float = ranged(0.9, "[0, 1]")
    """Reach of credit lambda: 0 is the TD error, 1 the Monte-Carlo return."""
    initial_value: float = ranged(0.0, "(-inf, inf)")
    """Of every V(s)."""
    n_steps: int = ranged(128, "[1, inf)")
    """Steps taken in each environment before learning from the episodes that they ended."""
    max_episode: int = ranged(1000, "[1, inf)")
    """Steps of the longest episode that is learned from; longer ones are left out and counted."""
    policy: PolicyTable = None
    """Probabilities [S, A], or an action for each state [S]: a table, or the name of a .json or .npy file with one.
    Observations of several parts are numbered like digits, the last part fastest. None is uniformly random."""

    def __post_init__(self):
        object.__setattr__(self, "policy", given(self.policy))
        check(self)

    def init(self, key: Key, spec: Spec) -> OfflineLambdaReturnState:
        """The first state. Raises ValueError for spaces that are not finite, or that the policy does not fit."""
        sizes = sizes_of(spec)
        return OfflineLambdaReturnState(
            follow(self.policy, sizes),
            jnp.full(sizes.n_states, self.initial_value, jnp.float32),
            jnp.zeros(sizes.n_states, jnp.int32),
            pending_init(self.max_episode, spec.num_envs),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    def actor(self, state: OfflineLambdaReturnState) -> Follow:
        """The policy."""
        return state.policy

    noise, act, greedy = noise_of_choices, act_by_table, greedy_by_table

    def update(
        self, state: OfflineLambdaReturnState, rollout: Rollout, key: Key
    ) -> tuple[OfflineLambdaReturnState, dict[str, Array]]:
        """Learn from the episodes that ended: `-> state, metrics`."""
        learning_rate = schedule_value(self.learning_rate, progress_of(state))

        def learn(carry, episode: Steps, here: Array):
            v, visits, total = carry
            discount = self.gamma * (1 - episode.terminated)
            trace = jnp.full_like(episode.reward, self.lam)
            target = lambda_returns(episode.reward, discount, v[episode.next_state], trace)
            power = self.learning_rate_power
            v, visits, error = move(v, visits, episode.state, target, here, learning_rate, power)
            return v, visits, total + error

        steps = steps_of(state.policy.sizes, rollout)
        carry = state.v, state.visits, jnp.zeros(())
        carry, pending, counts = each_episode(learn, carry, state.pending, steps, rollout.truncated)
        v, visits, total = carry
        learned = state._replace(
            v=v, visits=visits, pending=pending, step=state.step + jnp.uint32(rollout.reward.size)
        )
        metrics = {
            "return_error": total / jnp.maximum(counts["episodes"], 1),
            "learning_rate": jnp.asarray(learning_rate, jnp.float32),
        }
        return learned, metrics | counts
