"""Control in tables: against definitions step by step, exact values, published figures, and one another."""

import dataclasses
import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_runs import stop_at
from random_tables import random_mdp

import advantage as adv
from advantage import evaluation
from advantage.drivers.device import DeviceDriver
from advantage.environments.make import make
from advantage.environments.tables.world import TabularWorld
from advantage.training import results
from advantage.types import Rollout, Spec

N_STATES, N_ACTIONS = 5, 3
SPACES = gymnasium.spaces.Discrete(N_STATES), gymnasium.spaces.Discrete(N_ACTIONS)
BY_STEP = [
    adv.QLearning,
    adv.Sarsa,
    adv.ExpectedSarsa,
    adv.SarsaLambda,
    adv.DoubleQLearning,
    adv.WatkinsQLambda,
    adv.TreeBackup,
]


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """A curve takes longer to draw than one of these runs to train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "plot_curve", lambda folder: None)
        yield


# -- against definitions ------------------------------------------------------------------------------------


def facts(seed, num_envs, steps=160):
    """Any actions at all in a world of chance, `[T, B]`, with ends of both kinds and states that lead to themselves."""
    rng = np.random.default_rng(seed)
    draw = functools.partial(rng.integers, size=(steps, num_envs))
    obs, action, next_obs = draw(N_STATES), draw(N_ACTIONS), draw(N_STATES)
    terminated, truncated = rng.random((2, steps, num_envs)) < 0.07
    for t in range(1, steps):
        obs[t] = np.where((terminated | truncated)[t - 1], obs[t], next_obs[t - 1])
    reward = rng.normal(size=(steps, num_envs)).astype(np.float32)
    assert (terminated & ~truncated).any() and (truncated & ~terminated).any()
    return Rollout(
        obs.astype(np.int32),
        action.astype(np.int32),
        reward,
        next_obs.astype(np.int32),
        terminated,
        truncated,
    )


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def run(algorithm, state, rollout, keys):
    def one(state, inputs):
        row, key = inputs
        state, metrics = algorithm.update(state, jax.tree.map(lambda x: x[None], row), key)
        return state, (state.table.q, metrics)

    return jax.lax.scan(one, state, (rollout, keys))


def learned(algorithm, rollout, seed=0):
    """The table after every step, and the last state."""
    steps, num_envs = rollout.reward.shape
    state = algorithm.init(jax.random.key(0), Spec(*SPACES, num_envs, steps * num_envs))
    state, (tables, metrics) = run(algorithm, state, rollout, jax.random.split(jax.random.key(seed), steps))
    assert all(np.isfinite(value).all() for value in metrics.values())
    assert int(state.clock.step) == steps * num_envs
    return np.asarray(tables), state


class Loop:
    """What every definition below shares: float64 tables and plain loops over environments."""

    def __init__(self, algorithm, rollout):
        self.h, self.rollout = algorithm, rollout
        self.steps, self.num_envs = rollout.reward.shape
        self.q = np.full((N_STATES, N_ACTIONS), float(algorithm.initial_value))
        self.visits = np.zeros_like(self.q)
        self.tables = []

    def run(self):
        """The table after every step."""
        for t in range(self.steps):
            self.step(t, [[leaf[t][b].item() for leaf in self.rollout[:6]] for b in range(self.num_envs)])
            self.tables.append(self.q.copy())
        return np.array(self.tables)

    def alpha(self, s, a):
        return self.h.learning_rate / self.visits[s, a] ** (self.h.learning_rate_power or 0)

    def policy(self, s, epsilon=None):
        epsilon = self.h.epsilon if epsilon is None else epsilon
        best = np.flatnonzero(self.q[s] == self.q[s].max())
        return [epsilon / N_ACTIONS + (a in best) * (1 - epsilon) / len(best) for a in range(N_ACTIONS)]

    def expected(self, s, epsilon=None):
        return sum(p * q for p, q in zip(self.policy(s, epsilon), self.q[s], strict=True))

    def add(self, changes):
        for s, a, change in changes:
            self.q[s, a] += change


class SarsaLoop(Loop):
    def __init__(self, *args):
        super().__init__(*args)
        self.episodes = [[] for _ in range(self.num_envs)]

    def change(self, waiting, following):
        s, a, _ = waiting[0]
        gamma = self.h.gamma
        target = sum(gamma**i * r for i, (_, _, r) in enumerate(waiting)) + gamma ** len(waiting) * following
        return s, a, self.alpha(s, a) * (target - self.q[s, a])

    def step(self, t, now):
        n, episodes = self.h.n, self.episodes
        before = [b for b in range(self.num_envs) if len(episodes[b]) >= n]
        self.add([self.change(episodes[b][-n:], self.q[now[b][0], now[b][1]]) for b in before])
        for b, (s, a, r, *_) in enumerate(now):
            self.visits[s, a] += 1
            episodes[b].append((s, a, r))
        ends = {b: 0.0 if row[4] else self.expected(row[3]) for b, row in enumerate(now) if row[4] or row[5]}
        for left in range(n, 0, -1):
            here = [b for b in ends if len(episodes[b]) >= left]
            self.add([self.change(episodes[b][-left:], ends[b]) for b in here])
        for b in ends:
            episodes[b] = []


class SarsaLambdaLoop(Loop):
    """The textbook's traces, which leave the step size out."""

    def __init__(self, *args):
        super().__init__(*args)
        self.z = np.zeros((self.num_envs, N_STATES, N_ACTIONS))
        self.last = [None] * self.num_envs

    def learn(self, following):
        q, changes = self.q.copy(), np.zeros_like(self.q)
        for b, (value, discount) in following.items():
            s, a, r, old = self.last[b]
            alpha, delta = self.h.learning_rate, r + discount * value - q[s, a]
            late = q[s, a] - old if self.h.trace == "dutch" else 0.0
            changes += alpha * (delta + late) * self.z[b]
            changes[s, a] -= alpha * late
        self.q += changes

    def step(self, t, now):
        values = [self.q[s, a] for s, a, *_ in now]
        self.learn({b: (values[b], self.h.gamma) for b in range(self.num_envs) if self.last[b]})
        ends = {}
        for b, (s, a, r, next_s, terminated, truncated) in enumerate(now):
            z = self.z[b]
            z *= self.h.gamma * self.h.lam if self.last[b] else 0
            z[s, a] = {
                "accumulating": z[s, a] + 1,
                "replacing": 1,
                "dutch": z[s, a] + 1 - self.h.learning_rate * z[s, a],
            }[self.h.trace]
            self.last[b] = s, a, r, values[b]
            if terminated or truncated:
                ends[b] = self.expected(next_s), self.h.gamma * (not terminated)
        self.learn(ends)
        for b in ends:
            self.last[b] = None


