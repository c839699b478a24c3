"""Reporters, which are informed about a training."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Protocol


class Progress(NamedTuple):
    """What a callback receives for every row of metrics.

    Attributes:
        seed: the run's seed.
        iteration: updates so far.
        step: environment steps so far, of `total_timesteps`.
        row: the metrics as they are logged: `train/approx_kl`, `rollout/ep_rew_mean`, `time/fps`, `info/NAME`, ...
    """

    seed: int
    iteration: int
    step: int
    total_timesteps: int
    row: dict[str, float]


class Reporter(Protocol):
    """Tells the user what happens. The command line has a reporter; the default in Python is silent."""

    def begin(self, facts: dict[str, Any]) -> None: ...
    def update(self, progress: Progress) -> None: ...
    def message(self, text: str) -> None: ...
    def end(self) -> None: ...


class Silent:
    """A reporter that only issues Python warnings."""

    def begin(self, facts: dict[str, Any]) -> None:
        for text in facts["warnings"]:
            warnings.warn(text, stacklevel=2)

    def update(self, progress: Progress) -> None: ...
    def message(self, text: str) -> None: ...
    def end(self) -> None: ...
