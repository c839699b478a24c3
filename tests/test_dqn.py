"""DQN and its improvements: the box by hand, exact answers of small worlds, the promises, and what it learns."""

import dataclasses
import functools
import itertools

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
    train,
    update,
)

import advantage as adv
from advantage.algorithms.clock import advance_clock
from advantage.algorithms.policy_gradient.shared.replayed_critic import ReplayBatch
from advantage.algorithms.registry import algorithm_class
from advantage.algorithms.value.dqn import DQN
from advantage.algorithms.value.shared.gradient_steps import Learning
from advantage.objectives.distributional import categorical_projection, huber, quantile_huber_loss, support
from advantage.policies.networks import MLP
from advantage.policies.q_network import QNetwork
from advantage.replay.ring import replay_add, replay_sample
from advantage.types import Rollout

BASE = dict(
    n_steps=4,
    hidden=(8,),
    gradient_steps=3,
    batch_size=4,
    buffer_size=64,
    learning_starts=0,
    target_update_interval=4,
    learning_rate=3e-2,
)


def tiny(**changes):
    return DQN(**{**BASE, **changes})


@functools.cache
def course(algorithm, updates=3):
    """The state after some updates."""
    return learn(algorithm, begin(algorithm), updates)[0][-1]


# The pure functions.


def test_the_projection_is_that_of_a_loop_and_keeps_mass_and_mean():
    rng = np.random.default_rng(0)
    atoms, p = np.linspace(-2, 4, 7), rng.dirichlet(np.ones(7), 200)
    reward, discount = rng.normal(0, 3, 200), rng.choice([0.0, 0.9, 1.0], 200)
    expected = np.zeros((200, 7))
    for row in range(200):
        for j in range(7):
            place = (np.clip(reward[row] + discount[row] * atoms[j], -2, 4) + 2) / 1.0
            low, high = int(np.floor(place)), int(np.ceil(place))
            expected[row, low] += p[row, j] * (1.0 if low == high else high - place)
            expected[row, high] += p[row, j] * (0.0 if low == high else place - low)
    found = np.asarray(
        categorical_projection(*map(jnp.asarray, (p, reward, discount)), support(-2.0, 4.0, 7))
    )
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    moved = reward[:, None] + discount[:, None] * atoms
    inside = ((moved >= -2) & (moved <= 4)).all(1)
    assert 10 < inside.sum() < 190, "the case has both"
    np.testing.assert_allclose((found @ atoms)[inside], (p * moved).sum(1)[inside], atol=1e-5)


def test_the_gradient_of_huber_is_the_clipped_error():
    errors = jnp.array([-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 7.0])
    np.testing.assert_allclose(jax.vmap(jax.grad(huber))(errors), np.clip(errors, -1, 1), atol=1e-7)
    np.testing.assert_allclose(huber(errors), [2.5, 0.5, 0.125, 0, 0.03125, 0.5, 6.5])


def test_the_loss_of_quantiles_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    quantiles, target = rng.normal(0, 2, (3, 4)), rng.normal(0, 2, (3, 5))
    expected = np.zeros(3)
    for row in range(3):
        for i in range(4):
            for j in range(5):
                u = target[row, j] - quantiles[row, i]
                size = u**2 / 2 if abs(u) <= 0.5 else 0.5 * (abs(u) - 0.25)
                expected[row] += abs((i + 0.5) / 4 - (u < 0)) * size / 0.5 / 5
    np.testing.assert_allclose(
        quantile_huber_loss(jnp.asarray(quantiles), jnp.asarray(target), 0.5), expected, rtol=1e-5
    )


def test_descent_puts_quantiles_where_they_belong():
    """With a small threshold, so that the loss is nearly the absolute one, whose minima are quantiles."""
    samples = jnp.sort(jax.random.exponential(jax.random.key(0), (1, 2001)))

    def descend(i, quantiles):
        slope = jax.grad(lambda q: quantile_huber_loss(q, samples, 1e-3).sum())(quantiles)
        return quantiles - 3.0 * 0.998**i * slope

    found = jax.lax.fori_loop(0, 3000, descend, jnp.zeros((1, 5)))[0]
    np.testing.assert_allclose(found, np.quantile(samples[0], [0.1, 0.3, 0.5, 0.7, 0.9]), atol=0.01)


