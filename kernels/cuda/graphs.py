"""Training by CUDA graphs: the launches of many mini-batches, captured once and replayed.

The launches of ``GRAPH_STEPS`` mini-batches are one graph, one call of the host; what is left of a
piece is replayed by a graph of one step, and the smaller last mini-batch of an epoch is launched
kernel by kernel. What changes from step to step (the place in the order, the update rule's numbers,
the sums of the cost) lives in device memory, so that the graphs never change.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.kernels.cuda.feed import Resident, Streamed
from gpubp.kernels.cuda.minibatch import GRAPH_STEPS, MiniBatch
from gpubp.parameters import Parameters
from gpubp.plan import Plan


class Graphs:
    """A way to train: ``begin`` a piece, ``train`` on what the feed has loaded, read ``costs``."""

    def __init__(
        self, plan: Plan, parameters: Parameters, feed: Resident | Streamed, stream: Any
    ) -> None:
        self._known = (plan, parameters, feed)
        self._parameters, self._stream, self._m = parameters, stream, plan.batch_size
        self._has_state = bool(plan.rule.state)
        self._make(feed.rows // plan.batch_size)

    def _make(self, steps: int) -> None:
        self.minibatch = MiniBatch(*self._known, steps)
        self._graphs: dict[int, Any] = {}
        self._loaded = False

    def begin(self, numbers: Any) -> None:
        """A piece, with the update rule's numbers in each of its mini-batches."""
        steps, room = len(numbers), len(self.minibatch.objective)
        moved = self._has_state and self.minibatch.state is not self._parameters.state
        if moved or steps > room:
            self._make(max(steps, room))  # the graphs hold the addresses of the old ones
        self._steps = steps
        self.minibatch.done.fill(0)
        there = self.minibatch.numbers
        there[:steps].set(np.ascontiguousarray(numbers, there.dtype), stream=self._stream)

    def costs(self) -> Any:
        """Of each mini-batch the objective, summed over its examples."""
        return self.minibatch.objective[: self._steps].get()

    def train(self, examples: int) -> None:
        """Enqueue the mini-batches of the examples that the feed has loaded."""
        self.minibatch.first.fill(0)
        m = self._m
        steps, rest = divmod(examples, m)
        if steps and not self._loaded:
            # A kernel is loaded when first launched, and capturing allows no loading.
            self.minibatch.enqueue(m, 0)
            self.minibatch.next_steps(m, 1)
            self._loaded, steps = True, steps - 1
        for length in (GRAPH_STEPS, 1):
            replays, steps = divmod(steps, length)
            for _ in range(replays):
                self._graph(length).launch(self._stream)
        if rest:
            self.minibatch.enqueue(rest, 0)
            self.minibatch.next_steps(rest, 1)

    def _graph(self, steps: int) -> Any:
        """The graph of that many mini-batches."""
        if steps not in self._graphs:
            self._stream.begin_capture()
            try:
                for step in range(steps):
                    self.minibatch.enqueue(self._m, step * self._m)
                self.minibatch.next_steps(steps * self._m, steps)
            finally:
                graph = self._stream.end_capture()
            self._graphs[steps] = graph
        return self._graphs[steps]
