"""Dyna and prioritised sweeping: against definitions in float64, exact values, published figures, and runs."""

import dataclasses
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_runs import stop_at
from random_tables import random_mdp

import advantage as adv
from advantage.algorithms.hyperparameters import schedule_value
from advantage.algorithms.registry import algorithm_name, from_json, to_json
from advantage.algorithms.tabular.learned_model import repeats
from advantage.environments.tables.maze import blocking_maze, dyna_maze, shortcut_maze
from advantage.environments.tables.world import TabularWorld
from advantage.training import results
from advantage.types import Rollout, Spec

S, A, END = 5, 3, 5
SPACES = gymnasium.spaces.Discrete(S), gymnasium.spaces.Discrete(A)
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """A curve takes longer to draw than one of these runs to train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "plot_curve", lambda folder: None)
        yield


# -- against definitions ------------------------------------------------------------------------------------


def made_up(seed, num_envs, steps=80):
    """A rollout of a world without sense, in which states repeat and episodes end in both ways."""
    rng = np.random.default_rng(seed)
    s, a, next_s = (rng.integers(n, size=(steps, num_envs), dtype=np.int32) for n in (S, A, S))
    terminated, truncated = rng.random((2, steps, num_envs)) < 0.1
    reward = rng.normal(size=s.shape).astype(np.float32)
    assert (terminated & ~truncated).any() and (truncated & ~terminated).any()
    return Rollout(s, a, reward, next_s, terminated, truncated)


@quick_jit
def feed(algorithm, state, rollout, keys):
    def one(state, inputs):
        row, key = inputs
        state, metrics = algorithm.update(state, jax.tree.map(lambda x: x[None], row), key)
        return state, (state.table.q, metrics)

    return jax.lax.scan(one, state, (rollout, keys))


def keys_of(rollout, seed=0):
    return jax.random.split(jax.random.key(seed), len(rollout.reward))


def learned(algorithm, rollout, seed=0, spaces=SPACES):
    """The table after every step, and the last state."""
    spec = Spec(*spaces, rollout.reward.shape[1], rollout.reward.size)
    state = algorithm.init(jax.random.key(0), spec)
    state, (tables, metrics) = feed(algorithm, state, rollout, keys_of(rollout, seed))
    assert all(np.isfinite(value).all() for value in metrics.values())
    assert int(state.clock.step) == int(state.table.visits.sum()) == rollout.reward.size
    return np.asarray(tables), state


def numbers(rollout):
    """Plain numbers `(s, a, r, s')` of each environment, step by step; s' is END after the end."""
    for t in range(len(rollout.reward)):
        rows = zip(*(leaf[t].tolist() for leaf in rollout[:5]), strict=True)
        yield t, [(s, a, r, END if terminated else next_s) for s, a, r, next_s, terminated in rows]


def chosen(values, epsilon, u):
    """Epsilon-greedy with one uniform number."""
    explores = u < epsilon
    share = u / epsilon if explores else (u - epsilon) / (1 - epsilon)
    candidates = range(A) if explores else np.flatnonzero(values == values.max())
    return candidates[int(share * len(candidates))]


