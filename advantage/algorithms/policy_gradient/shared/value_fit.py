"""Critics that are fitted to their targets apart from the actor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.flatten_util import ravel_pytree

from advantage.algorithms.hyperparameters import schedule_value
from advantage.algorithms.permutation import random_permutation
from advantage.algorithms.policy_gradient.shared.ascent import actor_optimiser
from advantage.algorithms.policy_gradient.shared.learner import LearnerState, progress_of
from advantage.estimators.returns import explained_variance
from advantage.objectives.surrogates import squared_error
from advantage.types import Array, Key, Pytree


class Fitted(NamedTuple):
    """A critic's new parameters and optimiser, and what to report."""

    params: Pytree
    optimiser: optax.OptState
    metrics: dict[str, Array]


def critic_optimiser(critic: Pytree) -> optax.OptState:
    """Adam's first state for a critic's parameters."""
    return optax.scale_by_adam().init(ravel_pytree(critic)[0])


def actor_and_critic_optimisers(params: Pytree, max_grad_norm: Any = None) -> dict[str, optax.OptState]:
    """Adam's first states for `params["actor"]` and `params["critic"]`."""
    return {
        "actor": actor_optimiser(params["actor"], max_grad_norm),
        "critic": critic_optimiser(params["critic"]),
    }


def fit(
    predict: Callable[[Pytree, Pytree], Array],
    critic: Pytree,
    optimiser: optax.OptState,
    inputs: Pytree,
    target: Array,
    key: Key,
    learning_rate: Array | float,
    epochs: int,
    batch_size: int | None = None,
) -> Fitted:
    """Descend the mean of `(predict - G)^2 / 2` by Adam, `epochs` times through a batch.

    Args:
        predict: `(critic, inputs) -> [N]`.
        critic: parameters.
        optimiser: of `critic_optimiser`.
        inputs: `[N, ...]`.
        target: G, `[N]`.
        key: orders the minibatches.
        learning_rate: Adam's step size.
        epochs: passes, 1 or more.
        batch_size: samples in a minibatch; those that do not fill one are left out of the pass. None, or more than N,
            takes all at once.
    """
    samples = len(target)
    size = samples if batch_size is None else min(batch_size, samples)
    number = samples // size
    start, unflatten = ravel_pytree(critic)

    def loss(critic, inputs, target):
        return squared_error(predict(unflatten(critic), inputs), target).mean()

    def step(carry, minibatch):
        critic, optimiser = carry
        value, gradient = jax.value_and_grad(loss)(critic, *minibatch)
        updates: Any
        updates, optimiser = optax.scale_by_adam().update(gradient, optimiser)
        return (critic - learning_rate * updates, optimiser), value

    def epoch(carry, key):
        if number == 1:
            return step(carry, (inputs, target))
        order = random_permutation(key, samples)[: number * size]
        parts = jax.tree.map(
            lambda leaf: leaf[order].reshape(number, size, *leaf.shape[1:]), (inputs, target)
        )
        carry, losses = jax.lax.scan(step, carry, parts)
        return carry, losses.mean()

    before = predict(critic, inputs)
    (params, optimiser), losses = jax.lax.scan(epoch, (start, optimiser), jax.random.split(key, epochs))
    metrics = {"value_loss": losses.mean(), "explained_variance": explained_variance(before, target)}
    return Fitted(unflatten(params), optimiser, metrics)


def fit_value(algorithm: Any, state: LearnerState, x: Pytree, target: Array, key: Key) -> Fitted:
    """`fit` of the value to G, `[N]`, with the options of a method, for `params["critic"]`, `optimiser["critic"]`.

    Args:
        algorithm: with `critic_learning_rate`, `critic_epochs` and `critic_batch_size`.
        state: of the method.
        x: the networks' input, `[N, ...]`.
        target, key: as for `fit`.
    """

    def predict(critic: Pytree, x: Pytree) -> Array:
        return state.policy.value(state.params | {"critic": critic}, x)

    return fit(
        predict,
        state.params["critic"],
        state.optimiser["critic"],
        x,
        target,
        key,
        schedule_value(algorithm.critic_learning_rate, progress_of(state)),
        algorithm.critic_epochs,
        algorithm.critic_batch_size,
    )
