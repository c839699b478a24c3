"""Watkins's Q(lambda) (Watkins 1989)."""

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


class WatkinsQLambdaState(NamedTuple):
    """Everything that Q(lambda) knows: tables `[S, A]`, traces `[B, S, A]` and the clock."""

    sizes: Sizes
    q: Array
    visits: Array
    trace: Array
    step: Array
    total_timesteps: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class WatkinsQLambda:
    """Watkins's Q(lambda): Q-learning whose every error also corrects the pairs that led there by best actions.

    At each step, in each environment, with the trace e the step sizes that are still due:

        a        <- argmax_a Q(s, a) with probability 1 - epsilon, else any action
        e        <- gamma lam e if Q(s, a) = max_a Q(s, a), else 0
        e(s, a)  <- e(s, a) + alpha    accumulating
                    alpha              replacing
        delta    <- r + gamma max_a' Q(s', a') - Q(s, a)
        Q        <- Q + delta e

    What an action earns that is not best tells nothing about the best policy from the pairs before it, so their
    traces end there. A truncated step bootstraps from the true successor; a terminated one does not; no trace crosses
    an episode's end. Environments side by side share the table, each with a trace of its own, and their updates of
    one step add up.

    Source: Watkins 1989, "Learning from delayed rewards", chapter 12; Sutton & Barto 2018, "Reinforcement learning",
    section 12.10.
    """

    lam: float = ranged(0.9, "[0, 1]")
    """Reach of credit: 0 is the last step alone, 1 all since the last action that was not best."""
    trace: Literal["accumulating", "replacing"] = "accumulating"
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

    def init(self, key: Key, spec: Spec) -> WatkinsQLambdaState:
        """The first state. Raises ValueError for spaces that are not finite."""
        sizes = sizes_of(spec)
        shape = sizes.n_states, sizes.actions
        return WatkinsQLambdaState(
            sizes,
            jnp.full(shape, self.initial_value, jnp.float32),
            jnp.zeros(shape, jnp.int32),
            jnp.zeros((spec.num_envs, *shape), jnp.float32),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    actor, noise, act, greedy = exploring_actor, noise_of_choices, act_by_table, greedy_by_table

    def update(
        self, state: WatkinsQLambdaState, rollout: Rollout, key: Key
    ) -> tuple[WatkinsQLambdaState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        s, a, r, next_s = one_step(state.sizes, rollout)
        visits = counted(state.visits, s, a, self.learning_rate_power, self.epsilon_power)
        learning_rate = schedule_value(self.learning_rate, progress_of(state))
        alpha = decayed(learning_rate, visits[s, a], self.learning_rate_power)

        best = state.q[s, a] == state.q[s].max(-1)
        env = jnp.arange(len(r))
        trace = (self.gamma * self.lam * best)[:, None, None] * state.trace
        before = trace[env, s, a] if self.trace == "accumulating" else 0.0
        trace = trace.at[env, s, a].set(before + alpha)

        discount = self.gamma * (1 - rollout.terminated[0])
        delta = r + discount * state.q[next_s].max(-1) - state.q[s, a]
        done = jnp.logical_or(rollout.terminated[0], rollout.truncated[0])
        learned = state._replace(
            q=state.q + jnp.einsum("b,bsa->sa", delta, trace),
            visits=visits,
            trace=(1.0 - done)[:, None, None] * trace,
            step=state.step + jnp.uint32(rollout.reward.size),
        )
        return learned, {"td_error": jnp.abs(delta).mean(), "learning_rate": jnp.mean(alpha)}
