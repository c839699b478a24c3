"""A run that was copied, damaged, went back or had finished: what is loaded is checked whole, and nothing is lost."""

import json
import os
import shutil
import time
import types
from pathlib import Path

import numpy as np
import pytest
from probe_runs import SIZE, stop_at, train
from safetensors.numpy import load_file, save_file

import advantage as adv
from advantage.cli import main
from advantage.drivers.host import crew
from advantage.runs.checkpoint import list_checkpoints
from advantage.runs.folder import RunFolder
from advantage.runs.plot import plot_curve
from advantage.runs.recorded import checksum
from advantage.runs.video import Video
from advantage.training import reporting, results


class Listener(reporting.Silent):
    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run with three checkpoints and one evaluation at each of its last two."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return train("CartPole-v1", path, total_timesteps=4 * SIZE, eval_episodes=2, eval_every=2 * SIZE).path


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))


def contents(run, *left_out):
    files = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    return {name: text for name, text in files.items() if not name.startswith(("events", *left_out))}


def rewrite(checkpoint, change):
    """Change a checkpoint's tensors and metadata, and make every checksum right again."""
    tensors, manifest = (
        load_file(checkpoint / "state.safetensors"),
        json.loads((checkpoint / "manifest.json").read_text()),
    )
    change(tensors, manifest)
    save_file(tensors, checkpoint / "state.safetensors")
    data = (checkpoint / "state.safetensors").read_bytes()
    import hashlib

    manifest |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["tensors"] = {
        name: {"shape": list(x.shape), "dtype": x.dtype.name}
        | ({"key": manifest["tensors"][name]["key"]} if "key" in manifest["tensors"].get(name, {}) else {})
        for name, x in tensors.items()
    }
    manifest["metadata"]["sha256"] = checksum(manifest["metadata"])
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


# A run that had finished


@pytest.mark.parametrize(
    "algorithm", [None, adv.PolicySearch(adv.CEM(candidates=4, elite=0.5), hidden=()), adv.ValueIteration()]
)
def test_resuming_a_finished_run_changes_nothing(algorithm, tmp_path, capsys):
    environment = "FrozenLake-v1" if isinstance(algorithm, adv.ValueIteration) else "CartPole-v1"
    options = {"total_timesteps": 1000, "num_envs": 1, "eval_episodes": 2}
    train(environment, tmp_path / "run", algorithm, **options)
    before = contents(tmp_path / "run")
    for _ in range(2):
        assert main(["resume", str(tmp_path / "run")]) == 0
        assert "and is finished. To continue, " in capsys.readouterr().out
        assert contents(tmp_path / "run") == before


def test_what_a_killed_run_lacks_is_made_once(run):
    (run / "curve.png").unlink(missing_ok=True)
    assert adv.resume(run).finished and (run / "curve.png").exists()
    drawn = (run / "curve.png").stat().st_mtime_ns
    assert adv.resume(run).finished
    assert (run / "curve.png").stat().st_mtime_ns == drawn
    os.utime(run / "curve.png", (0, 0))  # of the run before it was given a larger budget
    adv.resume(run)
    assert (run / "curve.png").stat().st_mtime_ns > drawn


def test_a_search_that_ends_where_it_is_evaluated_is_evaluated_once(tmp_path):
    search = adv.PolicySearch(adv.CEM(candidates=4, elite=0.5), hidden=())
    run = train(
        "CartPole-v1",
        tmp_path / "run",
        search,
        total_timesteps=600,
        num_envs=1,
        eval_episodes=2,
        eval_every=1,
    )
    steps = np.loadtxt(run.path / "evaluations.csv", delimiter=",", skiprows=1, usecols=(0,))
    assert (np.unique(steps, return_counts=True)[1] == 2).all()


# Another checkpoint than the last