class ExpectedSarsaLoop(Loop):
    def following(self, s):
        return self.expected(s)

    def step(self, t, now):
        for s, a, *_ in now:
            self.visits[s, a] += 1
        self.add(
            [
                (
                    s,
                    a,
                    self.alpha(s, a) * (r + self.h.gamma * (not end) * self.following(next_s) - self.q[s, a]),
                )
                for s, a, r, next_s, end, _ in now
            ]
        )


class QLearningLoop(ExpectedSarsaLoop):
    def following(self, s):
        return max(self.q[s])


class WatkinsLoop(Loop):
    """The forward view: each error reaches every earlier pair of the episode, as far back as actions were best."""

    def __init__(self, *args):
        super().__init__(*args)
        self.episodes = [[] for _ in range(self.num_envs)]

    def step(self, t, now):
        for s, a, *_ in now:
            self.visits[s, a] += 1
        changes = []
        for b, (s, a, r, next_s, terminated, truncated) in enumerate(now):
            if self.q[s, a] < max(self.q[s]):
                self.episodes[b] = []
            self.episodes[b].append((s, a, self.alpha(s, a)))
            delta = r + self.h.gamma * (not terminated) * max(self.q[next_s]) - self.q[s, a]
            seen = set()
            for age, (s_k, a_k, alpha) in enumerate(reversed(self.episodes[b])):
                if self.h.trace == "accumulating" or (s_k, a_k) not in seen:
                    changes.append((s_k, a_k, alpha * (self.h.gamma * self.h.lam) ** age * delta))
                seen.add((s_k, a_k))
            if terminated or truncated:
                self.episodes[b] = []
        self.add(changes)


