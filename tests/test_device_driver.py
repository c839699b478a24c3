"""The device driver: new starts, true successors, clocks; parity with the host; seeds, chunks and compilations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_drivers import Drift, OnHost, Spiral, assert_same, play, random_policy, spec_of

import advantage as adv
from advantage.drivers.device import DeviceDriver, iterate_on_device, rollout_on_device, start
from advantage.drivers.draws import draw
from advantage.drivers.episode_book import EpisodeBook
from advantage.drivers.host.driver import HostDriver
from advantage.environments.worlds.cartpole import CartPole
from advantage.runs.compilation import COMPILE_CLOCK
from advantage.training import results
from advantage.types import Episodes, Span

KEY = jax.random.key(3)


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """A curve takes longer to draw than one of these runs to train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "plot_curve", lambda folder: None)
        yield


@functools.partial(jax.jit, static_argnames=("world", "n_steps"))
def rollout_jit(algorithm, world, actor, worlds, key_noise, key_world, n_steps):
    noise = algorithm.noise(actor, key_noise, (n_steps, worlds.elapsed.shape[0]))
    return rollout_on_device(algorithm, world, actor, worlds, noise, key_world)


@functools.partial(jax.jit, static_argnames=("world", "n_steps"))
def iterate_jit(algorithm, world, state, worlds, run_key, iteration, n_steps):
    actor, draws = draw(algorithm, state, run_key, iteration, (n_steps, worlds.elapsed.shape[0]))
    return iterate_on_device(algorithm, world, state, worlds, actor, draws)


def rollouts_of(world, algorithm, num_envs, iterations):
    """Consecutive rollouts on the device, one behind the other."""
    actor = algorithm.actor(algorithm.init(jax.random.key(7), spec_of(world, num_envs)))
    worlds = start(world, jax.random.key(8), num_envs)
    rollouts = []
    for iteration in range(iterations):
        key_noise, key_world = jax.random.split(jax.random.fold_in(KEY, iteration))
        worlds, rollout = rollout_jit(
            algorithm, world, actor, worlds, key_noise, key_world, algorithm.n_steps
        )
        rollouts.append(jax.device_get(rollout))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rollouts)


# -- facts (promise 4) --------------------------------------------------------------------------------------


def test_promise_4_every_row_follows_from_the_one_before():
    world, num_envs = Drift(), 16
    rollout = rollouts_of(world, random_policy(world, 20), num_envs, 3)
    obs, next_obs, done = rollout.obs, rollout.next_obs, rollout.terminated | rollout.truncated
    np.testing.assert_array_equal(next_obs[..., :2], obs[..., :2])
    np.testing.assert_array_equal(next_obs[..., 2], obs[..., 2] + 1)
    np.testing.assert_array_equal(obs[1:][~done[:-1]], next_obs[:-1][~done[:-1]])
    np.testing.assert_allclose(rollout.reward, obs[..., 0] + rollout.action, rtol=1e-6)
    np.testing.assert_array_equal(rollout.truncated, next_obs[..., 2] == world.max_episode_steps)
    np.testing.assert_array_equal(obs[0, :, 2], 0)
    fresh = obs[1:][done[:-1]]
    np.testing.assert_array_equal(fresh[:, 2], 0)
    starts = np.concatenate([obs[0], fresh])[:, :2]
    assert len(np.unique(starts, axis=0)) == len(starts) > 200, "every episode has a start of its own"
    assert abs(starts.mean() - 0.5) < 0.05
    steps = rollout.terminated.size
    assert abs(rollout.terminated.mean() - world.chance) < 4 * (0.2 * 0.8 / steps) ** 0.5
    assert (rollout.terminated & rollout.truncated).any(), "the MDP and the clock may end at once"


