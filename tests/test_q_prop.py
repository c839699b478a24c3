"""Q-Prop: the control variate against exact gradients and closed forms, the update against loops, the promises."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from jax.flatten_util import ravel_pytree
from probe_learners import (
    CONTINUOUS,
    DISCRETE,
    NUM_ENVS,
    OBS,
    WORLD,
    a_stopped_run_goes_on_bit_for_bit,
    begin,
    both_drivers_and_every_seed_learn_the_same,
    differs,
    learn,
    on_host,
    play,
    same_bits,
    seeds_side_by_side_are_each_alone,
    update,
)
from random_tables import random_mdp

from advantage.algorithms.policy_gradient.q_prop import QProp
from advantage.algorithms.policy_gradient.shared.acting import encode, policy_actor
from advantage.estimators.control_variate import control_variate, control_weight, expected_control
from advantage.policies.action_value import action_value
from advantage.policies.distributions import Bernoulli, Categorical, Gaussian
from advantage.replay.ring import replay_add
from advantage.theory.policy_evaluation import action_values, expected_visits, values
from advantage.theory.policy_gradient import policy_gradient, probabilities
from advantage.training import results
from advantage.types import Rollout, Spec

# --- on an exact world: unbiased with any critic, and less to sample with a good one -------------------------

SAMPLES = 200_000


@functools.cache
def world():
    """A world of six states, a policy, its gradient, and what was sampled in it: states, actions, advantages."""
    mdp = random_mdp(np.random.default_rng(0))
    theta = np.random.default_rng(1).normal(size=(6, 3))
    pi = probabilities(jax.nn.softmax, theta)
    v, rng = values(mdp, pi), np.random.default_rng(4)
    visits = expected_visits(mdp, pi)
    state = rng.choice(6, SAMPLES, p=visits / visits.sum())
    action = (pi[state].cumsum(1) < rng.uniform(size=(SAMPLES, 1))).sum(1)
    following = (mdp.transition[state, action].cumsum(1) < rng.uniform(size=(SAMPLES, 1))).sum(1)
    noise = 0.3 * rng.normal(size=SAMPLES)  # rewards are noisy too
    advantage = mdp.expected_reward[state, action] + noise + mdp.gamma * v[following] - v[state]
    exact = np.asarray(policy_gradient(mdp, jax.nn.softmax, theta)) / visits.sum()
    return theta, exact, action_values(mdp, v), state, action, advantage


@jax.jit
def estimates(theta, q, state, action, advantage, eta):
    """The gradient that each sample gives, `[N, S, A]`, as the surrogate of the update has it."""

    def surrogate(theta, state, action, advantage, eta):
        old, now = (Categorical(logits[state][None]) for logits in (jax.lax.stop_gradient(theta), theta))
        control = control_variate(lambda a: q[state][a], old, action[None])
        residual = advantage - eta * control.advantage
        return (now.log_prob(action[None]) * residual + eta * expected_control(control, now)).sum()

    return jax.vmap(jax.grad(surrogate), (None, 0, 0, 0, 0))(theta, state, action, advantage, eta)


def sampled(q, weight=1.0):
    theta, _, _, state, action, advantage = world()
    eta = np.full(SAMPLES, weight, np.float32)
    return np.asarray(
        estimates(theta, jnp.asarray(q, jnp.float32), state, action, advantage, eta), np.float64
    )


@pytest.mark.parametrize("critic", ["none", "right", "wrong"])
def test_the_mean_is_the_exact_gradient_whatever_the_critic(critic):
    _, exact, q, *_ = world()
    wrong = np.random.default_rng(3).normal(size=q.shape) * 3 + 7
    each = sampled({"none": q, "right": q, "wrong": wrong}[critic], 0.0 if critic == "none" else 1.0)
    error = each.mean(0) - exact
    deviation = each.std(0) / np.sqrt(SAMPLES)
    assert (np.abs(error) < 3 * deviation + 1e-7).all(), error / deviation
    assert np.square(error / deviation).mean() < 2
    assert np.abs(exact).max() > 20 * deviation.max()


def test_a_good_critic_leaves_less_variance_than_gae():
    _, _, q, *_ = world()
    without, with_critic = (sampled(q, weight).var(0).sum() for weight in (0.0, 1.0))
    assert with_critic < 0.7 * without, with_critic / without


# --- a Gaussian on a world of one step, where everything has a closed form -----------------------------------


def test_a_gaussian_on_a_quadratic_world_has_the_closed_forms_mean_and_variance():
    """`r = -c (a - k s)^2` with s = ±1 and a ~ N(w s, sigma^2); with d = w - k, over w and log sigma:

    ∇J = -2 c (d, sigma^2);  Var_w = c^2 (8 d^2 + 10 sigma^2) with V alone, 10 c^2 sigma^2 with the critic's slope
    """
    c, k, w, sigma, samples = 0.5, 1.0, 3.0, 0.4, 200_000
    d, rng = w - k, np.random.default_rng(0)
    s, noise = rng.choice([-1.0, 1.0], (samples, 1)), rng.normal(size=(samples, 1))
    s, noise = s.astype(np.float32), noise.astype(np.float32)
    value = -c * (d**2 + sigma**2)

    def q(state):
        return lambda action: -c * jnp.square(action - k * state).sum(-1)

    @jax.jit
    def estimate(eta, s, noise):
        theta = jnp.array([w, jnp.log(sigma)])

        def surrogate(theta, s, noise):
            old, now = (Gaussian(p[0] * s[None], p[1:]) for p in (jax.lax.stop_gradient(theta), theta))
            action = old.sample(noise[None])
            control = control_variate(q(s), old, action)
            residual = q(s)(action) - value - eta * control.advantage
            return (now.log_prob(action) * residual + eta * expected_control(control, now)).sum()

        return jax.vmap(jax.grad(surrogate), (None, 0, 0))(theta, s, noise)

    exact = -2 * c * np.array([d, sigma**2])
    variances = []
    for eta in (0.0, 1.0):
        each = np.asarray(estimate(eta, s, noise), np.float64)
        assert (np.abs(each.mean(0) - exact) < 4 * each.std(0) / np.sqrt(samples)).all()
        variances.append(each[:, 0].var())
    closed = c**2 * np.array([8 * d**2 + 10 * sigma**2, 10 * sigma**2])
    np.testing.assert_allclose(variances, closed, rtol=0.05)
    assert closed[1] < closed[0] / 10


# --- the pieces ---------------------------------------------------------------------------------------------


def test_the_control_variate_of_discrete_actions_is_qs_advantage():
    rng = np.random.default_rng(0)
    logits, q, action = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.integers(0, 3, 5)
    control = control_variate(
        lambda a: jnp.asarray(q)[jnp.arange(5), a], Categorical(jnp.asarray(logits)), action
    )
    for i in range(5):
        p = np.exp(logits[i]) / np.exp(logits[i]).sum()
        assert control.advantage[i] == pytest.approx(q[i, action[i]] - (p * q[i]).sum(), abs=1e-5)
    np.testing.assert_allclose(control.slope, q, rtol=1e-5)


def test_the_control_variate_of_a_gaussian_is_qs_slope_at_the_mean():
    rng = np.random.default_rng(1)
    mean, action, m = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 2), (4, 2), (2, 2)))
    control = control_variate(
        lambda a: jnp.einsum("ni,ij,nj->n", a, m, a), Gaussian(mean, np.zeros(2)), action
    )
    slope = mean @ (m + m.T)
    np.testing.assert_allclose(control.slope, slope, rtol=1e-4)
    np.testing.assert_allclose(control.advantage, (slope * (action - mean)).sum(1), rtol=1e-4, atol=1e-5)


def test_eta_is_one_or_follows_the_covariance():
    advantage, control = np.array([2.0, -1.0, 3.0, 0.0]), np.array([1.0, -4.0, -2.0, 5.0])
    assert list(control_weight("one", advantage, control)) == [1, 1, 1, 1]
    assert list(control_weight("conservative", advantage, control)) == [1, 1, 0, 0]
    assert list(control_weight("aggressive", advantage, control)) == [1, 1, -1, 0]
    with pytest.raises(
        ValueError, match=r"eta='none' is not allowed; use 'one', 'conservative' or 'aggressive'"
    ):
        control_weight("none", advantage, control)


def test_other_distributions_have_no_control_variate():
    with pytest.raises(ValueError, match="no control variate for Bernoulli; use Categorical or Gaussian"):
        control_variate(lambda a: a, Bernoulli(np.zeros((2, 3))), np.zeros((2, 3)))


# --- the update ---------------------------------------------------------------------------------------------

BASE = dict(
    n_steps=8,
    hidden=(8,),
    gradient_steps=4,
    batch_size=4,
    buffer_size=40,
    critic_epochs=1,
    critic_batch_size=None,
    learning_rate=3e-3,
    ent_coef=0.01,
    cg_iterations=4,
)


def tiny(**changes):
    return QProp(**{**BASE, **changes})


@functools.cache
def course(algorithm, box=True, updates=2):
    """The state after some updates, and what they reported."""
    states, _, reports = learn(algorithm, begin(algorithm, CONTINUOUS if box else DISCRETE), updates)
    return states[-1], reports


def advantages_by_loops(algorithm, state, rollout):
    """GAE from its definition, in float64: a sum over later steps of the episode, for each step."""
    normalise = policy_actor(algorithm, state).normaliser
    scale = float(np.sqrt(state.rewards.moments.variance.value + 1e-8)) if algorithm.normalize_reward else 1.0
    v, next_v = (
        np.asarray(state.policy.value(state.params, encode(state.policy, normalise, obs)), np.float64)
        for obs in (rollout.obs, rollout.next_obs)
    )
    steps, envs = rollout.reward.shape
    result = np.zeros((steps, envs))
    for b in range(envs):
        for t in range(steps):
            weight = 1.0
            for u in range(t, steps):
                reward = np.clip(rollout.reward[u, b] / scale, -algorithm.clip_reward, algorithm.clip_reward)
                future = 0.0 if rollout.terminated[u, b] else algorithm.gamma * next_v[u, b]
                result[t, b] += weight * (reward + future - v[u, b])
                if rollout.terminated[u, b] or rollout.truncated[u, b]:
                    break
                weight *= algorithm.gamma * algorithm.gae_lambda
    return result.ravel()


@pytest.mark.parametrize("space", [DISCRETE, CONTINUOUS], ids=["discrete", "box"])
def test_the_gradient_is_that_of_the_definition(space):
    """The reported norm, of an update after the statistics have seen something."""
    algorithm = tiny(eta="aggressive")
    state, _ = course(algorithm, space is CONTINUOUS, updates=1)
    rollout = play(algorithm, state, 7)
    _, metrics = update(algorithm, state, rollout, jax.random.key(3))
    state, algorithm = jax.device_get((state, algorithm))
    advantage = advantages_by_loops(algorithm, state, rollout)
    deviation = advantage.std() + 1e-8
    advantage = (advantage - advantage.mean()) / deviation
    policy, normalise = state.policy, policy_actor(algorithm, state).normaliser
    x = encode(policy, normalise, rollout.obs.reshape(-1, 3))
    action = np.asarray(rollout.action).reshape(len(x), *space.shape)
    old, q = policy.distribution(state.params["actor"], x), action_value(policy)
    critic = state.params["action_value"]
    if space is DISCRETE:
        slope = np.stack([q.value(critic, x, jnp.full(len(x), a)) for a in range(3)], axis=1)
        p = np.exp(np.asarray(old.logits) - np.asarray(old.logits).max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        control = np.array([slope[i, action[i]] - (p[i] * slope[i]).sum() for i in range(len(x))])
    else:
        h, slope = 1e-2, np.zeros((len(x), 2))
        for j in range(2):
            ahead, behind = (q.value(critic, x, old.mean + side * h * np.eye(2)[j]) for side in (1, -1))
            slope[:, j] = (np.asarray(ahead, np.float64) - np.asarray(behind)) / (2 * h)
        control = (slope * (action - np.asarray(old.mean))).sum(1)
    control, slope = control / deviation, slope / deviation
    eta = np.sign(advantage * control)

    def surrogate(actor):
        now = policy.distribution(actor, x)
        outputs = jax.nn.softmax(now.logits) if space is DISCRETE else now.mean
        gain = now.log_prob(action) * (advantage - eta * control) + eta * (slope * outputs).sum(1)
        return gain.mean() + algorithm.ent_coef * now.entropy().mean()

    gradient = ravel_pytree(jax.jit(jax.grad(surrogate))(state.params["actor"]))[0]
    assert metrics["gradient_norm"] == pytest.approx(float(jnp.linalg.norm(gradient)), rel=5e-3)
    assert metrics["eta"] == pytest.approx(eta.mean(), abs=1e-5)
    assert metrics["kl"] <= 0.01


def test_what_each_critic_learns_from():
    """V from the rollout, Q from the ring with the rollout in it, in so many steps for each environment."""
    algorithm = tiny()
    state, _ = course(algorithm, updates=1)
    rollout = play(algorithm, state, 7)
    learned, metrics = update(algorithm, state, rollout, jax.random.key(3))
    advantage = advantages_by_loops(algorithm, jax.device_get(state), rollout)
    assert float(metrics["value_loss"]) == pytest.approx(np.mean(advantage**2) / 2, rel=1e-3)
    same_bits(learned.replay, replay_add(state.replay, rollout))
    counts = [leaf for leaf in jax.tree.leaves(learned.optimiser["action_value"]) if leaf.dtype == np.int32]
    assert [int(count) for count in counts] == [2 * NUM_ENVS * algorithm.gradient_steps]  # of two updates


def test_the_target_follows_the_q_that_has_just_learned():
    state = begin(tiny(), CONTINUOUS)
    rollout = play(tiny(), state, 0)
    still, at_once = (update(tiny(tau=tau), state, rollout, jax.random.key(0))[0] for tau in (1e-6, 1.0))
    assert not differs(still.target, state.target)
    same_bits(at_once.target, at_once.params["action_value"])
    assert differs(at_once.target, state.target)


def test_q_learns_from_the_rollout_that_was_just_stored():
    """In the first update there is nothing else, and every step ends its episode and earns 7."""
    state = begin(tiny(), CONTINUOUS)
    rollout = play(tiny(), state, 0)
    rollout = rollout._replace(
        terminated=np.ones_like(rollout.terminated), reward=np.full_like(rollout.reward, 7)
    )
    total, count = update(tiny(), state, rollout, jax.random.key(0))[1]["action_value_loss"]
    assert total / count == pytest.approx(7**2 / 2, abs=8)


def test_q_learns_the_values_of_the_policy_after_its_step():
    state = begin(tiny(), CONTINUOUS)
    rollout = play(tiny(), state, 0)
    small, large = (
        update(tiny(target_kl=limit), state, rollout, jax.random.key(0))[0].params for limit in (1e-6, 0.5)
    )
    assert differs(small["actor"], large["actor"])
    assert differs(small["action_value"], large["action_value"])


OPTIONS = dict(
    gamma=0.5,
    normalize_reward=False,
    clip_reward=0.3,
    eta="one",
    normalize_advantage=False,
    target_kl=0.003,
    gae_lambda=0.3,
    ent_coef=0.5,
    cg_damping=0.5,
    learning_rate=1e-2,
    critic_learning_rate=1e-2,
    gradient_steps=2,
    batch_size=6,
    buffer_size=9,
    tau=0.5,
)


@functools.cache
def reference():
    return course(tiny())[0].params


STATIC = {"normalize_reward", "normalize_advantage", "gradient_steps", "batch_size", "buffer_size"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in STATIC)) for name in OPTIONS]
)
def test_every_option_of_learning_makes_a_difference(name):
    assert differs(course(tiny(**{name: OPTIONS[name]}))[0].params, reference(), 1e-6)


def test_promise_1_a_truncated_step_bootstraps_and_a_terminated_one_does_not():
    """Q alone on one transition that earns 1 and leads back: 1 where it ends, 1 / (1 - gamma) where the clock cuts."""
    algorithm = tiny(
        gamma=0.5,
        normalize_reward=False,
        normalize_observation=False,
        learning_rate=0.02,
        tau=0.2,
        gradient_steps=300,
        n_steps=1,
        buffer_size=2,
    )
    obs, shape = np.ones((1, NUM_ENVS, 3), np.float32), (1, NUM_ENVS)
    no, yes = np.zeros(shape, bool), np.ones(shape, bool)
    for terminated, truncated, worth in ((yes, no, 1.0), (no, yes, 2.0)):
        state = begin(algorithm, DISCRETE)
        action = np.array([[1, 1]], np.int32)
        rollout = Rollout(obs, action, np.ones(shape, np.float32), obs, terminated, truncated)
        still = dataclasses.replace(state, params=state.params | {"actor": _always(state.params["actor"], 1)})
        learned, _ = update(algorithm, still, rollout, jax.random.key(0))
        x = encode(learned.policy, None, obs[0])
        value = action_value(learned.policy).value(learned.params["action_value"], x, action[0])
        np.testing.assert_allclose(value, worth, atol=0.05)


def _always(actor, action):
    """The same network with all its weight on one action."""
    bias = jnp.where(jnp.arange(3) == action, 30.0, 0.0)
    return actor | {"head": {"weight": 0 * actor["head"]["weight"], "bias": bias}}


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        (
            spaces.MultiDiscrete([2, 2]),
            {},
            r"no control variate for the action space MultiDiscrete.*Discrete and Box",
        ),
        (
            CONTINUOUS,
            {"action_bounds": "squash"},
            r"action_bounds='squash' has no control variate.*use action_bounds='clip'",
        ),
    ],
)
def test_promise_5_what_has_no_control_variate_is_refused_before_training(space, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes).init(jax.random.key(0), Spec(OBS, space))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eta", "none"),
        ("tau", 0.0),
        ("buffer_size", 0),
        ("gradient_steps", 0),
        ("target_kl", 0.0),
        ("n_steps", 0),
    ],
)
def test_a_wrong_option_is_named(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value!r} is not allowed"):
        tiny(**{name: value})


# --- drivers, seeds, resuming -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(results, "plot_curve", lambda folder: None)


def test_seeds_side_by_side_are_each_alone():
    seeds_side_by_side_are_each_alone(tiny(), CONTINUOUS)


def test_both_drivers_and_every_seed_learn_the_same(tmp_path):
    both_drivers_and_every_seed_learn_the_same(tiny(), tmp_path)


@pytest.mark.parametrize(
    "environment", [pytest.param(on_host, marks=pytest.mark.slow), WORLD], ids=["host", "device"]
)
def test_a_stopped_run_goes_on_to_the_same_numbers_its_ring_included(tmp_path, environment):
    a_stopped_run_goes_on_bit_for_bit(tiny(), environment, tmp_path)
