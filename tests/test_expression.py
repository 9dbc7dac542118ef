"""The formula language: what it accepts and refuses, and that all its readings agree."""

from __future__ import annotations

import ctypes
import math
import pickle
import re
import shutil
import subprocess
from operator import add, mul, sub, truediv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubp.expression import Expression, ipow
from gpubp.slope import check_derivative

ZAY = ("z", "a", "y")


def minimum(u: Any, v: Any) -> Any:
    return u if u < v or u != u else v


def maximum(u: Any, v: Any) -> Any:
    return u if u > v or u != u else v


def namespace(dtype: Any) -> dict[str, Any]:
    """What to_python() leaves to its caller, on NumPy scalars of one dtype."""
    functions = {name: getattr(np, name) for name in ("exp", "expm1", "log", "log1p", "tanh")}
    return {
        **functions,
        **{"sqrt": np.sqrt, "absolute": np.abs, "power": np.power, "ipow": ipow, "T": dtype},
        **{"erf": scipy.special.erf, "erfc": scipy.special.erfc},
        **{"minimum": minimum, "maximum": maximum},
    }


# A random formula comes with its meaning as a function of floats, built beside it and not by gpubp.
Pair = tuple[str, Any]


def binary(u: Pair, v: Pair, op: str) -> Pair:
    apply = {"+": add, "-": sub, "*": mul, "/": truediv}[op]
    return f"({u[0]}) {op} ({v[0]})", lambda p: apply(u[1](p), v[1](p))


def unary(u: Pair, name: str) -> Pair:
    apply = {"abs": abs, "neg": lambda x: -x}.get(name) or getattr(math, name)
    return f"-({u[0]})" if name == "neg" else f"{name}({u[0]})", lambda p: apply(u[1](p))


def raised(u: Pair, n: int) -> Pair:
    return f"({u[0]})**{n}", lambda p: u[1](p) ** n


def extreme(u: Pair, v: Pair, name: str) -> Pair:
    apply = {"min": min, "max": max}[name]
    return f"{name}({u[0]}, {v[0]})", lambda p: apply(u[1](p), v[1](p))


def chosen(u: Pair, v: Pair, w: Pair, joint: str) -> Pair:
    test: Any = {"and": lambda s, t: s and t, "or": lambda s, t: s or t}[joint]
    source = f"where({u[0]} > {v[0]} {joint} not ({w[0]} <= 1), {v[0]}, {w[0]})"
    return source, lambda p: v[1](p) if test(u[1](p) > v[1](p), not w[1](p) <= 1) else w[1](p)


LEAVES = st.one_of(
    st.sampled_from(ZAY).map(lambda name: (name, lambda p: p[name])),
    st.floats(-4, 4).map(lambda x: (repr(x), lambda p: x)),
    st.integers(0, 9).map(lambda x: (str(x), lambda p: float(x))),
)
SMOOTH = ("exp", "expm1", "log", "log1p", "tanh", "sqrt", "erf", "erfc", "neg", "abs")


