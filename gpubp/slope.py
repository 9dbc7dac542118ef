"""Whether a formula is the derivative of another: tried where the two could part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .expression import Expression, Tree
from .printable import brief

_SCALES = np.logspace(-6, 4, 81)  # beyond, z*z in a derivative has lost the digits compared here
_SIDES = (1e-7, 1e-4, 1e-2)  # how far from a switch, as a share of its place (or of 1)
_NEAR = 4.0  # up to here df must be finite where f is
_TRIALS = 8  # values of the other variables for which a switch is looked for
_MANY_PLACES = 1000


def check_derivative(
    f: Expression, df: Expression, variable: str, *,
    given: Mapping[str, Expression] | None = None, at: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Refuse df unless it is df/d(variable), by the complex step Im f(x + ih)/h with h = 1e-30.

    ``given`` defines variables of df by formulas in f's: ``{"a": sigma}`` for sigma' in z and a.
    It is tried at random points in [-4, 4] and (0, 1), at +-10^-6 to +-10^4, and close to both
    sides of each number in the formulas and of each switch: where the two sides of a comparison,
    min or max are equal, or the argument of abs is 0. ``at`` holds the values to try for some
    variables; no others are tried then, but for switches between the least and the largest. Points
    where f is not finite do not count, nor those beyond [-4, 4] where df is not; and where rounding
    shows, as in (exp(z) - 1)/z near 0, the two may differ by as much as it shows. Raises
    ``ValueError`` naming the point.
    """
    given, at = given or {}, at or {}
    names = sorted((f.names | df.names | {variable}) - given.keys())
    with np.errstate(all="ignore"):
        points = _points(f, df, variable, names, given, at)
        ordinary, right = _slope(f, points, variable)
        if not ordinary.any():
            raise ValueError(
                f"{brief(f.source)} is finite at no point tried: check it or its range"
            )
        found = _evaluate(df, points | _given(given, points))
        # Where exp overflows in df but not in f, training will say so: it is no other slope.
        counted = ordinary & (np.isfinite(found) | (np.abs(points[variable]) <= _NEAR))
        ordinary = counted if counted.any() else ordinary
        allowed = 1e-6 * (np.abs(right) + min(1.0, np.abs(right[ordinary]).max()))
        wrong = ordinary & ~(np.abs(found - right) <= allowed)  # NaN is wrong
        if wrong.any():
            points = {name: values[wrong] for name, values in points.items()}
            right, found, allowed = right[wrong], found[wrong], allowed[wrong]
            noise = _noise(f, df, variable, points, given)
            wrong = ~(np.abs(found - right) <= allowed + 100 * noise)
    if wrong.any():  # of all these points, the one with the smallest numbers is told
        i = np.argmin(np.where(wrong, np.max(np.abs(list(points.values())), axis=0), np.inf))
        place = ", ".join(f"{name} = {values[i]:.10g}" for name, values in points.items())
        raise ValueError(
            f"{brief(df.source)} is not the derivative of {brief(f.source)} in {variable}: at "
            f"{place} it gives {found[i]:.6g} and the slope is {right[i]:.6g}"
        )


def _evaluate(formula: Expression, values: Mapping[str, Any]) -> Any:
    return formula(np, **{name: values[name] for name in formula.variables if name in values})


def _slope(f: Expression, points: Mapping[str, Any], variable: str) -> tuple[Any, Any]:
    """(whether f is an ordinary number there, its slope) at each point."""
    stepped = _evaluate(f, {**points, variable: points[variable] + 1e-30j})
    # Not where log(-1) is a number, as it is not in f.
    return np.isclose(stepped.real, _evaluate(f, points)) & np.isfinite(
        stepped
    ), stepped.imag * 1e30


def _noise(
    f: Expression, df: Expression, variable: str, points: Mapping[str, Any],
    given: Mapping[str, Expression],
) -> Any:  # fmt: skip
    """How far f's slope and df move when the variable moves by some units in the last place of 1,
    or of itself where it is larger: next to nothing, where neither lost digits on the way."""
    slopes, here = [], points[variable]
    for units in (-23.4, -11.3, -0.4, 5.7, 17.2):
        near = dict(points)
        near[variable] = here + units * np.finfo(float).eps * np.maximum(1, np.abs(here))
        slopes.append((_slope(f, near, variable)[1], _evaluate(df, near | _given(given, near))))
    spread = np.ptp(np.array(slopes), axis=0).sum(axis=0)
    return np.where(np.isfinite(spread), spread, 0)


def _given(given: Mapping[str, Expression], points: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _evaluate(formula, points) for name, formula in given.items()}


