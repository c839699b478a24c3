"""Mazes for experiments with planning: one that stays the same, and two that change."""

from __future__ import annotations

import numpy as np

from advantage.environments.tables.grid import Grid
from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.moves import MOVES, moved
from advantage.environments.tables.outcomes import Outcome

DYNA = """
    .......#G
    ..#....#.
    S.#....#.
    ..#......
    .....#...
    ........."""
CHANGING = """
    ........G
    .........
    .........
    {}
    .........
    ...S....."""


def maze(picture: str, gamma: float = 0.95) -> MDP:
    """A maze drawn as text, one line per row: `S` is the start, `G` the goal, `#` a wall, `.` the floor.

    Walls and the edge stop a move. Reaching the goal earns 1 and ends the episode; all other rewards are 0. State:
    `row * columns + column`; walls have numbers too but are never entered. Action: up, right, down, left.

    Raises:
        ValueError: rows of different lengths, an unknown sign, or not one start and one goal.
    """
    lines = picture.split()
    cells, rows, columns = "".join(lines), len(lines), len(lines[0]) if lines else 0
    if any(len(line) != columns for line in lines):
        raise ValueError(f"The rows have lengths {[len(line) for line in lines]}; draw them equally long.")
    if set(cells) - set("SG#.") or cells.count("S") != 1 or cells.count("G") != 1:
        raise ValueError(
            f"The maze is drawn with {sorted(set(cells))}, with S {cells.count('S')} times and G "
            f"{cells.count('G')} times; draw it with one S, one G, # for walls and . for the floor."
        )
    goal, walls = cells.index("G"), tuple(i for i, cell in enumerate(cells) if cell == "#")

    def outcomes(state: int, action: int) -> list[Outcome]:
        if state in walls:
            return [(1.0, state, 0.0, False)]
        successor = moved(state, MOVES[action], rows, columns)
        if successor in walls:
            successor = state
        return [(1.0, successor, float(successor == goal), successor == goal)]

    start = np.eye(len(cells))[cells.index("S")]
    grid = Grid(rows, columns, MOVES, walls)
    return MDP.from_function(
        len(cells), 4, outcomes, start=start, gamma=gamma, grid=grid, max_episode_steps=10_000
    )


def dyna_maze() -> MDP:
    """The maze of Dyna-Q, 6 x 9; its shortest path has 14 steps, and gamma is 0.95.

    Source: Sutton & Barto 2018, "Reinforcement learning", example 8.1, figure 8.2.
    """
    return maze(DYNA)


def blocking_maze(blocked: bool = False) -> MDP:
    """A wall with a gap on the right, 10 steps to the goal; if `blocked`, the gap is on the left, 16 steps.

    In the experiment the path is blocked after 1000 steps. A table cannot change with time, so there are two worlds:
    continue in the second one after the steps in the first.

    Source: Sutton & Barto 2018, "Reinforcement learning", example 8.2, figure 8.4.
    """
    return maze(CHANGING.format(".########" if blocked else "########."))


def shortcut_maze(opened: bool = False) -> MDP:
    """A wall with a gap on the left, 16 steps to the goal; if `opened`, there is also one on the right, 10 steps.

    In the experiment the short cut opens after 3000 steps. A table cannot change with time, so there are two worlds:
    continue in the second one after the steps in the first.

    Source: Sutton & Barto 2018, "Reinforcement learning", example 8.3, figure 8.5.
    """
    return maze(CHANGING.format(".#######." if opened else ".########"))
