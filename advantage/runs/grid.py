"""The policy of a grid world, as text and as a picture, `policy.png`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advantage.figures import write_figure

ARROWS = {
    (0, 0): "·", (-1, 0): "↑", (1, 0): "↓", (0, -1): "←", (0, 1): "→",
    (-1, -1): "↖", (-1, 1): "↗", (1, -1): "↙", (1, 1): "↘",
}  # fmt: skip
GOAL, HOLE = ("goal", "#1a7f37"), ("end", "#57201b")  # a cell's word and colour
WALL, CLIFF = ("", "#57606a"), ("cliff", "#a0522d")


def grid_text(grid: Any, policy: np.ndarray, terminal: np.ndarray, reached: np.ndarray) -> str:
    """One line for each row of the grid: arrows, `#` for walls, `*` where episodes end, a space for unreached cells."""
    cells = [ARROWS.get(grid.moves[action], str(action)) for action in policy]
    cells = np.array(cells, dtype="<U2").reshape(-1)
    cells[~reached] = " "
    cells[list(grid.walls)] = "#"
    cells[terminal] = "*"
    return "\n".join(" ".join(row) for row in cells.reshape(grid.rows, grid.columns))


class Cells(NamedTuple):
    """Facts about the cells of a grid.

    Attributes:
        value: `[S]`, the value of each state.
        policy: int `[S]`, an action for each state.
        terminal: bool `[S]`, where episodes end.
        goals: bool `[S]`, the ends that one wants to reach.
        reached: bool `[S]`, states that episodes can reach.
    """

    value: np.ndarray
    policy: np.ndarray
    terminal: np.ndarray
    goals: np.ndarray
    reached: np.ndarray


def plot_grid(path: Path, title: str, grid: Any, cells: Cells) -> Path | None:
    """Draw the value of each state as colour and number, the policy as arrows, and goals, other ends, walls and cliffs.

    Args:
        path: path of the picture.
        title: title of the picture.
        grid: the rows, columns, moves, walls and cliffs.
        cells: values, actions and kinds of the cells.

    Returns:
        The path; None where matplotlib is not installed (`pip install "advantage[plot]"`).
    """
    try:
        size = max(4.5, grid.columns * _cell_size(grid) + 1), grid.rows * _cell_size(grid) + 1
        write_figure(path, size, lambda figure: _draw(figure, title, grid, cells))
    except ImportError:
        return None
    return path


def _cell_size(grid: Any) -> float:
    """The side of a cell, in units of 100 pixels."""
    return max(0.45, min(1.0, 12 / grid.columns))


def _draw(figure: Any, title: str, grid: Any, cells: Cells) -> None:
    rows, columns, size = grid.rows, grid.columns, _cell_size(grid)
    axes = figure.add_subplot()
    shown = np.array(cells.value, float)
    shown[~cells.reached | cells.terminal] = shown[list(grid.walls + grid.cliffs)] = np.nan
    colours: Any = axes.imshow(shown.reshape(rows, columns), cmap="YlGnBu")
    figure.colorbar(colours, ax=axes, label="value", shrink=0.9)
    low, high = np.nanmin(shown), np.nanmax(shown)
    kinds = _kinds(grid, cells)
    for state in range(rows * columns):
        row, column = divmod(state, columns)
        centred: Any = {"ha": "center", "va": "center"}
        if state in kinds:
            word, colour = kinds[state]
            axes.add_patch(_square(column, row, colour))
            axes.text(column, row, word, fontsize=9 * size + 1, color="white", **centred)
        if np.isnan(shown[state]):
            continue
        dark = shown[state] > low + 0.6 * (high - low)
        ink = "white" if dark and high > low else "#24292f"
        axes.text(column, row + 0.33, f"{shown[state]:.3g}", fontsize=7 * size + 1, color=ink, **centred)
        down, right = grid.moves[cells.policy[state]]
        if down or right:
            length = 0.26 / np.hypot(down, right)
            style: Any = {"arrowstyle": "-|>", "color": ink, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
            ends = np.array([right, down]) * length
            centre = np.array([column, row - 0.12])
            axes.annotate("", centre + ends, centre - ends, arrowprops=style)
        else:
            axes.plot(column, row - 0.12, "o", color=ink, markersize=3)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, loc="left", fontsize=10, color="#24292f", parse_math=False)


def _kinds(grid: Any, cells: Cells) -> dict[int, tuple[str, str]]:
    """A word and a colour for each cell without a value of its own."""
    kinds = {
        int(state): GOAL if cells.goals[state] else HOLE
        for state in np.flatnonzero(cells.terminal & cells.reached)
    }
    return kinds | dict.fromkeys(grid.walls, WALL) | dict.fromkeys(grid.cliffs, CLIFF)


def _square(column: int, row: int, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour)
