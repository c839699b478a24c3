"""Every example runs and does what it says; networks of Flax and Equinox are parameters like any other; docs/ppo.md
says what the code says."""

import ast
import csv
import dataclasses
import functools
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin, get_type_hints

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from gymnasium import spaces
from PIL import Image

import advantage as adv
from advantage.policies.networks import as_network
from advantage.runs.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
ITERATION = 1024  # steps in one iteration of the examples that train 8 CartPoles for 128 steps


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def example(name: str) -> ModuleType:
    return importlib.import_module(name)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert jax.tree.structure(one) == jax.tree.structure(other)


# -- the examples -----------------------------------------------------------------------------------------------


def test_every_example_is_tested_and_explains_itself():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    source = Path(__file__).read_text(encoding="utf-8")
    assert len(names) >= 7
    for name in names:
        assert f'"{name}"' in source, f"{name} is not run"
        text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text))
        assert 'if __name__ == "__main__":\n    main()\n' in text
        if "adv.train(" in text:
            assert re.search(r"def main\(\s*total_timesteps: int = [\d_]+, root: str = \"runs\"", text)


def test_an_environment_of_your_own(tmp_path):
    module = example("custom_environment")
    assert adv.check_environment(module.Centre) == []
    run = module.main(total_timesteps=4 * ITERATION, root=tmp_path)
    assert run.finished
    assert run.step == 4 * ITERATION
    assert run.evaluation.lengths.tolist() == [50] * 10
    again = adv.evaluate(run.agent, module.Centre, episodes=10, seed=run.seed)
    assert again.returns.tolist() == run.evaluation.returns.tolist()  # the reloaded agent acts bit for bit
    assert run.evaluation.mean > -10  # standing still costs 25 on average


def test_a_table_of_your_own_is_solved_and_differentiated(capsys):
    best, value, difference = example("exact").main()
    printed = capsys.readouterr().out
    assert "actions [" in printed
    assert f"{best[0]:.3f}"[:5] in printed
    # Creeping on forever ends after five steps; the best policy is no worse, and no policy is better than it.
    assert best[0] >= -(1 - 0.95**5) / 0.05
    assert (best >= value).all()
    assert best[-1] == value[-1] == 0
    assert np.abs(difference).max() < 1e-12


