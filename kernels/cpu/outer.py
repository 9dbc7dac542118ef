"""BP4 and BP3 summed over a mini-batch: sum_x delta a^T and sum_x delta.

The plain twin is ``delta.T @ a, delta.sum(axis=0)``. The product is BLAS's. The column sums are
taken in one pass over delta while it is in cache, and in float64: the sum of many rows one after
another would lose digits that NumPy's pairwise sum keeps, and in float64 it costs nothing, because
the pass waits for memory. A product with a single column is such a sum too, and is done alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.kernels.cpu.gemm import gemm_address
from gpubp.kernels.cpu.generated import load_compiled


def outer_sum(delta: Any, a: Any) -> tuple[Any, Any]:
    """(sum_x delta a^T, sum_x delta): BP4 and BP3 summed over the rows of (m, j) and (m, k)."""
    delta, a = np.ascontiguousarray(delta), np.ascontiguousarray(a)
    if delta.ndim != 2 or a.ndim != 2 or len(delta) != len(a):
        raise ValueError(f"delta {delta.shape} and a {a.shape} must be 2-D with equal rows")
    if delta.dtype != a.dtype or delta.dtype not in (np.float32, np.float64):
        raise TypeError(f"delta {delta.dtype} and a {a.dtype} must both be float32 or float64")
    shape = delta.shape[1], a.shape[1]
    product, column_sum = np.zeros(shape, delta.dtype), np.zeros(shape[0], delta.dtype)
    if delta.size and a.size:
        load_compiled("contiguous").outer_sum(
            gemm_address(delta.dtype.name), delta, a, product, column_sum,
            np.zeros(shape if 1 in shape else (0, 0)), np.zeros(shape[0]),
        )  # fmt: skip
    return product, column_sum
