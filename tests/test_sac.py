"""Soft actor-critic: its targets and losses against definitions, the promises, and what it learns."""

import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_learners import (
    CONTINUOUS,
    DISCRETE,
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
from advantage.algorithms.registry import spec_of
from advantage.algorithms.value.sac import SAC
from advantage.algorithms.value.shared.entropy import entropy_aim, lowest_value
from advantage.policies.action_value import action_value
from advantage.policies.distributions import SquashedGaussian
from advantage.theory.soft_values import soft_value_iteration
from advantage.training import reporting
from advantage.types import Rollout

BASE = dict(
    n_steps=4, hidden=(8,), gradient_steps=3, batch_size=4, buffer_size=64, learning_starts=0, tau=0.1
)


def tiny(**changes):
    return SAC(**{**BASE, "learning_rate": 3e-3, **changes})


@functools.cache
def course(algorithm, box=True, updates=3):
    """The state after some updates, and what they reported."""
    states, _, reports = learn(algorithm, begin(algorithm, CONTINUOUS if box else DISCRETE), updates)
    return states[-1], reports


def test_a_sample_comes_with_its_log_probability():
    rng = np.random.default_rng(0)
    mean, log_std, noise = rng.normal(size=(3, 500, 2)).astype(np.float32)
    low, high = np.float32([-1, 0]), np.float32([1, 3])
    distribution = SquashedGaussian(jnp.asarray(mean), jnp.asarray(log_std), low, high)
    action, log_prob = distribution.sample_and_log_prob(jnp.asarray(noise))
    np.testing.assert_array_equal(action, distribution.sample(jnp.asarray(noise)))
    inside = (abs(2 * (np.asarray(action) - low) / (high - low) - 1) < 0.999).all(-1)
    assert inside.mean() > 0.8
    np.testing.assert_allclose(log_prob[inside], distribution.log_prob(action)[inside], rtol=1e-3, atol=1e-3)


def test_the_value_of_discrete_actions_is_an_expectation_and_of_others_a_sample():
    for box in (False, True):
        state = begin(tiny(), CONTINUOUS if box else DISCRETE)
        policy, q, critics = state.policy, action_value(state.policy), state.params["action_value"]
        x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
        distribution = policy.distribution(state.params["actor"], x)
        noise = policy.head.noise(jax.random.key(0), (5,))
        value, log_prob = lowest_value(q, critics, x, distribution, noise)
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], critics) for i in (0, 1)]
        if box:
            action = distribution.sample(noise)
            expected = np.minimum(*(q.value(critic, x, action) for critic in each))
            np.testing.assert_allclose(log_prob, distribution.log_prob(action), rtol=1e-4)
        else:
            p = jax.nn.softmax(distribution.logits)
            expected = (p * np.minimum(*(q.all(critic, x) for critic in each))).sum(-1)
            np.testing.assert_allclose(log_prob, (p * jnp.log(p)).sum(-1), rtol=1e-4)
        np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("terminated", [True, False])
def test_the_critics_loss_is_that_of_the_definition(terminated):
    """One transition in the buffer, which the clock may have cut: it bootstraps unless it terminated."""
    algorithm = tiny(n_steps=1, gradient_steps=1, gamma=0.5, alpha=0.3, learning_rate=0.0, tau=1.0)
    state, rng = begin(algorithm, DISCRETE, num_envs=1), np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, 1, 1, 3)).astype(np.float32)
    flags = np.array([[terminated]]), np.array([[not terminated]])
    rollout = Rollout(obs, np.int32([[2]]), np.float32([[1.7]]), next_obs, *flags)
    _, metrics = update(algorithm, state, rollout, jax.random.key(0))
    q, critics = action_value(state.policy), state.params["action_value"]
    logits = np.asarray(state.policy.distribution(state.params["actor"], next_obs[0, 0]).logits, np.float64)
    p = np.exp(logits) / np.exp(logits).sum()
    all_next, here = (
        np.asarray(jax.vmap(q.all, (0, None))(critics, x[0, 0]), np.float64) for x in (next_obs, obs)
    )
    soft = p @ all_next.min(0) - 0.3 * p @ np.log(p)
    y = 1.7 + (0.0 if terminated else 0.5 * soft)
    total, count = metrics["action_value_loss"]
    assert total / count == pytest.approx(((here[:, 2] - y) ** 2 / 2).mean(), rel=1e-3)