class TreeBackupLoop(Loop):
    def __init__(self, *args):
        super().__init__(*args)
        self.episodes = [[] for _ in range(self.num_envs)]

    def target(self, waiting):
        _, _, r, next_s, terminated, _ = waiting[0]
        gamma, policy = self.h.gamma * (not terminated), self.policy(next_s, self.h.target_epsilon)
        if len(waiting) == 1:
            return r + gamma * self.expected(next_s, self.h.target_epsilon)
        taken = waiting[1][1]
        others = sum(policy[a] * self.q[next_s, a] for a in range(N_ACTIONS) if a != taken)
        return r + gamma * others + gamma * policy[taken] * self.target(waiting[1:])

    def change(self, waiting):
        s, a, *_ = waiting[0]
        return s, a, self.alpha(s, a) * (self.target(waiting) - self.q[s, a])

    def step(self, t, now):
        n, episodes = self.h.n, self.episodes
        for b, row in enumerate(now):
            self.visits[row[0], row[1]] += 1
            episodes[b].append(row)
        for left in range(n, 0, -1):
            here = [
                b for b, row in enumerate(now) if len(episodes[b]) >= left and (left == n or row[4] or row[5])
            ]
            self.add([self.change(episodes[b][-left:]) for b in here])
        for b, row in enumerate(now):
            if row[4] or row[5]:
                episodes[b] = []


class DoubleQLearningLoop(Loop):
    """With the same coins: each step's key decides which of the two tables learns."""

    def __init__(self, *args):
        super().__init__(*args)
        self.q, self.visits = np.stack([self.q] * 2), np.stack([self.visits] * 2)
        keys = jax.random.split(jax.random.key(0), self.steps)
        self.coins = np.asarray(jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (self.num_envs,)))(keys))
        assert 0.4 < self.coins.mean() < 0.6

    def step(self, t, now):
        changes = []
        for i, (s, a, *_) in zip(self.coins[t].astype(int), now, strict=True):
            self.visits[i, s, a] += 1
        for i, (s, a, r, next_s, terminated, _) in zip(self.coins[t].astype(int), now, strict=True):
            best = max(range(N_ACTIONS), key=lambda a, i=i, s=next_s: self.q[i, s, a])
            target = r + self.h.gamma * (not terminated) * self.q[1 - i, next_s, best]
            alpha = self.h.learning_rate / self.visits[i, s, a] ** (self.h.learning_rate_power or 0)
            changes.append((i, s, a, alpha * (target - self.q[i, s, a])))
        for *place, change in changes:
            self.q[tuple(place)] += change


COMMON = dict(gamma=0.9, epsilon=0.3, initial_value=0.5)
CASES = [
    (QLearningLoop, adv.QLearning()),
    (SarsaLoop, adv.Sarsa()),
    (SarsaLoop, adv.Sarsa(n=3)),
    (ExpectedSarsaLoop, adv.ExpectedSarsa()),
    (DoubleQLearningLoop, adv.DoubleQLearning()),
    (WatkinsLoop, adv.WatkinsQLambda(lam=0.8)),
    (WatkinsLoop, adv.WatkinsQLambda(lam=0.8, trace="replacing")),
    (TreeBackupLoop, adv.TreeBackup()),
    (TreeBackupLoop, adv.TreeBackup(n=2, target_epsilon=0.2)),
    (SarsaLambdaLoop, adv.SarsaLambda(lam=0.8)),
    (SarsaLambdaLoop, adv.SarsaLambda(lam=0.8, trace="replacing")),
    (SarsaLambdaLoop, adv.SarsaLambda(lam=0.8, trace="dutch")),
]


@pytest.mark.parametrize(("num_envs", "power"), [(1, None), (2, 0.6)])
@pytest.mark.parametrize(("loop", "algorithm"), CASES)
def test_every_step_is_the_definition(loop, algorithm, num_envs, power):
    if loop is SarsaLambdaLoop:
        power = None  # the textbook's traces know one step size
    rate = 0.3 if power is None else 0.8
    algorithm = dataclasses.replace(algorithm, learning_rate=rate, learning_rate_power=power, **COMMON)
    rollout = facts(num_envs, num_envs)
    tables, state = learned(algorithm, rollout)
    np.testing.assert_allclose(tables, loop(algorithm, rollout).run(), rtol=1e-4, atol=1e-4)
    if power is not None:
        assert int(state.table.visits.sum()) == rollout.reward.size


