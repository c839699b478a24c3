"""Stochastic value gradients: against definitions and exact gradients, the promises, and what they learn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_continuous import Slide, SlideOnHost
from probe_learners import (
    CONTINUOUS,
    DISCRETE,
    a_stopped_run_goes_on_bit_for_bit,
    begin,
    both_drivers_and_every_seed_learn_the_same,
    differs,
    learn,
    play,
    same_bits,
    seeds_side_by_side_are_each_alone,
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
from advantage.algorithms.policy_gradient.shared.replayed_critic import ReplayBatch
from advantage.algorithms.registry import spec_of
from advantage.algorithms.value.svg import SVG
from advantage.models.gaussian_step import gaussian_model
from advantage.policies.action_value import action_value
from advantage.policies.distributions import Gaussian, SquashedGaussian
from advantage.policies.inferred_noise import inferred_noise
from advantage.running_moments import moments_init
from advantage.types import Rollout

BASE = dict(
    n_steps=4, hidden=(8,), gradient_steps=3, batch_size=4, buffer_size=64, learning_starts=0, tau=0.1
)


def tiny(order=1, **changes):
    return SVG(order=order, **{**BASE, "learning_rate": 3e-3, **changes})


@functools.cache
def course(algorithm, updates=3):
    """The state after some updates, and what they reported."""
    states, _, reports = learn(algorithm, begin(algorithm, CONTINUOUS), updates)
    return states[-1], reports


# The noise that is inferred


@pytest.mark.parametrize("squashed", [False, True])
def test_inferred_noise_gives_the_sample_again(squashed):
    rng = np.random.default_rng(0)
    mean, log_std, noise = rng.normal(size=(3, 400, 2)).astype(np.float32)
    low, high = np.float32([-1, 0]), np.float32([1, 3])
    distribution = SquashedGaussian(mean, log_std, low, high) if squashed else Gaussian(mean, log_std)
    value = distribution.sample(noise)
    found = inferred_noise(distribution, value)
    np.testing.assert_allclose(distribution.sample(found), value, rtol=1e-5, atol=1e-5)
    far = abs(mean + np.exp(log_std) * noise).max(-1) > 3 if squashed else np.zeros(400, bool)
    np.testing.assert_allclose(found[~far], noise[~far], rtol=1e-2, atol=1e-3)
    if squashed:
        assert np.isfinite(inferred_noise(distribution, np.broadcast_to(high, mean.shape))).all()


def test_a_models_inferred_noise_gives_the_successor_again():
    state, _ = course(tiny())
    model, rng = gaussian_model(state.policy), np.random.default_rng(1)
    x, next_x = rng.normal(size=(2, 50, 3)).astype(np.float32)
    action = rng.uniform(-1, 1, (50, 2)).astype(np.float32)
    successor = model.successor(state.params["model"], state.changes, x, action)
    again = successor.sample(inferred_noise(successor, next_x))
    np.testing.assert_allclose(again, next_x, rtol=1e-5, atol=1e-5)


# Exact gradients


@pytest.mark.parametrize("order", [0, 1])
def test_the_gradient_is_that_of_the_cost_in_a_linear_quadratic_world(order):
    """With the true Q, or the true model, reward and V; points of states, eta and xi have exact moments."""
    world = linear_quadratic(std=(0.5, 0.3), noise=0.4)
    np.testing.assert_allclose(numeric_gradient(world, "gain"), world.gradient, rtol=1e-6)
    np.testing.assert_allclose(numeric_gradient(world, "std"), world.gradient_of_std, rtol=1e-6)
    algorithm = tiny(order, ent_coef=0.0, learning_rate=0.0)
    with jax.enable_x64(True):
        policy, params = truth(world)
        x, eta, xi = map(jnp.asarray, points(world.states, np.eye(2), np.eye(3)))
        distribution = policy.distribution(params["actor"], x)
        action = distribution.sample(eta)
        next_x = x @ world.A.T + action @ world.B.T + xi @ world.C.T
        reward = action_value(policy).value(params["reward"], x, action)
        batch = ReplayBatch(x, action, reward, jnp.full(len(x), world.gamma), next_x)
        before = learning_of(params, params["critic" if order else "action_value"])
        if order == 1:
            changes = moments_init((3,))
            log_mu = distribution.log_prob(action)
            after, metrics = algorithm._first_order(policy, before, batch, log_mu, changes, 0.0)
            assert metrics["weight"] == pytest.approx(1)
            assert metrics["reward_loss"] == pytest.approx(0, abs=1e-9)
        else:
            after, _ = algorithm._zeroth_order(policy, before, batch, jnp.stack([eta, eta]), 0.0)
        assert_exact(ascent_of(after), world)


def test_importance_weights_make_the_gradient_that_of_the_policy():
    """Actions of a wider behaviour, weighed by quadrature: the mean is that of the policy's own actions."""
    world, gradients = linear_quadratic(std=(0.5, 0.3), noise=0.4), []
    algorithm = tiny(1, ent_coef=0.0, learning_rate=0.0, max_weight=1e9)
    node, weight = np.polynomial.hermite_e.hermegauss(12)
    nodes = np.stack(np.meshgrid(node, node), -1).reshape(-1, 2)
    weights = np.outer(weight, weight).ravel() / (2 * np.pi)
    with jax.enable_x64(True):
        policy, params = truth(world)
        for wider in (1.0, 1.2):
            x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3)).repeat(len(nodes), 0))
            behaviour = policy.distribution(params["actor"], x)
            behaviour = Gaussian(behaviour.mean, behaviour.log_std + np.log(wider))
            action = behaviour.sample(jnp.asarray(nodes))
            next_x = x @ world.A.T + action @ world.B.T + 0.3
            batch = ReplayBatch(x, action, jnp.zeros(len(x)), jnp.full(len(x), world.gamma), next_x)
            log_mu = behaviour.log_prob(action) - np.log(weights * len(nodes))  # the points' own weights
            before = learning_of(params, params["critic"])
            after, _ = algorithm._first_order(policy, before, batch, log_mu, moments_init((3,)), 0.0)
            gradients.append(ascent_of(after)["head"]["weight"])
    assert differs(gradients[0], np.zeros_like(gradients[0]))
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=2e-2, atol=2e-2 * abs(gradients[0]).max())


