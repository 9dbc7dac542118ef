"""Whole fits on real data by the CUDA backend, on a GPU or on the stand-in, and by the reference.

scikit-learn's digits (1,797 scans of 8 x 8 pixels), a part of them, with a ragged last mini-batch.
"""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import normwise
from sklearn.datasets import load_digits

import gpubp
from gpubp.optimizer import AdamW
from gpubp.schedule import OneCycle

STEPPERS = ("graph", "resident", "cooperative")
BOUND = {"float64": 1e-12, "float32": 1e-5}
ROWS = 307  # 30 mini-batches of 10 and one of 7


@cache
def digits(kind: str = "uint8", rows: int = ROWS) -> tuple[Any, Any]:
    """Intensities as bytes 0 to 255, or the same as float32 0 to 1; labels, or unit vectors."""
    bunch = load_digits()
    intensities = (bunch.data[:rows] * 255 / 16).astype(np.uint8)
    y = bunch.target[:rows]
    if kind == "uint8":
        return intensities, y
    return (intensities / np.float32(255)).astype(np.float32), np.eye(10, dtype=np.float32)[y]


NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "the book's": (
        {"sizes": [64, 30, 10]}, {"learning_rate": 3.0, "batch_size": 10}, "uint8",
    ),
    "cross-entropy, L2": (
        {"sizes": [64, 20, 10], "cost": "cross_entropy"},
        {"learning_rate": 0.5, "batch_size": 10, "l2": 1e-3}, "float",
    ),
    "softmax, Nesterov": (
        {"sizes": [64, 20, 10], "activation": ["relu", "softmax"], "cost": "log_likelihood"},
        {"learning_rate": 0.02, "batch_size": 16, "momentum": 0.9, "nesterov": True}, "uint8",
    ),
    "deep, momentum, L1": (
        {"sizes": [64, 17, 9, 10], "activation": ["tanh", "gelu", "sigmoid"], "cost": "huber"},
        {"learning_rate": 0.3, "batch_size": 32, "momentum": 0.5, "l1": 1e-5}, "float",
    ),
    "AdamW, a rate a step": (
        {"sizes": [64, 20, 10], "cost": "cross_entropy"},
        {"learning_rate": OneCycle(0.01, 2, per_epoch=100), "batch_size": 10,
         "optimizer": AdamW(epsilon=1e-3)}, "uint8",
    ),
    "no hidden layer": (
        {"sizes": [64, 10]}, {"learning_rate": lambda epoch: 2 / (1 + epoch), "batch_size": 30},
        "uint8",
    ),
    "formulas of one's own": (
        {"sizes": [64, 11, 10], "activation": ["z/(1 + abs(z))", "sigmoid"],
         "cost": "log1p((a - y)*(a - y))"},
        {"learning_rate": 0.5, "batch_size": 31}, "float",
    ),
}  # fmt: skip


def trained(backend: Any, name: str, dtype: str, epochs: int = 2) -> gpubp.Network:
    network, how, kind = NETWORKS[name]
    x, y = digits(kind)
    net = gpubp.Network(**network, backend=backend, dtype=dtype, rng=3)
    net.fit(x, y, epochs=epochs, validation=(x[:100], y[:100]), **how)
    return net


def flat(net: gpubp.Network) -> Any:
    return net.backend.asnumpy(net.parameters.flat)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("stepper", STEPPERS)
def test_a_fit_ends_with_the_references_weights(
    stepper: str, name: str, dtype: str, cuda_backend: gpubp.Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", stepper)
    ours, right = (trained(backend, name, dtype) for backend in (cuda_backend, "reference"))
    assert ours.history[-1].cost < ours.history[0].cost
    assert normwise(flat(ours), flat(right)) <= BOUND[dtype]
    for found, wanted in zip(ours.history, right.history, strict=True):
        assert abs(found.cost - wanted.cost) <= BOUND[dtype] * wanted.cost
        assert found.validation_accuracy == wanted.validation_accuracy
        error = abs(found.validation_cost - wanted.validation_cost)
        assert error <= BOUND[dtype] * wanted.validation_cost


@pytest.mark.parametrize("stepper", STEPPERS)
def test_a_fit_repeats_bit_for_bit(
    stepper: str, cuda_backend: gpubp.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", stepper)
    first, second = (trained(cuda_backend, "softmax, Nesterov", "float32") for _ in range(2))
    np.testing.assert_array_equal(flat(first), flat(second))


@pytest.mark.parametrize("stepper", STEPPERS)
def test_resumed_after_ctrl_c_as_if_unbroken(
    stepper: str, cuda_backend: gpubp.Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", stepper)
    x, y = digits()
    how: dict[str, Any] = {
        "batch_size": 10, "learning_rate": 0.1, "momentum": 0.9, "l2": 1e-4,
        "checkpoint": tmp_path / "net.safetensors",
    }  # fmt: skip
    unbroken, broken = (gpubp.Network([64, 12, 10], backend=cuda_backend, rng=5) for _ in range(2))
    unbroken.fit(x, y, epochs=3, **how)

    class CtrlC(gpubp.Callback):
        def on_interval(self, training: Any) -> None:
            if (training.epoch, training.step) > (1, 5):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        broken.fit(x, y, epochs=3, callbacks=[CtrlC()], **how)
    assert broken.training is not None
    assert (broken.training.epoch, broken.training.step) != (0, 0)
    again = gpubp.load(tmp_path / "net.safetensors", backend=cuda_backend)
    again.fit(x, y, epochs=3, resume=True, **how)
    np.testing.assert_array_equal(flat(again), flat(unbroken))
    # The costs of an epoch are added up piece by piece, and how long a piece is the clock decides.
    costs = ([epoch.cost for epoch in net.history] for net in (again, unbroken))
    np.testing.assert_allclose(*costs, rtol=1e-14, atol=0)


@pytest.mark.parametrize("stepper", STEPPERS)
def test_divergence_is_named_and_the_last_finite_weights_kept(
    stepper: str, cuda_backend: gpubp.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", stepper)
    x, y = digits("float")
    net = gpubp.Network([64, 10, 10], activation="identity", backend=cuda_backend, rng=1)
    with pytest.raises(gpubp.DivergenceError) as caught:
        net.fit(x, y, epochs=5, batch_size=10, learning_rate=1e4)
    assert (caught.value.epoch, caught.value.step) >= (0, 1)
    assert np.isfinite(flat(net)).all()
    right = gpubp.Network([64, 10, 10], activation="identity", backend="reference", rng=1)
    with pytest.raises(gpubp.DivergenceError) as truth:
        right.fit(x, y, epochs=5, batch_size=10, learning_rate=1e4)
    assert abs(caught.value.step - truth.value.step) <= 1  # rounding may tip the last step
