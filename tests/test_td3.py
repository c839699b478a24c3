"""DDPG and TD3: targets and losses against definitions, exploration, the promises, and what they learn."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_continuous import Slide, SlideOnHost
from probe_learners import (
    CONTINUOUS,
    DISCRETE,
    OBS,
    a_stopped_run_goes_on_bit_for_bit,
    begin,
    both_drivers_and_every_seed_learn_the_same,
    differs,
    learn,
    play,
    same_bits,
    seeds_side_by_side_are_each_alone,
    train,
    update,
)
from probe_linear_quadratic import (
    ascent_of,
    assert_exact,
    learning_of,
    linear_quadratic,
    numeric_gradient,
    points,
    truth,
)

import advantage as adv
from advantage.algorithms.registry import spec_of
from advantage.algorithms.value.ddpg import DDPG
from advantage.algorithms.value.shared.deterministic import smoothed_action, value_of_mu
from advantage.algorithms.value.shared.gradient_steps import actor_step
from advantage.algorithms.value.td3 import TD3
from advantage.drivers.device import rollout_on_device, start
from advantage.policies.action_value import action_value
from advantage.types import Rollout

BASE = dict(
    n_steps=4, hidden=(8,), gradient_steps=3, batch_size=4, buffer_size=64, learning_starts=0, tau=0.1
)
PLAIN = dict(critics=1, policy_delay=1, target_std=0.0)  # TD3 that is DDPG
WIDE = spaces.Box(np.float32([-1, 2]), np.float32([3, 12]))  # half ranges 2 and 5


def tiny(cls=TD3, **changes):
    return cls(**{**BASE, "learning_rate": 3e-3, **changes})


@functools.cache
def course(algorithm, updates=3):
    """The state after some updates."""
    return learn(algorithm, begin(algorithm, CONTINUOUS), updates)[0][-1]


def q_in_numpy(critic, x, action):
    """One hidden layer of ReLU, in float64."""
    x = np.concatenate([x, action], -1).astype(np.float64)
    for layer in critic["network"]:
        x = np.maximum(x @ np.float64(layer["weight"]) + np.float64(layer["bias"]), 0)
    return (x @ np.float64(critic["head"]["weight"]) + np.float64(critic["head"]["bias"]))[..., 0]


def mu_in_numpy(actor, x):
    x = x.astype(np.float64)
    for layer in actor["network"]:
        x = np.maximum(x @ np.float64(layer["weight"]) + np.float64(layer["bias"]), 0)
    return np.tanh(x @ np.float64(actor["head"]["weight"]) + np.float64(actor["head"]["bias"]))


# Targets and losses


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("cls", [DDPG, TD3])
def test_the_critics_loss_is_that_of_the_definition(cls, terminated):
    """One transition in the buffer, which the clock may have cut: it bootstraps unless it terminated."""
    changes = {"target_std": 0.0} if cls is TD3 else {}
    algorithm = tiny(cls, n_steps=1, gradient_steps=1, gamma=0.5, learning_rate=0.0, **changes)
    state, rng = begin(algorithm, CONTINUOUS, num_envs=1), np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, 1, 1, 3)).astype(np.float32)
    action = rng.uniform(-1, 1, (1, 1, 2)).astype(np.float32)
    moved = jax.tree.map(lambda leaf: leaf + np.float32(0.1), state.target)
    flags = np.array([[terminated]]), np.array([[not terminated]])
    rollout = Rollout(obs, action, np.float32([[1.7]]), next_obs, *flags)
    _, metrics = update(algorithm, dataclasses.replace(state, target=moved), rollout, jax.random.key(0))
    following = mu_in_numpy(moved["actor"], next_obs[0])
    critics = range(1 if cls is DDPG else 2)
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], state.params["action_value"]) for i in critics]
    targets = [jax.tree.map(lambda leaf, i=i: leaf[i], moved["action_value"]) for i in critics]
    value = min(q_in_numpy(critic, next_obs[0], following)[0] for critic in targets)
    y = 1.7 + (0.0 if terminated else 0.5 * value)
    losses = [(q_in_numpy(critic, obs[0], action[0])[0] - y) ** 2 / 2 for critic in each]
    total, count = metrics["action_value_loss"]
    assert total / count == pytest.approx(np.mean(losses), rel=1e-4)


def test_td3_without_its_three_changes_is_ddpg_bit_for_bit():
    same_bits(course(tiny(**PLAIN)), course(tiny(DDPG)))
    for name, value in dict(critics=2, policy_delay=2, target_std=0.2).items():
        other = course(tiny(**{**PLAIN, name: value})).params["actor"]
        assert differs(other, course(tiny(DDPG)).params["actor"], 1e-6), name


@pytest.mark.parametrize("units", ["bounds", "raw"])
def test_the_noise_of_a_targets_action_is_a_share_of_half_its_range(units):
    algorithm = tiny(action_units=units)
    state = algorithm.init(jax.random.key(0), spec_of(algorithm, OBS, WIDE, num_envs=2, total_timesteps=80))
    half = np.float32([2, 5]) if units == "raw" else np.float32([1, 1])
    low = WIDE.low if units == "raw" else np.float32([-1, -1])
    x, actor = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32), state.params["actor"]
    mu = np.asarray(state.policy.distribution(actor, x).mode())
    normal = state.policy.head.noise(jax.random.key(1), (1000,))
    assert normal.shape == mu.shape == (1000, 2), "each number of an action has noise of its own"
    near = smoothed_action(state.policy, actor, x, normal, 0.2, 0.5)
    expected = np.clip(mu + half * np.clip(0.2 * np.asarray(normal), -0.5, 0.5), low, low + 2 * half)
    np.testing.assert_allclose(near, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(((near - mu) / half).std(0), 0.2, rtol=0.1)
    clipped = (smoothed_action(state.policy, actor, x, normal, 5.0, 0.5) - mu) / half
    assert abs(clipped).max() == pytest.approx(0.5, rel=1e-4)
    far = np.asarray(smoothed_action(state.policy, actor, x, normal, 50.0, 50.0))
    assert far.min(0) == pytest.approx(low) and far.max(0) == pytest.approx(low + 2 * half)


def test_policy_and_targets_move_at_every_so_manyth_step_also_across_a_stop():
    """One gradient step an update: only the state knows how many there were."""
    algorithm = tiny(policy_delay=3, gradient_steps=1)
    states, _, reports = learn(algorithm, begin(algorithm, CONTINUOUS, num_envs=1), 7)
    assert [int(state.gradient_steps) for state in states] == list(range(8))
    for i, (before, after) in enumerate(itertools.pairwise(states), 1):
        assert differs(after.params["action_value"], before.params["action_value"], 0)
        assert differs(after.params["actor"], before.params["actor"], 0) == (i % 3 == 0)
        assert differs(after.target, before.target, 0) == (i % 3 == 0)
    assert reports[-1]["gradient_steps"] == 1


def test_targets_move_by_tau():
    before = begin(tiny(DDPG, gradient_steps=1), CONTINUOUS, num_envs=1)
    after = update(tiny(DDPG, gradient_steps=1), before, play(tiny(DDPG), before, 0), jax.random.key(0))[0]
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, before.target, after.params)
    assert not differs(after.target, expected, 1e-6)
    assert differs(after.target, before.target, 1e-6)


# The exact gradient


def test_the_deterministic_policy_gradient_is_that_of_the_cost_in_a_linear_quadratic_world():
    world = linear_quadratic()
    np.testing.assert_allclose(numeric_gradient(world, "gain"), world.gradient, rtol=1e-6)
    with jax.enable_x64(True):
        policy, params = truth(world)
        (states,) = points(world.states)
        params["action_value"] = jax.tree.map(lambda leaf: leaf[None], params["action_value"])
        before = learning_of(params, params)
        value_of = value_of_mu(policy, action_value(policy), before, jnp.asarray(states))
        assert_exact(ascent_of(actor_step(tiny(), value_of, before, 1e-3)), world)


# Exploration


def explored(algorithm, space, shape, num_envs=1):
    """Actions minus mu in units of half the range, and the state of the noise, over some steps of one episode each."""
    spec = spec_of(algorithm, OBS, space, num_envs=num_envs, total_timesteps=80)
    state = algorithm.init(jax.random.key(0), spec)
    actor = algorithm.actor(state)
    noise = algorithm.noise(actor, jax.random.key(1), shape)
    obs = np.random.default_rng(0).normal(size=(shape[1], 3)).astype(np.float32)
    memory = algorithm.initial_memory(actor)
    memory = jax.tree.map(lambda leaf: jnp.zeros((shape[1], *leaf.shape)), memory)

    def step(memory, noise):
        action, memory, _ = algorithm.act(actor, obs, memory, noise)
        return memory, action

    _, actions = jax.lax.scan(step, memory, noise)
    return np.asarray(actions), np.asarray(actor.mu(obs))


@pytest.mark.parametrize("units", ["bounds", "raw"])
def test_gaussian_exploration_is_a_share_of_half_the_range_within_the_bounds(units):
    half = np.float32([2, 5]) if units == "raw" else np.float32([1, 1])
    low = WIDE.low if units == "raw" else np.float32([-1, -1])
    actions, mu = explored(tiny(exploration_std=0.1, action_units=units), WIDE, (50, 50))
    z = (actions - mu) / half
    np.testing.assert_allclose(z.std((0, 1)), 0.1, rtol=0.05)
    np.testing.assert_allclose((z[1:] * z[:-1]).mean((0, 1)), 0, atol=1e-3)
    actions, _ = explored(tiny(exploration_std=9.0, action_units=units), WIDE, (50, 50))
    assert actions.min((0, 1)) == pytest.approx(low) and actions.max((0, 1)) == pytest.approx(low + 2 * half)


def test_an_ornstein_uhlenbeck_process_has_its_stationary_variance():
    std, theta = 0.02, 0.3
    algorithm = tiny(exploration="ornstein-uhlenbeck", exploration_std=std, exploration_theta=theta)
    actions, mu = explored(algorithm, WIDE, (60, 2000))
    x = actions - mu
    variance = std**2 / (1 - (1 - theta) ** 2)
    np.testing.assert_allclose(x[0].var(0), std**2, rtol=0.15), "it begins at 0"
    np.testing.assert_allclose(x[20:].var((0, 1)), variance, rtol=0.05)
    np.testing.assert_allclose((x[21:] * x[20:-1]).mean((0, 1)), (1 - theta) * variance, rtol=0.05)


OU = dict(exploration="ornstein-uhlenbeck", exploration_std=0.3)


def test_the_process_begins_at_0_in_each_episode_on_the_device():
    """Without a return to 0 its variance grows with every step of an episode, and would with every episode."""
    algorithm = tiny(
        exploration="ornstein-uhlenbeck", exploration_std=0.01, exploration_theta=0.0, buffer_size=200
    )
    world = Slide()
    spec = spec_of(algorithm, world.observation_space, world.action_space, num_envs=200, total_timesteps=80)
    actor = algorithm.actor(algorithm.init(jax.random.key(0), spec))
    noise = algorithm.noise(actor, jax.random.key(1), (24, 200))
    worlds = start(world, jax.random.key(2), 200, algorithm.initial_memory(actor))
    _, rollout = rollout_on_device(algorithm, world, actor, worlds, noise, jax.random.key(3))
    x = np.asarray(rollout.action - actor.mu(rollout.obs))[..., 0].reshape(4, 6, 200)
    np.testing.assert_allclose(x.var((0, 2)) / 1e-4, np.arange(1, 7), rtol=0.2)


def test_workers_and_both_drivers_explore_alike(tmp_path):
    """The process's state is a memory: a run in worker processes ends in the same bits, one on the device nearly."""
    algorithm = tiny(DDPG, learning_rate=1e-2, **OU)
    both_drivers_and_every_seed_learn_the_same(algorithm, tmp_path, on_host=SlideOnHost, world=Slide())
    runs = [train(algorithm, SlideOnHost, tmp_path / f"{n}", seed=1, workers=n) for n in (0, 2)]
    tensors = [(run.path / "last" / "state.safetensors").read_bytes() for run in runs]
    assert tensors[0] == tensors[1]


