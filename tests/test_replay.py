"""The replay buffer: what it holds after any number of rollouts is what lists of the last steps hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advantage.replay.frames import Frames
from advantage.replay.ring import Transition, replay_add, replay_init, replay_sample, transitions_at
from advantage.replay.sequences import replay_sequences, sequences_at
from advantage.types import Rollout

OBS = {"pixels": jax.ShapeDtypeStruct((2, 3), np.uint8), "speed": jax.ShapeDtypeStruct((), np.float32)}
ACTION = (jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((2,), np.float32))
GAMMA = 0.9


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


class Play:
    """Rollouts that follow each other: an observation is the successor of the one before, but for ends of episodes."""

    observation = OBS

    def __init__(self, num_envs, seed=0, rate=0.3):
        self.rng, self.num_envs, self.rate = np.random.default_rng(seed), num_envs, rate
        self.obs = self.first()
        self.steps = []  # every transition so far: row by row, then by environment

    def draw(self, like):
        def leaf(x):
            return self.rng.integers(0, 256, (self.num_envs, *x.shape)).astype(x.dtype)

        return jax.tree.map(leaf, like)

    def first(self):
        return self.draw(self.observation)

    def following(self, obs):
        return self.draw(self.observation)

    def rollout(self, steps):
        rows, extras = [], []
        for _ in range(steps):
            next_obs, action = self.following(self.obs), self.draw(ACTION)
            reward = self.rng.normal(size=self.num_envs)
            terminated, truncated = self.rng.uniform(size=(2, self.num_envs)) < self.rate / 2
            row = (self.obs, action, reward.astype(np.float32), next_obs, terminated, truncated)
            rows.append(row)
            extras.append({"log_prob": np.sin(np.arange(self.num_envs) + len(self.steps), dtype=np.float32)})
            self.steps.append([jax.tree.map(lambda x, b=b: x[b], row) for b in range(self.num_envs)])
            reset, ended = self.first(), terminated | truncated

            def go_on(new, old, ended=ended):
                return np.where(ended.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

            self.obs = jax.tree.map(go_on, reset, next_obs)
        return Rollout(*stacked(rows), extras=stacked(extras))

    def window(self, row, env, n):
        """The definition, one step after the other."""
        total, discount = 0.0, 1.0
        for step in self.steps[row : row + n]:
            _, _, reward, next_obs, terminated, truncated = step[env]
            total, discount = total + discount * np.float64(reward), discount * GAMMA
            if terminated or truncated:
                break
        obs, action = self.steps[row][env][:2]
        return Transition(obs, action, np.float32(total), np.float32(discount * (not terminated)), next_obs)


add = jax.jit(replay_add)
at = jax.jit(functools.partial(transitions_at, gamma=GAMMA), static_argnames="n")


def begin(capacity, num_envs):
    return replay_init(OBS, ACTION, capacity=capacity, num_envs=num_envs)


def held(replay, n=1):
    """Every transition that can be drawn, oldest first."""
    rows = at(replay, np.arange(int(replay.stored)), n=n)
    return [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), rows) for i in range(int(replay.stored))]


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert x.dtype == np.asarray(y).dtype
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


SIZES = [
    (2, 12, [3, 3, 3]),
    (2, 7, [2, 2, 2, 2]),
    (2, 6, [3, 3]),
    (3, 20, [4, 1, 4, 5]),
    (1, 3, [7, 1, 5]),
    (1, 1, [2, 1]),
]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9], ids=lambda rate: f"ends {rate}")
@pytest.mark.parametrize(("num_envs", "capacity", "steps"), SIZES, ids=str)
def test_it_holds_the_last_transitions(num_envs, capacity, steps, rate, n):
    """Rollouts smaller than the buffer, as large, and larger; windows that meet ends and the newest row."""
    replay, play = begin(capacity, num_envs), Play(num_envs, rate=rate)
    assert int(replay.stored) == 0
    for number in steps:
        replay = add(replay, play.rollout(number))
        rows = min(len(play.steps), capacity // num_envs)
        assert int(replay.stored) == rows * num_envs
        first = len(play.steps) - rows
        expected = [play.window(first + r, env, n) for r in range(rows) for env in range(num_envs)]
        assert_same(held(replay, n), expected)


def test_ends_that_do_not_fit_shorten_the_buffer():
    """Room for 256 ends: where every step ends an episode, 256 steps are left."""
    replay, play = begin(1000, 1), Play(1, rate=2.0)
    for number in (200, 1, 100, 700, 1100):
        replay = add(replay, play.rollout(number))
        assert int(replay.stored) == min(256, len(play.steps))
        first = len(play.steps) - int(replay.stored)
        assert_same(
            held(replay)[::50], [play.window(first + r, 0, 1) for r in range(0, int(replay.stored), 50)]
        )
    play.rate = 0.0
    replay = add(replay, play.rollout(1000))
    assert int(replay.stored) == 1000


def test_what_is_drawn_is_uniform_over_what_is_stored():
    replay = add(begin(10, 2), Play(2, rate=0.0).rollout(3))  # 6 of 10
    replay = replay._replace(reward=jnp.arange(10.0).reshape(5, 2))
    sample = jax.jit(functools.partial(replay_sample, gamma=GAMMA), static_argnums=2)
    counts = np.bincount(sample(replay, jax.random.key(0), 60_000).reward.astype(int), minlength=10)
    assert counts[6:].sum() == 0
    # chi-squared with 5 degrees of freedom: 20.5 is exceeded once in a thousand
    assert ((counts[:6] - 10_000) ** 2 / 10_000).sum() < 20.5


def test_an_empty_buffer_gives_zeros():
    rows = replay_sample(begin(4, 1), jax.random.key(2), 3, gamma=GAMMA)
    assert all(len(leaf) == 3 for leaf in jax.tree.leaves(rows))
    assert not any(
        leaf.any() for leaf in jax.tree.leaves((rows.obs, rows.action, rows.reward, rows.next_obs))
    )


def test_buffers_side_by_side_are_each_alone():
    rings = jax.vmap(lambda _: begin(10, 2))(jnp.arange(2))
    first, second = Play(2, seed=3).rollout(2), Play(2, seed=4).rollout(2)
    rings = jax.vmap(replay_add)(rings, jax.tree.map(lambda *leaves: np.stack(leaves), first, second))
    for i, alone in enumerate((first, second)):
        one = add(begin(10, 2), alone)
        assert_same(held(jax.tree.map(lambda leaf, i=i: leaf[i], rings)), held(one))


def test_written_in_place_where_the_old_buffer_is_given_away():
    """Else every update of a run would copy the buffer."""
    replay = jax.tree.map(jnp.copy, begin(1000, 2))
    before = replay.obs["pixels"].unsafe_buffer_pointer()
    after = jax.jit(replay_add, donate_argnums=0)(replay, Play(2).rollout(4))
    assert after.obs["pixels"].unsafe_buffer_pointer() == before


def test_it_takes_what_its_numbers_take():
    """An observation once, an action, a reward, two flags and the place of the end; room for ends besides."""
    replay = begin(100_000, 4)
    nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(replay))
    one = (6 + 4) + (4 + 8) + 4 + 1 + 1
    assert nbytes < 1.25 * 100_000 * one


def test_a_buffer_that_cannot_be():
    with pytest.raises(
        ValueError, match=r"buffer of 3 transitions is not allowed with 4 environments; use 4"
    ):
        begin(3, 4)
    with pytest.raises(
        ValueError, match=r"buffer of 10_000_000_000_000 transitions of .* bytes each takes .* smaller"
    ):
        jax.jit(lambda: begin(10_000_000_000_000, 1))()


def sequence(play, row, env, length, head):
    """The definition: `length` steps from `row` on, and beyond the newest row the newest again."""
    rows = [min(row + k, head - 1) for k in range(length)]
    obs, action, reward, next_obs, terminated, truncated = stacked([play.steps[r][env] for r in rows])
    extras = {"log_prob": np.sin(env + np.asarray(rows), dtype=np.float32)}
    mask = np.arange(row, row + length) < head
    return obs, action, reward, terminated, truncated, next_obs, extras, mask


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize(("num_envs", "capacity", "steps"), SIZES, ids=str)
def test_sequences_are_successive_steps_of_one_environment(num_envs, capacity, steps, length):
    """With ends inside, a full buffer, the write head anywhere, and the newest row inside."""
    extras = {"log_prob": jax.ShapeDtypeStruct((), np.float32)}
    replay = replay_init(OBS, ACTION, capacity=capacity, num_envs=num_envs, extras=extras)
    play, sequences = Play(num_envs), jax.jit(functools.partial(sequences_at, length=length))
    for number in steps:
        replay = add(replay, play.rollout(number))
        count, head = int(replay.stored), len(play.steps)
        first = head - count // num_envs
        found = jax.tree.map(np.asarray, sequences(replay, np.arange(capacity) % count))
        for i in range(count):
            expected = sequence(play, first + i // num_envs, i % num_envs, length, head)
            jax.tree.map(
                np.testing.assert_array_equal, jax.tree.map(lambda x, i=i: x[:, i], tuple(found)), expected
            )


def test_sequences_are_drawn_from_what_is_stored():
    replay = add(begin(10, 2), Play(2, rate=0.0).rollout(3))  # 6 of 10
    rows = replay_sequences(replay, jax.random.key(0), 600, length=2)
    begun = [np.flatnonzero((np.asarray(replay.reward) == reward).ravel())[0] for reward in rows.reward[0]]
    assert set(begun) == set(range(6))
    assert (np.asarray(rows.mask.sum(0)) == np.where(np.asarray(begun) < 4, 2, 1)).all()
    empty = replay_sequences(begin(4, 1), jax.random.key(1), 3, length=2)
    assert not empty.mask.any() and empty.extras == ()


# -- stacks: every frame is stored once ------------------------------------------------------------------------------

FRAMES = Frames((3, 1, 2))
STACKS = {
    "a": jax.ShapeDtypeStruct((3, 2, 3), np.uint8),
    "b": jax.ShapeDtypeStruct((4,), np.int8),
    "c": jax.ShapeDtypeStruct((2,), np.float32),
}


class StackedPlay(Play):
    """The same, but observations are stacks: one that follows drops the oldest frame, the first repeats its frame."""

    observation = STACKS

    def first(self):
        drawn = self.draw(STACKS)
        return {
            name: x if count == 1 else np.repeat(x[:, :1], count, axis=1)
            for (name, x), count in zip(drawn.items(), FRAMES.counts, strict=True)
        }

    def following(self, obs):
        drawn = self.draw(STACKS)
        return {
            name: x if count == 1 else np.concatenate([obs[name][:, 1:], x[:, :1]], axis=1)
            for (name, x), count in zip(drawn.items(), FRAMES.counts, strict=True)
        }


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9], ids=lambda rate: f"ends {rate}")
@pytest.mark.parametrize(
    ("num_envs", "capacity", "steps"),
    [
        (2, 12, [3, 3, 3]),
        (2, 7, [2, 2, 2, 2]),
        (3, 20, [4, 1, 4, 5]),
        (1, 5, [7, 1, 5]),
        (1, 3, [1, 1, 1, 1, 2]),
    ],
    ids=str,
)
def test_stacks_are_put_together_from_frames(num_envs, capacity, steps, rate, n):
    """The oldest rows only complete later stacks. Windows meet ends, the newest row and the write head."""
    replay = replay_init(STACKS, ACTION, capacity=capacity, num_envs=num_envs, frames=FRAMES)
    assert replay.obs["a"].shape[2:] == (2, 3) and replay.finals["c"].shape[1:] == ()
    play, sequences = StackedPlay(num_envs, rate=rate), jax.jit(functools.partial(sequences_at, length=3))
    for number in steps:
        replay = add(replay, play.rollout(number))
        rows = max(min(len(play.steps), capacity // num_envs) - 2, 0)
        assert int(replay.stored) == rows * num_envs
        first = len(play.steps) - rows
        expected = [play.window(first + r, env, n) for r in range(rows) for env in range(num_envs)]
        assert_same(held(replay, n), expected)
        if rows:
            found = sequences(replay, np.arange(rows * num_envs))
            for i in range(rows * num_envs):
                parts = sequence(play, first + i // num_envs, i % num_envs, 3, len(play.steps))
                left, right = (found.obs, found.next_obs), (parts[0], parts[5])
                jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[:, i], y), left, right)


def test_a_buffer_smaller_than_a_stack():
    with pytest.raises(
        ValueError, match=r"5 transitions .* 2 environments and stacks of 3 observations; use 6 or more"
    ):
        replay_init(STACKS, ACTION, capacity=5, num_envs=2, frames=FRAMES)


def test_a_million_frames_of_atari_take_little_more_than_their_pixels():
    """7.3 GB, where stacks of four would take 28."""
    stack = jax.ShapeDtypeStruct((4, 84, 84), np.uint8)
    action = jax.ShapeDtypeStruct((), np.int32)
    replay = replay_init(stack, action, capacity=100_000, num_envs=1, frames=Frames((4,)))
    assert 10 * sum(leaf.nbytes for leaf in jax.tree.leaves(replay)) < 7.3e9


@pytest.mark.parametrize("kind", [Play, StackedPlay])
def test_an_environment_that_begins_anew_between_two_rollouts(kind):
    """As where a run is resumed and an episode cannot be: what was not seen is no successor, and no window crosses."""
    play = kind(2, rate=0.0)
    replay = replay_init(
        play.observation, ACTION, capacity=24, num_envs=2, frames=FRAMES if kind is StackedPlay else Frames()
    )
    rollout = play.rollout(4)
    rollout.terminated[-1, 0] = True  # of the other environment, whose next episode begins as it should
    play.steps[-1][0] = (*play.steps[-1][0][:4], True, False)
    replay = add(replay, rollout)
    begun = play.first()
    play.obs = begun
    last = play.steps[-1][1]
    play.steps[-1][1] = (*last[:5], True)  # truncated
    for number in (1, 4, 5):
        replay = add(replay, play.rollout(number))
        rows = int(replay.stored) // 2
        first = len(play.steps) - rows
        expected = [play.window(first + r, env, 3) for r in range(rows) for env in range(2)]
        assert_same(held(replay, 3), expected)
    assert int(replay.truncated.sum()) == 1


def test_what_a_method_keeps_besides_counts_in_the_size():
    one, many = jax.ShapeDtypeStruct((), np.float32), jax.ShapeDtypeStruct((49,), np.float32)
    with pytest.raises(ValueError, match=r"transitions of 214 bytes each"):
        replay_init(one, one, capacity=10**13, num_envs=1, extras={"memory": many})


def test_a_buffer_of_short_episodes_has_room_for_their_ends():
    """All of 40,000 transitions in episodes of 5 steps, if that is said; else the oldest rows make room for ends."""
    number, steps = 500, 5
    last = jnp.zeros((steps, number), bool).at[-1].set(True)
    rewards, obs = jnp.zeros((steps, number)), jnp.zeros((steps, number, 1))
    rollout = Rollout(obs, jnp.zeros((steps, number), jnp.int32), rewards, obs, last, last & False)
    stored = {}
    for longest in (steps, None):
        one = jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
        replay = replay_init(*one, capacity=40_000, num_envs=number, longest_episode=longest)
        replay = jax.jit(lambda x: jax.lax.fori_loop(0, 17, lambda i, x: replay_add(x, rollout), x))(replay)
        stored[longest] = int(replay.stored)
    assert stored[steps] == 40_000 and stored[None] < 20_000
