"""The optimisers by name."""

from __future__ import annotations

from advantage.algorithms.named_class import named_class
from advantage.algorithms.search.optimiser import Optimiser

OPTIMISERS = {
    "cem": "search.cross_entropy:CEM",
    "cma-es": "search.cma_es:CMAES",
    "ga": "search.genetic:GeneticAlgorithm",
    "pattern-search": "search.pattern_search:PatternSearch",
    "es": "search.evolution_strategy:EvolutionStrategy",
    "ars": "search.random_search:AugmentedRandomSearch",
    "finite-differences": "search.finite_differences:FiniteDifferences",
}
"""Where the class of each optimiser is, as in `algorithms/registry.py`."""


def optimiser_class(name: str) -> type[Optimiser]:
    """The dataclass of an optimiser."""
    return named_class(OPTIMISERS[name])
