"""Optimisers of other libraries with the interface of `Optimiser`: evosax's are compiled, pycma's runs on the host."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.search.ranking import finite
from advantage.environments.defect import needed
from advantage.plain_values import require_whole
from advantage.types import Array, Key


class EvosaxState(NamedTuple):
    """The state of an evosax algorithm; `key` draws the next candidates, since `tell` must know how they were drawn."""

    mean: Array
    deviation: Array
    key: Key
    started: Array
    inner: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Evosax:
    """An algorithm of evosax; see `from_evosax`."""

    algorithm: type
    candidates: int
    sigma: float
    seed: int
    params: tuple[tuple[str, Any], ...]

    def population(self, dimension: int) -> int:
        """How many candidates an `ask` returns."""
        return self.candidates

    def begin(self, x0: Array) -> EvosaxState:
        """The initial state. Raises ValueError for a parameter that the algorithm does not have."""
        algorithm, params = self._made(x0)
        key, first = jax.random.split(jax.random.key(self.seed))
        if self._has_population(algorithm):
            rows = jnp.broadcast_to(x0, (self.candidates, x0.size))
            inner = algorithm.init(first, rows, jnp.zeros(self.candidates, x0.dtype), params)
        else:
            inner = algorithm.init(first, x0, params)
        inner = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), inner)
        state = EvosaxState(x0, jnp.zeros_like(x0, shape=()), key, jnp.bool_(False), inner)
        return state._replace(deviation=_deviation(self._asked(state)[0], x0))

    def ask(self, state: EvosaxState, key: Key) -> Array:
        """The algorithm's candidates, `[n, d]`, drawn with the key in the state; the argument is not used."""
        return self._asked(state)[0]

    def tell(self, state: EvosaxState, candidates: Array, cost: Array) -> EvosaxState:
        """Pass the costs on, with the largest finite one in place of those that are not finite."""
        algorithm, params = self._made(state.mean)
        cost = finite(cost)
        _, asked = self._asked(state)
        following, now, first = jax.random.split(jax.random.fold_in(state.key, 1), 3)
        inner, _ = algorithm.tell(now, candidates, cost, asked, params)
        if self._has_population(algorithm):
            fresh = algorithm.init(first, candidates, cost, params)
            inner = jax.tree.map(lambda a, b: jnp.where(state.started, a, b), inner, fresh)
        inner = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), inner, state.inner)
        mean = getattr(inner, "mean", None)
        mean = (inner.best_solution if mean is None else mean).astype(state.mean.dtype)
        return EvosaxState(mean, _deviation(candidates, mean), following, jnp.bool_(True), inner)

    def spread(self, state: EvosaxState) -> Array:
        """Root mean square distance of the last candidates' coordinates from the mean."""
        return state.deviation

    def _asked(self, state: EvosaxState) -> tuple[Array, Any]:
        algorithm, params = self._made(state.mean)
        draw, first = jax.random.split(jax.random.fold_in(jax.random.clone(state.key), 0))
        candidates, inner = algorithm.ask(draw, state.inner, params)
        candidates = candidates.astype(state.mean.dtype)
        if self._has_population(algorithm):
            noise = jax.random.normal(first, candidates.shape, candidates.dtype)
            candidates = jnp.where(state.started, candidates, state.mean + self.sigma * noise)
        return candidates, inner

    def _made(self, x0: Array) -> tuple[Any, Any]:
        algorithm = self.algorithm(population_size=self.candidates, solution=jnp.zeros_like(x0))
        params = algorithm.default_params
        known = {field.name for field in dataclasses.fields(params)}
        for name, _ in self.params:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(
                    f"{self.algorithm.__name__} has no parameter {name!r}{hint}; its parameters are {sorted(known)}."
                )
        return algorithm, params.replace(**dict(self.params))

    @staticmethod
    def _has_population(algorithm: Any) -> bool:
        return not hasattr(algorithm, "get_mean")