def dyna(h, rollout, keys):
    """The boxes of Dyna-Q and Dyna-Q+, with lists and dictionaries."""
    q, visits = np.full((S, A), float(h.initial_value)), np.zeros((S, A), int)
    outcomes, seen, tried, tables = {}, [], {}, []
    num_envs = rollout.reward.shape[1]
    for t, rows in numbers(rollout):
        key_real, key_imagined = jax.random.split(keys[t])
        u_real = np.asarray(jax.random.uniform(key_real, (num_envs,)), float)
        keys_imagined, size = jax.random.split(key_imagined, 3), num_envs * h.planning_steps
        u_pair, u_outcome, u_action = (np.asarray(jax.random.uniform(k, (size,))) for k in keys_imagined)
        share = t / len(rollout.reward)
        epsilon = schedule_value(h.epsilon, share) / np.maximum(visits.sum(1), 1) ** (h.epsilon_power or 0.0)

        def value(q, s, u, epsilon=epsilon):
            if s == END:
                return 0.0
            if h.target == "sarsa":
                return q[s, chosen(q[s], epsilon[s], u)]
            best = q[s] == q[s].max()
            policy = epsilon[s] / A + (1 - epsilon[s]) * best / best.sum()
            return q[s].max() if h.target == "q-learning" else policy @ q[s]

        def alpha(s, a, share=share):
            return schedule_value(h.learning_rate, share) / max(visits[s, a], 1) ** (
                h.learning_rate_power or 0.0
            )

        for s, a, r, next_s in rows:
            visits[s, a] += 1
            outcomes.setdefault((s, a), []).append((next_s, r))
            tried[s, a] = (t + 1) * num_envs
            for entry in [(s, a)] if h.exploration_bonus is None else [(s, i) for i in range(A)]:
                if entry not in seen:
                    seen.append(entry)
        changes = [
            (s, a, alpha(s, a) * (r + h.gamma * value(q, next_s, u) - q[s, a]))
            for (s, a, r, next_s), u in zip(rows, u_real, strict=True)
        ]
        for s, a, change in changes:
            q[s, a] += change
        for n in range(size):
            s, a = seen[int(u_pair[n] * np.float32(len(seen)))]
            known = outcomes.get((s, a), [(s, 0.0)])
            if h.model == "last":
                next_s, r = known[-1]
            else:
                next_s = sorted(known)[int(u_outcome[n] * np.float32(len(known)))][0]
                r = np.mean([r for _, r in known])
            if h.exploration_bonus is not None:
                r += h.exploration_bonus * np.sqrt((t + 1) * num_envs - tried.get((s, a), 0))
            q[s, a] += alpha(s, a) * (r + h.gamma * value(q, next_s, float(u_action[n])) - q[s, a])
        tables.append(q.copy())
    return np.array(tables)


COMMON = dict(gamma=0.9, epsilon=0.3, learning_rate=0.3, initial_value=0.5, planning_steps=3)
DECAY = dict(learning_rate=0.8, learning_rate_power=0.6, epsilon=0.9, epsilon_power=0.4)
SCHEDULE = dict(learning_rate=adv.Linear(0.5, 0.1), epsilon=adv.Linear(0.8, 0.1))


@pytest.mark.parametrize(
    ("num_envs", "fields"),
    [
        (1, {}),
        (3, dict(target="sarsa", **SCHEDULE)),
        (3, dict(target="expected-sarsa", model="frequencies", **DECAY)),
        (1, dict(exploration_bonus=0.2, target="sarsa", **DECAY)),
        (3, dict(exploration_bonus=0.2)),
    ],
)
def test_every_step_of_dyna_is_the_definition(num_envs, fields):
    algorithm, rollout = adv.Dyna(**(COMMON | fields)), made_up(num_envs, num_envs)
    tables, _ = learned(algorithm, rollout)
    expected = dyna(algorithm, rollout, keys_of(rollout))
    np.testing.assert_allclose(tables, expected, rtol=1e-4, atol=1e-4)


def prioritised_sweeping(h, rollout):
    """The box, with a dictionary for a queue: `-> tables, updates of each step`."""
    q, model, queue = np.full((S, A), float(h.initial_value)), {}, {}
    tables, updates = [], []
    for t, rows in numbers(rollout):

        def error(s, a):
            r, next_s = model[s, a]
            return r + h.gamma * (0.0 if next_s == END else q[next_s].max()) - q[s, a]

        def enqueue(pair):
            if abs(error(*pair)) > h.threshold:
                queue[pair] = max(queue.get(pair, 0.0), abs(error(*pair)))

        model.update({(s, a): (r, next_s) for s, a, r, next_s in rows})
        for s, a, *_ in rows:
            enqueue((s, a))
        budget = n = h.planning_steps * len(rows)
        while n and queue:
            pair = max(queue, key=lambda pair: queue[pair])
            del queue[pair]
            q[pair] += schedule_value(h.learning_rate, t / len(rollout.reward)) * error(*pair)
            for before, (_, next_s) in model.items():
                if next_s == pair[0]:
                    enqueue(before)
            n -= 1
        tables.append(q.copy())
        updates.append(budget - n)
    return np.array(tables), updates


@pytest.mark.parametrize(
    ("num_envs", "fields"),
    [(1, dict(learning_rate=0.9)), (3, dict(learning_rate=adv.Linear(0.9, 0.4), threshold=0.3))],
)
def test_every_step_of_prioritised_sweeping_is_the_definition(num_envs, fields):
    """With a step size below 1: at 1, priorities that are equal in theory differ by rounding."""
    algorithm = adv.PrioritisedSweeping(gamma=0.9, initial_value=0.5, planning_steps=3, **fields)
    rollout = made_up(num_envs, num_envs)
    tables, _ = learned(algorithm, rollout)
    expected, updates = prioritised_sweeping(algorithm, rollout)
    assert len(set(updates)) > 1, "the queue runs empty at times"
    np.testing.assert_allclose(tables, expected, rtol=1e-4, atol=1e-4)


