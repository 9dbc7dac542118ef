"""The Stepper that replays CUDA graphs: no host work per mini-batch, networks of any size.

Data, order, weights and everything in between stay on the device. The launches of ``GRAPH_STEPS``
mini-batches are captured once in a CUDA graph and replayed, one call of the host; what is left of a
piece is replayed by a graph of one step, and the smaller last mini-batch of an epoch is launched
kernel by kernel. What changes from step to step (the place in the order, the learning rate, the
sums of the cost) lives in device memory, so that the graphs never change. The host looks at the
cost once a piece.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import cupy as cp

from gpubp.kernels.cuda.feed import make_feed
from gpubp.kernels.cuda.minibatch import MiniBatch
from gpubp.parameters import Parameters
from gpubp.plan import Plan

GRAPH_STEPS = 64


class GraphStepper:
    """Mini-batch SGD on a GPU; what it computes is defined by the reference's Stepper.

    x is (n, n_1) of the plan's dtype or uint8; y is (n,) labels or (n, n_L) targets; C-ordered, on
    the device or on the host.
    """

    def __init__(self, plan: Plan, parameters: Parameters, x: Any, y: Any) -> None:
        self.plan, self.parameters = plan, parameters
        self._feed = make_feed(x, y, plan.batch_size)
        self._stream = cp.cuda.Stream(non_blocking=True)
        self._graphs: dict[int, Any] = {}
        self._loaded = False

    @cached_property
    def _minibatch(self) -> MiniBatch:
        return MiniBatch(self.plan, self.parameters, self._feed)

    def run(self, order: Any, learning_rate: float) -> float:
        """Train on the examples of ``order``; the mean of their objective before each update."""
        if self._minibatch.velocity is not self.parameters.velocity:
            self._graphs.clear()  # they hold the address of the old one
            del self._minibatch
        minibatch, feed, stream = self._minibatch, self._feed, self._stream
        # What was done to the weights so far was done on another stream.
        cp.cuda.get_current_stream().synchronize()
        with stream:
            try:
                minibatch.costs.fill(0)
                minibatch.eta.fill(learning_rate)
                for start in range(0, len(order), feed.rows):
                    piece = order[start : start + feed.rows]
                    feed.load(piece, stream)
                    minibatch.first.fill(0)
                    self._train(len(piece))
                return float(minibatch.costs.get().sum()) / len(order)
            finally:
                stream.synchronize()  # also when interrupted: the weights are then at rest

    def _train(self, examples: int) -> None:
        """Enqueue the mini-batches of the examples that the feed has loaded."""
        m = self.plan.batch_size
        steps, rest = divmod(examples, m)
        if steps and not self._loaded:
            # A kernel is loaded when first launched, and capturing allows no loading.
            self._minibatch.enqueue(m, 0)
            self._minibatch.next_steps(m)
            self._loaded, steps = True, steps - 1
        for length in (GRAPH_STEPS, 1):
            replays, steps = divmod(steps, length)
            for _ in range(replays):
                self._graph(length).launch(self._stream)
        if rest:
            self._minibatch.enqueue(rest, 0)

    def _graph(self, steps: int) -> Any:
        """The graph of that many mini-batches."""
        if steps not in self._graphs:
            self._stream.begin_capture()
            try:
                for step in range(steps):
                    self._minibatch.enqueue(self.plan.batch_size, step * self.plan.batch_size)
                self._minibatch.next_steps(steps * self.plan.batch_size)
            finally:
                graph = self._stream.end_capture()
            self._graphs[steps] = graph
        return self._graphs[steps]
