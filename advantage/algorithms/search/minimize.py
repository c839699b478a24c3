"""Minimise any function using only its values."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.search.objective import Objective, Traced, objective_of
from advantage.algorithms.search.optimiser import (
    HostOptimiser,
    Optimiser,
    OptimiserState,
    ResizableOptimiser,
    StoppingOptimiser,
)
from advantage.algorithms.search.ranking import nonfinite_to_inf
from advantage.algorithms.search.task import Task, optimiser_of, task_of
from advantage.types import Array, Key

GENERATIONS = 8  # in the first compiled call; later calls run more, until a call takes a tenth of a second
FARTHEST = 1e12  # times the first spread, above which a search counts as diverged
ORDER = "f_target", "converged", "flat", "diverged"


class Minimum(NamedTuple):
    """The result of `minimize`.

    Attributes:
        x: float `[d]`, the best evaluated point; within the bounds.
        fun: its value; inf if no value was finite, and then `x` is the start.
        evaluations: number of function evaluations.
        generations: number of generations, over all restarts.
        stop: why it ended, see `minimize`.
        restarts: number of restarts.
        mean: `[d]`, the mean of the last search, within the bounds: with noisy values it is better than `x`.
    """

    x: np.ndarray
    fun: float
    evaluations: int
    generations: int
    stop: str
    restarts: int
    mean: np.ndarray


class Book(NamedTuple):
    """The records of a search beside the optimiser's state.

    Attributes:
        x, fun: the best point so far, `[d]`, and its value.
        generation: number of generations so far.
        level: the first value of the last generation.
        flat_for: number of generations in which all values were equal to `level`.
        first_spread: the spread of the initial state.
        reason: index of the reason to stop in `_reasons`; -1 while the search goes on.
    """

    x: Array
    fun: Array
    generation: Array
    level: Array
    flat_for: Array
    first_spread: Array
    reason: Array


class Limits(NamedTuple):
    """Limits of a search, and the bounds; see `Task`."""

    f_target: float
    x_tolerance: float
    generations: int
    low: np.ndarray
    high: np.ndarray


def minimize(
    f: Callable[[Any], Any],
    x0: Any,
    method: str | Optimiser = "cma-es",
    *,
    bounds: tuple[Any, Any] | None = None,
    f_target: float | None = None,
    max_evaluations: int | None = None,
    x_tolerance: float = 1e-11,
    restarts: int = 0,
    seed: int = 0,
    compiled: bool | Literal["auto"] = "auto",
    dtype: Literal["float64", "float32"] = "float64",
    **options: Any,
) -> Minimum:
    """Search for the smallest value of a function, using only its values.

        best = minimize(lambda x: jnp.sum(x**2), [3.0, 3.0], sigma=1.0, f_target=1e-9)
        best.x, best.fun, best.evaluations, best.stop

    A value that is not finite counts as the worst. At the end f is evaluated once more, at the mean of the search, if
    `max_evaluations` allows it: this may be the best point. The search ends, and `stop` says why, with

        "f_target"         a value of `f_target` or below
        "converged"        the spread of candidates fell to `x_tolerance`
        "flat"             all values of the last 10 + ceil(30 d / n) generations of n candidates were equal
        "diverged"         the spread grew to 1e12 times the first, or beyond the largest float
        "condition"        CMA-ES: the covariance is too ill-conditioned for this arithmetic, beyond 1e14
        "no_effect"        CMA-ES: steps are too small to change the numbers of the mean
        "max_evaluations"  another generation would exceed `max_evaluations`

    Args:
        f: takes a vector `[d]`, returns a number. A function that JAX can trace is traced, not called, and the whole
            search is compiled; anything else is called with NumPy vectors. If two traces differ, for example by random
            numbers of NumPy, the function cannot be compiled and is called too.
        x0: where to start, `[d]`.
        method: a name, "cma-es", "cem", "ga", "pattern-search", "es", "ars" or "finite-differences"; or an optimiser
            such as `adv.CEM(candidates=50)`, or your own object with the functions of `Optimiser`.
        bounds: `(low, high)`, each a number, a vector `[d]` or None. f is evaluated at the nearest point within the
            bounds, and the squared distance to it is added to the cost for the optimiser.
        f_target: a value that is good enough to stop.
        max_evaluations: largest number of evaluations; by default 10,000 d.
        x_tolerance: spread of candidates that ends the search, in units of x.
        restarts: number of restarts after a search that ended without the target, each time with twice as many
            `candidates` if the method has this option (Auger & Hansen 2005); from `x0` or, if all bounds are
            finite, from a random point within them. A deterministic method needs the bounds.
        seed: the same seed gives the same numbers.
        compiled: True compiles f or fails, False calls it, "auto" compiles it if possible.
        dtype: number type of the computation.
        options: options of the method, such as `sigma=0.3` or `candidates=100`.

    Raises:
        ValueError: an argument that is not as described, or a value of f that is not one number. Errors of f itself
            are passed on.

    Source: Hansen 2016, "The CMA evolution strategy: a tutorial", Appendix B.3 and B.5, on stopping, bounds; Auger &
    Hansen 2005, "A restart CMA evolution strategy with increasing population size".
    """
    with jax.enable_x64(dtype == "float64"):
        task = task_of(
            x0,
            bounds,
            f_target=f_target,
            x_tolerance=x_tolerance,
            max_evaluations=max_evaluations,
            restarts=restarts,
            seed=seed,
            dtype=dtype,
        )
        optimiser = optimiser_of(method, options)
        _check_population(optimiser, task)
        if isinstance(optimiser, HostOptimiser):
            if compiled is True:
                raise ValueError(
                    "compiled=True is not allowed: this optimiser runs on the host only; leave it out."
                )
            compiled = False
        return _minimize(objective_of(f, task.start, compiled), optimiser, task)


def _check_population(optimiser: Optimiser, task: Task) -> None:
    """Raises ValueError if one generation exceeds the budget, or a restart would be the same search again."""
    size = optimiser.population(task.start.size)
    if task.max_evaluations < size:
        raise ValueError(
            f"max_evaluations={task.max_evaluations} is not allowed; one generation takes {size} evaluations: use "
            f"{size} or more."
        )
    if task.restarts and not task.is_bounded and not _draws(optimiser, task.start):
        raise ValueError(
            f"restarts={task.restarts} is not allowed: {type(optimiser).__name__} is deterministic and would "
            "repeat the same search; give finite bounds, for random starts within them, or restarts=0."
        )


def _draws(optimiser: Optimiser, start: np.ndarray) -> bool:
    """Whether the optimiser's first candidates are random."""
    if isinstance(optimiser, HostOptimiser | ResizableOptimiser):
        return True
    state = optimiser.begin(jnp.asarray(start))
    one, other = (np.asarray(optimiser.ask(state, jax.random.key(seed))) for seed in (0, 1))
    return not np.array_equal(one, other)


