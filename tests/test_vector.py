"""Gymnasium's vector environments: the same transitions, statistics and step counts in every autoreset mode."""

import contextlib
import functools

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from probe_drivers import assert_same, begin, bring_back, play, random_policy, spec_of
from probe_worlds import Counter, Failing, Native, Seeded

import advantage as adv
from advantage.drivers.host.driver import HostDriver
from advantage.drivers.host.stepper import episode_seed

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
EACH_MODE = pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP, DISABLED], ids=lambda mode: mode.name)
SEED = 11
LENGTHS = [(3, 1, 5), (4,), (2, 7, 1, 1)]  # of the episodes of three environments
LOCKSTEP = [(3, 1, 5)] * 3
N_STEPS = 14
PPO = adv.PPO(n_steps=N_STEPS, batch_size=21, n_epochs=1, hidden=(8,), gamma=0.9)


def drive(environments, iterations, algorithm=PPO, num_envs=3):
    """Play a vector environment, or the environments that a function makes."""
    spaces_of = environments if isinstance(environments, gymnasium.vector.VectorEnv) else environments()
    driver = HostDriver(algorithm, environments, spec_of(spaces_of, num_envs), SEED)
    with contextlib.closing(driver):
        begin(driver)
        return play(driver, iterations)


@functools.cache
def in_process(lengths, iterations):
    """What environments with these episodes deliver when the driver steps them one by one."""
    each = iter([(9,), *lengths])  # the first is made to look at its spaces
    return drive(lambda: Counter(next(each)), iterations)


def makers(lengths=LENGTHS):
    return [functools.partial(Counter, mine) for mine in lengths]


@pytest.mark.parametrize("copy", [True, False], ids=["copies", "one array"])
@EACH_MODE
def test_promise_2_sync(mode, copy):
    """PPO learns the same from it, so rewards, normalisation and ends are the same too."""
    played = drive(SyncVectorEnv(makers(), copy=copy, autoreset_mode=mode), 4)
    assert_same(played, in_process(tuple(LENGTHS), 4))
    assert len(played.episodes.returns) > 40


@EACH_MODE
def test_wrapped(mode):
    envs = RecordEpisodeStatistics(SyncVectorEnv(makers(), autoreset_mode=mode))
    assert_same(drive(envs, 4), in_process(tuple(LENGTHS), 4))


def test_promise_2_async():
    envs = AsyncVectorEnv(makers(), context="spawn")
    try:
        assert envs.metadata["autoreset_mode"] is NEXT_STEP
        assert_same(drive(envs, 4), in_process(tuple(LENGTHS), 4))
    finally:
        envs.close()


@EACH_MODE
def test_promise_2_native_in_lockstep(mode):
    envs = Native(LOCKSTEP, mode)
    assert_same(drive(envs, 4), in_process(tuple(LOCKSTEP), 4))
    if mode is not NEXT_STEP:
        assert envs.steps == 4 * N_STEPS


@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED], ids=lambda mode: mode.name)
def test_promise_2_native(mode):
    assert_same(drive(Native(LENGTHS, mode), 4), in_process(tuple(LENGTHS), 4))


def test_native_first_rollout_when_resets_take_steps():
    """Environments that reset less often fill their columns earlier; until then nothing differs."""
    played, expected = drive(Native(LENGTHS, NEXT_STEP), 1), in_process(tuple(LENGTHS), 1)
    late = played.rollout.truncated & ~expected.rollout.truncated  # the cut where an end went unrecorded
    assert not late[:-1].any()
    assert_same(played.rollout._replace(truncated=played.rollout.truncated & ~late), expected.rollout)
    for path in ("params", "optimiser", "observations", "clock"):
        assert_same(getattr(played.state, path), getattr(expected.state, path))
    assert_same(played.state.rewards.moments, expected.state.rewards.moments)


def test_native_over_many_rollouts_when_resets_take_steps():
    """Columns lose the steps that were taken while others filled up; the episode list loses nothing."""
    iterations = 12
    envs = Native(LENGTHS, NEXT_STEP)
    rollout, episodes, state = drive(envs, iterations)
    assert state.clock.step == iterations * N_STEPS * 3, "the budget counts what was learned from"
    assert envs.steps > iterations * N_STEPS
    done = rollout.terminated | rollout.truncated
    for env, lengths in enumerate(LENGTHS):
        gaps = 0
        for row in range(len(done)):
            (episode, t), after = map(int, rollout.obs[row, env]), rollout.next_obs[row, env]
            np.testing.assert_array_equal(after, (episode, t + 1))
            action = rollout.action[row, env]
            assert rollout.reward[row, env] == episode + (t + 1) / 10 + float(action) / 100
            end = t + 1 == lengths[episode % len(lengths)]
            cut = done[row, env] and not end
            assert rollout.terminated[row, env] == (end and episode % 3 != 1)
            if row + 1 == len(done):
                break
            following = tuple(rollout.obs[row + 1, env])
            if following != ((episode + 1, 0) if end else (episode, t + 1)):
                gaps += 1
                assert (row + 1) % N_STEPS == 0, "steps go missing only where a rollout ends"
                assert done[row, env] == (following[0] > episode), (
                    "what carries on must not carry over an end"
                )
            else:
                assert not cut
        mine = episodes.envs == env
        numbers = episodes.numbers[mine]
        np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
        assert len(numbers) >= rollout.terminated[:, env].sum()
        sizes = np.array([lengths[n % len(lengths)] for n in numbers])
        np.testing.assert_array_equal(episodes.lengths[mine], sizes)
        least = numbers * sizes + sizes * (sizes + 1) / 20
        returns = episodes.returns[mine]
        assert (returns > least - 1e-9).all() and (returns < least + sizes / 100 + 1e-9).all()
        assert gaps or env == 2
    assert (np.diff(episodes.steps) >= 0).all() and episodes.steps[-1] <= iterations * N_STEPS * 3


