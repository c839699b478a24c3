"""Gradient steps from replayed experience: how many there are, and what one is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax

from advantage.algorithms.policy_gradient.shared.experience import advance_statistics
from advantage.algorithms.policy_gradient.shared.optimisers import clipped
from advantage.algorithms.policy_gradient.shared.replayed_critic import (
    ReplayBatch,
    ReplayedState,
    polyak,
    repeat,
)
from advantage.algorithms.value.shared.options import BufferOptions, TargetNetwork
from advantage.objectives.surrogates import squared_error
from advantage.policies.action_value import ActionValue, Dropout
from advantage.replay.ring import Replay
from advantage.types import Array, Key, Pytree, Rollout

Loss = Callable[[Pytree], tuple[Array, Any]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearningState(ReplayedState):
    """A training state that counts its gradient steps, uint32."""

    gradient_steps: Array


class StepOptions(Protocol):
    """The options that say how many gradient steps there are."""

    @property
    def n_steps(self) -> int: ...

    @property
    def gradient_steps(self) -> int: ...

    @property
    def learning_starts(self) -> int: ...


S = TypeVar("S", bound=LearningState)


class Learning(NamedTuple):
    """What a gradient step updates, and how many there were, uint32."""

    params: Pytree
    optimiser: Pytree
    target: Pytree
    gradient_steps: Array


def take_gradient_steps(
    options: BufferOptions,
    state: S,
    rollout: Rollout,
    *,
    replay: Replay,
    key: Key,
    step: Callable[[Learning, Key], tuple[Learning, dict[str, Array]]],
) -> tuple[S, dict[str, Array]]:
    """The end of an update: the gradient steps that are due after a rollout, which `replay` already holds.

    Args:
        options, state, rollout, key: those of `update`.
        replay: the buffer with the rollout.
        step: one gradient step, `(learning, key) -> learning, metrics`.

    Returns:
        The next state, with the clock advanced, and the mean of each metric.
    """
    count = number_of_gradient_steps(options, replay, rollout.reward.size)
    before = Learning(state.params, state.optimiser, state.target, state.gradient_steps)
    learning, metrics = repeat(step, before, count, key)
    advanced = advance_statistics(options, state, rollout)
    state = dataclasses.replace(advanced, replay=replay, **learning._asdict())
    return state, metrics | {"gradient_steps": count}


def number_of_gradient_steps(options: StepOptions, replay: Replay, steps: int) -> Array:
    """Gradient steps after a rollout of so many environment steps: the same number for each transition.

    None are taken until `learning_starts` transitions have been stored.
    """
    begun = (replay.added >= jnp.uint32(options.learning_starts)) & (replay.stored > 0)
    return jnp.where(begun, options.gradient_steps * steps // options.n_steps, 0)


def adam_init(params: Pytree, max_grad_norm: Array | float | None = None) -> optax.OptState:
    """Adam's initial state."""
    return clipped(optax.scale_by_adam(), max_grad_norm).init(params)


def adam_step(
    loss: Loss,
    params: Pytree,
    optimiser: optax.OptState,
    learning_rate: Array | float,
    *,
    max_grad_norm: Array | float | None = None,
    b1: float = 0.9,
) -> tuple[Pytree, optax.OptState, Any]:
    """One step of Adam down `loss(params) -> loss, more`: `-> parameters, optimiser, more`.

    `b1` is the share of the mean gradient that is kept.
    """
    gradient, metrics = jax.grad(loss, has_aux=True)(params)
    updates, optimiser = clipped(optax.scale_by_adam(b1), max_grad_norm).update(gradient, optimiser)
    return jax.tree.map(lambda x, step: x - learning_rate * step, params, updates), optimiser, metrics


def part_step(
    name: str, loss: Loss, learning: Learning, learning_rate: Array | float, *, b1: float = 0.9
) -> tuple[Learning, Any]:
    """`adam_step` of the parameters of this name: `-> learning, more`."""
    params, optimiser = learning.params, learning.optimiser
    part, moments, more = adam_step(loss, params[name], optimiser[name], learning_rate, b1=b1)
    learning = learning._replace(params=params | {name: part}, optimiser=optimiser | {name: moments})
    return learning, more


def target_step(
    target: Pytree, params: Pytree, gradient_steps: Array, interval: int, tau: Array | float
) -> Pytree:
    """The target network after a gradient step: `(1 - tau) target + tau params` at every `interval`-th one."""

    def move() -> Pytree:
        return jax.tree.map(lambda old, new: (1 - tau) * old + tau * new, target, params)

    return jax.lax.cond(gradient_steps % jnp.uint32(interval) == 0, move, lambda: target)


def critics_step(
    q: ActionValue,
    learning: Learning,
    batch: ReplayBatch,
    y: Array,
    learning_rate: Array | float,
    *,
    dropout: Dropout = (),
) -> tuple[Learning, dict[str, Array]]:
    """One step of Adam on `mean (Q_i(s, a) - y)^2 / 2` of each critic: `-> learning, metrics`.

    `dropout` has an axis of critics in front.
    """

    def loss(critics: Pytree) -> tuple[Array, dict[str, Array]]:
        predicted = jax.vmap(q.value, (0, None, None, 0))(critics, batch.x, batch.action, dropout)
        losses = squared_error(predicted, y).mean(1)
        return losses.sum(), {"action_value_loss": losses.mean(), "action_value": predicted.mean()}

    learning, metrics = part_step("action_value", loss, learning, learning_rate)
    return learning._replace(gradient_steps=learning.gradient_steps + 1), metrics


def actor_step(
    options: TargetNetwork,
    value_of: Callable[[Pytree], Array],
    learning: Learning,
    learning_rate: Array | float,
    *,
    delay: int = 1,
) -> Learning:
    """One step of Adam up `mean value_of(actor)`, and of all targets by `tau`, at every `delay`-th gradient step."""

    def move() -> Learning:
        moved, _ = part_step("actor", lambda actor: (-value_of(actor).mean(), {}), learning, learning_rate)
        return moved._replace(target=polyak(moved.target, moved.params, options.tau))

    return jax.lax.cond(learning.gradient_steps % jnp.uint32(delay) == 0, move, lambda: learning)