def episodes_of(rollout):
    """Whole episodes in the order of their ends: lists of `(s, a, r, s', terminated, behaviour's probability)`."""
    running, ended = [[] for _ in rollout.reward[0]], []
    for t in range(len(rollout.reward)):
        for b, episode in enumerate(running):
            episode.append([rollout[i][t, b].item() for i in (0, 1, 2, 3, 4, 6)])
            if rollout.terminated[t, b] or rollout.truncated[t, b]:
                ended.append(list(episode))
                episode.clear()
    return ended


def in_rollouts(algorithm, rollout, n_steps):
    """The state after learning from the same facts, `n_steps` at a time."""
    steps, num_envs = rollout.reward.shape
    state = algorithm.init(jax.random.key(0), Spec(*SPACES, num_envs, steps * num_envs))
    update = jax.jit(algorithm.update)
    for t in range(0, steps, n_steps):
        part = jax.tree.map(lambda x, t=t: x[t : t + n_steps], rollout)
        state, metrics = update(state, part, jax.random.key(t))
        assert all(np.isfinite(value).all() for value in metrics.values())
    return state


@pytest.mark.parametrize("visits", ["first", "every"])
@pytest.mark.parametrize("importance", ["none", "ordinary", "weighted"])
def test_monte_carlo_control_is_the_mean_of_returns(importance, visits):
    gamma, epsilon, largest = 0.9, 0.3, 20.0
    rollout = facts(1, 2)
    rollout = rollout._replace(
        extras=np.random.default_rng(2).uniform(0.2, 1, rollout.reward.shape).astype(np.float32)
    )
    algorithm = adv.MonteCarloControl(
        importance, visits, largest, gamma=gamma, epsilon=epsilon, initial_value=0.5, max_episode=50
    )
    state = in_rollouts(algorithm, rollout, 40)
    loop = Loop(algorithm, rollout)
    earned, weights = np.zeros_like(loop.q), np.zeros_like(loop.q)
    target_epsilon = epsilon if importance == "none" else 0.0
    for episode in episodes_of(rollout):
        *_, next_s, terminated, _ = episode[-1]
        g, rho, seen = 0.0 if terminated else loop.expected(next_s, target_epsilon), 1.0, []
        for t in reversed(range(len(episode))):
            s, a, r, _, _, b = episode[t]
            g = r + gamma * g
            first = (s, a) not in [row[:2] for row in map(tuple, episode[:t])]
            if visits == "every" or first:
                cut = min(rho, largest)
                seen.append(
                    (s, a, g * (1 if importance == "none" else cut), cut if importance == "weighted" else 1)
                )
            rho *= loop.policy(s, target_epsilon)[a] / b
        for s, a, x, weight in seen:
            earned[s, a] += x
            weights[s, a] += weight
        np.divide(earned, weights, out=loop.q, where=weights > 0)
    np.testing.assert_allclose(state.table.q, loop.q, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("visits", ["first", "every"])
@pytest.mark.parametrize("importance", ["ordinary", "weighted"])
def test_off_policy_monte_carlo_is_the_weighted_mean_of_returns(importance, visits):
    gamma, largest, rng = 0.9, 5.0, np.random.default_rng(3)
    pi, b = rng.dirichlet(np.ones(N_ACTIONS), (2, N_STATES))
    pi[0] = [0, 1, 0]
    algorithm = adv.MonteCarloOffPolicy(
        importance, gamma, visits, largest, initial_value=0.5, max_episode=50, policy=pi, behaviour=b
    )
    rollout = facts(1, 2)
    state = in_rollouts(algorithm, rollout, 40)
    v, earned, weights = np.full(N_STATES, 0.5), np.zeros(N_STATES), np.zeros(N_STATES)
    for episode in episodes_of(rollout._replace(extras=rollout.reward)):
        g, rho, seen = 0.0 if episode[-1][4] else v[episode[-1][3]], 1.0, []
        for t in reversed(range(len(episode))):
            s, a, r, *_ = episode[t]
            g, rho = r + gamma * g, rho * pi[s, a] / b[s, a]
            if visits == "every" or s not in [row[0] for row in episode[:t]]:
                cut = min(rho, largest)
                seen.append((s, cut * g, cut if importance == "weighted" else 1))
        for s, x, weight in seen:
            earned[s] += x
            weights[s] += weight
        np.divide(earned, weights, out=v, where=weights > 0)
    np.testing.assert_allclose(state.v, v, rtol=1e-4, atol=1e-4)


def test_off_policy_monte_carlo_refuses_a_behaviour_that_shows_too_little():
    algorithm = adv.MonteCarloOffPolicy(behaviour=[0, 1, 2, 0, 1])
    with pytest.raises(ValueError, match=r"policy takes action 1 in state 0 but behaviour never does"):
        algorithm.init(jax.random.key(0), Spec(*SPACES))


# -- identities ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (adv.ExpectedSarsa(epsilon=0.0), adv.QLearning()),
        (adv.TreeBackup(n=1), adv.QLearning()),
        (adv.TreeBackup(n=1, target_epsilon=0.3), adv.ExpectedSarsa(epsilon=0.3)),
        (adv.WatkinsQLambda(lam=0.0), adv.QLearning()),
        (adv.SarsaLambda(lam=0.0), adv.Sarsa()),
        (adv.SarsaLambda(lam=0.0, trace="dutch"), adv.Sarsa()),
    ],
)
def test_methods_that_are_one_another(one, other):
    fields = dict(learning_rate=0.8, learning_rate_power=0.6)
    rollout = facts(4, 2)
    (left, _), (right, _) = (
        learned(dataclasses.replace(algorithm, **fields), rollout) for algorithm in (one, other)
    )
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


