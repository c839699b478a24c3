"""Policies act in units of a bounded Box; what is not bounded on both sides stays as it is, and is told."""

import dataclasses
import json
import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import advantage as adv
from advantage.algorithms.registry import (
    ALGORITHMS,
    default_algorithm,
    hyperparameters_of,
    spec_of,
    with_hyperparameters,
)
from advantage.drivers.device import rollout_on_device, start
from advantage.drivers.host.driver import HostDriver
from advantage.environments.check import answer_beyond_bounds, far_bounds
from advantage.environments.spaces import action_scale, environment_action, policy_bounds
from advantage.policies.interface import describe_interface
from advantage.types import Span

MIXED = spaces.Box(
    np.array([30, 0, -np.inf, -1, -3.4e38, 5], np.float32),
    np.array([1017, np.inf, 2, 1, 3.4e38, 5], np.float32),
)


def test_the_scale_is_middle_and_half_width_where_there_are_two_bounds():
    middle, half = action_scale(MIXED, "bounds")
    np.testing.assert_array_equal(middle, [523.5, 0, 0, 0, 0, 5])
    np.testing.assert_array_equal(half, [493.5, 1, 1, 1, 1, 0])
    for raw in action_scale(MIXED, "raw"):
        assert len(set(raw.tolist())) == 1
    low, high = policy_bounds(MIXED, "bounds")
    np.testing.assert_array_equal(low, np.float32([-1, 0, -np.inf, -1, -3.4e38, -1]))
    np.testing.assert_array_equal(high, np.float32([1, np.inf, 2, 1, 3.4e38, 1]))
    np.testing.assert_array_equal(policy_bounds(MIXED, "raw"), (MIXED.low, MIXED.high))