def test_repeats():
    np.testing.assert_array_equal(repeats(jnp.array([3, 1, 3, 3, 1, 0])), [0, 0, 1, 1, 1, 0])


# -- identities ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "model_free"), [("q-learning", adv.QLearning), ("expected-sarsa", adv.ExpectedSarsa)]
)
def test_without_planning_it_is_the_model_free_method(target, model_free):
    fields = dict(gamma=0.9, initial_value=0.5) | DECAY
    rollout = made_up(4, 3)
    one, _ = learned(adv.Dyna(planning_steps=0, target=target, **fields), rollout)
    other, _ = learned(model_free(**fields), rollout)
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    if model_free is adv.QLearning:
        np.testing.assert_array_equal(one, other)


def test_sarsa_is_expected_sarsa_on_average():
    """Over a' of one step, from the same table: the mean is that of the policy, within five standard errors."""
    algorithm = adv.Dyna(planning_steps=0, target="sarsa", gamma=0.9, epsilon=0.5)
    rollout, draws = jax.tree.map(lambda x: x[:20], made_up(5, 1)), 4000
    _, state = learned(algorithm, rollout)
    row = jax.tree.map(lambda x: x[-1:], rollout)._replace(terminated=np.zeros((1, 1), bool))
    update = quick_jit(
        jax.vmap(lambda algorithm, key: algorithm.update(state, row, key)[0].table.q, (None, 0))
    )
    tables = np.asarray(update(algorithm, jax.random.split(jax.random.key(1), draws)), float)
    expected = dataclasses.replace(algorithm, target="expected-sarsa").update(state, row, jax.random.key(2))
    error = np.abs(tables.mean(0) - expected[0].table.q)
    assert tables.std(0).max() > 1e-3
    assert (error <= 5 * tables.std(0) / np.sqrt(draws) + 1e-6).all()


def deterministic(seed):
    """A rollout of random actions in a random world without chance: `-> rollout, exact action values`."""
    rng = np.random.default_rng(seed)
    successor, reward = rng.integers(S + 1, size=(S, A)), rng.normal(size=(S, A)).astype(np.float32)
    s, a = (rng.integers(n, size=(400, 1), dtype=np.int32) for n in (S, A))
    end = successor[s, a] == END
    q = np.zeros((S, A))
    for _ in range(500):
        q = reward + 0.9 * np.append(q.max(1), 0.0)[successor]
    next_s = np.where(end, 0, successor[s, a]).astype(np.int32)
    return Rollout(s, a, reward[s, a], next_s, end, np.zeros_like(end)), q


def test_without_chance_both_models_imagine_the_same():
    rollout, _ = deterministic(0)
    fields = COMMON | dict(planning_steps=10)
    one, other = (learned(adv.Dyna(model=model, **fields), rollout)[0] for model in ("last", "frequencies"))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "algorithm",
    [
        adv.Dyna(gamma=0.9, learning_rate=1.0, planning_steps=10),
        adv.PrioritisedSweeping(gamma=0.9, planning_steps=10, threshold=1e-6),
    ],
)
def test_without_chance_the_values_become_the_exact_ones(algorithm):
    rollout, q = deterministic(1)
    tables, state = learned(algorithm, rollout)
    assert state.table.visits.min() > 0
    np.testing.assert_allclose(tables[-1], q, atol=1e-4)


def test_sweeping_to_the_end_solves_the_model():
    """With enough updates no pair that was tried is off by more than alpha leaves, at any step."""
    rollout, _ = deterministic(2)
    algorithm = adv.PrioritisedSweeping(gamma=0.9, planning_steps=1000, threshold=1e-5)
    tables, _ = learned(algorithm, rollout)
    known = {}
    for (t, [(s, a, r, next_s)]), q in zip(numbers(rollout), tables, strict=True):
        known[s, a] = r, next_s
        for (s, a), (r, next_s) in known.items():
            target = r + 0.9 * (0.0 if next_s == END else q[next_s].max())
            assert abs(target - q[s, a]) < 2e-5, (t, s, a)


