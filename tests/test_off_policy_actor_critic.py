"""Off-policy actor-critic: its target and gradients against definitions, the promises, and the ring in its state."""

import dataclasses
import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from jax.flatten_util import ravel_pytree
from probe_drivers import OnHost, Spiral
from probe_learners import (
    CONTINUOUS,
    DISCRETE,
    NUM_ENVS,
    OBS,
    begin,
    differs,
    learn,
    play,
    same_bits,
    seeds_side_by_side_are_each_alone,
    update,
)
from probe_runs import stop_at

import advantage as adv
from advantage.algorithms.policy_gradient.off_policy_actor_critic import (
    OffPolicyActorCritic,
    pathwise_form,
    score_form,
)
from advantage.algorithms.policy_gradient.shared.acting import policy_actor
from advantage.algorithms.policy_gradient.shared.replayed_critic import Learned, repeat, replayed_batch
from advantage.policies.action_value import action_value
from advantage.replay.ring import replay_add, transitions_at
from advantage.training import results
from advantage.types import Rollout, Spec

BASE = dict(
    n_steps=4,
    hidden=(8,),
    gradient_steps=3,
    batch_size=4,
    buffer_size=11,
    learning_starts=0,
    learning_rate=3e-3,
    critic_learning_rate=3e-3,
    action_samples=3,
    max_grad_norm=1e9,
    normalize_reward=True,
    ent_coef=0.03,
)


def tiny(**changes):
    return OffPolicyActorCritic(**{**BASE, **changes})


@functools.cache
def course(algorithm, box=True, updates=3):
    """The state after some updates, and what they reported."""
    states, _, reports = learn(algorithm, begin(algorithm, CONTINUOUS if box else DISCRETE), updates)
    return states[-1], reports


# --- the critic ---------------------------------------------------------------------------------------------


