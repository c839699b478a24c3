"""Environments as people have them: classes by name, keywords, wrappers, parts of observations left out, films."""

import json
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import advantage as adv
from advantage.algorithms.registry import algorithm_class
from advantage.cli import main
from advantage.cli.parse import _gathered, _read_keywords
from advantage.environments.defect import EnvironmentWarning
from advantage.environments.environment import close
from advantage.environments.left_bounds import LEAVE_THEIR_BOUNDS, without_bounds
from advantage.environments.make import resolve, resolve_recorded
from advantage.environments.modifications import IgnoreObservation, Modifications, modified, wrapper_of
from advantage.environments.version import version_of
from advantage.runs.video import CannotDraw, frame_of

MODULE = """
import gymnasium, numpy as np
from gymnasium import spaces

class Sized(gymnasium.Env):
    action_space = spaces.Discrete(2)

    def __init__(self, size=2):
        self.observation_space = spaces.Dict(v=spaces.Box(0, 1, (size,), np.float32), mission=spaces.Text(10))
        self.size = size

    def observe(self):
        return {"v": self.np_random.random(self.size, dtype=np.float32), "mission": "go"}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        return self.observe(), 1.0, False, self.t > 9, {}

class Divided(gymnasium.RewardWrapper):
    def __init__(self, env, by=2):
        super().__init__(env)
        self.by = by

    def reward(self, reward):
        return reward / self.by
"""
WORDS = [
    "--ignore-observation",
    "mission",
    "--env-option",
    "size=3",
    "--wrapper",
    "own_package.things:Divided(by=4)",
]


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "things.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield "own_package.things:Sized"
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


def forget():
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


def test_a_class_with_keywords_and_wrappers_in_every_verb(package, tmp_path, capsys):
    assert main(["check", package, *WORDS, "--steps", "20"]) == 0
    budget = ["--total-timesteps", "64", "--n-steps", "64", "--eval-episodes", "1", "--workers", "0"]
    assert main(["train", "ppo", package, *WORDS, *budget, "--out", "run"]) == 0
    assert "--trust" in capsys.readouterr().out
    training = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert training["env_options"] == {"size": 3}
    assert training["wrappers"] == ["own_package.things:Divided(by=4)"]
    assert training["ignore_observation"] == ["mission"]
    forget()
    for verb in ("eval", "resume"):
        assert main([verb, "run"]) == 2
        assert "own_package.things" not in sys.modules
        assert "--trust" in capsys.readouterr().err
    assert main(["eval", "run", "--trust", "--episodes", "1"]) == 0
    assert "return 2.50" in capsys.readouterr().out
    forget()
    assert main(["eval", "run", "--env", package, "--env-option", "size=3", "--episodes", "1"]) == 0
    assert "return 10.00" in capsys.readouterr().out
    assert main(["resume", "run", "--trust", "--total-timesteps", "128", "--quiet"]) == 0


def test_python_gives_the_same(package, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    algorithm = adv.PPO(n_steps=32, batch_size=32, n_epochs=1, hidden=(4,))
    options = {"env_options": {"size": 3}, "ignore_observation": ["mission"], "total_timesteps": 32}
    run = adv.train(
        algorithm, package, wrappers=["own_package.things:Divided(4)"], workers=0, eval_episodes=1, **options
    )
    assert run.evaluation.mean == 2.5
    assert adv.evaluate(run.path, trust=True, episodes=1).mean == 2.5
    with pytest.raises(ValueError, match="--trust"):
        adv.evaluate(run.path, episodes=1)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ("CartPole-v1", r"CartPole-v1 has no keyword 'gaol' .*it takes sutton_barto_reward"),
        (lambda goal=5: gymnasium.make("CartPole-v1"), r"has no keyword 'gaol' .*did you mean goal\?"),
    ],
)
def test_a_keyword_that_the_constructor_lacks_is_named_before_anything_is_made(environment, words):
    with pytest.raises(ValueError, match=words):
        modified(resolve(environment), Modifications({"gaol": 4}))


def test_keywords_of_gymnasium_make_and_of_a_constructor_that_takes_any_are_passed_on():
    env = modified(resolve("CartPole-v1"), Modifications({"max_episode_steps": 7})).source()
    assert env.spec.max_episode_steps == 7
    modified(resolve(lambda **keywords: gymnasium.make("CartPole-v1")), Modifications({"gaol": 4}))