def _minimize(objective: Objective, optimiser: Optimiser, task: Task) -> Minimum:
    """Searches, one after the other, until one reaches the target or the budget is spent."""
    best, spent, generations, restart, stop = (task.start, np.inf), 0, 0, 0, "max_evaluations"
    start = mean = task.start
    for restart in range(task.restarts + 1):
        if restart:
            optimiser, start = _again(optimiser, start, task, restart)
        size = optimiser.population(start.size)
        if spent + size > task.max_evaluations:
            stop, restart = "max_evaluations", restart - 1
            break
        most = (task.max_evaluations - spent) // size
        limits = Limits(task.f_target, task.x_tolerance, most, task.low, task.high)
        key = jax.random.fold_in(jax.random.key(task.seed), restart)
        state, book = _search(objective, optimiser, start, limits=limits, key=key)
        spent, generations = spent + size * int(book.generation), generations + int(book.generation)
        stop, mean = _reasons(optimiser, state)[int(book.reason)], np.asarray(state.mean)
        if float(book.fun) < best[1]:
            best = np.asarray(book.x), float(book.fun)
        if stop != "f_target" and spent < task.max_evaluations:
            point = np.clip(mean, task.low, task.high)
            value, spent = objective.value(point), spent + 1
            best = (point, value) if value < best[1] else best
            stop = "f_target" if value <= task.f_target else stop
        if stop in ("f_target", "max_evaluations"):
            break
    mean = np.clip(mean, task.low, task.high)
    return Minimum(best[0], best[1], spent, generations, stop, restart, mean)


def _again(optimiser: Optimiser, start: np.ndarray, task: Task, restart: int) -> tuple[Optimiser, np.ndarray]:
    """The next search: twice the candidates, and another start if the bounds are finite."""
    if task.is_bounded:
        rng = np.random.default_rng((task.seed, restart))
        start = rng.uniform(task.low, task.high).astype(start.dtype)
    if isinstance(optimiser, ResizableOptimiser):
        optimiser = dataclasses.replace(optimiser, candidates=2 * optimiser.population(start.size))
    return optimiser, start


