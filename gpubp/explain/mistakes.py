"""A learner's own four equations, checked, and the mistake in them named.

Each equation is a function of the layer l and of dictionaries that are keyed by the layer as the
book writes it, z[l], a[l - 1], weights[l + 1]. It is run on small random networks and compared
with the truth, and then with every combination of the common mistakes below. A mistake is named
only if that combination gives the very numbers that the learner's function gives, on every
network; so what is in no catalogue is called wrong, and nothing else.

Source: M. Nielsen, Neural Networks and Deep Learning, chapter 2, (BP1) to (BP4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from gpubp.errors import unknown

from .matrices import relative
from .text import plain

Array = np.ndarray[Any, Any]
ByLayer = dict[int, Array]

# Equal layers, on which a transposed w or another layer's z still fits, and unequal ones.
_SIZES = ((4, 4, 4, 4, 4), (5, 3, 6, 4, 2), (3, 3, 3, 3))
_EXAMPLES = (3, 5, 7)
EQUATIONS = {
    "bp1": "delta^L = grad_a C (x) sigma'(z^L)",
    "bp2": "delta^l = ((w^{l+1})^T delta^{l+1}) (x) sigma'(z^l)",
    "bp3": "dC/db^l = delta^l, the mean over the examples",
    "bp4": "dC/dw^l = delta^l (a^{l-1})^T, the mean over the examples",
}


@dataclass(frozen=True)
class Verdict:
    """On one equation: ``right``, or the ``mistakes`` by name (none where the catalogue holds no
    such mistake), and ``detail``: where it differs, or the exception it raised."""

    equation: str
    formula: str
    right: bool
    mistakes: tuple[str, ...]
    detail: str

    def __repr__(self) -> str:
        if self.right:
            return f"{self.equation}: right: {self.formula}"
        named = "; also ".join(self.mistakes) or "wrong, in no way that the catalogue knows"
        return f"{self.equation}: {named}\n  {self.formula}\n  {self.detail}"


@dataclass(frozen=True)
class EquationReport:
    """The verdicts on the functions that were given."""

    verdicts: tuple[Verdict, ...]

    @property
    def right(self) -> bool:
        """Whether every function given is right."""
        return all(verdict.right for verdict in self.verdicts)

    def __getitem__(self, equation: str) -> Verdict:
        for verdict in self.verdicts:
            if verdict.equation == equation:
                return verdict
        raise unknown("equation", equation, [verdict.equation for verdict in self.verdicts])

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found: dict[str, Any] = plain(self)
        return found

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.verdicts))


def check_equations(
    *,
    bp1: Callable[..., Any] | None = None,
    bp2: Callable[..., Any] | None = None,
    bp3: Callable[..., Any] | None = None,
    bp4: Callable[..., Any] | None = None,
    layout: str = "rows",
) -> EquationReport:
    """Check your own equations, any of the four, and have the mistake named.

    Args:
        bp1: (L, grad_a, z, sigma_prime) -> delta^L (m, n_L); ``grad_a`` is grad_a C (m, n_L).
        bp2: (l, weights, delta, z, sigma_prime) -> delta^l (m, n_l).
        bp3: (l, delta) -> dC/db^l (n_l,), the mean over the m examples.
        bp4: (l, delta, a) -> dC/dw^l (n_l, n_{l-1}), the mean over the m examples.
        layout: "rows", as in this library, an example a row: z[l] is (m, n_l); or "columns", as in
            the book, an example a column: z[l], and every delta, is (n_l, m).

    ``z``, ``a``, ``delta`` and ``weights`` are dictionaries: ``z[l]``, ``a[l - 1]``,
    ``delta[l + 1]``, ``weights[l + 1]``; layer 1 is the input, ``a[1]`` = x. ``sigma_prime`` is a
    function of an array.

        def bp2(l, weights, delta, z, sigma_prime):
            return (delta[l + 1] @ weights[l + 1]) * sigma_prime(z[l])

        print(gpubp.explain.check_equations(bp2=bp2))

    Raises:
        TypeError, ValueError: no function was given, or no such layout.
    """
    given = {"bp1": bp1, "bp2": bp2, "bp3": bp3, "bp4": bp4}
    functions = {name: f for name, f in given.items() if f is not None}
    if not functions or not all(map(callable, functions.values())):
        raise TypeError("check_equations takes functions: bp1=, bp2=, bp3= or bp4=")
    if layout not in ("rows", "columns"):
        raise unknown("layout", layout, ("rows", "columns"))
    return EquationReport(tuple(_judge(name, f, layout) for name, f in functions.items()))


@dataclass(frozen=True)
class _Case:
    """Everything that one layer of one random network knows, in rows."""

    l: int
    m: int
    weights: ByLayer
    z: ByLayer
    a: ByLayer
    delta: ByLayer
    grad_a: Array


def _sigma(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def _sigma_prime(z: Any) -> Any:
    return _sigma(z) * (1 - _sigma(z))


def _cases(equation: str) -> Iterator[_Case]:
    rng = np.random.default_rng(0)
    for sizes, m in zip(_SIZES, _EXAMPLES, strict=True):
        last, weights, z = len(sizes), {}, {}
        a = {1: rng.standard_normal((m, sizes[0]))}
        for l in range(2, last + 1):
            weights[l] = rng.standard_normal((sizes[l - 1], sizes[l - 2]))
            z[l] = a[l - 1] @ weights[l].T + rng.standard_normal(sizes[l - 1])
            a[l] = _sigma(z[l])
        grad_a = rng.standard_normal(a[last].shape)
        delta = {last: grad_a * _sigma_prime(z[last])}
        for l in range(last - 1, 1, -1):
            delta[l] = (delta[l + 1] @ weights[l + 1]) * _sigma_prime(z[l])
        first = {"bp1": last, "bp2": 2, "bp3": 2, "bp4": 2}[equation]
        for l in range(first, last if equation == "bp2" else last + 1):
            yield _Case(l, m, weights, z, a, delta, grad_a)


def _call(f: Callable[..., Any], name: str, case: _Case, layout: str) -> Array:
    """The learner's result, in rows. Each call has copies: what it writes into is its own."""

    def turn(v: Array) -> Array:
        return v.copy() if layout == "rows" else v.T.copy()

    def turned(arrays: ByLayer) -> ByLayer:
        return {l: turn(v) for l, v in arrays.items()}

    z, a, delta = turned(case.z), turned(case.a), turned(case.delta)
    weights = {l: w.copy() for l, w in case.weights.items()}
    if name == "bp1":
        result = f(case.l, turn(case.grad_a), z, _sigma_prime)
    elif name == "bp2":
        result = f(case.l, weights, delta, z, _sigma_prime)
    elif name == "bp3":
        result = f(case.l, delta)
    else:
        result = f(case.l, delta, a)
    found = np.asarray(result)
    if found.dtype.kind not in "iuf":
        raise TypeError(f"it returned {type(result).__name__}, not an array of numbers")
    if name == "bp3" and layout == "columns" and found.ndim == 2:
        return found[:, 0] if found.shape[1] == 1 else found.T  # the book's b is a column
    return found.T if layout == "columns" and name in ("bp1", "bp2") else found


