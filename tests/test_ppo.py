"""PPO: against a second implementation in float64, option by option, promise by promise, in tiny worlds."""

import dataclasses
import functools
import json
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_learners import (
    CONTINUOUS,
    DISCRETE,
    NUM_ENVS,
    OBS,
    alternatives,
    assert_finite,
    begin,
    differs,
    play,
    same_bits,
)

from advantage.algorithms.hyperparameters import Linear
from advantage.algorithms.permutation import random_permutation
from advantage.algorithms.policy_gradient.ppo import PPO
from advantage.algorithms.registry import MEANT_BEFORE, from_json, spec_of, to_json
from advantage.drivers.device import iterate_on_device, start
from advantage.drivers.draws import draw
from advantage.environments.spaces import environment_action
from advantage.objectives.surrogates import (
    clipped_squared_error,
    clipped_surrogate,
    kl_estimate,
    squared_error,
)
from advantage.types import Spec

MIXED = spaces.Tuple((DISCRETE, CONTINUOUS))


# One program serves most tests: limits that nothing reaches stand in for None, which would compile another.
BASE = dict(
    n_steps=8,
    batch_size=4,
    n_epochs=2,
    hidden=(8,),
    learning_rate=3e-3,
    ent_coef=0.01,
    adam_epsilon=1e-3,
    clip_range_vf=1e9,
    target_kl=1e9,
)


def tiny(**changes):
    return PPO(**{**BASE, **changes})


# Tests wait for the compiler, not for the program.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@quick_jit
def update(ppo, state, rollout, key):
    return ppo.update(state, rollout, key)


@quick_jit
def batch_of(ppo, state, rollout):
    return ppo._samples(state, rollout)[0]


def train(ppo, state, updates=2, **options):
    """Rollouts and updates in turn: `-> state, metrics of each update`."""
    reports = []
    for i in range(updates):
        state, metrics = update(ppo, state, play(ppo, state, i, **options), jax.random.key(i))
        reports.append(jax.device_get(metrics))
    return state, reports


# --- the objective ------------------------------------------------------------------------------------------


def test_the_clipped_surrogate_is_the_lesser_of_two_products_sample_by_sample():
    rng = np.random.default_rng(0)
    log_ratio, advantage = rng.normal(0, 0.4, 200), rng.normal(size=200)
    expected = []
    for lr, a in zip(log_ratio, advantage, strict=True):
        ratio = np.exp(lr)
        held = min(max(ratio, 1 - 0.2), 1 + 0.2)
        expected.append(-min(ratio * a, held * a))
    actual = clipped_surrogate(jnp.asarray(log_ratio), jnp.asarray(advantage), 0.2)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.0, 2.0, True),
        (1.0, -2.0, True),
        (1.1, 2.0, True),
        (0.9, -2.0, True),
        (1.3, 2.0, False),  # already more likely than the clip allows: nothing to gain
        (1.3, -2.0, True),  # a bad action became more likely: pull it back
        (0.7, 2.0, True),
        (0.7, -2.0, False),
    ],
)
def test_the_clipped_surrogate_pulls_only_where_it_should(ratio, advantage, moves):
    with jax.enable_x64(True):

        def loss(log_ratio):
            return clipped_surrogate(log_ratio, jnp.float64(advantage), 0.2)

        at, step = jnp.log(jnp.float64(ratio)), 1e-6
        gradient = float(jax.grad(loss)(at))
        numeric = float(loss(at + step) - loss(at - step)) / (2 * step)
    np.testing.assert_allclose(gradient, -ratio * advantage if moves else 0, atol=1e-12)
    np.testing.assert_allclose(gradient, numeric, atol=1e-6)


def test_the_critics_losses_are_half_a_square_and_the_worse_of_two_halves():
    rng = np.random.default_rng(1)
    value, old, target = rng.normal(size=(3, 100)).astype(np.float32)
    np.testing.assert_allclose(squared_error(value, target), 0.5 * (value - target) ** 2, rtol=1e-6)
    expected = []
    for v, o, g in zip(value.tolist(), old.tolist(), target.tolist(), strict=True):
        held = min(max(v, o - 0.3), o + 0.3)
        expected.append(0.5 * max((v - g) ** 2, (held - g) ** 2))
    np.testing.assert_allclose(clipped_squared_error(value, old, target, 0.3), expected, rtol=1e-5)
    assert PPO().clip_range_vf is None


def test_promise_7_the_estimate_of_kl_is_never_negative_and_unbiased():
    size = np.logspace(-10, 1.5, 100_001).astype(np.float32)
    log_ratio = jnp.asarray(np.concatenate([size, -size, [0]]).astype(np.float32))
    estimate = np.asarray(jax.jit(kl_estimate)(log_ratio))
    assert estimate.min() == 0
    exact = np.expm1(np.float64(log_ratio)) - np.float64(log_ratio)
    large = np.abs(log_ratio) > 1e-2
    np.testing.assert_allclose(estimate[large], exact[large], rtol=1e-4)
    old, new = np.array([0.2, 0.3, 0.5]), np.array([0.3, 0.1, 0.6])
    expectation = old @ np.asarray(kl_estimate(jnp.asarray(np.log(new / old))))
    np.testing.assert_allclose(expectation, old @ np.log(old / new), rtol=1e-5)


# --- what acted is what learns ------------------------------------------------------------------------------


