"""The on-device worlds against Gymnasium's: same spaces, same starts, same steps, same ends."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advantage.environments.make import resolve
from advantage.environments.worlds.acrobot import Acrobot
from advantage.environments.worlds.cartpole import CartPole
from advantage.environments.worlds.mountain_car import MountainCar, mountain_car_continuous
from advantage.environments.worlds.pendulum import Pendulum
from advantage.types import World

STEPS = 600  # random (state, action) pairs a world


class Case(NamedTuple):
    """A world and the part of its state space where everything that can happen to it happens."""

    world: World
    low: list[float]
    high: list[float]
    angles: list[int]  # state entries that are wrapped: equal up to a full turn
    margin: (
        Callable[[np.ndarray], np.ndarray] | None
    )  # states -> signed distance from the end; None: never ends
    actor: Callable[[np.ndarray, np.random.Generator], Any]  # state -> an action that stirs the world up
    horizon: int  # steps for which an episode in float32 stays near the one in float64
    tolerance: float


def _cartpole_margin(state):
    return np.maximum(np.abs(state[:, 0]) - 2.4, np.abs(state[:, 2]) - 12 * np.pi / 180)


def _acrobot_margin(state):
    return -np.cos(state[:, 0]) - np.cos(state[:, 0] + state[:, 1]) - 1.0


def _push_right(state, rng):
    return 1


def _pump_hinge(state, rng):
    return (np.where(state[1] >= 0, 2.0, -2.0) + rng.normal(size=1)).astype(np.float32)


def _pump_elbow(state, rng):
    return 2 if state[3] > 0 else 0


def _pump_gears(state, rng):
    return rng.integers(3) if rng.random() < 0.1 else (2 if state[1] >= 0 else 0)


def _pump_throttle(state, rng):
    return (np.where(state[1] >= 0, 1.0, -1.0) + rng.normal(size=1)).astype(np.float32)


HILL = ([-1.2, -0.07], [0.6, 0.07])
CASES = {
    "CartPole-v1": Case(
        CartPole(), [-2.6, -3, -0.25, -3], [2.6, 3, 0.25, 3], [], _cartpole_margin, _push_right, 500, 1e-5
    ),
    "Pendulum-v1": Case(Pendulum(), [-20.0, -8.0], [20.0, 8.0], [], None, _pump_hinge, 200, 1e-3),
    "Acrobot-v1": Case(
        Acrobot(),
        [-np.pi, -np.pi, -4 * np.pi, -9 * np.pi],
        [np.pi, np.pi, 4 * np.pi, 9 * np.pi],
        [0, 1],
        _acrobot_margin,
        _pump_elbow,
        100,
        1e-2,
    ),
    "MountainCar-v0": Case(MountainCar(), *HILL, [], lambda state: state[:, 0] - 0.5, _pump_gears, 200, 1e-4),
    "MountainCarContinuous-v0": Case(
        mountain_car_continuous(), *HILL, [], lambda state: state[:, 0] - 0.45, _pump_throttle, 999, 1e-4
    ),
}
each_world = pytest.mark.parametrize("name", CASES)
KEY = jax.random.key(0)


@functools.cache
def jitted_step(world):
    return jax.jit(world.step)


@functools.cache
def batched_step(world):
    optimised = {
        "xla_backend_optimization_level": 3
    }  # as users have it: each compiles its own rounding errors
    return jax.jit(jax.vmap(world.step, in_axes=(0, 0, None)), compiler_options=optimised)


@functools.cache
def batched_reset(world):
    return jax.jit(jax.vmap(world.reset))


def gymnasium_step(env, state, action):
    """Put `state` into a bare Gymnasium environment, as if it had just come there, and step once."""
    env.state = np.array(state, np.float64)
    env.steps_beyond_terminated = None
    obs, reward, terminated, truncated, _ = env.step(action)
    assert not truncated
    return np.array(env.state, np.float64), obs, reward, terminated


def turns_apart(actual, desired):
    """The difference of two angles, up to full turns."""
    return (actual - desired + np.pi) % (2 * np.pi) - np.pi


def assert_same_state(actual, desired, angles, **tolerance):
    actual, desired = np.array(actual, np.float64), np.array(desired, np.float64)
    for column in angles:
        actual[..., column] = desired[..., column] + turns_apart(actual[..., column], desired[..., column])
    np.testing.assert_allclose(actual, desired, **tolerance)


def random_actions(space, rng, count):
    """Every discrete action; for a box, a third of the actions well out of bounds."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(space.n, size=count)
    return (rng.uniform(-1.5, 1.5, (count, *space.shape)) * space.high).astype(np.float32)


