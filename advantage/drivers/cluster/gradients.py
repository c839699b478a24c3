"""Gradients that actors compute: of their own shares, which are averaged; or of older parameters, which are applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from advantage.algorithms.policy_gradient.a2c import A2C
from advantage.algorithms.policy_gradient.ppo import PPO
from advantage.types import Algorithm, Gradient, GradientAlgorithm, Pytree, Rollout


@jax.jit
def gradient_of(algorithm: GradientAlgorithm, state: Pytree, rollout: Rollout) -> Gradient:
    """The gradient of a rollout at the parameters of a state."""
    return algorithm.gradient(state, rollout)


def descended(
    algorithm: GradientAlgorithm, state: Pytree, rollout: Rollout, gradient: Gradient
) -> tuple[Pytree, dict[str, Any]]:
    """One step down a gradient, to be compiled."""
    return algorithm.descend(state, rollout, gradient)


def for_gradients(state: Pytree) -> Pytree:
    """What an actor needs of a state: all but the optimiser's part, as NumPy arrays."""
    return jax.device_get(dataclasses.replace(state, optimiser=()))


def mean_gradient(parts: Sequence[Gradient], sizes: Sequence[int]) -> Gradient:
    """The gradient of a mean over all environments, from those of the means over `sizes` environments each.

    g = Σ_i (b_i / B) g_i. Metrics are averaged in the same way.
    """
    weights = np.array(sizes, np.float64) / np.sum(sizes)

    def mean(*leaves: Any) -> np.ndarray:
        return np.tensordot(weights, np.stack(leaves).astype(np.float64), 1).astype(np.float32)

    return jax.tree.map(mean, *parts)


def refuse_gradients(algorithm: Algorithm, mode: str) -> None:
    """Raise ValueError for a method whose update is not one gradient, or whose gradient needs other environments."""
    name = type(algorithm).__name__
    if isinstance(algorithm, PPO):
        raise ValueError(
            f"PPO cannot learn with cluster_mode={mode!r}, where actors compute gradients: each minibatch is a step of "
            "its own, and a message to every actor and back would take longer than a minibatch's gradient. Use "
            "cluster_mode=synchronous, or a2c, whose update is one gradient."
        )
    if not isinstance(algorithm, A2C):
        raise ValueError(
            f"{name} cannot learn with cluster_mode={mode!r}, where actors compute gradients: its update is not one "
            "gradient of a mean over a rollout. Use a2c, or cluster_mode=synchronous."
        )
    if algorithm.network in ("gru", "lstm"):
        raise ValueError(
            f"network={algorithm.network!r} is not allowed with cluster_mode={mode!r}: the learner holds the critic's "
            "memory. Use cluster_mode=synchronous, or a network without memory."
        )
    if mode == "averaged" and algorithm.normalize_advantage:
        raise ValueError(
            "normalize_advantage=True is not allowed with cluster_mode='averaged': advantages are scaled over the "
            "whole rollout, of which each actor has a part. Switch it off, or use cluster_mode=synchronous."
        )
    if mode == "a3c" and algorithm.normalize_reward:
        raise ValueError(
            "normalize_reward=True is not allowed with cluster_mode='a3c': what it remembers belongs to one "
            "environment, and rollouts come in any order. Use cluster_mode=averaged or synchronous, or switch it off."
        )
