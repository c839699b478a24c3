"""The last n observations as one, on the host and on the device."""

from __future__ import annotations

import copy
import functools
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from probe_drivers import Drift, OnHost, assert_same, begin, play, random_policy
from probe_worlds import Masked

import advantage as adv
from advantage.drivers.host.driver import HostDriver
from advantage.environments.environment import fitting, stacked
from advantage.environments.frame_stack import FrameStack, FrameStackWorld, stacked_space
from advantage.environments.make import make, resolve
from advantage.environments.spaces import map_leaves
from advantage.environments.worlds.cartpole import CartPole
from advantage.policies.encoder import encoder
from advantage.types import Spec, no_memory

KEY = jax.random.key(0)
EVERYTHING = spaces.Dict(
    {
        "box": spaces.Box(-1, 1, (2,)),
        "byte": spaces.Box(0, 9, (3, 2), np.uint8),
        "index": spaces.Discrete(3, start=4),
        "more": spaces.Tuple((spaces.MultiDiscrete([2, 5], start=[0, 1]), spaces.MultiBinary(3))),
    }
)


class Samples(gymnasium.Env):
    """Observes samples of a space, and a mask of its own."""

    action_space = spaces.Discrete(3)

    def __init__(self, space=EVERYTHING, mask=True):
        parts = copy.deepcopy(dict(space.spaces)) | ({"action_mask": spaces.MultiBinary(3)} if mask else {})
        self.observation_space = spaces.Dict(parts)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        return self.observe(), 0.0, False, self.t == 6, {}

    def observe(self):
        obs = self.observation_space.sample()
        if "action_mask" in obs:
            obs["action_mask"][self.t % 3] = 1
        return obs


def test_every_kind_of_observation_is_stacked_and_the_mask_is_that_of_now():
    env, plain = FrameStack(Samples(), 3), Samples()
    assert env.observation_space == spaces.Dict(
        {
            "action_mask": spaces.MultiBinary(3),
            "box": spaces.Box(-1, 1, (3, 2)),
            "byte": spaces.Box(0, 9, (3, 3, 2), np.uint8),
            "index": spaces.MultiDiscrete([3] * 3, start=[4] * 3),
            "more": spaces.Tuple(
                (spaces.MultiDiscrete([[2, 5]] * 3, start=[[0, 1]] * 3), spaces.MultiBinary((3, 3)))
            ),
        }
    )
    for seed in (0, 1):  # the second episode begins with its own first observation
        obs, first = env.reset(seed=seed)[0], plain.reset(seed=seed)[0]
        last = [first] * 3
        for _ in range(5):
            assert env.observation_space.contains(obs)
            want = map_leaves(lambda _, *leaves: np.stack(leaves), EVERYTHING, *last)
            assert_same({name: obs[name] for name in EVERYTHING}, want)
            np.testing.assert_array_equal(obs["action_mask"], last[-1]["action_mask"])
            kept = jax.tree.map(np.copy, obs)
            after, *_ = env.step(0)
            assert_same(obs, kept)  # an observation that was returned does not change
            obs, last = after, [*last[1:], plain.step(0)[0]]


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_it_is_gymnasiums_frame_stack(name):
    ours = stacked(resolve(name), 4).source()
    theirs: Any = gymnasium.wrappers.FrameStackObservation(gymnasium.make(name), 4)
    assert ours.observation_space == theirs.observation_space
    np.testing.assert_array_equal(ours.reset(seed=2)[0], theirs.reset(seed=2)[0])
    for _ in range(6):
        action = np.zeros(ours.action_space.shape, ours.action_space.dtype)
        for a, b in zip(ours.step(action)[:4], theirs.step(action)[:4], strict=True):
            np.testing.assert_array_equal(a, b)


def test_host_and_device_stack_the_same():
    """The same world on both drivers, with starts and ends that depend on the actions and on chance."""
    world = FrameStackWorld(Drift(), 3)
    state, obs = world.reset(KEY)
    inner, first = Drift().reset(KEY)
    frames = [np.asarray(first)] * 3
    for n in range(4):
        np.testing.assert_array_equal(obs, np.stack(frames))
        key = jax.random.key(n)
        state, obs, reward, terminated = world.step(state, np.int32(1), key)
        inner, new, *facts = Drift().step(inner, np.int32(1), key)
        frames = [*frames[1:], np.asarray(new)]
        np.testing.assert_array_equal(reward, facts[0])
        assert bool(terminated) == bool(facts[1])
    assert (world.max_episode_steps, world.action_space) == (5, Drift.action_space)
    assert world.observation_space == stacked_space(Drift.observation_space, 3)
    host: Any = FrameStack(OnHost(CartPole()), 3)
    device = FrameStackWorld(CartPole(), 3)
    assert host.observation_space == device.observation_space
    assert device.gymnasium_id == "CartPole-v1" and hash(device) == hash(FrameStackWorld(CartPole(), 3))


