"""`advantage board [RUN...]`: a page on this machine that watches runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from advantage.board.board import Board
from advantage.board.server import LOOPBACK, PORT, Server
from advantage.cli.parse import parse
from advantage.comparison.run_data import find_runs

USUAL = "runs"


@dataclasses.dataclass(frozen=True)
class Flags:
    """Watch runs in a browser: curves, speed, evaluations, films, findings, as they come.

    RUN is a run folder, a folder of run folders, or a pattern; by default the folder runs. New runs in them appear by
    themselves. The page is served to this machine only, and nothing is loaded from a network. Ctrl-C ends it.
    """

    port: int = PORT
    """Port to listen on; if it is in use, the next free one is taken. 0 means any free one."""
    host: str = LOOPBACK[0]
    """Address to listen on. Any other than this machine's own lets everybody who can reach it see the runs."""


def command(arguments: Sequence[str]) -> int:
    """Serve the board until it is interrupted; returns the exit code."""
    runs, flags = parse(arguments, "board [RUN...]", Flags)
    if not 0 <= flags.port < 2**16:
        raise ValueError(f"--port {flags.port} is not allowed; use a number from 0 to 65535.")
    _refuse_no_runs(runs)
    board = Board(runs or [USUAL])
    with Server(board, flags.host, flags.port) as server:
        if flags.port not in (0, server.port):
            print(f"Port {flags.port} is in use by another program; the board takes port {server.port}.")
        name = f"[{flags.host}]" if ":" in flags.host else flags.host
        print(
            f"The board is at http://{name}:{server.port}/ and watches {', '.join(runs or [USUAL])}. Ctrl-C ends it."
        )
        if flags.host not in LOOPBACK:
            print("Everybody who can reach this address can see these runs; there is no password.")
        server.serve_forever()
    return 0


def _refuse_no_runs(given: Sequence[str]) -> None:
    """Raises ValueError if a path that was given leads to no run. An empty folder is one to wait for runs in."""
    for path in given:
        found, lost = find_runs([path])
        empty = Path(path).is_dir() and not any(Path(path).iterdir())
        if empty or any((folder / "config.json").is_file() for folder in found):
            continue
        reason = lost[0].reason if lost else "holds no run: no folder in it has a config.json"
        raise ValueError(
            f"{path} {reason}. Give a run folder, a folder of run folders, or a pattern; without one the board "
            f"watches the folder {USUAL} and waits for runs."
        )
