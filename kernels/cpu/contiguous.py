"""Rows one after another, as NumPy has them: formula kernels and BP4's sum.

Compiled from a copy in the cache, see ``generated``. The kernels of ``blocks`` work on columns of
whole vectors. An elementwise one does not care where rows end, so a contiguous array is one such
column with a shorter last vector; softmax takes each row for itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gpubp.kernels.cpu.calls import call_kernel
from gpubp.kernels.cpu.machine_code import kept_jit
from gpubp.kernels.cpu.simd import REGISTERS, get, lane_count, load, put, store
from gpubp.kernels.cpu.tile import product_tile

PART = 512  # terms summed at once: a long sum in parts rounds less
IN_PLACE = 32  # rows of a that stay in the innermost cache, so that copying them gains nothing
LINE = 64  # bytes of a cache line
# Their lengths count: units and vectors of columns of a tile, whose sums fill the registers.
UNITS, WIDE, ONE = (0, 0, 0, 0), (0,) * (4 if REGISTERS == 32 else 2), (0,)

_jit = njit(nogil=True, error_model="numpy", boundscheck=False)


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


@kept_jit
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


@_jit
def _tile(wide, m, delta, delta0, delta_rows, a, a0, a_rows, c, c0, c_step):
    """A tile of sum_x delta a^T, at c0 of c, whose rows are ``c_step`` apart"""
    one = c.dtype.type(1)
    product_tile(UNITS, wide, ONE, True, True, delta, delta0, delta_rows, 0, a, a0, a_rows, 0,
                 min(PART, m), c, c0, c_step, one)  # fmt: skip
    for first in range(PART, m, PART):
        product_tile(UNITS, wide, ONE, True, False, delta, delta0, delta_rows, first,
                     a, a0, a_rows, first, min(PART, m - first), c, c0, c_step, one)  # fmt: skip


@_jit
def _copy(source, at, n, to, there):
    """n elements, a vector at a time; nothing behind them is touched"""
    lanes = lane_count(source[0])
    for i in range(0, n, lanes):
        if i + lanes <= n:
            store(to, there + i, load(source, at + i))
        else:
            for lane in range(i, n):
                put(to, there + lane, get(source, at + lane))


@kept_jit
def outer_sum(delta, a, product):
    """product (j, k) = delta^T a, for delta (m, j) and a (m, k).

    Both are copied so that a tile reads neighbours: delta in groups of UNITS columns, and of more
    than a few rows of a the panel that is worked on, WIDE vectors across. Tiles at the edges go by
    way of ``room``.
    """
    (m, n_out), n_in = delta.shape, a.shape[1]
    delta, a, product = delta.reshape(-1), a.reshape(-1), product.reshape(-1)
    lanes, tall = lane_count(delta[0]), len(UNITS)
    panel, line = len(WIDE) * lanes, LINE // delta.itemsize
    groups = (n_out + tall - 1) // tall
    # An odd number of lines: a power of two would put all groups into a few sets of the cache.
    group_step = ((m * tall + line - 1) // line | 1) * line
    memory = np.empty((m + tall) * panel + groups * group_step + line, delta.dtype)
    memory = memory[-memory.ctypes.data % LINE // memory.itemsize :]  # no vector straddles lines
    columns, room = memory[: m * panel], memory[m * panel :]
    units = room[tall * panel :]
    unit_rows, column_rows = np.empty(m, np.int32), np.empty((2, m), np.int32)
    for x in range(m):
        unit_rows[x], column_rows[0, x], column_rows[1, x] = x * tall, x * panel, x * n_in
        row, to = x * n_out, x * tall
        for _ in range(n_out // tall):
            for j in range(tall):
                put(units, to + j, get(delta, row + j))
            row, to = row + tall, to + group_step
        for j in range(n_out % tall):
            put(units, to + j, get(delta, row + j))
    for k in range(0, n_in, panel):
        n = min(panel, n_in - k)
        source, source0, source_rows = a, k, column_rows[1]
        if n < panel or m > IN_PLACE:
            source, source0, source_rows = columns, 0, column_rows[0]
            for x in range(m):
                _copy(a, x * n_in + k, n, columns, x * panel)
        for group in range(groups):
            j, at = group * tall, group * group_step
            rows, to = min(tall, n_out - j), j * n_in + k
            if n == panel and rows == tall:
                _tile(WIDE, m, units, at, unit_rows, source, source0, source_rows,
                      product, to, n_in)  # fmt: skip
            elif n == panel:
                _tile(WIDE, m, units, at, unit_rows, source, source0, source_rows,
                      room, 0, panel)  # fmt: skip
                for i in range(rows):
                    _copy(room, i * panel, n, product, to + i * n_in)
            else:
                for c in range(0, n, lanes):
                    _tile(ONE, m, units, at, unit_rows, columns, c, source_rows, room, 0, lanes)
                    for i in range(rows):
                        _copy(room, i * lanes, min(lanes, n - c), product, to + i * n_in + c)


@kept_jit
def column_sum(delta, out):
    """out (j,) = sum_x delta, for delta (m, j), added up in float64."""
    wide = np.zeros(delta.shape[1])
    for x in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            wide[j] += delta[x, j]
    out[:] = wide


@kept_jit
def matrix_vector(delta, a, product):
    """product (j, k) = delta^T a where j or k is 1, added up in float64."""
    wide = np.zeros(product.shape)
    for x in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            for k in range(a.shape[1]):
                wide[j, k] += np.float64(delta[x, j]) * a[x, k]
    product[:] = wide
