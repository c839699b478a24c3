"""Distributions against scipy.stats, quadrature, enumeration and each other, in NumPy and in JAX."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import integrate, special, stats

from advantage.policies.distributions import (
    Bernoulli,
    Categorical,
    Gaussian,
    Product,
    SquashedGaussian,
    masked,
)
from advantage.policies.heads import CategoricalHead, ProductHead

LOW, HIGH = np.array([-1.0, 2.0]), np.array([1.0, 5.0])
MASK = np.array([True, True, False, True])


def parameters(seed, dtype: Any = np.float64, batch=(3,)) -> dict[str, Any]:
    """One distribution of every family with the same batch axes."""
    rng = np.random.default_rng(seed)

    def normal(size, scale=1.0):
        return (scale * rng.normal(size=(*batch, size))).astype(dtype)

    low, high = LOW.astype(dtype), HIGH.astype(dtype)
    shared = np.array([-0.5, 0.3], dtype) + np.array(0.1 * seed, dtype)
    families = {
        "categorical": Categorical(normal(4)),
        "masked": Categorical(np.where(MASK, normal(4), np.array(-np.inf, dtype))),
        "gaussian": Gaussian(normal(2), shared),
        "state-dependent gaussian": Gaussian(normal(2), normal(2, 0.4)),
        "squashed": SquashedGaussian(normal(2), shared - 1, low, high),
        "state-dependent squashed": SquashedGaussian(normal(2), normal(2, 0.4) - 1, low, high),
        "bernoulli": Bernoulli(normal(3)),
    }
    nested = Product((families["gaussian"], families["bernoulli"]))
    families["masked product"] = masked(
        Product((Categorical(normal(3)), Product((Categorical(normal(2)),)))), np.array([1, 0, 1, 1, 1])
    )
    return families | {"product": Product((families["masked"], nested, families["squashed"]))}


def noise_size(distribution):
    """The `size` that the family's `noise` expects."""
    if isinstance(distribution, Product):
        return tuple((type(part), noise_size(part)) for part in distribution.parts)
    return distribution[0].shape[-1]


def draw(distribution, seed, shape) -> Any:
    """Noise as NumPy arrays."""
    noise = distribution.noise(jax.random.key(seed), shape, noise_size(distribution))
    return jax.tree.map(np.asarray, noise)


def tangent_like(distribution):
    """A tangent in every direction that is not masked."""
    return jax.tree.map(
        lambda x: np.where(np.isfinite(x), np.cos(np.maximum(x, -9)), x.dtype.type(0)), distribution
    )


def every_coin(d):
    return np.array(list(itertools.product([0, 1], repeat=d)), np.int8)


def grid(low, high, nodes=300):
    """Gauss-Legendre points `[nodes², 2]` and weights of a rectangle."""
    node, weight = np.polynomial.legendre.leggauss(nodes)
    points = [a + (b - a) * (node + 1) / 2 for a, b in zip(low, high, strict=True)]
    weights = [(b - a) * weight / 2 for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*points, indexing="ij"), -1).reshape(-1, 2), np.outer(*weights).ravel()


FAMILIES = list(parameters(0))


# --- probabilities, entropies and divergences ---


