"""The off-policy policy gradient: against a second implementation in float64, option by option."""

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
)

import advantage as adv
from advantage.algorithms.policy_gradient.off_policy_pg import OffPolicyPG
from advantage.algorithms.registry import from_json, to_json
from advantage.runs.folder import RunFolder
from advantage.runs.log import read_progress
from advantage.training import results

# One program serves most tests: limits that nothing reaches stand in for None, which would compile another.
BASE: dict[str, Any] = dict(
    n_steps=12,
    n_epochs=3,
    hidden=(8,),
    learning_rate=1e-2,
    critic_epochs=2,
    largest_ratio=1.1,
    target_kl=1e9,
    normalize_observation=False,
)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(results, "plot_curve", lambda folder: None)


def tiny(**changes):
    return OffPolicyPG(**{**BASE, **changes})


@functools.cache
def course(**changes):
    """Two updates: `-> states, rollouts, metrics`."""
    algorithm = tiny(**changes)
    return learn(algorithm, begin(algorithm), 2)


# --- a second implementation --------------------------------------------------------------------------------


def episodes(rollout):
    """The steps of each episode of each environment, and whether its end is in the rollout."""
    done = rollout.terminated | rollout.truncated
    for env in range(done.shape[1]):
        first = 0
        for t in range(len(done)):
            if done[t, env] or t == len(done) - 1:
                yield np.arange(first, t + 1), env, done[t, env]
                first = t + 1


def reference(algorithm, state, rollout, moments):
    """The actor's steps once more in float64, episode by episode: `-> params, Adam's moments, steps' reports`."""
    with jax.enable_x64(True):

        def exact(tree):
            return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), tree)

        def layer(part, x):
            return x @ part["weight"] + part["bias"]

        def log_pi(actor):
            hidden = jnp.tanh(layer(actor["network"][0], obs))
            log_p = jax.nn.log_softmax(layer(actor["head"], hidden))
            return jnp.take_along_axis(log_p, rollout.action[..., None], -1)[..., 0]

        def value(x):
            critic = exact(state.params["critic"])
            return np.asarray(layer(critic["head"], jnp.tanh(layer(critic["network"][0], x))))[..., 0]

        actor = exact(state.params["actor"])
        obs, next_obs = (x.astype(np.float64) for x in (rollout.obs, rollout.next_obs))
        with_value = algorithm.baseline == "value"
        v, next_v = (value(x) if with_value else np.zeros(rollout.reward.shape) for x in (obs, next_obs))
        old, reports = np.asarray(log_pi(actor)), []
        for _ in range(algorithm.n_epochs):
            log_ratio = np.asarray(log_pi(actor)) - old
            kl = (np.exp(log_ratio) - 1 - log_ratio).mean()
            if kl > 1.5 * algorithm.target_kl:
                break
            psi, weights, used = np.zeros_like(old), np.zeros_like(old), np.zeros_like(old)
            for steps, env, complete in episodes(rollout):
                if not (complete or with_value):
                    continue
                last, logs = steps[-1], log_ratio[steps, env]
                for n, t in enumerate(steps):
                    products = {
                        "trajectory": lambda u, logs=logs: logs.sum(),
                        "per-decision": lambda u, logs=logs: logs[: u + 1].sum(),
                        "action": lambda u, logs=logs: logs[u],
                    }
                    at = products[algorithm.importance]
                    for u in range(n, len(steps)):
                        earned = rollout.reward[steps[u], env] - v[steps[u], env]
                        if not (steps[u] == last and rollout.terminated[last, env]):
                            earned = earned + algorithm.gamma * next_v[steps[u], env]
                        place = u if algorithm.importance == "per-decision" else n
                        product = min(np.exp(at(place)), algorithm.largest_ratio)
                        psi[t, env] += algorithm.gamma ** (u - n) * product * earned
                    weights[t, env] = min(np.exp(at(n)), algorithm.largest_ratio)
                    used[t, env] = 1

            def loss(actor, psi=psi, used=used):
                return -(used * psi * log_pi(actor)).sum() / max(used.sum(), 1)

            gradient = jax.grad(loss)(actor)
            first, second, count = moments
            count += 1
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
            second = jax.tree.map(lambda m, g: 0.999 * m + 0.001 * g**2, second, gradient)
            moments = first, second, count

            def moved(p, m, s, count=count):
                corrected = jnp.sqrt(s / (1 - 0.999**count)) + 1e-8
                return p - algorithm.learning_rate * m / (1 - 0.9**count) / corrected

            actor = jax.tree.map(moved, actor, first, second)
            sample_size = weights.sum() ** 2 / max((weights**2).sum(), 1e-30)
            reports.append({"approx_kl": kl, "effective_sample_size": sample_size, "steps_used": used.mean()})
        return jax.device_get(actor), moments, reports


