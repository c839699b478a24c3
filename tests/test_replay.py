"""The ring: what it holds after any number of rollouts is what a list of the last C transitions holds."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advantage.replay.ring import Transition, replay_add, replay_init, replay_sample
from advantage.types import Rollout

ENVS = 2
EXAMPLE = Transition(
    obs={"pixels": jax.ShapeDtypeStruct((2, 3), np.uint8), "speed": jax.ShapeDtypeStruct((), np.float32)},
    action=(jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((2,), np.float32)),
    reward=jax.ShapeDtypeStruct((), np.float32),
    next_obs={
        "pixels": jax.ShapeDtypeStruct((2, 3), np.uint8),
        "speed": jax.ShapeDtypeStruct((), np.float32),
    },
    terminated=jax.ShapeDtypeStruct((), np.bool_),
)


def rollout(steps, seed):
    rng = np.random.default_rng(seed)

    def leaf(like):
        numbers = rng.integers(0, 256, (steps, ENVS, *like.shape))
        return (numbers % 2 if like.dtype == bool else numbers).astype(like.dtype)

    facts = jax.tree.map(leaf, EXAMPLE)
    truncated = rng.uniform(size=(steps, ENVS)) < 0.5
    return Rollout(facts.obs, facts.action, facts.reward, facts.next_obs, facts.terminated, truncated)


def transitions(rollout):
    """One by one: time first, then environments."""
    stored = Transition(rollout.obs, rollout.action, rollout.reward, rollout.next_obs, rollout.terminated)
    return [
        jax.tree.map(lambda leaf, t=t, b=b: leaf[t, b], stored)
        for t in range(len(rollout.reward))
        for b in range(ENVS)
    ]


def held(replay):
    """What the ring holds, oldest first."""
    capacity, stored = len(replay.rows.reward), int(replay.stored)
    order = (int(replay.place) - stored + np.arange(stored)) % capacity
    return [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), replay.rows) for i in order]


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


add = jax.jit(replay_add)


@pytest.mark.parametrize(
    ("capacity", "steps"),
    [(12, [3, 3, 3]), (7, [2, 2, 2, 2]), (6, [3, 3]), (5, [4, 1, 4]), (3, [7, 1, 5]), (1, [2, 1]), (8, [4])],
    ids=str,
)
def test_the_ring_holds_the_last_transitions_in_order(capacity, steps):
    """Rollouts smaller than the ring, as large, and larger; ends that fall on its edge and beside it."""
    replay, expected = replay_init(EXAMPLE, capacity), collections.deque(maxlen=capacity)
    assert_same(held(replay), [])
    for seed, number in enumerate(steps):
        new = rollout(number, seed)
        replay = add(replay, new)
        expected.extend(transitions(new))
        assert_same(held(replay), list(expected))


def test_what_is_drawn_is_uniform_over_what_is_stored():
    replay = add(replay_init(EXAMPLE, 10), rollout(3, 0))  # 6 of 10 rows
    replay = replay._replace(rows=replay.rows._replace(reward=jnp.arange(10.0)))
    rows = jax.jit(replay_sample, static_argnums=2)(replay, jax.random.key(0), 60_000)
    counts = np.bincount(rows.reward.astype(int), minlength=10)
    assert counts[6:].sum() == 0
    # chi-squared with 5 degrees of freedom: 20.5 is exceeded once in a thousand
    assert ((counts[:6] - 10_000) ** 2 / 10_000).sum() < 20.5


def test_a_row_is_drawn_whole():
    replay = add(replay_init(EXAMPLE, 64), rollout(32, 1))
    every = {row.obs["pixels"].tobytes(): row for row in held(replay)}
    rows = replay_sample(replay, jax.random.key(1), 50)
    for i in range(50):
        row = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), rows)
        assert_same([row], [every[row.obs["pixels"].tobytes()]])


def test_an_empty_ring_gives_zeros():
    rows = replay_sample(replay_init(EXAMPLE, 4), jax.random.key(2), 3)
    assert all(not leaf.any() and len(leaf) == 3 for leaf in jax.tree.leaves(rows))


def test_rings_side_by_side_are_each_alone():
    rings = jax.vmap(lambda _: replay_init(EXAMPLE, 5))(jnp.arange(2))
    first, second = rollout(2, 3), rollout(2, 4)
    rings = jax.vmap(replay_add)(rings, jax.tree.map(lambda *leaves: np.stack(leaves), first, second))
    for i, alone in enumerate((first, second)):
        one = add(replay_init(EXAMPLE, 5), alone)
        assert_same(held(jax.tree.map(lambda leaf, i=i: leaf[i], rings)), held(one))


def test_written_in_place_where_the_old_ring_is_given_away():
    """Else every update of a run would copy the ring."""
    replay = jax.tree.map(jnp.copy, replay_init(EXAMPLE, 1000))
    before = replay.rows.obs["pixels"].unsafe_buffer_pointer()
    after = jax.jit(replay_add, donate_argnums=0)(replay, rollout(4, 5))
    assert after.rows.obs["pixels"].unsafe_buffer_pointer() == before


def test_a_ring_that_cannot_be():
    with pytest.raises(ValueError, match=r"ring of 0 transitions is not allowed; use 1 or more"):
        replay_init(EXAMPLE, 0)
    begin = functools.partial(replay_init, EXAMPLE)
    with pytest.raises(
        ValueError, match=r"ring of 10_000_000_000_000 transitions of 37 bytes each takes .* smaller"
    ):
        jax.jit(begin, static_argnums=0)(10_000_000_000_000)