def test_categorical_matches_scipy():
    p, q = parameters(0)["categorical"], parameters(1)["categorical"]
    probability, other = special.softmax(p.logits, -1), special.softmax(q.logits, -1)
    action = np.arange(4)[:, None] * np.ones(3, int)  # [4, 3]: a leading axis of samples
    np.testing.assert_allclose(np.exp(p.log_prob(action)), probability.T, rtol=1e-12)
    np.testing.assert_allclose(p.entropy(), stats.entropy(probability, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(p.kl(q), stats.entropy(probability, other, axis=-1), rtol=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "state-dependent gaussian"])
def test_gaussian_matches_scipy(name):
    p = parameters(0)[name]
    normal: Any = stats.norm(p.mean, np.exp(p.log_std))
    action = np.random.default_rng(2).normal(size=(5, 3, 2))
    np.testing.assert_allclose(p.log_prob(action), normal.logpdf(action).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(p.entropy(), normal.entropy().sum(-1), rtol=1e-12)
    assert p.entropy().shape == (3,)


def test_bernoulli_matches_scipy():
    p = parameters(0)["bernoulli"]
    coin: Any = stats.bernoulli(special.expit(p.logits))
    action = every_coin(3)[:, None]
    np.testing.assert_allclose(p.log_prob(action), coin.logpmf(action).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(p.entropy(), coin.entropy().sum(-1), rtol=1e-12)


def test_bernoulli_kl_is_the_sum_over_all_outcomes():
    p, q = parameters(0)["bernoulli"], parameters(1)["bernoulli"]
    log_p, log_q = p.log_prob(every_coin(3)[:, None]), q.log_prob(every_coin(3)[:, None])
    np.testing.assert_allclose(p.kl(q), (np.exp(log_p) * (log_p - log_q)).sum(0), rtol=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "squashed"])
def test_promise_5_density_integrates_to_one_and_gives_entropy_and_kl(name):
    p, q = parameters(0, batch=())[name], parameters(1, batch=())[name]
    low, high = (LOW, HIGH) if name == "squashed" else (p.mean - 12, p.mean + 12)
    action, weight = grid(low, high)
    log_p, log_q = p.log_prob(action), q.log_prob(action)
    assert weight @ np.exp(log_p) == pytest.approx(1, abs=1e-6)
    assert weight @ (np.exp(log_p) * -log_p) == pytest.approx(p.entropy(), abs=1e-5)
    assert weight @ (np.exp(log_p) * (log_p - log_q)) == pytest.approx(p.kl(q), abs=1e-5)


@pytest.mark.parametrize("name", ["categorical", "masked", "bernoulli"])
def test_probabilities_sum_to_one(name):
    p = parameters(0)[name]
    action = every_coin(3)[:, None] if name == "bernoulli" else np.arange(4)[:, None] * np.ones(3, int)
    np.testing.assert_allclose(np.exp(p.log_prob(action)).sum(0), np.ones(3), rtol=1e-12)


@jax.jit
@jax.value_and_grad
def squashed_entropy(parameter):
    mean, log_std = parameter
    return SquashedGaussian(mean[None], log_std[None], jnp.array([2.0]), jnp.array([5.0])).entropy()


@pytest.mark.parametrize(
    ("std", "tolerance"), [(0.05, 1e-6), (1.0, 1e-5), (2.0, 1e-5), (2.5, 1e-5), (5.0, 2e-3)]
)
@pytest.mark.parametrize("mean", [0.0, -0.7, 4.0])
def test_entropy_of_the_squashed_and_its_gradient_by_quadrature(mean, std, tolerance):
    def expect(function):
        def integrand(z):
            return stats.norm.pdf(z) * function(mean + std * z, z)

        return sum(
            integrate.quad(integrand, *ends, epsabs=1e-9)[0] for ends in ((-9, -mean / std), (-mean / std, 9))
        )

    exact = stats.norm.entropy(scale=std) + np.log(1.5) + expect(lambda u, z: -2 * np.log(np.cosh(u)))
    slope = [expect(lambda u, z: -2 * np.tanh(u)), 1 + expect(lambda u, z: -2 * np.tanh(u) * std * z)]
    with jax.enable_x64(True):
        value, gradient = squashed_entropy(jnp.array([mean, np.log(std)]))
    assert float(value) == pytest.approx(exact, abs=tolerance)
    np.testing.assert_allclose(gradient, slope, atol=5 * tolerance)


@pytest.mark.parametrize("name", FAMILIES)
def test_kl_is_zero_at_self_positive_elsewhere_and_exact_when_tiny(name):
    p, q = parameters(0)[name], parameters(1)[name]
    near = jax.tree.map(lambda x, y: x + 1e-3 * np.where(np.isfinite(y), y, 0), p, q)
    np.testing.assert_allclose(p.kl(p), np.zeros(3), atol=1e-15)
    assert (p.kl(q) > 0.01).all() and (p.kl(near) > 0).all()
    p, near = (jax.tree.map(lambda x: x.astype(np.float32), d) for d in (p, near))
    exact_p, exact_near = (jax.tree.map(lambda x: x.astype(np.float64), d) for d in (p, near))
    exact = exact_p.kl(exact_near)
    assert (exact < 1e-4).all()
    np.testing.assert_allclose(p.kl(near), exact, rtol=2e-3)


# --- sampling ---


def within(estimate, exact, standard_error):
    """Four and a half standard errors: one false alarm in 150 000."""
    np.testing.assert_array_less(np.abs(estimate - exact), 4.5 * standard_error)


@pytest.mark.parametrize("name", FAMILIES)
def test_noise_is_float32_reproducible_and_differs_between_keys(name):
    p = parameters(0)[name]
    first, again, other = (draw(p, seed, (7, 5)) for seed in (0, 0, 1))
    for x, y, z in zip(*map(jax.tree.leaves, (first, again, other)), strict=True):
        assert x.dtype == np.float32 and x.shape[:2] == (7, 5)
        assert (x == y).all() and (x != z).any()
        assert len(np.unique(x)) == x.size, "two steps, environments or dimensions with the same noise"
    leaves = [leaf.ravel() for leaf in jax.tree.leaves(first)]
    assert not any((a[:70] == b[:70]).all() for a, b in itertools.combinations(leaves, 2))
    with jax.enable_x64(True):
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(draw(p, 0, (2,))))


@pytest.mark.parametrize("name", ["categorical", "masked", "bernoulli"])
def test_frequencies_of_samples_are_the_probabilities(name):
    p, n = parameters(0)[name], 20_000
    action = p.sample(draw(p, 0, (n, 3)))
    if name == "bernoulli":
        probability, frequency = special.expit(p.logits), action.mean(0)
        assert action.dtype == np.int8 and action.shape == (n, 3, 3)
    else:
        probability = special.softmax(p.logits, -1)
        frequency = (action[..., None] == np.arange(4)).mean(0)
        assert action.dtype == np.int32 and action.shape == (n, 3)
    within(frequency, probability, np.sqrt(probability * (1 - probability) / n) + 1e-12)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "gaussian" in name or "squashed" in name])
