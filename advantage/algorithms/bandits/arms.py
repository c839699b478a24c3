"""What bandit methods share: the arms and their estimates."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init
from advantage.algorithms.tabular.table import sizes_of
from advantage.types import Array, Clock, Pytree, Rollout, Spec


class Arms(NamedTuple):
    """The training state of a method with an estimate of each arm, `[A]`.

    Attributes:
        value: float32, the estimate of the mean reward.
        count: int32, how often the arm was pulled.
    """

    value: Array
    count: Array
    clock: Clock


def number_of_arms(spec: Spec) -> int:
    """A. Raises ValueError for actions that are not Discrete, and for observations with more than one state."""
    sizes = sizes_of(spec)
    if sizes.n_states != 1:
        raise ValueError(
            f"A bandit method needs an environment with a single state; this observation space is "
            f"{spec.observation_space}, with {sizes.n_states:_} states. Use a method with a table, such as q-learning."
        )
    if sizes.has_mask:
        raise ValueError(
            "A bandit method must be able to pull every arm, but these observations have an action mask; use a "
            "method with a table, such as q-learning."
        )
    return sizes.actions


def arms_of(spec: Spec, initial_value: Array | float = 0.0) -> Arms:
    """No arm pulled yet. Raises ValueError as `number_of_arms` does."""
    n = number_of_arms(spec)
    return Arms(
        jnp.full(n, initial_value, jnp.float32),
        jnp.zeros(n, jnp.int32),
        clock_init(spec.total_timesteps),
    )


def pulled(
    arms: Arms, rollout: Rollout, learning_rate: Array | float | None = None
) -> tuple[Arms, dict[str, Array]]:
    """`Q(a) <- Q(a) + alpha (R - Q(a))` for each step of a rollout `[1, B]`: `-> arms, metrics`.

    Without a step size, alpha is one over the pulls of the arm, which makes Q(a) the mean of its rewards.

    Source: Sutton & Barto 2018, "Reinforcement learning", eq. 2.3 and 2.5.
    """
    a, r = rollout.action[0], rollout.reward[0].astype(jnp.float32)
    count = arms.count.at[a].add(1)
    alpha = 1 / count[a].astype(jnp.float32) if learning_rate is None else learning_rate
    error = r - arms.value[a]
    learned = Arms(arms.value.at[a].add(alpha * error), count, advance_clock(arms.clock, r.size))
    return learned, {"reward": r.mean(), "prediction_error": jnp.abs(error).mean()}


def for_each(obs: Pytree, action: Array) -> Array:
    """The same action for every row of a batch of observations, int32 `[B]`."""
    return jnp.broadcast_to(action.astype(jnp.int32), jax.tree.leaves(obs)[0].shape[:1])