def test_the_first_ratio_is_one_though_every_update_changes_the_statistics():
    ppo = tiny(
        n_epochs=1, batch_size=16, action_bounds="squash", action_spread="state-dependent", share_network=True
    )
    state = begin(ppo, MIXED)
    for i in range(3):
        rollout = play(ppo, state, i)
        acted = jax.device_get(ppo.actor(state)).distribution(rollout.obs).log_prob(rollout.action)
        np.testing.assert_allclose(
            batch_of(ppo, state, rollout).log_prob, acted.ravel(), rtol=1e-4, atol=1e-4
        )
        learned, metrics = update(ppo, state, rollout, jax.random.key(i))
        assert 0 <= metrics["approx_kl"] < 1e-9
        assert metrics["clip_fraction"] == 0
        assert abs(metrics["policy_gradient_loss"]) < 1e-5  # minus the mean of advantages that have mean zero
        assert differs(learned.observations.mean, state.observations.mean)
        assert differs(learned.rewards.moments, state.rewards.moments)
        state = learned


def test_the_log_ratios_of_the_batch_under_the_parameters_that_acted_are_zero():
    ppo = tiny()
    state, _ = train(ppo, begin(ppo), 1)
    rollout = play(ppo, state, 1)
    batch = batch_of(ppo, state, rollout)
    part = jax.tree.map(lambda x: x[3:8], batch)
    log_prob = state.policy.distribution(state.params["actor"], part.x).log_prob(part.action)
    np.testing.assert_allclose(log_prob - part.log_prob, 0, atol=1e-6)


def test_promise_1_observations_after_a_reset_change_no_earlier_target():
    ppo = tiny(normalize_advantage="none", normalize_observation=False)
    state = begin(ppo)
    rollout = play(ppo, state, 0, num_steps=30)
    done = rollout.terminated | rollout.truncated
    after_reset = np.concatenate([np.zeros_like(done[:1]), done[:-1]])
    assert done.sum() > 8
    poisoned = rollout._replace(obs=np.where(after_reset[..., None], np.float32(1e6), rollout.obs))
    clean, actual = (batch_of(ppo, state, r) for r in (rollout, poisoned))
    keep = ~after_reset.ravel()
    for name in ("advantage", "target", "value", "log_prob"):
        np.testing.assert_array_equal(getattr(actual, name)[keep], getattr(clean, name)[keep])
    assert np.all(actual.value[~keep] != clean.value[~keep])  # the poison is seen where it stands


def test_promise_1_the_true_successor_is_bootstrapped_from_when_truncated_and_not_when_terminated():
    ppo = tiny(normalize_advantage="none", normalize_observation=False, normalize_reward=False)
    state = begin(ppo)
    rollout = play(ppo, state, 0, num_steps=30)
    cut = rollout.truncated & ~rollout.terminated
    assert cut.any()
    assert rollout.terminated.any()
    clean = batch_of(ppo, state, rollout).target.reshape(cut.shape)
    for ends, matters in ((rollout.terminated, False), (cut, True)):
        moved = rollout._replace(next_obs=rollout.next_obs + 3 * ends[..., None].astype(np.float32))
        value, moved_value = (
            state.policy.value(state.params, state.policy.encoder.encode(r.next_obs))
            for r in (rollout, moved)
        )
        change = batch_of(ppo, state, moved).target.reshape(cut.shape) - clean
        np.testing.assert_allclose(change[ends], matters * 0.99 * (moved_value - value)[ends], atol=1e-5)


# --- a second implementation --------------------------------------------------------------------------------


