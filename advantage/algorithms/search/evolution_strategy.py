"""Evolution strategies as stochastic gradient descent (Salimans et al. 2017)."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp
import optax

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.search.normal import standard_normal
from advantage.algorithms.search.ranking import centred_ranks, finite, standardised, usable
from advantage.types import Array, Key

SHAPINGS = {"centred-ranks": centred_ranks, "standardised": standardised, "none": finite}


class EvolutionState(NamedTuple):
    """The point theta `[d]` that is perturbed, and Adam's state."""

    mean: Array
    optimiser: optax.OptState


@hyperparameters
@dataclasses.dataclass(frozen=True)
class EvolutionStrategy:
    """Evolution strategy: perturb the parameters, and follow the gradient of the smoothed cost with Adam.

    In each generation of n candidates, in antithetic pairs, with F the cost:

        eps_i    ~  N(0, 1),  i = 1..n/2
        F_i^±    =  F(theta ± sigma eps_i)
        u        =  shaping(F):  ranks from -1/2 (best) to 1/2,  (F - mean) / std,  or F itself
        g        <- 1/(n sigma) sum_i (u_i^+ - u_i^-) eps_i
        theta    <- theta - learning_rate * Adam(g + weight_decay * theta)

    With shaping = "none" the mean of g is the gradient of E[F(theta + sigma eps)], whatever F is. With ranks only the
    order of the costs matters; equal costs share a rank, so theta does not move if all are equal.

    Source: Salimans et al. 2017, "Evolution strategies as a scalable alternative to reinforcement learning", algorithm
    1 and section 2.1; Kingma & Ba 2015, "Adam", algorithm 1.
    """

    candidates: int = ranged(100, "[2, inf)")
    """Candidates per generation, an even number: they come in pairs."""
    sigma: float = ranged(0.1, "(0, inf)")
    """Standard deviation of the perturbation of a coordinate; it is constant."""
    learning_rate: float = ranged(0.03, "[0, inf)")
    """Adam's step size."""
    weight_decay: float = ranged(0.0, "[0, inf)")
    """Weight of half the squared length of the parameters in the cost that Adam descends."""
    shaping: Literal["centred-ranks", "standardised", "none"] = "centred-ranks"
    """Form of the costs in the gradient: their ranks, their standard scores, or the costs themselves."""

    def __post_init__(self):
        check(self)
        if self.candidates % 2:
            raise ValueError(
                f"candidates={self.candidates} is not allowed: candidates come in pairs; use an even number, such as "
                f"{self.candidates + 1}."
            )

    def population(self, dimension: int) -> int:
        """How many candidates an `ask` returns."""
        return self.candidates

    def begin(self, x0: Array) -> EvolutionState:
        """The initial state."""
        return EvolutionState(x0, optax.scale_by_adam().init(x0))

    def ask(self, state: EvolutionState, key: Key) -> Array:
        """Perturbations of the mean, `[n, d]`; the second half mirrors the first."""
        step = self.sigma * standard_normal(key, self.candidates // 2, state.mean.size, state.mean.dtype)
        return state.mean + jnp.concatenate([step, -step])

    def tell(self, state: EvolutionState, candidates: Array, cost: Array) -> EvolutionState:
        """One step of Adam."""
        gradient = usable(smoothed_gradient(candidates, SHAPINGS[self.shaping](cost), self.sigma))
        gradient = (gradient + self.weight_decay * state.mean).astype(state.mean.dtype)
        step, optimiser = optax.scale_by_adam().update(gradient, state.optimiser)
        return EvolutionState(state.mean - self.learning_rate * jnp.asarray(step), optimiser)

    def spread(self, state: EvolutionState) -> Array:
        """The standard deviation sigma."""
        return jnp.asarray(self.sigma, state.mean.dtype)


def smoothed_gradient(candidates: Array, score: Array, sigma: Array | float) -> Array:
    """An unbiased estimate, `[d]`, of the gradient of `E[score(mean + sigma eps)]` from antithetic pairs.

        1/(n sigma) sum_{i <= n/2} (score_i - score_{i + n/2}) eps_i,   eps_i = (x_i - x_{i + n/2}) / (2 sigma)

    Args:
        candidates: `[n, d]`, the second half mirrors the first.
        score: `[n]`.
        sigma: standard deviation of a coordinate.

    Source: Salimans et al. 2017, "Evolution strategies as a scalable alternative to reinforcement learning", section
    2; Geweke 1988, "Antithetic acceleration of Monte Carlo integration in Bayesian inference", on pairs.
    """
    up, down = jnp.split(candidates, 2)
    score_up, score_down = jnp.split(score, 2)
    return (score_up - score_down) @ (up - down) / (2 * sigma) / (len(score) * sigma)