# The network.


def network(**changes):
    q = QNetwork(MLP((6,), "relu"), 3, **changes)
    return q, q.init(jax.random.key(0), np.zeros((1, 3), np.float32))


def test_dueling_ignores_a_constant_that_is_added_to_all_advantages():
    q, params = network(dueling=True)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    shifted = params["advantage"] | {"bias": params["advantage"]["bias"] + 7}
    z = q.outputs(params, x)
    np.testing.assert_allclose(q.outputs(params | {"advantage": shifted}, x), z, atol=1e-5)
    raised = params["value"] | {"bias": params["value"]["bias"] + 7}
    np.testing.assert_allclose(q.outputs(params | {"value": raised}, x), z + 7, atol=1e-5)


def test_a_noisy_layer_is_that_of_the_definition():
    q, params = network(noisy=True, atoms=2)
    assert params["advantage"]["weight_scale"].shape == (6, 6)
    np.testing.assert_allclose(params["advantage"]["weight_scale"], 0.5 / 6**0.5, rtol=1e-6)
    np.testing.assert_allclose(params["advantage"]["bias_scale"], 0.5 / 6**0.5, rtol=1e-6)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    noise = q.noise(params, jax.random.key(1), (4,))
    layer, features = params["advantage"], q.network.apply(params["network"], x)
    for row in range(4):
        e = np.float64(noise["advantage"][row])
        f = np.sign(e) * np.sqrt(abs(e))
        weight = layer["weight"] + layer["weight_scale"] * np.outer(f[:6], f[6:])
        expected = features[row] @ weight + layer["bias"] + layer["bias_scale"] * f[6:]
        np.testing.assert_allclose(q.outputs(params, x, noise)[row].ravel(), expected, rtol=1e-4, atol=1e-5)


def test_noisy_networks_explore_in_each_step_and_environment_and_learn_how_much():
    algorithm = tiny(noisy=True, epsilon_start=1.0)
    state = begin(algorithm)
    actor = algorithm.actor(state)
    assert float(actor.epsilon) == 0
    noise = algorithm.noise(actor, jax.random.key(0), (50, 2))
    obs = np.zeros((50, 2, 3), np.float32) + np.float32([0.3, -0.2, 0.5])
    actions = np.asarray(algorithm.act(actor, obs, (), noise)[0])
    assert len(np.unique(actions[:, 0])) > 1 and (actions[:, 0] != actions[:, 1]).any()
    assert len(np.unique(algorithm.greedy(actor, obs, ())[0])) == 1
    before, after = (s.params["advantage"] for s in (state, course(algorithm)))
    assert differs(before["weight_scale"], after["weight_scale"])
    assert differs(before["bias_scale"], after["bias_scale"])


# Acting.


def test_epsilon_falls_over_its_fraction_of_the_budget_and_stays():
    algorithm = tiny(epsilon_start=0.9, epsilon=0.1, epsilon_fraction=0.5)
    state = begin(algorithm, total_timesteps=1000)
    found = [
        float(algorithm.actor(dataclasses.replace(state, clock=advance_clock(state.clock, step))).epsilon)
        for step in (0, 250, 500, 750, 1000)
    ]
    np.testing.assert_allclose(found, [0.9, 0.5, 0.1, 0.1, 0.1], rtol=1e-5)


def test_an_exploring_action_is_uniform_and_the_others_are_greedy():
    algorithm = tiny(epsilon_start=0.3, epsilon=0.3)
    actor = algorithm.actor(begin(algorithm))
    noise = algorithm.noise(actor, jax.random.key(0), (3000, 2))
    obs = np.zeros((3000, 2, 3), np.float32) + np.float32([0.3, -0.2, 0.5])
    actions = np.asarray(algorithm.act(actor, obs, (), noise)[0])
    share = np.sort(np.bincount(actions.ravel(), minlength=3)) / actions.size
    np.testing.assert_allclose(share, [0.1, 0.1, 0.8], atol=0.02)
    best = np.asarray(algorithm.greedy(actor, obs, ())[0])
    assert share[-1] == pytest.approx((actions == best).mean())
    assert ((actions != best).mean(0) > 0.15).all(), "in each environment"


