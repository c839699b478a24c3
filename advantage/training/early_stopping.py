"""When a run stops before its budget is spent, by its evaluations."""

from __future__ import annotations

import numpy as np

from advantage.runs.folder import RunFolder
from advantage.runs.log import read_evaluations
from advantage.training.options import Options


def reason_to_stop(
    steps: np.ndarray, means: np.ndarray, *, stop_at_return: float | None, patience: int | None
) -> str | None:
    """Why a run with these evaluations stops, as a sentence; None if it goes on.

    Args:
        steps: the step of each evaluation `[N]`, ascending.
        means: the mean return of each evaluation `[N]`.
        stop_at_return: the run stops when the last mean is at least this.
        patience: the run stops when this many evaluations in a row have not been better than the best one before.
    """
    if not len(means):
        return None
    if stop_at_return is not None and means[-1] >= stop_at_return:
        return f"the mean return of the evaluation is {means[-1]:.2f}, and --stop-at-return is {stop_at_return:g}"
    best = int(np.argmax(means))
    without = len(means) - 1 - best
    if patience is not None and without >= patience:
        return (
            f"{without} evaluations in a row were not better than the {means[best]:.2f} of step {steps[best]:_}, and "
            f"--patience is {patience}"
        )
    return None


def reason_of_run(folder: RunFolder, options: Options) -> str | None:
    """Why the run in this folder stops, by its evaluations so far; None if it goes on."""
    if options.stop_at_return is None and options.patience is None:
        return None
    table = read_evaluations(folder)
    if not table:
        return None
    steps, place = np.unique(table["step"], return_inverse=True)
    means = np.bincount(place, table["return"]) / np.bincount(place)
    return reason_to_stop(steps, means, stop_at_return=options.stop_at_return, patience=options.patience)
