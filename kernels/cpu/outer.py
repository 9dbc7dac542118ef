"""BP4 and BP3 summed over a mini-batch: sum_x delta a^T and sum_x delta.

The plain twin is ``delta.T @ a, delta.sum(axis=0)``. A small product is the tile that training
uses, on panels of a. From a million products on it is NumPy's, by BLAS, whose threads are at work
before ours would be awake. The column sums are taken in one pass over delta in float64: the sum of
many rows one after another would lose digits, and the pass waits for memory anyway. A product with
a single row or column is such a sum too, and is done alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.arrays import check_outer
from gpubp.kernels.cpu.generated import load_compiled

_LARGE = 1e6  # products m j k


def outer_sum(delta: Any, a: Any) -> tuple[Any, Any]:
    """(sum_x delta a^T, sum_x delta): BP4 and BP3 summed over the rows of (m, j) and (m, k)."""
    delta, a = np.ascontiguousarray(delta), np.ascontiguousarray(a)
    check_outer(delta, a)
    (m, j), k = delta.shape, a.shape[1]
    compiled = load_compiled("contiguous")
    column_sum = np.empty(j, delta.dtype)
    compiled.column_sum(delta, column_sum)
    if m * j * k >= _LARGE and 1 not in (j, k):
        return delta.T @ a, column_sum
    product = np.empty((j, k), delta.dtype)
    (compiled.matrix_vector if 1 in (j, k) else compiled.outer_sum)(delta, a, product)
    return product, column_sum
