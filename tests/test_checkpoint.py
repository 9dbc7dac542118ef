"""Saving and loading: exact, on every backend, and strict about what it reads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.tensorfile import read_tensors, write_tensors

BACKENDS = ["reference", "cpu"]
RNG = np.random.default_rng(2)
X, Y = RNG.random((31, 4)), RNG.integers(0, 3, 31)


def trained(**kwargs: Any) -> gpubp.Network:
    net = gpubp.Network(**{"sizes": [4, 6, 3], "rng": 0} | kwargs)
    net.fit(X, Y, epochs=3, batch_size=4, learning_rate=0.3, momentum=0.5, validation=(X, Y))
    return net


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_round_trip(backend: str, dtype: str, tmp_path: Path) -> None:
    net = trained(dtype=dtype, cost="cross_entropy", activation=["gelu", "sigmoid"])
    net.save(tmp_path / "net")
    for loaded in (gpubp.load(tmp_path / "net", backend), gpubp.Network.load(tmp_path / "net")):
        np.testing.assert_array_equal(loaded.parameters.flat, net.parameters.flat)
        np.testing.assert_array_equal(loaded.parameters.state, net.parameters.state)
        assert loaded.sizes == net.sizes
        assert loaded.activations == net.activations
        assert loaded.cost == net.cost
        assert loaded.dtype == dtype
        assert loaded.rng.bit_generator.state == net.rng.bit_generator.state
        assert loaded.history.to_dicts() == net.history.to_dicts()
        found, expected = loaded.evaluate(X, Y), net.evaluate(X, Y)
        assert found.accuracy == expected.accuracy
        bound = {"cpu": 0, "reference": 4 * np.finfo(dtype).eps}[loaded.backend.name]
        assert abs(found.cost - expected.cost) <= bound * expected.cost


def test_untrained_network(tmp_path: Path) -> None:
    net = gpubp.Network([4, 3], rng=1)
    net.save(str(tmp_path / "net"))
    loaded = gpubp.load(str(tmp_path / "net"))
    assert loaded.training is None
    assert len(loaded.history) == 0
    np.testing.assert_array_equal(loaded.feedforward(X), net.feedforward(X))


@pytest.mark.parametrize(
    "bit_generator",
    [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64],
)
def test_every_generator_continues(bit_generator: Any, tmp_path: Path) -> None:
    net = gpubp.Network([4, 3], rng=np.random.Generator(bit_generator(7)))
    net.rng.integers(0, 10, 3, dtype=np.int32)  # leaves half a word buffered in some of them
    net.save(tmp_path / "net")
    loaded = gpubp.load(tmp_path / "net")
    np.testing.assert_array_equal(loaded.rng.random(100), net.rng.random(100))


def test_formulas_are_stored_as_formulas(tmp_path: Path) -> None:
    softsign = gpubp.define_activation("my_softsign", "z/(1 + abs(z))")
    student = gpubp.define_cost("student_t", "log1p((a - y)*(a - y))")
    net = trained(activation=[softsign, "sigmoid"], cost=student)
    net.save(tmp_path / "net")
    loaded = gpubp.load(tmp_path / "net")
    assert loaded.activations == net.activations
    assert loaded.cost == student
    for one in (net, loaded):
        one.fit(X, Y, epochs=5, batch_size=4, learning_rate=0.3, momentum=0.5, resume=True)
    np.testing.assert_array_equal(loaded.parameters.flat, net.parameters.flat)


def test_saving_replaces_and_failing_keeps(tmp_path: Path) -> None:
    path = tmp_path / "net"
    net = trained()
    net.save(path)
    net.fit(X, Y, epochs=1, batch_size=4, learning_rate=0.3)
    net.save(path)
    np.testing.assert_array_equal(gpubp.load(path).parameters.flat, net.parameters.flat)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net"]
    with pytest.raises(OSError, match="nowhere"):
        net.save(tmp_path / "nowhere" / "net")


def test_checkpoint_argument_of_fit(tmp_path: Path) -> None:
    net = gpubp.Network([4, 3], rng=1)
    net.fit(X, Y, epochs=2, batch_size=4, learning_rate=0.3, checkpoint=tmp_path / "net")
    loaded = gpubp.load(tmp_path / "net")
    assert len(loaded.history) == 2
    np.testing.assert_array_equal(loaded.parameters.flat, net.parameters.flat)


def test_missing_file_and_other_safetensors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        gpubp.load(tmp_path / "missing")
    write_tensors(tmp_path / "other", {"w": np.zeros(3)}, {"format": "something else"})
    with pytest.raises(gpubp.DataFormatError, match="a gpubp checkpoint"):
        gpubp.load(tmp_path / "other")


SOFTSIGN = {"name": "f", "sigma": "z/(1 + abs(z))", "sigma_prime": "(1 - abs(a))**2"}
MALFORMED: dict[str, tuple[list[str], Any]] = {
    "no sizes": (["sizes"], None),
    "sizes not a list": (["sizes"], 4),
    "sizes of strings": (["sizes"], ["4", "x", "3"]),
    "negative size": (["sizes"], [4, -6, 3]),
    "sizes too large to store": (["sizes"], [10**9, 10**9, 3]),
    "sizes of another network": (["sizes"], [4, 5, 3]),
    "activation unknown": (["activations"], ["sigmoid", "sigmund"]),
    "too few activations": (["activations"], ["sigmoid"]),
    "activation is code": (["activations"], [SOFTSIGN | {"sigma": "open('x')"}, "sigmoid"]),
    "activation without derivative": (["activations"], [{"name": "f", "sigma": "z"}, "sigmoid"]),
    "softmax hidden": (["activations"], ["softmax", "sigmoid"]),
    "cost unknown": (["cost"], "cubic"),
    "cost is code": (["cost"], {"name": "c", "cost": "().__class__", "grad_a": "a", "grad_z": None,
                                "unit_interval": False}),
    "cost incomplete": (["cost"], {"name": "c", "cost": "a"}),
    "dtype": (["dtype"], "float16"),
    "another dtype": (["dtype"], "float64"),
    "generator unknown": (["rng", "bit_generator"], "RANDU"),
    "generator is a module name": (["rng", "bit_generator"], "seed"),
    "generator state": (["rng", "state"], {"state": -1, "inc": 3}),
    "generator missing": (["rng"], None),
    "training negative": (["training", "epoch"], -1),
    "training of text": (["training", "step"], "7"),
    "training is a bool": (["training", "step"], True),
    "training incomplete": (["training"], {"epoch": 1}),
    "order state": (["training", "order_state"], {"bit_generator": "PCG64", "state": 3}),
    "order state unknown": (["training", "order_state"], {"bit_generator": "x"}),
    "step beyond the epoch": (["training", "step"], 1000),
    "batch size 0": (["training", "batch_size"], 0),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_header(case: str, tmp_path: Path) -> None:
    path = tmp_path / "net"
    trained().save(path)
    tensors, header = read_tensors(path)
    header = copy.deepcopy(header)
    where, value = MALFORMED[case]
    place = header
    for key in where[:-1]:
        place = place[key]
    if value is None:
        del place[where[-1]]
    else:
        place[where[-1]] = value
    write_tensors(path, tensors, header)
    with pytest.raises(gpubp.DataFormatError) as caught:
        gpubp.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights.0", None),
        ("biases.1", None),
        ("history", None),
        ("state", None),
        ("weights.0", np.zeros((4, 6), np.float32)),
        ("weights.0", np.zeros((6, 4), np.float64)),
        ("state", np.zeros((1, 3), np.float32)),
        ("best", np.zeros(3, np.float32)),
        ("history", np.zeros((2, 3))),
    ],
)
def test_malformed_tensors(name: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "net"
    trained().save(path)
    tensors, header = read_tensors(path)
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    write_tensors(path, tensors, header)
    with pytest.raises(gpubp.DataFormatError, match="complete gpubp checkpoint"):
        gpubp.load(path)


def test_nan_and_absent_validation_are_told_apart(tmp_path: Path) -> None:
    net = trained()
    assert net.training is not None
    net.training.history.append(gpubp.Epoch(3, 0.5, 0.1, 0.3, float("nan"), None))
    net.training.epoch += 1  # a history has a row for each epoch
    net.save(tmp_path / "net")
    row = gpubp.load(tmp_path / "net").history[-1]
    assert row.validation_cost != row.validation_cost
    assert row.validation_accuracy is None


def test_a_generator_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    class Mine(np.random.PCG64):
        pass

    net = gpubp.Network([4, 3], rng=np.random.Generator(Mine(1)))
    with pytest.raises(TypeError, match="a network whose rng is a Mine cannot be saved"):
        net.save(tmp_path / "net")
