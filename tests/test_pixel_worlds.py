"""The worlds of pixels against independent versions in NumPy: the same pictures, rewards and ends."""

from __future__ import annotations

import collections
import functools
import math

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advantage as adv
from advantage.cli import main
from advantage.environments.check import check_environment
from advantage.environments.make import environment_names, make, resolve
from advantage.environments.worlds.catch import Catch
from advantage.environments.worlds.min_breakout import MinBreakout
from advantage.environments.worlds.pendulum_pixels import rod_picture
from advantage.environments.worlds.pixels import CELL, COLOURS, picture
from advantage.policies.encoder import encoder

KEY = jax.random.key(0)
WORLDS = {"Catch-v0": (Catch(), (10, 5, 1)), "MinBreakout-v0": (MinBreakout(), (10, 10, 4))}
each_world = pytest.mark.parametrize("name", WORLDS)


BOARDS = 20


@functools.cache
def boards(world):
    """`reset` and `step` of many boards, with a number in place of the keys; `step` also begins new episodes."""

    def reset(number):
        return jax.vmap(world.reset)(jax.random.split(jax.random.fold_in(KEY, number), BOARDS))

    def step(state, action, number, stop):
        keys = jax.random.split(jax.random.fold_in(KEY, number), BOARDS)
        after, *outcome = jax.vmap(world.step)(state, action, keys)
        over = outcome[2] | stop
        fresh, obs = reset(-number)
        begun = jax.tree.map(
            lambda new, old: jnp.where(over.reshape(-1, *[1] * (old.ndim - 1)), new, old), fresh, after
        )
        return begun, obs, after, *outcome

    return jax.jit(reset), jax.jit(step)


class CatchOracle:
    """Catch as a picture that is redrawn: it knows only the column in which the ball begins."""

    def __init__(self, obs):
        self.ball, self.paddle = [0, int(obs[0, :, 0].argmax())], 2

    def picture(self):
        drawn = np.zeros((10, 5, 1), np.uint8)
        drawn[9, self.paddle] = drawn[tuple(self.ball)] = 255
        return drawn

    def step(self, action):
        if action == 0 and self.paddle > 0:
            self.paddle -= 1
        if action == 2 and self.paddle < 4:
            self.paddle += 1
        self.ball[0] += 1
        over = self.ball[0] == 9
        return (1.0 if self.ball[1] == self.paddle else -1.0) if over else 0.0, over


class BreakoutOracle:
    """Breakout with a set of bricks and named cases, from the rules."""

    FULL = frozenset((row, column) for row in (1, 2, 3) for column in range(10))

    def __init__(self, obs):
        self.from_left = bool(obs[4, 0, 1])
        self.ball = self.trail = (4, 0) if self.from_left else (4, 9)
        self.heading = ["down", "right" if self.from_left else "left"]
        self.paddle, self.bricks = 4, set(self.FULL)
        self.seen = collections.Counter()

    def picture(self):
        drawn = np.zeros((10, 10, 4), np.uint8)
        drawn[9, self.paddle, 0] = drawn[(*self.ball, 1)] = drawn[(*self.trail, 2)] = 255
        for row, column in self.bricks:
            drawn[row, column, 3] = 255
        return drawn

    def turn(self, axis):
        other = {"down": "up", "up": "down", "left": "right", "right": "left"}
        self.heading[axis] = other[self.heading[axis]]

    def step(self, action):
        self.paddle = min(9, max(0, self.paddle + (-1, 0, 1)[action]))
        row, column = self.trail = self.ball
        if (column, self.heading[1]) in [(0, "left"), (9, "right")]:
            self.turn(1)
            self.seen["wall"] += 1
        else:
            column += 1 if self.heading[1] == "right" else -1
        ahead = row + (1 if self.heading[0] == "down" else -1)
        reward, over = 0.0, False
        if ahead == -1:
            self.turn(0)
            self.seen["ceiling"] += 1
        elif (ahead, column) in self.bricks:
            self.bricks.remove((ahead, column))
            self.turn(0)
            reward = 1.0
            self.seen[f"brick in row {ahead}"] += 1
        elif ahead < 9:
            row = ahead
        else:
            if not self.bricks:
                self.bricks = set(self.FULL)
                self.seen["new wall"] += 1
            if self.trail[1] == self.paddle:
                self.turn(0)
                self.seen["paddle below"] += 1
            elif column == self.paddle:
                self.turn(0)
                self.turn(1)
                self.seen["paddle beside"] += 1
            else:
                row, over = 9, True
                self.seen["lost"] += 1
        self.ball = row, column
        return reward, over