MASKED = spaces.Dict(
    {"action_mask": spaces.MultiBinary(3), "place": spaces.Box(-np.inf, np.inf, (2,), np.float32)}
)


def test_a_forbidden_action_is_never_explored_greedy_or_the_maximum_of_a_target():
    algorithm = tiny(hidden=(), gamma=1.0, double=True, epsilon_start=0.5, epsilon=0.5)
    state = algorithm.init(jax.random.key(0), adv.Spec(MASKED, DISCRETE, 2, 160))
    params = jax.tree.map(jnp.zeros_like, state.params)
    params["advantage"]["bias"] = jnp.array([1.0, 2.0, 9.0])  # the last is the best, and forbidden
    state = dataclasses.replace(state, params=params, target=params)
    actor, shape = algorithm.actor(state), (200, 2)
    obs = {
        "action_mask": np.broadcast_to(np.int8([1, 1, 0]), (*shape, 3)),
        "place": np.zeros((*shape, 2), np.float32),
    }
    actions = algorithm.act(actor, obs, (), algorithm.noise(actor, jax.random.key(0), shape))[0]
    assert set(np.unique(actions)) == {0, 1}
    assert set(np.unique(algorithm.greedy(actor, obs, ())[0])) == {1}
    for double in (False, True):
        method, x = (
            dataclasses.replace(algorithm, double=double),
            state.policy.encoder.policy_input(obs, None),
        )
        x = jax.tree.map(lambda leaf: leaf[0], x)
        assert np.asarray(targets(method, state, x, params, params)).tolist() == [2.0, 2.0]


# A gradient step.


def targets(algorithm, state, x, params, target):
    """The targets of transitions without reward or discount that end in x."""
    size = len(jax.tree.leaves(x)[0])
    batch = ReplayBatch(x, np.zeros(size, np.int32), np.zeros(size, np.float32), np.ones(size, np.float32), x)
    learning = Learning(params, (), target, jnp.uint32(0))
    return algorithm._target(algorithm._network(state.policy), learning, batch, [(), ()])[:, 0]


def test_double_takes_the_trained_networks_choice_the_targets_value_and_has_no_bias():
    """All actions are worth 0, and both networks have independent errors of variance 1 in 2000 states."""
    states, rng = 2000, np.random.default_rng(0)
    tables = rng.normal(size=(2, states, 2)).astype(np.float32)
    means = {}
    for double in (False, True):
        algorithm = tiny(hidden=(), double=double)
        spec = adv.Spec(spaces.Discrete(states), spaces.Discrete(2), 1, 160)
        state = algorithm.init(jax.random.key(0), spec)
        trained, target = (
            state.params | {"advantage": {"weight": jnp.asarray(table), "bias": jnp.zeros(2)}}
            for table in tables
        )
        found = targets(algorithm, state, state.policy.encoder.encode(np.arange(states)), trained, target)
        chosen = tables[0 if double else 1].argmax(1)
        np.testing.assert_array_equal(found, tables[1][np.arange(states), chosen])
        means[double] = float(found.mean())
    assert means[False] == pytest.approx(1 / np.pi**0.5, abs=0.05), "E max of two standard normal numbers"
    assert means[True] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("double", [False, True])
