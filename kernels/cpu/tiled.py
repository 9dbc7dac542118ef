"""The tiled engine behind the contract's ``Stepper``: layout, threads, and copies in and out."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numba import types

from gpubp.kernels.cpu import simd
from gpubp.kernels.cpu.generated import load_compiled
from gpubp.kernels.cpu.threaded import ThreadedStepper, Work, aligned
from gpubp.kernels.cpu.tile import CHUNK
from gpubp.parameters import Parameters
from gpubp.plan import Plan

_LINE = 16  # int32 numbers to a cache line


def tile_shape(batch: int, dtype: Any) -> tuple[int, int, int]:
    """(examples, vectors, units) of the tiles: full registers, few empty rows.

    Of three sizes only, because the engine is compiled once more for each.
    """
    if simd.REGISTERS == 16:
        return (4 if batch > 1 else 1), 2, min(4, simd.lanes(dtype))
    rows, vectors, units = (1, 4, 4) if batch == 1 else (4, 4, 4) if batch <= 4 else (10, 2, 8)
    return rows, vectors, min(units, simd.lanes(dtype))


class TiledStepper(ThreadedStepper):
    """Mini-batch SGD on register tiles; what it computes is defined by the reference's Stepper.

    A given number of ``parts`` gives the same bits in every run, on any number of ``threads``.
    """

    def __init__(
        self, plan: Plan, parameters: Parameters, x: Any, y: Any, parts: int = 1, threads: int = 1
    ) -> None:
        threads = min(parts, threads)
        # A mini-batch's objective in 1 + parts: that of the examples and the layers above the
        # first, and the penalty of each part of the first.
        super().__init__(plan, parameters, x, y, threads, threads * plan.batch_size, 1 + parts)
        self.parts = parts
        self._engine = engine = load_compiled("engine")
        dtype = np.dtype(plan.dtype)
        number = types.float32 if dtype == np.float32 else types.float64
        lanes, sizes = simd.lanes(number), plan.sizes
        rows, vectors, units = tile_shape(plan.batch_size, number)
        self._shape = (None,) * rows, (None,) * vectors, (None,) * units
        room = -(-plan.batch_size // rows) * rows
        self._step = room * lanes

        def up(n: int) -> int:
            return -(-n // lanes) * lanes

        # Where everything lies: parameters first, then z, a and delta of every layer.
        depth = len(sizes) - 1
        self._layers = layers = np.zeros((depth, engine.FIELDS), np.int64)
        end = 0
        for l, (n_in, n_out) in enumerate(pairwise(sizes)):
            layers[l, [engine.N_IN, engine.N_OUT, engine.W_STEP]] = n_in, n_out, up(n_out)
            layers[l, engine.B], end = end, end + up(n_out)
            if l > 0:
                layers[l, engine.W], end = end, end + up(n_in) * up(n_out)
        self._n_parameters = end
        for l, (n_in, n_out) in enumerate(pairwise(sizes)):
            layers[l, [engine.WT, engine.WT_STEP]] = end, up(n_in)
            end += up(n_in) * up(n_out) if l > 0 else 0
            for field in (engine.Z, engine.A, engine.DELTA):
                layers[l, field], end = end, end + up(n_out) * room

        self._p = [aligned(end, dtype) for _ in range(threads)]
        self._w1 = aligned((sizes[0] + parts, up(sizes[1])), dtype)
        kept, buffered = len(plan.rule.state), not plan.rule.is_plain
        self._squares = aligned(parts if plan.rule.clipped else 0, np.float64)
        self._s1 = aligned((kept, *self._w1.shape), dtype)
        self._s = [aligned((kept, self._n_parameters), dtype) for _ in range(threads)]
        self._g1 = aligned(self._w1.size if buffered else 0, dtype)
        self._g = [aligned(self._n_parameters if buffered else 0, dtype) for _ in range(threads)]

        chunks = -(-sizes[0] // (CHUNK - lanes)) + 1
        self._chunk_step = room * (CHUNK + lanes)
        self._packed = aligned((parts, chunks * self._chunk_step), dtype)
        # A few zeros more, because the tiles look ahead in the list.
        self._index = aligned((parts, chunks * (CHUNK + lanes) + _LINE), np.int32)
        self._counts = aligned((parts, -(-chunks // 16) * 16 + 16), np.int32)
        self._at = [aligned(plan.batch_size, np.int64) for _ in range(threads)]
        self._shares = aligned(2 * parts * up(sizes[1]) * room, dtype)
        self._y = [aligned(up(sizes[-1]) * room, dtype) for _ in range(threads)]

    def _wake(self) -> None:
        """The other threads' own copies have not moved on."""
        for copies in (self._p, self._s):
            for copy in copies[1:]:
                copy[:] = copies[0]

    def _train(self, thread: int, threads: int, state: Any, work: Work) -> None:
        self._engine.train(
            thread, threads, self.parts, state, *self._shape,
            work.order, work.importance, self.plan.batch_size, work.numbers, self._rules,
            self._penalty_at, self._squares, self._number[thread],
            self._x, self._values, self._starts, self._columns, self._scale,
            self._labels, self._targets, self._layers,
            self._w1.reshape(-1), self._p[thread], self._s1.reshape(-1),
            self._s[thread].reshape(-1), self._g1, self._g[thread],
            self._packed, self._chunk_step, self._index, self._counts,
            self._at[thread], self._shares, self._step, self._y[thread], work.costs, self._kernels,
        )  # fmt: skip

    def _copy(self, inward: bool) -> None:
        """Parameters and the optimizer's state into the engine's layout, or back."""
        self._copy_flat(self.parameters.flat, self._w1, self._p, inward)
        # A run of none, to compile, may come before there is a state.
        for k, (flat, first) in enumerate(zip(self.parameters.state, self._s1, strict=False)):
            self._copy_flat(flat, first, [own[k] for own in self._s], inward)

    def _copy_flat(self, flat: Any, first: Any, copies: list[Any], inward: bool) -> None:
        engine, sizes = self._engine, self.plan.sizes
        weights, biases = self.parameters.views(flat)
        for private in copies if inward else copies[:1]:
            for l, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                n_in, n_out = sizes[l], sizes[l + 1]
                at, step = self._layers[l, [engine.W, engine.W_STEP]]
                rows = first if l == 0 else private[at : at + n_in * step].reshape(n_in, step)
                mine = rows[:n_in, :n_out]
                b_at = self._layers[l, engine.B]
                my_bias = private[b_at : b_at + n_out]
                if inward:
                    mine[:], my_bias[:] = weight.T, bias
                else:
                    weight[:], bias[:] = mine.T, my_bias
            if inward and private.size > self._n_parameters:
                for l in range(1, len(weights)):
                    n_in, n_out = sizes[l], sizes[l + 1]
                    at, step = self._layers[l, [engine.WT, engine.WT_STEP]]
                    transposed = private[at : at + n_out * step].reshape(n_out, step)
                    transposed[:, :n_in] = weights[l]