def play_beside(world, oracle_of, choose, steps):
    """Play `steps` steps on each board: `-> how often the chosen action was replaced, oracles of all episodes`."""
    reset, step = boards(world)
    rng, replaced = np.random.default_rng(0), 0
    state, first = reset(0)
    playing = [oracle_of(obs) for obs in np.asarray(first)]
    oracles, last = [*playing], np.ones(BOARDS, int)
    for number in range(1, steps + 1):
        stop = number % 400 == 0  # new starts for a player who never loses the ball
        chosen = np.array([choose(oracle, rng) for oracle in playing])
        state, first, after, obs, reward, over = jax.device_get(step(state, chosen, number, stop))
        done = after.action if isinstance(world, MinBreakout) else chosen
        assert ((done == chosen) | (done == last)).all()
        replaced, last = replaced + (done != chosen).sum(), np.array(done)
        for board, oracle in enumerate(playing):
            assert (reward[board], over[board]) == oracle.step(done[board])
            assert (obs[board] == oracle.picture()).all()
            if over[board] or stop:
                playing[board], last[board] = oracle_of(first[board]), 1
                assert (first[board] == playing[board].picture()).all()
                oracles.append(playing[board])
    return replaced, oracles


def at_random(oracle, rng):
    return int(rng.integers(3))


def near_the_ball(oracle, rng):
    """To the ball's column, or to the one that the ball comes to next; seldom anywhere."""
    ahead = (1 if oracle.heading[1] == "right" else -1) * rng.integers(2)
    towards = int(np.sign(oracle.ball[1] + ahead - oracle.paddle)) + 1
    return int(rng.integers(3)) if rng.random() < 0.01 else towards


def test_catch_is_the_same_game_in_numpy():
    _, oracles = play_beside(Catch(), CatchOracle, at_random, 180)
    assert len(oracles) == BOARDS * 21
    columns = np.bincount([oracle.ball[1] for oracle in oracles])
    assert len(columns) == 5 and columns.min() > 50


@pytest.mark.parametrize(("choose", "steps"), [(at_random, 200), (near_the_ball, 800)])
def test_breakout_is_the_same_game_in_numpy(choose, steps):
    replaced, oracles = play_beside(MinBreakout(0.0), BreakoutOracle, choose, steps)
    seen = sum((oracle.seen for oracle in oracles), collections.Counter())
    assert replaced == 0 and {oracle.from_left for oracle in oracles} == {True, False}
    happens = ["wall", "brick in row 3", "paddle below", "paddle beside", "lost"]
    if choose is near_the_ball:
        happens += ["ceiling", "brick in row 2", "brick in row 1", "new wall"]
    assert min(seen[event] for event in happens) >= 5, seen


def test_breakout_repeats_one_action_in_ten():
    """A third of the repeated actions are the chosen ones by chance, so 2/3 of a tenth are seen."""
    replaced, _ = play_beside(MinBreakout(), BreakoutOracle, at_random, 200)
    assert replaced / (200 * BOARDS) == pytest.approx(0.1 * 2 / 3, abs=5 * np.sqrt(0.067 / (200 * BOARDS)))


def test_a_probability_of_one_is_refused():
    for wrong in (1.0, -0.1, float("nan"), "often"):
        with pytest.raises(
            ValueError, match=r"repeat_action_probability=.* is not allowed; use a number of 0"
        ):
            MinBreakout(wrong)  # pyright: ignore[reportArgumentType]


@each_world
def test_names_spaces_and_clock(name):
    world, shape = WORLDS[name]
    env = make(f"advantage/{name}")
    assert make(f"jax/{name}") == world and hash(make(f"jax/{name}")) == hash(world)
    assert world.gymnasium_id == f"advantage/{name}" == env.spec.id
    assert {f"jax/{name}", f"advantage/{name}"} <= set(environment_names())
    assert world.observation_space == env.observation_space == gymnasium.spaces.Box(0, 255, shape, np.uint8)
    assert world.action_space == env.action_space == gymnasium.spaces.Discrete(3)
    assert world.max_episode_steps == env.spec.max_episode_steps
    (image,) = encoder(world.observation_space).images
    assert image.height_width == shape[:2] and image.channels == shape[2]


@each_world
@pytest.mark.parametrize("x64", [False, True])
def test_types_are_strong(name, x64):
    world, shape = WORLDS[name]
    with jax.enable_x64(x64):
        start, first = jax.eval_shape(world.reset, KEY)
        state, *outcome = jax.eval_shape(world.step, start, np.uint8(0), KEY)
        assert jax.tree.structure(state) == jax.tree.structure(start)
        for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(state), strict=True):
            assert before.dtype == after.dtype and before.dtype in (jnp.int32, jnp.bool_)
            assert before.shape == after.shape and not before.weak_type and not after.weak_type
        facts = [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in (first, *outcome)]
        obs = (shape, jnp.uint8, False)
        assert facts == [obs, obs, ((), jnp.float32, False), ((), jnp.bool_, False)]


