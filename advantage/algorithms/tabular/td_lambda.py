"""TD(lambda) prediction, the backward view: eligibility traces (Sutton 1988)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.tabular.acting import act_by_table, choice_noise, followed_policy, greedy_by_table
from advantage.algorithms.tabular.given_policy import given
from advantage.algorithms.tabular.options import PredictionOptions
from advantage.algorithms.tabular.state_values import StateValues, state_values
from advantage.algorithms.tabular.step_sizes import step_size
from advantage.algorithms.tabular.table import one_step
from advantage.types import Array, Clock, Key, Rollout, Spec, no_memory


class TDLambdaState(NamedTuple):
    """The training state of TD(lambda): the policy's values, each environment's traces, and the clock.

    Attributes:
        trace: `[B, S]`, how much of the next TD error each value takes, step sizes included.
        previous: `[B]`, the value of the current state when it was the successor; for dutch traces only.
        change: `[B, S]`, the updates of the running episode; for offline updates only.
    """

    table: StateValues
    trace: Array
    previous: Array | None
    change: Array | None
    clock: Clock


@hyperparameters
class TDLambda(PredictionOptions):
    """TD(lambda): every recently visited state learns from each TD error. It is TD(0) with lam = 0, TD(1) with lam = 1.

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
    visit keeps its own. Parallel environments share the table but not the traces, and their updates of one step are
    summed.

    Source: Sutton 1988, "Learning to predict by the methods of temporal differences"; Singh & Sutton 1996,
    "Reinforcement learning with replacing eligibility traces"; van Seijen et al. 2016, "True online temporal-difference
    learning", algorithm 1.
    """

    lam: float = ranged(0.9, "[0, 1]")
    """Trace decay lambda: 0 is the TD error, 1 the Monte-Carlo return."""
    trace: Literal["accumulating", "replacing", "dutch"] = "accumulating"
    """How a visit updates its state's trace."""
    online: bool = True
    """Update V at every step, or only at the ends of episodes; dutch traces need True."""

    def __post_init__(self):
        object.__setattr__(self, "policy", given(self.policy))
        check(self)
        if self.trace == "dutch" and not self.online:
            raise ValueError(
                "trace='dutch' with online=False is not allowed; dutch traces make online updates exact. For "
                "offline updates trace='accumulating' is exact."
            )

    def init(self, key: Key, spec: Spec) -> TDLambdaState:
        """The initial training state. Raises ValueError for spaces that are not finite or do not fit the policy."""
        table = state_values(self, spec)
        traces = jnp.zeros((spec.num_envs, *table.v.shape), jnp.float32)
        return TDLambdaState(
            table,
            traces,
            jnp.zeros(spec.num_envs, jnp.float32) if self.trace == "dutch" else None,
            None if self.online else traces,
            clock_init(spec.total_timesteps),
        )

    n_steps = 1
    initial_memory = no_memory
    actor = followed_policy
    noise = choice_noise
    act = act_by_table
    greedy = greedy_by_table

    def update(
        self, state: TDLambdaState, rollout: Rollout, key: Key
    ) -> tuple[TDLambdaState, dict[str, Array]]:
        """One step in each environment: `-> state, metrics`."""
        table, v = state.table, state.table.v
        s, _, r, next_s = one_step(table.policy.sizes, rollout)
        terminated: Array = rollout.terminated[0]
        done: Array = terminated | rollout.truncated[0]
        delta = r + self.gamma * (1 - terminated) * v[next_s] - v[s]
        visits = table.visits.at[s].add(1)
        alpha = step_size(self, state.clock, visits[s])

        faded = self.gamma * self.lam * state.trace
        here = jnp.arange(v.shape[0]) == s[:, None]
        if self.trace == "replacing":
            trace = jnp.where(here, jnp.expand_dims(alpha, -1), faded)
        else:
            before = 1 - faded if self.trace == "dutch" else 1
            trace = faded + jnp.expand_dims(alpha, -1) * here * before
        error, previous, change = delta, state.previous, state.change
        if previous is not None:
            late = v[s] - previous  # cancels out at an episode's start
            error, v, previous = delta + late, v.at[s].add(-alpha * late), v[next_s]
        step = error[:, None] * trace
        if change is None:
            v = v + step.sum(0)
        else:
            change = change + step
            v = v + jnp.where(done[:, None], change, 0).sum(0)
            change = jnp.where(done[:, None], 0, change)
        learned = TDLambdaState(
            table._replace(v=v, visits=visits),
            jnp.where(done[:, None], 0, trace),
            previous,
            change,
            advance_clock(state.clock, rollout.reward.size),
        )
        return learned, {"td_error": jnp.abs(delta).mean(), "learning_rate": jnp.mean(alpha)}
