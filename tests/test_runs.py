"""The run folder keeps its promises: exact, atomic, safe to read, and clear about what is wrong."""

import dataclasses
import errno
import functools
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from advantage.runs import checkpoint
from advantage.runs.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    point,
    prune,
    read_manifest,
    save_checkpoint,
)
from advantage.runs.folder import (
    RunFolder,
    create_run_folder,
    describe_host,
    open_run_folder,
    read_config,
    write_config,
)
from advantage.runs.log import Logger, read_episodes, read_evaluations, read_progress
from advantage.runs.plot import plot_curve, running_mean, short

DTYPES = ["bool", "uint8", "int8", "int32", "int64", "uint32", "float16", "float32", "float64", "bfloat16"]
ROOT = Path(__file__).parents[1]


class Point(NamedTuple):
    x: object
    y: object


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Box:
    inside: object


def bits(array):
    return np.asarray(array).dtype, np.shape(array), np.asarray(array).tobytes()


def some_state():
    weight = jax.random.normal(jax.random.key(1), (3, 4))
    return {"params": {"actor": [{"weight": weight, "bias": jnp.zeros(4)}]}, "key": jax.random.key(7)}


@pytest.fixture
def saved(tmp_path):
    records = {"actions": np.arange(5)}
    return save_checkpoint(
        tmp_path / "checkpoints",
        64,
        some_state(),
        records=records,
        metadata={"algorithm": "ppo", "iteration": 3},
    )


@pytest.fixture
def run(tmp_path):
    return create_run_folder(tmp_path / "run", root=tmp_path, environment="E-v0", algorithm="ppo", seed=0)


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


# Checkpoints: what is written comes back


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_arrays_come_back_bit_for_bit(tmp_path, dtype, shape):
    dtype = jnp.dtype(dtype)
    raw = np.random.default_rng(0).integers(0, 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
    array = (raw % 2).astype(bool).reshape(shape) if dtype.kind == "b" else raw.view(dtype).reshape(shape)
    path = save_checkpoint(tmp_path, 0, {"a": array}, records={"r/s": array}, metadata={})
    for template in ({"a": array}, {"a": jax.ShapeDtypeStruct(shape, dtype)}):
        state, records, _ = load_checkpoint(path, template)
        assert bits(state["a"]) == bits(array) == bits(records["r/s"])


def test_layout_does_not_matter(tmp_path):
    array = np.arange(24.0).reshape(4, 6)
    views = {"t": array.T, "f": np.asfortranarray(array), "s": array[::2, 1::3], "big": array.astype(">f8")}
    state, _, _ = load_checkpoint(save_checkpoint(tmp_path, 0, views, metadata={}), views)
    for name, view in views.items():
        np.testing.assert_array_equal(state[name], view)


def test_structure_names_and_kinds(tmp_path):
    state = Point(Box([jnp.float32(1.5), (np.int64(2**60), None)]), {"n": {"w": np.ones(2, np.float32)}})
    path = save_checkpoint(tmp_path, 12, state, metadata={"nested": {"list": [1, None, "x"]}})
    names = {"state/x/inside/0", "state/x/inside/1/0", "state/y/n/w"}
    assert set(read_manifest(path)["tensors"]) == names and read_manifest(path)["step"] == 12
    assert path.name == "step_000000000012"
    loaded, records, metadata = load_checkpoint(path, state)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    assert isinstance(loaded.x.inside[0], jax.Array) and isinstance(loaded.y["n"]["w"], np.ndarray)
    loaded.y["n"]["w"][0] = 5  # NumPy leaves are the caller's own
    assert records == {} and metadata == {"nested": {"list": [1, None, "x"]}}


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_typed_keys_come_back_typed(tmp_path, implementation):
    with jax.debug_key_reuse(True):
        keys = jax.random.split(jax.random.key(3, impl=implementation), 4)
        state = {"one": jax.random.key(5, impl=implementation), "many": keys}
        path = save_checkpoint(tmp_path, 0, state, metadata={})
        template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        loaded, _, _ = load_checkpoint(path, template)
        assert loaded["many"].dtype == keys.dtype and loaded["many"].shape == (4,)
        before, after = (jax.random.normal(s["one"], (3,)) for s in (state, loaded))  # saving used up no key
    np.testing.assert_array_equal(before, after)


def test_anyone_who_may_read_the_manifest_may_read_the_tensors(saved):
    assert (saved / "state.safetensors").stat().st_mode == (saved / "manifest.json").stat().st_mode


# Checkpoints: what is wrong is named


def test_unsuitable_states_are_refused(tmp_path):
    refused = [
        ({"steps": 3}, "state/steps: found a int"),
        ({"name": np.array("x")}, "state/name: found dtype <U1"),
        ({"code": np.array([print])}, "state/code: found dtype object"),
        ({"a/b": np.ones(1), "a": {"b": np.ones(1)}}, "state/a/b"),
    ]
    for state, message in refused:
        with pytest.raises(CheckpointError, match=re.escape(message)):
            save_checkpoint(tmp_path / "c", 0, state, metadata={})
    with pytest.raises(CheckpointError, match="records/log"):
        save_checkpoint(tmp_path / "c", 0, {}, records={"log": np.array([{}])}, metadata={})
    with pytest.raises(TypeError, match="JSON"):
        save_checkpoint(tmp_path / "c", 0, {}, metadata={"f": print})
    assert not (tmp_path / "c").exists()


def rewrite(path, **changes):
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    (path / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if v is not ...}))