def test_monte_carlo_is_sarsa_with_a_trace_of_one():
    """Offline they are the same; online with dutch traces and one environment, too, at an episode's end."""
    rollout = facts(5, 1, steps=60)
    end = int(np.flatnonzero(rollout.terminated)[0])
    assert end > 5
    rollout = jax.tree.map(
        lambda x: x[: end + 1], rollout._replace(truncated=np.zeros_like(rollout.truncated))
    )
    dutch = adv.SarsaLambda(lam=1.0, trace="dutch", gamma=0.9, learning_rate=0.3)
    tables, _ = learned(dutch, rollout)
    q, g = np.zeros((N_STATES, N_ACTIONS)), 0.0
    returns = []
    for t in reversed(range(end + 1)):
        g = float(rollout.reward[t, 0]) + 0.9 * g
        returns.append((rollout.obs[t, 0], rollout.action[t, 0], g))
    for s, a, g in reversed(returns):
        q[s, a] += 0.3 * (g - q[s, a])
    np.testing.assert_allclose(tables[-1], q, rtol=1e-4, atol=1e-5)


# -- many seeds: exact values, published figures ------------------------------------------------------------


def played(algorithm, world, steps, num_seeds, num_envs=1, first_seed=0):
    """Train seeds side by side: `-> state, returns of each seed's episodes`."""
    world = make(world) if isinstance(world, str) else world
    spec = Spec(world.observation_space, world.action_space, num_envs, steps * num_envs)
    driver = DeviceDriver(algorithm, world, spec, num_seeds)
    seeds = np.arange(first_seed, first_seed + num_seeds)
    state = jax.vmap(lambda key: algorithm.init(key, spec))(jax.vmap(jax.random.key)(seeds + 10_000))
    driver.start(state, jax.vmap(jax.random.key)(seeds))
    run_keys = jax.vmap(jax.random.key)(seeds + 20_000)
    iterations, done, returns = steps // algorithm.n_steps, 0, [[] for _ in seeds]
    while done < iterations:
        span = driver.span(done, done * algorithm.n_steps * num_envs, steps * num_envs)
        state, _, episodes, *_ = driver.iterate(state, run_keys, span)
        done += span.count
        for mine, finished in zip(returns, episodes, strict=True):
            mine.append(finished.returns)
    return jax.device_get(state), [np.concatenate(parts) for parts in returns]


