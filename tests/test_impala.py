"""IMPALA: against a second implementation in float64, its lagging actors, and what the correction is worth."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_learners import (
    CONTINUOUS,
    WORLD,
    a_stopped_run_goes_on_bit_for_bit,
    alternatives,
    begin,
    both_drivers_and_every_seed_learn_the_same,
    differs,
    learn,
    on_host,
    play,
    same_bits,
    train,
)

import advantage as adv
from advantage.algorithms.policy_gradient.impala import Impala
from advantage.algorithms.registry import from_json, to_json
from advantage.running_moments import normaliser
from advantage.runs.folder import RunFolder
from advantage.runs.log import read_progress

# One program serves most tests: limits that nothing reaches stand in for None, which would compile another.
BASE: dict[str, Any] = dict(
    n_steps=8,
    lag=2,
    hidden=(8,),
    learning_rate=1e-2,
    lam=0.9,
    rho_clip=1.2,
    max_grad_norm=1e9,
    normalize_observation=True,
)


def tiny(**changes):
    return Impala(**{**BASE, **changes})


@functools.cache
def course(**changes):
    """Four updates: `-> states, rollouts, metrics`."""
    algorithm = tiny(**changes)
    return learn(algorithm, begin(algorithm), 4)


# --- the lag ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [0, 2])
def test_the_actor_is_the_one_of_so_many_updates_ago_with_the_statistics_of_then(lag):
    algorithm = tiny(lag=lag)
    states, rollouts, reports = course(lag=lag)
    for k, state in enumerate(states):
        then = states[max(k - lag, 0)]
        acting, newest = algorithm.actor(state)
        same_bits(acting.params, then.params["actor"])
        same_bits(newest.params, state.params["actor"])
        assert not differs(acting.normaliser, normaliser(then.observations, 10.0), 1e-5)
        assert (k == 0 or lag == 0) != differs(acting.normaliser, newest.normaliser)
        assert all(leaf.shape[0] == lag for leaf in jax.tree.leaves(state.past_actors))
    assert differs(states[0].params, states[-1].params)
    for k, (rollout, metrics) in enumerate(zip(rollouts, reports, strict=True)):
        then = algorithm.actor(states[k]).acting.distribution(rollout.obs)
        np.testing.assert_allclose(rollout.extras, then.log_prob(rollout.action), rtol=1e-5)
        on_policy = k == 0 or lag == 0
        assert (metrics["approx_kl"] < 1e-9) == on_policy
        assert metrics["approx_kl"] >= 0
        if on_policy:
            np.testing.assert_allclose(metrics["ratio"], 1, rtol=1e-5)
            np.testing.assert_allclose(metrics["effective_sample_size"], 16, rtol=1e-4)
        else:
            assert 1 <= metrics["effective_sample_size"] < 16


def test_the_greedy_policy_is_the_newest_and_actions_are_drawn_from_the_one_that_acts():
    algorithm = tiny()
    state = begin(algorithm)
    obs = play(algorithm, state, 9).obs.reshape(-1, 3)
    actor = algorithm.actor(dataclasses.replace(state, params=begin(algorithm, seed=1).params))
    greedy, _ = algorithm.greedy(actor, obs, ())
    np.testing.assert_array_equal(greedy, actor.newest.distribution(obs).mode())
    assert (actor.newest.distribution(obs).mode() != actor.acting.distribution(obs).mode()).any()
    noise = algorithm.noise(actor, jax.random.key(0), (len(obs),))
    action, _, log_prob = algorithm.act(actor, obs, (), noise)
    np.testing.assert_array_equal(action, actor.acting.distribution(obs).sample(noise))
    np.testing.assert_allclose(log_prob, actor.acting.distribution(obs).log_prob(action), rtol=1e-6)
    same_bits(actor.distribution(obs), actor.newest.distribution(obs))


# --- a second implementation --------------------------------------------------------------------------------


def reference(algorithm, state, rollout, mean_square):
    """The update once more in float64, step by step: `-> params, mean squares of the gradient, ratios`."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), state.params)

        def layer(part, x):
            return x @ part["weight"] + part["bias"]

        def value(params, x):
            return layer(params["critic"]["head"], jnp.tanh(layer(params["critic"]["network"][0], x)))[..., 0]

        def log_pi(params, x):
            hidden = jnp.tanh(layer(params["actor"]["network"][0], x))
            return jax.nn.log_softmax(layer(params["actor"]["head"], hidden))

        def chosen(log_p):
            return jnp.take_along_axis(log_p, rollout.action[..., None], -1)[..., 0]

        mean, scale, _ = (np.float64(part) for part in algorithm.actor(state).newest.normaliser)
        obs, next_obs = (np.clip((x - mean) * scale, -10, 10) for x in (rollout.obs, rollout.next_obs))
        v, next_v = np.asarray(value(params, obs)), np.asarray(value(params, next_obs))
        rho = np.exp(np.asarray(chosen(log_pi(params, obs))) - np.float64(rollout.extras))
        used = rho if algorithm.correction == "vtrace" else np.ones_like(rho)
        target, advantage = np.zeros_like(v), np.zeros_like(v)
        for t in reversed(range(len(v))):
            for env in range(v.shape[1]):
                last = t == len(v) - 1 or rollout.terminated[t, env] or rollout.truncated[t, env]
                gamma = 0.0 if rollout.terminated[t, env] else algorithm.gamma
                delta = rollout.reward[t, env] + gamma * next_v[t, env] - v[t, env]
                weight = min(used[t, env], algorithm.rho_clip)
                target[t, env] = v[t, env] + weight * delta
                following = next_v[t, env]
                if not last:
                    following = target[t + 1, env]
                    c = algorithm.lam * min(used[t, env], algorithm.c_clip)
                    target[t, env] += gamma * c * (following - v[t + 1, env])
                advantage[t, env] = weight * (rollout.reward[t, env] + gamma * following - v[t, env])

        def loss(params):
            log_p = log_pi(params, obs)
            entropy = -(jnp.exp(log_p) * log_p).sum(-1).mean()
            error = ((value(params, obs) - target) ** 2).mean() / 2
            actor = -(advantage * chosen(log_p)).mean()
            return actor + algorithm.vf_coef * error - algorithm.ent_coef * entropy

        gradient = jax.device_get(jax.jit(jax.grad(loss))(params))
        norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
        gradient = jax.tree.map(lambda g: g * min(1.0, algorithm.max_grad_norm / norm), gradient)
        mean_square = jax.tree.map(lambda m, g: 0.99 * m + 0.01 * g**2, mean_square, gradient)
        moved = jax.tree.map(
            lambda p, g, m: np.asarray(p) - algorithm.learning_rate * g / np.sqrt(m + 1e-5),
            params,
            gradient,
            mean_square,
        )
        return moved, mean_square, rho


