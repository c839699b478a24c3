"""Every search method: the contract, costs that are no numbers, what an option does; and the definitions of two."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from search_problems import (
    METHODS,
    SPSA,
    ask,
    begin,
    doubles,
    key_of,
    rosenbrock,
    search,
    sphere,
    tell,
    told,
)

from advantage import machine as memory
from advantage.algorithms.search.cross_entropy import CEM
from advantage.algorithms.search.evolution_strategy import EvolutionStrategy
from advantage.algorithms.search.finite_differences import FiniteDifferences
from advantage.algorithms.search.genetic import GeneticAlgorithm, GeneticState
from advantage.algorithms.search.normal import standard_normal
from advantage.algorithms.search.pattern_search import PatternSearch
from advantage.algorithms.search.random_search import AugmentedRandomSearch
from advantage.algorithms.search.ranking import best_first, centred_ranks, number_of, rank, standardised

EVERY = pytest.mark.parametrize("name", METHODS)
X0 = np.full(5, 2.0, np.float32)


def same_bits(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


# --- the contract -------------------------------------------------------------------------------------------------


# From (2, ..., 2) in five dimensions, where the sphere is 20: what it is after so many generations, at the most.
REACHED = {
    "cem": (40, 1e-3),
    "cem full": (60, 1e-3),
    "ga": (100, 1e-3),
    "ga tournament": (100, 1e-2),
    "hooke-jeeves": (400, 1e-6),
    "compass": (150, 1e-6),
    "es": (100, 1e-2),
    "es standardised": (100, 1e-2),
    "es none": (100, 1e-2),
    "ars": (100, 0.05),
    "forward": (60, 1e-4),
    "central": (60, 1e-6),
    "spsa": (200, 0.05),
}


@EVERY
def test_the_sphere_is_descended(name):
    method, (generations, expected) = METHODS[name], REACHED[name]
    state, course = search(method, sphere, X0, generations)
    assert course.x.shape == (generations, method.population(5), 5)
    assert sphere(state.mean) < expected


@EVERY
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes_and_types_stay_what_they_are(name, dtype):
    """So that a loop may carry the state, and numbers keep their precision."""
    method = METHODS[name]
    with jax.enable_x64(True):
        start = jax.ShapeDtypeStruct((3,), dtype)
        state = jax.eval_shape(method.begin, start)
        x = jax.eval_shape(method.ask, state, jax.eval_shape(lambda: jax.random.key(0)))
        assert (x.shape, x.dtype) == ((method.population(3), 3), dtype)
        cost = jax.ShapeDtypeStruct(x.shape[:1], dtype)
        after = jax.eval_shape(method.tell, state, x, cost)
        assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(after)] == [
            (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)
        ]
        spread = jax.eval_shape(method.spread, after)
        mean = jax.eval_shape(lambda state: state.mean, after)
        assert (mean.shape, spread.shape, spread.dtype) == ((3,), (), dtype)


@pytest.mark.parametrize("name", ["cem full", "ga", "hooke-jeeves"])
def test_restarts_and_hyperparameters_side_by_side_are_each_what_they_are_alone(name):
    method = METHODS[name]
    field = "step" if hasattr(method, "step") else "sigma"
    methods = [dataclasses.replace(method, **{field: value}) for value in (0.2, 0.4)]
    alone = [search(one, rosenbrock, x0, 3, 7)[1] for one, x0 in zip(methods, (X0, -X0), strict=True)]
    compiled = ask._cache_size(), tell._cache_size()

    def course(method, state, x, cost):
        def step(state, at):
            t, x, cost = at
            asked = method.ask(state, key_of(jnp.array([7, t])))
            state = method.tell(state, x, cost)
            return state, (asked, state.mean)

        return jax.lax.scan(step, state, (jnp.arange(3), x, cost))[1]

    of_each = [
        (jax.tree.map(np.float32, one), begin(one, x0), each.x, each.cost)
        for one, x0, each in zip(methods, (X0, -X0), alone, strict=True)
    ]
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *of_each)
    x, mean = jax.jit(jax.vmap(course))(*together)
    for i, one in enumerate(alone):
        np.testing.assert_allclose(x[i], one.x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mean[i], [one.state.mean[t] for t in range(3)], rtol=1e-4, atol=1e-5)
    search(dataclasses.replace(method, **{field: 0.3}), rosenbrock, X0, 1)
    assert (ask._cache_size(), tell._cache_size()) == compiled


# --- costs that are no numbers --------------------------------------------------------------------------------------


@EVERY
def test_whatever_the_costs_are_the_search_stays_finite(name):
    method = METHODS[name]
    for bad in (np.nan, np.inf, -np.inf, 1e300, 3e38, -3e38, 1e30):
        rng, shares = np.random.default_rng(0), iter((0.0, 0.5, 1.0, 0.5, 0.0, 1.0, 0.2))

        def cost(x):
            with np.errstate(over="ignore"):
                value = np.where(rng.uniform(size=len(x)) < next(shares), bad, rng.normal(size=len(x)))  # noqa: B023
                return value.astype(np.float32)

        state, course = search(method, cost, X0, 7)
        assert np.isfinite(course.x).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state) if leaf.shape)
        assert np.isfinite(method.spread(state))


@EVERY
def test_what_is_not_finite_counts_as_the_worst(name):
    method = METHODS[name]
    state, n = begin(method, X0), method.population(5)
    x = ask(method, state, np.array([3, 0]))
    cost, where = np.random.default_rng(1).normal(size=n).astype(np.float32), n - 1
    cost[where] = 10 if n > 1 else np.inf
    if name in ("es standardised", "es none", "ars", "forward", "central", "spsa"):
        cost[0] = 10  # as the worst that is a number
    expected = tell(method, state, x, cost)
    for bad in (np.nan, np.inf, -np.inf):
        cost[where] = bad
        same_bits(tell(method, state, x, cost), expected)


@EVERY
def test_where_all_costs_are_equal_no_method_breaks_and_those_with_gradients_stay(name):
    for value in (0.0, 0.1, np.nan):
        state, course = search(METHODS[name], lambda x, value=value: np.full(len(x), value), X0, 5)
        assert np.isfinite(course.x).all()
        if not name.startswith(("cem", "ga")):
            np.testing.assert_array_equal(state.mean, X0)
        if name == "compass":
            assert course.state.step.tolist() == pytest.approx([0.3, 0.15, 0.075, 0.0375, 0.01875])


@pytest.mark.parametrize("name", ["cem", "cem full", "ga", "ga tournament", "hooke-jeeves", "compass", "es"])
def test_only_the_order_of_costs_matters(name):
    """Bit for bit under a monotone transformation."""
    plain, cubed = (search(METHODS[name], cost, X0, 20, 5)[1] for cost in (sphere, lambda x: sphere(x) ** 3))
    np.testing.assert_array_equal(plain.x, cubed.x)
    np.testing.assert_array_equal(plain.state.mean, cubed.state.mean)


@pytest.mark.parametrize("name", ["ars", "es standardised"])
def test_scale_and_offset_of_costs_do_not_matter(name):
    method = METHODS[name]
    state = begin(method, X0)
    x = ask(method, state, np.array([6, 0]))
    plain = tell(method, state, x, sphere(x))
    for scale, offset in ((4.0, 16.0), (1e25, 0.0), (5e36, 0.0)):  # squares of the last two overflow
        other = tell(method, state, x, np.float32(scale) * sphere(x) + np.float32(offset))
        np.testing.assert_allclose(other.mean, plain.mean, rtol=1e-5)
    assert not np.array_equal(plain.mean, X0)


# --- ranks ------------------------------------------------------------------------------------------------------


@jax.jit
def orders(cost):
    return best_first(cost), rank(cost), centred_ranks(cost), standardised(cost)


def test_orders_and_ranks():
    order, ranks, centred, _ = orders(jnp.array([2.0, jnp.nan, -1.0, 2.0, -jnp.inf, 0.0]))
    assert order.tolist() == [2, 5, 0, 3, 1, 4]
    assert ranks.tolist() == [2, 4, 0, 3, 5, 1]
    np.testing.assert_allclose(centred, np.array([2.5, 4.5, 0, 2.5, 4.5, 1]) / 5 - 0.5, atol=1e-6)
    assert best_first(jnp.array([0.0, -0.0, 1e-30, -1e-30, 0.0])).tolist() == [3, 0, 1, 4, 2]
    for values in np.random.default_rng(2).integers(0, 4, (20, 6)).astype(np.float32):
        _, _, centred, standard = orders(values)
        np.testing.assert_allclose(centred, (scipy.stats.rankdata(values) - 1) / 5 - 0.5, atol=1e-6)
        np.testing.assert_allclose(standard, (values - values.mean()) / values.std(), atol=1e-6)
    assert orders(np.full(6, 0.1, np.float32))[3].tolist() == [0.0] * 6
    wide = np.array([3.4e38, -3.4e38, 0, 1, 1e38, np.nan], np.float32)  # squares, and the range, overflow
    expected = scipy.stats.zscore(np.where(np.isnan(wide), wide[0], wide.astype(float)))
    np.testing.assert_allclose(orders(wide)[3], expected, rtol=1e-5, atol=1e-6)
    assert [x.tolist() for x in orders(np.ones(1, np.float32))] == [[0], [0], [0.0], [0.0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_costs_of_every_size_are_ordered(dtype):
    rng = np.random.default_rng(4)
    wide = 10 ** rng.uniform(-37, 38, (3, 300)) * rng.choice([-1, 1], (3, 300))
    with jax.enable_x64(dtype is np.float64):
        costs = np.concatenate([wide, rng.normal(size=(3, 300)), rng.integers(-3, 3, (3, 300))]).astype(dtype)
        np.testing.assert_array_equal(jax.vmap(best_first)(costs), np.argsort(costs, axis=1, kind="stable"))


@pytest.mark.parametrize(
    ("share", "size", "number"), [(0.1, 100, 10), (0.01, 10, 1), (0.25, 10, 2), (0.35, 10, 4), (1.0, 7, 7)]
)
def test_a_share_is_rounded_and_at_least_one(share, size, number):
    assert number_of(share, size) == max(1, round(share * size)) == number


# --- options ----------------------------------------------------------------------------------------------------

OTHER = {
    "candidates": 8,
    "elite": 0.5,
    "covariance": "full",
    "smoothing": 0.5,
    "extra_variance": 2.0,
    "extra_variance_decay": 0.5,
    "selection": "tournament",
    "parents": 0.5,
    "tournament_size": 4,
    "crossover": "uniform",
    "crossover_rate": 0.2,
    "eta": 1.0,
    "sigma_decay": 0.5,
    "minimum_sigma": 0.9,
    "mutation_rate": 0.4,
    "elitism": 5,
    "variant": "compass",
    "step": 0.7,
    "contraction": 0.3,
    "expansion": 2.0,
    "minimum_step": 0.4,
    "sigma": 0.7,
    "learning_rate": 0.03125,
    "weight_decay": 0.5,
    "shaping": "none",
    "directions": 5,
    "top_directions": 2,
    "difference": SPSA,
    "width": 0.3,
    "learning_rate_power": 0.3,
    "width_power": 0.3,
    "stability": 5.0,
}
NEEDS = {
    (CEM, "extra_variance_decay"): {"extra_variance": 3.0},
    (GeneticAlgorithm, "tournament_size"): {"selection": "tournament"},
    (PatternSearch, "expansion"): {"variant": "compass"},
    (PatternSearch, "contraction"): {"variant": "compass"},
    (PatternSearch, "minimum_step"): {"variant": "compass"},
    (FiniteDifferences, "directions"): {"difference": SPSA},
    (FiniteDifferences, "stability"): {"difference": SPSA},
}
BASE = {
    CEM: METHODS["cem"],
    GeneticAlgorithm: METHODS["ga"],
    PatternSearch: METHODS["hooke-jeeves"],
    EvolutionStrategy: METHODS["es"],
    AugmentedRandomSearch: METHODS["ars"],
    FiniteDifferences: METHODS["central"],
}
CLASSES = [CEM, GeneticAlgorithm, PatternSearch, EvolutionStrategy, AugmentedRandomSearch, FiniteDifferences]


def course(method):
    """Generations on Rosenbrock's function: beside a minimum, so that steps get shorter."""
    return search(method, rosenbrock, np.array([1, 1, 1, 1, 1.25], np.float32), 5, 7)[1].x


