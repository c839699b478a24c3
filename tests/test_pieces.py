"""Checkpoints of large replay buffers write what has changed, and are as whole, exact and safe as others."""

import errno
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advantage as adv
from advantage.replay.frames import Frames
from advantage.replay.prioritised import Priorities, priorities_add, priorities_init, priorities_update
from advantage.replay.ring import replay_add, replay_init
from advantage.runs import checkpoint, pieces
from advantage.runs.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    prune,
    read_manifest,
    save_checkpoint,
)
from advantage.types import Rollout

SMALL = 256  # bytes of a piece
FIRST = "f" * 64


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    for module in (checkpoint, pieces):
        monkeypatch.setattr(module, "PIECE_BYTES", SMALL)


def bits(tree: Any) -> list:
    def data(leaf: Any) -> np.ndarray:
        return np.asarray(
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        )

    return [(str(x.dtype), np.shape(x), data(x).tobytes()) for x in jax.tree.leaves(tree)]


def rollout(rng, obs, steps, num_envs):
    def draw(like):
        return rng.integers(0, 256, (steps, num_envs, *like.shape)).astype(like.dtype)

    now, after = jax.tree.map(draw, obs), jax.tree.map(draw, obs)
    action = rng.normal(size=(steps, num_envs, 2)).astype(np.float32)
    reward = rng.normal(size=(steps, num_envs)).astype(np.float32)
    ends = rng.random((2, steps, num_envs)) < 0.1
    return Rollout(now, action, reward, after, *ends, extras={"log_prob": reward.astype(jnp.bfloat16)})


VECTOR = jax.ShapeDtypeStruct((5,), np.float32)
STACKED = {"frame": jax.ShapeDtypeStruct((3, 4, 4), np.uint8), "speed": jax.ShapeDtypeStruct((), np.float32)}
SHAPES = {
    "one environment": (VECTOR, 1, Frames()),
    "three environments": (VECTOR, 3, Frames()),
    "stacks of frames": (STACKED, 2, Frames((3, 1))),
}


def growing_states(shape: str, *, capacity: int = 200, steps: int = 30) -> Iterator[dict[str, Any]]:
    """States whose ring, of a capacity that the steps do not divide, is filled further and wraps."""
    obs, num_envs, frames = SHAPES[shape]
    rng = np.random.default_rng(0)
    kept = {"log_prob": jax.ShapeDtypeStruct((), jnp.bfloat16)}
    action = jax.ShapeDtypeStruct((2,), np.float32)
    replay = replay_init(obs, action, capacity=capacity, num_envs=num_envs, extras=kept, frames=frames)
    priorities = priorities_init(replay)

    @jax.jit
    def follow(replay, priorities, rows, drawn, error):
        after = replay_add(replay, rows)
        priorities = priorities_add(priorities, replay, after, steps=steps)
        return after, priorities_update(priorities, drawn, error, alpha=0.6)

    while True:
        weights = {
            "w": jnp.asarray(rng.normal(size=400), jnp.float32)
        }  # larger than a piece, and not replayed
        yield {"params": weights, "replay": replay, "priorities": priorities, "key": jax.random.key(3)}
        drawn = rng.integers(0, steps * num_envs, 8)
        error = rng.normal(size=8).astype(np.float32)
        replay, priorities = follow(replay, priorities, rollout(rng, obs, steps, num_envs), drawn, error)


@functools.cache
def all_states(shape: str) -> list[dict[str, Any]]:
    return list(itertools.islice(growing_states(shape), 16))


def some(number: int, shape: str = "one environment") -> list[dict[str, Any]]:
    """The first states of them."""
    return all_states(shape)[:number]


def names_of(path):
    entries = read_manifest(path)["tensors"]
    return {name: entry["pieces"] for name, entry in entries.items() if "pieces" in entry}


# What is written comes back, and only what has changed is written


@pytest.mark.parametrize("shape", SHAPES)
def test_every_checkpoint_is_its_state_bit_for_bit_before_and_after_the_ring_wraps(shape, tmp_path):
    states = some(16, shape)
    assert int(states[-1]["replay"].head) > 2 * states[-1]["replay"].num_rows
    for step, state in enumerate(states):
        save_checkpoint(tmp_path, step, state, records={"big": np.arange(300)}, metadata={"step": step})
    for step, path in enumerate(list_checkpoints(tmp_path)):
        loaded, records, metadata = load_checkpoint(path, states[0])
        assert bits(loaded) == bits(states[step]) and metadata == {"step": step}
        np.testing.assert_array_equal(records["big"], np.arange(300))


