"""Minimising functions: why a search ends, bounds, restarts, what is compiled, what is refused, other libraries."""

import dataclasses
import sys
import types
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advantage as adv
from advantage.algorithms.search.cma_es import CMAES
from advantage.algorithms.search.library_optimisers import from_evosax, from_pycma
from advantage.algorithms.search.minimize import minimize
from advantage.algorithms.search.pattern_search import PatternSearch
from advantage.environments.make import MissingExtra

NAMES = "cma-es", "cem", "ga", "pattern-search", "es", "ars", "finite-differences"
OPTIONS = {"es": {"learning_rate": 0.3, "candidates": 20}}
X0 = [1.0, 2.0, 3.0]


def sphere(x):
    return float(np.square(np.asarray(x)).sum())


def rastrigin(x):
    x = np.asarray(x)
    return float((x**2 - 10 * np.cos(2 * np.pi * x) + 10).sum())


def jax_sphere(x):
    return jnp.square(x).sum()


class Recorded:
    """A function that keeps what it was asked."""

    def __init__(self, f=sphere):
        self.f, self.points, self.values = f, [], []

    def __call__(self, x):
        self.points.append(np.array(x))
        self.values.append(self.f(x))
        return self.values[-1]


def called(f, x0=X0, method="cma-es", **options):
    """`minimize`, on the host: its compiled parts serve every function."""
    return minimize(f, x0, method, compiled=False, **options)


# --- what is returned -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
def test_the_best_of_all_that_was_asked(compiled):
    best = minimize(jax_sphere, X0, sigma=0.5, f_target=1e-9, compiled=compiled)
    assert best.stop == "f_target" and 0 < best.fun <= 1e-9 and best.restarts == 0
    assert best.x.dtype == np.float64 and best.x.shape == best.mean.shape == (3,)
    np.testing.assert_allclose(sphere(best.x), best.fun, rtol=1e-12)
    assert best.evaluations == best.generations * CMAES().population(3) < 1000
    assert not jax.config.read("jax_enable_x64")


def test_it_is_the_best_even_where_later_ones_are_worse():
    recorded = Recorded(lambda x: sphere(x) if len(recorded.points) < 40 else 100.0)
    best = called(recorded, max_evaluations=100)
    assert best.stop == "max_evaluations" and best.evaluations == len(recorded.points) == 98 + 1
    first = int(np.argmin(recorded.values))
    assert first < 40 and best.fun == recorded.values[first]
    np.testing.assert_array_equal(best.x, recorded.points[first])


@pytest.mark.parametrize("name", NAMES)
def test_every_method_by_its_name(name):
    best = called(sphere, method=name, max_evaluations=3000, **OPTIONS.get(name, {}))
    assert best.fun < 0.1 * sphere(X0) and best.evaluations <= 3000
    assert best.stop in ("max_evaluations", "converged", "flat")


def test_numpy_and_jax_find_the_same():
    functions = {
        False: lambda x: float(np.sum((np.asarray(x) - 1) ** 4 + np.abs(x))),
        True: lambda x: jnp.sum((x - 1) ** 4 + jnp.abs(x)),
    }
    compiled, on_host = (minimize(functions[kind], X0, seed=3, max_evaluations=700) for kind in (True, False))
    assert compiled.evaluations == on_host.evaluations == 700
    np.testing.assert_allclose(compiled.x, on_host.x, rtol=1e-6)
    np.testing.assert_allclose(compiled.fun, on_host.fun, rtol=1e-10)


def test_a_seed_gives_its_numbers():
    one, same, other = (called(sphere, seed=seed, max_evaluations=70) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.x, same.x)
    assert one.fun == same.fun != other.fun


def test_the_mean_is_asked_at_the_end():
    """Central differences with a wide step stand at the least value, and ask for it only then."""
    recorded = Recorded()
    options = {"difference": "central", "width": 0.3, "learning_rate": 0.5, "max_evaluations": 2000}
    best = called(recorded, method="finite-differences", **options)
    assert best.stop == "flat" and best.fun == recorded.values[-1] < 1e-20 < 0.08 < min(recorded.values[:-1])
    np.testing.assert_array_equal(best.x, best.mean)
    assert best.evaluations == len(recorded.values) == 6 * best.generations + 1
    compiled = minimize(jax_sphere, X0, "finite-differences", f_target=1e-3, **options)
    assert compiled.fun < 1e-20 and compiled.stop == "f_target"


