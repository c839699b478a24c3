"""Critics with layer normalisation and dropout: against definitions, where dropout is drawn, and whole runs."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_learners import (
    CONTINUOUS,
    DISCRETE,
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

import advantage as adv
from advantage.algorithms.registry import from_json, spec_of, to_json
from advantage.algorithms.value.shared.regularised_critics import draw_critic_dropout, regularised_critic
from advantage.policies.networks import MLP, layer_normalised
from advantage.types import Rollout

BASE = dict(
    n_steps=4, hidden=(8, 6), gradient_steps=3, batch_size=4, buffer_size=64, learning_starts=0, tau=0.1
)
BOTH = dict(layer_norm=True, critic_dropout=0.3)


def tiny(cls=adv.SAC, **changes):
    return cls(**{**BASE, "learning_rate": 3e-3, **changes})


# The network


def row_of(layer, x, factors=None, layer_norm=False):
    """One row through a layer of ReLU, number by number in float64: linear, dropout, layer normalisation, ReLU."""
    weight, bias = np.float64(layer["weight"]), np.float64(layer["bias"])
    y = [sum(x[i] * weight[i, j] for i in range(len(x))) + bias[j] for j in range(len(bias))]
    if factors is not None:
        y = [y[j] * float(factors[j]) for j in range(len(y))]
    if layer_norm:
        mean = sum(y) / len(y)
        variance = sum((number - mean) ** 2 for number in y) / len(y)
        scale, offset = np.float64(layer["scale"]), np.float64(layer["offset"])
        y = [scale[j] * (y[j] - mean) / (variance + 1e-5) ** 0.5 + offset[j] for j in range(len(y))]
    return np.maximum(y, 0)


def outputs_of(critic, x, factors, layer_norm):
    """A critic's outputs for rows `[N, d]`, `[N, outputs]`, in float64."""
    rows = []
    for n, row in enumerate(np.float64(x)):
        for depth, layer in enumerate(critic["network"]):
            row = row_of(layer, row, factors[depth][n] if factors else None, layer_norm)
        rows.append(row @ np.float64(critic["head"]["weight"]) + np.float64(critic["head"]["bias"]))
    return np.stack(rows)


