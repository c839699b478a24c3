"""A run folder from a stranger runs nothing of theirs, in no verb, unless the user's own words say so."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from probe_runs import SIZE, stop_at, tiny_grid, train

import advantage as adv
from advantage.cli import main
from advantage.environments.make import resolve_recorded
from advantage.experiment import read_experiment

ROOT = Path(__file__).parents[1]
NAME = "payload:Payload-v0"
PAYLOAD = """
import pathlib
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

pathlib.Path(__file__).with_name("executed").touch()
gymnasium.register("Payload-v0", CartPoleEnv, max_episode_steps=50)
"""
STRAY = """
import pathlib
pathlib.Path(__file__).with_name("executed").touch()
raise SystemError("a file of the current folder stood in the way")
"""
REFUSED = (
    r"needs the environment 'payload:Payload-v0'.*--trust.*--env NAME.*trust=True.*environment=\.\.\..*import"
)
VERBS = {
    "eval": ["--episodes", "1"],
    "enjoy": ["--episodes", "1", "--video", "v.gif"],
    "resume": ["--quiet"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was stopped before its end."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return train("CartPole-v1", path, callback=stop_at(1), checkpoint_every=SIZE).path


@pytest.fixture
def stranger(whole, tmp_path, monkeypatch):
    """A run that wants what its folder carries; the same file lies in the current folder."""
    run = Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))
    edit(run, environment=NAME)
    for folder in (run, tmp_path):
        (folder / "payload.py").write_text(PAYLOAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield run
    sys.modules.pop("payload", None)
    gymnasium.registry.pop("Payload-v0", None)


def edit(run, training=None, **changes):
    config = json.loads((run / "config.json").read_text())
    config["training"] |= training or {}
    (run / "config.json").write_text(json.dumps(config | changes))


def executed(run):
    return any((folder / "executed").exists() for folder in (run, run.parent, Path.cwd()))


def contents(run):
    return {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("verb", VERBS)
def test_promise_16_no_verb_imports_what_a_file_names(verb, inside, stranger, monkeypatch, capsys):
    if inside:
        monkeypatch.chdir(stranger)
    before, path = contents(stranger), list(sys.path)
    assert main([verb, "." if inside else "run", *VERBS[verb]]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert re.search(REFUSED, said.err)
    assert not executed(stranger) and "payload" not in sys.modules
    assert contents(stranger) == before and sys.path == path


def test_promise_16_neither_does_python(stranger, monkeypatch):
    monkeypatch.syspath_prepend(str(stranger))  # as for a script or a prompt in that folder
    before = contents(stranger)
    agent = adv.load(stranger)
    for use in (adv.evaluate, adv.resume):
        with pytest.raises(ValueError, match=REFUSED):
            use(stranger)
    with pytest.raises(ValueError, match=REFUSED):
        adv.evaluate(agent)
    assert not executed(stranger) and contents(stranger) == before


def test_promise_16_comparing_and_measuring_import_nothing(stranger, capsys):
    assert main(["compare", "run"]) == 2
    assert main(["lab", "gradient", "--policy", "run", "--world", "jax/ShortCorridor-v0"]) != 0
    assert not executed(stranger)


@pytest.mark.parametrize("words", [["--trust"], ["--env", NAME]], ids=["--trust", "--env"])
@pytest.mark.parametrize("verb", VERBS)
def test_promise_16_the_users_word_is_enough(verb, words, stranger, capsys):
    assert main([verb, "run", *VERBS[verb], *words]) == 0, capsys.readouterr().err
    assert Path("executed").exists() and not (stranger / "executed").exists()  # the current folder's
    assert sys.modules["payload"].__file__ == str(Path("payload.py").resolve())


def test_another_environment_needs_no_trust(stranger, capsys):
    for verb, options in VERBS.items():
        assert main([verb, "run", *options, "--env", "CartPole-v1"]) == 0, capsys.readouterr().err
    assert not executed(stranger)


def test_python_says_it_by_an_argument(stranger, monkeypatch):
    monkeypatch.syspath_prepend(os.getcwd())
    assert adv.evaluate(stranger, "CartPole-v1", episodes=1).lengths.size == 1
    assert not executed(stranger)
    assert adv.evaluate(stranger, episodes=1, trust=True).lengths.max() <= 50
    assert executed(stranger)
    assert adv.resume(stranger, environment=NAME, callback=stop_at(2)).step == 2 * SIZE
    assert adv.resume(stranger, trust=True).finished


def test_what_the_process_has_imported_already_is_brought_back(stranger, monkeypatch, capsys):
    monkeypatch.syspath_prepend(os.getcwd())
    import payload  # noqa: F401

    monkeypatch.undo()
    assert adv.evaluate(stranger, episodes=1).lengths.size == 1
    assert main(["eval", str(stranger), "--episodes", "1"]) == 0
    assert adv.resume(stranger).finished


@pytest.mark.parametrize("name", ["CartPole-v1", "jax/CartPole-v1", "advantage/Cliff-v0", "jax/Tetris-4x6"])
def test_names_that_import_nothing_of_others(name):
    assert resolve_recorded(name).name == name


@pytest.mark.parametrize(
    "name",
    ["advantage/x:CartPole-v1", "ALE/x:CartPole-v1", "jax/x:CartPole-v1", "a.b:C-v0", ".:C-v0", "this:C-v0",
     "advantage.__main__:CartPole-v1"],
)  # fmt: skip
def test_a_package_is_a_package_however_it_is_written(name):
    with pytest.raises(ValueError, match=r"needs the environment"):
        resolve_recorded(name)
    assert "this" not in sys.modules


def test_an_endless_name_does_not_fill_the_screen():
    with pytest.raises(ValueError) as refused:
        resolve_recorded("x" * 10**6 + ":\x1b[2J\nE-v0")
    assert len(str(refused.value)) < 1000 and refused.value.args[0].isprintable()


@pytest.mark.parametrize("form", ["ale_py.py", "ale_py/__init__.py"])
def test_atari_comes_from_an_installed_package_alone(form, stranger, monkeypatch, capsys):
    for module in [name for name in sys.modules if name.split(".")[0] == "ale_py"]:
        monkeypatch.delitem(sys.modules, module)
    Path(form).parent.mkdir(exist_ok=True)
    Path(form).write_text(STRAY)
    edit(stranger, environment="ALE/Nothing-v5")
    assert main(["eval", "run"]) in (1, 2)  # ale_py is not installed, or has no such game
    assert "wants" not in capsys.readouterr().err
    monkeypatch.syspath_prepend("")
    with pytest.raises(ValueError, match=r"needs the environment 'ALE/Nothing-v5'.*the package 'ale_py'"):
        adv.evaluate(stranger)
    assert not executed(stranger) and not Path(form).with_name("executed").exists()


def python(*arguments, path=str(ROOT)):
    """A process of its own in the current folder: `-> returncode, what it said`."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"PYTHONPATH": path},
    )
    return done.returncode, done.stdout + done.stderr