def exact_q(mdp, gamma, epsilon=0.0):
    """`Q = r + gamma P ((1 - epsilon) max Q + epsilon mean Q)`: of the best policy that explores so much."""
    q = np.zeros((mdp.n_states, mdp.n_actions))
    for _ in range(2000):
        q = mdp.expected_reward + gamma * mdp.expected((1 - epsilon) * q.max(1) + epsilon * q.mean(1))
    return q


def small_world():
    return TabularWorld(random_mdp(np.random.default_rng(11), 4, 3, gamma=0.8, ends=True, by_successor=True))


slow = pytest.mark.slow
SLOWER = dict(gamma=0.8, epsilon=0.5, learning_rate=1.0, learning_rate_power=0.7)
MEANS = dict(SLOWER, learning_rate_power=1.0, n_steps=250, max_episode=40)


@pytest.mark.parametrize(
    ("algorithm", "epsilon"),
    [
        (adv.QLearning(**SLOWER), 0.0),
        (adv.DoubleQLearning(**SLOWER), 0.0),
        pytest.param(dataclasses.replace(adv.WatkinsQLambda(lam=0.5), **SLOWER), 0.0, marks=slow),
        pytest.param(dataclasses.replace(adv.TreeBackup(n=3), **SLOWER), 0.0, marks=slow),
        pytest.param(dataclasses.replace(adv.MonteCarloControl("weighted"), **MEANS), 0.0, marks=slow),
        pytest.param(dataclasses.replace(adv.MonteCarloControl("ordinary"), **MEANS), 0.0, marks=slow),
        pytest.param(dataclasses.replace(adv.Sarsa(), **SLOWER), 0.5, marks=slow),
        (dataclasses.replace(adv.Sarsa(n=3), **SLOWER), 0.5),
        (adv.ExpectedSarsa(**SLOWER), 0.5),
        pytest.param(dataclasses.replace(adv.SarsaLambda(lam=0.5), **SLOWER), 0.5, marks=slow),
        pytest.param(dataclasses.replace(adv.SarsaLambda(lam=0.5, trace="dutch"), **SLOWER), 0.5, marks=slow),
        pytest.param(dataclasses.replace(adv.MonteCarloControl(), **MEANS), 0.5, marks=slow),
    ],
)
def test_the_values_become_the_exact_ones(algorithm, epsilon):
    world, num_seeds = small_world(), 8
    state, _ = played(algorithm, world, 4000, num_seeds, num_envs=2)
    q = state.table.q.mean(1) if isinstance(algorithm, adv.DoubleQLearning) else state.table.q
    exact, other = exact_q(world.mdp, 0.8, epsilon), exact_q(world.mdp, 0.8, 0.5 - epsilon)
    assert np.abs(exact - other).max() > 0.3, "the two kinds of values differ"
    wrong = (q - exact)[:, ~world.mdp.terminal]
    standard_error = wrong.std(0) / np.sqrt(num_seeds)
    assert (np.abs(wrong.mean(0)) < 0.05 + 4 * standard_error).all()
    assert np.sqrt((wrong**2).mean()) < 0.15


CLIFF = dict(learning_rate=0.5, epsilon=0.1, gamma=1.0)


@pytest.mark.parametrize(
    ("algorithm", "steps", "published"),
    [
        (dataclasses.replace(adv.Sarsa(), **CLIFF), 18_432, -27.6),
        (adv.QLearning(**CLIFF), 11_264, -48.8),
        (adv.ExpectedSarsa(**CLIFF), 11_264, -21.0),
    ],
)
@pytest.mark.slow
def test_the_return_while_learning_on_the_cliff(algorithm, steps, published):
    """Sutton & Barto 2018, example 6.6 and figure 6.3: episodes 101 to 500, mean of 50 runs."""
    _, returns = played(algorithm, "jax/Cliff-v0", steps, num_seeds=50)
    means = np.array([mine[100:500].mean() for mine in returns])
    assert means.mean() == pytest.approx(published, abs=4 * means.std() / np.sqrt(50))


