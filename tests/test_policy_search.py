"""Searches for policies: both drivers, exact resume, budgets, chance, and what users see when they get it wrong."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advantage as adv
from advantage.agent import Agent, other_agents
from advantage.algorithms.search.optimisers import OPTIMISERS, optimiser_class
from advantage.drivers.host.stepper import EnvironmentFailure, episode_seed
from advantage.drivers.search import device_games as games_on_device
from advantage.drivers.search.device_games import DeviceGames
from advantage.drivers.search.driver import SearchDriver
from advantage.drivers.search.games import Chance, Games
from advantage.drivers.search.host_games import HostGames
from advantage.environments.make import make
from advantage.environments.scored_actions import ScoredActions
from advantage.environments.spaces import environment_action, read
from advantage.policies.deterministic import Deterministic, Scoring, deterministic, unflatten
from advantage.runs.checkpoint import finished_step
from advantage.runs.folder import RunFolder
from advantage.runs.log import read_episodes
from advantage.types import Played, Span, Spec


class Slope(gymnasium.Env):
    """Reward is minus the squared distance of a constant action from a target: a function of the bias alone."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-10, 10, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.shift = 0, self.np_random.normal()
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), -float((action[0] - 3) ** 2) + self.shift, self.t == 3, False, {}


class Fragile(Slope):
    """Rewards are not finite for large actions."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, float("nan") if abs(action[0]) > 0.5 else reward, *rest


class Failing(Slope):
    """Raises in the middle of an episode."""

    def step(self, action):
        if self.t == 1:
            raise RuntimeError("the gears are stuck")
        return super().step(action)


@dataclasses.dataclass(frozen=True)
class Walk:
    """An on-device world: as many steps as the start says, each with a reward; what it sees is its clock."""

    max_episode_steps: int = 50
    gymnasium_id = None
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, key):
        length = jax.random.randint(key, (), 3, 30)
        state = jnp.zeros((), jnp.int32), length
        return state, self._obs(state)

    def _obs(self, state):
        return jnp.stack([state[0], state[1]]).astype(jnp.float32)

    def step(self, state, action, key):
        state = state[0] + 1, state[1]
        return state, self._obs(state), action.astype(jnp.float32), state[0] >= state[1]


def tiny(candidates=8, elite=0.25, sigma=1.0, **options):
    return adv.PolicySearch(adv.CEM(candidates=candidates, elite=elite, sigma=sigma), **options)


def trained(algorithm, environment, tmp_path, name="run", **options):
    options = {"total_timesteps": 300, "eval_episodes": 0, "seed": 3, "tensorboard": False, **options}
    return adv.train(algorithm, environment, out=tmp_path / name, **options)


def state_of(run):
    return jax.tree.leaves(run.agent.state)


def episodes_of(run):
    return read_episodes(RunFolder(run.path))


def same(left, right):
    pairs = list(zip(state_of(left), state_of(right), strict=True))
    assert len(pairs) > 8
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


def spec_of(world):
    return Spec(world.observation_space, world.action_space, 1, 10_000)


def device_games(algorithm, world):
    state = algorithm.init(jax.random.key(0), spec_of(world))
    return DeviceGames(algorithm, world), state, algorithm.actor(state)


def played(games, actor, vectors, chance) -> Games:
    result = games.play(actor, vectors, chance, 10**6, never)
    assert result is not None
    return result


def never():
    return False


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_search_climbs_a_slope(name, tmp_path):
    """From action 0 the return of an episode is about -27; at the target it is 0, but for noise."""
    options = {"learning_rate": 0.3} if name in ("es", "ars") else {}
    search = adv.PolicySearch(
        optimiser_class(name)(**options), common_random_numbers=True, action_units="raw"
    )
    budget = 1_000 if name == "pattern-search" else 6_000
    run = trained(search, Slope, tmp_path, total_timesteps=budget, workers=0)
    assert run.finished
    assert 0 < run.step <= budget
    agent = run.agent
    action = agent.act(np.zeros(2, np.float32))
    assert abs(float(action[0]) - 3) < 1.0, action


@pytest.mark.parametrize("environment", [Slope, Walk()])
def test_a_resumed_search_is_the_same(environment, tmp_path):
    whole = trained(tiny(normalize_observation=True), environment, tmp_path, "whole", total_timesteps=600)
    half = trained(tiny(normalize_observation=True), environment, tmp_path, "half", total_timesteps=300)
    assert half.step < whole.step
    rest = adv.resume(half.path, total_timesteps=600, environment=environment)
    assert rest.step == whole.step
    same(whole, rest)
    for name in ("r", "l", "step", "env", "episode"):
        np.testing.assert_array_equal(episodes_of(whole)[name], episodes_of(rest)[name])


def test_numbers_do_not_depend_on_workers(tmp_path):
    options = {"reevaluate": 2, "episodes": 2, "normalize_observation": True}
    runs = [
        trained(tiny(**options), "CartPole-v1", tmp_path, f"{n}", workers=n, total_timesteps=2_000)
        for n in (0, 1, 2)
    ]
    for run in runs[1:]:
        assert run.step == runs[0].step
        same(runs[0], run)


def test_a_budget_is_never_exceeded_and_counts_every_step(tmp_path):
    for environment in (Slope, Walk()):
        run = trained(
            tiny(episodes=2), environment, tmp_path, type(environment).__name__, total_timesteps=700
        )
        episodes = episodes_of(run)
        assert run.step == episodes["l"].sum() == run.agent.state.clock.step <= 700
        assert len(episodes["r"]) == run.agent.state.episodes
        assert run.agent.state.evaluations * 2 == run.agent.state.episodes


def test_a_run_that_leaves_a_few_steps_has_finished(tmp_path):
    run = trained(tiny(), Walk(), tmp_path, total_timesteps=700, eval_episodes=2)
    last = RunFolder(run.path).last
    assert finished_step(last, 700) == run.step < 700
    assert finished_step(last, 1_000) is None
    compared = adv.compare([run.path])
    assert not compared.left_out
    assert run.evaluation is not None and compared.scores[0].mean == run.evaluation.mean
    assert 0 < compared.scores[0].seconds < 300
    stopped = trained(tiny(), Walk(), tmp_path, "stopped", total_timesteps=700, callback=lambda _: False)
    assert finished_step(RunFolder(stopped.path).last, 700) is None


def test_a_budget_below_one_generation_is_refused(tmp_path):
    with pytest.raises(ValueError, match="total_timesteps=20 is too small for the first generation"):
        trained(tiny(), Slope, tmp_path, total_timesteps=20)


def test_a_generation_that_does_not_fit_is_refused_before_it_is_drawn(monkeypatch, tmp_path):
    """100 candidates of 3 parameters, and the noise of which they are made, take 2,400 bytes."""
    options = dict(total_timesteps=600, workers=0, eval_episodes=0)
    for free in (2_399, 2_400):
        monkeypatch.setattr("advantage.drivers.search.driver.free_device_bytes", lambda free=free: free)
        if free < 2_400:
            with pytest.raises(
                ValueError, match=r"of 100 candidates of 3 parameters.*2\.34 KiB.*use fewer candidates"
            ):
                adv.train(adv.CEM(), Slope, out=tmp_path / str(free), **options)
        else:
            assert adv.train(adv.CEM(), Slope, out=tmp_path / str(free), **options).step == 600


def test_search_refuses_what_it_does_not_use(tmp_path):
    with pytest.raises(ValueError, match="num_envs=4 is not allowed: a search plays"):
        trained(tiny(), Slope, tmp_path, num_envs=4)
    envs = gymnasium.make_vec("CartPole-v1", 2)
    with pytest.raises(ValueError, match="vector environment"):
        trained(tiny(), envs, tmp_path)
    envs.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_raises_says_where(workers, tmp_path):
    with pytest.raises(
        EnvironmentFailure, match="step 1 of a candidate's episode: step.*the gears are stuck"
    ):
        trained(tiny(), Failing, tmp_path, workers=workers)


class Exiting(Failing):
    def step(self, action):
        raise SystemExit(3)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_ends_the_process_is_named(workers, tmp_path):
    with pytest.raises(
        EnvironmentFailure, match=r"step 0 of a candidate's episode.*tried to end the process"
    ):
        trained(tiny(), Exiting, tmp_path, workers=workers)


def test_a_killed_worker_is_named(tmp_path):
    environment = gymnasium.make("CartPole-v1")
    spec = Spec(environment.observation_space, environment.action_space)
    algorithm = tiny()
    state = algorithm.init(jax.random.key(0), spec)
    players = HostGames(algorithm, lambda: gymnasium.make("CartPole-v1"), spec, workers=2)
    players.start(8)
    try:
        assert players.crew is not None
        os.kill(players.crew.processes[1].pid, signal.SIGKILL)
        vectors = np.zeros((8, 10), np.float32)
        with pytest.raises(EnvironmentFailure, match=r"Worker 1 .*SIGKILL"):
            players.play(
                algorithm.actor(state), vectors, Chance(np.arange(8), jax.random.key(0)), 10_000, never
            )
    finally:
        players.close()


class Hanging(Slope):
    """Does not come back from its second step."""

    def step(self, action):
        if self.t == 1:
            time.sleep(60)
        return super().step(action)


def test_a_worker_that_hangs_is_named(tmp_path):
    with pytest.raises(EnvironmentFailure, match="did not take a step within 2 seconds"):
        trained(tiny(), Hanging, tmp_path, workers=2, worker_timeout=2.0)


class Slow(Slope):
    """An episode takes longer than a worker's time limit, a step does not."""

    def step(self, action):
        time.sleep(0.6)
        obs, reward, _, *rest = super().step(action)
        return obs, reward, self.t == 4, *rest