def test_promise_4_environments_and_steps_have_randomness_of_their_own():
    rollout = rollouts_of(Drift(), random_policy(Drift(), 20), 16, 3)
    for facts in (rollout.terminated, rollout.action):
        assert len({row.tobytes() for row in facts}) > 50
        assert len({column.tobytes() for column in facts.T}) == 16


def test_the_clock_runs_on_from_rollout_to_rollout():
    world = Drift(chance=0.0, max_episode_steps=7)
    rollout = rollouts_of(world, random_policy(world, 5), 2, 6)
    ends = np.flatnonzero(rollout.truncated[:, 0])
    np.testing.assert_array_equal(ends, [6, 13, 20, 27])
    assert not rollout.terminated.any()


# -- the same rollout as on the host ------------------------------------------------------------------------


@pytest.fixture
def keys_are_counted():
    with jax.debug_key_reuse(True):
        yield


@pytest.mark.usefixtures("keys_are_counted")
@pytest.mark.parametrize(
    "world",
    [Spiral(), CartPole(start_range=0.0, max_episode_steps=12)],
    ids=["actions that are numbers", "actions that are choices"],
)
def test_promise_2_host_and_device_agree(world):
    """Same parameters, same noise, a world whose starts are not random: the same rollouts, the same learning.

    Each key is used once, on both drivers: JAX counts the uses while it traces.
    """
    num_envs, algorithm = 3, adv.PPO(n_steps=32, batch_size=48, hidden=(16,), n_epochs=2)
    spec = spec_of(world, num_envs)
    state = jax.jit(functools.partial(algorithm.init, spec=spec))(jax.random.key(7))
    worlds = start(world, jax.random.key(8), num_envs)
    driver = HostDriver(algorithm, lambda: OnHost(world), spec, seed=0)
    book = EpisodeBook(num_envs)
    driver.start(jax.tree.map(lambda leaf: leaf[None], state), None)
    for iteration in range(3):
        key = jax.random.fold_in(jax.random.key(0), iteration)  # as `play` makes it
        key_noise, key_world, _ = jax.random.split(jax.random.clone(key), 3)
        actor = algorithm.actor(state)
        _, there = rollout_jit(algorithm, world, actor, worlds, key_noise, key_world, 32)
        after, worlds, _, _ = iterate_jit(algorithm, world, state, worlds, jax.random.key(0), iteration, 32)
        here = play(driver, first=iteration, state=state)
        there = jax.device_get(there)
        for name in ("terminated", "truncated"):
            assert getattr(there, name).any(), name
            np.testing.assert_array_equal(getattr(here.rollout, name), getattr(there, name), name)
        for name in ("obs", "next_obs", "reward", "action"):
            np.testing.assert_allclose(
                getattr(here.rollout, name), getattr(there, name), rtol=1e-5, atol=1e-5, err_msg=name
            )
        done = there.terminated | there.truncated
        episodes = book.record(there.reward, done, iteration * 32 * num_envs)
        for mine, other in zip(here.episodes, episodes, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), here.state, after)
        state = after


# -- several seeds, several iterations a call ---------------------------------------------------------------

TINY = adv.PPO(n_steps=32, batch_size=64, n_epochs=2, hidden=(16,))
ENVS = 4
SIZE = TINY.n_steps * ENVS


def driven(counts, algorithm=TINY, num_seeds=1, first_seed=0):
    """A device driver after so many iterations a call, `-> state, worlds, episodes of the first seed, metrics`."""
    spec = spec_of(CartPole(), ENVS)
    driver = DeviceDriver(algorithm, CartPole(), spec, num_seeds)
    seeds = jnp.arange(first_seed, first_seed + num_seeds)
    keys = jax.vmap(jax.random.key)(seeds)
    run_keys = jax.vmap(lambda seed: jax.random.key(seed + 100))(seeds)
    state = jax.jit(jax.vmap(lambda key: algorithm.init(key, spec)))(keys)
    driver.start(state, jax.vmap(lambda seed: jax.random.key(seed + 200))(seeds))
    done, episodes, metrics = 0, [], []
    for count in counts:
        span = Span(done, count, done * SIZE, TINY.n_steps)
        state, values, finished, *_ = driver.iterate(state, run_keys, span)
        episodes.append(finished[0])
        metrics.append(values)
        done += count
    joined = Episodes(*map(np.concatenate, zip(*episodes, strict=True)))
    metrics = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *metrics)
    worlds = driver.worlds
    return jax.device_get((state, worlds.state, worlds.elapsed)), joined, metrics, driver


