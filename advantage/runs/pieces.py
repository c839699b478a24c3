"""Large arrays of a checkpoint as pieces: files of one size that checkpoints share.

    step_000000002048/pieces/<SHA-256 of the content>

The bytes of an array are cut every `PIECE_BYTES`. Between two checkpoints most pieces of a replay buffer stay as they
are, and such a piece is a hard link to the file of the checkpoint before: written once, and deleted with the last
checkpoint that has it. No file is ever written to again. Where a file system has no hard links, a piece is written
for each checkpoint.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from advantage.machine import available_cores
from advantage.runs.checkpoint_error import DAMAGED, CheckpointError, require

PIECES = "pieces"
PIECE_BYTES = 2**20


def write_pieces(
    folder: Path, arrays: Mapping[str, np.ndarray], previous: Path | None
) -> dict[str, list[str]]:
    """Fill the new folder `folder` with the pieces of arrays, synced; returns the names of each array's, in order.

    Args:
        folder: must not exist yet.
        arrays: of more than 0 bytes.
        previous: the folder of the checkpoint before, whose pieces may be linked to; need not exist.

    Raises:
        OSError: writing to the disk failed.
    """
    folder.mkdir()
    contents: dict[str, memoryview] = {}
    names: dict[str, list[str]] = {}
    with ThreadPoolExecutor(available_cores()) as pool:  # hashing and syncing release the interpreter's lock
        for name, array in arrays.items():
            flat = np.asarray(array, order="C").reshape(-1).view(np.uint8).data
            pieces = [flat[begin : begin + PIECE_BYTES] for begin in range(0, len(flat), PIECE_BYTES)]
            names[name] = list(pool.map(_name_of, pieces))
            contents |= zip(names[name], pieces, strict=True)
        new = {name: piece for name, piece in contents.items() if not _link(folder, name, piece, previous)}
        list(pool.map(lambda item: _write(folder / item[0], item[1]), new.items()))
    sync(folder)
    return names


def read_pieces(
    folder: Path, names: Any, *, leaf: str, manifest: Path, shape: Sequence[int], dtype: np.dtype
) -> np.ndarray:
    """The array that `write_pieces` wrote, each piece checked by its checksum.

    Args:
        folder: of the pieces.
        names: as the manifest has them; anything.
        leaf, manifest: what the array is called, and where its names are from, for messages.
        shape, dtype: of the array; checked already.

    Raises:
        CheckpointError: `names` is not a list of checksums, or a piece is missing, damaged, or of another length.
    """
    whole = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    count = -(-len(whole) // PIECE_BYTES)
    if not isinstance(names, list) or len(names) != count or not all(map(_is_name, names)):
        field, found, expected = f"tensors/{leaf}/pieces", repr(names)[:200], f"{count} checksums"
        raise CheckpointError.of(manifest, field, found=found, expected=expected, remedy=DAMAGED)

    def read(place: int) -> None:
        begin = place * PIECE_BYTES
        _read(folder / names[place], leaf, whole[begin : begin + PIECE_BYTES].data)

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(read, range(count)))  # the first error is raised
    return whole.view(dtype).reshape(shape)


def sync(path: Path) -> None:
    """Return when the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name_of(piece: memoryview) -> str:
    return hashlib.sha256(piece).hexdigest()


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch("[0-9a-f]{64}", name) is not None


def _link(folder: Path, name: str, piece: memoryview, previous: Path | None) -> bool:
    """Link to a whole file of the previous checkpoint; returns whether that was possible."""
    if previous is None or previous.is_symlink():
        return False
    try:
        file = os.lstat(previous / name)
        if not stat.S_ISREG(file.st_mode) or file.st_size != len(piece):
            return False
        os.link(previous / name, folder / name)
    except OSError:  # not there; or no hard links here, or too many
        return False
    return True


def _write(file: Path, piece: memoryview) -> None:
    with open(file, "xb") as stream:  # never into a file that another checkpoint has
        stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())


def _read(file: Path, leaf: str, piece: memoryview) -> None:
    """Fill `piece` from its file, or raise CheckpointError."""
    of = f"of a part of {leaf}"
    try:
        if not file.is_file():
            remedy = f"copy the checkpoint with its folder `{PIECES}`, or use another one of the run"
            raise CheckpointError.of(file, f"file {of}", found="none", expected="one", remedy=remedy)
        with open(file, "rb") as stream:
            found = {f"bytes {of}": os.fstat(stream.fileno()).st_size}
            require(file, "", found, {f"bytes {of}": len(piece)}, DAMAGED)
            stream.readinto(piece)
    except OSError as error:
        raise CheckpointError(f"{file}: a part of {leaf} is not readable: {error}; {DAMAGED}.") from error
    require(file, "", {f"sha256 {of}": _name_of(piece)}, {f"sha256 {of}": file.name}, DAMAGED)
