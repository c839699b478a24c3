"""The host driver: true successors, seeds, workers, restoring by replay, and environments that fail."""

import contextlib
import functools
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from probe_drivers import assert_same, begin, bring_back, play, random_policy, spec_of
from probe_worlds import POISON, Counter, Echo, Failing, Seeded, SeesJax, Slow, Unrepeatable

import advantage as adv
from advantage.drivers.host import collector
from advantage.drivers.host import driver as host
from advantage.drivers.host import workers as worker_processes
from advantage.drivers.host.driver import HostDriver, choose_workers
from advantage.drivers.host.stepper import EnvironmentFailure, episode_seed
from advantage.environments.spaces import environment_action, map_leaves

SEED = 5
ENVS = 5
EVERYTHING = spaces.Dict(
    {
        "discrete": spaces.Discrete(4, start=-2),
        "box": spaces.Box(-0.5, 0.5, (2, 3)),
        "number": spaces.Box(-1.0, 1.0, (), np.float64),
        "tuple": spaces.Tuple([spaces.MultiDiscrete([2, 3], start=[5, 0]), spaces.Discrete(2)]),
        "bits": spaces.MultiBinary([2, 2]),
    }
)
KINDS = {
    "discrete": spaces.Discrete(3, start=7),
    "box": spaces.Box(-0.5, 0.5, (3,)),
    "one number": spaces.Box(-1.0, 1.0, (1,)),
    "no axis": spaces.Box(-1.0, 1.0, ()),
    "matrix": spaces.Box(-0.5, 0.5, (2, 2), np.float64),
    "multidiscrete": spaces.MultiDiscrete([2, 3, 4]),
    "multidiscrete matrix": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "bits": spaces.MultiBinary(3),
    "bit matrix": spaces.MultiBinary([2, 2]),
    "tuple": spaces.Tuple([spaces.Discrete(2), spaces.Box(-1.0, 1.0, (2,))]),
    "everything": EVERYTHING,
}


@contextlib.contextmanager
def driving(make, num_envs=ENVS, n_steps=8, seed=SEED, started=True, **options):
    env = make()
    driver = HostDriver(random_policy(env, n_steps), make, spec_of(env, num_envs), seed, **options)
    with contextlib.closing(driver):
        if started:
            begin(driver)
        yield driver


def pids_of(driver):
    return [process.pid for process in getattr(getattr(driver.stepper, "crew", None), "processes", [])]


