"""Tabular prediction: against definitions in float64, exact values, and the textbook's curves."""

import dataclasses
import json
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import advantage as adv
from advantage.algorithms.registry import algorithm_name, from_json, to_json
from advantage.algorithms.tabular import whole_episodes as episodes
from advantage.algorithms.tabular.given_policy import GivenPolicy, follow
from advantage.algorithms.tabular.lambda_return import OfflineLambdaReturn
from advantage.algorithms.tabular.monte_carlo_prediction import MonteCarloPrediction
from advantage.algorithms.tabular.table import Sizes
from advantage.algorithms.tabular.td import TD
from advantage.algorithms.tabular.td_lambda import TDLambda
from advantage.algorithms.tabular.whole_episodes import each_episode, first_visits, pending_init, steps_of
from advantage.drivers.device import DeviceDriver
from advantage.environments.tables.names import world
from advantage.environments.tables.world import TabularEnv, TabularWorld
from advantage.types import Rollout, Span, Spec

STATES, ACTIONS, LONGEST = 5, 3, 24
SIZES = Sizes((STATES,), (0,), ACTIONS)
EPISODIC = {"n_steps": 16, "max_episode": LONGEST}
FOUR = [TD(), TDLambda(), OfflineLambdaReturn(**EPISODIC), MonteCarloPrediction(**EPISODIC)]
METHODS = pytest.mark.parametrize("algorithm", FOUR, ids=lambda algorithm: type(algorithm).__name__)
BOTH_EPISODIC = pytest.mark.parametrize("algorithm", FOUR[2:], ids=lambda algorithm: type(algorithm).__name__)

quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def made_up(seed, n_steps, num_envs=1, terminates=0.15, truncates=0.1, n_states=STATES):
    """A rollout of a world without sense, in which episodes end in all ways."""
    rng = np.random.default_rng(seed)
    shape = n_steps, num_envs
    terminated, truncated = rng.random(shape) < terminates, rng.random(shape) < truncates
    obs, next_obs = rng.integers(n_states, size=(2, *shape)).astype(np.int32)
    obs[1:] = np.where((terminated | truncated)[:-1], obs[1:], next_obs[:-1])
    action = rng.integers(ACTIONS, size=shape).astype(np.int32)
    return Rollout(obs, action, rng.normal(size=shape).astype(np.float32), next_obs, terminated, truncated)


def begin(algorithm, num_envs=1, n_states=STATES, v=None):
    spec = Spec(spaces.Discrete(n_states), spaces.Discrete(ACTIONS), num_envs, 10_000)
    state = algorithm.init(jax.random.key(0), spec)
    return state if v is None else state._replace(table=state.table._replace(v=jnp.asarray(v, jnp.float32)))


def _feed(algorithm, state, rollout):
    def step(state, part):
        state, metrics = algorithm.update(state, part, jax.random.key(0))
        return state, (state.table.v, metrics)

    n_steps = algorithm.n_steps
    parts = jax.tree.map(lambda x: x.reshape(-1, n_steps, *x.shape[1:]), rollout)
    return jax.lax.scan(step, state, parts)


one_by_one = quick_jit(_feed)
side_by_side = quick_jit(jax.vmap(_feed, in_axes=(None, None, 0)))


def learn(algorithm, rollout, v=None):
    """`-> state, V after each update, metrics of each`."""
    state, (values, metrics) = one_by_one(algorithm, begin(algorithm, rollout.reward.shape[1], v=v), rollout)
    return state, np.asarray(values), metrics


def stack(rollouts):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rollouts)


# --- definitions, in float64 --------------------------------------------------------------------------------


def steps_so_far(rollout, env, t):
    """The steps of the episode that step t of an environment is in, the last one being t."""
    done = (rollout.terminated | rollout.truncated)[:t, env]
    ends = np.flatnonzero(done)
    return range(ends[-1] + 1 if len(ends) else 0, t + 1)


def episodes_of(rollout):
    """Complete episodes in the order of their ends: `(environment, steps)`."""
    for t, env in np.argwhere(rollout.terminated | rollout.truncated):
        yield env, list(steps_so_far(rollout, env, t))


def return_of(rollout, env, first, last, gamma, value):
    """`r_first + gamma r_{first+1} + ... + gamma^k value(s_{last+1})`."""
    total = sum(gamma ** (k - first) * float(rollout.reward[k, env]) for k in range(first, last + 1))
    ahead = 0.0 if rollout.terminated[last, env] else value[rollout.next_obs[last, env]]
    return total + gamma ** (last + 1 - first) * ahead


