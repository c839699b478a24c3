"""Running statistics against NumPy in float64, over short streams and over a hundred million samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advantage.running_moments import (
    Compensated,
    Moments,
    compensated_add,
    moments_init,
    moments_update,
    normaliser,
)

LONG = 102_400  # merges of a long stream, of 1000 samples each
POOL = 64  # different batches in it, each as often


def merge(batches, width=2):
    moments = moments_init((width,))
    for batch in batches:
        moments = moments_update(moments, jnp.asarray(batch))
    return moments


@pytest.mark.parametrize("seed", range(4))
def test_the_moments_are_the_mean_and_variance_of_everything_seen(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.permutation([1, 1, 1, 2, 3, 10, 100, 257])  # one sample may come first
    scale, offset = np.array([1.0, 20.0]), np.array([-3.0, 400.0])
    batches = [(offset + scale * rng.normal(size=(size, 2))).astype(np.float32) for size in sizes]
    everything = np.concatenate(batches).astype(np.float64)
    moments = merge(batches)
    assert moments.count.value == len(everything)
    np.testing.assert_allclose(moments.mean.value, everything.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.variance.value, everything.var(0), rtol=2e-5)


def test_the_order_and_the_sizes_of_the_batches_do_not_matter():
    samples = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    whole, pieces, backwards = (
        merge(np.split(x, cuts))
        for x, cuts in ((samples, []), (samples, [1, 2, 30, 59]), (samples[::-1], [7]))
    )
    for other in (pieces, backwards):
        np.testing.assert_allclose(other.mean.value, whole.mean.value, atol=1e-6)
        np.testing.assert_allclose(other.variance.value, whole.variance.value, rtol=1e-5)


def test_leading_axes_of_a_batch_are_all_samples():
    x = np.random.default_rng(1).normal(size=(5, 3, 2)).astype(np.float32)
    moments = moments_update(moments_init((2,)), jnp.asarray(x))
    assert moments.count.value == 15
    np.testing.assert_allclose(moments.mean.value, x.reshape(15, 2).mean(0), atol=1e-6)


def test_before_anything_is_seen_the_mean_is_zero_and_the_variance_one():
    moments = moments_init((3,))
    np.testing.assert_array_equal(moments.mean.value, np.zeros(3))
    np.testing.assert_array_equal(moments.variance.value, np.ones(3))
    x = np.array([[-2.0, 0.5, 3.0]], np.float32)
    np.testing.assert_allclose(normaliser(moments, 10.0)(x), x, rtol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 7.0, -1e6])
def test_constant_inputs_stay_finite_and_are_scaled_to_zero(constant):
    x = np.full((8, 2), constant, np.float32)
    moments = merge([x[:1], x, x])
    np.testing.assert_array_equal(moments.mean.value, x[0])
    np.testing.assert_array_equal(moments.variance.value, np.zeros(2))
    scaler = normaliser(moments, 10.0)
    np.testing.assert_array_equal(scaler(jnp.asarray(x)), np.zeros((8, 2)))
    other = np.asarray(scaler(jnp.asarray(x + 1)))  # what was never seen is far away, but finite
    np.testing.assert_array_equal(other, np.full((8, 2), 10.0))


def without_errors(moments):
    """What plain float32 would have kept."""
    return jax.tree.map(
        lambda number: Compensated(number.value, 0 * number.error),
        moments,
        is_leaf=lambda node: isinstance(node, Compensated),
    )


@pytest.fixture(scope="module")
def long_stream():
    """`stream(drifting, compensated)`: 10^8 numbers of mean near 1000 and deviation 1, and the exact moments.

    Where it drifts, each batch of the pool is seen 1600 times before the next, and the mean climbs from 1000
    to 1004; where not, the batches follow each other round and round.
    """
    noise = np.random.default_rng(2).normal(size=(2, POOL, 1000, 1))
    climb = np.linspace(0, 4, POOL)[:, None, None]
    pools = [(1000 + noise[0]).astype(np.float32), (1000 + climb + noise[1]).astype(np.float32)]

    @jax.jit
    def run(pool, drifting, compensated):
        def one(i, moments):
            index = jnp.where(drifting, i // (LONG // POOL), i % POOL)
            moments = moments_update(moments, pool[index])
            plain = without_errors(moments)
            return jax.tree.map(lambda a, b: jnp.where(compensated, a, b), moments, plain)

        return jax.lax.fori_loop(0, LONG, one, moments_init((1,)))

    def stream(drifting, compensated=True):
        pool = pools[drifting]
        exact = pool.astype(np.float64)
        return run(pool, drifting, compensated), exact.mean(), exact.var()

    return stream


@pytest.mark.parametrize("drifting", [False, True])
def test_a_hundred_million_samples_leave_the_mean_and_the_variance_right(long_stream, drifting):
    moments, mean, variance = long_stream(drifting)
    assert moments.count.value == LONG * 1000
    assert abs(moments.mean.value[0] - mean) < 1e-4  # float32 has steps of 6e-5 there
    np.testing.assert_allclose(moments.variance.value, variance, rtol=3e-5)


def test_plain_float32_statistics_would_be_wrong_after_as_many_samples(long_stream):
    """Else the test above would not show that the rounding errors are kept."""
    moments, mean, variance = long_stream(True, compensated=False)
    assert abs(moments.mean.value[0] - mean) > 1e-2
    assert abs(moments.variance.value[0] / variance - 1) > 1e-3


def test_a_count_goes_on_beyond_what_float32_can_count_one_by_one():
    start = Moments(
        Compensated(jnp.float32(2**24), jnp.float32(0)), *moments_init((1,))[1:]
    )  # in float32, 2**24 + 1 is 2**24
    add = jax.jit(lambda m: jax.lax.fori_loop(0, 1001, lambda _, m: moments_update(m, jnp.zeros((1, 1))), m))
    count = add(start).count
    assert int(count.value) + int(count.error) == 2**24 + 1001


def test_a_compensated_sum_keeps_what_a_plain_one_loses():
    number = Compensated(jnp.float32(1e8), jnp.float32(0))
    for x in (1.0, 1.5, -0.25, 2.0):
        number = compensated_add(number, jnp.float32(x))
    assert np.float64(number.value) + np.float64(number.error) == 1e8 + 4.25


def test_the_normaliser_centres_scales_and_clips():
    rng = np.random.default_rng(3)
    samples = (np.array([5, -50]) + np.array([0.1, 30]) * rng.normal(size=(400, 2))).astype(np.float32)
    scaler = normaliser(merge([samples]), 2.0)
    exact = (samples - samples.mean(0, dtype=np.float64)) / samples.std(0, dtype=np.float64)
    actual = np.asarray(scaler(jnp.asarray(samples)))
    np.testing.assert_allclose(actual, np.clip(exact, -2, 2), rtol=1e-4, atol=1e-4)
    assert actual.max() == 2
    assert actual.min() == -2


def test_the_normaliser_gives_the_same_bits_in_numpy_compiled_and_not():
    rng = np.random.default_rng(4)
    scaler = normaliser(merge([rng.normal(3, 7, (50, 6)).astype(np.float32)], 6), 1.5)
    x = rng.normal(3, 7, (200, 6)).astype(np.float32)
    in_numpy = jax.device_get(scaler)(x)
    assert isinstance(in_numpy, np.ndarray)
    assert in_numpy.dtype == np.float32
    np.testing.assert_array_equal(in_numpy, scaler(jnp.asarray(x)))
    np.testing.assert_array_equal(in_numpy, jax.jit(lambda scaler, x: scaler(x))(scaler, x))
