"""What an environment returns late is checked as strictly as what it returns first."""

import time
import warnings

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import TimeLimit
from probe_drivers import begin, first_state, random_policy, spec_of

import advantage as adv
from advantage.drivers.host import worker_choice
from advantage.drivers.host.driver import HostDriver
from advantage.drivers.host.stepper import CHECKED_STEPS, EnvironmentFailure, Stepper, allocate, buffer_shapes
from advantage.drivers.host.vector_stepper import VectorStepper
from advantage.drivers.host.worker_choice import choose_workers
from advantage.drivers.search.host_games import Player
from advantage.environments import watchdog
from advantage.environments.check import check_environment, describe
from advantage.environments.defect import EnvironmentDefect, EnvironmentWarning
from advantage.environments.environment import close
from advantage.environments.make import resolve
from advantage.environments.masks import find_offer
from advantage.environments.space_faults import value_faults
from advantage.environments.step_checks import Extremes, RolloutChecks, form_test, step_test
from advantage.environments.watchdog import Watchdog
from advantage.runs.video import CannotDraw, frame_of
from advantage.types import Span, Spec

LATE = 3 * CHECKED_STEPS
KINDS = spaces.Dict(
    {
        "box": spaces.Box(0.0, 1.0, (2,), np.float32),
        "choice": spaces.Discrete(3, start=1),
        "pair": spaces.Tuple([spaces.MultiBinary(2), spaces.Box(-5, 5, (), np.int16)]),
    }
)
ONE = {"box": np.zeros(2, np.float32), "choice": 2, "pair": (np.ones(2, np.int8), np.int16(3))}


class Turning(gymnasium.Env):
    """Correct until the step `LATE` or the episode after it; then it returns what it is given."""

    def __init__(self, step=None, reset=None, obs=ONE, space=KINDS, other_space=None):
        self.observation_space, self.action_space = space, spaces.Discrete(2)
        self.turned, self.first, self.obs, self.other_space = step, reset, obs, other_space
        self.clock = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.clock > LATE:
            self.observation_space = self.other_space or self.observation_space
            return self.first if self.first is not None else (self.obs, {})
        return self.obs, {}

    def step(self, action):
        self.clock += 1
        if self.clock == LATE and self.turned is not None:
            return self.turned
        return self.obs, 1.0, False, self.clock % (LATE + 5) == 0, {}


def stepping(make, steps=2 * LATE):
    env = make()
    buffers = allocate(buffer_shapes(env.observation_space, env.action_space, steps, 1))
    stepper = Stepper(make, [0], 0, buffers)
    stepper.reset()
    for t in range(steps):
        stepper.step(t)
    return buffers


WRONG_OBSERVATIONS = {
    "another shape": ({**ONE, "box": np.zeros(3, np.float32)}, "['box']"),
    "that could be spread": ({**ONE, "box": np.zeros(1, np.float32)}, "['box']"),
    "a number for an array": ({**ONE, "box": 0.5}, "['box']"),
    "a list": ({**ONE, "box": [0.5, 0.5]}, "['box']"),
    "a key more": ({**ONE, "extra": 1}, "keys"),
    "a key less": ({name: ONE[name] for name in ("box", "choice")}, "keys"),
    "a float for a choice": ({**ONE, "choice": 2.0}, "['choice']"),
    "a choice too high": ({**ONE, "choice": 4}, "['choice']"),
    "a list for a tuple": ({**ONE, "pair": list(ONE["pair"])}, "['pair']"),
    "an integer that would wrap": ({**ONE, "pair": (ONE["pair"][0], np.int64(2**20))}, "['pair'][1]"),
    "None": (None, "observation"),
}


@pytest.mark.parametrize("name", WRONG_OBSERVATIONS)
def test_a_late_observation(name):
    obs, words = WRONG_OBSERVATIONS[name]
    with pytest.raises(EnvironmentDefect) as error:
        stepping(lambda: Turning(step=(obs, 1.0, False, False, {})))
    assert words in str(error.value)
    assert f"step {LATE}" in str(error.value)
    with pytest.raises(EnvironmentDefect, match="reset"):
        stepping(lambda: Turning(reset=(obs, {})))


