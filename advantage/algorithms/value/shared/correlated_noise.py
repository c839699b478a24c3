"""Exploration by noise that lasts: each action is a sample of the policy, and successive samples are correlated."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from advantage.algorithms.policy_gradient.shared.acting import Actor
from advantage.policies.heads import GaussianHead
from advantage.types import Array, Pytree


class CorrelationOption(Protocol):
    """The options of a method whose noise may last."""

    @property
    def noise_correlation(self) -> float | None: ...


class LastNoise(NamedTuple):
    """The noise of an episode's last action, `[d]`, and whether there was one."""

    acted: Array
    noise: Array


def noise_memory(options: CorrelationOption, actor: Actor) -> Pytree:
    """What is remembered when an episode begins; used as a method's `initial_memory`."""
    if options.noise_correlation is None:
        return ()
    head = actor.policy.head
    assert isinstance(head, GaussianHead)
    return LastNoise(np.zeros((), np.bool_), np.zeros(head.size, np.float32))


def act_with_lasting_noise(
    options: CorrelationOption, actor: Actor, obs: Pytree, memory: Pytree, noise: Pytree
) -> tuple[Pytree, Pytree, Pytree]:
    """Sample: `-> action, memory, extras`; used as a method's `act`.

        e_0 = x_0,   e_t = rho e_{t-1} + sqrt(1 - rho^2) x_t,   a_t = mu(s_t) + sigma(s_t) e_t

    with x standard normal, t the step of the episode and rho the noise_correlation; a is squashed if the policy's
    samples are. Each e_t is standard normal, so a_t has the density pi(. | s_t) whatever rho is, and the correlation of
    e_t and e_{t+k} is rho^k. With None the samples are independent.

    Source: Eberhard et al. 2023, "Pink noise is all you need: colored noise exploration in deep reinforcement
    learning"; e is their Ornstein-Uhlenbeck noise, here stationary from the first step on.
    """
    rho, distribution = options.noise_correlation, actor.distribution(obs)
    if rho is None:
        return distribution.sample(noise), memory, ()
    xp = noise.__array_namespace__()
    lasting = rho * memory.noise + (1 - rho**2) ** 0.5 * noise
    noise = xp.where(memory.acted[..., None], lasting, noise)
    return distribution.sample(noise), LastNoise(xp.ones_like(memory.acted), noise), ()


def greedy_beside_noise(
    options: CorrelationOption, actor: Actor, obs: Pytree, memory: Pytree
) -> tuple[Pytree, Pytree]:
    """The mode: `-> action, memory`; used as a method's `greedy`. The memory is that of the noise, and stays."""
    return actor.distribution(obs).mode(), memory