@each_world
def test_keys_are_used_once(name):
    world, _ = WORLDS[name]
    with jax.debug_key_reuse(True):
        reset, step = jax.random.split(jax.random.key(0))
        jax.block_until_ready(world.step(world.reset(reset)[0], jnp.int32(1), step))


@each_world
def test_the_twin_in_gymnasium_is_sound_and_its_seed_decides(name):
    source = resolve(f"advantage/{name}").source
    assert not check_environment(source, steps=60, seed=0)

    def play(seed):
        env = source()
        played = [env.reset(seed=seed)[0]]
        for action in range(40):
            obs, _, over, _, _ = env.step(action % 3)
            played.append(env.reset()[0] if over else obs)
        return np.array(played)

    np.testing.assert_array_equal(play(3), play(3))
    assert any((play(3) != play(seed)).any() for seed in (4, 5))


def test_the_twin_takes_the_probability_of_a_repetition():
    env = make("advantage/MinBreakout-v0", repeat_action_probability=0.0).unwrapped
    obs = env.reset(seed=0)[0]
    oracle = BreakoutOracle(obs)
    for _ in range(30):
        action = near_the_ball(oracle, np.random.default_rng(0))
        obs, reward, over, truncated, _ = env.step(action)
        assert (reward, over) == oracle.step(action) and not truncated
        assert (obs == oracle.picture()).all()


def test_a_picture_is_the_pixels_enlarged():
    obs = np.zeros((2, 3, 4), np.uint8)
    obs[0, 1, [1, 2]] = obs[1, 2, 3] = 255  # ball over trail; a brick
    drawn = picture(obs)
    assert drawn.shape == (2 * CELL, 3 * CELL, 3) and drawn.dtype == np.uint8
    cells = drawn.reshape(2, CELL, 3, CELL, 3)
    assert (cells == cells[:, :1, :, :1]).all()
    want = np.zeros((2, 3, 3), np.uint8)
    want[0, 1], want[1, 2] = COLOURS[1], COLOURS[3]
    np.testing.assert_array_equal(cells[:, 0, :, 0], want)


def test_a_run_is_filmed(tmp_path, capsys):
    algorithm = adv.PPO(n_steps=4, batch_size=8, n_epochs=1)
    run = adv.train(
        algorithm, "jax/MinBreakout-v0", num_envs=2, total_timesteps=8, eval_episodes=0, out=tmp_path / "run"
    )
    film = tmp_path / "play.gif"
    assert main(["enjoy", str(run.path), "--video", str(film), "--episodes", "1"]) == 0, (
        capsys.readouterr().err
    )
    assert film.stat().st_size > 0 and "frames to" in capsys.readouterr().out


@pytest.mark.slow
def test_ppo_catches_every_ball(tmp_path):
    tuned = adv.preset("ppo", "jax/Catch-v0")
    run = adv.train(tuned.algorithm, "jax/Catch-v0", out=tmp_path / "run", **tuned.options)
    assert run.evaluation is not None and run.evaluation.mean == 1.0


def test_the_pendulum_is_drawn_at_its_angle():
    """The brightest pixels lie on the rod, from the middle to its end, and one dot in NumPy agrees with each pixel."""
    for angle in np.linspace(-3, 3, 13):
        seen = np.asarray(rod_picture(jnp.float32(angle)))[..., 0]
        for row in range(32):
            for column in range(32):
                x, y = column - 15.5, 15.5 - row
                along = min(max(-x * math.sin(angle) + y * math.cos(angle), 0), 13)
                distance = math.hypot(x + along * math.sin(angle), y - along * math.cos(angle))
                assert abs(int(seen[row, column]) - 255 * min(max(2 - distance, 0), 1)) <= 1
    up, left = (np.asarray(rod_picture(jnp.float32(a)))[..., 0] for a in (0, np.pi / 2))
    assert up[4, 15] == 255 and up[28, 15] == 0 and left[15, 4] == 255 and left[15, 28] == 0


def test_the_seen_pendulum_is_the_pendulum():
    """Its states, rewards and starts, with pictures for observations, in both interfaces."""
    plain, seen = adv.make("jax/Pendulum-v1"), adv.make("jax/PendulumPixels-v0")
    (state, _), (other, picture_) = plain.reset(KEY), seen.reset(KEY)
    for _ in range(5):
        np.testing.assert_array_equal(state, other)
        assert picture_.shape == (32, 32, 1) and picture_.dtype == np.uint8
        np.testing.assert_array_equal(picture_, rod_picture(state[0]))
        state, _, reward, terminated = plain.step(state, jnp.array([1.0]), KEY)
        other, picture_, *outcome = seen.step(other, jnp.array([1.0]), KEY)
        assert outcome == [reward, terminated]
    env = gymnasium.make("advantage/PendulumPixels-v0", render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs) and env.render().shape == (768, 768, 3)
    obs, reward, *_ = env.step(np.array([0.5], np.float32))
    assert env.observation_space.contains(obs) and reward < 0