@pytest.mark.parametrize(
    "outcome",
    [
        (None, False, False, {}),
        (np.ones(1), False, False, {}),
        ("1", False, False, {}),
        (1.0, 1, False, {}),
        (1.0, None, False, {}),
        (1.0, False, np.array([False]), {}),
        (1.0, False, 0, {}),
        (1.0, False, False, None),
        (1.0, False, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize(("space", "obs"), [(KINDS, ONE), (KINDS["box"], ONE["box"])], ids=["parts", "array"])
def test_a_late_outcome(outcome, space, obs):
    with pytest.raises(EnvironmentDefect, match=f"step {LATE}"):
        stepping(lambda: Turning(step=(obs, *outcome), obs=obs, space=space))


@pytest.mark.parametrize(
    "wrong",
    [np.zeros(3, np.float32), np.zeros((1, 2), np.float32), np.zeros(2, complex), [0.5, 0.5], 0.5, None],
    ids=str,
)
def test_a_late_observation_that_is_one_array(wrong):
    right = ONE["box"]
    with pytest.raises(EnvironmentDefect, match=f"step {LATE}, observation"):
        stepping(lambda: Turning(step=(wrong, 1.0, False, False, {}), obs=right, space=KINDS["box"]))


LARGE = {  # a whole number of Python's, which has no largest: its space, and what is expected
    "more than the type": (spaces.Box(-5, 5, (), np.int16), 3, 10**6, "an integer from -5 to 5"),
    "more than 64 bits": (spaces.Box(-5, 5, (), np.int16), 3, 10**30, "an integer from -5 to 5"),
    "more than any float": (spaces.Box(-np.inf, np.inf, (), np.float32), 3.0, -(10**400), "a finite number"),
    "more than a float32": (spaces.Box(-np.inf, np.inf, (), np.float32), 3.0, 10**39, "a finite number"),
    "a choice": (spaces.Discrete(5), 2, 10**30, "an integer from 0 to 4"),
    "no bool": (spaces.Box(0, 1, (), bool), True, 2, "an integer from False to True"),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_late_whole_number_that_is_too_large(name):
    space, right, large, words = LARGE[name]
    for late in ({"step": (large, 1.0, False, False, {})}, {"reset": (large, {})}):
        with pytest.raises(EnvironmentDefect, match=f"observation: expected {words}"):
            stepping(lambda late=late: Turning(obs=right, space=space, **late))


@pytest.mark.parametrize("reward", [10**39, -(10**400)])
@pytest.mark.parametrize(("space", "obs"), [(KINDS, ONE), (KINDS["box"], ONE["box"])], ids=["parts", "array"])
def test_a_late_reward_that_is_too_large(reward, space, obs):
    with pytest.raises(EnvironmentDefect, match=f"step {LATE}, reward: expected a finite number, found int"):
        stepping(lambda: Turning(step=(obs, reward, False, False, {}), obs=obs, space=space))
    assert not step_test(space)((obs, reward, False, False, {}))
    assert step_test(space)((obs, 10**38, False, False, {}))


def test_whole_numbers_of_more_than_64_bits_are_floats_where_they_fit():
    space = spaces.Box(-np.inf, np.inf, (), np.float64)
    assert form_test(space)(2**70)
    assert not list(value_faults(space, 2**70, "observation"))


def test_an_exception_that_cannot_be_shown():
    class Unreadable(Exception):
        def __str__(self):
            raise KeyError

    class Raising(Turning):
        def step(self, action):
            raise Unreadable

    with pytest.raises(
        EnvironmentFailure, match=r"raised Unreadable: its message cannot be read: __str__\(\) raised"
    ):
        stepping(Raising)


@pytest.mark.parametrize("dtype", ["f4", ">f4", "f8", "f2", "i8", "?"])
def test_an_array_of_another_type_of_numbers_is_written_as_before(dtype):
    late = np.ones(2, dtype)
    buffers = stepping(
        lambda: Turning(step=(late, 1.0, False, False, {}), obs=ONE["box"], space=KINDS["box"])
    )
    np.testing.assert_array_equal(buffers.next_obs[LATE - 1, 0], [1, 1])


def test_a_space_that_changes_late():
    other = spaces.Dict({**KINDS.spaces, "choice": spaces.Discrete(4, start=1)})
    with pytest.raises(EnvironmentDefect, match="observation_space: expected"):
        stepping(lambda: Turning(other_space=other))


@pytest.mark.parametrize(
    "value", [*ONE.values(), np.zeros(2), np.int8(1), True, 3, None, "x", (np.zeros(2, bool), 3), [0.0, 1.0]]
)
@pytest.mark.parametrize("space", [KINDS, *KINDS.spaces.values()], ids=str)
def test_the_quick_test_accepts_nothing_that_the_check_refuses(space, value):
    if form_test(space)(value) or step_test(space)((value, 1.0, False, False, {})):
        assert all(fault.severity == "warning" for fault in value_faults(space, value, ""))


def test_numbers_outside_their_bounds_are_found_in_a_rollout():
    space = spaces.Box(np.array([0, -np.inf], np.float32), np.array([1, 5], np.float32))
    obs, reward = np.full((50, 3, 2), 0.5, np.float32), np.zeros((50, 3))
    check = RolloutChecks(space)
    assert check(obs, obs, reward) == []
    for value, words in ((1.01, "from 0.0 to 1.0"), (np.nan, "a finite number"), (-1.0, "from 0.0 to 1.0")):
        wrong = obs.copy()
        wrong[40, 2, 0] = value
        with pytest.raises(
            EnvironmentDefect, match=r"environment 2, step 40 of this rollout, observation\[0\]"
        ) as error:
            check(wrong, obs, reward)
        assert words in error.value.expected
        with pytest.raises(EnvironmentDefect, match=r"observation\[0\] after the reset"):
            check(obs, wrong, reward)
    for large in (np.nan, np.inf, 1e39):
        reward[7, 1] = large
        with pytest.raises(EnvironmentDefect, match="environment 1, step 7 of this rollout, reward"):
            check(obs, obs, reward)


@pytest.mark.parametrize(
    ("low", "high", "value", "counts"),
    [
        (0.0, 1.0, np.nextafter(1.0, 2.0), True),
        (0.0, 1.0, -1e-16, True),
        (0.0, 1.0, np.float64(np.nextafter(np.float32(1), np.float32(2))), True),
        (0.0, 1.0, 1.0021, True),
        (0.0, 1.0, -0.00001, True),
        (0.0, 1.0, 1.0051, False),
        (0.0, 1e9, -0.01, True),
        (0.0, 1e9, -6e6, False),
        (-1e30, 1e30, 1.1e30, False),
        (0.0, np.inf, -1e-9, True),
        (0.0, np.inf, -1e-3, False),
        (1e-9, 2e-9, 2.1e-9, False),
    ],
)
def test_what_is_barely_outside_is_no_error(low, high, value, counts):
    [fault] = value_faults(spaces.Box(low, high, (1,), np.float64), np.array([value]), "observation")
    assert (fault.kind, fault.severity) == (("barely outside", "warning") if counts else ("bounds", "error"))


def test_integers_are_not_rounded():
    [fault] = value_faults(spaces.Box(0, 2**30, (1,), np.int64), np.array([2**30 + 1]), "observation")
    assert fault.kind == "bounds"


class Edge(gymnasium.Env):
    """Its observations lie outside their bounds by `excess`, from the second step of an episode on."""

    observation_space, action_space = spaces.Box(0.0, 1.0, (3,), np.float64), spaces.Discrete(2)

    def __init__(self, excess=2.2e-16):
        self.excess = excess

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.full(3, 0.5), {}

    def step(self, action):
        self.t += 1
        return np.full(3, 1 + self.excess * (self.t > 25)), 1.0, False, self.t >= 30, {}


PPO = adv.PPO(n_steps=64, batch_size=64, n_epochs=1, hidden=(4,))


def test_a_training_says_once_that_it_rounds(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = adv.train(PPO, Edge, total_timesteps=256, eval_episodes=2, workers=0, out=tmp_path / "run")
    assert run.step == 256
    notes = [str(warning.message) for warning in caught if warning.category is EnvironmentWarning]
    assert len(notes) == 1
    assert "rounding" in notes[0]


@pytest.mark.filterwarnings("ignore::advantage.environments.defect.EnvironmentWarning")
def test_what_is_truly_outside_stops_training_evaluation_and_search(tmp_path):
    def outside():
        return Edge(0.01)

    with pytest.raises(EnvironmentDefect, match="from 0.0 to 1.0"):
        adv.train(PPO, outside, total_timesteps=256, eval_episodes=0, workers=0, out=tmp_path / "run")
    run = adv.train(PPO, Edge, total_timesteps=64, eval_episodes=0, workers=0, out=tmp_path / "edge")
    with pytest.raises(EnvironmentDefect, match=r"evaluation, a step after reset\(seed="):
        adv.evaluate(run.agent, outside, episodes=1)
    with pytest.raises(EnvironmentDefect, match="a step of a candidate's episode"):
        adv.train(
            adv.PolicySearch(adv.CEM(), hidden=()), outside,
            total_timesteps=256, eval_episodes=0, workers=0, out=tmp_path / "search",
        )  # fmt: skip


def test_extremes_of_nothing_are_right():
    Extremes(KINDS).check("here")


def test_extremes_of_flags_as_of_numbers():
    either, up = spaces.Box(0, 1, (2,), np.bool_), spaces.Box(1, 1, (2,), np.bool_)
    for space, value, right in (
        (either, [False, True], True),
        (up, [True, True], True),
        (up, [False, True], False),
    ):
        extremes = Extremes(space)
        extremes.add(np.array(value))
        if right:
            extremes.check("here")
        else:
            with pytest.raises(EnvironmentDefect, match=r"here, observation\[0\]: expected .* found False"):
                extremes.check("here")


class Loose(VectorEnv):
    """A vector environment of two, in the manner of SuperSuit and older libraries: flags are 0 and 1."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    num_envs = 2
    single_observation_space, single_action_space = spaces.Box(0, 1, (3,), np.float32), spaces.Discrete(2)
    infos: dict = {"final_observation": [np.full(3, 0.5, np.float32)] * 2}

    def reset(self, *, seed=None, options=None):
        return np.zeros((2, 3), np.float32), {}

    def step(self, actions):
        ends = np.ones(2, np.uint8)
        return np.zeros((2, 3), np.float32), np.ones(2, np.float32), ends, 0 * ends, self.infos


def vector_step(envs):
    shapes = buffer_shapes(envs.single_observation_space, envs.single_action_space, 3, envs.num_envs)
    stepper = VectorStepper(envs, 0, allocate(shapes))
    stepper.reset()
    stepper.step(0)
    return stepper.buffers


def test_older_names_and_numbers_for_flags_work_in_a_vector_environment():
    buffers = vector_step(Loose())
    assert buffers.terminated[0].tolist() == [True, True]
    assert buffers.next_obs[0].tolist() == [[0.5] * 3] * 2


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, np.zeros(3, np.float32), "observation"),
        (1, None, "reward"),
        (1, 1.0, "reward"),
        (2, np.array([0, 2]), "terminated"),
        (3, False, "truncated"),
        (4, [{}, {}], "final_obs"),
    ],
)
def test_what_a_vector_environment_returns_is_checked(place, value, words):
    class Wrong(Loose):
        def step(self, actions):
            result = list(super().step(actions))
            result[place] = value
            return tuple(result)

    with pytest.raises(EnvironmentDefect, match=words):
        vector_step(Wrong())


def test_a_vector_environment_without_single_spaces_is_refused_when_it_is_given():
    class Older(VectorEnv):
        num_envs = 2
        observation_space, action_space = spaces.Box(0, 1, (3,)), spaces.Discrete(2)

    with pytest.raises(ValueError, match="no single_observation_space and no single_action_space"):
        resolve(Older())


class DropsTheOptions(VectorWrapper):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed)


class TakesNoOptions(VectorWrapper):
    def reset(self, seed=None):
        return self.env.reset(seed=seed)


@pytest.mark.parametrize("wrapper", [DropsTheOptions, TakesNoOptions])
def test_a_wrapper_that_cannot_reset_in_part_is_refused_before_the_first_step(wrapper):
    with pytest.raises(ValueError, match="SAME_STEP"):
        vector_step(wrapper(SyncVectorEnv([Edge] * 2)))


class Leaves(Edge):
    """Its third step ends the process."""

    def step(self, action):
        if self.t == 2:
            raise SystemExit(3)
        return super().step(action)


@pytest.mark.filterwarnings("ignore::advantage.environments.defect.EnvironmentWarning")
def test_an_environment_that_ends_the_process_is_named():
    with pytest.raises(adv.EnvironmentFailure, match=r"environment 0, step 2.*tried to end the process"):
        stepping(Leaves, steps=8)
    defects = check_environment(Leaves, steps=8)
    assert any("SystemExit: 3" in defect.found for defect in defects)


class Sleeps(Edge):
    """One step takes long."""

    slept = False

    def __init__(self):
        super().__init__(excess=0)

    def step(self, action):
        if self.t == 1 and not Sleeps.slept:
            Sleeps.slept = True
            time.sleep(0.5)
        return super().step(action)


class Exits(Edge):
    """Ends the process `where` it is told to, once an episode is over."""

    where = ""

    def __init__(self):
        super().__init__(excess=0)
        self.leave("make")

    def leave(self, call):
        if self.where == call:
            raise SystemExit(3)

    def reset(self, *, seed=None, options=None):
        self.leave("reset")
        return super().reset(seed=seed)

    def step(self, action):
        self.leave("step")
        return super().step(action)

    def close(self):
        self.leave("close")


def exits(call, **names):
    return type("Exits", (Exits,), {"where": call, **names})


@pytest.mark.parametrize(("call", "workers"), [("reset", 0), ("step", 0), ("step", 1)])
def test_a_search_names_an_environment_that_ends_the_process(call, workers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(adv.EnvironmentFailure, match=rf"{call}\(.*tried to end the process: sys.exit\(3\)"):
        trained(adv.CEM(candidates=4, elite=0.5), exits(call), workers)()


def test_a_constructor_that_ends_the_process_is_named():
    algorithm = adv.PolicySearch(adv.CEM(candidates=4, elite=0.5))
    with pytest.raises(adv.EnvironmentFailure, match="making it tried to end the process"):
        Player(exits("make"), algorithm, Spec(Edge.observation_space, Edge.action_space, 1, 100))


@pytest.mark.parametrize("call", ["reset", "step"])
def test_an_exit_while_a_step_is_measured_and_in_a_vector_environment(call, monkeypatch):
    monkeypatch.setattr(worker_choice, "available_cores", lambda: 2)
    assert choose_workers(exits(call), 2) == 0
    with pytest.raises(adv.EnvironmentFailure, match=rf"the vector environment, .*{call}\(\).*tried to end"):
        vector_step(SyncVectorEnv([exits(call)] * 2))


def test_an_exit_of_close_render_and_of_the_environment_inside_a_wrapper():
    with pytest.warns(EnvironmentWarning, match=r"close\(\) of Exits raised SystemExit"):
        close(exits("close")())
    with pytest.raises(CannotDraw, match="SystemExit"):
        frame_of(exits("render", render=lambda self: self.leave("render"))())
    defects = check_environment(lambda: TimeLimit(exits("step")(), 9), steps=4)
    assert any("SystemExit: 3" in defect.found for defect in defects)
    assert find_offer(exits("reset")()) is None


def trained(algorithm, environment, workers=0):
    return lambda: adv.train(
        algorithm, environment, total_timesteps=128, workers=workers, eval_episodes=0, tensorboard=False
    )


def drive_two():
    envs = SyncVectorEnv([Sleeps] * 2)
    driver = HostDriver(random_policy(Edge, 4), envs, spec_of(envs, 2), 0)
    begin(driver)
    driver.iterate(first_state(driver), jax.random.key(0)[None], Span(0, 1, 0, 4))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (trained(adv.CEM(candidates=4, elite=0.5), Sleeps), r"step 1 of a candidate's episode \(call 3 of"),
        (drive_two, r"the vector environment, step\(\) after 1 steps"),
        (lambda: check_environment(Sleeps, steps=4), "environment 0, the call after step 1"),
        (lambda: describe(Sleeps(), steps=4), "the call after 1 steps"),
        (lambda: choose_workers(Sleeps, 2), "Measuring a step of the environment"),
    ],
    ids=["search", "vector", "check", "describe", "measuring"],
)
def test_a_step_that_hangs_is_named_wherever_it_is_taken(call, words, monkeypatch, tmp_path):
    monkeypatch.setattr(watchdog, "SECONDS", 0.1)
    monkeypatch.setattr(worker_choice, "available_cores", lambda: 2)
    monkeypatch.setattr(Sleeps, "slept", False)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(EnvironmentWarning, match=f"{words}.*has not returned .*in step.*Ctrl-C"):
        call()


def hang():
    with Watchdog(lambda: "step 7", seconds=0.1):
        time.sleep(0.5)


def test_a_call_that_hangs_is_named_once_with_its_line():
    with pytest.warns(
        EnvironmentWarning, match=r"step 7 has not returned .*test_step_checks.py:\d+, in hang"
    ) as said:
        hang()
    assert len(said) == 1
    with Watchdog(lambda: None, seconds=0.01):
        time.sleep(0.1)
