"""What agents that learn from guided search share."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from advantage.algorithms.hyperparameters import Schedule, ranged
from advantage.algorithms.planning.shared.acting import PlanMemory
from advantage.algorithms.policy_gradient.shared.optimisers import clipped
from advantage.algorithms.policy_gradient.shared.options import ArchitectureOptions
from advantage.models.interface import Model
from advantage.planners.guided_search import Search, Searched, guided_search
from advantage.types import Array, Key, Pytree


@dataclasses.dataclass(frozen=True)
class SearchOptions(ArchitectureOptions):
    """Fields of every agent that learns from guided search."""

    search: Search = "gumbel"
    """Gumbel's search, which improves the policy with few simulations too, or PUCT with noise at the root."""
    simulations: int = ranged(32, "[1, inf)")
    """Simulations for each decision."""
    gamma: float = ranged(1.0, "[0, 1]")
    """Discount per step."""
    learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size; a number or a schedule of progress."""
    vf_coef: float = ranged(1.0, "[0, inf)")
    """Weight of the value's loss."""
    weight_decay: float = ranged(1e-4, "[0, inf)")
    """Share of the weights that each unit of the step size takes away."""
    max_grad_norm: float | None = ranged(1.0, "(0, inf)")
    """Largest global norm of a gradient; None does not clip."""


class SearchingActor(Protocol):
    """What acts by searching: a model, what guides the search in it, and the key of evaluations, uint32 `[2]`."""

    @property
    def model(self) -> Model: ...

    @property
    def key(self) -> Array: ...

    def guide(self, state: Pytree) -> tuple[Array, Array]:
        """Log-probabilities `[N, A]` and values `[N]` of N states of the model."""
        ...


def searched(
    options: SearchOptions, actor: SearchingActor, obs: Pytree, key: Key, *, explore: bool
) -> Searched:
    """Search from a batch of observations."""
    return guided_search(
        actor.model,
        actor.model.begin(jax.tree.map(jnp.asarray, obs)),
        key,
        actor.guide,
        search=options.search,
        simulations=options.simulations,
        gamma=options.gamma,
        explore=explore,
    )


def act_by_search(
    options: SearchOptions, actor: SearchingActor, obs: Pytree, memory: PlanMemory, noise: Array
) -> tuple[Array, PlanMemory, dict[str, Array]]:
    """Search with noise at the root, with the first environment's key for all; used as a method's `act`.

    `-> action, memory, what the search found`.
    """
    found = searched(options, actor, obs, jax.random.wrap_key_data(jnp.asarray(noise)[0]), explore=True)
    extras = {"policy": found.policy, "value": found.value}
    return found.action, memory._replace(decisions=memory.decisions + 1), extras


def greedy_by_search(
    options: SearchOptions, actor: SearchingActor, obs: Pytree, memory: PlanMemory
) -> tuple[Array, PlanMemory]:
    """Search without noise; used as a method's `greedy`: `-> action, memory`."""
    begin = jax.random.wrap_key_data(jnp.asarray(actor.key))
    key = jax.random.fold_in(begin, jnp.ravel(memory.decisions)[0])
    found = searched(options, actor, obs, key, explore=False)
    return found.action, memory._replace(decisions=memory.decisions + 1)


def searched_steps(options: SearchOptions, state: Pytree) -> int:
    """One step of the model for each simulation; used as a method's `model_steps`."""
    return options.simulations


def decayed_adam(options: SearchOptions) -> optax.GradientTransformation:
    """Adam of clipped gradients, with weight decay; the caller multiplies by the step size.

    Source: Loshchilov & Hutter 2019, "Decoupled weight decay regularization", algorithm 2.
    """
    adam = clipped(optax.scale_by_adam(), options.max_grad_norm)
    return optax.chain(adam, optax.add_decayed_weights(options.weight_decay))