def grow(children: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    return st.one_of(
        st.builds(binary, children, children, st.sampled_from("+-*/")),
        st.builds(unary, children, st.sampled_from(SMOOTH)),
        st.builds(raised, children, st.integers(-4, 4)),
        st.builds(extreme, children, children, st.sampled_from(("min", "max"))),
        st.builds(chosen, children, children, children, st.sampled_from(("and", "or"))),
    )


FORMULAS = st.recursive(LEAVES, grow, max_leaves=6)
POINTS = st.fixed_dictionaries(
    {name: st.floats(-3, 3).filter(lambda x: abs(x) > 1e-3) for name in ZAY}
)


@settings(max_examples=150, deadline=None)
@given(FORMULAS, POINTS)
def test_array_evaluation_is_the_formula(pair: Pair, point: dict[str, float]) -> None:
    source, meaning = pair
    try:
        expected = meaning(point)
        nearby = meaning({name: x * (1 + 1e-13) for name, x in point.items()})
    except (ValueError, ArithmeticError):  # where math raises, NumPy has NaN or infinity
        return
    if isinstance(expected, complex) or not abs(expected) < 1e150:
        return
    value = Expression(source, ZAY)(np, **{name: np.array([x]) for name, x in point.items()})
    # The formula's own condition bounds the rounding: jumps and cancellation move nearby too.
    assert abs(value[0] - expected) <= 1e-9 * (1 + abs(expected)) + 1e3 * abs(nearby - expected)


@settings(max_examples=150, deadline=None)
@given(FORMULAS, POINTS, st.sampled_from((np.float32, np.float64)))
def test_python_source_agrees_to_the_bit(pair: Pair, point: dict[str, float], dtype: Any) -> None:
    f = Expression(pair[0], ZAY)
    values = {name: dtype(x) for name, x in point.items()}
    with np.errstate(all="ignore"):
        scalar = eval(f.to_python(), namespace(dtype) | values)
        array = f(np, **{name: np.array(x) for name, x in values.items()})
    assert type(scalar) is dtype
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, scalar)


@pytest.mark.filterwarnings("ignore:(invalid|overflow):RuntimeWarning")
@settings(max_examples=100, deadline=None)
@given(FORMULAS, POINTS)
def test_derivative_is_the_complex_step(pair: Pair, point: dict[str, float]) -> None:
    f = Expression(pair[0], ZAY)
    try:
        df = f.derivative("z")
    except ValueError:  # a constant part was not finite
        assert re.search(r"/|log|sqrt|\*\*", f.source)
        return
    arrays = {name: np.array(x) for name, x in point.items()}
    slopes, values = [], []
    for e in (0, 1e-13, -1e-13):  # at a kink, such as z == a, the neighbours differ
        near = {
            name: x * (1 + k * e) for k, (name, x) in zip((1, -2, 3), arrays.items(), strict=True)
        }
        step = f(np, **near | {"z": near["z"] + 1e-30j})
        slopes.append(step.imag / 1e-30)
        values.append(step.real - f(np, **near))
    found = df(np, **arrays)
    if np.any(values) or not np.abs([*slopes, found]).max() < 1e100:  # log(-1) is no real number
        return
    assert abs(found - slopes[0]) <= 1e-8 * (1 + abs(slopes[0])) + 1e4 * np.ptp(slopes)


ACTIVATIONS = (
    *("1/(1 + exp(-z))", "tanh(z)", "max(z, 0)", "z/(1 + abs(z))", "where(z > 0, z, expm1(z))"),
    *("max(z, 0) + log1p(exp(-abs(z)))", "z*tanh(log1p(exp(z)))", "z*max(0, min(6, z + 3))/6"),
    *("0.5*z*erfc(-0.7071067811865476*z)", "0.5*z*(1 + erf(z*0.7071067811865476))"),
    *("0.5*z*(1 + tanh(0.7978845608028654*(z + 0.044715*z**3)))", "z/(1 + exp(-z))", "exp(-z**2)"),
    *("exp(-exp(-z))", "z/sqrt(1 + z**2)", "1/(1 + exp(-z))**3", "(1 + exp(-z))**-0.5"),
)  # fmt: skip


@pytest.mark.parametrize("source", ACTIVATIONS)
def test_derivatives_are_right_and_finite_far_out(source: str) -> None:
    f = Expression(source, ("z",))
    df = f.derivative("z")
    assert df.variables == f.variables
    check_derivative(f, df, "z")
    for z in (np.linspace(-1e4, 1e4, 20001), np.linspace(-80, 80, 16001, dtype=np.float32)):
        slope = df(np, z=z)
        assert slope.dtype == z.dtype
        assert np.isfinite(slope[np.isfinite(f(np, z=z))]).all()