@pytest.mark.parametrize("to", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_every_number_of_an_action_follows_its_definition(to):
    rng = np.random.default_rng(0)
    for _ in range(20):
        low = rng.normal(0, 100, (3, 2))
        high = low + rng.exponential(50, (3, 2))
        space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
        u = rng.normal(0, 1, (7, 6)).astype(np.float32)
        expected = (low + high) / 2 + (high - low) / 2 * u.reshape(7, 3, 2)
        given = environment_action(space, to(u))
        assert given.dtype == np.float32
        np.testing.assert_allclose(given, expected.clip(low, high), rtol=2e-6, atol=2e-4)
        np.testing.assert_allclose(
            environment_action(space, to(u), "raw"), u.reshape(7, 3, 2).clip(low, high), atol=2e-4
        )
        assert all(space.contains(np.asarray(action)) for action in given)


def test_between_minus_one_and_one_not_a_bit_changes():
    u = np.random.default_rng(0).normal(0, 2, (100, 3)).astype(np.float32)
    space = spaces.Box(-1, 1, (3,), np.float32)
    same = [environment_action(space, u, units) for units in ("bounds", "raw")]
    np.testing.assert_array_equal(*same)
    np.testing.assert_array_equal(same[0], u.clip(-1, 1))


def test_boxes_inside_of_products_have_units_too():
    box = spaces.Box(0, 10, (1,), np.float32)
    space = spaces.Dict({"a": spaces.Discrete(3, start=2), "b": spaces.Tuple((box, spaces.MultiBinary(2)))})
    action = np.array([1]), (np.array([[0.5]], np.float32), np.array([[0, 1]], np.int8))
    given = environment_action(space, action)
    assert (given["a"], given["b"][0]) == (3, 7.5)
    assert environment_action(space, action, "raw")["b"][0] == 0.5


class Dial(gymnasium.Env):
    """Keeps the actions that it is given."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(30, 1017, (1,), np.float32)
    given: list = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        Dial.given.append(float(action[0]))
        self.t += 1
        return np.zeros(2, np.float32), -abs(float(action[0]) - 523.5) / 100, False, self.t >= 8, {}


class DialWorld:
    """The same on the device; the observation tells the action that was given."""

    max_episode_steps = 8
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Dial.action_space
    gymnasium_id = None

    def reset(self, key):
        return jnp.zeros(2), jnp.zeros(2)

    def step(self, state, action, key):
        obs = jnp.stack([action[0], state[0]])
        return obs, obs, -jnp.abs(action[0] - 523.5) / 100, jnp.bool_(False)


SETTINGS = {"ppo": {"n_steps": 64, "batch_size": 32}, "off-policy-ac": {"buffer_size": 512}}
POLICIES = [  # planners have no policy: see test_planners.py; cloning needs a file: see test_offline.py
    name
    for name in ALGORITHMS
    if "action_units" in hyperparameters_of(default_algorithm(name))
    and not ALGORITHMS[name].startswith(("planning", "imitation"))
]


@pytest.mark.filterwarnings("ignore:action_space")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("trpo", "cem"))) for name in POLICIES],
)
def test_every_method_with_a_policy_begins_around_the_middle(name, tmp_path):
    default = default_algorithm(name)
    options = {"sigma": 0.5} if "sigma" in hyperparameters_of(default) else {}
    for units, near in (("bounds", 523.5), ("raw", 30)):
        Dial.given.clear()
        chosen = {"action_units": units, **SETTINGS.get(name, {}), **options}
        algorithm = with_hyperparameters(default, chosen)
        run = adv.train(
            algorithm, Dial, out=tmp_path / units, total_timesteps=2_048, eval_episodes=0, workers=0
        )
        given = np.array(Dial.given[:24])
        if getattr(algorithm, "action_bounds", None) == "squash":  # it fills the box, whatever the units
            near = 523.5
        assert abs(np.median(given) - near) < 300, (units, given)
        assert (given >= 30).all() and (given <= 1017).all()
        if units == "raw":
            assert near > 30 or np.median(given) == 30  # 0 ± 1 is below the box
            continue
        Dial.given.clear()
        agent = adv.load(run.path)
        action = agent.act(np.zeros(2, np.float32))
        adv.evaluate(agent, Dial, episodes=1)
        np.testing.assert_allclose(Dial.given, float(action[0]), rtol=1e-6)


def test_both_drivers_give_the_same_actions():
    algorithm, world = adv.PPO(n_steps=8, batch_size=8, hidden=(4,)), DialWorld()
    sizes = {"num_envs": 2, "total_timesteps": 100}
    spec = spec_of(algorithm, world.observation_space, world.action_space, **sizes)
    state = algorithm.init(jax.random.key(0), spec)
    noise = algorithm.noise(algorithm.actor(state), jax.random.key(1), (8, 2))
    worlds = start(world, jax.random.key(2), 2)
    _, rollout = rollout_on_device(
        algorithm, world, algorithm.actor(state), worlds, noise, jax.random.key(3), "bounds"
    )
    expected = np.clip(523.5 + 493.5 * np.asarray(rollout.action[..., 0]), 30, 1017)
    np.testing.assert_allclose(rollout.next_obs[..., 0], expected, rtol=1e-6)
    assert np.ptp(expected) > 300

    driver = HostDriver(algorithm, Dial, spec, seed=0)
    state = driver.start(jax.tree.map(lambda leaf: leaf[None], state), None)
    driver.iterate(state, jax.random.key(1)[None], Span(0, 1, 0, 8))
    held = driver.stepper.buffers.action[:8, :, 0]
    driver.close()
    assert np.ptp(held) > 300
    assert held.min() >= 30


def test_squashed_actions_fill_the_box_in_either_unit(tmp_path):
    means = {}
    for units in ("bounds", "raw"):
        Dial.given.clear()
        algorithm = adv.PPO(n_steps=64, batch_size=32, action_bounds="squash", action_units=units)
        adv.train(algorithm, Dial, out=tmp_path / units, total_timesteps=64, eval_episodes=0, workers=0)
        means[units] = np.array(Dial.given)
    np.testing.assert_allclose(means["bounds"], means["raw"], rtol=1e-3)


def test_a_run_from_before_the_option_acts_as_it_did(tmp_path):
    run = adv.train(
        adv.PPO(n_steps=64, batch_size=32, action_units="raw", action_bounds="squash"),
        Dial,
        out=tmp_path / "run",
        total_timesteps=64,
        eval_episodes=0,
        workers=0,
    )
    file = run.path / "config.json"
    config = json.loads(file.read_text())
    del config["hyperparameters"]["action_units"]
    file.write_text(json.dumps(config))
    agent = adv.load(run.path)
    assert agent.spec.action_units == "raw"
    assert agent.act(np.zeros(2, np.float32)) == run.agent.act(np.zeros(2, np.float32))


def test_bounds_that_a_policy_never_meets_are_told_by_check_and_train(tmp_path, capsys):
    class Tap(Dial):
        action_space = spaces.Box(np.float32(30), np.inf, (1,), np.float32)

    (defect,) = [d for d in adv.check_environment(Tap, steps=20) if "near 0 ± 1" in d.expected]
    assert (defect.severity, defect.where.endswith("action_space[0]")) == ("warning", True)
    options = {"total_timesteps": 64, "eval_episodes": 0, "workers": 0}
    with pytest.warns(UserWarning, match=r"action_space\[0\]: expected bounds near 0 ± 1"):
        adv.train(adv.PPO(n_steps=64), Tap, out=tmp_path / "tap", **options)
    with pytest.warns(UserWarning, match="found low 30"):
        adv.train(adv.PPO(n_steps=64, action_units="raw"), Dial, out=tmp_path / "raw", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adv.train(adv.PPO(n_steps=64), Dial, out=tmp_path / "dial", **options)


@pytest.mark.parametrize(
    ("low", "high", "far"),
    [(0, np.inf, False), (-5, np.inf, False), (2, np.inf, True), (-np.inf, -2, True), (-np.inf, 50, True),
     (-np.inf, np.inf, False), (-3.4e38, 3.4e38, False), (30, 1017, False)],
)  # fmt: skip
def test_far_is_beyond_ten_or_on_the_wrong_side(low, high, far):
    space = spaces.Dict({"a": spaces.Box(np.float32(low), np.float32(high), (2,), np.float32)})
    assert bool(far_bounds(space, "bounds")) is far


def test_the_units_are_told_when_a_run_begins():
    (text,) = describe_interface(Dial.observation_space, Dial.action_space, "bounds")
    for part in ("units of the bounds", "-1 is 30", "0 is 523.5", "1 is 1017", "--action-units raw"):
        assert part in text
    assert describe_interface(Dial.observation_space, Dial.action_space, "raw") == []
    assert describe_interface(Dial.observation_space, spaces.Box(-1, 1, (3,)), "bounds") == []
    (text,) = describe_interface(Dial.observation_space, MIXED, "bounds")
    assert "3 of 6 numbers" in text


class Room(gymnasium.Env):
    """A valve that opens from 30 to 1017 cools a room; 11 steps an episode, -13 for a constant 200."""

    observation_space = spaces.Box(np.float32([0, 10, 18]), np.float32([11, 35, 35]))
    action_space = spaces.Box(30, 1017, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number = 0
        self.inside, self.outside = 28 + self.np_random.random(), 30 + self.np_random.random()
        return self.look(), {}

    def look(self):
        return np.float32([self.step_number, self.outside, self.inside])

    def step(self, action):
        cooling = 0.0004 * float(action[0]) * (self.inside - 14)
        self.inside = float(np.clip(self.inside + 0.1 * (self.outside - self.inside) - cooling, 18, 35))
        self.step_number += 1
        return self.look(), -abs(self.inside - 24), False, self.step_number >= 11, {}


@pytest.mark.parametrize(
    "algorithm",
    [
        adv.PPO(n_steps=512),
        *(
            pytest.param(algorithm, marks=pytest.mark.slow)
            for algorithm in (adv.TRPO(n_steps=512), adv.A2C(), adv.OffPolicyActorCritic())
        ),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_the_valve_of_a_room_is_learned(algorithm, tmp_path):
    run = adv.train(algorithm, Room, out=tmp_path / "run", total_timesteps=20_480, workers=0)
    assert run.evaluation.mean >= -15


@pytest.mark.filterwarnings("ignore:action_space")
@pytest.mark.parametrize(
    "algorithm",
    [adv.PPO(n_steps=64, batch_size=64, n_epochs=1), adv.PolicySearch(adv.CEM(candidates=8, elite=0.5))],
    ids=["ppo", "cem"],
)
def test_on_the_device_training_and_evaluation_know_the_units_too(algorithm, tmp_path):
    """The first policy, and the same weights in other units, play other episodes."""
    returns = {}
    for units in ("bounds", "raw"):
        chosen = dataclasses.replace(algorithm, action_units=units)
        run = adv.train(
            chosen,
            "jax/Pendulum-v1",
            out=tmp_path / units,
            total_timesteps=3_200,
            eval_episodes=0,
            keep_checkpoints=99,
        )
        first = adv.load(min((run.path / "checkpoints").glob("step_*")))
        assert first.step == 0
        episodes = np.genfromtxt(run.path / "episodes.csv", delimiter=",", names=True)
        returns[units] = episodes["r"][0], adv.evaluate(first, episodes=2, deterministic=False).returns
    for one, other in zip(returns["bounds"], returns["raw"], strict=True):
        assert (np.abs(np.subtract(one, other)) > 1).all()


class OpenDial(Dial):
    """Its bounds are -1 and 1."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)


class OpenDialWorld(DialWorld):
    action_space = OpenDial.action_space


def unclipped(**options):
    options = (
        dict(action_bounds="none", log_std_init=1.5, hidden=(4,), n_steps=8, normalize_observation=False)
        | options
    )
    return adv.A2C(**options)


def test_without_bounds_the_environment_gets_what_was_drawn():
    """The same draws as with clipping, on both drivers; with clipping all of them are within -1 and 1."""
    algorithm, world = unclipped(), OpenDialWorld()
    spec = spec_of(algorithm, world.observation_space, world.action_space, num_envs=4, total_timesteps=32)
    assert spec.action_units == "unclipped"
    state = algorithm.init(jax.random.key(0), spec)
    actor, worlds = algorithm.actor(state), start(world, jax.random.key(2), 4)
    noise = algorithm.noise(actor, jax.random.key(1), (8, 4))
    _, rollout = rollout_on_device(algorithm, world, actor, worlds, noise, jax.random.key(3), "unclipped")
    drawn = np.asarray(rollout.action)[..., 0]
    assert abs(drawn).max() > 3
    np.testing.assert_array_equal(np.asarray(rollout.next_obs)[..., 0], drawn)
    u = np.float32([[0.5, -7.0]])
    box = spaces.Box(-1, 1, (2,), np.float32)
    np.testing.assert_array_equal(environment_action(box, u, "unclipped"), u)
    np.testing.assert_array_equal(environment_action(box, u, "raw"), [[0.5, -1.0]])


@pytest.mark.filterwarnings("ignore:action_space")
def test_without_bounds_training_evaluation_and_the_agent_agree(tmp_path, capsys):
    Dial.given.clear()
    run = adv.train(
        unclipped(log_std_init=2.0), OpenDial, out=tmp_path / "run", total_timesteps=64, num_envs=2,
        workers=0, eval_episodes=0, tensorboard=False,
    )  # fmt: skip
    assert max(map(abs, Dial.given)) > 1.5
    Dial.given.clear()
    evaluation = adv.evaluate(run.agent, OpenDial, episodes=2, deterministic=False)
    assert max(map(abs, Dial.given)) > 1.5
    assert evaluation.returns == pytest.approx(
        np.add.reduceat([-abs(given - 523.5) / 100 for given in Dial.given], [0, 8])
    )
    assert run.agent.spec.action_units == adv.load(run.path).spec.action_units == "unclipped"


class Strict(Dial):
    def step(self, action):
        assert self.action_space.contains(action), "out of bounds"
        return super().step(action)


def test_check_tells_whether_actions_beyond_the_bounds_are_taken():
    assert answer_beyond_bounds(Dial()).startswith("taken")
    assert "out of bounds" in answer_beyond_bounds(Strict())
    assert answer_beyond_bounds(gymnasium.make("CartPole-v1")) == ""