@functools.cache
def reference():
    return driven([6])


@pytest.mark.parametrize("counts", [[1] * 6, [2, 3, 1]])
def test_iterations_a_call_change_no_bit(counts):
    assert_same(driven(counts)[:3], reference()[:3])
    assert len(reference()[1].returns) > 20


def test_records_bring_a_driver_back_bit_for_bit():
    _, _, _, driver = driven([4])
    records = driver.records(0)
    other = DeviceDriver(TINY, CartPole(), driver.spec)
    state = TINY.init(KEY, driver.spec)
    assert other.restore(state, jax.random.split(KEY, 1), records)[1] == []
    assert_same(other.records(0), records)
    assert_same(jax.tree.leaves(other.worlds), jax.tree.leaves(driver.worlds))


def test_several_seeds_are_each_what_they_are_alone(tmp_path):
    """Through the front door: every episode, and every tensor up to rounding.

    Matrix products of several seeds at once add up in another order, so the bits may differ.
    """
    options = dict(total_timesteps=5 * SIZE, num_envs=ENVS, eval_episodes=0, tensorboard=False)
    together = adv.train(TINY, "jax/CartPole-v1", out=tmp_path / "all", seed=3, num_seeds=4, **options)
    assert [run.seed for run in together] == [3, 4, 5, 6]
    for run in together:
        alone = adv.train(
            TINY, "jax/CartPole-v1", out=tmp_path / f"alone_{run.seed}", seed=run.seed, **options
        )
        assert (run.path / "episodes.csv").read_text() == (alone.path / "episodes.csv").read_text()
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, run.agent.state, alone.agent.state)
    texts = {(run.path / "episodes.csv").read_text() for run in together}
    assert len(texts) == 4


# -- compilations (promise 9) -------------------------------------------------------------------------------


def programs_made(algorithm, environment, path, **options):
    """How many programs had been compiled after each iteration, and before the first."""
    before, counts = COMPILE_CLOCK.programs, []
    adv.train(
        algorithm,
        environment,
        out=path,
        callback=lambda progress: counts.append((progress.iteration, COMPILE_CLOCK.programs)),
        num_envs=ENVS,
        total_timesteps=8 * SIZE,
        checkpoint_every=2 * SIZE,
        eval_episodes=0,
        workers=0,
        **options,
    )
    assert [iteration for iteration, _ in counts] == list(range(1, 9))
    return before, [number for _, number in counts], COMPILE_CLOCK.programs


@pytest.mark.parametrize("environment", ["CartPole-v1", "jax/CartPole-v1"])
def test_promise_9_nothing_compiles_after_the_second_iteration(environment, tmp_path):
    before, counts, end = programs_made(TINY, environment, tmp_path / "first")
    assert counts[0] > before, "the clock hears compilations"
    assert counts[1:] == [counts[1]] * 7 and end == counts[1]
    other = adv.PPO(
        n_steps=TINY.n_steps,
        batch_size=TINY.batch_size,
        n_epochs=TINY.n_epochs,
        hidden=TINY.hidden,
        learning_rate=1e-3,
        gamma=1,
        gae_lambda=0.9,
        clip_range=0.1,
        ent_coef=0.01,
    )
    before, counts, end = programs_made(other, environment, tmp_path / "second", seed=1)
    assert counts[0] - before <= 1, "a new run may draw its first state by a program of its own"
    assert counts == [counts[0]] * 8 and end == counts[0]


