"""The panels engine behind the contract's ``Stepper``: layout, lists, and copies in and out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numba import types

from gpubp.activation import Activation, Softmax
from gpubp.cost import Cost
from gpubp.kernels.cpu import simd
from gpubp.kernels.cpu.generated import load_compiled
from gpubp.kernels.cpu.threaded import ThreadedStepper, Work, aligned
from gpubp.parameters import Parameters
from gpubp.plan import Plan

_LINE = 16  # int32 numbers to a cache line
_SCORED = 256  # examples at once: as many share each look at the weights


def _copy(array: Any) -> Any:
    copied = aligned(array.shape, array.dtype)
    copied[...] = array
    return copied


def panel_shape(batch: int, dtype: Any) -> tuple[int, int, int]:
    """(examples of a block, vectors of a panel, units of a group): a tile's sums fill registers."""
    return (4 if batch > 1 else 1), (4 if simd.REGISTERS == 32 else 2), min(4, simd.lanes(dtype))


class PanelStepper(ThreadedStepper):
    """Mini-batch SGD on panels; what it computes is defined by the reference's Stepper."""

    def __init__(
        self, plan: Plan, parameters: Parameters, x: Any, y: Any, threads: int = 1
    ) -> None:
        dtype = np.dtype(plan.dtype)
        number = types.float32 if dtype == np.float32 else types.float64
        lanes, sizes, m = simd.lanes(number), plan.sizes, plan.batch_size
        rows, wide, units = panel_shape(m, number)
        super().__init__(plan, parameters, x, y, threads, threads * rows)
        self._engine = engine = load_compiled("panels")
        self._shape = (None,) * rows, (None,) * wide, (None,) * units
        blocks = -(-m // rows)
        hidden = min((-(-n // (wide * lanes)) for n in sizes[1:-1]), default=0)
        self._by_rows = hidden < threads <= blocks

        def vectors(n: int) -> int:
            return -(-n // lanes)

        def block(n: int) -> int:
            # An odd number of panels: a power of two would put the same columns of all blocks
            # into a few sets of the cache.
            return (-(-vectors(n) // wide) | 1) * wide * rows * lanes

        # Where everything lies: parameters first, then w^T and z, a, delta of each layer.
        depth, end = len(sizes) - 1, 0
        self._layers = layers = np.zeros((depth, engine.FIELDS), np.int64)

        def place(l: int, field: int, size: int) -> None:
            nonlocal end
            layers[l, field], end = end, end + size

        def panels(n_in: int, n_out: int) -> int:
            return -(-vectors(n_out) // wide) * wide * lanes * vectors(n_in) * lanes

        for l, (n_in, n_out) in enumerate(pairwise(sizes)):
            layers[l, [engine.N_IN, engine.N_OUT, engine.BLOCK]] = n_in, n_out, block(n_out)
            place(l, engine.W, panels(n_in, n_out))
            place(l, engine.B, vectors(n_out) * lanes)
        n_parameters = end
        for l, (n_in, n_out) in enumerate(pairwise(sizes)):
            place(l, engine.WT, panels(n_out, n_in) if l > 0 else 0)
            for field in (engine.Z, engine.A, engine.DELTA):
                place(l, field, blocks * block(n_out))
        self._p = aligned(end, dtype)
        self._s = aligned((len(plan.rule.state), n_parameters), dtype)
        self._gradient = aligned(n_parameters if plan.rule.clipped else 0, dtype)
        sums = sum(
            -(-vectors(n_out) // wide) * vectors(n_in) + vectors(n_out)
            for n_in, n_out in pairwise(sizes)
        )
        self._squares = aligned(sums if plan.rule.clipped else 0, np.float64)
        self._y = aligned(blocks * block(sizes[-1]), dtype)
        self._by_block = aligned(blocks, np.float64)
        self._penalties = aligned(n_parameters // (wide * lanes * lanes) + 1, np.float64)

        # What threads have of their own, or by rows in common: a^1 and lists. The lists begin with
        # an entry for every unit, and for every example of each layer.
        def up(n: int) -> int:  # and room for one vector more
            return (n // _LINE + 2) * _LINE

        unit, example = np.arange(max(sizes)), np.arange(m)
        groups = vectors(sizes[0]) * lanes // units
        self._a1_step, self._list_step, self._rows_step = block(sizes[0]), up(max(sizes)), up(m)
        a_list, b_list = aligned((2, (1 + blocks) * self._list_step), np.int32)
        a_list[: len(unit)] = unit // lanes * rows * lanes + unit % lanes
        b_list[: len(unit)] = unit * wide * lanes
        a_rows, b_rows = aligned((2, (depth + groups) * self._rows_step), np.int32)
        for l in range(depth):
            at = slice(l * self._rows_step, l * self._rows_step + m)
            in_step = layers[l - 1, engine.BLOCK] if l > 0 else self._a1_step
            a_rows[at] = example // rows * in_step + example % rows * lanes
            b_rows[at] = example // rows * layers[l, engine.BLOCK] + example % rows * lanes
        own = {
            "a1": aligned(blocks * self._a1_step, dtype),
            "at": aligned(m, np.int64),
            "a_list": a_list, "b_list": b_list, "counts": aligned(blocks, np.int64),
            "a_rows": a_rows, "b_rows": b_rows, "row_counts": aligned(groups, np.int64),
            "masks": aligned(vectors(sizes[0]) * self._rows_step, np.int32),
        }  # fmt: skip
        self._g = [aligned(lanes * wide * lanes, dtype) for _ in range(threads)]
        self._own = [own]
        for _ in range(1, threads):
            self._own.append(own if self._by_rows else {name: _copy(own[name]) for name in own})

    def _train(self, thread: int, threads: int, state: Any, work: Work) -> None:
        own = self._own[thread]
        self._engine.train(
            thread, threads, self._by_rows, state, *self._shape,
            work.order, work.importance, self.plan.batch_size, work.numbers, self._rules,
            self._penalty_at, self.plan.rule.is_plain,
            self._x, self._values, self._starts, self._columns, self._scale,
            self._labels, self._targets, self._layers, self._p,
            self._s.reshape(-1), self._s.shape[1], self._g[thread], self._gradient,
            self._squares, self._number[thread],
            own["a1"], self._a1_step, own["at"],
            own["a_list"], own["b_list"], self._list_step, own["counts"],
            own["a_rows"], own["b_rows"], self._rows_step, own["row_counts"], own["masks"],
            self._y, self._by_block, self._penalties, work.costs, self._kernels,
        )  # fmt: skip

    def score(self) -> tuple[float, int]:
        """The summed cost of all examples, and how many are in the class of y, by one thread."""
        number, own = np.dtype(self.plan.dtype).type, self._own[0]
        flat, examples = self.parameters.flat, self.examples
        self._engine.copy(True, self._shape[1], self._layers, flat, self._p, False)
        total, right = self._engine.score(
            *self._shape[:2], np.arange(examples), np.zeros(0, self.plan.dtype),
            self.plan.batch_size, number(0.5),
            self._x, self._values, self._starts, self._columns, self._scale,
            self._labels, self._targets, self._layers, self._p,
            own["a1"], self._a1_step, own["at"],
            own["a_list"], own["b_list"], self._list_step, own["counts"],
            own["masks"], self._rows_step, self._y, self._kernels,
        )  # fmt: skip
        return float(total), int(right)

    def _copy(self, inward: bool) -> None:
        self._engine.copy(inward, self._shape[1], self._layers, self.parameters.flat, self._p, True)
        # A run of none, to compile, may come before there is a state.
        for flat, own in zip(self.parameters.state, self._s, strict=False):
            self._engine.copy(inward, self._shape[1], self._layers, flat, own, False)


def score(
    parameters: Parameters, activations: Sequence[Activation | Softmax], cost: Cost, x: Any, y: Any
) -> tuple[float, int]:
    """(the sum of the examples' costs, how many are in the class of y), in one thread of one's own:
    BLAS would start some, whose number changes the last bits."""
    dtype = parameters.flat.dtype.name
    plan = Plan(parameters.sizes, tuple(activations), cost, _SCORED, dtype)
    return PanelStepper(plan, parameters, x, y).score()
