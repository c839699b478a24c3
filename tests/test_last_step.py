"""The action and the reward of the last step in the observation, on the host and on the device."""

from __future__ import annotations

import functools
import json
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
from advantage.environments.environment import fitting, observing
from advantage.environments.last_step import LastStep, LastStepWorld
from advantage.environments.make import resolve
from advantage.environments.tables.tiger import tiger
from advantage.environments.worlds.cartpole import CartPole
from advantage.types import LastPart, Spec

KEY = jax.random.key(0)
BOTH: tuple[LastPart, ...] = ("action", "reward")
ACTIONS = spaces.Dict(
    {
        "index": spaces.Discrete(3, start=4),
        "more": spaces.Tuple((spaces.MultiDiscrete([2, 5], start=[1, 0]), spaces.MultiBinary(2))),
        "torque": spaces.Box(0.5, 2, (2,)),
        "whole": spaces.Box(-3, 3, (1,), np.int16),
    }
)


class Echo(gymnasium.Env):
    """The reward is the number of the step; any action will do."""

    observation_space: spaces.Space = spaces.Discrete(9)

    def __init__(self, action_space: spaces.Space = ACTIONS, rewards: Any = None):
        self.action_space, self.rewards = action_space, rewards

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.int64(0), {}

    def step(self, action):
        self.t += 1
        reward = float(self.t) if self.rewards is None else self.rewards[self.t - 1]
        return np.int64(self.t), reward, False, self.t == 6, {}


def test_every_kind_of_action_is_observed_after_its_step_and_none_before_the_first():
    env = LastStep(Echo(), BOTH)
    unbounded = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    wider = spaces.Tuple((spaces.MultiDiscrete([3, 6], start=[1, 0]), spaces.MultiDiscrete([3, 3], np.int8)))
    assert env.observation_space == spaces.Dict(
        {
            "observation": spaces.Discrete(9),
            "last_action": spaces.Dict(
                {
                    "index": spaces.Discrete(4, start=4),
                    "more": wider,
                    "torque": unbounded,
                    "whole": ACTIONS["whole"],
                }
            ),
            "last_reward": spaces.Box(-np.inf, np.inf, (), np.float32),
        }
    )
    ACTIONS.seed(0)
    for _ in range(2):  # the second episode begins without a last step too
        obs, _ = env.reset(seed=0)
        assert env.observation_space.contains(obs) and obs["last_reward"] == 0
        none = obs["last_action"]
        assert (
            none["index"] == 7 and none["more"][0].tolist() == [3, 5] and none["more"][1].tolist() == [2, 2]
        )
        assert none["torque"].tolist() == [0.5, 0.5] and none["whole"] == 0
        for t in range(1, 5):
            action = ACTIONS.sample()
            obs, reward, *_ = env.step(action)
            assert env.observation_space.contains(obs)
            assert_same(obs["last_action"], action)
            assert obs["last_reward"] == reward == obs["observation"] == t


def test_one_part_is_observed_alone_and_a_mask_stays_where_it_was():
    assert set(LastStep(Echo(), ("reward",)).observation_space) == {"observation", "last_reward"}
    target = observing(resolve(functools.partial(Masked, "info")), ("action",))
    assert set(target.spaces[0]) == {"observation", "action_mask", "last_action"}
    assert target.spaces[0]["action_mask"].shape == (5,)
    assert target.source().reset(seed=0)[0]["last_action"] == 5


def test_host_and_device_observe_the_same():
    device, host = LastStepWorld(CartPole(), BOTH), LastStep(OnHost(CartPole()), BOTH)
    assert device.observation_space == host.observation_space and device.gymnasium_id == "CartPole-v1"
    state, obs = device.reset(KEY)
    first, _ = host.reset(seed=0)
    assert all(obs[name] == first[name] for name in NAMES)
    for action in (1, 0, 1):
        state, obs, reward, _ = device.step(state, jax.numpy.int32(action), KEY)
        assert (obs["last_action"], obs["last_reward"]) == (action, reward)
        seen = host.step(np.int64(action))[0]
        assert all(obs[name] == seen[name] for name in NAMES)


NAMES = "last_action", "last_reward"