def test_both_drivers_and_every_seed_learn_the_same(tmp_path):
    algorithm = tiny(learning_rate=1e-2, learning_starts=16)
    both_drivers_and_every_seed_learn_the_same(algorithm, tmp_path, on_host=SlideOnHost, world=Slide())


def test_actions_are_uniform_until_learning_starts_and_only_then():
    algorithm = tiny(learning_starts=24, exploration_std=0.01)
    state = begin(algorithm, CONTINUOUS)
    for step in range(0, 48, 8):
        rollout = play(algorithm, state, step, num_steps=200)
        x = np.asarray(rollout.action) - np.asarray(algorithm.actor(state).mu(rollout.obs))
        if step < 24:
            assert np.asarray(rollout.action).var() == pytest.approx(1 / 3, rel=0.1)
            assert abs(rollout.action).max() <= 1
        else:
            assert abs(x).max() < 0.06
        state, _ = update(algorithm, state, play(algorithm, state, step), jax.random.key(step))


# Promises


def test_promise_8_updates_per_transition_do_not_depend_on_the_number_of_environments():
    counts = []
    for num_envs in (1, 4):
        state = begin(tiny(), CONTINUOUS, num_envs=num_envs)
        state, metrics = update(tiny(), state, play(tiny(), state, 0), jax.random.key(0))
        counts.append((float(metrics["gradient_steps"]), int(state.gradient_steps)))
    assert counts == [(3, 3), (12, 12)], "three for each four transitions"


