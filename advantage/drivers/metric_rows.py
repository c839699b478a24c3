"""Rows of metrics: means over iterations, without what no iteration measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from advantage.types import Mean


def metric_rows(means: dict[str, Any]) -> dict[str, np.ndarray]:
    """What rows show: a `Mean` becomes its quotient, masked where nothing was measured; all else stays.

    Args:
        means: each metric's mean over the iterations of a row, an array or a `Mean` of arrays.
    """
    return {name: _quotient(x) if isinstance(x, Mean) else np.asarray(x) for name, x in means.items()}


def _quotient(mean: Mean) -> np.ndarray:
    total, count = (np.asarray(x) for x in mean)
    return np.ma.masked_array(total / np.where(count > 0, count, 1), mask=count == 0)