def test_moments_of_samples_are_those_of_the_normal(name):
    p, n = parameters(0)[name], 20_000
    u = p.sample(draw(p, 0, (n, 3)))
    if "squashed" in name:
        u = np.arctanh(2 * (u - LOW) / (HIGH - LOW) - 1)
    std = np.exp(p.log_std) * np.ones((3, 2))
    within(u.mean(0), p.mean, std / np.sqrt(n))
    within(u.std(0), std, std / np.sqrt(2 * n))


def test_parts_of_a_product_are_independent():
    n, unit = 20_000, Gaussian(np.zeros(1), np.zeros(1))
    product = Product((unit, unit, Bernoulli(np.zeros(1))))
    first, second, coin = product.sample(draw(product, 0, (n,)))
    correlation = np.corrcoef(np.concatenate([first, second, coin], -1).T)
    within(correlation, np.eye(3), 1 / np.sqrt(n))


@pytest.mark.parametrize("name", ["categorical", "masked", "gaussian", "bernoulli"])
def test_mode_is_the_most_probable_action(name):
    p = parameters(0)[name]
    if name == "gaussian":
        other = p.mean + 0.1 * np.random.default_rng(0).normal(size=(200, 3, 2))
    else:
        other = every_coin(3)[:, None] if name == "bernoulli" else np.arange(4)[:, None] * np.ones(3, int)
    assert (p.log_prob(p.mode()) >= p.log_prob(other) - 1e-12).all()
    assert p.mode().dtype == p.sample(draw(p, 0, (3,)).astype(p[0].dtype)).dtype


