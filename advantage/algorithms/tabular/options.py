"""Options that tabular methods share."""

from __future__ import annotations

import dataclasses

from advantage.algorithms.hyperparameters import Schedule, ranged
from advantage.algorithms.tabular.given_policy import PolicyTable
from advantage.algorithms.tabular.step_sizes import StepSizeOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlOptions:
    """Options of every method that learns action values by its own exploration."""

    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    epsilon: float | Schedule = ranged(0.1, "[0, 1]")
    """Probability of a random action; a number or a schedule of progress."""
    epsilon_power: float | None = ranged(None, "[0, 1]")
    """Divides epsilon by the visits of s to this power; None keeps it."""
    initial_value: float = ranged(0.0, "(-inf, inf)")
    """Initial Q(s, a); above the largest possible return it encourages exploration."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TDControlOptions(ControlOptions, StepSizeOptions):
    """Options of every method that learns action values from TD errors."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeOptions:
    """Options of every method that learns from whole episodes."""

    n_steps: int = ranged(128, "[1, inf)")
    """Steps taken in each environment before learning from the episodes that ended in them."""
    max_episode: int = ranged(1000, "[1, inf)")
    """Length in steps of the longest episode that is learned from; longer ones are left out and counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionOptions(StepSizeOptions):
    """Options of every method that learns the values of the policy it follows."""

    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    initial_value: float = ranged(0.0, "(-inf, inf)")
    """Initial V(s)."""
    policy: PolicyTable = None
    """Probabilities [S, A], or an action for each state [S]: a table, or the name of a .json or .npy file with one.
    Observations of several parts are numbered like digits, the last part fastest. None is uniformly random."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodicPredictionOptions(EpisodeOptions, PredictionOptions):
    """Options of every method that learns the values of the policy it follows from whole episodes."""
