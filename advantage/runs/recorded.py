"""What a checkpoint repeats of config.json, so that a change of the file is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from advantage.algorithms.registry import MEANT_BEFORE
from advantage.environments.make import needs_import
from advantage.runs.checkpoint import JSON, CheckpointError, read_manifest
from advantage.runs.folder import RunFolder, checkpoint_at


def config_facts(config: dict[str, Any]) -> dict[str, JSON]:
    """What config.json says about what was learned; a checkpoint repeats it, so that a change is noticed."""
    facts = {"seed": config["seed"], "spaces": checksum(config.get("spaces"))}
    if not needs_import(config["environment"]):  # for a package the user gives the word, or another name
        facts["environment"] = config["environment"]
    facts |= {
        f"training/{name}": config["training"].get(name) for name in ("num_envs", "frame_stack", "seed")
    }
    meant = MEANT_BEFORE | config["hyperparameters"]
    return facts | {f"hyperparameters/{name}": value for name, value in meant.items()}


def as_saved(path: Path, folder: RunFolder, config: dict[str, Any]) -> dict[str, Any]:
    """config.json with the settings that the checkpoint at a path into the run was saved with.

    They differ where a population has changed some of them since; config.json names these in `changing`. Without such
    names, or a checkpoint that can be read, it is config.json as it is.
    """
    names, now = config.get("changing"), config["hyperparameters"]
    if not isinstance(names, list) or not isinstance(now, dict):
        return config
    try:
        written: Any = read_manifest(checkpoint_at(path, folder))["metadata"].get("config")
    except CheckpointError:  # whoever reads the checkpoint itself says what is wrong with it
        return config
    written = written if isinstance(written, dict) else {}
    then = {name: written.get(f"hyperparameters/{name}", now.get(name)) for name in map(str, names)}
    return config | {"hyperparameters": now | {name: value for name, value in then.items() if name in now}}


def checksum(value: Any) -> str:
    """The SHA-256 of a JSON value; of an object, without its own field `sha256`."""
    if isinstance(value, dict):
        value = {name: part for name, part in value.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def refuse_other_config(
    folder: RunFolder, facts: dict[str, JSON], metadata: dict[str, Any], checkpoint: str
) -> None:
    """Raises CheckpointError if `config_facts` are not those of the checkpoint's metadata; names the first."""
    written: Any = metadata.get("config")
    written = written if isinstance(written, dict) else {}  # of an older version
    for name, value in facts.items():
        if name in written and value != written[name]:
            raise CheckpointError.of(
                folder.config_path,
                name,
                found=repr(value)[:200],
                expected=f"{written[name]!r:.200}, which the run had when it saved {checkpoint}",
                remedy="restore the file as the run wrote it, or give the algorithm in Python (algorithm=)",
            )
