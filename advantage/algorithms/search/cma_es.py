"""CMA-ES: evolution strategy with covariance matrix adaptation (Hansen 2016)."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.search.normal import standard_normal
from advantage.algorithms.search.ranking import best_first
from advantage.machine import refuse_large
from advantage.matrices import cholesky, divide_by_triangle
from advantage.types import Array, Key


class CMAState(NamedTuple):
    """The distribution that candidates are drawn from, N(mean, sigma^2 C), and its evolution paths.

    Attributes:
        mean: `[d]`.
        sigma: the step size.
        covariance: C, `[d, d]`; its diagonal `[d]` if it is separable.
        factor: the upper triangular A of C = A^T A, `[d, d]`; the roots of the diagonal `[d]` if it is separable.
        path_sigma: C^(1/2) p_sigma, `[d]`.
        path_c: p_c, `[d]`.
        generation: number of generations so far.
    """

    mean: Array
    sigma: Array
    covariance: Array
    factor: Array
    path_sigma: Array
    path_c: Array
    generation: Array


class Constants(NamedTuple):
    """Hansen's default settings for a dimension and a population.

    Attributes:
        weights: `[n]`, for the candidates from the best to the worst; the positive ones sum to one.
        mu_eff: effective number of candidates with positive weights.
        c_sigma, d_sigma: learning rate of the step size's path, and damping of the step size.
        c_c, c_1, c_mu: learning rates of the covariance's path, and of its rank-one and rank-mu updates.
        chi: approximate expected length of N(0, I).
        gap: number of generations for which a factor of the covariance is used.
    """

    weights: np.ndarray
    mu_eff: float
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    chi: float
    gap: int


def constants(d: int, n: int, active: bool = True, separable: bool = False) -> Constants:
    """Weights and rates for `d` parameters and `n` candidates; numbers in comments are the tutorial's equations.

    A separable covariance learns (d + 2) / 3 times as fast (Ros & Hansen 2008, section 3).
    """
    raw = math.log((n + 1) / 2) - np.log(np.arange(1, n + 1))  # (49)
    good, bad = np.maximum(raw, 0), np.minimum(raw, 0)
    mu_eff = float(good.sum() ** 2 / (good**2).sum())  # (8)
    mu_eff_bad = float(bad.sum() ** 2 / (bad**2).sum())  # Table 1
    c_sigma = (mu_eff + 2) / (d + mu_eff + 5)  # (55)
    d_sigma = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (d + 1)) - 1) + c_sigma  # (55)
    c_c = (4 + mu_eff / d) / (d + 4 + 2 * mu_eff / d)  # (56)
    faster = (d + 2) / 3 if separable else 1.0
    c_1 = faster * 2 / ((d + 1.3) ** 2 + mu_eff)  # (57)
    c_mu = min(1 - c_1, faster * 2 * (1 / 4 + mu_eff + 1 / mu_eff - 2) / ((d + 2) ** 2 + mu_eff))  # (58)
    total = min(
        1 + c_1 / c_mu,  # (50)
        1 + 2 * mu_eff_bad / (mu_eff + 2),  # (51)
        (1 - c_1 - c_mu) / (d * c_mu),  # (52)
    )
    weights = good / good.sum() - (total * bad / bad.sum() if active else 0)  # (53)
    chi = math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2))  # Appendix A
    gap = max(1, int(1 / (10 * d * (c_1 + c_mu))))  # Appendix B.2
    return Constants(weights, mu_eff, c_sigma, d_sigma, c_c, c_1, c_mu, chi, gap)


@hyperparameters
@dataclasses.dataclass(frozen=True)
class CMAES:
    """CMA-ES: draw from a normal distribution, move its mean to the best candidates and adapt its covariance.

    With n candidates in d dimensions, i:n the i-th best of them, weights w_1 > w_2 > ..., some of which are negative,
    and the constants of the tutorial's Table 1 (`constants`):

        x_i      =  m + sigma y_i,   y_i ~ N(0, C),  i = 1..n                                           (38)-(40)
        y        =  sum of w_i y_{i:n} over the positive w_i                                                 (41)
        m       <-  m + sigma y                                                                        (42), (54)
        p_sigma <-  (1 - c_sigma) p_sigma + sqrt(c_sigma (2 - c_sigma) mu_eff) C^(-1/2) y                    (43)
        sigma   <-  sigma exp(c_sigma / d_sigma (|p_sigma| / chi - 1))                                       (44)
        p_c     <-  (1 - c_c) p_c + h sqrt(c_c (2 - c_c) mu_eff) y     h: 0 while |p_sigma| is large, else 1 (45)
        v_i      =  w_i if w_i >= 0 else w_i d / |C^(-1/2) y_{i:n}|^2                                        (46)
        C       <-  (1 + (1 - h) c_1 c_c (2 - c_c) - c_1 - c_mu sum w) C
                    + c_1 p_c p_c^T + c_mu sum v_i y_{i:n} y_{i:n}^T                                         (47)

    Only the order of the costs counts, so the search is the same for f and for any increasing function of it. It is
    also the same in linearly transformed coordinates if the first distribution is transformed too.

    Departures. The tutorial computes eigenvectors of C, which takes most of a generation's time. Here the Cholesky
    factor A of C = A^T A, updated as often as the tutorial's eigenvectors, replaces them at a small part of the cost:
    y_i = A^T z_i for independent z_i, and |A^-T y| is |C^(-1/2) y|. The path p_sigma is kept as C^(1/2) p_sigma, a
    vector in the space of x, and rescaled when C changes so that |p_sigma| does not change; the tutorial's turns a
    little in that space instead. One generation is the same, and a search takes as many generations. A covariance that
    rounding has made indefinite is replaced by its diagonal, and a generation whose numbers overflow is ignored.

    Source: Hansen 2016, "The CMA evolution strategy: a tutorial", arXiv:1604.00772, Appendix A and Table 1, whose
    equation numbers these are; Ros & Hansen 2008, "A simple modification in CMA-ES achieving linear time and space
    complexity", the separable variant; Krause, Arbonès & Igel 2016, "CMA-ES with optimal covariance update and storage
    complexity", on Cholesky factors.
    """

    sigma: float = ranged(0.5, "(0, inf)")
    """Initial standard deviation of a coordinate."""
    candidates: int | None = ranged(None, "[2, inf)")
    """Candidates per generation; None takes 4 + floor(3 ln d)."""
    covariance: Literal["full", "separable"] = "full"
    """The covariance of all parameters, which takes memory and time of order d^2, or one variance for each."""
    active: bool = True
    """Let the covariance shrink along bad candidates too, by negative weights."""

    def __post_init__(self):
        check(self)

    def population(self, dimension: int) -> int:
        """How many candidates an `ask` returns."""
        return self.candidates or 4 + int(3 * math.log(dimension))  # (48)

    def begin(self, x0: Array) -> CMAState:
        """The initial state. Raises ValueError for a full covariance that memory cannot hold."""
        one, zero = jnp.ones_like(x0), jnp.zeros_like(x0)
        if self.covariance == "full":
            size = 6 * x0.size**2 * x0.dtype.itemsize  # covariance and factor, old and new, and workspace
            refuse_large(f"A full covariance of {x0.size:,} parameters", size, "use covariance='separable'")
            one = jnp.diag(one)
        sigma = jnp.asarray(self.sigma, x0.dtype)
        return CMAState(x0, sigma, one, one, zero, zero, jnp.zeros((), jnp.int32))

    def ask(self, state: CMAState, key: Key) -> Array:
        """Draws from the distribution, `[n, d]`."""
        d, n = state.mean.size, self.population(state.mean.size)
        separable, dtype = self.covariance == "separable", state.mean.dtype
        # long rows are drawn faster, and a product transposes at no cost
        shape = (n, d) if separable else (d, n)
        z = standard_normal(key, *shape, dtype)  # (38)
        y = z * state.factor if separable else z.T @ state.factor  # (39)
        return state.mean + state.sigma * y  # (40)

    def tell(self, state: CMAState, candidates: Array, cost: Array) -> CMAState:
        """Move mean, step size and covariance towards the candidates of the lowest costs."""
        (n, d), dtype = candidates.shape, state.mean.dtype
        k = constants(d, n, self.active, self.covariance == "separable")
        weights, order = jnp.asarray(k.weights, dtype), best_first(cost)
        bad = int((k.weights < 0).sum())
        y_i = (candidates - state.mean) / state.sigma
        y = jnp.zeros(n, dtype).at[order].set(jnp.maximum(weights, 0), unique_indices=True) @ y_i  # (41)
        mean = state.mean + state.sigma * y  # (42), (54)

        push = math.sqrt(k.c_sigma * (2 - k.c_sigma) * k.mu_eff)
        path_sigma = (1 - k.c_sigma) * state.path_sigma + push * y  # (43)
        squares = _squared_lengths(state.factor, jnp.vstack([path_sigma, y_i[order[n - bad :]]]))
        length = jnp.sqrt(squares[0])
        sigma = state.sigma * jnp.exp(k.c_sigma / k.d_sigma * (length / k.chi - 1))  # (44)

        grown = jnp.sqrt(1 - (1 - k.c_sigma) ** (2 * (state.generation + 1).astype(dtype)))
        h = length < (1.4 + 2 / (d + 1)) * k.chi * grown  # Appendix A
        push = math.sqrt(k.c_c * (2 - k.c_c) * k.mu_eff)
        path_c = (1 - k.c_c) * state.path_c + h * push * y  # (45)
        shares = jnp.append(jnp.ones(n - bad, dtype), d / jnp.maximum(squares[1:], jnp.finfo(dtype).eps))
        v = jnp.zeros(n, dtype).at[order].set(weights * shares, unique_indices=True)  # (46)
        kept = 1 - k.c_1 - k.c_mu * float(k.weights.sum()) + (1 - h) * k.c_1 * k.c_c * (2 - k.c_c)
        if self.covariance == "full":
            covariance = k.c_1 * jnp.outer(path_c, path_c) + (y_i.T * (k.c_mu * v)) @ y_i
        else:
            covariance = k.c_1 * jnp.square(path_c) + (k.c_mu * v) @ jnp.square(y_i)
        covariance += kept * state.covariance  # (47)

        new = state._replace(
            mean=mean, sigma=sigma, covariance=covariance, path_sigma=path_sigma, path_c=path_c
        )
        numbers = mean, sigma, _variances(covariance), path_sigma, path_c
        is_finite = jnp.isfinite(jnp.hstack(numbers)).all()
        new = jax.tree.map(lambda after, before: jnp.where(is_finite, after, before), new, state)
        generation = state.generation + 1
        due = is_finite & (generation % k.gap == 0)
        covariance, factor, path_sigma = _refactored(due, new.covariance, new.factor, new.path_sigma, length)
        return new._replace(
            covariance=covariance, factor=factor, path_sigma=path_sigma, generation=generation
        )

    def spread(self, state: CMAState) -> Array:
        """Root of the mean variance of a coordinate."""
        return state.sigma * jnp.sqrt(_variances(state.covariance).mean())

    def stop(self, state: CMAState) -> dict[str, Array]:
        """Stopping conditions, and whether each holds: some of the tutorial's Appendix B.3."""
        d, full = state.mean.size, self.covariance == "full"
        scales = jnp.diagonal(state.factor) if full else state.factor
        turn = state.generation % d
        axis = state.factor[turn] if full else jnp.where(jnp.arange(d) == turn, state.factor, 0)
        coordinate = jnp.sqrt(_variances(state.covariance))
        return {
            "condition": jnp.square(scales.max() / scales.min()) > 1e14,
            "no_effect": (state.mean == state.mean + 0.1 * state.sigma * axis).all()
            | (state.mean == state.mean + 0.2 * state.sigma * coordinate).any(),
        }


