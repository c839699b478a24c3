"""Action masks: found where an environment gives them, put into the observation, refused where they are wrong."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import cloudpickle
import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from probe_drivers import RandomAllowed, assert_same, begin, play
from probe_worlds import Masked

import advantage as adv
from advantage.drivers.device import rollout_on_device, start
from advantage.drivers.host.driver import HostDriver
from advantage.environments.check import EnvironmentDefect, check_environment
from advantage.environments.environment import fitting
from advantage.environments.make import make, resolve, table_of
from advantage.environments.masks import allowed_action, flat_mask, mask_sizes, split_mask
from advantage.environments.worlds.wasted_actions import WastedActions
from advantage.evaluation import environment_of
from advantage.policies.actor_critic import head
from advantage.policies.encoder import encoder
from advantage.report import table_report
from advantage.types import Spec

OFFERS = ["info", "method", "observation"]
SPACES = {
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "Tuple": spaces.Tuple((spaces.Discrete(2), spaces.MultiDiscrete([[3, 2], [2, 2]]))),
}
each_offer = pytest.mark.parametrize("offer", OFFERS)
each_space = pytest.mark.parametrize("kind", SPACES)


# -- what a mask is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "sizes"),
    [
        (spaces.Discrete(4, start=-2), (4,)),
        (spaces.MultiDiscrete([3, 2]), (3, 2)),
        (SPACES["Tuple"], (2, 3, 2, 2, 2)),
        (spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Discrete(2)}), (2, 3)),
    ],
)
def test_gymnasiums_own_masks_are_understood(space, sizes):
    """What `space.sample(mask)` takes, flattened, allows what is sampled and nothing else."""
    assert mask_sizes(space) == sizes
    rng = np.random.default_rng(0)
    ends = np.cumsum(sizes)[:-1]
    for _ in range(20):
        flat = (rng.random(sum(sizes)) < 0.5).astype(np.int8)
        for part in (parts := np.split(flat, ends)):  # views
            part[rng.integers(len(part))] = 1
        if isinstance(space, spaces.Discrete):
            nested = parts[0]
        elif isinstance(space, spaces.MultiDiscrete):
            nested = tuple(parts)
        elif isinstance(space, spaces.Dict):
            nested = {"a": parts[0], "b": parts[1]}
        else:
            nested = parts[0], ((parts[1], parts[2]), (parts[3], parts[4]))
        space.sample(nested)
        np.testing.assert_array_equal(flat_mask(nested, sizes, ""), flat)
        for form in (flat, flat.astype(bool), flat.tolist(), flat.astype(np.float64), [*map(bool, flat)]):
            found = flat_mask(form, sizes, "")
            assert found.dtype == np.int8 and found is not form
            np.testing.assert_array_equal(found, flat)


def test_a_choice_that_is_not_allowed_becomes_the_next_one_that_is():
    space = spaces.Tuple((spaces.Discrete(4, start=2), spaces.MultiDiscrete([3, 2], start=[0, 5])))
    mask = np.array([0, 1, 0, 0, 1, 0, 1, 0, 1])
    for action, expected in (
        ((2, [0, 5]), (3, [0, 6])),
        ((5, [1, 6]), (3, [2, 6])),
        ((3, [2, 6]), (3, [2, 6])),
    ):
        first, second = allowed_action(
            space, (np.int64(action[0]), np.array(action[1])), {"action_mask": mask}
        )
        assert first == expected[0] and second.tolist() == expected[1] and space.contains((first, second))
    assert (
        allowed_action(space, "kept", {"action_mask": mask[:3]})
        == "kept"
        == allowed_action(space, "kept", mask)
    )


@pytest.mark.parametrize(
    ("mask", "found"),
    [
        (np.ones(4), "an array of shape (4,)"),
        (None, "nothing"),
        ((np.ones(3), np.ones(1)), "an array of shape (4,)"),
        (np.array([1, 1, 2, 0, 1]), "2 at entry 2"),
        (np.array([1, 1, -1, 0, 1], np.int8), "-1 at entry 2"),
        (np.array([1, 0.5, 1, 1, 1]), "0.5 at entry 1"),
        (np.array([1, 1, 1, 0, 0]), "0 for all 2 choices of component 1"),
        ((np.zeros(3, np.int8), np.ones(2, np.int8)), "0 for all 3 choices of component 0"),
    ],
)
def test_a_mask_that_is_wrong_is_refused(mask, found):
    with pytest.raises(EnvironmentDefect) as raised:
        flat_mask(mask, (3, 2), "here")
    assert raised.value.where == "here" and raised.value.found == found
    with pytest.raises(EnvironmentDefect, match="found 0 for all 3 choices. To fix it, allow an action that"):
        flat_mask([0, 0, 0], (3,), "here")


# -- where it comes from, and where it goes ------------------------------------------------------------------


def seen_and_mask(obs):
    """The part that shows the true mask and the step, and the mask."""
    [seen] = [part for name, part in obs.items() if name != "action_mask"]
    return seen, obs["action_mask"]


def assert_masks_belong(rollout):
    """Each mask is that of the observation beside it; where the episode has terminated no action follows."""
    for obs in (rollout.obs, rollout.next_obs):
        seen, mask = seen_and_mask(obs)
        goes_on = seen[..., :-1].any(-1)
        np.testing.assert_array_equal(mask[goes_on], seen[goes_on][:, :-1])
    terminated = rollout.terminated
    assert terminated.any() and rollout.truncated.any() and (rollout.next_obs["action_mask"] == 0).any()
    seen, mask = seen_and_mask(rollout.next_obs)
    np.testing.assert_array_equal(~seen[..., :-1].any(-1), terminated)
    assert (mask[terminated] == ("observation" in rollout.obs)).all()  # an own mask stays as it is


def drive(environment, workers=0, num_envs=3, iterations=3):
    """Play with a policy that takes what the mask allows; `Masked` raises at any other action."""
    target = resolve(environment)
    observation_space, action_space = target.spaces
    policy = RandomAllowed(12, head(action_space), encoder(observation_space))
    driver = HostDriver(
        policy, target.source, Spec(observation_space, action_space, num_envs, 1000), 5, workers
    )
    with contextlib.closing(driver):
        begin(driver)
        return play(driver, iterations)


@functools.cache
def expected(kind):
    """What `Masked` delivers when it is stepped in this process and gives its masks in its info."""
    return drive(functools.partial(Masked, "info", SPACES[kind]))


@each_space
@each_offer
def test_promise_10_on_the_host_no_masked_action_is_taken(kind, offer):
    rollout, episodes, _ = drive(functools.partial(Masked, offer, SPACES[kind]))
    assert_masks_belong(rollout)
    seen, _ = seen_and_mask(rollout.obs)
    want = expected(kind)
    np.testing.assert_array_equal(seen, want.rollout.obs["observation"])
    assert_same(
        (rollout.action, rollout.terminated, episodes),
        (want.rollout.action, want.rollout.terminated, want.episodes),
    )


@each_offer
def test_promise_10_worker_processes_find_the_mask_too(offer):
    played = drive(functools.partial(Masked, offer, SPACES["MultiDiscrete"]), workers=2)
    assert_same(played.rollout.action, expected("MultiDiscrete").rollout.action)
    assert_masks_belong(played.rollout)


def test_promise_10_on_the_device_no_masked_action_is_taken():
    world = WastedActions()
    policy = RandomAllowed(60, head(world.action_space), encoder(world.observation_space))
    state, keys = policy.init(jax.random.key(0), None), jax.random.split(jax.random.key(1), 3)
    worlds, noise = start(world, keys[0], 4), policy.noise(state, keys[1], (60, 4))
    _, rollout = jax.jit(lambda: rollout_on_device(policy, world, state, worlds, noise, keys[2]))()
    mask, action = np.asarray(rollout.obs["action_mask"]), np.asarray(rollout.action)
    assert np.take_along_axis(mask, action[..., None], -1).all() and len(np.unique(action)) == 10
    assert (mask.sum(-1) == 2).all()


def test_observations_get_the_mask_and_the_space_says_so():
    env: Any = make(functools.partial(Masked, "info", SPACES["Tuple"]))
    assert env.observation_space == spaces.Dict(
        {
            "observation": Masked("info", SPACES["Tuple"]).observation_space,
            "action_mask": spaces.MultiBinary(11),
        }
    )
    obs, _ = env.reset(seed=3)
    assert env.observation_space.contains(obs)
    own: Any = make(functools.partial(Masked, "observation"))
    assert own.observation_space == Masked("observation").observation_space
    assert own.observation_space.contains(own.reset(seed=3)[0])
    assert make("CartPole-v1").observation_space == gymnasium.make("CartPole-v1").observation_space


def test_a_method_is_found_through_wrappers_and_before_the_info():
    class Both(Masked):
        def action_masks(self):
            return np.concatenate(self.masks)

    def wrapped():
        return gymnasium.wrappers.TimeLimit(Both("info", wrong=(0, np.zeros(5))), 10)

    env = make(wrapped)
    obs, info = env.reset(seed=0)
    assert not info["action_mask"].any() and obs["action_mask"].any()


def test_where_masks_are_is_found_once_and_goes_with_the_maker():
    """Nothing is made until it is needed; then one environment is made for this, reset and closed."""
    calls: list[str] = []

    class Counted(Masked):
        def __init__(self):
            super().__init__("info")
            calls.append("made")

        def reset(self, **keywords):
            calls.append(f"reset {keywords['seed']}")
            return super().reset(**keywords)

        def close(self):
            calls.append("closed")

    target = resolve(Counted)
    assert not calls
    assert target.spaces[0]["action_mask"] == spaces.MultiBinary(5)
    assert calls == ["made", "reset 0", "closed"]
    envs = [target.source() for _ in range(3)]
    assert calls[3:] == ["made"] * 3
    assert all("action_mask" in env.observation_space.spaces for env in envs)
    calls.clear()
    assert "action_mask" in resolve(Counted).source().observation_space.spaces
    assert calls == ["made", "made", "reset 0", "closed"]
    calls.clear()
    copy = cloudpickle.loads(cloudpickle.dumps(target.source))  # `calls` is a copy there, too
    assert "facts" in vars(copy) and "action_mask" in copy().observation_space.spaces


def test_an_environment_that_cannot_be_made_or_reset_says_so_as_before(tmp_path):
    class NotMade(Masked):
        def __init__(self):
            raise ZeroDivisionError("no licence")

    class NotReset(Masked):
        def reset(self, **keywords):
            raise ZeroDivisionError("no map")

    options: Any = dict(total_timesteps=8, out=tmp_path / "run", workers=0, eval_episodes=0)
    with pytest.raises(
        adv.EnvironmentFailure, match="environment 0: making it raised ZeroDivisionError: no lic"
    ):
        adv.train(adv.PPO(), NotMade, **options)
    with pytest.raises(
        adv.EnvironmentFailure, match=r"environment 0, .*reset.* raised ZeroDivisionError: no map"
    ):
        adv.train(adv.PPO(n_steps=8, batch_size=8, hidden=(4,)), NotReset, **options)


# -- what is wrong with it -----------------------------------------------------------------------------------

PLACES = {
    "info": "info['action_mask']",
    "method": "action_masks()",
    "observation": "observation['action_mask']",
}


@pytest.mark.parametrize(
    ("mask", "found"),
    [
        (np.ones(4, np.int8), "an array of shape (4,)"),
        (np.array([1, 1, 0, 2, 1]), "2 at entry 3"),
        (np.zeros(5, np.int8), "0 for all 5 choices"),
    ],
    ids=["shape", "value", "empty"],
)
@each_offer
def test_promise_13_a_wrong_mask_names_the_environment_and_the_step(offer, mask, found):
    """Also long after the first steps, which alone are checked for everything."""
    makes = iter([None, None, (2, mask), None])  # one to look at, then environments 0, 1 and 2

    def environment():
        return Masked(offer, wrong=next(makes))

    with pytest.raises(EnvironmentDefect) as raised:
        drive(environment, iterations=20)
    assert raised.value.where.startswith("environment 1, step ")
    assert raised.value.where.endswith(f"episode {raised.value.where.split()[-2][:-1]}, {PLACES[offer]}")
    assert raised.value.found == found


@pytest.mark.parametrize("workers", [0, 1])
def test_promise_13_so_does_one_at_a_reset(workers):
    environment = functools.partial(Masked, "method", wrong=(0, [True] * 3))
    with pytest.raises(
        EnvironmentDefect, match=r"environment 0, step 0, episode 0, action_masks\(\): expected 5"
    ):
        drive(environment, workers)


@pytest.mark.parametrize("step", [0, 1])
@each_offer
def test_promise_13_check_finds_it(offer, step):
    for space in SPACES.values():  # it takes allowed actions only, and `Masked` raises at any other
        assert not check_environment(resolve(functools.partial(Masked, offer, space)).source)
    wrong = functools.partial(Masked, offer, wrong=(step, np.array([1, 1, 0, 3, 1])))
    [defect] = check_environment(resolve(wrong).source)
    when = "step 1" if step else "reset(seed=0)"
    assert defect.where == f"environment 0, {when}, {PLACES[offer]}"
    assert (defect.expected, defect.found) == ("5 entries of 0 or 1", "3 at entry 3")
    assert defect.remedy.startswith("give one entry for each choice") and defect.severity == "error"


class Continuous(Masked):
    def __init__(self, space):
        super().__init__("info")
        self.action_space = space


@pytest.mark.parametrize(
    ("space", "place"),
    [
        (spaces.Box(-1, 1, (2,)), "action_space"),
        (spaces.MultiBinary(3), "action_space"),
        (spaces.Tuple((spaces.Discrete(5), spaces.Box(-1, 1, (2,)))), "action_space[1]"),
    ],
)
def test_only_choices_can_be_masked(space, place):
    environment = functools.partial(Continuous, space)
    with pytest.raises(EnvironmentDefect) as raised:
        adv.train(adv.PPO(), environment, total_timesteps=8)
    assert raised.value.where == place
    assert raised.value.expected.startswith("Discrete or MultiDiscrete, or a Tuple or Dict of these")
    [defect] = [d for d in check_environment(resolve(environment).source) if d.severity == "error"]
    assert defect.where == f"environment 0, make(), {place}"


class OwnMask(Masked):
    def __init__(self, space):
        super().__init__("observation")
        self.observation_space = spaces.Dict({"seen": spaces.Discrete(2), "action_mask": space})

    def observe(self):
        return {"seen": 0, "action_mask": (np.ones(2), np.ones(3, np.int8))}


def test_an_own_mask_has_the_size_of_the_action_space():
    for space in (
        spaces.MultiBinary(4),
        spaces.Discrete(5),
        spaces.Tuple((spaces.MultiBinary(4), spaces.Box(0, 1, (2,)))),
    ):
        with pytest.raises(
            EnvironmentDefect, match=r"observation_space\['action_mask'\]: expected 5 entries, one for"
        ):
            _ = resolve(functools.partial(OwnMask, space)).spaces
    parts = spaces.Tuple((spaces.Box(0, 1, (2,)), spaces.MultiBinary(3)))
    env = make(functools.partial(OwnMask, parts))
    obs, _ = env.reset(seed=0)
    batch = {"seen": np.zeros(1, np.int64), "action_mask": tuple(part[None] for part in obs["action_mask"])}
    np.testing.assert_array_equal(encoder(env.observation_space).action_mask(batch), np.ones((1, 5), bool))


# -- vector environments -------------------------------------------------------------------------------------

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


class Hidden(gymnasium.vector.VectorEnv):
    """A vector environment that does not look like a list of environments."""

    def __init__(self, inner):
        self.inner, self.num_envs, self.metadata = inner, inner.num_envs, inner.metadata
        self.single_observation_space = inner.single_observation_space
        self.single_action_space = inner.single_action_space
        self.observation_space, self.action_space = inner.observation_space, inner.action_space

    def reset(self, *, seed=None, options=None):
        return self.inner.reset(seed=seed, options=options)

    def step(self, actions):
        return self.inner.step(actions)


def sync(offer, mode, kind="Discrete"):
    return SyncVectorEnv([functools.partial(Masked, offer, SPACES[kind])] * 3, autoreset_mode=mode)


@each_offer
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_promise_10_vector_environments(mode, offer):
    """In every mode the mask is that of the observation to act on next, and of the true successor."""
    if (mode, offer) == (AutoresetMode.SAME_STEP, "method"):
        with pytest.raises(
            ValueError, match=r"mode SameStep whose masks come from action_masks\(\).*use autoreset"
        ):
            resolve(sync(offer, mode))
        return
    for environment in (sync(offer, mode), Hidden(sync(offer, mode))):
        if isinstance(environment, Hidden) and offer == "method":
            continue  # a method of its parts cannot be called from outside
        played = drive(environment)
        assert_masks_belong(played.rollout)
        if mode is not AutoresetMode.SAME_STEP and not isinstance(environment, Hidden):
            assert_same(played.rollout.action, expected("Discrete").rollout.action)


def test_components_in_a_vector_environment():
    played = drive(sync("info", AutoresetMode.SAME_STEP, "MultiDiscrete"))
    assert_masks_belong(played.rollout)


@pytest.mark.parametrize("offer", ["info", "method"])
def test_promise_10_asynchronous_environments(offer):
    envs = AsyncVectorEnv([functools.partial(Masked, offer)] * 3, context="spawn")
    try:
        assert_same(drive(envs).rollout.action, expected("Discrete").rollout.action)
    finally:
        envs.close()


@each_offer
def test_promise_13_a_vector_environment_with_a_wrong_mask(offer):
    wrongs = [None, (1, np.zeros(5, np.int8)), None]
    envs = SyncVectorEnv([functools.partial(Masked, offer, wrong=wrong) for wrong in wrongs])
    with pytest.raises(EnvironmentDefect) as raised:
        drive(envs)
    assert raised.value.where.startswith("environment 1, step ") and raised.value.where.endswith(
        PLACES[offer]
    )
    assert raised.value.found == "0 for all 5 choices"


def test_a_vector_environment_without_masks_is_not_wrapped():
    envs = gymnasium.make_vec("CartPole-v1", 2)
    assert resolve(envs).source is envs


# -- Taxi, tables, agents that know of no mask ---------------------------------------------------------------


def test_taxi_gives_its_masks_and_keeps_its_table(tmp_path):
    env = make("Taxi-v4")
    obs, info = env.reset(seed=0)
    np.testing.assert_array_equal(obs["action_mask"], info["action_mask"])
    assert table_of(resolve("Taxi-v4")).n_states == 500
    run = adv.train(adv.ValueIteration(), "Taxi-v4", out=tmp_path / "run", eval_episodes=20)
    assert run.evaluation is not None and run.evaluation.mean > 7
    report = table_report(run.agent, resolve("Taxi-v4"))
    assert report is not None and report.policy.shape == (500,)
    run = adv.train(
        adv.QLearning(), "Taxi-v4", out=tmp_path / "q", total_timesteps=100, eval_episodes=0, workers=0
    )
    assert run.agent.state.table.q.shape == (500, 6)


def test_an_agent_that_knows_of_no_mask_plays_without(tmp_path):
    """One of the device's Taxi, say, whose twin in Gymnasium has masks."""
    run = adv.train(adv.QLearning(), "jax/Taxi-v4", out=tmp_path / "run", total_timesteps=64, eval_episodes=0)
    assert adv.evaluate(run.path, "Taxi-v4", episodes=1).lengths[0] > 0
    env = environment_of(run.agent, "Taxi-v4").source()
    assert env.observation_space == spaces.Discrete(500)
    with_mask = resolve("Taxi-v4")
    assert fitting(with_mask, with_mask.spaces[0]) is with_mask