@pytest.mark.parametrize("box", [False, True])
def test_the_actor_descends_the_definition_of_its_loss(box):
    """One transition in the buffer: the gradient is that of `alpha log pi - min Q`, and the step goes against it."""
    algorithm = tiny(n_steps=1, gradient_steps=1, alpha=0.3, learning_rate=1e-3)
    state = begin(algorithm, CONTINUOUS if box else DISCRETE, num_envs=1)
    new, _ = update(algorithm, state, play(algorithm, state, 0), jax.random.key(0))
    policy, q, critics = state.policy, action_value(state.policy), new.params["action_value"]
    x = policy.encoder.policy_input(jnp.repeat(new.replay.obs[0], algorithm.batch_size, 0), None)
    noise = policy.head.noise(jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 3)[2], (4,))

    def loss(actor):
        distribution = policy.distribution(actor, x)
        if box:
            action, log_prob = distribution.sample_and_log_prob(noise)
            values = jax.vmap(q.value, (0, None, None))(critics, x, action).min(0)
            return (0.3 * log_prob - values).mean()
        log_p = jax.nn.log_softmax(distribution.logits)
        values = jax.vmap(q.all, (0, None))(critics, x).min(0)
        return (jnp.exp(log_p) * (0.3 * log_p - values)).sum(-1).mean()

    before = state.params["actor"]
    gradient = jax.grad(loss)(before)
    moved = jax.tree.map(
        lambda old, now, slope: ((now - old) * slope).sum(), before, new.params["actor"], gradient
    )
    assert all(float(leaf) < 0 for leaf in jax.tree.leaves(moved) if leaf), "against the slope"
    for slope, mean in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(new.optimiser["actor"].mu), strict=True
    ):
        np.testing.assert_allclose(mean, 0.1 * slope, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(("aim", "rises"), [(-50.0, False), (50.0, True)])
def test_the_temperature_follows_the_entropy(aim, rises):
    state, _ = course(tiny(target_entropy=aim))
    assert (float(state.params["log_alpha"]) > 0) == rises


@pytest.mark.parametrize("bounds", ["squash", "clip", "none"])
def test_the_aim_of_one_policy_is_as_near_in_any_units(bounds):
    """Its exact entropy, of actions in units of their bounds and in raw ones; the last two numbers have no bounds."""
    low, high = np.float32([-5, 2, 0, -np.inf]), np.float32([5, 2.5, np.inf, np.inf])
    if bounds == "squash":
        low, high = low[:2], high[:2]
    space, gaps = spaces.Box(low, high), []
    half = np.where(np.isfinite(high - low), (high - low) / 2, 1)
    mean, log_std = np.float32([[0.3, -0.2, 0.1, 0.5][: len(low)], [-0.5, 0.1, 0.2, 0.0][: len(low)]])
    for units in ("bounds", "raw"):
        agent = tiny(action_bounds=bounds, action_units=units, action_spread="state-independent")
        seen = spaces.Box(-1, 1, (3,), np.float32)
        state = agent.init(jax.random.key(0), spec_of(agent, seen, space, num_envs=2, total_timesteps=100))
        is_raw = units == "raw" or bounds == "none"
        spread = log_std + np.log(half) * (is_raw and bounds != "squash")
        policy = state.policy.head.distribution(mean, spread.astype(np.float32))
        gaps.append(float(policy.entropy()) - entropy_aim(agent, state))
        if not is_raw:
            assert entropy_aim(agent, state) == -len(low)
    np.testing.assert_allclose(gaps[0], gaps[1], rtol=1e-5)


def test_a_given_temperature_stays():
    state, reports = course(tiny(alpha=0.25))
    assert float(state.params["log_alpha"]) == 0
    assert reports[-1]["alpha"] == pytest.approx(0.25)


def test_the_actor_climbs_the_critics_of_this_step_and_not_those_before():
    """One gradient step: were the actor's critics the old ones, their new target would not move it."""
    changed = []
    for reward in (0.0, 100.0):
        algorithm = tiny(gradient_steps=1, n_steps=1, learning_rate=0.05)
        state = begin(algorithm, CONTINUOUS)
        rollout = play(algorithm, state, 0)._replace(reward=np.full((1, 2), reward, np.float32))
        changed.append(update(algorithm, state, rollout, jax.random.key(0))[0].params["actor"])
    assert differs(*changed)


def test_at_a_fixed_temperature_q_and_policy_are_those_of_the_soft_bellman_equation():
    """Linear networks of one-hot states are tables, and the buffer has every state and action of the world once."""
    rng, running, actions, alpha = np.random.default_rng(0), 4, 3, 0.5
    transition = np.zeros((running + 1, actions, running + 1))
    for place in np.ndindex(running, actions):
        transition[(*place, rng.integers(running + 1))] = 1
    transition[running, :, running] = 1
    reward = rng.normal(size=(running + 1, actions)) * (np.arange(running + 1) < running)[:, None]
    mdp = adv.MDP(transition, reward, terminal=np.arange(running + 1) == running, gamma=0.8)
    _, q, policy = soft_value_iteration(mdp, alpha)

    algorithm = tiny(
        hidden=(), alpha=alpha, gamma=0.8, n_steps=12, gradient_steps=4000, batch_size=32, learning_rate=1e-2
    )
    spec = spec_of(algorithm, spaces.Discrete(5), spaces.Discrete(actions), num_envs=1, total_timesteps=12)
    obs, action = (x.ravel()[:, None] for x in np.indices((running, actions)).astype(np.int32))
    following = transition.argmax(2)[obs, action].astype(np.int32)
    ends = following == running
    rollout = Rollout(obs, action, np.float32(reward[obs, action]), following, ends, ~ends)
    state, _ = update(algorithm, algorithm.init(jax.random.key(0), spec), rollout, jax.random.key(1))
    x = state.policy.encoder.policy_input(np.arange(running))
    learned = jax.vmap(action_value(state.policy).all, (0, None))(state.params["action_value"], x)
    np.testing.assert_allclose(learned, np.stack([q[:running]] * 2), atol=2e-3)
    logits = state.policy.distribution(state.params["actor"], x).logits
    np.testing.assert_allclose(jax.nn.softmax(logits), policy[:running], atol=2e-3)


def test_promise_8_updates_per_transition_do_not_depend_on_the_number_of_environments():
    counts = []
    for num_envs in (1, 4):
        state = begin(tiny(), CONTINUOUS, num_envs=num_envs)
        _, metrics = update(tiny(), state, play(tiny(), state, 0), jax.random.key(0))
        counts.append(float(metrics["gradient_steps"]))
    assert counts == [3, 12], "three for each four transitions"


def test_nothing_is_learned_before_learning_starts():
    algorithm = tiny(learning_starts=24)
    state, _ = course(algorithm, updates=2)
    first = begin(algorithm, CONTINUOUS)
    same_bits((state.params, state.target), (first.params, first.target))
    state, _ = course(algorithm, updates=3)
    assert differs(state.params, first.params)


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
    alpha=0.1,
    target_entropy=3.0,
    normalize_observation=True,
    normalize_reward=True,
    noise_correlation=0.9,
)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_learning_makes_a_difference(name):
    assert differs(course(tiny(**{name: OPTIONS[name]}))[0].params, course(tiny())[0].params, 1e-6)


