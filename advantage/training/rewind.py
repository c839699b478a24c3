"""Resuming from a checkpoint that is not the run's last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from advantage.runs.checkpoint import checkpoint_path, point
from advantage.runs.folder import RunFolder, set_aside


def rewind_to(folder: RunFolder, checkpoint: Path, step: int, say: Callable[[str], None]) -> None:
    """Make `checkpoint` the run's last one; later ones are moved to `set_aside`, with a copy of the logs."""
    if checkpoint.resolve() == folder.last.resolve():
        return
    target = checkpoint.resolve()
    if target.parent != folder.checkpoints.resolve():  # in a copy, `best` is a folder of its own
        target = checkpoint_path(folder.checkpoints, step)
        if not target.exists():
            whole = target.with_name(f".{target.name}.tmp")
            folder.checkpoints.mkdir(exist_ok=True)
            shutil.copytree(checkpoint, whole, dirs_exist_ok=True)
            os.rename(whole, target)
    point(folder.last, target)
    moved = set_aside(folder, step)
    if moved is not None:
        say(f"Later checkpoints, and a copy of the logs, were moved to {moved}.")