plain_course = functools.cache(course)
PAIRS = [(m, f) for m in CLASSES for f in dataclasses.fields(m)]


def check_not_dead(method, field):
    plain = dataclasses.replace(BASE[method], **NEEDS.get((method, field.name), {}))
    assert getattr(plain, field.name) != OTHER[field.name]
    changed = dataclasses.replace(plain, **{field.name: OTHER[field.name]})
    assert not np.array_equal(plain_course(plain), course(changed)), f"{field.name} changes nothing"


def is_number(method, field):
    """Traced, and used with the defaults: nothing compiles for it."""
    return isinstance(field.default, float) and (method, field.name) not in NEEDS


@pytest.mark.parametrize("method", CLASSES)
def test_no_number_is_dead(method):
    numbers = [field for _, field in PAIRS if _ is method and is_number(method, field)]
    assert numbers
    for field in numbers:
        check_not_dead(method, field)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "field"),
    [pair for pair in PAIRS if not is_number(*pair)],
    ids=lambda x: getattr(x, "__name__", None) or x.name,
)
def test_no_choice_is_dead(method, field):
    check_not_dead(method, field)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "others", "means"),
    [
        (CEM, {}, {"extra_variance": 0.0}),
        (CEM, {"extra_variance": 1.0}, {"extra_variance_decay": 0.0}),
        (GeneticAlgorithm, {}, {"parents": 0.2}),
        (GeneticAlgorithm, {}, {"eta": 15.0}),
        (GeneticAlgorithm, {"selection": "tournament"}, {"tournament_size": 2}),
        (PatternSearch, {"variant": "compass"}, {"expansion": 1.0}),
        (AugmentedRandomSearch, {"top_directions": None}, {"top_directions": 8}),
        (FiniteDifferences, {}, {"learning_rate_power": 0.0, "width_power": 0.0}),
        (FiniteDifferences, {"difference": SPSA}, {"learning_rate_power": 0.602, "width_power": 0.101}),
        (FiniteDifferences, {"difference": SPSA}, {"directions": 1, "stability": 0.0}),
    ],
    ids=lambda x: str(x),
)
def test_what_none_stands_for(method, others, means):
    plain = dataclasses.replace(BASE[method], **others)
    same_bits(plain_course(plain), course(dataclasses.replace(plain, **means)))


