"""What a model predicts beside what happened, as a picture, `model.png`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advantage.figures import write_figure

MOST_NUMBERS = 6  # of an observation that are drawn
INK, TRUE, PREDICTED = "#24292f", "#afb8c1", "#bc3b00"


class Predictions(NamedTuple):
    """Sequences of observations as vectors, NaN beyond the end of an episode.

    Attributes:
        true: `[H + 1, N, d]`.
        predicted: by each of E networks, `[H + 1, N, E, d]`.
    """

    true: np.ndarray
    predicted: np.ndarray


def plot_predictions(path: Path, title: str, shown: Predictions) -> Path | None:
    """Draw a column for each sequence and a row for each number of an observation, at most six.

    Args:
        path: path of the picture.
        title: title of the picture.
        shown: what is drawn.

    Returns:
        The path; None where matplotlib is not installed (`pip install "advantage[plot]"`).
    """
    try:
        _, sequences, numbers = shown.true.shape
        size = 3 * sequences, 1.4 * min(numbers, MOST_NUMBERS) + 1
        write_figure(path, size, lambda figure: _draw(figure, title, shown))
    except ImportError:
        return None
    return path


def _draw(figure: Any, title: str, shown: Predictions) -> None:
    steps, sequences, numbers = shown.true.shape
    rows, time = min(numbers, MOST_NUMBERS), np.arange(steps)
    axes = figure.subplots(rows, sequences, sharex=True, sharey="row", squeeze=False)
    for (row, column), axis in np.ndenumerate(axes):
        axis.plot(time, shown.true[:, column, row], color=TRUE, linewidth=4)
        axis.plot(time, shown.predicted[:, column, :, row], color=PREDICTED, linewidth=1)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        if column == 0:
            axis.set_ylabel(f"number {row}", fontsize=8)
        if row == rows - 1:
            axis.set_xlabel("steps", fontsize=8)
    lines = axes[0, 0].lines[:2]
    figure.legend(
        lines, ["true", "predicted by each network"], loc="outside lower center", ncols=2, fontsize=8
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK, parse_math=False)
