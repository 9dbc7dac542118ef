"""R2 and RMSE: what accuracy is to classes, for real targets.

    RMSE = sqrt(mean (y - a)^2),    R2 = 1 - sum (y - a)^2 / sum (y - mean y)^2

over all examples and outputs, the mean of y being that of each output. R2 is 1 for outputs that are
the targets and 0 for those that are no better than the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import as_array
from .cost import COSTS, Cost
from .network import Network

_SQUARES = {"quadratic": 2.0, "sum_squares": 1.0}  # ||y - a||^2 as a multiple of the cost


@dataclass(frozen=True)
class Goodness:
    """``r2`` (``None`` where all targets of an output are the same) and ``rmse``, in y's units."""

    r2: float | None
    rmse: float

    def __str__(self) -> str:
        return f"R2 {'-' if self.r2 is None else format(self.r2, '.4f')}, RMSE {self.rmse:.6g}"


class Targets:
    """Real targets y (n,) or (n, k) of inputs x (n, n_1), and how near outputs come to them."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, np.asarray(as_array(np, y, "y"), float).reshape(len(y), -1)
        self.spread = float(((self.y - self.y.mean(axis=0)) ** 2).sum() / len(self.y))

    def goodness(self, squares: float) -> Goodness:
        """From the mean over the examples of ||y - a||^2."""
        r2 = 1 - squares / self.spread if self.spread else None
        return Goodness(r2, math.sqrt(squares / self.y.shape[1]))

    def judge(self, net: Network, cost: float | None = None) -> Goodness:
        """Of the network's outputs. Where its mean ``cost`` over these examples is given and says
        how large the errors are, nothing is computed twice."""
        found = squares_of(net.cost, cost)
        if found is None:
            a = net.backend.asnumpy(net.feedforward(self.x))
            with np.errstate(over="ignore", invalid="ignore"):
                found = float(((self.y - a) ** 2).sum() / len(self.y))
        return self.goodness(found)


def squares_of(cost: Cost, value: float | None) -> float | None:
    """The mean of ||y - a||^2 that a mean cost stands for, or None where it does not."""
    if value is None or cost != COSTS.get(cost.name) or cost.name not in _SQUARES:
        return None
    return _SQUARES[cost.name] * value