COMMAND = "import sys; from advantage.cli import main; sys.exit(main())"
LIBRARIES = ("optax", "numpy", "jax", "gymnasium", "pygame", "imageio", "cloudpickle", "tyro", "typing")


@pytest.mark.parametrize(
    ("start", "words"), [(["-m", "advantage"], []), (["-c", COMMAND], ["--env", NAME])], ids=["-m", "-c"]
)
def test_promise_16_libraries_are_the_installed_ones(start, words, stranger):
    """Of the command, of what it imports when it needs it, and of the processes that it starts."""
    libraries = [name for name in LIBRARIES if start[0] == "-m" or name != "typing"]
    for name in libraries:
        Path(f"{name}.py").write_text(STRAY)
    if words:  # the payload itself may run
        Path("payload.py").write_text(PAYLOAD.replace("executed", "payload ran"))
    else:
        edit(stranger, environment="CartPole-v1")
    edit(stranger, training={"workers": 2})
    for arguments in (["resume", "run"], ["enjoy", "run", "--episodes", "1", "--video", "v.gif"]):
        code, said = python(*start, *arguments, *words)
        assert code == 0, said
        assert "in 2 worker processes" in said or arguments[0] == "enjoy"
    assert not executed(stranger) and Path("payload ran").exists() == bool(words)


def test_a_library_that_is_missing_is_not_taken_from_here(stranger):
    """Nor from here where nothing else has it, if a file alone says what is needed."""
    for name in ("Box2D", "ale_py"):
        Path(f"{name}.py").write_text(STRAY)
    edit(stranger, environment="LunarLander-v3")
    code, said = python("-c", COMMAND, "eval", "run")
    assert code in (1, 2) and "wants" not in said, said
    assert not executed(stranger)


def test_an_experiments_file_is_the_users_word(stranger, monkeypatch, capsys):
    Path("grid.toml").write_text(tiny_grid("payload:Payload-v0"))
    with monkeypatch.context() as patch:
        patch.syspath_prepend(os.getcwd())
        (cell,) = read_experiment("grid.toml")
        options = dataclasses.asdict(cell.options)
        adv.train(cell.algorithm, NAME, out=cell.path, callback=stop_at(1), **options)
    Path("optax.py").write_text(STRAY.replace("executed", "optax ran"))
    assert main(["experiment", "grid.toml"]) == 0, capsys.readouterr().out
    assert cell.finished and not Path("optax ran").exists()


def test_a_checkout_that_nobody_has_installed(tmp_path, monkeypatch):
    """Its processes run its own modules, though `python -m` no longer has the current folder on the path."""
    shutil.copytree(ROOT / "advantage", tmp_path / "advantage", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    worker = Path("advantage", "drivers", "host", "workers.py")
    worker.write_text(worker.read_text() + '\nopen(f"ran {__name__}", "w")\n')
    arguments = ["--total-timesteps", "128", "--n-steps", "16", "--batch-size", "32", "--eval-episodes", "0"]
    code, said = python(
        "-m", "advantage", "train", "ppo", "CartPole-v1", *arguments, "--workers", "1", path=""
    )
    assert code == 0, said
    assert Path("ran __main__").exists() and Path("ran advantage.drivers.host.workers").exists()