def test_the_textbook_draws_its_figures_and_compares_its_numbers(tmp_path, capsys, monkeypatch):
    module = example("textbook")
    module.main(["short_corridor", "windy_grid", "--quick", "--out", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short_corridor.png", "windy_grid.png"]
    table = capsys.readouterr().out
    for name in ("short corridor", "windy grid"):
        for label in module.PUBLISHED[name].numbers:
            assert re.search(rf"^{re.escape(f'{name}: {label}')} .* pass  example ", table, re.MULTILINE)
    assert "4 numbers, 0 outside" in table

    wrong = module.PUBLISHED["short corridor"]._replace(half=0.0)
    monkeypatch.setitem(module.PUBLISHED, "short corridor", wrong)
    with pytest.raises(SystemExit) as stopped:
        module.main(["short_corridor", "--out", str(tmp_path)])
    assert stopped.value.code == 1
    assert "FAIL" in capsys.readouterr().out


def test_the_textbook_allows_its_means_three_standard_errors(tmp_path):
    module = example("textbook")
    name, reference = "cliff, episodes 101-500", module.PUBLISHED["cliff, episodes 101-500"]
    center = list(reference.numbers.values())
    runs = np.array(
        [-1.0, 1.0] * 25
    )  # as many as the reference's, so that 3 sqrt(2) standard errors are allowed
    error = runs.std(ddof=1) / 50**0.5
    for off, verdict in ((3.0, "pass"), (4.3, "pass"), (4.9, "FAIL"), (-4.9, "FAIL")):
        book = module.Book(tmp_path)
        book.compare(name, [value + runs + off * error for value in center])
        assert [row[4] for row in book.rows] == [verdict] * 3
        assert [row[3] for row in book.rows] == [f"{error:.2g}"] * 3


def test_the_textbook_measures_each_episode_of_each_run(tmp_path):
    module = example("textbook")
    world = adv.make("jax/ShortcutMazeOpened-v0")
    algorithm = adv.QLearning(learning_rate=jax.numpy.array([0.0, 0.5]), epsilon=1.0)
    (total, length), state = module.play(algorithm, world, 3, 4, lambda moment: (moment.total, moment.length))
    assert total.shape == length.shape == (2, 3, 4)
    np.testing.assert_array_equal(total, 1.0)  # what the goal earns, whenever it is reached
    assert length.min() >= 10
    np.testing.assert_array_equal(*length)  # the same chances for both settings
    assert not state.table.q[:3].any() and state.table.q[3:].any()
    (reward, _), _ = module.play(
        algorithm, world, 3, 200, lambda moment: (moment.reward, moment.length), "step"
    )
    for run, end in enumerate(np.cumsum(length[0], -1) - 1):  # the same episodes, step by step
        assert np.flatnonzero(reward[0, run])[: (end < 200).sum()].tolist() == end[end < 200].tolist()


def test_searches_on_a_landscape_are_drawn(tmp_path, capsys):
    file = tmp_path / "pictures" / "search.gif"
    courses = example("search_landscape").main(["--frames", "6", "--out", str(file)])
    printed = capsys.readouterr().out
    for name, frames in courses.items():
        assert len(frames) == 6
        assert all(len(frame.candidates) == 20 for frame in frames)
        assert f"{name:20s} {frames[-1].least:.2e} after 120" in printed
    assert courses["pattern-search"][-1].least < 1 < courses["es"][-1].least
    with Image.open(file) as image:
        assert image.n_frames == 6
        colours = {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3) // 64}
    assert {(0, 1, 3), (3, 1, 0)} <= colours  # candidates and means stand out


NETWORKS = ("custom_network", "flax_network", "equinox_network")
OBSERVATIONS = np.random.default_rng(0).uniform(-0.2, 0.2, (16, 4)).astype(np.float32)


def bits(agent: adv.Agent) -> str:
    """What the policy and the critic answer to some observations, to the last bit."""

    @jax.jit
    def answer(state, obs):
        actor, x = agent.algorithm.actor(state), state.policy.encoder.encode(obs)
        return actor.distribution(obs).logits, state.policy.value(state.params, x)

    return "".join(
        np.asarray(part).tobytes().hex() for part in answer(agent.state, jnp.asarray(OBSERVATIONS))
    )


IN_A_FRESH_PROCESS = """
import sys
import test_examples
import advantage as adv

for name, path in zip(test_examples.NETWORKS, sys.argv[1:], strict=True):
    print(test_examples.bits(adv.load(path, algorithm=test_examples.example(name).ALGORITHM)))
"""


@pytest.mark.slow
def test_networks_of_your_own_are_trained_saved_and_restored_bit_for_bit(tmp_path):
    paths, expected = [], []
    for name in NETWORKS:
        run, agent = example(name).main(total_timesteps=2 * ITERATION, root=tmp_path / name)
        first = adv.load(run.path / "checkpoints" / "step_000000000000", algorithm=agent.algorithm)
        for leaf in jax.tree.leaves(agent.state.params):
            assert isinstance(leaf, jax.Array)
            assert jnp.issubdtype(leaf.dtype, jnp.floating)
        moved = jax.tree.map(
            lambda a, b: not a.size or bool((a != b).any()), first.state.params, agent.state.params
        )
        assert all(jax.tree.leaves(moved)), moved
        again = adv.evaluate(agent, episodes=10, seed=run.seed)
        assert again.returns.tolist() == run.evaluation.returns.tolist()
        with pytest.raises(adv.CheckpointError, match="network was given from Python"):
            adv.load(run.path)
        paths.append(str(run.path))
        expected.append(bits(agent))
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, *paths],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", EXAMPLES)))},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected


def test_a_callback_stops_early_and_the_run_can_be_resumed(tmp_path, capsys):
    total = 4 * ITERATION
    run = example("early_stopping").main(total_timesteps=total, root=tmp_path, target=1.0)
    assert not run.finished
    assert run.step == ITERATION  # every CartPole returns more than 1
    assert f"{ITERATION:,} of {total:,} steps" in capsys.readouterr().out
    resumed = adv.resume(run.path)
    assert resumed.finished
    assert resumed.step == total
    assert resumed.path == run.path


@pytest.mark.slow
def test_many_seeds_train_at_once(tmp_path):
    runs = example("many_seeds").main(total_timesteps=ITERATION, root=tmp_path, num_seeds=3)
    assert [run.seed for run in runs] == [0, 1, 2]
    assert len({run.path for run in runs}) == 3
    tensors = [(run.path / "last" / "state.safetensors").read_bytes() for run in runs]
    assert len(set(tensors)) == 3
    assert all((run.path / "episodes.csv").read_text().count("\n") > 10 for run in runs)
    assert runs[1].agent.step == ITERATION


def test_schedules_follow_progress(tmp_path):
    run = example("schedules").main(total_timesteps=2 * ITERATION, root=tmp_path)
    with open(run.path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["train/learning_rate"]) for row in rows], [1e-3, 5e-4], rtol=1e-6)
    np.testing.assert_allclose([float(row["train/clip_range"]) for row in rows], [0.3, 0.2], rtol=1e-6)