def test_an_update_is_the_box_by_hand(double):
    """In float64, with a linear network: each step has its own batch, Q' moves at every second."""
    algorithm = tiny(
        hidden=(), double=double, n=3, gamma=0.9, target_update_interval=2, max_grad_norm=0.5, tau=0.7
    )
    state, rollout, key = begin(algorithm), play(algorithm, begin(algorithm), 3), jax.random.key(5)
    after, _ = update(algorithm, state, rollout, key)
    replay = replay_add(state.replay, rollout)
    start = state.params["advantage"]
    table = np.vstack([start["weight"], start["bias"]]).astype(np.float64)
    target, first, second = table.copy(), 0.0, 0.0
    assert int(after.gradient_steps) == 6
    for i in range(6):
        key_batch, _ = jax.random.split(jax.random.fold_in(key, i))
        rows = replay_sample(replay, key_batch, 4, gamma=0.9, n=3)
        gradient = np.zeros_like(table)
        for row in range(4):
            x, following = (np.append(np.float64(obs[row]), 1) for obs in (rows.obs, rows.next_obs))
            choice = (following @ (table if double else target)).argmax()
            y = float(rows.reward[row]) + float(rows.discount[row]) * (following @ target)[choice]
            action = int(rows.action[row])
            gradient[:, action] += -np.clip(y - x @ table[:, action], -1, 1) * x / 4
        gradient *= min(1, 0.5 / np.linalg.norm(gradient))
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        step = first / (1 - 0.9 ** (i + 1)) / (np.sqrt(second / (1 - 0.999 ** (i + 1))) + 1e-8)
        table = table - 3e-2 * step
        if (i + 1) % 2 == 0:
            target = 0.3 * target + 0.7 * table
    for found, expected in ((after.params, table), (after.target, target)):
        layer = found["advantage"]
        np.testing.assert_allclose(np.vstack([layer["weight"], layer["bias"]]), expected, atol=2e-5)


def test_the_target_network_is_copied_exactly_and_on_time():
    """Six gradient steps an update: an interval of 12 copies at every second update."""
    states, _, _ = learn(tiny(target_update_interval=12), begin(tiny()), 4)
    for number, source in enumerate([0, 0, 2, 2, 4]):
        same_bits(states[number].target, states[source].params)
    assert differs(states[1].params, states[2].params)


def test_updates_per_transition_do_not_depend_on_the_number_of_environments():
    counts = []
    for num_envs in (1, 4):
        state = begin(tiny(), num_envs=num_envs)
        counts.append(int(update(tiny(), state, play(tiny(), state, 0), jax.random.key(0))[0].gradient_steps))
    assert counts == [3, 12], "three for each four transitions"


def test_nothing_is_learned_before_learning_starts():
    algorithm, first = tiny(learning_starts=24), begin(tiny(learning_starts=24))
    states, _, _ = learn(algorithm, first, 3)
    same_bits((states[2].params, states[2].target), (first.params, first.target))
    assert differs(states[3].params, first.params)


# Exact answers.


def solved(algorithm, rollout, n_states, n_actions, key=0):
    """The outputs `[S, A, K]` after gradient steps on one rollout, with smaller and smaller step sizes."""
    spec = adv.Spec(spaces.Discrete(n_states), spaces.Discrete(n_actions), 1, 1_000_000)
    state = algorithm.init(jax.random.key(key), spec)
    for i, rate in enumerate((0.1, 0.03, 0.01, 0.003)):
        state, _ = update(
            dataclasses.replace(algorithm, learning_rate=rate), state, rollout, jax.random.key(i)
        )
    x = state.policy.encoder.encode(np.arange(n_states))
    return np.asarray(algorithm._network(state.policy).outputs(state.params, x))


def rollout_of(rows):
    """Transitions `(s, a, r, s', terminated, truncated)` of one environment, in the order of time."""
    s, a, r, following, terminated, truncated = (
        np.array(column)[:, None] for column in zip(*rows, strict=True)
    )
    return Rollout(
        s.astype(np.int32),
        a.astype(np.int32),
        r.astype(np.float32),
        following.astype(np.int32),
        terminated,
        truncated,
    )