class Reference:
    """PPO written again, plainly, in float64: one hidden layer of tanh, and a categorical or a Gaussian."""

    def __init__(self, ppo, state, gaussian):
        self.ppo, self.gaussian = ppo, gaussian
        with jax.enable_x64(True):
            self.params = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(state.params))
        self.m, self.v = (jax.tree.map(np.zeros_like, self.params) for _ in range(2))
        self.count = 0
        self.seen, self.returns = [], []
        self.beta = ppo.kl_coef
        self.carried = np.zeros(NUM_ENVS)
        self.trail = [self.params]  # the parameters after every step

    def scaled(self, obs):
        if not self.seen or not self.ppo.normalize_observation:
            mean, var = np.zeros(3), np.ones(3)
        else:
            everything = np.concatenate(self.seen)
            mean, var = everything.mean(0), everything.var(0)
        return np.clip((obs.astype(np.float64) - mean) / np.sqrt(var + 1e-8), -10, 10)

    def features(self, network, x):
        return jnp.tanh(x @ network[0]["weight"] + network[0]["bias"])

    def value(self, params, x):
        network = params["critic"].get("network", params["actor"]["network"])
        head = params["critic"]["head"]
        return (self.features(network, x) @ head["weight"] + head["bias"])[..., 0]

    def log_prob_and_entropy(self, params, x, action):
        actor = params["actor"]
        output = self.features(actor["network"], x) @ actor["head"]["weight"] + actor["head"]["bias"]
        if self.gaussian:
            std = jnp.exp(actor["log_std"])
            density = jax.scipy.stats.norm.logpdf(action, output, std).sum(-1)
            entropy = (0.5 * jnp.log(2 * jnp.pi * jnp.e * std**2)).sum() * jnp.ones(len(x))
            return density, entropy
        p = jax.nn.softmax(output)
        return jnp.log(p[np.arange(len(x)), action]), -(p * jnp.log(p)).sum(-1)

    def divergence(self, params, x):
        """KL from the policy that acted, by its definition: the mean over its actions of the difference in log."""
        if self.gaussian:
            node, weight = np.polynomial.hermite_e.hermegauss(12)
            old, new = (
                (
                    self.features(p["actor"]["network"], x) @ p["actor"]["head"]["weight"]
                    + p["actor"]["head"]["bias"],
                    jnp.exp(p["actor"]["log_std"]),
                )
                for p in (self.old, params)
            )
            action = old[0][..., None] + old[1][:, None] * node
            logs = [jax.scipy.stats.norm.logpdf(action, m[..., None], s[:, None]) for m, s in (old, new)]
            return ((logs[0] - logs[1]) * (weight / weight.sum())).sum((-1, -2)).mean()
        logs = [
            jnp.stack([self.log_prob_and_entropy(p, x, np.full(len(x), a))[0] for a in range(3)])
            for p in (self.old, params)
        ]
        return (jnp.exp(logs[0]) * (logs[0] - logs[1])).sum(0).mean()

    def loss(self, params, data):
        ppo = self.ppo
        advantage = data["advantage"]
        if ppo.normalize_advantage == "minibatch":
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        log_prob, entropy = self.log_prob_and_entropy(params, data["x"], data["action"])
        ratio = jnp.exp(log_prob - data["log_prob"])
        low, high = 1 - ppo.clip_range, 1 + ppo.clip_range
        surrogate = jnp.where(
            advantage >= 0, jnp.minimum(ratio, high) * advantage, jnp.maximum(ratio, low) * advantage
        )
        if ppo.objective != "clip":
            surrogate = ratio * advantage
        if "kl" in ppo.objective:
            surrogate -= self.beta * self.divergence(params, data["x"])
        value = self.value(params, data["x"])
        error = (value - data["target"]) ** 2
        if ppo.clip_range_vf is not None:
            near = jnp.clip(value, data["value"] - ppo.clip_range_vf, data["value"] + ppo.clip_range_vf)
            error = jnp.maximum(error, (near - data["target"]) ** 2)
        parts = {
            "policy_gradient_loss": -surrogate.mean(),
            "value_loss": error.mean() / 2,
            "entropy": entropy.mean(),
            "approx_kl": (ratio - 1 - jnp.log(ratio)).mean(),
            "clip_fraction": ((ratio > high) | (ratio < low)).mean(),
        }
        total = (
            parts["policy_gradient_loss"]
            + ppo.vf_coef * parts["value_loss"]
            - ppo.ent_coef * parts["entropy"]
        )
        return total, parts | {"loss": total}

    def targets(self, rollout):
        """Inputs, values and advantages `[T, B, ...]`, the advantages by a loop over every later step."""
        ppo, steps = self.ppo, rollout.reward.shape[0]
        x, next_x = self.scaled(rollout.obs), self.scaled(rollout.next_obs)
        value, next_value = (np.asarray(self.value(self.params, z)) for z in (x, next_x))
        reward = rollout.reward.astype(np.float64)
        if ppo.normalize_reward:
            deviation = np.sqrt(np.var(self.returns) + 1e-8) if self.returns else np.sqrt(1 + 1e-8)
            reward = np.clip(reward / deviation, -10, 10)
        advantage = np.zeros_like(reward)
        for t in range(steps):
            for env in range(reward.shape[1]):
                weight = 1.0
                for k in range(t, steps):
                    future = 0.0 if rollout.terminated[k, env] else ppo.gamma * next_value[k, env]
                    advantage[t, env] += weight * (reward[k, env] + future - value[k, env])
                    weight *= ppo.gamma * ppo.gae_lambda
                    if rollout.terminated[k, env] or rollout.truncated[k, env]:
                        break
        return x, value, advantage

    def update(self, rollout, orders, stop_after=None):
        """One update with the given permutations: `-> metrics, KL before each step`."""
        with jax.enable_x64(True):
            self.old = self.params
            x, value, advantage = self.targets(rollout)
            target = advantage + value
            if self.ppo.normalize_advantage == "batch":
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            data = dict(x=x, action=rollout.action, value=value, advantage=advantage, target=target)
            data = {name: part.reshape(-1, *part.shape[2:]) for name, part in data.items()}
            data["log_prob"] = self.log_prob_and_entropy(self.params, data["x"], data["action"])[0]
            gradient_of = jax.jit(jax.grad(self.loss, has_aux=True))
            reports = []
            for order in orders:
                for chosen in np.split(order, len(order) // self.ppo.batch_size):
                    part = {name: part[chosen] for name, part in data.items()}
                    gradient, parts = jax.device_get(gradient_of(self.params, part))
                    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
                    reports.append(
                        {name: float(number) for name, number in parts.items()} | {"gradient_norm": norm}
                    )
                    if len(reports) - 1 != stop_after:
                        self.step(gradient, norm)
                    else:
                        break
                else:
                    continue
                break
            if self.ppo.objective == "adaptive-kl":
                kl = float(self.divergence(self.params, data["x"]))
                reports = [report | {"kl": kl, "kl_coef": self.beta} for report in reports]
                far, near = kl > 1.5 * self.ppo.kl_target, kl < self.ppo.kl_target / 1.5
                self.beta *= 2 if far else 0.5 if near else 1
        self.learn_statistics(rollout)
        metrics = {name: np.mean([report[name] for report in reports]) for name in reports[0]}
        metrics["explained_variance"] = 1 - np.var(target - value) / np.var(target)
        return metrics, [report["approx_kl"] for report in reports]

    def step(self, gradient, norm):
        limit = self.ppo.max_grad_norm
        shrink = 1 if limit is None or norm < limit else limit / norm
        gradient = jax.tree.map(lambda g: shrink * g, gradient)
        self.count += 1
        self.m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, self.m, gradient)
        self.v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, self.v, gradient)
        correct_m, correct_v = 1 - 0.9**self.count, 1 - 0.999**self.count

        def move(p, m, v):
            size = self.ppo.learning_rate / (np.sqrt(v / correct_v) + self.ppo.adam_epsilon)
            return p - size * m / correct_m

        self.params = jax.tree.map(move, self.params, self.m, self.v)
        self.trail.append(self.params)

    def learn_statistics(self, rollout):
        self.seen.append(rollout.obs.reshape(-1, 3).astype(np.float64))
        for t in range(len(rollout.reward)):
            self.carried = rollout.reward[t] + self.ppo.gamma * self.carried
            self.returns.extend(self.carried)
            self.carried = np.where(rollout.terminated[t] | rollout.truncated[t], 0, self.carried)