def from_evosax(
    algorithm: str | type, candidates: int, *, sigma: float = 1.0, seed: int = 0, **params: Any
) -> Evosax:
    """An algorithm of evosax as an optimiser, for functions and for policies.

        minimize(f, x0, from_evosax("SNES", candidates=32, std_init=0.5))
        train(PolicySearch(from_evosax("SNES", candidates=32)), "jax/CartPole-v1")

    Its randomness comes from `seed`, not from the keys that `ask` is given.

    Args:
        algorithm: its name in `evosax.algorithms`, or a class with that interface.
        candidates: number per generation.
        sigma: standard deviation of the first candidates about the start, for algorithms that keep a population
            instead of a distribution; the others have parameters for it.
        seed: the same seed gives the same numbers.
        params: the algorithm's own parameters, such as `std_init`.

    Raises:
        MissingExtra: evosax is not installed.
        ValueError: an unknown algorithm, or candidates below two.
    """
    candidates = require_whole("candidates", candidates, 2)
    if isinstance(algorithm, str):
        needed("evosax", "from_evosax", "search")
        from evosax import algorithms

        known = [name for name in dir(algorithms) if isinstance(getattr(algorithms, name), type)]
        if algorithm not in known:
            near = difflib.get_close_matches(algorithm, known, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}? Its" if near else "its"
            raise ValueError(
                f"evosax has no algorithm {algorithm!r}; {hint} algorithms are: {', '.join(known)}."
            )
        algorithm = getattr(algorithms, algorithm)
    if not isinstance(algorithm, type):
        raise ValueError(
            f"from_evosax was given {algorithm!r}; give a class or its name: the number of parameters is known only "
            "when a search begins."
        )
    return Evosax(algorithm, candidates, sigma, seed, tuple(sorted(params.items())))


class PycmaState(NamedTuple):
    """pycma's own object, which `tell` changes in place, and its mean."""

    strategy: Any
    draws: _Draws
    mean: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pycma:
    """`cma.CMAEvolutionStrategy`; see `from_pycma`."""

    sigma: float
    candidates: int | None
    options: tuple[tuple[str, Any], ...]
    host_only: ClassVar[Literal[True]] = True

    def population(self, dimension: int) -> int:
        """How many candidates an `ask` returns."""
        return self.candidates or 4 + int(3 * math.log(dimension))

    def begin(self, x0: Array) -> PycmaState:
        """A new strategy. Raises MissingExtra where pycma is not installed."""
        cma = needed("cma", "from_pycma", "search")
        draws = _Draws()
        quiet = {"verbose": -9, "seed": np.nan, "randn": draws, "popsize": self.population(len(x0))}
        strategy = cma.CMAEvolutionStrategy(np.array(x0), self.sigma, {**quiet, **dict(self.options)})
        return PycmaState(strategy, draws, np.array(x0))

    def ask(self, state: PycmaState, key: Key) -> np.ndarray:
        """The strategy's candidates, `[n, d]`."""
        state.draws.generator = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        return np.array(state.strategy.ask())

    def tell(self, state: PycmaState, candidates: Array, cost: Array) -> PycmaState:
        """Pass the costs on, with the largest finite one in place of those that are not finite."""
        state.strategy.tell(list(np.array(candidates)), np.asarray(finite(jnp.asarray(cost))).tolist())
        return state._replace(mean=np.array(state.strategy.mean))

    def spread(self, state: PycmaState) -> np.ndarray:
        """Root of the mean variance of a coordinate."""
        return np.sqrt(np.square(state.strategy.result.stds).mean())

    def stop(self, state: PycmaState) -> dict[str, bool]:
        """Whether the strategy itself would stop."""
        return {"pycma": bool(state.strategy.stop())}


def from_pycma(sigma: float = 0.5, candidates: int | None = None, **options: Any) -> Pycma:
    """pycma's CMA-ES as an optimiser for `minimize`, which then calls the function point by point.

        minimize(f, x0, from_pycma(sigma=0.3, CMA_diagonal=True))

    pycma's stopping rules also end a search, with "pycma" as the reason.

    Args:
        sigma: initial standard deviation of a coordinate.
        candidates: number per generation; None takes 4 + floor(3 ln d).
        options: options of `cma.CMAOptions`; "seed" and "randn" are set, so that the keys of `minimize` draw.
    """
    return Pycma(sigma, candidates, tuple(sorted(options.items())))


class _Draws:
    """Normal numbers for pycma, from the generator that is set."""

    generator: np.random.Generator

    def __call__(self, *shape: int) -> np.ndarray:
        return self.generator.standard_normal(shape)


def _deviation(candidates: Array, mean: Array) -> Array:
    return jnp.sqrt(jnp.square(candidates - mean).mean())