@functools.cache
def world():
    """A deterministic world: in state 5 each action ends the episode."""
    rng = np.random.default_rng(3)
    following, reward = rng.integers(0, 6, (6, 3)), rng.normal(size=(6, 3)).round(2)
    rows = [(1.0, int(following[s, a]), s, a) for s in range(5) for a in range(3)]
    table = {(s, a): (following_, float(reward[s, a]), False) for _, following_, s, a in rows}
    table |= {(5, a): (6, float(reward[5, a]), True) for a in range(3)}
    mdp = adv.MDP.from_function(7, 3, lambda s, a: [(1.0, *table.get((s, a), (6, 0.0, True)))], gamma=0.8)
    return mdp, table


@pytest.mark.parametrize(
    "switch", [{}, {"double": True}, {"dueling": True}, {"returns": "quantile", "atoms": 3}], ids=str
)
def test_it_reaches_the_optimal_action_values_of_a_table(switch):
    """Every action once in every state, cut off by the clock after each; a linear network of the state is a table."""
    mdp, table = world()
    best = adv.solve(mdp, adv.ValueIteration(tolerance=1e-9)).action_value
    rows = [(s, a, r, following, ended, not ended) for (s, a), (following, r, ended) in table.items()]
    algorithm = DQN(
        hidden=(), n_steps=18, gradient_steps=800, batch_size=32, buffer_size=64, learning_starts=0, gamma=0.8,
        target_update_interval=40, **switch,
    )  # fmt: skip
    q = solved(algorithm, rollout_of(rows), 7, 3).mean(-1)
    np.testing.assert_allclose(q[:6], best[:6], atol=0.02)


@pytest.mark.parametrize("n", [1, 3])
def test_returns_of_n_steps_reach_the_action_values_where_only_the_first_action_matters(n):
    """0 -> 1 or 2 -> 3 -> end, where later actions change nothing; the clock cuts some episodes within a window."""
    steps = {(0, 0): (1, 1.0), (0, 1): (2, -1.0), (1, 0): (3, -2.0), (2, 0): (3, 3.0), (3, 0): (4, 2.0)}
    rows = []
    for first, later, length in itertools.product((0, 1), (0, 1), (1, 2, 3)):
        s = 0
        for t in range(length):
            action = later if s else first
            following, reward = steps[s, 0 if s else action]
            last = t == length - 1
            rows.append((s, action, reward, following, last and s == 3, last and s != 3))
            s = following
    algorithm = DQN(
        hidden=(), n_steps=len(rows), gradient_steps=600, batch_size=32, buffer_size=64, learning_starts=0, gamma=0.5,
        n=n, target_update_interval=20,
    )  # fmt: skip
    q = solved(algorithm, rollout_of(rows), 5, 2)[..., 0]
    np.testing.assert_allclose(q[:4], [[0.5, 1.0], [-1.0, -1.0], [4.0, 4.0], [2.0, 2.0]], atol=0.03)


def test_categories_reach_the_true_distribution_of_returns():
    """Three states in a row, each with a reward of 0 or 1 by a fair coin: the return is binomial."""
    rows = [
        (s, action, float(coin), s + 1, s == 2, s != 2)
        for s in range(3)
        for action in (0, 1)
        for coin in (0, 1)
    ]
    algorithm = DQN(
        hidden=(), returns="categorical", atoms=5, min_return=0.0, max_return=4.0, gamma=1.0, n_steps=12,
        gradient_steps=800, batch_size=128, buffer_size=64, learning_starts=0, target_update_interval=40,
    )  # fmt: skip
    algorithm = dataclasses.replace(algorithm, buffer_size=256)
    z = solved(algorithm, rollout_of(rows), 4, 2)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    binomial = np.array([[1, 3, 3, 1, 0], [2, 4, 2, 0, 0], [4, 4, 0, 0, 0]]) / 8
    np.testing.assert_allclose(p[:3], np.repeat(binomial[:, None], 2, 1), atol=0.03)


# The promises.