def is_gone(pid):
    """Neither there nor a zombie that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pids, seconds):
    deadline = time.monotonic() + seconds
    while not all(map(is_gone, pids)):
        assert time.monotonic() < deadline, f"processes {[p for p in pids if not is_gone(p)]} are still there"
        time.sleep(0.02)


# -- true successors (promises 1 and 4) -------------------------------------------------------------


def assert_true_story(rollout):
    """Every row of `Counter` rollouts: what follows what, what was earned, how it ended."""
    obs, next_obs = rollout.obs, rollout.next_obs
    done = rollout.terminated | rollout.truncated
    steps, num_envs = done.shape
    for env in range(num_envs):
        episode = t = 0
        for row in range(steps):
            at = row, env
            np.testing.assert_array_equal(obs[at], (episode, t), err_msg=f"obs at {at}")
            t += 1
            np.testing.assert_array_equal(next_obs[at], (episode, t), err_msg=f"next_obs at {at}")
            assert rollout.reward[at] == episode + t / 10 + float(rollout.action[at]) / 100
            if done[at]:
                assert rollout.terminated[at] == (episode % 3 != 1), "0 and 2 end by the MDP"
                assert rollout.truncated[at] == (episode % 3 != 0), "1 and 2 end by the clock"
                episode, t = episode + 1, 0


@pytest.mark.parametrize(("lengths", "workers"), [((3, 1, 5), 0), (None, 0), (None, 2)])
def test_promise_1_next_obs_is_the_true_successor(lengths, workers):
    with driving(functools.partial(Counter, lengths), workers=workers) as driver:
        rollout, episodes, _ = play(driver, 4)
    assert_true_story(rollout)
    assert rollout.terminated.any() and rollout.truncated.any()
    if lengths:
        ends = np.cumsum(np.tile(lengths, 9))
        np.testing.assert_array_equal(
            np.flatnonzero(rollout.truncated[:, 0] | rollout.terminated[:, 0]) + 1, ends[ends <= 32]
        )
    for env in range(ENVS):  # the episode list tells the same story
        mine = episodes.envs == env
        np.testing.assert_array_equal(episodes.numbers[mine], np.arange(mine.sum()))
        rows = np.flatnonzero((rollout.terminated | rollout.truncated)[:, env])
        np.testing.assert_array_equal(episodes.lengths[mine], np.diff(rows, prepend=-1))
        np.testing.assert_array_equal(episodes.steps[mine], rows * ENVS + env + 1)
        sums = [part.sum() for part in np.split(rollout.reward[:, env], rows + 1)[:-1]]
        np.testing.assert_allclose(episodes.returns[mine], sums, rtol=1e-12)
    assert (np.diff(episodes.steps) > 0).all()


def test_what_follows_a_reset_reaches_no_successor_and_no_earlier_target():
    """PPO's targets in every episode but for the poisoned first step are what they are without poison."""
    ppo = adv.PPO(n_steps=24, batch_size=24, hidden=(8,), normalize_observation=False)
    batches = {}
    for poison in (False, True):
        make = functools.partial(Counter, None, poison)
        with driving(make, num_envs=3, n_steps=24) as driver:
            rollout = play(driver).rollout
        assert (rollout.next_obs < POISON).all()
        assert (rollout.obs == POISON).any() == poison
        state = ppo.init(jax.random.key(0), spec_of(make(), 3))
        batches[poison] = jax.tree.map(np.asarray, ppo._samples(state, rollout._replace(extras=()))[0])
        first = rollout.obs[..., 1].ravel() == (POISON if poison else 0)
    seen = ~first
    assert 20 < seen.sum() < seen.size
    for name in ("target", "advantage", "value", "log_prob"):
        np.testing.assert_array_equal(getattr(batches[True], name)[seen], getattr(batches[False], name)[seen])


# -- seeds and workers (promise 14) -----------------------------------------------------------------


@pytest.fixture(scope="module")
def reference():
    """Three iterations of five seeded environments in this process."""
    with driving(Seeded) as driver:
        return play(driver, 3)


@pytest.fixture(params=["watched", "piped"])
def handing(request, monkeypatch):
    """Steps are handed to workers through memory that both sides watch, or through pipes."""
    monkeypatch.setattr(worker_processes, "watching_pays", lambda num_workers: request.param == "watched")


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_promise_14_numbers_do_not_depend_on_workers(reference, workers, handing, monkeypatch):
    def fork():
        raise AssertionError("never fork after JAX started")

    monkeypatch.setattr(os, "fork", fork)
    with driving(Seeded, workers=workers) as driver:
        pids = pids_of(driver)
        assert len(pids) == workers
        for pid in pids:  # a fresh interpreter, not a copy of this one
            assert b"advantage.drivers.host.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert_same(play(driver, 3), reference)
    wait_until_gone(pids, 0)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_numbers_do_not_depend_on_who_else_steps(reference, workers, handing, monkeypatch):
    """With workers chosen by measuring, this process steps a share of the environments too."""
    monkeypatch.setattr(host, "choose_workers", lambda make, num_envs: workers)
    with driving(Seeded, workers="auto") as driver:
        assert len(driver.stepper.stepper.envs) == ENVS // (workers + 1)
        assert f"this process and {workers} worker" in driver.facts.where
        assert_same(play(driver, 3), reference)
        records = jax.tree.map(np.copy, driver.records(0))
        pids = [process.pid for process in driver.stepper.workers.crew.processes]
        after = play(driver, 1, first=3)
    with driving(Seeded, workers="auto", started=False) as driver:
        assert bring_back(driver, records) == []
        assert_same(play(driver, 1, first=3).rollout, after.rollout)
    wait_until_gone(pids, 0)