def disturbed(params, seed=0):
    """Parameters as after some training, no scale at 1 and no offset at 0."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + np.float32(rng.normal(0, 0.3, leaf.shape)), params)


def test_layer_normalisation_is_that_of_the_definition_in_both_array_libraries():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (4, 5)).astype(np.float32)
    params = {name: rng.normal(size=5).astype(np.float32) for name in ("scale", "offset")}
    identity = {"weight": np.eye(5), "bias": np.zeros(5), **params}
    expected = np.stack([row_of(identity, row, layer_norm=True) for row in np.float64(x)])
    for rows in (x, jnp.asarray(x)):
        found = layer_normalised(params, rows)
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.maximum(found, 0), expected, rtol=1e-5, atol=1e-5)
    even = layer_normalised(params, np.full((1, 5), 7, np.float32))
    np.testing.assert_array_equal(even[0], params["offset"])


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("rate", [None, 0.4])
def test_a_network_is_that_of_the_definition(layer_norm, rate):
    network = MLP((6, 5), "relu", layer_norm=layer_norm)
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    params = disturbed(network.init(jax.random.key(0), x))
    dropout = () if rate is None else network.draw_dropout(jax.random.key(1), (7,), rate)
    critic = {"network": params, "head": {"weight": np.eye(5), "bias": np.zeros(5)}}
    expected = outputs_of(critic, x, dropout, layer_norm)
    np.testing.assert_allclose(network.apply(params, jnp.asarray(x), dropout), expected, rtol=1e-4, atol=1e-5)


def test_a_layer_begins_without_scale_and_offset_and_its_weights_are_those_without_normalisation():
    x = np.zeros((1, 3), np.float32)
    plain, normed = (MLP((6, 5), layer_norm=on).init(jax.random.key(0), x) for on in (False, True))
    for without, layer in zip(plain, normed, strict=True):
        same_bits(without, {name: layer[name] for name in ("weight", "bias")})
        assert (layer["scale"] == 1).all() and (layer["offset"] == 0).all()


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    first, second = MLP((40, 30)).draw_dropout(jax.random.key(0), (2, 500), 0.2)
    assert first.shape == (2, 500, 40) and second.shape == (2, 500, 30)
    for factors in (first, second):
        np.testing.assert_allclose(np.unique(factors), [0, 1 / 0.8], rtol=1e-4)
        assert np.mean(factors == 0) == pytest.approx(0.2, abs=0.01)
        np.testing.assert_allclose(np.mean(factors), 1, atol=0.01)
    assert differs(first[0], first[1]), "each critic has its own"
    assert differs(first[0, 0], first[0, 1]), "each row has its own"
    assert differs(first[..., :30], second), "each layer has its own"
    assert differs(first, MLP((40, 30)).draw_dropout(jax.random.key(1), (2, 500), 0.2)[0])


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.5, 0.9, 1 - 1e-7])
def test_the_mean_is_kept_at_any_rate_and_width(rate):
    """The exact mean over the 2^16 numbers that a unit may draw; 7 units take four words."""
    (factors,) = MLP((7,)).draw_dropout(jax.random.key(0), (300,), jnp.float32(rate))
    assert factors.shape == (300, 7) and factors.dtype == np.float32
    drawn = round(min(rate * 2**16, 2**16 - 1))
    assert np.mean(factors == 0) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 2100) ** 0.5 + 1e-3)
    if factors.max() > 0:
        np.testing.assert_allclose(factors.max() * (1 - drawn / 2**16), 1, rtol=1e-6)
    if rate == 0:
        assert (factors == 1).all()


def test_a_linear_layer_keeps_its_mean_under_dropout():
    network = MLP((5,), "relu")
    x = np.random.default_rng(0).normal(size=3).astype(np.float32)
    params = network.init(jax.random.key(0), x[None])
    dropout = network.draw_dropout(jax.random.key(1), (20_000,), 0.3)
    rows = network.apply(params, jnp.broadcast_to(x, (20_000, 3)), dropout)
    np.testing.assert_allclose(rows.mean(0), network.apply(params, x), atol=0.02)


# Gradient steps


def split_of(stacked, n):
    return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(n)]


def one_transition(algorithm, space):
    """The first state, and a rollout of one step that neither ends."""
    state, rng = begin(algorithm, space, num_envs=1), np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, 1, 1, 3)).astype(np.float32)
    action = np.int32([[2]]) if space is DISCRETE else rng.uniform(-1, 1, (1, 1, 2)).astype(np.float32)
    never = np.array([[False]])
    rollout = Rollout(obs, action, np.float32([[1.7]]), next_obs, never, never)
    params = state.params | {"action_value": disturbed(state.params["action_value"])}
    target = disturbed(state.target, 1)
    return dataclasses.replace(state, params=params, target=target), rollout


def factors_of(algorithm, state, key, critics):
    """Dropout of the targets, of the critics, and of the policy's step, for one gradient step."""
    first = 2 if isinstance(algorithm, adv.TD3) else 3
    q = regularised_critic(algorithm, state.policy)
    return [
        draw_critic_dropout(algorithm, q, jax.random.fold_in(key, first + n), (critics, algorithm.batch_size))
        for n in range(2)
    ]


def values_of(critics, x, factors, layer_norm):
    """`[critics, N, outputs]`."""
    rows = [tuple(layer[i] for layer in factors) for i in range(len(critics))]
    return np.stack([outputs_of(c, x, f, layer_norm) for c, f in zip(critics, rows, strict=True)])