@pytest.mark.parametrize(
    "changes",
    [
        {"importance": "per-decision"},
        {"importance": "trajectory", "baseline": "none"},
        {"importance": "action", "target_kl": 1e-4},
    ],
    ids=lambda changes: changes["importance"],
)
def test_updates_equal_those_of_a_second_implementation(changes):
    algorithm = tiny(**changes)
    states, rollouts, found = course(**changes)
    with jax.enable_x64(True):
        zero = jax.tree.map(lambda x: np.zeros(x.shape), jax.device_get(states[0].params["actor"]))
    moments = zero, zero, 0
    for k, rollout in enumerate(rollouts):
        actor, moments, reports = reference(algorithm, states[k], rollout, moments)
        for a, b in zip(jax.tree.leaves(states[k + 1].params["actor"]), jax.tree.leaves(actor), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=3e-5)
        assert differs(states[k].params["actor"], states[k + 1].params["actor"], 5e-3)
        assert found[k]["n_updates"] == len(reports)
        for name in reports[0]:
            expected = np.mean([report[name] for report in reports])
            np.testing.assert_allclose(found[k][name], expected, rtol=2e-3, atol=1e-7)
    if "target_kl" in changes:
        assert found[-1]["n_updates"] < algorithm.n_epochs
    else:
        assert found[-1]["n_updates"] == algorithm.n_epochs
        assert found[-1]["effective_sample_size"] < 24


def test_the_first_step_is_the_same_in_every_form():
    one, other = (
        course(importance=form, target_kl=1e-12)[0][1].params["actor"] for form in ("action", "per-decision")
    )
    assert not differs(one, other, 1e-5)
    assert differs(one, course(importance="action")[0][1].params["actor"], 1e-3)


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
    "n_epochs": 2,
    "largest_ratio": 1.001,
    "target_kl": 1e-6,
    "critic_learning_rate": 0.05,
    "critic_epochs": 3,
    "critic_batch_size": 5,
}
LIVELY: dict[str, Any] = BASE | dict(normalize_observation=True, normalize_reward=True)
FLOATS = {field.name for field in dataclasses.fields(OffPolicyPG) if "float" in field.type}


@functools.cache
def outcome(**changes):
    """First parameters, actions, and the parameters after two updates, over a bounded box of actions."""
    changes = {name: CHANGES["network"] if name == "network" else value for name, value in changes.items()}
    algorithm = OffPolicyPG(**{**LIVELY, **changes})
    states, rollouts, _ = learn(algorithm, begin(algorithm, CONTINUOUS), 2)
    return states[0].params, [rollout.action for rollout in rollouts], states[-1].params


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(field, marks=[] if field.name in FLOATS else [pytest.mark.slow])
        for field in dataclasses.fields(OffPolicyPG)
    ],
    ids=lambda field: field.name,
)
def test_every_option_makes_a_difference(field):
    for value in alternatives(OffPolicyPG(**LIVELY), field, CHANGES):
        changed = outcome(**{field.name: "given" if field.name == "network" else value})
        assert differs(changed, outcome()), f"{field.name}={value!r} changes nothing"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(importance="step"),
            r"importance='step' is not allowed; use one of 'trajectory', 'per-decision'",
        ),
        (dict(largest_ratio=0.5), r"largest_ratio=0.5 is not allowed; use a value in \[1, inf\)"),
        (dict(n_epochs=0), r"n_epochs=0 is not allowed"),
        (dict(target_kl=0.0), r"target_kl=0.0 is not allowed"),
        (dict(baseline="mean"), r"baseline='mean' is not allowed; use one of 'none', 'value'"),
    ],
    ids=str,
)
def test_wrong_options_are_errors_that_say_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        OffPolicyPG(**options)


def test_options_come_back_from_json():
    algorithm = tiny(largest_ratio=None, learning_rate=adv.Linear(1e-3, 0.0))
    assert from_json("off-policy-pg", to_json(algorithm)) == algorithm


# --- drivers, seeds, resuming, learning ---------------------------------------------------------------------


def test_both_drivers_and_every_seed_learn_the_same(tmp_path):
    both_drivers_and_every_seed_learn_the_same(tiny(), tmp_path)


@pytest.mark.parametrize(
    "environment", [pytest.param(on_host, marks=pytest.mark.slow), WORLD], ids=["host", "device"]
)
def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, environment):
    a_stopped_run_goes_on_bit_for_bit(tiny(), environment, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["per-decision", "action"])
def test_it_learns_to_balance_a_pole(tmp_path, form):
    algorithm = OffPolicyPG(n_steps=256, importance=form)
    options: dict[str, Any] = dict(total_timesteps=300_000, num_envs=8, num_seeds=3, eval_episodes=0)
    runs = adv.train(algorithm, "jax/CartPole-v1", out=tmp_path / "runs", **options)
    scores = [read_progress(RunFolder(run.path))["rollout/ep_rew_mean"][-1] for run in runs]
    assert np.min(scores) > 400, scores