def test_frequencies_learn_a_world_of_chance():
    mdp, rng, steps = random_mdp(np.random.default_rng(3), S, A, gamma=0.8), np.random.default_rng(4), 4000
    s, a = (rng.integers(n, size=(steps, 1), dtype=np.int32) for n in (S, A))
    until = mdp.transition[s, a].cumsum(-1)
    next_s = np.minimum((until < rng.random((steps, 1, 1))).sum(-1), S - 1).astype(np.int32)
    never = np.zeros((steps, 1), bool)
    rollout = Rollout(s, a, mdp.expected_reward[s, a].astype(np.float32), next_s, never, never)
    q = np.zeros((S, A))
    for _ in range(500):
        q = mdp.expected_reward + 0.8 * mdp.expected(q.max(1))
    algorithm = adv.Dyna(
        model="frequencies", gamma=0.8, learning_rate=adv.Linear(0.5, 0.0), planning_steps=10
    )
    np.testing.assert_allclose(learned(algorithm, rollout)[0][-1], q, atol=0.1)


# -- hyperparameters and wrong input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        (
            adv.Dyna(target="sarsa", **(COMMON | DECAY)),
            dict(
                learning_rate=0.4,
                learning_rate_power=0.9,
                gamma=0.5,
                epsilon=0.2,
                epsilon_power=0.9,
                initial_value=2.0,
                planning_steps=4,
                target="expected-sarsa",
                model="frequencies",
                exploration_bonus=0.1,
            ),
        ),
        (
            adv.PrioritisedSweeping(learning_rate=0.5, epsilon_power=0.3),
            dict(
                learning_rate=0.4,
                gamma=0.5,
                epsilon=0.2,
                epsilon_power=0.9,
                initial_value=2.0,
                planning_steps=4,
                threshold=0.5,
            ),
        ),
    ],
)
def test_every_hyperparameter_changes_something(algorithm, changes):
    assert set(changes) == {field.name for field in dataclasses.fields(algorithm)}
    rollout = made_up(6, 1)

    def facts(algorithm):
        tables, state = learned(algorithm, rollout)
        return tables[-1], np.asarray(algorithm.actor(state).epsilon)

    table, epsilon = facts(algorithm)
    for name, value in changes.items():
        other_table, other_epsilon = facts(dataclasses.replace(algorithm, **{name: value}))
        if name in ("epsilon", "epsilon_power"):
            assert (epsilon != other_epsilon).any(), name
        else:
            assert np.abs(table - other_table).max() > 1e-3, name


@pytest.mark.parametrize("algorithm", [adv.Dyna(exploration_bonus=0.1), adv.PrioritisedSweeping()])
def test_names_and_json(algorithm):
    assert from_json(algorithm_name(algorithm), to_json(algorithm)) == algorithm
    assert algorithm_name(algorithm) in ("dyna", "prioritised-sweeping")


@pytest.mark.parametrize(
    ("cls", "fields", "words"),
    [
        (adv.Dyna, {"planning_steps": -1}, r"planning_steps=-1 is not allowed; use a value in \[0, inf\)"),
        (adv.Dyna, {"exploration_bonus": -0.1}, "exploration_bonus=-0.1 is not allowed"),
        (adv.Dyna, {"target": "q_learning"}, "did you mean 'q-learning'"),
        (adv.Dyna, {"model": "mean"}, "use one of 'last', 'frequencies'"),
        (adv.PrioritisedSweeping, {"planning_steps": 0}, r"use a value in \[1, inf\)"),
        (adv.PrioritisedSweeping, {"threshold": -1.0}, "threshold=-1.0 is not allowed"),
    ],
)
def test_refuses_values(cls, fields, words):
    with pytest.raises(ValueError, match=words):
        cls(**fields)


def test_refuses_spaces_without_a_table_and_counts_without_memory():
    box = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    for algorithm in (adv.Dyna(), adv.PrioritisedSweeping()):
        with pytest.raises(ValueError, match="finite observation space"):
            algorithm.init(jax.random.key(0), Spec(box, SPACES[1]))
        with pytest.raises(ValueError, match="Discrete action space"):
            algorithm.init(jax.random.key(0), Spec(SPACES[0], box))
    large = Spec(gymnasium.spaces.Discrete(1_000_000), gymnasium.spaces.Discrete(4))
    with pytest.raises(ValueError, match=r"1_000_000 states .* use model='last', which takes 3\d\.\d M"):
        adv.Dyna(model="frequencies").init(jax.random.key(0), large)