@pytest.mark.slow
def test_a_long_game_is_no_hang(tmp_path):
    run = trained(
        tiny(candidates=2, elite=0.5), Slow, tmp_path, workers=2, worker_timeout=1.6, total_timesteps=8
    )
    assert run.step == 8


def test_ctrl_c_in_the_middle_of_long_games_stops_the_generation():
    """The workers, which are not restarted, have not ended a game: there is no result, and no name of an info."""
    algorithm, spec = tiny(), spec_of(Walk())
    games, pipes = HostGames(algorithm, Slow, spec, workers=2, log_info=("there",)), [Pipe(), Pipe()]
    games.workers = 2
    games.crew = SimpleNamespace(pipes=[ours for ours, _ in pipes], send=lambda *_: None)  # pyright: ignore
    chance = Chance(np.arange(8), jax.random.key(0))
    assert games.play((), np.zeros((8, 6), np.float32), chance, 100, stopped=lambda: True) is None
    assert games.info_names() == []


def test_what_is_not_finite_ranks_worst(tmp_path):
    run = trained(tiny(sigma=2.0, action_units="raw"), Fragile, tmp_path, total_timesteps=600)
    assert np.isnan(episodes_of(run)["r"]).any()
    assert abs(float(run.agent.act(np.zeros(2, np.float32))[0])) < 0.5
    assert np.isfinite(run.agent.state.best_return)