@pytest.mark.parametrize(
    ("source", "slope"),
    [
        ("z*y", "0"),
        ("where(a > 0, a, expm1(a))", "where(a > 0, 1, exp(a))"),
        ("max(a, 0)", "where(a > 0, 1, 0)"),
        ("0.5*(a - y)*(a - y)", "a - y"),
        ("log1p((a - y)**2)", "2*(a - y)/((a - y)**2 + 1)"),
        ("where(z > 1 or z < 0, a, 2*a)", "where((z > 1) or (z < 0), 1, 2)"),
    ],
)
def test_derivative_keeps_the_structure(source: str, slope: str) -> None:
    assert Expression(source, ZAY).derivative("a") == Expression(slope, ZAY)


@pytest.mark.parametrize("source", ["1/0*z", "z**64*z**5"])
def test_derivatives_that_are_no_formula(source: str) -> None:
    with pytest.raises(ValueError, match=r"^d/dz of formula .* give it yourself$"):
        Expression(source, ("z",)).derivative("z")


HOSTILE: tuple[Any, ...] = (
    *("", "   ", "(", "(" * 1900, "(" * 900 + "z" + ")" * 900, "-" * 1999 + "z", "not " * 400),
    *("1e999", "9**9**9", "9" * 1999, "z" * 2001, "+".join("z" * 200), "exp(" * 70 + ")" * 70),
    *("exp(" * 70 + "z" + ")" * 70, "z\0", "\0", None, 3, b"z", ["z"], "ｚ", "z²", "z + ℯ", "# z"),
    *("exp(\u202ez)", "\ud800", "é", "__import__('os')", "eval(z)", "z.real", "().__class__"),
    *("z[0]", "'z'", "f'{z}'", "*z", "\\", "lambda: z", "(z := 1)", "[z]", "{z}", "(z, z)", "z, z"),
    *("[z for z in z]", "z if z > 0 else 0", "exp", "exp()", "exp(z, z)", "exp(x=z)", "exp(*z)"),
    *("exp(**z)", "max(z)", "z(z)", "exp(z)(z)", "where(z, 1, 2)", "where(0 < z < 1, 1, 2)"),
    *("where(z is z, 1, 0)", "where(True, 1, 0)", "z > 0", "where(where(z > 0, 1, 0), 1, 0)"),
    *("where(not z, 1, 0)", "z and z", "not z", "exp(z > 0)", "True", "None", "...", "2.5j*z"),
    *("z**z", "z**(1 + 1)", "z**65", "z**-65", "z**True", "z**1e300", "z**-z", "z//2", "z % 2"),
    *("z @ z", "z | z", "~z", "z << 1", "z in z", "z; z", "z = 1", "await z", "yield z", "del z"),
    *("import os", "1 2", "0x", "1__0", "07", "z z", "1if z else 2", "x", "sin(z)", "z\n= 1"),
)  # fmt: skip


@pytest.mark.parametrize("source", HOSTILE)
def test_refuses(source: Any) -> None:
    with pytest.raises(ValueError, match="formula") as caught:
        Expression(source, ("z",))
    where = r"formula .*, column \d+: " if isinstance(source, str) else "a formula is a string"
    assert re.fullmatch(where + ".{10,250}", str(caught.value))  # one line: a dot is no newline


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 + ex(z)", "column 5: unknown function 'ex': did you mean 'exp'?"),
        ("  zz", "column 3: unknown variable 'zz': did you mean 'z'?"),
        ("z + z.real", "column 5: this Attribute is not allowed; allowed are numbers, z,"),
        ("z**z", "column 4: an exponent is a number"),
        ("z + 'z'", 'column 5: "\'" is not allowed'),
    ],
)
def test_refusal_says_where_and_what(source: str, message: str) -> None:
    with pytest.raises(ValueError, match="column") as caught:
        Expression(source, ("z",))
    assert message in str(caught.value)


@pytest.mark.parametrize("variable", ["exp", "T", "ipow", "1z", ""])
def test_refuses_variables_that_mean_something_else(variable: str) -> None:
    with pytest.raises(ValueError, match="cannot be a variable"):
        Expression("1", (variable,))