def with_tensor(path, name, entry):
    return json.loads((path / "manifest.json").read_text())["tensors"] | {name: entry}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"format": "tensorflow"}, "format: found 'tensorflow'"),
        ({"format": ...}, "format: found None"),
        ({"format_version": 3}, "format_version: found 3, expected 2; a newer advantage"),
        ({"format_version": 0}, "format_version: found 0"),
        ({"format_version": "1"}, "format_version: found '1'"),
        ({"metadata": ...}, "metadata: found nothing"),
        ({"sha256": ...}, "sha256: found nothing"),
        ({"tensors": []}, "tensors: found 'list'"),
        ({"step": "64"}, "step: found 'str'"),
        ({"surprise": 1}, "surprise: found 'int', expected nothing"),
        ({"bytes": 10}, "state.safetensors: bytes: found"),
        ({"sha256": "0" * 64}, "state.safetensors: sha256: found"),
    ],
)
def test_a_wrong_manifest_field_is_named(saved, changes, field):
    rewrite(saved, **changes)
    with pytest.raises(CheckpointError, match=re.escape(field)) as caught:
        load_checkpoint(saved, some_state())
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "entry", "field"),
    [
        (
            "state/more",
            {"shape": [], "dtype": "float32"},
            "tensors/state/more/dtype: found 'float32', expected nothing",
        ),
        ("else/where", {"shape": [], "dtype": "float32"}, "tensors/else/where/dtype"),
        ("state/key", {}, "tensors/state/key/dtype: found nothing, expected 'uint32'"),
        ("state/key", {"shape": [2], "dtype": "uint32", "key": "rbg"}, "tensors/state/key/key: found 'rbg'"),
        ("state/key", [2], "tensors/state/key: found 'list'"),
        (
            "records/actions",
            {"shape": [4], "dtype": "int64"},
            "records/actions/shape: found [5], expected [4]",
        ),
        ("records/actions", {"shape": [5], "dtype": "int32"}, "records/actions/dtype: found 'int64'"),
        ("records/more", {"shape": [5], "dtype": "int32"}, "records/more/dtype: found nothing"),
    ],
)
def test_a_wrong_manifest_tensor_is_named(saved, name, entry, field):
    rewrite(saved, tensors=with_tensor(saved, name, entry))
    with pytest.raises(CheckpointError, match=re.escape(field)):
        load_checkpoint(saved, some_state())