# -- published figures --------------------------------------------------------------------------------------

MAZES = gymnasium.spaces.Discrete(54), gymnasium.spaces.Discrete(4)


@jax.jit
@partial(jax.vmap, in_axes=(None, None, 0, 0, 0))
def explore(algorithm, maze, state, s, key):
    """Walk on for 1000 steps: `-> state, s, whether the goal was reached [1000]`."""
    successor, terminal, start = maze

    def step(carry, key):
        state, s = carry
        key_act, key_update = jax.random.split(key)
        actor = algorithm.actor(state)
        action, *_ = algorithm.act(actor, s, (), algorithm.noise(actor, key_act, (1,)))
        next_s = successor[s, action]
        end = terminal[next_s]
        row = Rollout(s, action, end.astype(jnp.float32), next_s, end, ~end & False)
        state, _ = algorithm.update(state, jax.tree.map(lambda x: x[None], row), key_update)
        return (state, jnp.where(end, start, next_s)), end[0]

    (state, s), goals = jax.lax.scan(step, (state, s), jax.random.split(key, 1000))
    return state, s, goals


def walk(algorithm, mdp, steps, num_seeds, seed=0, state=None):
    """From the start, again and again: `-> state, whether the goal was reached [num_seeds, steps]`."""
    if state is None:
        state = algorithm.init(jax.random.key(0), Spec(*MAZES, 1, 10_000))
        state = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_seeds, *x.shape)), state)
    start = jnp.int32(mdp.start.argmax())
    maze = jnp.array(mdp.transition.argmax(-1), jnp.int32), jnp.array(mdp.terminal), start
    s, goals = jnp.full((num_seeds, 1), start), []
    for part in range(steps // 1000):
        keys = jax.random.split(jax.random.key(100 * seed + part), num_seeds)
        state, s, reached = explore(algorithm, maze, state, s, keys)
        goals.append(reached)
    return state, np.concatenate(goals, axis=1)


def lengths(goals, episodes):
    """Steps of the first episodes of each seed that finished so many, `[N, episodes]`."""
    ends = [np.flatnonzero(one)[:episodes] + 1 for one in goals]
    assert sum(len(one) == episodes for one in ends) >= 0.97 * len(ends)
    return np.array([np.diff(one, prepend=0) for one in ends if len(one) == episodes])


PLANNER = adv.Dyna(planning_steps=50, gamma=0.95)


@pytest.mark.parametrize(
    ("planning_steps", "steps", "num_seeds", "figures"),
    [
        (0, 14_000, 100, {1: 868.7, 2: 574.0, 20: 41.0}),
        (5, 5000, 100, {1: 868.7, 2: 160.0, 5: 20.0}),
        (50, 4000, 50, {1: 868.7, 2: 38.0, 3: 18.0}),
    ],
)
def test_steps_per_episode_in_the_maze(planning_steps, steps, num_seeds, figures):
    """Within four standard errors, the published ones being means of 30 runs; the first episode's is exact.

    Sutton & Barto 2018, figure 8.2: alpha 0.1, epsilon 0.1, gamma 0.95.
    """
    algorithm = dataclasses.replace(PLANNER, planning_steps=planning_steps)
    _, goals = walk(algorithm, dyna_maze(), steps, num_seeds)
    seen = lengths(goals, max(figures))
    assert seen.min() == 14
    for episode, figure in figures.items():
        mine = seen[:, episode - 1]
        error = mine.std() * np.sqrt(1 / len(mine) + (1 / 30 if episode > 1 else 0))
        print(planning_steps, episode, mine.mean(), "+-", mine.std() / np.sqrt(len(mine)))
        assert abs(mine.mean() - figure) < 4 * error


def test_prioritised_sweeping_takes_fewer_updates():
    """Five a step find the way in the second episode, where five at random take 160 steps, and fifty 38."""
    algorithm = adv.PrioritisedSweeping(planning_steps=5, gamma=0.95)
    _, goals = walk(algorithm, dyna_maze(), 4000, 50)
    seen = lengths(goals, 5)
    assert seen.min() == 14
    assert seen[:, 1].mean() < 60
    assert seen[:, 4].mean() < 20


def after_the_change(algorithm, before, after, steps, num_seeds=50):
    """Steps of each seed's last episodes, and what it earned since: the median of ten, `[N]`, and `[N]`."""
    state, _ = walk(algorithm, before, steps[0], num_seeds)
    _, goals = walk(algorithm, after, steps[1], num_seeds, seed=1, state=state)
    last = [np.median(np.diff(np.flatnonzero(one))[-10:]) if one.sum() > 10 else np.inf for one in goals]
    return np.array(last), goals.sum(1)


@pytest.mark.slow
def test_the_bonus_finds_the_short_cut():
    """Dyna-Q goes on walking 16 steps where 10 would do; Dyna-Q+ tries again what it has not tried for long.

    Sutton & Barto 2018, example 8.3.
    """
    experiment = shortcut_maze(), shortcut_maze(opened=True), (3000, 3000)
    without, earned = after_the_change(PLANNER, *experiment)
    with_bonus, earned_more = after_the_change(
        dataclasses.replace(PLANNER, exploration_bonus=1e-3), *experiment
    )
    print(np.sort(without), np.sort(with_bonus), earned.mean(), earned_more.mean())
    assert (without >= 16).mean() > 0.8
    assert (with_bonus < 14).mean() > 0.9
    assert earned_more.mean() > 1.1 * earned.mean()


def test_the_bonus_finds_the_way_around_a_block():
    """Dyna-Q, too, but later: its model has only exploration to correct it. Sutton & Barto 2018, example 8.2."""
    experiment = blocking_maze(), blocking_maze(blocked=True), (1000, 2000)
    without, earned = after_the_change(PLANNER, *experiment)
    with_bonus, earned_more = after_the_change(
        dataclasses.replace(PLANNER, exploration_bonus=1e-3), *experiment
    )
    print(np.sort(without), np.sort(with_bonus), earned.mean(), earned_more.mean())
    assert (with_bonus < 22).mean() > 0.9
    assert earned_more.mean() > earned.mean() + 5


# -- runs ---------------------------------------------------------------------------------------------------

RUNS = [
    (
        adv.Dyna(target="sarsa", model="frequencies", gamma=0.95, exploration_bonus=1e-4, planning_steps=3),
        TabularWorld(dyna_maze()),
        1000,
        0.0,
    ),
    (adv.PrioritisedSweeping(), TabularWorld(dyna_maze()), 3000, 1.0),
    pytest.param(
        adv.Dyna(gamma=1.0, learning_rate=1.0), "CliffWalking-v1", 2000, -13.0, marks=pytest.mark.slow
    ),
    pytest.param(
        adv.Dyna(model="frequencies", epsilon=adv.Linear(1.0, 0.1), planning_steps=20),
        "FrozenLake-v1",
        4000,
        0.5,
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("algorithm", "environment", "steps", "least"), RUNS)
def test_promise_11_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, algorithm, environment, steps, least):
    """And learns: the way to the goal, past the cliff, and across the ice, where the best policy arrives in 74 %."""
    options = {"total_timesteps": steps, "checkpoint_every": 400, "num_envs": 2, "tensorboard": False}
    run = adv.train(
        algorithm, environment, out=tmp_path / "whole", eval_episodes=20 * (least != 0), **options
    )
    assert not least or run.evaluation.mean >= least
    adv.train(
        algorithm, environment, out=tmp_path / "part", eval_episodes=0, callback=stop_at(300), **options
    )
    assert adv.load(tmp_path / "part").step < steps
    adv.resume(tmp_path / "part", environment=environment)
    files = [tmp_path / name / "last" / "state.safetensors" for name in ("whole", "part")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_one_seed_alone_is_that_seed_among_many(tmp_path):
    options = {"total_timesteps": 600, "num_envs": 2, "tensorboard": False, "eval_episodes": 0}
    algorithm, environment, *_ = RUNS[1]
    many = adv.train(algorithm, environment, out=tmp_path / "many", num_seeds=3, **options)
    alone = adv.train(algorithm, environment, out=tmp_path / "alone", seed=1, **options)
    np.testing.assert_array_equal(many[1].agent.state.table.visits, alone.agent.state.table.visits)
    np.testing.assert_allclose(many[1].agent.state.table.q, alone.agent.state.table.q, rtol=1e-6)
    assert (np.asarray(many[0].agent.state.table.visits) != many[1].agent.state.table.visits).any()