def test_a_batch_is_rows_as_they_came_seen_through_the_statistics_of_now():
    algorithm = tiny(clip_reward=1.5, gamma=0.9)
    state, _ = course(algorithm, updates=2)
    state = jax.device_get(state)
    draw = jax.jit(replayed_batch, static_argnames="size")
    batch = draw(algorithm, state, state.replay, jax.random.key(0), size=4)
    rows = jax.device_get(transitions_at(state.replay, np.arange(state.replay.stored), gamma=0.9))
    moments = state.observations
    scaled = (rows.obs - moments.mean.value) / np.sqrt(moments.variance.value + 1e-8)
    next_scaled = (rows.next_obs - moments.mean.value) / np.sqrt(moments.variance.value + 1e-8)
    assert rows.obs.mean() > 2, "the ring holds what was seen, not what was made of it"
    deviation = np.sqrt(state.rewards.moments.variance.value + 1e-8)
    for i in range(4):
        (row,) = np.flatnonzero((rows.action == batch.action[i]).all(1))
        np.testing.assert_allclose(batch.x[i], np.clip(scaled[row], -10, 10), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(batch.next_x[i], np.clip(next_scaled[row], -10, 10), rtol=1e-4, atol=1e-5)
        assert batch.reward[i] == pytest.approx(np.clip(rows.reward[row] / deviation, -1.5, 1.5), rel=1e-5)
        assert batch.discount[i] == pytest.approx(rows.discount[row])


# Two environments that agree fill a ring of two rows: every batch is one transition.
ALONE = tiny(
    gamma=0.5,
    normalize_observation=False,
    normalize_reward=False,
    n_steps=1,
    gradient_steps=1,
    buffer_size=2,
    critic_learning_rate=0.02,
    learning_rate=0.0,
    tau=0.2,
)


def alone(obs, action, reward, next_obs, terminated):
    both = (
        np.stack([leaf] * NUM_ENVS)[None]
        for leaf in (obs, action, reward, next_obs, terminated, not terminated)
    )
    return Rollout(*both)


@pytest.mark.parametrize("terminated", [True, False])
def test_the_critics_loss_is_that_of_the_definition(terminated):
    """The expectation over a' is a sum; a step that the clock ended bootstraps."""
    algorithm = dataclasses.replace(ALONE, critic_learning_rate=0.0, tau=1e-9)
    state, rng = begin(algorithm, DISCRETE), np.random.default_rng(0)
    state = dataclasses.replace(state, target=jax.tree.map(lambda leaf: leaf + 0.3, state.target))
    head = state.params["actor"]["head"]
    head["weight"] = 300 * head["weight"]  # a policy that is not the same everywhere
    obs, next_obs = rng.normal(size=(2, 3)).astype(np.float32)
    rollout = alone(obs, np.int32(2), np.float32(1.7), next_obs, terminated)
    _, metrics = update(algorithm, state, rollout, jax.random.key(0))
    q, params = action_value(state.policy), state.params
    logits = np.asarray(state.policy.distribution(params["actor"], next_obs).logits, np.float64)
    p, following = np.exp(logits) / np.exp(logits).sum(), q.all(state.target, next_obs)
    y = 1.7 + (0.0 if terminated else 0.5 * float(p @ np.asarray(following, np.float64)))
    value = float(q.all(params["action_value"], obs)[2])
    total, count = metrics["action_value_loss"]
    assert total / count == pytest.approx((value - y) ** 2 / 2, rel=1e-3)


@pytest.mark.parametrize(("terminated", "worth"), [(True, 1.0), (False, 2.0)])
def test_promise_1_a_truncated_step_bootstraps_and_a_terminated_one_does_not(terminated, worth):
    """A step that earns 1 and leads back is worth 1 where it ends, 1 / (1 - gamma) where only the clock does."""
    state, obs = begin(ALONE, DISCRETE), np.ones(3, np.float32)
    bias = jnp.array([0.0, 30.0, 0.0])  # the policy never leaves action 1
    state.params["actor"]["head"] = {"weight": 0 * state.params["actor"]["head"]["weight"], "bias": bias}
    rollout = alone(obs, np.int32(1), np.float32(1), obs, terminated)
    for i in range(200):
        state, _ = update(ALONE, state, rollout, jax.random.key(i))
    value = action_value(state.policy).all(state.params["action_value"], obs)[1]
    assert float(value) == pytest.approx(worth, abs=0.05)


def test_the_target_follows_slowly():
    before = begin(tiny(), CONTINUOUS)
    still, _ = update(tiny(tau=1e-6), before, play(tiny(), before, 0), jax.random.key(0))
    at_once, _ = update(tiny(tau=1.0), before, play(tiny(), before, 0), jax.random.key(0))
    np.testing.assert_allclose(ravel_pytree(still.target)[0], ravel_pytree(before.target)[0], atol=1e-5)
    same_bits(at_once.target, at_once.params["action_value"])
    assert differs(at_once.target, before.target)


def test_every_gradient_step_has_its_own_key():
    def step(learned, key):
        """Writes the key into the row of the step."""
        row = learned.optimiser
        return Learned(learned.params.at[row].set(jax.random.key_data(key)), row + 1, ()), {"row": row}

    before = Learned(jnp.zeros((6, 2), jnp.uint32), jnp.int32(0), ())
    learned, metrics = jax.jit(repeat, static_argnums=0)(step, before, jnp.int32(6), jax.random.key(0))
    assert len(np.unique(learned.params, axis=0)) == 6
    assert (metrics["row"].total, metrics["row"].count) == (15, 6)


def test_actor_and_critic_learn_from_each_other_as_they_are_now():
    """In one step the actor climbs the critic that has just learned; in the next the critic asks the new actor."""

    def learned(num_envs, **changes):
        algorithm = tiny(**changes)
        state = begin(algorithm, CONTINUOUS, num_envs=num_envs)
        new, metrics = update(algorithm, state, play(algorithm, state, 0), jax.random.key(0))
        return new.params["action_value"], metrics["policy_gradient_loss"].total

    once = {"gradient_steps": 1, "learning_rate": 0.0, "hidden": ()}
    assert learned(1, critic_learning_rate=0.1, **once)[1] != learned(1, critic_learning_rate=0.0, **once)[1]
    assert differs(learned(NUM_ENVS, learning_rate=0.3)[0], learned(NUM_ENVS, learning_rate=0.0)[0])


# --- the actor ----------------------------------------------------------------------------------------------


@functools.cache
def gradients(form, box, samples=20_000):
    """The mean over many draws of what a form gives in two states, and its standard error; beside pi and Q."""
    state = jax.device_get(begin(tiny(), CONTINUOUS if box else DISCRETE))
    policy, x = state.policy, np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    start, unflatten = ravel_pytree(state.params["actor"])
    critic = state.params["action_value"]

    def gain(actor, key):
        noise = policy.head.noise(key, (3, len(x)))
        return form(policy, policy.distribution(unflatten(actor), x), critic, x, noise)

    each = jax.jit(jax.vmap(jax.grad(gain), (None, 0)))(start, jax.random.split(jax.random.key(1), samples))
    each = np.asarray(each, np.float64)
    return each.mean(0), each.std(0) / np.sqrt(samples), (state, x)


def test_the_score_form_of_discrete_actions_is_the_gradient_of_the_expected_value():
    mean, error, (state, x) = gradients(score_form, False)
    start, unflatten = ravel_pytree(state.params["actor"])

    def expected(actor):
        p = jax.nn.softmax(state.policy.distribution(unflatten(actor), x).logits)
        return (p * action_value(state.policy).all(state.params["action_value"], x)).sum(-1).mean()

    exact = jax.jit(jax.grad(expected))(start)
    assert (np.abs(mean - exact) < 4 * error + 1e-6).all()
    assert np.abs(exact).max() > 10 * error.max()


def test_both_forms_have_the_same_mean_and_the_pathwise_one_less_variance():
    by_score, score_error, _ = gradients(score_form, True)
    by_path, path_error, _ = gradients(pathwise_form, True)
    assert (np.abs(by_score - by_path) < 4.5 * np.hypot(score_error, path_error) + 1e-6).all()
    assert np.abs(by_path).max() > 10 * score_error.max()
    assert np.square(path_error).sum() < 0.5 * np.square(score_error).sum()


@pytest.mark.slow
def test_actions_of_every_kind_have_a_score_form():
    space = spaces.Tuple((DISCRETE, CONTINUOUS, spaces.MultiBinary(2)))
    algorithm = tiny()
    state = jax.jit(lambda key: algorithm.init(key, Spec(OBS, space, NUM_ENVS, 160)))(jax.random.key(0))
    learned, metrics = update(algorithm, state, play(algorithm, state, 0), jax.random.key(0))
    assert differs(learned.params["actor"], state.params["actor"])
    assert all(np.isfinite(value).all() for value in metrics.values())


@pytest.mark.parametrize(
    "space", [DISCRETE, spaces.MultiBinary(2), spaces.Tuple((CONTINUOUS, DISCRETE))], ids=str
)
def test_promise_5_a_pathwise_gradient_needs_continuous_actions(space):
    with pytest.raises(
        ValueError, match=r"gradient='pathwise' needs continuous actions, .* use gradient='score'"
    ) as e:
        tiny(gradient="pathwise").init(jax.random.key(0), Spec(OBS, space))
    assert str(space) in str(e.value)


def test_a_bonus_for_entropy_raises_it():
    _, reports = course(tiny(ent_coef=20.0, learning_rate=3e-2))
    assert reports[-1]["entropy"] > reports[0]["entropy"] + 0.1


# --- when it learns, and how often --------------------------------------------------------------------------


def test_nothing_is_learned_before_learning_starts():
    algorithm = tiny(learning_starts=24)
    state, reports = course(algorithm, updates=2)
    first = begin(algorithm, CONTINUOUS)
    same_bits(
        (state.params, state.optimiser, state.target),
        (first.params, first.optimiser, first.target),
    )
    assert (int(state.clock.step), int(state.replay.stored)) == (16, 10)
    state, metrics = update(algorithm, state, play(algorithm, state, 2), jax.random.key(2))
    assert [report["gradient_steps"] for report in (*reports, metrics)] == [0, 0, 6]
    assert differs(state.params, first.params)


def test_promise_8_updates_per_transition_do_not_depend_on_the_number_of_environments():
    counts = []
    for num_envs, steps in ((1, 4), (2, 4)):
        state = begin(tiny(), CONTINUOUS, num_envs=num_envs)
        rollout = play(tiny(), state, 0, steps)
        new, metrics = update(tiny(), state, rollout, jax.random.key(0))
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
        counts.append(float(metrics["gradient_steps"]))
    assert counts == [3, 6], "three for each four transitions"


def test_the_ring_holds_what_the_rollouts_brought():
    algorithm = tiny()
    state, replay = begin(algorithm, CONTINUOUS), begin(algorithm, CONTINUOUS).replay
    for i in range(3):
        rollout = play(algorithm, state, i)
        replay = jax.jit(replay_add)(replay, rollout)
        state, _ = update(algorithm, state, rollout, jax.random.key(i))
    same_bits(state.replay, replay)


def test_pixels_are_kept_as_bytes():
    space = spaces.Box(0, 255, (16, 16, 1), np.uint8)
    state = jax.eval_shape(lambda key: tiny().init(key, Spec(space, DISCRETE)), jax.random.key(0))
    obs, finals = state.replay.obs, state.replay.finals
    assert (obs.dtype, obs.shape) == (np.uint8, (11, 1, 16, 16, 1))
    assert finals.dtype == np.uint8


def test_a_ring_that_does_not_fit_is_refused_before_training():
    with pytest.raises(
        ValueError, match=r"replay buffer of 1_000_000_000_000 transitions of 30 bytes each takes"
    ):
        tiny(buffer_size=10**12).init(jax.random.key(0), Spec(OBS, CONTINUOUS))


OPTIONS = dict(
    gradient="pathwise",
    learning_rate=1e-2,
    critic_learning_rate=1e-2,
    gradient_steps=2,
    batch_size=5,
    buffer_size=9,
    learning_starts=24,
    tau=0.5,
    action_samples=4,
    ent_coef=0.5,
    max_grad_norm=1e-8,
    gamma=0.5,
    normalize_observation=False,
    clip_observation=0.5,
    normalize_reward=False,
    clip_reward=0.5,
)
STATIC = {
    "normalize_reward",
    "batch_size",
    "buffer_size",
    "gradient_steps",
    "action_samples",
    "normalize_observation",
}


@functools.cache
def reference():
    return course(tiny())[0].params


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in STATIC)) for name in OPTIONS]
)
def test_every_option_of_learning_makes_a_difference(name):
    assert differs(course(tiny(**{name: OPTIONS[name]}))[0].params, reference(), 1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gradient", "scores"),
        ("tau", 0.0),
        ("buffer_size", 0),
        ("learning_starts", -1),
        ("gradient_steps", 0),
        ("action_samples", 0),
        ("batch_size", 1.5),
    ],
)
def test_a_wrong_option_is_named(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value!r} is not allowed"):
        tiny(**{name: value})