def test_a_tensors_file_that_disagrees_with_the_manifest(saved):
    file = saved / "state.safetensors"
    tensors = safetensors.numpy.load_file(file)
    for change, field in [
        ({"records/actions": np.arange(6)}, "records/actions/shape: found [6], expected [5]"),
        ({"state/extra": np.arange(6)}, "state/extra/dtype: found 'int64', expected nothing"),
    ]:
        safetensors.numpy.save_file(tensors | change, file)
        rewrite(saved, **checkpoint._fingerprint(file))  # a wrong file with a right checksum
        with pytest.raises(CheckpointError, match=re.escape(field)):
            load_checkpoint(saved, some_state())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (
            lambda s: s["params"]["actor"][0].update(weight=jnp.zeros((3, 5))),
            "actor/0/weight/shape: found [3, 4]",
        ),
        (lambda s: s["params"]["actor"][0].update(bias=jnp.zeros(4, int)), "bias/dtype: found 'float32'"),
        (
            lambda s: s.update(key=jax.random.key_data(s["key"])),
            "state/key/key: found 'threefry2x32', expected not",
        ),
        (
            lambda s: s.update(key=jax.random.key(0, impl="rbg")),
            "state/key/key: found 'threefry2x32', expected 'rbg'",
        ),
        (lambda s: s.update(extra=jnp.zeros(1)), "state/extra/dtype: found nothing, expected 'float32'"),
        (lambda s: s.pop("params"), "state/params/actor/0/bias/dtype: found 'float32', expected nothing"),
    ],
)
def test_a_state_of_another_kind_is_named(saved, change, field):
    template = some_state()
    change(template)
    with pytest.raises(CheckpointError, match=re.escape(field)) as caught:
        load_checkpoint(saved, template)
    assert "manifest.json" in str(caught.value)


def test_a_state_of_another_version_is_refused_with_that_version(tmp_path):
    saved = save_checkpoint(tmp_path / "checkpoints", 1, {"q": jnp.zeros(3)}, metadata={})
    (tmp_path / "config.json").write_text('{"host": {"versions": {"advantage": "0.0.7"}}}')
    point(tmp_path / "last", saved)
    with pytest.raises(CheckpointError, match="advantage 0.0.7 saved it, and its state has another form"):
        load_checkpoint(tmp_path / "last", {"table": jnp.zeros(3)})
    with pytest.raises(
        CheckpointError, match="choose another checkpoint"
    ):  # the form is the same, the shape is not
        load_checkpoint(tmp_path / "last", {"q": jnp.zeros(4)})


def test_expected_metadata(saved):
    _, records, metadata = load_checkpoint(saved, some_state(), expect={"algorithm": "ppo"})
    assert metadata == {"algorithm": "ppo", "iteration": 3} and bits(records["actions"]) == bits(np.arange(5))
    with pytest.raises(CheckpointError, match="metadata/algorithm: found 'ppo', expected 'trpo'"):
        load_checkpoint(saved, some_state(), expect={"algorithm": "trpo"})
    with pytest.raises(CheckpointError, match="metadata/spec: found nothing, expected 1"):
        load_checkpoint(saved, some_state(), expect={"spec": 1})


def test_missing_folder_and_files(tmp_path, saved):
    with pytest.raises(CheckpointError, match="nowhere.*manifest: found no such folder"):
        load_checkpoint(tmp_path / "nowhere", {})
    with pytest.raises(CheckpointError, match="manifest: found no such file"):
        load_checkpoint(tmp_path, {})
    (saved / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match="state.safetensors: not readable"):
        load_checkpoint(saved, some_state())
    assert list_checkpoints(saved.parent) == []


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_a_manifest_that_is_no_json_object(saved, text):
    (saved / "manifest.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json: (not readable as JSON|top level)"):
        load_checkpoint(saved, some_state())


def test_every_truncation_and_every_flipped_bit_is_noticed(saved):
    rng = np.random.default_rng(0)
    for name in ("state.safetensors", "manifest.json"):
        file = saved / name
        whole = file.read_bytes()
        for cut in {0, 1, 7, 8, 9, len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()}:
            file.write_bytes(whole[:cut])
            with pytest.raises(CheckpointError, match=re.escape(name)):
                load_checkpoint(saved, some_state())
        file.write_bytes(whole)
    for at in rng.integers(0, (saved / "state.safetensors").stat().st_size, 40):
        whole = bytearray((saved / "state.safetensors").read_bytes())
        whole[at] ^= 1 << int(rng.integers(8))
        broken = saved.with_name("broken")
        broken.mkdir(exist_ok=True)
        (broken / "manifest.json").write_bytes((saved / "manifest.json").read_bytes())
        (broken / "state.safetensors").write_bytes(whole)
        with pytest.raises(CheckpointError, match="sha256"):
            load_checkpoint(broken, some_state())


