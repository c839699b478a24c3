"""Means of the numbers that are logged from the environments' infos, as metrics `info/NAME`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from advantage.environments.defect import EnvironmentWarning
from advantage.types import Array, Mean

PATIENCE = 10  # episodes after which a name that no step has had is spoken of


def mean_of(numbers: Array) -> Mean:
    """The mean of the numbers that are not NaN."""
    given = numbers[~np.isnan(numbers)]
    return Mean(given.sum(), given.size)


class InfoMeans:
    """The means over the steps that carry a name, and a warning about names that no step has had.

    Args:
        names: what is logged.
        there: the names in the infos, for the warning.
    """

    def __init__(self, names: Sequence[str], there: Callable[[], Iterable[str]]):
        self.missing, self.there, self.episodes = set(names), there, 0
        self.has_looked = self.is_said = False

    def metrics(self, means: Mapping[str, Mean], episodes: int) -> dict[str, Mean]:
        """The metrics of some steps, by their names, from `means` by `names`; `episodes` of them ended an episode."""
        self.has_looked = True
        self.missing -= {name for name, mean in means.items() if mean.count}
        self.episodes += episodes
        if self.episodes >= PATIENCE:
            self.end()
        return {f"info/{name}": mean for name, mean in means.items()}

    def end(self) -> None:
        """Warn, once, about names that no step has had."""
        if self.has_looked and self.missing and not self.is_said:
            self.is_said = True
            names, there = ", ".join(sorted(self.missing)), ", ".join(list(self.there())[:20])
            warnings.warn(
                f"No step of this process has had {names} in its info so far (log_info, --log-info); "
                f"{f'there is {there}' if there else 'its info was empty'}. A dotted name, such as episode.r, reaches "
                "into a dict.",
                EnvironmentWarning,
                stacklevel=2,
            )
