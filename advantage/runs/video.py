"""Frames to GIF or MP4."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled

from advantage.environments.defect import error_text, show

FORMATS = (".gif", ".mp4")


class CannotDraw(ValueError):
    """An environment gives no picture; the message says why."""


def frame_of(env: Any) -> np.ndarray:
    """What `env.render()` draws, uint8 `[height, width, 3]`.

    Raises:
        CannotDraw: render() raises, or returns no picture.
        ImportError, DependencyNotInstalled: a package that it needs is not installed.
    """
    try:
        drawn = env.render()
    except (DependencyNotInstalled, ImportError):
        raise
    except (Exception, SystemExit) as error:
        raise CannotDraw(f"render() raised {error_text(error)}") from error
    frame = drawn if isinstance(drawn, np.ndarray) else np.zeros(0)
    if frame.ndim == 2:
        frame = frame[..., None]
    if frame.ndim != 3 or frame.shape[-1] not in (1, 3, 4) or frame.dtype.kind not in "iu" or not frame.size:
        raise CannotDraw(f"render() returned {show(drawn)}, which is no picture")
    frame = frame[..., :3].astype(np.uint8)
    return np.repeat(frame, 3, axis=-1) if frame.shape[-1] == 1 else frame


class Video:
    """Writes frames from `env.render()` to a file, which is there after `close`; a link in its place is replaced.

    Raises:
        ValueError: the file's name ends in neither .gif nor .mp4.
        CannotDraw: from `add`, the environment gives no picture, or one of another size than the first.
        ImportError: imageio, or for MP4 imageio-ffmpeg, is not installed.
    """

    def __init__(self, path: Path, fps: float):
        if path.suffix.lower() not in FORMATS:
            raise ValueError(f"The video {path} must end in {' or '.join(FORMATS)}.")
        self.path, self.fps, self.frames = path, fps, 0
        self.temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
        self.writer: Any = None
        self.size: tuple[int, int] | None = None
        if path.suffix.lower() == ".mp4":
            import imageio_ffmpeg

            self.ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
        else:
            import imageio.v2 as imageio

            self.open_gif = imageio.get_writer
        path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary.unlink(missing_ok=True)  # a link in a stranger's folder is not written through

    def add(self, env: Any) -> None:
        """Append a frame of the environment."""
        frame = frame_of(env)
        height, width = (size - size % 2 for size in frame.shape[:2])  # MP4 needs even sizes
        frame = np.ascontiguousarray(frame[:height, :width])
        if self.size not in (None, (height, width)):
            raise CannotDraw(
                f"render() returned a picture of {height} x {width} pixels after one of {self.size}"
            )
        self.size = height, width
        if self.path.suffix.lower() == ".mp4":
            if self.writer is None:
                self.writer = self._encoder(height, width)
            self.writer.stdin.write(frame.tobytes())
        else:
            if self.writer is None:
                self.writer = self.open_gif(self.temporary, duration=1000 / self.fps, loop=0)
            self.writer.append_data(frame)
        self.frames += 1

    def close(self) -> None:
        """Finish the file. Raises OSError with the encoder's message if it failed."""
        if self.writer is None:
            return
        try:
            if self.path.suffix.lower() == ".mp4":
                _, errors = self.writer.communicate()
                if self.writer.returncode:
                    raise OSError(
                        f"ffmpeg could not write {self.path}: {errors.decode(errors='replace').strip()}"
                    )
            else:
                self.writer.close()
            os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)

    def _encoder(self, height: int, width: int) -> subprocess.Popen:
        """An ffmpeg process that reads raw frames. imageio's own writer forks, which is unsafe with JAX's threads."""
        source = [
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            f"{width}x{height}",
            "-r",
            str(self.fps),
            "-i",
            "-",
        ]
        target = ["-an", "-vcodec", "libx264", "-pix_fmt", "yuv420p", str(self.temporary)]
        command = [self.ffmpeg, "-y", "-loglevel", "error", *source, *target]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
