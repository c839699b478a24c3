"""Minimise any function by its values alone."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import numbers
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.search.options import Optimiser, SearchOptions, nonfinite_to_inf
from advantage.types import Array, Key

GENERATIONS = 8  # of the first compiled call; later ones take more, until a call takes a tenth of a second
FARTHEST = 1e12  # times the first spread, before a search is said to run away
ORDER = "f_target", "converged", "flat", "diverged"


class Minimum(NamedTuple):
    """What `minimize` found.

    Attributes:
        x: float `[d]`, the best point of all that were evaluated; within the bounds.
        fun: its value; inf if no value was finite, and then `x` is the start.
        evaluations: how often the function was asked.
        generations: in how many generations, of all restarts.
        stop: why it ended, see `minimize`.
        restarts: how many there were.
        mean: `[d]`, the point that the last search stood for, within the bounds: where values are noisy, it is better
            than `x`.
    """

    x: np.ndarray
    fun: float
    evaluations: int
    generations: int
    stop: str
    restarts: int
    mean: np.ndarray


class _Book(NamedTuple):
    """What is kept of a search beside the optimiser's state; `reason` is -1 while it goes on."""

    x: Array
    fun: Array
    generation: Array
    level: Array
    flat_for: Array
    first_spread: Array
    reason: Array


