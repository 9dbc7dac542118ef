"""exp, log, tanh, erf and their like on vectors (see ``simd``), for float32 and float64.

Errors against the exact value, the largest seen over the whole range, in units in the last place:

    exp 1      expm1 2    log 1    log1p 2    tanh 3    erf 2    erfc 4    sqrt 0.5
    power      as exp(x log u): about 1 + |x log u|

NaN gives NaN, and infinities, zeros and subnormal results are those of NumPy: nothing is clamped
that could hide divergence. With them ``1/(1 + exp(-z))`` reaches exactly 0 and 1.
The names are those of ``Expression.to_python``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from gpubp.kernels.cpu.simd import I32, I64, Vector, fma_ir, intrinsic, ir_type, llvm_call, suffix

# erf(x)/x in x^2 on [0, 1], and e^(x^2) erfc(x) (1 + 2x) in (x - c)/(x + c) with c = 3 and 4:
# interpolated at Chebyshev's points in 50 digits. Keys are bits.
_ERF = {
    32: (
        1.1283791658483509,
        -0.37612626666720334,
        0.11283594715160218,
        -0.026854212010626412,
        0.005189087423433974,
        -0.000801686428716587,
        7.875875062685488e-05,
    ),
    64: (
        1.1283791670955126,
        -0.3761263890318375,
        0.11283791670954879,
        -0.026866170645076792,
        0.0052239776248180145,
        -0.000854832698083379,
        0.0001205533111164271,
        -1.4925595266831182e-05,
        1.6461000484121368e-06,
        -1.6350312701054695e-07,
        1.4659775274047436e-08,
        -1.1372848856791674e-09,
        5.957176147748911e-11,
    ),
}
_ERFC = {
    32: (
        1.2530080563514496,
        -0.13562110005839803,
        -0.047562156146354076,
        0.1296447209153884,
        -0.11927528136881009,
        0.06831319671956372,
        -0.023763559702172088,
        0.0025067786718598333,
        0.001875060245867973,
        -0.0007340820503933423,
        -9.25376912641456e-05,
        8.007454974776248e-05,
    ),
    64: (
        1.2329951186255526,
        -0.13962111684056228,
        0.015379652102619974,
        0.06809705425466839,
        -0.10103906603631811,
        0.09373283499911264,
        -0.06633036581186058,
        0.037167515526338006,
        -0.01619773406293477,
        0.005031970069102256,
        -0.0007577732435942576,
        -0.0001992571524726518,
        0.00015062142608651945,
        -2.4397731143023292e-05,
        -1.1221135665965907e-05,
        5.70657829924074e-06,
        2.9173425573089733e-07,
        -8.210647933297337e-07,
        7.771943241086912e-08,
        1.0631817593818149e-07,
        -2.0725802488181963e-08,
        -1.2338731403798444e-08,
        3.2323973445082033e-09,
        9.297625263709659e-10,
        -2.764120233734578e-10,
    ),
}


class _Value:
    """A vector under construction: LLVM's value with arithmetic, so that formulas read as such."""

    def __init__(self, builder: Any, kind: Vector, value: Any) -> None:
        self.builder, self.kind, self.value = builder, kind, value

    @property
    def bits(self) -> int:
        return int(self.kind.dtype.bitwidth)

    def pick(self, single: Any, double: Any) -> Any:
        """The first for float32, the second for float64."""
        return single if self.bits == 32 else double

    def of(self, value: Any) -> _Value:
        return _Value(self.builder, self.kind, value)

    def _lift(self, other: Any) -> Any:
        if isinstance(other, _Value):
            return other.value
        return ir.Constant(ir_type(self.kind), [float(other)] * self.kind.n)

    def __add__(self, other: Any) -> _Value:
        return self.of(self.builder.fadd(self.value, self._lift(other)))

    def __sub__(self, other: Any) -> _Value:
        return self.of(self.builder.fsub(self.value, self._lift(other)))

    def __rsub__(self, other: Any) -> _Value:
        return self.of(self.builder.fsub(self._lift(other), self.value))

    def __mul__(self, other: Any) -> _Value:
        return self.of(self.builder.fmul(self.value, self._lift(other)))

    def __truediv__(self, other: Any) -> _Value:
        return self.of(self.builder.fdiv(self.value, self._lift(other)))

    def __rtruediv__(self, other: Any) -> _Value:
        return self.of(self.builder.fdiv(self._lift(other), self.value))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> _Value:
        return self.of(self.builder.fneg(self.value))

    def fma(self, factor: Any, term: Any) -> _Value:
        """self factor + term with one rounding"""
        args = self.value, self._lift(factor), self._lift(term)
        return self.of(fma_ir(self.builder, self.kind, *args))

    def holds(self, sign: str, other: Any) -> Any:
        """The mask of self <sign> other; NaN compares false, except under !=."""
        compare = self.builder.fcmp_unordered if sign == "!=" else self.builder.fcmp_ordered
        return compare(sign, self.value, self._lift(other))

    def where(self, mask: Any, other: Any) -> _Value:
        """other where the mask holds, self elsewhere"""
        return self.of(self.builder.select(mask, self._lift(other), self.value))

    def call(self, name: str, *others: Any) -> _Value:
        args = [self.value, *(self._lift(other) for other in others)]
        return self.of(
            llvm_call(self.builder, f"{name}.{suffix(self.kind)}", ir_type(self.kind), args)
        )

    def polynomial(self, coefficients: Sequence[float]) -> _Value:
        """sum_i coefficients[i] self^i, by Horner's rule"""
        total = self.of(self._lift(coefficients[-1]))
        for coefficient in coefficients[-2::-1]:
            total = total.fma(self, coefficient)
        return total

    # The bits of floats as integers.

    @property
    def mantissa(self) -> int:
        return int(self.pick(23, 52))

    def integer(self, value: int) -> Any:
        element = I32 if self.bits == 32 else I64
        return ir.Constant(ir.VectorType(element, self.kind.n), [value] * self.kind.n)

    def as_bits(self) -> Any:
        return self.builder.bitcast(self.value, self.integer(0).type)

    def from_bits(self, bits: Any) -> _Value:
        return self.of(self.builder.bitcast(bits, ir_type(self.kind)))

    def power_of_two(self, exponent: Any) -> _Value:
        """2^exponent of an integer vector, for normal results"""
        bias = self.integer(self.pick(127, 1023))
        shifted = self.builder.shl(self.builder.add(exponent, bias), self.integer(self.mantissa))
        return self.from_bits(shifted)