@pytest.mark.parametrize("n", [1, 3])
def test_promise_4_no_episode_sees_the_last_step_of_another_on_the_device(n):
    from advantage.drivers.device import rollout_on_device, start

    policy, world = random_policy(Drift, 40), observing(resolve(Drift()), BOTH, n).source
    worlds = start(world, KEY, 4)
    state = policy.init(KEY, None)
    noise = policy.noise(state, jax.random.key(1), (40, 4))
    _, rollout = jax.jit(lambda worlds, noise: rollout_on_device(policy, world, state, worlds, noise, KEY))(
        worlds, noise
    )
    rollout = jax.tree.map(np.asarray, rollout)
    action, reward = (rollout.obs[name].reshape(40, 4, n)[..., -1] for name in NAMES)
    after = rollout.next_obs["last_action"].reshape(40, 4, n)[..., -1]
    np.testing.assert_array_equal(after, rollout.action)
    done = (rollout.terminated | rollout.truncated)[:-1]
    assert done.sum() > 10
    none = Drift.action_space.n
    np.testing.assert_array_equal(action[1:], np.where(done, none, rollout.action[:-1]))
    np.testing.assert_array_equal(reward[1:], np.where(done, 0, rollout.reward[:-1]))
    assert (action[0] == none).all() and not reward[0].any()


def test_workers_observe_it_too_and_the_numbers_are_the_same():
    target = observing(resolve("CartPole-v1"), BOTH, 2)
    spec = Spec(*target.spaces, 2, 100)
    rows = []
    for workers in (0, 1):
        driver: Any = HostDriver(random_policy(CartPole(), 30), target.source, spec, 3, workers)
        begin(driver)
        rows.append(play(driver).rollout)
        driver.close()
    assert_same(*rows)
    done = (rows[0].terminated | rows[0].truncated)[:-1]
    action = rows[0].obs["last_action"][1:, :, -1]
    assert done.any() and (action[~done] == rows[0].action[:-1][~done]).all() and (action[done] == 2).all()


def test_an_agent_is_trained_evaluated_and_resumed_with_it(tmp_path):
    algorithm = adv.A2C(n_steps=8, hidden=(4,))
    options: Any = dict(num_envs=2, eval_episodes=2, workers=0, observe_last=["action"], frame_stack=2)
    world = adv.train(algorithm, "jax/Tiger-v0", out=tmp_path / "world", total_timesteps=16, **options)
    assert set(world.agent.spec.observation_space) == {"observation", "last_action"}
    run = adv.train(algorithm, "CartPole-v1", out=tmp_path / "run", total_timesteps=64, **options)
    assert (run.agent.spec.observe_last, run.agent.spec.frame_stack) == (("action",), 2)
    again = [adv.evaluate(tmp_path / "run", name, episodes=2).returns for name in (None, "CartPole-v1")]
    np.testing.assert_array_equal(*again)
    adv.resume(tmp_path / "run", total_timesteps=128)
    whole = adv.train(algorithm, "CartPole-v1", out=tmp_path / "whole", total_timesteps=128, **options)
    assert_same(adv.load(tmp_path / "run").state.params, whole.agent.state.params)
    target = fitting(resolve("CartPole-v1"), run.agent.spec.observation_space)
    target = observing(target, ("action",), 2)
    assert observing(target, ("action",), 2) == target


def test_what_cannot_be_observed_is_refused(tmp_path):
    for wrong in ("action", ["velocity"], 3, ["action", "action"], None):
        with pytest.raises(
            ValueError, match=r"observe_last=.* is not allowed; use a list such as \['action'\]"
        ):
            adv.train("ppo", "CartPole-v1", observe_last=wrong)
    envs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")])
    with pytest.raises(ValueError, match="observe_last=.* is not possible with a vector environment; build"):
        observing(resolve(envs), BOTH)
    stacked = observing(resolve("jax/CartPole-v1"), (), 2)
    with pytest.raises(
        ValueError, match="is not possible with jax/CartPole-v1, whose observations are stack"
    ):
        observing(stacked, BOTH)

    class Taken(Echo):
        observation_space = spaces.Dict({"last_action": spaces.Discrete(9)})

        def __init__(self):
            super().__init__(spaces.Discrete(2))

    with pytest.raises(ValueError, match="has a part 'last_action' already, so observe_last"):
        adv.train("ppo", Taken, observe_last=["action"])


def test_a_damaged_config_is_named(tmp_path):
    algorithm = adv.PPO(n_steps=8, batch_size=8, hidden=(4,))
    run = adv.train(algorithm, "CartPole-v1", out=tmp_path / "run", total_timesteps=8, eval_episodes=0)
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    del config["training"]["observe_last"]  # a run of a version before the option
    file.write_text(json.dumps(config))
    assert adv.load(tmp_path / "run").spec == run.agent.spec
    config["training"]["observe_last"] = ["speed"]
    file.write_text(json.dumps(config))
    with pytest.raises(adv.CheckpointError, match="training: observe_last=.* is not allowed"):
        adv.load(tmp_path / "run")