class _Limits(NamedTuple):
    f_target: float
    x_tolerance: float
    generations: int
    low: np.ndarray | None
    high: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class _Traced:
    """A function that is compiled anew when what it computes has changed."""

    function: Callable[[Array], Array] = dataclasses.field(compare=False)
    identity: int
    text: str
    constants: tuple[str, ...]


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
    """Search for the least value of a function, by values alone.

        best = minimize(lambda x: jnp.sum(x**2), [3.0, 3.0], sigma=1.0, f_target=1e-9)
        best.x, best.fun, best.evaluations, best.stop

    A value that is not finite is as bad as the worst. At the end f is asked once more, for the mean of the search, if
    `max_evaluations` allows: it may be the best of all. The search ends, and `stop` says why, with

        "f_target"         a value of `f_target` or below
        "converged"        the spread of candidates fell to `x_tolerance`
        "flat"             all values of the last 10 + ceil(30 d / n) generations of n candidates were equal
        "diverged"         the spread grew to 1e12 times the first, or out of the numbers there are
        "condition"        CMA-ES: the covariance is too ill-conditioned for this arithmetic, beyond 1e14
        "no_effect"        CMA-ES: steps are too small to change the numbers of the mean
        "max_evaluations"  another generation would exceed `max_evaluations`

    Args:
        f: takes a vector `[d]`, returns a number. A function that JAX can trace is traced, not called, and the whole
            search is compiled; anything else is called with NumPy vectors. Two traces that differ, by random numbers
            of NumPy's for example, are no function for a compiler: such a function is called too.
        x0: where to start, `[d]`.
        method: a name, "cma-es", "cem", "ga", "pattern-search", "es", "ars" or "finite-differences"; or an optimiser.
        bounds: `(low, high)`, each a number, a vector `[d]` or None. f is asked at the nearest point within, and the
            squared distance to it is added to what the optimiser is told.
        f_target: good enough.
        max_evaluations: by default 10,000 for each of the d numbers.
        x_tolerance: in units of x.
        restarts: how often to start again where a search has ended without the target, each time with twice as many
            `candidates` if the method has such a number (Auger & Hansen 2005); at `x0` or, where all bounds are
            finite, anywhere within them. A method that draws nothing at random needs the bounds.
        seed: the same one gives the same numbers.
        compiled: True compiles f or fails, False calls it; "auto" finds out.
        dtype: what to compute in.
        options: of the method, such as `sigma=0.3` or `candidates=100`.

    Raises:
        ValueError: anything of this that is not as described, and a value of f that is not one number. What f itself
            raises goes through.

    Source: Hansen 2016, "The CMA evolution strategy: a tutorial", Appendix B.3 and B.5, on ends and on bounds; Auger &
    Hansen 2005, "A restart CMA evolution strategy with increasing population size".
    """
    if dtype not in ("float64", "float32"):
        raise ValueError(f"dtype={dtype!r} is not allowed; use 'float64' or 'float32'.")
    with jax.enable_x64(dtype == "float64"):
        start = _vector(x0, dtype)
        low, high = _box(bounds, start)
        optimiser = _optimiser(method, options)
        budget = 10_000 * start.size if max_evaluations is None else max_evaluations
        size = optimiser.population(start.size)
        _check_numbers(f_target, x_tolerance, budget, size, restarts, seed, compiled)
        if restarts and not _is_bounded(low, high) and not _draws(optimiser, start):
            raise ValueError(
                f"restarts={restarts} is not allowed: {type(optimiser).__name__} draws nothing at random and would "
                "repeat itself from the same start; give finite bounds, to start anywhere within them, or restarts=0."
            )
        traced = _trace(f, start, compiled, getattr(optimiser, "host_only", False))
        best, spent, generations, restart, stop = (start, np.inf), 0, 0, 0, "max_evaluations"
        mean = start
        for restart in range(restarts + 1):
            if restart:
                optimiser, start = _again(optimiser, start, low, high, (seed, restart))
                size = optimiser.population(start.size)
            if spent + size > budget:
                stop, restart = "max_evaluations", restart - 1
                break
            target = -np.inf if f_target is None else f_target
            limits = _Limits(target, x_tolerance, (budget - spent) // size, low, high)
            key = jax.random.fold_in(jax.random.key(seed), restart)
            state, book = _search(traced, f, optimiser, start, limits, key)
            spent, generations = spent + size * int(book.generation), generations + int(book.generation)
            stop, mean = _reasons(optimiser, state)[int(book.reason)], np.asarray(state.mean)
            if float(book.fun) < best[1]:
                best = np.asarray(book.x), float(book.fun)
            if stop != "f_target" and spent < budget:
                point = np.clip(mean, low, high)
                value, spent = _value(traced, f, point), spent + 1
                best = (point, value) if value < best[1] else best
                stop = "f_target" if value <= target else stop
            if stop in ("f_target", "max_evaluations"):
                break
        return Minimum(best[0], best[1], spent, generations, stop, restart, np.clip(mean, low, high))


def _value(traced: _Traced | None, f: Callable, point: np.ndarray) -> float:
    """What f says of one point; inf where that is not finite."""
    value = float(_compiled_value(traced, point)) if traced else _number(f(point.copy()))
    return value if np.isfinite(value) else np.inf


@partial(jax.jit, static_argnums=0)
def _compiled_value(traced: _Traced, point: Array) -> Array:
    return traced.function(point)


def _search(
    traced: _Traced | None, f: Callable, optimiser: Optimiser, start: np.ndarray, limits: _Limits, key: Key
) -> tuple[Any, _Book]:
    """One search from `start` until there is a reason to stop."""
    state = optimiser.begin(jnp.asarray(start))
    size = optimiser.population(start.size)
    zero = jnp.zeros((), jnp.int32)
    infinite = jnp.full((), jnp.inf, start.dtype)
    spread = jnp.asarray(optimiser.spread(state), start.dtype)
    book = _Book(jnp.asarray(start), infinite, zero, infinite, zero, spread, zero - 1)
    is_leaf = jax.tree_util.all_leaves([optimiser])  # no pytree of hyperparameters
    static, dynamic = (optimiser, None) if is_leaf else (None, optimiser)
    if traced is not None:
        block = GENERATIONS
        while int(book.reason) < 0:
            begin, until = time.perf_counter(), int(book.generation) + block
            state, book = jax.block_until_ready(
                _generations(traced, static, dynamic, limits, state, book, key, until)
            )
            block *= 4 if time.perf_counter() - begin < 0.1 else 1
        return state, book
    host_only = getattr(optimiser, "host_only", False)
    propose, learn = (_propose, _learn) if host_only else (_propose_compiled, _learn_compiled)
    while int(book.reason) < 0:
        candidates, points = propose(static, dynamic, limits, state, book, key)
        values = [_number(f(point)) for point in np.array(points)]
        if len(values) != size:
            raise ValueError(
                f"{type(optimiser).__name__} asked for {len(values)} candidates and promised {size}."
            )
        state, book = learn(static, dynamic, limits, state, book, candidates, np.array(values, start.dtype))
    return state, book


@partial(jax.jit, static_argnums=(0, 1))
def _generations(traced, static, dynamic, limits, state, book, key, until):  # -> state, book
    def generation(carry):
        state, book = carry
        candidates, points = _propose(static, dynamic, limits, state, book, key)
        values = jax.vmap(traced.function)(points)
        return _learn(static, dynamic, limits, state, book, candidates, values)

    def goes_on(carry):
        return (carry[1].reason < 0) & (carry[1].generation < until)

    return jax.lax.while_loop(goes_on, generation, (state, book))


def _propose(
    static, dynamic, limits, state, book, key
):  # -> candidates, and the nearest points within the bounds
    candidates = _either(static, dynamic).ask(state, jax.random.fold_in(key, book.generation))
    return candidates, _within(candidates, limits)


def _learn(static, dynamic, limits, state, book, candidates, values):  # -> state, book
    optimiser = _either(static, dynamic)
    value = nonfinite_to_inf(jnp.asarray(values, book.fun.dtype))
    points = _within(candidates, limits)
    state = optimiser.tell(
        state, candidates, nonfinite_to_inf(value + jnp.square(candidates - points).sum(-1))
    )
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
        *(optimiser.stop(state).values() if hasattr(optimiser, "stop") else ()),
        generation >= limits.generations,
    ]
    ends = jnp.stack([jnp.asarray(end) for end in ends])
    reason = jnp.where(ends.any(), jnp.argmax(ends), -1).astype(jnp.int32)
    x = jnp.where(better, points[first], book.x)
    return state, _Book(x, fun, generation, value[0], flat_for, book.first_spread, reason)


