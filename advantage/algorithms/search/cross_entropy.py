"""The cross-entropy method (Rubinstein 1999), with the extra variance of Szita & Lőrincz 2006."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.search.normal import standard_normal
from advantage.algorithms.search.ranking import number_of, rank
from advantage.machine import refuse_large
from advantage.matrices import eigh
from advantage.types import Array, Key


class CEMState(NamedTuple):
    """The distribution that candidates are drawn from.

    Attributes:
        mean: `[d]`.
        covariance: the variances `[d]`, or the whole matrix `[d, d]`.
        generation: number of refits so far.
    """

    mean: Array
    covariance: Array
    generation: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class CEM:
    """Cross-entropy method: draw from a normal distribution, keep the best, fit the distribution to them, repeat.

    In generation t = 1, 2, ..., with n candidates and m = max(1, round(elite * n)) of them the elite I:

        x_i     ~  N(mu, Sigma),  i = 1..n
        I       <- the m with the lowest cost
        mu'     <- 1/m sum_{i in I} x_i
        Sigma'  <- 1/m sum_{i in I} (x_i - mu')(x_i - mu')^T + Z_t 1        its diagonal with covariance = "diagonal"
        Z_t     =  max(extra_variance - extra_variance_decay * t, 0)
        mu      <- smoothing * mu + (1 - smoothing) * mu'
        Sigma   <- smoothing * Sigma + (1 - smoothing) * Sigma'

    mu' and Sigma' without Z have the largest likelihood of the elite, which is the smallest cross-entropy to it.
    Without Z the variance falls fast; with a noisy cost it falls too fast. Szita & Lőrincz use three settings: no
    extra variance; a constant 4 (`extra_variance=4`); and max(5 - t/10, 0), which is
    `extra_variance=5, extra_variance_decay=0.1`; all with n = 100, m = 10, and 100 as the first variance (`sigma=10`).

    With a full covariance an elite of m <= d fits a matrix that is singular, and the search would never leave the span
    of the elite: use more candidates, smoothing, or extra variance.

    Departures from the papers: the elite has m members, even if further costs equal the m-th; smoothing, which Szita &
    Lőrincz do not use, applies to the refit with its extra variance.

    Source: Szita & Lőrincz 2006, "Learning Tetris using the noisy cross-entropy method"; de Boer et al. 2005, "A
    tutorial on the cross-entropy method", on smoothing.
    """

    candidates: int = ranged(100, "[1, inf)")
    """Candidates per generation."""
    elite: float = ranged(0.1, "(0, 1]")
    """Share of the candidates that the distribution is fitted to: `elite * candidates`, rounded, at least one."""
    covariance: Literal["diagonal", "full"] = "diagonal"
    """One variance for each parameter, or the covariance of all, which takes d^2 memory and d^3 time."""
    sigma: float = ranged(1.0, "(0, inf)")
    """Initial standard deviation of a coordinate."""
    smoothing: float = ranged(0.0, "[0, 1)")
    """Share of the old mean and variance kept at each refit."""
    extra_variance: float | None = ranged(None, "[0, inf)")
    """Added to every variance at each refit; None adds nothing."""
    extra_variance_decay: float | None = ranged(None, "[0, inf)")
    """Amount by which the extra variance falls each generation, down to 0; None keeps it constant."""

    def __post_init__(self):
        check(self)
        if self.extra_variance is None and self.extra_variance_decay is not None:
            raise ValueError(
                f"extra_variance_decay={self.extra_variance_decay} with extra_variance=None is not allowed: there is "
                "nothing to decay; give extra_variance, such as 5.0, or leave extra_variance_decay out."
            )
        if isinstance(self.elite, float | int) and round(self.elite * self.candidates) < 1:
            raise ValueError(
                f"elite={self.elite} of candidates={self.candidates} is less than one; use at least "
                f"elite={1 / self.candidates:.3g}, or more candidates."
            )

    def population(self, dimension: int) -> int:
        """How many candidates an `ask` returns."""
        return self.candidates

    def begin(self, x0: Array) -> CEMState:
        """The initial state. Raises ValueError for a full covariance that memory cannot hold."""
        variance = jnp.full_like(x0, jnp.square(self.sigma))
        if self.covariance == "full":
            size = (
                6 * x0.size**2 * x0.dtype.itemsize
            )  # two covariances, eigenvectors, their workspace, the root
            refuse_large(f"A full covariance of {x0.size:,} parameters", size, "use covariance='diagonal'")
            variance = jnp.diag(variance)
        return CEMState(x0, variance, jnp.zeros((), jnp.int32))

    def ask(self, state: CEMState, key: Key) -> Array:
        """Draws from the distribution, `[n, d]`."""
        noise = standard_normal(key, self.candidates, state.mean.size, state.mean.dtype)
        if self.covariance == "diagonal":
            return state.mean + jnp.sqrt(state.covariance) * noise
        value, vector = eigh(state.covariance)
        return state.mean + (jnp.sqrt(jnp.maximum(value, 0)) * noise) @ vector.T

    def tell(self, state: CEMState, candidates: Array, cost: Array) -> CEMState:
        """Fit the distribution to the elite."""
        number = number_of(self.elite, self.candidates)
        weight = jnp.where(rank(cost) < number, 1 / number, 0).astype(state.mean.dtype)[:, None]
        mean = (weight * candidates).sum(0)  # no matrix product, since GPUs round it
        deviation = candidates - mean
        extra = self._extra_variance(state.generation + 1)
        if self.covariance == "diagonal":
            covariance = (weight * jnp.square(deviation)).sum(0) + extra
        else:
            covariance = deviation.T @ (weight * deviation) + extra * jnp.eye(mean.size, dtype=mean.dtype)
        keep = self.smoothing
        return CEMState(
            keep * state.mean + (1 - keep) * mean,
            keep * state.covariance + (1 - keep) * covariance,
            state.generation + 1,
        )

    def spread(self, state: CEMState) -> Array:
        """Root of the mean variance of a coordinate."""
        variance = state.covariance if self.covariance == "diagonal" else jnp.diagonal(state.covariance)
        return jnp.sqrt(variance.mean())

    def _extra_variance(self, t: Array) -> Array | float:
        if self.extra_variance is None:
            return 0.0
        decay = 0.0 if self.extra_variance_decay is None else self.extra_variance_decay
        return jnp.maximum(self.extra_variance - decay * t, 0)
