"""TD(lambda) prediction, the backward view: eligibility traces (Sutton 1988)."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp

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


class TDLambdaState(NamedTuple):
    """Everything that TD(lambda) knows: the policy, tables `[S]`, what each environment has running, the clock.

    Attributes:
        v, visits: the tables.
        trace: `[B, S]`, how much of the next TD error each value takes, step sizes included.
        previous: `[B]`, of the running step's state, its value when it was the successor; for dutch traces only.
        change: `[B, S]`, what the running episode has taught; for offline updates only.
    """

    policy: Follow
    v: Array
    visits: Array
    trace: Array
    previous: Array | None
    change: Array | None
    step: Array
    total_timesteps: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class TDLambda:
    """TD(lambda): every state lately visited learns from each TD error. TD(0) with lam = 0, TD(1) with lam = 1.

    At each step, in each environment, with `e = 0` when an episode begins:

        delta <- r + gamma V(s') - V(s)
        e     <- gamma lam e                                     for all states
        e(s)  <- e(s) + alpha                                    accumulating
        e(s)  <- alpha                                           replacing
        e(s)  <- e(s) + alpha (1 - e(s))                         dutch
        V     <- V + delta e                                     for all states; offline: at the episode's end, summed

    With dutch traces this is true online TD(lambda), which equals the online forward view exactly:

        late  <- V(s) - V_old
        V     <- V + (delta + late) e,   V(s) <- V(s) - alpha late

    where V_old is what V(s) was one step earlier, when s was the successor. A truncated step bootstraps from the true
    successor; a terminated one does not; no trace crosses either. The step size is part of the trace, so that each
    visit keeps its own. Environments side by side share the table, have traces of their own, and their updates of one
    step add up.

    Source: Sutton 1988, "Learning to predict by the methods of temporal differences"; Singh & Sutton 1996,
    "Reinforcement learning with replacing eligibility traces"; van Seijen et al. 2016, "True online temporal-difference
    learning", algorithm 1.
    """

    learning_rate: float | Schedule = ranged(0.1, "[0, 1]")
    """Step size alpha; a number or a schedule of progress."""
    learning_rate_power: float | None = ranged(None, "[0, 1]")
    """Divides alpha by the visits of s to this power; None keeps it."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    lam: float = ranged(0.9, "[0, 1]")
    """Reach of credit lambda: 0 is the TD error, 1 the Monte-Carlo return."""
    trace: Literal["accumulating", "replacing", "dutch"] = "accumulating"
    """What a visit does to its state's trace."""
    online: bool = True
    """Change V at every step, or at the ends of episodes only; dutch traces are online."""
    initial_value: float = ranged(0.0, "(-inf, inf)")
    """Of every V(s)."""
    policy: PolicyTable = None
    """Probabilities [S, A], or an action for each state [S]: a table, or the name of a .json or .npy file with one.
    Observations of several parts are numbered like digits, the last part fastest. None is uniformly random."""

    def __post_init__(self):
        object.__setattr__(self, "policy", given(self.policy))
        check(self)
        if self.trace == "dutch" and not self.online:
            raise ValueError(
                "trace='dutch' with online=False is not allowed; dutch traces make online updates exact. Offline, "
                "trace='accumulating' is."
            )

    @property
    def n_steps(self) -> int:
        return 1

    def init(self, key: Key, spec: Spec) -> TDLambdaState:
        """The first state. Raises ValueError for spaces that are not finite, or that the policy does not fit."""
        sizes = sizes_of(spec)
        traces = spec.num_envs, sizes.n_states
        return TDLambdaState(
            follow(self.policy, sizes),
            jnp.full(sizes.n_states, self.initial_value, jnp.float32),
            jnp.zeros(sizes.n_states, jnp.int32),
            jnp.zeros(traces, jnp.float32),
            jnp.zeros(spec.num_envs, jnp.float32) if self.trace == "dutch" else None,
            None if self.online else jnp.zeros(traces, jnp.float32),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    def actor(self, state: TDLambdaState) -> Follow:
        """The policy."""
        return state.policy

    noise, act, greedy = noise_of_choices, act_by_table, greedy_by_table

    def update(
        self, state: TDLambdaState, rollout: Rollout, key: Key
    ) -> tuple[TDLambdaState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        index, v = state.policy.sizes.index, state.v
        s, next_s = index(rollout.obs)[0], index(rollout.next_obs)[0]
        terminated: Array = rollout.terminated[0]
        done: Array = terminated | rollout.truncated[0]
        delta = rollout.reward[0].astype(jnp.float32) + self.gamma * (1 - terminated) * v[next_s] - v[s]
        visits = state.visits.at[s].add(1)
        learning_rate = schedule_value(self.learning_rate, progress_of(state))
        alpha = decayed(learning_rate, visits[s], self.learning_rate_power)

        faded = self.gamma * self.lam * state.trace
        here = jnp.arange(v.shape[0]) == s[:, None]
        if self.trace == "replacing":
            trace = jnp.where(here, jnp.expand_dims(alpha, -1), faded)
        else:
            before = 1 - faded if self.trace == "dutch" else 1
            trace = faded + jnp.expand_dims(alpha, -1) * here * before
        error, previous, change = delta, state.previous, state.change
        if previous is not None:
            late = v[s] - previous  # at an episode's start it cancels out
            error, v, previous = delta + late, v.at[s].add(-alpha * late), v[next_s]
        step = error[:, None] * trace
        if change is None:
            v = v + step.sum(0)
        else:
            change = change + step
            v = v + jnp.where(done[:, None], change, 0).sum(0)
            change = jnp.where(done[:, None], 0, change)
        learned = state._replace(
            v=v,
            visits=visits,
            trace=jnp.where(done[:, None], 0, trace),
            previous=previous,
            change=change,
            step=state.step + jnp.uint32(rollout.reward.size),
        )
        return learned, {"td_error": jnp.abs(delta).mean(), "learning_rate": jnp.mean(alpha)}
