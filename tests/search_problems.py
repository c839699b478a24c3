"""Costs, and the loop that runs an optimiser on them: what the tests of searches share."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.search.cross_entropy import CEM
from advantage.algorithms.search.evolution_strategy import EvolutionStrategy
from advantage.algorithms.search.finite_differences import FiniteDifferences
from advantage.algorithms.search.genetic import GeneticAlgorithm
from advantage.algorithms.search.pattern_search import PatternSearch
from advantage.algorithms.search.random_search import AugmentedRandomSearch

SPSA = "simultaneous-perturbation"
METHODS = {
    "cem": CEM(candidates=50, elite=0.3, sigma=2.0),
    "cem full": CEM(candidates=50, elite=0.3, sigma=4.0, covariance="full", smoothing=0.3),
    "ga": GeneticAlgorithm(candidates=50, sigma_decay=0.95, elitism=3),
    "ga tournament": GeneticAlgorithm(
        candidates=50, sigma_decay=0.95, selection="tournament", crossover="uniform"
    ),
    "hooke-jeeves": PatternSearch(step=0.3),
    "compass": PatternSearch(step=0.3, variant="compass"),
    "es": EvolutionStrategy(candidates=20, learning_rate=0.1),
    "es standardised": EvolutionStrategy(candidates=20, learning_rate=0.1, shaping="standardised"),
    "es none": EvolutionStrategy(candidates=20, learning_rate=0.1, shaping="none"),
    "ars": AugmentedRandomSearch(directions=8, top_directions=4, learning_rate=0.1),
    "forward": FiniteDifferences(difference="forward", width=1e-3),
    "central": FiniteDifferences(),
    "spsa": FiniteDifferences(difference=SPSA, directions=2),
}


def sphere(x):
    return np.square(x).sum(-1)


def rosenbrock(x):
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)


def quadratic(d, seed=0):
    """`f(x) = 1/2 x^T A x + b^T x` with A positive definite: `f, A, b`."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d))
    A, b = root @ root.T + np.eye(d), rng.normal(size=d)
    return lambda x: 0.5 * np.einsum("...i,ij,...j", x, A, x) + x @ b, A, b


class Course(NamedTuple):
    """What a run did, in NumPy, a row for each generation: candidates, costs, states after them."""

    x: Any
    cost: Any
    state: Any


def key_of(seed):
    return jax.random.wrap_key_data(jnp.asarray(seed, jnp.uint32))


@jax.jit
def ask(method, state, seed):
    """What a method asks for with the key of two numbers."""
    return method.ask(state, key_of(seed))


@jax.jit
def tell(method, state, x, cost):
    return method.tell(state, x, cost)


def begin(method, x0):
    """The first state, in NumPy."""
    return jax.tree.map(np.asarray, method.begin(jnp.asarray(x0)))


def search(method, cost, x0, generations, seed=0):
    """Run a method on a cost in NumPy: `-> last state, Course`."""
    state, courses = begin(method, x0), []
    for t in range(generations):
        x = np.asarray(ask(method, state, np.array([seed, t])))
        with np.errstate(over="ignore", invalid="ignore"):
            value = np.asarray(cost(x), x.dtype)
        state = jax.tree.map(np.asarray, tell(method, state, x, value))
        courses.append(Course(x, value, state))
    return state, jax.tree.map(lambda *leaves: np.stack(leaves), *courses)


def told(method, x0, candidates, *costs):
    """The state after so many generations of the same candidates, whose costs are given."""
    state = begin(method, x0)
    for cost in costs:
        state = tell(method, state, np.asarray(candidates), np.asarray(cost))
    return jax.tree.map(np.asarray, state)


def doubles(test):
    """Run a test in float64."""

    @functools.wraps(test)
    def in_float64(*args, **kwargs):
        with jax.enable_x64(True):
            return test(*args, **kwargs)

    return in_float64
