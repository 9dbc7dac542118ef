"""The whole algorithm on BLAS: for layers whose weights leave the cache; see ``contiguous.train``.

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

from gpubp.activation import Softmax
from gpubp.kernels.cpu import simd
from gpubp.kernels.cpu.blocks import stepper_kernels
from gpubp.kernels.cpu.gemm import gemm_address
from gpubp.kernels.cpu.generated import load_compiled
from gpubp.parameters import Parameters
from gpubp.plan import Plan


class BlasStepper:
    """Mini-batch SGD by BLAS; what it computes is defined by the reference's Stepper.

    x is (n, n_1) of the plan's dtype or uint8; y is (n,) labels or (n, n_L) targets; all C-ordered.
    """

    def __init__(self, plan: Plan, parameters: Parameters, x: Any, y: Any) -> None:
        dtype = np.dtype(plan.dtype)
        self.plan, self.parameters, self._x = plan, parameters, x
        self._train = load_compiled("contiguous").train
        self._one_is = dtype.type(255 if x.dtype == np.uint8 else 1)
        self._labels = y if y.ndim == 1 else np.empty(0, np.int64)
        self._targets = y if y.ndim == 2 else np.empty((0, 0), dtype)
        self._sizes = np.array(plan.sizes, np.int64)
        lanes = simd.REGISTER_BYTES // dtype.itemsize  # the kernels write whole vectors
        rooms = [(plan.batch_size * n // lanes + 2) * lanes for n in plan.sizes]
        self._starts = np.cumsum([0, *rooms])[:-1]
        self._y = np.zeros(rooms[-1], dtype)
        self._a, self._z, self._delta = (np.zeros(sum(rooms), dtype) for _ in range(3))
        self._column = np.empty(max(plan.sizes), dtype)
        buffered = bool(plan.rule.momentum or plan.rule.penalised)
        self._gradient = np.empty(parameters.flat.size if buffered else 0, dtype)
        self._none = np.empty(0, dtype)
        self._gemm = gemm_address(dtype.name)
        self._kernels = stepper_kernels(plan)

    def run(self, order: Any, learning_rate: float) -> float:
        """Train on the examples of ``order``; the mean of their objective before each update."""
        plan, rule, T = self.plan, self.plan.rule, np.dtype(self.plan.dtype).type
        velocity = self._none if self.parameters.velocity is None else self.parameters.velocity
        total = self._train(
            order, T(learning_rate), plan.batch_size, self._sizes, self._starts,
            self.parameters.flat, velocity, self._gradient,
            self._x, self._one_is, self._labels, self._targets,
            self._y, self._a, self._z, self._delta, self._column, self._gemm, self._kernels,
            isinstance(plan.activations[-1], Softmax),
            T(rule.momentum), rule.nesterov, T(rule.l2), T(rule.l1),
        )  # fmt: skip
        return float(total) / len(order)
