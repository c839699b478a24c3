"""Descent by finite differences: forward, central, and simultaneous perturbation (Spall 1992)."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.search.ranking import finite, usable
from advantage.machine import refuse_large
from advantage.types import Array, Key


class DifferencesState(NamedTuple):
    """The point x, `[d]`, and the number of steps so far."""

    mean: Array
    generation: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class FiniteDifferences:
    """Finite differences: estimate the gradient from nearby costs and take a descent step.

    In generation k = 1, 2, ..., with the cost f:

        g_i  <- (f(x + c_k e_i) - f(x)) / c_k                                forward, error O(c)
                (f(x + c_k e_i) - f(x - c_k e_i)) / (2 c_k)                  central, error O(c^2)
                (f(x + c_k D) - f(x - c_k D)) / (2 c_k D_i)                  simultaneous perturbation
        x    <- x - a_k g
        a_k  =  learning_rate / (stability + k)^learning_rate_power
        c_k  =  width / k^width_power

    D is ±1 in each coordinate with equal probability, drawn anew each time. Two costs give a gradient of any
    dimension, whose mean is the central difference up to O(c^2). The mean over several `directions` varies less.
    Simultaneous perturbation uses Spall's powers 0.602 and 0.101, the smallest that are known to converge on a noisy
    cost; he advises a `stability` of a tenth of the planned steps. Forward and central differences keep a and c
    constant by default.

    Quotients use the differences of the rounded candidates. If the gradient overflows, no step is taken.

    Source: Kiefer & Wolfowitz 1952, "Stochastic estimation of the maximum of a regression function"; Spall 1992,
    "Multivariate stochastic approximation using a simultaneous perturbation gradient approximation", eq. 2.1 and 2.2;
    Spall 1998, "Implementation of the simultaneous perturbation algorithm for stochastic optimization", on gains.
    """

    difference: Literal["forward", "central", "simultaneous-perturbation"] = "central"
    """How the gradient is estimated, from d + 1, 2 d, or 2 `directions` costs."""
    directions: int | None = ranged(None, "[1, inf)")
    """Simultaneous perturbations whose gradients are averaged; None takes 1."""
    learning_rate: float = ranged(0.1, "[0, inf)")
    """Step size a."""
    width: float = ranged(0.1, "(0, inf)")
    """Distance c of a candidate from x, in each coordinate that differs."""
    learning_rate_power: float | None = ranged(None, "[0, inf)")
    """Divides the step size by k to this power; None takes 0.602 for simultaneous perturbation, else 0."""
    width_power: float | None = ranged(None, "[0, inf)")
    """Divides the width by k to this power; None takes 0.101 for simultaneous perturbation, else 0."""
    stability: float | None = ranged(None, "[0, inf)")
    """Steps A that the step size counts as already taken; None takes 0."""

    def __post_init__(self):
        check(self)
        simultaneous = self.difference == "simultaneous-perturbation"
        if self.directions is not None and not simultaneous:
            raise ValueError(
                f"directions={self.directions} with difference={self.difference!r} is not allowed: it uses "
                "every coordinate; leave directions out, or use difference='simultaneous-perturbation'."
            )
        if self.stability is not None and self.learning_rate_power is None and not simultaneous:
            raise ValueError(
                f"stability={self.stability} with difference={self.difference!r} is not allowed: its step size is "
                "constant; leave stability out, or give learning_rate_power, such as 0.602."
            )

    def population(self, dimension: int) -> int:
        """How many candidates an `ask` returns: `dimension` + 1, 2 `dimension`, or twice the directions."""
        return {"forward": dimension + 1, "central": 2 * dimension}.get(
            self.difference, 2 * (self.directions or 1)
        )

    def begin(self, x0: Array) -> DifferencesState:
        """The initial state. Raises ValueError for candidates that memory cannot hold."""
        size = 2 * self.population(x0.size) * x0.size * x0.dtype.itemsize  # the candidates and their steps
        refuse_large(
            f"A difference along each of {x0.size:,} parameters",
            size,
            "use difference='simultaneous-perturbation', and few directions",
        )
        return DifferencesState(x0, jnp.zeros((), jnp.int32))

    def ask(self, state: DifferencesState, key: Key) -> Array:
        """The points around x, `[n, d]`; with forward differences the first is x."""
        d, dtype = state.mean.size, state.mean.dtype
        if self.difference == "simultaneous-perturbation":
            step = jax.random.rademacher(key, (self.directions or 1, d), dtype)
        else:
            step = jnp.eye(d, dtype=dtype)
        step *= self.spread(state)
        first = jnp.zeros((1, d), dtype)
        return state.mean + jnp.concatenate([first, step] if self.difference == "forward" else [step, -step])

    def tell(self, state: DifferencesState, candidates: Array, cost: Array) -> DifferencesState:
        """One descent step."""
        gradient = usable(self._gradient(candidates, finite(cost)))
        power = self._power(self.learning_rate_power, 0.602)
        offset = 0.0 if self.stability is None else self.stability
        rate = self.learning_rate / (offset + state.generation + 1) ** power
        return DifferencesState(state.mean - (rate * gradient).astype(state.mean.dtype), state.generation + 1)

    def spread(self, state: DifferencesState) -> Array:
        """The width c_k."""
        k = (state.generation + 1).astype(state.mean.dtype)
        return self.width / k ** self._power(self.width_power, 0.101)

    def _power(self, power: Array | float | None, standard: float) -> Array | float:
        if power is not None:
            return power
        return standard if self.difference == "simultaneous-perturbation" else 0.0

    def _gradient(self, candidates: Array, cost: Array) -> Array:
        if self.difference == "forward":
            return _quotient(cost[1:] - cost[0], jnp.diagonal(candidates[1:] - candidates[0]))
        (up, down), (cost_up, cost_down) = jnp.split(candidates, 2), jnp.split(cost, 2)
        if self.difference == "central":
            return _quotient(cost_up - cost_down, jnp.diagonal(up - down))
        return _quotient((cost_up - cost_down)[:, None], up - down).mean(0)


def _quotient(change: Array, distance: Array) -> Array:
    """`change / distance`; 0 where the distance was rounded to zero."""
    return jnp.where(distance == 0, 0, change / jnp.where(distance == 0, 1, distance))
