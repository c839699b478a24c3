"""Exported policies act as the agent does, without this library."""

import importlib.util
import json
import subprocess
import sys

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from safetensors.numpy import load_file

import advantage as adv
from advantage.cli import main

MIXED = spaces.Dict(
    {
        "picture": spaces.Box(0, 255, (6, 6, 2), np.uint8),
        "where": spaces.Tuple((spaces.Discrete(3, start=2), spaces.Box(-2, 2, (2,), np.float32))),
    }
)
MASKED = spaces.Dict({"seen": spaces.Box(-1, 1, (3,), np.float32), "action_mask": spaces.MultiBinary(4)})


class World(gymnasium.Env):
    """Random observations of a space, whatever is done."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def _obs(self):
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        obs = self.observation_space.sample()
        if isinstance(obs, dict) and "action_mask" in obs:
            obs["action_mask"][0] = 1
        return obs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        return self._obs(), float(self.np_random.normal()), self.steps == 7, False, {}


BOX = spaces.Box(np.float32([-1, 0]), np.float32([1, 4]))
SMALL = dict(n_steps=16, hidden=(8,))
CASES = {
    "numbers": (
        adv.PPO(**SMALL, batch_size=16),
        spaces.Box(-1, 1, (3,), np.float32),
        spaces.Discrete(3, start=5),
    ),
    "squashed": (
        adv.SAC(hidden=(8,), learning_starts=16, batch_size=8),
        spaces.Box(-1, 1, (3,), np.float32),
        BOX,
    ),
    "mixed": (adv.A2C(**SMALL), MIXED, spaces.MultiDiscrete([3, 2])),
    "masked": (adv.PPO(**SMALL, batch_size=16), MASKED, spaces.Discrete(4)),
    "gru": (adv.PPO(**SMALL, batch_size=16, network="gru"), spaces.Box(-1, 1, (3,), np.float32), BOX),
    "tuple": (adv.A2C(**SMALL), spaces.Discrete(4), spaces.Tuple((spaces.Discrete(2), BOX))),
}


def trained(name, tmp_path):
    algorithm, observations, actions = CASES[name]
    run = adv.train(
        algorithm, lambda: World(observations, actions), out=tmp_path / "run", total_timesteps=64, eval_episodes=0,
        tensorboard=False,
    )  # fmt: skip
    return run.agent


def module_of(folder):
    spec = importlib.util.spec_from_file_location("exported_policy", folder / "policy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def episodes(agent, act, number=100):
    """Observations in episodes of ten steps: actions of the agent beside those of `act(obs, memory)`."""
    env = World(agent.spec.observation_space, agent.spec.action_space)
    obs, _ = env.reset(seed=3)
    for n in range(number):
        if n % 10 == 0:
            mine, others = agent.initial_memory(), None
        remembers = bool(jax.tree.leaves(mine))
        found = agent.act(obs, memory=mine) if remembers else agent.act(obs)
        expected, mine = found if remembers else (found, mine)
        action, others = act(obs, others)
        yield expected, action
        obs = env._obs()


@pytest.mark.parametrize("name", CASES)
def test_numpy_source_acts_as_the_agent(name, tmp_path):
    agent = trained(name, tmp_path)
    policy = module_of(adv.export(agent, tmp_path / "out")).Policy()

    def act(obs, memory):
        return policy.act(obs, policy.initial_memory() if memory is None else memory)

    for expected, action in episodes(agent, act):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), expected, action)
        assert jax.tree.structure(expected) == jax.tree.structure(action)
    facts = json.loads((tmp_path / "out" / "policy.json").read_text())
    assert facts["step"] == 64 and facts["format"] == "numpy"


@pytest.mark.parametrize("name", CASES)
def test_a_compiled_program_acts_as_the_agent(name, tmp_path):
    agent = trained(name, tmp_path)
    folder = (
        adv.export(tmp_path / "run", tmp_path / "out", format="stablehlo")
        if name == "numbers"
        else adv.export(agent, tmp_path / "out", format="stablehlo")
    )
    program = jax.export.deserialize(bytearray((folder / "policy.stablehlo").read_bytes()))
    facts, tensors = (
        json.loads((folder / "policy.json").read_text()),
        load_file(folder / "weights.safetensors"),
    )

    def act(obs, memory):
        memory = [tensors[each] for each in facts["initial_memory"]] if memory is None else memory
        given = [*jax.tree.leaves(obs), *memory]
        leaves = [np.asarray(x, each["dtype"]) for x, each in zip(given, facts["arguments"], strict=True)]
        result = program.call(*leaves)
        count = len(result) - len(memory)
        return result[:count], result[count:]

    for expected, action in episodes(agent, act, 30):
        for a, b in zip(jax.tree.leaves(expected), action, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)


def test_a_program_that_samples_draws_what_the_agent_draws(tmp_path):
    agent = trained("numbers", tmp_path)
    folder = adv.export(agent, tmp_path / "out", format="stablehlo", deterministic=False)
    program = jax.export.deserialize(bytearray((folder / "policy.stablehlo").read_bytes()))
    obs, drawn = np.float32([0.1, -0.2, 0.3]), set()
    for n in range(40):
        key = jax.random.key(n)
        (action,) = program.call(obs, jax.random.key_data(key))
        assert action == agent.act(obs, deterministic=False, key=key)
        drawn.add(int(action))
    assert drawn == {5, 6, 7}


def test_the_folder_is_enough_for_a_process_without_jax(tmp_path, capsys):
    """From the command line; the program may import neither JAX nor this library."""
    agent = trained("numbers", tmp_path)
    assert main(["export", str(tmp_path / "run")]) == 0
    folder = tmp_path / "run" / "export"
    assert str(folder / "policy.py") in capsys.readouterr().out
    assert main(["export", str(tmp_path / "run"), "--out", str(folder)]) == 2
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "more"), "--sample"]) == 2
    assert not (tmp_path / "more").exists()
    script = (
        "import sys; sys.modules['jax'] = sys.modules['advantage'] = None\n"
        "from policy import Policy\n"
        "print(int(Policy().act([0.1, -0.2, 0.3])[0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == agent.act(np.float32([0.1, -0.2, 0.3]))
    assert len((folder / "policy.py").read_text().splitlines()) < 100


def test_what_is_refused(tmp_path):
    agent = trained("numbers", tmp_path)
    with pytest.raises(ValueError, match="format='onnxx' is not allowed; use one of numpy, stablehlo"):
        adv.export(agent, tmp_path / "a", format="onnxx")
    with pytest.raises(ValueError, match="The format numpy has no random numbers of JAX"):
        adv.export(agent, tmp_path / "b", deterministic=False)
    (tmp_path / "c").mkdir()
    with pytest.raises(FileExistsError):
        adv.export(agent, tmp_path / "c")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