def beliefs_about_the_tiger(most: int = 8) -> adv.MDP:
    """The tiger's beliefs, as how many more growls came from the left than from the right since a door was opened."""
    pomdp = tiger()
    right, n, reward = pomdp.emission[0, 0, 0], 2 * most + 1, pomdp.mdp.expected_reward
    odds = (right / (1 - right)) ** np.arange(-most, most + 1.0)
    left = odds / (odds + 1)
    transition = np.zeros((n, 3, n))
    transition[:, 1:, most] = 1
    hears_left = left * right + (1 - left) * (1 - right)
    for place in range(n):
        transition[place, 0, min(place + 1, n - 1)] += hears_left[place]
        transition[place, 0, max(place - 1, 0)] += 1 - hears_left[place]
    return adv.MDP(transition, left[:, None] * reward[0] + (1 - left[:, None]) * reward[1], gamma=0.95)


def test_the_tigers_exact_value_is_that_of_its_beliefs():
    """From a table of beliefs; 8 growls more from one side than from the other are as good as knowing."""
    assert abs(adv.solve(beliefs_about_the_tiger()).value[8] - 19.3714) < 1e-3
    assert abs(adv.solve(beliefs_about_the_tiger(10)).value[10] - 19.3714) < 1e-3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_memory_of_growls_and_actions_comes_within_5_percent_of_the_tigers_exact_value(tmp_path):
    """The preset's mean return, discounted, over 8,000 episodes of 200 steps, of the policy's likeliest actions."""
    chosen = adv.preset("ppo", "jax/Tiger-v0")
    run = adv.train(chosen.algorithm, "jax/Tiger-v0", out=tmp_path / "run", eval_episodes=0, **chosen.options)
    algorithm, actor = run.agent.algorithm, run.agent.algorithm.actor(run.agent.state)
    world, episodes = observing(resolve("jax/Tiger-v0"), ("action",)).source, 8000
    first = algorithm.initial_memory(actor)
    memory = jax.tree.map(lambda leaf: jax.numpy.broadcast_to(leaf, (episodes, *leaf.shape)), first)
    states, obs = jax.vmap(world.reset)(jax.random.split(KEY, episodes))

    def step(carry, key):
        states, obs, memory = carry
        action, memory = algorithm.greedy(actor, obs, memory)
        states, obs, reward, _ = jax.vmap(world.step)(states, action, jax.random.split(key, episodes))
        return (states, obs, memory), reward

    keys = jax.random.split(jax.random.key(1), 200)
    _, rewards = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))((states, obs, memory))
    returns = 0.95 ** np.arange(200) @ np.asarray(rewards, float)
    exact = adv.solve(beliefs_about_the_tiger()).value[8]
    assert 0.95 * exact <= returns.mean() <= exact + 3 * returns.std() / episodes**0.5, returns.mean()


@pytest.mark.parametrize("reward", [None, "1"])
def test_promise_13_a_wrong_reward_is_named(reward):
    target = observing(resolve(lambda: Echo(spaces.Discrete(2), [1.0, reward])), BOTH)
    driver: Any = HostDriver(random_policy(CartPole(), 10), target.source, Spec(*target.spaces, 1, 10), 0)
    begin(driver)
    with pytest.raises(adv.EnvironmentDefect, match="reward") as raised:
        play(driver)
    assert raised.value.where.startswith("environment 0, step 1, episode 0")
    driver.close()


def test_promise_13_a_wrong_reset_is_named():
    class Bare(Echo):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0]  # without info, as older environments have it

    with pytest.raises(adv.EnvironmentDefect, match="reset"):
        LastStep(Bare(spaces.Discrete(2)), BOTH).reset(seed=0)


def test_the_command_line_takes_each_part(tmp_path, capsys):
    from advantage.cli import main

    words = [
        "train",
        "ppo",
        "jax/Tiger-v0",
        "--n-steps",
        "8",
        "--batch-size",
        "8",
        "--total-timesteps",
        "8",
        "--preset",
        "none",
    ]
    last = ["--observe-last", "reward", "--observe-last", "action", "--out", str(tmp_path / "run")]
    assert main([*words, *last]) == 0
    assert adv.load(tmp_path / "run").spec.observe_last == ("reward", "action")
    assert main(["train", "ppo", "jax/Tiger-v0", "--observe-last", "speed"]) == 2
    assert "'speed'" in capsys.readouterr().err
