"""Importance sampling of whole episodes: estimate the values of one policy from another policy's returns."""

from __future__ import annotations

import jax.numpy as jnp

from advantage.types import Array


def ratios_to_the_end(ratio: Array, largest: Array | float) -> Array:
    """`rho_t = prod_{k >= t} pi(a_k | s_k) / b(a_k | s_k)`, at most `largest`: `[L] -> [L]`.

    Source: Sutton & Barto 2018, "Reinforcement learning", eq. 5.3; Ionides 2008, "Truncated importance sampling".
    """
    exponent = jnp.log(ratio)[::-1].cumsum()[::-1]
    return jnp.exp(jnp.minimum(exponent, jnp.log(largest)))


def move_by_weight(
    value: Array,
    total: Array,
    place: Array,
    target: Array,
    weight: Array,
    learning_rate: Array | float,
    power: Array | float | None,
) -> tuple[Array, Array, Array]:
    """Move values towards one episode's targets: `V(x) <- V(x) + sum over t with x_t = x of alpha_t (G_t - V(x))`.

    With step size 1 and power 1 the value is the mean of all its targets, weighted.

    Args:
        value: `[N]`, a table in one row.
        total: `[N]`, the sum of the weights so far of each value; int32 where these are 0 and 1, and count visits.
        place: int `[L]`, the value that each step updates.
        target: `[L]`, `G_t`.
        weight: `[L]`, `w_t`, 0 where a step does not count; bool where all others weigh the same.
        learning_rate, power: `alpha_t = learning_rate w_t / total^power`, this episode's weights included; None does
            not divide.

    Returns:
        The values, their totals, and the weighted mean of `|G_t - V(x_t)|`.

    Source: Sutton & Barto 2018, "Reinforcement learning", eq. 5.7 and 5.8.
    """
    total = total.at[place].add(weight.astype(total.dtype))
    error = jnp.where(weight > 0, target - value[place], 0)
    alpha = learning_rate * weight
    if power is not None:
        alpha = alpha / jnp.where(weight > 0, total[place], 1).astype(jnp.float32) ** power
    mean = (weight * jnp.abs(error)).sum() / jnp.maximum(weight.sum(), 1e-9)
    return value.at[place].add(alpha * error), total, mean