def test_mode_of_the_squashed_is_the_image_of_the_mean():
    p = parameters(0)["squashed"]
    np.testing.assert_allclose(p.mode(), LOW + (HIGH - LOW) * (np.tanh(p.mean) + 1) / 2, rtol=1e-12)
    action = p.sample(draw(p, 0, (20_000, 3)))
    within((action < p.mode()).mean(0), 0.5, 0.5 / np.sqrt(20_000))  # the median


# --- bounds ---


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize("bounds", [(-1, 1), (-3, 100), (100, 101), (-2, -1e-3), (1e-3, 2e-3), (-1e6, 1.0)])
def test_promise_5_squashed_actions_stay_inside_the_bounds_and_can_be_inverted(bounds, xp):
    low, high = (xp.full(4, bound, xp.float32) for bound in bounds)
    mean = xp.asarray(np.array([-50, 50, 0, 9], np.float32))
    p = SquashedGaussian(mean, xp.full(4, 2, xp.float32), low, high)
    for action in (p.sample(xp.asarray(draw(p, 0, (2000,)))), p.mode()):
        assert action.dtype == np.float32
        assert (action >= low).all() and (action <= high).all()
        assert xp.isfinite(p.log_prob(action)).all()
        if bounds == (-1, 1):
            assert (action > low).all() and (action < high).all()
    assert xp.isfinite(p.entropy())


@pytest.mark.parametrize("name", ["squashed", "state-dependent squashed"])
def test_promise_5_squashed_log_prob_is_of_what_was_sampled(name):
    p = parameters(0)[name]
    noise = draw(p, 0, (50, 3)).astype(np.float64)
    u = p.mean + np.exp(p.log_std) * noise
    log_prob = stats.norm.logpdf(u, p.mean, np.exp(p.log_std)) - np.log((HIGH - LOW) / 2 / np.cosh(u) ** 2)
    np.testing.assert_allclose(p.log_prob(p.sample(noise)), log_prob.sum(-1), rtol=1e-7)


# --- Fisher information: three definitions, one number ---


def build_masked(x):
    return Categorical(jnp.where(MASK, x["logits"], -jnp.inf))


def build_squashed(x):
    return SquashedGaussian(x["mean"], x["log_std"], jnp.asarray(LOW), jnp.asarray(HIGH))


def build_product(x):
    return Product((build_masked(x), Product((Gaussian(x["mean"], x["log_std"]), Bernoulli(x["coin"])))))