def test_keywords_in_a_file_are_a_strangers_word():
    modifications = Modifications({"size": 8}, (), ())
    with pytest.raises(ValueError, match="--trust"):
        resolve_recorded("CartPole-v1", modifications=modifications)
    assert resolve_recorded("CartPole-v1", modifications=Modifications(ignored=("mission",))).kind == "host"
    assert not Modifications({"f": len}).by_name
    assert Modifications({"x": [{"1": (2, 3)}]}).by_name and not Modifications({"x": [{1: 2}]}).by_name
    assert not Modifications(wrappers=(len,)).by_name


@pytest.mark.parametrize(
    "text", ["json", "json:", "json:loads(", "json:loads(open('x'))", "json:a;b", ":x", "a b:c"]
)
def test_what_is_no_wrapper(text):
    with pytest.raises(ValueError, match="does not name a wrapper"):
        wrapper_of(text)


def test_wrappers_that_are_not_there():
    with pytest.raises(ValueError, match="cannot be imported"):
        wrapper_of("not_a_module:Wrapper")
    with pytest.raises(ValueError, match="no wrapper 'Nothing'"):
        wrapper_of("gymnasium.wrappers:Nothing")
    wrapper = wrapper_of("gymnasium.wrappers:RescaleAction(-2, max_action=2)")
    assert wrapper(gymnasium.make("Pendulum-v1")).action_space.high == 2


