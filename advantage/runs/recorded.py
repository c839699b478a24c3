"""What a checkpoint repeats of config.json, so that a change of the file is noticed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from advantage.algorithms.registry import MEANT_BEFORE
from advantage.environments.make import needs_import
from advantage.runs.checkpoint import JSON, CheckpointError
from advantage.runs.folder import RunFolder


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
