"""Bias, variance and direction of an estimator from samples, each with its confidence interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Z = 1.959964  # quantile of a normal's 95 % interval
EPISODES = 100  # in the mean whose cosine is taken


class Interval(NamedTuple):
    """A figure and its 95 % confidence interval."""

    figure: float
    low: float
    high: float


class Measured(NamedTuple):
    """Measures of an estimator of a gradient g, from N samples.

    Attributes:
        bias: `|E x - g| / |g|`. The interval includes zero if no bias could be shown.
        variance: `tr Cov(x) / |g|^2`, of one episode.
        cosine: cosine of g and the mean of 100 episodes.
        effective: `(Σ w)^2 / (N Σ w^2)` of importance weights; 1 where there are none.
        cost: microseconds per episode, without drawing the episode.
    """

    bias: Interval
    variance: Interval
    cosine: Interval
    effective: float
    cost: float

    @property
    def is_biased(self) -> bool:
        """Whether the samples show a bias."""
        return self.bias.low > 0


def measured(samples: np.ndarray, truth: np.ndarray, effective: float = 1.0, cost: float = 0.0) -> Measured:
    """Bias, variance and cosine of independent samples.

    The squared bias `b^T b` is estimated without bias by `|mean - g|^2 - tr(S) / N`, whose standard error is
    `sqrt(4 b^T S b / N + 2 tr(S^2) / N^2)` with S the covariance of one sample.

    Args:
        samples: `[N, P]`.
        truth: g, `[P]`, not zero.
        effective, cost: see `Measured`.

    Raises:
        ValueError: fewer than two hundred samples, or a gradient of zero.
    """
    count = len(samples)
    if count < 2 * EPISODES:
        raise ValueError(f"{count} episodes are too few for an interval; use {2 * EPISODES} or more.")
    scale = float(truth @ truth)
    if scale == 0:
        raise ValueError("The exact gradient is zero, so no error can be relative to it; use another policy.")
    mean = samples.mean(axis=0)
    off, away = mean - truth, samples - mean
    squares = np.square(away).sum(axis=1)
    spread = float(squares.sum() / (count - 1))
    covariance = away.T @ away / (count - 1)
    square = float(off @ off) - spread / count
    error = np.sqrt(4 * max(off @ covariance @ off, 0) / count + 2 * np.square(covariance).sum() / count**2)
    batches = samples[: count // EPISODES * EPISODES].reshape(-1, EPISODES, samples.shape[1]).mean(axis=1)
    sizes = np.linalg.norm(batches, axis=1) * np.sqrt(scale)
    cosines = batches @ truth / np.where(sizes > 0, sizes, 1)
    bias = (np.sqrt(max(x, 0) / scale) for x in (square, square - Z * error, square + Z * error))
    return Measured(
        Interval(*map(float, bias)),
        interval(squares / scale * count / (count - 1)),
        interval(cosines),
        effective,
        cost,
    )


def interval(values: np.ndarray) -> Interval:
    """The mean of independent values and its confidence interval."""
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - Z * error, mean + Z * error)