def test_games_do_not_depend_on_their_company():
    """A candidate's episode is the same alone and beside others, whatever programs they are played in."""
    algorithm, world = tiny(normalize_observation=True), Walk()
    games, _, actor = device_games(algorithm, world)
    vectors = jax.random.normal(jax.random.key(1), (11, 6))
    chance = Chance(np.arange(11), jax.random.key(2))
    together = played(games, actor, vectors, chance)
    for n in (0, 5, 10):
        alone = played(games, actor, vectors[n : n + 1], chance._replace(numbers=np.array([n])))
        for field, whole in zip(alone, together, strict=True):
            np.testing.assert_array_equal(field[0], whole[n])


def test_long_games_go_on_in_smaller_programs(monkeypatch):
    algorithm, world = tiny(normalize_observation=True), Walk()
    games, _, actor = device_games(algorithm, world)
    vectors = jax.random.normal(jax.random.key(1), (40, 6))
    chance = Chance(np.arange(40), jax.random.key(2))
    at_once = played(games, actor, vectors, chance)
    assert len(set(at_once.lengths.tolist())) > 10
    sizes = []
    keep = games_on_device._keep
    monkeypatch.setattr(
        games_on_device, "_keep", lambda lanes, *rest: (sizes.append(len(rest[0])), keep(lanes, *rest))[1]
    )
    monkeypatch.setattr(games_on_device, "TICKS", 5)
    jax.clear_caches()
    by_parts = played(games, actor, vectors, chance)
    jax.clear_caches()
    assert sizes == sorted(sizes, reverse=True)
    assert sizes
    for left, right in zip(at_once, by_parts, strict=True):
        np.testing.assert_array_equal(left, right)


