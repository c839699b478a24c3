"""Draw the tree that UCT grows from a position of tic-tac-toe.

python docs/search_tree.py                                          # docs/figures/search_tree.png
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from advantage.environments.worlds.line_game import LineGame
from advantage.models.true_world import TrueModel
from advantage.planners.action_sequences import planned_actions
from advantage.planners.imagination import PlanningProblem
from advantage.planners.tree_search import NONE, Tree, most_visited, tree_search
from advantage.types import Spec

HERE = Path(__file__).parent
INK, GREY, BLUE = "#24292f", "#8c959f", "#1f6feb"
POSITION = np.array([[1, -1, 1], [-1, -1, 0], [0, 1, 0]], np.int8)  # 1 is to move, and must stop -1
SIMULATIONS = 60
LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5}


def grown() -> Tree:
    """The tree after all simulations; a new position is valued 0, so that only ends of games count."""
    game = LineGame()
    model = TrueModel(game)
    actions = planned_actions(Spec(game.observation_space, game.action_space, world=game))
    board = jnp.asarray(POSITION)
    state = jax.tree.map(lambda x: x[0], model.begin(jax.tree.map(lambda x: x[None], game.observe(board))))
    return jax.jit(
        lambda key: tree_search(
            PlanningProblem(model, actions, 1.0),
            state,
            key,
            lambda state, key: jnp.float32(0),
            simulations=SIMULATIONS,
            successors=1,
            exploration=1.0,
        )
    )(jax.random.key(0))


def places(children: np.ndarray) -> dict[int, tuple[float, int]]:
    """Where each node is drawn: a leaf beside the last one, all others above the middle of their children."""
    found: dict[int, tuple[float, int]] = {}
    leaves = 0

    def place(node: int, depth: int) -> float:
        nonlocal leaves
        below = [place(child, depth + 1) for child in children[node] if child != NONE]
        leaves += not below
        x = float(np.mean(below)) if below else float(leaves)
        found[node] = x, depth
        return x

    place(0, 0)
    return found


def draw_board(axes: Any, board: np.ndarray, x: float, y: float, edge: str) -> None:
    """A small board around a point, whose stones are those of the player who began and of the other."""
    size = 0.13
    axes.fill(
        x + 3 * size * np.array([-1, 1, 1, -1]),
        y + 3 * size * np.array([-1, -1, 1, 1]),
        "white",
        ec=edge,
        lw=1.2,
    )
    for (row, column), stone in np.ndenumerate(board):
        if stone:
            centre = x + 2 * size * (column - 1), y + 2 * size * (1 - row)
            axes.text(*centre, "×" if stone == 1 else "o", fontsize=9, ha="center", va="center", color=INK)


def draw(path: Path) -> None:
    tree = jax.device_get(grown())
    child, where = tree.child[..., 0], places(tree.child[..., 0])
    best = int(most_visited(tree))
    width, depth = max(x for x, _ in where.values()), max(d for _, d in where.values())
    figure = Figure(figsize=(1.1 * width + 0.6, 1.5 * depth + 1.4), dpi=110, facecolor="white")
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.88))
    for node, (x, level) in where.items():
        y = -1.35 * level
        for action, below in enumerate(child[node]):
            if below == NONE:
                continue
            visits, value = tree.visits[node, action], tree.action_value[node, action]
            to = where[below][0], y - 1.35
            chosen = node == 0 and action == best
            axes.plot([x, to[0]], [y, to[1]], color=BLUE if chosen else GREY, lw=0.6 + visits / 12, zorder=0)
            label = f"{visits}\n{value:+.2f}"
            middle = 0.5 * (x + to[0]), 0.5 * (y + to[1])
            axes.text(*middle, label, fontsize=6, ha="center", va="center", color=INK, bbox=LABEL)
        board = tree.state.state[node] * (-1) ** level
        draw_board(axes, board, x, y, "#d1242f" if tree.ended[node] else INK)
    axes.set(xlim=(0.3, width + 0.7), ylim=(-1.35 * depth - 0.6, 0.6), aspect="equal")
    axes.axis("off")
    title = f"{SIMULATIONS} simulations; × is to move\non the lines: visits, and the mean return of who moves"
    figure.suptitle(title, x=0.03, y=0.97, ha="left", fontsize=9, color=INK)
    figure.savefig(path)


if __name__ == "__main__":
    draw(HERE / "figures" / "search_tree.png")
