"""Augmented random search (Mania, Guy & Recht 2018)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.search.normal import standard_normal
from advantage.algorithms.search.ranking import best_first, nonfinite_to_inf, scaled
from advantage.types import Array, Key


class RandomSearchState(NamedTuple):
    """The parameters M, `[d]`."""

    mean: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class AugmentedRandomSearch:
    """Augmented random search: try random directions both ways, step along the best by their difference of returns.

    In each generation of N directions, with r the return, minus the cost:

        delta_k  ~  N(0, 1),  k = 1..N
        r_k^±    =  r(M ± nu delta_k)                                   nu is `sigma`
        (1)..(b) <- the b directions with the largest max(r_k^+, r_k^-)
        sigma_R  <- standard deviation of the 2 b returns of these
        M        <- M + alpha / (b sigma_R) sum_{k <= b} (r_(k)^+ - r_(k)^-) delta_(k)

    V1-t and V2-t use some of the directions, b < N. V2 is a policy search that normalises observations, as
    `PolicySearch` does for this optimiser; V1 has `normalize_observation=False`. If all returns are equal, sigma_R = 0
    and M does not move.

    Departure from the paper: of the 2 b returns one that is not finite counts as the lowest finite one.

    Source: Mania, Guy & Recht 2018, "Simple random search of static linear policies is competitive for reinforcement
    learning", algorithm 2.
    """

    directions: int = ranged(16, "[1, inf)")
    """Number N of directions tried in a generation, each both ways."""
    top_directions: int | None = ranged(None, "[1, inf)")
    """Number b of directions that are used; None uses all."""
    learning_rate: float = ranged(0.02, "[0, inf)")
    """Step size alpha."""
    sigma: float = ranged(0.03, "(0, inf)")
    """Standard deviation nu of the perturbation of a coordinate; it is constant."""

    def __post_init__(self):
        check(self)
        if self.top_directions is not None and self.top_directions > self.directions:
            raise ValueError(
                f"top_directions={self.top_directions} of directions={self.directions} is not allowed: use at most "
                f"{self.directions}, or None for all."
            )

    def population(self, dimension: int) -> int:
        """How many candidates an `ask` returns: twice the directions."""
        return 2 * self.directions

    def begin(self, x0: Array) -> RandomSearchState:
        """The initial state."""
        return RandomSearchState(x0)

    def ask(self, state: RandomSearchState, key: Key) -> Array:
        """Perturbations of the parameters, `[2 N, d]`; the second half mirrors the first."""
        step = self.sigma * standard_normal(key, self.directions, state.mean.size, state.mean.dtype)
        return state.mean + jnp.concatenate([step, -step])

    def tell(self, state: RandomSearchState, candidates: Array, cost: Array) -> RandomSearchState:
        """One step along the best directions."""
        up, down = jnp.split(candidates, 2)
        cost_up, cost_down = jnp.split(nonfinite_to_inf(cost), 2)
        b = self.directions if self.top_directions is None else self.top_directions
        best = best_first(jnp.minimum(cost_up, cost_down))[:b]
        delta = (up - down)[best] / (2 * self.sigma)
        used = scaled(jnp.stack([cost_up[best], cost_down[best]]))
        sigma_r = used.std()
        step = (used[0] - used[1]) @ delta / (b * jnp.where(sigma_r > 0, sigma_r, 1))
        return RandomSearchState(state.mean - (self.learning_rate * step).astype(state.mean.dtype))

    def spread(self, state: RandomSearchState) -> Array:
        """The standard deviation nu."""
        return jnp.asarray(self.sigma, state.mean.dtype)
