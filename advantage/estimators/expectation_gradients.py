"""Three estimators of `∇_theta E_{x ~ p_theta}[f(x)]`, sample by sample.

`distribution_of` maps parameters to a distribution over one event, `noise` is the input of its `sample` with a leading
axis of N samples, and `f` maps one event to a number. All estimators are unbiased; they differ in their variance and
requirements: the score function needs no gradient of `f`, the pathwise estimator needs one, and importance sampling
uses samples of another distribution.

Source: Mohamed et al. 2020, "Monte Carlo gradient estimation in machine learning".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advantage.policies.distributions import Bernoulli, Categorical, Product
from advantage.types import Array, Pytree

DistributionOf = Callable[[Pytree], Any]
Function = Callable[[Any], Array]


def score_function_gradients(
    distribution_of: DistributionOf, params: Pytree, f: Function, noise: Pytree
) -> Pytree:
    """`f(x_n) ∇log p(x_n)` with `x_n ~ p`: in the structure of `params`, each leaf `[N, ...]`.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
    eq. 4; Mohamed et al. 2020, eq. 13.
    """
    return importance_gradients(distribution_of, params, distribution_of(params), f, noise)


def importance_gradients(
    distribution_of: DistributionOf, params: Pytree, behaviour: Any, f: Function, noise: Pytree
) -> Pytree:
    """`(p(x_n) / q(x_n)) f(x_n) ∇log p(x_n)` with `x_n ~ q`: in the structure of `params`, each leaf `[N, ...]`.

    Args:
        distribution_of, params, f, noise: as above.
        behaviour: q, of the same family; positive wherever p is.

    Source: Jie & Abbeel 2010, "On a connection between importance sampling and the likelihood ratio policy gradient",
    eq. 5.
    """
    behaviour = jax.tree.map(jnp.asarray, behaviour)

    def one(noise):
        x = behaviour.sample(noise)
        log_prob, score = jax.value_and_grad(lambda params: distribution_of(params).log_prob(x))(params)
        weight = jnp.exp(log_prob - behaviour.log_prob(x)) * f(x)
        return jax.tree.map(lambda leaf: weight * leaf, score)

    return jax.vmap(one)(noise)


def pathwise_gradients(distribution_of: DistributionOf, params: Pytree, f: Function, noise: Pytree) -> Pytree:
    """`∇f(x(theta, noise_n))`, through the sample: in the structure of `params`, each leaf `[N, ...]`.

    Raises:
        ValueError: a distribution over anything discrete, whose samples are not differentiable.

    Source: Kingma & Welling 2014, "Auto-encoding variational Bayes", section 2.4; Mohamed et al. 2020, eq. 28.
    """
    for family in _families(distribution_of(params)):
        if issubclass(family, Categorical | Bernoulli):
            raise ValueError(
                f"{family.__name__} has no pathwise gradient: its samples are discrete and not differentiable in the "
                "parameters; use score_function_gradients."
            )
    return jax.vmap(jax.grad(lambda params, noise: f(distribution_of(params).sample(noise))), (None, 0))(
        params, noise
    )


def _families(distribution: Any) -> list[type]:
    if isinstance(distribution, Product):
        return [family for part in distribution.parts for family in _families(part)]
    return [type(distribution)]
