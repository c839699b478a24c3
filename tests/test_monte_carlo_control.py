"""Monte-Carlo control and importance sampling: Blackjack's exact values, exploring starts, both drivers."""

import dataclasses
import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import advantage as adv
from advantage.algorithms.tabular.importance import move_by_weight, ratios_to_the_end
from advantage.drivers.device import DeviceDriver
from advantage.environments.tables.blackjack import blackjack_state
from advantage.environments.tables.names import table
from advantage.environments.tables.world import TabularEnv, TabularWorld
from advantage.training import results
from advantage.types import Rollout, Spec

BLACKJACK = table("Blackjack-v0")
HANDS = ~BLACKJACK.terminal
SOFT_13 = blackjack_state(13, 2, True)


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """A curve takes longer to draw than one of these runs to train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "plot_curve", lambda folder: None)
        yield


def stick_on_20():
    """1 hits, 0 sticks: `[S]`."""
    policy = np.ones(BLACKJACK.n_states, int)
    for total in (20, 21):
        for dealer in range(1, 11):
            policy[[blackjack_state(total, dealer, usable) for usable in (False, True)]] = 0
    return policy


def exact(policy):
    """`V = (I - P)^{-1} r` on the hands, undiscounted, of actions `[S]`; terminal states are worth 0."""
    successors = BLACKJACK.rows(policy)
    successors = successors.toarray() if hasattr(successors, "toarray") else successors
    reward = BLACKJACK.expected_reward[np.arange(len(policy)), policy]
    value = np.zeros(len(policy))
    value[HANDS] = np.linalg.solve(np.eye(HANDS.sum()) - successors[np.ix_(HANDS, HANDS)], reward[HANDS])
    return value


def played(algorithm, mdp, steps, num_seeds, num_envs=1):
    """Train seeds side by side: `-> state`."""
    world = TabularWorld(mdp)
    spec = Spec(world.observation_space, world.action_space, num_envs, steps * num_envs)
    keys = [jax.vmap(jax.random.key)(np.arange(num_seeds) + offset) for offset in (0, 1000, 2000)]
    driver = DeviceDriver(algorithm, world, spec, num_seeds)
    state = jax.vmap(lambda key: algorithm.init(key, spec))(keys[1])
    driver.start(state, keys[0])
    iterations, done = steps // algorithm.n_steps, 0
    while done < iterations:
        span = driver.span(done, done * algorithm.n_steps * num_envs, steps * num_envs)
        state = driver.iterate(state, keys[2], span).state
        done += span.count
    return jax.device_get(state)


def assert_mean(samples, expected):
    """Within four standard errors of the mean of independent samples."""
    error = np.std(samples, ddof=1) / np.sqrt(len(samples))
    assert abs(np.mean(samples) - expected) < 4 * error, (np.mean(samples), expected, error)


# --- Blackjack ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("visits", ["first", pytest.param("every", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_sticking_on_20_is_worth_what_it_is(visits):
    value = exact(stick_on_20())
    assert BLACKJACK.start @ value == pytest.approx(-0.353554, abs=1e-6)
    algorithm = adv.MonteCarloPrediction(
        gamma=1.0, visits=visits, policy=stick_on_20(), n_steps=500, max_episode=24
    )
    state = played(algorithm, BLACKJACK, 20_000, 12)
    assert_mean(state.table.v @ BLACKJACK.start, -0.353554)
    for s in (blackjack_state(20, 10, False), blackjack_state(16, 6, False), blackjack_state(12, 1, False)):
        assert_mean(state.table.v[:, s], value[s])


@pytest.mark.slow
def test_one_hand_of_blackjack_from_the_play_of_another():
    """Sutton & Barto 2018, example 5.4: weighted sampling errs less at first, ordinary sampling is unbiased."""
    value = exact(stick_on_20())[SOFT_13]
    assert value == pytest.approx(-0.27726, abs=1e-4)  # the book's, from a hundred million episodes
    mdp = dataclasses.replace(BLACKJACK, start=np.eye(BLACKJACK.n_states)[SOFT_13])
    estimates = {}
    for importance in ("ordinary", "weighted"):
        algorithm = adv.MonteCarloOffPolicy(
            importance, gamma=1.0, policy=stick_on_20(), n_steps=50, max_episode=24
        )
        short, long = (played(algorithm, mdp, steps, 100).table.v[:, SOFT_13] for steps in (50, 2000))
        assert_mean(long, value)
        estimates[importance] = short, long
    ordinary, weighted = (np.mean((estimates[name][0] - value) ** 2) for name in ("ordinary", "weighted"))
    assert weighted < ordinary
    assert_mean(estimates["ordinary"][0], value)
    assert all(long.std() < 0.2 for _, long in estimates.values())


def best_of(q):
    """What the policy earns that is best by each seed's table."""
    return np.array([BLACKJACK.start @ exact(values.argmax(1)) for values in q])