def test_is_a_value() -> None:
    f = Expression(" max(z, 0)\n+ 1*a ", ZAY)
    assert f.source == " max(z, 0)\n+ 1*a "
    assert f.names == {"z", "a"}
    assert f == Expression(f.source, f.variables) == pickle.loads(pickle.dumps(f))
    assert hash(f) == hash(Expression(f.source, f.variables))
    assert f != Expression("max(z, 0) + 1*a", ZAY)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex128])
@pytest.mark.parametrize(
    "source", ["1", "z", "where(z > 0, 1, 0)", "1/0", "0.5*z**3 + z**0.5", "a - z"]
)
def test_shape_and_dtype_are_the_inputs(source: str, dtype: Any) -> None:
    z = np.ones((3, 1), dtype)
    value = Expression(source, ("z", "a"))(np, z=z, a=np.ones(4, dtype))
    assert value.dtype == dtype
    assert value.shape == (3, 4)
    value[:] = 7  # never a view of the input
    assert (z == 1).all()


@pytest.mark.parametrize("name", ["erf", "erfc"])
def test_erf_keeps_float32_and_its_complex_step(name: str) -> None:
    f = Expression(f"{name}(z)", ("z",))
    z = np.linspace(-5, 5, 101)
    assert f(np, z=z.astype(np.float32)).dtype == np.float32
    truth = getattr(scipy.special, name)
    np.testing.assert_array_equal(f(np, z=z), truth(z))
    slope = 2 / np.sqrt(np.pi) * np.exp(-z * z) * (1 if name == "erf" else -1)
    np.testing.assert_allclose(f(np, z=z + 1e-30j).imag / 1e-30, slope, rtol=1e-14)


def test_bare_numbers_and_integers_follow_the_floats() -> None:
    f = Expression("z + a + y", ZAY)
    assert f(np, z=np.ones(2, np.float32), a=0.5, y=np.arange(2)).dtype == np.float32
    assert f(np, z=1, a=2, y=np.arange(2)).dtype == np.float64


def test_nan_spreads_through_min_and_max() -> None:
    z = np.array([np.nan, 1.0])
    for source in ("min(z, 0)", "max(0, z)", "max(z, 2)"):
        f = Expression(source, ("z",))
        assert np.isnan(f(np, z=z)).tolist() == [True, False]
        assert np.isnan(eval(f.to_python(), namespace(np.float64) | {"z": z[0]}))


def test_overflow_is_silent_where_it_is_meant() -> None:
    z = np.array([-1e4, 0.0, 1e4])
    assert Expression("1/(1 + exp(-z))", ("z",))(np, z=z).tolist() == [0.0, 0.5, 1.0]
    assert Expression("where(z > 0, z, expm1(z))", ("z",))(np, z=z).tolist() == [-1.0, 0.0, 1e4]


def test_missing_and_misspelt_values() -> None:
    f = Expression("a - y", ZAY)
    with pytest.raises(ValueError, match="needs a value of y"):
        f(np, a=np.ones(2))
    with pytest.raises(ValueError, match="unknown variable 'yy': did you mean 'y'"):
        f(np, a=np.ones(2), y=1, yy=1)
    with pytest.raises(ValueError, match="unknown variable 'b'"):
        f.derivative("b")


def test_check_derivative_accepts_what_is_right() -> None:
    sigma = Expression("1/(1 + exp(-z))", ("z",))
    check_derivative(sigma, Expression("a*(1 - a)", ("z", "a")), "z", given={"a": sigma})
    check_derivative(
        Expression("max(z, 0)", ("z",)), Expression("where(z >= 0, 1, 0)", ("z",)), "z"
    )
    check_derivative(Expression("1", ("z",)), Expression("0", ("z",)), "z")
    # log is finite on a part of the points only, relu has its kink among those given
    check_derivative(Expression("log(z)", ("z",)), Expression("1/z", ("z",)), "z")
    relu = Expression("max(z, 0)", ("z",))
    check_derivative(relu, relu.derivative("z"), "z", at={"z": np.linspace(-1, 1, 21)})


