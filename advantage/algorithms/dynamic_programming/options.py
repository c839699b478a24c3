"""Options that solvers share."""

from __future__ import annotations

import dataclasses

from advantage.algorithms.hyperparameters import ranged
from advantage.environments.tables.mdp import MDP


@dataclasses.dataclass(frozen=True)
class SolverOptions:
    """Fields of every solver that maximises the discounted return."""

    gamma: float | None = ranged(None, "[0, 1]")
    """Discount per step; None takes the table's own."""
    tolerance: float = ranged(1e-6, "(0, inf)")
    """Largest error of the value returned, in units of return."""


def discount(gamma: float | None, mdp: MDP) -> float:
    """The solver's discount, or the table's if the solver has none."""
    return mdp.gamma if gamma is None else float(gamma)