def _variances(covariance: Array) -> Array:
    return covariance if covariance.ndim == 1 else jnp.diagonal(covariance)


def _squared_lengths(factor: Array, y: Array) -> Array:
    """`|A^-T y|^2` of rows `[..., n, d]`."""
    if factor.ndim < y.ndim:
        return jnp.square(y / factor[..., None, :]).sum(-1)
    divide = jax.vmap(divide_by_triangle) if factor.ndim > 2 else divide_by_triangle
    z = divide(y, factor)
    return jnp.square(z).sum(-1)


@custom_vmap
def _refactored(
    due: Array, covariance: Array, factor: Array, path: Array, length: Array
) -> tuple[Array, Array, Array]:
    """Where `due`, the new factor of the covariance, and the path rescaled to its old length."""
    return jax.lax.cond(due.any(), _factored, lambda _, *old: old[:3], due, covariance, factor, path, length)


@_refactored.def_vmap
def _(
    size: int, batched: list[bool], *arguments: Array
) -> tuple[tuple[Array, Array, Array], tuple[bool, ...]]:
    # many restarts share one condition: a vmapped one would do the work in every generation
    pairs = zip(arguments, batched, strict=True)
    rows = [x if has else jnp.broadcast_to(x, (size, *x.shape)) for x, has in pairs]
    return _refactored(*rows), (True, True, True)


