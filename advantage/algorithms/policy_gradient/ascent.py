"""One step of an actor along `mean Psi ∇log pi`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from advantage.objectives.surrogate import score_function_loss
from advantage.policies.actor_critic import ActorCritic
from advantage.types import Array, Pytree


class Ascended(NamedTuple):
    """The actor's new parameters and optimiser, and what to report."""

    params: Pytree
    optimiser: optax.OptState
    metrics: dict[str, Array]


def actor_optimiser(actor: Pytree, max_grad_norm: Any = None) -> optax.OptState:
    """Adam's first state for the actor's parameters."""
    return _adam(max_grad_norm).init(ravel_pytree(actor)[0])


def ascend(
    policy: ActorCritic,
    actor: Pytree,
    optimiser: optax.OptState,
    x: Pytree,
    action: Pytree,
    weight: Array,
    used: Array,
    learning_rate: Array | float,
    ent_coef: Array | float = 0.0,
    max_grad_norm: Array | float | None = None,
) -> Ascended:
    """Adam's step along the mean of `Psi ∇log pi(a|s) + ent_coef ∇H(pi(.|s))` over the steps that are used.

    Args:
        policy, actor: the network and its parameters, which stay as they are where no step is used.
        optimiser: of `actor_optimiser`.
        x, action: `[N, ...]`.
        weight: Psi, `[N]`; or `[N, P]`, one for each parameter, which takes a gradient for each step.
        used: bool `[N]`.
        learning_rate: Adam's step size.
        ent_coef: weight of the entropy.
        max_grad_norm: largest norm of the gradient; None does not clip.
    """
    start, unflatten = ravel_pytree(actor)
    count = jnp.maximum(used.sum(), 1)

    def loss(actor):
        distribution = policy.distribution(unflatten(actor), x)
        weights = weight.mean(-1) if weight.ndim == 2 else weight
        lost = jnp.where(used, score_function_loss(distribution.log_prob(action), weights), 0).sum() / count
        entropy = distribution.entropy().mean()
        return lost - ent_coef * entropy, {"policy_gradient_loss": lost, "entropy": entropy}

    gradient, metrics = jax.grad(loss, has_aux=True)(start)
    if weight.ndim == 2:  # what each parameter's own weight differs from their mean by
        own = jnp.where(used[:, None], weight - weight.mean(-1, keepdims=True), 0)
        gradient -= (scores(policy, actor, x, action) * own).sum(0) / count
    metrics["gradient_norm"] = jnp.linalg.norm(gradient)
    metrics["steps_used"] = used.mean()
    updates: Any
    updates, new = _adam(max_grad_norm).update(gradient, optimiser)
    some = used.any()
    moved = jnp.where(some, start - learning_rate * updates, start)
    optimiser = jax.tree.map(lambda old, new: jnp.where(some, new, old), optimiser, new)
    return Ascended(unflatten(moved), optimiser, metrics)


def scores(policy: ActorCritic, actor: Pytree, x: Pytree, action: Pytree) -> Array:
    """`∇log pi(a | s)` of every step by itself, `[N, P]`."""
    start, unflatten = ravel_pytree(actor)

    def log_prob(actor, x, action):
        one = jax.tree.map(lambda leaf: leaf[None], (x, action))
        return policy.distribution(unflatten(actor), one[0]).log_prob(one[1])[0]

    return jax.vmap(jax.grad(log_prob), (None, 0, 0))(start, x, action)


def _adam(max_grad_norm: Any) -> optax.GradientTransformation:
    if max_grad_norm is None:
        return optax.scale_by_adam()
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.scale_by_adam())