REFUSED = [
    (CEM, dict(extra_variance_decay=0.1), "extra_variance_decay=0.1 with extra_variance=None"),
    (
        CEM,
        dict(elite=0.04, candidates=10),
        "elite=0.04 of candidates=10 is less than one; use at least elite=0.1",
    ),
    (CEM, dict(elite=0.0), "elite=0.0 is not allowed"),
    (CEM, dict(smoothing=1.0), "smoothing=1.0 is not allowed"),
    (GeneticAlgorithm, dict(elitism=5, candidates=5), "elitism=5 with candidates=5"),
    (GeneticAlgorithm, dict(parents=0.5, selection="tournament"), "parents=0.5 with selection='tournament'"),
    (GeneticAlgorithm, dict(tournament_size=3), "tournament_size=3 with selection='truncation'"),
    (GeneticAlgorithm, dict(eta=2.0, crossover="uniform"), "eta=2.0 with crossover='uniform'"),
    (PatternSearch, dict(expansion=2.0), "expansion=2.0 with variant='hooke-jeeves'"),
    (EvolutionStrategy, dict(candidates=7), "candidates=7 is not allowed: candidates come in pairs"),
    (AugmentedRandomSearch, dict(top_directions=9, directions=8), "top_directions=9 of directions=8"),
    (FiniteDifferences, dict(directions=2), "directions=2 with difference='central'"),
    (FiniteDifferences, dict(stability=2.0), "stability=2.0 with difference='central'"),
]


