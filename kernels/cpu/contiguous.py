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


@_jit
def each_row(kernel, m, n, z, a, v, y, y0, out, at):
    """The same for a kernel that looks at whole rows: m rows of n."""
    cost = 0.0
    for row in range(0, m * n, n):
        # What is written behind a row's end is overwritten by the next row.
        cost += call_kernel(
            kernel, 1, lane_count(z[0]), n, z, at + row, a, at + row, v, at + row, y, y0 + row,
            out, at + row,
        )  # fmt: skip
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


@_jit
def _gather(x, one_is, labels, targets, order, start, m, n_in, n_out, a, y):
    """Rows of x / one_is as a^1, rows of y as targets (labels as unit vectors)."""
    zero, one = y.dtype.type(0), y.dtype.type(1)
    for i in range(m):
        row = order[start + i]
        for k in range(n_in):
            a[i * n_in + k] = a.dtype.type(x[row, k]) / one_is
        for j in range(n_out):
            if labels.size:
                y[i * n_out + j] = one if labels[row] == j else zero
            else:
                y[i * n_out + j] = targets[row, j]


@_jit
def _penalty(w, n_weights, l2, l1):
    squares, magnitudes = 0.0, 0.0
    for i in range(n_weights):
        squares += w[i] * w[i]
        magnitudes += abs(w[i])
    return 0.5 * l2 * squares + l1 * magnitudes


@_jit
def _update(w, v, g, n_weights, eta, momentum, nesterov, l2, l1):
    """v <- mu v - eta g, w <- w + v (or + mu v - eta g); without momentum w <- w - eta g."""
    for i in range(w.size):
        gradient = g[i]
        if i < n_weights:
            gradient += l2 * w[i] + l1 * np.sign(w[i])
        step = eta * gradient
        if v.size:
            v[i] = momentum * v[i] - step
            w[i] += momentum * v[i] - step if nesterov else v[i]
        else:
            w[i] -= step


@_cached_jit
def train(order, eta, batch, sizes, starts, w, v, g, x, one_is, labels, targets, y, a, z, delta,
          column, gemm_at, kernels, by_rows, momentum, nesterov, l2, l1):  # fmt: skip
    """Train on ``order``; the sum over its examples of their mini-batch's objective.

    ``a`` holds a^1 .. a^L, layer l from ``starts[l]`` on; ``z`` and ``delta`` alike. ``kernels``:
    output, then (sigma, hadamard) a layer, as addresses; ``by_rows``: the output layer's look at
    whole rows. ``column`` has room for the widest layer.
    """
    T = w.dtype.type
    zero, one = T(0), T(1)
    depth = sizes.size - 1
    n_weights = 0
    for l in range(depth):
        n_weights += sizes[l] * sizes[l + 1]
    total = 0.0
    for start in range(0, order.size, batch):
        m = min(batch, order.size - start)
        _gather(x, one_is, labels, targets, order, start, m, sizes[0], sizes[-1], a, y)

        # Forward: z^l = w^l a^{l-1} + b^l, a^l = sigma(z^l).
        w_at, b_at = 0, n_weights
        for l in range(depth):
            n_in, n_out, to = sizes[l], sizes[l + 1], starts[l + 1]
            for i in range(m):
                for j in range(n_out):
                    z[to + i * n_out + j] = w[b_at + j]
            gemm(gemm_at, False, True, m, n_out, n_in, one,
                 a, starts[l], n_in, w, w_at, n_in, one, z, to, n_out)  # fmt: skip
            if by_rows and l == depth - 1:
                each_row(kernels[1 + 2 * l], m, n_out, z, a, z, y, 0, delta, to)
            else:
                each(kernels[1 + 2 * l], m * n_out, z, a, z, y, 0, delta, to)
            w_at, b_at = w_at + n_in * n_out, b_at + n_out

        # BP1, and the cost before the update.
        if by_rows:
            total += each_row(kernels[0], m, sizes[-1], z, a, z, y, 0, delta, starts[depth])
        else:
            total += each(kernels[0], m * sizes[-1], z, a, z, y, 0, delta, starts[depth])
        if l2 != zero or l1 != zero:
            total += m * _penalty(w, n_weights, l2, l1)

        # From the output back: BP2 with w^l as it was in the forward pass, then its update.
        fused = g.size == 0
        into = w if fused else g
        scale = -eta / T(m) if fused else one / T(m)
        keep = one if fused else zero
        for l in range(depth - 1, -1, -1):
            n_in, n_out, at, below = sizes[l], sizes[l + 1], starts[l + 1], starts[l]
            w_at, b_at = w_at - n_in * n_out, b_at - n_out
            if l > 0:  # BP2, in place: delta below holds v until (x) sigma' has read it
                gemm(gemm_at, False, False, m, n_in, n_out, one,
                     delta, at, n_out, w, w_at, n_in, zero, delta, below, n_in)  # fmt: skip
                each(kernels[2 * l], m * n_in, z, a, delta, y, 0, delta, below)
            # BP4 and BP3, summed over the mini-batch, into the weights or into g.
            gemm(gemm_at, True, False, n_out, n_in, m, scale,
                 delta, at, n_out, a, below, n_in, keep, into, w_at, n_in)  # fmt: skip
            column[:n_out] = zero
            for i in range(m):
                for j in range(n_out):
                    column[j] += delta[at + i * n_out + j]
            for j in range(n_out):
                into[b_at + j] = keep * into[b_at + j] + scale * column[j]
        if not fused:
            _update(w, v, g, n_weights, eta, momentum, nesterov, l2, l1)
    return total
