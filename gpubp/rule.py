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
g before all else. Biases have none. Where the gradient is clipped, g is then multiplied by

    clip = min(1, clip_norm / (||g|| + 10^-6)),   ||g|| over all parameters,

which is PyTorch's clip_grad_norm_ with the penalties in the loss. It needs all of g before any
parameter changes.
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

_PENALTY_NUMBERS = ("l2", "l1")
_SLOPE = (
    "g",
    Expression("g + l2*w + l1*where(w > 0, 1, where(w < 0, -1, 0))", ("w", "g", *_PENALTY_NUMBERS)),
)
_CLIPPED = ("g", Expression("clip*g", ("clip", "g")))


@dataclass(frozen=True)
class UpdateRule:
    """The assignments ``steps``, (target, formula) each, over w, g, ``state`` and ``numbers``.

    A target is w, g, a name of the state, or another: a value in between. ``penalised`` rules have
    the numbers l2 and l1 behind their own, and begin with the slope of the penalty for weights.
    ``clipped`` ones have a last number, clip_norm, in whose place the kernels put clip. Rules that
    are equal are one kernel, whatever the numbers.
    """

    state: tuple[str, ...]
    own_numbers: tuple[str, ...]
    steps: Steps
    penalised: bool = False
    clipped: bool = False

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

    def beside(self, *, penalised: bool, clipped: bool) -> UpdateRule:
        """The same rule, beside a penalty or not, by a clipped gradient or not."""
        return replace(self, penalised=penalised, clipped=clipped)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names of a step's numbers, in their order."""
        penalty = _PENALTY_NUMBERS if self.penalised else ()
        return (*self.own_numbers, *penalty, *(["clip"] if self.clipped else []))

    def slope_steps(self, weights: bool) -> Steps:
        """The assignment that makes the cost's gradient the objective's: of weights beside a
        penalty."""
        return (_SLOPE,) if weights and self.penalised else ()

    def all_steps(self, weights: bool) -> Steps:
        """All assignments, for weights or for biases."""
        clipping = (_CLIPPED,) if self.clipped else ()
        return (*self.slope_steps(weights), *clipping, *self.steps)

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
        w, named = parameters.all_weights, dict(zip(self.numbers, numbers, strict=True))
        l2, l1 = named["l2"], named["l1"]
        return float(
            0.5 * l2 * xp.sum(w * w, dtype="float64") + l1 * xp.sum(xp.abs(w), dtype="float64")
        )

    def applied(self, steps: Steps, w: Any, g: Any, state: Any, numbers: Any) -> tuple[Any, ...]:
        """(w, state, g) after ``steps``, in NumPy and the dtype of w; ``state`` has a row a
        name."""
        values = dict(zip(self.numbers, np.asarray(numbers).astype(w.dtype), strict=True))
        values |= {"w": w, "g": g, **dict(zip(self.state, state, strict=True))}
        for target, formula in steps:
            values[target] = formula(np, **{name: values[name] for name in formula.names})
        return values["w"], [values[name] for name in self.state], values["g"]

    def _clip(self, parameters: Parameters, gradient: Any, numbers: Any, parts: Any) -> float:
        squared = 0.0
        for part, weights in parts:
            w, state = parameters.flat[part], parameters.state[:, part]
            steps = self.slope_steps(weights)
            _, _, g = self.applied(steps, w, gradient[part], state, numbers)
            squared += float(np.sum(np.square(g, dtype=np.float64)))
        return float(min(1.0, numbers[-1] / (squared**0.5 + CLIP_EPSILON)))

    def update(self, parameters: Parameters, gradient: Any, numbers: Any) -> None:
        """One step in place, in NumPy; ``gradient`` is flat, in the order of the parameters."""
        n = parameters.n_weights
        parts = ((slice(None, n), True), (slice(n, None), False))  # weights, and biases
        if self.clipped:
            numbers = np.append(numbers[:-1], self._clip(parameters, gradient, numbers, parts))
        for part, weights in parts:
            w, state = parameters.flat[part], parameters.state[:, part]
            steps = self.all_steps(weights)
            new_w, new_state, _ = self.applied(steps, w, gradient[part], state, numbers)
            w[...] = new_w
            for array, new in zip(state, new_state, strict=True):
                array[...] = new


CLIP_EPSILON = 1e-6  # beside the norm, as PyTorch has it
PLAIN = UpdateRule.of((), ("eta",), {"w": "w - eta*g"})