@pytest.mark.parametrize(("method", "options", "message"), REFUSED, ids=lambda x: str(x)[:40])
def test_options_that_do_not_go_together_are_refused_by_name(method, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        method(**options)


@pytest.mark.parametrize(
    ("method", "size", "remedy"),
    [
        (CEM(covariance="full"), 6 * 4 * 1000**2, "A full covariance of 1,000 parameters takes 22.9 MiB"),
        (PatternSearch(variant="compass"), 4 * 4 * 1000**2, "use variant='hooke-jeeves'"),
        (FiniteDifferences(), 4 * 4 * 1000**2, "use difference='simultaneous-perturbation'"),
        (FiniteDifferences(difference="forward"), 2 * 4 * 1001 * 1000, "use difference="),
    ],
    ids=["cem", "compass", "central", "forward"],
)
def test_what_memory_cannot_hold_is_refused_with_the_bytes_and_the_alternative(
    method, size, remedy, monkeypatch
):
    monkeypatch.setattr(memory, "free_host_bytes", lambda: size - 1)
    with pytest.raises(ValueError, match=re.escape(remedy)):
        method.begin(jnp.zeros(1000))
    monkeypatch.setattr(memory, "free_host_bytes", lambda: size)
    method.begin(jnp.zeros(1000))


# --- the cross-entropy method -------------------------------------------------------------------------------------


def refits(method, x0, generations):
    """The definition in float64: means and covariances after each of `(candidates, costs)`."""
    mean, covariance = np.array(x0), method.sigma**2 * np.eye(len(x0))
    for t, (x, cost) in enumerate(generations, start=1):
        m = max(1, round(method.elite * len(x)))
        elite = [x[i] for i in sorted(range(len(x)), key=lambda i: cost[i])[:m]]
        centre, fit = np.zeros(len(x0)), np.zeros((len(x0), len(x0)))
        for y in elite:
            centre += y / m
        for y in elite:
            fit += np.outer(y - centre, y - centre) / m
        if method.extra_variance is not None:
            fit += max(method.extra_variance - (method.extra_variance_decay or 0) * t, 0) * np.eye(len(x0))
        s = method.smoothing
        mean, covariance = s * mean + (1 - s) * centre, s * covariance + (1 - s) * fit
        yield mean, covariance


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(smoothing=0.3),
        dict(elite=0.05),
        dict(extra_variance=4.0),
        dict(extra_variance=5.0, extra_variance_decay=2.0, smoothing=0.6, sigma=10.0),
    ],
    ids=str,
)
@doubles
def test_refits_are_those_of_the_definition(covariance, options):
    method = CEM(**dict(candidates=20, elite=0.3, covariance=covariance) | options)
    rng = np.random.default_rng(3)
    generations = [(rng.normal(size=(20, 3)), rng.normal(size=20)) for _ in range(4)]
    x0 = rng.normal(size=3)
    state = begin(method, x0)
    for (x, cost), (mean, expected) in zip(generations, refits(method, x0, generations), strict=True):
        state = tell(method, state, x, cost)
        np.testing.assert_allclose(state.mean, mean, rtol=1e-12)
        if covariance == "diagonal":
            expected = np.diagonal(expected)
        np.testing.assert_allclose(state.covariance, expected, rtol=1e-11, atol=1e-15)
    assert state.generation == 4
    variance = state.covariance if covariance == "diagonal" else np.diagonal(state.covariance)
    assert method.spread(state) == pytest.approx(np.sqrt(np.mean(variance)))


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_candidates_are_drawn_from_the_distribution(covariance):
    method = CEM(candidates=20_000, covariance=covariance)
    root = np.array([[1.0, 0.0, 0.0], [2.0, 0.5, 0.0], [-1.0, 1.0, 0.0]])  # singular
    expected = root @ root.T if covariance == "full" else np.diag([1.0, 4.0, 0.0])
    given = expected if covariance == "full" else np.diagonal(expected)
    state = begin(method, np.array([1.0, 2.0, 3.0]))._replace(covariance=given.astype(np.float32))
    x = np.asarray(ask(method, state, np.array([8, 0])))
    np.testing.assert_allclose(x.mean(0), [1, 2, 3], atol=0.06)  # four standard errors
    np.testing.assert_allclose(np.cov(x.T), expected, atol=0.2)


