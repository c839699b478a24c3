"""Options that policy-gradient methods share."""

from __future__ import annotations

import dataclasses
from typing import Literal

from advantage.algorithms.hyperparameters import Schedule, ranged
from advantage.policies.heads import Bounds, Spread
from advantage.policies.networks import Activation, Initialisation
from advantage.policies.recurrent import NetworkChoice

Optimiser = Literal["rmsprop", "adam"]


@dataclasses.dataclass(frozen=True)
class ArchitectureOptions:
    """Fields that say what a network looks like."""

    hidden: tuple[int, ...] = ranged((64, 64), "[1, inf)")
    """Widths of the hidden layers; observations with images have convolutions instead."""
    activation: Activation = "tanh"
    """Activation after each hidden layer."""
    initialisation: Initialisation = "orthogonal"
    """Initial weights: orthogonal with gains, or independent normals."""
    network: NetworkChoice = None
    """gru or lstm for a policy with memory; or, from Python, a network of your own: a pair (init, apply), a recurrent
    triple (init, apply, initial), adv.MLP, adv.CNN, adv.from_flax(...). None builds layers or convolutions."""


@dataclasses.dataclass(frozen=True)
class NetworkOptions(ArchitectureOptions):
    """Fields of every method with a network: of a policy, or of action values."""

    n_steps: int = ranged(2048, "[1, inf)")
    """Steps taken in each environment for one update."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    normalize_observation: bool = True
    """Scale observations by running mean and standard deviation."""
    clip_observation: float = ranged(10.0, "(0, inf)")
    """Limit of a scaled observation, in standard deviations."""
    normalize_reward: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""
    clip_reward: float = ranged(10.0, "(0, inf)")
    """Limit of a scaled reward, in standard deviations of the return."""


@dataclasses.dataclass(frozen=True)
class UnitsOption:
    """The field of every method that acts in a Box."""

    action_units: Literal["bounds", "raw"] = "bounds"
    """Bounded continuous actions: 0 is the middle of the bounds and 1 the upper bound, or raw environment units."""


@dataclasses.dataclass(frozen=True)
class PolicyOptions(UnitsOption, NetworkOptions):
    """Fields of every method with a stochastic policy."""

    action_bounds: Bounds = "clip"
    """Bounded continuous actions: clip a Gaussian's samples, squash them by tanh, or give the environment what was
    sampled, in its own units and beyond the bounds too (none)."""
    action_spread: Spread = "state-independent"
    """Whether a Gaussian's standard deviation is a parameter or an output of the network."""
    log_std_init: float = ranged(0.0, "[-5, 2]")
    """Logarithm of the initial standard deviation, in the units of the actions."""
    sequence_length: int | None = ranged(None, "[1, inf)")
    """Length of the sequences that a recurrent network learns from; it must divide n_steps and the samples of a
    minibatch. None takes the largest possible length."""
    memory_span: int | None = ranged(None, "[2, inf)")
    """About the number of steps for which the gates of a recurrent network remember at first, at most; None leaves the
    biases as they are drawn usually."""


@dataclasses.dataclass(frozen=True)
class OptimiserOptions:
    """Fields of a method that takes one step of RMSProp or Adam for each rollout."""

    optimiser: Optimiser = "rmsprop"
    """RMSProp as in the paper, or Adam."""
    rms_decay: float = ranged(0.99, "[0, 1)")
    """Share of its mean square that RMSProp keeps in each step."""
    optimiser_epsilon: float = ranged(1e-5, "(0, inf)")
    """Added to the optimiser's denominator."""
    max_grad_norm: float | None = ranged(0.5, "(0, inf)")
    """Largest global norm of a gradient; None does not clip."""


@dataclasses.dataclass(frozen=True)
class ActorCriticOptions(OptimiserOptions, PolicyOptions):
    """Fields of a method that takes one step on a joint loss of actor and critic for each rollout."""

    learning_rate: float | Schedule = ranged(7e-4, "[0, inf)")
    """The optimiser's step size; a number or a schedule of progress."""
    ent_coef: float = ranged(0.0, "[0, inf)")
    """Weight of the entropy bonus, per nat."""
    vf_coef: float = ranged(0.5, "[0, inf)")
    """Weight of the critic's loss."""
    share_network: bool = False
    """One network for actor and critic, or one each."""
    normalize_observation: bool = False
    """Scale observations by running mean and standard deviation."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""


@dataclasses.dataclass(frozen=True)
class CriticOptions:
    """Fields of a method that fits its critic separately from the actor."""

    critic_learning_rate: float | Schedule = ranged(3e-3, "[0, inf)")
    """Adam's step size for the critic; a number or a schedule of progress."""
    critic_epochs: int = ranged(20, "[1, inf)")
    """Passes of the critic over each rollout."""
    critic_batch_size: int | None = ranged(None, "[1, inf)")
    """Samples in a minibatch of the critic; None, or more than half of the rollout, takes the whole rollout."""


@dataclasses.dataclass(frozen=True)
class NaturalOptions(CriticOptions, PolicyOptions):
    """Fields of a method whose actor takes a natural step and whose V is fitted after it."""

    target_kl: float | Schedule = ranged(0.01, "(0, inf)")
    """Largest mean KL divergence of an update, in nats; a number or a schedule of progress."""
    gae_lambda: float = ranged(0.95, "[0, 1]")
    """Lambda of GAE: 0 is the TD error, 1 the Monte-Carlo return."""
    normalize_advantage: bool = True
    """Scale each rollout's advantages to zero mean and unit variance."""
    ent_coef: float = ranged(0.0, "[0, inf)")
    """Weight of the entropy bonus, per nat."""
    cg_iterations: int = ranged(10, "[1, inf)")
    """Largest number of conjugate-gradient iterations."""
    cg_damping: float = ranged(0.1, "[0, inf)")
    """Added to the Fisher matrix's diagonal."""
    critic_learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size for V; a number or a schedule of progress."""
    critic_epochs: int = ranged(10, "[1, inf)")
    """Passes of V over each rollout."""
    critic_batch_size: int | None = ranged(128, "[1, inf)")
    """Samples in a minibatch of V; None, or more than half of the rollout, takes the whole rollout."""


@dataclasses.dataclass(frozen=True)
class TrustRegionOptions(NaturalOptions):
    """Fields of a method that searches along its natural step for the largest step within the trust region."""

    line_search_attempts: int = ranged(10, "[1, inf)")
    """Number of step lengths to try."""
    line_search_shrink: float = ranged(0.8, "(0, 1)")
    """Factor between one step length and the next."""
