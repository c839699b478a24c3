"""An action-value critic as control variate: the part of the gradient that the critic explains is not sampled.

With any function Q and eta,

    ∇J = E[∇log pi(a|s) (A - eta Abar(s, a))] + E[eta ∇ E_pi Qbar(s, .)]

where `Abar = Qbar - E_pi Qbar`. Qbar is Q itself if its expectation is known, or a part of Q whose expectation is
known. The closer Abar is to A, the smaller the variance.

Source: Gu et al. 2017, "Q-Prop: sample-efficient policy gradient with an off-policy critic", section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from advantage.policies.distributions import Categorical, Gaussian
from advantage.types import Array

Eta = Literal["one", "conservative", "aggressive"]


class ControlVariate(NamedTuple):
    """Q's advantages, and the input of `expected_control`.

    Attributes:
        advantage: Abar, `[N]`, of mean 0 over the actions of each state.
        slope: `[N, d]`, of the linear Qbar: `Q(s, .)` of Discrete actions, `∇_a Q(s, mu(s))` of a Gaussian.
    """

    advantage: Array
    slope: Array


def control_variate(q: Callable[[Array], Array], distribution: Any, action: Array) -> ControlVariate:
    """The control variate of a critic: exact for Discrete actions, the first-order expansion at a Gaussian's mean.

        Categorical     Abar = Q(s, a) - Σ_b pi(b|s) Q(s, b)
        Gaussian        Abar = ∇_a Q(s, mu(s)) (a - mu(s))

    Args:
        q: for a Categorical, `indices [N] -> Q(s, indices)`; for a Gaussian, `actions [N, d] -> Q(s, actions)`.
        distribution: the acting distribution, over N states.
        action: `[N]` or `[N, d]`.

    Raises:
        ValueError: any other distribution.

    Source: Gu et al. 2017, eq. 6 and 7.
    """
    if isinstance(distribution, Categorical):
        states, actions = distribution.logits.shape
        each = jnp.broadcast_to(jnp.arange(actions)[:, None], (actions, states))
        slope = jax.vmap(q)(each).T
        taken = jnp.take_along_axis(slope, action[:, None], axis=-1)[:, 0]
        return ControlVariate(taken - _mean(distribution, slope), slope)
    if isinstance(distribution, Gaussian):
        slope = jax.grad(lambda action: q(action).sum())(distribution.mean)
        return ControlVariate((slope * (action - distribution.mean)).sum(-1), slope)
    raise ValueError(
        f"There is no control variate for {type(distribution).__name__}; use Categorical or Gaussian."
    )


def expected_control(control: ControlVariate, distribution: Any) -> Array:
    """`E_pi Qbar(s, .)` up to a constant of each state, `[N]`, differentiable in the policy.

    Categorical     Σ_a pi(a|s) Q(s, a)
    Gaussian        ∇_a Q(s, mu_old(s)) mu(s)
    """
    if isinstance(distribution, Categorical):
        return _mean(distribution, control.slope)
    return (control.slope * distribution.mean).sum(-1)


def control_weight(eta: Eta, advantage: Array, control: Array) -> Array:
    """The weight eta of the control variate at each step, `[N]`.

        one             1
        conservative    1 where A Abar > 0, else 0: off where it would add variance
        aggressive      the sign of A Abar: reversed where the covariance is negative

    `A Abar` estimates the covariance over the actions of one state from a single action. It depends on that action, so
    the last two bias the gradient a little; with 1 it is unbiased for any Q.

    Args:
        eta: as above.
        advantage: A, `[N]`.
        control: Abar, `[N]`.

    Raises:
        ValueError: an unknown name.

    Source: Gu et al. 2017, section 3.3.
    """
    if eta == "one":
        return jnp.ones_like(advantage)
    if eta == "conservative":
        return (advantage * control > 0).astype(advantage.dtype)
    if eta == "aggressive":
        return jnp.sign(advantage * control)
    raise ValueError(f"eta={eta!r} is not allowed; use 'one', 'conservative' or 'aggressive'.")


def _mean(distribution: Categorical, values: Array) -> Array:
    return (jax.nn.softmax(distribution.logits) * values).sum(-1)
