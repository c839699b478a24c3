"""CrossQ: batch normalisation against its definition, the gradient step number by number, and whole runs."""

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
    OBS,
    a_stopped_run_goes_on_bit_for_bit,
    begin,
    both_drivers_and_every_seed_learn_the_same,
    differs,
    learn,
    seeds_side_by_side_are_each_alone,
    update,
)

import advantage as adv
from advantage.algorithms.registry import spec_of
from advantage.algorithms.value.crossq import batch_normalised_critic
from advantage.policies.batch_norm import BatchNormMLP, batch_moments, corrections, normalised
from advantage.types import Rollout

BASE = dict(n_steps=4, hidden=(8, 6), gradient_steps=3, batch_size=4, buffer_size=64, learning_starts=0)


def tiny(**changes):
    return adv.CrossQ(**{**BASE, "learning_rate": 3e-3, "batch_momentum": 0.8, "policy_delay": 2, **changes})


def disturbed(params, seed=0):
    """The parameters moved by normal numbers, so that no scale is 1 and no offset 0; variances stay positive."""
    rng = np.random.default_rng(seed)

    def move(path, leaf):
        moved = leaf + np.float32(0.3) * rng.normal(size=leaf.shape).astype(np.float32)
        return np.abs(moved) if "variance" in jax.tree_util.keystr(path) else moved

    return jax.tree_util.tree_map_with_path(move, params)


# The network


def features_of(params, x, mode):
    """Features of a batch in float64, column by column, and what each normalisation saw: `-> features, moments`.

    `mode`: "running", "batch" or "renormalised".
    """
    x, seen = np.float64(x), []
    for n, (norm, running) in enumerate(zip(params["norms"], params["moments"], strict=True)):
        if n > 0:
            layer = params["layers"][n - 1]
            x = np.maximum(x @ np.float64(layer["weight"]) + np.float64(layer["bias"]), 0)
        columns, moments = [], []
        for j in range(x.shape[1]):
            column, mean, variance = x[:, j], float(running["mean"][j]), float(running["variance"][j])
            of_batch = sum(column) / len(column), sum((column - sum(column) / len(column)) ** 2) / len(column)
            moments.append(of_batch)
            if mode == "running":
                y = (column - mean) / (variance + 1e-5) ** 0.5
            else:
                y = (column - of_batch[0]) / (of_batch[1] + 1e-5) ** 0.5
            if mode == "renormalised":
                ratio = (of_batch[1] + 1e-5) ** 0.5 / (variance + 1e-5) ** 0.5
                shift = (of_batch[0] - mean) / (variance + 1e-5) ** 0.5
                y = y * min(max(ratio, 1 / 3), 3) + min(max(shift, -5), 5)
            columns.append(float(norm["scale"][j]) * y + float(norm["offset"][j]))
        x = np.stack(columns, 1)
        seen.append(np.array(moments).T)
    return x, seen


@pytest.fixture(scope="module")
def network():
    network = BatchNormMLP((8, 6))
    x = np.random.default_rng(1).normal(1, 2, (7, 3)).astype(np.float32)
    return network, disturbed(network.init(jax.random.key(0), x)), x


@pytest.mark.parametrize("mode", ["running", "batch", "renormalised"])
def test_the_features_are_those_of_the_definition(network, mode):
    network, params, x = network
    right, seen = features_of(params, x, mode)
    if mode == "running":
        found = network.apply(params, x)
    else:
        found, after = network.apply_to_batch(params, x, momentum=0.8, renormalise=mode == "renormalised")
        for old, new, (mean, variance) in zip(params["moments"], after, seen, strict=True):
            np.testing.assert_allclose(new["mean"], 0.8 * old["mean"] + 0.2 * mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                new["variance"], 0.8 * old["variance"] + 0.2 * variance, rtol=1e-4, atol=1e-5
            )
    np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-4)