@each_world
def test_spaces_and_clock_are_gymnasiums(name):
    world, env = CASES[name].world, gymnasium.make(name)
    assert world.gymnasium_id == name
    assert world.observation_space == env.observation_space
    assert world.action_space == env.action_space
    for ours, theirs in [
        (world.observation_space, env.observation_space),
        (world.action_space, env.action_space),
    ]:
        assert type(ours) is type(theirs)
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        for field in ("low", "high", "n", "start"):
            np.testing.assert_array_equal(getattr(ours, field, None), getattr(theirs, field, None))
    assert world.max_episode_steps == gymnasium.spec(name).max_episode_steps


@each_world
def test_worlds_are_hashable_values(name):
    world = CASES[name].world
    assert hash(world) == hash(dataclasses.replace(world))
    assert world == dataclasses.replace(world)


@each_world
def test_one_step_from_anywhere_equals_gymnasium(name):
    case = CASES[name]
    world, rng = case.world, np.random.default_rng(0)
    states = rng.uniform(case.low, case.high, (STEPS, len(case.low))).astype(np.float32)
    actions = random_actions(world.action_space, rng, STEPS)
    env: Any = gymnasium.make(name, disable_env_checker=True).unwrapped
    env.reset(seed=0)

    theirs = [gymnasium_step(env, state, action) for state, action in zip(states, actions, strict=True)]
    want_state, want_obs, want_reward, want_end = (np.array(column) for column in zip(*theirs, strict=True))
    state, obs, reward, end = jax.device_get(batched_step(world)(states, actions, KEY))

    # float32 against float64: relative to each entry's own scale.
    for column in range(len(case.low)):
        angles = [0] if column in case.angles else []
        atol = 1e-5 * max(1.0, case.high[column])
        part = slice(column, column + 1)
        assert_same_state(state[:, part], want_state[:, part], angles, rtol=1e-5, atol=atol)
    assert np.all(np.abs(state[:, case.angles]) <= np.pi + 1e-6)
    space: Any = world.observation_space
    atol = 1e-5 * np.maximum(1.0, np.minimum(space.high, 100.0))
    assert np.all(np.abs(obs - want_obs) <= atol + 1e-5 * np.abs(want_obs))

    knife_edge = np.zeros(STEPS, bool) if case.margin is None else np.abs(case.margin(want_state)) < 1e-6
    assert np.mean(knife_edge) < 0.01
    np.testing.assert_array_equal(end[~knife_edge], want_end[~knife_edge])
    np.testing.assert_allclose(reward[~knife_edge], want_reward[~knife_edge], rtol=1e-5, atol=1e-5)
    if case.margin is None:
        assert not end.any()
    else:
        assert 10 <= np.sum(end) <= STEPS - 10