@pytest.mark.parametrize("content", [b"", b"abc", b"\x00" * 64, b"\xff" * 64])
def test_no_safetensors_behind_a_right_checksum(saved, content):
    (saved / "state.safetensors").write_bytes(content)
    rewrite(saved, **checkpoint._fingerprint(saved / "state.safetensors"))
    with pytest.raises(CheckpointError, match="state.safetensors: not readable as safetensors"):
        load_checkpoint(saved, some_state())


# Nothing that is read is ever run


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("protocol", [0, 4])
def test_a_pickle_is_never_opened(tmp_path, run, saved, protocol):
    marker = tmp_path / "marker"
    bomb = pickle.dumps(Bomb(marker), protocol=protocol) + b"\n1,2\n"
    pickle.loads(bomb).close()
    assert marker.exists()  # the bomb works
    marker.unlink()
    files = [run.config_path, run.progress_path, run.episodes_path, run.evaluations_path]
    for file, read in zip(files, (read_config, read_progress, read_episodes, read_evaluations), strict=True):
        file.write_bytes(bomb)
        with pytest.raises(CheckpointError, match=re.escape(str(file))):
            read(run)
    with pytest.raises(CheckpointError, match=r"progress\.csv"):
        Logger(run, resume_step=10)
    (saved / "state.safetensors").write_bytes(bomb)
    rewrite(saved, **checkpoint._fingerprint(saved / "state.safetensors"))
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        load_checkpoint(saved, some_state())
    (saved / "manifest.json").write_bytes(bomb)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        load_checkpoint(saved, some_state())
    np.save(tmp_path / "objects.npy", np.array([Bomb(marker)], dtype=object), allow_pickle=True)
    assert not marker.exists()


# Checkpoints: kills and full disks

SAVER = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from advantage.replay.prioritised import Priorities
from advantage.runs.checkpoint import *

run, rng = Path(sys.argv[1]), random.Random(0)
folder, last = run / "checkpoints", run / "last"
weights = lambda i: {"a": np.full(300_000, i), "b": np.full((3, 5), i, np.float32)}
replayed = lambda i: np.repeat([0, i], 200_000)  # in pieces, of which the first ones do not change
state = lambda i: {"weights": weights(i), "replayed": Priorities(replayed(i))}
for kill in range(12):
    child = os.fork()
    if child == 0:  # every step is saved twice: once new, once replaced; every third moment is a deletion
        for i in range(kill * 1000, kill * 1000 + 1000):
            for _ in range(2):
                path = save_checkpoint(folder, i, state(i), metadata={"i": i})
                point(last, path)
            prune(folder, 2, {last})
    time.sleep(rng.uniform(0.02, 0.12))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for path in [*list_checkpoints(folder), *([last] if last.is_symlink() else [])]:
        loaded, _, metadata = load_checkpoint(path, state(0))
        assert all((x == metadata["i"]).all() for x in loaded["weights"].values())
        assert (loaded["replayed"].tree == replayed(metadata["i"])).all()
    print(kill, (list_checkpoints(folder) or [None])[-1], flush=True)