def test_only_a_replay_buffer_is_in_pieces_and_only_its_large_leaves(tmp_path):
    state = some(3)[-1]
    path = save_checkpoint(tmp_path, 0, state, metadata={})
    large = {
        name
        for name, leaf in checkpoint.named_leaves(state).items()
        if name.startswith(("state/replay", "state/priorities")) and leaf.nbytes > SMALL
    }
    assert names_of(path).keys() == large and {"state/replay/obs", "state/priorities/tree"} <= large
    assert "state/replay/terminated" not in large and read_manifest(path)["format_version"] == 2
    files = {file.name for file in (path / "pieces").iterdir()}
    assert files == {name for names in names_of(path).values() for name in names}


def test_a_small_buffer_is_stored_as_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 2**20)
    path = save_checkpoint(tmp_path, 0, some(3)[-1], metadata={})
    assert {file.name for file in path.iterdir()} == {"manifest.json", "state.safetensors"}
    assert read_manifest(path)["format_version"] == 1 and not names_of(path)


def test_a_piece_that_has_not_changed_is_not_written_again(tmp_path):
    known: set[str] = set()
    for step, state in enumerate(some(12)):
        path = save_checkpoint(tmp_path, step, state, metadata={})
        new = {file.name for file in (path / "pieces").iterdir() if file.stat().st_nlink == 1}
        contents = cuts(state["replay"]) | cuts(state["priorities"])
        assert new == contents - known
        known = contents


def cuts(part):
    """The checksums of the pieces of all large leaves, by the definition."""
    contents = set()
    for leaf in jax.tree.leaves(part):
        data = np.asarray(leaf).tobytes()
        if len(data) > SMALL:
            contents |= {data[at : at + SMALL] for at in range(0, len(data), SMALL)}
    return {hashlib.sha256(content).hexdigest() for content in contents}


def test_a_checkpoint_of_the_former_form_is_loaded_and_followed(tmp_path, monkeypatch):
    before, after = some(2)
    with monkeypatch.context() as former:
        former.setattr(checkpoint, "PIECE_BYTES", 2**40)
        save_checkpoint(tmp_path, 0, before, metadata={})
    save_checkpoint(tmp_path, 1, after, metadata={})
    for path, state in zip(list_checkpoints(tmp_path), (before, after), strict=True):
        assert bits(load_checkpoint(path, state)[0]) == bits(state)


