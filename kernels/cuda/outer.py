"""BP4 and BP3 alone: sum_x delta a^T and sum_x delta of a mini-batch; see ``outer_sum.cu``."""

from __future__ import annotations

from typing import Any

import cupy as cp

from gpubp.arrays import check_outer
from gpubp.kernels.cuda.launch import load_product


def outer_sum(delta: Any, a: Any) -> tuple[Any, Any]:
    """(sum_x delta a^T, sum_x delta): BP4 and BP3 summed over the rows of (m, j) and (m, k)."""
    delta, a = cp.ascontiguousarray(delta), cp.ascontiguousarray(a)
    check_outer(delta, a)
    (m, n), k = delta.shape, a.shape[1]
    if not delta.size or not a.size:
        return cp.zeros((n, k), delta.dtype), delta.sum(axis=0)
    kernel = load_product(
        "outer_sum", delta.dtype.name, {}, (n, k, m),
        GATHER=0, UPDATE=0, Input="T", N="n", K="k", DELTA_RUN=1, X_RUN=1,
    )  # fmt: skip
    product, column_sum = cp.empty((n, k), delta.dtype), cp.empty(n, delta.dtype)
    kernel.product(n, k, m, n, k, delta, a, product, column_sum)
    return product, column_sum