def greedy_length(world, q):
    """Steps from the start to the end of a deterministic world; infinite where the policy walks in a circle."""
    assert world.outcomes.successor.shape[2] == 1
    s = int(world.mdp.start.argmax())
    for length in range(world.mdp.n_states):
        if world.mdp.terminal[s]:
            return length
        s = int(world.outcomes.successor[s, q[s].argmax(), 0])
    return np.inf


@pytest.mark.parametrize(("name", "shortest"), [("WindyGrid-v0", 15), ("WindyGridKing-v0", 7)])
def test_sarsa_finds_the_shortest_way_across_the_wind(name, shortest):
    """Sutton & Barto 2018, example 6.5 and exercise 6.9."""
    algorithm = adv.Sarsa(learning_rate=0.5, epsilon=adv.Linear(0.1, 0.0), gamma=1.0)
    state, _ = played(algorithm, "jax/" + name, 20_480, num_seeds=16)
    lengths = np.array([greedy_length(make("jax/" + name), q) for q in state.table.q])
    assert lengths.min() == shortest
    assert lengths.mean() < shortest + 1.5


@pytest.mark.slow
def test_double_q_learning_is_not_drawn_to_noise():
    """Sutton & Barto 2018, example 6.7 and figure 6.5; exploring alone goes left in a twentieth of the episodes."""
    fields = dict(learning_rate=0.1, epsilon=0.1, gamma=1.0)
    left = []
    for algorithm in (adv.QLearning(**fields), adv.DoubleQLearning(**fields)):
        _, returns = played(algorithm, "jax/MaximisationBias-v0", 768, num_seeds=100)
        left.append(np.mean([mine[:300] != 0 for mine in returns], axis=0))  # what is earned on the right
    single, double = left
    assert single[20:50].mean() > 0.85
    assert double[20:50].mean() < 0.6
    assert 0.1 < single[-50:].mean() < 0.25
    assert 0.04 < double[-50:].mean() < 0.1


# -- runs ---------------------------------------------------------------------------------------------------

QUIET = dict(tensorboard=False, eval_episodes=0, checkpoint_every=10_000)
AS_RUN = [
    (adv.Sarsa(n=3), "FrozenLake-v1"),
    (adv.ExpectedSarsa(), "Taxi-v4"),
    (adv.SarsaLambda(trace="dutch"), "CliffWalking-v1"),
    (adv.DoubleQLearning(), "FrozenLake-v1"),
    (adv.WatkinsQLambda(), "Taxi-v4"),
    (adv.TreeBackup(), "CliffWalking-v1"),
]


@pytest.mark.parametrize(
    ("algorithm", "environment"),
    [pytest.param(*case, marks=[slow] if place in (1, 3, 4, 5) else []) for place, case in enumerate(AS_RUN)],
)
def test_promise_11_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, algorithm, environment):
    options = QUIET | dict(checkpoint_every=300, total_timesteps=600, num_envs=2, workers=0)
    whole = adv.train(algorithm, environment, out=tmp_path / "whole", **options)
    adv.train(algorithm, environment, out=tmp_path / "part", callback=stop_at(140), **options)
    assert adv.load(tmp_path / "part").step < 600
    adv.resume(tmp_path / "part")
    files = [tmp_path / name / "last" / "state.safetensors" for name in ("whole", "part")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert type(adv.load(whole.path).algorithm) is type(algorithm)


@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(algorithm, marks=[slow] if place else []) for place, (algorithm, _) in enumerate(AS_RUN)],
)
def test_promise_2_host_and_device_learn_the_same_and_evaluation_works(tmp_path, monkeypatch, algorithm):
    """The cliff has no chance in it; the device trains two seeds at once."""
    options = QUIET | dict(total_timesteps=1024, num_envs=2, seed=3)
    host = adv.train(algorithm, "CliffWalking-v1", out=tmp_path / "host", workers=0, **options)
    device = adv.train(algorithm, "jax/CliffWalking-v1", out=tmp_path / "device", num_seeds=2, **options)
    np.testing.assert_allclose(host.agent.state.table.q, device[0].agent.state.table.q, rtol=1e-4, atol=1e-4)
    assert np.abs(host.agent.state.table.q).max() > 0.5
    assert (device[0].agent.state.table.q != device[1].agent.state.table.q).any()
    monkeypatch.setattr(evaluation, "LONGEST", 50)
    result = adv.evaluate(adv.load(host.path), "CliffWalking-v1", episodes=2)
    assert (result.lengths <= 50).all()
    assert (result.returns <= -13).all()