def test_a_class_that_is_not_there(package, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="nearest that it has are Sized"):
        resolve("own_package.things:Size")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "own_package.old:Env",
            r"Importing the package 'own_package.old' raised AttributeError: .*float_.*python -c",
        ),
        (
            "own_package.leaving:Env",
            r"Importing the package 'own_package.leaving' raised SystemExit: no licence",
        ),
        (
            "own_package:things",
            r"'things' in the package 'own_package' is .*makes no environment; name a class",
        ),
    ],
)
def test_a_package_that_cannot_be_used_is_explained(name, words, package, tmp_path, monkeypatch):
    (tmp_path / "own_package" / "old.py").write_text("import numpy\nnumpy.float_(1)\n")
    (tmp_path / "own_package" / "leaving.py").write_text("raise SystemExit('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    resolve(package)
    with pytest.raises(ValueError, match=words):
        resolve(name)
    for verb in (["check"], ["train", "ppo"]):
        assert main([*verb, name]) == 2
    if "Importing" in words:
        with pytest.raises(ValueError, match="Importing the module of the wrapper"):
            wrapper_of(name)


def test_check_shows_where_a_constructor_raises_although_it_says_nothing(package, tmp_path, capsys):
    (tmp_path / "own_package" / "silent.py").write_text(
        "import gymnasium\nclass Silent(gymnasium.Env):\n    def __init__(self):\n        assert False\n"
    )
    assert main(["check", "own_package.silent:Silent"]) == 1
    out, err = capsys.readouterr()
    assert "found AssertionError: no message, from " in out and "silent.py:4, in __init__." in out
    assert "Traceback" in err and "assert False" in err


def test_nothing_is_put_on_a_world_or_twice():
    with pytest.raises(ValueError, match="on-device world"):
        modified(resolve("jax/CartPole-v1"), Modifications({"size": 8}))
    once = modified(resolve("CartPole-v1"), Modifications({"sutton_barto_reward": True}))
    assert modified(once, Modifications({"sutton_barto_reward": True})) is once


def test_parts_of_parts_are_left_out():
    class Nested(gymnasium.Env):
        action_space = spaces.Discrete(2)
        observation_space = spaces.Dict(
            a=spaces.Dict(b=spaces.Text(3), c=spaces.Discrete(2)), d=spaces.Discrete(3)
        )

        def reset(self, *, seed=None, options=None):
            return {"a": {"b": "x", "c": 1}, "d": 2}, {}

    env = IgnoreObservation(Nested(), ["a.b"])
    assert env.observation_space == spaces.Dict(a=spaces.Dict(c=spaces.Discrete(2)), d=spaces.Discrete(3))
    assert env.reset()[0] == {"a": {"c": 1}, "d": 2}
    with pytest.raises(ValueError, match="its parts are: a, d"):
        IgnoreObservation(Nested(), ["mission"])
    with pytest.raises(ValueError, match="nothing would be left"):
        IgnoreObservation(Nested(), ["a", "d"])


def test_repeated_flags_and_keywords():
    assert _gathered(["--seed", "1", "--wrapper", "a:b", "--wrapper=c:d(e=1)", "--quiet"]) == [
        "--seed", "1", "--quiet", "--wrapper", "a:b", "c:d(e=1)",
    ]  # fmt: skip
    assert _gathered(["--env_option", "a=1", "--env-option=b_c=2", "--env_option=d=3"]) == [
        "--env-option", "a=1", "b_c=2", "d=3",
    ]  # fmt: skip
    assert _read_keywords(["a=1", "b=[1, 2]", "c=x=y", "d=true", "e=True"]) == {
        "a": 1, "b": [1, 2], "c": "x=y", "d": True, "e": True,
    }  # fmt: skip
    for wrong in ("a", "=1", "a-b=1"):
        with pytest.raises(ValueError, match="KEY=VALUE"):
            _read_keywords([wrong])


def test_the_version_is_that_of_the_environment_inside_keywords_and_wrappers(monkeypatch):
    monkeypatch.setattr(Drawing, "__module__", "numpy")  # any package that is installed
    version = f"numpy {np.__version__}"
    assert version_of(resolve(Drawing)) == version
    changes = Modifications({"drawn": None}, (gymnasium.wrappers.FlattenObservation,))
    assert version_of(modified(resolve(Drawing), changes)) == version


class Drawing(gymnasium.Env):
    """Draws what it is given."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, drawn):
        self.drawn = drawn

    def render(self):
        if isinstance(self.drawn, Exception):
            raise self.drawn
        return self.drawn


@pytest.mark.parametrize(
    "drawn",
    [
        None,
        "text",
        [],
        [np.zeros((4, 4, 3), np.uint8)],
        np.zeros((4, 4, 3)),
        np.zeros(3, np.uint8),
        OSError("no GL"),
    ],
    ids=str,
)
def test_what_is_no_picture(drawn):
    with pytest.raises(CannotDraw, match=r"render\(\)"):
        frame_of(Drawing(drawn))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)])
def test_what_is_a_picture(shape):
    assert frame_of(Drawing(np.ones(shape, np.int64))).shape == (4, 6, 3)


def test_what_cannot_be_watched_is_explained(package, tmp_path, capsys):
    budget = [
        "--total-timesteps",
        "64",
        "--n-steps",
        "64",
        "--eval-episodes",
        "0",
        "--workers",
        "0",
        "--quiet",
    ]
    assert main(["train", "ppo", package, "--ignore-observation", "mission", *budget, "--out", "run"]) == 0
    assert main(["enjoy", "run", "--env", package, "--video", "x.gif"]) == 2
    said = capsys.readouterr().err
    assert "cannot be watched: its metadata['render_modes'] are []" in said
    assert "advantage eval" in said
    (tmp_path / "own_package" / "older.py").write_text(
        "from own_package.things import Sized\nclass Older(Sized):\n    metadata = None\n"
    )
    assert main(["enjoy", "run", "--env", "own_package.older:Older", "--video", "x.gif"]) == 2
    assert "cannot be watched" in capsys.readouterr().err


def test_an_error_of_close_is_said_and_passed_over():
    class Raises(Drawing):
        def close(self):
            raise RuntimeError("lost connection")

    with pytest.warns(EnvironmentWarning, match="close.. of Raises raised RuntimeError: lost connection"):
        close(Raises(None))


@pytest.mark.parametrize("name", ["c51", "DoubleDQN", "tqc", "recurrent_ppo"])
def test_a_method_that_is_not_offered_is_not_answered_with_an_unrelated_one(name):
    with pytest.raises(ValueError, match="; use ") as error:
        algorithm_class(name)
    assert "did you mean" not in str(error.value)


def test_gymnasiums_environments_that_leave_their_bounds_have_none():
    env = without_bounds(gymnasium.make("CartPole-v1"))
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (4,), np.float32)
    assert env.observation_space.contains(env.reset(seed=0)[0])
    for name in (
        "LunarLander-v3",
        "LunarLanderContinuous-v3",
        "BipedalWalker-v3",
        "BipedalWalkerHardcore-v3",
    ):
        assert gymnasium.spec(name).entry_point in LEAVE_THEIR_BOUNDS


def test_a_lander_that_flies_away_is_no_defect(tmp_path):
    pytest.importorskip("Box2D")

    class MainEngine(gymnasium.ActionWrapper):
        def action(self, action):
            return 2

    algorithm = adv.PPO(n_steps=256, hidden=(4,), n_epochs=1)
    options = dict(total_timesteps=512, eval_episodes=1, workers=0, wrappers=(MainEngine,))
    run = adv.train(algorithm, "LunarLander-v3", out=tmp_path / "run", **options)
    assert run.step == 512 and np.max(run.agent.state.observations.mean) > 2.5  # its height
