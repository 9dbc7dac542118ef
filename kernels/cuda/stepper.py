"""The Stepper on a GPU, and which of three ways it trains: a rule, and how to override it.

Data, order, weights and everything in between stay on the device, and the host looks at the cost
once a piece. ``resident`` keeps the weights of a small network in shared memory and trains a whole
piece in one launch; ``cooperative`` trains many mini-batches in one launch of the whole chip, for
networks whose launches would take longer than their arithmetic; ``graph`` replays launches of one
kernel each as CUDA graphs, for any network. The rule looks at the plan, the kind of data and the
GPU's limits; it times nothing. ``GPUBP_CUDA_STEPPER`` asks for one of them.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import cupy as cp

from gpubp.errors import unknown
from gpubp.kernels.cuda.capacity import DoesNotFitError, choose_shape
from gpubp.kernels.cuda.cooperative import Cooperative, why_not_cooperative
from gpubp.kernels.cuda.feed import make_feed
from gpubp.kernels.cuda.graphs import Graphs
from gpubp.kernels.cuda.resident import OnChip, data_layout, device_limits
from gpubp.parameters import Parameters
from gpubp.plan import Plan

WAYS: dict[str, type[Graphs] | type[Cooperative] | type[OnChip]] = {
    "resident": OnChip,
    "cooperative": Cooperative,
    "graph": Graphs,
}
VARIABLE = "GPUBP_CUDA_STEPPER"
# Estimates for an H200, not measured: seconds a launch in a graph, a barrier of the grid with what
# waits for memory beside it, and products a second of kernels that fill the chip.
_LAUNCH, _BARRIER = 1.7e-6, 1.5e-6
_PRODUCTS = {"float32": 30e12, "float64": 12e12, "tf32": 70e12, "bf16": 95e12}


def choose_way(plan: Plan, x: Any, y: Any) -> str:
    """The name of the way to train by a plan on such data; ``$GPUBP_CUDA_STEPPER`` overrides it."""
    asked = os.environ.get(VARIABLE)
    if asked and asked not in WAYS:
        raise unknown(VARIABLE, asked, WAYS)
    seconds, why_not = predicted(plan, x, y)
    if asked in why_not:
        raise ValueError(f"{VARIABLE}={asked!r} does not apply: {why_not[asked]}")
    return asked or min(seconds, key=seconds.__getitem__)


def predicted(plan: Plan, x: Any, y: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds a step by the ways that apply, and why the others do not."""
    products = 3 * plan.batch_size * sum(k * n for k, n in pairwise(plan.sizes))
    arithmetic = products / _PRODUCTS[plan.precision or plan.dtype]
    launches = 3 * (len(plan.sizes) - 1) + 2 * plan.rule.clipped
    seconds = {"graph": launches * _LAUNCH + arithmetic}
    why_not: dict[str, str] = {}
    if reason := why_not_cooperative(plan):
        why_not["cooperative"] = reason
    else:
        seconds["cooperative"] = 3 * _BARRIER + arithmetic
    try:
        seconds["resident"] = choose_shape(plan, data_layout(x, y), device_limits()).seconds
    except DoesNotFitError as error:
        why_not["resident"] = str(error)
    return seconds, why_not


def describe() -> str:
    """The rule in a line, with what overrides it now."""
    room = device_limits().shared_bytes
    rule = (
        f"resident where a network fits {room:,} bytes a block, cooperative where its layers are "
        "small, or graph: the quickest as predicted"
    )
    return f"{os.environ.get(VARIABLE) or rule} ({VARIABLE} overrides)"


class Stepper:
    """Training by mini-batches on a GPU; what it computes is defined by the reference's Stepper.

    x is (n, n_1) of the plan's dtype or uint8; y is (n,) labels or (n, n_L) targets; C-ordered, on
    the device or on the host.
    """

    def __init__(self, plan: Plan, parameters: Parameters, x: Any, y: Any) -> None:
        self.plan, self.parameters = plan, parameters
        self.way = choose_way(plan, x, y)
        self._feed = make_feed(x, y, plan.batch_size, plan.dtype if plan.weighted else None)
        self._stream = cp.cuda.Stream(non_blocking=True)
        # Compiled and allocated before training changes anything.
        self._way = WAYS[self.way](plan, parameters, self._feed, self._stream)

    def run(self, order: Any, numbers: Any, importance: Any = None) -> Any:
        """Train on the examples of ``order``; the objective of each mini-batch before its update,
        summed over its examples. ``numbers`` and ``importance`` are those of the reference's."""
        way, feed, stream = self._way, self._feed, self._stream
        # What was done to the weights so far was done on another stream.
        cp.cuda.get_current_stream().synchronize()
        with stream:
            try:
                way.begin(numbers)
                for start in range(0, len(order), feed.rows):
                    part = slice(start, start + feed.rows)
                    piece = order[part]
                    feed.load(piece, stream, None if importance is None else importance[part])
                    way.train(len(piece))
                return way.costs()
            finally:
                stream.synchronize()  # also when interrupted: the weights are then at rest