@doubles
def test_the_extra_variance_of_the_paper():
    """None, 4 for ever, and max(5 - t/10, 0), as the variance of candidates that are all alike shows it."""
    for options, expected in (
        ({}, [0.0] * 60),
        (dict(extra_variance=4.0), [4.0] * 60),
        (dict(extra_variance=5.0, extra_variance_decay=0.1), [max(5 - t / 10, 0) for t in range(1, 61)]),
    ):
        method = CEM(candidates=20, **options)
        state, seen = begin(method, np.zeros(3)), []
        for _ in range(60):
            state = tell(method, state, np.zeros((20, 3)), np.zeros(20))
            seen.append(float(state.covariance[0]))
        np.testing.assert_allclose(seen, expected, atol=1e-12)


def test_on_a_noisy_cost_extra_variance_keeps_the_search_from_ending_early():
    """From a distance of 6.7, over eight seeds: without it the search ends far off."""

    def distances(method, seed):
        rng = np.random.default_rng(seed)
        cost = lambda x: sphere(x) + 30 * rng.normal(size=len(x))  # noqa: E731
        state, course = search(method, cost, np.full(5, 3.0, np.float32), 60, seed)
        return np.linalg.norm(state.mean), course.state.covariance[40].max()

    plain = dataclasses.replace(METHODS["cem"], elite=0.2, sigma=1.0)
    noisy = dataclasses.replace(plain, extra_variance=1.0, extra_variance_decay=0.02)
    plain, early = np.transpose([distances(plain, seed) for seed in range(8)])
    noisy, _ = np.transpose([distances(noisy, seed) for seed in range(8)])
    assert early.max() < 0.1
    assert np.median(plain) > 3
    assert np.median(noisy) < 0.5 * np.median(plain)


