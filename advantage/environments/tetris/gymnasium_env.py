"""Tetris in Gymnasium's interface, rendered as text or as an image."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.environments.tetris.board import PIECES, rotations
from advantage.environments.tetris.world import Features, Tetris, TetrisState
from advantage.types import Array

CELL = 20  # pixels
PANEL = 6  # columns beside the board
WALL, EMPTY, LETTERS = (60, 60, 66), (22, 22, 26), (225, 225, 225)
COLOURS = np.array(
    [
        EMPTY,
        (240, 200, 40),
        (50, 200, 220),
        (80, 200, 90),
        (230, 75, 70),
        (175, 90, 215),
        (75, 115, 235),
        (240, 145, 45),
    ],
    np.uint8,
)
DIGITS = (  # three columns and five rows each
    "### .#. ### ### #.# ### ### ### ### ###",
    "#.# ##. ..# ..# #.# #.. #.. ..# #.# #.#",
    "#.# .#. ### ### ### ### ### ..# ### ###",
    "#.# .#. #.. ..# ..# ..# #.# ..# #.# ..#",
    "### ### ### ### ..# ### ### ..# ### ###",
)


@partial(jax.jit, static_argnames="world")
def _observe(world: Tetris, state: TetrisState) -> Any:
    return world.observe(state)


@partial(jax.jit, static_argnames="world")
def _step(world: Tetris, state: TetrisState, action: Array, piece: Array) -> Any:
    after, reward, terminated = world.place(state, action, piece)
    added = jnp.stack(world.drop(state, action).added)
    return after, world.observe(after), reward, terminated, added


class TetrisEnv(gymnasium.Env):
    """`Tetris` in Gymnasium's interface; `info["lines"]` is the number of rows removed since the reset.

    An image shows every cell in its piece's colour, with the last piece bright; beside the board are the piece to place
    and the number of rows removed. The text has a letter for each cell, a capital for the last piece.

    Attributes:
        world: the world with its sizes and features.
        state: the board and the piece to place.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array", "ansi"], "render_fps": 8}

    def __init__(
        self,
        width: int = 10,
        height: int = 20,
        features: Features = "bertsekas",
        render_mode: str | None = None,
    ):
        self.world = Tetris(width, height, features)
        self.observation_space = self.world.observation_space
        self.action_space = self.world.action_space
        self.render_mode = render_mode
        self._clear()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._clear()
        obs = jax.device_get(_observe(self.world, self.state))
        return obs, {"lines": self.lines}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        outcome = _step(self.world, self.state, np.int32(action), self._draw())
        piece, (self.state, obs, reward, terminated, added) = int(self.state.piece), jax.device_get(outcome)
        self.lines += int(reward)
        if not terminated:
            self._paint(piece, added)
        return obs, float(reward), bool(terminated), False, {"lines": self.lines}

    def render(self) -> Any:
        if self.render_mode == "ansi":
            return self._text()
        return self._image() if self.render_mode == "rgb_array" else None

    def _clear(self) -> None:
        self.state = TetrisState(np.zeros(self.world.width, np.uint32), self._draw())
        self.lines = 0
        shape = self.world.height, self.world.width
        self.pieces = np.zeros(shape, np.int64)  # the piece of each cell, from 1; row 0 is the lowest
        self.last = np.zeros(shape, bool)  # whether the cell belongs to the last piece

    def _draw(self) -> np.int32:
        return np.int32(self.np_random.integers(len(PIECES)))

    def _paint(self, piece: int, added: np.ndarray) -> None:
        """Store which piece each cell belongs to."""
        self.last = (added >> np.arange(self.world.height, dtype=np.uint32)[:, None] & 1).astype(bool)
        self.pieces[self.last] = piece + 1
        stay = ~self.pieces.all(axis=1)
        for grid in (self.pieces, self.last):
            kept = grid[stay]
            grid[:] = 0
            grid[: len(kept)] = kept

    def _text(self) -> str:
        letters = np.array([".", *(letter.lower() for letter in PIECES)])[self.pieces]
        letters = np.where(self.last, np.char.upper(letters), letters)
        rows = ["|" + "".join(row) + "|" for row in letters[::-1]]
        name = list(PIECES)[int(self.state.piece)]
        return "\n".join([*rows, "+" + "-" * self.world.width + "+", f"next {name}, lines {self.lines}"])

    def _image(self) -> np.ndarray:
        """uint8 `[(H + 2) cells, (W + 2 + panel) cells, 3]`: walls, the board, and the panel beside it."""
        height, width = self.world.height, self.world.width
        dark = COLOURS[self.pieces] * np.where(self.last | (self.pieces == 0), 1.0, 0.55)[..., None]
        cells = np.full((height + 2, width + 2 + PANEL, 3), WALL, np.uint8)
        cells[1:-1, 1 : width + 1] = dark[::-1].astype(np.uint8)
        filled = np.zeros(cells.shape[:2], bool)
        filled[1:-1, 1 : width + 1] = self.pieces[::-1] > 0
        piece = int(self.state.piece)
        shape = rotations(piece)[0][::-1]
        beside = slice(1, 1 + shape.shape[0]), slice(width + 3, width + 3 + shape.shape[1])
        cells[beside][shape] = COLOURS[piece + 1]
        filled[beside] = shape
        image = cells.repeat(CELL, axis=0).repeat(CELL, axis=1)
        gaps = filled.repeat(CELL, axis=0).repeat(CELL, axis=1)
        edge = np.zeros(gaps.shape, bool)
        edge[::CELL] = edge[:, ::CELL] = True
        image[gaps & edge] = EMPTY
        self._write(image, str(self.lines), top=4 * CELL, left=(width + 2) * CELL)
        return image

    def _write(self, image: np.ndarray, text: str, top: int, left: int) -> None:
        """Draw digits as large as the panel allows."""
        size = max(1, (PANEL * CELL - CELL // 2) // max(4 * len(text), 16))
        for place, digit in enumerate(text):
            drawn = np.array([[cell == "#" for cell in row.split()[int(digit)]] for row in DIGITS])
            drawn = drawn.repeat(size, axis=0).repeat(size, axis=1)
            x = left + 4 * size * place
            image[top : top + drawn.shape[0], x : x + drawn.shape[1]][drawn] = LETTERS


def register(world: Tetris) -> str:
    """Register the world with Gymnasium: `-> its name`."""
    name = world.gymnasium_id
    if name not in gymnasium.registry:
        sizes = {"width": world.width, "height": world.height, "features": world.features}
        gymnasium.register(name, entry_point=f"{__name__}:TetrisEnv", kwargs=sizes)
    return name
