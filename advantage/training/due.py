"""When something that happens every so many steps is due."""

from __future__ import annotations

from advantage.training.options import LARGEST


def next_due(step: int, every: int | None) -> int:
    """The next multiple of `every` after `step`."""
    return LARGEST if every is None else (step // every + 1) * every


def crossed(before: int, after: int, every: int | None) -> bool:
    """Whether a multiple of `every` lies after `before`, and not after `after`."""
    return every is not None and after // every > before // every
