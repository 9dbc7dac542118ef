"""The names that :meth:`gpubp.expression.Expression.to_python` uses, for Numba scalars."""

from __future__ import annotations

import math

from numba import njit

from gpubp import expression

exp, expm1, log, log1p = math.exp, math.expm1, math.log, math.log1p
tanh, sqrt, erf, erfc, power = math.tanh, math.sqrt, math.erf, math.erfc, math.pow
ipow = njit(inline="always")(expression.ipow)


@njit(inline="always")
def absolute(u):
    return abs(u)


@njit(inline="always")
def minimum(u, v):
    """The smaller; NaN if either is, as numpy.minimum."""
    return u if (u < v or u != u) else v


@njit(inline="always")
def maximum(u, v):
    """The larger; NaN if either is, as numpy.maximum."""
    return u if (u > v or u != u) else v