@pytest.mark.parametrize("fatal", [0, 3])
def test_a_failure_in_this_process_or_beside_it(fatal, handing, monkeypatch):
    monkeypatch.setattr(host, "choose_workers", lambda make, num_envs: 1)
    make = functools.partial(Failing, "raise", 4, episode_seed(SEED, fatal, 1))
    with driving(make, n_steps=64, workers="auto") as driver:
        pids = [process.pid for process in driver.stepper.workers.crew.processes]
        with pytest.raises(EnvironmentFailure, match=f"environment {fatal}"):
            play(driver)
    wait_until_gone(pids, 0)


def test_workers_that_fell_asleep_are_woken(reference, monkeypatch):
    """Between two iterations, and again and again within one."""
    monkeypatch.setattr(worker_processes, "watching_pays", lambda num_workers: True)
    with driving(Seeded, workers=2) as driver:
        step = driver.stepper.step

        def slowly(t):
            time.sleep(0.01)
            step(t)

        driver.stepper.step = slowly
        assert_same(play(driver, 3), reference)


def test_rollouts_are_shared_in_memory():
    """A file on disk would be written back again and again, and kill by SIGBUS where the disk is full."""
    with driving(Counter, workers=1) as driver:
        play(driver)
        maps = Path(f"/proc/{pids_of(driver)[0]}/maps").read_text()
    assert "/memfd:rollout" in maps


def test_workers_start_without_jax():
    with driving(SeesJax, workers=1, num_envs=1) as driver:
        assert not play(driver).rollout.obs.any()


def test_the_same_seed_again_gives_the_same_numbers(reference):
    with driving(Seeded) as driver:
        assert_same(play(driver, 3), reference)
    with driving(Seeded, seed=SEED + 1) as driver:
        other = play(driver, 3)
    assert not np.array_equal(other.rollout.obs["walk"], reference.rollout.obs["walk"])


def test_promise_14_every_episode_has_a_seed_of_its_own(reference):
    who, seeds = reference.rollout.obs["who"], {}
    for env in range(ENVS):
        starts = who[who[:, env, 1] == 0, env, 0]
        seeds[env] = starts.tolist()
        assert seeds[env] == [episode_seed(SEED, env, n) for n in range(len(starts))]
        assert len(starts) > 2
    everything = [seed for mine in seeds.values() for seed in mine]
    assert len(set(everything)) == len(everything)
    walks = [reference.rollout.obs["walk"][:, env].tobytes() for env in range(ENVS)]
    assert len(set(walks)) == ENVS


def test_seeds_of_episodes_are_spread_out_and_fixed():
    seeds = {episode_seed(s, env, n) for s in range(5) for env in range(20) for n in range(100)}
    assert len(seeds) > 9990
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert episode_seed(0, 1, 2) == 1942027521  # what episodes.csv is replayed with must never change


def test_promise_14_nothing_global_is_seeded():
    random.seed(3), np.random.seed(3)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    with driving(Seeded, workers="auto") as driver:
        play(driver)
        records = driver.records(0)
    with driving(Seeded, started=False) as driver:
        bring_back(driver, records)
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before  # noqa: NPY002


# -- spaces -----------------------------------------------------------------------------------------


def check_echo(space, **options):
    """What the policy chose arrives in the environment, what that shows arrives in the rollout."""
    with driving(lambda: Echo(space), num_envs=3, n_steps=7, **options) as driver:
        rollout = play(driver, 2).rollout
        given = environment_action(space, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rollout.action))
        seen = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rollout.next_obs)
        assert_same(seen, map_leaves(lambda part, leaf: leaf.astype(part.dtype), space, given))
        assert jax.tree.leaves(seen)[0].shape[0] == 42
        obs = jax.tree.map(lambda x: x.reshape(14, 3, *x.shape[2:]), rollout.obs)
        done = rollout.truncated
        assert done.sum() == 6
        later, before = (
            jax.tree.map(lambda x: x[1:][~done[:-1]], obs),
            jax.tree.map(lambda x: x[:-1][~done[:-1]], rollout.next_obs),
        )
        assert_same(later, before)
        return rollout


@pytest.mark.parametrize("kind", KINDS)
def test_spaces_of_every_kind_pass_through(kind):
    check_echo(KINDS[kind])