def test_a_checkpoint_is_taken_literally_and_nothing_of_the_rest_is_lost(run, whole, capsys):
    first, *later = list_checkpoints(run / "checkpoints")
    lost = {path.name: (path / "state.safetensors").read_bytes() for path in later}
    logs = {name: (run / name).read_bytes() for name in ("progress.csv", "episodes.csv", "evaluations.csv")}
    assert main(["resume", str(first), "--quiet"]) == 0
    aside = run / "set_aside" / "1"
    assert {path.name: (path / "state.safetensors").read_bytes() for path in aside.glob("step_*")} == lost
    assert {name: (aside / name).read_bytes() for name in logs} == logs
    assert (run / "last").resolve().name == (whole / "last").resolve().name
    assert (
        load_file(run / "last" / "state.safetensors").keys()
        == load_file(whole / "last" / "state.safetensors").keys()
    )
    same = ("episodes.csv", "evaluations.csv", f"checkpoints/{(run / 'last').resolve().name}/state")
    now, then = (contents(path) for path in (run, whole))
    assert {n: t for n, t in now.items() if n.startswith(same)} == {
        n: t for n, t in then.items() if n.startswith(same)
    }


def test_a_damaged_last_checkpoint_names_the_one_that_can_be_used(run, capsys):
    os.truncate(run / "last" / "state.safetensors", 1000)
    for verb in ("resume", "eval"):
        assert main([verb, str(run)]) == 1
        said = capsys.readouterr().err
        assert "state.safetensors: bytes: found 1000" in said and said.count("\n") == 1
    words = said.rpartition("advantage ")[2].split()
    assert words[0] == "resume" and main([*words, "--quiet"]) == 0
    assert adv.load(run).step == 4 * SIZE


@pytest.mark.parametrize("without", [(), ("checkpoints",)])
def test_a_copy_in_which_links_are_folders_goes_on(without, whole, tmp_path):
    copy = Path(shutil.copytree(whole, tmp_path / "copy", ignore=shutil.ignore_patterns(*without)))
    assert not (copy / "last").is_symlink()
    for budget in (6 * SIZE, 8 * SIZE):
        run = adv.resume(copy, total_timesteps=budget)
        assert run.finished and adv.load(copy).step == budget
    assert (copy / "last").is_symlink()


def test_a_smaller_budget_is_refused(run):
    with pytest.raises(
        ValueError, match=r"has taken its 256 steps, and total_timesteps=128 is below.*larger budget"
    ):
        adv.resume(run, total_timesteps=2 * SIZE)


def test_other_versions_are_told(run):
    config = json.loads((run / "config.json").read_text())
    config["host"]["versions"]["jax"], config["host"]["environment"] = "0.1", "walks 3"
    (run / "config.json").write_text(json.dumps(config))
    listener = Listener()
    adv.resume(run, reporter=listener)
    assert any("environment None instead of walks 3" in text and "jax" in text for text in listener.said)


# What is loaded is checked whole


def weights(value):
    def change(tensors, manifest):
        name = next(name for name in tensors if name.startswith("state/params") and tensors[name].ndim)
        tensors[name] = np.full_like(tensors[name], value)

    return change


def record(name, array):
    return lambda tensors, manifest: tensors.update({f"records/{name}": array})


def fact(name, value):
    return lambda tensors, manifest: manifest["metadata"].update({name: value})