def lambda_return_of(rollout, env, first, last, gamma, lam, value_at):
    """The weighted mean of all n-step returns up to `last`; `value_at(k)` is the table that looks past step k."""
    weights = [(1 - lam) * lam ** (k - first) for k in range(first, last)] + [lam ** (last - first)]
    returns = [return_of(rollout, env, first, k, gamma, value_at(k)) for k in range(first, last + 1)]
    return float(np.dot(weights, returns))


def n_step_td(rollout, n, gamma, alpha, v):
    v, history = np.array(v, float), []
    for t in range(len(rollout.reward)):
        due = {}
        for env in range(rollout.reward.shape[1]):
            done = rollout.terminated[t, env] or rollout.truncated[t, env]
            for k in steps_so_far(rollout, env, t)[-n:]:
                if done or t - k == n - 1:
                    due.setdefault(k, []).append(env)
        for k in sorted(due):
            change = np.zeros_like(v)
            for env in due[k]:
                s = rollout.obs[k, env]
                change[s] += alpha * (return_of(rollout, env, k, t, gamma, v) - v[s])
            v = v + change
        history.append(v)
    return np.array(history)


def td_lambda(rollout, gamma, lam, alpha, v, trace, online):
    v, history = np.array(v, float), []
    pending = np.zeros((rollout.reward.shape[1], len(v)))
    for t in range(len(rollout.reward)):
        change = np.zeros_like(v)
        for env in range(rollout.reward.shape[1]):
            s, e = rollout.obs[t, env], np.zeros_like(v)
            for k in steps_so_far(rollout, env, t):
                credit = alpha * (gamma * lam) ** (t - k)
                at_k = rollout.obs[k, env]
                e[at_k] = credit + (e[at_k] if trace == "accumulating" else 0)
            delta = return_of(rollout, env, t, t, gamma, v) - v[s]
            pending[env] += delta * e
            if online or rollout.terminated[t, env] or rollout.truncated[t, env]:
                change += pending[env]
                pending[env] = 0
        v = v + change
        history.append(v)
    return np.array(history)


def online_lambda_return(rollout, gamma, lam, alpha, v):
    """Redo the episode from its start whenever the horizon moves (van Seijen et al. 2016, section 4)."""
    v, history = np.array(v, float), []
    for t in range(len(rollout.reward)):
        episode = list(steps_so_far(rollout, 0, t))
        if len(episode) == 1:
            at_start, looks = v, {}
        looks[t] = v  # the table with which the value past step t is looked up, at this horizon and later
        v = at_start.copy()
        for k in episode:
            s = rollout.obs[k, 0]
            v[s] += alpha * (lambda_return_of(rollout, 0, k, t, gamma, lam, looks.get) - v[s])
        history.append(v)
    return np.array(history)


def episodic(rollout, target, visits, alpha, v, longest=LONGEST):
    """Errors of an episode from the values before; `alpha(count)` after it; `target(env, first, last, v)`."""
    v, counts = np.array(v, float), np.zeros(len(v), int)
    for env, steps in episodes_of(rollout):
        if len(steps) > longest:
            continue
        change, seen = np.zeros_like(v), set()
        for k in steps:
            s = rollout.obs[k, env]
            if visits == "every" or s not in seen:
                change[s] += target(env, k, steps[-1], v) - v[s]
                counts[s] += 1
            seen.add(s)
        v = v + alpha(np.maximum(counts, 1)) * change
    return v, counts


V0 = np.array([0.3, -1.0, 2.0, 0.7, -0.2])


# --- n-step TD ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("num_envs", [1, 2])
def test_td_is_its_definition(n, num_envs):
    rollout = made_up(n, 200, num_envs)
    algorithm = TD(n=n, gamma=0.8, learning_rate=0.3)
    state, values, metrics = learn(algorithm, rollout, V0)
    np.testing.assert_allclose(values, n_step_td(rollout, n, 0.8, 0.3, V0), atol=1e-5)
    assert state.clock.step == 200 * num_envs
    waiting = sum(len(steps_so_far(rollout, env, 199)[-n:]) for env in range(num_envs))
    assert n > 1 or metrics["td_error"].all()
    done = (rollout.terminated | rollout.truncated)[-1]
    waiting = sum(min(n - 1, len(steps_so_far(rollout, env, 199))) for env in np.flatnonzero(~done))
    assert state.table.visits.sum() == 200 * num_envs - waiting
    np.testing.assert_array_equal(state.recent.count.sum(), waiting)


