"""Exported policies act as the agent does, without this library."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from gymnasium import spaces
from safetensors.numpy import load_file

import advantage as adv
from advantage.agent import read_first
from advantage.algorithms.registry import spec_of
from advantage.cli import main
from advantage.environments.spaces import environment_action
from advantage.exporting.numpy_source import numpy_source
from advantage.exporting.onnx_model import onnx_model
from advantage.exporting.program import program_of
from advantage.running_moments import Moments

MIXED = spaces.Dict(
    {
        "picture": spaces.Box(0, 255, (6, 6, 2), np.uint8),
        "where": spaces.Tuple((spaces.Discrete(3, start=2), spaces.Box(-2, 2, (2,), np.float32))),
    }
)
MASKED = spaces.Dict({"seen": spaces.Box(-1, 1, (3,), np.float32), "action_mask": spaces.MultiBinary(4)})


def allowing(obs):
    """An observation whose mask, if it has one, allows the first action."""
    if isinstance(obs, dict) and "action_mask" in obs:
        obs["action_mask"][0] = 1
    return obs


class World(gymnasium.Env):
    """Random observations of a space, whatever is done."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        return self.observation_space.sample(), float(self.np_random.normal()), self.steps == 7, False, {}


THREE = spaces.Box(-1, 1, (3,), np.float64)
BOX = spaces.Box(np.float32([-1, 0]), np.float32([1, 4]))
SMALL = dict(n_steps=16, hidden=(8,), initialisation="normal")
REPLAY = dict(hidden=(8,), initialisation="normal", learning_starts=16, batch_size=8, buffer_size=64)
CASES = {
    "numbers": (adv.PPO(**SMALL, batch_size=16), THREE, spaces.Discrete(3, start=5)),
    "squashed": (
        adv.PPO(**SMALL, batch_size=16, action_bounds="squash", action_spread="state-dependent"),
        THREE,
        BOX,
    ),
    "mixed": (
        adv.A2C(**SMALL, network=adv.CNN(((4, 3, 1),), 8, "normal")),
        MIXED,
        spaces.MultiDiscrete([3, 2]),
    ),
    "masked": (adv.PPO(**SMALL, batch_size=16), MASKED, spaces.Discrete(4)),
    "gru": (adv.PPO(**SMALL, batch_size=16, network="gru"), THREE, BOX),
    "tuple": (
        adv.A2C(**SMALL, activation="elu"),
        spaces.Discrete(4),
        spaces.Tuple((spaces.Discrete(2), BOX, spaces.MultiBinary(3))),
    ),
    "layer norm": (
        adv.A2C(**SMALL, network=adv.MLP((8,), "relu", layer_norm=True)),
        THREE,
        spaces.Discrete(3),
    ),
    "regularised": (adv.SAC(**REPLAY, layer_norm=True, critic_dropout=0.1), THREE, BOX),
    "values": (adv.DQN(**REPLAY, dueling=True, noisy=True), THREE, spaces.Discrete(3)),
}
ACTS_BY = {"numbers": "uniform", "masked": "uniform", "squashed": "normal", "gru": "normal"}  # one draw each


