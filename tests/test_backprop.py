"""BP1 to BP4 one by one, against an example worked by hand, and what backprop hands back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracle import complex_step, gradient_error, host, normwise

import gpubp
import gpubp.backprop as equations
from gpubp.activation import SOFTMAX
from gpubp.cost import COSTS

# A 2-2-1 network with sigma(z) = z^2, so sigma'(z) = 2z, and the quadratic cost. Every number
# below is a small binary fraction, so floating point makes no error and equality is exact.
#
#   example     x       z^2 = w^2 x + b^2   a^2      z^3 = w^3 a^2 + b^3   a^3     y    C
#      1      (1, 2)        (2, 3)         (4, 9)          1.5             2.25    2    1/32
#      2      (0, 1)        (2, 0)         (4, 0)          6               36      34   2
SQUARE = gpubp.define_activation("square", "z*z", "2*z")
X = np.array([[1.0, 2.0], [0.0, 1.0]])
Y = np.array([[2.0], [34.0]])
W2, B2 = np.array([[1.0, -1.0], [2.0, 1.0]]), np.array([3.0, -1.0])
W3, B3 = np.array([[1.0, -0.5]]), np.array([2.0])
Z2, A2 = np.array([[2.0, 3.0], [2.0, 0.0]]), np.array([[4.0, 9.0], [4.0, 0.0]])
Z3, A3 = np.array([[1.5], [6.0]]), np.array([[2.25], [36.0]])
DELTA3 = np.array([[0.75], [24.0]])  # (a - y) (x) 2z: 0.25 * 3 and 2 * 12
DELTA2 = np.array([[3.0, -2.25], [96.0, 0.0]])  # (0.75, -0.375) (x) (4, 6); (24, -12) (x) (4, 0)


def by_hand(backend: Any, dtype: str) -> gpubp.Network:
    net = gpubp.Network([2, 2, 1], activation=SQUARE, backend=backend, dtype=dtype)
    for l, (w, b) in enumerate([(W2, B2), (W3, B3)]):
        net.weights[l], net.biases[l] = w, b
    return net


def on(backend: gpubp.Backend, *arrays: Any, dtype: str = "float64") -> list[Any]:
    return [backend.asarray(array, dtype) for array in arrays]


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_forward_by_hand(backend: gpubp.Backend, dtype: str) -> None:
    g = by_hand(backend, dtype).backprop(X, Y)
    for found, right in zip([*g.z, *g.a], [Z2, Z3, A2, A3], strict=True):
        np.testing.assert_array_equal(backend.asnumpy(found), right)
    assert g.cost == (1 / 32 + 2) / 2


def test_bp1_by_hand(backend: gpubp.Backend, dtype: str) -> None:
    z, a, y = on(backend, Z3, A3, Y, dtype=dtype)
    delta = equations.bp1(backend.xp, backend.kernels, z, a, y, SQUARE, COSTS["quadratic"])
    np.testing.assert_array_equal(backend.asnumpy(delta), DELTA3)


def test_bp1_simplified_by_hand(backend: gpubp.Backend) -> None:
    # Softmax of ln(1, 2, 1) is (1, 2, 1)/4; with targets that sum to s, delta = s a - y.
    z = np.log([[1.0, 2.0, 1.0]])
    for y, right in (([0, 1, 0], [0.25, -0.5, 0.25]), ([1, 2, 1], [0, 0, 0])):
        z_, y_ = on(backend, z, [y])
        delta = equations.bp1(
            backend.xp, backend.kernels, z_, SOFTMAX(backend.xp, z_), y_, SOFTMAX,
            COSTS["log_likelihood"],
        )  # fmt: skip
        np.testing.assert_allclose(backend.asnumpy(delta)[0], right, rtol=0, atol=1e-15)


def test_bp2_by_hand(backend: gpubp.Backend, dtype: str) -> None:
    w, delta, z, a = on(backend, W3, DELTA3, Z2, A2, dtype=dtype)
    found = equations.bp2(backend.kernels, w, delta, z, a, SQUARE)
    np.testing.assert_array_equal(backend.asnumpy(found), DELTA2)


def test_bp3_by_hand(backend: gpubp.Backend, dtype: str) -> None:
    (delta,) = on(backend, DELTA2, dtype=dtype)
    np.testing.assert_array_equal(backend.asnumpy(equations.bp3(delta)), [49.5, -1.125])


def test_bp4_by_hand(backend: gpubp.Backend, dtype: str) -> None:
    delta3, delta2, a, x = on(backend, DELTA3, DELTA2, A2, X, dtype=dtype)
    nabla_w3 = equations.bp4(backend.kernels, delta3, a)
    nabla_w2 = equations.bp4(backend.kernels, delta2, x)
    np.testing.assert_array_equal(backend.asnumpy(nabla_w3), [[49.5, 3.375]])
    np.testing.assert_array_equal(backend.asnumpy(nabla_w2), [[1.5, 51.0], [-1.125, -2.25]])


def test_backprop_by_hand(backend: gpubp.Backend, dtype: str) -> None:
    net = by_hand(backend, dtype)
    g = net.backprop(X, Y)
    right = [
        (g.delta, [DELTA2, DELTA3]),
        (g.nabla_b, [[49.5, -1.125], [12.375]]),
        (g.nabla_w, [[[1.5, 51.0], [-1.125, -2.25]], [[49.5, 3.375]]]),
    ]
    for arrays, expected in right:
        for found, array in zip(host(net, arrays), expected, strict=True):
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, array)


def test_update_by_hand(backend: gpubp.Backend, dtype: str) -> None:
    # eta = 1/4 over the whole batch: w - g/4, still exact.
    net = by_hand(backend, dtype)
    history = net.fit(X, Y, epochs=1, batch_size=2, learning_rate=0.25, shuffle=False)
    assert history[0].cost == 65 / 64
    right = [
        W2 - np.array([[1.5, 51.0], [-1.125, -2.25]]) / 4, W3 - np.array([[49.5, 3.375]]) / 4,
        B2 - np.array([49.5, -1.125]) / 4, B3 - np.array([12.375]) / 4,
    ]  # fmt: skip
    for found, array in zip(host(net, [*net.weights, *net.biases]), right, strict=True):
        np.testing.assert_array_equal(found, array)


def test_labels_are_unit_vectors_and_uint8_is_x_over_255(backend: gpubp.Backend) -> None:
    rng = np.random.default_rng(1)
    x, labels = rng.integers(0, 256, (9, 6), dtype=np.uint8), rng.integers(0, 3, 9)
    net = gpubp.Network([6, 4, 3], backend=backend, rng=2, dtype="float64")
    g, same = net.backprop(x, labels), net.backprop(x / 255, np.eye(3)[labels])
    assert abs(g.cost - same.cost) <= 1e-15
    for found, right in zip(
        host(net, [*g.nabla_w, *g.nabla_b]), host(net, [*same.nabla_w, *same.nabla_b]), strict=True
    ):
        assert normwise(found, right) <= 1e-15


# Mutants: the checks of test_truth.py must fail for each of these wrong equations


def _bp1_without_sigma_prime(xp, kernels, z, a, y, sigma, cost):  # type: ignore[no-untyped-def]
    return cost.grad_a(xp, z=z, a=a, y=y)


def _bp2_without_sigma_prime(kernels, w, delta, z, a, sigma):  # type: ignore[no-untyped-def]
    return delta @ w


def _bp2_transposed(kernels, w, delta, z, a, sigma):  # type: ignore[no-untyped-def]
    return kernels.hadamard_sigma_prime(delta @ w.T, z, a, sigma)


def _bp2_sigma_for_sigma_prime(kernels, w, delta, z, a, sigma):  # type: ignore[no-untyped-def]
    return (delta @ w) * a


def _bp3_of_one_example(delta):  # type: ignore[no-untyped-def]
    return delta[0]


def _bp3_not_a_mean(delta):  # type: ignore[no-untyped-def]
    return delta.sum(axis=0)


def _bp4_transposed(kernels, delta, a):  # type: ignore[no-untyped-def]
    return kernels.outer_sum(a, delta)[0] / len(delta)


def _bp4_not_a_mean(kernels, delta, a):  # type: ignore[no-untyped-def]
    return kernels.outer_sum(delta, a)[0]


MUTANTS = [
    _bp1_without_sigma_prime, _bp2_without_sigma_prime, _bp2_transposed,
    _bp2_sigma_for_sigma_prime, _bp3_of_one_example, _bp3_not_a_mean, _bp4_transposed,
    _bp4_not_a_mean,
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__[1:])
def test_the_complex_step_kills(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Square layers, so that a transposed matrix has the right shape and only the wrong numbers.
    rng = np.random.default_rng(5)
    net = gpubp.Network([4, 4, 4, 4], backend="reference", rng=5, dtype="float64")
    x, y = rng.standard_normal((5, 4)), rng.random((5, 4))
    truth = complex_step(net, x, y)
    assert gradient_error(net, net.backprop(x, y), truth) <= 1e-12
    monkeypatch.setattr(equations, mutant.__name__.split("_")[1], mutant)
    assert gradient_error(net, net.backprop(x, y), truth) >= 1e-2
