"""Factorisations of matrices, one matrix after the other.

On a CPU, XLA distributes a batch of matrices over its thread pool, and the calling thread waits. Two such batches at
once can occupy every thread of a small pool, and then both wait forever. A single matrix is factorised in the calling
thread. So these functions take one matrix, and `vmap` over them is a loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from advantage.types import Array


@sequential_vmap
def qr(matrix: Array) -> tuple[Array, Array]:
    """`Q, R` with `Q R = matrix`, `[m, n]`: orthonormal columns `[m, k]`, upper triangular `[k, n]`, k = min(m, n)."""
    q, r = jnp.linalg.qr(matrix)
    return q, r


@sequential_vmap
def cholesky(matrix: Array) -> Array:
    """The upper triangular `U` with `U^T U = matrix`, `[n, n]`; NaN where the matrix is not positive definite."""
    return jax.lax.linalg.cholesky(matrix, symmetrize_input=False).mT


@sequential_vmap
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues `[n]`, ascending, and eigenvectors, the columns of `[n, n]`, of a symmetric matrix."""
    value, vector = jnp.linalg.eigh(matrix)
    return value, vector


@sequential_vmap
def divide_by_triangle(rows: Array, triangle: Array) -> Array:
    """`rows U^-1` for an upper triangular `U`, `[n, n]`, and rows `[m, n]`."""
    return jax.lax.linalg.triangular_solve(triangle, rows, left_side=False, lower=False)


def orthonormal_columns(matrix: Array) -> Array:
    """`Q` of `Q R = matrix`, `[m, n]`, R with a positive diagonal, from `R^T R = matrix^T matrix` (Cholesky QR).

    The error grows with the square of the condition number, which is near 1 for random normals with m >= 4 n. Only
    matrices `[n, n]` are factorised: a factorisation of a tall one is slow, and may wait on the thread pool for ever.
    """
    gram = jnp.matmul(matrix.mT, matrix, precision="highest")
    inverse = divide_by_triangle(jnp.eye(matrix.shape[-1]), cholesky(gram))
    return jnp.matmul(matrix, inverse, precision="highest")


def for_each(function: Callable[..., Any], *arrays: Array) -> Any:
    """Apply `function` to the rows of all arrays, one row after the other: a `vmap` that is safe for unknown code.

    A single row is computed without a loop, so that large results are not copied.
    """
    if all(len(array) == 1 for array in arrays):
        return jax.tree.map(lambda leaf: leaf[None], function(*(array[0] for array in arrays)))
    return jax.lax.map(lambda row: function(*row), arrays)