@pytest.mark.parametrize("cls", [DDPG, TD3])
def test_nothing_is_learned_before_learning_starts(cls):
    algorithm = tiny(cls, learning_starts=24)
    state, first = course(algorithm, updates=2), begin(algorithm, CONTINUOUS)
    same_bits((state.params, state.target), (first.params, first.target))
    assert int(state.gradient_steps) == 0
    assert differs(course(algorithm, updates=3).params, first.params)


OPTIONS = dict(
    layer_norm=True,
    critic_dropout=0.3,
    learning_rate=1e-2,
    n=3,
    batch_size=5,
    gradient_steps=2,
    buffer_size=9,
    learning_starts=24,
    tau=0.5,
    gamma=0.5,
    critics=3,
    policy_delay=1,
    target_std=0.4,
    target_clip=0.05,
    exploration_std=0.3,
    normalize_observation=True,
    normalize_reward=True,
)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_learning_makes_a_difference(name):
    changed = course(tiny(**{name: OPTIONS[name]})).params["actor"]
    assert differs(changed, course(tiny()).params["actor"], 1e-6)


def test_the_kind_of_noise_and_its_return_make_a_difference():
    kinds = [tiny(exploration_std=0.3), *(tiny(**OU, exploration_theta=theta) for theta in (0.1, 0.9))]
    actions = [explored(algorithm, CONTINUOUS, (4, 2))[0] for algorithm in kinds]
    for left, right in itertools.combinations(actions, 2):
        assert differs(left, right)