def test_a_mean_without_a_value_is_not_the_best():
    recorded = Recorded(lambda x: np.nan if len(recorded.points) > 70 else sphere(x))
    best = called(recorded, max_evaluations=71)
    assert len(recorded.points) == 71 and best.fun == min(recorded.values[:-1])


def test_single_precision():
    seen = Recorded()
    best = called(seen, dtype="float32", max_evaluations=700)
    assert best.x.dtype == np.float32 and best.fun < 1e-6 and seen.points[0].dtype == np.float32


# --- why it ends ------------------------------------------------------------------------------------------------------

ENDS = {
    "converged": (sphere, {}),
    "flat": (lambda x: 3.0, {}),
    "diverged": (lambda x: float(np.sum(x)), {}),
    "condition": (lambda x: x[0] ** 2 + 1e20 * x[1] ** 2 + x[2] ** 2, {"x_tolerance": 0.0}),
    "no_effect": (lambda x: sphere(np.asarray(x) - 1e6), {"x0": np.full(3, 1e6) + X0, "x_tolerance": 0.0}),
    "max_evaluations": (sphere, {"max_evaluations": 20}),
    "f_target": (sphere, {"f_target": 1.0}),
}


@pytest.mark.parametrize("stop", ENDS)
def test_the_reason_of_an_end(stop):
    f, options = ENDS[stop]
    best = called(f, **options)
    assert best.stop == stop, best
    if stop == "max_evaluations":
        assert best.evaluations == 14 + 1  # of seven candidates each, and the mean
    if stop == "converged":
        assert best.fun < 1e-18
    if stop == "flat":
        assert best.generations == 1 + 10 + -(-30 * 3 // 7)
        assert best.fun == 3


def test_a_pattern_search_that_stands_still_has_converged():
    best = called(sphere, method="pattern-search", x_tolerance=0.0, max_evaluations=3000)
    assert best.stop == "converged" and best.fun == 0 and best.evaluations < 1000


def test_a_function_without_a_finite_value():
    for value in (np.nan, np.inf, -np.inf):
        best = called(lambda x, value=value: value)
        assert best.stop == "flat" and best.fun == np.inf
        np.testing.assert_array_equal(best.x, X0)


def test_values_that_are_not_finite_are_no_better_than_any():
    best = called(lambda x: sphere(x) if x[0] > 0.5 else -np.inf, max_evaluations=2000)
    assert best.x[0] > 0.5 and best.fun < 0.26
    assert called(lambda x: sphere(x) if x[1] > 0 else 1e300).fun < 1e-15


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_asked_outside_of_the_bounds(name):
    """The least value is in a corner, and between a bound and none."""
    low, high = np.array([0.5, -1, 2]), np.array([3.0, 5, 9])
    seen = Recorded(lambda x: sphere(np.asarray(x) - [9, 0.2, 0]))
    best = called(seen, method=name, bounds=(low, high), max_evaluations=3000, **OPTIONS.get(name, {}))
    points = np.array(seen.points)
    assert (points >= low).all() and (points <= high).all() and len(points) == best.evaluations
    for x in (best.x, best.mean):
        assert (x >= low).all() and (x <= high).all()
    close = 1e-3 if name in ("cma-es", "pattern-search") else 0.8
    assert best.fun == min(seen.values) < 40 + close


class Placed(NamedTuple):
    mean: Any


@dataclasses.dataclass(frozen=True)
class Listener:
    """Asks for the same two points for ever, and keeps what it is told."""

    host_only: ClassVar[Literal[True]] = True
    told: list = dataclasses.field(default_factory=list)

    def population(self, dimension):
        return 2

    def begin(self, x0):
        return Placed(x0)

    def ask(self, state, key):
        return jnp.array([[1.0, 2.0, 3.0], [4.0, -2.0, 3.0]])

    def tell(self, state, candidates, cost):
        self.told.append(np.asarray(cost))
        return state

    def spread(self, state):
        return jnp.ones(())


def test_outside_of_the_bounds_the_distance_is_added():
    listener = Listener()
    best = called(sphere, method=listener, bounds=([0, 0, 0], [3, 9, 9]), max_evaluations=2)
    np.testing.assert_array_equal(listener.told, [[14, 9 + 0 + 9 + (1 + 4)]])
    assert best.fun == 14


def test_bounds_compiled_and_open_on_one_side():
    best = minimize(lambda x: jnp.square(x + 2).sum(), X0, bounds=(0, None), max_evaluations=2000)
    np.testing.assert_array_equal(best.x, [0, 0, 0])
    assert best.fun == 12
    assert (best.mean >= 0).all() and (best.mean < 1e-3).all()


# --- restarts ---------------------------------------------------------------------------------------------------------


def test_twice_the_candidates_find_what_the_first_did_not():
    options: dict[str, Any] = {
        "x0": np.full(3, 3.3),
        "sigma": 0.5,
        "f_target": 1e-8,
        "max_evaluations": 40_000,
        "seed": 1,  # ten seeds of twelve arrive
    }
    same, recorded = Recorded(rastrigin), Recorded(rastrigin)
    alone = called(same, **options)
    assert alone.stop in ("converged", "flat", "no_effect") and alone.fun > 0.9
    best = called(recorded, restarts=6, **options)
    assert best.stop == "f_target" and best.restarts > 0 and best.fun <= 1e-8
    assert best.evaluations == len(recorded.values) > 2 * alone.evaluations
    first = alone.evaluations
    assert recorded.values[:first] == same.values
    assert np.linalg.norm(recorded.points[first] - 3.3) < 3  # from x0 again


def test_the_best_of_all_restarts_and_one_budget():
    recorded = Recorded(rastrigin)
    best = called(recorded, np.full(3, 3.3), restarts=3, max_evaluations=6000)
    assert best.stop == "max_evaluations" and best.restarts >= 1
    assert best.evaluations == len(recorded.values) <= 6000
    assert best.fun == min(recorded.values)


def test_restarts_within_bounds_begin_anywhere():
    recorded = Recorded(rastrigin)
    best = called(recorded, X0, "pattern-search", bounds=(-4, 4), restarts=3, x_tolerance=1e-3)
    assert best.restarts == 3 and best.stop == "converged" and best.fun == min(recorded.values)
    spread = np.array(recorded.points)
    assert (np.abs(spread) <= 4).all() and np.ptp(spread, axis=0).max() > 4


def test_a_method_that_draws_nothing_has_no_restarts():
    for method in ("pattern-search", PatternSearch(), "finite-differences"):
        with pytest.raises(ValueError, match="is deterministic.*give finite bounds"):
            called(sphere, method=method, restarts=1)
    assert called(sphere, method="ars", restarts=1, x_tolerance=1e3, max_evaluations=500).restarts == 1


def test_every_generation_and_every_restart_draws_anew():
    """Candidates of an evolution strategy come in pairs about the mean, so their differences are what was drawn."""
    recorded = Recorded(lambda x: float(np.sum(x)))
    called(recorded, method="es", candidates=8, max_evaluations=24)
    up, down = np.array(recorded.points[:24]).reshape(3, 2, 4, 3).swapaxes(0, 1)
    steps = (up - down).reshape(12, 3)
    assert len(np.unique(steps.round(6), axis=0)) == 12
    again = Recorded()
    assert called(again, method="ars", restarts=2, x_tolerance=1e3, max_evaluations=500).restarts == 2
    assert len(np.unique(np.round(again.points, 6), axis=0)) == len(again.points)


# --- what is compiled -------------------------------------------------------------------------------------------------


def test_what_can_be_traced_is_not_called():
    calls = []

    def f(x):
        calls.append(isinstance(x, np.ndarray))
        return (x**2).sum()

    assert minimize(f, X0, max_evaluations=70).evaluations == 70
    assert not any(calls) and len(calls) < 10
    calls.clear()
    minimize(f, X0, max_evaluations=70, compiled=False)
    assert calls == [True] * 70


def test_what_cannot_be_traced_is_called():
    recorded = Recorded(lambda x: sphere(x) if x[0] > 0 else sphere(x) + 1)
    assert minimize(recorded, X0, max_evaluations=70).evaluations == 70
    assert sum(isinstance(point, np.ndarray) and point.dtype == float for point in recorded.points) >= 70
    with pytest.raises(jax.errors.ConcretizationTypeError):
        minimize(lambda x: float(x[0]), X0, compiled=True)


def test_random_numbers_of_numpy_are_not_frozen_into_a_program():
    rng = np.random.default_rng(0)
    values = []

    def noisy(x):
        values.append((x**2).sum() + rng.normal())
        return values[-1]

    minimize(noisy, X0, max_evaluations=70)
    assert len(set(values[-70:])) == 70 and isinstance(values[-1], float)
    with pytest.raises(ValueError, match="each trace of f gives a different program"):
        minimize(noisy, X0, compiled=True)


def test_a_function_that_has_changed_is_compiled_anew():
    centre = {"array": np.zeros(3), "number": 0.0}

    def f(x):
        return jnp.square(x - centre["array"] - centre["number"]).sum()

    for array, number in ((0.0, 0.0), (1.0, 0.0), (1.0, 2.0)):
        centre.update(array=np.full(3, array), number=number)
        np.testing.assert_allclose(minimize(f, X0).x, np.full(3, array + number), atol=1e-6)


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED = [
    ({"x0": 3.0}, r"x0 has the shape \(\); give a vector"),
    ({"x0": np.zeros((2, 2))}, r"x0 has the shape \(2, 2\)"),
    ({"x0": []}, r"x0 has the shape \(0,\)"),
    ({"x0": "abc"}, "x0='abc' is not a vector of numbers"),
    ({"x0": [[1], [2, 3]]}, "is not a vector of numbers"),
    ({"x0": [1.0, np.nan]}, r"must be finite, but x0\[1\] is not"),
    ({"f": 3}, "f=3 is not a function"),
    ({"bounds": (1, 0)}, r"low\[0\]=1.0 is not below high\[0\]=0.0"),
    ({"bounds": ([0, 0], 5)}, r"bounds=.* is not allowed; give \(low, high\), each a number, a vector of 3"),
    ({"bounds": 5}, r"bounds=5 is not allowed"),
    ({"bounds": (0, np.nan)}, "is not below"),
    ({"bounds": (0, 2.5)}, r"x0\[2\]=3.0 is outside the bounds \[0.0, 2.5\]"),
    ({"max_evaluations": 6}, "max_evaluations=6 is not allowed; one generation takes 7 evaluations"),
    ({"max_evaluations": 1e4}, "max_evaluations=10000.0 is not allowed; use a whole number"),
    ({"f_target": np.nan}, "f_target=nan is not allowed; use a finite number"),
    ({"x_tolerance": -1.0}, "x_tolerance=-1.0 is not allowed"),
    ({"restarts": -1}, "restarts=-1 is not allowed"),
    ({"seed": -1}, "seed=-1 is not allowed"),
    ({"compiled": "yes"}, "compiled='yes' is not allowed"),
    ({"dtype": "float16"}, "dtype='float16' is not allowed; use 'float64' or 'float32'"),
    ({"method": "cmaes"}, "There is no method 'cmaes'; did you mean cma-es"),
    ({"method": "ppo"}, "There is no method 'ppo'"),
    ({"method": CMAES}, r"method is the class CMAES, not an instance; write CMAES\(...\)"),
    (
        {"method": 7},
        "method is 7; give a name, such as 'cma-es', or an optimiser, a dataclass with ask, begin, pop",
    ),
    ({"method": CMAES(), "sigma": 2.0}, r"\['sigma'\] cannot be given beside an optimiser"),
    (
        {"sgima": 2.0},
        r"cma-es: the option 'sgima' is unknown \(did you mean 'sigma'\?\); its options are \['active', 'ca",
    ),
    ({"episodes": 2}, "cma-es: the option 'episodes' is unknown; its options are"),
    ({"sigma": -1.0}, r"sigma=-1.0 is not allowed; use a value in \(0, inf\)"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_bad_input_is_refused(options, message):
    arguments = {"f": sphere, "x0": X0, **options}
    with pytest.raises(ValueError, match=message):
        minimize(arguments.pop("f"), arguments.pop("x0"), **arguments)


@pytest.mark.parametrize("compiled", ["auto", False])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda x: x, r"returned an array of shape \(3,\)"),
        (lambda x: x[:1], r"returned an array of shape \(1,\)"),
        (lambda x: "low", "returned a value of type str"),
        (lambda x: None, "returned None; is a return statement missing"),
        (lambda x: (x[0], 1.0), "returned a value of type tuple"),
        (lambda x: x[0] * 1j, "one real number, but returned one of type complex"),
    ],
)
def test_a_value_that_is_not_one_number_is_refused(value, message, compiled):
    with pytest.raises(ValueError, match=message):
        minimize(value, X0, compiled=compiled)


