"""digits28: MNIST's size and statistics, the same bytes for the same rng, and a real problem."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from gpubp import data


def digest(n: int, rng: int | np.random.Generator | np.random.SeedSequence) -> str:
    x, y = data.digits28(n, rng)
    return hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()


def test_shapes_types_and_balance() -> None:
    x, y = data.digits28(1003)
    assert (x.shape, x.dtype) == ((1003, 784), np.dtype("u1"))
    assert (y.shape, y.dtype) == ((1003,), np.dtype("i8"))
    assert x.flags.c_contiguous
    counts = np.bincount(y, minlength=10)
    assert counts.shape == (10,)
    assert counts.max() - counts.min() <= 1
    assert np.bincount(y[:500], minlength=10).min() >= 20  # shuffled


def test_one_row() -> None:
    x, y = data.digits28(1)
    assert x.shape == (1, 784)
    assert y.tolist() == [0]


@pytest.mark.parametrize("n", [0, -5])
def test_no_rows_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"n={n} must be an integer of at least 1"):
        data.digits28(n)


def test_the_same_rng_gives_the_same_bytes() -> None:
    # More rows than are rendered at a time.
    first = digest(5000, 3)
    assert digest(5000, np.random.default_rng(3)) == first
    assert digest(5000, np.random.SeedSequence(3)) == first
    assert digest(5000, 4) != first


def test_a_generator_goes_on_where_it_was() -> None:
    rng = np.random.default_rng(0)
    assert digest(100, rng) != digest(100, rng)


def test_the_bytes_are_pinned() -> None:
    """Published figures rest on this data: it must not change unnoticed."""
    assert digest(1000, 0) == "37f56a07f4ecfdebc31ec55f9fb0a563d843c4e2898ab482850c0b47856f25ae"


def test_statistics_are_those_of_mnist() -> None:
    x, y = data.digits28(5000, rng=1)
    ink = x > 0
    assert 0.17 <= ink.mean() <= 0.21  # MNIST 0.191
    assert 0.09 <= x.mean() / 255 <= 0.15  # MNIST 0.131
    assert x.min() == 0
    assert x.max() == 255
    assert (x.max(axis=1) >= 200).all()
    means = np.array([x[y == digit].mean() for digit in range(10)])
    assert means.argmin() == 1


def test_digits_are_centred_and_sized_like_mnist() -> None:
    x, _ = data.digits28(2000, rng=2)
    images = x.reshape(-1, 28, 28) / 255
    mass = images.sum(axis=(1, 2))
    rows = (images.sum(axis=2) * np.arange(28)).sum(axis=1) / mass
    columns = (images.sum(axis=1) * np.arange(28)).sum(axis=1) / mass
    assert np.abs(rows - 13.5).max() <= 2.5
    assert np.abs(columns - 13.5).max() <= 2.5
    dark = images > 0.5
    extent = np.maximum(dark.any(axis=2).sum(axis=1), dark.any(axis=1).sum(axis=1))
    assert extent.min() >= 17
    assert extent.max() <= 22


def test_a_perceptron_with_a_hidden_layer_beats_a_linear_classifier() -> None:
    x, y = data.digits28(6000, rng=0)
    x_train, x_test = np.split(x.astype(np.float32) / 255, [5000])
    y_train, y_test = np.split(y, [5000])
    # One BLAS thread: two are slower here, and much slower on a busy machine.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        linear = LogisticRegression(C=0.05, max_iter=40).fit(x_train, y_train)
        deep = MLPClassifier((50,), alpha=1e-3, max_iter=15, batch_size=50, random_state=0)
        deep.fit(x_train, y_train)
    linear_accuracy, deep_accuracy = linear.score(x_test, y_test), deep.score(x_test, y_test)
    assert 0.80 <= linear_accuracy <= 0.90  # 0.904 on 60,000 rows
    assert deep_accuracy >= 0.89  # 0.97 on 60,000 rows
    assert deep_accuracy - linear_accuracy >= 0.025
