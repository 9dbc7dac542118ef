"""Which of the Steppers on a GPU trains a network: a rule, and how to override it.

``resident`` trains a whole piece of an epoch in one launch, its weights in shared memory, where
they fit and that should be faster; ``graph`` replays the launches of any network as CUDA graphs.
The rule looks at the plan, the kind of data and the GPU's limits; it times nothing.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

from gpubp.errors import unknown
from gpubp.kernels.cuda.capacity import DoesNotFitError, choose_shape
from gpubp.kernels.cuda.graph import GraphStepper
from gpubp.kernels.cuda.resident import ResidentStepper, data_layout, device_limits
from gpubp.parameters import Parameters
from gpubp.plan import Plan

STEPPERS: dict[str, type[GraphStepper] | type[ResidentStepper]] = {
    "graph": GraphStepper,
    "resident": ResidentStepper,
}
_VARIABLE = "GPUBP_CUDA_STEPPER"
_LAUNCH, _PRODUCTS = 1.7e-6, 10e12  # of a graph: seconds a launch, and products a second


def choose_stepper(plan: Plan, x: Any, y: Any) -> str:
    """The name of the Stepper for a plan and its data; ``$GPUBP_CUDA_STEPPER`` overrides it."""
    wanted = os.environ.get(_VARIABLE)
    if wanted and wanted not in STEPPERS:
        raise unknown(_VARIABLE, wanted, STEPPERS)
    if wanted == "graph":
        return wanted
    try:
        resident = choose_shape(plan, data_layout(x, y), device_limits()).seconds
    except DoesNotFitError as error:
        if wanted:
            raise ValueError(f"{_VARIABLE}={wanted!r} does not apply: {error}") from error
        return "graph"
    return wanted or ("resident" if resident <= _graph_seconds(plan) else "graph")


def _graph_seconds(plan: Plan) -> float:
    """What a step of the graph should take: 3 launches a layer, each with its arithmetic."""
    products = 3 * plan.batch_size * sum(k * n for k, n in pairwise(plan.sizes))
    return 3 * (len(plan.sizes) - 1) * _LAUNCH + products / _PRODUCTS


def describe() -> str:
    """The rule in a line, with what overrides it now."""
    room = device_limits().shared_bytes
    rule = f"resident where a network fits {room:,} bytes a block and should be faster, else graph"
    return f"{os.environ.get(_VARIABLE) or rule} ({_VARIABLE} overrides)"


class Stepper:
    """Mini-batch SGD on a GPU; what it computes is defined by the reference's Stepper.

    x is (n, n_1) of the plan's dtype or uint8; y is (n,) labels or (n, n_L) targets; C-ordered, on
    the device or on the host.
    """

    def __init__(self, plan: Plan, parameters: Parameters, x: Any, y: Any) -> None:
        self.engine = choose_stepper(plan, x, y)
        self._stepper = STEPPERS[self.engine](plan, parameters, x, y)

    def run(self, order: Any, learning_rate: float) -> float:
        """Train on the examples of ``order``; the mean of their objective before each update."""
        return self._stepper.run(order, learning_rate)