def test_gymnasiums_native_cartpole():
    """Against CartPole itself: each row is one of its steps, each end is its end, each start is new."""
    envs = gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point")
    assert not isinstance(envs.unwrapped, SyncVectorEnv)
    rollout, episodes, _ = drive(envs, 3, random_policy(envs.single_action_space, 64), num_envs=4)
    envs.close()
    single = gymnasium.make("CartPole-v1", disable_env_checker=True).unwrapped
    single.reset(seed=0)
    assert not rollout.truncated[np.arange(len(rollout.truncated)) % 64 != 63].any()
    for at in np.ndindex(rollout.reward.shape):
        single.state, single.steps_beyond_terminated = tuple(rollout.obs[at].astype(np.float64)), None
        successor, reward, terminated, _, _ = single.step(int(rollout.action[at]))
        np.testing.assert_allclose(rollout.next_obs[at], successor, rtol=1e-5, atol=1e-5)
        assert rollout.reward[at] == reward
        nearly = abs(abs(successor[2]) - 12 * np.pi / 180) < 1e-5
        assert rollout.terminated[at] == terminated or nearly
    starts = rollout.obs[1:][rollout.terminated[:-1] & (np.arange(1, 192) % 64 != 0)[:, None]]
    assert len(starts) > 10
    assert (np.abs(starts) <= 0.05).all() and len(np.unique(starts, axis=0)) == len(starts)
    assert (episodes.returns == episodes.lengths).all()
    assert 5 < episodes.lengths.mean() < 60


@pytest.mark.parametrize("mode", [NEXT_STEP, DISABLED], ids=lambda mode: mode.name)
def test_every_episode_has_its_own_seed(mode):
    policy = random_policy(Seeded, 20)
    played = drive(SyncVectorEnv([Seeded] * 3, autoreset_mode=mode), 3, policy)
    assert_same(played, drive(Seeded, 3, policy))
    who = played.rollout.obs["who"]
    for env in range(3):
        starts = who[who[:, env, 1] == 0, env, 0].tolist()
        assert starts == [episode_seed(SEED, env, n) for n in range(len(starts))]


@pytest.mark.parametrize("mode", [None, "sometimes", 3], ids=str)
def test_promise_2_an_unknown_mode_is_an_error(mode):
    envs = Native(LENGTHS, NEXT_STEP)
    envs.metadata = {"autoreset_mode": mode} if mode else {}
    with pytest.raises(ValueError, match=r"autoreset_mode.*allowed are NextStep, SameStep, Disabled"):
        drive(envs, 1)


def test_a_mode_may_be_given_by_its_name():
    envs = Native(LENGTHS, DISABLED)
    envs.metadata = {"autoreset_mode": DISABLED.value}
    assert_same(drive(envs, 4), in_process(tuple(LENGTHS), 4))


def test_what_is_not_finite_names_the_environment():
    seed = episode_seed(SEED, 1, 0)
    envs = SyncVectorEnv([functools.partial(Failing, "nan observation", 4, seed)] * 3)
    with pytest.raises(adv.EnvironmentDefect, match=r"environment 1, step 3 .*observation\[1\]"):
        drive(envs, 1)


@pytest.mark.parametrize("native", [False, True], ids=["sync", "native"])
def test_resuming_begins_new_episodes_and_says_so(native):
    def envs():
        return Native(LENGTHS, NEXT_STEP) if native else SyncVectorEnv(makers())

    driver = HostDriver(PPO, envs(), spec_of(envs(), 3), SEED)
    begin(driver)
    state = play(driver, 2).state
    records = {name: np.copy(array) for name, array in driver.records(0).items()}
    assert records["book/lengths"].any()
    driver = HostDriver(PPO, envs(), spec_of(envs(), 3), SEED)
    begin(driver)
    notices = bring_back(driver, records)
    assert len(notices) == 1 and "vector environment" in notices[0] and "new episodes begin" in notices[0]
    np.testing.assert_array_equal(driver.stepper.episodes, records["book/numbers"] + 1)
    played = play(driver, 1, first=2, state=state)
    np.testing.assert_array_equal(played.rollout.obs[0, :, 1], 0)
    for env in range(3):
        mine = played.episodes.envs == env
        assert played.episodes.numbers[mine][0] == records["book/numbers"][env] + 1
        first_end = np.flatnonzero((played.rollout.terminated | played.rollout.truncated)[:, env])[0]
        assert played.episodes.lengths[mine][0] == first_end + 1


def test_training_on_one(tmp_path):
    """Through the front door: exact budget, episodes and state as with a class."""
    runs = []
    cart_pole = functools.partial(gymnasium.make, "CartPole-v1")
    for name, environment in (("vector", SyncVectorEnv([cart_pole] * 3)), ("class", cart_pole)):
        run = adv.train(
            PPO, environment, out=tmp_path / name, num_envs=3, total_timesteps=150, eval_episodes=0, workers=0
        )
        assert run.step == 150
        runs.append(run)
    assert len((runs[0].path / "episodes.csv").read_text().splitlines()) > 4
    assert (runs[0].path / "episodes.csv").read_text() == (runs[1].path / "episodes.csv").read_text()
    states = [adv.load(run.path).state for run in runs]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)
