"""Where the states of a world lie in the plane."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the states of a world lie in the plane, for pictures: state `row * columns + column`.

    Attributes:
        rows, columns: the size.
        moves: what each action does, `(down, right)`; for arrows.
        walls: states that are none.
    """

    rows: int
    columns: int
    moves: tuple[tuple[int, int], ...]
    walls: tuple[int, ...] = ()
