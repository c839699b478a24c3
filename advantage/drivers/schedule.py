"""How many iterations one call of a driver takes: blocks, rows and chunks, and where a span ends.

    block   BLOCK iterations of a single step share one draw of noise and keys, because drawing costs more than stepping
    row     one row of metrics is the mean over the iterations of about ROW_STEPS environment steps
    chunk   the iterations that a driver runs before it reports: one row on the host, many rows on the device

Blocks are counted from the run's start. So neither the end of a call nor a resume changes any result.
"""

from __future__ import annotations

import numpy as np

from advantage.types import Algorithm, Span, Spec

BLOCK = 64  # iterations
ROW_STEPS = 256  # environment steps, approximately
SHORT = 8  # an iteration of fewer steps shares a row with others
CHUNK_STEPS = 2**17  # approximate environment steps of a device chunk, in each seed
ALL_CHUNK_STEPS = 2**22  # the same in all seeds together
MAX_CHUNK_ROWS = 64
LONG_CALL = 10.0  # seconds; during a call a run neither reports nor stops


def iterations_per_row(algorithm: Algorithm, spec: Spec) -> int:
    """Number of iterations in a row of metrics: more than 1 for an algorithm that learns every few steps."""
    size = algorithm.n_steps * spec.num_envs
    return max(1, ROW_STEPS // size) if algorithm.n_steps < SHORT else 1


def rows_per_chunk(algorithm: Algorithm, spec: Spec, num_seeds: int) -> int:
    """Number of rows of metrics of one call on the device."""
    steps = algorithm.n_steps * spec.num_envs * iterations_per_row(algorithm, spec)
    return int(np.clip(min(CHUNK_STEPS, ALL_CHUNK_STEPS // num_seeds) // steps, 1, MAX_CHUNK_ROWS))


def rows_after(allowed: int, most: int, *, ran: int, seconds: float) -> int:
    """How many rows the next call on the device may have, after one of `ran` rows that took so long.

    Fewer after a call that took longer than `LONG_CALL`, so that the next one does not; twice as many, up to `most`,
    after one that took less than a quarter of it.
    """
    if seconds > LONG_CALL:
        return max(1, int(ran * LONG_CALL / seconds))
    return min(most, 2 * allowed) if seconds < LONG_CALL / 4 else allowed


def plan_span(algorithm: Algorithm, spec: Spec, *, chunk: int, iteration: int, step: int, until: int) -> Span:
    """The iterations from `step` to `until`, at most `chunk` of them; the run's last one may be shorter."""
    left = spec.total_timesteps - step
    n_steps = min(algorithm.n_steps, left // spec.num_envs)
    size = n_steps * spec.num_envs
    count = max(1, min(chunk, -(-(until - step) // size), left // size))
    return Span(iteration, count, step, n_steps)


def row_ends(span: Span, per_row: int, num_envs: int) -> tuple[np.ndarray, np.ndarray]:
    """`iterations, steps` of a span up to the end of each of its rows, `[rows]`."""
    iterations = np.minimum(np.arange(per_row, span.count + per_row, per_row), span.count)
    return iterations, iterations * span.n_steps * num_envs