def test_promise_4_the_stack_begins_anew_with_each_episode_on_the_device(tmp_path):
    """`Drift` shows (start, steps since): no stack mixes two starts, and steps in it follow one another."""
    from advantage.drivers.device import rollout_on_device, start

    policy, world = random_policy(Drift, 40), FrameStackWorld(Drift(), 3)
    worlds = start(world, KEY, 4)
    state = policy.init(KEY, None)
    noise = policy.noise(state, jax.random.key(1), (40, 4))
    _, rollout = jax.jit(lambda worlds, noise: rollout_on_device(policy, world, state, worlds, noise, KEY))(
        worlds, noise
    )
    for stack in map(np.asarray, (rollout.obs, rollout.next_obs)):
        assert stack.shape == (40, 4, 3, 3)
        assert (stack[..., :2] == stack[..., :1, :2]).all(), "one start in each stack"
        steps = stack[..., 2]
        assert (steps == np.maximum(steps[..., -1:] + [-2, -1, 0], 0)).all()
    done = np.asarray(rollout.terminated | rollout.truncated)[:-1]
    assert done.sum() > 10 and not np.asarray(rollout.obs)[1:][done][..., 2].any()


def test_workers_stack_too_and_the_numbers_are_the_same():
    target = stacked(resolve(functools.partial(Masked, "info")), 2)
    observation_space, action_space = target.spaces
    assert observation_space["observation"].shape == (2, 6) and observation_space["action_mask"].shape == (5,)
    spec = Spec(observation_space, action_space, 2, 100)
    rows = []
    for workers in (0, 1):
        driver = HostDriver(Allowed(), target.source, spec, 3, workers)
        begin(driver)
        rows.append(play(driver).rollout)
        driver.close()
    assert_same(*rows)
    shown = rows[0].obs["observation"][..., -1, :-1]
    np.testing.assert_array_equal(rows[0].obs["action_mask"], shown)


class Allowed:
    """The first action that the mask allows, ten steps a rollout."""

    n_steps = 10

    def init(self, key, spec):
        return {"step": np.zeros((), np.int32)}

    initial_memory = no_memory
    actor = staticmethod(lambda state: state)

    def noise(self, actor, key, shape):
        return jax.random.uniform(key, shape)

    def act(self, actor, obs, memory, noise):
        return obs["action_mask"].argmax(-1), memory, ()

    def update(self, state, rollout, key):
        return state, {"reward": rollout.reward.mean()}


jax.tree_util.register_static(Allowed)


def test_pictures_become_channels():
    space: Any = spaces.Dict(
        {"picture": spaces.Box(0, 255, (40, 40), np.uint8), "x": spaces.Box(-1, 1, (2,))}
    )
    env = FrameStack(Samples(space, mask=False), 4)
    obs, _ = env.reset(seed=0)
    code = encoder(env.observation_space)
    vector, picture = code.encode(jax.tree.map(lambda leaf: leaf[None], obs))
    assert vector.shape == (1, 8) and picture.shape == (1, 40, 40, 4)
    assert encoder(stacked_space(spaces.Discrete(5), 3)).encode(np.array([[0, 4, 2]])).sum() == 3


def test_an_agent_learns_from_stacks_and_is_evaluated_on_them(tmp_path):
    algorithm = adv.PPO(n_steps=16, batch_size=16, n_epochs=1, hidden=(4,))
    for name in ("jax/StatelessCartPole-v1", "advantage/StatelessCartPole-v1"):
        target = stacked(resolve(name), 3)
        options: Any = dict(total_timesteps=32, eval_episodes=2, workers=0)
        run = adv.train(algorithm, target, out=tmp_path / name.replace("/", "-"), **options)
        assert run.agent.spec.observation_space.shape == (3, 2)
        assert run.evaluation is not None and len(run.evaluation.returns) == 2
    assert fitting(target, run.agent.spec.observation_space).source.frame_stack == 3


def test_one_is_nothing_and_what_cannot_be_is_refused():
    target = resolve("CartPole-v1")
    assert stacked(target, 1) is target
    for n in (0, -1, 2.5, True):
        with pytest.raises(
            ValueError, match=r"frame_stack=.* is not allowed; use a whole number of 1 or more"
        ):
            stacked(target, n)  # pyright: ignore[reportArgumentType]
    envs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")])
    with pytest.raises(
        ValueError, match=r"frame_stack=4 is not possible with a vector environment; build it from"
    ):
        stacked(resolve(envs), 4)
    with pytest.raises(ValueError, match=r"Text.* cannot be stacked; allowed are Box"):
        stacked_space(spaces.Dict({"a": spaces.Text(3)}), 2)


class Wrong(Samples):
    def observe(self):
        obs = super().observe()
        return obs | {"box": np.zeros(3, np.float32)} if self.t == 2 else obs


def test_promise_13_a_wrong_observation_is_named_in_a_stack_too():
    target = stacked(resolve(Wrong), 2)
    driver = HostDriver(random_policy(Samples(), 10), target.source, Spec(*target.spaces, 1, 10), 0)
    begin(driver)
    with pytest.raises(adv.EnvironmentDefect) as raised:
        play(driver)
    assert (
        raised.value.where.startswith("environment 0, step 1, episode 0") and "['box']" in raised.value.where
    )
    assert raised.value.expected == "an array of shape (2,) and dtype float32"
    driver.close()


def test_make_gives_the_stack_to_nobody_who_did_not_ask():
    assert make("CartPole-v1").observation_space.shape == (4,)