def test_the_td_error_reported_is_the_mean_of_those_that_were_due():
    rollout = made_up(3, 40)
    n, gamma = 3, 0.8
    _, values, metrics = learn(TD(n=n, gamma=gamma, learning_rate=0.0), rollout, V0)
    np.testing.assert_array_equal(values, np.broadcast_to(V0.astype(np.float32), values.shape))
    for t in range(40):
        done = rollout.terminated[t, 0] or rollout.truncated[t, 0]
        due = [k for k in steps_so_far(rollout, 0, t)[-n:] if done or t - k == n - 1]
        errors = [abs(return_of(rollout, 0, k, t, gamma, V0) - V0[rollout.obs[k, 0]]) for k in due]
        np.testing.assert_allclose(metrics["td_error"][t], np.mean(errors) if errors else 0, atol=1e-5)


# --- TD(lambda) ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", ["accumulating", "replacing"])
@pytest.mark.parametrize("online", [True, False])
def test_td_lambda_is_its_definition(trace, online):
    rollout = made_up(7, 200, 2)
    algorithm = TDLambda(gamma=0.9, lam=0.7, learning_rate=0.2, trace=trace, online=online)
    _, values, _ = learn(algorithm, rollout, V0)
    np.testing.assert_allclose(values, td_lambda(rollout, 0.9, 0.7, 0.2, V0, trace, online), atol=1e-5)


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_true_online_td_lambda_equals_the_online_lambda_return_algorithm(lam):
    rollout = made_up(11, 150, terminates=0.07, truncates=0.04)
    algorithm = TDLambda(gamma=0.95, lam=lam, learning_rate=0.4, trace="dutch")
    _, values, _ = learn(algorithm, rollout, V0)
    np.testing.assert_allclose(values, online_lambda_return(rollout, 0.95, lam, 0.4, V0), atol=1e-5)


def test_environments_have_dutch_traces_of_their_own():
    """Two environments that never meet learn what each learns alone."""
    left, right = made_up(1, 100, n_states=2), made_up(2, 100, n_states=2)
    right = right._replace(obs=right.obs + 2, next_obs=right.next_obs + 2)
    both = jax.tree.map(lambda *x: np.concatenate(x, axis=1), left, right)
    algorithm = TDLambda(lam=0.7, learning_rate=0.4, trace="dutch")
    alone = [learn(algorithm, rollout, V0)[0].table.v for rollout in (left, right)]
    together = learn(algorithm, both, V0)[0].table.v
    np.testing.assert_allclose(together[:2], alone[0][:2], atol=1e-6)
    np.testing.assert_allclose(together[2:4], alone[1][2:4], atol=1e-6)


@pytest.mark.parametrize("trace", ["accumulating", "replacing", "dutch"])
@pytest.mark.parametrize("power", [None, 0.8])
def test_td_lambda_with_lambda_zero_is_td(trace, power):
    rollout = made_up(5, 300, 1 if trace == "dutch" else 2)
    options = {"learning_rate": 0.3, "learning_rate_power": power, "gamma": 0.9}
    expected = learn(TD(**options), rollout, V0)[1]
    values = learn(TDLambda(lam=0.0, trace=trace, **options), rollout, V0)[1]
    np.testing.assert_allclose(values, expected, atol=1e-6 if trace == "dutch" else 2e-7)


# --- forward and backward, whole episodes -------------------------------------------------------------------


def test_forward_and_backward_view_agree_offline_over_a_thousand_episodes():
    """Each from the same values, so that float32's rounding does not accumulate."""
    made = [made_up(seed, 16, truncates=0) for seed in range(1000)]
    for seed, episode in enumerate(made):  # one episode each, ending at the last step in one way or the other
        episode.terminated[:] = episode.truncated[:] = False
        (episode.truncated if seed % 3 == 0 else episode.terminated)[-1] = True
        episode.obs[1:] = episode.next_obs[:-1]
    options = {"learning_rate": 0.1, "gamma": 0.95, "lam": 0.8, "initial_value": 0.5}
    backward, forward = TDLambda(online=False, **options), OfflineLambdaReturn(**EPISODIC, **options)
    results = [side_by_side(a, begin(a), stack(made))[0].table.v for a in (backward, forward)]
    assert np.abs(results[0] - 0.5).max(1).min() > 1e-3
    np.testing.assert_allclose(*results, atol=1e-6)


def test_forward_view_is_its_definition_and_the_backward_view():
    rollout = made_up(13, 3200)
    options = {"learning_rate": 0.05, "gamma": 0.95, "lam": 0.8}
    forward, _, metrics = learn(OfflineLambdaReturn(**EPISODIC, **options), rollout, V0)

    def target(env, first, last, v):
        return lambda_return_of(rollout, env, first, last, 0.95, 0.8, lambda k: v)

    expected, counts = episodic(rollout, target, "every", lambda count: 0.05, V0)
    np.testing.assert_allclose(forward.table.v, expected, atol=1e-5)
    np.testing.assert_array_equal(forward.table.visits, counts)
    lengths = [len(steps) for _, steps in episodes_of(rollout)]
    assert metrics["episodes"].sum() == sum(length <= LONGEST for length in lengths)
    assert metrics["episodes_dropped"].sum() == sum(length > LONGEST for length in lengths) > 0
    everything = learn(OfflineLambdaReturn(n_steps=16, max_episode=64, **options), rollout, V0)[0]
    backward = learn(TDLambda(online=False, **options), rollout, V0)[0]
    np.testing.assert_allclose(everything.table.v, backward.table.v, atol=1e-5)


