"""BP4 and BP3 summed over a mini-batch: sum_x delta a^T and sum_x delta.

The plain twin is ``delta.T @ a, delta.sum(axis=0)``. The product is BLAS's. The column sums are
taken in one pass over delta while it is in cache, and in float64: the sum of many rows one after
another would lose digits that NumPy's pairwise sum keeps, and in float64 it costs nothing, because
the pass waits for memory. A product with a single column is such a sum too, and is done alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from gpubp.kernels.cpu.intrinsics import gemm, gemm_address


@njit(cache=True, nogil=True)
def _outer_sum(address, delta, a, product, column_sum):
    m, j = delta.shape
    k = a.shape[1]
    one, zero = delta.dtype.type(1), delta.dtype.type(0)
    if j > 1 and k > 1:
        gemm(address, True, False, j, k, m, one, delta, 0, j, a, 0, k, zero, product, 0, k)
    else:
        wide_product = np.zeros((j, k))
        for row in range(m):
            for column in range(j):
                for unit in range(k):
                    wide_product[column, unit] += np.float64(delta[row, column]) * a[row, unit]
        product[:] = wide_product
    wide_sum = np.zeros(j)
    for row in range(m):
        for column in range(j):
            wide_sum[column] += delta[row, column]
    column_sum[:] = wide_sum


def outer_sum(delta: Any, a: Any) -> tuple[Any, Any]:
    """(sum_x delta a^T, sum_x delta): BP4 and BP3 summed over the rows of (m, j) and (m, k)."""
    delta, a = np.ascontiguousarray(delta), np.ascontiguousarray(a)
    if delta.ndim != 2 or a.ndim != 2 or len(delta) != len(a):
        raise ValueError(f"delta {delta.shape} and a {a.shape} must be 2-D with equal rows")
    if delta.dtype != a.dtype or delta.dtype not in (np.float32, np.float64):
        raise TypeError(f"delta {delta.dtype} and a {a.dtype} must both be float32 or float64")
    product = np.zeros((delta.shape[1], a.shape[1]), delta.dtype)
    column_sum = np.zeros(delta.shape[1], delta.dtype)
    if delta.size and a.size:
        _outer_sum(gemm_address(delta.dtype.name), delta, a, product, column_sum)
    return product, column_sum
