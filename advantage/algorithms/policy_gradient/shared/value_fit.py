"""Critics that are fitted to their targets separately from the actor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.flatten_util import ravel_pytree

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import schedule_value
from advantage.algorithms.policy_gradient.shared.ascent import actor_optimiser
from advantage.algorithms.policy_gradient.shared.minibatches import minibatches
from advantage.algorithms.policy_gradient.shared.options import CriticOptions
from advantage.algorithms.policy_gradient.shared.state import PolicyState
from advantage.estimators.returns import explained_variance
from advantage.objectives.surrogates import squared_error
from advantage.types import Array, Key, Pytree


class Critic(NamedTuple):
    """A critic's parameters and their optimiser."""

    params: Pytree
    optimiser: optax.OptState


class Fitted(NamedTuple):
    """A critic's new parameters and optimiser state, and the metrics."""

    params: Pytree
    optimiser: optax.OptState
    metrics: dict[str, Array]


def critic_optimiser(critic: Pytree) -> optax.OptState:
    """Adam's initial state for a critic's parameters."""
    return optax.scale_by_adam().init(ravel_pytree(critic)[0])


def actor_and_critic_optimisers(
    params: Pytree, max_grad_norm: Array | float | None = None
) -> dict[str, optax.OptState]:
    """Adam's initial states for `params["actor"]`, and for `params["critic"]` if there is one."""
    optimisers = {"actor": actor_optimiser(params["actor"], max_grad_norm)}
    return optimisers | ({"critic": critic_optimiser(params["critic"])} if "critic" in params else {})


def fit(
    predict: Callable[[Pytree, Pytree], Array],
    critic: Critic,
    inputs: Pytree,
    target: Array,
    key: Key,
    *,
    learning_rate: Array | float,
    epochs: int,
    batch_size: int | None = None,
) -> Fitted:
    """Minimise the mean of `(predict - G)^2 / 2` by Adam, with `epochs` passes over a batch.

    Args:
        predict: `(parameters, inputs) -> [N]`.
        critic: parameters, and the state of `critic_optimiser`.
        inputs: `[N, ...]`, or `Sequences` of N steps.
        target: G, `[N]`.
        key: orders the minibatches.
        learning_rate: Adam's step size.
        epochs: passes, 1 or more.
        batch_size: samples in a minibatch; a pass leaves out those that do not fill one. None, or more than N / 2,
            takes all N samples at once, in one step.
    """
    samples = len(target)
    size = samples if batch_size is None else min(batch_size, samples)
    start, unflatten = ravel_pytree(critic.params)

    def loss(params, inputs, target):
        return squared_error(predict(unflatten(params), inputs), target).mean()

    def step(carry, minibatch):
        params, optimiser = carry
        value, gradient = jax.value_and_grad(loss)(params, *minibatch)
        updates: Any
        updates, optimiser = optax.scale_by_adam().update(gradient, optimiser)
        return (params - learning_rate * updates, optimiser), value

    def epoch(carry, key):
        if samples // size == 1:
            return step(carry, (inputs, target))
        carry, losses = jax.lax.scan(step, carry, minibatches((inputs, target), key, size))
        return carry, losses.mean()

    before = predict(critic.params, inputs)
    begin = start, critic.optimiser
    (params, optimiser), losses = jax.lax.scan(epoch, begin, jax.random.split(key, epochs))
    metrics = {"value_loss": losses.mean(), "explained_variance": explained_variance(before, target)}
    return Fitted(unflatten(params), optimiser, metrics)


def fit_value(options: CriticOptions, state: PolicyState, x: Pytree, target: Array, key: Key) -> Fitted:
    """`fit` of the value to G, `[N]`, with the options of a method, for `params["critic"]`, `optimiser["critic"]`.

    Args:
        options: the method's options.
        state: the method's training state.
        x: the networks' input, `[N, ...]`, or `Sequences` of N steps.
        target, key: as for `fit`.
    """

    def predict(critic: Pytree, x: Pytree) -> Array:
        return state.policy.value(state.params | {"critic": critic}, x)

    return fit(
        predict,
        Critic(state.params["critic"], state.optimiser["critic"]),
        x,
        target,
        key,
        learning_rate=schedule_value(options.critic_learning_rate, progress(state.clock)),
        epochs=options.critic_epochs,
        batch_size=options.critic_batch_size,
    )
