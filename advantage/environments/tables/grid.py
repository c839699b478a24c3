"""The positions of a world's states in the plane."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Grid:
    """The positions of a world's states in the plane, for pictures: state `row * columns + column`.

    Attributes:
        rows, columns: the size.
        moves: the move of each action, `(down, right)`; for arrows.
        walls: state numbers that are walls.
        cliffs: state numbers of cells from which one falls: who steps there is put somewhere else.
    """

    rows: int
    columns: int
    moves: tuple[tuple[int, int], ...]
    walls: tuple[int, ...] = ()
    cliffs: tuple[int, ...] = ()