@pytest.mark.parametrize("changes", [{}, {"correction": "ignored", "max_grad_norm": 0.5}], ids=str)
def test_updates_equal_those_of_a_second_implementation(changes):
    algorithm = tiny(**changes)
    states, rollouts, reports = course(**changes)
    mean_square = jax.tree.map(np.zeros_like, jax.device_get(states[0].params))
    for k, rollout in enumerate(rollouts):
        moved, mean_square, rho = reference(algorithm, states[k], rollout, mean_square)
        step = jax.tree.map(lambda new, old: np.asarray(new) - old, moved, jax.device_get(states[k].params))
        actual = jax.tree.map(np.subtract, *jax.device_get((states[k + 1].params, states[k].params)))
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(step), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
        assert max(np.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(step)) > 1e-3
        report = reports[k]
        np.testing.assert_allclose(report["ratio"], rho.mean(), rtol=1e-4)
        np.testing.assert_allclose(report["clip_fraction"], (rho > 1.2).mean(), atol=1e-6)
        np.testing.assert_allclose(report["approx_kl"], (rho - 1 - np.log(rho)).mean(), atol=1e-6)
        sample_size = rho.sum() ** 2 / (rho**2).sum()
        np.testing.assert_allclose(report["effective_sample_size"], sample_size, rtol=1e-4)
    assert any(report["clip_fraction"] > 0 for report in reports)


def test_without_a_lag_the_correction_corrects_nothing():
    expected = course(lag=0)[0][-1].params
    assert not differs(course(lag=0, correction="none")[0][-1].params, expected, 1e-5)
    assert differs(course(correction="ignored")[0][-1].params, course()[0][-1].params)


# --- options ------------------------------------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "gamma": 0.5,
    "clip_observation": 0.5,
    "clip_reward": 0.1,
    "hidden": (4, 4),
    "log_std_init": -1.0,
    "network": (
        lambda key, x: {"scale": jax.random.normal(key, (x.shape[-1],))},
        lambda params, x: jnp.sin(x * params["scale"]),
    ),
    "learning_rate": 3e-2,
    "n_steps": 4,
    "lag": 1,
    "lam": 0.3,
    "rho_clip": 1.05,
    "c_clip": 0.5,
    "ent_coef": 0.5,
    "vf_coef": 0.01,
    "max_grad_norm": 0.01,
    "rms_decay": 0.5,
    "optimiser_epsilon": 0.1,
}
LIVELY: dict[str, Any] = BASE | dict(normalize_reward=True, max_grad_norm=1.0)


