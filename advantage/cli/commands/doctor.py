"""`advantage doctor RUN...`: what a run's logs say is wrong with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from advantage.cli.parse import parse
from advantage.diagnosis import RULES, diagnose


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Read the logs of runs and say what is wrong and what to try.

    RUN is a run folder, a folder of run folders, or a pattern. Each finding has its evidence and its source.
    """

    json: bool = False
    """Print one JSON object instead of sentences."""


def command(arguments: Sequence[str]) -> int:
    """Diagnose runs; returns the exit code."""
    runs, flags = parse(arguments, "doctor RUN...", Doctor)
    found = diagnose(runs)
    if flags.json:
        print(
            json.dumps({str(path): [each._asdict() for each in findings] for path, findings in found.items()})
        )
    else:
        for path, findings in found.items():
            if not findings:
                print(f"{path}: none of {len(RULES)} rules applies.")
            for each in findings:
                print(f"{path}: {each.rule}\n  {each.evidence}\n  {each.advice}\n  Source: {each.source}.")
    return 0