def outcomes(p):
    """Every action of `p` with its probability; of a Gaussian, nodes that integrate polynomials exactly."""
    if isinstance(p, Categorical):
        action = np.flatnonzero(np.isfinite(p.logits))
        return list(zip(action, special.softmax(p.logits)[action], strict=True))
    if isinstance(p, Bernoulli):
        coins = every_coin(p.logits.shape[-1])
        return [(c, np.prod(np.where(c, special.expit(p.logits), special.expit(-p.logits)))) for c in coins]
    if isinstance(p, Product):
        joint = itertools.product(*map(outcomes, p.parts))
        return [(tuple(a for a, _ in pair), np.prod([w for _, w in pair])) for pair in joint]
    node, weight = np.polynomial.hermite_e.hermegauss(5)
    pairs = itertools.product(zip(node, weight / weight.sum(), strict=True), repeat=p.mean.shape[-1])
    return [(p.sample(np.array([z for z, _ in pair])), np.prod([w for _, w in pair])) for pair in pairs]


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda x: Categorical(x["logits"]), {"logits": 4}),
        (build_masked, {"logits": 4}),
        (lambda x: Gaussian(x["mean"], x["log_std"]), {"mean": 2, "log_std": 2}),
        (build_squashed, {"mean": 2, "log_std": 2}),
        (lambda x: Bernoulli(x["coin"]), {"coin": 3}),
        (build_product, {"logits": 4, "mean": 1, "log_std": 1, "coin": 2}),
    ],
    ids=["categorical", "masked", "gaussian", "squashed", "bernoulli", "product"],
)
def test_fisher_is_the_mean_outer_product_of_scores_and_the_hessian_of_kl(build, size):
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        parameter, unravel = ravel_pytree({k: jnp.asarray(0.5 * rng.normal(size=n)) for k, n in size.items()})

        def make(x):
            return build(unravel(x))

        def fisher_product(tangent):  # Jᵀ F J: through the parameters and back
            p, output = jax.jvp(make, (parameter,), (tangent,))
            return jax.vjp(make, parameter)[1](p.fisher(output))[0]

        p = make(parameter)
        fisher = jax.jit(jax.vmap(fisher_product))(jnp.eye(len(parameter)))
        hessian = jax.jit(jax.hessian(lambda x: p.kl(make(x))))(parameter)
        actions, weight = zip(*outcomes(jax.tree.map(np.asarray, p)), strict=True)
        actions = jax.tree.map(lambda *leaves: jnp.stack(leaves), *actions)
        score = jax.jit(jax.vmap(jax.grad(lambda x, action: make(x).log_prob(action)), (None, 0)))
        scores = np.asarray(score(parameter, actions))
    outer = scores.T * np.array(weight) @ scores
    assert sum(weight) == pytest.approx(1)
    assert np.abs(fisher).max() > 0.1
    np.testing.assert_allclose(fisher, outer, atol=1e-8)
    np.testing.assert_allclose(fisher, hessian, atol=1e-8)


def test_fisher_of_a_shared_log_std_is_the_sum_over_the_batch():
    with jax.enable_x64(True):
        p = jax.tree.map(jnp.asarray, parameters(0)["gaussian"])
        hessian = jax.jit(jax.hessian(lambda x: p.kl(Gaussian(p.mean, x)).sum()))(p.log_std)
        tangent = Gaussian(jnp.cos(p.mean), jnp.sin(p.log_std))
        applied = jax.tree.map(np.asarray, p.fisher(tangent))
        exact = np.asarray(hessian @ tangent.log_std)
    assert applied.log_std.shape == applied.mean.shape == (3, 2)
    np.testing.assert_allclose(applied.log_std.sum(0), exact, rtol=1e-10)


def test_fisher_of_the_squashed_leaves_the_bounds_alone():
    p = parameters(0)["squashed"]
    applied = p.fisher(jax.tree.map(np.ones_like, p))
    assert not applied.low.any() and not applied.high.any()
    assert applied.low.shape == applied.high.shape == (2,)


# --- masks and extremes ---


def test_promise_10_a_masked_action_is_as_if_it_were_not_there():
    p, q = parameters(0)["masked"], parameters(1)["masked"]
    small, small_q = Categorical(p.logits[:, MASK]), Categorical(q.logits[:, MASK])
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        noise = draw(p, 0, (2000, 3)) + np.where(MASK, 0, 100)
        assert MASK[p.sample(noise)].all() and MASK[p.mode()].all()
        np.testing.assert_allclose(p.log_prob(np.full(3, 3)), small.log_prob(np.full(3, 2)), rtol=1e-12)
        np.testing.assert_allclose(p.entropy(), small.entropy(), rtol=1e-12)
        np.testing.assert_allclose(p.kl(q), small.kl(small_q), rtol=1e-12)
        tangent = q._replace(logits=np.where(MASK, q.logits, 7.0))
        np.testing.assert_allclose(
            p.fisher(tangent).logits[:, MASK], small.fisher(small_q).logits, rtol=1e-12
        )
        assert not p.fisher(tangent).logits[:, ~MASK].any()
        assert (p.log_prob(np.full(3, 2)) == -np.inf).all()


PARTS = ((4,), (3, (2, 5)))  # sizes of the categoricals of a nested product