@pytest.mark.slow
def test_exploring_starts_find_the_best_policy_of_blackjack():
    """Without exploring anywhere but at an episode's start; and without that, nothing of the kind is found."""
    algorithm = adv.MonteCarloControl(
        exploring_starts=True, epsilon=0.0, gamma=1.0, n_steps=1, max_episode=24
    )
    earned = best_of(played(algorithm, BLACKJACK, 8000, 3, num_envs=32).table.q)
    assert (earned < -0.046555).all()
    assert (earned > -0.0515).all(), earned
    stuck = dataclasses.replace(algorithm, exploring_starts=False)
    assert (best_of(played(stuck, BLACKJACK, 2000, 3, num_envs=32).table.q) < -0.06).all()


# --- exploring starts ---------------------------------------------------------------------------------------


def small(algorithm, num_envs=2):
    return algorithm.init(jax.random.key(0), Spec(spaces.Discrete(5), spaces.Discrete(3), num_envs, 1000))


def test_the_first_action_of_an_episode_is_any_and_the_others_are_the_best():
    algorithm = adv.MonteCarloControl(exploring_starts=True, epsilon=0.0, n_steps=1, max_episode=8)
    state = small(algorithm, num_envs=3)
    state = state._replace(table=state.table._replace(q=state.table.q.at[:, 1].set(1.0)))
    update = jax.jit(algorithm.update)
    ends = np.array([[True, False, False], [False, False, True], [False, True, False], [True, True, True]])
    for t, terminated in enumerate(ends):
        facts = np.zeros((1, 3), np.int32)
        truncated = np.zeros((1, 3), bool)
        extras = np.ones((1, 3), np.float32)
        rollout = Rollout(facts, facts, facts * 1.0, facts, terminated[None], truncated, extras)
        if t % 2:
            rollout = rollout._replace(terminated=truncated, truncated=terminated[None])
        state, _ = update(state, rollout, jax.random.key(0))
        actor = algorithm.actor(state)
        drawn = [
            algorithm.act(actor, np.ones(3, np.int32), (), np.full(3, noise, np.float32))
            for noise in (0.1, 0.5, 0.9)
        ]
        for env, begins in enumerate(terminated):
            assert [int(action[env]) for action, _, _ in drawn] == ([0, 1, 2] if begins else [1, 1, 1])
            chances = [float(chance[env]) for _, _, chance in drawn]
            assert chances == pytest.approx([1 / 3] * 3 if begins else [1.0] * 3)
        assert algorithm.greedy(actor, np.ones(3, np.int32), ())[0].tolist() == [1, 1, 1]
    action, _, chance = algorithm.act(actor, np.ones(2, np.int32), (), np.full(2, 0.1, np.float32))
    assert action.tolist() == [1, 1] and chance.tolist() == [1.0, 1.0], "environments of an evaluation"


def test_an_episode_begins_with_a_uniform_action_and_its_probability():
    algorithm = adv.MonteCarloControl(exploring_starts=True, epsilon=0.3, n_steps=1, max_episode=8)
    state = small(algorithm, num_envs=2)
    state = state._replace(
        table=state.table._replace(q=state.table.q.at[:, 1].set(1.0)),
        pending=state.pending._replace(length=jnp.array([0, 3])),
    )
    for noise, first, later, chance in ((0.05, 0, 0, 0.1), (0.95, 2, 1, 0.8)):
        obs = np.ones(2, np.int32)
        action, _, chances = algorithm.act(algorithm.actor(state), obs, (), np.full(2, noise, np.float32))
        assert action.tolist() == [first, later]
        assert chances.tolist() == pytest.approx([1 / 3, chance])


