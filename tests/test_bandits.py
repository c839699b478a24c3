"""Bandit methods: against definitions in float64, exact probabilities, published figures, and runs."""

import dataclasses
import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_runs import stop_at
from scipy import integrate, stats

import advantage as adv
from advantage.algorithms.bandits.thompson import Beta, Normal
from advantage.algorithms.registry import algorithm_name, from_json, to_json
from advantage.drivers.device import DeviceDriver
from advantage.environments.worlds.testbed import Testbed, TestbedEnv
from advantage.types import Rollout, Span, Spec

A = 4
ONE_STATE = gymnasium.spaces.Discrete(1)
SPEC = Spec(ONE_STATE, gymnasium.spaces.Discrete(A), 1, 150)
ALL = [
    adv.EpsilonGreedyBandit(),
    adv.EpsilonGreedyBandit(learning_rate=0.1, initial_value=5.0),
    adv.UCB(),
    adv.Thompson(),
    adv.Thompson("bernoulli"),
    adv.GradientBandit(),
]
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

slow = pytest.mark.slow


# -- against definitions ------------------------------------------------------------------------------------


def pulls(seed, num_envs=1, steps=50, bernoulli=False):
    """Any arms, and rewards `[T, B]`."""
    rng, zero = np.random.default_rng(seed), np.zeros((steps, num_envs), np.int32)
    arm = rng.integers(A, size=zero.shape, dtype=np.int32)
    reward = rng.random(zero.shape) < 0.3 if bernoulli else rng.normal(1.0, 2.0, zero.shape)
    return Rollout(zero, arm, reward.astype(np.float32), zero, zero > 0, zero > 0)


@quick_jit
def feed(algorithm, state, rollout):
    """The last state, and the state before each step and after the last."""

    def one(state, row):
        new, metrics = algorithm.update(state, jax.tree.map(lambda x: x[None], row), jax.random.key(0))
        return new, (state, metrics)

    state, (states, metrics) = jax.lax.scan(one, state, rollout)
    return state, jax.tree.map(lambda all, last: jnp.append(all, last[None], axis=0), states, state), metrics


def learned(algorithm, rollout):
    state = algorithm.init(jax.random.key(0), dataclasses.replace(SPEC, total_timesteps=rollout.reward.size))
    last, states, metrics = feed(algorithm, state, rollout)
    assert all(np.isfinite(value).all() for value in metrics.values())
    assert int(last.clock.step) == rollout.reward.size
    return last, states


