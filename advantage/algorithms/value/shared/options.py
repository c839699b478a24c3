"""Options that methods with a replay buffer share."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from jax.core import Tracer

from advantage.algorithms.hyperparameters import Schedule, ranged
from advantage.algorithms.policy_gradient.shared.options import NetworkOptions
from advantage.policies.networks import Activation
from advantage.types import Array, Spec


@dataclasses.dataclass(frozen=True)
class BufferOptions(NetworkOptions):
    """Fields of every method that learns from a replay buffer."""

    learning_rate: float | Schedule = ranged(3e-4, "[0, inf)")
    """Adam's step size; a number or a schedule of progress."""
    n_steps: int = ranged(1, "[1, inf)")
    """Steps taken in each environment between updates."""
    gradient_steps: int = ranged(1, "[1, inf)")
    """Gradient steps for each n_steps of one environment."""
    batch_size: int = ranged(256, "[1, inf)")
    """Transitions in a gradient step."""
    buffer_size: int = ranged(1_000_000, "[1, inf)")
    """Number of transitions that the replay buffer holds."""
    learning_starts: int = ranged(1000, "[0, inf)")
    """Environment steps before the first gradient step; they count as part of the budget."""
    normalize_observation: bool = False
    """Scale observations by running mean and standard deviation."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    hidden: tuple[int, ...] = ranged((256, 256), "[1, inf)")
    """Widths of the hidden layers; observations with images have convolutions instead."""
    activation: Activation = "relu"
    """Activation after each hidden layer."""


@dataclasses.dataclass(frozen=True)
class TargetNetwork:
    """The field of a method whose targets come from networks that follow the trained ones."""

    tau: float = ranged(0.005, "(0, 1]")
    """Fraction by which the target networks move towards the trained ones in each gradient step."""


@dataclasses.dataclass(frozen=True)
class ReplayOptions(BufferOptions):
    """Fields of every method that learns from single transitions, or windows of n steps, of a replay buffer."""

    n: int = ranged(1, "[1, inf)")
    """Number of rewards in a target before it bootstraps."""


@dataclasses.dataclass(frozen=True)
class ExplorationOptions(TargetNetwork, ReplayOptions):
    """Fields of every method that acts by an epsilon-greedy policy of its action values."""

    epsilon: float = ranged(0.05, "[0, 1]")
    """Probability of a random action, at the end of its decay."""
    epsilon_start: float = ranged(1.0, "[0, 1]")
    """Probability of a random action, at the beginning."""
    epsilon_fraction: float = ranged(0.1, "(0, 1]")
    """Share of the budget over which epsilon falls."""


def check_replay(options: ReplayOptions) -> None:
    """Check that the replay buffer can hold a batch and a window of n steps.

    Raises:
        ValueError: one that cannot.
    """
    for name, size in (("batch_size", options.batch_size), ("n", options.n)):
        if options.buffer_size < size:
            raise ValueError(
                f"buffer_size={options.buffer_size} is below {name}={size}; use a buffer_size of {size} or more, or a "
                f"smaller {name}."
            )


class StartOption(Protocol):
    """The options of a method that first only acts."""

    @property
    def learning_starts(self) -> int: ...


def check_budget(options: StartOption, spec: Spec) -> None:
    """Check that learning starts within the budget, unless the budget is traced.

    Raises:
        ValueError: it does not, so nothing would ever be learned.
    """
    total: int | Array = spec.total_timesteps
    if not isinstance(total, Tracer) and options.learning_starts > total:
        raise ValueError(
            f"learning_starts={options.learning_starts} is above total_timesteps={total}, so nothing "
            f"would be learned; use a learning_starts of {total} or less, or a larger budget."
        )
