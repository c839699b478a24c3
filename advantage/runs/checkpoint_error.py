"""What is said about a file of a saved run that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DAMAGED = "the file is damaged or was edited; use another checkpoint of the run"


class CheckpointError(ValueError):
    """A file of a saved run cannot be used. The message names the file, the field, what was found and what to do."""

    @classmethod
    def of(cls, file: Path, field: str, *, found: object, expected: object, remedy: str) -> CheckpointError:
        return cls(f"{file}: {field}: found {found}, expected {expected}; {remedy}.")


def require(file: Path, prefix: str, found: Mapping, expected: Mapping, remedy: str) -> None:
    """Raises CheckpointError if two mappings differ; the message names the first field that differs."""
    for field in sorted(found.keys() | expected.keys()):
        if field not in found or field not in expected or found[field] != expected[field]:
            seen, due = (
                repr(side[field])[:200] if field in side else "nothing" for side in (found, expected)
            )
            raise CheckpointError.of(file, prefix + field, found=seen, expected=due, remedy=remedy)