@pytest.mark.parametrize(
    ("num_envs", "learning_rate"), [(1, None), (3, None), (1, 0.3), (3, adv.Linear(0.5, 0.1))]
)
def test_estimates_are_the_definition(num_envs, learning_rate):
    rollout = pulls(num_envs, num_envs)
    algorithm = adv.EpsilonGreedyBandit(learning_rate=learning_rate, initial_value=3.0)
    last, states = learned(algorithm, rollout)
    value, count, steps = np.full(A, 3.0), np.zeros(A, int), len(rollout.reward)
    for t in range(steps):
        rows, old = list(zip(rollout.action[t], rollout.reward[t], strict=True)), value.copy()
        for arm, _ in rows:
            count[arm] += 1
        for arm, r in rows:
            if learning_rate is None:
                alpha = 1 / count[arm]
            else:
                alpha = learning_rate(t / steps) if callable(learning_rate) else learning_rate
            value[arm] += alpha * (r - old[arm])
        np.testing.assert_allclose(states.value[t + 1], value, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(last.count, count)
    if learning_rate is None:
        means = [rollout.reward[rollout.action == arm].mean() for arm in range(A)]
        np.testing.assert_allclose(last.value, means, rtol=1e-4)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_bounds_are_the_definition(num_envs):
    rollout, algorithm = pulls(2, num_envs), adv.UCB(confidence=1.5)
    _, states = learned(algorithm, rollout)
    bounds = jax.vmap(algorithm.actor)(states).bound
    for t in range(len(rollout.reward) + 1):
        pulled = rollout.action[:t].ravel()
        for arm in range(A):
            rewards, n = rollout.reward[:t].ravel()[pulled == arm].astype(float), (pulled == arm).sum()
            bound = rewards.mean() + 1.5 * np.sqrt(np.log(pulled.size + 1) / n) if n else np.inf
            assert bounds[t, arm] == pytest.approx(bound, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize(("num_envs", "learning_rate"), [(1, 0.4), (3, adv.Linear(0.3, 0.1))])
def test_preferences_are_the_definition(num_envs, learning_rate, baseline):
    rollout = pulls(3, num_envs)
    _, states = learned(adv.GradientBandit(learning_rate, baseline), rollout)
    preference, rewards, steps = np.zeros(A), [], len(rollout.reward)
    for t in range(steps):
        policy = np.exp(preference) / np.exp(preference).sum()
        before = np.mean(rewards or rollout.reward[t]) if baseline else 0.0
        alpha, change = learning_rate(t / steps) if callable(learning_rate) else learning_rate, np.zeros(A)
        for arm, r in zip(rollout.action[t], rollout.reward[t], strict=True):
            for b in range(A):
                change[b] += alpha * (r - before) * ((b == arm) - policy[b])
            rewards.append(float(r))
        preference += change
        np.testing.assert_allclose(states.preference[t + 1], preference, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_posteriors_are_the_definition(num_envs):
    """Bayes' rule, one reward after another."""
    algorithm = adv.Thompson(prior_mean=0.5, prior_std=2.0, reward_std=1.5)
    rollout = pulls(4, num_envs)
    posterior = algorithm.actor(learned(algorithm, rollout)[0])
    assert isinstance(posterior, Normal)
    mean, variance = np.full(A, 0.5), np.full(A, 4.0)
    for arm, r in zip(rollout.action.ravel(), rollout.reward.ravel(), strict=True):
        gain = variance[arm] / (variance[arm] + 1.5**2)
        mean[arm] += gain * (r - mean[arm])
        variance[arm] *= 1 - gain
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(posterior.std, np.sqrt(variance), rtol=1e-5)

    rollout = pulls(5, num_envs, bernoulli=True)
    posterior = adv.Thompson("bernoulli").actor(learned(adv.Thompson("bernoulli"), rollout)[0])
    assert isinstance(posterior, Beta)
    ones = [(rollout.reward[rollout.action == arm] == 1).sum() for arm in range(A)]
    zeros = [(rollout.reward[rollout.action == arm] == 0).sum() for arm in range(A)]
    np.testing.assert_allclose(posterior.alpha, 1.0 + np.array(ones), rtol=1e-4)
    np.testing.assert_allclose(posterior.beta, 1.0 + np.array(zeros), rtol=1e-4)


# -- identities and exact probabilities ---------------------------------------------------------------------


def drawn(algorithm, state, draws, seed=0):
    """The share of each arm among so many choices, `[A]`."""
    actor, obs = algorithm.actor(state), jnp.zeros(draws, jnp.int32)
    noise = algorithm.noise(actor, jax.random.key(seed), (draws,))
    action, *_ = algorithm.act(actor, obs, (), noise)
    return np.bincount(action, minlength=A) / draws


def arms(value, count):
    state = adv.EpsilonGreedyBandit().init(jax.random.key(0), SPEC)
    count = jnp.array(count, jnp.int32)
    clock = state.clock._replace(step=count.sum().astype(jnp.uint32))
    return state._replace(value=jnp.array(value, jnp.float32), count=count, clock=clock)


def assert_shares(shares, probabilities, draws):
    probabilities = np.array(probabilities)
    error = np.sqrt(probabilities * (1 - probabilities) / draws)
    assert (np.abs(shares - probabilities) <= 5 * error + 1e-9).all(), (shares, probabilities)


def test_what_is_chosen_when_nothing_is_random():
    state = arms([0.0, 1.0, 3.0, 2.0], [9, 9, 9, 9])
    for algorithm in (adv.EpsilonGreedyBandit(0.0), adv.UCB(0.0), adv.Thompson(prior_std=1e-4)):
        tied = (
            state
            if not isinstance(algorithm, adv.Thompson)
            else state._replace(count=9 * jnp.ones(A) * 10**9)
        )
        assert_shares(drawn(algorithm, tied, 100), [0, 0, 1, 0], 100)
    for algorithm in ALL[:3]:
        action, _ = algorithm.greedy(algorithm.actor(state), jnp.zeros(7, jnp.int32), ())
        assert action.tolist() == [2] * 7


def test_epsilon_greedy_shares():
    draws, tie = 20_000, arms([1.0, 3.0, 0.0, 3.0], [1, 1, 1, 1])
    assert_shares(drawn(adv.EpsilonGreedyBandit(0.2), tie, draws), [0.05, 0.45, 0.05, 0.45], draws)
    assert_shares(drawn(adv.EpsilonGreedyBandit(0.0), arms([0] * 4, [0] * 4), draws), [0.25] * 4, draws)


@pytest.mark.parametrize("confidence", [0.0, 2.0])
def test_ucb_tries_each_arm_once_first(confidence):
    algorithm = adv.UCB(confidence)
    for seed in range(5):
        state, tried = algorithm.init(jax.random.key(0), SPEC), []
        for t, reward in enumerate([5.0, -3.0, 0.0, 9.0]):
            actor = algorithm.actor(state)
            noise = algorithm.noise(actor, jax.random.key(10 * seed + t), (1,))
            action, *_ = algorithm.act(actor, jnp.zeros(1, jnp.int32), (), noise)
            tried.append(int(action[0]))
            row = jax.tree.map(lambda x: x[:1], pulls(0))
            row = row._replace(action=action[None], reward=np.float32([[reward]]))
            state, _ = algorithm.update(state, row, jax.random.key(0))
        assert sorted(tried) == [0, 1, 2, 3]


def test_ucb_prefers_what_is_little_known():
    state = arms([1.0, 1.0, 1.0, 1.0], [50, 5, 50, 50])
    assert_shares(drawn(adv.UCB(), state, 100), [0, 1, 0, 0], 100)


@pytest.mark.parametrize("baseline", [True, False])
def test_the_expected_update_is_the_gradient_of_the_expected_reward(baseline):
    """Summed over all arms, with a baseline that is off; the gradient by differences in float64."""
    mean, preference = np.array([1.0, -0.5, 2.0, 0.3]), np.array([0.2, 0.9, -0.4, 0.1])

    def expected_reward(h):
        return np.exp(h) @ mean / np.exp(h).sum()

    gradient = [
        (expected_reward(preference + h) - expected_reward(preference - h)) / 2e-5 for h in 1e-5 * np.eye(A)
    ]
    algorithm = adv.GradientBandit(0.5, baseline)
    state = algorithm.init(jax.random.key(0), SPEC)
    state = state._replace(
        preference=jnp.array(preference, jnp.float32),
        mean_reward=jnp.float32(0.7),
        clock=state.clock._replace(step=jnp.uint32(10)),
    )
    policy = np.exp(preference) / np.exp(preference).sum()
    changes = []
    for arm in range(A):
        row = jax.tree.map(lambda x: x[:1], pulls(0))
        row = row._replace(action=np.int32([[arm]]), reward=np.float32([[mean[arm]]]))
        changes.append(algorithm.update(state, row, jax.random.key(0))[0].preference - state.preference)
    np.testing.assert_allclose(policy @ np.array(changes), 0.5 * np.array(gradient), atol=1e-5)
    assert_shares(drawn(algorithm, state, 20_000), policy, 20_000)


def test_the_first_reward_is_its_own_baseline():
    last, _ = learned(adv.GradientBandit(), pulls(6, steps=1))
    np.testing.assert_array_equal(last.preference, np.zeros(A))
    assert float(last.mean_reward) == pytest.approx(float(pulls(6, steps=1).reward[0, 0]))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (3.0, 1.0), (1.0, 40.0), (200.0, 300.0)])
def test_beta_draws_are_beta_distributed(alpha, beta):
    posterior = Beta(jnp.full(1, alpha), jnp.full(1, beta))
    x = np.asarray(posterior.sample(posterior.noise(jax.random.key(int(beta)), (20_000,))))[:, 0]
    assert stats.kstest(x, stats.beta(alpha, beta).cdf).pvalue > 1e-4


@pytest.mark.parametrize("rewards", ["bernoulli", "gaussian"])
def test_an_arm_is_pulled_as_often_as_it_is_believed_to_be_the_best(rewards):
    algorithm = adv.Thompson(rewards, prior_std=2.0)
    state = arms([0.5, 0.75, 0.2, 0.6], [10, 4, 10, 5])
    if rewards == "bernoulli":
        believed = [
            stats.beta(1 + n * q, 1 + n - n * q) for q, n in zip(state.value, state.count, strict=True)
        ]
        low, high = 0.0, 1.0
    else:
        precision = 1 / 4 + np.asarray(state.count)
        mean = np.asarray(state.value * state.count) / precision
        believed = [stats.norm(m, p**-0.5) for m, p in zip(mean, precision, strict=True)]
        low, high = -3.0, 4.0

    def best(arm):
        others = [other for i, other in enumerate(believed) if i != arm]
        return integrate.quad(
            lambda x: believed[arm].pdf(x) * np.prod([o.cdf(x) for o in others]), low, high
        )[0]

    assert_shares(drawn(algorithm, state, 40_000), [best(arm) for arm in range(A)], 40_000)
    action, _ = algorithm.greedy(algorithm.actor(state), jnp.zeros(2, jnp.int32), ())
    assert action.tolist() == [1, 1]


@pytest.mark.parametrize("algorithm", ALL)
def test_every_step_and_environment_has_its_own_noise(algorithm):
    actor = algorithm.actor(algorithm.init(jax.random.key(0), SPEC))
    for leaf in jax.tree.leaves(algorithm.noise(actor, jax.random.key(0), (3, 4))):
        assert leaf.shape[:2] == (3, 4)
        assert len(np.unique(leaf)) == leaf.size


# -- the testbed --------------------------------------------------------------------------------------------


def play(algorithm, num_seeds=2000, kind="gaussian"):
    """Steps 901 to 1000 of each seed on a testbed of its own: mean reward, and the share of the best arm."""
    world, numbers = Testbed(kind=kind), np.arange(num_seeds)
    spec, keys = Spec(world.observation_space, world.action_space, 1, 1000), jax.vmap(jax.random.key)
    driver = DeviceDriver(algorithm, world, spec, num_seeds)
    state = jax.vmap(lambda key: algorithm.init(key, spec))(keys(numbers + 10_000))
    driver.start(state, keys(numbers))
    best = np.asarray(driver.worlds.state)[:, 0].argmax(-1)
    before = driver.iterate(state, keys(numbers + 20_000), Span(0, 900, 0, 1)).state
    state, metrics, *_ = driver.iterate(before, keys(numbers + 20_000), Span(900, 100, 900, 1))
    reward = metrics["reward"].mean(axis=1)
    if isinstance(algorithm, adv.GradientBandit):
        return reward, np.asarray(state.preference.argmax(-1) == best)
    return reward, np.asarray(state.count - before.count)[numbers, best] / 100


@pytest.mark.parametrize(
    ("algorithm", "reward", "share"),
    [
        pytest.param(adv.EpsilonGreedyBandit(0.0), 1.04, 0.37, marks=slow),
        pytest.param(adv.EpsilonGreedyBandit(0.01), 1.32, 0.59, marks=slow),
        (adv.EpsilonGreedyBandit(0.1), 1.38, 0.80),
        (adv.UCB(2.0), 1.48, 0.85),
        pytest.param(adv.EpsilonGreedyBandit(0.0, 0.1, 5.0), 1.49, 0.86, marks=slow),
    ],
)
@pytest.mark.slow
def test_the_ten_armed_testbed(algorithm, reward, share):
    """Within three standard errors of the difference of two means of 2,000 runs.

    Sutton & Barto 2018, figures 2.2 to 2.4.
    """
    for seen, figure in zip(play(algorithm), (reward, share), strict=True):
        error = seen.std() / np.sqrt(len(seen))
        print(algorithm, f"{seen.mean():.4f} +- {error:.4f}, published {figure}")
        assert abs(seen.mean() - figure) < 3 * np.sqrt(2) * error


@pytest.mark.parametrize(
    ("algorithm", "kind", "least", "share"),
    [
        (adv.Thompson(), "gaussian", 1.46, 0.75),
        pytest.param(adv.Thompson("bernoulli"), "bernoulli", 0.85, 0.7, marks=slow),
        (adv.GradientBandit(), "gaussian", 1.38, 0.7),
    ],
)
@pytest.mark.slow
def test_the_others_find_good_arms_too(algorithm, kind, least, share):
    """The best of ten arms pays 1.539 on average, or 10 / 11."""
    runs = 1000 if kind == "gaussian" else 200  # a beta variate takes long to draw
    reward, best = play(algorithm, runs, kind)
    print(algorithm, reward.mean(), reward.std() / runs**0.5, best.mean())
    assert reward.mean() > least
    assert best.mean() > share, best.mean()


# -- hyperparameters and wrong input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        (adv.EpsilonGreedyBandit(learning_rate=0.2), dict(epsilon=0.5, learning_rate=0.3, initial_value=1.0)),
        (adv.UCB(), dict(confidence=1.0)),
        (adv.Thompson(), dict(rewards="bernoulli", prior_mean=1.0, prior_std=0.1, reward_std=0.5)),
        (adv.GradientBandit(), dict(learning_rate=0.3, baseline=False)),
    ],
)
def test_every_hyperparameter_changes_something(algorithm, changes):
    assert set(changes) == {field.name for field in dataclasses.fields(algorithm)}
    rollout = pulls(7, bernoulli=True)

    def actor(algorithm):
        return algorithm.actor(learned(algorithm, rollout)[0])

    for name, value in changes.items():
        one, other = actor(algorithm), actor(dataclasses.replace(algorithm, **{name: value}))
        same = type(one) is type(other) and jax.tree.map(np.allclose, one, other)
        assert not same or not all(jax.tree.leaves(same)), name


