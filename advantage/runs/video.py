"""Frames to GIF or MP4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

FORMATS = (".gif", ".mp4")


class Video:
    """Collects frames from `env.render()` and writes them when closed.

    Raises:
        ValueError: a name that ends in neither .gif nor .mp4.
        ImportError: imageio is not installed.
    """

    def __init__(self, path: Path, fps: float):
        if path.suffix.lower() not in FORMATS:
            raise ValueError(f"The video {path} must end in {' or '.join(FORMATS)}.")
        import imageio.v2 as imageio

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.frames = path, 0
        options: dict[str, Any] = (
            {"fps": fps} if path.suffix.lower() == ".mp4" else {"duration": 1000 / fps, "loop": 0}
        )
        self.writer = imageio.get_writer(path, **options)

    def add(self, env: Any) -> None:
        """Append what the environment shows now."""
        frame = np.asarray(env.render())
        height, width = (size - size % 2 for size in frame.shape[:2])  # MP4 wants even sizes
        self.writer.append_data(frame[:height, :width])
        self.frames += 1

    def close(self) -> None:
        self.writer.close()