def test_without_hard_links_each_checkpoint_has_its_own_files(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    states = some(4)
    for step, state in enumerate(states):
        path = save_checkpoint(tmp_path, step, state, metadata={})
        assert all(file.stat().st_nlink == 1 for file in (path / "pieces").iterdir())
    for path, state in zip(list_checkpoints(tmp_path), states, strict=True):
        assert bits(load_checkpoint(path, state)[0]) == bits(state)


@pytest.mark.parametrize("damage", ["short", "a link", "a folder", "a linked folder"])
def test_what_is_no_whole_file_is_not_linked_to(damage, tmp_path):
    state = some(3)[-1]
    first = save_checkpoint(tmp_path / "checkpoints", 0, state, metadata={})
    file = first / "pieces" / names_of(first)["state/replay/obs"][0]
    outside = tmp_path / "outside"
    if damage == "short":
        os.truncate(file, 10)
    elif damage == "a linked folder":
        (first / "pieces").rename(outside)
        (first / "pieces").symlink_to(outside)
    else:
        file.rename(outside)
        file.symlink_to(outside) if damage == "a link" else file.mkdir()
    second = save_checkpoint(tmp_path / "checkpoints", 1, state, metadata={})
    again = second / "pieces" / file.name
    assert again.stat().st_nlink == 1 and not again.is_symlink()
    assert bits(load_checkpoint(second, state)[0]) == bits(state)


# Kills, full disks and pruning


class Killed(BaseException):
    """Nothing runs after it."""


CALLS = [(os, "link"), (os, "rename"), (os, "fsync"), (os, "open"), (checkpoint, "_write_tensors")]
CALLS += [(Path, "mkdir"), (Path, "write_text"), (pieces, "_write")]


@pytest.mark.parametrize("same_step", [False, True])
@pytest.mark.parametrize("dies", [False, True])
def test_whatever_call_is_the_last_one_every_checkpoint_is_whole(same_step, dies, tmp_path, monkeypatch):
    """The n-th call that touches the disk fails, and nothing runs after it or what tidies up does; for each n."""
    content = np.random.default_rng(0).random((5 * SMALL // 8, 2), np.float32)
    change = (np.arange(len(content)) > 99)[:, None].astype(np.float32)
    old, new = ({"p": Priorities(jnp.asarray(x)), "w": content} for x in (content, content + change))
    step = 0 if same_step else 1
    moment, ended = 0, False
    while not ended:
        folder = tmp_path / str(moment)
        first = save_checkpoint(folder, 0, old, metadata={"state": "old"})
        kept, ended = bits(old), run_until(moment, dies, monkeypatch, folder, step, new)
        for path in list_checkpoints(folder):
            loaded, _, metadata = load_checkpoint(path, old)
            assert bits(loaded) == (kept if metadata["state"] == "old" else bits(new))
        assert same_step or first in list_checkpoints(folder)
        third = save_checkpoint(folder, 2, new, metadata={"state": "new"})
        assert bits(load_checkpoint(third, old)[0]) == bits(new)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        shutil.rmtree(folder)
        moment += 1
    assert moment > 15


def run_until(moment, dies, monkeypatch, folder, step, state):
    """Save, but for the calls after the first `moment` ones; returns whether it got to its end."""
    calls = 0

    def failing(function):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > moment:
                if not dies and str(args[0]).endswith(".old"):
                    return function(*args, **kwargs)  # putting a checkpoint back takes no space
                raise Killed if dies else OSError(errno.ENOSPC, "No space left on device")
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(pieces, "available_cores", lambda: 1)
        for owner, name in CALLS:
            patch.setattr(owner, name, failing(getattr(owner, name)))
        tidy = checkpoint._tidy
        patch.setattr(checkpoint, "_tidy", lambda path: None if dies and calls > moment else tidy(path))
        try:
            save_checkpoint(folder, step, state, metadata={"state": "new"})
        except (Killed, OSError):
            return False
        return True


def test_new_pieces_and_their_names_are_on_the_disk_before_the_checkpoint_has_its_name(tmp_path, monkeypatch):
    first = save_checkpoint(tmp_path, 0, some(4)[-1], metadata={})
    done, fsync, rename = [], os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda number: (done.append(os.fstat(number).st_ino), fsync(number)))
    monkeypatch.setattr(os, "rename", lambda *names: (done.append("renamed"), rename(*names)))
    second = save_checkpoint(tmp_path, 1, some(5)[-1], metadata={})
    synced = set(done[: done.index("renamed")])
    old, new = ({file.stat().st_ino for file in (path / "pieces").iterdir()} for path in (first, second))
    assert {*(new - old), (second / "pieces").stat().st_ino} <= synced and not synced & old


def test_pruning_takes_the_pieces_that_no_checkpoint_has(tmp_path):
    states = some(10)
    for step, state in enumerate(states):
        save_checkpoint(tmp_path, step, state, metadata={})
        prune(tmp_path, 2, [tmp_path / "step_000000000003"])
    kept = list_checkpoints(tmp_path)
    assert [read_manifest(path)["step"] for path in kept] == [3, 8, 9]
    for path in kept:
        state = states[read_manifest(path)["step"]]
        assert bits(load_checkpoint(path, state)[0]) == bits(state)
    files = {}
    for path in tmp_path.rglob("pieces/*"):
        files.setdefault(path.stat().st_ino, []).append(path)
    assert all(paths[0].stat().st_nlink == len(paths) for paths in files.values())  # nothing else has them
    prune(tmp_path, 1)
    assert bits(load_checkpoint(kept[-1], states[9])[0]) == bits(states[9])


def test_a_kill_while_a_checkpoint_is_deleted_damages_no_other(tmp_path, monkeypatch):
    states = some(3)
    for step, state in enumerate(states):
        save_checkpoint(tmp_path, step, state, metadata={})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", half_removed)
        with pytest.raises(Killed):
            prune(tmp_path, 1)
    (last,) = list_checkpoints(tmp_path)
    assert bits(load_checkpoint(last, states[2])[0]) == bits(states[2])
    prune(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000000002"]


def half_removed(folder, **_):
    for file in sorted((folder / "pieces").iterdir())[::2]:
        file.unlink()
    raise Killed


# Damage is named


@pytest.fixture
def saved(tmp_path):
    return save_checkpoint(tmp_path / "checkpoints", 7, some(9)[-1], metadata={})


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)


def unreadable(file):
    file.unlink()
    file.mkdir()


DAMAGE = {
    "missing": (Path.unlink, "file of a part of state/replay/obs: found none, expected one; copy the checkpoint with"),
    "a folder": (unreadable, "file of a part of state/replay/obs: found none"),
    "short": (lambda file: os.truncate(file, 17), "bytes of a part of state/replay/obs: found 17, expected 256"),
    "long": (lambda file: os.truncate(file, 999), "bytes of a part of state/replay/obs: found 999, expected 256"),
    "flipped": (flip, "sha256 of a part of state/replay/obs: found '"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_piece_is_named(name, saved):
    damage, message = DAMAGE[name]
    file = saved / "pieces" / names_of(saved)["state/replay/obs"][2]
    damage(file)
    with pytest.raises(CheckpointError, match=re.escape(f"{file}: {message}")) as caught:
        load_checkpoint(saved, some(1)[0])
    assert "\n" not in str(caught.value) and "use another" in str(caught.value)


def test_a_checkpoint_without_its_pieces_is_refused_in_a_sentence(saved, tmp_path):
    alone = shutil.copytree(saved, tmp_path / "alone", ignore=shutil.ignore_patterns("pieces"))
    with pytest.raises(CheckpointError, match="copy the checkpoint with its folder `pieces`"):
        load_checkpoint(alone, some(1)[0])
    whole = shutil.copytree(saved, tmp_path / "whole")
    assert bits(load_checkpoint(whole, some(1)[0])[0]) == bits(some(9)[-1])


@pytest.mark.parametrize(
    "change",
    [
        lambda names: ["../../state.safetensors", *names[1:]],
        lambda names: ["/etc/passwd", *names[1:]],
        lambda names: [f"../pieces/{names[0]}", *names[1:]],
        lambda names: [names[0].upper(), *names[1:]],
        lambda names: [f"{names[0]}\n", *names[1:]],
        lambda names: [3, *names[1:]],
        lambda names: names[1:],
        lambda names: [*names, FIRST],
        lambda names: "".join(names),
        lambda names: dict.fromkeys(names),
        lambda names: None,
    ],
)
def test_a_manifest_whose_pieces_are_no_checksums_is_refused(change, saved):
    edit(
        saved,
        lambda tensors: tensors["state/replay/obs"].update(
            pieces=change(names_of(saved)["state/replay/obs"])
        ),
    )
    message = r"manifest\.json: tensors/state/replay/obs/pieces: found .* expected \d+ checksums"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved, some(1)[0])


def edit(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest["tensors"])
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_pieces_in_another_order_or_of_another_leaf_are_refused_or_are_those_named(saved):
    """The manifest says which; a record, whose shape nothing else knows, has none."""
    edit(
        saved,
        lambda tensors: tensors.update(
            {"records/x": {"shape": [10**9], "dtype": "uint8", "pieces": [FIRST]}}
        ),
    )
    with pytest.raises(CheckpointError, match=r"state\.safetensors: records/x/dtype: found nothing"):
        load_checkpoint(saved, some(1)[0])


def test_a_ring_of_another_shape_is_refused(saved):
    with pytest.raises(
        CheckpointError, match=r"replay/action/shape: found \[200, 1, 2\], expected \[201, 1, 2\]"
    ):
        load_checkpoint(saved, next(growing_states("one environment", capacity=201)))
    edit(saved, lambda tensors: tensors["state/replay/obs"].pop("pieces"))
    with pytest.raises(CheckpointError, match=r"state\.safetensors: state/replay/obs/dtype: found nothing"):
        load_checkpoint(saved, some(1)[0])


# Runs


def train(path: Path, **options: Any) -> Any:
    """A run whose ring wraps between its third and its fourth checkpoint of replayed steps."""
    learner = adv.DQN(
        n_steps=4, batch_size=8, hidden=(8,), prioritised=True, buffer_size=130, learning_starts=32
    )
    settings: dict[str, Any] = {"num_envs": 2, "total_timesteps": 240, "checkpoint_every": 40}
    settings |= {"keep_checkpoints": 10, "eval_episodes": 2} | options
    return adv.train(learner, "jax/CartPole-v1", out=path, seed=0, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for module in (checkpoint, pieces):
            patch.setattr(module, "PIECE_BYTES", SMALL)
        return train(tmp_path_factory.mktemp("whole") / "run").path


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))


def outcome(run: Path) -> tuple:
    manifest = json.loads((run / "last" / "manifest.json").read_text())
    return manifest, (run / "last" / "state.safetensors").read_bytes(), bits(adv.load(run).state)


@pytest.mark.parametrize("number", [1, 4])
def test_a_run_that_goes_back_goes_on_bit_for_bit_and_what_came_later_stays_whole(number, run, whole):
    older = list_checkpoints(run / "checkpoints")[number]
    assert names_of(older) and adv.resume(older).finished
    assert outcome(run) == outcome(whole)
    aside = sorted((run / "set_aside" / "1").glob("step_*"))
    assert len(aside) == 6 - number
    for path in aside:
        template = adv.load(run).state
        one, other = (load_checkpoint(x, template)[0] for x in (path, whole / "checkpoints" / path.name))
        assert bits(one) == bits(other)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(whole, tmp_path):
    path = train(tmp_path / "run", callback=lambda progress: progress.step < 150).path
    assert 0 < adv.load(path).step < 240 and adv.resume(path).finished
    assert outcome(path) == outcome(whole)


def test_only_the_newest_and_the_best_are_kept(tmp_path, whole):
    path = train(tmp_path / "run", keep_checkpoints=1, eval_every=40).path
    kept = list_checkpoints(path / "checkpoints")
    assert {x.resolve() for x in kept} == {(path / "last").resolve(), (path / "best").resolve()}
    assert bits(adv.load(path).state) == bits(adv.load(whole).state) and adv.load(path / "best").state


@pytest.mark.parametrize("without", [(), ("checkpoints",)])
def test_a_copy_in_which_links_are_folders_goes_on(without, whole, tmp_path):
    copy = Path(shutil.copytree(whole, tmp_path / "copy", ignore=shutil.ignore_patterns(*without)))
    assert not (copy / "last").is_symlink() and bits(adv.load(copy).state) == bits(adv.load(whole).state)
    assert adv.resume(copy, total_timesteps=320).finished
    reference = Path(shutil.copytree(whole, tmp_path / "reference", symlinks=True))
    adv.resume(reference, total_timesteps=320)
    assert bits(adv.load(copy).state) == bits(adv.load(reference).state)


def test_a_damaged_piece_names_the_newest_checkpoint_that_can_be_used(run):
    earlier, last = list_checkpoints(run / "checkpoints")[-2:]
    own = set(names_of(last)["state/priorities/tree"]) - set(names_of(earlier)["state/priorities/tree"])
    (last / "pieces" / min(own)).unlink()
    message = f"{min(own)}: .*The newest checkpoint that can be used is {earlier.name}; to continue from it: "
    for use in (adv.load, adv.resume):
        with pytest.raises(CheckpointError, match=message):
            use(run)
    assert adv.resume(earlier).finished


def test_a_number_that_is_not_finite_is_named(run):
    last = (run / "last").resolve()
    name = names_of(last)["state/replay/obs"][0]
    content = np.full(SMALL // 4, np.nan, np.float32).tobytes()
    wrong = hashlib.sha256(content).hexdigest()
    (last / "pieces" / wrong).write_bytes(content)
    names = [wrong if each == name else each for each in names_of(last)["state/replay/obs"]]
    edit(last, lambda tensors: tensors["state/replay/obs"].update(pieces=names))
    with pytest.raises(CheckpointError, match="state/replay/obs: found a number that is not finite"):
        adv.load(run)


@pytest.mark.slow
def test_seeds_side_by_side_have_the_steps_of_each_alone(whole, tmp_path):
    first, second = (names_of(run.path / "last") for run in train(tmp_path / "seeds", num_seeds=2))
    name = "state/replay/obs"
    assert first[name] == names_of(whole / "last")[name] and not set(first[name]) & set(second[name])
