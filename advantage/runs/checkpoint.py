"""Checkpoints: named tensors and a JSON manifest. They are written under a hidden name, renamed, and verified.

    step_000000002048/
      state.safetensors   `state/...` leaves named by their pytree path, `records/...` arrays of any shape
      manifest.json       format, step, size and SHA-256 of the tensors, every name, shape and dtype, metadata
      pieces/             leaves of a replay buffer that are larger than a piece, if there are any

A folder under its final name is always complete, because it is filled and synced before it is renamed. Reading
parses only tensors and JSON: no pickle, no eval, no import.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from advantage import __version__
from advantage.replay.left_out import is_replay
from advantage.runs.checkpoint_error import DAMAGED, CheckpointError, require
from advantage.runs.pieces import PIECE_BYTES, PIECES, read_pieces, sync, write_pieces
from advantage.types import Pytree

JSON = Any

FORMAT, FORMAT_VERSION = "advantage checkpoint", 2  # a checkpoint without pieces has version 1
TENSORS, MANIFEST = "state.safetensors", "manifest.json"
_FIELDS = {"format": "str", "format_version": "int", "step": "int", "bytes": "int", "sha256": "str"}
_FIELDS |= {"tensors": "dict", "metadata": "dict"}
_DTYPES = {"BOOL": "bool", "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
_DTYPES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_DTYPES |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
_NOTHING: Mapping[str, Any] = MappingProxyType({})
# Names that parts of a state had in the first version of checkpoints.
_OLDER_NAMES = {
    "state/clock/": "state/",
    "state/kl_coef": "state/extra",
    "state/elapsed": "state/extra",
    "state/past_actors/": "state/extra/",
    "state/target/": "state/extra/target/",
    "state/replay/": "state/extra/replay/",
}


def save_checkpoint(
    directory: Path,
    step: int,
    state: Pytree,
    *,
    records: Mapping[str, np.ndarray] = _NOTHING,
    metadata: Mapping[str, JSON],
) -> Path:
    """Write `directory/step_{step:012d}` and return its path.

    If the process is killed or the disk is full, older checkpoints are unchanged and no incomplete checkpoint has
    a final name. A checkpoint of the same step is replaced; the old one can be loaded until the new one is in
    place. Of a large replay buffer only what has changed since the newest checkpoint in `directory` is written.

    Args:
        directory: the folder of all checkpoints of the run; created if absent.
        step: environment steps so far.
        state: pytree of arrays and typed keys; leaves are named by their path, `state/params/actor/0/weight`.
        records: arrays whose shapes are not known in advance, stored as `records/<name>`.
        metadata: JSON values, given back by `load_checkpoint`.

    Raises:
        CheckpointError: a leaf is not an array of a storable dtype, or two leaves have the same name.
        OSError: writing to the disk failed.
    """
    directory = Path(directory)
    final = checkpoint_path(directory, step)
    temporary = final.with_name(f".{final.name}.tmp")
    leaves = _named_leaves(state)[0]
    in_pieces = [name for name, mark in zip(leaves, jax.tree.leaves(is_replay(state)), strict=True) if mark]
    leaves |= {f"records/{name}": np.asarray(array) for name, array in records.items()}
    entries = {name: _entry(name, leaf) for name, leaf in leaves.items()}
    in_pieces = [name for name in in_pieces if _nbytes(entries[name]) > PIECE_BYTES]
    manifest: dict[str, JSON] = {"format": FORMAT, "format_version": 2 if in_pieces else 1, "step": int(step)}
    manifest["tensors"] = entries
    manifest["metadata"] = dict(metadata)
    json.dumps(manifest)  # what is not JSON fails here, before anything is written
    arrays = jax.device_get({name: jax.random.key_data(x) if _is_key(x) else x for name, x in leaves.items()})

    directory.mkdir(parents=True, exist_ok=True)
    _tidy(directory)
    large = {name: arrays.pop(name) for name in in_pieces}
    try:
        temporary.mkdir()
        if large:
            previous = next((path / PIECES for path in reversed(list_checkpoints(directory))), None)
            for name, pieces in write_pieces(temporary / PIECES, large, previous).items():
                entries[name]["pieces"] = pieces
        _write_tensors(temporary / TENSORS, arrays)
        manifest |= _fingerprint(temporary / TENSORS)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        shutil.copymode(temporary / MANIFEST, temporary / TENSORS)  # safetensors writes for the owner only
        for path in (temporary / TENSORS, temporary / MANIFEST, temporary):
            sync(path)
        if final.exists():  # renamed, not deleted: a reader of `final` still finds the old one
            os.rename(final, _aside(final))
        os.rename(temporary, final)
        sync(directory)
    finally:
        _tidy(directory)
    return final


def checkpoint_path(directory: Path, step: int) -> Path:
    """The path of the checkpoint of `step`, which need not exist."""
    return Path(directory) / f"step_{int(step):012d}"


def load_checkpoint(
    path: Path, template: Pytree, *, expect: Mapping[str, JSON] = _NOTHING
) -> tuple[Pytree, dict[str, np.ndarray], dict[str, JSON]]:
    """Read a checkpoint, verify all of it, and only then return `state, records, metadata`.

    Args:
        path: a checkpoint folder, or a link to one such as `last`.
        template: pytree of arrays or `jax.ShapeDtypeStruct`: the structure, shapes and dtypes it must have.
        expect: metadata that must be found, such as the algorithm's name.

    Returns:
        The state with JAX arrays for leaves (NumPy where the template has NumPy, or where JAX without x64
        would narrow the dtype), the records as NumPy arrays, the metadata.

    Raises:
        CheckpointError: anything differs; the message names the file and the field.
    """
    folder = _present(Path(path))
    manifest = read_manifest(folder)
    entries, metadata = manifest["tensors"], manifest["metadata"]
    remedy = "choose another checkpoint, or load it with the settings and the version of advantage in its config.json"
    found = {name: metadata[name] for name in expect if name in metadata}
    require(folder / MANIFEST, "metadata/", found, json.loads(json.dumps(dict(expect))), remedy)
    leaves, treedef = _named_leaves(template)
    expected = {name: _entry(name, leaf) for name, leaf in leaves.items()}
    pieces = {
        name: entry.pop("pieces")
        for name, entry in entries.items()
        if "pieces" in entry and not name.startswith("records/")
    }
    names: dict[str, str] = {_stored_name(name, entries): name for name in leaves}
    stored: dict[str, JSON] = {
        str(names.get(name, name)): entry
        for name, entry in entries.items()
        if not name.startswith("records/")
    }
    if stored.keys() != expected.keys() and (version := _version_of(folder)) not in ("", __version__):
        form = "its state has another form"
        remedy = f"advantage {version} saved it, and {form}; use that version, or train anew"
    require(folder / MANIFEST, "tensors/", _flat(stored), _flat(expected), remedy)

    arrays = _read_tensors(folder / TENSORS, manifest, elsewhere=pieces)
    for name, parts in pieces.items():
        kind = {"shape": entries[name]["shape"], "dtype": jnp.dtype(entries[name]["dtype"])}
        arrays[name] = read_pieces(folder / PIECES, parts, leaf=name, manifest=folder / MANIFEST, **kind)
    restored = [_restore(arrays.pop(name), leaves[new], entries[name]) for name, new in names.items()]
    records = {name.removeprefix("records/"): array for name, array in arrays.items()}
    return treedef.unflatten(restored), records, metadata


def _version_of(folder: Path) -> str:
    """The version of advantage that made the run of a checkpoint; empty if no config.json says so."""
    for run in folder.resolve().parents[:2]:
        with contextlib.suppress(OSError, ValueError, RecursionError, LookupError, TypeError):
            config = json.loads((run / "config.json").read_bytes())
            version = re.fullmatch(r"[\w.+]{1,40}", config["host"]["versions"]["advantage"])
            return version[0] if version else ""
    return ""


def _stored_name(name: str, entries: Mapping[str, JSON]) -> str:
    """The name of a leaf in a checkpoint's manifest, which an older version may have written."""
    older = (old + name.removeprefix(new) for new, old in _OLDER_NAMES.items() if name.startswith(new))
    return next((old for old in older if name not in entries and old in entries), name)


