"""Returns and advantages: all of them are one backward recursion.

Estimators take coefficients, not booleans. With `terminated` and `done = terminated | truncated`,

    discount = gamma * (1 - terminated)     weight of the future
    trace    = lam * (1 - done)             trace decay; zero at an episode's end

and `next_value` is the value of the true successor, so a truncated step bootstraps and a terminated one does not.
Arrays are `[T, ...]`, time first.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from advantage.types import Array

STRIDE = 16  # rows


def credit(delta: Array, discount: Array, c: Array, initial: Array | float = 0.0) -> Array:
    """The recursion behind every return: `Psi_t = delta_t + discount_t c_{t+1} Psi_{t+1}`.

    Args:
        delta: `[T, ...]`, what each step adds.
        discount: `[T, ...]`, in [0, 1].
        c: `[T, ...]`; `c[t]` is the coefficient `c_{t+1}` that links step t to step t + 1.
        initial: `[...]`, `Psi_T`, the value after the last step.

    Returns:
        `Psi`, `[T, ...]`.

    Source: Munos et al. 2016, "Safe and efficient off-policy reinforcement learning", eq. 3.
    """
    initial = jnp.broadcast_to(jnp.asarray(initial, delta.dtype), delta.shape[1:])
    if _is_one_column(delta):
        return _by_strides(delta, discount * c, initial)
    return _backwards(_recursion, initial, delta, discount * c)


def _recursion(psi: Array, delta: Array, decay: Array) -> Array:
    return delta + decay * psi


def _backwards(step: Callable[..., Array], last: Array, *rows: Array) -> Array:
    """`step(psi, *rows[t])` from the last row to the first: every psi, `[T, ...]`."""

    def both(psi, row):
        psi = step(psi, *row)
        return psi, psi

    return jax.lax.scan(both, last, rows, reverse=True)[1]


def _is_one_column(x: Array) -> bool:
    return x.size == len(x) and len(x) % STRIDE == 0


def _by_strides(delta: Array, decay: Array, last: Array) -> Array:
    """The recursion for one column, in strides of rows: two thirds of the time.

    Within a stride `Psi_t = a_t + p_t Psi_end`. All strides compute a and p in parallel; only the first rows of the
    strides are sequential.
    """
    a, p = [], []
    for delta_j, decay_j in zip(*(x.reshape(-1, STRIDE).T[::-1] for x in (delta, decay)), strict=True):
        a.append(_recursion(a[-1], delta_j, decay_j) if a else delta_j)
        p.append(decay_j * p[-1] if p else decay_j)
    first = _backwards(_recursion, last.reshape(()), a[-1], p[-1])
    end = jnp.append(first[1:], last)
    return (jnp.stack(a[::-1]) + jnp.stack(p[::-1]) * end).T.reshape(delta.shape)


def td_errors(reward: Array, discount: Array, value: Array, next_value: Array) -> Array:
    """`delta_t = r_t + discount_t V(s_{t+1}) - V(s_t)`, all `[T, ...]`.

    Source: Sutton & Barto 2018, "Reinforcement learning", eq. 6.5.
    """
    return reward + discount * next_value - value


def gae(reward: Array, discount: Array, value: Array, next_value: Array, trace: Array) -> Array:
    """Generalised advantage: `A_t = delta_t + discount_t trace_t A_{t+1}`, all `[T, ...]`.

    `trace = 0` is the TD error, `trace = 1 - done` the Monte-Carlo return minus the value.

    Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation",
    eq. 16.
    """

    def step(psi, reward, discount, value, next_value, trace):
        return td_errors(reward, discount, value, next_value) + discount * trace * psi

    if _is_one_column(reward):
        return credit(td_errors(reward, discount, value, next_value), discount, trace)
    # `credit` with the TD errors computed in the same pass, which takes half the time of two passes.
    return _backwards(step, jnp.zeros_like(value[0]), reward, discount, value, next_value, trace)


def lambda_returns(reward: Array, discount: Array, next_value: Array, trace: Array) -> Array:
    """`G_t = r_t + discount_t ((1 - trace_t) V(s_{t+1}) + trace_t G_{t+1})`, all `[T, ...]`.

    After the last step the value replaces the return.

    Source: Sutton & Barto 2018, eq. 12.2 in recursive form.
    """
    delta = reward + discount * (1 - trace) * next_value
    return credit(delta, discount, trace, next_value[-1])


def discounted_returns(reward: Array, discount: Array, next_value: Array) -> Array:
    """`G_t = r_t + discount_t G_{t+1}`, with `next_value` at `T`; for steps of one episode, all `[T, ...]`.

    No episode may end inside: otherwise use `lambda_returns` with `trace = 1 - done`.

    Source: Sutton & Barto 2018, eq. 3.9.
    """
    return lambda_returns(reward, discount, next_value, jnp.ones_like(reward))


def n_step_returns(reward: Array, discount: Array, next_value: Array, trace: Array, n: int) -> Array:
    """`G_t = r_t + ... + gamma^{n-1} r_{t+n-1} + gamma^n V(s_{t+n})`, cut where `trace` is zero, all `[T, ...]`.

    `trace = 1 - done`: an episode's end, or the rollout's, bootstraps from the true successor there.

    Raises:
        ValueError: `n` below 1.

    Source: Sutton & Barto 2018, eq. 7.1.
    """
    if n < 1:
        raise ValueError(f"n={n} is not allowed; use a whole number of 1 or more.")
    target = reward + discount * next_value
    result = target
    for _ in range(n - 1):
        following = jnp.concatenate([result[1:], next_value[-1:]])
        result = reward + discount * ((1 - trace) * next_value + trace * following)
    return result


def standardise(x: Array) -> Array:
    """`(x - mean(x)) / (std(x) + 1e-8)` over all samples; a single sample becomes 0."""
    return (x - x.mean()) / (x.std() + 1e-8)


def explained_variance(value: Array, target: Array) -> Array:
    """`1 - Var(G - V) / Var(G)`: 1 is a perfect critic, 0 as good as a constant, below 0 worse."""
    return 1 - jnp.var(target - value) / (jnp.var(target) + 1e-8)