def disturbed(draw, x):
    """Parameters as after some training: those of a layer with n inputs are about 1 / sqrt(n)."""
    inputs = max(4, x.size // x.shape[-1]) if x.ndim and x.size else 4
    return x + np.float32(draw.normal(size=x.shape) / inputs**0.5)


@pytest.fixture(scope="module")
def agents():
    """The agent of a case, with weights and statistics of observations as after some training."""
    made = {}

    def of(name):
        if name not in made:
            algorithm, observations, actions = CASES[name]
            spec = spec_of(algorithm, observations, actions, num_envs=1, total_timesteps=64)
            draw = np.random.default_rng(1)
            state = jax.jit(lambda key: algorithm.init(key, spec))(jax.random.key(0))
            params = jax.tree.map(partial(disturbed, draw), state.params)
            count, mean, variance = state.observations
            seen = Moments(
                count,
                mean._replace(value=jnp.float32(draw.normal(size=mean.value.shape))),
                variance._replace(value=jnp.float32(draw.uniform(0.2, 2, variance.value.shape))),
            )
            state = dataclasses.replace(state, params=params, observations=seen)
            made[name] = adv.Agent(algorithm, state, spec, "World", 64)
        return made[name]

    return of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run."""
    algorithm, observations, actions = CASES["numbers"]
    return adv.train(
        algorithm, lambda: World(observations, actions), out=tmp_path_factory.mktemp("run") / "run",
        total_timesteps=64, eval_episodes=0, tensorboard=False,
    ).path  # fmt: skip


def module_of(folder):
    spec = importlib.util.spec_from_file_location("exported_policy", folder / "policy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def onnx_act(folder):
    """`(obs, memory, noise) -> leaves of the action, memory` by onnxruntime; without memory an episode begins."""
    facts = json.loads((folder / "policy.json").read_text())
    session = onnxruntime.InferenceSession(folder / "policy.onnx", providers=["CPUExecutionProvider"])
    fields = [*facts["observation"], *facts["memory"], *facts["noise"]]
    assert [each.name for each in session.get_inputs()] == [each["name"] for each in fields]
    assert [each.shape for each in session.get_inputs()] == [each["shape"] for each in fields]

    def act(obs, memory=None, noise=()):
        memory = [each["initial"] for each in facts["memory"]] if memory is None else memory
        given = {
            each["name"]: np.asarray(x, each.get("dtype", "float32"))
            for each, x in zip(fields, [*jax.tree.leaves(obs), *memory, *noise], strict=True)
        }
        results = session.run(None, given)
        return results[: len(facts["action"])], results[len(facts["action"]) :]

    return act


def unchecked(agent, obs, memory):
    """What `agent.act` does, without its look at the observation, which takes most of the time."""
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], (obs, memory))
    action, after = agent.actor.greedy(*batch)
    return read_first((environment_action(agent.spec.action_space, action, agent.spec.action_units), after))


@pytest.fixture(scope="module")
def played(agents):
    """What the agent of a case does in a thousand observations: `(whether an episode begins, obs, action's leaves)`."""
    games = {}

    def of(name):
        if name not in games:
            agent, games[name] = agents(name), []
            space, memory = agent.spec.observation_space, ()
            space.seed(3)
            for n in range(1000):
                obs, begins = allowing(space.sample()), n % 10 == 0
                memory = agent.initial_memory() if begins else memory
                act = agent.act if n < 20 else partial(unchecked, agent)
                action, memory = act(obs, memory=memory)
                games[name].append((begins, obs, jax.tree.leaves(action)))
            assert len({str(action) for _, _, action in games[name]}) > 1
        return games[name]

    return of


def furthest(game, act):
    """The largest difference of an action of `act(obs, memory)` in a game; types and shapes must agree."""
    apart, memory = 0.0, None
    for begins, obs, expected in game:
        action, memory = act(obs, None if begins else memory)
        action = jax.tree.leaves(action)
        assert len(expected) == len(action)
        for a, b in zip(expected, action, strict=True):
            assert np.shape(a) == np.shape(b) and np.asarray(a).dtype == np.asarray(b).dtype
            apart = max(apart, np.max(np.abs(np.subtract(a, b, dtype=float))))
    return apart


def numpy_act(folder):
    policy = module_of(folder).Policy()

    def act(obs, memory=None, noise=None):
        given = () if noise is None else (noise,)
        return policy.act(obs, policy.initial_memory() if memory is None else memory, *given)

    return act


@pytest.mark.parametrize("name", CASES)
def test_numpy_source_acts_as_the_agent(name, agents, played, tmp_path):
    agent = agents(name)
    folder = adv.export(agent, tmp_path / "out")
    assert furthest(played(name), numpy_act(folder)) <= 1e-6
    action, _ = numpy_act(folder)(played(name)[0][1])
    assert jax.tree.structure(action) == jax.tree.structure(
        agent.act(played(name)[0][1]) if name != "gru" else 0
    )
    facts = json.loads((folder / "policy.json").read_text())
    assert facts["step"] == 64 and facts["format"] == "numpy" and facts["noise"] == []


@pytest.mark.parametrize("name", CASES)
def test_an_onnx_model_acts_as_the_agent(name, agents, played, tmp_path):
    folder = adv.export(agents(name), tmp_path / "out", format="onnx")
    assert furthest(played(name), onnx_act(folder)) <= 1e-6
    facts = json.loads((folder / "policy.json").read_text())
    assert facts["format"] == "onnx" and facts["noise"] == []
    model = onnx.load(folder / "policy.onnx")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
    assert [each.name for each in model.graph.output][: len(facts["action"])] == [
        each["name"] for each in facts["action"]
    ]


@pytest.mark.parametrize("name", CASES)
def test_a_compiled_program_acts_as_the_agent(name, agents, played, tmp_path):
    folder = adv.export(agents(name), tmp_path / "out", format="stablehlo")
    program = jax.export.deserialize(bytearray((folder / "policy.stablehlo").read_bytes()))
    facts = json.loads((folder / "policy.json").read_text())
    tensors = load_file(folder / "weights.safetensors")

    def act(obs, memory):
        memory = [tensors[each] for each in facts["initial_memory"]] if memory is None else memory
        given = [*jax.tree.leaves(obs), *memory]
        leaves = [np.asarray(x, each["dtype"]) for x, each in zip(given, facts["arguments"], strict=True)]
        result = program.call(*leaves)
        count = len(result) - len(memory)
        return result[:count], result[count:]

    assert furthest(played(name)[:30], act) <= 2e-6


@pytest.mark.parametrize("name", CASES)
def test_what_samples_draws_what_the_agent_draws(name, agents, played, tmp_path):
    """In NumPy and in ONNX, with the random numbers that the agent's key gives, or else with the same in both."""
    agent = agents(name)
    acts = [
        act(adv.export(agent, tmp_path / format, format=format, deterministic=False))
        for act, format in ((numpy_act, "numpy"), (onnx_act, "onnx"))
    ]
    facts = json.loads((tmp_path / "onnx" / "policy.json").read_text())["noise"]
    drawn, memory = set(), agent.initial_memory()
    remembers = bool(jax.tree.leaves(memory))
    for n, (_, obs, _) in enumerate(played(name)[:100]):
        key = jax.random.key(n)
        draws = {"uniform": jax.random.uniform, "normal": jax.random.normal}
        noise = [
            np.asarray(
                draws[each["kind"]](key if len(facts) == 1 else jax.random.fold_in(key, m), each["shape"])
            )
            for m, each in enumerate(facts)
        ]
        numpy_action, onnx_action = (jax.tree.leaves(act(obs, None, noise)[0]) for act in acts)
        expected = numpy_action
        if name in ACTS_BY:
            assert [each["kind"] for each in facts] == [ACTS_BY[name]]
            given = {"memory": memory} if remembers else {}
            found = agent.act(obs, deterministic=False, key=key, **given)
            expected = jax.tree.leaves(found[0] if remembers else found)
        for a, b, c in zip(expected, numpy_action, onnx_action, strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-6)
            np.testing.assert_allclose(c, a, rtol=0, atol=1e-6)
        drawn.add(str(expected))
    assert len(drawn) > 1


@pytest.mark.parametrize("format", ["numpy", "onnx"])
def test_the_largest_random_numbers_allow_no_masked_action(format, agents, played, tmp_path):
    """1 - 2^-24, which generators of float32 numbers give: with 1 it would be rounded to 2."""
    folder = adv.export(agents("masked"), tmp_path / "out", format=format, deterministic=False)
    act = {"numpy": numpy_act, "onnx": onnx_act}[format](folder)
    for _, obs, _ in played("masked")[:20]:
        mask = obs["action_mask"]
        noise = np.where(mask == 1, 0.5, 1 - 2**-24).astype(np.float32)[None]
        (action,) = jax.tree.leaves(act(obs, noise=[noise])[0])
        assert mask[int(action)] == 1


def test_numpy_draws_actions_as_often_as_the_policy_says(agents, tmp_path):
    agent, obs = agents("numbers"), np.array([0.1, -0.2, 0.3])
    logits = np.asarray(agent.actor.actor.distribution(obs[None].astype(np.float32)).logits, float)[0]
    probability = np.exp(logits) / np.exp(logits).sum()
    folder = adv.export(agent, tmp_path / "out", deterministic=False)
    policy, again = (module_of(folder).Policy(seed=1) for _ in range(2))
    drawn = [int(policy.act(obs)[0]) for _ in range(3000)]
    assert [int(again.act(obs)[0]) for _ in range(20)] == drawn[:20]
    share = np.bincount(drawn, minlength=8)[5:] / len(drawn)
    assert (abs(share - probability) < 4 * np.sqrt(probability * (1 - probability) / len(drawn))).all()


def test_a_program_that_samples_draws_what_the_agent_draws(agents, tmp_path):
    agent = agents("numbers")
    folder = adv.export(agent, tmp_path / "out", format="stablehlo", deterministic=False)
    program = jax.export.deserialize(bytearray((folder / "policy.stablehlo").read_bytes()))
    obs, drawn = np.float32([0.1, -0.2, 0.3]), set()
    for n in range(40):
        key = jax.random.key(n)
        (action,) = program.call(obs, jax.random.key_data(key))
        assert action == agent.act(obs, deterministic=False, key=key)
        drawn.add(int(action))
    assert drawn == {5, 6, 7}


@pytest.mark.parametrize("part", ["", "last", "config.json"])
def test_what_is_exported_of_a_part_of_a_run_lies_beside_its_checkpoints(part, run, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "advantage.cli.commands.export.export", lambda run, out, **_: written.append((run, out)) or tmp_path
    )
    assert main(["export", str(run / part)]) == 0
    assert written == [(str(run / part), run / "export")]


def test_the_folder_is_enough_for_a_process_without_jax(run, tmp_path, capsys):
    """From the command line; the program may import neither JAX nor this library."""
    agent, folder = adv.load(run), tmp_path / "export"
    assert main(["export", str(run), "--out", str(folder)]) == 0
    assert str(folder / "policy.py") in capsys.readouterr().out
    assert main(["export", str(run), "--out", str(folder)]) == 2
    assert main(["export", str(run), "--out", str(tmp_path / "more"), "--format", "onnx", "--sample"]) == 0
    assert str(tmp_path / "more" / "policy.onnx") in capsys.readouterr().out
    script = (
        "import sys; sys.modules['jax'] = sys.modules['advantage'] = None\n"
        "from policy import Policy\n"
        "print(int(Policy().act([0.1, -0.2, 0.3])[0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == agent.act(np.array([0.1, -0.2, 0.3]))
    assert len((folder / "policy.py").read_text().splitlines()) < 100


def everything(x, y, k, flag, image, small):
    """Most of the operations that the formats have, on numbers, whole numbers, bools and pictures."""
    kernel = jnp.linspace(-1, 1, 36).reshape(2, 2, 3, 3)
    arithmetic = [
        x + y,
        x - y,
        x * y,
        x / (2 + y),
        jnp.maximum(x, y),
        jnp.minimum(x, y),
        -x,
        abs(x),
        jnp.sign(x),
    ]
    curves = [jnp.exp(x), jnp.exp2(x), jnp.expm1(1e-3 * x), jnp.log(2 + x), jnp.log1p(x / 2), jnp.sqrt(2 + x)]
    curves += [jnp.sin(x), jnp.cos(x), jnp.tanh(x), jax.nn.sigmoid(x), jax.lax.rsqrt(2 + x), x**3, x**2]
    curves += [jnp.floor(3 * x), jnp.ceil(3 * x), jnp.clip(x, -0.5, 0.5), jax.nn.elu(x), jax.nn.softplus(x)]
    whole = [k + 2, k * k, jnp.maximum(k, 1), k & 3, k | 4, k ^ 5, ~k, small + 1, jnp.maximum(small, 3)]
    truth = [
        k == 1,
        k != 1,
        x < y,
        x <= y,
        x > y,
        x >= y,
        flag & (x < y),
        flag | (x < y),
        ~flag,
        flag ^ (x > 0),
    ]
    truth += [
        jnp.isfinite(x / (x - x[0, 0])),
        flag.all(1),
        flag.any(0),
        jnp.where(flag, x > 0, x < y),
        small > 3,
    ]
    chosen = [jnp.where(flag, x, y), jnp.where(flag, k, 0), x.argmax(1), k.argmin(0), small.argmax(0)]
    shapes = [
        x.T,
        x[None] + y[:, None],
        x[:, 1:],
        x[::2],
        jnp.concatenate([x, y], 1),
        jnp.stack([x, y]),
        x[..., None],
    ]
    shapes += [
        *jnp.split(x, [1], axis=1),
        x[k % 3],
        x[k % 3, abs(k) % 4],
        k.astype(np.float32),
        (3 * x).astype(np.int32),
        flag.astype(np.int8),
    ]
    sums = [x.sum(), x.max(0), x.min(1), x.prod(1), x @ y.T, jnp.tensordot(x, y, ((0,), (0,))), k.sum(0)]
    sums += [
        jnp.einsum("ij,ik->ijk", x, y),
        jnp.einsum("bhwc,oihw->bo", image[..., :1], kernel[:, :1, :2, :2]),
    ]
    return *arithmetic, *curves, *whole, *truth, *chosen, *shapes, *sums


def convolutions(image):
    kernel = jnp.linspace(-1, 1, 36).reshape(3, 3, 2, 2)
    layout = ("NHWC", "HWIO", "NHWC")
    same = jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=layout)
    wide = jax.lax.conv_general_dilated(
        image, kernel, (2, 1), [(1, 0), (0, 2)], rhs_dilation=(1, 2), dimension_numbers=layout
    )
    return same, wide


@pytest.fixture(scope="module")
def arrays():
    draw = np.random.default_rng(0)
    x, y = (draw.uniform(-1, 1, (3, 4)).astype(np.float32) for _ in range(2))
    k, flag = draw.integers(-3, 9, (3, 4), np.int32), draw.random((3, 4)) < 0.5
    image = draw.normal(size=(2, 2, 2, 3)).astype(np.float32)
    return x, y, k, flag, image, draw.integers(0, 9, (3, 4), np.uint8)


def by_onnx(function, arrays):
    program = program_of(function, *arrays)
    names = {name: f"in_{name}" for name in program.inputs}
    model = onnx_model(program, names, [f"out{n}" for n in range(len(program.outputs))], list(arrays))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names.values(), arrays, strict=True)))