_propose_compiled = jax.jit(_propose, static_argnums=0)
_learn_compiled = jax.jit(_learn, static_argnums=0)


def _either(static: Any, dynamic: Any) -> Any:
    return static if dynamic is None else dynamic


def _reasons(optimiser: Any, state: Any) -> tuple[str, ...]:
    """Words for the ends of `_learn`, in their order."""
    own = optimiser.stop(state) if hasattr(optimiser, "stop") else ()
    return *ORDER, *own, "max_evaluations"


def _within(x: Array, limits: _Limits) -> Array:
    return x if limits.low is None else jnp.clip(x, limits.low, limits.high)


def _again(
    optimiser: Any, start: np.ndarray, low: Any, high: Any, seed: tuple[int, int]
) -> tuple[Any, np.ndarray]:
    """The next restart: twice the candidates, and where the bounds allow another start."""
    if _is_bounded(low, high):
        start = np.random.default_rng(seed).uniform(low, high).astype(start.dtype)
    if hasattr(optimiser, "candidates"):
        optimiser = dataclasses.replace(optimiser, candidates=2 * optimiser.population(start.size))
    return optimiser, start


def _draws(optimiser: Any, start: np.ndarray) -> bool:
    """Whether chance has a part in what the optimiser asks first."""
    if getattr(optimiser, "host_only", False) or hasattr(optimiser, "candidates"):
        return True
    state = optimiser.begin(jnp.asarray(start))
    one, other = (np.asarray(optimiser.ask(state, jax.random.key(seed))) for seed in (0, 1))
    return not np.array_equal(one, other)


def _is_bounded(low: Any, high: Any) -> bool:
    return low is not None and bool(np.isfinite(low).all() and np.isfinite(high).all())


def _trace(f: Callable, start: np.ndarray, compiled: bool | str, host_only: bool) -> _Traced | None:
    """The function for the compiler, or None where it is to be called."""
    if not callable(f):
        raise ValueError(f"f={f!r} is no function; give one that takes a vector and returns a number.")
    if host_only and compiled is True:
        raise ValueError("compiled=True is not allowed: this optimiser runs on the host only; leave it out.")
    if host_only or compiled is False:
        return None
    argument = jax.ShapeDtypeStruct(start.shape, start.dtype)
    try:  # as two functions, for the trace of one is kept
        (first, shape), (second, _) = (
            jax.make_jaxpr(lambda x: f(x), return_shape=True)(argument) for _ in range(2)
        )
    except Exception:
        if compiled == "auto":
            return None
        raise
    constants = [_digests(traced.consts) for traced in (first, second)]
    if str(first) != str(second) or constants[0] != constants[1]:
        if compiled == "auto":
            return None
        raise ValueError(
            "compiled=True is not allowed: f gives another program each time that it is traced, by random numbers or "
            "by a counter; use compiled=False."
        )
    _check_value(shape, getattr(shape, "shape", None), getattr(shape, "dtype", None))
    return _Traced(f, id(f), str(first), constants[0])


def _digests(constants: list[Any]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(np.asarray(x).tobytes()).hexdigest() for x in constants)


def _number(value: Any) -> float:
    if isinstance(value, numbers.Real):
        return float(value)
    is_array = isinstance(value, np.ndarray | np.generic | jax.Array)
    _check_value(value, *((value.shape, value.dtype) if is_array else (None, None)))
    return float(value)


def _check_value(value: Any, shape: tuple[int, ...] | None, dtype: Any) -> None:
    if shape is None:
        what = "None; has it a return?" if value is None else f"a value of type {type(value).__name__}."
        raise ValueError(f"f must return one number, and returned {what}")
    if shape != ():
        raise ValueError(
            f"f must return one number, and returned an array of shape {shape}; sum it, or index it."
        )
    if np.dtype(dtype).kind not in "fiub" and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"f must return one real number, and returned one of type {dtype}.")