def test_td_one_offline_is_monte_carlo_of_every_visit():
    rollout = made_up(17, 1600)
    options = {"learning_rate": 0.1, "gamma": 0.95}
    lam = learn(TDLambda(lam=1.0, online=False, **options), rollout, V0)[0]
    every = MonteCarloPrediction(
        learning_rate_power=None, visits="every", n_steps=16, max_episode=64, **options
    )
    np.testing.assert_allclose(lam.table.v, learn(every, rollout, V0)[0].table.v, atol=1e-5)


@pytest.mark.parametrize("visits", ["first", "every"])
@pytest.mark.parametrize("power", [None, 1.0])
def test_monte_carlo_is_its_definition(visits, power):
    rollout = made_up(19, 800, 2)
    rate = 0.1 if power is None else 1.0
    options = {"learning_rate": rate, "learning_rate_power": power, "gamma": 0.9, "visits": visits}
    state = learn(MonteCarloPrediction(**EPISODIC, **options), rollout, V0)[0]

    def target(env, first, last, v):
        return return_of(rollout, env, first, last, 0.9, v)

    expected, counts = episodic(rollout, target, visits, lambda n: rate / n ** (power or 0), V0)
    np.testing.assert_allclose(state.table.v, expected, atol=1e-5)
    np.testing.assert_array_equal(state.table.visits, counts)


@pytest.mark.parametrize("visits", ["first", "every"])
def test_the_running_mean_is_the_mean_of_the_returns(visits):
    rollout = made_up(23, 800, truncates=0)
    algorithm = MonteCarloPrediction(
        gamma=0.9, visits=visits, n_steps=16, max_episode=100, initial_value=50.0
    )
    state = learn(algorithm, rollout)[0]
    returns = [[] for _ in range(STATES)]
    for env, steps in episodes_of(rollout):
        seen = set()
        for k in steps:
            s = rollout.obs[k, env]
            if visits == "every" or s not in seen:
                returns[s].append(return_of(rollout, env, k, steps[-1], 0.9, V0))
            seen.add(s)
    np.testing.assert_allclose(state.table.v, [np.mean(column) for column in returns], atol=1e-5)


@BOTH_EPISODIC
def test_where_rollouts_are_cut_does_not_matter(algorithm):
    rollout = made_up(29, 240, 2)
    values = [learn(dataclasses.replace(algorithm, n_steps=n), rollout, V0)[0].table.v for n in (1, 16, 80)]
    np.testing.assert_allclose(values[0], values[1], atol=1e-6)
    np.testing.assert_allclose(values[0], values[2], atol=1e-6)


def geometric(lengths):
    """Episodes of one state that earn 1 a step."""
    n_steps = int(sum(lengths))
    terminated = np.zeros((n_steps, 1), bool)
    terminated[np.cumsum(lengths) - 1] = True
    zeros = np.zeros((n_steps, 1), np.int32)
    return Rollout(
        zeros, zeros, np.ones((n_steps, 1), np.float32), zeros, terminated, np.zeros_like(terminated)
    )


@pytest.mark.slow
def test_first_visits_are_unbiased_and_every_visit_is_not_but_converges():
    """Lengths are geometric with mean 2; by the mean over visits, one episode of T steps says (T + 1) / 2."""
    rng, runs = np.random.default_rng(0), 4000
    lengths = np.minimum(rng.geometric(0.5, runs), LONGEST)
    rows = np.arange(LONGEST)
    terminated = (rows == lengths[:, None] - 1)[..., None]
    base = geometric([LONGEST])
    batch = stack([base] * runs)._replace(terminated=terminated)  # what follows the end is pending
    means = {}
    for visits in ("first", "every"):
        algorithm = MonteCarloPrediction(gamma=1, visits=visits, n_steps=LONGEST, max_episode=LONGEST)
        v = side_by_side(algorithm, begin(algorithm), batch)[0].table.v[:, 0]
        np.testing.assert_allclose(v, lengths if visits == "first" else (lengths + 1) / 2, rtol=1e-6)
        means[visits] = float(v.mean()), float(v.std() / np.sqrt(runs))
    assert abs(means["first"][0] - 2) < 4 * means["first"][1]
    assert abs(means["every"][0] - 1.5) < 4 * means["every"][1]
    length = lengths.astype(float)  # one run of them all: the mean over visits, whose bias has gone
    rollout = geometric(np.append(lengths, -lengths.sum() % 16 or 16))
    algorithm = MonteCarloPrediction(gamma=1, visits="every", **EPISODIC)
    v = learn(algorithm, rollout)[0].table.v[0]
    excess = length * (length + 1) / 2 - 2 * length
    assert abs(v - 2) < 4 * excess.std() / length.mean() / np.sqrt(runs)