# The catalogue. Each equation is a function of choices, one a slot; the first of each is right.
# A mistake may raise on the networks where its shapes do not fit, as the learner's own does.

Slots = Mapping[str, Mapping[str, Any]]

_SIGN = {"": 1.0, "the sign is turned round (y - a for a - y)": -1.0}
_AVERAGE = {
    "": lambda m: 1.0,
    "not averaged: the sum over the m examples, without 1/m": float,
    "averaged twice: divided by m once too often": lambda m: 1.0 / m,
}
_EARLY = {
    "": lambda m: 1.0,
    "averaged too early: delta belongs to each example, 1/m to BP3 and BP4": lambda m: 1.0 / m,
}
_TWICE = {"": 1.0, "summed twice: every example counts double": 2.0}
_DOUBLE = {"": 1.0, "twice as large, as of a cost without its 1/2": 2.0}
_SLOPE: dict[str, Callable[[Any, Any], Any]] = {
    "": lambda v, z: v * _sigma_prime(z),
    "missing sigma': no factor sigma'(z)": lambda v, z: v,
    "sigma(z) in place of sigma'(z)": lambda v, z: v * _sigma(z),
    "sigma'(a) in place of sigma'(z)": lambda v, z: v * _sigma_prime(_sigma(z)),
    "sigma'(z) twice": lambda v, z: v * _sigma_prime(z) ** 2,
    "sigma'(z) added, not multiplied": lambda v, z: v + _sigma_prime(z),
}
_WHICH_Z = {
    "": 0,
    "wrong layer's z: sigma'(z^{l+1})": 1,
    "wrong layer's z: sigma'(z^{l-1})": -1,
}


