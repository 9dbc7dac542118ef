"""Rows of a sparse x, written out where the engines read dense ones."""

from __future__ import annotations

from numba import njit

from gpubp.kernels.cpu.simd import get, put


@njit(nogil=True, error_model="numpy", boundscheck=False)
def write_row(values, starts, columns, row, fill, x, to):
    """Row ``row`` of CSR arrays into zeros of x from ``to`` on; without ``fill`` zeros again.

    The row's values and columns lie from ``starts[row]`` on. Each thread has room of its own in x,
    and leaves it zero, so that a row costs what its values cost.
    """
    for e in range(get(starts, row), get(starts, row + 1)):
        put(x, to + get(columns, e), get(values, e) if fill else x.dtype.type(0))