def test_actions_that_have_no_form_are_refused():
    several = spaces.MultiDiscrete([2, 3])
    with pytest.raises(ValueError, match=r"SAC needs Discrete actions or a Box of floats.*use PPO"):
        begin(tiny(), several)
    unbounded = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(ValueError, match="needs finite bounds"):
        begin(tiny(), unbounded)


def test_correlated_noise_is_standard_normal_in_each_step_and_begins_anew_with_an_episode():
    """Over many environments: means, variances and correlations of the noise that actions are made of."""
    rho, count = 0.8, 20_000
    algorithm = tiny(noise_correlation=rho)
    state = begin(algorithm, CONTINUOUS)
    actor = algorithm.actor(state)
    obs = jax.tree.map(lambda x: np.broadcast_to(x, (count, *x.shape[1:])), state.policy.encoder.example())
    drawn = np.asarray(algorithm.noise(actor, jax.random.key(0), (4, count)))
    first = algorithm.initial_memory(actor)
    memory = jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))), first)
    used, actions = [], []
    for t in range(4):
        if t == 3:  # every second episode ends
            ends = np.arange(count) % 2 == 0
            memory = type(memory)(
                np.where(ends, False, memory.acted), np.where(ends[:, None], 0, memory.noise)
            )
        action, memory, _ = algorithm.act(actor, obs, memory, drawn[t])
        used.append(np.asarray(memory.noise))
        actions.append(action)
    e = np.stack(used)
    np.testing.assert_array_equal(e[0], drawn[0])
    np.testing.assert_allclose(e.mean(1), 0, atol=0.04)
    np.testing.assert_allclose(e.std(1), 1, atol=0.03)
    np.testing.assert_allclose((e[0] * e[1]).mean(0), rho, atol=0.04)
    np.testing.assert_allclose((e[0] * e[2]).mean(0), rho**2, atol=0.04)
    np.testing.assert_array_equal(e[3][::2], drawn[3][::2])
    np.testing.assert_allclose((e[2] * e[3])[1::2].mean(0), rho, atol=0.04)
    expected = [actor.distribution(obs).sample(each) for each in e]
    np.testing.assert_allclose(actions, expected, rtol=1e-6)
    np.testing.assert_array_equal(algorithm.greedy(actor, obs, memory)[0], actor.distribution(obs).mode())


