"""What the two engines' Steppers share: data as they take it, threads, and how many to use."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from gpubp.kernels.cpu.blocks import rule_kernels, stepper_kernels
from gpubp.kernels.cpu.flushing import flushing
from gpubp.parameters import Parameters
from gpubp.plan import Plan

_LINE = 64  # bytes of a cache line: a vector that straddles two is slower to load
_TRY_EVERY = 32  # runs of the compiled function
_FLOPS_PER_CALL = 3e9  # keeps one compiled call well under the second that Ctrl-C may wait
_ABANDONED = 16  # of state: at a barrier that not all have reached, nobody waits
_FLOPS_WORTH = 5e7  # in a call, from which waking other threads pays


def aligned(shape: int | tuple[int, ...], dtype: Any) -> Any:
    """Zeros that begin at a cache line."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(dtype).reshape(shape)


class Work(NamedTuple):
    """What all threads train on: ``order``, the examples; ``numbers``, a row a mini-batch;
    ``importance`` of each example, or none; and ``costs``, a column for each mini-batch's parts."""

    order: Any
    numbers: Any
    importance: Any
    costs: Any


class ThreadedStepper(ABC):
    """Mini-batch SGD in one compiled call, by ``threads`` threads or by one, with the same bits.

    x is (n, n_1) of the plan's dtype or uint8, dense or a SciPy CSR array; y is (n,) labels or
    (n, n_L) targets; dense ones are C-ordered.
    """

    def __init__(
        self, plan: Plan, parameters: Parameters, x: Any, y: Any, threads: int, dense_rows: int,
        cost_parts: int = 1,
    ) -> None:  # fmt: skip
        self.plan, self.parameters, self.threads = plan, parameters, threads
        self.examples = x.shape[0]
        dtype = np.dtype(plan.dtype)
        none = np.zeros(0, np.int64)
        if hasattr(x, "indptr"):  # rows are written out, ``dense_rows`` at a time in all
            self._values = x.data
            self._starts, self._columns = x.indptr.astype(np.int64), x.indices.astype(np.int64)
            self._x = aligned(dense_rows * plan.sizes[0], x.dtype)
        else:
            self._x, self._values = x.reshape(-1), np.zeros(0, x.dtype)
            self._starts, self._columns = none, none
        self._scale = dtype.type(1 / 255 if x.dtype == np.uint8 else 1)
        self._labels = y.astype(np.int64, copy=False) if y.ndim == 1 else none
        empty = np.zeros(0, dtype)
        self._targets = empty if y.ndim == 1 else y.astype(dtype, copy=False).reshape(-1)
        self._kernels, self._rules = stepper_kernels(plan), rule_kernels(plan)
        names = plan.rule.numbers
        self._penalty_at = names.index("l2") if plan.rule.penalised else 0
        self._number = [aligned(len(names), dtype) for _ in range(threads)]  # of a step, clipped
        self._cost_parts = cost_parts
        self._last, self._runs = 1, 0
        self._lately = {1: math.inf, threads: 0.0}  # seconds an example
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        work = 6 * plan.batch_size * sum(a * b for a, b in pairwise(plan.sizes))
        self._piece = plan.batch_size * max(1, int(_FLOPS_PER_CALL / work))

    @abstractmethod
    def _train(self, thread: int, threads: int, state: Any, work: Work) -> None:
        """One thread's part of the work. ``state`` is where the threads meet."""

    @abstractmethod
    def _copy(self, inward: bool) -> None:
        """Parameters and the optimizer's state into the engine's layout, or back."""

    def _wake(self) -> None:  # noqa: B027
        """Called before a run by all threads that follows one by a single thread."""

    def run(self, order: Any, numbers: Any, importance: Any = None) -> Any:
        """Train on the examples of ``order``, with a row of ``numbers`` for each mini-batch and, of
        a weighted plan, an importance for each example; the mini-batches' objectives before their
        updates, summed over their examples. A run of none compiles all that others need."""
        order = np.ascontiguousarray(order, np.int64)
        numbers = np.ascontiguousarray(numbers, self.plan.dtype)
        importance = np.ascontiguousarray([] if importance is None else importance, self.plan.dtype)
        m = self.plan.batch_size
        self._copy(inward=True)
        costs = []
        try:
            for start in range(0, max(1, len(order)), self._piece):
                piece = order[start : start + self._piece]
                its = numbers[start // m :], importance[start:]
                if len(piece) < self._piece // 4:  # too short to measure by, perhaps to share
                    worth = len(piece) * _FLOPS_PER_CALL >= self._piece * _FLOPS_WORTH
                    costs.append(self._run(piece, *its, self._best() if worth else 1))
                    continue
                threads, started = self._choose(), time.perf_counter()
                costs.append(self._run(piece, *its, threads))
                self._lately[threads] = (time.perf_counter() - started) / len(piece)
        finally:
            self._copy(inward=False)
        return np.concatenate(costs)

    def _best(self) -> int:
        """The number of threads, 1 or all, that was the faster one lately."""
        return min(self._lately, key=self._lately.__getitem__)

    def _choose(self) -> int:
        """The best number of threads; now and then the other, to try it again.

        A second thread saves time on an idle machine and costs a multiple where the processor
        is shared. Which it is changes by the second.
        """
        self._runs += 1
        best = self._best()
        if self._runs % _TRY_EVERY != _TRY_EVERY // 4:
            return best
        return self.threads if best == 1 else 1

    def _help(self, thread: int, threads: int, state: Any, work: Work) -> None:
        try:
            with flushing():
                self._train(thread, threads, state, work)
        except BaseException:
            state[_ABANDONED] = 1  # or the first would wait for this thread, deaf to Ctrl-C
            raise

    def _run(self, order: Any, numbers: Any, importance: Any, threads: int) -> Any:
        # Of each run's own: threads that an interrupt left behind may still look at theirs.
        state = aligned(24, np.int64)
        costs = np.zeros((self._cost_parts, -(-len(order) // self.plan.batch_size)))
        work = Work(order, numbers, importance, costs)
        if threads > self._last:
            self._wake()
        self._last = threads
        others: list[Future[None]] = []
        try:
            for thread in range(1, threads):
                assert self._pool is not None
                others.append(self._pool.submit(self._help, thread, threads, state, work))
            with flushing():
                self._train(0, threads, state, work)
        finally:
            # Reached late only if this thread was interrupted before its part: nobody waits for it.
            state[_ABANDONED] = 1
            wait(others)
        for other in others:
            other.result()
        total = costs[0]
        for part in costs[1:]:  # always in this order
            total += part
        return total