# -- the books ----------------------------------------------------------------------------------------------


def plain_books(rollouts, num_envs):
    """Episode by episode, step by step."""
    returns, lengths, numbers, finished, step = [0.0] * num_envs, [0] * num_envs, [0] * num_envs, [], 0
    for reward, done in rollouts:
        for t in range(len(reward)):
            for env in range(num_envs):
                step += 1
                returns[env] += float(reward[t, env])
                lengths[env] += 1
                if done[t, env]:
                    finished.append((returns[env], lengths[env], step, env, numbers[env]))
                    returns[env], lengths[env], numbers[env] = 0.0, 0, numbers[env] + 1
    return finished, {"returns": returns, "lengths": lengths, "numbers": numbers}


@pytest.mark.parametrize("chance", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_episode_books(chance, dtype):
    rng = np.random.default_rng(int(100 * chance))
    for num_envs in (1, 2, 5):
        sizes = rng.integers(1, 40, 6)
        rollouts = [
            (rng.normal(size=(n, num_envs)).astype(dtype), rng.random((n, num_envs)) < chance) for n in sizes
        ]
        book, got, step = EpisodeBook(num_envs), [], 0
        for reward, done in rollouts:
            got += list(zip(*(column.tolist() for column in book.record(reward, done, step)), strict=True))
            step += reward.size
        expected, left = plain_books(rollouts, num_envs)
        assert got == expected, "bit for bit, in the order of their ends"
        for name, values in left.items():
            np.testing.assert_array_equal(book.records()[name], values, name)


def test_episode_books_do_not_mix_episodes():
    """A return is the sum of its own rewards, however large the others are."""
    reward = np.array([[1e30], [1.0], [0.1], [0.2], [-1e20], [0.3]])
    done = np.array([[True], [False], [True], [False], [True], [True]])
    episodes = EpisodeBook(1).record(reward, done, 0)
    assert episodes.returns.tolist() == [1e30, 1.0 + 0.1, 0.2 - 1e20, 0.3]


def test_the_books_of_many_seeds_are_those_of_each():
    rng = np.random.default_rng(1)
    together, alone = EpisodeBook(2, num_seeds=3), [EpisodeBook(2) for _ in range(3)]
    for first_step in (0, 80, 160):
        reward, done = rng.normal(size=(40, 3, 2)).astype(np.float32), rng.random((40, 3, 2)) < 0.1
        for seed, episodes in enumerate(together.record_seeds(reward, done, first_step)):
            assert_same(episodes, alone[seed].record(reward[:, seed], done[:, seed], first_step))
    for seed, book in enumerate(alone):
        assert_same(together.records(seed), book.records())


def test_episode_books_can_be_put_away():
    rng = np.random.default_rng(0)
    reward, done = rng.normal(size=(30, 3)), rng.random((30, 3)) < 0.1
    whole = EpisodeBook(3).record(reward, done, 0)
    book = EpisodeBook(3)
    first = book.record(reward[:13], done[:13], 0)
    other = EpisodeBook(3)
    other.restore({name: np.copy(array) for name, array in book.records().items()})
    second = other.record(reward[13:], done[13:], 39)
    assert_same(Episodes(*map(np.concatenate, zip(first, second, strict=True))), whole)


# -- memory -------------------------------------------------------------------------------------------------


def test_what_does_not_fit_into_memory_is_refused():
    world, algorithm = CartPole(), random_policy(CartPole(), 100_000)
    with pytest.raises(ValueError, match=r"n_steps=100000 in num_envs=1000000 .*TiB.*free; use fewer"):
        DeviceDriver(algorithm, world, spec_of(world, 1_000_000))
    one, three = (DeviceDriver(algorithm, world, spec_of(world, 1), seeds).rollout_bytes for seeds in (1, 3))
    assert three == 3 * one and 100_000 * 2 * 4 * 4 < one < 100_000 * 64
