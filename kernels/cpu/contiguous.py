"""Rows one after another, as NumPy has them: formula kernels, BP4's sum, and training by BLAS.

Compiled from a copy in the cache, see ``generated``. The kernels of ``blocks`` work on columns of
whole vectors. An elementwise one does not care where rows end, so a contiguous array is one such
column with a shorter last vector; softmax takes each row for itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gpubp.kernels.cpu.calls import call_kernel
from gpubp.kernels.cpu.gemm import gemm
from gpubp.kernels.cpu.simd import lane_count

_jit = njit(nogil=True, error_model="numpy", boundscheck=False)
_cached_jit = njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)


@_jit
def each(kernel, size, z, a, v, y, y0, out, at):
    """``kernel`` on ``size`` elements of z, a, v, out from ``at`` on, and of y from ``y0``.

    Whole vectors are read and written: behind the last element must be room for one.
    """
    lanes = lane_count(z[0])
    whole = size // lanes
    cost = call_kernel(kernel, whole, 0, lanes, z, at, a, at, v, at, y, y0, out, at)
    if whole * lanes < size:
        at, y0 = at + whole * lanes, y0 + whole * lanes
        cost += call_kernel(kernel, 1, 0, size - whole * lanes, z, at, a, at, v, at, y, y0, out, at)
    return cost


@_cached_jit
def hadamard(kernel, v, z, a, out, rest):
    """out = v (x) sigma'(z), all one-dimensional; ``rest`` (4, lanes) takes the last, part vector,
    so that nothing behind the arrays is touched."""
    lanes = lane_count(z[0])
    whole = z.size // lanes * lanes
    if whole:
        each(kernel, whole, z, a, v, v, 0, out, 0)
    if whole < z.size:
        for i in range(z.size - whole):
            rest[0, i], rest[1, i], rest[2, i] = z[whole + i], a[whole + i], v[whole + i]
        each(kernel, z.size - whole, rest[0], rest[1], rest[2], rest[2], 0, rest[3], 0)
        for i in range(z.size - whole):
            out[whole + i] = rest[3, i]


@_cached_jit
def outer_sum(address, delta, a, product, column_sum, wide_product, wide_sum):
    """product (j, k) = delta^T a and column_sum (j,), for delta (m, j) and a (m, k).

    ``wide_product`` and ``wide_sum`` are float64 zeros of their shapes; the first is used, and need
    be there, only for a single column.
    """
    m, j = delta.shape
    k = a.shape[1]
    one, zero = delta.dtype.type(1), delta.dtype.type(0)
    if j > 1 and k > 1:
        gemm(address, True, False, j, k, m, one, delta, 0, j, a, 0, k, zero, product, 0, k)
    else:
        for row in range(m):
            for column in range(j):
                for unit in range(k):
                    wide_product[column, unit] += np.float64(delta[row, column]) * a[row, unit]
        product[:] = wide_product
    for row in range(m):
        for column in range(j):
            wide_sum[column] += delta[row, column]
    column_sum[:] = wide_sum