# Losses


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("likely", [0.5, 4.0])
def test_the_losses_of_order_1_are_those_of_the_definition(terminated, likely):
    """One transition in the buffer, which the clock may have cut: it bootstraps unless it terminated."""
    algorithm = tiny(n_steps=1, gradient_steps=1, gamma=0.5, learning_rate=0.0, max_weight=1.5)
    state, rng = begin(algorithm, CONTINUOUS, num_envs=1), np.random.default_rng(0)
    state = dataclasses.replace(state, target=jax.tree.map(lambda leaf: leaf + 0.1, state.target))
    obs, next_obs = rng.normal(size=(2, 1, 1, 3)).astype(np.float32)
    action = np.float32([[[0.3, -0.6]]])
    log_pi = state.policy.distribution(state.params["actor"], obs[0]).log_prob(action[0])
    flags = np.array([[terminated]]), np.array([[not terminated]])
    extras = np.asarray(log_pi - np.log(likely))[None]
    rollout = Rollout(obs, action, np.float32([[1.7]]), next_obs, *flags, extras)
    after, metrics = update(algorithm, state, rollout, jax.random.key(0))
    policy, q = state.policy, action_value(state.policy)
    here = float(policy.value(state.params, obs[0])[0])
    following = float(policy.value({"critic": state.target}, next_obs[0])[0])
    y, weight = 1.7 + (0.0 if terminated else 0.5 * following), min(likely, 1.5)
    successor = gaussian_model(policy).successor(state.params["model"], after.changes, obs[0], action[0])
    expected = {
        "weight": weight,
        "value_loss": weight * (here - y) ** 2 / 2,
        "reward_loss": float(q.value(state.params["reward"], obs[0], action[0])[0] - 1.7) ** 2 / 2,
        "model_loss": -float(successor.log_prob(next_obs[0])[0]),
        "entropy": float(policy.distribution(state.params["actor"], obs[0]).entropy()[0]),
    }
    for name, value in expected.items():
        total, count = metrics[name]
        assert total / count == pytest.approx(value, rel=1e-3), name
    np.testing.assert_allclose(after.changes.mean.value, (next_obs - obs)[0, 0], rtol=1e-5)