WRONG = {
    "weights that are no numbers": (weights(np.nan), "state/params.*not finite", True),
    "infinite weights": (weights(np.inf), "state/params.*not finite", True),
    "a step that the clock does not know": (
        fact("step", 192),
        "metadata/step: found 192, expected 256",
        True,
    ),
    "a best return in words": (fact("best", "much"), "metadata/best: found 'much'", True),
    "an unknown fact": (fact("stap", 1), "metadata/stap: found a value, expected nothing", True),
    "a shape": (record("book/returns", np.zeros(3)), r"records/book/returns: found shape \(3,\)", False),
    "a type": (record("book/lengths", np.zeros(2)), "records/book/lengths: found type float64", False),
    "a range": (record("book/numbers", np.full(2, -1)), "records/book/numbers: found numbers from -1", False),
    "another name": (record("book/more", np.zeros(2)), "records/book/more: found a record, expected", False),
    "no number": (
        record("obs", np.full((2, 4), np.nan, np.float32)),
        "records/obs: found a number that is",
        False,
    ),
    "episodes without lengths": (
        record("recent/lengths", np.zeros(1, int)),
        "recent/lengths: found shape",
        False,
    ),
    "an action": (record("actions/0", np.full(3, 7)), "records/actions/0: found", False),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_checkpoint_with_right_checksums_is_named(name, run):
    change, message, in_load = WRONG[name]
    rewrite(run / "last", change)
    before = contents(run)
    for use in (adv.load, adv.resume) if in_load else (adv.resume,):
        with pytest.raises(adv.CheckpointError, match=message):
            use(run)
    assert contents(run) == before


def test_a_missing_record_is_named(run):
    rewrite(run / "last", lambda tensors, manifest: tensors.pop("records/recent/returns"))
    with pytest.raises(adv.CheckpointError, match="records/recent/returns: found nothing"):
        adv.resume(run)


def test_comparing_needs_a_step_in_the_metadata(run):
    manifest = json.loads((run / "last" / "manifest.json").read_text())
    del manifest["metadata"]["step"]
    (run / "last" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json: metadata/step: found None, expected an integer"):
        adv.compare(run)


def test_metadata_that_was_edited_is_noticed(run):
    text = (run / "last" / "manifest.json").read_text()
    (run / "last" / "manifest.json").write_text(text.replace('"iteration": 4', '"iteration": 5'))
    with pytest.raises(adv.CheckpointError, match="metadata/sha256"):
        adv.load(run)


@pytest.mark.parametrize(
    ("field", "value"),
    [("hyperparameters/gamma", 0.9), ("seed", 3), ("environment", "CartPole-v0")],
)
def test_a_config_that_was_edited_is_noticed(field, value, run):
    config = json.loads((run / "config.json").read_text())
    part = config["hyperparameters"] if "/" in field else config
    part[field.rpartition("/")[2]] = value
    (run / "config.json").write_text(json.dumps(config))
    message = rf"config\.json: {field}: found .* which the run had when"
    with pytest.raises(adv.CheckpointError, match=message):
        adv.load(run)
    with pytest.raises(ValueError, match=message):
        adv.compare(run)


def test_a_checkpoint_has_the_settings_it_was_saved_with_where_a_population_changes_them(run):
    before = adv.load(run).algorithm
    config = json.loads((run / "config.json").read_text())
    config["hyperparameters"]["gamma"] = 0.9
    for changing in ([], "gamma", [3]):
        (run / "config.json").write_text(json.dumps(config | {"changing": changing}))
        with pytest.raises(adv.CheckpointError, match="gamma: found"):
            adv.load(run)
    (run / "config.json").write_text(json.dumps(config | {"changing": ["gamma"]}))
    assert adv.load(run).algorithm == before and adv.compare(run)
    assert adv.resume(run, total_timesteps=5 * SIZE).algorithm == before


@pytest.mark.parametrize("name", ["checkpoints", "last", "videos"])
def test_a_link_that_leads_out_of_the_run_is_refused(name, run, tmp_path):
    outside = tmp_path / "outside"
    if name == "checkpoints":
        (run / name).rename(outside)
    elif name == "videos":
        outside.mkdir()
    else:
        shutil.copytree(run / name, outside)
        (run / name).unlink()
    (run / name).symlink_to(outside)
    with pytest.raises(adv.CheckpointError, match="is a link that leads out of the run folder"):
        adv.resume(run)


def test_a_link_in_a_strangers_folder_is_not_written_through(run, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("precious")
    for name in ("config.json", "episodes.csv", "curve.png"):
        (run / f".{name}.tmp").symlink_to(mine)
    adv.resume(run, total_timesteps=6 * SIZE)
    assert mine.read_text() == "precious"


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_film_is_not_written_through_a_link(suffix, tmp_path):
    mine, film = tmp_path / "mine", tmp_path / f"step{suffix}"
    mine.write_text("precious")
    for link in (film, tmp_path / f".step.tmp{suffix}"):
        link.symlink_to(mine)
    video = Video(film, 30)
    env = types.SimpleNamespace(render=lambda: np.zeros((16, 16, 3), np.uint8))
    for _ in range(3):
        video.add(env)
    video.close()
    assert mine.read_text() == "precious" and not film.is_symlink() and film.stat().st_size > 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", film.name]


def test_names_are_shown_as_they_are(run, tmp_path):
    shutil.rmtree(run / "checkpoints")  # with which a name must agree
    config = json.loads((run / "config.json").read_text())
    for name in ("$\\frac{$", "<b>", "_^{"):
        (run / "config.json").write_text(json.dumps(config | {"environment": name}))
        assert plot_curve(RunFolder(run)) is not None
        comparison = adv.compare(run)
        files, _ = comparison.write(tmp_path / f"{len(name)}{ord(name[0])}")
        assert files
    (run / "config.json").write_text(json.dumps(config | {"environment": "a\x1b[2Jb"}))
    with pytest.raises(adv.CheckpointError, match="without control characters"):
        adv.load(run)


def test_a_space_that_no_memory_holds_is_refused(run):
    config = json.loads((run / "config.json").read_text())
    config["spaces"]["observation"] |= {"shape": [10**6, 10**6], "low": 0.0, "high": 1.0}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(adv.CheckpointError, match=r"config\.json: spaces: .*more than"):
        adv.load(run)


# Logs that broke off


def cut(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def swap(path):
    path.write_text(path.read_text().replace(".0,", ".5,", 1))


LOGS = {
    "cut": ("episodes.csv", cut, r"episodes\.csv has \d+ of the \d+ rows"),
    "missing": ("evaluations.csv", Path.unlink, r"evaluations\.csv has 0 of the 4 rows"),
    "a short progress": ("progress.csv", cut, r"progress\.csv has 3 of the 4 rows"),
    "changed": ("episodes.csv", swap, r"episodes\.csv is not as the run wrote it"),
}


@pytest.mark.parametrize("name", LOGS)
def test_a_log_that_is_not_whole_is_named(name, run, monkeypatch):
    monkeypatch.setattr(results, "plot_curve", lambda folder: None)
    file, damage, message = LOGS[name]
    damage(run / file)
    with pytest.raises(ValueError, match=message):
        adv.compare(run)
    for _ in range(2):  # the second time too, although its own rows are whole
        listener = Listener()
        adv.resume(run, total_timesteps=6 * SIZE, reporter=listener)
        assert any(file in text for text in listener.said)
    with pytest.raises(
        ValueError, match=f"{file} lacks rows, or was changed, before the run was last resumed"
    ):
        adv.compare(run)


def test_a_log_of_other_columns_does_not_end_a_run_that_has_learned(run, monkeypatch):
    def spoil(progress):
        (run / "episodes.csv").write_text("a,b\n1,2\n")

    listener = Listener()
    assert adv.resume(run, total_timesteps=6 * SIZE, callback=spoil, reporter=listener).finished
    assert any("curve.png was not drawn" in text and "header" in text for text in listener.said)


# A machine that sleeps


def test_a_suspended_machine_is_no_hung_worker(monkeypatch):
    class Pipe:
        polls = 0

        def poll(self, timeout):
            self.polls += 1
            time.sleep(0.05)  # much longer than it was asked to wait
            return self.polls == 4

    monkeypatch.setattr(crew, "PIECE", 0.001)
    assert crew._answers(Pipe(), 0.004)
    assert not crew._answers(Pipe(), 0.002)


def test_a_stopped_run_is_not_complete(tmp_path):
    run = train("CartPole-v1", tmp_path / "run", callback=stop_at(1))
    assert not run.finished and adv.resume(run.path).finished