@pytest.mark.parametrize("algorithm", ALL)
def test_names_and_json(algorithm):
    assert from_json(algorithm_name(algorithm), to_json(algorithm)) == algorithm
    assert algorithm_name(algorithm) in ("epsilon-greedy-bandit", "ucb", "thompson", "gradient-bandit")


@pytest.mark.parametrize(
    ("cls", "fields", "words"),
    [
        (adv.EpsilonGreedyBandit, {"epsilon": 1.5}, r"epsilon=1.5 is not allowed; use a value in \[0, 1\]"),
        (adv.UCB, {"confidence": -1.0}, "confidence=-1.0 is not allowed"),
        (adv.Thompson, {"rewards": "bernouli"}, "did you mean 'bernoulli'"),
        (adv.Thompson, {"prior_std": 0.0}, r"prior_std=0.0 is not allowed; use a value in \(0, inf\)"),
        (adv.GradientBandit, {"baseline": 1}, "baseline=1 is not allowed; use True or False"),
    ],
)
def test_refuses_values(cls, fields, words):
    with pytest.raises(ValueError, match=words):
        cls(**fields)


@pytest.mark.parametrize("algorithm", ALL)
def test_refuses_more_than_one_state_and_actions_that_are_no_arms(algorithm, tmp_path):
    box = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    with pytest.raises(
        ValueError,
        match=r"needs an environment with a single state.*Discrete\(48\), with 48 states. Use .* q-learning",
    ):
        adv.train(algorithm, "CliffWalking-v1", out=tmp_path / "run")
    with pytest.raises(ValueError, match="finite observation space"):
        algorithm.init(jax.random.key(0), Spec(box, SPEC.action_space))
    with pytest.raises(ValueError, match="Discrete action space"):
        algorithm.init(jax.random.key(0), Spec(ONE_STATE, box))


