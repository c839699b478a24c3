"""Statistics for few seeds: interquartile means, bootstrap intervals, the probability of improvement.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", sections 4.1 to 4.3.

Scores are an array whose last axis is the seeds. Axes before it, such as points of a curve, are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from advantage.comparison.run_data import Group

RESAMPLES = 10_000
CURVE_RESAMPLES = 2_000
LEVEL = 0.95
FEWEST_SEEDS = 3  # with fewer seeds an interval says nothing
_AT_ONCE = 4_000_000  # numbers that are resampled together, 32 MB


class Interval(NamedTuple):
    """A percentile interval; both ends are numbers, or arrays of one shape."""

    low: np.ndarray | float
    high: np.ndarray | float


class Curve(NamedTuple):
    """A learning curve: steps `[T]`, interquartile mean `[T]`, its interval, and each seed `[seeds, T]`."""

    label: str
    step: np.ndarray
    mean: np.ndarray
    interval: Interval | None
    seeds: np.ndarray


class Score(NamedTuple):
    """Final scores of a group: their interquartile mean, its interval, their range, steps and seconds of training."""

    label: str
    seeds: int
    mean: float
    interval: Interval | None
    lowest: float
    highest: float
    steps: int
    seconds: float


class Improvement(NamedTuple):
    """How likely a run of `better` ends above a run of `worse`, and its interval."""

    better: str
    worse: str
    probability: float
    interval: Interval | None


class Reached(NamedTuple):
    """How many seeds of a group reached the threshold; medians over all seeds, infinite if most did not."""

    label: str
    seeds: int
    reached: int
    steps: float
    seconds: float


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """The mean without the lowest and the highest quarter: `[..., N] -> [...]`.

        IQM(x) = 1 / (N - 2k)  sum_{i=k+1}^{N-k} x_(i),   k = floor(N / 4),   x_(1) <= ... <= x_(N)

    It depends less on one lucky seed than the mean, and uses more of the data than the median (Agarwal et al. 2021,
    section 4.3). Of fewer than four scores it is the mean. NaN where a score is NaN.
    """
    scores = np.asarray(scores, np.float64)
    cut = scores.shape[-1] // 4
    middle = np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(axis=-1)
    return np.where(np.isnan(scores).any(axis=-1), np.nan, middle)


def interquartile_mean_interval(scores: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """An interval for the interquartile mean over seeds: the percentile bootstrap.

    A resample draws as many seeds as there are, with replacement, and takes their interquartile mean; the interval
    holds the middle `LEVEL` of the resamples (Agarwal et al. 2021, section 4.1; Efron and Tibshirani 1993, "An
    introduction to the bootstrap", chapter 13). All points of a curve share the draws: a seed is drawn with its whole
    curve.

    Args:
        scores: `[..., N]`, the last axis are the seeds.
        seed: seed of the draws.
        resamples: number of resamples, at least 1.

    Returns:
        An interval of `[...]`; NaN where a score is NaN.

    Raises:
        ValueError: there is no seed.
    """
    scores = _checked(scores)
    seeds = scores.shape[-1]
    draws = np.random.default_rng(seed).integers(0, seeds, (resamples, seeds))
    points = scores.reshape(-1, seeds)
    block = max(1, _AT_ONCE // draws.size)
    ends = [np.zeros((2, 0))]
    for begin in range(0, len(points), block):
        ends.append(_percentiles(interquartile_mean(points[begin : begin + block][:, draws])))
    low, high = np.concatenate(ends, axis=-1).reshape(2, *scores.shape[:-1])
    return Interval(low, high)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> float:
    """How likely a seed of X scores above a seed of Y.

        P(X > Y) = 1 / (N K) sum_i sum_j [x_i > y_j] + [x_i = y_j] / 2

    This is the U statistic of Mann and Whitney 1947, "On a test of whether one of two random variables is
    stochastically larger than the other" (Agarwal et al. 2021, section 4.3). It says how often X wins, not by how much.

    Args:
        x: `[N]`.
        y: `[K]`.

    Raises:
        ValueError: one of them has no seed.
    """
    return float(_wins(x, y).mean())


def improvement_interval(
    x: np.ndarray, y: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """An interval for the probability of improvement: the bootstrap over the seeds of X and of Y.

    The arguments and errors are those of `probability_of_improvement` and `interquartile_mean_interval`. If X
    won every pair the interval is [1, 1], however few pairs there are.
    """
    wins = _wins(x, y)
    n, k = wins.shape
    rng = np.random.default_rng(seed)
    # only how often each seed is drawn matters, not the order
    drawn_x, drawn_y = (rng.multinomial(size, np.full(size, 1 / size), resamples) for size in (n, k))
    total = np.einsum("rn,nk,rk->r", drawn_x, wins, drawn_y, optimize=True) / (n * k)
    low, high = _percentiles(total)
    return Interval(float(low), float(high))


def learning_curve(group: Group, grid: np.ndarray, seed: int) -> Curve:
    """The curve of a group of runs at the steps of `grid`, `[T]`; `seed` is that of the bootstrap."""
    seeds = np.array([record.curve(grid) for record in group.records])
    known = ~np.isnan(seeds).any(axis=0)
    interval = None
    if len(seeds) >= FEWEST_SEEDS:
        low, high = np.full((2, len(grid)), np.nan)
        low[known], high[known] = interquartile_mean_interval(
            seeds.T[known], seed=seed, resamples=CURVE_RESAMPLES
        )
        interval = Interval(low, high)
    return Curve(group.label, grid, interquartile_mean(seeds.T), interval, seeds)


def final_score(group: Group, final: np.ndarray, seed: int) -> Score:
    """The score of a group whose runs ended with the returns `final`, `[seeds]`."""
    interval = None
    if len(final) >= FEWEST_SEEDS:
        interval = Interval(*map(float, interquartile_mean_interval(final, seed=seed)))
    total = group.records[0].total_timesteps
    seconds = float(np.median([record.seconds(record.end) for record in group.records]))
    mean, low, high = float(interquartile_mean(final)), float(final.min()), float(final.max())
    return Score(group.label, len(final), mean, interval, low, high, total, seconds)


def improvement(better: tuple[Group, np.ndarray], worse: tuple[Group, np.ndarray], seed: int) -> Improvement:
    """How likely a run of one group ends above a run of another, from the groups and their final returns."""
    (one, x), (other, y) = better, worse
    interval = improvement_interval(x, y, seed=seed) if min(len(x), len(y)) >= FEWEST_SEEDS else None
    return Improvement(one.label, other.label, probability_of_improvement(x, y), interval)


def time_to_threshold(group: Group, threshold: float) -> Reached:
    """When the runs of a group reached a mean return of at least `threshold`."""
    steps, seconds = zip(*(record.reaches(threshold) for record in group.records), strict=True)
    reached = int(np.isfinite(steps).sum())
    return Reached(group.label, len(steps), reached, float(np.median(steps)), float(np.median(seconds)))


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 where the seed of a row scores above the seed of a column, 1/2 where they are equal: `[N, K]`."""
    a, b = _checked(x)[:, None], _checked(y)[None]
    return (a > b) + 0.5 * (a == b)


def _percentiles(resampled: np.ndarray) -> np.ndarray:
    return np.percentile(resampled, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=-1)


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if not scores.ndim or not scores.shape[-1]:
        raise ValueError("There are no scores; give an array with at least one seed.")
    return scores
