"""The optimisers by name."""

from __future__ import annotations

from advantage.algorithms.search.cma_es import CMAES
from advantage.algorithms.search.cross_entropy import CEM
from advantage.algorithms.search.evolution_strategy import EvolutionStrategy
from advantage.algorithms.search.finite_differences import FiniteDifferences
from advantage.algorithms.search.genetic import GeneticAlgorithm
from advantage.algorithms.search.optimiser import Optimiser
from advantage.algorithms.search.pattern_search import PatternSearch
from advantage.algorithms.search.random_search import AugmentedRandomSearch

OPTIMISERS: dict[str, type[Optimiser]] = {
    "cem": CEM,
    "cma-es": CMAES,
    "ga": GeneticAlgorithm,
    "pattern-search": PatternSearch,
    "es": EvolutionStrategy,
    "ars": AugmentedRandomSearch,
    "finite-differences": FiniteDifferences,
}