def read_manifest(path: Path) -> dict[str, JSON]:
    """The manifest of a checkpoint folder, its fields and their types verified; the tensors are not read."""
    folder = _present(Path(path))
    file = folder / MANIFEST
    if not file.is_file():
        found = "no such file" if folder.is_dir() else "no such folder"
        remedy = "give a folder `checkpoints/step_...` of a run, or the run's `last` or `best`"
        raise CheckpointError.of(file, "manifest", found=found, expected="a checkpoint", remedy=remedy)
    manifest = read_json(file, DAMAGED)
    head = {field: manifest.get(field) for field in ("format", "format_version")}
    newer = isinstance(head["format_version"], int) and head["format_version"] > FORMAT_VERSION
    remedy = "a newer advantage wrote it; `pip install --upgrade advantage`" if newer else DAMAGED
    version = 1 if head["format_version"] == 1 else FORMAT_VERSION
    require(file, "", head, {"format": FORMAT, "format_version": version}, remedy)
    require(file, "type of ", _types(manifest), _FIELDS, DAMAGED)
    kinds = _types(manifest["tensors"])
    require(file, "type of tensors/", kinds, dict.fromkeys(kinds, "dict"), DAMAGED)
    return manifest


def list_checkpoints(directory: Path) -> list[Path]:
    """The complete checkpoints in `directory`, oldest step first."""
    found = {}
    for entry in Path(directory).glob("*step_*"):
        if match := re.fullmatch(r"(\.)?step_(\d{12,})(?(1)\.old)", entry.name):
            path = entry.with_name(f"step_{match[2]}")
            if all((_present(path) / name).is_file() for name in (TENSORS, MANIFEST)):
                found[int(match[2])] = path
    return [found[step] for step in sorted(found)]