def _function(build: Callable[..., _Value], arity: int = 1) -> Any:
    """``build`` as a function of vectors inside Numba."""

    def typed(*kinds: Any) -> Any:
        if any(not isinstance(kind, Vector) or kind != kinds[0] for kind in kinds):
            return None

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return build(*(_Value(builder, kinds[0], arg) for arg in args)).value

        return kinds[0](*kinds), lower

    if arity == 1:
        return intrinsic(lambda typing, u: typed(u))
    return intrinsic(lambda typing, u, v: typed(u, v))


# ln 2 in two parts, the first with zeros at its end, so that n times it is exact.
def _reduce(x: _Value) -> tuple[_Value, Any, _Value]:
    """(n, n as integers, r) with x = n ln 2 + r, |r| <= ln 2 / 2; n = 0 for NaN."""
    high = x.pick(0.693145751953125, 0.6931471803691238)
    low = x.pick(1.428606765330187e-06, 1.9082149292705877e-10)
    n = (x * (1 / math.log(2))).call("rint")
    n = n.where(x.holds("!=", x), 0.0)
    r = n.fma(-low, n.fma(-high, x))
    return n, x.builder.fptosi(n.value, x.integer(0).type), r


def _expm1_reduced(r: _Value) -> _Value:
    """e^r - 1 for |r| <= ln 2 / 2"""
    terms = [1 / math.factorial(k) for k in range(2, r.pick(8, 14))]
    return (r * r).fma(r.polynomial(terms), r)


def _exp(x: _Value) -> _Value:
    # Beyond these bounds the result is 0 or inf all the same; NaN passes them.
    lowest, highest = x.pick((-105.0, 89.0), (-746.0, 710.0))
    x = x.where(x.holds("<", lowest), lowest)
    x = x.where(x.holds(">", highest), highest)
    _, n, r = _reduce(x)
    # 2^n in two factors, for results that are subnormal or overflow.
    half = x.builder.ashr(n, x.integer(1))
    rest = x.builder.sub(n, half)
    return (_expm1_reduced(r) + 1.0) * x.power_of_two(half) * x.power_of_two(rest)


def _expm1(x: _Value) -> _Value:
    near = x.call("fabs").holds("<", 1.0)
    small = x.of(x._lift(0.0)).where(near, x)
    _, n, r = _reduce(small)
    scale = x.power_of_two(n)
    inside = scale.fma(_expm1_reduced(r), scale - 1.0)
    return (_exp(x) - 1.0).where(near, inside)