@pytest.mark.parametrize("cls", [DDPG, TD3])
def test_what_a_deterministic_policy_cannot_do_is_refused(cls):
    with pytest.raises(
        ValueError, match=r"needs a bounded Box of floats.*Discrete\(3\); use dqn, sac or ppo"
    ):
        begin(tiny(cls), DISCRETE)
    with pytest.raises(ValueError, match=r"needs a bounded Box of floats.*use ppo"):
        begin(tiny(cls), spaces.Box(0, 9, (2,), np.int32))
    for bound in (np.inf, 3e38):
        unbounded = spaces.Box(np.float32([-1, -bound]), np.float32([1, bound]))
        with pytest.raises(ValueError, match=r"needs finite bounds.*TransformAction, or use ppo"):
            begin(tiny(cls), unbounded)
    with pytest.raises(ValueError, match="A recurrent network"):
        begin(tiny(cls, network="gru"), CONTINUOUS)


@pytest.mark.parametrize(
    "wrong", [dict(critics=0), dict(policy_delay=0), dict(target_std=-0.1), dict(tau=0.0)]
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*not allowed"):
        tiny(**wrong)


def test_seeds_side_by_side_are_each_alone():
    seeds_side_by_side_are_each_alone(tiny(), CONTINUOUS)


@pytest.mark.parametrize("environment", [SlideOnHost, Slide()], ids=["host", "device"])
def test_a_stopped_run_goes_on_to_the_same_numbers_its_buffer_included(tmp_path, environment):
    """Five updates of three steps each: the delay of two is in the middle when the run stops."""
    a_stopped_run_goes_on_bit_for_bit(tiny(gradient_steps=3, **OU), environment, tmp_path)


# What they learn


def test_the_minimum_of_two_critics_overestimates_less_than_one():
    """Rewards are noise of mean 0, so every true value is 0; a policy that climbs a fitted critic finds more."""
    found = {}
    for critics in (1, 2):
        algorithm = TD3(
            critics=critics, policy_delay=1, target_std=0.0, hidden=(32,), n_steps=64, gradient_steps=400,
            batch_size=32, buffer_size=64, learning_starts=0, tau=0.05, gamma=0.9, learning_rate=3e-3,
        )  # fmt: skip
        states = [begin(algorithm, CONTINUOUS, seed=seed, num_envs=1) for seed in range(8)]
        rng = np.random.default_rng(0)
        values = []

        @jax.jit
        def learned(state, rollout, key, algorithm=algorithm):
            state, _ = algorithm.update(state, rollout, key)
            q, first = (
                action_value(state.policy),
                jax.tree.map(lambda leaf: leaf[0], state.params["action_value"]),
            )
            x = rollout.obs[:, 0]
            return q.value(first, x, state.policy.distribution(state.params["actor"], x).mode()).mean()

        for seed, state in enumerate(states):
            obs = rng.uniform(-1, 1, (65, 1, 3)).astype(np.float32)
            action = rng.uniform(-1, 1, (64, 1, 2)).astype(np.float32)
            reward = rng.normal(size=(64, 1)).astype(np.float32)
            never = np.zeros((64, 1), bool)
            rollout = Rollout(obs[:-1], action, reward, obs[1:], never, never)
            values.append(float(learned(state, rollout, jax.random.key(seed))))
        found[critics] = np.mean(values)
    assert found[1] > 1.0
    assert found[2] < found[1] - 0.5, found


@pytest.mark.slow
@pytest.mark.parametrize("cls", [DDPG, TD3])
def test_it_learns(tmp_path, cls):
    algorithm = cls(learning_rate=1e-3, hidden=(64, 64))
    options = {"total_timesteps": 20_000, "eval_episodes": 50, "tensorboard": False}
    assert adv.train(algorithm, "jax/Pendulum-v1", out=tmp_path / "run", **options).evaluation.mean > -170
