"""Minari's HDF5 files, read without making their environment.

main_data.hdf5    episode_0/observations  [T + 1, ...]; a group for Dict (its keys) and Tuple (_index_0, _index_1)
                  episode_0/actions       [T, ...], likewise
                  episode_0/rewards, terminations, truncations   [T]
metadata.json     beside it: observation_space, action_space, env_spec and algorithm_name
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from advantage.datasets.dataset import Dataset, DatasetError
from advantage.environments.defect import needed
from advantage.environments.spaces import map_leaves, nest, space_from_json
from advantage.machine import refuse_large
from advantage.types import Pytree

MAIN_FILE, METADATA = "main_data.hdf5", "metadata.json"
DAMAGED = "the file is damaged or incomplete; download it again"


def read_minari(path: Path) -> Dataset:
    """The episodes of `main_data.hdf5`, whose spaces are in `metadata.json` beside it.

    An episode whose last step has neither flag counts as truncated there. Text is not read, links to other files are
    not followed, and `infos` are left out.

    Raises:
        DatasetError: a file is damaged, has no spaces, or has links, text or compression that is not HDF5's own.
        MissingExtra: h5py is not installed.
    """
    h5py = needed("h5py", f"{path} is an HDF5 file, which", "offline")
    metadata = _metadata(path.with_name(METADATA))
    spaces = [_space(path.with_name(METADATA), metadata, name) for name in ("observation", "action")]
    try:
        with h5py.File(path, "r") as file:
            names = sorted((n for n in file if re.fullmatch(r"episode_\d+", n)), key=lambda n: int(n[8:]))
            if not names:
                raise DatasetError(f"{path}: found no group episode_0; {DAMAGED}.")
            refuse_large(f"The dataset {path}", _size(h5py, path, file, names), "use a smaller one")
            read = (_episode(h5py, path, file, name, spaces) for name in names)
            episodes = [episode for episode in read if episode is not None]
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: not readable as HDF5: {error}; {DAMAGED}.") from error
    if not episodes:
        raise DatasetError(f"{path}: found no step in its {len(names)} episodes; {DAMAGED}.")
    observation, action = (
        map_leaves(
            lambda space, *leaves: np.concatenate(leaves), space, *(episode[n] for episode in episodes)
        )
        for n, space in enumerate(spaces)
    )
    reward, terminated, truncated = (np.concatenate([episode[n] for episode in episodes]) for n in (2, 3, 4))
    return Dataset(
        spaces[0],
        spaces[1],
        observation,
        action,
        reward,
        terminated,
        truncated,
        environment=_environment(metadata),
        policy=_printable(metadata.get("algorithm_name")),
    )


def _episode(h5py: Any, path: Path, file: Any, name: str, spaces: list[gymnasium.Space]) -> tuple | None:
    """Observations, actions, rewards and flags of one episode, in the types of a `Dataset`; None without a step."""

    def read(part: str, rows: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        array = _array(h5py, path, file, f"{name}/{part}")
        if array.shape != (rows, *shape):
            raise DatasetError(
                f"{path}: {name}/{part}: found shape {array.shape}, expected {rows} rows of shape {shape}; {DAMAGED}."
            )
        return _cast(f"{path}: {name}/{part}", array, np.dtype(dtype))

    def tree(part: str, space: gymnasium.Space, rows: int) -> Pytree:
        words = nest(space, lambda place: "/".join((part, *map(_word, place))))
        return map_leaves(lambda leaf, word: read(word, rows, leaf.shape or (), leaf.dtype), space, words)

    steps = _array(h5py, path, file, f"{name}/rewards").size
    reward = read("rewards", steps, (), np.float64)
    observation, action = tree("observations", spaces[0], steps + 1), tree("actions", spaces[1], steps)
    terminated, truncated = (read(flags, steps, (), bool) for flags in ("terminations", "truncations"))
    if not steps:
        return None
    if (terminated | truncated)[:-1].any():
        raise DatasetError(f"{path}: {name}: a step before the last one ends the episode; {DAMAGED}.")
    truncated[-1] |= not terminated[-1]
    return observation, action, reward, terminated, truncated


def _cast(what: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in the type of its space. Raises DatasetError where choices or flags become other ones."""
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(dtype, copy=False)
    wrong = cast != array if dtype.kind in "biu" else np.zeros(0, bool)
    if wrong.any():
        raise DatasetError(f"{what}: found {array[wrong][0]}, which is no value of type {dtype}; {DAMAGED}.")
    return cast


