"""The Stepper on a GPU: no host work per mini-batch.

Data, order, weights and everything in between stay on the device, and the host looks at the cost
once a piece. There are two ways to train: ``graphs``, launches of one kernel each, for any network,
and ``cooperative``, many mini-batches in one launch, for those whose launches would take longer
than their arithmetic. ``GPUBP_CUDA_STEPPER=graph|cooperative`` asks for one of them.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import cupy as cp

from gpubp.errors import unknown
from gpubp.kernels.cuda.cooperative import Cooperative, why_not_cooperative
from gpubp.kernels.cuda.feed import make_feed
from gpubp.kernels.cuda.graphs import Graphs
from gpubp.parameters import Parameters
from gpubp.plan import Plan

_WAYS: dict[str, type[Graphs] | type[Cooperative]] = {"graph": Graphs, "cooperative": Cooperative}


def choose_way(plan: Plan) -> type[Graphs] | type[Cooperative]:
    """The way to train that GPUBP_CUDA_STEPPER names, else the one that should be faster."""
    asked = os.environ.get("GPUBP_CUDA_STEPPER")
    why_not = why_not_cooperative(plan)
    if not asked:
        return Graphs if why_not else Cooperative
    if asked not in _WAYS:
        raise unknown("GPUBP_CUDA_STEPPER", asked, _WAYS)
    if asked == "cooperative" and why_not:
        raise ValueError(
            f"GPUBP_CUDA_STEPPER=cooperative is not for this network: {why_not}; leave it unset"
        )
    return _WAYS[asked]


class Stepper:
    """Mini-batch SGD on a GPU; what it computes is defined by the reference's Stepper.

    x is (n, n_1) of the plan's dtype or uint8; y is (n,) labels or (n, n_L) targets; C-ordered, on
    the device or on the host.
    """

    def __init__(self, plan: Plan, parameters: Parameters, x: Any, y: Any) -> None:
        self.plan, self.parameters, self._make_way = plan, parameters, choose_way(plan)
        self._feed = make_feed(x, y, plan.batch_size)
        self._stream = cp.cuda.Stream(non_blocking=True)

    @cached_property
    def _way(self) -> Graphs | Cooperative:
        return self._make_way(self.plan, self.parameters, self._feed, self._stream)

    def run(self, order: Any, learning_rate: float) -> float:
        """Train on the examples of ``order``; the mean of their objective before each update."""
        way, feed, stream = self._way, self._feed, self._stream
        # What was done to the weights so far was done on another stream.
        cp.cuda.get_current_stream().synchronize()
        with stream:
            try:
                way.begin(learning_rate)
                for start in range(0, len(order), feed.rows):
                    piece = order[start : start + feed.rows]
                    feed.load(piece, stream)
                    way.train(len(piece))
                return float(way.costs.get().sum()) / len(order)
            finally:
                stream.synchronize()  # also when interrupted: the weights are then at rest