def test_an_error_of_the_function_is_the_users():
    class Mine(Exception):
        pass

    def f(x):
        raise Mine("here")

    for compiled in (True, False, "auto"):
        with pytest.raises(Mine, match="here"):
            minimize(f, X0, compiled=compiled)
    assert not jax.config.read("jax_enable_x64")


# --- other libraries: stand-ins with their interfaces -----------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StandInParams:
    std_init: Any = 1.0
    rate: Any = 0.9

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


class StandInState(NamedTuple):
    mean: Any
    std: Any
    z: Any  # as many of evosax's do, tell needs to know what ask drew


class StandIn:
    """A (mu, lambda) evolution strategy in evosax's interface."""

    default_params = StandInParams()

    def __init__(self, population_size, solution):
        self.size, self.solution = population_size, solution

    def init(self, key, mean, params):
        return StandInState(mean, params.std_init, jnp.zeros((self.size, mean.size)))

    def ask(self, key, state, params):
        z = jax.random.normal(key, (self.size, state.mean.size))
        return state.mean + state.std * z, state._replace(z=z)

    def tell(self, key, population, fitness, state, params):
        best = jnp.argsort(fitness)[: self.size // 4]
        mean = state.mean + state.std * state.z[best].mean(0)
        return StandInState(mean, state.std * params.rate, state.z), {}

    def get_mean(self, state):
        return state.mean


class PopulationState(NamedTuple):
    population: Any
    fitness: Any
    best_solution: Any


class PopulationStandIn(StandIn):
    get_mean = property()  # hasattr: no

    def init(self, key, population, fitness, params):
        return PopulationState(population, fitness, population[jnp.argmin(fitness)])

    def ask(self, key, state, params):
        children = state.population + params.std_init * jax.random.normal(key, state.population.shape)
        return children, state

    def tell(self, key, population, fitness, state, params):
        everyone = jnp.concatenate([population, state.population])
        all_fitness = jnp.concatenate([fitness, state.fitness])
        best = jnp.argsort(all_fitness)[: self.size]
        return PopulationState(everyone[best], all_fitness[best], everyone[best[0]]), {}


@pytest.mark.parametrize("compiled", [True, False])
def test_an_optimiser_of_evosax(compiled):
    method = from_evosax(StandIn, 16, std_init=0.5)
    best = minimize(jax_sphere, X0, method, max_evaluations=1600, compiled=compiled)
    assert best.fun < 1e-4 and best.evaluations == 1600
    seeded = [from_evosax(StandIn, 16, std_init=0.5, seed=seed) for seed in (0, 1)]
    same, other = (minimize(jax_sphere, X0, each, max_evaluations=64, compiled=compiled) for each in seeded)
    np.testing.assert_array_equal(
        same.x, minimize(jax_sphere, X0, method, max_evaluations=64, compiled=compiled).x
    )
    assert same.fun != other.fun


def test_an_optimiser_of_evosax_searches_for_a_policy(tmp_path):
    method, budget = from_evosax(StandIn, 16), {"total_timesteps": 20_000, "eval_episodes": 0}
    whole = adv.train(method, "jax/CartPole-v1", out=tmp_path / "whole", **budget)
    assert adv.evaluate(whole.agent, episodes=5).mean > 150
    half = adv.train(
        method, "jax/CartPole-v1", out=tmp_path / "half", **{**budget, "total_timesteps": 10_000}
    )
    rest = adv.resume(half.path, algorithm=method, total_timesteps=20_000)
    assert half.step < rest.step == whole.step
    best, same = (run.agent.state.best for run in (whole, rest))
    np.testing.assert_array_equal(best, same)


def test_what_tell_is_told_is_what_ask_drew():
    """The stand-in moves by the z that it remembers, which must be those of the candidates."""
    method = from_evosax(StandIn, 8, rate=0.5)
    state = method.begin(jnp.asarray(X0))
    for seed in range(3):
        x = np.asarray(method.ask(state, jax.random.key(seed)))
        new = method.tell(state, jnp.asarray(x), jnp.asarray([5.0, 4, 3, 2, 1, 9, np.nan, np.inf]))
        np.testing.assert_allclose(new.mean, x[[4, 3]].mean(0), rtol=1e-5)
        np.testing.assert_allclose(new.inner.std, 0.5 * state.inner.std)
        assert not np.array_equal(method.ask(new, jax.random.key(seed)), x)
        np.testing.assert_allclose(
            method.spread(new), np.sqrt(np.square(x - np.asarray(new.mean)).mean()), rtol=1e-5
        )
        state = new


def test_an_evosax_population_begins_about_the_start():
    seen = Recorded()
    best = called(
        seen, method=from_evosax(PopulationStandIn, 16, sigma=0.01, std_init=0.2), max_evaluations=1600
    )
    assert np.abs(np.array(seen.points[:16]) - X0).max() < 0.05 and best.fun < 0.05
    np.testing.assert_array_equal(best.mean, best.x)


def test_what_from_evosax_refuses(monkeypatch):
    with pytest.raises(ValueError, match=r"no parameter 'std_int' \(did you mean 'std_init'\?\)"):
        minimize(jax_sphere, X0, from_evosax(StandIn, 16, std_int=1.0))
    with pytest.raises(ValueError, match="give a class or its name"):
        from_evosax(StandIn(8, jnp.zeros(3)), 8)
    with pytest.raises(ValueError, match="candidates=1 is not allowed"):
        from_evosax(StandIn, 1)
    algorithms = types.SimpleNamespace(StandIn=StandIn, OtherES=PopulationStandIn)
    monkeypatch.setitem(sys.modules, "evosax", types.SimpleNamespace(algorithms=algorithms))
    assert from_evosax("StandIn", 8) == from_evosax(StandIn, 8)
    with pytest.raises(ValueError, match="evosax has no algorithm 'StandOut'; did you mean StandIn"):
        from_evosax("StandOut", 8)
    monkeypatch.setitem(sys.modules, "evosax", None)
    with pytest.raises(MissingExtra, match=r'from_evosax needs.*pip install "advantage\[search\]"'):
        from_evosax("SNES", 8)


class Strategy:
    """pycma's interface, on a search that halves its step size each generation."""

    def __init__(self, x0, sigma, options):
        self.mean, self.sigma, self.options, self.best = np.array(x0), sigma, options, np.inf

    def ask(self):
        self.asked = self.mean + self.sigma * self.options["randn"](self.options["popsize"], len(self.mean))
        return list(self.asked)

    def tell(self, x, values):
        np.testing.assert_array_equal(x, self.asked)
        assert np.isfinite(values).all()
        self.mean, self.sigma = x[int(np.argmin(values))], 0.9 * self.sigma

    def stop(self):
        return {"tolx": 1e-3} if self.sigma < 1e-3 else {}

    @property
    def result(self):
        return types.SimpleNamespace(stds=np.full(len(self.mean), self.sigma))


def test_an_optimiser_of_pycma(monkeypatch):
    monkeypatch.setitem(sys.modules, "cma", types.SimpleNamespace(CMAEvolutionStrategy=Strategy))
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (minimize(jax_sphere, X0, from_pycma(0.7), seed=seed) for seed in (0, 0, 1))
    assert one.stop == "pycma" and one.fun < 0.1 and one.evaluations == 7 * one.generations + 1
    np.testing.assert_array_equal(one.x, same.x)
    assert one.fun != other.fun
    after = np.random.get_state()[1]  # noqa: NPY002
    np.testing.assert_array_equal(after, before)  # nothing global is drawn from or seeded
    best = minimize(
        lambda x: np.nan if x[0] < 0 else sphere(x), X0, from_pycma(0.7, candidates=20), restarts=2
    )
    assert best.restarts == 2 and best.evaluations == (20 + 40 + 80) * best.generations // 3 + 3
    with pytest.raises(ValueError, match="runs on the host only"):
        minimize(jax_sphere, X0, from_pycma(), compiled=True)
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(MissingExtra, match=r'from_pycma needs.*pip install "advantage\[search\]"'):
        minimize(jax_sphere, X0, from_pycma())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CMA_ES", "SNES", "MA_ES", "DifferentialEvolution", "PSO"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_evosax_itself(name, dtype):
    """Needs evosax: pip install "advantage[search]"."""
    best = minimize(jax_sphere, X0, from_evosax(name, 16), f_target=1e-9, max_evaluations=8000, dtype=dtype)
    assert best.stop == "f_target" and best.x.dtype == dtype


@pytest.mark.slow
def test_pycma_itself():
    """Needs cma: pip install "advantage[search]"."""
    one, same = (minimize(sphere, X0, from_pycma(1.0), f_target=1e-9, seed=4) for _ in range(2))
    assert one.stop == "f_target" and one.evaluations < 800
    np.testing.assert_array_equal(one.x, same.x)
    assert minimize(sphere, X0, from_pycma(1.0)).stop == "pycma"
