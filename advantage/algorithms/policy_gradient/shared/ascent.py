"""Steps of an actor along `mean Psi ∇log pi`, alone or together with a critic."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import schedule_value
from advantage.algorithms.policy_gradient.shared.optimisers import clipped, optimiser_of
from advantage.algorithms.policy_gradient.shared.options import ActorCriticOptions
from advantage.algorithms.policy_gradient.shared.state import PolicyState
from advantage.objectives.surrogates import score_function_loss, squared_error
from advantage.policies.actor_critic import ActorCritic
from advantage.policies.recurrent import Sequences
from advantage.types import Array, Pytree


class Ascended(NamedTuple):
    """The new parameters and optimiser state, and the metrics."""

    params: Pytree
    optimiser: optax.OptState
    metrics: dict[str, Array]


class Weighted(NamedTuple):
    """Samples for a step of the actor.

    Attributes:
        x: the networks' input, `[N, ...]`, or `Sequences` of N steps.
        action: `[N, ...]`.
        weight: Psi, `[N]`; or `[N, P]`, one for each parameter, which needs a gradient for each step.
        used: bool `[N]`; the other samples are ignored.
    """

    x: Pytree
    action: Pytree
    weight: Array
    used: Array


class Descended(NamedTuple):
    """The new parameters and optimiser state, and the global norm of the gradient before it was clipped."""

    params: Pytree
    optimiser: optax.OptState
    gradient_norm: Array


class Judged(NamedTuple):
    """Samples for a step of actor and critic: the networks' input, actions, A and G, `[N, ...]`."""

    x: Pytree
    action: Pytree
    advantage: Array
    target: Array


def actor_optimiser(actor: Pytree, max_grad_norm: Array | float | None = None) -> optax.OptState:
    """Adam's initial state for the actor's parameters."""
    return clipped(optax.scale_by_adam(), max_grad_norm).init(ravel_pytree(actor)[0])


def ascend(
    policy: ActorCritic,
    actor: Pytree,
    optimiser: optax.OptState,
    batch: Weighted,
    *,
    learning_rate: Array | float,
    ent_coef: Array | float = 0.0,
    max_grad_norm: Array | float | None = None,
) -> Ascended:
    """Adam's step along the mean of `Psi ∇log pi(a|s) + ent_coef ∇H(pi(.|s))` over the steps that are used.

    Args:
        policy, actor: the network and its parameters, which do not change if no step is used.
        optimiser: the state from `actor_optimiser`.
        batch: the samples.
        learning_rate: Adam's step size.
        ent_coef: weight of the entropy.
        max_grad_norm: largest norm of the gradient; None does not clip.
    """
    (x, action, weight, used), (start, unflatten) = batch, ravel_pytree(actor)
    count = jnp.maximum(used.sum(), 1)

    def loss(actor):
        distribution = policy.distribution(unflatten(actor), x)
        weights = weight.mean(-1) if weight.ndim == 2 else weight
        lost = jnp.where(used, score_function_loss(distribution.log_prob(action), weights), 0).sum() / count
        entropy = distribution.entropy().mean()
        return lost - ent_coef * entropy, {"policy_gradient_loss": lost, "entropy": entropy}

    gradient, metrics = jax.grad(loss, has_aux=True)(start)
    if weight.ndim == 2:  # the difference of each parameter's weight from the mean weight
        own = jnp.where(used[:, None], weight - weight.mean(-1, keepdims=True), 0)
        gradient -= (scores(policy, actor, x, action) * own).sum(0) / count
    metrics["gradient_norm"] = jnp.linalg.norm(gradient)
    metrics["steps_used"] = used.mean()
    updates: Any
    updates, new = clipped(optax.scale_by_adam(), max_grad_norm).update(gradient, optimiser)
    some = used.any()
    moved = jnp.where(some, start - learning_rate * updates, start)
    optimiser = jax.tree.map(lambda old, new: jnp.where(some, new, old), optimiser, new)
    return Ascended(unflatten(moved), optimiser, metrics)


def scores(policy: ActorCritic, actor: Pytree, x: Pytree, action: Pytree) -> Array:
    """`∇log pi(a | s)` of each step separately, `[N, P]`; for a recurrent policy through the steps before it."""
    start, unflatten = ravel_pytree(actor)
    if isinstance(x, Sequences):
        return jax.jacrev(lambda actor: policy.distribution(unflatten(actor), x).log_prob(action))(start)

    def log_prob(actor, x, action):
        one = jax.tree.map(lambda leaf: leaf[None], (x, action))
        return policy.distribution(unflatten(actor), one[0]).log_prob(one[1])[0]

    return jax.vmap(jax.grad(log_prob), (None, 0, 0))(start, x, action)


def actor_critic_loss(
    policy: ActorCritic,
    params: Pytree,
    batch: Judged,
    *,
    vf_coef: Array | float,
    ent_coef: Array | float,
) -> tuple[Array, dict[str, Array]]:
    """`-mean A log pi(a|s) + vf_coef mean (V - G)^2 / 2 - ent_coef mean H(pi)`: `-> loss, metrics`.

    Source: Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning", section 4.
    """
    distribution = policy.distribution(params["actor"], batch.x)
    policy_loss = score_function_loss(distribution.log_prob(batch.action), batch.advantage).mean()
    value_loss = squared_error(policy.value(params, batch.x), batch.target).mean()
    entropy = distribution.entropy().mean()
    loss = policy_loss + vf_coef * value_loss - ent_coef * entropy
    metrics = {"policy_gradient_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
    return loss, metrics | {"loss": loss}


def actor_critic_gradient(
    options: ActorCriticOptions, state: PolicyState, batch: Judged
) -> tuple[Array, dict[str, Array]]:
    """The gradient of `actor_critic_loss` for all of `state.params`, as one vector `[P]`: `-> gradient, metrics`."""
    start, unflatten = ravel_pytree(state.params)

    def loss(params: Array) -> tuple[Array, dict[str, Array]]:
        return actor_critic_loss(
            state.policy, unflatten(params), batch, vf_coef=options.vf_coef, ent_coef=options.ent_coef
        )

    return jax.grad(loss, has_aux=True)(start)


def descend(options: ActorCriticOptions, state: PolicyState, gradient: Array) -> Descended:
    """One step of a method's optimiser down a gradient `[P]`, which may be that of older parameters."""
    start, unflatten = ravel_pytree(state.params)
    updates: Any
    updates, optimiser = optimiser_of(options).update(gradient, state.optimiser)
    learning_rate = schedule_value(options.learning_rate, progress(state.clock))
    return Descended(unflatten(start - learning_rate * updates), optimiser, jnp.linalg.norm(gradient))


def actor_critic_step(options: ActorCriticOptions, state: PolicyState, batch: Judged) -> Ascended:
    """One step of a method's optimiser down `actor_critic_loss`, for all of `state.params`."""
    gradient, metrics = actor_critic_gradient(options, state, batch)
    params, optimiser, gradient_norm = descend(options, state, gradient)
    return Ascended(params, optimiser, metrics | {"gradient_norm": gradient_norm})
