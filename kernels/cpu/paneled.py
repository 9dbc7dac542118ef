"""The panels engine behind the contract's ``Stepper``: layout, lists, and copies in and out."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numba import types

from gpubp.kernels.cpu import simd
from gpubp.kernels.cpu.generated import load_compiled
from gpubp.kernels.cpu.threaded import ThreadedStepper, aligned
from gpubp.parameters import Parameters
from gpubp.plan import Plan


def panel_shape(batch: int, dtype: Any) -> tuple[int, int]:
    """(examples of a block, vectors of a panel): the sums of a tile fill the registers."""
    rows = min(4, simd.lanes(dtype)) if batch > 1 else 1
    return rows, 4 if simd.REGISTERS == 32 else 2


class PanelStepper(ThreadedStepper):
    """Mini-batch SGD on panels; what it computes is defined by the reference's Stepper."""

    def __init__(
        self, plan: Plan, parameters: Parameters, x: Any, y: Any, threads: int = 1
    ) -> None:
        dtype = np.dtype(plan.dtype)
        number = types.float32 if dtype == np.float32 else types.float64
        lanes, sizes, m = simd.lanes(number), plan.sizes, plan.batch_size
        rows, wide = panel_shape(m, number)
        super().__init__(plan, parameters, x, y, threads, threads * rows)
        self._engine = engine = load_compiled("panels")
        self._shape = (None,) * rows, (None,) * wide
        blocks = -(-m // rows)
        self._by_rows = blocks >= 2 * threads

        def vectors(n: int) -> int:
            return -(-n // lanes)

        def block(n: int) -> int:
            # An odd number of panels: a power of two would put the same columns of all blocks
            # into a few sets of the cache.
            return (-(-vectors(n) // wide) | 1) * wide * rows * lanes

        # Where everything lies: parameters first, then w^T, then a^1 and z, a, delta of each layer.
        depth, end = len(sizes) - 1, 0
        self._layers = layers = np.zeros((depth, engine.FIELDS), np.int64)

        def place(l: int, field: int, size: int) -> None:
            nonlocal end
            layers[l, field], end = end, end + size

        def panels(n_in: int, n_out: int) -> int:
            return -(-vectors(n_out) // wide) * wide * lanes * vectors(n_in) * lanes

        for l, (n_in, n_out) in enumerate(pairwise(sizes)):
            layers[l, [engine.N_IN, engine.N_OUT]] = n_in, n_out
            place(l, engine.W, panels(n_in, n_out))
            place(l, engine.B, vectors(n_out) * lanes)
        n_parameters = end
        place(0, engine.A_IN, blocks * block(sizes[0]))
        layers[0, engine.IN_BLOCK] = block(sizes[0])
        for l, (n_in, n_out) in enumerate(pairwise(sizes)):
            if l > 0:
                place(l, engine.WT, panels(n_out, n_in))
                layers[l, [engine.A_IN, engine.IN_BLOCK]] = layers[
                    l - 1, [engine.A, engine.BLOCK]
                ]
            layers[l, engine.BLOCK] = block(n_out)
            for field in (engine.Z, engine.A, engine.DELTA):
                place(l, field, blocks * block(n_out))
        self._p = aligned(end, dtype)
        self._v = aligned(n_parameters if plan.rule.momentum else 0, dtype)
        self._g = [aligned(lanes * wide * lanes, dtype) for _ in range(threads)]
        self._y = aligned(blocks * block(sizes[-1]), dtype)

        # Lists begin with an entry for every unit or every example, layer by layer.
        unit, example = np.arange(max(sizes)), np.arange(m)
        self._list_step = -(-(max(sizes) + simd.REGISTER_BYTES // 4) // 16) * 16
        self._a_list, self._b_list = aligned((2, (1 + blocks) * self._list_step), np.int32)
        self._a_list[: len(unit)] = unit // lanes * rows * lanes + unit % lanes
        self._b_list[: len(unit)] = unit * wide * lanes
        self._rows_step = -(-(m + simd.REGISTER_BYTES // 4) // 16) * 16
        groups = vectors(sizes[0]) * lanes // rows
        self._a_rows, self._b_rows = aligned((2, (depth + groups) * self._rows_step), np.int32)
        for l in range(depth):
            at = slice(l * self._rows_step, l * self._rows_step + m)
            inside = example % rows * lanes
            self._a_rows[at] = example // rows * layers[l, engine.IN_BLOCK] + inside
            self._b_rows[at] = example // rows * layers[l, engine.BLOCK] + inside
        self._counts = aligned(blocks, np.int64)
        self._row_counts = aligned(groups, np.int64)
        self._mask_step = self._rows_step
        self._masks = aligned(vectors(sizes[0]) * self._mask_step, np.int32)
        self._at = aligned(m, np.int64)
        self._costs = aligned(blocks, np.float64)
        self._penalties = aligned(n_parameters // (wide * lanes * lanes) + 1, np.float64)

    def _train(self, thread: int, threads: int, order: Any, learning_rate: float) -> float:
        rule, number = self.plan.rule, np.dtype(self.plan.dtype).type
        return float(
            self._engine.train(
                thread, threads, self._by_rows, self._state, *self._shape,
                order, self.plan.batch_size, number(learning_rate),
                self._x, self._values, self._starts, self._columns, self._scale,
                self._labels, self._targets, self._layers, self._p, self._v, self._g[thread],
                number(rule.momentum), rule.nesterov, number(rule.l2), number(rule.l1),
                self._at, self._a_list, self._b_list, self._list_step, self._counts,
                self._a_rows, self._b_rows, self._rows_step, self._row_counts,
                self._masks, self._mask_step, self._y, self._costs, self._penalties,
                self._kernels,
            )
        )  # fmt: skip

    def _copy(self, inward: bool) -> None:
        self._engine.copy(inward, self._shape[1], self._layers, self.parameters.flat, self._p, True)
        if self.parameters.velocity is not None and self._v.size:
            self._engine.copy(
                inward, self._shape[1], self._layers, self.parameters.velocity, self._v, False
            )
