"""Markov chains as tables."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from advantage.environments.tables.arrays import (
    as_table,
    check_distributions,
    read_only,
    require_shape,
    set_fields,
    start_distribution,
)


@dataclasses.dataclass(frozen=True, eq=False)
class MarkovChain:
    """A Markov chain: `P(s_{t+1} = j | s_t = i) = transition[i, j]`.

    Attributes:
        transition: `[S, S]`, a NumPy array or a SciPy CSR array; rows sum to one.
        start: `[S]`, the distribution of `s_0`; uniform if not given.

    Raises:
        ValueError: a wrong shape, or rows that are not distributions; names the first wrong entry or row.
    """

    transition: Any
    start: Any = None

    def __post_init__(self):
        transition = read_only(as_table(self.transition, "transition"))
        require_shape("transition", transition.shape, (transition.shape[0], transition.shape[0]), "[S, S]")
        check_distributions(transition, lambda row: f"transition[{row}]")
        everywhere = np.ones(transition.shape[0], bool)
        set_fields(self, transition=transition, start=start_distribution(self.start, everywhere))

    @property
    def n_states(self) -> int:
        return self.transition.shape[0]
