"""The natural gradient of a batch: what NPG and TRPO share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from advantage.algorithms.hyperparameters import Schedule, ranged
from advantage.algorithms.policy_gradient.shared.learner import PolicyOptions
from advantage.objectives.natural_steps import backtracking, conjugate_gradient, fisher_vector_product
from advantage.objectives.surrogates import importance_surrogate
from advantage.policies.actor_critic import ActorCritic
from advantage.types import Array, Pytree


@dataclasses.dataclass(frozen=True)
class NaturalOptions(PolicyOptions):
    """Fields of a method whose actor takes a natural step and whose V is fitted after it; nothing but fields."""

    n_steps: int = ranged(2048, "[1, inf)")
    """Steps taken in each environment for one update."""
    target_kl: float | Schedule = ranged(0.01, "(0, inf)")
    """Largest mean KL divergence of an update, in nats; a number or a schedule of progress."""
    gae_lambda: float = ranged(0.95, "[0, 1]")
    """Reach of credit in GAE: 0 is the TD error, 1 the Monte-Carlo return."""
    normalize_advantage: bool = True
    """Scale each rollout's advantages to zero mean and unit variance."""
    ent_coef: float = ranged(0.0, "[0, inf)")
    """Weight of the entropy bonus, per nat."""
    cg_iterations: int = ranged(10, "[1, inf)")
    """Of conjugate gradients, at most."""
    cg_damping: float = ranged(0.1, "[0, inf)")
    """Added to the Fisher matrix's diagonal."""
    critic_learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size for V; a number or a schedule of progress."""
    critic_epochs: int = ranged(10, "[1, inf)")
    """Passes of V over each rollout."""
    critic_batch_size: int | None = ranged(128, "[1, inf)")
    """Samples in a minibatch of V; None takes the whole rollout."""


@dataclasses.dataclass(frozen=True)
class TrustRegionOptions(NaturalOptions):
    """Fields of a method that looks along its natural step for the longest within the region; nothing but fields."""

    line_search_attempts: int = ranged(10, "[1, inf)")
    """How many step lengths are tried."""
    line_search_shrink: float = ranged(0.8, "(0, 1)")
    """Each is this share of the one before."""


class NaturalDirection(NamedTuple):
    """Where the surrogate rises steepest for each unit of KL divergence.

    Attributes:
        start: the actor's parameters in a row, `[P]`.
        unflatten: `[P]` -> the actor's parameters.
        gradient: g, of the surrogate, `[P]`.
        direction: `x` with `(F + damping I) x = g`, `[P]`.
        curvature: `x^T (F + damping I) x`: a step of length alpha has a KL of about `alpha^2 / 2` times this.
        residual: `|(F + damping I) x - g|`.
        iterations: of conjugate gradients.
    """

    start: Array
    unflatten: Callable[[Array], Pytree]
    gradient: Array
    direction: Array
    curvature: Array
    residual: Array
    iterations: Array


class Surrogate(NamedTuple):
    """What a step of the actor changes, on one batch: `mean rho A + ent_coef H`, the mean KL, and the entropy."""

    gain: Array
    kl: Array
    entropy: Array


def surrogate_of(
    policy: ActorCritic,
    old: Pytree,
    new: Pytree,
    x: Pytree,
    action: Pytree,
    log_prob: Array,
    advantage: Array,
    ent_coef: Array | float,
) -> Surrogate:
    """The surrogate at new parameters of the actor, from a batch that the old ones acted, `[N, ...]`."""
    before, now = policy.distribution(old, x), policy.distribution(new, x)
    gain = -importance_surrogate(now.log_prob(action) - log_prob, advantage).mean()
    entropy = now.entropy().mean()
    return Surrogate(gain + ent_coef * entropy, before.kl(now).mean(), entropy)


def natural_direction(
    policy: ActorCritic,
    actor: Pytree,
    gain: Callable[[Pytree], Array],
    x: Pytree,
    iterations: int,
    damping: Array | float,
) -> NaturalDirection:
    """`F^{-1} g` by conjugate gradients, F the mean Fisher matrix over the states `x`.

    Args:
        policy, actor: the network and its parameters.
        gain: `actor -> number`, what is to rise.
        x: the networks' input, `[N, ...]`.
        iterations: of conjugate gradients, at most.
        damping: added to F's diagonal.

    Source: Kakade 2001, "A natural policy gradient", eq. 3; Schulman et al. 2015, "Trust region policy optimization",
    appendix C.
    """
    start, unflatten = ravel_pytree(actor)
    gradient = ravel_pytree(jax.grad(gain)(actor))[0]

    def distribution_of(flat: Array) -> Any:
        return policy.distribution(unflatten(flat), x)

    def product(vector: Array) -> Array:
        return fisher_vector_product(distribution_of, start, vector) + damping * vector

    solved = conjugate_gradient(product, gradient, iterations)
    curvature = solved.x @ solved.image
    return NaturalDirection(
        start, unflatten, gradient, solved.x, curvature, solved.residual, solved.iterations
    )


def step_to(kl: Array | float, curvature: Array) -> Array:
    """The length whose KL divergence is `kl` to second order: `sqrt(2 kl / x^T F x)`; 0 where nothing is curved."""
    return jnp.where(curvature > 0, jnp.sqrt(2 * kl / jnp.where(curvature > 0, curvature, 1.0)), 0.0)


def trust_region_step(
    algorithm: Any,
    policy: ActorCritic,
    old: Pytree,
    surrogate: Callable[[Pytree], Surrogate],
    x: Pytree,
    limit: Array | float,
) -> tuple[Pytree, dict[str, Array]]:
    """The largest natural step within `KL <= limit` that raises the surrogate: `-> actor, metrics`; else `old` itself.

    Args:
        algorithm: with `cg_iterations`, `cg_damping`, `line_search_attempts` and `line_search_shrink`.
        policy, old: the network and the actor's parameters.
        surrogate: of the actor's parameters, on the batch that `old` acted.
        x: the batch's states, `[N, ...]`.
        limit: largest mean KL divergence, in nats.

    Source: Schulman et al. 2015, "Trust region policy optimization", eq. 14 and appendix C.
    """
    options = algorithm.cg_iterations, algorithm.cg_damping
    direction = natural_direction(policy, old, lambda actor: surrogate(actor).gain, x, *options)
    before = surrogate(old)

    def acceptable(point: Array) -> Array:
        now = surrogate(direction.unflatten(point))
        return (now.kl <= limit) & (now.gain > before.gain)

    step = step_to(limit, direction.curvature) * direction.direction
    search = algorithm.line_search_shrink, algorithm.line_search_attempts
    found = backtracking(acceptable, direction.start, step, *search)
    actor = direction.unflatten(found.point)
    return actor, step_metrics(direction, before, surrogate(actor)) | {
        "line_search_accepted": found.accepted,
        "line_search_shortened": found.shortened,
    }


def step_metrics(direction: NaturalDirection, before: Surrogate, after: Surrogate) -> dict[str, Array]:
    """What a natural step reports."""
    return {
        "policy_gradient_loss": before.gain - after.gain,
        "kl": after.kl,
        "entropy": before.entropy,
        "gradient_norm": jnp.linalg.norm(direction.gradient),
        "cg_residual": direction.residual,
        "cg_iterations": direction.iterations,
    }
