"""`report.html`, the board's page of one run as it was when it last stopped."""

from __future__ import annotations

import glob
import math
from pathlib import Path
from typing import Any

from advantage.board.board import Board
from advantage.board.detail import detail
from advantage.board.page import page
from advantage.runs.folder import RunFolder, write_atomically


def write_report(folder: RunFolder) -> Path:
    """Write report.html, which needs no server, no network and no other file but the run's pictures; return its path.

    What cannot be read is said in the page.

    Raises:
        LookupError: the folder has no config.json.
    """
    board = Board([glob.escape(str(folder.path))])
    overview: dict[str, Any] = board.answer(seconds=math.inf)
    named = {"name": folder.path.resolve().name}  # a run that is moved does not say where it was
    for run in overview["runs"]:
        run |= named | ({} if run["state"] != "running" else {"state": "stopped", "eta": None})
    shown = {"overview": overview | {"paths": []}, "detail": detail(*board.watched(0)) | named}
    write_atomically(folder.report_path, page(shown))
    return folder.report_path