# --- exact values and published curves ----------------------------------------------------------------------


EXACT = np.arange(1, 6) / 6


@pytest.mark.parametrize(
    "algorithm",
    [
        TD(learning_rate=1.0, learning_rate_power=0.7, gamma=1.0),
        TD(n=3, learning_rate=1.0, learning_rate_power=0.7, gamma=1.0),
        TDLambda(lam=0.8, learning_rate=0.5, learning_rate_power=0.7, gamma=1.0),
        TDLambda(lam=0.8, learning_rate=0.5, learning_rate_power=0.7, gamma=1.0, trace="replacing"),
        TDLambda(lam=0.8, learning_rate=0.5, learning_rate_power=0.7, gamma=1.0, trace="dutch"),
        TDLambda(lam=0.8, learning_rate=0.5, learning_rate_power=0.7, gamma=1.0, online=False),
        pytest.param(
            OfflineLambdaReturn(
                lam=0.8, learning_rate=0.5, learning_rate_power=0.7, gamma=1.0, max_episode=100
            ),
            marks=pytest.mark.slow,
        ),
        MonteCarloPrediction(gamma=1.0, max_episode=100),
        pytest.param(
            MonteCarloPrediction(gamma=1.0, visits="every", max_episode=100), marks=pytest.mark.slow
        ),
    ],
    ids=lambda a: "-".join(
        str(part)
        for part in (type(a).__name__, *(getattr(a, f, "") for f in ("n", "trace", "online", "visits")))
        if part != ""
    ),
)
def test_the_random_walk_on_the_device_has_its_exact_values(algorithm):
    walk, seeds = world("jax/RandomWalk-v0"), 16
    spec = Spec(walk.observation_space, walk.action_space, 1, 20_000)
    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    state = jax.vmap(lambda key: algorithm.init(key, spec))(keys)
    driver = DeviceDriver(algorithm, walk, spec, seeds)
    with jax.debug_key_reuse(False):
        driver.start(state, keys)
        taken = 0
        while taken < 16_000:
            span = driver.span(taken // algorithm.n_steps, taken, 16_000)
            state = driver.iterate(state, keys, span).state
            taken += span.count * algorithm.n_steps
    v = np.asarray(state.table.v[:, 1:6])
    np.testing.assert_array_less(np.abs(v.mean(0) - EXACT), 4 * v.std(0, ddof=1) / np.sqrt(seeds))
    assert v.std(0).max() < 0.05


def walks(runs, n_steps, seed):
    """Random walks of five states, `[runs, T, 1]`."""
    rng = np.random.default_rng(seed)
    moves = rng.choice([-1, 1], size=(n_steps, runs))
    obs, next_obs = np.zeros((2, n_steps, runs), np.int32)
    s = np.full(runs, 3)
    for t in range(n_steps):
        obs[t], next_obs[t] = s, s + moves[t]
        s = np.where((next_obs[t] == 0) | (next_obs[t] == 6), 3, next_obs[t])
    terminated = (next_obs == 0) | (next_obs == 6)
    reward = (next_obs == 6).astype(np.float32)
    rollout = Rollout(obs, np.zeros_like(obs), reward, next_obs, terminated, np.zeros_like(terminated))
    return jax.tree.map(lambda x: x.T[..., None], rollout)


@pytest.mark.parametrize(
    ("algorithm", "published"),
    [
        (TD(learning_rate=0.1), (0.129, 0.057, 0.050, 0.057)),
        (TD(learning_rate=0.05), (0.175, 0.110, 0.053, 0.035)),
        (
            MonteCarloPrediction(
                learning_rate=0.02, learning_rate_power=None, visits="every", n_steps=1, max_episode=80
            ),
            (0.197, 0.156, 0.108, 0.075),
        ),
    ],
    ids=["TD-0.1", "TD-0.05", "Monte-Carlo-0.02"],
)
@pytest.mark.slow
def test_the_curves_of_the_textbook(algorithm, published):
    """Sutton & Barto 2018, example 6.2: the error after 10, 25, 50 and 100 episodes, over 100 runs from 1/2."""
    runs = 100
    algorithm = dataclasses.replace(algorithm, gamma=1.0, initial_value=0.5)
    rollout = walks(runs, 1300, seed=1)
    _, (values, _) = side_by_side(algorithm, begin(algorithm, n_states=7), rollout)
    errors = np.sqrt(np.mean((np.asarray(values)[..., 1:6] - EXACT) ** 2, axis=-1))
    ended = rollout.terminated[..., 0].cumsum(1)
    assert ended[:, -1].min() >= 100
    for count, figure in zip((10, 25, 50, 100), published, strict=True):
        measured = np.take_along_axis(errors, (ended >= count).argmax(1)[:, None], axis=1)
        assert abs(measured.mean() - figure) < 4 * np.sqrt(2 / runs) * measured.std() + 0.0005, count


# --- ends of episodes, environments, seeds ------------------------------------------------------------------


@METHODS
def test_a_truncated_step_bootstraps(algorithm):
    """A state that earns 1 for ever, seen through a clock of ten steps: V = 1 / (1 - gamma)."""
    table = adv.MDP(np.ones((1, 1, 1)), np.ones((1, 1)), max_episode_steps=10)
    forever = TabularWorld(table)
    spec = Spec(forever.observation_space, forever.action_space, 2, 100_000)
    changes = {"learning_rate": 0.05, "gamma": 0.8, "initial_value": 1.0}
    if isinstance(algorithm, MonteCarloPrediction):
        changes["learning_rate_power"] = None
    algorithm = dataclasses.replace(algorithm, **changes)
    keys = jax.vmap(jax.random.key)(np.arange(1))
    state = jax.vmap(lambda key: algorithm.init(key, spec))(keys)
    driver = DeviceDriver(algorithm, forever, spec)
    with jax.debug_key_reuse(False):
        driver.start(state, keys)
        count = 2048 // algorithm.n_steps
        state = driver.iterate(state, keys, Span(0, count, 0, algorithm.n_steps)).state
    np.testing.assert_allclose(state.table.v, [[5.0]], rtol=1e-3)


@METHODS
def test_seeds_side_by_side_are_those_alone(algorithm):
    rollouts = [made_up(seed, 160, 2) for seed in range(3)]
    together = side_by_side(algorithm, begin(algorithm, 2), stack(rollouts))[0]
    for n, rollout in enumerate(rollouts):
        alone = learn(algorithm, rollout)[0]
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(a, b[n] if np.ndim(b) > np.ndim(a) else b, atol=1e-6)


@pytest.mark.parametrize("windows", [(), (3, 7)])
def test_episodes_are_put_together_again(monkeypatch, windows):
    """What `learn` is given, against a list of the episodes, for rollouts of any length."""
    monkeypatch.setattr(episodes, "WINDOWS", windows)
    rollout = made_up(31, 301, 3, terminates=0.05, truncates=0.05)
    rollout = rollout._replace(obs=np.arange(903, dtype=np.int32).reshape(301, 3))  # each step has a name
    longest, room = 12, 100

    def note(seen, episode, here):
        number, log, ends = seen
        rows = here.size
        assert rows in (*windows, longest)
        row = jnp.full(longest, -1).at[longest - rows :].set(jnp.where(here, episode.state, -1))
        extra_is_right = jnp.where(here, episode.extra == 2 * episode.state, True).all()
        return (
            number + 1,
            log.at[number].set(row),
            ends.at[number].set(episode.terminated[-1] & extra_is_right),
        )

    @partial(jax.jit, static_argnums=0)
    def advance(_, seen, pending, part):
        steps = steps_of(Sizes((1000,), (0,), ACTIONS), part, extra=2 * part.obs)
        return each_episode(note, seen, pending, steps, part.truncated)

    expected = [
        (rollout.obs[steps, env].tolist(), rollout.terminated[steps[-1], env])
        for env, steps in episodes_of(rollout)
    ]
    kept = [(names, end) for names, end in expected if len(names) <= longest]
    assert len(kept) < len(expected) < room
    assert {len(names) for names, _ in expected} >= {1, longest, longest + 1}
    for cuts in ([301], [100, 1, 200], [7] * 43):
        seen = jnp.int32(0), jnp.full((room, longest), -7), jnp.zeros(room, bool)
        pending, counts, t = pending_init(longest, 3, extra=jnp.int32(0)), [], 0
        for cut in cuts:
            part = jax.tree.map(lambda x, t=t, cut=cut: x[t : t + cut], rollout)
            seen, pending, count = advance(cut, seen, pending, part)
            counts.append((int(count["episodes"]), int(count["episodes_dropped"])))
            t += cut
        assert t == 301 and int(seen[0]) == len(kept)
        for (names, end), row, ended in zip(kept, seen[1], seen[2], strict=False):
            assert row.tolist() == [-1] * (longest - len(names)) + names
            assert bool(ended) == end
        assert np.sum(counts, 0).tolist() == [len(kept), len(expected) - len(kept)]


def test_first_visits_are_the_first_of_the_episode():
    place, here = np.array([4, 2, 2, 4, 0, 2]), np.array([False, False, True, True, True, True])
    assert first_visits(place, here, 5).tolist() == [False, False, True, True, True, False]


# --- the policy ---------------------------------------------------------------------------------------------


def test_actions_follow_the_policy():
    table = np.array([[0.5, 0.25, 0.25], [0, 1, 0], [0.25, 0, 0.75], [0.75, 0.25, 0], [1, 0, 0]])
    actor = follow(GivenPolicy(table), SIZES)
    noise = (np.arange(1000) + 0.5).astype(np.float32) / 1000
    for s in range(STATES):
        chosen = np.asarray(actor.sample(np.full(1000, s), noise))
        np.testing.assert_array_equal(np.bincount(chosen, minlength=3) / 1000, table[s])
        assert np.asarray(actor.sample(np.array([s]), np.array([np.nextafter(np.float32(1), 0)])))[
            0
        ] in np.flatnonzero(table[s])
    assert actor.best(np.arange(STATES)).tolist() == [0, 1, 2, 0, 0]


def test_a_policy_may_be_uniform_or_a_list_of_actions():
    uniform, chosen = follow(None, SIZES), follow(GivenPolicy([2, 0, 1, 1, 2]), SIZES)
    noise = np.tile(np.array([0.1, 0.5, 0.9], np.float32), STATES)
    states = np.repeat(np.arange(STATES), 3)
    assert uniform.sample(states, noise).tolist() == [0, 1, 2] * STATES
    assert chosen.sample(states, noise).tolist() == np.repeat([2, 0, 1, 1, 2], 3).tolist()
    assert chosen.best(np.arange(STATES)).tolist() == [2, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ([[0.5, 0.4]], r"policy\[0\] = \[0.5, 0.4\] .*0\.9"),
        ([[1.0, 0.0], [1.5, -0.5]], r"policy\[1\]"),
        ([[np.nan, 1.0]], r"policy\[0\]"),
        ([0, -1], r"policy\[1\] = -1"),
        ([0.5, 0.5], r"\[S, A\], or an action"),
        (["left"], r"\[S, A\], or an action"),
        ([[1.0], [0.5, 0.5]], "different lengths"),
    ],
)
def test_a_policy_that_is_none_is_refused(policy, words):
    with pytest.raises(ValueError, match=words):
        TD(policy=policy)


