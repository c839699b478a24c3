"""What agents share that learn a recurrent state-space model and think in it."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.hyperparameters import Schedule, ranged
from advantage.algorithms.policy_gradient.shared.options import UnitsOption
from advantage.algorithms.policy_gradient.shared.replayed_critic import replay_of
from advantage.algorithms.value.shared.gradient_steps import adam_init, adam_step
from advantage.algorithms.value.shared.options import check_budget
from advantage.models.latent_distributions import Categories, Latent, Normals
from advantage.models.pictures import decoder_of, picture_network
from advantage.models.recurrent_state_space import (
    Belief,
    LatentWorld,
    Numbers,
    RecurrentStateSpace,
    Weights,
    sequence_loss,
)
from advantage.planners.action_sequences import PlannedActions, planned_actions
from advantage.policies.encoder import encoder
from advantage.policies.networks import MLP, Activation
from advantage.policies.recurrent import GRU
from advantage.replay.arrivals import Arrivals, draw_arrivals
from advantage.replay.ring import Replay
from advantage.types import Array, Key, Pytree, Spec


@dataclasses.dataclass(frozen=True)
class LatentOptions(UnitsOption):
    """Fields of every method with a recurrent state-space model."""

    n_steps: int = ranged(5, "[1, inf)")
    """Steps taken in each environment between updates."""
    gradient_steps: int = ranged(1, "[1, inf)")
    """Gradient steps for each n_steps of one environment."""
    batch_size: int = ranged(16, "[1, inf)")
    """Sequences in a gradient step."""
    sequence_length: int = ranged(32, "[2, inf)")
    """Observations in a sequence."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    latent: Literal["categories", "normals"] = "categories"
    """What is drawn in each state: groups of choices, or normal numbers."""
    latent_size: int = ranged(64, "[1, inf)")
    """Numbers that are drawn in each state."""
    latent_classes: int = ranged(8, "[2, inf)")
    """Choices of a group; they divide latent_size."""
    memory_size: int = ranged(128, "[1, inf)")
    """Numbers that are remembered from state to state."""
    model_hidden: tuple[int, ...] = ranged((128,), "[1, inf)")
    """Widths of the hidden layers of each network of the model; images have convolutions besides."""
    activation: Activation = "silu"
    """Activation after each hidden layer."""
    model_learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size for the model; a number or a schedule of progress."""
    max_grad_norm: float | None = ranged(100.0, "(0, inf)")
    """Largest global norm of a gradient; None does not clip."""
    kl_dynamics: float = ranged(1.0, "[0, inf)")
    """Weight of the divergence that moves the prior to the posterior."""
    kl_representation: float = ranged(0.1, "[0, inf)")
    """Weight of the divergence that moves the posterior to the prior."""
    free_nats: float = ranged(1.0, "[0, inf)")
    """A divergence below so many nats has no gradient."""
    symlog: bool = True
    """Predict sign(x) log(1 + |x|) of each number of an observation x, and of rewards and values without two_hot."""
    two_hot: bool = True
    """Predict rewards and values as probabilities of categories; otherwise as one number."""
    value_limit: int = ranged(40, "[1, inf)")
    """The largest category of values and rewards, whose number grows as the square root: 40 stands for about 1600."""
    buffer_size: int = ranged(100_000, "[1, inf)")
    """Number of steps that the replay buffer holds."""
    learning_starts: int = ranged(500, "[0, inf)")
    """Environment steps with random actions before the first gradient step."""


class WorldParams(NamedTuple):
    """What a gradient step of the model changes."""

    params: Pytree
    optimiser: Pytree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WorldLearning:
    """A recurrent state-space model that is being learned.

    Attributes:
        networks: shapes; static.
        actions: what is chosen from; static.
        learned: parameters and optimiser.
        replay: what it is learned from.
        gradient_steps: uint32.
    """

    networks: RecurrentStateSpace
    actions: PlannedActions
    learned: WorldParams
    replay: Replay
    gradient_steps: Array

    @property
    def model(self) -> LatentWorld:
        """The model as it is now."""
        return LatentWorld(self.networks, self.learned.params)


class BeliefMemory(NamedTuple):
    """What an agent remembers within an episode: its belief, and its last action as a vector, `[N, ...]`."""

    belief: Belief
    action: Array


def latent_of(options: LatentOptions) -> Latent:
    """The random part of a latent state.

    Raises:
        ValueError: groups that do not come out even.
    """
    if options.latent == "normals":
        return Normals(options.latent_size)
    if options.latent_size % options.latent_classes:
        raise ValueError(
            f"latent_size={options.latent_size} is no multiple of latent_classes={options.latent_classes}; use "
            f"{options.latent_classes * max(1, options.latent_size // options.latent_classes)}, or latent=normals."
        )
    return Categories(options.latent_size // options.latent_classes, options.latent_classes)


def world_learning(options: LatentOptions, key: Key, spec: Spec) -> WorldLearning:
    """A model before the first step.

    Raises:
        ValueError: actions that are neither Discrete nor in a bounded Box, an action mask, a model without hidden
            layers, learning that starts after the budget, or a replay buffer that does not fit into memory.
    """
    check_budget(options, spec)
    seen, actions = encoder(spec.observation_space), planned_actions(spec)
    if seen.has_mask:
        raise ValueError(
            "The observation has an action mask, which a latent model does not predict; use alphazero or ppo, which "
            "obey it."
        )
    width = options.model_hidden
    if not width:
        raise ValueError(
            "model_hidden=() is not allowed, because the memory of the model reads a hidden layer; use one or more "
            "widths, such as (128,)."
        )
    networks = RecurrentStateSpace(
        seen,
        picture_network(seen, width, options.activation),
        decoder_of(seen, width, options.activation),
        MLP(width, options.activation),
        GRU(options.memory_size),
        latent_of(options),
        actions.choices,
        actions.choices or len(actions.low),
        Numbers(options.value_limit if options.two_hot else 0, options.symlog),
        options.symlog,
    )
    params = networks.init(key)
    action = jax.eval_shape(lambda key: actions.uniform(key, ()), jax.random.key(0))
    replay = replay_of(spec, action, options.buffer_size)
    learned = WorldParams(params, adam_init(params, options.max_grad_norm))
    return WorldLearning(networks, actions, learned, replay, jnp.uint32(0))


def learn_world(
    options: LatentOptions,
    networks: RecurrentStateSpace,
    learned: WorldParams,
    replay: Replay,
    key: Key,
    rate: Array | float,
) -> tuple[WorldParams, Belief, Arrivals, dict[str, Array]]:
    """One step of Adam on replayed sequences: `-> learned, beliefs [L, N], the sequences, metrics`."""
    key_draw, key_noise = jax.random.split(key)
    rows = draw_arrivals(replay, key_draw, options.batch_size, length=options.sequence_length)
    noise = networks.latent.noise(key_noise, rows.reward.shape)
    weights = Weights(options.kl_dynamics, options.kl_representation, options.free_nats)
    params, optimiser, (beliefs, metrics) = adam_step(
        lambda params: sequence_loss(networks, params, rows, noise, weights),
        *learned,
        rate,
        max_grad_norm=options.max_grad_norm,
    )
    return WorldParams(params, optimiser), beliefs, rows, metrics


def no_belief(networks: RecurrentStateSpace) -> BeliefMemory:
    """The memory before the first observation of an episode, without a batch axis."""
    begin = jax.tree.map(lambda x: x[0], networks.initial(1))
    return BeliefMemory(begin, jnp.zeros(networks.action_size))


def believed(model: LatentWorld, obs: Pytree, memory: BeliefMemory, noise: Array | None) -> Belief:
    """The beliefs after observations `[N, ...]`."""
    networks = model.networks
    embedding = networks.embed(model.params, jax.tree.map(jnp.asarray, obs))
    return networks.observe(model.params, memory.belief, memory.action, embedding, noise)