def test_seeds_side_by_side_are_each_alone():
    seeds_side_by_side_are_each_alone(tiny(), CONTINUOUS)


# --- whole runs ---------------------------------------------------------------------------------------------

RUN = tiny(n_steps=8, learning_starts=30, buffer_size=50)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(results, "plot_curve", lambda folder: None)


def on_host() -> gymnasium.Env:
    return OnHost(Spiral())


def train(environment, path, **options):
    options = {"total_timesteps": 96, "eval_episodes": 0, "tensorboard": False, "workers": 0} | options
    return adv.train(RUN, environment, out=path, num_envs=2, **options)


def test_promise_2_host_and_device_learn_the_same(tmp_path):
    host, device = train(on_host, tmp_path / "host"), train(Spiral(), tmp_path / "device")
    here, there = host.agent.state, device.agent.state
    for a, b in zip(
        jax.tree.leaves((here.target, here.replay)),
        jax.tree.leaves((there.target, there.replay)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        ravel_pytree(here.params)[0], ravel_pytree(there.params)[0], rtol=1e-3, atol=1e-4
    )
    assert int(here.replay.stored) == 50


@pytest.mark.parametrize("environment", [on_host, Spiral()], ids=["host", "device"])
def test_promise_11_a_stopped_run_goes_on_to_the_same_numbers_its_ring_included(tmp_path, environment):
    train(environment, tmp_path / "whole", checkpoint_every=48)
    train(environment, tmp_path / "part", checkpoint_every=48, callback=stop_at(3))
    assert adv.load(tmp_path / "part").step < 96
    adv.resume(tmp_path / "part", environment=environment)
    files = [tmp_path / name / "last" / "state.safetensors" for name in ("whole", "part")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert policy_actor(RUN, adv.load(tmp_path / "part").state).params is not None


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "score"), [("jax/Pendulum-v1", -250.0), ("jax/CartPole-v1", 300.0)])
def test_it_learns(tmp_path, environment, score):
    options = {"total_timesteps": 40_000, "eval_episodes": 20, "tensorboard": False}
    run = adv.train(OffPolicyActorCritic(), environment, out=tmp_path / "run", **options)
    assert run.evaluation.mean > score
