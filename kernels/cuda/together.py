"""Many networks of one kind on the same data: one launch of ``resident.cu`` trains them all.

Where so many would take longer side by side than one after another, by the predictions of
``capacity`` and ``stepper``, or do not fit, ``side_by_side`` says so by None.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import cupy as cp
import numpy as np

from gpubp.kernels.cuda.capacity import DoesNotFitError, choose_shape
from gpubp.kernels.cuda.memory import copied, copied_numbers
from gpubp.kernels.cuda.resident import Family, Member, data_layout, device_limits
from gpubp.kernels.cuda.stepper import VARIABLE, predicted
from gpubp.parameters import Parameters
from gpubp.plan import Plan


def side_by_side(plan: Plan, networks: int, x: Any, y: Any) -> SideBySide | None:
    """Steppers for so many networks of this plan on x and y, if the GPU has them both."""
    asked = os.environ.get(VARIABLE)
    if networks < 2 or asked not in (None, "", "resident") or not isinstance(x, cp.ndarray):
        return None
    data, device, seconds = data_layout(x, y), device_limits(), predicted(plan, x, y)[0]
    try:
        shape = choose_shape(plan, data, device, networks)
    except DoesNotFitError:
        return None
    alone = seconds["resident"] if asked else min(seconds.values())
    if shape.turns(networks, device) * shape.seconds > networks * alone:
        return None
    return SideBySide(Family(plan, shape, x, y), networks, x, cp.asarray(y))


class SideBySide:
    """Steppers of networks in one shape, which the number of networks decides; ``run`` trains any
    of them in one launch, each bit for bit as its own ``run`` would."""

    def __init__(self, family: Family, networks: int, x: Any, y: Any) -> None:
        self.family, self._data = family, (x, y)
        self._stream = cp.cuda.Stream(non_blocking=True)

    def stepper(self, plan: Plan, parameters: Parameters) -> One:
        """That of one network, of the family's plan."""
        return One(self, plan, parameters)

    def run(self, pieces: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Train each Stepper's network on its order (int64) with its numbers of the rule, a row a
        mini-batch, and of a weighted plan the examples' importance, as (Stepper, order, numbers,
        importance); the costs of each one's mini-batches."""
        stream, plan = self._stream, self.family.plan
        steps = [len(piece[2]) for piece in pieces]
        # What was done to the weights so far was done on another stream.
        cp.cuda.get_current_stream().synchronize()
        with stream:
            try:
                costs = self.family.costs(len(pieces), max(steps))
                numbers = copied_numbers(np.concatenate([piece[2] for piece in pieces]), plan.dtype)
                ends = np.cumsum(steps).tolist()
                members = [
                    Member(
                        one.plan, one.parameters, _copied(order), len(order),
                        numbers[end - count : end], *(_weighed(own, plan.dtype) for own in more),
                    )
                    for (one, order, _, *more), count, end in zip(pieces, steps, ends, strict=True)
                ]  # fmt: skip
                self.family.enqueue(members, *self._data, costs)
                parts = costs.get()
            finally:
                stream.synchronize()  # also when interrupted: the weights are then at rest
        return [parts[i, :count].sum(axis=1) for i, count in enumerate(steps)]


class One:
    """The Stepper of one network among several; ``run`` trains it alone, in the common shape."""

    def __init__(self, together: SideBySide, plan: Plan, parameters: Parameters) -> None:
        self.plan, self.parameters = plan, parameters
        self._together = together

    def run(self, *asked: Any) -> Any:
        return self._together.run([(self, *asked)])[0]


def _weighed(importance: Any, dtype: Any) -> Any:
    return copied(importance, dtype, "an epoch's weights", "train fewer networks at once")


def _copied(order: Any) -> Any:
    return copied(order, np.int64, "an epoch's order", "train fewer networks at once")