def test_spaces_of_every_kind_pass_through_shared_memory():
    """Nested as deep as they come, and several leaves that do not fill a cache line."""
    assert_same(check_echo(EVERYTHING, workers=2), check_echo(EVERYTHING))


def test_an_observation_that_is_a_plain_number():
    class Thermometer(gymnasium.Env):
        observation_space, action_space = spaces.Box(-50.0, 50.0, ()), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return 20.0, {}

        def step(self, action):
            self.t += 1
            return 20.0 + self.t, 0, False, self.t == 20, {}

    with driving(Thermometer, n_steps=40, num_envs=1) as driver:
        rollout = play(driver).rollout
    np.testing.assert_array_equal(rollout.next_obs[:, 0], 20 + np.tile(np.arange(1, 21), 2))
    np.testing.assert_array_equal(rollout.obs[:, 0], 20 + np.tile(np.arange(20), 2))


def test_an_environment_that_reuses_its_array_and_changes_its_action():
    class Reuser(gymnasium.Env):
        observation_space, action_space = spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(-1.0, 1.0, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.obs = np.zeros(1, np.float32)
            return self.obs, {}

        def step(self, action):
            self.obs += 1
            action *= 0
            return self.obs, 0.0, False, bool(self.obs == 3), {}

    with driving(Reuser, n_steps=9) as driver:
        rollout = play(driver).rollout
        np.testing.assert_array_equal(rollout.obs[:, 0, 0], np.tile([0, 1, 2], 3))
        np.testing.assert_array_equal(rollout.next_obs[:, 0, 0], np.tile([1, 2, 3], 3))
        assert (rollout.action != 0).all()


# -- records and restore ----------------------------------------------------------------------------


def copied(records):
    return {name: np.copy(array) for name, array in records.items()}


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 2), (2, 0)])
def test_a_restored_driver_goes_on_bit_for_bit(before, after):
    with driving(Seeded, workers=before) as driver:
        _, _, state = play(driver, 2)
        state = play(driver, 1, first=2, n_steps=3, state=state).state  # a shorter rollout, several segments
        records = copied(driver.records(0))
        assert (records["book/lengths"] > 0).sum() > 2, "some environments are in the middle of an episode"
        expected = play(driver, 2, first=3, state=state)
        later = copied(driver.records(0))
    with driving(Seeded, workers=after, started=False) as driver:
        assert bring_back(driver, records) == []
        assert_same(copied(driver.records(0)), records)
        got = play(driver, 2, first=3, state=state)
        assert_same(copied(driver.records(0)), later)
    assert_same(got, expected)


