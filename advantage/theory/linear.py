"""The linear system behind every exact solution."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy
from scipy.sparse.linalg import gmres, splu

BACKWARD_ERROR = 1e-14  # limit for a sparse solution; most have only rounding errors
REFINEMENTS = 12


def solve(transition: Any, discount: float, b: np.ndarray, *, transposed: bool = False) -> np.ndarray:
    """`x = (I - discount P)^{-1} b`, or `x = b (I - discount P)^{-1}` if transposed.

    A dense table is factorised. A sparse one is solved by GMRES (Saad & Schultz 1986), which suits random successors,
    or by a sparse LU factorisation if GMRES stalls, as it does with long paths. The solution satisfies

        ||b - (I - discount P) x|| <= 1e-14 (2 ||x|| + ||b||)

    in the maximum norm, or the same in the sum norm if transposed. With `discount < 1` the error of `x` is at most that
    residual divided by `1 - discount`.

    Args:
        transition: `P`, `[N, N]`, dense or sparse; its rows sum to one or less.
        discount: in [0, 1]; at 1 every state must lead out of the N states.
        b: `[N]`.
        transposed: whether to solve the second system.

    Raises:
        ArithmeticError: a singular system, or a sparse one whose residual stays above the bound.
    """
    if len(b) == 0:
        return np.zeros(0)
    matrix = transition.T if transposed else transition
    x = None
    try:
        if not scipy.sparse.issparse(matrix):
            return np.linalg.solve(np.eye(len(b)) - discount * matrix, b)
        matrix = (scipy.sparse.eye_array(len(b), format="csr") - discount * matrix).tocsr()
        norm = partial(np.linalg.norm, ord=1 if transposed else np.inf)
        x = _refine(matrix, b, norm, lambda rest: gmres(matrix, rest, rtol=1e-6, restart=40, maxiter=5)[0])
        if x is None:
            x = _refine(matrix, b, norm, splu(matrix.tocsc()).solve)
    except (np.linalg.LinAlgError, RuntimeError):  # the two libraries' errors for a singular matrix
        pass
    if x is None:
        raise ArithmeticError(
            f"The system of {len(b)} states is singular in float64: some are left with a probability below 1e-16 "
            "per step; use a smaller gamma, or a policy whose episodes end sooner."
        )
    return x


def _refine(
    matrix: Any, b: np.ndarray, norm: Callable[..., Any], correct: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray | None:
    """Iterative refinement while the residual shrinks; None if the residual stays above the bound."""
    x, rest = np.zeros(len(b)), b
    for _ in range(REFINEMENTS):
        better = x + correct(rest)
        left = b - matrix @ better
        if not norm(left) < norm(rest) / 2:
            break
        x, rest = better, left
    return x if norm(rest) <= BACKWARD_ERROR * (2 * norm(x) + norm(b)) else None