@METHODS
def test_a_policy_that_does_not_fit_is_refused_before_training(algorithm):
    for policy, words in (
        ([[1.0, 0.0, 0.0]] * 4, r"\(4, 3\).*\[5, 3\]"),
        ([[0.5, 0.5]] * 5, r"\(5, 2\)"),
        ([0, 1, 2, 3, 0], r"policy\[3\] = 3 .* 0 to 2"),
    ):
        with pytest.raises(ValueError, match=words):
            begin(dataclasses.replace(algorithm, policy=policy))


def test_a_policy_may_be_a_file(tmp_path):
    table = np.random.default_rng(0).dirichlet(np.ones(3), STATES)
    np.save(tmp_path / "policy.npy", table)
    (tmp_path / "policy.json").write_text(json.dumps(table.tolist()))
    for name in ("policy.npy", "policy.json"):
        assert TD(policy=tmp_path / name) == TD(policy=str(tmp_path / name)) == TD(policy=table)
    (tmp_path / "words.json").write_text("left")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("words.json", "objects.npy", "nowhere.npy"):
        with pytest.raises(ValueError, match=rf"{name}' cannot be read as a policy .*\.json file such as"):
            TD(policy=tmp_path / name)


@METHODS
def test_a_policy_goes_through_json_and_is_static(algorithm):
    table = np.random.default_rng(0).dirichlet(np.ones(3), STATES)
    for policy in (table, [0, 1, 2, 1, 0]):
        chosen = dataclasses.replace(algorithm, policy=policy)
        back = from_json(algorithm_name(chosen), json.loads(json.dumps(to_json(chosen))))
        assert back == chosen and hash(back.policy) == hash(chosen.policy)
        assert jax.tree.structure(back) == jax.tree.structure(chosen) != jax.tree.structure(algorithm)
    assert GivenPolicy(table) != GivenPolicy(table[:, ::-1])


