"""Optimizers of one's own, from formulas: what they are checked for, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import check_number
from .optimizer import OPTIMIZERS, Columns, Optimizer
from .printable import brief
from .rule import UpdateRule

# The names that a rule has without one's own, those of the penalties and of clipping among them.
_GIVEN = {
    "w": "the parameter", "g": "the gradient", "eta": "the learning rate",
    "l2": "a penalty's coefficient", "l1": "a penalty's coefficient",
    "clip": "what a clipped gradient is multiplied by",
}  # fmt: skip


@dataclass(frozen=True)
class OwnOptimizer(Optimizer):
    """Made by :func:`define_optimizer`."""

    label: str
    formulas: UpdateRule
    given: tuple[tuple[str, float | Callable[[int], float]], ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.label

    @property
    def rule(self) -> UpdateRule:
        return self.formulas

    @property
    def settings(self) -> dict[str, float | bool]:
        return {name: value for name, value in self.given if not callable(value)}

    @property
    def description(self) -> dict[str, Any]:
        formulas = "; ".join(f"{target} = {f.source}" for target, f in self.formulas.steps)
        return super().description | {"formulas": formulas}

    def _numbers(self, t: Any, rates: Any) -> Columns:
        return {
            name: [check_number(value(step), f"{name}({step})") for step in t.tolist()]
            if callable(value) else value
            for name, value in self.given
        }  # fmt: skip


def define_optimizer(
    name: str, steps: Mapping[str, str], state: Sequence[str] = (),
    **numbers: float | Callable[[int], float],
) -> Optimizer:  # fmt: skip
    """An optimizer from formulas, for ``fit(optimizer=...)`` on every backend:

        define_optimizer("heavy ball", {"v": "mu*v - eta*g", "w": "w + v"}, state=["v"], mu=0.9)

    Args:
        name: what it is called in what is printed and saved.
        steps: assignments in their order, target to formula (:mod:`gpubp.expression`), in w, g,
            eta, the state, the numbers, and targets before. w must be one of them.
        state: names of what is kept beside each parameter, 0 at first.
        numbers: of every step the same, or a callable of its number t = 1, 2, ... in the run, as
            ``unbias=lambda t: 1 / (1 - 0.9**t)``.

    Raises ``ValueError`` for formulas that are none, and for a rule that does not come closer to
    the minimum of 1/2 w^2 in 100 steps with eta = 0.001.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"the name {brief(name)} of an optimizer must be a string")
    if name in OPTIMIZERS:
        raise ValueError(f"optimizer {name!r} is built in: give your own another name")
    if not isinstance(steps, Mapping):
        raise TypeError(f"steps={brief(steps)} must be a dict such as {{'w': 'w - eta*g'}}")
    if not isinstance(state, list | tuple) or not all(isinstance(own, str) for own in state):
        raise TypeError(f"state={brief(state)} must be a list of names such as ['v']")
    for own in (*state, *numbers):
        if own in _GIVEN:
            raise ValueError(f"{own!r} is given already, as {_GIVEN[own]}: choose another name")
    if twice := [own for own in state if own in numbers or list(state).count(own) > 1]:
        raise ValueError(f"{twice[0]!r} names two things: choose another name for one")
    for target in steps:
        if not isinstance(target, str) or not target.isidentifier():
            raise ValueError(f"the target {brief(target)} of a formula must be a name")
        if target not in ("w", "g") and target in (*_GIVEN, *numbers):
            raise ValueError(f"{target!r} is a number of the step, to which no formula assigns")
    if "w" not in steps:
        raise ValueError("no formula assigns to 'w', the parameter")
    if missing := [own for own in state if own not in steps]:
        raise ValueError(f"no formula assigns to the state {missing[0]!r}: it would stay 0")
    for own, value in numbers.items():
        if not callable(value):
            numbers[own] = number = check_number(value, own)
            if not math.isfinite(number):
                raise ValueError(f"{own}={value!r} must be a finite number")
    rule = UpdateRule.of(tuple(state), ("eta", *numbers), steps)
    found = OwnOptimizer(name, rule, tuple(numbers.items()))
    _descends(found)
    return found


def _descends(optimizer: Optimizer) -> None:
    """Refuse what climbs on 1/2 w^2, leaves the finite numbers, or does not rest at the minimum:
    kernels train on zeros, too, beside the last unit of a layer."""
    start = np.array([0.0, -3.0, -0.5, 0.5, 3.0])
    w: Any = start
    state: Any = np.zeros((len(optimizer.rule.state), len(start)))
    for numbers in optimizer.numbers(1, np.full(100, 1e-3)):
        w, state, _ = optimizer.rule.applied(optimizer.rule.steps, w, w, state, numbers)
    if not np.isfinite(w).all():
        raise ValueError(f"{brief(optimizer.name)} leaves the finite numbers on 1/2 w^2: w = {w}")
    if w[0] != 0:
        raise ValueError(
            f"{brief(optimizer.name)} does not rest where w, g and the state are 0: it goes to "
            f"w = {w[0]:.6g} in 100 steps with eta = 0.001"
        )
    if (np.abs(w) >= np.abs(start))[1:].any():
        i = 1 + int(np.argmax((np.abs(w) - np.abs(start))[1:]))
        raise ValueError(
            f"{brief(optimizer.name)} does not descend: on 1/2 w^2 it goes from w = {start[i]} to "
            f"{w[i]:.6g} in 100 steps with eta = 0.001"
        )
