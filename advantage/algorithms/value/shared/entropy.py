"""Rewards and entropy: the temperature, what it aims at, and the value of a policy with two critics."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from advantage.algorithms.hyperparameters import ranged
from advantage.algorithms.policy_gradient.shared.replayed_critic import empty_replay
from advantage.algorithms.policy_gradient.shared.state import PolicyState, extended
from advantage.algorithms.value.shared.gradient_steps import LearningState, adam_init
from advantage.environments.spaces import action_scale
from advantage.policies.action_value import ActionValue, Dropout
from advantage.policies.heads import Bounds, CategoricalHead, Spread
from advantage.types import Array, Key, Pytree, Spec


@dataclasses.dataclass(frozen=True)
class EntropyOptions:
    """Fields of a method that maximises the entropy of its policy along with the rewards."""

    alpha: float | None = ranged(None, "[0, inf)")
    """The temperature, in rewards per nat; None learns it, from 1 on."""
    target_entropy: float | None = ranged(None, "(-inf, inf)")
    """Entropy in nats that a learned temperature aims at, of actions in the units of action_units. None: -1 for each
    continuous action, in units of its bounds, or half of log |A| for Discrete ones."""
    action_bounds: Bounds = "squash"
    """Bounded continuous actions: squash a Gaussian's samples by tanh, or clip them."""
    action_spread: Spread = "state-dependent"
    """Whether a Gaussian's standard deviation is a parameter or an output of the network."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EntropyState(LearningState):
    """A training state with `log_widths`, static: how much larger an entropy is than in units of the bounds.

    It is the sum of log((high - low) / 2) over the bounds of raw actions, and 0 where actions are in units of theirs.
    """

    log_widths: float = dataclasses.field(metadata={"static": True})


def entropy_state(state: PolicyState, key: Key, spec: Spec, *, q: ActionValue, size: int) -> EntropyState:
    """The initial state: the actor of `state`, two critics, their targets, a temperature of 1, and an empty buffer.

    Args:
        state: networks and statistics, without a critic.
        key: draws the critics.
        spec: spaces and budget.
        q: the critics' network.
        size: number of transitions that the replay buffer holds.

    Raises:
        ValueError: a replay buffer that does not fit into memory.
    """
    encoder = state.policy.encoder
    critics = jax.vmap(q.init, (0, None))(jax.random.split(key), encoder.encode(encoder.example()))
    params = {"actor": state.params["actor"], "action_value": critics, "log_alpha": jnp.zeros(())}
    return extended(
        state,
        EntropyState,
        params=params,
        optimiser={name: adam_init(part) for name, part in params.items()},
        target=critics,
        replay=empty_replay(state.policy, spec, size),
        gradient_steps=jnp.uint32(0),
        log_widths=log_widths(spec),
    )


def entropy_aim(options: EntropyOptions, state: EntropyState) -> float:
    """What a learned temperature aims at, in nats, of actions in the units in which the policy acts."""
    if options.target_entropy is not None:
        return options.target_entropy
    head: Any = state.policy.head
    if isinstance(head, CategoricalHead):
        return 0.5 * float(np.log(head.num_outputs))
    return state.log_widths - float(head.size)


def log_widths(spec: Spec) -> float:
    """The sum of log((high - low) / 2) over the numbers of a Box with two bounds; 0 for actions in units of these."""
    if spec.action_units == "bounds" or not isinstance(spec.action_space, spaces.Box):
        return 0.0
    _, half = action_scale(spec.action_space, "bounds")
    return float(np.log(half, where=half > 0, out=np.zeros(half.shape)).sum())


def lowest_value(
    q: ActionValue, critics: Pytree, x: Pytree, distribution: Any, noise: Pytree, dropout: Dropout = ()
) -> tuple[Array, Array]:
    """The lower of two critics' values of a policy's action, and `log pi` of the action: `-> [N], [N]`.

    Of Discrete actions both are exact expectations over the policy, the second is minus the entropy; else they are
    those of one sample, which moves with the policy's parameters.

    Args:
        q, critics: the network, and parameters with an axis of critics in front.
        x: the networks' input, `[N, ...]`.
        distribution: pi(. | s) of the same states.
        noise: what a sample consumes, `[N, ...]`.
        dropout: of the critics, `[2, N, width]` for each hidden layer; `()` without it.
    """
    if q.is_discrete:
        value = jax.vmap(q.all, (0, None, 0))(critics, x, dropout).min(0)
        return (jax.nn.softmax(distribution.logits) * value).sum(-1), -distribution.entropy()
    action, log_prob = distribution.sample_and_log_prob(noise)
    return jax.vmap(q.value, (0, None, None, 0))(critics, x, action, dropout).min(0), log_prob
