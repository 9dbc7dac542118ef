"""Training with the weights on the chip all the while: see ``resident.cu``.

``Family`` is the kernel for networks of one plan (sizes, activations, cost, batch size, precision,
update rule) on the same data; ``Family.enqueue`` trains any number of them side by side, each with
its own weights, order of examples and numbers of the rule's steps. ``OnChip`` trains one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cupy as cp
import numpy as np

from gpubp.activation import Softmax
from gpubp.kernels.cuda.capacity import Data, Device, Shape, choose_shape
from gpubp.kernels.cuda.feed import Resident, Streamed
from gpubp.kernels.cuda.launch import Kernel
from gpubp.kernels.cuda.layers import all_formulas, input_type, target_type
from gpubp.kernels.cuda.memory import copied_numbers
from gpubp.kernels.cuda.source import compiled, source
from gpubp.parameters import Parameters
from gpubp.plan import Plan

_LAUNCH_SECONDS = 0.1  # at most, as predicted: Ctrl-C waits for it


@dataclass(frozen=True)
class Member:
    """One network in training: ``order`` (int64, on the device) and how many of it to train on;
    ``numbers`` (of the parameters' dtype, there, too), a row for each of its mini-batches; of a
    weighted plan the ``importance`` of each example of the order."""

    plan: Plan
    parameters: Parameters
    order: Any
    examples: int
    numbers: Any
    importance: Any = None


def device_limits() -> Device:
    """Of the current device."""
    gpu = cp.cuda.runtime.getDeviceProperties(cp.cuda.runtime.getDevice())
    return Device(gpu["sharedMemPerBlockOptin"], gpu["major"] >= 9, gpu["multiProcessorCount"])


def data_layout(x: Any, y: Any) -> Data:
    """Of x and y on the device, or of what lies there once they are copied from the host."""
    address = x.data.ptr if isinstance(x, cp.ndarray) else 256
    return Data(x.itemsize, y.itemsize, 1 if y.ndim == 1 else y.shape[1], address & -address)


class Family:
    """The kernel for networks of this plan on examples like x and y, in that shape."""

    def __init__(self, plan: Plan, shape: Shape, x: Any, y: Any) -> None:
        self.plan, self.shape = plan, shape
        text = source(
            "resident", plan.dtype, all_formulas(plan), plan.rule,
            SIZES=", ".join(map(str, plan.sizes)), LAYERS=len(plan.activations), M=plan.batch_size,
            CLUSTER=shape.cluster, BLOCK=shape.threads, J_TILE=shape.j_tile,
            J_THREADS=shape.j_threads, GROUPS=shape.groups, SLICE=shape.slice, FETCH=shape.fetch,
            SHARED_BYTES=shape.shared_bytes, Input=input_type(x), Target=target_type(y),
            Y_WIDTH=1 if y.ndim == 1 else y.shape[1],
            SOFTMAX=int(isinstance(plan.activations[-1], Softmax)), WEIGHTED=int(plan.weighted),
        )  # fmt: skip
        self._kernel = Kernel(compiled(text, "resident"), shape.threads, shape.shared_bytes)
        pointers = ("parameters", "state", "numbers", "importance", "order", "cost")
        self._row = np.dtype([*((name, np.uint64) for name in pointers), ("examples", np.int64)])
        m = plan.batch_size
        self._examples = max(1, int(_LAUNCH_SECONDS / shape.seconds)) * m  # in one launch

    def costs(self, networks: int, steps: int) -> Any:
        """Where so many networks leave the cost of each of so many mini-batches, in parts."""
        return cp.empty((networks, steps, self.shape.cluster if self.plan.rule.penalised else 1))

    def enqueue(self, members: Sequence[Member], x: Any, y: Any, costs: Any) -> None:
        """Train each on its examples of x and y, on CuPy's current stream; into its row of
        ``costs``, from the first on, the objective of each mini-batch before its update.

        Their plans are the family's: networks of one rule differ in its numbers alone."""
        table = np.zeros(len(members), self._row)
        for i, member in enumerate(members):
            if member.plan != self.plan:
                raise ValueError(f"network {i} is {member.plan} in a family of {self.plan}")
            flat = member.parameters.flat
            state = member.parameters.state if self.plan.rule.state else flat  # which nothing reads
            importance = member.importance if self.plan.weighted else flat  # nor this
            arrays = (flat, state, member.numbers, importance, member.order, costs[i])
            table[i] = (*(a.data.ptr for a in arrays), member.examples)
        self._table = table  # kept while it may still be copied
        there = cp.empty(table.nbytes, np.uint8)
        stream = cp.cuda.get_current_stream()
        there.set(table.view(np.uint8), stream=stream)
        blocks = len(members) * self.shape.cluster
        most = max(member.examples for member in members)
        for begin in range(0, most, self._examples):
            end = min(begin + self._examples, most)
            self._kernel(blocks, there, x, y, np.int64(begin), np.int64(end))


class OnChip:
    """A way to train: ``begin`` a piece, ``train`` on what the feed has loaded, read ``costs``."""

    def __init__(
        self, plan: Plan, parameters: Parameters, feed: Resident | Streamed, stream: Any
    ) -> None:
        self._plan, self._parameters, self._feed = plan, parameters, feed
        shape = choose_shape(plan, data_layout(feed.x, feed.y), device_limits())
        self._family = Family(plan, shape, feed.x, feed.y)

    def begin(self, numbers: Any) -> None:
        """A piece, with the update rule's numbers in each of its mini-batches."""
        self._numbers = copied_numbers(numbers, self._plan.dtype)
        self._costs, self._done = self._family.costs(1, len(numbers)), 0

    def costs(self) -> Any:
        """Of each mini-batch the objective, summed over its examples."""
        return self._costs.get()[0].sum(axis=1)

    def train(self, examples: int) -> None:
        """Enqueue the mini-batches of the examples that the feed has loaded."""
        feed, numbers = self._feed, self._numbers[self._done :]
        member = Member(
            self._plan, self._parameters, feed.order, examples, numbers, feed.importance
        )
        self._family.enqueue([member], feed.x, feed.y, self._costs[:, self._done :])
        self._done += -(-examples // self._plan.batch_size)