def orders_of(ppo, key, samples):
    """The permutations that an update draws from its key."""
    return [np.asarray(random_permutation(k, samples)) for k in jax.random.split(key, ppo.n_epochs)]


REFERENCES = {
    "as in the paper's code": (
        DISCRETE,
        dict(clip_range_vf=None, target_kl=None, learning_rate=1e-2, clip_range=0.05),
    ),
    "every other choice": (
        CONTINUOUS,
        dict(
            clip_range_vf=0.1,
            target_kl=None,
            normalize_advantage="batch",
            max_grad_norm=None,
            share_network=True,
            normalize_reward=False,
            gamma=0.9,
            gae_lambda=0.8,
            ent_coef=0.0,
            vf_coef=0.25,
            adam_epsilon=1e-2,
            clip_range=0.05,
            learning_rate=1e-2,
        ),
    ),
    "no penalty": (DISCRETE, dict(objective="none", learning_rate=1e-2, clip_range=0.05)),
    "a fixed penalty": (
        DISCRETE,
        dict(objective="fixed-kl", kl_coef=3.0, learning_rate=1e-2, clip_range=0.05),
    ),
    "a penalty that grows": (
        CONTINUOUS,
        dict(objective="adaptive-kl", kl_coef=0.5, kl_target=1e-4, learning_rate=1e-2, clip_range=0.05),
    ),
    "a penalty that shrinks": (
        DISCRETE,
        dict(objective="adaptive-kl", kl_coef=0.5, kl_target=1.0, learning_rate=1e-2, clip_range=0.05),
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name.endswith("shrinks") else []) for name in REFERENCES],
)
def test_two_updates_equal_those_of_a_second_implementation(name):
    space, options = REFERENCES[name]
    ppo = tiny(**options)
    state = begin(ppo, space)
    reference = Reference(ppo, state, gaussian=space is CONTINUOUS)
    for i in range(2):
        rollout = play(ppo, state, i)
        expected, _ = reference.update(rollout, orders_of(ppo, jax.random.key(i), rollout.reward.size))
        state, metrics = update(ppo, state, rollout, jax.random.key(i))
        for path, leaf in jax.tree.leaves_with_path(state.params):
            place = functools.reduce(
                lambda tree, step: tree[getattr(step, "key", getattr(step, "idx", None))],
                path,
                reference.params,
            )
            np.testing.assert_allclose(leaf, place, atol=1e-5, err_msg=jax.tree_util.keystr(path))
        for metric, number in expected.items():
            np.testing.assert_allclose(metrics[metric], number, rtol=2e-4, atol=1e-5, err_msg=metric)
        assert metrics["n_updates"] == 8
    assert expected["clip_fraction"] > 0  # else the clips were never put to the test
    assert ppo.max_grad_norm is None or expected["gradient_norm"] > ppo.max_grad_norm
    assert int(state.clock.step) == 32


# --- stopping at a KL ---------------------------------------------------------------------------------------


def test_promise_7_target_kl_stops_before_the_step_whose_kl_is_too_large():
    ppo = tiny(learning_rate=3e-2)
    state = begin(ppo)
    rollout, key = play(ppo, state, 0), 5
    orders = orders_of(ppo, jax.random.key(key), 16)
    _, divergence = Reference(ppo, state, gaussian=False).update(rollout, orders)
    assert divergence[0] < 1e-12
    stops = [k for k in range(1, 8) if divergence[k] > 1.2 * max(divergence[:k]) + 1e-4]
    assert len(stops) >= 2
    for stop in {stops[0], stops[-1]}:
        target = (max(divergence[:stop]) + divergence[stop]) / 2 / 1.5
        reference = Reference(ppo, state, gaussian=False)
        expected, _ = reference.update(rollout, orders, stop_after=stop)
        learned, metrics = update(
            dataclasses.replace(ppo, target_kl=target), state, rollout, jax.random.key(key)
        )
        assert metrics["n_updates"] == stop
        assert len(reference.trail) == stop + 1
        for leaf, other in zip(
            jax.tree.leaves(learned.params), jax.tree.leaves(reference.params), strict=True
        ):
            np.testing.assert_allclose(leaf, other, atol=1e-5)
        for name in (
            "approx_kl",
            "value_loss",
            "loss",
            "entropy",
        ):  # of what was looked at, the last included
            np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-3, atol=1e-6)


def test_promise_7_the_first_step_has_no_kl_and_a_stop_holds_for_the_rest_of_the_update():
    ppo = tiny(learning_rate=0.1, target_kl=1e-9)
    state = begin(ppo)
    rollout = play(ppo, state, 0)
    learned, metrics = update(ppo, state, rollout, jax.random.key(0))
    assert metrics["n_updates"] == 1
    assert int(learned.optimiser[1].count) == 1
    assert differs(learned.params, state.params)
    assert int(learned.clock.step) == 16  # what was learned about the environment stays learned
    assert differs(learned.observations, state.observations)
    generous = dataclasses.replace(ppo, target_kl=1e9)
    free = dataclasses.replace(ppo, target_kl=None, clip_range_vf=None)
    all_steps, metrics = update(generous, state, rollout, jax.random.key(0))
    assert metrics["n_updates"] == 8
    without, _ = update(free, state, rollout, jax.random.key(0))
    assert not differs(all_steps.params, without.params, 1e-5)