def loss_of(algorithm, state, rollout, key):
    """The mean loss of the critics in one gradient step at these parameters, by the definition in float64."""
    policy, size = state.policy, algorithm.batch_size
    x, next_x = (np.repeat(obs[0], size, 0) for obs in (rollout.obs, rollout.next_obs))
    of_next, of_now = factors_of(algorithm, state, key, 2)
    is_td3 = isinstance(algorithm, adv.TD3)
    targets = split_of(state.target["action_value"] if is_td3 else state.target, 2)
    critics, entropy = split_of(state.params["action_value"], 2), 0.0
    if rollout.action.dtype == np.int32:
        p = np.float64(jax.nn.softmax(policy.distribution(state.params["actor"], next_x).logits))
        following = (p * values_of(targets, next_x, of_next, algorithm.layer_norm).min(0)).sum(-1)
        entropy = -(p * np.log(p)).sum(-1)
        now = values_of(critics, x, of_now, algorithm.layer_norm)[..., 2]
    else:
        if is_td3:
            a = policy.distribution(state.target["actor"], next_x).mode()
        else:
            noise = policy.head.noise(jax.random.split(key, 3)[1], (size,))
            a, log_prob = policy.distribution(state.params["actor"], next_x).sample_and_log_prob(noise)
            entropy = -np.float64(log_prob)
        joined = np.concatenate([next_x, a], -1)
        following = values_of(targets, joined, of_next, algorithm.layer_norm)[..., 0].min(0)
        joined = np.concatenate([x, np.repeat(rollout.action[0], size, 0)], -1)
        now = values_of(critics, joined, of_now, algorithm.layer_norm)[..., 0]
    soft = following + (0.0 if is_td3 else 0.3) * entropy
    return ((now - (1.7 + 0.5 * soft)) ** 2 / 2).mean()


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(
    ("cls", "space"), [(adv.SAC, DISCRETE), (adv.SAC, CONTINUOUS), (adv.TD3, CONTINUOUS)]
)
def test_the_critics_loss_is_that_of_the_definition_with_dropout_of_its_own_in_each_pass(
    cls, space, layer_norm
):
    """One transition, drawn again and again, and nothing moves: each step and row has dropout of its own."""
    changes = {"target_std": 0.0} if cls is adv.TD3 else {"alpha": 0.3}
    options = dict(n_steps=1, gradient_steps=2, gamma=0.5, learning_rate=0.0, critic_dropout=0.3)
    algorithm = tiny(cls, **options, tau=1e-9, layer_norm=layer_norm, **changes)
    state, rollout = one_transition(algorithm, space)
    key = jax.random.key(0)
    _, metrics = update(algorithm, state, rollout, key)
    losses = [loss_of(algorithm, state, rollout, jax.random.fold_in(key, i)) for i in range(2)]
    assert abs(losses[0] - losses[1]) > 1e-3, "the steps have different dropout"
    total, count = metrics["action_value_loss"]
    assert count == 2
    assert total == pytest.approx(sum(losses), rel=1e-4)


def test_each_critic_and_each_row_of_a_batch_has_dropout_of_its_own():
    algorithm = tiny(hidden=(40,), critic_dropout=0.5)
    q = regularised_critic(algorithm, begin(algorithm, CONTINUOUS).policy)
    (factors,) = draw_critic_dropout(algorithm, q, jax.random.key(0), (2, 4))
    rows = np.asarray(factors).reshape(8, 40)
    assert len(np.unique(rows, axis=0)) == 8
    assert draw_critic_dropout(tiny(), q, jax.random.key(0), (2, 4)) == ()