def _bp1(case: _Case, slope: Any, z: int, double: float, average: Any, sign: float) -> Array:
    v = slope(case.grad_a, case.z[case.l + z])
    return np.asarray(sign * double * average(case.m) * v)


def _bp2(
    case: _Case, w: Any, d: int, slope: Any, z: int, double: float, average: Any, sign: float
) -> Array:
    v = slope(w(case.delta[case.l + d], case.weights, case.l), case.z[case.l + z])
    return np.asarray(sign * double * average(case.m) * v)


def _bp3(case: _Case, d: int, collect: Any, twice: float, average: Any, sign: float) -> Array:
    return np.asarray(sign * twice * average(case.m) * collect(case.delta[case.l + d], case.m))


def _bp4(
    case: _Case, d: int, a: int, rows: Any, transpose: Any, slope: Any, twice: float,
    average: Any, sign: float,
) -> Array:  # fmt: skip
    delta = slope(case.delta[case.l + d], case)
    which, parts = rows(case.m)
    v = transpose(delta[which].T @ case.a[case.l - 1 + a][which] / parts)
    return np.asarray(sign * twice * average(case.m) * v)


_WHICH_DELTA = {
    "": 0,
    "wrong layer's delta: delta^{l+1}": 1,
    "wrong layer's delta: delta^{l-1}": -1,
}
_FIRST = "one example only, the first, not the sum over the mini-batch"
_LAST = "one example only, the last, not the sum over the mini-batch"
_OVERWRITTEN = "one example only: overwritten by each, not added up"
CATALOGUE: dict[str, tuple[Callable[..., Array], Slots]] = {
    "bp1": (
        _bp1,
        {
            "slope": _SLOPE,
            "z": {"": 0, "wrong layer's z: sigma'(z^{L-1})": -1},
            "double": _DOUBLE,
            "average": _EARLY,
            "sign": _SIGN,
        },
    ),
    "bp2": (
        _bp2,
        {
            "w": {
                "": lambda d, w, l: d @ w[l + 1],
                "transposed w: w^{l+1} where (w^{l+1})^T belongs": lambda d, w, l: d @ w[l + 1].T,
                "wrong layer's w: (w^l)^T": lambda d, w, l: d @ w[l],
            },
            "d": {
                "": 1,
                "wrong layer's delta: delta^l": 0,
                "wrong layer's delta: delta^{l+2}": 2,
            },
            "slope": _SLOPE,
            "z": _WHICH_Z,
            "double": _DOUBLE,
            "average": _EARLY,
            "sign": _SIGN,
        },
    ),
    "bp3": (
        _bp3,
        {
            "d": _WHICH_DELTA,
            "collect": {
                "": lambda v, m: v.mean(axis=0),
                "not summed over the examples: delta itself": lambda v, m: v,
                "summed over the neurons, not over the examples": lambda v, m: v.mean(axis=1),
                _FIRST: lambda v, m: v[0],
                _LAST: lambda v, m: v[-1],
                _OVERWRITTEN: lambda v, m: v[-1] / m,
            },
            "twice": _TWICE,
            "average": _AVERAGE,
            "sign": _SIGN,
        },
    ),
    "bp4": (
        _bp4,
        {
            "d": _WHICH_DELTA,
            "a": {"": 0, "wrong layer's a: a^l": 1, "wrong layer's a: a^{l-2}": -1},
            "rows": {
                "": lambda m: (slice(None), m),
                _FIRST: lambda m: (slice(0, 1), 1),
                _LAST: lambda m: (slice(-1, None), 1),
                _OVERWRITTEN: lambda m: (slice(-1, None), m),
            },
            "transpose": {
                "": lambda v: v,
                "transposed: a^{l-1} (delta^l)^T, the shape of w^T": lambda v: v.T,
            },
            "slope": {
                "": lambda d, case: d,
                "sigma'(z) once more: delta holds it already": (
                    lambda d, case: d * _sigma_prime(case.z[case.l])
                ),
            },
            "twice": _TWICE,
            "average": _AVERAGE,
            "sign": _SIGN,
        },
    ),
}