def _search(
    objective: Objective, optimiser: Optimiser, start: np.ndarray, *, limits: Limits, key: Key
) -> tuple[OptimiserState, Book]:
    """One search from `start` until there is a reason to stop."""
    state = optimiser.begin(jnp.asarray(start))
    zero = jnp.zeros((), jnp.int32)
    infinite = jnp.full((), jnp.inf, start.dtype)
    spread = jnp.asarray(optimiser.spread(state), start.dtype)
    book = Book(jnp.asarray(start), infinite, zero, infinite, zero, spread, zero - 1)
    if objective.traced is not None:
        block = GENERATIONS
        while int(book.reason) < 0:
            begin, until = time.perf_counter(), int(book.generation) + block
            state, book = jax.block_until_ready(
                _generations(objective.traced, optimiser, limits, state, book, key, until)
            )
            block *= 4 if time.perf_counter() - begin < 0.1 else 1
        return state, book
    on_host = isinstance(optimiser, HostOptimiser)
    propose, learn = (_propose, _learn) if on_host else (_propose_compiled, _learn_compiled)
    size = optimiser.population(start.size)
    while int(book.reason) < 0:
        candidates, points = propose(optimiser, limits, state, book, key)
        values = [objective.call(point) for point in np.array(points)]
        if len(values) != size:
            raise ValueError(
                f"{type(optimiser).__name__} asked for {len(values)} candidates instead of {size}."
            )
        state, book = learn(optimiser, limits, state, book, candidates, np.array(values, start.dtype))
    return state, book


@partial(jax.jit, static_argnums=0)
def _generations(
    traced: Traced,
    optimiser: Optimiser,
    limits: Limits,
    state: OptimiserState,
    book: Book,
    key: Key,
    until: Array,
) -> tuple[OptimiserState, Book]:
    """Generations in one program, until there is a reason to stop or `until` of them are done."""

    def generation(carry: tuple[OptimiserState, Book]) -> tuple[OptimiserState, Book]:
        state, book = carry
        candidates, points = _propose(optimiser, limits, state, book, key)
        return _learn(optimiser, limits, state, book, candidates, jax.vmap(traced.function)(points))

    def goes_on(carry: tuple[OptimiserState, Book]) -> Array:
        return (carry[1].reason < 0) & (carry[1].generation < until)

    return jax.lax.while_loop(goes_on, generation, (state, book))


def _propose(
    optimiser: Optimiser, limits: Limits, state: OptimiserState, book: Book, key: Key
) -> tuple[Array, Array]:
    """`-> candidates, and the nearest points within the bounds`, `[n, d]` each."""
    candidates = optimiser.ask(state, jax.random.fold_in(key, book.generation))
    return candidates, _within(candidates, limits)


def _learn(
    optimiser: Optimiser,
    limits: Limits,
    state: OptimiserState,
    book: Book,
    candidates: Array,
    values: Array,
) -> tuple[OptimiserState, Book]:
    """Tell the optimiser the values, keep the best point, and check the reasons to stop."""
    value = nonfinite_to_inf(jnp.asarray(values, book.fun.dtype))
    points = _within(candidates, limits)
    cost = nonfinite_to_inf(value + jnp.square(candidates - points).sum(-1))
    state = optimiser.tell(state, candidates, cost)
    first, generation = jnp.argmin(value), book.generation + 1
    better = value[first] < book.fun
    fun = jnp.where(better, value[first], book.fun)
    flat_for = jnp.where((value == book.level).all(), book.flat_for + 1, 0)
    spread = optimiser.spread(state)
    n, d = candidates.shape
    ends = [
        fun <= limits.f_target,
        spread <= limits.x_tolerance,
        flat_for >= 10 + -(-30 * d // n),
        ~(spread < FARTHEST * book.first_spread),
        *_own_reasons(optimiser, state).values(),
        generation >= limits.generations,
    ]
    ends = jnp.stack([jnp.asarray(end) for end in ends])
    reason = jnp.where(ends.any(), jnp.argmax(ends), -1).astype(jnp.int32)
    x = jnp.where(better, points[first], book.x)
    return state, Book(x, fun, generation, value[0], flat_for, book.first_spread, reason)


_propose_compiled, _learn_compiled = jax.jit(_propose), jax.jit(_learn)


def _reasons(optimiser: Optimiser, state: OptimiserState) -> tuple[str, ...]:
    """Names of the reasons to stop in `_learn`, in their order."""
    return *ORDER, *_own_reasons(optimiser, state), "max_evaluations"


def _own_reasons(optimiser: Optimiser, state: OptimiserState) -> dict[str, Array]:
    return optimiser.stop(state) if isinstance(optimiser, StoppingOptimiser) else {}


def _within(x: Array, limits: Limits) -> Array:
    return jnp.clip(x, limits.low, limits.high)
