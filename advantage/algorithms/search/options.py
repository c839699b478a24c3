"""What black-box methods share: the contract of an optimiser, and the options of a search for a policy."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol

import jax.numpy as jnp

from advantage.algorithms.hyperparameters import ranged
from advantage.policies.actor_critic import Bounds
from advantage.policies.networks import Activation, Initialisation
from advantage.types import ActionUnits, Array, Key


class Optimiser(Protocol):
    """Minimises a function of a flat vector by its values alone: a frozen dataclass and pure functions.

        state = begin(x0)
        repeat:  x = ask(state, key);  state = tell(state, x, f(x))

    The state is a NamedTuple of arrays with, at the least, `mean` `[d]`: the point that it stands for, which is the
    centre of a distribution or the incumbent. A cost that is not finite is as bad as the worst.
    """

    def population(self, dimension: int) -> int:
        """How many candidates an `ask` returns, from the number of parameters."""
        ...

    def begin(self, x0: Array) -> Any:
        """The first state, at `x0` `[d]`."""
        ...

    def ask(self, state: Any, key: Key) -> Array:
        """What to evaluate, `[n, d]`."""
        ...

    def tell(self, state: Any, candidates: Array, cost: Array) -> Any:
        """Learn from the costs `[n]` of what `ask` returned: lower is better."""
        ...

    def spread(self, state: Any) -> Array:
        """How far, about, a candidate's coordinate lies from `mean`: a scalar, for people and for stopping."""
        ...


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """Fields of every search for a policy; nothing but fields. `adv.search.minimize` needs none of them."""

    episodes: int = ranged(1, "[1, inf)")
    """Episodes that each candidate plays; its cost is minus their mean return."""
    common_random_numbers: bool = False
    """Let all candidates of a generation meet the same starts and the same chance."""
    reevaluate: int = ranged(0, "[0, inf)")
    """How many of a generation's best play as many episodes again before they are judged."""
    hidden: tuple[int, ...] = ranged((), "[1, inf)")
    """Widths of the policy's hidden layers; without any it is linear."""
    activation: Activation = "tanh"
    """After each hidden layer."""
    initialisation: Initialisation = "orthogonal"
    """Of the weights that the search starts from: orthogonal with gains, or independent normals."""
    action_bounds: Bounds = "clip"
    """Bounded continuous actions: clip the policy's outputs, or squash them by tanh."""
    action_units: ActionUnits = "bounds"
    """Bounded continuous actions: 0 is the middle of the bounds and 1 the upper one, or they are taken as they are."""
    normalize_observation: bool = False
    """Scale observations by running mean and standard deviation."""
    clip_observation: float = ranged(10.0, "(0, inf)")
    """Limit of a scaled observation, in standard deviations."""
    play: Literal["mean", "best"] = "mean"
    """Who the agent is: the mean of the search, or the best candidate of all generations."""
    network: Any = None
    """A network of your own, from Python only: a pair (init, apply), adv.MLP, adv.CNN, adv.from_flax(...)."""


def nonfinite_to_inf(cost: Array) -> Array:
    """Costs with everything that is not finite as +inf, the worst."""
    return jnp.where(jnp.isfinite(cost), cost, jnp.inf)