def _points(
    f: Expression, df: Expression, variable: str, names: list[str],
    given: Mapping[str, Expression], at: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Where f and df are compared: equally many values of each of the names."""
    rng = np.random.default_rng(0)

    def draw(name: str, n: int) -> Any:
        """n values in random order, off the kinks at round numbers."""
        if name in at:
            values = rng.choice(np.ravel(np.asarray(at[name], float)), n)
        else:
            wide = rng.choice([-1.0, 1.0], n) * rng.choice(_SCALES, n)
            kinds = (rng.uniform(-4, 4, n), rng.uniform(0, 1, n), wide)
            values = np.choose(rng.integers(0, 4, n) % 3, kinds)  # half of them in [-4, 4]
        return values + rng.uniform(0, 1e-9, n) * np.maximum(1, np.abs(values))

    def with_others(values: Any) -> dict[str, Any]:
        return {name: values if name == variable else draw(name, len(values)) for name in names}

    least, most = -np.inf, np.inf
    places = np.concatenate([-_SCALES[::-1], np.linspace(-4, 4, 81), _SCALES])
    if variable in at:
        least, most = float(np.min(at[variable])), float(np.max(at[variable]))
        places = np.ravel(np.asarray(at[variable], float))
    formulas = (f, df, *given.values())
    numbers = np.array([x for formula in formulas for x in _numbers(formula._tree)], float)
    numbers = np.unique(np.concatenate([numbers, -numbers]))
    at_numbers = np.concatenate([c + _sides(c) for c in (numbers, 0.0)], axis=None)
    groups = [
        with_others(draw(variable, 800)),
        with_others(places + rng.uniform(0, 1e-9, places.size) * np.maximum(1, np.abs(places))),
        with_others(np.repeat(at_numbers, 1 if len(names) == 1 else _TRIALS)),
    ]
    grid = np.unique(np.concatenate([places, np.linspace(-4, 4, 801), at_numbers]))
    grid = grid[(grid >= least) & (grid <= most)]
    switches = {switch for formula in formulas for switch in _switches(formula._tree)}
    for switch in sorted(switches, key=repr):
        groups.append(_beside(switch, variable, grid, names, given, draw))
    points = {name: np.concatenate([group[name] for group in groups]) for name in names}
    inside = (points[variable] >= least) & (points[variable] <= most)
    return {name: values[inside] for name, values in points.items()}


def _sides(place: Any) -> Any:
    """Small steps to both sides of each place, (2 len(_SIDES), ...)."""
    steps = np.array([sign * side for side in _SIDES for sign in (-1, 1)])
    return np.multiply.outer(steps, np.maximum(1, np.abs(place)))


def _numbers(tree: Tree) -> Iterator[float]:
    operation, *arguments = tree
    if operation == "number":
        yield float(arguments[0])
    for part in arguments:
        if isinstance(part, tuple):
            yield from _numbers(part)


def _switches(tree: Tree) -> Iterator[Tree]:
    """The formulas that change their sign where this one goes over to another branch."""
    operation, *arguments = tree
    if operation in ("<", "<=", ">", ">=", "==", "!=", "min", "max"):
        yield ("-", *arguments)
    elif operation == "abs":
        yield arguments[0]
    for part in arguments:
        if isinstance(part, tuple):
            yield from _switches(part)


def _beside(
    switch: Tree, variable: str, grid: Any, names: list[str],
    given: Mapping[str, Expression], draw: Any,
) -> dict[str, Any]:  # fmt: skip
    """Points close to both sides of the places where the switch, a formula in the variable, changes
    its sign between two neighbours of the grid: found by halving."""
    formula = Expression("", (*names, *given), switch)
    others = {name: draw(name, 1 if len(names) == 1 else _TRIALS) for name in names}
    trials = len(others[variable])

    def sign(values: Mapping[str, Any]) -> Any:
        return np.sign(_evaluate(formula, {**values, **_given(given, values)}))

    table = {name: np.repeat(others[name], len(grid)) for name in names}
    table[variable] = np.tile(grid, trials)
    signs = sign(table).reshape(trials, len(grid))
    trial, left = np.nonzero(signs[:, :-1] * signs[:, 1:] < 0)
    trial, left = trial[:_MANY_PLACES], left[:_MANY_PLACES]
    low, high, before = grid[left], grid[left + 1], signs[trial, left]
    fixed = {name: others[name][trial] for name in names}
    for _ in range(60):
        middle = 0.5 * (low + high)
        same = sign(fixed | {variable: middle}) == before
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    sides = _sides(high)
    points = {name: np.tile(values, len(sides)) for name, values in fixed.items()}
    return points | {variable: (high + sides).ravel()}