# -- what the encoder makes of it ----------------------------------------------------------------------------


def test_the_network_does_not_see_the_mask():
    space = spaces.Dict(
        {
            "a": spaces.Box(-1, 1, (3,)),
            "action_mask": spaces.Box(0, 1, (4,), np.float32),
            "deeper": spaces.Dict({"action_mask": spaces.MultiBinary(2)}),
            "picture": spaces.Box(0, 255, (5, 5, 1), np.uint8),
        }
    )
    code = encoder(space)
    obs = {name: np.stack([space[name].sample()] * 2) for name in ("a", "picture")}
    obs["deeper"] = {"action_mask": np.ones((2, 2), np.int8)}
    obs["action_mask"] = np.array([[1, 0, 0, 1], [0, 1, 1, 1]], np.float32)
    vector, picture = code.encode(obs)
    assert code.has_mask and vector.shape == (2, 3 + 2) and picture.shape == (2, 5, 5, 1)
    assert code.num_continuous == 3 and code.continuous(obs).shape == (2, 3)
    mask = code.action_mask(obs)
    assert mask is not None and mask.dtype == bool
    np.testing.assert_array_equal(mask, obs["action_mask"] > 0)
    assert code.example()["action_mask"].shape == (1, 4)
    plain = encoder(split_mask(space)[0])
    assert plain.leaves == code.leaves and not plain.has_mask and plain.action_mask(obs) is None
    nested = encoder(spaces.Dict({"deeper": space}))
    assert not nested.has_mask and nested.num_continuous == 3 + 4
    with pytest.raises(ValueError, match="has an action mask and nothing that a network can take"):
        encoder(spaces.Dict({"action_mask": spaces.MultiBinary(3)}))
