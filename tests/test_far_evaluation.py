"""Evaluation where numbers are large, missing or in several parts: the reference's everywhere.

A network with w = I and b = 0 has the inputs for its z, so that they can be chosen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubp

N = 4
# Rows of z: saturated either way, further apart than float32 reaches, all alike, all far out.
FAR = np.array([
    [200.0, -200, 0, 1], [-200, 200, 199, -1], [1e5, -1e5, 0, 1e5], [3e38, -3e38, 0, 1],
    [88.8, 88.7, -104, 0], [-1000, -1001, -1002, -1003], [0, 0, 0, 0], [1e-30, 0, -1e-30, 40],
])  # fmt: skip
PAIRS = [("sigmoid", "cross_entropy"), ("sigmoid", "quadratic"), ("softmax", "log_likelihood"),
         ("tanh", "quadratic"), ("identity", "huber")]  # fmt: skip


def network(backend: Any, dtype: str, activation: str, cost: str) -> gpubp.Network:
    net = gpubp.Network([N, N], activation=activation, cost=cost, backend=backend, dtype=dtype)
    net.weights[0] = net.backend.asarray(np.eye(N, dtype=dtype))
    net.biases[0] = net.backend.asarray(np.zeros(N, dtype))
    return net


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("activation", "cost"), PAIRS)
def test_far_out(fast_backend: Any, dtype: str, activation: str, cost: str) -> None:
    rows = FAR[:3] if cost == "huber" else FAR  # its square of 3e38 is beyond float32
    x, y = rows.astype(dtype), np.arange(len(rows)) % N
    right = network("reference", "float64", activation, cost).evaluate(x.astype(float), y)
    found = network(fast_backend, dtype, activation, cost).evaluate(x, y)
    assert np.isfinite(right.cost)
    bound = 1e-6 if dtype == "float32" else 1e-14
    assert abs(found.cost - right.cost) <= bound * abs(right.cost)
    assert found.accuracy == right.accuracy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("activation", "cost"), PAIRS[:3])
def test_nan_among_the_outputs(fast_backend: Any, dtype: str, activation: str, cost: str) -> None:
    """NaN spreads into the cost, and counts as the largest output, as NumPy has it."""
    x = np.eye(N, dtype=dtype)
    y = np.arange(N)
    found = []
    for backend in ("reference", fast_backend):
        net = network(backend, dtype, activation, cost)
        weights = np.eye(N, dtype=dtype)
        weights[2, 2] = np.nan  # z_2 is NaN where x_2 is 1, and where it is 0 times NaN
        net.weights[0] = net.backend.asarray(weights)
        found.append(net.evaluate(x, y))
    assert np.isnan(found[0].cost)
    assert np.isnan(found[1].cost)
    assert found[1].accuracy == found[0].accuracy


def test_several_parts_are_the_whole(fast_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((700, 5)), rng.integers(0, 3, 700)
    net = gpubp.Network([5, 6, 3], backend=fast_backend, dtype="float64", rng=0)
    whole = net.evaluate(x, y)
    right = gpubp.Network([5, 6, 3], backend="reference", dtype="float64", rng=0).evaluate(x, y)
    monkeypatch.setattr("gpubp.arrays._CHUNK_BYTES", 3000)
    parts = net.evaluate(x, y)
    for found in (whole, parts):
        assert abs(found.cost - right.cost) <= 1e-13 * right.cost
        assert found.accuracy == right.accuracy