@each_world
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("purposeful", [True, False])
def test_an_episode_stays_with_gymnasium(name, purposeful, seed):
    case = CASES[name]
    world, step, rng = case.world, jitted_step(case.world), np.random.default_rng(seed)
    state, obs = world.reset(jax.random.key(seed))
    env = gymnasium.make(name, disable_env_checker=True)
    env.reset(seed=seed)
    bare: Any = env.unwrapped
    bare.state = np.array(state, np.float64)

    for clock in range(1, case.horizon + 1):
        if purposeful:
            action = case.actor(np.asarray(state), rng)
        else:
            action = random_actions(world.action_space, rng, 1)[0]
        state, obs, reward, terminated = step(state, action, KEY)
        want_obs, want_reward, want_terminated, want_truncated, _ = env.step(action)
        assert_same_state(state, bare.state, case.angles, rtol=case.tolerance, atol=case.tolerance)
        np.testing.assert_allclose(obs, want_obs, rtol=case.tolerance, atol=case.tolerance)
        np.testing.assert_allclose(float(reward), float(want_reward), rtol=case.tolerance, atol=1e-5)
        assert bool(terminated) == want_terminated
        assert (clock == world.max_episode_steps) == want_truncated
        if want_terminated:
            return
    assert case.margin is None or not purposeful, "the episode was meant to end"


@pytest.mark.parametrize("name", ["Pendulum-v1", "MountainCarContinuous-v0"])
def test_actions_out_of_bounds_move_the_world_as_the_bound_does(name):
    case = CASES[name]
    world, step = case.world, jitted_step(case.world)
    state, _ = world.reset(jax.random.key(1))
    space: Any = world.action_space
    for bound in (space.low, space.high):
        at, beyond, within = (step(state, factor * bound, KEY)[0] for factor in (1.0, 7.0, 0.5))
        np.testing.assert_array_equal(at, beyond)
        assert not np.array_equal(at, within)


def test_only_pendulum_pays_for_the_clipped_action():
    state = jnp.array([-0.5, 0.0])
    _, _, reward, _ = mountain_car_continuous().step(state, jnp.array([3.0]), KEY)
    np.testing.assert_allclose(reward, -0.9, rtol=1e-6)
    _, _, reward, _ = Pendulum().step(jnp.zeros(2), jnp.array([-9.0]), KEY)
    np.testing.assert_allclose(reward, -0.004, rtol=1e-6)


@pytest.mark.parametrize("world", [MountainCar(), mountain_car_continuous()], ids=["gears", "throttle"])
def test_the_left_wall_stops_the_car(world):
    reverse = jnp.array([-1.0]) if world.continuous else 0
    state, _, _, terminated = world.step(jnp.array([-1.19, -0.05]), reverse, KEY)
    np.testing.assert_array_equal(state, np.array([-1.2, 0.0], np.float32))
    assert not terminated


def test_a_car_that_rolls_back_over_the_goal_has_not_arrived():
    for world, action in ((MountainCar(), 1), (mountain_car_continuous(), jnp.array([0.0]))):
        assert not world.step(jnp.array([0.58, -0.02]), action, KEY)[3]
        assert world.step(jnp.array([0.52, 0.02]), action, KEY)[3]


@each_world
def test_starts_have_gymnasiums_distribution(name):
    world, count = CASES[name].world, 20_000
    state, obs = jax.device_get(batched_reset(world)(jax.random.split(jax.random.key(1), count)))
    env: Any = gymnasium.make(name, disable_env_checker=True).unwrapped
    env.reset(seed=0)
    theirs = []
    for _ in range(4000):
        env.reset()
        theirs.append(np.array(env.state, np.float64))
    theirs = np.array(theirs)

    assert state.shape == (count, theirs.shape[1])
    assert all(world.observation_space.contains(row) for row in obs[:200])
    low, high = theirs.min(axis=0), theirs.max(axis=0)
    width = high - low
    assert np.all(state.min(axis=0) >= low - 0.005 * width - 1e-7)
    assert np.all(state.max(axis=0) <= high + 0.005 * width + 1e-7)
    quantiles = np.linspace(0, 1, 11)
    difference = np.quantile(state, quantiles, axis=0) - np.quantile(theirs, quantiles, axis=0)
    assert np.all(np.abs(difference) <= 0.035 * width + 1e-7)
    if np.all(width > 0):
        correlation = np.corrcoef(state.T) - np.eye(len(width))
        assert np.all(np.abs(correlation) < 0.04)
    assert len(np.unique(state[:, 0])) > 0.98 * count