# -- Flax and Equinox -------------------------------------------------------------------------------------------


OBSERVATION_SPACES = {
    "vector": spaces.Box(-1, 1, (3,), np.float32),
    "image": spaces.Box(0, 255, (8, 8, 3), np.uint8),
    "both": spaces.Dict(
        {"v": spaces.Box(-1, 1, (3,), np.float32), "i": spaces.Box(0, 255, (8, 8, 3), np.uint8)}
    ),
}


def observations(kind: str, number: int):
    """A batch of them, the same each time."""
    random = np.random.default_rng(number)
    vector = random.uniform(-1, 1, (number, 3)).astype(np.float32)
    image = random.integers(0, 256, (number, 8, 8, 3), np.uint8) // np.array([1, 2, 4], np.uint8)
    return {"vector": vector, "image": image, "both": {"v": vector, "i": image}}[kind]


def pooled(kind: str, x):
    """One vector from what a network is given: images are averaged over their pixels."""
    if kind == "vector":
        return x
    return x.mean((-3, -2)) if kind == "image" else jnp.concatenate([x[0], x[1].mean((-3, -2))], -1)


class LinenNet(linen.Module):
    kind: str

    @linen.compact
    def __call__(self, x):
        return linen.tanh(linen.Dense(5)(linen.LayerNorm()(pooled(self.kind, x))))


class NNXNet(nnx.Module):
    def __init__(self, kind, x, rngs):
        self.kind, self.activation = kind, nnx.tanh
        self.layers = nnx.List(
            [nnx.Linear(pooled(kind, x).shape[-1], 6, rngs=rngs), nnx.Linear(6, 5, rngs=rngs)]
        )

    def __call__(self, x):
        x = pooled(self.kind, x)
        for layer in self.layers:
            x = self.activation(layer(x))
        return x


class EquinoxNet(eqx.Module):
    layers: list
    signs: jax.Array  # whole numbers are constants, not parameters
    kind: str
    scale: float = 2.0

    def __init__(self, kind, x, key):
        keys = jax.random.split(key, 2)
        self.layers = [
            eqx.nn.Linear(pooled(kind, x).size, 6, key=keys[0]),
            jnp.tanh,
            eqx.nn.Linear(6, 5, key=keys[1]),
        ]
        self.signs, self.kind = jnp.array([1, -1, 1, -1, 1]), kind

    def __call__(self, x):
        x = pooled(self.kind, x)
        for layer in self.layers:
            x = layer(x)
        return self.scale * self.signs * x


