"""The book's calls: its data shapes in and out, its numbers, its printed lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import book_backprop, book_epoch, normwise

import gpubp
from gpubp import nielsen

RNG = np.random.default_rng(2)
X = [RNG.random((4, 1)) for _ in range(23)]
CLASSES = [int(j) for j in RNG.integers(0, 3, 23)]
Y = [nielsen.vectorized_result(j, 3) for j in CLASSES]


def network(**kwargs: Any) -> nielsen.Network:
    return nielsen.Network([4, 6, 3], **{"dtype": "float64", "rng": 1} | kwargs)


def copies(net: nielsen.Network) -> tuple[list[Any], list[Any]]:
    """(weights, biases), on the host."""
    asnumpy = net.network.backend.asnumpy
    return [asnumpy(w).copy() for w in net.weights], [asnumpy(b).copy() for b in net.biases]


def test_shapes_are_the_books() -> None:
    net = network()
    assert (net.num_layers, net.sizes) == (3, [4, 6, 3])
    assert [b.shape for b in net.biases] == [(6, 1), (3, 1)]
    assert [w.shape for w in net.weights] == [(6, 4), (3, 6)]
    assert net.feedforward(X[0]).shape == (3, 1)
    wide = nielsen.Network([400, 300, 2], rng=0)
    assert abs(np.std(wide.weights[0]) - 1) <= 0.01  # N(0, 1), as the book draws them
    net.biases = [np.ones((6, 1)), [[1.0], [2.0], [3.0]]]
    net.weights = [np.zeros((6, 4)), np.zeros((3, 6))]
    np.testing.assert_allclose(net.feedforward(X[0])[:, 0], nielsen.sigmoid([1.0, 2.0, 3.0]))
    net.biases[1][0, 0] = -1.0  # a view, as the book's own lists would be
    assert net.feedforward(X[0])[0, 0] < 0.5


@pytest.mark.parametrize("cost", ["quadratic", "cross_entropy"])
def test_backprop_is_the_books(backend: gpubp.Backend, cost: str) -> None:
    net = network(backend=backend, cost=cost)
    for x, y in zip(X[:5], Y, strict=False):
        nabla_b, nabla_w = net.backprop(x, y)
        book_w, book_b = book_backprop(*copies(net), "sigmoid", cost, x, y)
        for found, truth in zip([*nabla_b, *nabla_w], [*book_b, *book_w], strict=True):
            assert found.shape == truth.shape
            assert normwise(found, truth) <= 1e-13


def test_sgd_is_the_books_loop(capsys: pytest.CaptureFixture[str]) -> None:
    net = network(backend="reference")
    weights, biases = copies(net)
    order = np.random.default_rng(7)
    net.network.rng = np.random.default_rng(7)
    data = list(zip(X, Y, strict=True))
    net.SGD(iter(data), 4, 5, 2.0, test_data=list(zip(X, CLASSES, strict=True)))
    for _ in range(4):
        book_epoch(weights, biases, "sigmoid", "quadratic", np.stack(X), np.stack(Y),
                   order.permutation(23), 5, 2.0)  # fmt: skip
    for found, truth in zip([*net.weights, *net.biases], [*weights, *biases], strict=True):
        assert normwise(found, truth) <= 1e-12
    right = sum(int(np.argmax(net.feedforward(x)) == j) for x, j in zip(X, CLASSES, strict=True))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"Epoch {e}" for e in range(4)]
    assert lines[-1] == f"Epoch 3: {right} / 23"
    net.SGD(data, 1, 100, 0.5)  # a mini-batch larger than the data is the data
    assert capsys.readouterr().out == "Epoch 0 complete\n"


def test_one_mini_batch_and_lambda() -> None:
    net, other = network(backend="reference"), network(backend="reference")
    data = list(zip(X[:6], Y[:6], strict=True))
    weights, biases = copies(net)
    net.update_mini_batch(data, 0.7)
    book_epoch(weights, biases, "sigmoid", "quadratic", np.stack(X[:6]), np.stack(Y[:6]),
               np.arange(6), 6, 0.7)  # fmt: skip
    for found, truth in zip([*net.weights, *net.biases], [*weights, *biases], strict=True):
        assert normwise(found, truth) <= 1e-13
    before, _ = copies(other)
    other.SGD(data, 1, 6, 0.7, lmbda=0.3)
    for found, plain, start in zip(other.weights, net.weights, before, strict=True):
        assert normwise(found, plain - 0.7 * 0.3 / 6 * start) <= 1e-13  # w - eta lambda/n w - ..


def test_evaluate_and_the_rest() -> None:
    net = network()
    right = net.evaluate(zip(X, CLASSES, strict=True))
    assert right == net.evaluate(list(zip(X, Y, strict=True)))
    assert right == sum(
        int(np.argmax(net.feedforward(x)) == j) for x, j in zip(X, CLASSES, strict=True)
    )
    assert net.evaluate([]) == 0
    a = net.feedforward(X[0])
    np.testing.assert_allclose(net.cost_derivative(a, Y[0]), a - Y[0], rtol=1e-12)
    z = np.array([-3.0, 0.0, 2.0])
    np.testing.assert_allclose(nielsen.sigmoid(z), 1 / (1 + np.exp(-z)))
    slope = (nielsen.sigmoid(z + 1e-6) - nielsen.sigmoid(z - 1e-6)) / 2e-6
    np.testing.assert_allclose(nielsen.sigmoid_prime(z), slope, rtol=1e-8)


def test_load_data_wrapper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = gpubp.data.digits28(720, rng=0)
    file = tmp_path / "digits.npz"
    np.savez(file, x_train=x[:600], y_train=y[:600], x_test=x[600:], y_test=y[600:])
    training, validation, test = nielsen.load_data_wrapper(str(file))
    assert (len(training), len(validation), len(test)) == (500, 100, 120)
    for pairs, labels in ((training, y[:500]), (validation, y[500:600]), (test, y[600:])):
        assert all(a.shape == (784, 1) and a.min() >= 0 and a.max() <= 1 for a, _ in pairs)
        found = [int(np.argmax(t)) if np.ndim(t) else t for _, t in pairs]
        np.testing.assert_array_equal(found, labels)
    np.testing.assert_array_equal(training[3][0][:, 0], x[3] / np.float32(255))
    assert training[0][1].shape == (10, 1)
    net = nielsen.Network([784, 30, 10], rng=0, init="scaled")
    net.SGD(training, 10, 10, 3.0, test_data=test)
    assert len(capsys.readouterr().out.splitlines()) == 10
    assert net.evaluate(test) >= 60  # of 120; chance is 12


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda net: net.SGD([], 1, 1, 1.0), "training_data holds no pairs"),
        (lambda net: net.SGD([1, 2], 1, 1, 1.0), "list of pairs"),
        (lambda net: net.SGD([(X[0][:, 0], Y[0])], 1, 1, 1.0), r"columns \(n, 1\)"),
        (lambda net: net.SGD([(X[0], 2)], 1, 1, 1.0), r"columns \(n, 1\)"),
        (lambda net: net.SGD([(X[0], Y[0]), (X[0][:2], Y[0])], 1, 1, 1.0), "different lengths"),
        (lambda net: setattr(net, "weights", [np.zeros((6, 4))]), "a list of 2 arrays"),
        (lambda net: setattr(net, "biases", [np.zeros(6), np.zeros(2)]), "shape"),
        (lambda net: net.feedforward([1.0, 2.0]), "reshape"),
    ],
)
def test_refusals_are_one_sentence(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call(network())
    assert "\n" not in str(caught.value)


def test_importing_gpubp_imports_neither_the_companion_nor_explain(tmp_path: Path) -> None:
    code = (
        "import sys, gpubp; gpubp.Network([2, 1], backend='reference'); "
        "print([name for name in sys.modules if name.startswith(('gpubp.explain', "
        "'gpubp.nielsen'))]); print(gpubp.explain.__name__, gpubp.nielsen.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["[]", "gpubp.explain gpubp.nielsen"], done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nelson'"):
        gpubp.nelson  # noqa: B018
    assert gpubp.nielsen is nielsen
    assert gpubp.explain.__name__ == "gpubp.explain"
