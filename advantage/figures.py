"""Pictures that matplotlib draws without a display."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_figure(path: Path, size: tuple[float, float], draw: Callable[[Any], None]) -> None:
    """Draw a figure and write it as a PNG file, whole or not at all.

    Args:
        path: the file.
        size: width and height, in units of 100 pixels.
        draw: draws into the empty figure that it is given.

    Raises:
        ImportError: matplotlib is not installed (`pip install "advantage[plot]"`).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=100, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    draw(figure)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # a link in a stranger's folder is not written through
    canvas.print_png(temporary)
    os.replace(temporary, path)
    del figure, canvas
    gc.collect()  # the parts of a figure refer to each other and hold megabytes