LIBRARIES = {
    "linen": lambda kind: adv.from_flax(LinenNet(kind)),
    "nnx": lambda kind: adv.from_flax(lambda rngs, x: NNXNet(kind, x, rngs)),
    "equinox": lambda kind: adv.from_equinox(lambda key, x: EquinoxNet(kind, x, key)),
}
kinds = pytest.mark.parametrize("kind", OBSERVATION_SPACES)
libraries = pytest.mark.parametrize("library", LIBRARIES)


@functools.cache
def started(library: str, kind: str, seed: int = 0):
    algorithm = adv.PPO(n_steps=4, batch_size=4, network=LIBRARIES[library](kind))
    spec = adv.Spec(OBSERVATION_SPACES[kind], spaces.Discrete(2))
    return algorithm, jax.jit(lambda key: algorithm.init(key, spec))(jax.random.key(seed)), spec


@libraries
@kinds
def test_a_module_is_applied_to_each_sample_of_any_batch(library, kind):
    _, state, _ = started(library, kind)
    policy, params = state.policy, state.params
    batch = observations(kind, 6)
    time_major = jax.tree.map(lambda leaf: leaf.reshape(2, 3, *leaf.shape[1:]), batch)
    apply = jax.jit(lambda obs: policy.network.apply(params["actor"]["network"], policy.encoder.encode(obs)))
    features = np.asarray(apply(time_major))
    assert features.shape == (2, 3, 5)
    for n in range(6):
        alone = apply(jax.tree.map(lambda leaf, n=n: leaf[n : n + 1], batch))
        np.testing.assert_allclose(alone[0], features.reshape(6, 5)[n], rtol=1e-4, atol=1e-5)
    assert len({row.tobytes() for row in features.reshape(6, 5)}) == 6


@libraries
@kinds
def test_the_parameters_of_a_module_are_arrays_that_learn_and_differ_between_actor_and_critic(library, kind):
    _, state, _ = started(library, kind)
    policy, params = state.policy, state.params
    leaves = jax.tree.leaves(params["actor"]["network"])
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in leaves)
    x = policy.encoder.encode(observations(kind, 1))
    gradient = jax.jit(jax.grad(lambda params: policy.value(params, x).sum()))(params)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient["critic"]))
    weights = zip(leaves, jax.tree.leaves(params["critic"]["network"]), strict=True)
    assert any(np.any(actor != critic) for actor, critic in weights)


@libraries
def test_a_state_with_a_module_is_restored_bit_for_bit_from_tensors_alone(library, tmp_path):
    _, state, _ = started(library, "both", seed=1)
    path = save_checkpoint(tmp_path, 0, state, metadata={})
    algorithm, other, spec = started(library, "both", seed=2)  # made anew, as in a fresh process
    template = jax.eval_shape(lambda key: algorithm.init(key, spec), jax.random.key(3))
    restored, _, _ = load_checkpoint(path, template)
    assert_same(jax.tree.leaves(restored), jax.tree.leaves(state))
    assert jax.tree.structure(restored) == jax.tree.structure(other)
    obs = observations("both", 1)
    answers = [
        s.policy.distribution(s.params["actor"], s.policy.encoder.encode(obs)).logits
        for s in (state, restored)
    ]
    assert_same(*answers)


def test_the_parameters_of_an_equinox_module_have_its_names():
    _, state, _ = started("equinox", "vector")
    names = ["layers.0.bias", "layers.0.weight", "layers.2.bias", "layers.2.weight"]
    assert sorted(state.params["actor"]["network"].arrays) == names