def _vector(x0: Any, dtype: str) -> np.ndarray:
    try:
        start = np.array(x0, dtype)
    except (TypeError, ValueError):
        raise ValueError(f"x0={x0!r} is no vector of numbers.") from None
    if start.ndim != 1 or not start.size:
        raise ValueError(
            f"x0 has the shape {start.shape}; give a vector of one number or more, such as np.zeros(3)."
        )
    if not np.isfinite(start).all():
        raise ValueError(f"x0 must be finite, and x0[{int(np.argmin(np.isfinite(start)))}] is not: {start}.")
    return start


def _box(bounds: Any, start: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    if bounds is None:
        return None, None
    remedy = f"give (low, high), each a number, a vector of {start.size}, or None"
    try:
        ends = [np.asarray(end if end is not None else side, start.dtype) for end, side in _sides(bounds)]
        low, high = (np.broadcast_to(end, start.shape) for end in ends)
    except (TypeError, ValueError):
        raise ValueError(f"bounds={bounds!r} is not allowed; {remedy}.") from None
    if not (low < high).all():
        i = int(np.argmin(low < high))
        raise ValueError(f"bounds: low[{i}]={low[i]} is not below high[{i}]={high[i]}; {remedy}.")
    outside = (start < low) | (start > high)
    if outside.any():
        i = int(np.argmax(outside))
        raise ValueError(
            f"x0[{i}]={start[i]} is outside of the bounds [{low[i]}, {high[i]}]; start within them."
        )
    return low, high


def _sides(bounds: Any) -> list[tuple[Any, float]]:
    low, high = bounds
    return [(low, -np.inf), (high, np.inf)]


def _check_numbers(
    f_target: Any, x_tolerance: Any, budget: Any, size: int, restarts: Any, seed: Any, compiled: Any
) -> None:
    def require(ok: bool, name: str, value: Any, remedy: str) -> None:
        if not ok:
            raise ValueError(f"{name}={value!r} is not allowed; {remedy}.")

    def is_real(value: Any) -> bool:
        return (
            isinstance(value, numbers.Real)
            and not isinstance(value, bool)
            and bool(np.isfinite(float(value)))
        )

    def is_whole(value: Any) -> bool:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)

    require(f_target is None or is_real(f_target), "f_target", f_target, "use a finite number or None")
    require(
        is_real(x_tolerance) and x_tolerance >= 0,
        "x_tolerance",
        x_tolerance,
        "use a finite number, 0 or above",
    )
    require(is_whole(restarts) and restarts >= 0, "restarts", restarts, "use a whole number, 0 or above")
    require(is_whole(seed) and 0 <= seed < 2**32, "seed", seed, "use a whole number in [0, 2^32)")
    require(is_whole(budget), "max_evaluations", budget, "use a whole number or None")
    require(
        budget >= size,
        "max_evaluations",
        budget,
        f"one generation takes {size} evaluations: use {size} or more",
    )
    require(compiled in (True, False, "auto"), "compiled", compiled, 'use True, False or "auto"')


def _optimiser(method: Any, options: dict[str, Any]) -> Any:
    """The optimiser that a name and its options describe, or the object itself."""
    if isinstance(method, str):
        cls = _method_class(method)
        allowed = _names(cls) - _names(SearchOptions)
        for option in options:
            if option not in allowed:
                near = difflib.get_close_matches(option, allowed, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                policies = (
                    "is for policies, not for functions" if option in _names(SearchOptions) else "is unknown"
                )
                raise ValueError(
                    f"{method}: the option {option!r} {policies}{hint}; there are {sorted(allowed)}."
                )
        return cls(**options)
    needed = [
        name for name, _ in inspect.getmembers(Optimiser, inspect.isfunction) if not name.startswith("_")
    ]
    missing = [name for name in needed if not callable(getattr(method, name, None))]
    if isinstance(method, type) or missing:
        what = (
            f"the class {method.__name__}, not an object of it" if isinstance(method, type) else repr(method)
        )
        raise ValueError(
            f"method is {what}; give a name, such as 'cma-es', or an object with {', '.join(needed)}."
        )
    if options:
        raise ValueError(
            f"{sorted(options)} cannot be given beside an object; set them there: {type(method).__name__}(...)."
        )
    return method


def _method_class(name: str) -> type:
    from advantage.algorithms.registry import ALGORITHMS

    methods = {known: cls for known, cls in ALGORITHMS.items() if hasattr(cls, "ask")}
    if name in methods:
        return methods[name]
    near = difflib.get_close_matches(name.lower(), methods, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"There is no method {name!r}; {hint}There are: {', '.join(methods)}.")


def _names(cls: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}