def by_numpy(function, arrays):
    program = program_of(function, *arrays)
    source = numpy_source(program)
    values = {"np": np, "w": source.constants} | dict(zip(program.inputs, arrays, strict=True))
    with np.errstate(divide="ignore"):
        exec("\n".join(source.lines), values)
    return [eval(each, values) for each in source.outputs]


@pytest.mark.parametrize("run", [by_numpy, by_onnx])
def test_each_operation_gives_what_jax_gives(run, arrays):
    for a, b in zip(jax.jit(everything)(*arrays), run(everything, arrays), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-6, atol=1e-7)


def test_convolutions_of_other_libraries_become_nodes(arrays):
    image = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(np.float32)
    for a, b in zip(convolutions(image), by_onnx(convolutions, (image,)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_is_refused(agents, tmp_path):
    agent = agents("numbers")
    with pytest.raises(ValueError, match="format='onnxx' is not allowed; use one of numpy, onnx, stablehlo"):
        adv.export(agent, tmp_path / "a", format="onnxx")
    (tmp_path / "c").mkdir()
    with pytest.raises(FileExistsError):
        adv.export(agent, tmp_path / "c")
    sorting = adv.PPO(n_steps=16, batch_size=16, network=(lambda key, x: (), lambda params, x: jnp.sort(x)))
    other = adv.Agent(sorting, sorting.init(jax.random.key(0), agent.spec), agent.spec, "World", 0)
    for format, instead in (("numpy", "stablehlo"), ("onnx", "numpy or stablehlo")):
        with pytest.raises(
            ValueError, match=f"operation sort, which the format {format} does not .* {instead} "
        ):
            adv.export(other, tmp_path / "b", format=format)
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_a_missing_package_is_named(agents, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(adv.MissingExtra, match=r'pip install "advantage\[onnx\]"'):
        adv.export(agents("numbers"), tmp_path / "a", format="onnx")
    assert not (tmp_path / "a").exists()
