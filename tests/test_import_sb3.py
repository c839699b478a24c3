"""Policies of stable-baselines3 act here as they do there, and their files can execute nothing."""

import base64
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces

import advantage as adv
from advantage.cli import main
from advantage.environments.spaces import environment_action
from advantage.importing.sb3 import _statistics
from advantage.importing.torch_tensors import Refused, read_tensors
from advantage.policies.action_value import action_value
from advantage.training.reporting import Silent

FILES = Path(__file__).parent / "stable_baselines3"

# A file as torch writes it: a pickle of protocol 2, the numbers beside it


def text(words):
    return b"X" + len(words).to_bytes(4, "little") + words.encode()


def number(n):
    return b"J" + n.to_bytes(4, "little", signed=True)


def numbers(several):
    return b"(" + b"".join(map(number, several)) + b"t"


NO_PAIRS = b"ccollections\nOrderedDict\n)R"


def recorded(key, array, *, start=0, kind="torch\nFloatStorage", size=None, steps=None):
    """The instructions that make a tensor."""
    steps = [n // array.itemsize for n in array.strides] if steps is None else steps
    size = array.size if size is None else size
    storage = (
        b"(" + text("storage") + b"c" + kind.encode() + b"\n" + text(key) + text("cpu") + number(size) + b"tQ"
    )
    parts = storage + number(start) + numbers(array.shape) + numbers(steps) + b"\x89" + NO_PAIRS
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + parts + b"tR"


def state_dict(pairs):
    """The pickle of a dict, from names and instructions; a module's has attributes too."""
    items = b"".join(text(name) + made for name, made in pairs)
    return b"\x80\x02" + NO_PAIRS + b"(" + items + b"u}" + text("_metadata") + NO_PAIRS + b"sb."


def torch_file(program, arrays):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        for key, array in arrays.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return written.getvalue()


def saved(tensors):
    """The bytes of `torch.save(tensors)`."""
    arrays = {str(n): np.ascontiguousarray(array) for n, array in enumerate(tensors.values())}
    made = [(name, recorded(str(n), arrays[str(n)])) for n, name in enumerate(tensors)]
    return torch_file(state_dict(made), arrays)


def model_file(path, tensors, **data):
    """What `model.save` writes, as far as it is read."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps({"num_timesteps": 2000, "policy_kwargs": {}} | data))
        archive.writestr("policy.pth", tensors if isinstance(tensors, bytes) else saved(tensors))
    return path


# Policies by their definition, in torch's layout: a weight is [outputs, inputs]


def layers(draw, name, *widths, places=None):
    places = places or range(0, 2 * len(widths), 2)
    found = {}
    for place, before, after in zip(places, widths, widths[1:], strict=False):
        start = f"{name}.{place}" if place is not None else name
        found[f"{start}.weight"] = draw.normal(size=(after, before)).astype(np.float32)
        found[f"{start}.bias"] = draw.normal(size=after).astype(np.float32)
    return found


def single(draw, name, before, after):
    return layers(draw, name, before, after, places=[None])


def passed(tensors, name, x, activation):
    """The layers of a sequence with an activation after each, in float64."""
    places = sorted({int(each.split(".")[-2]) for each in tensors if each.startswith(f"{name}.")})
    for place in places:
        x = activation(tensors[f"{name}.{place}.weight"].astype(float) @ x + tensors[f"{name}.{place}.bias"])
    return x


def linear(tensors, name, x):
    return tensors[f"{name}.weight"].astype(float) @ x + tensors[f"{name}.bias"]


def relu(x):
    return np.maximum(x, 0)


class World(gymnasium.Env):
    """Random observations, whatever is done."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, True, {}


SEEN = spaces.Box(-3, 3, (3,), np.float64)
PUSH = spaces.Box(np.float32([-2, 0]), np.float32([2, 1]))


def ppo(draw):
    tensors = layers(draw, "mlp_extractor.policy_net", 3, 5, 4) | layers(
        draw, "mlp_extractor.value_net", 3, 5, 4
    )
    return tensors | single(draw, "action_net", 4, 3) | single(draw, "value_net", 4, 1)


def ppo_action(tensors, x):
    return int(
        np.argmax(linear(tensors, "action_net", passed(tensors, "mlp_extractor.policy_net", x, np.tanh)))
    )


def a2c(draw):
    tensors = layers(draw, "mlp_extractor.policy_net", 3, 5) | layers(draw, "mlp_extractor.value_net", 3, 7)
    tensors |= single(draw, "action_net", 5, 2) | single(draw, "value_net", 7, 1)
    return tensors | {"log_std": draw.normal(size=2).astype(np.float32)}


def a2c_action(tensors, x):
    features = passed(tensors, "mlp_extractor.policy_net", x, relu)
    return np.clip(linear(tensors, "action_net", features), PUSH.low, PUSH.high)


def dqn(draw):
    return layers(draw, "q_net.q_net", 3, 5, 3) | layers(draw, "q_net_target.q_net", 3, 5, 3)


def dqn_action(tensors, x):
    hidden = relu(linear(tensors, "q_net.q_net.0", x))
    return int(np.argmax(linear(tensors, "q_net.q_net.2", hidden)))


def critics(draw, count):
    return {
        name: array
        for end in ("", "_target")
        for n in range(count)
        for name, array in layers(draw, f"critic{end}.qf{n}", 5, 6, 1).items()
    }


def sac(draw):
    tensors = layers(draw, "actor.latent_pi", 3, 6) | single(draw, "actor.mu", 6, 2)
    return tensors | single(draw, "actor.log_std", 6, 2) | critics(draw, 2)


def in_bounds(u):
    return PUSH.low + 0.5 * (PUSH.high - PUSH.low) * (u + 1)


def sac_action(tensors, x):
    features = passed(tensors, "actor.latent_pi", x, relu)
    return in_bounds(np.tanh(linear(tensors, "actor.mu", features)))


def td3(draw, count=2):
    return layers(draw, "actor.mu", 3, 6, 2) | layers(draw, "actor_target.mu", 3, 6, 2) | critics(draw, count)


def td3_action(tensors, x):
    hidden = relu(linear(tensors, "actor.mu.0", x))
    return in_bounds(np.tanh(linear(tensors, "actor.mu.2", hidden)))


RELU = {"policy_kwargs": {"activation_fn": "<class 'torch.nn.modules.activation.ReLU'>", ":serialized:": "!"}}
CASES = {  # tensors, action, action space, settings, our name
    "ppo": (ppo, ppo_action, spaces.Discrete(3), {"clip_range": 0.2}, adv.PPO),
    "a2c": (a2c, a2c_action, PUSH, RELU, adv.A2C),
    "dqn": (dqn, dqn_action, spaces.Discrete(3), {}, adv.DQN),
    "sac": (sac, sac_action, PUSH, {}, adv.SAC),
    "td3": (td3, td3_action, PUSH, {}, adv.TD3),
    "ddpg": (lambda draw: td3(draw, 1), td3_action, PUSH, {}, adv.TD3),
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The tensors, the file, the run and what was said of a case, imported once."""
    root, found = tmp_path_factory.mktemp("imported"), {}

    def of(name):
        if name not in found:
            make, _, actions, data, _ = CASES[name]
            tensors = make(np.random.default_rng(1))
            file, listener = model_file(root / f"{name}.zip", tensors, **data), Listener()
            run = adv.import_sb3(file, lambda: World(SEEN, actions), out=root / name, reporter=listener)
            found[name] = tensors, file, run, listener.said
        return found[name]

    return of


class Listener(Silent):
    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)


@pytest.mark.parametrize("name", CASES)
def test_a_policy_acts_as_its_definition_says(name, imported):
    tensors, _, run, _ = imported(name)
    agent = adv.load(run.path)
    assert type(agent.algorithm) is CASES[name][-1] and agent.step == run.step == 2000
    for x in np.random.default_rng(2).normal(size=(100, 3)):
        np.testing.assert_allclose(agent.act(x), CASES[name][1](tensors, x), rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("name", ["ppo_cartpole", "a2c_pendulum"])
def test_a_file_of_the_library_acts_as_it_does_there(name, tmp_path):
    """Written by stable-baselines3 2.9.2 with torch 2.13, with observations and what its own `predict` answers."""
    given = FILES / name
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for part in ("data", "policy.pth"):
            archive.write(given / part, part)
    there = json.loads((given / "expected.json").read_text())
    agent = adv.load(adv.import_sb3(tmp_path / "model.zip", there["env"], out=tmp_path / "run").path)
    chosen, _ = agent.actor.greedy(np.array(there["obs"], np.float32), ())
    action = environment_action(agent.spec.action_space, chosen, agent.spec.action_units)
    np.testing.assert_allclose(action, there["action"], rtol=1e-5, atol=1e-6)
    assert agent.step >= 256 and len(np.unique(action)) > 1


def test_critics_and_targets_are_those_of_the_file(imported):
    x, action = np.random.default_rng(3).normal(size=(2, 3)), np.array([0.3, -0.8])
    seen = x.astype(np.float32)

    tensors, _, run, _ = imported("ppo")
    state = adv.load(run.path).state
    features = passed(tensors, "mlp_extractor.value_net", x[0], np.tanh)
    expected = linear(tensors, "value_net", features)[0]
    np.testing.assert_allclose(state.policy.value(state.params, seen)[0], expected, rtol=1e-5)

    tensors, _, run, _ = imported("dqn")
    agent = adv.load(run.path)
    network = agent.actor.actor.network
    hidden = relu(linear(tensors, "q_net_target.q_net.0", x[0]))
    expected = linear(tensors, "q_net_target.q_net.2", hidden)
    np.testing.assert_allclose(network.outputs(agent.state.target, seen)[0, :, 0], expected, rtol=1e-5)

    for name in ("sac", "td3"):
        tensors, _, run, said = imported(name)
        state, q = adv.load(run.path).state, action_value(adv.load(run.path).state.policy)
        assert not said
        target = state.target if name == "sac" else state.target["action_value"]
        for critic, params in (("critic", state.params["action_value"]), ("critic_target", target)):
            for n in range(2):
                hidden = relu(linear(tensors, f"{critic}.qf{n}.0", [*x[0], *action]))
                expected = linear(tensors, f"{critic}.qf{n}.2", hidden)[0]
                one = jax.tree.map(lambda leaf, n=n: leaf[n], params)
                given = q.value(one, seen, np.stack([action, action]).astype(np.float32))[0]
                np.testing.assert_allclose(given, expected, rtol=1e-5)


def test_a_critic_of_another_shape_begins_anew_and_is_named(imported):
    assert imported("a2c")[-1] == [
        "Not imported: critic, which has other layers than the policy; it begins anew."
    ]


def test_drawn_actions_have_the_files_standard_deviation(imported):
    tensors, _, run, _ = imported("a2c")
    agent = adv.load(run.path)
    np.testing.assert_array_equal(agent.state.params["actor"]["log_std"], tensors["log_std"])
    tensors, _, run, _ = imported("sac")
    agent, x = adv.load(run.path), np.array([0.1, 0.2, 0.3])
    features = passed(tensors, "actor.latent_pi", x, relu)
    found = agent.actor.actor.distribution(x[None].astype(np.float32)).log_std[0]
    np.testing.assert_allclose(found, np.clip(linear(tensors, "actor.log_std", features), -5, 2), rtol=1e-5)


def cart_pole(path):
    draw = np.random.default_rng(1)
    tensors = layers(draw, "mlp_extractor.policy_net", 4, 5) | layers(draw, "mlp_extractor.value_net", 4, 5)
    tensors |= single(draw, "action_net", 5, 2) | single(draw, "value_net", 5, 1)
    return model_file(path, tensors, clip_range=0.2)


def test_the_run_is_an_ordinary_one(tmp_path, capsys):
    """From the command line."""
    file, run = cart_pole(tmp_path / "model.zip"), str(tmp_path / "run")
    assert main(["import-sb3", str(file), "CartPole-v1", "--out", run]) == 0
    assert f"Next: advantage eval {run}" in capsys.readouterr().out
    assert main(["eval", run, "--episodes", "2"]) == 0
    assert main(["export", run, "--out", str(tmp_path / "out"), "--format", "onnx"]) == 0
    assert main(["import-sb3", str(file), "CartPole-v1", "--out", run]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["CartPole-v1", "jax/CartPole-v1"])
def test_a_resumed_run_is_evaluated_once_and_then_finished(environment, tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["import-sb3", str(cart_pole(tmp_path / "model.zip")), environment, "--out", run]) == 0
    assert main(["resume", run]) == 0
    assert "Evaluation at step 2_000" in capsys.readouterr().out
    assert main(["resume", run]) == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_training_goes_on(name, imported):
    _, _, run, _ = imported(name)
    more = adv.resume(run.path, total_timesteps=2000 + 2048, environment=lambda: World(SEEN, CASES[name][2]))
    assert more.step == 2000 + 2048 and more.finished


def test_statistics_scale_what_the_policy_sees(tmp_path):
    tensors = ppo(np.random.default_rng(1))
    file = model_file(tmp_path / "model.zip", tensors, clip_range=0.2)
    mean, variance = np.array([1.0, -2.0, 0.5]), np.array([4.0, 0.25, 1.0])
    given = {"mean": mean.tolist(), "variance": variance.tolist(), "count": 5000, "limit": 1.5}
    (tmp_path / "statistics.json").write_text(json.dumps(given))
    run = adv.import_sb3(
        file,
        lambda: World(SEEN, spaces.Discrete(3)),
        out=tmp_path / "run",
        statistics=tmp_path / "statistics.json",
    )
    agent = adv.load(run.path)
    assert float(agent.state.observations.count.value) == 5000
    drawn = np.random.default_rng(2).uniform(-3, 3, (100, 3))
    for x in drawn:
        assert agent.act(x) == ppo_action(tensors, np.clip((x - mean) / np.sqrt(variance + 1e-8), -1.5, 1.5))
    assert {ppo_action(tensors, x) for x in drawn} > {0}


# What is refused


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (os.system, (f"touch {self.file}",))


def test_hostile_pickles_are_refused_and_run_nothing(tmp_path):
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Hostile(mark)))
    assert mark.exists()
    mark.unlink()
    tensors = ppo(np.random.default_rng(1))
    for protocol in range(2, 6):
        program = pickle.dumps({"weight": Hostile(mark)}, protocol)
        with pytest.raises(Refused, match=r"asks for (posix|nt)\.system, which is not a part of tensors"):
            read_tensors(torch_file(program, {}))
        file = model_file(tmp_path / "model.zip", torch_file(program, {}))
        with pytest.raises(
            ValueError, match="model.zip cannot be imported: its pickle asks for posix.system"
        ):
            adv.import_sb3(file, "CartPole-v1", out=tmp_path / "run")
    for name in (
        "torch.load",
        "builtins.eval",
        "torch.serialization._load",
        "torch._utils._rebuild_tensor_v2.x",
    ):
        module, _, function = name.rpartition(".")
        program = b"\x80\x02c" + f"{module}\n{function}\n".encode() + text("1") + b"\x85R."
        with pytest.raises(Refused, match=f"asks for {name}"):
            read_tensors(torch_file(program, {}))
    for program in (b"\x80\x02" + text("x") + text("y") + b"\x85R.", b"\x80\x02(iposix\nsystem\n."):
        with pytest.raises(Refused, match=r"calls something that is no function|has the instruction INST"):
            read_tensors(torch_file(program, {}))
    settings = base64.b64encode(pickle.dumps(Hostile(mark))).decode()
    hostile = {":type:": "<class 'dict'>", ":serialized:": settings}
    file = model_file(
        tmp_path / "data.zip", tensors, clip_range=hostile, policy_class=hostile, policy_kwargs=hostile
    )
    assert adv.import_sb3(file, lambda: World(SEEN, spaces.Discrete(3)), out=tmp_path / "run").step == 2000
    assert not mark.exists()


ROW = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (recorded("0", ROW, start=1), "does not lie within"),
        (recorded("0", ROW, steps=[2]), "does not lie within"),
        (recorded("0", ROW, steps=[-1]), "does not lie within"),
        (recorded("0", ROW, size=7), "has 24 bytes, not 28"),
        (recorded("1", ROW), "no item named 'archive/data/1'"),
        (recorded("../0", ROW), "does not lie within"),
        (recorded("0", np.broadcast_to(ROW[:1], (10**9,)), size=6), "does not lie within"),
        (recorded("0", ROW, kind="torch\nBFloat16Storage"), "asks for torch.BFloat16Storage"),
        (b"N", "something else than a dict of tensors"),
        (NO_PAIRS, "something else than a dict of tensors"),
    ],
)
def test_tensors_that_are_not_whole(made, complaint):
    with pytest.raises(Refused, match=complaint):
        read_tensors(torch_file(state_dict([("weight", made)]), {"0": ROW}))


def test_tensors_of_every_kind():
    grid = np.arange(12, dtype=np.float64).reshape(3, 4)
    made = [
        ("transposed", recorded("0", grid.T, kind="torch\nDoubleStorage")),
        ("part", recorded("0", grid[1:, 1::2], start=5, size=12, kind="torch\nDoubleStorage")),
        ("whole", recorded("1", np.arange(3), kind="torch\nLongStorage")),
        ("one", recorded("2", np.array(2.5, np.float16), kind="torch\nHalfStorage")),
        (
            "parameter",
            b"ctorch._utils\n_rebuild_parameter\n(" + recorded("3", ROW) + b"\x88" + NO_PAIRS + b"tR",
        ),
    ]
    arrays = {"0": grid, "1": np.arange(3), "2": np.array(2.5, np.float16), "3": ROW}
    found = read_tensors(torch_file(state_dict(made), arrays))
    expected = {
        "transposed": grid.T,
        "part": grid[1:, 1::2],
        "whole": np.arange(3),
        "one": arrays["2"],
        "parameter": ROW,
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_damaged_files_are_refused(tmp_path):
    """Any byte of a file changed, or its end cut off, gives a Refused or tensors, and nothing else."""
    content, draw = saved({"a.weight": np.ones((2, 3), np.float32)}), np.random.default_rng(0)
    program = state_dict([("a.weight", recorded("0", ROW.reshape(2, 3)))])
    for _ in range(300):
        damaged = bytearray(program)
        damaged[draw.integers(len(damaged))] = draw.integers(256)
        for each in (torch_file(bytes(damaged), {"0": ROW}), content[: draw.integers(len(content))]):
            try:
                read_tensors(each)
            except Refused as error:
                assert str(error)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensors, data: data.update(use_sde=True), "use_sde=True"),
        (lambda tensors, data: data.update(num_timesteps="many"), "num_timesteps is 'many'"),
        (
            lambda tensors, data: data.update(policy_kwargs={"activation_fn": "<class 'x.GELU'>"}),
            "activation is GELU",
        ),
        (lambda tensors, data: tensors.pop("value_net.bias"), "has no tensor value_net.bias"),
        (
            lambda tensors, data: tensors.update({"features_extractor.cnn.0.weight": ROW}),
            "tensor features_extractor",
        ),
        (
            lambda tensors, data: tensors["value_net.bias"].fill(np.nan),
            "value_net.bias has numbers that are not fin",
        ),
        (lambda tensors, data: tensors.update({"action_net.weight": ROW}), "action_net is no linear layer"),
        (lambda tensors, data: tensors.clear(), "those of no MlpPolicy of PPO, A2C, DQN, SAC, TD3 or DDPG"),
    ],
)
def test_policies_of_another_kind_are_refused(change, complaint, tmp_path):
    tensors, data = ppo(np.random.default_rng(1)), {"clip_range": 0.2}
    change(tensors, data)
    with pytest.raises(ValueError, match=f"model.zip cannot be imported: .*{complaint}"):
        adv.import_sb3(
            model_file(tmp_path / "model.zip", tensors, **data), "CartPole-v1", out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        *(("mean", [x], "not lists of numbers") for x in ("1", True, None, [0.0])),
        ("variance", 1.0, "not lists of numbers"),
        *(("mean", [x], "are no statistics") for x in (10**400, -1e40, float("nan"))),
        *(("count", x, "are no statistics") for x in (10**400, float("nan"), "1")),
    ],
)
def test_what_is_no_finite_number_is_no_statistic(name, value, complaint):
    with pytest.raises(ValueError, match=complaint):
        _statistics({"mean": [0.0], "variance": [1.0], name: value}, 100)


def test_statistics_of_any_numbers():
    found = _statistics({"mean": np.zeros(2), "variance": (1, 2.5), "limit": 0.1}, 100)
    assert (found.mean.tolist(), found.variance.tolist(), found[2:]) == ([0, 0], [1, 2.5], (100.0, 0.1))


def test_wrong_files_environments_and_statistics(imported, tmp_path, capsys):
    file = imported("ppo")[1]
    (tmp_path / "text.zip").write_text("words")
    pickled, other = tmp_path / "vec_normalize.pkl", tmp_path / "other.zip"
    pickled.write_bytes(pickle.dumps({}))
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("words", "no model")
    with pytest.raises(FileNotFoundError):
        adv.import_sb3(tmp_path / "none.zip", "CartPole-v1")
    for wrong, complaint in (
        (tmp_path / "text.zip", "not a zip that model.save"),
        (other, "not what model.save"),
        (pickled, "reading a pickle runs what is in it"),
    ):
        with pytest.raises(ValueError, match=complaint):
            adv.import_sb3(wrong, "CartPole-v1")
    fits = {"mean": [0.0] * 3, "variance": [1.0] * 3}
    for statistics, complaint in (
        (pickled, "--statistics"),
        (tmp_path / "text.zip", "is not JSON"),
        ({"mean": [0.0]}, "is not allowed as statistics"),
        (fits | {"more": 1}, "is not allowed as statistics"),
        (fits | {"variance": [1.0]}, "are no statistics"),
        (fits | {"variance": [1.0, -1.0, 1.0]}, "are no statistics"),
        (fits | {"mean": ["a", "b", "c"]}, "not lists of numbers"),
        (fits | {"count": 0}, "are no statistics"),
        ({"mean": [0.0] * 2, "variance": [1.0] * 2}, "of 2 numbers, and an observation of .* has 3"),
    ):
        with pytest.raises(ValueError, match=complaint):
            adv.import_sb3(
                file, lambda: World(SEEN, spaces.Discrete(3)), out=tmp_path / "a", statistics=statistics
            )
    for observations, actions in ((SEEN, spaces.Discrete(4)), (spaces.Box(-1, 1, (2,)), spaces.Discrete(3))):
        with pytest.raises(
            ValueError, match="takes 3 numbers and gives 3, and one for .* name the environment in"
        ):
            adv.import_sb3(file, lambda o=observations, a=actions: World(o, a), out=tmp_path / "a")
    for part in (spaces.Dict(x=SEEN, y=SEEN), spaces.Box(0, 255, (8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="takes observations of one part that is no picture"):
            adv.import_sb3(file, lambda part=part: World(part, spaces.Discrete(3)), out=tmp_path / "a")
    with pytest.raises(ValueError, match="needs Discrete actions"):
        adv.import_sb3(imported("dqn")[1], lambda: World(SEEN, PUSH), out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert main(["import-sb3", str(tmp_path / "text.zip"), "CartPole-v1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("advantage: ") and said.count("\n") == 1
