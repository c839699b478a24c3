"""Prioritised replay: the tree against sums in float64, priorities and draws against the definition."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_replay import GAMMA, SIZES, Play, add, begin

from advantage.replay.prioritised import (
    Priorities,
    priorities_add,
    priorities_init,
    priorities_sample,
    priorities_update,
)
from advantage.replay.ring import transitions_at
from advantage.replay.sum_tree import (
    sum_tree_draw,
    sum_tree_init,
    sum_tree_largest,
    sum_tree_leaves,
    sum_tree_set,
    sum_tree_total,
)

ALPHA, EPSILON = 0.6, 1e-3
set_leaves, draw_leaves = jax.jit(sum_tree_set), jax.jit(sum_tree_draw)
draw = jax.jit(priorities_sample, static_argnums=3)
learn = jax.jit(functools.partial(priorities_update, alpha=ALPHA, epsilon=EPSILON))
note = jax.jit(priorities_add, static_argnames="steps")


def tree_of(values):
    values = np.asarray(values, np.float32)
    return set_leaves(sum_tree_init(len(values)), np.arange(len(values)), values)


def assert_rows_join_their_children(tree):
    tree = np.asarray(tree)
    parents, children = tree[1 : len(tree) // 2], tree[2:].reshape(-1, 2, 2)
    np.testing.assert_array_equal(parents[:, 0], children[:, 0, 0] + children[:, 1, 0])
    np.testing.assert_array_equal(parents[:, 1], children[:, :, 1].max(1))


@pytest.mark.parametrize("leaves", [1, 2, 3, 40])
def test_the_tree_holds_what_was_set_last(leaves):
    """Leaves named several times in one call too: their largest value stays, in whatever order they come."""
    rng, tree, expected = (
        np.random.default_rng(leaves),
        sum_tree_init(leaves),
        np.zeros((leaves, 2), np.float32),
    )
    for _ in range(30):
        index = rng.integers(0, leaves, 10)
        rows = np.exp(rng.normal(size=(10, 2)) * 10).astype(np.float32) * (rng.random((10, 1)) < 0.7)
        expected[index] = 0
        np.maximum.at(expected, index, rows)
        tree = set_leaves(tree, index, rows[:, 0], rows[:, 1])
        np.testing.assert_array_equal(sum_tree_leaves(tree, np.arange(leaves)), expected)
        assert_rows_join_their_children(tree)
        np.testing.assert_allclose(sum_tree_total(tree), expected[:, 0].astype(float).sum(), rtol=1e-6)
        assert sum_tree_largest(tree) == expected[:, 1].max()


@pytest.mark.parametrize("leaves", [1, 5, 300])
def test_a_draw_is_the_leaf_in_which_the_fraction_lies(leaves):
    values = np.random.default_rng(leaves).integers(0, 5, leaves) + np.eye(leaves, dtype=int)[leaves // 2]
    total = values.sum()
    fractions = (np.arange(total) + 0.5) / total
    found = draw_leaves(tree_of(values), fractions.astype(np.float32))
    np.testing.assert_array_equal(found, np.repeat(np.arange(leaves), values))


def test_what_has_no_value_is_never_drawn():
    """Where rounding moves a fraction beyond the last leaf that has one, or between two, too."""
    rng = np.random.default_rng(0)
    below_one = np.float32(1) - np.float32(2.0**-24)
    u = np.concatenate([[0, below_one, below_one], rng.random(2000)]).astype(np.float32)
    rest = np.concatenate([[0, 0, 2.0**-24], rng.random(2000) * 2.0**-24]).astype(np.float32)
    for trial in range(20):
        values = np.exp(rng.normal(size=100) * (trial % 4) * 8) * (rng.random(100) < 0.3)
        values[rng.integers(100)] = 1
        drawn = np.asarray(draw_leaves(tree_of(values), u, rest))
        assert (values[drawn].astype(np.float32) > 0).all()
    assert not np.asarray(draw_leaves(sum_tree_init(100), u, rest)).any()


def test_fractions_have_more_digits_than_one_number():
    """1,023 leaves side by side in less than the last digit of a fraction: the second number tells them apart."""
    values = np.full(1024, 0.5)
    values[0] = 2.0**26
    total = np.float64(sum_tree_total(tree_of(values)))
    u = np.full(1000, 2.0**26 / total, np.float32)
    rest = ((np.arange(1000) + 0.5) * 0.5 / total).astype(np.float32)
    assert (np.diff(np.asarray(draw_leaves(tree_of(values), u, rest))) == 1).all()


class Reference:
    """Priorities by their definition: of each transition its priority, and whether that was measured."""

    def __init__(self):
        self.held = {}

    def add(self, before, after):
        until, overwritten = int(after.oldest), int(after.head) - after.num_rows
        self.held = {key: kept for key, kept in self.held.items() if key[0] >= until or key[0] < overwritten}
        assumed = max((priority for priority, measured in self.held.values() if measured), default=1.0)
        for row in range(int(before.head), int(after.head)):
            self.held |= {(row, env): (assumed, False) for env in range(after.num_envs)}
        self.held = {key: kept for key, kept in self.held.items() if key[0] >= until}

    def update(self, keys, td_error):
        priorities = (np.abs(td_error.astype(float)) + EPSILON) ** ALPHA
        largest = {key: max(p for k, p in zip(keys, priorities, strict=True) if k == key) for key in keys}
        self.held |= {key: (priority, True) for key, priority in largest.items()}

    def leaves(self, replay):
        values = np.zeros((replay.num_rows, replay.num_envs))
        for (row, env), (priority, _) in self.held.items():
            values[row % replay.num_rows, env] = priority
        return values.ravel()


def assert_agrees(priorities, reference, replay):
    expected = reference.leaves(replay)
    assert len(reference.held) == int(replay.stored)
    found = sum_tree_leaves(priorities.tree, np.arange(len(expected)))[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(priorities.total, expected.sum(), rtol=1e-5)
    assert_rows_join_their_children(priorities.tree)


def play_and_learn(capacity, num_envs, steps, rate, check):
    """Rollouts with updates between them, the reference beside; `check` sees each draw."""
    play, reference, rng = Play(num_envs, rate=rate), Reference(), np.random.default_rng(1)
    replay = begin(capacity, num_envs)
    priorities = priorities_init(replay)
    for number in steps:
        before, replay = replay, add(replay, play.rollout(number))
        priorities = note(priorities, before, replay, steps=number)
        reference.add(before, replay)
        assert_agrees(priorities, reference, replay)
        for _ in range(3):
            key = jax.random.key(rng.integers(1 << 30))
            drawn = draw(priorities, replay, key, 8, beta=0.4)
            rows, env = np.divmod(np.asarray(drawn.index), num_envs)
            rows = int(replay.oldest) + rows
            place = rows % replay.num_rows * num_envs + env
            np.testing.assert_array_equal(drawn.places, place)
            check(play, replay, drawn, reference.leaves(replay)[place], rows)
            td_error = rng.normal(size=8).astype(np.float32)
            priorities = learn(priorities, drawn.places, td_error)
            reference.update(list(zip(rows.tolist(), env.tolist(), strict=True)), td_error)
            assert_agrees(priorities, reference, replay)


@pytest.mark.parametrize(("num_envs", "capacity", "steps"), SIZES, ids=str)
def test_priorities_are_those_of_the_definition(num_envs, capacity, steps):
    """Rollouts smaller than the buffer, as large, and larger: with the write head anywhere."""

    def check(play, replay, drawn, priority, rows):
        stored = int(replay.stored)
        weights = (stored * priority) ** -0.4  # the sum of the priorities cancels
        np.testing.assert_allclose(drawn.weights, weights / weights.max(), rtol=1e-4)
        assert (rows >= int(replay.oldest)).all() and (rows < int(replay.head)).all()
        obs = transitions_at(replay, drawn.index, gamma=GAMMA).obs["speed"]
        env = np.asarray(drawn.index) % num_envs
        np.testing.assert_array_equal(
            obs, [play.steps[r][e][0]["speed"] for r, e in zip(rows, env, strict=True)]
        )

    play_and_learn(capacity, num_envs, steps, 0.5, check)


def test_what_short_episodes_push_out_has_no_priority():
    """Room for 256 ends: rows make room for them one by one, many at once, and rows of the same rollout."""
    play_and_learn(400, 1, (200, 1, 100, 300, 700, 1), 2.0, lambda *_: None)


def test_new_transitions_get_the_largest_priority_that_is_there():
    """It shrinks when the transition that had it is overwritten, or has a smaller error by now."""
    replay, play = begin(4, 1), Play(1)
    priorities = priorities_init(replay)
    assert priorities.assumed == 1

    def step(priorities, replay):
        after = add(replay, play.rollout(1))
        return note(priorities, replay, after, steps=1), after

    def values():
        return np.asarray(sum_tree_leaves(priorities.tree, np.arange(4))[:, 0])

    for _ in range(2):
        priorities, replay = step(priorities, replay)
    np.testing.assert_array_equal(values(), [1, 1, 0, 0])
    measure = functools.partial(priorities_update, alpha=1.0, epsilon=0.0)
    priorities = measure(priorities, np.array([0]), np.array([-9.0]))
    priorities, replay = step(priorities, replay)
    np.testing.assert_array_equal(values(), [9, 1, 9, 0])
    priorities = measure(priorities, np.array([0, 1]), np.array([0.25, 0.5]))
    priorities, replay = step(priorities, replay)
    np.testing.assert_array_equal(values(), [0.25, 0.5, 9, 0.5])  # 9 was assumed
    priorities, replay = step(priorities, replay)
    priorities, replay = step(priorities, replay)
    np.testing.assert_array_equal(values(), [0.5, 0.5, 9, 0.5])
    priorities, replay = step(priorities, replay)
    np.testing.assert_array_equal(values(), [0.5, 0.5, 1, 0.5])  # no measured one is left


def known(values):
    """A full buffer of two environments with known priorities, the write head in the middle."""
    replay, play = begin(len(values), 2), Play(2, rate=0.0)
    replay = add(add(replay, play.rollout(len(values) // 2)), play.rollout(2))
    return Priorities(tree_of(values)), replay


VALUES = np.array([3.0, 0.5, 0.0, 1.0, 2.5, 0.1, 6.0, 1.0, 0.0, 2.0])


def test_draws_are_in_proportion_to_priorities():
    priorities, replay = known(VALUES)
    keys = jax.random.split(jax.random.key(0), 40_000)
    places = jax.jit(jax.vmap(lambda key: priorities_sample(priorities, replay, key, 1, beta=1.0).places))(
        keys
    )
    there, expected = VALUES > 0, 40_000 * VALUES / VALUES.sum()
    counts = np.bincount(np.asarray(places).ravel(), minlength=len(VALUES))
    assert counts[~there].sum() == 0
    # chi-squared with 7 degrees of freedom: 24.3 is exceeded once in a thousand
    assert ((counts - expected)[there] ** 2 / expected[there]).sum() < 24.3


def test_a_batch_has_one_draw_in_each_equal_part_of_the_sum():
    priorities, replay = known(VALUES)
    bounds = np.concatenate([[0], VALUES.cumsum()]) / VALUES.sum() * 64
    for seed in range(20):
        places = np.asarray(draw(priorities, replay, jax.random.key(seed), 64, beta=1.0).places)
        low, high = bounds[places], bounds[places + 1]
        assert (low < np.arange(64) + 1.001).all() and (high > np.arange(64) - 0.001).all()


def test_full_weights_undo_the_priorities():
    """At beta = 1, `sum_i P(i) w_i g_i` is the uniform mean, but for the factor by which the batch is normalised."""
    priorities, replay = known(VALUES + 0.2)
    probability = (VALUES + 0.2) / (VALUES + 0.2).sum()
    drawn = draw(priorities, replay, jax.random.key(3), 4096, beta=1.0)
    weights, places = np.asarray(drawn.weights, float), np.asarray(drawn.places)
    factor = (1 / (len(VALUES) * probability[places])).max()
    weight_of = dict(zip(places.tolist(), (weights * factor).tolist(), strict=True))
    g = np.random.default_rng(0).normal(size=len(VALUES))
    total = sum(probability[i] * weight_of[i] * g[i] for i in range(len(VALUES)))
    np.testing.assert_allclose(total, g.mean(), rtol=1e-5)
    assert weights.max() == 1
    flat = draw(priorities, replay, jax.random.key(3), 64, beta=0.0)
    assert (np.asarray(flat.weights) == 1).all()


def test_an_empty_buffer_gets_no_priorities():
    replay = begin(6, 2)
    priorities = priorities_init(replay)
    drawn = draw(priorities, replay, jax.random.key(0), 5, beta=0.5)
    assert not np.asarray(drawn.index).any() and (np.asarray(drawn.weights) == 1).all()
    assert not np.asarray(learn(priorities, drawn.places, np.ones(5)).tree).any()


def updates(priorities, replay, key):
    """Fifty draws and updates in one program: `-> priorities, the sum of all weights`."""

    def one(i, carry):
        priorities, total = carry
        drawn = priorities_sample(priorities, replay, jax.random.fold_in(key, i), 16, beta=0.5)
        td_error = jnp.sin(drawn.index + i)
        learned = priorities_update(priorities, drawn.places, td_error, alpha=ALPHA, epsilon=EPSILON)
        return learned, total + drawn.weights.sum()

    return jax.lax.fori_loop(0, 50, one, (priorities, 0.0))


def test_updates_inside_a_compiled_loop_write_in_place():
    """The tree is never copied, and the numbers are those of one call after the other."""
    replay, play = begin(1000, 2), Play(2, rate=0.3)
    after = add(replay, play.rollout(450))
    priorities = note(priorities_init(replay), replay, after, steps=450)
    key = jax.random.key(5)
    compiled = jax.jit(updates, donate_argnums=0).lower(priorities, after, key).compile()
    shape = rf"f32\[{len(priorities.tree)},2\]"
    assert re.search(shape, compiled.as_text()) and not re.search(rf"= {shape}\S* copy\(", compiled.as_text())
    alone, total = priorities, 0.0
    for i in range(50):
        drawn = draw(alone, after, jax.random.fold_in(key, i), 16, beta=0.5)
        alone, total = learn(alone, drawn.places, jnp.sin(drawn.index + i)), total + drawn.weights.sum()
    learned, weights = compiled(priorities, after, key)
    np.testing.assert_allclose(learned.tree, alone.tree, rtol=1e-5)
    np.testing.assert_allclose(weights, total, rtol=1e-5)


def test_adding_writes_in_place():
    """Alone, and side by side, where one buffer may have rows to forget and the other none."""

    def three_more(priorities, before, after):
        return priorities_add(priorities, before, after, steps=3)

    replay = begin(1000, 2)
    given = priorities_init(replay), replay, add(replay, Play(2).rollout(3))
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), given)
    for adding, arguments in ((three_more, given), (jax.vmap(three_more), two)):
        program = jax.jit(adding, donate_argnums=0).lower(*arguments).compile().as_text()
        assert not re.search(r"= f32\[(2,)?2048,2\]\S* (copy|select)\(", program)


def test_priorities_side_by_side_are_each_alone():
    """One buffer is shortened by ends of episodes, the other is not."""

    def run(rollouts):
        replay = begin(300, 1)
        priorities = priorities_init(replay)
        for rollout in rollouts:
            after = add(replay, rollout)
            priorities = priorities_add(priorities, replay, after, steps=len(rollout.reward))
            drawn = priorities_sample(priorities, after, jax.random.key(1), 8, beta=0.5)
            priorities = priorities_update(priorities, drawn.places, drawn.weights, alpha=1.0)
            replay = after
        return priorities.tree

    plays = [
        [play.rollout(280), play.rollout(150)] for play in (Play(1, rate=2.0), Play(1, seed=1, rate=0.0))
    ]
    both = jax.jit(jax.vmap(run))(jax.tree.map(lambda *leaves: np.stack(leaves), *plays))
    for i, alone in enumerate(plays):
        np.testing.assert_allclose(both[i], jax.jit(run)(alone), rtol=1e-6)


def test_priorities_that_do_not_fit():
    large = jax.eval_shape(lambda: begin(10, 1))._replace(
        reward=jax.ShapeDtypeStruct((10**12, 1), np.float32)
    )
    with pytest.raises(ValueError, match=r"priorities of 1_000_000_000_000 transitions takes .* smaller"):
        priorities_init(large)
