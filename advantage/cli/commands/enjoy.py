"""`advantage enjoy RUN`: watch an agent play, in a window or in a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from advantage.cli.parse import parse
from advantage.cli.play import Play, agent_and_environment
from advantage.evaluation import check_request
from advantage.film import watch


@dataclasses.dataclass(frozen=True)
class Enjoy(Play):
    """Watch an agent play."""

    video: Path | None = None
    """Write a .gif or .mp4 instead of opening a window."""


def command(arguments: Sequence[str]) -> int:
    """Show a run's agent; returns the exit code."""
    (path,), flags = parse(arguments, "enjoy RUN", Enjoy)
    check_request(flags.episodes, flags.seed)
    agent, environment = agent_and_environment(path, flags)
    frames = 0
    for number, (total, length, _) in enumerate(watch(agent, environment, flags.video, **flags.options)):
        print(f"episode {number}: return {total:.2f}, length {length}")
        frames += length
    if flags.video is not None:
        print(f"Wrote {frames} frames to {flags.video}")
    return 0