@pytest.fixture(scope="module")
def population():
    """One update at 16 learning rates at once: `-> rates, state, rollout, learned states, metrics`."""
    rates = np.logspace(-7, 0, 16)
    state = begin(tiny())
    rollout = play(tiny(), state, 0)
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(tiny(learning_rate=float(rate)) for rate in rates)
    )
    together = quick_jit(jax.vmap(lambda ppo, *given: ppo.update(*given), in_axes=(0, None, None, None)))
    return rates, state, rollout, *together(stacked, state, rollout, jax.random.key(0))


def test_promise_7_reported_kl_is_never_negative(population):
    *_, metrics = population
    assert (metrics["approx_kl"] >= 0).all()
    assert metrics["approx_kl"][0] < 1e-9
    assert metrics["approx_kl"][-1] > 0.1


def test_many_values_of_a_float_learn_at_once_as_each_does_alone(population):
    rates, state, rollout, together, metrics = population
    np.testing.assert_allclose(metrics["learning_rate"], rates, rtol=1e-6)
    for i in (8, 11):
        alone, _ = update(tiny(learning_rate=float(rates[i])), state, rollout, jax.random.key(0))
        assert not differs(jax.tree.map(operator.itemgetter(i), together.params), alone.params, 1e-5)
        assert differs(alone.params, state.params)


# --- promise 6: degenerate data -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_steps", "batch_size", "space", "scope"),
    [(1, 1, DISCRETE, "minibatch"), (8, 1, CONTINUOUS, "batch")],
    ids=["one step", "one sample a minibatch"],
)
def test_promise_6_constant_data_of_one_environment_leave_every_parameter_finite(
    n_steps, batch_size, space, scope
):
    ppo = tiny(n_steps=n_steps, batch_size=batch_size, normalize_advantage=scope, n_epochs=1)
    state = begin(ppo, space, num_envs=1)

    def constant(rollout):
        obs = np.full_like(rollout.obs, 7)
        never = np.zeros_like(rollout.terminated)
        return rollout._replace(obs=obs, next_obs=obs, reward=np.ones_like(rollout.reward), terminated=never)

    for i in range(6):
        rollout = constant(play(ppo, state, i))
        state, metrics = update(ppo, state, rollout, jax.random.key(i))
        assert_finite((state.params, state.optimiser, state.observations, state.rewards, metrics))


def test_promise_6_advantages_without_variance_move_no_policy():
    ppo = tiny(gamma=0.0, gae_lambda=0.0, vf_coef=0.0, ent_coef=0.0)
    state = begin(ppo)
    params = jax.tree.map(jnp.asarray, state.params)
    params["critic"]["head"] = jax.tree.map(jnp.zeros_like, params["critic"]["head"])  # every value is 0
    state = dataclasses.replace(state, params=params)
    rollout = play(ppo, state, 0)
    rollout = rollout._replace(reward=np.full_like(rollout.reward, 2.0))
    learned, metrics = update(ppo, state, rollout, jax.random.key(0))
    same_bits(learned.params, state.params)
    assert metrics["gradient_norm"] == 0


# --- no option is dead --------------------------------------------------------------------------------------

WIDE = spaces.Box(np.float32(-3), np.float32(9), (2,))
# Continuous and bounded actions, a large learning rate, rewards and observations beyond their limits.
LIVELY = dict(
    n_steps=8,
    batch_size=8,
    n_epochs=2,
    hidden=(8,),
    learning_rate=3e-2,
    clip_observation=5.0,
    clip_reward=5.0,
    clip_range_vf=1e9,
    target_kl=1e9,
)


def init_network(key, x):
    return {"scale": jax.random.normal(key, (x.shape[-1],))}


def apply_network(params, x):
    return jnp.sin(x * params["scale"])


CHANGES: dict[str, Any] = {
    "learning_rate": 1e-2,
    "n_steps": 4,
    "batch_size": 4,
    "n_epochs": 3,
    "gamma": 0.5,
    "gae_lambda": 0.3,
    "kl_coef": 9.0,
    "kl_target": 10.0,
    "clip_range": 0.01,
    "clip_range_vf": 0.01,
    "ent_coef": 0.3,
    "vf_coef": 0.01,
    "max_grad_norm": 0.01,
    "target_kl": 1e-5,
    "clip_observation": 0.5,
    "clip_reward": 0.1,
    "hidden": (4, 4),
    "log_std_init": -1.0,
    "adam_epsilon": 0.1,
    "network": (init_network, apply_network),
}


WHERE = {"kl_coef": {"objective": "fixed-kl"}, "kl_target": {"objective": "adaptive-kl"}}  # an option acts


def course(ppo, learned=None):
    """What comes of a seed, in stages: parameters, actions, an update; then targets with statistics learned."""
    state = begin(ppo, CONTINUOUS)
    yield state.params
    rollout = play(ppo, state, 0)
    units = spec_of(ppo, WIDE, WIDE, num_envs=1, total_timesteps=1).action_units
    yield rollout.action, environment_action(WIDE, rollout.action, units)
    if learned:
        yield batch_of(ppo, learned, play(PPO(**LIVELY), learned, 1))
    state, _ = update(ppo, state, rollout, jax.random.key(0))
    yield state