def point(directory_link: Path, target: Path) -> None:
    """Make `directory_link` a relative symlink to `target`; a link that exists is replaced atomically."""
    link = Path(directory_link)
    temporary, copied = (link.with_name(f".{link.name}.{ending}") for ending in ("tmp", "copied"))
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(Path(target).resolve(), link.parent.resolve()))
    if link.is_dir() and not link.is_symlink():  # a copy of the run has a folder where the run has a link
        shutil.rmtree(copied, ignore_errors=True)
        os.rename(link, copied)
    os.replace(temporary, link)
    shutil.rmtree(copied, ignore_errors=True)


def prune(directory: Path, keep: int, protect: Collection[Path] = ()) -> list[Path]:
    """Delete all but the newest `keep` checkpoints and those in `protect` (folders, or links to them)."""
    if keep < 0:
        raise ValueError(f"keep={keep} is negative; use 0 or more")
    directory = Path(directory)
    _tidy(directory)
    protected = {Path(path).resolve() for path in protect}
    checkpoints = list_checkpoints(directory)
    doomed = [p for p in checkpoints[: max(0, len(checkpoints) - keep)] if p.resolve() not in protected]
    for path in doomed:  # renamed first: a kill while deleting leaves no incomplete checkpoint
        os.rename(path, path.with_name(f".{path.name}.tmp"))
    _tidy(directory)
    return doomed