def _factored(
    due: Array, covariance: Array, factor: Array, path: Array, length: Array
) -> tuple[Array, Array, Array]:
    eps, tiny = jnp.finfo(path.dtype).eps, jnp.finfo(path.dtype).tiny
    if covariance.ndim == path.ndim:
        symmetric = jnp.maximum(covariance, tiny)
        new = jnp.sqrt(symmetric)
    else:
        symmetric = (covariance + covariance.mT) / 2
        variance = jnp.maximum(jnp.diagonal(symmetric, axis1=-2, axis2=-1), tiny)
        eye = jnp.eye(path.shape[-1], dtype=path.dtype)
        diagonal = variance[..., None, :] * eye
        symmetric = jnp.where(eye > 0, diagonal, symmetric)
        factorise = jax.vmap(cholesky) if symmetric.ndim > 2 else cholesky
        new = factorise(symmetric + 4 * eps * diagonal)
        sound = jnp.isfinite(jnp.diagonal(new, axis1=-2, axis2=-1)).all(-1)[..., None, None]
        new = jnp.where(sound, new, jnp.sqrt(diagonal))
        symmetric = jnp.where(sound, symmetric, diagonal)
    after = jnp.sqrt(_squared_lengths(new, path[..., None, :]))
    rescaled = path * jnp.where(after > 0, length[..., None] / after, 1)
    if due.ndim == 0:
        return symmetric, new, rescaled
    here = [due.reshape(due.shape + (1,) * (x.ndim - due.ndim)) for x in (covariance, factor, path)]
    return (
        jnp.where(here[0], symmetric, covariance),
        jnp.where(here[1], new, factor),
        jnp.where(here[2], rescaled, path),
    )