def test_device_games_by_definition():
    """Returns, lengths and sums, against the world stepped one by one."""
    algorithm, world = tiny(normalize_observation=True), Walk()
    games, _, actor = device_games(algorithm, world)
    vectors = jax.random.normal(jax.random.key(1), (6, 6))
    chance = Chance(np.arange(6), jax.random.key(2))
    found = played(games, actor, vectors, chance)
    for n in range(6):
        key_reset, key_steps = jax.random.split(jax.random.fold_in(chance.key, n))
        state, obs = world.reset(key_reset)
        total, length, seen, done = 0.0, 0, [], False
        while not done:
            seen.append(np.asarray(obs, np.float64))
            who = algorithm.candidate(actor, vectors[n])
            action, _ = algorithm.greedy(who, obs[None], ())
            state, obs, reward, done = world.step(state, action[0], jax.random.fold_in(key_steps, length))
            total, length = total + float(reward), length + 1
        assert (found.returns[n], found.lengths[n]) == (total, length)
        np.testing.assert_allclose(found.sums[n], np.sum(seen, 0), rtol=1e-5)
        np.testing.assert_allclose(found.squares[n], np.square(seen).sum(0), rtol=1e-5)


class Recorder:
    """Stands where games are played, and notes who plays with which chance."""

    where = ""

    def __init__(self, returns):
        self.returns, self.calls, self.keys = returns, [], []

    def play(self, actor, vectors, chance, left, stopped):
        seeds = [episode_seed(chance.seed, chance.iteration, int(n)) for n in chance.numbers]
        self.calls.append((np.asarray(vectors), seeds))
        self.keys.append(np.asarray(jax.random.key_data(chance.key)))
        returns = np.array([self.returns(vector) for vector in np.asarray(vectors)])
        return Games(
            returns, np.full(len(returns), 2), *np.zeros((2, len(returns), 0)), np.zeros((len(returns), 0, 2))
        )

    def info_names(self):
        return []


def one_generation(**options):
    algorithm = tiny(**options)
    state = algorithm.init(jax.random.key(0), spec_of(Walk()))
    games: Any = Recorder(lambda vector: float(vector[0]))
    driver = SearchDriver(algorithm, games, seed=5, total_timesteps=10_000)
    state, metrics, (episodes,), *_ = driver.iterate(state, jax.random.key(1)[None], Span(0, 1, 0, 1))
    return games.calls, state, metrics, episodes


def test_every_game_has_its_own_chance_and_common_ones_are_shared():
    ((vectors, chances),), *_ = one_generation(episodes=3)
    assert len(vectors) == len(set(chances)) == 24
    ((vectors, common),), *_ = one_generation(episodes=3, common_random_numbers=True)
    assert len(set(common)) == 3
    assert common[:3] == common[3:6] == common[-3:]
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert (vectors[2] != vectors[3]).any()


def test_every_generation_has_its_own_candidates_and_chance():
    algorithm = tiny()
    state = algorithm.init(jax.random.key(0), spec_of(Walk()))
    games: Any = Recorder(lambda vector: float(vector[0]))
    driver = SearchDriver(algorithm, games, seed=5, total_timesteps=10_000)
    for generation in range(3):  # from the same state
        driver.iterate(state, jax.random.key(1)[None], Span(generation, 1, 16 * generation, 1))
    vectors, seeds = zip(*games.calls, strict=True)
    assert len(np.unique(np.concatenate(vectors), axis=0)) == 24
    assert len(set(np.concatenate(seeds))) == 24
    assert len(np.unique(games.keys, axis=0)) == 3


@dataclasses.dataclass(frozen=True)
class Coins(Walk):
    """Twenty steps; step t earns 2^t where a coin shows heads."""

    def reset(self, key):
        state = jnp.zeros((), jnp.int32), jnp.int32(20)
        return state, self._obs(state)

    def step(self, state, action, key):
        after, obs, _, done = super().step(state, action, key)
        return after, obs, 2.0 ** state[0] * jax.random.bernoulli(key), done