def test_a_full_covariance_turns_into_the_valley():
    def valley(x):
        return (x[..., 0] - x[..., 1]) ** 2 * 1e3 + sphere(x)

    method = dataclasses.replace(METHODS["cem full"], sigma=2.0, smoothing=0.0)
    covariance = search(method, valley, X0, 4)[0].covariance
    assert covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]) > 0.99
    np.testing.assert_allclose(covariance, covariance.T, rtol=1e-6)


# --- the genetic algorithm ----------------------------------------------------------------------------------------

PLAIN = dict(elitism=0, mutation_rate=0.0)


def offspring(population, **options):
    """One generation of children of the given parents, the best first, without mutation."""
    method = GeneticAlgorithm(candidates=len(population), **PLAIN | options)
    state = GeneticState(np.asarray(population, np.float32), np.zeros((), np.int32))
    return np.asarray(ask(method, state, np.array([11, 0])))


@pytest.mark.parametrize(
    ("options", "share"),
    [
        (dict(parents=0.3), lambda i: (i < 600) / 600),
        (dict(parents=0.002), lambda i: (i < 4) / 4),
        (
            dict(selection="tournament", tournament_size=2),
            lambda i: ((2000 - i) ** 2 - (1999 - i) ** 2) / 2000**2,
        ),
        (
            dict(selection="tournament", tournament_size=5),
            lambda i: ((2000 - i) ** 5 - (1999 - i) ** 5) / 2000**5,
        ),
    ],
    ids=["truncation", "truncation to four", "tournament", "tournament of five"],
)
def test_parents_are_chosen_as_often_as_selection_says(options, share):
    """2,000 copies of 2,000 candidates, in bins of ten."""
    n = 2000
    copies = offspring(np.arange(n)[:, None], crossover_rate=0.0, **options).ravel().astype(int)
    seen = np.bincount(copies, minlength=n).reshape(-1, 20).sum(1)
    expected = (n * np.array([share(float(i)) for i in range(n)])).reshape(-1, 20).sum(1)
    likely = expected > 0.5
    assert not seen[expected == 0].any()
    statistic = (np.square(seen - expected)[likely] / expected[likely]).sum()
    assert statistic < scipy.stats.chi2.ppf(0.999, max(likely.sum() - 1, 1))
    if options.get("parents") == 0.002:
        assert scipy.stats.chisquare(np.bincount(copies)).pvalue > 1e-3


TWO = np.zeros((400, 50))  # of which two are parents
TWO[0], TWO[1] = 1.0, 3.0


def of_both(children):
    return ~((children == 1).all(1) | (children == 3).all(1))


