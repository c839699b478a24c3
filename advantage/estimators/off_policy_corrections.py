"""Off-policy corrections: all of them are one recursion.

`rho_t = pi(a_t | s_t) / mu(a_t | s_t)`, with `mu` the acting policy. Coefficients are those of `credit`:
`discount = gamma (1 - terminated)`, `trace = lam (1 - done)`, or `1 - done` if a function has a separate lam or none.
Arrays are `[T, ...]`, time first.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp

from advantage.estimators.returns import credit, td_errors
from advantage.types import Array

TraceKind = Literal["one-step", "lambda", "importance", "tree-backup", "retrace"]
Form = Literal["trajectory", "per-decision", "action"]


def trace_coefficients(
    kind: TraceKind, rho: Array, trace: Array, probability: Array | float | None = None
) -> Array:
    """The coefficient of the next step's correction, `c_{t+1}` in row t, `[T, ...]`.

        one-step      0                       only the TD error
        lambda        lam                     Q(lam) of Harutyunyan et al. 2016; no correction
        importance    lam rho_{t+1}           unbiased, unbounded variance
        tree-backup   lam pi(a_{t+1}|s_{t+1})   safe; traces are short even if both policies agree
        retrace       lam min(1, rho_{t+1})   safe; traces are long if both policies agree

    Args:
        kind: as above.
        rho: `[T, ...]`, at least 0.
        trace: `[T, ...]`, `lam (1 - done)`.
        probability: `[T, ...]`, `pi(a_t | s_t)`, for tree-backup.

    Raises:
        ValueError: an unknown kind, or tree-backup without `probability`.

    Source: Munos et al. 2016, "Safe and efficient off-policy reinforcement learning", table 1.
    """
    if kind == "tree-backup" and probability is None:
        raise ValueError("kind='tree-backup' needs probability, pi(a|s) of the actions taken.")
    factors = {
        "one-step": lambda: jnp.zeros_like(rho),
        "lambda": lambda: jnp.ones_like(rho),
        "importance": lambda: rho,
        "tree-backup": lambda: jnp.broadcast_to(jnp.asarray(probability), rho.shape),
        "retrace": lambda: jnp.minimum(rho, 1.0),
    }
    if kind not in factors:
        raise ValueError(f"kind={kind!r} is not a trace; use one of {', '.join(factors)}.")
    return trace * _next(factors[kind]())


def corrected_action_values(
    reward: Array, discount: Array, q: Array, next_expected_q: Array, c: Array
) -> Array:
    """`Q(s_t, a_t) + Psi_t` with `Psi_t = delta_t + discount_t c_{t+1} Psi_{t+1}`, all `[T, ...]`.

    `delta_t = r_t + discount_t E_pi Q(s_{t+1}, .) - Q(s_t, a_t)`. For every `c` between 0 and `rho` its expectation
    is closer to `Q^pi` than Q is.

    Args:
        reward, discount: `[T, ...]`.
        q: `Q(s_t, a_t)`.
        next_expected_q: `Σ_a pi(a | s_{t+1}) Q(s_{t+1}, a)` at the true successor.
        c: from `trace_coefficients`.

    Source: Munos et al. 2016, eq. 3.
    """
    return q + credit(reward + discount * next_expected_q - q, discount, c)


def retrace(
    reward: Array, discount: Array, q: Array, next_expected_q: Array, rho: Array, trace: Array
) -> Array:
    """Retrace(lam) targets for `Q(s_t, a_t)`: `corrected_action_values` with `c = lam min(1, rho)`, all `[T, ...]`.

    Source: Munos et al. 2016, eq. 3 and 4.
    """
    c = trace_coefficients("retrace", rho, trace)
    return corrected_action_values(reward, discount, q, next_expected_q, c)


class VTrace(NamedTuple):
    """`target` `v_t` for the critic, `advantage` for the actor, `[T, ...]`."""

    target: Array
    advantage: Array


def vtrace(
    reward: Array,
    discount: Array,
    value: Array,
    next_value: Array,
    rho: Array,
    trace: Array,
    lam: Array | float = 1.0,
    rho_clip: Array | float = 1.0,
    c_clip: Array | float = 1.0,
) -> VTrace:
    """V-trace targets and advantages.

    With `rho' = min(rho, rho_clip)`, `c = lam min(rho, c_clip)` and `v_t = V(s_t) + Psi_t`:

        Psi_t   = rho'_t delta_t + discount_t trace_t c_t Psi_{t+1}
        A_t     = rho'_t (r_t + discount_t v_{t+1} - V(s_t))

    where `v_{t+1}` is the value of the true successor if the episode, or the rollout, ends there. With `rho = 1` the
    target is the lam-return. Its fixed point is the value of the policy proportional to `min(rho_clip mu, pi)`.

    Args:
        reward, discount, value, next_value: `[T, ...]`, as for `td_errors`.
        rho: `[T, ...]`, at least 0.
        trace: `[T, ...]`, `1 - done`.
        lam: trace decay, in [0, 1].
        rho_clip: at least `c_clip`; determines the fixed point of the values.
        c_clip: determines the speed of convergence.

    Source: Espeholt et al. 2018, "IMPALA", eq. 1 and section 4.2; lam as in its remark 2.
    """
    weight = jnp.minimum(rho, rho_clip)
    delta = td_errors(reward, discount, value, next_value)
    target = value + credit(weight * delta, discount, trace * lam * jnp.minimum(rho, c_clip))
    goes_on = trace > 0
    following = jnp.where(goes_on, jnp.concatenate([target[1:], next_value[-1:]]), next_value)
    return VTrace(target, weight * (reward + discount * following - value))


def importance_weights(
    log_ratio: Array, trace: Array, form: Form, largest_ratio: Array | float = jnp.inf
) -> Array:
    """The importance weight of an action's return when another policy acted, `[T, ...]`.

        trajectory      Π_k rho_k       over all steps k of the episode
        per-decision    Π_{k<=t} rho_k  over those up to the action
        action          rho_t

    Steps before the first row, or after the last, do not count. A product with an action that pi never takes is 0.

    Args:
        log_ratio: `[T, ...]`, `log pi(a_t | s_t) - log mu(a_t | s_t)`; -inf for an action that pi never takes.
        trace: `[T, ...]`, `1 - done`.
        form: as above.
        largest_ratio: upper limit of a weight.

    Raises:
        ValueError: an unknown form.

    Source: Precup, Sutton & Singh 2000, "Eligibility traces for off-policy policy evaluation", section 3; Degris, White
    & Sutton 2012, "Off-policy actor-critic", for the third.
    """
    if form not in ("trajectory", "per-decision", "action"):
        raise ValueError(f"form={form!r} is not allowed; use 'trajectory', 'per-decision' or 'action'.")

    def over_the_product(x: Array) -> Array:
        """The sum of x over the steps whose ratios are multiplied."""
        if form == "action":
            return x
        past = past_sums(x, trace)
        return past if form == "per-decision" else past + (credit(x, trace, jnp.ones_like(trace)) - x)

    never = log_ratio == -jnp.inf  # counted apart: -inf times a trace of 0 is not a number
    exponent = over_the_product(jnp.where(never, 0.0, log_ratio))
    impossible = over_the_product(never.astype(log_ratio.dtype)) > 0.5
    return jnp.where(impossible, 0.0, jnp.minimum(jnp.exp(exponent), largest_ratio))


def importance_sampled_returns(
    reward: Array,
    discount: Array,
    value: Array,
    next_value: Array,
    log_ratio: Array,
    trace: Array,
    form: Form,
    largest_ratio: Array | float = jnp.inf,
) -> Array:
    """`Psi_t` for the gradient `Σ_t Psi_t ∇log pi(a_t | s_t)` of another policy than the one that acted, `[T, ...]`.

    With `w` of `importance_weights` and `delta_t = r_t + discount_t V(s_{t+1}) - V(s_t)`:

        trajectory      w (G_t - V(s_t)),               w = Π_k rho_k over the episode
        per-decision    Σ_{u>=t} gamma^{u-t} w_u delta_u,   w_u = Π_{k<=u} rho_k
        action          w_t (G_t - V(s_t)),             w_t = rho_t

    The first two are unbiased for whole episodes, for any V; the third ignores that the policies visit different
    states and earn different rewards later. V changes no expectation: `E_mu[rho_u | s_u] = 1`, so in the second
    `w_u V(s_u)` and `w_{u-1} V(s_u)` cancel for u > t. What is left in each form is V(s_t) with a weight whose mean
    over later steps is `Π_{k<=t} rho_k`, or `rho_t`; and `E_mu[rho_t ∇log pi(a_t | s_t) | s_t] = 0`. With V = 0 they
    are the plain forms, the second `Σ_u gamma^{u-t} w_u r_u`.

    An episode cut by the rollout's end bootstraps from `next_value`.

    Args:
        reward, discount: `[T, ...]`.
        value, next_value: `[T, ...]`, V or 0; `next_value` of a row is `value` of the next within an episode.
        log_ratio, trace, form, largest_ratio: as for `importance_weights`; a finite limit biases all forms.

    Raises:
        ValueError: an unknown form.

    Source: Precup, Sutton & Singh 2000, "Eligibility traces for off-policy policy evaluation", section 3; Jiang & Li
    2016, "Doubly robust off-policy value evaluation for reinforcement learning", for V in the second; Degris, White &
    Sutton 2012, "Off-policy actor-critic", for the third.
    """
    weight = importance_weights(log_ratio, trace, form, largest_ratio)
    delta = td_errors(reward, discount, value, next_value)
    if form == "per-decision":
        return credit(weight * delta, discount, trace)
    return weight * credit(delta, discount, trace)


def past_sums(x: Array, trace: Array) -> Array:
    """`Σ_{k<=t} x_k` over the steps of the episode so far, `[T, ...]`; `trace = 1 - done`."""
    same_episode = jnp.concatenate([jnp.zeros_like(trace[:1]), trace[:-1]])
    return credit(x[::-1], same_episode[::-1], jnp.ones_like(x))[::-1]


def effective_sample_size(weight: Array) -> Array:
    """`(Σ w)^2 / Σ w^2`: the number of unweighted samples of equal precision, in [1, N]; 0 if all weights are 0.

    Args:
        weight: of any shape with N numbers, at least 0.

    Source: Kong 1992, "A note on importance sampling using standardized weights".
    """
    weight = weight / jnp.maximum(
        weight.max(), jnp.finfo(weight.dtype).tiny
    )  # so that the squares fit into float32
    return jnp.square(weight.sum()) / jnp.maximum(jnp.square(weight).sum(), 1.0)


def _next(x: Array) -> Array:
    """`x_{t+1}` in row t; 1 in the last, which has no correction."""
    return jnp.concatenate([x[1:], jnp.ones_like(x[:1])])
