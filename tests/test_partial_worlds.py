"""Worlds that hide something: what they show, what they pay, and what can be reached without memory."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advantage as adv
from advantage.environments.check import check_environment
from advantage.environments.make import environment_names, make, resolve
from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.names import table
from advantage.environments.tables.t_maze import (
    CORRIDOR,
    EAST,
    JUNCTION,
    NORTH,
    SIGN_NORTH,
    SIGN_SOUTH,
    SOUTH,
    WEST,
    t_maze,
)
from advantage.environments.worlds.partial import STATELESS
from advantage.environments.worlds.wasted_actions import WastedActions
from advantage.runs.folder import RunFolder
from advantage.runs.log import read_episodes

KEY = jax.random.key(0)
each_stateless = pytest.mark.parametrize("name", STATELESS)


# -- T-maze --------------------------------------------------------------------------------------------------


def walk(env, actions):
    """Observations and rewards of an episode from its reset: `-> obs, rewards, terminated, truncated`."""
    seen, rewards, terminated, truncated = [env.reset(seed=0)[0]], [], False, False
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append(obs)
        rewards.append(reward)
    return seen, rewards, terminated, truncated


@pytest.mark.parametrize("turn", [NORTH, SOUTH])
def test_the_way_through_a_t_maze(turn):
    """The sign is seen once, also by who stays at the start, and decides what the turn earns."""
    env = make("advantage/TMaze10-v0")
    sign = env.reset(seed=0)[0]
    seen, rewards, terminated, _ = walk(env, [NORTH, WEST, EAST, WEST, *[EAST] * 10, EAST, WEST, EAST, turn])
    assert seen == [sign, *[CORRIDOR] * 13, JUNCTION, JUNCTION, CORRIDOR, JUNCTION, CORRIDOR]
    final = 4 if (turn == NORTH) == (sign == SIGN_NORTH) else -0.1
    assert rewards == pytest.approx([-0.1, -0.1, 0, -0.1, *[0] * 10, -0.1, -0.1, 0, final])
    assert terminated


def test_both_signs_are_shown_as_often_and_the_clock_is_stated():
    env = make("advantage/TMaze30-v0")
    signs = [env.reset(seed=seed)[0] for seed in range(200)]
    assert set(signs) == {SIGN_NORTH, SIGN_SOUTH} and 70 < sum(signs) < 130
    *_, terminated, truncated = walk(env, [SOUTH] * 300)
    assert truncated and not terminated
    assert make("jax/TMaze30-v0").max_episode_steps == 300 and make("jax/TMaze10-v0").max_episode_steps == 100


def state_policy(pomdp, choice):
    """What a policy without memory does in each state after the first step, from an action for each observation."""
    seen = pomdp.emission[:, 0].argmax(-1)
    return np.asarray(choice)[seen]


def performance(mdp: MDP, first: np.ndarray, later: np.ndarray, gamma: float) -> float:
    """Expected discounted return of actions `first` `[S]` in the first step and `later` `[S]` after it."""
    states = np.arange(mdp.n_states)
    reward = np.asarray(mdp.expected_reward)
    moves = mdp.transition[states, later]
    value = np.linalg.solve(np.eye(mdp.n_states) - gamma * moves, reward[states, later])
    return float(mdp.start @ (reward[states, first] + gamma * mdp.transition[states, first] @ value))


@pytest.mark.parametrize("gamma", [0.98, 0.999])
def test_without_memory_a_t_maze_is_left_to_chance(gamma):
    """Of all 256 policies that see the last observation alone the best turns to the right side half of the time."""
    pomdp = table("TMaze10-v0")
    mdp, first_seen = pomdp.mdp, pomdp.first_emission.argmax(-1)
    returns = [
        performance(mdp, np.asarray(choice)[first_seen], state_policy(pomdp, choice), gamma)
        for choice in itertools.product(range(4), repeat=4)
    ]
    assert max(returns) == pytest.approx(gamma**10 * (4 - 0.1) / 2, rel=1e-9)
    best = np.full(mdp.n_states, EAST)
    best[[10, 21]] = NORTH, SOUTH  # the junctions, whose goals are in the north and in the south
    assert performance(mdp, best, best, gamma) == pytest.approx(4 * gamma**10, rel=1e-9)
    value = np.zeros(mdp.n_states)
    for _ in range(100):
        value = (mdp.expected_reward + gamma * mdp.expected(value)).max(axis=1)
    assert mdp.start @ value == pytest.approx(4 * gamma**10, rel=1e-9)


def test_t_mazes_of_other_sizes():
    pomdp = t_maze(length=1, right_turn=1.0, penalty=0.5)
    assert pomdp.mdp.n_states == 5 and pomdp.mdp.max_episode_steps == 10
    np.testing.assert_array_equal(pomdp.mdp.expected_reward[0], [-0.5, 0, -0.5, -0.5])
    np.testing.assert_array_equal(pomdp.mdp.expected_reward[1], [1, -0.5, -0.5, -0.5])
    np.testing.assert_array_equal(pomdp.mdp.expected_reward[3], [-0.5, -0.5, 1, -0.5])
    for length in (0, 2.5, True):
        with pytest.raises(ValueError, match="is not allowed; use a whole number of 1 or more"):
            t_maze(length)


# -- stateless worlds ----------------------------------------------------------------------------------------


@each_stateless
def test_some_entries_are_hidden_and_nothing_else_changes(name):
    world, (whole, kept) = make(f"jax/{name}"), STATELESS[name]
    entries, keys = np.array(kept), jax.random.split(KEY, 64)
    state, obs = jax.jit(jax.vmap(world.reset))(keys)
    want_state, want_obs = jax.jit(jax.vmap(whole.reset))(keys)
    np.testing.assert_array_equal(state, want_state)
    np.testing.assert_array_equal(obs, want_obs[:, entries])
    action = np.ones((64, *whole.action_space.shape), whole.action_space.dtype)
    got = jax.jit(jax.vmap(world.step))(state, action, keys)
    want = jax.jit(jax.vmap(whole.step))(state, action, keys)
    np.testing.assert_array_equal(got[1], want[1][:, entries])
    for ours, theirs in zip((got[0], *got[2:]), (want[0], *want[2:]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert world.max_episode_steps == whole.max_episode_steps
    assert hash(world) == hash(make(f"jax/{name}")) and world == make(f"jax/{name}")
    assert world.observation_space.contains(np.asarray(obs[0]))


@each_stateless
def test_the_device_and_gymnasium_give_the_same_transitions(name):
    world, env = make(f"jax/{name}"), make(f"advantage/{name}")
    assert world.gymnasium_id == f"advantage/{name}" and env.spec.id == f"advantage/{name}"
    assert (world.observation_space, world.action_space) == (env.observation_space, env.action_space)
    assert env.spec.max_episode_steps == world.max_episode_steps
    env.reset(seed=0)
    state, _ = world.reset(KEY)
    bare: Any = env.unwrapped
    bare.state = np.array(state, np.float64)
    step, rng = jax.jit(world.step), np.random.default_rng(0)
    for _ in range(25):
        discrete = isinstance(world.action_space, gymnasium.spaces.Discrete)
        action = rng.integers(2) if discrete else rng.uniform(-2, 2, 1).astype(np.float32)
        state, obs, reward, terminated = step(state, action, KEY)
        want_obs, want_reward, want_terminated, _, _ = env.step(action)
        np.testing.assert_allclose(obs, want_obs, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(reward, want_reward, rtol=1e-3, atol=1e-3)
        assert bool(terminated) == want_terminated
        if want_terminated:
            break
    env.close()


@each_stateless
def test_gymnasiums_twin_is_sound(name):
    assert f"jax/{name}" in environment_names() and f"advantage/{name}" in environment_names()
    assert not [
        d for d in check_environment(resolve(f"advantage/{name}").source, steps=60) if d.severity == "error"
    ]
    env = make(f"advantage/{name}", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().ndim == 3
    env.close()
    env, whole = make(f"advantage/{name}"), make(STATELESS[name][0].gymnasium_id)
    np.testing.assert_array_equal(env.reset(seed=3)[0], whole.reset(seed=3)[0][list(STATELESS[name][1])])


# -- wasted actions ------------------------------------------------------------------------------------------


def test_every_cell_has_one_action_forward_and_one_back_and_the_mask_allows_these():
    world = WastedActions()
    cells, actions = (grid.ravel().astype(np.int32) for grid in np.mgrid[:19, :10])
    after, obs, reward, terminated = jax.jit(jax.vmap(world.step, (0, 0, None)))(cells, actions, KEY)
    moved = (np.asarray(after) - cells).reshape(19, 10)
    assert (moved == 1).sum(1).tolist() == [1] * 19
    assert (moved == -1).sum(1).tolist() == [0] + [1] * 18
    masks = np.asarray(jax.vmap(world.observe)(np.arange(20, dtype=np.int32))["action_mask"])
    assert masks.sum(1).tolist() == [2] * 20
    np.testing.assert_array_equal(masks[1:19], abs(moved[1:]))
    assert masks[0, moved[0] == 1] == 1
    np.testing.assert_array_equal(obs["observation"], after)
    np.testing.assert_array_equal(obs["action_mask"], masks[np.asarray(after)])
    np.testing.assert_array_equal(terminated, np.asarray(after) == 19)
    np.testing.assert_array_equal(reward, terminated)
    ways = (moved == 1).argmax(1).tolist()
    assert len(set(ways)) == 10 and (moved == -1).argmax(1).tolist()[5] in ways, (
        "forward here is back elsewhere"
    )


def test_who_draws_from_the_mask_arrives_and_who_draws_from_all_actions_does_not():
    """Uniform actions of 200 episodes: half of what the mask allows leads forward, a tenth of all actions does."""
    world, arrived = WastedActions(), []

    def episode(masked, key):
        def step(carry, key):
            state, done = carry
            mask = world.observe(state)["action_mask"] if masked else jnp.ones(10)
            action = jax.random.choice(key, 10, p=mask / mask.sum())
            state, _, _, terminated = world.step(state, action, key)
            return (state, done | terminated), None

        start = world.reset(key)[0], jnp.bool_(False)
        return jax.lax.scan(step, start, jax.random.split(key, world.max_episode_steps))[0][1]

    with jax.debug_key_reuse(False):
        for masked in (True, False):
            run = jax.jit(jax.vmap(lambda key, masked=masked: episode(masked, key)))
            arrived.append(float(run(jax.random.split(KEY, 200)).mean()))
    assert arrived[0] > 0.03 and arrived[1] < 0.005


def test_starts_and_types_of_wasted_actions():
    world = make("jax/WastedActions-v0")
    state, obs = jax.jit(jax.vmap(world.reset))(jax.random.split(KEY, 5))
    assert not np.asarray(state).any() and not np.asarray(obs["observation"]).any()
    first = jax.tree.map(lambda leaf: np.asarray(leaf[0]), obs)
    assert world.observation_space.contains(first | {"observation": np.int64(first["observation"])})
    assert resolve(world).spaces == (world.observation_space, world.action_space)
    shape = jax.eval_shape(world.step, jax.ShapeDtypeStruct((), jnp.int32), np.uint8(0), KEY)
    facts = [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(shape)]
    assert facts == [
        ((), jnp.int32, False),
        ((10,), jnp.int8, False),
        ((), jnp.int32, False),
        ((), jnp.float32, False),
        ((), jnp.bool_, False),
    ]


@dataclasses.dataclass(frozen=True)
class Unmasked:
    """The same world without its mask."""

    world: WastedActions = WastedActions()
    max_episode_steps: int = 100
    gymnasium_id: None = None

    observation_space = property(lambda self: self.world.observation_space["observation"])
    action_space = property(lambda self: self.world.action_space)

    def reset(self, key):
        state, obs = self.world.reset(key)
        return state, obs["observation"]

    def step(self, state, action, key):
        state, obs, reward, terminated = self.world.step(state, action, key)
        return state, obs["observation"], reward, terminated


@pytest.mark.slow
def test_a_mask_saves_four_fifths_of_the_steps(tmp_path):
    """With the mask 7 of 8 seeds arrive in 16,384 steps; without it at most half of them in 81,920."""
    arrived = {}
    for world, steps in ((WastedActions(), 16_384), (Unmasked(), 81_920)):
        out = tmp_path / type(world).__name__
        algorithm = adv.PPO(n_steps=64, batch_size=128, n_epochs=4, learning_rate=1e-3, ent_coef=0.01)
        options = {"num_envs": 8, "num_seeds": 8, "total_timesteps": steps, "eval_episodes": 0}
        adv.train(algorithm, world, out=out, tensorboard=False, **options)
        last = [read_episodes(RunFolder(folder))["r"][-20:].mean() for folder in sorted(out.glob("seed_*"))]
        arrived[steps] = [mean > 0.9 for mean in last]
    print(arrived, last)
    assert len(arrived[16_384]) == 8 and sum(arrived[16_384]) >= 7
    assert sum(arrived[81_920]) <= 4