def test_uniform_crossover_takes_each_gene_from_either_parent():
    children = offspring(TWO, parents=0.005, crossover="uniform", crossover_rate=1.0)
    assert set(np.unique(children)) == {1.0, 3.0}
    mixed = children[of_both(children)] - 2
    assert 150 < len(mixed) < 250  # two different parents, half of the time
    assert mixed.mean() == pytest.approx(0, abs=0.04)
    assert (mixed[:, ::2] * mixed[:, 1::2]).mean() == pytest.approx(0, abs=0.06)  # gene by gene


@pytest.mark.parametrize("eta", [0.0, 2.0, 15.0])
def test_simulated_binary_crossover_spreads_as_the_paper_says(eta):
    """beta = |c - (p + q)/2| / |p - q| * 2 has the density (eta + 1)/2 beta^eta below 1, and beta^-(eta + 2) above."""

    def cumulated(beta):
        return np.where(beta <= 1, beta ** (eta + 1) / 2, 1 - np.maximum(beta, 1) ** -(eta + 1) / 2)

    children = offspring(TWO, parents=0.005, crossover_rate=1.0, eta=eta)
    mixed = children[of_both(children)] - 2
    assert 150 < len(mixed) < 250
    assert scipy.stats.kstest(np.abs(mixed).ravel(), cumulated).pvalue > 1e-3
    assert np.sign(mixed[:, 0]).mean() == pytest.approx(0, abs=0.3)  # nearer to either parent as often


def test_only_some_children_have_two_parents():
    children = offspring(TWO, parents=0.005, crossover_rate=0.6, eta=2.0)
    assert of_both(children).mean() == pytest.approx(0.6 / 2, abs=0.09)


def test_mutations_are_as_many_and_as_large_as_they_should_be():
    sizes = dict(sigma=2.0, sigma_decay=0.5, minimum_sigma=0.3)
    method = GeneticAlgorithm(candidates=400, parents=0.005, eta=2.0, elitism=0, mutation_rate=0.25, **sizes)
    for t, expected in enumerate((2.0, 1.0, 0.5, 0.3, 0.3)):
        state = begin(method, np.ones(50, np.float32))._replace(generation=np.int32(t))
        x = np.asarray(ask(method, state, np.array([13, t])))
        mutated = x != 1
        assert mutated.mean() == pytest.approx(0.25, abs=0.015)
        assert scipy.stats.kstest((x[mutated] - 1) / expected, "norm").pvalue > 1e-3
        assert method.spread(state) == pytest.approx(0.5 * expected, rel=1e-5)


def test_the_best_live_on_and_come_first():
    method = METHODS["ga"]
    _, course = search(method, rosenbrock, X0, 30)
    np.testing.assert_array_equal(course.x[1:, :3], course.state.population[:-1, :3])
    assert len(np.unique(course.x[1], axis=0)) == len(course.x[1])
    best = course.cost.min(1)
    assert (np.diff(best) <= 0).all()
    np.testing.assert_array_equal(rosenbrock(course.state.population[:, 0]), best)
    assert (np.diff(rosenbrock(course.state.population), axis=1) >= 0).all()
    assert course.state.generation.tolist() == list(range(1, 31))


def test_a_generation_told_is_the_population():
    method = GeneticAlgorithm(candidates=4)
    state = told(
        method, np.zeros(1, np.float32), np.arange(4, dtype=np.float32)[:, None], [3.0, np.nan, 1.0, 2.0]
    )
    assert state.population.ravel().tolist() == [2.0, 3.0, 0.0, 1.0]
    assert state.mean.tolist() == [2.0]
    assert method.spread(state) == pytest.approx(np.sqrt((1 + 4 + 1) / 4 + 0.49**2))


# --- draws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 50), (700, 3001)])
def test_draws_are_independent_and_normal(shape, dtype):
    with jax.enable_x64(dtype is np.float64):
        z = np.asarray(standard_normal(jax.random.key(1), *shape, dtype))
    assert z.shape == shape and z.dtype == dtype
    assert len(np.unique(z[:, 0])) == len(z)  # no row comes twice
    assert scipy.stats.kstest(z.ravel(), "norm").pvalue > 0.01
