"""The vector functions against 30 digits, in units in the last place, and at special values."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from numba import njit

from gpubp.kernels.cpu import calls, simd, vmath

UNARY = ["exp", "expm1", "log", "log1p", "tanh", "erf", "erfc", "sqrt", "absolute"]
BOUND = {
    "exp": 1.0, "expm1": 2.0, "log": 1.0, "log1p": 2.0, "tanh": 3.0,
    "erf": 2.0, "erfc": 4.0, "sqrt": 0.5, "absolute": 0.0,
}  # fmt: skip
EXACT = {"absolute": mpmath.fabs}
DTYPES = [np.float32, np.float64]


def apply(function: Any, *arrays: np.ndarray) -> np.ndarray:
    """The vector function over whole arrays, padded to whole vectors."""
    dtype = arrays[0].dtype
    n = simd.lanes(simd.types.float32 if dtype == np.float32 else simd.types.float64)
    size = arrays[0].size
    padded = [np.concatenate([array, np.ones(-size % n, dtype)]) for array in arrays]
    out = np.full(padded[0].size, np.nan, dtype)

    if len(arrays) == 1:

        @njit
        def run(u, out):  # type: ignore[no-untyped-def]
            for i in range(0, out.size, n):
                simd.store(out, i, function(simd.load(u, i)))
    else:

        @njit
        def run(u, v, out):  # type: ignore[no-untyped-def]
            for i in range(0, out.size, n):
                simd.store(out, i, function(simd.load(u, i), simd.load(v, i)))

    run(*padded, out)
    return out[:size]


def points(name: str, dtype: Any) -> np.ndarray:
    """Arguments over the function's whole domain, dense where it bends."""
    rng = np.random.default_rng(0)
    limit = {np.float32: 88.0, np.float64: 709.0}[dtype]
    wide = np.exp(rng.uniform(-30, np.log(limit), 200))
    x = np.concatenate([rng.uniform(-1.5, 1.5, 200), rng.uniform(-12, 12, 200), wide, -wide])
    if name in ("log", "sqrt"):
        x = np.concatenate([np.abs(x), np.exp(rng.uniform(-80, 80, 100)), 1 + x[:200] * 1e-3])
        x = np.concatenate([x, [np.finfo(dtype).smallest_subnormal * 3]])
    if name == "log1p":
        x = np.concatenate([np.abs(x), x[:200] * 0.66, np.exp(rng.uniform(-80, 80, 100))])
    return np.unique(x.astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNARY)
def test_error_in_ulps(name: str, dtype: Any) -> None:
    x = points(name, dtype)
    with mpmath.workdps(30):
        exact = [EXACT.get(name, getattr(mpmath, name, None))(mpmath.mpf(float(v))) for v in x]
        got = apply(getattr(vmath, name), x)
        # A subnormal result is rounded to the same absolute step as the least normal number.
        ulp = [np.spacing(max(abs(dtype(float(e))), np.finfo(dtype).tiny)) for e in exact]
        errors = np.array(
            [
                float(abs(mpmath.mpf(float(g)) - e) / u)
                for g, e, u in zip(got, exact, ulp, strict=True)
            ]
        )
    worst = errors.argmax()
    print(f"{name} {np.dtype(dtype).name}: {errors[worst]:.2f} ulp at {x[worst]!r}")
    assert np.all(errors <= BOUND[name]), (x[worst], got[worst], exact[worst])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNARY)
def test_special_values_are_numpys(name: str, dtype: Any) -> None:
    from scipy import special

    tiny = np.finfo(dtype).tiny
    x = np.array([np.nan, np.inf, -np.inf, 0, -0.0, -1, -2, 1e4, -1e4, tiny, -tiny], dtype)
    plain = getattr(np, name, None) or getattr(special, name)
    with np.errstate(all="ignore"):
        expected = plain(x)
    np.testing.assert_allclose(apply(getattr(vmath, name), x), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_reaches_its_limits(dtype: Any) -> None:
    z = np.array([-1e4, 1e4, -np.inf, np.inf, 0, np.nan], dtype)
    with np.errstate(over="ignore"):
        a = 1 / (1 + apply(vmath.exp, -z))
    np.testing.assert_array_equal(a, np.array([0, 1, 0, 1, 0.5, np.nan], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_maximum_and_minimum_spread_nan(name: str, dtype: Any) -> None:
    u = np.array([1, 2, np.nan, 1, np.nan, np.inf, -np.inf], dtype)
    v = np.array([2, 1, 1, np.nan, np.nan, 1, 1], dtype)
    np.testing.assert_array_equal(apply(getattr(vmath, name), u, v), getattr(np, name)(u, v))


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers(dtype: Any) -> None:
    @njit
    def cube(u):  # type: ignore[no-untyped-def]
        return vmath.ipow(u, 7)

    u = np.linspace(-2, 2, 33).astype(dtype)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(apply(cube, u), u**7, rtol=6 * eps)
    u, x = np.linspace(0, 9, 37).astype(dtype), np.full(37, 1.7, dtype)
    np.testing.assert_allclose(apply(vmath.power, u, x), u**1.7, rtol=20 * eps)


def test_barrier_keeps_threads_in_step_and_can_be_abandoned() -> None:
    from threading import Thread

    @njit(nogil=True)
    def count(state, out, thread, rounds):  # type: ignore[no-untyped-def]
        for i in range(rounds):
            out[thread] += 1
            if not calls.barrier(state, 2, 100):
                return False
            if out[1 - thread] < i + 1:  # the other has not done what it did before the barrier
                out[2] += 1
        return True

    state, out = np.zeros(24, np.int64), np.zeros(3, np.int64)
    threads = [Thread(target=count, args=(state, out, t, 500)) for t in range(2)]
    count(state, out, 0, 0)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert out.tolist() == [500, 500, 0]
    state[16] = 1
    assert not count(state, out, 0, 1)
