"""The update rule: what one mini-batch does to the weights, given its gradient.

With g the gradient of the mean cost and the penalty 1/2 l2 ||w||^2 + l1 |w|_1 beside it,

    plain      w <- w - eta g
    momentum   v <- mu v - eta g      w <- w + v
    Nesterov   v <- mu v - eta g      w <- w + mu v - eta g

which are scikit-learn's and Keras' forms. Biases take the same step without the penalty.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .arrays import check_number
from .parameters import Parameters


@dataclass(frozen=True)
class UpdateRule:
    """Momentum mu in [0, 1), Nesterov's variant, and the penalties' coefficients l2, l1 >= 0."""

    momentum: float = 0.0
    nesterov: bool = False
    l2: float = 0.0
    l1: float = 0.0

    def __post_init__(self) -> None:
        for name in ("momentum", "l2", "l1"):
            object.__setattr__(self, name, check_number(getattr(self, name), name))
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must lie in [0, 1)")
        for name in ("l2", "l1"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value} must be a finite number that is not negative")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum: pass for example momentum=0.9")

    @property
    def penalised(self) -> bool:
        return bool(self.l2 or self.l1)

    @property
    def kind(self) -> UpdateRule:
        """One rule for all that differ from this one in nothing but numbers: the same kernel."""
        return UpdateRule(0.5 if self.momentum else 0.0, self.nesterov, float(self.penalised))

    def penalty(self, xp: ModuleType, parameters: Parameters) -> float:
        """1/2 l2 ||w||^2 + l1 |w|_1 over all weights, summed in float64."""
        if not self.penalised:
            return 0.0
        w = parameters.all_weights
        return float(
            0.5 * self.l2 * xp.sum(w * w, dtype="float64")
            + self.l1 * xp.sum(xp.abs(w), dtype="float64")
        )

    def update(
        self, xp: ModuleType, parameters: Parameters, gradient: Any, learning_rate: float
    ) -> None:
        """Apply one step in place; ``gradient`` is flat, in the order of the parameters."""
        w, g = parameters.all_weights, gradient[: parameters.n_weights]
        if self.l2:
            g += self.l2 * w
        if self.l1:
            g += self.l1 * xp.sign(w)
        step = learning_rate * gradient
        if not self.momentum:
            parameters.flat -= step
            return
        v: Any = parameters.velocity
        v *= self.momentum
        v -= step
        parameters.flat += self.momentum * v - step if self.nesterov else v