def test_a_run_with_correlated_noise_goes_on_in_the_middle_of_an_episode(tmp_path):
    algorithm = tiny(noise_correlation=0.9, normalize_observation=False)
    a_stopped_run_goes_on_bit_for_bit(algorithm, lambda: gymnasium.make("Pendulum-v1"), tmp_path)


def test_correlated_noise_needs_continuous_actions():
    with pytest.raises(ValueError, match=r"noise_correlation is that of Gaussian noise.*leave it out"):
        begin(tiny(noise_correlation=0.9))


def test_seeds_side_by_side_are_each_alone():
    seeds_side_by_side_are_each_alone(tiny(), CONTINUOUS)


def test_both_drivers_and_every_seed_learn_the_same(tmp_path):
    both_drivers_and_every_seed_learn_the_same(tiny(learning_rate=1e-2), tmp_path)


@pytest.mark.parametrize("environment", [on_host, WORLD], ids=["host", "device"])
def test_a_stopped_run_goes_on_to_the_same_numbers_its_buffer_included(tmp_path, environment):
    a_stopped_run_goes_on_bit_for_bit(tiny(), environment, tmp_path)


class Listener(reporting.Silent):
    """Keeps the messages of a run."""

    def __init__(self, said: list[str]):
        self.said = said

    def message(self, text: str) -> None:
        self.said.append(text)


def test_a_buffer_that_is_not_kept_begins_empty(tmp_path):
    """The checkpoints are small, what acts is the same, and learning waits until the buffer has filled again."""
    options = dict(num_envs=2, tensorboard=False, eval_episodes=0)
    algorithm = tiny(learning_starts=16, buffer_size=4096)
    kept = adv.train(algorithm, WORLD, total_timesteps=32, out=tmp_path / "kept", **options)
    left = adv.train(
        algorithm, WORLD, total_timesteps=32, out=tmp_path / "left", keep_replay=False, **options
    )
    sizes = [
        (tmp_path / name / "last" / "state.safetensors").resolve().stat().st_size for name in ("kept", "left")
    ]
    assert sizes[1] < sizes[0] / 2
    loaded = adv.load(tmp_path / "left").state
    same_bits(loaded.params, kept.agent.state.params)
    assert loaded.replay.stored == 0 and loaded.replay.reward.shape == kept.agent.state.replay.reward.shape
    said = []
    resumed = adv.resume(
        tmp_path / "left", environment=WORLD, total_timesteps=40, reporter=Listener(said)
    ).agent.state
    assert any("begins empty" in line for line in said)
    same_bits(resumed.params, left.agent.state.params)


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "score"), [("jax/Pendulum-v1", -170.0), ("jax/CartPole-v1", 475.0)])
def test_it_learns(tmp_path, environment, score):
    chosen = adv.preset("sac", environment)
    options = chosen.options | {"eval_episodes": 50, "tensorboard": False}
    assert adv.train(chosen.algorithm, environment, out=tmp_path / "run", **options).evaluation.mean > score