def test_the_policy_climbs_critics_with_dropout_of_its_own():
    """The first moment of Adam is a tenth of the gradient; other draws give another gradient."""
    algorithm = tiny(n_steps=1, gradient_steps=1, alpha=0.3, **BOTH)
    state, rollout = one_transition(algorithm, CONTINUOUS)
    new, _ = update(algorithm, state, rollout, jax.random.key(0))
    policy, q, critics = state.policy, regularised_critic(algorithm, state.policy), new.params["action_value"]
    key = jax.random.fold_in(jax.random.key(0), 0)
    noise = policy.head.noise(jax.random.split(key, 3)[2], (4,))
    x = jnp.repeat(rollout.obs[0], 4, 0)

    def loss(actor, number):
        dropout = draw_critic_dropout(algorithm, q, jax.random.fold_in(key, number), (2, 4))
        action, log_prob = policy.distribution(actor, x).sample_and_log_prob(noise)
        values = jax.vmap(q.value, (0, None, None, 0))(critics, x, action, dropout).min(0)
        return (0.3 * log_prob - values).mean()

    found = new.optimiser["actor"].mu
    right, of_target, of_critics = (jax.grad(loss)(state.params["actor"], number) for number in (5, 3, 4))
    for slope, mean in zip(jax.tree.leaves(right), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(mean, 0.1 * slope, rtol=2e-3, atol=1e-6)
    assert differs(right, of_target, 1e-3) and differs(right, of_critics, 1e-3)


def test_the_policy_of_td3_climbs_its_first_critic_with_dropout_of_its_own():
    algorithm = tiny(adv.TD3, n_steps=1, gradient_steps=1, policy_delay=1, **BOTH)
    state, rollout = one_transition(algorithm, CONTINUOUS)
    new, _ = update(algorithm, state, rollout, jax.random.key(0))
    policy, q = state.policy, regularised_critic(algorithm, state.policy)
    first, x = split_of(new.params["action_value"], 1)[0], jnp.repeat(rollout.obs[0], 4, 0)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 4)
    dropout = draw_critic_dropout(algorithm, q, key, (4,))

    def loss(actor):
        return -q.value(first, x, policy.distribution(actor, x).mode(), dropout).mean()

    slopes = jax.tree.leaves(jax.grad(loss)(state.params["actor"]))
    for slope, mean in zip(slopes, jax.tree.leaves(new.optimiser["actor"].mu), strict=True):
        np.testing.assert_allclose(mean, 0.1 * slope, rtol=2e-3, atol=1e-6)


def test_dropout_of_0_leaves_nothing_out():
    states = [
        learn(tiny(critic_dropout=rate), begin(tiny(critic_dropout=rate), CONTINUOUS), 2)[0][-1]
        for rate in (None, 0.0)
    ]
    assert not differs(states[0].params, states[1].params, 1e-5)


@pytest.mark.parametrize("cls", [adv.SAC, adv.TD3])
def test_the_policy_has_no_layer_normalisation_and_acts_without_dropout(cls):
    plain, regularised = (tiny(cls, **more) for more in ({}, BOTH))
    states = [begin(algorithm, CONTINUOUS) for algorithm in (plain, regularised)]
    same_bits(states[0].params["actor"], states[1].params["actor"])
    assert jax.tree.structure(states[0].params) != jax.tree.structure(states[1].params)
    same_bits(
        *(play(algorithm, state, 0) for algorithm, state in zip((plain, regularised), states, strict=True))
    )
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    same_bits(
        *(
            algorithm.greedy(algorithm.actor(state), obs, algorithm.initial_memory(algorithm.actor(state)))[0]
            for algorithm, state in zip((plain, regularised), states, strict=True)
        )
    )


# What cannot be, and what users give


IMAGES = spaces.Box(0, 255, (8, 8, 3), np.uint8)
OWN = (lambda key, x: jnp.zeros((x.shape[-1], 4)), lambda params, x: x @ params)