# --- options ------------------------------------------------------------------------------------------------


OTHER = {
    "learning_rate": 0.02,
    "learning_rate_power": 0.5,
    "gamma": 0.5,
    "n": 3,
    "lam": 0.3,
    "trace": "replacing",
    "online": False,
    "initial_value": 0.7,
    "visits": "every",
    "n_steps": 32,
    "max_episode": 3,
    "policy": (0, 1, 2, 1, 0),
}


@METHODS
def test_no_option_is_dead(algorithm):
    algorithm = dataclasses.replace(algorithm, learning_rate=0.1)
    rollout = made_up(37, 160, 2)

    def result(algorithm):
        state = learn(algorithm, rollout)[0]
        noise = np.linspace(0, 0.99, STATES, dtype=np.float32)
        act = algorithm.act(algorithm.actor(state), np.arange(STATES), (), noise)[0]
        return [*map(np.asarray, (state.table.v, act)), algorithm.n_steps]

    base = result(algorithm)
    for field in dataclasses.fields(algorithm):
        assert getattr(algorithm, field.name) != OTHER[field.name]
        changed = result(dataclasses.replace(algorithm, **{field.name: OTHER[field.name]}))
        assert any(not np.array_equal(a, b) for a, b in zip(base, changed, strict=True)), field.name