def _log(x: _Value) -> _Value:
    builder = x.builder
    least, up = x.pick((2.0**-126, 23), (2.0**-1022, 52))
    tiny = x.holds("<", least)
    scaled = x.where(tiny, x * 2.0**up)
    # scaled = f 2^e with f in [sqrt(1/2), sqrt(2))
    root = x.of(x._lift(math.sqrt(0.5))).as_bits()
    bits = scaled.as_bits()
    e = builder.ashr(builder.sub(bits, root), x.integer(x.mantissa))
    f = x.from_bits(builder.sub(bits, builder.shl(e, x.integer(x.mantissa)))) - 1.0
    e_float = x.of(builder.sitofp(e, ir_type(x.kind)))
    e_float = e_float - x.of(x._lift(0.0)).where(tiny, float(up))
    # log(1 + f) = f - f^2/2 + s (f^2/2 + R), R = 2 s^2/3 + 2 s^4/5 + ..., s = f/(2 + f)
    s = f / (f + 2.0)
    square = s * s
    series = square * square.polynomial([2 / (2 * k + 3) for k in range(x.pick(4, 11))])
    half = f * f * 0.5
    high = x.pick(0.693145751953125, 0.6931471803691238)
    low = x.pick(1.428606765330187e-06, 1.9082149292705877e-10)
    result = e_float.fma(high, f - (half - s.fma(half + series, e_float * low)))
    result = result.where(x.holds("==", math.inf), math.inf)
    result = result.where(x.holds("==", 0.0), -math.inf)
    result = result.where(x.holds("<", 0.0), math.nan)
    return result.where(x.holds("!=", x), x)


def _log1p(x: _Value) -> _Value:
    u = x + 1.0
    # What rounding u lost, to first order.
    lost = (x - (u - 1.0)).where(x.holds(">", 1.0), 1.0 - (u - x))
    log_u = _log(u)
    result = log_u + lost / u
    result = result.where(u.holds("==", 0.0), log_u).where(u.holds("==", math.inf), log_u)
    return result.where(x.call("fabs").holds("<", 1e-20), x)


def _tanh(x: _Value) -> _Value:
    e = _expm1(x.call("fabs") * -2.0)  # in (-1, 0]
    return (-e / (e + 2.0)).call("copysign", x)


def _erf_small(x: _Value) -> _Value:
    """erf for |x| <= 1"""
    return x * (x * x).polynomial(_ERF[x.bits])


def _erfc_positive(x: _Value) -> _Value:
    """erfc for x >= 0: e^(-x^2) P(u) / (1 + 2x), u = (x - c)/(x + c)"""
    c = x.pick(3.0, 4.0)
    bound = x.pick(12.0, 30.0)  # beyond it erfc is 0, and infinity would make u NaN
    x = x.where(x.holds(">", bound), bound)
    u: _Value = (x - c) / (x + c)
    p = u.polynomial(_ERFC[x.bits])
    square = x * x
    rest = x.fma(x, -square)
    e = _exp(-square)
    return e.fma(-rest, e) * (p / x.fma(2.0, 1.0))


def _erf(x: _Value) -> _Value:
    size = x.call("fabs")
    far = (1.0 - _erfc_positive(size)).call("copysign", x)
    return far.where(size.holds("<", 1.0), _erf_small(x))


def _erfc(x: _Value) -> _Value:
    positive = _erfc_positive(x.call("fabs"))
    result = positive.where(x.holds("<", 0.0), 2.0 - positive)
    return result.where(x.call("fabs").holds("<", 0.25), 1.0 - _erf_small(x))


def _maximum(u: _Value, v: _Value) -> _Value:
    larger = v.where(u.holds(">", v), u)
    return larger.where(u.holds("!=", u), u)


def _minimum(u: _Value, v: _Value) -> _Value:
    smaller = v.where(u.holds("<", v), u)
    return smaller.where(u.holds("!=", u), u)


exp = _function(_exp)
expm1 = _function(_expm1)
log = _function(_log)
log1p = _function(_log1p)
tanh = _function(_tanh)
erf = _function(_erf)
erfc = _function(_erfc)
sqrt = _function(lambda u: u.call("sqrt"))
absolute = _function(lambda u: u.call("fabs"))
maximum = _function(_maximum, 2)
minimum = _function(_minimum, 2)
power = _function(lambda u, v: _exp(v * _log(u)), 2)


@intrinsic
def ipow(typing: Any, u: Any, n: Any) -> Any:
    """u^n, n a constant integer >= 1, by squaring"""
    if not (isinstance(u, Vector) and isinstance(n, types.IntegerLiteral)):
        return None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        square, result, left = _Value(builder, u, args[0]), None, n.literal_value
        while left:
            if left & 1:
                result = square if result is None else result * square
            square, left = square * square, left >> 1
        assert result is not None
        return result.value

    return u(u, n), lower