def read_json(file: Path, remedy: str) -> dict[str, JSON]:
    """The JSON object in `file`, or a `CheckpointError` that ends in `remedy`."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not readable as JSON: {error}; {remedy}.") from error
    require(file, "", {"top level": type(content).__name__}, {"top level": "dict"}, remedy)
    return content


def _types(fields: Mapping[str, Any]) -> dict[str, str]:
    return {field: type(value).__name__ for field, value in fields.items()}


def _named_leaves(tree: Pytree) -> tuple[dict[str, Any], Any]:
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {}
    for path, leaf in paths:
        name = "/".join(["state", *(jax.tree_util.keystr((key,), simple=True) for key in path)])
        if name in leaves:
            raise CheckpointError(f"two leaves of the state are named {name}; rename one of them.")
        leaves[name] = leaf
    return leaves, treedef


def named_leaves(state: Pytree) -> dict[str, Any]:
    """The leaves of a state by their names in a checkpoint, `state/params/actor/0/weight`."""
    return _named_leaves(state)[0]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _entry(name: str, leaf: Any) -> dict[str, JSON]:
    """A tensor's entry in the manifest; a typed key is stored as its data, with its implementation's name."""
    if not isinstance(leaf, np.ndarray | np.generic | jax.Array | jax.ShapeDtypeStruct):
        found = type(leaf).__name__
        raise CheckpointError(f"{name}: found a {found}, expected an array; convert it, or use the metadata.")
    if _is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, leaf)
        implementation = jax.random.key_impl(jnp.empty((), leaf.dtype))
        return {"shape": list(data.shape), "dtype": data.dtype.name, "key": str(implementation)}
    if leaf.dtype.name not in _DTYPES.values():
        dtypes = ", ".join(_DTYPES.values())
        raise CheckpointError(f"{name}: found dtype {leaf.dtype}, expected one of {dtypes}; convert it.")
    return {"shape": list(leaf.shape), "dtype": leaf.dtype.name}


def _nbytes(entry: Mapping[str, Any]) -> int:
    return math.prod(entry["shape"]) * jnp.dtype(entry["dtype"]).itemsize


def _flat(entries: Mapping[str, Mapping[str, JSON]]) -> dict[str, JSON]:
    return {f"{name}/{part}": value for name, entry in entries.items() for part, value in entry.items()}


def _restore(array: np.ndarray, leaf: Any, entry: Mapping[str, JSON]) -> Any:
    if "key" in entry:
        return jax.random.wrap_key_data(jnp.array(array), impl=entry["key"])
    narrowed = jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype
    return array if narrowed or isinstance(leaf, np.ndarray | np.generic) else jnp.array(array)


def _write_tensors(file: Path, arrays: Mapping[str, Any]) -> None:
    try:  # safetensors copies raw memory, so the order must be C; ascontiguousarray would make 0-d arrays 1-d
        safetensors.numpy.save_file({name: np.asarray(x, order="C") for name, x in arrays.items()}, file)
    except safetensors.SafetensorError as error:
        raise OSError(f"{file}: cannot be written: {error}") from error


def _read_tensors(
    file: Path, manifest: Mapping[str, JSON], elsewhere: Collection[str]
) -> dict[str, np.ndarray]:
    """The tensors, if their size, checksum, names, shapes and dtypes agree with the manifest.

    Those named in `elsewhere` are in pieces.
    """
    try:
        if not file.is_file():
            raise OSError("no such file")
        found = _fingerprint(file)
        require(file, "", found, {field: manifest[field] for field in found}, DAMAGED)
        with safetensors.safe_open(file, "np") as tensors:
            kinds = {}
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                part = tensors.get_slice(name)
                kinds[name] = {"shape": part.get_shape(), "dtype": _DTYPES.get(part.get_dtype())}
            entries = {name: e for name, e in manifest["tensors"].items() if name not in elsewhere}
            said = {field: v for field, v in _flat(entries).items() if not field.endswith("/key")}
            require(file, "", _flat(kinds), said, f"{MANIFEST} says otherwise: {DAMAGED}")
            return {name: tensors.get_tensor(name) for name in kinds}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{file}: not readable as safetensors: {error}; {DAMAGED}.") from error


def _fingerprint(file: Path) -> dict[str, JSON]:
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"bytes": os.fstat(stream.fileno()).st_size, "sha256": digest}


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _present(path: Path) -> Path:
    """`path`, or the hidden name of its checkpoint if a save was killed between its two renames."""
    aside = _aside(path.resolve())
    return aside if aside.is_dir() and not path.is_dir() else path


def _tidy(directory: Path) -> None:
    """Remove what killed saves left behind, and rename a checkpoint back that was hidden and not replaced."""
    for aside in directory.glob(".step_*.old"):
        final = directory / aside.name.removeprefix(".").removesuffix(".old")
        shutil.rmtree(aside, ignore_errors=True) if final.exists() else os.rename(aside, final)
    for temporary in directory.glob(".step_*.tmp"):
        shutil.rmtree(temporary, ignore_errors=True)


def finished_step(last: Path, total_timesteps: int) -> int | None:
    """The step at which a run finished with this budget, or None. Searches and solvers may finish before it is spent.

    Raises:
        CheckpointError: the manifest of its last checkpoint is missing or damaged.
    """
    metadata: Any = read_manifest(last)["metadata"]
    step = metadata.get("step")
    if type(step) is not int:
        field, found = "metadata/step", repr(step)[:200]
        raise CheckpointError.of(last / MANIFEST, field, found=found, expected="an integer", remedy=DAMAGED)
    return step if step >= total_timesteps or metadata.get("finished") == total_timesteps else None