@pytest.mark.parametrize("kind", ["everything", "no axis"])
def test_restoring_brings_back_actions_of_every_kind(kind):
    def make():
        return Echo(KINDS[kind])

    with driving(make, n_steps=8) as driver:
        state = play(driver).state
        records = copied(driver.records(0))
        expected = play(driver, first=1, state=state)
    with driving(make, n_steps=8, started=False) as driver:
        assert bring_back(driver, records) == []
        assert_same(play(driver, first=1, state=state), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_cannot_be_repeated_starts_afresh(workers):
    with driving(Unrepeatable, num_envs=3, workers=workers) as driver:
        play(driver, 2)
        records = copied(driver.records(0))
    lengths, numbers = records["book/lengths"], records["book/numbers"]
    assert lengths.tolist() == [2, 2, 2]
    with driving(Unrepeatable, num_envs=3, workers=workers, started=False) as driver:
        notices = bring_back(driver, records)
        assert len(notices) == 3
        for env, notice in enumerate(notices):
            assert f"Environment {env} is not deterministic" in notice
            assert f"replaying episode {numbers[env]} ({lengths[env]} steps)" in notice
        np.testing.assert_array_equal(driver.collector.book.numbers, numbers + 1)
        played = play(driver, 1, first=2)
    who = played.rollout.obs["who"][0]
    assert who[:, 0].tolist() == [episode_seed(SEED, env, int(numbers[env]) + 1) for env in range(3)]
    assert not who[:, 1].any()
    for env in range(3):
        mine = played.episodes.envs == env
        assert played.episodes.lengths[mine].tolist() == [7]
        assert played.episodes.numbers[mine][0] == numbers[env] + 1


def play_long(driver, steps):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        state = play(driver, steps // 8).state
    return state, [str(warning.message) for warning in said]


class Endless(Counter):
    """Its episodes are long, and all alike."""

    def __init__(self):
        super().__init__((1000,))

    def observe(self):
        return np.array([0, self.t], np.float32)


def test_actions_of_an_episode_that_does_not_end_are_bounded(monkeypatch):
    """Beyond the bound a checkpoint no longer replays: the run and the one that is resumed say so."""
    monkeypatch.setattr(collector, "REPLAYED_STEPS", 20)
    with driving(Endless, num_envs=2) as driver:
        assert play_long(driver, 16)[1] == []
        at_first = copied(driver.records(0))
        assert at_first["book/lengths"].tolist() == [16, 16] and at_first["actions/0"].shape == (16,)
        state, said = play_long(driver, 24)
        assert len(said) == 1 and "more than 20 steps" in said[0] and "new episode" in said[0]
        records = copied(driver.records(0))
        assert records["actions/0"].shape == records["actions/1"].shape == (0,)
        assert not any(driver.collector.history)
    with driving(Endless, num_envs=2, started=False) as driver:
        notices = bring_back(driver, records)
        assert len(notices) == 2
        assert "cannot be replayed" in notices[1] and "A new episode begins" in notices[1]
        played = play(driver, 1, first=5, state=state)
        assert not played.rollout.obs[0, :, 1].any()
    monkeypatch.setattr(collector, "REPLAYED_STEPS", 10)  # older versions kept all, and all are replayed
    with driving(Endless, num_envs=2, started=False) as driver:
        assert bring_back(driver, at_first) == []


def test_the_bound_is_one_of_memory_too():
    with driving(Seeded, num_envs=2, started=False) as driver:
        assert driver.collector.replayable == collector.REPLAYED_STEPS
    with driving(lambda: Echo(spaces.Box(-1, 1, (1000,))), num_envs=4, started=False) as driver:
        assert driver.collector.replayable == 2**26 // (4 * 4000)


# -- environments that fail (promise 12) ------------------------------------------------------------

IN_BOTH = pytest.mark.parametrize("workers", [0, 2])
FATAL = episode_seed(SEED, 3, 1)  # environment 3, its second episode


def failure(how, at, workers, error, **options):
    """The error of the second episode of environment 3, and what it took."""
    make = functools.partial(Failing, how, at, FATAL)
    with driving(make, n_steps=64, workers=workers, **options) as driver:
        pids, start = pids_of(driver), time.monotonic()
        with pytest.raises(error) as caught:
            play(driver)
        seconds = time.monotonic() - start
    wait_until_gone(pids, 0)
    return str(caught.value), seconds


@IN_BOTH
@pytest.mark.parametrize(("at", "call"), [(4, "step("), (0, f"reset(seed={FATAL})")])
def test_promise_12_an_environment_that_raises(workers, at, call, handing):
    message, _ = failure("raise", at, workers, EnvironmentFailure)
    assert "environment 3" in message and "episode 1" in message and call in message
    assert "ZeroDivisionError: the pole has no length" in message
    if workers:
        assert 'raise ZeroDivisionError("the pole has no length")' in message, "the traceback is not there"


@pytest.mark.parametrize(
    ("how", "words"), [("kill", "was killed by SIGKILL"), ("exit at once", "exited with code 3")]
)
def test_promise_12_a_worker_that_dies(how, words, handing):
    message, seconds = failure(how, 4, 2, EnvironmentFailure)
    assert "Worker 1" in message and "environments 3, 4" in message
    assert words in message and "workers=0" in message
    assert seconds < 10


def test_promise_12_a_step_that_fails_is_not_taken_again(monkeypatch):
    """A worker may be woken twice for one step; the second time must not hide the error of the first."""
    monkeypatch.setattr(worker_processes, "watching_pays", lambda num_workers: True)
    begin_step, answered_soon = worker_processes.Workers.begin, worker_processes.Counters.answered_soon

    def begin_and_wake(workers, t):
        begin_step(workers, t)
        workers.crew.send(1, worker_processes.WAKE, "step")

    def answered_later(counters, number):
        time.sleep(0.01)
        return answered_soon(counters, number)

    monkeypatch.setattr(worker_processes.Workers, "begin", begin_and_wake)
    monkeypatch.setattr(worker_processes.Counters, "answered_soon", answered_later)
    message, _ = failure("raise", 4, 2, EnvironmentFailure)
    assert "the pole has no length" in message


@IN_BOTH
def test_promise_12_an_environment_that_ends_the_process_is_named(workers, handing):
    message, _ = failure("exit", 4, workers, EnvironmentFailure)
    assert "environment 3" in message and "episode 1" in message
    assert "sys.exit(3)" in message and "Raise an exception, or end the episode" in message


def test_promise_12_a_worker_that_hangs(handing):
    message, seconds = failure("hang", 4, 2, EnvironmentFailure, worker_timeout=1.0)
    assert "Worker 1" in message and "environments 3, 4" in message
    assert "within 1 seconds" in message and "worker_timeout" in message
    assert 1 <= seconds < 10


@IN_BOTH
@pytest.mark.parametrize(
    ("how", "at", "words"),
    [
        ("nan observation", 4, "observation[1]"),
        ("nan observation", 0, "observation"),
        ("infinite reward", 4, "reward"),
        ("wrong shape", 4, "shape (3,)"),
    ],
)
def test_an_environment_that_returns_what_is_wrong(how, at, words, workers, handing):
    message, _ = failure(how, at, workers, adv.EnvironmentDefect)
    assert "environment 3" in message and words in message


def test_a_start_that_is_not_finite_is_found_however_late():
    class Late(Counter):
        def reset(self, **keywords):
            obs, info = super().reset(**keywords)
            return (obs * np.nan if self.episode == 9 else obs), info

    with driving(functools.partial(Late, (4,)), num_envs=2, n_steps=64) as driver:
        with pytest.raises(
            adv.EnvironmentDefect, match=r"environment 0, step 35 .*observation.*finite"
        ) as caught:
            play(driver)
        assert "reset" in str(caught.value)


@IN_BOTH
def test_making_an_environment_fails(workers):
    class Unmade(Counter):
        made = 0

        def __init__(self):
            type(self).made += 1
            if type(self).made == 3:
                raise OSError("no licence left")
            super().__init__()

    with (  # the first is made to look at its spaces
        pytest.raises(EnvironmentFailure, match=r"environment 1: making it.*OSError: no licence left"),
        driving(lambda: Unmade(), num_envs=3, workers=min(workers, 1)),
    ):
        pass


def test_a_worker_that_died_between_two_iterations(handing):
    with driving(Counter, workers=2) as driver:
        play(driver)
        os.kill(driver.stepper.crew.processes[0].pid, signal.SIGKILL)
        driver.stepper.crew.processes[0].wait()
        with pytest.raises(EnvironmentFailure, match="Worker 0 .*environments 0, 1, 2.*SIGKILL"):
            begin(driver)
        with pytest.raises(EnvironmentFailure, match="Worker 0 .*environments 0, 1, 2.*SIGKILL"):
            play(driver)


PARENT = """
import sys, time, functools
sys.path.insert(0, {tests!r})
from test_host_driver import driving, pids_of, play
from probe_worlds import Counter, Failing
make = {make}
if __name__ == "__main__":
    with driving(make, workers=2, n_steps=64) as driver:
        print(*pids_of(driver), flush=True)
        play(driver)
        time.sleep(1000)
"""


@pytest.mark.parametrize(
    "make", ["Counter", f"functools.partial(Failing, 'hang', 4, {FATAL})"], ids=["idle", "hanging"]
)
def test_promise_12_no_orphan_outlives_a_parent_that_was_killed(make):
    script = PARENT.format(tests=str(Path(__file__).parent), make=make)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        pids = list(map(int, parent.stdout.readline().split()))
        assert len(pids) == 2
        time.sleep(1.0)
        assert not any(map(is_gone, pids))
        parent.kill()
    wait_until_gone(pids, 10)


def test_an_error_in_training_ends_the_workers(tmp_path, monkeypatch):
    pids = []
    close = HostDriver.close
    monkeypatch.setattr(HostDriver, "close", lambda driver: (pids.extend(pids_of(driver)), close(driver)))
    make = functools.partial(Failing, "kill", 4, episode_seed(0, 1, 0))
    with pytest.raises(EnvironmentFailure, match="SIGKILL"):
        adv.train(
            adv.PPO(n_steps=8, batch_size=16, hidden=(4,)),
            make,
            out=tmp_path / "run",
            num_envs=2,
            workers=2,
            total_timesteps=64,
            eval_episodes=0,
        )
    assert len(pids) == 2
    wait_until_gone(pids, 0)


# -- before the first step --------------------------------------------------------------------------


@pytest.mark.parametrize(("n_steps", "num_envs"), [(100_000, 1000), (10_000_000, 10_000)])
def test_what_does_not_fit_into_memory_is_refused(n_steps, num_envs):
    space = spaces.Box(0, 255, (1000, 1000), np.uint8)
    algorithm = random_policy(spaces.Discrete(2), n_steps)
    spec = adv.Spec(space, spaces.Discrete(2), num_envs)
    with pytest.raises(ValueError, match=rf"n_steps={n_steps} in num_envs={num_envs} .*[GT]iB.* use fewer"):
        HostDriver(algorithm, Counter, spec, SEED)


@pytest.mark.parametrize(("dtype", "times"), [(np.float32, 3.5), (np.uint8, 2.0)])
def test_what_does_not_fit_with_its_update_is_refused(dtype, times, monkeypatch):
    """An update holds the rollout again, and floats also normalised: measured, 3.5 rollouts of PPO's and 2 of A2C's."""
    space = spaces.Box(0, 1, (5_000,), dtype)
    algorithm, spec = random_policy(spaces.Discrete(2), 32), adv.Spec(space, spaces.Discrete(2), 4)
    rollout = 65 * 4 * 5_000 * np.dtype(dtype).itemsize
    for share, fits in ((0.95, False), (1.05, True)):
        monkeypatch.setattr(
            "advantage.drivers.host.driver.free_host_bytes", lambda share=share: share * times * rollout
        )
        if fits:
            HostDriver(algorithm, lambda: FlatBox(space), spec, SEED).close()
        else:
            with pytest.raises(
                ValueError, match=r"n_steps=32 in num_envs=4 environments with its update takes .*MiB"
            ):
                HostDriver(algorithm, lambda: FlatBox(space), spec, SEED)


class FlatBox(gymnasium.Env):
    action_space = spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = space


def test_a_rollout_may_be_larger_than_two_gibibytes():
    """NumPy's dtypes count their bytes in 32 bits; the buffers must not."""
    from advantage.drivers.host.stepper import buffer_bytes, buffer_shapes

    shapes = buffer_shapes(spaces.Box(0, 255, (84, 84, 4), np.uint8), spaces.Discrete(2), 2048, 64)
    assert 2 * 2048 * 64 * 84 * 84 * 4 < buffer_bytes(shapes) < 2.01 * 2048 * 64 * 84 * 84 * 4


def with_cores(monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)


def test_workers_are_chosen_where_they_pay(monkeypatch):
    with_cores(monkeypatch, 4)
    assert choose_workers(Slow, 8) == 3  # and this process
    assert choose_workers(Slow, 3) == 2
    assert choose_workers(Slow, 1) == 0
    fast = functools.partial(gymnasium.make, "CartPole-v1", disable_env_checker=True)
    assert choose_workers(fast, 2) == 0
    assert choose_workers(Counter, 8) == 0
    with_cores(monkeypatch, 1)
    assert choose_workers(Slow, 8) == 0


def test_an_environment_that_fails_while_it_is_measured_fails_where_it_is_named(monkeypatch):
    with_cores(monkeypatch, 2)

    class Never(Counter):
        def step(self, action):
            raise ZeroDivisionError("at once")

    with driving(Never, workers="auto") as driver, pytest.raises(EnvironmentFailure, match="environment 0"):
        play(driver)