@functools.cache
def outcome(**changes):
    """First parameters and those after four updates, over a bounded box of actions."""
    changes = {name: CHANGES["network"] if name == "network" else value for name, value in changes.items()}
    algorithm = Impala(**{**LIVELY, **changes})
    states, rollouts, _ = learn(algorithm, begin(algorithm, CONTINUOUS), 4)
    return states[0].params, [rollout.action for rollout in rollouts], states[-1].params


FLOATS = {field.name for field in dataclasses.fields(Impala) if "float" in field.type}


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(field, marks=[] if field.name in FLOATS else [pytest.mark.slow])
        for field in dataclasses.fields(Impala)
    ],
    ids=lambda field: field.name,
)
def test_every_option_makes_a_difference(field):
    for value in alternatives(Impala(**LIVELY), field, CHANGES):
        if value == "none":
            continue  # refused with a lag
        changed = outcome(**{field.name: "given" if field.name == "network" else value})
        assert differs(changed, outcome()), f"{field.name}={value!r} changes nothing"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lag=-1), r"lag=-1 is not allowed; use a value in \[0, inf\)"),
        (dict(lag=1.5), r"lag=1.5 is not allowed; use a whole number"),
        (dict(correction="v-trace"), r"correction='v-trace' .*did you mean 'vtrace'"),
        (
            dict(lag=3, correction="none"),
            r"correction='none' with lag=3 is not allowed: the acting policy is not the learning one.*"
            r"correction='vtrace', or correction='ignored'",
        ),
        (dict(rho_clip=0.5), r"rho_clip=0.5 with c_clip=1.0 is not allowed.*use c_clip=0.5 or less"),
        (dict(c_clip=0.0), r"c_clip=0.0 is not allowed"),
        (dict(lam=1.1), r"lam=1.1 is not allowed; use a value in \[0, 1\]"),
        (dict(n_steps=0), r"n_steps=0 is not allowed"),
    ],
    ids=str,
)
def test_wrong_options_are_errors_that_say_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        Impala(**options)


def test_a_rollout_without_log_probabilities_is_refused():
    algorithm = tiny()
    state = begin(algorithm)
    with pytest.raises(ValueError, match=r"extras are empty: IMPALA needs log mu\(a\|s\) of every action"):
        algorithm.update(state, play(algorithm, state, 0)._replace(extras=()), jax.random.key(0))


def test_options_come_back_from_json():
    algorithm = tiny(correction="ignored", learning_rate=adv.Linear(1e-3, 0.0))
    assert from_json("impala", to_json(algorithm)) == algorithm


# --- drivers, seeds, resuming -------------------------------------------------------------------------------


def test_both_drivers_and_every_seed_learn_the_same(tmp_path):
    both_drivers_and_every_seed_learn_the_same(tiny(lag=3), tmp_path)


@pytest.mark.parametrize(
    "environment", [pytest.param(on_host, marks=pytest.mark.slow), WORLD], ids=["host", "device"]
)
def test_a_stopped_run_goes_on_with_the_same_actors(tmp_path, environment):
    a_stopped_run_goes_on_bit_for_bit(tiny(lag=3), environment, tmp_path)


@pytest.mark.slow
def test_a_run_is_evaluated_with_the_newest_policy(tmp_path):
    run = train(tiny(lag=40, learning_rate=0.03), WORLD, tmp_path / "run", total_timesteps=640)
    actor = run.agent.actor.actor  # the one that acts is the first one still
    same_bits(actor.newest.params, run.agent.state.params["actor"])
    assert differs(actor.acting.params, actor.newest.params, 0.1)
    states = np.arange(8, dtype=np.int32)
    expected = actor.newest.distribution(states).mode()
    np.testing.assert_array_equal([run.agent.act(state) for state in states], expected)
    assert (expected[2:7] == 1).all()
    assert (adv.evaluate(run.agent, WORLD, episodes=2).returns == -5).all()


@pytest.mark.slow
def test_with_vtrace_a_lag_costs_little_and_without_it_learning_fails(tmp_path):
    def scores(name, **options):
        algorithm = Impala(learning_rate=adv.Linear(4e-3, 0.0), **options)
        budget: dict[str, Any] = dict(total_timesteps=300_000, num_envs=16, num_seeds=6, eval_episodes=0)
        runs = adv.train(algorithm, "jax/CartPole-v1", out=tmp_path / name, **budget)
        return np.mean([read_progress(RunFolder(run.path))["rollout/ep_rew_mean"][-1] for run in runs])

    on_policy, corrected = scores("0"), scores("8", lag=8)
    assert on_policy > 400
    assert corrected > 0.9 * on_policy
    assert scores("ignored", lag=8, correction="ignored") < 0.7 * on_policy