@pytest.mark.parametrize(("name", "extra"), [("from_flax", "flax"), ("from_equinox", "equinox")])
def test_a_missing_package_is_named_with_what_brings_it(name, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(adv.MissingExtra, match=re.escape(f'pip install "advantage[{extra}]"')):
        getattr(adv, name)(lambda key, x: None)


class Normed(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.BatchNorm(use_running_average=True)(linen.Dense(3)(x))


class Listed(linen.Module):
    widths: list

    def __call__(self, x):
        return x


class Scalar(linen.Module):
    def __call__(self, x):
        return x.sum(-1)


class WithState(eqx.Module):
    norm: eqx.nn.BatchNorm

    def __call__(self, x):
        return x


X = np.zeros((1, 3), np.float32)
WRONG = {
    "linen with batch statistics": (
        lambda: adv.from_flax(Normed()),
        "has batch_stats besides its parameters",
    ),
    "linen unhashable": (lambda: adv.from_flax(Listed([1, 2])), "tuples for its attributes instead of lists"),
    "linen class": (lambda: adv.from_flax(Normed), "give a flax.linen module"),
    "linen scalar": (
        lambda: adv.from_flax(Scalar()),
        r"returned shape \(1,\).*must return one vector of features",
    ),
    "nnx module": (
        lambda: adv.from_flax(nnx.Linear(3, 3, rngs=nnx.Rngs(0))),
        "a function that makes a flax.nnx module",
    ),
    "nnx with batch statistics": (
        lambda: adv.from_flax(lambda rngs, x: nnx.BatchNorm(3, rngs=rngs)),
        "BatchStat",
    ),
    "nnx with dropout": (lambda: adv.from_flax(lambda rngs, x: nnx.Dropout(0.5, rngs=rngs)), "no dropout"),
    "nnx no module": (lambda: adv.from_flax(lambda rngs, x: 3), "must return a flax.nnx.Module"),
    "equinox module": (lambda: adv.from_equinox(eqx.nn.Identity()), "give a function that makes the module"),
    "equinox no function": (lambda: adv.from_equinox(3), "from_equinox was given a int"),
    "equinox no module": (
        lambda: adv.from_equinox(lambda key, x: jnp.tanh),
        "must return a callable eqx.Module",
    ),
    "equinox scalar": (
        lambda: adv.from_equinox(lambda key, x: eqx.nn.MLP(3, "scalar", 4, 1, key=key)),
        "must return one vector of features",
    ),
    "equinox with batch statistics": (
        lambda: adv.from_equinox(lambda key, x: WithState(eqx.nn.BatchNorm(3, "batch", mode="batch"))),
        "has StateIndex besides its parameters",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_module_that_cannot_be_a_network_is_an_error_that_says_why(case):
    build, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        as_network(build()).init(jax.random.key(0), X)


# -- docs/ppo.md ------------------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "ppo.md"


def test_the_page_has_every_hyperparameter_with_its_default_and_what_is_allowed():
    rows = re.findall(
        r"^\| `(\w+)` \| `(.*?)` \| (.*?) \| (.*?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    fields = {field.name: field for field in dataclasses.fields(adv.PPO)}
    assert sorted(name for name, *_ in rows) == sorted(fields)
    hints = get_type_hints(adv.PPO)
    for name, default, allowed, effect in rows:
        field = fields[name]
        assert ast.literal_eval(default) == field.default, name
        hint = hints[name]
        if "interval" in field.metadata:
            assert f"`{field.metadata['interval']}`" in allowed, name
        if get_origin(hint) is Literal:
            assert [f'"{choice}"' for choice in get_args(hint)] == re.findall(r"`(.*?)`", allowed), name
        assert ("`None`" in allowed) == (type(None) in get_args(hint)) or name == "network", name
        assert ("schedule" in allowed) == ("Linear" in str(hint)), name
        assert effect


def test_the_page_names_files_that_exist_and_functions_that_are_in_them():
    text = PAGE.read_text(encoding="utf-8")
    places = re.findall(r"`((?:advantage|tests|docs|examples)/[\w/.-]+)`(?:, `(\w+)`)?", text)
    assert len(places) > 15
    for path, function in places:
        assert (ROOT / path).exists(), path
        if function:
            assert re.search(rf"\bdef {function}\b", (ROOT / path).read_text(encoding="utf-8")), (
                path,
                function,
            )


def test_the_curves_are_small_and_the_page_reports_what_they_end_in():
    for path in (ROOT / "docs" / "ppo").glob("*.csv"):
        rows = np.genfromtxt(path, delimiter=",", names=True)
        assert 10 <= len(rows) <= 300
        assert np.isfinite(rows.tolist()).all()
        assert f"advantage train ppo {path.stem} " in PAGE.read_text(encoding="utf-8")
