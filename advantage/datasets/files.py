"""Files of recorded episodes: tensors, and a header in JSON. Reading them executes nothing.

FILE.safetensors
  observation, observation/KEY, observation/0   one tensor for each part of an observation, `[N + E, ...]`
  action, action/KEY, ...                       `[N, ...]`
  reward, terminated, truncated, log_prob       `[N]`; log_prob may be missing
  metadata "dataset": JSON with format, format_version, spaces, environment, policy
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import safetensors
import safetensors.numpy

from advantage.datasets.dataset import Dataset, DatasetError, arrays_of
from advantage.datasets.minari import MAIN_FILE, read_minari
from advantage.environments.spaces import nest, space_from_json, space_to_json
from advantage.machine import refuse_large
from advantage.plain_values import plain_path
from advantage.types import Pytree

FORMAT, FORMAT_VERSION, HEADER = "advantage dataset", 1, "dataset"
HDF5 = b"\x89HDF\r\n\x1a\n"  # the first bytes of every HDF5 file
REMEDY = "the file is damaged or was not written by advantage record; use a copy, or record it again"


def save_dataset(dataset: Dataset, path: str | Path) -> Path:
    """Write recorded episodes to a new file and return its path.

    Raises:
        FileExistsError: the file exists; nothing is overwritten.
        OSError: writing failed; no part of the file remains.
    """
    path = plain_path("path", path)
    refuse_existing(path)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "spaces": {
            "observation": space_to_json(dataset.observation_space),
            "action": space_to_json(dataset.action_space),
        },
        "environment": dataset.environment,
        "policy": dataset.policy,
    }
    tensors = {name: np.asarray(array, order="C") for name, array in arrays_of(dataset).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        safetensors.numpy.save_file(tensors, temporary, metadata={HEADER: json.dumps(header)})
        os.replace(temporary, path)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def refuse_existing(path: Path) -> None:
    """Raises FileExistsError if there is something at `path`: nothing is overwritten."""
    if path.exists():
        raise FileExistsError(f"{path} exists already; choose another name, or remove the file.")


def load_dataset(path: str | Path) -> Dataset:
    """Read recorded episodes: a file of `advantage record`, or Minari's HDF5 file or the folder it is in.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        DatasetError: the file is damaged, or its arrays do not belong together; the message names it.
        MissingExtra: it is an HDF5 file, and h5py is not installed.
    """
    path = plain_path("path", path)
    if path.is_dir():
        found = next((place for place in (path, path / "data") if (place / MAIN_FILE).is_file()), None)
        if found is None:
            raise DatasetError(
                f"{path} is a folder without {MAIN_FILE}; give the file of advantage record, or the folder of a Minari "
                "dataset."
            )
        return _naming(path, lambda: read_minari(found / MAIN_FILE))
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, or is not a file; write it with: advantage record RUN"
        )
    with open(path, "rb") as file:
        is_hdf5 = file.read(len(HDF5)) == HDF5
    return _naming(path, lambda: read_minari(path) if is_hdf5 else _read(path))


def _naming(path: Path, read: Any) -> Dataset:
    """What `read` returns; an error about the arrays gets the name of the file."""
    try:
        return read()
    except DatasetError as error:
        text = str(error)
        raise DatasetError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _read(path: Path) -> Dataset:
    refuse_large(f"The dataset {path}", path.stat().st_size, "record fewer steps")
    try:
        with safetensors.safe_open(path, "np") as file:
            header = _header(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, TypeError, safetensors.SafetensorError) as error:  # TypeError: a dtype unknown to NumPy
        raise DatasetError(f"{path}: not readable as safetensors: {error}; {REMEDY}.") from error
    try:
        spaces = {name: space_from_json(header["spaces"][name]) for name in ("observation", "action")}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DatasetError(f"{path}: spaces: {error or type(error).__name__}; {REMEDY}.") from error
    parts = {part: _nested(path, space, part, tensors) for part, space in spaces.items()}
    facts = {name: tensors.pop(name, None) for name in ("reward", "terminated", "truncated", "log_prob")}
    missing = [name for name, array in facts.items() if array is None and name != "log_prob"]
    if missing or tensors:
        wrong = f"{missing[0]}: found nothing" if missing else f"{min(tensors)}: found a tensor of no use"
        raise DatasetError(f"{path}: {wrong}; {REMEDY}.")
    names = {name: header.get(name, "") for name in ("environment", "policy")}
    for name, text in names.items():
        if not isinstance(text, str) or not text.isprintable():
            raise DatasetError(f"{path}: {name}: found {text!r:.200}, expected a name; {REMEDY}.")
    return Dataset(spaces["observation"], spaces["action"], **parts, **facts, **names)


def _header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(metadata.get(HEADER, "null"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: its header is not JSON: {error}; {REMEDY}.") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DatasetError(f"{path} holds tensors, but no recorded episodes; {REMEDY}.")
    if header.get("format_version") != FORMAT_VERSION:
        raise DatasetError(
            f"{path}: format_version: found {header.get('format_version')!r}, expected {FORMAT_VERSION}; a newer "
            "advantage wrote it: pip install --upgrade advantage"
        )
    return header


def _nested(path: Path, space: gymnasium.Space, part: str, tensors: dict[str, np.ndarray]) -> Pytree:
    """The tensors of an observation or an action, taken out of `tensors`, in the structure of its space."""

    def leaf(place: tuple) -> np.ndarray:
        name = "/".join((part, *map(str, place)))
        if name not in tensors:
            raise DatasetError(f"{path}: {name}: found nothing; {REMEDY}.")
        return tensors.pop(name)

    return nest(space, leaf)