def test_every_step_of_every_game_has_its_own_chance():
    algorithm = tiny()
    games, _, actor = device_games(algorithm, Coins())
    found = played(games, actor, jnp.zeros((16, 6)), Chance(np.arange(16), jax.random.key(2)))
    sides = found.returns[:, None] // 2 ** np.arange(20) % 2
    assert len(np.unique(sides, axis=0)) == 16, "two games with the same coins"
    assert len(np.unique(sides.T, axis=0)) == 20, "two steps with the same coin"


class Lottery(gymnasium.Env):
    """Episodes of one step, which earns a number that was drawn at the reset."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.prize = self.np_random.normal()
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), self.prize, True, False, {}


def test_every_game_on_the_host_has_its_own_chance():
    algorithm, spec = tiny(), spec_of(Walk())
    state = algorithm.init(jax.random.key(0), spec)
    games = HostGames(algorithm, Lottery, spec)
    games.start(8)
    try:
        chances = [Chance(np.arange(8), jax.random.key(0), *which) for which in ((0, 0), (0, 1), (1, 0))]
        vectors = np.zeros((8, 6), np.float32)
        prizes = [played(games, algorithm.actor(state), vectors, chance).returns for chance in chances]
    finally:
        games.close()
    assert len(np.unique(prizes)) == 24


def test_the_best_play_again():
    (first, again), state, _, episodes = one_generation(reevaluate=3, episodes=2)
    best = np.sort(first[0][::2, 0])[::-1][:3]
    np.testing.assert_array_equal(again[0][::2, 0], best)
    assert not set(first[1]) & set(again[1])
    assert len(episodes.returns) == state.episodes == 16 + 6
    assert state.evaluations == 8
    assert state.clock.step == 2 * 22


def test_the_state_keeps_the_best_and_the_mean():
    algorithm = tiny()
    state = algorithm.init(jax.random.key(0), spec_of(Walk()))
    candidates = jnp.arange(48.0).reshape(8, 6)
    empty = np.zeros(0, np.float32)
    returns = np.array([1, 5, np.nan, np.inf, 3, -np.inf, 2, 0], np.float32)
    played = Played(returns, np.uint32(8), np.uint32(80), np.float32(80), empty, empty)
    state, metrics = algorithm.learn(state, candidates, played)
    np.testing.assert_array_equal(state.best, candidates[1])
    assert state.best_return == 5
    np.testing.assert_array_equal(state.search.mean, (candidates[1] + candidates[4]) / 2)
    assert metrics["return_mean"] == np.float32(11 / 5)
    worse, _ = algorithm.learn(state, candidates + 1, played._replace(returns=returns - 1))
    np.testing.assert_array_equal(worse.best, candidates[1])
    mean = algorithm.actor(worse).params
    best = dataclasses.replace(algorithm, play="best").actor(worse).params
    np.testing.assert_array_equal(best["network"] or best["head"]["weight"].ravel(), candidates[1][2:])
    assert (mean["head"]["weight"] != best["head"]["weight"]).any()


def test_observation_statistics_are_those_of_what_was_seen(tmp_path):
    run = trained(tiny(normalize_observation=True, candidates=4), Walk(), tmp_path, total_timesteps=100)
    assert run.agent.state.observations.count.value == run.step
    again = trained(
        tiny(normalize_observation=True, candidates=4), Walk(), tmp_path, "2", total_timesteps=400
    )
    lengths = episodes_of(again)["l"]
    clock = np.concatenate([np.arange(n) for n in lengths])
    of = np.repeat(lengths, lengths)  # what the world sees of its length, which it always reaches
    moments = again.agent.state.observations
    np.testing.assert_allclose(moments.mean.value, [clock.mean(), of.mean()], rtol=1e-5)
    np.testing.assert_allclose(moments.variance.value, [clock.var(), of.var()], rtol=1e-4)


def test_both_agents_of_a_run_can_be_played(tmp_path):
    run = trained(tiny(), "CartPole-v1", tmp_path, total_timesteps=600, workers=0)
    others = other_agents(run.agent)
    assert list(others) == ["best"]
    assert list(other_agents(others["best"])) == ["mean"]
    means = {name: adv.evaluate(agent, episodes=3).mean for name, agent in others.items()}
    assert means["best"] > 0
    assert other_agents(Agent(adv.PPO(), (), spec_of(Walk()), "x", 0)) == {}


SCORED = gymnasium.spaces.Dict(
    features=gymnasium.spaces.Box(-np.inf, np.inf, (3, 2), np.float32),
    action_mask=gymnasium.spaces.Box(0, 1, (3,), np.int8),
)


def policy_of(observation_space, action_space, hidden=(), network=None):
    return deterministic(
        observation_space,
        action_space,
        network=network,
        hidden=hidden,
        activation="tanh",
        initialisation="orthogonal",
        bounds="clip",
    )


def test_a_scoring_policy_takes_the_best_of_what_is_possible():
    policy = policy_of(SCORED, gymnasium.spaces.Discrete(3))
    assert policy == Scoring(2)
    weights = unflatten(policy, np.array([1.0, -1.0], np.float32))
    features = np.array([[[5, 1], [3, 0], [0, 0]], [[1, 0], [1, 0], [0, 0]]], np.float32)
    for possible, expected in [
        ([1, 1, 1], [0, 0]),
        ([0, 1, 1], [1, 1]),
        ([0, 0, 1], [2, 2]),
        ([0, 0, 0], [0, 0]),
    ]:
        obs = {"features": features, "action_mask": np.tile(np.array(possible, np.int8), (2, 1))}
        np.testing.assert_array_equal(policy.action(weights, obs), expected)
        np.testing.assert_array_equal(policy.action(weights, jax.tree.map(jnp.asarray, obs)), expected)


def test_a_network_is_used_where_it_is_asked_for():
    assert isinstance(policy_of(SCORED, gymnasium.spaces.Discrete(3), hidden=(4,)), Deterministic)
    assert isinstance(policy_of(SCORED, gymnasium.spaces.Discrete(4)), Deterministic)
    one_number = gymnasium.spaces.Dict(
        {**SCORED.spaces, "features": gymnasium.spaces.Box(-1, 1, (3,), np.float32)}
    )
    assert isinstance(policy_of(one_number, gymnasium.spaces.Discrete(3)), Deterministic)


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Discrete(3, start=2),
        gymnasium.spaces.MultiDiscrete([2, 3]),
        gymnasium.spaces.MultiBinary(3),
        gymnasium.spaces.Box(-1, 2, (2, 2)),
        gymnasium.spaces.Dict(a=gymnasium.spaces.Discrete(2), b=gymnasium.spaces.Box(-1, 1, (1,))),
    ],
)
def test_policies_cover_all_spaces_and_parameters_keep_their_order(space):
    observation_space = gymnasium.spaces.Dict(
        x=gymnasium.spaces.Box(-1, 1, (3,)), n=gymnasium.spaces.Discrete(2)
    )
    policy = policy_of(observation_space, space, hidden=(4,))
    params = policy.init(jax.random.key(0))
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    jax.tree.map(np.testing.assert_array_equal, params, unflatten(policy, flat))
    obs = {"x": np.ones((5, 3), np.float32), "n": np.zeros(5, np.int64)}
    action = read(environment_action(space, policy.action(jax.tree.map(np.asarray, params), obs)), 0)
    assert space.contains(action)


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path):
    out = tmp_path / "run"
    budget = ["--total-timesteps", "1000000", "--candidates", "8", "--workers", "0"]
    command = [sys.executable, "-m", "advantage", "train", "cem", "CartPole-v1", "--out", str(out), *budget]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "steps/s" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "To resume: advantage resume" in rest
    stopped = adv.load(out)
    assert stopped.step == stopped.state.clock.step
    run = adv.resume(out, total_timesteps=stopped.step + 4_000)
    assert stopped.step < run.step <= stopped.step + 4_000


def test_options_of_searches_change_something():
    """Each option that all searches have; the methods' own have their own test."""
    world, spec, cls = Walk(), spec_of(Walk()), tiny

    def outcome(**options):
        algorithm = cls(**options)
        state = algorithm.init(jax.random.key(0), spec)
        driver = SearchDriver(algorithm, DeviceGames(algorithm, world), seed=5, total_timesteps=1_000_000)
        for n in range(2):
            state, _, (episodes,), *_ = driver.iterate(state, jax.random.key(1)[None], Span(n, 1, 0, 1))
        actor = algorithm.actor(state)
        obs = np.array([[0.3, -0.4], [25.0, -12.0]], np.float32)
        parts = (
            jax.tree.leaves((state.observations, actor)),
            algorithm.greedy(actor, obs, ())[0],
            episodes.returns,
        )
        return b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(parts))

    changes = [
        {"episodes": 2},
        {"common_random_numbers": True},
        {"hidden": (3,)},
        {"hidden": (3,), "activation": "relu"},
        {"hidden": (3,), "initialisation": "normal"},
        {"normalize_observation": True},
        {"normalize_observation": True, "clip_observation": 0.1},
        {"play": "best"},
        {"reevaluate": 1},
    ]
    seen = [outcome(**options) for options in [{}, *changes]]
    for (i, a), (j, b) in itertools.combinations(enumerate(seen), 2):
        assert a != b, ([{}, *changes][i], [{}, *changes][j])