@each_world
def test_same_key_same_start_and_the_observation_is_the_states(name):
    case = CASES[name]
    world = case.world
    state, obs = batched_reset(world)(jax.random.split(jax.random.key(2), 5))
    again, _ = batched_reset(world)(jax.random.split(jax.random.key(2), 5))
    np.testing.assert_array_equal(state, again)
    if name == "Pendulum-v1":
        theta, speed = np.asarray(state).T
        want = np.stack([np.cos(theta), np.sin(theta), speed], axis=1)
    elif name == "Acrobot-v1":
        a, b, c, d = np.asarray(state).T
        want = np.stack([np.cos(a), np.sin(a), np.cos(b), np.sin(b), c, d], axis=1)
    else:
        want = state
    np.testing.assert_allclose(obs, want, atol=1e-6)


@each_world
def test_jit_vmap_scan_equals_the_plain_loop(name):
    world, rng = CASES[name].world, np.random.default_rng(3)
    actions = np.stack([random_actions(world.action_space, rng, 3) for _ in range(12)])
    start = jax.vmap(world.reset)(jax.random.split(jax.random.key(3), 3))[0]

    def body(state, action):
        state, *rest = jax.vmap(world.step, in_axes=(0, 0, None))(state, action, KEY)
        return state, (state, *rest)

    _, scanned = jax.jit(lambda state, action: jax.lax.scan(body, state, action))(start, actions)
    for b in range(3):
        state = start[b]
        for t in range(12):
            state, *rest = world.step(state, actions[t, b], KEY)
            for got, want in zip(scanned, (state, *rest), strict=True):
                np.testing.assert_allclose(got[t, b], want, rtol=1e-4, atol=1e-4)


@each_world
@pytest.mark.parametrize("x64", [False, True])
def test_types_are_strong_and_stay_float32(name, x64):
    world = CASES[name].world
    shape = world.action_space.shape
    dtype = world.action_space.dtype

    def strong(array, shape, dtype):
        return (array.shape, array.dtype, array.weak_type) == (shape, dtype, False)

    with jax.enable_x64(x64):
        size = len(CASES[name].low)
        start, obs = jax.eval_shape(world.reset, KEY)
        assert strong(start, (size,), jnp.float32)
        assert strong(obs, world.observation_space.shape, world.observation_space.dtype)
        for kind in [dtype, np.uint8 if dtype == np.int64 else np.float64]:
            action = jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(kind))
            state, obs, reward, terminated = jax.eval_shape(world.step, start, action, KEY)
            assert strong(state, (size,), jnp.float32)
            assert strong(obs, world.observation_space.shape, world.observation_space.dtype)
            assert strong(reward, (), jnp.float32)
            assert strong(terminated, (), jnp.bool_)


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_unsigned_actions_mean_the_same(name):
    world = CASES[name].world
    space: Any = world.action_space
    state, _ = world.reset(jax.random.key(1))
    for action in range(int(space.n)):
        signed = world.step(state, np.int32(action), KEY)[0]
        np.testing.assert_array_equal(world.step(state, np.uint8(action), KEY)[0], signed)


@each_world
def test_keys_are_used_once(name):
    world = CASES[name].world
    with jax.debug_key_reuse(True):
        reset, step = jax.random.split(jax.random.key(0))
        state, _ = world.reset(reset)
        action = jnp.ones(world.action_space.shape, jnp.float32 if world.action_space.shape else jnp.int32)
        jax.block_until_ready(world.step(state, action, step))


def test_a_class_of_a_world_is_refused():
    with pytest.raises(
        ValueError, match=r"CartPole is the class of an on-device world; give an object of it"
    ):
        resolve(CartPole)
