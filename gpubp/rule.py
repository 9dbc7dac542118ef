"""An update rule as formulas: what one mini-batch does to each weight and bias.

A rule is assignments in the language of :mod:`gpubp.expression`, done one after another for each
parameter by itself: in w, the parameter; g, its component of the gradient of the mean cost; the
state that the rule keeps beside each parameter, zero at first; and the numbers of a step, the same
for all parameters, eta first. The rule with momentum has the state v and the numbers eta and mu:

    v = mu*v - eta*g
    w = w + v

NumPy evaluates these formulas, Numba compiles them on vectors, CUDA C gets them as text: they are
written once. The rules that there are, and the numbers of their steps: :mod:`gpubp.optimizer`.

Beside the cost stands the penalty 1/2 l2 ||w||^2 + l1 |w|_1 of the weights, whose slope is added to
g before all else. Biases have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from .expression import Expression
from .parameters import Parameters

Steps = tuple[tuple[str, Expression], ...]

_SLOPE = "g + l2*w + l1*where(w > 0, 1, where(w < 0, -1, 0))"
_PENALTY_NUMBERS = ("l2", "l1")


@dataclass(frozen=True)
class UpdateRule:
    """The assignments ``steps``, (target, formula) each, over w, g, ``state`` and ``numbers``.

    A target is w, g, a name of the state, or another: a value in between. ``penalised`` rules have
    the numbers l2 and l1 behind their own, and begin with the slope of the penalty for weights.
    Rules that are equal are one kernel, whatever the numbers.
    """

    state: tuple[str, ...]
    own_numbers: tuple[str, ...]
    steps: Steps
    penalised: bool = False

    @classmethod
    def of(
        cls, state: Sequence[str], numbers: Sequence[str], steps: Mapping[str, str]
    ) -> UpdateRule:
        """From the formulas' text; a formula may use the targets before it."""
        known = ["w", "g", *state, *numbers]
        read: list[tuple[str, Expression]] = []
        for target, formula in steps.items():
            read.append((target, Expression(formula, tuple(known))))
            known += [target] if target not in known else []
        return cls(tuple(state), tuple(numbers), tuple(read))

    def with_penalty(self) -> UpdateRule:
        """The same rule, beside a penalty."""
        return replace(self, penalised=True)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names of a step's numbers, in their order."""
        return self.own_numbers + (_PENALTY_NUMBERS if self.penalised else ())

    @property
    def weight_steps(self) -> Steps:
        """The assignments for weights, the penalty's slope among them; biases have ``steps``."""
        if not self.penalised:
            return self.steps
        return (("g", Expression(_SLOPE, ("w", "g", *_PENALTY_NUMBERS))), *self.steps)

    @cached_property
    def is_plain(self) -> bool:
        """Whether this is w - eta g and nothing else, which kernels do without a gradient's
        memory: as they write the product."""
        return self == PLAIN

    def penalty(self, xp: ModuleType, parameters: Parameters, numbers: Any) -> float:
        """1/2 l2 ||w||^2 + l1 |w|_1 over all weights, summed in float64; ``numbers`` are those of
        a step."""
        if not self.penalised:
            return 0.0
        w, (l2, l1) = parameters.all_weights, numbers[-2:]
        return float(
            0.5 * l2 * xp.sum(w * w, dtype="float64") + l1 * xp.sum(xp.abs(w), dtype="float64")
        )

    def applied(self, steps: Steps, w: Any, g: Any, state: Any, numbers: Any) -> tuple[Any, Any]:
        """(w, state) after ``steps``, in NumPy and the dtype of w; ``state`` has a row a name."""
        values = dict(zip(self.numbers, np.asarray(numbers).astype(w.dtype), strict=True))
        values |= {"w": w, "g": g, **dict(zip(self.state, state, strict=True))}
        for target, formula in steps:
            values[target] = formula(np, **{name: values[name] for name in formula.names})
        return values["w"], [values[name] for name in self.state]

    def update(self, parameters: Parameters, gradient: Any, numbers: Any) -> None:
        """One step in place, in NumPy; ``gradient`` is flat, in the order of the parameters."""
        n = parameters.n_weights
        for part, steps in ((slice(None, n), self.weight_steps), (slice(n, None), self.steps)):
            w, state = parameters.flat[part], parameters.state[:, part]
            new_w, new_state = self.applied(steps, w, gradient[part], state, numbers)
            w[...] = new_w
            for array, new in zip(state, new_state, strict=True):
                array[...] = new


PLAIN = UpdateRule.of((), ("eta",), {"w": "w - eta*g"})