@pytest.mark.parametrize("terminated", [True, False])
def test_the_critics_loss_of_order_0_is_that_of_the_definition(terminated):
    algorithm = tiny(0, n_steps=1, gradient_steps=1, gamma=0.5, learning_rate=0.0, log_std_init=-5.0)
    state, rng = begin(algorithm, CONTINUOUS, num_envs=1), np.random.default_rng(0)
    state = dataclasses.replace(state, target=jax.tree.map(lambda leaf: leaf + 0.1, state.target))
    obs, next_obs = rng.normal(size=(2, 1, 1, 3)).astype(np.float32)
    action = np.float32([[[0.3, -0.6]]])
    flags = np.array([[terminated]]), np.array([[not terminated]])
    rollout = Rollout(obs, action, np.float32([[1.7]]), next_obs, *flags, np.zeros((1, 1), np.float32))
    _, metrics = update(algorithm, state, rollout, jax.random.key(0))
    policy, q = state.policy, action_value(state.policy)
    mode = policy.distribution(state.params["actor"], next_obs[0]).mode()  # with hardly any noise
    following = float(q.value(state.target, next_obs[0], mode)[0])
    y = 1.7 + (0.0 if terminated else 0.5 * following)
    here = float(q.value(state.params["action_value"], obs[0], action[0])[0])
    total, count = metrics["action_value_loss"]
    assert total / count == pytest.approx((here - y) ** 2 / 2, rel=1e-2)


def test_the_density_of_an_action_is_stored_as_it_was_drawn():
    algorithm = tiny()
    states, rollouts, _ = learn(algorithm, begin(algorithm, CONTINUOUS), 2)
    assert differs(states[1].params["actor"], states[0].params["actor"], 1e-6)
    for n, rollout in enumerate(rollouts):
        distribution = states[n].policy.distribution(states[n].params["actor"], rollout.obs)
        np.testing.assert_allclose(
            rollout.extras, distribution.log_prob(rollout.action), rtol=1e-4, atol=1e-4
        )
        np.testing.assert_array_equal(states[-1].replay.extras[4 * n : 4 * n + 4], rollout.extras)


def test_a_model_learns_the_change_and_the_noise_of_a_world():
    """`s' = s + (a1, 10 a2, 0) + noise`: the mean, and standard deviations of each number in its own units."""
    algorithm = tiny(
        n_steps=256, hidden=(32,), gradient_steps=800, batch_size=64, buffer_size=512, learning_rate=3e-3
    )
    state, rng = begin(algorithm, CONTINUOUS, num_envs=2), np.random.default_rng(0)
    obs = rng.normal(size=(256, 2, 3)).astype(np.float32)
    action = rng.uniform(-1, 1, (256, 2, 2)).astype(np.float32)
    std = np.float32([0.1, 1.0, 0.3])

    def mean(obs, action):
        change = np.stack([action[..., 0], 10 * action[..., 1], np.zeros_like(action[..., 0])], -1)
        return obs + change

    next_obs = mean(obs, action) + std * rng.normal(size=obs.shape).astype(np.float32)
    never, zeros = np.zeros((256, 2), bool), np.zeros((256, 2), np.float32)
    rollout = Rollout(obs, action, zeros, next_obs, never, ~never, zeros)
    state, _ = update(algorithm, state, rollout, jax.random.key(0))
    found = gaussian_model(state.policy).successor(state.params["model"], state.changes, obs, action)
    errors = (np.asarray(found.mean) - mean(obs, action)) / std
    assert np.sqrt((errors**2).mean((0, 1))).max() < 0.8, (
        "in standard deviations of the noise, from 256 samples"
    )
    np.testing.assert_allclose(np.exp(found.log_std).mean((0, 1)), std, rtol=0.4)


# Promises