def _attempt(compute: Callable[[], Array]) -> Array | Exception:
    try:
        with np.errstate(all="ignore"):
            return compute()
    except Exception as error:  # a learner's function may raise anything; it is reported
        return error


def _same(found: Array | Exception, truth: Array | Exception) -> bool:
    """The same numbers in the same shape, within the rounding of their dtype; or both raised."""
    if isinstance(found, Exception) or isinstance(truth, Exception):
        return isinstance(found, Exception) and isinstance(truth, Exception)
    bound = 1e-4 if found.dtype in (np.float32, np.float16) else 1e-9
    return found.shape == truth.shape and relative(found.astype(float), truth) <= bound


def _judge(name: str, f: Callable[..., Any], layout: str) -> Verdict:
    cases = list(_cases(name))
    found = [_attempt(partial(_call, f, name, case, layout)) for case in cases]
    mistakes = _name(name, cases, found)
    if mistakes == ():
        return Verdict(name, EQUATIONS[name], True, (), "")
    return Verdict(name, EQUATIONS[name], False, mistakes or (), _detail(name, cases, found))


def _name(name: str, cases: list[_Case], found: list[Array | Exception]) -> tuple[str, ...] | None:
    """The fewest mistakes that give what was found: none if it is right, ``None`` if no choice
    does. Functions that raise on every network match nothing."""
    equation, slots = CATALOGUE[name]
    if all(isinstance(result, Exception) for result in found):
        return None
    choices = sorted(
        product(*(slot.items() for slot in slots.values())),
        key=lambda choice: sum(bool(named) for named, _ in choice),
    )
    for choice in choices:
        values = dict(zip(slots, (value for _, value in choice), strict=True))
        if all(
            _same(result, _attempt(partial(equation, case, **values)))
            for case, result in zip(cases, found, strict=True)
        ):
            return tuple(named for named, _ in choice if named)
    return None


def _detail(name: str, cases: list[_Case], found: list[Array | Exception]) -> str:
    """Where the function first differs from the equation."""
    equation, slots = CATALOGUE[name]
    right = {slot: options[""] for slot, options in slots.items()}
    for case, result in zip(cases, found, strict=True):
        truth = equation(case, **right)
        if _same(result, truth):
            continue
        sizes = [case.a[l].shape[1] for l in sorted(case.a)]
        where = f"on a network of {sizes}, m = {case.m}, layer {case.l}: "
        if isinstance(result, Exception):
            return f"{where}it raised {type(result).__name__}: {result}"
        if result.shape != truth.shape:
            return f"{where}its shape is {result.shape}, not {truth.shape}"
        index = tuple(map(int, np.unravel_index(np.abs(result - truth).argmax(), truth.shape)))
        return f"{where}entry {list(index)} is {result[index]:.6g}, not {truth[index]:.6g}"
    raise AssertionError("called for a function that is right")