def test_a_renormalised_batch_within_the_limits_is_normalised_by_the_running_moments():
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (50, 3)).astype(np.float32)
    running = {"mean": np.float32([1.5, 0, -1]), "variance": np.float32([3, 5, 9])}
    ratio, shift = corrections(batch_moments(x), running)
    norm = {"scale": np.float32([1, 2, 3]), "offset": np.float32([0, 1, 2])}
    unit = {"scale": ratio, "offset": shift}
    found = norm["scale"] * normalised(unit, x, batch_moments(x)) + norm["offset"]
    np.testing.assert_allclose(found, normalised(norm, x, running), rtol=1e-4, atol=1e-4)


def test_no_gradient_passes_through_the_corrections_or_reaches_the_moments(network):
    network, params, x = network

    def total(params):
        features, _ = network.apply_to_batch(params, x, momentum=0.8, renormalise=True)
        return (features**3).sum()

    slopes = jax.grad(total)(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slopes["moments"]))
    gap = jax.grad(lambda x: sum(map(jnp.sum, corrections(batch_moments(x), params["moments"][0]))))(x)
    assert not np.any(gap)


# The gradient step


def one_transition(algorithm, terminated=False):
    """A first state with other parameters, and a rollout of one step."""
    state, rng = begin(algorithm, CONTINUOUS, num_envs=1), np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, 1, 1, 3)).astype(np.float32)
    action = rng.uniform(-1, 1, (1, 1, 2)).astype(np.float32)
    ends = np.array([[terminated]]), np.array([[False]])
    rollout = Rollout(obs, action, np.float32([[1.7]]), next_obs, *ends)
    params = state.params | {"action_value": disturbed(state.params["action_value"])}
    return dataclasses.replace(state, params=params), rollout


def critic(params, n):
    return jax.tree.map(lambda leaf: np.asarray(leaf[n]), params["action_value"])


def values_in_batch(params, inputs, mode):
    """Both critics' values of a batch, `[2, N]`, and what each normalisation of each critic saw."""
    values, seen = [], []
    for n in range(2):
        of_critic = critic(params, n)
        features, moments = features_of(of_critic["network"], inputs, mode)
        values.append(features @ np.float64(of_critic["head"]["weight"])[:, 0] + of_critic["head"]["bias"][0])
        seen.append(moments)
    return np.stack(values), seen


def halves(state, rollout, key):
    """The batch of one repeated transition: inputs of both halves, `[2N, 5]`, and log pi of the next actions."""
    policy, size = state.policy, 4
    x, next_x = (np.repeat(obs[0], size, 0) for obs in (rollout.obs, rollout.next_obs))
    noise = policy.head.noise(jax.random.split(key, 3)[1], (size,))
    following = policy.distribution(state.params["actor"], next_x)
    next_action, log_prob = following.sample_and_log_prob(noise)
    now = np.concatenate([x, np.repeat(rollout.action[0], size, 0)], 1)
    return np.concatenate([now, np.concatenate([next_x, next_action], 1)]), np.float64(log_prob)


