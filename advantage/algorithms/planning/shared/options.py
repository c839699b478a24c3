"""Options that agents which plan share."""

from __future__ import annotations

import dataclasses
from typing import Literal

from advantage.algorithms.hyperparameters import Schedule, ranged
from advantage.algorithms.policy_gradient.shared.options import UnitsOption
from advantage.models.ensemble import ModelKind

Rules = Literal["true", "learned"]


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Fields of every method that learns a model of its world."""

    members: int = ranged(5, "[1, inf)")
    """Networks of a learned model; they differ in their initial weights and in the transitions they are fitted to."""
    model_kind: ModelKind = "gaussian"
    """Whether a learned model predicts how uncertain each number is."""
    model_hidden: tuple[int, ...] = ranged((128, 128), "[1, inf)")
    """Widths of the hidden layers of a learned model."""
    model_learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size for a learned model; a number or a schedule of progress."""
    model_batch_size: int = ranged(64, "[1, inf)")
    """Transitions in a gradient step of each network of a learned model."""
    model_epochs: int = ranged(100, "[1, inf)")
    """The most passes of a learned model over the stored transitions after a rollout; it stops earlier when held-out
    transitions are predicted no better."""
    buffer_size: int = ranged(100_000, "[10, inf)")
    """Number of transitions that a model is learned from, the newest ones."""


@dataclasses.dataclass(frozen=True)
class UsedModelOptions(ModelOptions):
    """Fields of every method that acts by a model, or learns from it, once it has learned it."""

    learning_starts: int = ranged(200, "[10, inf)")
    """Environment steps with random actions before a learned model is used."""


@dataclasses.dataclass(frozen=True)
class LookaheadOptions(UnitsOption):
    """Fields of every agent that plans."""

    n_steps: int = ranged(200, "[1, inf)")
    """Steps taken in each environment between two rows of the log, and between two fits of a learned model."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""


@dataclasses.dataclass(frozen=True)
class PlanningOptions(UsedModelOptions, LookaheadOptions):
    """Fields of every agent that plans with the world's own rules or with a model that it learns."""

    model: Rules = "true"
    """What to plan with: the world's own rules, or a model that is learned from experience."""


@dataclasses.dataclass(frozen=True)
class SequenceOptions:
    """Fields of every agent that plans a sequence of actions and takes the first."""

    horizon: int = ranged(20, "[1, inf)")
    """Number of actions in a plan."""
    particles: int | None = ranged(None, "[1, inf)")
    """How often a sequence is played; its value is the mean. None: once for the world's own rules, once for each
    network of a learned model."""


@dataclasses.dataclass(frozen=True)
class CrossEntropyOptions(SequenceOptions):
    """Fields of every agent that plans by the cross-entropy method."""

    candidates: int = ranged(100, "[2, inf)")
    """Sequences drawn in an iteration."""
    elites: int = ranged(10, "[1, inf)")
    """The best sequences of an iteration, to which the distribution is fitted."""
    iterations: int = ranged(5, "[1, inf)")
    """Iterations for each decision."""
    spread: float = ranged(1.0, "(0, inf)")
    """Standard deviation of continuous actions before the first iteration, in halves of the range of the action."""
    keep: float = ranged(0.0, "[0, 1)")
    """Share of the distribution that each iteration keeps."""
    noise_beta: float = ranged(0.0, "[0, inf)")
    """Colour of the noise of continuous actions over time: its power falls with the frequency f as 1 / f^beta."""
    keep_elites: bool = False
    """The elites of an iteration are candidates of the next one too."""
    remember: bool = True
    """Begin each decision with the plan of the step before; otherwise from nothing."""