def nested(logits, sizes=PARTS):
    """A nested product of categoricals whose logits lie one after the other in the last axis."""
    if isinstance(sizes, int):
        return Categorical(logits)
    ends = np.cumsum([np.sum(jax.tree.leaves(size)) for size in sizes]).tolist()
    parts = zip((logits[..., i:j] for i, j in zip([0, *ends], ends, strict=False)), sizes, strict=True)
    return Product(tuple(nested(part, size) for part, size in parts))


def random_masks(rng, count, sizes=(4, 3, 2, 5)):
    """Masks `[count, n]` that allow at least one action in each component."""
    masks = [rng.random((count, size)) < 0.5 for size in sizes]
    for part in masks:
        part[np.arange(count), rng.integers(part.shape[1], size=count)] = True
    return np.concatenate(masks, axis=-1)


def actions_of(sizes=(4, 3, 2, 5)):
    """Every joint action of `nested`, and its one-hot form `[120, 14]`."""
    joint = np.array(list(itertools.product(*map(range, sizes))), np.int32)
    one_hot = np.concatenate([np.eye(n, dtype=bool)[a] for n, a in zip(sizes, joint.T, strict=True)], axis=-1)
    a, b, c, d = joint.T
    return ((a,), (b, (c, d))), one_hot


def every_action(p, size):
    """log p of every joint action, `[120, B]`."""
    actions, _ = actions_of()
    return p.log_prob(jax.tree.map(lambda a: np.broadcast_to(a[:, None], (len(a), size)), actions))


@pytest.mark.parametrize("dtype", [np.int8, bool, np.float32])
def test_promise_10_a_masked_product_has_the_probabilities_of_what_is_allowed(dtype):
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(50, 14)), random_masks(rng, 50)
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        free, p = nested(logits), masked(nested(logits), masks.astype(dtype))
        log_p, weight = every_action(p, 50), np.exp(every_action(free, 50))
        allowed = (~actions_of()[1][:, None] | masks).all(-1)  # [120, B]
        exact = np.where(allowed, weight, 0) / np.where(allowed, weight, 0).sum(0)
        np.testing.assert_allclose(np.exp(log_p), exact, rtol=1e-12)
        np.testing.assert_allclose(np.exp(log_p).sum(0), np.ones(50), rtol=1e-12)
        assert (log_p[~allowed] == -np.inf).all() and not allowed.all()
        np.testing.assert_allclose(p.entropy(), stats.entropy(exact, axis=0), rtol=1e-12, atol=1e-15)
        q = masked(nested(rng.normal(size=(50, 14))), masks)
        other = np.exp(every_action(q, 50))
        np.testing.assert_allclose(p.kl(q), stats.entropy(exact, other, axis=0), rtol=1e-10, atol=1e-14)
        (a,), (b, (c, d)) = p.mode()
        assert (allowed & (log_p == log_p.max(0))).any(0).all()
        for action in (((a,), (b, (c, d))), p.sample(draw(p, 3, (50,)))):
            assert np.isfinite(p.log_prob(action)).all()


def test_promise_10_no_gradient_reaches_a_masked_logit():
    """In float32, for logits small and large: every number and derivative is finite, those of masked logits are 0."""
    rng, sizes = np.random.default_rng(1), (4, 10)
    mask = random_masks(rng, 20, sizes)
    raw, other, tangent = (rng.normal(size=(20, 14)).astype(np.float32) for _ in range(3))
    action = masked(nested(raw, sizes), mask).sample(draw(nested(raw, sizes), 0, (20,)))

    def measures(x, y):
        p, q = masked(nested(x, sizes), mask), masked(nested(y, sizes), mask)
        fisher = sum(part.logits.sum(-1) for part in p.fisher(nested(tangent, sizes)).parts)
        return jnp.stack([p.log_prob(action), p.entropy(), p.kl(q), q.kl(p), fisher])

    @jax.jit
    def differentiate(x, y):
        return measures(x, y), jax.grad(lambda x, y: measures(x, y).sum(), (0, 1))(x, y)

    for scale in (1, 30, 1e4):
        value, gradients = differentiate(jnp.asarray(scale * raw), jnp.asarray(scale * other))
        assert np.isfinite(value).all()
        for gradient in map(np.asarray, gradients):
            assert np.isfinite(gradient).all()
            assert (gradient[~mask] == 0).all() and (scale > 1 or (gradient[mask] != 0).any())