OPTIONS = dict(
    learning_rate=1e-2,
    n=3,
    batch_size=5,
    gradient_steps=2,
    buffer_size=9,
    learning_starts=24,
    tau=0.5,
    gamma=0.5,
    target_update_interval=3,
    max_grad_norm=0.01,
    dueling=True,
    noisy=True,
    returns="quantile",
    activation="tanh",
    initialisation="normal",
    normalize_observation=True,
    normalize_reward=True,
)
CATEGORIES = dict(atoms=5, min_return=-3.0, max_return=3.0)
SCALES = dict(clip_observation=0.5, clip_reward=0.1)
SLOW = dict(double=True)  # the two networks choose differently only where the target lags behind
ACTING = dict(epsilon=0.5, epsilon_start=0.5, epsilon_fraction=0.9)
SIZES = {"n_steps", "hidden", "network"}  # every other test has them


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_learning_makes_a_difference(name):
    assert differs(course(tiny(**{name: OPTIONS[name]})).params, course(tiny()).params, 1e-6)


def test_so_do_those_that_need_others():
    categorical = functools.partial(tiny, returns="categorical")
    scaled = functools.partial(tiny, normalize_observation=True, normalize_reward=True)
    lagging = functools.partial(tiny, target_update_interval=50, learning_rate=0.1)
    for method, options in ((categorical, CATEGORIES), (scaled, SCALES), (lagging, SLOW)):
        for name, value in options.items():
            assert differs(course(method(**{name: value})).params, course(method()).params, 1e-6), name


def test_so_do_those_of_exploration_and_none_is_forgotten():
    state = begin(tiny())
    state = dataclasses.replace(state, clock=advance_clock(state.clock, 10))
    for name, value in ACTING.items():
        assert float(tiny(**{name: value}).actor(state).epsilon) != float(tiny().actor(state).epsilon), name
    names = {field.name for field in dataclasses.fields(DQN)}
    assert names == {*OPTIONS, *CATEGORIES, *SCALES, *SLOW, *ACTING} | SIZES


def test_spaces_and_options_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"DQN needs Discrete actions.*use sac, td3 or ppo"):
        begin(tiny(), CONTINUOUS)
    with pytest.raises(ValueError, match=r"min_return=2\.0 is not below max_return=2\.0"):
        tiny(returns="categorical", min_return=2.0, max_return=2.0)
    with pytest.raises(ValueError, match=r"recurrent|memory"):
        begin(tiny(network="gru"))


@pytest.mark.parametrize("name", ["dqn", "sac", "td3", "ddpg"])
def test_a_ring_too_small_and_learning_that_never_starts_are_refused(name):
    method = algorithm_class(name)
    with pytest.raises(
        ValueError, match=r"buffer_size=31 is below batch_size=32; use a buffer_size of 32 or more"
    ):
        method(buffer_size=31, batch_size=32)
    with pytest.raises(ValueError, match=r"buffer_size=2 is below n=3; .*smaller n\."):
        method(buffer_size=2, batch_size=2, n=3)
    space = DISCRETE if name == "dqn" else CONTINUOUS
    with pytest.raises(ValueError, match=r"learning_starts=161 is above total_timesteps=160.*of 160 or less"):
        begin(method(buffer_size=512, learning_starts=161), space)
    begin(method(buffer_size=512, learning_starts=160, hidden=(8,)), space)


def test_a_run_that_would_learn_nothing_is_refused_before_it_begins(tmp_path):
    with pytest.raises(ValueError, match=r"learning_starts=97 is above total_timesteps=96"):
        train(tiny(learning_starts=97), WORLD, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_seeds_side_by_side_are_each_alone():
    seeds_side_by_side_are_each_alone(tiny(), DISCRETE)


def test_both_drivers_and_every_seed_learn_the_same(tmp_path):
    both_drivers_and_every_seed_learn_the_same(tiny(learning_rate=1e-2), tmp_path)


@pytest.mark.parametrize("environment", [on_host, WORLD], ids=["host", "device"])
def test_a_stopped_run_goes_on_to_the_same_numbers_its_target_included(tmp_path, environment):
    """Seven does not divide the gradient steps of an iteration: the target's clock goes on too."""
    a_stopped_run_goes_on_bit_for_bit(tiny(target_update_interval=7), environment, tmp_path)
