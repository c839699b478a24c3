"""Search without gradients: optimisers that use only function values, and policies found by their returns."""

from advantage.algorithms.search.library_optimisers import from_evosax as from_evosax
from advantage.algorithms.search.library_optimisers import from_pycma as from_pycma
from advantage.algorithms.search.minimize import Minimum as Minimum
from advantage.algorithms.search.minimize import minimize as minimize
