"""The shuffle of minibatches: every order equally likely, nothing lost."""

import math

import jax
import numpy as np
import pytest
from scipy import stats

from advantage.algorithms.permutation import random_permutation


def draw(n, times, seed=0):
    keys = jax.random.split(jax.random.key(seed), times)
    return np.asarray(jax.jit(jax.vmap(lambda key: random_permutation(key, n)))(keys))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 63, 64, 65, 1000, 1024])
def test_every_number_comes_once(n):
    orders = draw(n, 50)
    assert orders.dtype == np.int32
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.broadcast_to(np.arange(n), (50, n)))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_every_order_is_equally_likely(n):
    orders = draw(n, 200_000)
    _, counts = np.unique(orders @ n ** np.arange(n), return_counts=True)
    assert len(counts) == math.factorial(n)
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("n", [100, 256])
def test_places_and_neighbours_are_uniform(n):
    orders = draw(n, 20_000)
    for place in (0, n // 3, n - 1):
        assert stats.chisquare(np.bincount(orders[:, place], minlength=n)).pvalue > 1e-4
    for first, second in ((0, 1), (1, n // 2), (n - 2, n - 1)):
        steps = np.bincount((orders[:, second] - orders[:, first]) % n, minlength=n)
        assert steps[0] == 0 and stats.chisquare(steps[1:]).pvalue > 1e-4
    successors = (np.diff(orders, axis=1) == 1).sum()
    mean = 20_000 * (n - 1) / n
    assert abs(successors - mean) < 4 * math.sqrt(mean)


def test_a_large_one():
    order = draw(100_003, 1)[0]
    np.testing.assert_array_equal(np.sort(order), np.arange(100_003))
    assert abs(np.corrcoef(order, np.arange(100_003))[0, 1]) < 4 / math.sqrt(100_003)