@pytest.mark.parametrize(
    ("f", "df"),
    [
        ("1/(1 + exp(-z))", "a*(1 + a)"),
        ("tanh(z)", "1 - a"),
        ("1e-9*z", "0"),
        ("z", "1 + 1e-5"),
        ("z", "z/z + log(z - 4.5)"),
        ("z*z", "1/0*z"),
        ("max(z, 0)", "1"),
        ("1", "1e-9"),
    ],
)
def test_check_derivative_refuses_what_is_wrong(f: str, df: str) -> None:
    sigma = Expression(f, ("z",))
    with pytest.raises(
        ValueError, match=r"is not the derivative of .* in z: at z = .* the slope is"
    ):
        check_derivative(sigma, Expression(df, ("z", "a")), "z", given={"a": sigma})


def test_check_derivative_needs_a_finite_point() -> None:
    with pytest.raises(ValueError, match="finite at no point"):
        check_derivative(Expression("log(-abs(z))", ("z",)), Expression("1/z", ("z",)), "z")
    c, da = Expression("log(max(a, 0.5))", ("a",)), Expression("1/a", ("a",))
    with pytest.raises(ValueError, match="at a = "):
        check_derivative(c, da, "a")
    check_derivative(c, da, "a", at={"a": np.linspace(0.6, 1, 9)})


PRELUDE = """
#include <math.h>
#define T(x) ((real)(x))
static real absolute(real u) { return u < 0 ? -u : u; }
static real minimum(real u, real v) { return u < v || u != u ? u : v; }
static real maximum(real u, real v) { return u > v || u != u ? u : v; }
static real ipow(real u, int n) { real r = u; while (--n) r *= u; return r; }
static real power(real u, real x) { return pow(u, x); }
"""


@pytest.mark.parametrize(("real", "dtype"), [("double", np.float64), ("float", np.float32)])
def test_c_source_compiles_and_agrees(real: str, dtype: Any, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler named cc")
    extra = (
        "z**-2 + z**5 - z**0.5",
        "where(z > 1 and not (z < 2) or z == 0, 1e22, -z)",
        "log(abs(z))",
    )
    formulas = [Expression(source, ("z",)) for source in (*ACTIVATIONS, *extra)]
    functions = (f"real f{i}(real z) {{ return {f.to_c()}; }}" for i, f in enumerate(formulas))
    (tmp_path / "f.c").write_text(f"typedef {real} real;{PRELUDE}" + "\n".join(functions))
    command = [compiler, "-O1", "-ffp-contract=off", "-shared", "-fPIC", "f.c", "-o", "f.so", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    library = ctypes.CDLL(str(tmp_path / "f.so"))
    z = np.linspace(-6, 6, 49).astype(dtype)
    for i, f in enumerate(formulas):
        function = getattr(library, f"f{i}")
        function.restype = ctypes.c_double if real == "double" else ctypes.c_float
        function.argtypes = [function.restype]
        values = np.array([function(float(x)) for x in z], dtype)
        np.testing.assert_allclose(
            values,
            f(np, z=z),
            rtol=16 * np.finfo(dtype).eps,
            atol=1e-6 if real == "float" else 1e-14,
        )


def test_numba_keeps_float32() -> None:
    numba = pytest.importorskip("numba")
    f = Expression("where(z > 0, 1/(1 + exp(-z))**3, 0.1*z**2 + max(z, -1))", ("z",))
    scope = namespace(np.float32) | {
        name: numba.njit(function, error_model="numpy")
        for name, function in (("minimum", minimum), ("maximum", maximum), ("ipow", ipow))
    }
    exec(f"def sigma(z): return {f.to_python()}", scope)
    sigma = numba.njit(scope["sigma"], error_model="numpy")
    z = np.linspace(-3, 3, 13, dtype=np.float32)
    values = [sigma(x) for x in z]
    assert sigma.nopython_signatures[0].return_type == numba.float32
    np.testing.assert_allclose(np.array(values, np.float32), f(np, z=z), rtol=1e-6)