def test_promise_8_updates_per_transition_do_not_depend_on_the_number_of_environments():
    counts = []
    for num_envs in (1, 4):
        state = begin(tiny(), CONTINUOUS, num_envs=num_envs)
        state, metrics = update(tiny(), state, play(tiny(), state, 0), jax.random.key(0))
        counts.append((float(metrics["gradient_steps"]), int(state.gradient_steps)))
    assert counts == [(3, 3), (12, 12)], "three for each four transitions"


@pytest.mark.parametrize("order", [0, 1])
def test_nothing_is_learned_before_learning_starts(order):
    algorithm = tiny(order, learning_starts=24)
    (state, _), first = course(algorithm, updates=2), begin(algorithm, CONTINUOUS)
    same_bits((state.params, state.target), (first.params, first.target))
    assert int(state.gradient_steps) == 0
    assert differs(course(algorithm, updates=3)[0].params, first.params)


OPTIONS = dict(
    learning_rate=1e-2,
    batch_size=5,
    gradient_steps=2,
    buffer_size=9,
    learning_starts=24,
    tau=0.5,
    gamma=0.5,
    ent_coef=0.5,
    action_bounds="clip",
    action_spread="state-independent",
    log_std_init=-1.0,
    normalize_observation=True,
    normalize_reward=True,
)


@pytest.mark.parametrize(
    ("order", "name", "value"),
    [(order, name, value) for order in (0, 1) for name, value in OPTIONS.items()]
    + [(0, "n", 3), (1, "max_weight", 0.3)],
)
def test_every_option_of_learning_makes_a_difference(order, name, value):
    changed = course(tiny(order, **{name: value}))[0].params["actor"]
    assert differs(changed, course(tiny(order))[0].params["actor"], 1e-6)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match=r"needs a Box of floats.*Discrete\(3\); use sac, dqn or ppo"):
        begin(tiny(), DISCRETE)
    unbounded = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(ValueError, match="needs finite bounds"):
        begin(tiny(), unbounded)
    begin(tiny(action_bounds="clip"), unbounded)
    with pytest.raises(ValueError, match="A recurrent network"):
        begin(tiny(network="gru"), CONTINUOUS)
    with pytest.raises(ValueError, match="n=3 with order=1 is not allowed.*use n=1 or order=0"):
        tiny(n=3)
    with pytest.raises(ValueError, match="order=2 is not allowed"):
        tiny(2)


def test_observations_that_the_model_cannot_predict_are_refused_and_order_0_takes_them():
    image, where = spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Discrete(4)
    for space, what in ((image, "an image"), (spaces.Dict(a=image, b=where), "an image"), (where, "indices")):
        spec = spec_of(tiny(), space, CONTINUOUS, num_envs=2, total_timesteps=80)
        with pytest.raises(ValueError, match=f"the observation has {what}; use order=0"):
            tiny().init(jax.random.key(0), spec)
        tiny(0).init(jax.random.key(0), spec)


@pytest.mark.parametrize("order", [0, 1])
def test_seeds_side_by_side_are_each_alone(order):
    seeds_side_by_side_are_each_alone(tiny(order), CONTINUOUS)


@pytest.mark.parametrize("order", [0, 1])
def test_both_drivers_and_every_seed_learn_the_same(tmp_path, order):
    both_drivers_and_every_seed_learn_the_same(
        tiny(order, learning_rate=1e-2), tmp_path, on_host=SlideOnHost, world=Slide()
    )


@pytest.mark.parametrize("environment", [SlideOnHost, Slide()], ids=["host", "device"])
def test_a_stopped_run_goes_on_to_the_same_numbers_its_buffer_and_statistics_included(tmp_path, environment):
    a_stopped_run_goes_on_bit_for_bit(tiny(), environment, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("order", [0, 1])
def test_it_learns(tmp_path, order):
    algorithm = SVG(order=order, learning_rate=1e-3, hidden=(64, 64))
    options = {"total_timesteps": 20_000, "eval_episodes": 50, "tensorboard": False}
    assert adv.train(algorithm, "jax/Pendulum-v1", out=tmp_path / "run", **options).evaluation.mean > -170