def test_exploring_starts_need_rollouts_of_one_step():
    with pytest.raises(ValueError, match=r"exploring_starts=True with n_steps=128 .* use n_steps=1"):
        adv.MonteCarloControl(exploring_starts=True)


# --- importance sampling ------------------------------------------------------------------------------------


def test_ratios_multiply_from_each_step_to_the_end():
    ratio = np.array([2.0, 0.0, 3.0, 0.5, 4.0], np.float32)
    np.testing.assert_allclose(ratios_to_the_end(ratio, 1e6), [0, 0, 6, 2, 4], rtol=1e-6)
    np.testing.assert_allclose(ratios_to_the_end(ratio, 3.0), [0, 0, 3, 2, 3], rtol=1e-6)


@pytest.mark.parametrize("power", [None, 0.5, 1.0])
def test_values_move_by_weight(power):
    rng = np.random.default_rng(0)
    value, total = np.array([1.0, -2.0, 0.5]), np.array([0.0, 3.0, 1.0])
    place, target = rng.integers(3, size=12), rng.normal(size=12)
    weight = np.where(rng.random(12) < 0.3, 0, rng.uniform(0, 2, 12))
    moved = move_by_weight(*map(jnp.asarray, (value, total, place, target, weight)), 0.3, power)
    expected, sums = value.copy(), total.copy()
    for x in range(3):
        sums[x] += weight[place == x].sum()
        error = (weight * (target - value[x]))[place == x].sum()
        expected[x] += 0.3 * error / (1 if power is None else sums[x] ** power)
    np.testing.assert_allclose(moved[0], expected, rtol=1e-5)
    np.testing.assert_allclose(moved[1], sums, rtol=1e-5)
    missed = (weight * np.abs(target - value[place])).sum() / weight.sum()
    np.testing.assert_allclose(moved[2], missed, rtol=1e-5)


# --- options ------------------------------------------------------------------------------------------------


def some_facts():
    rng = np.random.default_rng(5)
    obs, next_obs = rng.integers(5, size=(2, 96, 2)).astype(np.int32)
    action = rng.integers(3, size=obs.shape).astype(np.int32)
    terminated, truncated = rng.random((2, *obs.shape)) < 0.15
    reward, chance = (
        rng.normal(size=obs.shape).astype(np.float32),
        rng.uniform(0.1, 1, obs.shape).astype(np.float32),
    )
    return Rollout(obs, action, reward, next_obs, terminated, truncated, chance)


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def course(algorithm, state, rollout):
    """What comes of the facts, and what is then done."""
    parts = jax.tree.map(lambda x: x.reshape(-1, algorithm.n_steps, *x.shape[1:]), rollout)
    state, _ = jax.lax.scan(lambda s, part: (algorithm.update(s, part, None)[0], None), state, parts)
    noise = jnp.linspace(0, 0.99, 50)
    chosen = algorithm.act(algorithm.actor(state), jnp.arange(50) % 5, (), noise)[0]
    values = state.v if isinstance(algorithm, adv.MonteCarloOffPolicy) else state.table.q
    return values, chosen


LIVELY = [
    (
        adv.MonteCarloControl("ordinary", largest_ratio=1e3, learning_rate=0.5, n_steps=32, max_episode=40),
        {
            "importance": ("none", "weighted"),
            "visits": ("every",),
            "largest_ratio": (1.5,),
            "exploring_starts": (True,),
            "learning_rate": (0.3,),
            "learning_rate_power": (None, 0.5),
            "gamma": (0.5,),
            "epsilon": (0.6,),
            "epsilon_power": (0.9,),
            "initial_value": (2.0,),
            "n_steps": (16,),
            "max_episode": (3,),
        },
    ),
    (
        adv.MonteCarloOffPolicy("ordinary", n_steps=32, max_episode=40, policy=[[0.2, 0.2, 0.6]] * 5),
        {
            "importance": ("weighted",),
            "visits": ("every",),
            "largest_ratio": (1.1,),
            "gamma": (0.5,),
            "initial_value": (2.0,),
            "n_steps": (16,),
            "max_episode": (3,),
            "policy": ([0, 1, 2, 1, 0],),
            "behaviour": ([[0.2, 0.5, 0.3]] * 5,),
        },
    ),
]


