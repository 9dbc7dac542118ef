"""The whole algorithm for consecutive mini-batches in one compiled function.

The plain twin is ``kernels/reference.py``. Per mini-batch: gather the rows, forward, BP1, BP2,
BP3, BP4 and the update, in buffers laid out once. BLAS does the products, with its alpha and beta
carrying the rest: the bias is what z holds before ``z += a w^T`` (beta = 1), and for plain SGD
the weight gradient is never stored, since

    w <- w - (eta/m) sum_x delta a^T          is one product with beta = 1 and alpha = -eta/m.

With momentum or a penalty the gradient goes to a buffer and one pass updates weights and velocity.
(L2 as beta = 1 - eta l2 would save that pass too, but in float32 a small eta l2 rounds away.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from gpubp.activation import Activation
from gpubp.kernels.cpu.elementwise import hadamard_kernel, output_kernel, sigma_kernel
from gpubp.kernels.cpu.intrinsics import call_elementwise, gemm, gemm_address
from gpubp.parameters import Parameters
from gpubp.plan import Plan


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy")
def _penalty(w, n_weights, l2, l1):
    squares, magnitudes = 0.0, 0.0
    for i in range(n_weights):
        squares += w[i] * w[i]
        magnitudes += abs(w[i])
    return 0.5 * l2 * squares + l1 * magnitudes


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy")
def _run(order, eta, batch, sizes, w, v, g, x, one_is, labels, targets, y, a, z, delta,
         kernels, momentum, nesterov, l2, l1):  # fmt: skip
    """Train on ``order``; the sum over its examples of their mini-batch's objective.

    ``a`` holds a^1 .. a^L one after another, ``z`` and ``delta`` their like with room for a^1 too,
    so that one offset serves the three. ``kernels``: gemm, output, then (sigma, hadamard) a layer.
    """
    T = w.dtype.type
    zero, one = T(0), T(1)
    layers = sizes.size - 1
    n_weights = 0
    for l in range(layers):
        n_weights += sizes[l] * sizes[l + 1]
    total = 0.0
    for start in range(0, order.size, batch):
        m = min(batch, order.size - start)
        _gather(x, one_is, labels, targets, order, start, m, sizes[0], sizes[-1], a, y)

        # Forward: z^l = w^l a^{l-1} + b^l, a^l = sigma(z^l).
        at, w_at, b_at = 0, 0, n_weights
        for l in range(layers):
            n_in, n_out = sizes[l], sizes[l + 1]
            to = at + batch * n_in
            for i in range(m):
                for j in range(n_out):
                    z[to + i * n_out + j] = w[b_at + j]
            gemm(kernels[0], False, True, m, n_out, n_in, one,
                 a, at, n_in, w, w_at, n_in, one, z, to, n_out)  # fmt: skip
            call_elementwise(kernels[2 + 2 * l], m, n_out, z, to, a, to, z, to, y, 0, delta, to)
            at, w_at, b_at = to, w_at + n_in * n_out, b_at + n_out

        # BP1, and the cost before the update.
        total += call_elementwise(kernels[1], m, sizes[-1], z, at, a, at, z, at, y, 0, delta, at)
        if l2 != zero or l1 != zero:
            total += m * _penalty(w, n_weights, l2, l1)

        # From the output back: BP2 with w^l as it was in the forward pass, then its update.
        fused = g.size == 0
        for l in range(layers - 1, -1, -1):
            n_in, n_out = sizes[l], sizes[l + 1]
            below = at - batch * n_in
            w_at, b_at = w_at - n_in * n_out, b_at - n_out
            if l > 0:  # BP2; z below holds v until (x) sigma' has read it
                gemm(kernels[0], False, False, m, n_in, n_out, one,
                     delta, at, n_out, w, w_at, n_in, zero, delta, below, n_in)  # fmt: skip
                call_elementwise(kernels[1 + 2 * l], m, n_in,
                                 z, below, a, below, delta, below, y, 0, delta, below)  # fmt: skip
            # BP3 and BP4, summed over the mini-batch, into the weights or into g.
            into = w if fused else g
            scale = -eta / T(m) if fused else one / T(m)
            keep = one if fused else zero
            gemm(kernels[0], True, False, n_out, n_in, m, scale,
                 delta, at, n_out, a, below, n_in, keep, into, w_at, n_in)  # fmt: skip
            for j in range(n_out):
                column = zero
                for i in range(m):
                    column += delta[at + i * n_out + j]
                into[b_at + j] = (w[b_at + j] if fused else zero) + scale * column
            at = below
        if not fused:
            _update(w, v, g, n_weights, eta, momentum, nesterov, l2, l1)
    return total


class Stepper:
    """Mini-batch SGD on the CPU; what it computes is defined by the reference's Stepper.

    x is (n, n_1) of the plan's dtype or uint8; y is (n,) labels or (n, n_L) targets; all C-ordered.
    """

    def __init__(self, plan: Plan, parameters: Parameters, x: Any, y: Any) -> None:
        dtype = np.dtype(plan.dtype)
        name = dtype.name
        self.plan, self.parameters, self.x = plan, parameters, x
        self._one_is = dtype.type(255 if x.dtype == np.uint8 else 1)
        self._labels = y if y.ndim == 1 else np.empty(0, np.int64)
        self._targets = y if y.ndim == 2 else np.empty((0, 0), dtype)
        self._sizes = np.array(plan.sizes, np.int64)
        room = plan.batch_size * sum(plan.sizes)
        self._y = np.empty(plan.batch_size * plan.sizes[-1], dtype)
        self._a, self._z, self._delta = (np.empty(room, dtype) for _ in range(3))
        rule = plan.rule
        buffered = bool(rule.momentum or rule.penalised)
        self._gradient = np.empty(parameters.flat.size if buffered else 0, dtype)
        self._none = np.empty(0, dtype)
        hidden: list[int] = []
        for activation in plan.activations[:-1]:
            assert isinstance(activation, Activation)
            hidden += [sigma_kernel(activation, name), hadamard_kernel(activation, name)]
        self._kernels = np.array(
            [
                gemm_address(name),
                output_kernel(plan.activations[-1], plan.cost, name),
                *hidden,
                sigma_kernel(plan.activations[-1], name),
            ],
            np.int64,
        )

    def run(self, order: Any, learning_rate: float) -> float:
        """Train on the examples of ``order``; the mean of their objective before each update."""
        rule, T = self.plan.rule, np.dtype(self.plan.dtype).type
        velocity = self._none if self.parameters.velocity is None else self.parameters.velocity
        total = _run(
            order, T(learning_rate), self.plan.batch_size, self._sizes,
            self.parameters.flat, velocity, self._gradient,
            self.x, self._one_is, self._labels, self._targets,
            self._y, self._a, self._z, self._delta, self._kernels,
            T(rule.momentum), rule.nesterov, T(rule.l2), T(rule.l1),
        )  # fmt: skip
        return float(total) / len(order)
