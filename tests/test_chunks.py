"""Large batches in pieces: every sample once, and the numbers of the batch as a whole."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advantage.algorithms import chunks
from advantage.algorithms.chunks import map_chunks

rng = np.random.default_rng(0)


def draw(*shape):
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("rows", "pieces"),
    [(1, 1), (7, 1), (8, 1), (9, 3), (16, 2), (18, 3), (64, 8), (23, 1), (26, 1)],
    ids=lambda n: str(n),
)
def test_pieces_are_of_at_most_so_many_rows_and_every_row_comes_once(rows, pieces, monkeypatch):
    """23 rows have no divisor, 26 none that makes four to eight pieces: they stay whole."""
    monkeypatch.setattr(chunks, "ROWS", 8)
    batch = {"x": draw(rows, 3), "y": np.arange(rows)}
    seen = map_chunks(lambda piece: {"sum": piece["x"].sum(-1), "y": piece["y"]}, batch)
    assert seen["y"].shape == (pieces, rows // pieces)
    np.testing.assert_array_equal(seen["y"].ravel(), batch["y"])
    np.testing.assert_allclose(seen["sum"].ravel(), batch["x"].sum(-1), rtol=1e-5, atol=1e-6)


def test_only_a_cpu_has_pieces(monkeypatch):
    monkeypatch.setattr(chunks, "ROWS", 8)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert map_chunks(operator.neg, draw(64)).shape == (1, 64)


def test_the_mean_gradient_of_the_pieces_is_the_gradient():
    x, y, w = draw(3 * chunks.ROWS, 5), draw(3 * chunks.ROWS), draw(5)

    def gradient(batch):
        return jax.grad(lambda w: jnp.square(batch[0] @ w - batch[1]).mean())(w)

    parts = map_chunks(gradient, (x, y))
    assert parts.shape == (3, 5)
    np.testing.assert_allclose(parts.mean(0), gradient((x, y)), rtol=1e-5)


def test_an_update_with_large_minibatches_is_that_without_pieces(monkeypatch):
    from test_ppo import begin, play, quick_jit, tiny

    rows = 2 * chunks.ROWS
    ppo = tiny(n_steps=rows, batch_size=rows, n_epochs=2, target_kl=None, clip_range_vf=None)
    state = begin(ppo)
    rollout = play(ppo, state, 0)
    learned = []
    for limit in (chunks.ROWS, 4 * rows):
        monkeypatch.setattr(chunks, "ROWS", limit)
        program = quick_jit(lambda *given: ppo.update(*given))
        new, metrics = program(state, rollout, jax.random.key(0))
        learned.append(jax.device_get((new.params, metrics)))
    assert (
        np.abs(learned[0][0]["critic"]["head"]["weight"] - state.params["critic"]["head"]["weight"]).max()
        > 1e-3
    )
    for pieces, whole in zip(*map(jax.tree.leaves, learned), strict=True):
        np.testing.assert_allclose(pieces, whole, rtol=1e-3, atol=2e-5)