def test_a_dutch_trace_is_another_one_and_online():
    rollout = made_up(41, 100)
    values = [
        learn(TDLambda(trace=trace), rollout, V0)[0].table.v
        for trace in ("accumulating", "replacing", "dutch")
    ]
    assert len({tuple(v.tolist()) for v in values}) == 3
    with pytest.raises(ValueError, match="trace='dutch' with online=False"):
        TDLambda(trace="dutch", online=False)


@METHODS
def test_a_schedule_follows_the_budget(algorithm):
    algorithm = dataclasses.replace(algorithm, learning_rate=adv.Linear(0.4, 0.0))
    metrics = learn(algorithm, made_up(43, 160, 2))[2]
    steps = np.arange(160 // algorithm.n_steps) * algorithm.n_steps * 2
    np.testing.assert_allclose(metrics["learning_rate"], 0.4 * (1 - steps / 10_000), rtol=1e-5)


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
        pytest.param(one, marks=[pytest.mark.slow] if place in (0, 2) else [])
        for place, one in enumerate(FOUR)
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_promise_2_both_drivers_learn_the_same_and_a_resumed_run_too(algorithm, tmp_path):
    algorithm = dataclasses.replace(algorithm, gamma=1.0, policy=[[0.4, 0.4, 0.2]] * 8)
    options = {
        "num_envs": 2,
        "eval_episodes": 0,
        "tensorboard": False,
        "checkpoint_every": 10_000,
        "workers": 0,
    }
    whole = adv.train(algorithm, TabularWorld(ROW), total_timesteps=480, out=tmp_path / "whole", **options)
    for name, environment in (("device", TabularWorld(ROW)), ("host", row_on_host)):
        part = adv.train(algorithm, environment, total_timesteps=352, out=tmp_path / name, **options)
        assert adv.load(part.path).algorithm == algorithm
        adv.resume(part.path, environment=environment, total_timesteps=480)
        left, right = (adv.load(run.path) for run in (whole, part))
        assert np.abs(left.state.table.v[:7]).max() > 0.5
        for a, b in zip(jax.tree.leaves(left.state), jax.tree.leaves(right.state), strict=True):
            np.testing.assert_array_equal(a, b)
    assert left.act(3) == 0


@pytest.mark.slow
def test_many_seeds_at_once_and_gymnasium(tmp_path):
    options = {"eval_episodes": 0, "tensorboard": False, "workers": 0}
    runs = adv.train(
        TD(), "jax/RandomWalk-v0", total_timesteps=500, num_seeds=3, out=tmp_path / "s", **options
    )
    assert len({run.agent.state.table.v.tobytes() for run in jax.device_get(runs)}) == 3
    for name, n_states in (("FrozenLake-v1", 16), ("Blackjack-v1", 32 * 11 * 2)):
        algorithm = MonteCarloPrediction(policy=[1] * n_states, gamma=1.0, max_episode=100)
        run = adv.train(algorithm, name, total_timesteps=512, out=tmp_path / name, **options)
        assert run.agent.state.table.visits.sum() > 100
        v = run.agent.state.table.v
        if name == "Blackjack-v1":  # who always hits is bust
            assert set(np.unique(v)) == {-1.0, 0.0}


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1"])
@METHODS
def test_spaces_without_a_table_are_refused(algorithm, name, tmp_path):
    with pytest.raises(ValueError, match="A table needs a .* space"):
        adv.train(algorithm, name, total_timesteps=10, out=tmp_path / "run")
