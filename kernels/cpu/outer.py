"""BP4 and BP3 summed over a mini-batch: sum_x delta a^T and sum_x delta.

The plain twin is ``delta.T @ a, delta.sum(axis=0)``. The product is the tile that training uses, on
panels of a, each packed once and then read from cache by all units; threads share the panels. The
column sums are taken in one pass over delta in float64: the sum of many rows one after another
would lose digits, and the pass waits for memory anyway. A product with a single row or column is
such a sum too, and is done alike.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from gpubp.kernels.cpu.generated import load_compiled
from gpubp.plan import threads_at_hand

_SHARED = 5e7  # products from which waking threads pays: half a millisecond


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work: starting them takes longer than most products."""
    return ThreadPoolExecutor(threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def outer_sum(delta: Any, a: Any) -> tuple[Any, Any]:
    """(sum_x delta a^T, sum_x delta): BP4 and BP3 summed over the rows of (m, j) and (m, k)."""
    delta, a = np.ascontiguousarray(delta), np.ascontiguousarray(a)
    if delta.ndim != 2 or a.ndim != 2 or len(delta) != len(a):
        raise ValueError(f"delta {delta.shape} and a {a.shape} must be 2-D with equal rows")
    if delta.dtype != a.dtype or delta.dtype not in (np.float32, np.float64):
        raise TypeError(f"delta {delta.dtype} and a {a.dtype} must both be float32 or float64")
    (m, j), k = delta.shape, a.shape[1]
    product, column_sum = np.empty((j, k), delta.dtype), np.empty(j, delta.dtype)
    compiled = load_compiled("contiguous")
    compiled.column_sum(delta, column_sum)
    if 1 in (j, k):
        compiled.matrix_vector(delta, a, product)
    elif m * j * k < _SHARED:
        compiled.outer_sum(0, 1, delta, a, product)
    else:
        threads = threads_at_hand()
        others = [
            _pool(threads - 1).submit(compiled.outer_sum, thread, threads, delta, a, product)
            for thread in range(1, threads)
        ]
        compiled.outer_sum(0, threads, delta, a, product)
        for other in others:
            other.result()
    return product, column_sum
