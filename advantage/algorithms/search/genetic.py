"""The genetic algorithm (Holland 1975) on vectors of real numbers."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.search.ranking import best_first, number_of
from advantage.types import Array, Key


class GeneticState(NamedTuple):
    """A generation.

    Attributes:
        population: the candidates that were evaluated last, `[n, d]`, the best first.
        generation: number of evaluated generations.
    """

    population: Array
    generation: Array

    @property
    def mean(self) -> Array:
        """The best of the population, `[d]`."""
        return self.population[..., 0, :]


@hyperparameters
@dataclasses.dataclass(frozen=True)
class GeneticAlgorithm:
    """Genetic algorithm: the best of a generation breed the next, with crossover and mutation.

    In generation t = 0, 1, ..., where every ancestor of the first is x0:

        kept     <- the `elitism` best, unchanged; they are evaluated again
        p, q     <- two parents for each of the other places: any of the best `parents` share   (truncation)
                    each the best of `tournament_size` drawn from all                           (tournament)
        c        <- with probability crossover_rate, gene by gene, else p:
                    p or q, equally likely                                                      (uniform)
                    1/2 (p + q) + beta/2 (p - q)                                                (simulated binary)
        c        <- c + sigma_t N(0, 1), each gene with probability mutation_rate
        sigma_t  =  max(sigma * sigma_decay^t, minimum_sigma)

    beta = (2u)^{1/(eta + 1)} for u <= 1/2, else (1 / (2 (1 - u)))^{1/(eta + 1)}, with u uniform in [0, 1). This has
    the spread of one-point crossover of binary numbers; children are closer to the parents the larger eta is. Parents
    are drawn with replacement, so both may be the same. A generation has no mean: the state's `mean` is the best of
    the population.

    Departure from Deb & Agrawal: each pair of parents has one child, one of the two that the paper makes, and all its
    genes are crossed.

    Source: Holland 1975, "Adaptation in natural and artificial systems"; Syswerda 1989, "Uniform crossover in genetic
    algorithms"; Goldberg & Deb 1991, "A comparative analysis of selection schemes used in genetic algorithms"; Deb &
    Agrawal 1995, "Simulated binary crossover for continuous search space", on beta.
    """

    candidates: int = ranged(100, "[1, inf)")
    """Candidates per generation."""
    selection: Literal["truncation", "tournament"] = "truncation"
    """Parents are the best of the population, or the winners of small tournaments."""
    parents: float | None = ranged(None, "(0, 1]")
    """Share of the population that may be parents with truncation, rounded, at least one; None takes 0.2."""
    tournament_size: int | None = ranged(None, "[1, inf)")
    """Candidates in a tournament; None takes 2."""
    crossover: Literal["uniform", "simulated-binary"] = "simulated-binary"
    """Take each gene from either parent, or a number near one of their genes."""
    crossover_rate: float = ranged(0.9, "[0, 1]")
    """Probability that a child has two parents rather than one."""
    eta: float | None = ranged(None, "[0, inf)")
    """How close simulated binary crossover stays to the parents; None takes 15."""
    sigma: float = ranged(0.5, "(0, inf)")
    """Initial standard deviation of a mutation."""
    sigma_decay: float = ranged(0.98, "(0, 1]")
    """Factor of the standard deviation in each generation."""
    minimum_sigma: float = ranged(0.0, "[0, inf)")
    """Lower limit of the standard deviation."""
    mutation_rate: float = ranged(1.0, "[0, 1]")
    """Probability that a gene mutates."""
    elitism: int = ranged(1, "[0, inf)")
    """Number of the best candidates kept unchanged."""

    def __post_init__(self):
        check(self)
        if self.elitism >= self.candidates:
            raise ValueError(
                f"elitism={self.elitism} with candidates={self.candidates} is not allowed: no place is left for a "
                "child; keep fewer, or have more candidates."
            )
        for name, option, needed in (
            ("parents", "selection", "truncation"),
            ("tournament_size", "selection", "tournament"),
            ("eta", "crossover", "simulated-binary"),
        ):
            value, chosen = getattr(self, name), getattr(self, option)
            if value is not None and chosen != needed:
                raise ValueError(
                    f"{name}={value} with {option}={chosen!r} is not allowed: only {needed!r} uses it; leave {name} "
                    f"out, or use {option}={needed!r}."
                )

    def population(self, dimension: int) -> int:
        """How many candidates an `ask` returns."""
        return self.candidates

    def begin(self, x0: Array) -> GeneticState:
        """The initial state: all candidates are `x0`."""
        return GeneticState(jnp.tile(x0, (self.candidates, 1)), jnp.zeros((), jnp.int32))

    def ask(self, state: GeneticState, key: Key) -> Array:
        """The next generation, `[n, d]`, the kept candidates first."""
        parents_key, crossover_key, mutation_key = jax.random.split(key, 3)
        p, q = state.population[self._parents(parents_key)]
        child = self._mutated(self._crossed(p, q, crossover_key), state.generation, mutation_key)
        return jnp.concatenate([state.population[: self.elitism], child])

    def tell(self, state: GeneticState, candidates: Array, cost: Array) -> GeneticState:
        """The candidates are the population, in order of their cost."""
        return GeneticState(candidates[best_first(cost)], state.generation + 1)

    def spread(self, state: GeneticState) -> Array:
        """Root mean square distance of a gene from the best candidate's, the next mutation included."""
        variance = jnp.square(state.population - state.mean).mean()
        mutation = self.mutation_rate * jnp.square(self._sigma(state.generation))
        return jnp.sqrt(variance + mutation).astype(variance.dtype)

    def _parents(self, key: Key) -> Array:
        """Places of two parents for each child, `[2, children]`; the population is in order."""
        number, draws = self.candidates, 1
        if self.selection == "truncation":
            number = number_of(0.2 if self.parents is None else self.parents, self.candidates)
        else:
            draws = 2 if self.tournament_size is None else self.tournament_size
        u = jax.random.uniform(key, (draws, 2, self.candidates - self.elitism))
        return (number * u).astype(int).min(0)

    def _crossed(self, p: Array, q: Array, key: Key) -> Array:
        whether_key, gene_key = jax.random.split(key)
        u = jax.random.uniform(gene_key, p.shape, p.dtype)
        if self.crossover == "uniform":
            child = jnp.where(u < 0.5, p, q)
        else:
            power = 1 / ((15.0 if self.eta is None else self.eta) + 1)
            beta = jnp.where(u <= 0.5, 2 * u, 1 / (2 * (1 - u))) ** power
            child = ((p + q) + beta * (p - q)) / 2
        crosses = jax.random.uniform(whether_key, (len(p), 1)) < self.crossover_rate
        return jnp.where(crosses, child, p)

    def _mutated(self, x: Array, generation: Array, key: Key) -> Array:
        which_key, noise_key = jax.random.split(key)
        mutates = jax.random.uniform(which_key, x.shape) < self.mutation_rate
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        return x + jnp.where(mutates, self._sigma(generation).astype(x.dtype) * noise, 0)

    def _sigma(self, generation: Array) -> Array:
        return jnp.maximum(self.sigma * jnp.asarray(self.sigma_decay) ** generation, self.minimum_sigma)
