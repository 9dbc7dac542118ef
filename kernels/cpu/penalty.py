"""The penalty on whole vectors of weights, for both engines."""

from __future__ import annotations

from numba import njit

from gpubp.kernels.cpu.simd import lane_count, lane_sum_float64, load, splat
from gpubp.kernels.cpu.vmath import absolute

_jit = njit(nogil=True, error_model="numpy", boundscheck=False)


@_jit
def penalty(w, start, count, l2, l1):
    """1/2 l2 ||w||^2 + l1 |w|_1 of w[start : start + count]; blocks are added in float64"""
    squares, sizes = 0.0, 0.0
    lanes = lane_count(l2)
    for block in range(start, start + count, 16 * lanes):
        square = splat(l2 - l2)
        size = square
        for i in range(block, min(block + 16 * lanes, start + count), lanes):
            weight = load(w, i)
            square = square + weight * weight
            size = size + absolute(weight)
        squares += lane_sum_float64(square)
        sizes += lane_sum_float64(size)
    return 0.5 * l2 * squares + l1 * sizes