OTHERS = {
    "learning_rate": 0.4,
    "learning_rate_power": 0.5,
    "gamma": 0.7,
    "epsilon": 0.6,
    "epsilon_power": 0.5,
    "initial_value": 1.0,
    "lam": 0.3,
    "n": 2,
    "target_epsilon": 0.5,
}


@pytest.mark.parametrize("algorithm", [cls() for cls in BY_STEP])
def test_every_hyperparameter_changes_what_is_learned_or_done(algorithm):
    def outcome(algorithm):
        tables, state = learned(algorithm, rollout)
        return tables, np.asarray(algorithm.actor(state).epsilon)

    rollout = facts(6, 2, steps=40)
    before = outcome(algorithm)
    fields = dataclasses.fields(algorithm)
    others = [(field.name, OTHERS[field.name]) for field in fields if field.name != "trace"]
    if "trace" in [field.name for field in fields]:
        others.append(("trace", "replacing"))
    for name, value in others:
        after = outcome(dataclasses.replace(algorithm, **{name: value}))
        assert not all(map(np.array_equal, before, after)), name
        if name not in ("epsilon", "epsilon_power"):
            assert not np.array_equal(before[0], after[0]), name


def test_actions_are_drawn_from_the_policy():
    algorithm = adv.Sarsa(epsilon=0.3)
    state = algorithm.init(jax.random.key(0), Spec(*SPACES))
    q = np.array([[0, 1, 1], [2, 1, 0], [0, 0, 0], [0, 3, 1], [1, 0, 2]], np.float32)
    actor = algorithm.actor(state._replace(table=state.table._replace(q=jnp.asarray(q))))
    noise = (np.arange(3000) + 0.5) / 3000
    for s in range(N_STATES):
        action, _, _ = algorithm.act(actor, jnp.full(3000, s), (), jnp.asarray(noise, jnp.float32))
        best = q[s] == q[s].max()
        np.testing.assert_allclose(
            np.bincount(action, minlength=3) / 3000, 0.1 + 0.7 * best / best.sum(), atol=2e-3
        )
        assert algorithm.greedy(actor, jnp.array([s]), ())[0] == q[s].argmax()


def test_double_q_learning_explores_by_the_visits_of_both_tables_and_acts_by_their_mean():
    algorithm = adv.DoubleQLearning(epsilon=adv.Linear(0.8, 0.0), epsilon_power=0.5)
    state = algorithm.init(jax.random.key(0), Spec(*SPACES, 1, 100))
    q, visits = np.zeros((2, 2, N_STATES, N_ACTIONS))
    visits[:, 1] = [[1, 0, 3], [5, 0, 0]]
    visits[1, 2, 0] = 16
    q[:, 0] = [[1, 0, 3], [2, 6, 0]]
    table = state.table._replace(q=jnp.asarray(q, jnp.float32), visits=jnp.asarray(visits, jnp.int32))
    actor = algorithm.actor(state._replace(table=table, clock=state.clock._replace(step=jnp.uint32(50))))
    np.testing.assert_allclose(actor.epsilon, 0.4 / np.sqrt([1, 9, 16, 1, 1]), rtol=1e-6)
    np.testing.assert_allclose(actor.q[0], [1.5, 3, 1.5])


@pytest.mark.parametrize("cls", BY_STEP)
def test_what_is_not_finite_or_not_allowed_is_refused(cls):
    box = gymnasium.spaces.Box(0, 1, (2,))
    with pytest.raises(ValueError, match="finite observation space"):
        cls().init(jax.random.key(0), Spec(box, SPACES[1]))
    with pytest.raises(ValueError, match="Discrete action space"):
        cls().init(jax.random.key(0), Spec(SPACES[0], box))
    with pytest.raises(ValueError, match="learning_rate=1.5 is not allowed"):
        cls(learning_rate=1.5)