def test_a_mask_that_allows_nothing_changes_nothing():
    """Nobody acts on the last observation of an episode, and what is computed of it stays finite."""
    logits, mask = np.random.default_rng(0).normal(size=(3, 14)), np.zeros((3, 14), np.int8)
    mask[0] = 1
    mask[1, 5] = 1
    p = masked(nested(logits), mask)
    flat = np.concatenate(jax.tree.leaves(p), axis=-1)
    np.testing.assert_array_equal(flat[[0, 2]], logits[[0, 2]])
    np.testing.assert_array_equal(np.isfinite(flat[1, 4:7]), [False, True, False])
    np.testing.assert_array_equal(
        flat[1, [0, 1, 2, 3, *range(7, 14)]], logits[1, [0, 1, 2, 3, *range(7, 14)]]
    )


@pytest.mark.parametrize(
    ("distribution", "name"),
    [
        (Gaussian(np.zeros((1, 2)), np.zeros(2)), "Gaussian"),
        (Bernoulli(np.zeros((1, 2))), "Bernoulli"),
        (Product((Categorical(np.zeros((1, 2))), Gaussian(np.zeros((1, 2)), np.zeros(2)))), "Gaussian"),
    ],
)
def test_only_categoricals_are_masked(distribution, name):
    with pytest.raises(TypeError, match=f"A {name} cannot be masked; only a Categorical, or a Product of"):
        masked(distribution, np.ones((1, 4)))
    with pytest.raises(ValueError, match="The mask has 3 entries and the distribution 2 logits"):
        masked(Categorical(np.zeros((1, 2))), np.ones((1, 3)))


def test_kl_between_different_masks():
    free, masked = parameters(0)["categorical"], parameters(1)["masked"]
    p, q = special.softmax(masked.logits, -1), special.softmax(free.logits, -1)
    np.testing.assert_allclose(masked.kl(free), stats.entropy(p, q, axis=-1), rtol=1e-12)
    assert (free.kl(masked) == np.inf).all()


def test_categorical_values_and_gradients_stay_finite():
    raw = np.array([[1.0, -2.0, 5.0, 0.3], [0.0, 0.0, 0.0, 0.0], [-1.0, 1.0, 9.0, 1.0]], np.float32)

    def measures(x):
        p, q = Categorical(jnp.where(MASK, x, -jnp.inf)), Categorical(jnp.where(MASK, -x, -jnp.inf))
        return jnp.stack([p.log_prob(jnp.array([0, 1, 3])), p.entropy(), p.kl(q), q.kl(p), p.kl(p)])

    def total(x):
        return measures(x).sum()

    @jax.jit
    def differentiate(x):
        forward = jax.jvp(total, (x,), (jnp.ones_like(x),))[1]
        return measures(x), forward, jax.grad(total)(x), jax.hessian(total)(x)

    for scale in (1, 10, 30, 1e4):
        value, *derivatives = map(np.asarray, differentiate(jnp.asarray(scale * raw)))
        assert np.isfinite(value).all() and (value[1:] >= 0).all()
        assert all(np.isfinite(derivative).all() for derivative in derivatives)
        assert not any(derivative[..., ~MASK].any() for derivative in derivatives[1:])