@pytest.mark.parametrize(("renormalise", "terminated"), [(False, False), (True, False), (False, True)])
def test_the_critics_loss_is_that_of_the_definition_and_the_moments_follow_both_halves(
    renormalise, terminated
):
    algorithm = tiny(
        n_steps=1,
        gradient_steps=1,
        gamma=0.5,
        alpha=0.3,
        learning_rate=0.0,
        renormalise_after=0 if renormalise else 10,
    )
    state, rollout = one_transition(algorithm, terminated)
    new, metrics = update(algorithm, state, rollout, jax.random.key(0))
    inputs, log_prob = halves(state, rollout, jax.random.fold_in(jax.random.key(0), 0))
    values, seen = values_in_batch(state.params, inputs, "renormalised" if renormalise else "batch")
    y = 1.7 + 0.5 * (not terminated) * (values[:, 4:].min(0) - 0.3 * log_prob)
    total, count = metrics["action_value_loss"]
    assert count == 1
    assert total == pytest.approx(((values[:, :4] - y) ** 2 / 2).mean(), rel=1e-3)
    for n in range(2):
        pairs = zip(
            critic(state.params, n)["network"]["moments"],
            critic(new.params, n)["network"]["moments"],
            seen[n],
            strict=True,
        )
        for old, after, (mean, variance) in pairs:
            np.testing.assert_allclose(after["mean"], 0.8 * old["mean"] + 0.2 * mean, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(
                after["variance"], 0.8 * old["variance"] + 0.2 * variance, rtol=1e-3, atol=1e-5
            )


def test_the_target_passes_no_gradient_and_both_halves_share_their_moments():
    """Adam's first mean is half of the gradient of the loss with fixed targets; the moments have gradients."""
    algorithm = tiny(n_steps=1, gradient_steps=1, gamma=0.5, alpha=0.3)
    state, rollout = one_transition(algorithm)
    new, _ = update(algorithm, state, rollout, jax.random.key(0))
    inputs, log_prob = halves(state, rollout, jax.random.fold_in(jax.random.key(0), 0))
    q = batch_normalised_critic(algorithm, state.policy)

    def values(critics, inputs):
        def one(critic):
            features, _ = q.network.apply_to_batch(critic["network"], inputs, momentum=0.8, renormalise=False)
            return (features @ critic["head"]["weight"] + critic["head"]["bias"])[:, 0]

        return jax.vmap(one)(critics)

    y = 1.7 + 0.5 * (values(state.params["action_value"], inputs)[:, 4:].min(0) - 0.3 * log_prob)

    def loss(critics, inputs=inputs):
        return ((values(critics, inputs)[:, :4] - y) ** 2 / 2).mean(1).sum()

    right = jax.grad(loss)(state.params["action_value"])
    alone = jax.grad(lambda critics: loss(critics, inputs[:4]))(state.params["action_value"])
    found = new.optimiser["action_value"].mu
    for slope, mean in zip(jax.tree.leaves(right), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(mean, 0.5 * slope, rtol=5e-3, atol=1e-5)
    assert differs(right, alone, 1e-3)


def test_the_policy_climbs_the_new_critics_with_the_running_moments():
    algorithm = tiny(n_steps=1, gradient_steps=1, policy_delay=1, alpha=0.3)
    state, rollout = one_transition(algorithm)
    new, _ = update(algorithm, state, rollout, jax.random.key(0))
    policy, q = state.policy, batch_normalised_critic(algorithm, state.policy)
    key = jax.random.fold_in(jax.random.key(0), 0)
    noise, x = policy.head.noise(jax.random.split(key, 3)[2], (4,)), jnp.repeat(rollout.obs[0], 4, 0)

    def loss(actor, critics):
        action, log_prob = policy.distribution(actor, x).sample_and_log_prob(noise)
        return (0.3 * log_prob - jax.vmap(q.value, (0, None, None))(critics, x, action).min(0)).mean()

    right, stale = (
        jax.grad(loss)(state.params["actor"], params["action_value"]) for params in (new.params, state.params)
    )
    for slope, mean in zip(jax.tree.leaves(right), jax.tree.leaves(new.optimiser["actor"].mu), strict=True):
        np.testing.assert_allclose(mean, 0.5 * slope, rtol=5e-3, atol=1e-6)
    assert differs(right, stale, 1e-3)


def test_the_policy_and_the_temperature_move_at_every_second_gradient_step():
    algorithm = tiny(n_steps=1, gradient_steps=1, policy_delay=2)
    state, rollout = one_transition(algorithm)
    first, _ = update(algorithm, state, rollout, jax.random.key(0))
    second, _ = update(algorithm, first, rollout, jax.random.key(1))
    assert not differs(first.params["actor"], state.params["actor"], 0)
    assert first.params["log_alpha"] == 0 and second.params["log_alpha"] != 0
    assert differs(second.params["actor"], state.params["actor"], 1e-6)


@pytest.mark.parametrize(("aim", "rises"), [(-50.0, False), (50.0, True)])
def test_the_temperature_follows_the_entropy(aim, rises):
    algorithm = tiny(target_entropy=aim)
    state = learn(algorithm, begin(algorithm, CONTINUOUS), 2)[0][-1]
    assert (state.params["log_alpha"] > 0) == rises


# What cannot be, and what users give


IMAGES = spaces.Box(0, 255, (8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "obs", "action", "complaint"),
    [
        ({}, OBS, DISCRETE, "CrossQ needs a Box of floats.*use sac, dqn or ppo"),
        ({}, IMAGES, CONTINUOUS, "fully connected hidden layers of its critics.*or use sac"),
        ({"hidden": ()}, OBS, CONTINUOUS, "fully connected hidden layers of its critics"),
        ({"network": "gru"}, OBS, CONTINUOUS, "A recurrent network"),
        ({"learning_starts": 100}, OBS, CONTINUOUS, "learning_starts=100 is above total_timesteps=80"),
    ],
    ids=["discrete", "images", "none", "gru", "late"],
)
def test_what_cannot_be_learned_is_refused(changes, obs, action, complaint):
    algorithm = tiny(**changes)
    with pytest.raises(ValueError, match=complaint):
        algorithm.init(jax.random.key(0), spec_of(algorithm, obs, action, num_envs=1, total_timesteps=80))


def test_critics_may_have_other_layers_than_the_policy():
    params = begin(tiny(critic_hidden=(9,)), CONTINUOUS).params
    assert [layer["bias"].shape for layer in params["action_value"]["network"]["layers"]] == [(2, 9)]
    assert [len(layer["bias"]) for layer in params["actor"]["network"]] == [8, 6]


# Whole runs


def test_seeds_side_by_side_are_each_alone():
    seeds_side_by_side_are_each_alone(tiny(), CONTINUOUS)


def test_both_drivers_and_every_seed_learn_the_same(tmp_path):
    algorithm = tiny(learning_rate=1e-2)
    both_drivers_and_every_seed_learn_the_same(algorithm, tmp_path, on_host=SlideOnHost, world=Slide())


@pytest.mark.parametrize("environment", [SlideOnHost, Slide()], ids=["host", "device"])
def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, environment):
    a_stopped_run_goes_on_bit_for_bit(tiny(renormalise_after=5), environment, tmp_path)


def test_a_run_is_loaded_and_evaluated(tmp_path):
    options = {"total_timesteps": 24, "num_envs": 2, "tensorboard": False, "eval_episodes": 2}
    run = adv.train(tiny(n_steps=1), Slide(), out=tmp_path / "run", **options)
    assert adv.evaluate(run.path, episodes=2, environment=Slide()).mean == run.evaluation.mean


@functools.cache
def plain_course():
    return learn(tiny(), begin(tiny(), CONTINUOUS), 2)[0][-1]


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.1},
        {"target_entropy": 3.0},
        {"action_spread": "state-independent"},
        {"action_bounds": "clip"},
        {"critic_hidden": (7, 6)},
        {"policy_delay": 1},
        {"batch_momentum": 0.5},
        {"renormalise_after": 0},
        {"adam_b1": 0.9},
        {"learning_rate": 1e-3},
        {"n": 2},
        {"gamma": 0.5},
        {"gradient_steps": 2},
        {"batch_size": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_option_makes_a_difference(change):
    algorithm = tiny(**change)
    state = learn(algorithm, begin(algorithm, CONTINUOUS), 2)[0][-1]
    mine, plain = state.params["actor"], plain_course().params["actor"]
    assert jax.tree.structure(mine) != jax.tree.structure(plain) or differs(mine, plain, 1e-6)


@pytest.mark.slow
def test_it_learns(tmp_path):
    algorithm = adv.CrossQ(hidden=(64, 64))
    run = adv.train(
        algorithm, "jax/Pendulum-v1", total_timesteps=6_000, eval_episodes=100, out=tmp_path / "run"
    )
    assert run.evaluation.mean > -170