# -- runs ---------------------------------------------------------------------------------------------------

MEANS = 0.1, 0.3, 0.9, 0.5


class Fixed(Testbed):
    """Always the same arms."""

    def reset(self, key):
        state, obs = super().reset(key)
        return jnp.array(MEANS, state.dtype), obs


class FixedEnv(TestbedEnv):
    def reset(self, **keywords):
        obs, info = super().reset(**keywords)
        self.means = np.array(MEANS)
        return obs, info


def on_host():
    return gymnasium.wrappers.TimeLimit(FixedEnv(A, reward_std=0.2, kind="gaussian"), 50)


GAUSSIAN = Fixed(A, reward_std=0.2, max_episode_steps=50)
BERNOULLI = Fixed(A, kind="bernoulli", max_episode_steps=50)


@pytest.mark.parametrize(
    ("algorithm", "environment"),
    [
        (ALL[1], GAUSSIAN),
        pytest.param(adv.UCB(), GAUSSIAN, marks=slow),
        pytest.param(adv.Thompson("bernoulli"), BERNOULLI, marks=slow),
        pytest.param(adv.Thompson(reward_std=0.2), on_host, marks=slow),
        (adv.GradientBandit(learning_rate=0.4), on_host),
    ],
)
def test_promise_11_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, algorithm, environment):
    """And ends with the best arm."""
    options = {"total_timesteps": 1200, "checkpoint_every": 500, "num_envs": 2, "tensorboard": False}
    run = adv.train(algorithm, environment, out=tmp_path / "whole", eval_episodes=20, **options)
    assert run.evaluation.mean == pytest.approx(45, abs=2)
    adv.train(
        algorithm, environment, out=tmp_path / "part", eval_episodes=0, callback=stop_at(200), **options
    )
    assert adv.load(tmp_path / "part").step < 1200
    adv.resume(tmp_path / "part", environment=environment)
    files = [tmp_path / name / "last" / "state.safetensors" for name in ("whole", "part")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_bernoulli_beliefs_stop_at_rewards_that_are_none(tmp_path):
    with pytest.raises(adv.NonFiniteUpdate, match="bernoulli_reward"):
        adv.train(
            adv.Thompson("bernoulli"), "advantage/Testbed-v0", out=tmp_path / "run", total_timesteps=500
        )