def test_gradients_of_the_other_families_stay_finite():
    noise, coin = jnp.array([-2.0, 0.0, 2.0]), jnp.array([0, 1, 1], jnp.int8)

    def measures(mean, log_std):
        gaussian, bernoulli = Gaussian(mean, log_std), Bernoulli(mean)
        squashed = SquashedGaussian(mean, log_std, -jnp.ones(3), jnp.ones(3))
        wide, action = squashed._replace(log_std=log_std + 1), squashed.sample(noise)
        total = gaussian.log_prob(gaussian.sample(noise)) + gaussian.entropy()
        total += squashed.log_prob(action) + squashed.entropy() + squashed.kl(wide) + action.sum()
        return total + bernoulli.log_prob(coin) + bernoulli.entropy() + bernoulli.kl(Bernoulli(-mean))

    differentiate = jax.jit(jax.value_and_grad(measures, (0, 1)))
    for mean, log_std in itertools.product((0.0, 5.0, -50.0, 50.0, 200.0), (-5.0, 0.0, 2.0)):
        value, gradient = differentiate(jnp.full(3, mean), jnp.full(3, log_std))
        assert jnp.isfinite(value) and all(jnp.isfinite(g).all() for g in gradient)


# --- one source, two namespaces ---


def measure(p, q, tangent, noise, action):
    return p.sample(noise), p.mode(), p.log_prob(action), p.entropy(), p.kl(q), p.fisher(tangent)


def inputs(name, dtype):
    p, q = parameters(0, dtype)[name], parameters(1, dtype)[name]
    noise = jax.tree.map(lambda x: x.astype(dtype), draw(p, 0, (3,)))
    return p, q, tangent_like(p), noise, p.sample(noise)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FAMILIES)
def test_numpy_and_jax_give_the_same_numbers(name, dtype):
    arguments = inputs(name, dtype)
    host = measure(*arguments)
    with jax.enable_x64(dtype == np.float64):
        device = jax.jit(measure)(*jax.tree.map(jnp.asarray, arguments))
    assert jax.tree.structure(host) == jax.tree.structure(device)
    tolerance = 1e-6 if dtype == np.float32 else 1e-12
    for x, y in zip(jax.tree.leaves(host), jax.tree.leaves(device), strict=True):
        assert isinstance(x, np.ndarray) and isinstance(y, jax.Array)
        assert x.shape == y.shape and x.dtype == y.dtype and x.dtype in (dtype, np.int32, np.int8)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_its_rows(name):
    arguments = inputs(name, np.float64)
    batch = jax.tree.leaves(measure(*arguments))
    for i in range(3):
        # a parameter that the batch shares has the length of its event, 2
        row = jax.tree.map(lambda x, i=i: x[i] if len(x) == 3 else x, arguments)
        for x, y in zip(batch, jax.tree.leaves(measure(*row)), strict=True):
            np.testing.assert_allclose(x[i] if len(x) == 3 else x, y, rtol=1e-12)


# --- products ---


def test_product_sums_over_its_parts_and_keeps_its_structure():
    p, q = parameters(0)["product"], parameters(1)["product"]
    noise = draw(p, 0, (3,))
    action = p.sample(noise)
    for total, parts in [
        (p.log_prob(action), [part.log_prob(a) for part, a in zip(p.parts, action, strict=True)]),
        (p.entropy(), [part.entropy() for part in p.parts]),
        (p.kl(q), [part.kl(other) for part, other in zip(p.parts, q.parts, strict=True)]),
    ]:
        assert total.shape == (3,)
        np.testing.assert_allclose(total, np.sum(parts, 0), rtol=1e-12)
    assert jax.tree.structure(action) == jax.tree.structure(noise) == jax.tree.structure(p.mode())
    with pytest.raises(ValueError, match="shorter"):
        p.sample(noise[:-1])


def test_parts_of_a_head_have_their_own_noise():
    head = ProductHead((CategoricalHead(3), CategoricalHead(3)))
    first, second = head.noise(jax.random.key(0), (5, 2))
    assert len(np.unique(np.concatenate([first, second]))) == first.size + second.size