def _word(step: str | int) -> str:
    """The name of a part: the key of a Dict, or the place in a Tuple."""
    return step if isinstance(step, str) else f"_index_{step}"


def _array(h5py: Any, path: Path, file: Any, name: str) -> np.ndarray:
    """An array of numbers that lies in this file. Raises DatasetError for a link, another kind, or text."""
    node, place = file, ""
    for step in name.split("/"):
        place = f"{place}/{step}".lstrip("/")
        if not isinstance(node, h5py.Group) or step not in node:
            raise DatasetError(
                f"{path}: {place}: found nothing; {DAMAGED}, or its {METADATA} is that of another one."
            )
        if not isinstance(node.get(step, getlink=True), h5py.HardLink):
            raise DatasetError(
                f"{path}: {place}: found a link, which may lead to another file; it is not followed."
            )
        node = node[step]
    is_plain = (
        isinstance(node, h5py.Dataset)
        and not node.is_virtual
        and not node.external
        and node.shape is not None
    )
    if not is_plain or node.dtype.kind not in "biuf":
        raise DatasetError(f"{path}: {name}: found {node!r:.100}, expected an array of numbers in this file.")
    return node[()]


def _size(h5py: Any, path: Path, file: Any, names: list[str]) -> int:
    """The bytes of the arrays that are read, as the file declares them; compressed ones are larger than the file."""
    found: list[int] = []

    def add(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape is not None:
            found.append(node.size * node.dtype.itemsize)

    def lies_here(home: Any, name: str) -> bool:  # and is no link to another file
        return isinstance(home, h5py.Group) and isinstance(home.get(name, getlink=True), h5py.HardLink)

    for name in names:
        for part in ("observations", "actions", "rewards"):
            if not lies_here(file, name) or not lies_here(file[name], part):
                continue  # the reader says what is wrong with it
            node: Any = file[name][part]
            if isinstance(node, h5py.Group):
                node.visititems(add)
            else:
                add(part, node)
    return 2 * sum(found)  # the episodes, and all of them in one piece


def _metadata(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist; a Minari dataset has it beside {MAIN_FILE}, with the spaces, and the environment "
            "is not made to ask it for them."
        )
    try:
        metadata = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not readable as JSON: {error}; {DAMAGED}.") from error
    form = metadata.get("data_format", "hdf5") if isinstance(metadata, dict) else metadata
    if form != "hdf5":
        raise DatasetError(
            f"{path}: data_format: found {form!r:.100}, expected hdf5; write the dataset again with data_format='hdf5'."
        )
    return metadata


def _space(path: Path, metadata: dict[str, Any], part: str) -> gymnasium.Space:
    name = f"{part}_space"
    if name not in metadata:
        raise DatasetError(
            f"{path}: {name}: found nothing; a dataset of Minari 0.4 or later has it, and the environment is not made "
            "to ask it. Write the dataset again with a newer Minari."
        )
    try:
        facts = metadata[name]
        return space_from_json(_as_ours(json.loads(facts) if isinstance(facts, str) else facts))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(f"{path}: {name}: {error or type(error).__name__}") from None


def _as_ours(facts: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a space in Minari's form, as `space_from_json` reads it."""
    kind = facts["type"]
    if kind == "Dict":
        return {"type": kind, "spaces": [[name, _as_ours(part)] for name, part in facts["subspaces"].items()]}
    if kind == "Tuple":
        return {"type": kind, "spaces": list(map(_as_ours, facts["subspaces"]))}
    if kind == "Box":
        bounds = {end: np.ravel(np.array(facts[end], float)).tolist() for end in ("low", "high")}
        return facts | {end: [_number(x) for x in bound] for end, bound in bounds.items()}
    shape = {"Discrete": [], "MultiBinary": np.ravel(facts.get("n", 0)).tolist()}.get(kind)
    if kind == "MultiDiscrete":
        sizes = facts["nvec"]
        start = facts.get("start", np.zeros_like(sizes).tolist())
        return facts | {"n": sizes, "start": start, "shape": list(np.shape(sizes))}
    return {"dtype": "int8", "start": 0} | facts | {"shape": shape}


def _number(x: float) -> float | str:
    return x if np.isfinite(x) else str(x)


def _environment(metadata: dict[str, Any]) -> str:
    """The name of the environment that the episodes are from, if the file says it; it is a word for the user."""
    with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
        return _printable(json.loads(metadata["env_spec"]).get("id")) if "env_spec" in metadata else ""
    return ""


def _printable(name: Any) -> str:
    return name if isinstance(name, str) and name.isprintable() else ""