@pytest.mark.parametrize("options", [{"layer_norm": True}, {"critic_dropout": 0.1}], ids=["norm", "dropout"])
@pytest.mark.parametrize("cls", [adv.SAC, adv.TD3])
@pytest.mark.parametrize(
    ("changes", "space", "complaint"),
    [
        ({"network": OWN}, OBS, r"this run has a network of your own \(Custom\)"),
        (
            {},
            IMAGES,
            "convolutions, because its observations have images; leave out layer_norm and critic_dr",
        ),
        ({"hidden": ()}, OBS, r"for fully connected hidden layers.*has none, because hidden=\(\)"),
        ({"network": "gru"}, OBS, "A recurrent network"),
    ],
    ids=["own", "images", "none", "gru"],
)
def test_a_network_without_our_hidden_layers_is_refused(cls, changes, space, complaint, options):
    algorithm = tiny(cls, **changes, **options)
    with pytest.raises(ValueError, match=complaint):
        algorithm.init(
            jax.random.key(0), spec_of(algorithm, space, CONTINUOUS, num_envs=1, total_timesteps=80)
        )


@pytest.mark.parametrize("wrong", [1.0, -0.1, np.nan])
def test_a_dropout_that_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match=r"critic_dropout=.*not allowed"):
        tiny(critic_dropout=wrong)


def test_layers_that_a_user_gives_are_normalised_in_critics_only():
    algorithm = tiny(network=adv.MLP((5,), "tanh"), layer_norm=True)
    params = begin(algorithm, CONTINUOUS).params
    assert [sorted(layer) for layer in params["action_value"]["network"]] == [
        ["bias", "offset", "scale", "weight"]
    ]
    assert [sorted(layer) for layer in params["actor"]["network"]] == [["bias", "weight"]]


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_runs_from_before_these_options_have_none(name):
    algorithm = {"sac": adv.SAC, "td3": adv.TD3}[name](hidden=(8,))
    values = json.loads(json.dumps(to_json(algorithm)))
    assert values.pop("layer_norm") is False and values.pop("critic_dropout") is None
    assert from_json(name, values) == algorithm


# Whole runs


@pytest.mark.parametrize("cls", [adv.SAC, adv.TD3])
def test_seeds_side_by_side_are_each_alone(cls):
    seeds_side_by_side_are_each_alone(tiny(cls, **BOTH), CONTINUOUS)


def test_both_drivers_and_every_seed_learn_the_same(tmp_path):
    both_drivers_and_every_seed_learn_the_same(tiny(learning_rate=1e-2, **BOTH), tmp_path)


@pytest.mark.parametrize("environment", [on_host, WORLD], ids=["host", "device"])
def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, environment):
    a_stopped_run_goes_on_bit_for_bit(tiny(**BOTH), environment, tmp_path)


def test_a_run_with_many_gradient_steps_is_loaded_and_evaluated(tmp_path):
    algorithm = tiny(gradient_steps=20, n_steps=1, **BOTH)
    options = {"total_timesteps": 24, "num_envs": 2, "tensorboard": False, "eval_episodes": 2}
    run = adv.train(algorithm, WORLD, out=tmp_path / "run", **options)
    assert run.agent.state.gradient_steps == 24 * 20
    loaded = adv.load(run.path)
    assert to_json(loaded.algorithm) == to_json(algorithm)
    same_bits(loaded.state.params, run.agent.state.params)
    again = [adv.evaluate(run.path, episodes=2, environment=WORLD).mean for _ in range(2)]
    assert again[0] == again[1] == run.evaluation.mean


@functools.cache
def plain_course(cls):
    return learn(tiny(cls), begin(tiny(cls), CONTINUOUS), 2)[0][-1]


@pytest.mark.parametrize("options", [{"layer_norm": True}, {"critic_dropout": 0.3}], ids=["norm", "dropout"])
@pytest.mark.parametrize("cls", [adv.SAC, adv.TD3])
def test_each_option_moves_the_policy(cls, options):
    algorithm = tiny(cls, **options)
    state = learn(algorithm, begin(algorithm, CONTINUOUS), 2)[0][-1]
    assert differs(state.params["actor"], plain_course(cls).params["actor"], 1e-5)