@pytest.mark.parametrize(("algorithm", "others"), LIVELY, ids=["control", "off-policy"])
def test_no_option_is_dead(algorithm, others):
    """Rollouts cut elsewhere change nothing but when it is learned, so those must learn the same."""
    assert {field.name for field in dataclasses.fields(algorithm)} == set(others)
    base, facts = course(algorithm, small(algorithm), some_facts()), some_facts()
    for name, values in others.items():
        for value in values:
            if name == "exploring_starts":
                continue  # see the tests above
            changed = dataclasses.replace(algorithm, **{name: value})
            result = course(changed, small(changed), facts)
            differs = any(not np.array_equal(a, b) for a, b in zip(base, result, strict=True))
            if name == "n_steps":
                assert isinstance(algorithm, adv.MonteCarloControl) or not differs
            else:
                assert differs, f"{name}={value!r}"


# --- through the whole product ------------------------------------------------------------------------------


def _walk(state, action):
    """Eight states in a row, the end on the right, deterministic; a clock of 12 cuts what wanders."""
    if action == 0:
        return [(1.0, max(state - 1, 0), -1.0 - (state == 0), False)]
    return [(1.0, min(state + action, 7), -1.0, state + action >= 7)]


ROW = adv.MDP.from_function(8, 3, _walk, start=np.eye(8)[2], max_episode_steps=12)


def row_on_host():
    return gymnasium.wrappers.TimeLimit(TabularEnv(ROW), ROW.max_episode_steps)


@pytest.mark.parametrize(
    "algorithm",
    [
        adv.MonteCarloControl(n_steps=16, max_episode=12, epsilon=0.3),
        pytest.param(
            adv.MonteCarloControl("weighted", n_steps=16, max_episode=12, epsilon=0.3), marks=pytest.mark.slow
        ),
        adv.MonteCarloControl(exploring_starts=True, n_steps=1, max_episode=12),
        adv.MonteCarloOffPolicy(n_steps=16, max_episode=12, policy=[[0.2, 0.2, 0.6]] * 8),
    ],
    ids=["control", "weighted", "exploring-starts", "off-policy"],
)
def test_promise_2_both_drivers_learn_the_same_and_a_resumed_run_too(algorithm, tmp_path):
    options = {
        "num_envs": 2,
        "eval_episodes": 0,
        "tensorboard": False,
        "checkpoint_every": 10_000,
        "workers": 0,
    }
    whole = adv.train(algorithm, TabularWorld(ROW), total_timesteps=480, out=tmp_path / "whole", **options)
    part = adv.train(algorithm, row_on_host, total_timesteps=352, out=tmp_path / "part", **options)
    adv.resume(part.path, environment=row_on_host, total_timesteps=480)
    left, right = (adv.load(run.path) for run in (whole, part))
    assert left.algorithm == right.algorithm == algorithm
    assert left.state.total.sum() > 50
    for a, b in zip(jax.tree.leaves(left.state), jax.tree.leaves(right.state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_gymnasiums_blackjack(tmp_path):
    algorithm = adv.MonteCarloControl(gamma=1.0, max_episode=24)
    options = {"total_timesteps": 3000, "eval_episodes": 20, "tensorboard": False}
    run = adv.train(algorithm, "Blackjack-v1", out=tmp_path / "run", **options)
    assert run.agent.state.table.visits.shape == (32 * 11 * 2, 2)
    assert run.agent.act((21, 10, 1)) == 0, "a natural sticks"
    assert adv.evaluate(run.agent, "Blackjack-v1", episodes=20).mean >= -1