def test_squashed_actions_stay_inside():
    world = make("jax/Pendulum-v1")
    algorithm = tiny(action_bounds="squash")
    state = algorithm.init(jax.random.key(0), spec_of(world))
    actor = algorithm.candidate(algorithm.actor(state), jnp.full(4, 100.0))
    action, _ = algorithm.greedy(actor, jnp.ones((1, 3)), ())
    assert abs(float(action[0, 0])) <= 2.0
    clipped = tiny()
    action, _ = clipped.greedy(
        clipped.candidate(clipped.actor(clipped.init(jax.random.key(0), spec_of(world))), jnp.full(4, 100.0)),
        jnp.ones((1, 3)),
        (),
    )
    assert float(action[0, 0]) > 2.0


def test_a_world_that_scores_its_actions_plays_the_same_games():
    """Tetris adds up the features of a placement where a policy would read them from the observation."""
    world: Any = make("jax/Tetris-6x8")

    @dataclasses.dataclass(frozen=True)
    class Seen:
        max_episode_steps: int = world.max_episode_steps
        action_space = world.action_space
        observation_space = world.observation_space
        reset = staticmethod(world.reset)
        step = staticmethod(world.step)

    assert isinstance(world, ScoredActions) and not isinstance(Seen(), ScoredActions)
    vectors = jax.random.normal(jax.random.key(1), (5, 14)).round(1)
    chance = Chance(np.arange(5), jax.random.key(2))
    results = []
    for played_in in (world, Seen()):
        games, _, actor = device_games(tiny(), played_in)
        results.append(played(games, actor, vectors, chance))
    for left, right in zip(*results, strict=True):
        np.testing.assert_array_equal(left, right)
    assert results[0].lengths.min() > 3


def test_an_evaluation_plays_as_candidates_do():
    """Episode n of an evaluation by the mean is that of its vector with chance n, however many are asked for."""
    world: Any = make("jax/Tetris-6x8")
    algorithm = tiny()
    state = algorithm.init(jax.random.key(0), spec_of(world))
    vector = jax.random.normal(jax.random.key(1), (14,)).round(1)
    state = state._replace(search=state.search._replace(mean=vector), best=-vector)
    agent = Agent(algorithm, state, spec_of(world), "jax/Tetris-6x8", 0)
    few, many = (adv.evaluate(agent, episodes=n, seed=4) for n in (3, 20))
    np.testing.assert_array_equal(few.returns, many.returns[:3])
    games, _, actor = device_games(algorithm, world)
    chance = Chance(np.arange(20), jax.random.key(4))
    for who, sign in ((agent, 1), (other_agents(agent)["best"], -1)):
        direct = played(games, actor, jnp.tile(sign * vector, (20, 1)), chance)
        found = adv.evaluate(who, episodes=20, seed=4)
        np.testing.assert_array_equal(found.returns, direct.returns)
        np.testing.assert_array_equal(found.lengths, direct.lengths)
        assert len(set(found.lengths.tolist())) > 3