@functools.cache
def plain_course(objective="clip"):
    """The stages of the options as they are, and the state they end in."""
    plain = PPO(**LIVELY, objective=objective)
    *_, learned = course(plain)
    return list(course(plain, learned)), learned


@pytest.mark.parametrize("field", dataclasses.fields(PPO), ids=lambda field: field.name)
def test_every_option_makes_a_difference(field):
    where = WHERE.get(field.name, {})
    expected, learned = plain_course(**where)
    for value in alternatives(PPO(**LIVELY, **where), field, CHANGES):
        changed = PPO(**{**LIVELY, **where, field.name: value})
        assert getattr(changed, field.name) != getattr(PPO(**LIVELY), field.name)
        stages = zip(course(changed, learned), expected, strict=True)
        assert any(differs(a, b) for a, b in stages), f"{field.name}={value!r} changes nothing"


def test_a_bonus_for_entropy_raises_it_and_the_critics_weight_lowers_its_error():
    state = begin(tiny())
    params = jax.tree.map(jnp.asarray, state.params)
    params["actor"]["head"]["weight"] *= 300  # away from uniform
    state = dataclasses.replace(state, params=params)

    def last(**options):
        return train(tiny(**options, gamma=0.0, gae_lambda=0.0), state, 6)[1][-1]

    assert last(ent_coef=10.0)["entropy"] > last(ent_coef=0.0)["entropy"] + 0.03
    assert last(vf_coef=1.0)["value_loss"] < last(vf_coef=0.0)["value_loss"]


# --- schedules, tracing, purity -----------------------------------------------------------------------------


def convex(progress):
    return 1e-2 * (1 - progress) ** 2


def test_promise_11_schedules_follow_the_global_step():
    ppo = tiny(learning_rate=convex, clip_range=Linear(0.3, 0.1), clip_range_vf=Linear(1.0, 0.5))
    state = begin(ppo, total_timesteps=64)
    for i in range(4):
        progress = i * 16 / 64
        assert int(state.clock.step) == i * 16
        rollout = play(ppo, state, i)
        constant = tiny(
            learning_rate=convex(progress), clip_range=0.3 - 0.2 * progress, clip_range_vf=1 - 0.5 * progress
        )
        expected, _ = update(constant, state, rollout, jax.random.key(i))
        state, metrics = update(ppo, state, rollout, jax.random.key(i))
        np.testing.assert_allclose(metrics["learning_rate"], convex(progress), rtol=1e-6)
        np.testing.assert_allclose(metrics["clip_range"], 0.3 - 0.2 * progress, rtol=1e-6)
        assert not differs(state.params, expected.params, 1e-6)


def test_a_linear_schedule_goes_from_its_start_to_its_end():
    schedule = Linear(4.0, 1.0)
    assert [schedule(progress) for progress in (0, 0.5, 1)] == [4.0, 2.5, 1.0]
    assert Linear(2.0)(1) == 0
    assert PPO(clip_range=Linear(0.2)).clip_range == Linear(0.2, 0.0)  # may end where it may not begin


def test_changing_a_float_compiles_nothing():
    ppo = tiny()
    state = begin(ppo)
    rollout = play(ppo, state, 0)
    update(ppo, state, rollout, jax.random.key(0))
    programs = update._cache_size()
    floats = [field.name for field in dataclasses.fields(PPO) if "float" in field.type]
    assert {"learning_rate", "gamma", "clip_range", "ent_coef", "adam_epsilon", "target_kl"} <= set(floats)
    for name in floats:
        changed = dataclasses.replace(ppo, **{name: 0.7 * getattr(ppo, name) + 1e-3})
        update(changed, state, rollout, jax.random.key(0))
    whole = dataclasses.replace(ppo, gamma=1, ent_coef=0, clip_range=1)
    update(whole, state, rollout, jax.random.key(0))
    assert update._cache_size() == programs


def test_a_schedule_keeps_its_structure_whatever_its_numbers():
    ppo = tiny()
    scheduled = [
        dataclasses.replace(ppo, learning_rate=rate) for rate in (Linear(1e-3), Linear(1, 0), convex, convex)
    ]
    assert len({jax.tree.structure(algorithm) for algorithm in scheduled}) == 2
    for algorithm in scheduled:  # and a function comes through unharmed
        leaves, structure = jax.tree.flatten(algorithm)
        assert jax.tree.structure(structure.unflatten(leaves)) == structure


def test_an_update_is_pure():
    ppo = tiny()
    state = begin(ppo)
    rollout = play(ppo, state, 0)
    before = jax.tree.map(np.array, (state, rollout))
    first, second = (update(ppo, state, rollout, jax.random.key(3)) for _ in range(2))
    same_bits(first, second)
    same_bits((state, rollout), before)
    other, _ = update(ppo, state, rollout, jax.random.key(4))
    assert differs(other.params, first[0].params, 1e-5)