save_checkpoint(folder, 99_999, state(0), metadata={})
print(sorted(p.name for p in folder.iterdir() if p.name.startswith(".")))
"""


def test_sigkill_at_any_moment_leaves_whole_checkpoints(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SAVER, str(tmp_path)],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    newest = [line.rpartition("step_")[2] for line in lines[:-1]]
    steps = [int(step) if step.isdigit() else -1 for step in newest]  # a slow machine may have none at first
    assert len(steps) == 12 and steps[-1] >= 0 and steps == sorted(steps)
    assert lines[-1] == "[]"  # what the kills left behind was removed by the next save


@pytest.mark.parametrize("moment", range(9))
@pytest.mark.parametrize("same_step", [False, True])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, saved, monkeypatch, moment, same_step):
    """The disk fills before the first, second, ... of the calls that touch it, whichever these are."""
    calls = 0

    def failing(function):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > moment:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*args, **kwargs)

        return wrapped

    last = tmp_path / "last"
    point(last, saved)
    state = some_state()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_tensors", failing(checkpoint._write_tensors))
        patch.setattr(checkpoint, "sync", failing(checkpoint.sync))
        patch.setattr(checkpoint.shutil, "copymode", failing(checkpoint.shutil.copymode))
        patch.setattr(Path, "write_text", failing(Path.write_text))
        patch.setattr(os, "rename", lambda *a, rename=os.rename: _rename_new(failing, rename, *a))
        try:
            save_checkpoint(saved.parent, 64 if same_step else 65, state, metadata={"new": True})
        except OSError as error:
            assert error.errno == errno.ENOSPC
        else:
            assert moment == 8 and not same_step
    for path in [last, *list_checkpoints(saved.parent)]:
        load_checkpoint(path, state)
    for entry in saved.parent.iterdir():
        assert not entry.name.startswith(".") and read_manifest(entry)
    assert saved in list_checkpoints(saved.parent)


def _rename_new(failing, rename, source, target):
    """Putting an old checkpoint back needs no space and does not fail."""
    return (rename if str(source).endswith(".old") else failing(rename))(source, target)


def test_a_refusing_disk_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="cannot be written"):
        checkpoint._write_tensors(tmp_path / "nowhere" / "x.safetensors", {"a": np.ones(2)})


def test_set_aside_and_not_yet_replaced_is_still_there(tmp_path, saved):
    point(tmp_path / "last", saved)
    saved.rename(checkpoint._aside(saved))  # where a kill between the two renames leaves it
    (saved.parent / ".step_000000000065.tmp").mkdir()
    assert list_checkpoints(saved.parent) == [saved]
    for path in (saved, tmp_path / "last"):
        assert load_checkpoint(path, some_state())[2]["iteration"] == 3
    save_checkpoint(saved.parent, 65, some_state(), metadata={})
    assert sorted(p.name for p in saved.parent.iterdir()) == ["step_000000000064", "step_000000000065"]


# Checkpoints: listing, pointing, pruning


def test_list_point_prune(tmp_path, monkeypatch):
    folder, last, best = tmp_path / "checkpoints", tmp_path / "last", tmp_path / "best"
    assert list_checkpoints(folder) == [] and prune(folder, 1) == []
    paths = [save_checkpoint(folder, step, {}, metadata={}) for step in (5, 10**13, 300, 20)]
    (folder / "step_000000000007").mkdir()  # not whole
    (folder / "notes").mkdir()
    ordered = [paths[0], paths[3], paths[2], paths[1]]
    assert list_checkpoints(folder) == ordered
    point(last, paths[0])
    point(last, paths[1])
    point(best, paths[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            point(last, paths[0])  # the old link stays until the new one takes its place
    assert not Path(os.readlink(last)).is_absolute() and last.resolve() == paths[1].resolve()
    monkeypatch.chdir(tmp_path)
    assert prune(Path("checkpoints"), 2, {last, Path("best")}) == [Path("checkpoints", paths[3].name)]
    assert list_checkpoints(folder) == [paths[0], paths[2], paths[1]]
    tmp_path.rename(
        moved := tmp_path.with_name(tmp_path.name + "_moved")
    )  # links are relative: runs can move
    assert (moved / "best" / "manifest.json").is_file()
    moved.rename(tmp_path)
    with monkeypatch.context() as patch:  # killed before anything is deleted
        patch.setattr(checkpoint.shutil, "rmtree", lambda *args, **kwargs: None)
        assert prune(folder, 0) == [paths[0], paths[2], paths[1]]
        assert not any(path.exists() for path in paths)
    with pytest.raises(ValueError, match="keep=-1"):
        prune(folder, -1)


# Folders and configuration


def test_names_of_new_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "20250102-030405")
    new = functools.partial(create_run_folder, None, root=tmp_path / "runs", algorithm="ppo", seed=3)
    names = [new(environment="ALE/Pong-v5").path.name for _ in range(3)]
    name = "ALE-Pong-v5__ppo__3__20250102-030405"
    assert names == [name, f"{name}-2", f"{name}-3"]
    odd = new(environment="../my.pkg:Env-v0").path
    assert odd.name == "my.pkg-Env-v0__ppo__3__20250102-030405" and odd.parent == tmp_path / "runs"


def test_a_given_folder_must_be_new(tmp_path):
    new = functools.partial(create_run_folder, root=tmp_path, environment="E", algorithm="ppo", seed=0)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deep/er"):
        assert new(tmp_path / name).path.is_dir()
    (tmp_path / "empty" / "x").touch()
    for path in (tmp_path / "empty", tmp_path / "empty" / "x"):
        with pytest.raises(FileExistsError, match=f"choose another.*advantage resume {path}"):
            new(path)


def test_open_by_any_of_its_parts(run):
    write_config(run, {"seed": 0})
    path = save_checkpoint(run.checkpoints, 5, {}, metadata={})
    point(run.last, path)
    for part in (run.path, run.last, path, run.checkpoints, run.config_path):
        assert open_run_folder(part).path.resolve() == run.path.resolve()
    path.rename(path.with_name("elsewhere"))  # a link that dangles still says whose it is
    assert open_run_folder(run.last).path == run.path


def test_open_says_what_is_there(tmp_path, run):
    write_config(run, {})
    with pytest.raises(FileNotFoundError, match=rf"rum does not exist; run folders nearby: {run.path}"):
        open_run_folder(tmp_path / "rum")
    with pytest.raises(CheckpointError, match=rf"has no config.json; run folders nearby: {run.path}"):
        open_run_folder(tmp_path)
    inside = save_checkpoint(run.checkpoints, 5, {}, metadata={}) / "state.safetensors"
    run.curve_path.touch()
    for part in (inside, run.curve_path):
        with pytest.raises(
            CheckpointError, match=rf"{part} is a part of the run {run.path}; give the run folder"
        ):
            open_run_folder(part)
    loose = save_checkpoint(tmp_path / "loose", 5, {}, metadata={})
    with pytest.raises(CheckpointError, match="a checkpoint outside its run folder"):
        open_run_folder(loose)


def test_config(run, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        read_config(run)
    write_config(run, {"b": 1, "a": {"d": [1.5], "c": None}})
    assert read_config(run, ["a", "b"]) == {"b": 1, "a": {"d": [1.5], "c": None}}
    assert run.config_path.read_text().startswith('{\n  "a": {\n    "c": null')
    with pytest.raises(CheckpointError, match=r"config\.json: seed: found nothing"):
        read_config(run, ["seed", "a"])
    for text in ("[1]", '{"a": ', ""):
        run.config_path.write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json: (top level|not readable)"):
            read_config(run)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_config(run, {"new": 1})
    assert [p.name for p in run.path.iterdir()] == ["config.json"] and run.config_path.read_text() == ""


def test_describe_host(tmp_path, monkeypatch):
    host = describe_host()
    assert json.loads(json.dumps(host)) == host
    assert host["versions"]["jax"] == jax.__version__ and host["backend"] == jax.default_backend()
    monkeypatch.chdir(tmp_path)
    assert describe_host()["commit"] is None
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=m"]
    (tmp_path / "f").write_text("1")
    for command in (["init", "-q"], ["add", "f"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True, timeout=20)
    assert re.fullmatch("[0-9a-f]{40}", describe_host()["commit"])
    (tmp_path / "f").write_text("2")
    assert describe_host()["commit"].endswith("-dirty")
    monkeypatch.setenv("PATH", "")
    assert describe_host()["commit"] is None


# Logs


def events(folder):
    """TensorBoard's files in order: `(step, {tag: value})`, and `(step, "start")` where a run went on."""
    found = []
    for file in sorted(folder.path.glob("events.out.tfevents.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16
            if event.HasField("session_log"):
                found.append((event.step, "start"))
            elif event.HasField("summary"):
                found.append((event.step, {v.tag: v.simple_value for v in event.summary.value}))
    return found


def episodes(steps, start=0):
    steps = np.asarray(steps)
    number = np.arange(start, start + len(steps))
    return {"r": steps / 3, "l": steps, "step": steps, "env": number % 2, "episode": number}


def test_progress(run):
    with Logger(run) as log:
        log.progress(10, {"train/b": 1 / 3, "iteration": 1, "train/a": np.float32(0.1)})
        log.progress(20, {"iteration": 2, "train/a": jnp.float32(0.1), "train/b": float("nan")})
        text = run.progress_path.read_text()  # it is there before anything is closed
    assert text == f"iteration,step,train/a,train/b\n1,10,0.100000001,{1 / 3!r}\n2,20,0.100000001,nan\n"
    progress = read_progress(run)
    assert progress["step"].dtype == np.int64 and progress["step"].tolist() == [10, 20]
    assert progress["train/b"][0] == 1 / 3 and np.isnan(progress["train/b"][1])
    assert np.float32(progress["train/a"][0]) == np.float32(0.1)
    first = (10, {"train/b": pytest.approx(1 / 3), "train/a": pytest.approx(0.1)})
    assert events(run)[0] == first and len(events(run)) == 2


def test_a_new_column_loses_nothing(run):
    with Logger(run, tensorboard=False) as log:
        log.progress(1, {"b": 1.0})
        log.progress(2, {"b": 2.0, "c": 3.0, "a": 4.0})
        log.progress(3, {"c": 5.0})
        with pytest.raises(ValueError, match="'x,y' has a comma"):
            log.progress(4, {"x,y": 1.0})
    assert run.progress_path.read_text() == "step,b,a,c\n1,1.0,,\n2,2.0,4.0,3.0\n3,,,5.0\n"
    np.testing.assert_array_equal(read_progress(run)["c"], [np.nan, 3, 5])
    assert not list(run.path.glob("events*")) and not list(run.path.glob(".*"))


def test_episodes_and_evaluations_come_back_exactly(run):
    rng = np.random.default_rng(0)
    rows = episodes(np.arange(10_000)) | {"r": rng.normal(size=10_000) * 1e3}
    with Logger(run) as log:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            log.episodes(rows)
            times.append(time.perf_counter() - start)
        log.episodes(episodes([]))
        log.evaluation(7, np.array([1.0, 2.5], np.float32), np.array([3, 4]), True, 11)
    assert min(times) < 0.1  # 12 ms on an idle machine
    assert run.episodes_path.read_text().startswith("r,l,step,env,episode\n")
    read = read_episodes(run)
    assert list(read) == list(rows)
    for name, column in rows.items():
        np.testing.assert_array_equal(read[name], np.tile(column, 5))
    head = "step,episode,return,length,deterministic,seed\n"
    assert run.evaluations_path.read_text() == head + "7,0,1,3,1,11\n7,1,2.5,4,1,11\n"
    assert read_evaluations(run)["return"].tolist() == [1.0, 2.5]
    summary = {"eval/mean_reward": 1.75, "eval/std_reward": 0.75, "eval/mean_ep_length": 3.5}
    assert events(run) == [(7, summary)]
    with Logger(run, tensorboard=False) as log, pytest.raises(ValueError, match="shorter"):
        log.episodes(rows | {"l": rows["l"][:5]})


def test_a_progress_row_is_cheap(run):
    row = {f"train/metric_{i}": i / 7 for i in range(20)}
    with Logger(run) as log:
        times = []
        for i in range(100):
            start = time.perf_counter()
            log.progress(i, row)
            times.append(time.perf_counter() - start)
    assert min(times) < 0.005  # 0.4 ms on an idle machine


def test_the_step_of_the_call_counts(run):
    with Logger(run, tensorboard=False) as log:
        log.progress(20, {"step": 5.0, "a": 1})
    assert run.progress_path.read_text() == "step,a\n20,1\n"
    run.progress_path.write_text("a,b\n1,2\n")
    with pytest.raises(CheckpointError, match=r"progress\.csv: header: found 'a,b', expected .*`step`"):
        read_progress(run)


def test_loggers_of_the_same_second_keep_their_files(run):
    for _ in range(3):
        Logger(run).close()
    assert len(list(run.path.glob("events.out.tfevents.*"))) == 3


def test_no_log_yet(run):
    assert read_progress(run) == {} and read_episodes(run)["r"].shape == (0,)
    Logger(run).close()
    assert read_progress(run) == {} and read_evaluations(run)["return"].shape == (0,)


def test_resuming_drops_what_came_later(run):
    def write(log, steps):
        for step in steps:
            log.progress(step, {"iteration": step // 10, "loss": step / 7})
            log.episodes(episodes([step, step + 1]))
            log.evaluation(step, np.ones(2), np.ones(2), False, 0)

    files = [run.progress_path, run.episodes_path, run.evaluations_path]
    with Logger(run) as log:
        write(log, (10, 20, 30))
        straight = [file.read_bytes() for file in files]
        write(log, (40, 50))
    for file in files:
        with open(file, "ab") as stream:
            stream.write(b"2")  # killed while it wrote "20,..."
    assert read_progress(run)["step"].tolist() == [10, 20, 30, 40, 50]  # a reader skips the half row too
    assert len(read_episodes(run)["r"]) == len(read_evaluations(run)["seed"]) == 10
    with Logger(run, resume_step=31) as log:
        assert [file.read_bytes() for file in files] == straight
        write(log, (40,))
    assert read_progress(run)["step"].tolist() == [10, 20, 30, 40]
    assert read_episodes(run)["step"].tolist() == [10, 11, 20, 21, 30, 31, 40, 41]
    start = events(run).index((32, "start"))  # TensorBoard hides what came before with step 32 or more
    assert [step for step, _ in events(run)[start:]] == [32, 40, 40]
    with Logger(run, resume_step=0, tensorboard=False):
        assert all(file.read_text().count("\n") == 1 for file in files)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("r,l,step\n", "header: found 'r,l,step', expected r,l,step,env,episode"),
        ("r,l,step,env,episode\n1,2,3,4,5\n1,2,3\n", "line 3: found 3 cells"),
        ("r,l,step,env,episode\n1,x,3,4,5\n", "line 2: could not convert string to float: 'x'"),
        ("r,l,step,env,episode\n1,2,3.5,4,5\n", "line 2, column step: found 3.5, expected an integer"),
        ("r,l,step,env,episode\n1,2,,4,5\n", "line 2, column step: found nan"),
        ("something else", "header: found 'something else'"),
    ],
)
def test_a_wrong_csv_is_named_and_kept(run, text, field):
    run.episodes_path.write_text(text)
    for use in (read_episodes, lambda folder: Logger(folder, resume_step=1)):
        with pytest.raises(CheckpointError, match=re.escape(f"episodes.csv: {field}")):
            use(run)
    assert run.episodes_path.read_text() == text


# The curve


def size_of(png):
    data = png.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_curve(run, monkeypatch):
    write_config(run, {"algorithm": "ppo", "environment": "E-v0", "seed": 0})
    assert plot_curve(run) == run.curve_path and size_of(run.curve_path) == (1200, 700)  # nothing logged yet
    empty = run.curve_path.read_bytes()
    with Logger(run) as log:
        log.episodes(episodes(np.arange(12_000)))
        log.evaluation(5_000, np.arange(4.0), np.ones(4), True, 0)
    assert plot_curve(run) == run.curve_path and size_of(run.curve_path) == (1200, 700)
    assert run.curve_path.read_bytes() != empty and not list(run.path.glob(".*"))
    run.curve_path.unlink()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plot_curve(run) is None and not run.curve_path.exists()


def test_curve_numbers():
    x = np.random.default_rng(0).normal(size=250)
    expected = [x[max(0, i - 99) : i + 1].mean() for i in range(250)]
    np.testing.assert_allclose(running_mean(x, 100), expected, rtol=1e-9, atol=1e-12)
    assert [short(v) for v in (0, 500, 1500, 2e6, 2.5e9)] == ["0", "500", "1.5k", "2M", "2.5B"]


def test_run_folder_names(run):
    assert isinstance(run, RunFolder) and run.videos == run.path / "videos" and run.best == run.path / "best"