@pytest.mark.parametrize("num_envs", [1, 4, 16])
def test_promise_8_updates_per_transition_do_not_depend_on_the_number_of_environments(num_envs):
    ppo = tiny(n_steps=32 // num_envs)
    state, (metrics,) = train(ppo, begin(ppo, num_envs=num_envs), 1)
    assert metrics["n_updates"] == ppo.n_epochs * 32 / ppo.batch_size
    assert state.clock.step == 32


def test_a_last_rollout_may_be_short():
    ppo = tiny()  # minibatches of 4; here 10 samples
    state, _ = train(ppo, begin(ppo), 1)
    learned, metrics = update(ppo, state, play(ppo, state, 1, num_steps=5), jax.random.key(1))
    assert metrics["n_updates"] == 2 * ppo.n_epochs
    assert int(learned.clock.step) == 16 + 10
    assert learned.observations.count.value == 16 + 10
    assert_finite((learned.params, metrics))
    assert differs(learned.params, state.params)


@pytest.mark.parametrize("num_steps", range(1, 9))
def test_a_rollout_of_any_length_makes_a_state_of_the_same_shapes(num_steps):
    ppo = tiny()
    state = begin(ppo)
    rollout = play(ppo, state, 0, num_steps=num_steps)
    learned, _ = jax.eval_shape(ppo.update, state, rollout, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), learned) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )


# --- errors -------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict, str]] = {
    "text for a number": (
        dict(learning_rate="fast"),
        "use a finite number, or a schedule such as adv.Linear",
    ),
    "not a number": (dict(gamma=float("nan")), "use a finite number"),
    "infinity": (dict(ent_coef=float("inf")), "use a finite number"),
    "a truth for a number": (dict(vf_coef=True), "use a finite number"),
    "a fraction of a step": (dict(n_steps=2.5), "use a whole number"),
    "a truth for a count": (dict(n_epochs=True), "use a whole number"),
    "a count for a truth": (dict(normalize_reward=1), "use True or False"),
    "a set of widths": (dict(hidden={64}), "use a tuple of whole numbers"),
    "a width of a half": (dict(hidden=(64, 0.5)), "use a whole number"),
    "a width of nothing": (dict(hidden=(64, 0)), "use a value in [1, inf)"),
    "a misspelt choice": (dict(activation="Tanh"), "did you mean 'tanh'?"),
    "an unknown choice": (dict(normalize_advantage="all"), "use one of 'minibatch', 'batch', 'none'"),
    "a schedule that starts outside": (dict(clip_range=Linear(0.0, 0.1)), "use a value in (0, inf)"),
    "a schedule that ends outside": (dict(learning_rate=Linear(1e-3, -1e-3)), "use a value in [0, inf)"),
    "a schedule that is no number": (dict(learning_rate=Linear(1e-3, float("nan"))), "use a finite number"),
    "a schedule for a constant": (dict(gamma=Linear(0.9, 1.0)), "use a finite number"),
    "a function for a constant": (dict(gamma=convex), "use a finite number, not a schedule"),
    "none for a number": (dict(clip_range=None), "use a finite number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_hyperparameter_is_an_error_that_says_which_and_what_is_allowed(name):
    given, remedy = WRONG[name]
    with pytest.raises(ValueError) as error:
        PPO(**given)
    ((field, _),) = given.items()
    assert str(error.value).startswith(f"{field}=" if "width" not in name or "list" in name else "hidden=")
    assert "is not allowed; " in str(error.value)
    assert remedy in str(error.value)


RANGED = [field for field in dataclasses.fields(PPO) if "interval" in field.metadata]


@pytest.mark.parametrize("field", RANGED, ids=lambda field: field.name)
def test_every_range_is_checked_at_both_ends(field):
    interval = field.metadata["interval"]
    low, high = (float(end) for end in interval[1:-1].split(","))
    whole = "int" in field.type
    outside = [low - 1 if interval[0] == "[" else low]
    outside += [] if high == float("inf") else [high + 1 if interval[-1] == "]" else high]
    inside = [low if interval[0] == "[" else low + 1e-3] + ([high] if interval[-1] == "]" else [])

    def give(number):
        number = int(number) if whole else number
        return {field.name: (number,) if "tuple" in field.type else number}

    for number in outside:
        with pytest.raises(ValueError) as error:
            PPO(**give(number))
        assert str(error.value).startswith(f"{field.name}=")
        assert f"use a value in {interval}" in str(error.value)
    for number in inside:
        PPO(**give(number))


def test_every_field_with_a_number_has_a_range():
    unbounded = [
        f.name for f in dataclasses.fields(PPO) if ("float" in f.type or "int" in f.type) and f not in RANGED
    ]
    assert unbounded == []


def test_a_batch_size_that_does_not_divide_the_rollout_is_an_error_with_divisors_that_do():
    with pytest.raises(ValueError) as error:
        begin(tiny(n_steps=1024, batch_size=100))
    assert str(error.value) == (
        "batch_size=100 does not divide n_steps * num_envs = 1024 * 2 = 2048; "
        "use a divisor such as 64 or 128."
    )


def test_promise_5_a_space_or_a_network_that_ppo_cannot_handle_is_an_error_before_training():
    with pytest.raises(ValueError, match="has no policy; allowed are"):
        begin(tiny(), spaces.Text(4))
    with pytest.raises(ValueError, match="action_bounds='squash' needs finite bounds"):
        begin(tiny(action_bounds="squash"), OBS)
    with pytest.raises(ValueError, match="network=3 is not a network"):
        begin(tiny(network=3))


# --- JSON ---------------------------------------------------------------------------------------------------


def through_json(algorithm):
    return from_json("ppo", json.loads(json.dumps(to_json(algorithm), allow_nan=False)))


def test_hyperparameters_come_back_from_json_as_they_were():
    assert through_json(PPO()) == PPO()
    for field in dataclasses.fields(PPO):
        for value in alternatives(PPO(), field, CHANGES) if field.name != "network" else []:
            changed = PPO(**{field.name: value})
            assert changed != PPO()
            assert through_json(changed) == changed
    scheduled = PPO(learning_rate=Linear(1e-3, 1e-5), clip_range=Linear(0.2), hidden=())
    assert through_json(scheduled) == scheduled
    assert isinstance(through_json(scheduled).learning_rate, Linear)
    assert set(to_json(PPO())) == {field.name for field in dataclasses.fields(PPO)}


def test_what_only_python_can_give_is_an_error_that_says_to_give_it_again():
    for name, value in (("learning_rate", convex), ("network", (init_network, apply_network))):
        with pytest.raises(ValueError) as error:
            through_json(PPO(**{name: value}))
        for part in (name, "given from Python", "algorithm=adv.PPO(...)"):
            assert part in str(error.value)


@pytest.mark.parametrize(
    ("algorithm", "values", "parts"),
    [
        ("ppo", {"gama": 0.9}, ["ppo has no hyperparameter 'gama'", "the nearest is gamma", "remove it"]),
        ("ppo", {"gamma": 1.5}, ["gamma=1.5 is not allowed", "[0, 1]"]),
        ("ppo", {"learning_rate": {"linear": ["a", 0]}}, ["learning_rate=", "use a finite number"]),
        ("ppo", {"learning_rate": {"linear": [1, 2, 3]}}, ["learning_rate"]),
        ("ppo", {"gamma": [0.9]}, ["gamma=", "use a finite number"]),
        ("pop", {}, ["There is no algorithm 'pop'", "did you mean", " ppo", "algorithms are: "]),
    ],
    ids=["field", "range", "schedule", "ends", "list", "algorithm"],
)
def test_wrong_json_is_an_error_that_names_the_field(algorithm, values, parts):
    with pytest.raises(ValueError) as error:
        from_json(algorithm, to_json(PPO()) | values)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("field", dataclasses.fields(PPO), ids=lambda field: field.name)
def test_json_without_a_field_is_an_error_that_names_it_and_its_default(field):
    values = to_json(PPO())
    default = values.pop(field.name)
    if field.name in MEANT_BEFORE:
        assert getattr(from_json("ppo", values), field.name) == MEANT_BEFORE[field.name]
        return
    with pytest.raises(ValueError) as error:
        from_json("ppo", values)
    assert f"{field.name!r} is missing" in str(error.value)
    assert str(error.value).endswith(f"its default is {default!r}.")


# --- probes: the smallest worlds that show what was learned -------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Treadmill:
    """Every step earns 1. Where 1 is observed only the clock ends it, after 10 steps; where -1, the first step."""

    max_episode_steps: int = 10
    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    gymnasium_id = None

    def reset(self, key):
        kind = jnp.where(jax.random.bernoulli(key, 0.3), 1.0, -1.0)
        return kind, kind[None]

    def step(self, state, action, key):
        return state, state[None], jnp.float32(1), state < 0


@dataclasses.dataclass(frozen=True)
class Deposit:
    """Two steps. The second pays for what was done in the first: 1 for the action, counted from 5, that the observed
    sign asks for, and more the nearer a second number was to that sign. What is done in the second is ignored."""

    max_episode_steps: int = 5
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Tuple(
        (spaces.Discrete(2, start=5), spaces.Box(np.float32(-2), np.float32(2), (1,)))
    )
    gymnasium_id = None

    def reset(self, key):
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return (sign, jnp.asarray(False), jnp.float32(0)), jnp.stack([sign, 0])

    def step(self, state, action, key):
        sign, second, earned = state
        choice, number = action
        earning = jnp.where(sign > 0, choice == 6, choice == 5) - jnp.square(number[0] - sign)
        return (sign, ~second, earning), jnp.stack([sign, 1]), jnp.where(second, earned, 0), second


@functools.partial(quick_jit, static_argnames="world")
def learn(ppo, world, iterations):
    """The state after so many iterations in 4 environments."""
    key_init, key_start, key_run = jax.random.split(jax.random.key(0), 3)
    state = ppo.init(key_init, Spec(world.observation_space, world.action_space, 4, 1))
    worlds = start(world, key_start, 4)

    def one(i, carry):
        actor, draws = draw(ppo, carry[0], key_run, i, (ppo.n_steps, 4))
        return iterate_on_device(ppo, world, *carry, actor, draws)[:2]

    return jax.lax.fori_loop(0, iterations, one, (state, worlds))[0]


PROBE = PPO(n_steps=16, batch_size=32, n_epochs=4, hidden=(16,), learning_rate=1e-2)


def test_promise_1_a_clock_takes_nothing_from_a_states_worth_and_an_end_takes_the_future():
    ppo = dataclasses.replace(PROBE, gamma=0.9, normalize_reward=False, learning_rate=2e-2)
    state = learn(ppo, Treadmill(), 100)
    x = state.policy.encoder.encode(jnp.array([[1.0], [-1.0]]), ppo.actor(state).normaliser)
    np.testing.assert_allclose(state.policy.value(state.params, x), [10, 1], rtol=0.04)


def test_the_policy_learns_what_each_observation_asks_for_though_it_is_paid_late_unless_only_now_counts():
    chosen = {}
    for gamma in (0.99, 0.0):
        ppo = dataclasses.replace(PROBE, gamma=gamma)
        actor = ppo.actor(learn(ppo, Deposit(), 120))
        chosen[gamma], _ = ppo.greedy(actor, jnp.array([[-1.0, 0.0], [1.0, 0.0]]), ())
    choice, number = chosen[0.99]
    np.testing.assert_array_equal(choice, [0, 1])
    np.testing.assert_allclose(number[:, 0], [-1, 1], atol=0.3)
    assert np.abs(chosen[0.0][1][:, 0] - np.array([-1, 1])).max() > 0.6
