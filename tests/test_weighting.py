"""Weights of examples and classes: against repeated rows, absent ones, and scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import flat, host, normwise

import gpubp
from gpubp.examples import importance_of
from gpubp.optimizer import Adam

RNG = np.random.default_rng(81)
X, Y = RNG.standard_normal((60, 7)), RNG.integers(0, 3, 60)
S = RNG.integers(0, 4, 60)
NETS: dict[str, dict[str, Any]] = {
    "softmax": {"activation": ["tanh", "softmax"], "cost": "log_likelihood"},
    "sigmoid": {"cost": "cross_entropy"},
    "identity": {"activation": ["relu", "identity"], "cost": "huber"},
}


def network(backend: Any, kind: str = "sigmoid", dtype: str = "float64") -> gpubp.Network:
    return gpubp.Network([7, 9, 3], rng=2, backend=backend, dtype=dtype, **NETS[kind])


def fitted(net: gpubp.Network, x: Any, y: Any, **how: Any) -> gpubp.Network:
    given = {"epochs": 4, "batch_size": len(x), "learning_rate": 0.5, "shuffle": False} | how
    net.fit(x, y, **given)
    return net


@pytest.mark.parametrize("kind", NETS)
def test_whole_numbers_count_as_repeated_rows(kind: str, backend: gpubp.Backend) -> None:
    """0 among them: as absent ones."""
    rows = np.repeat(np.arange(60), S)
    how: dict[str, Any] = {"l2": 0.01}
    ours = fitted(network(backend, kind), X, Y, **how, sample_weight=S, validation=(X, Y, S))
    right = fitted(network(backend, kind), X[rows], Y[rows], **how,
                   validation=(X[rows], Y[rows]))  # fmt: skip
    assert normwise(flat(ours), flat(right)) <= 1e-13
    for row, expected in zip(ours.history, right.history, strict=True):
        assert abs(row.cost - expected.cost) <= 1e-13 * expected.cost
        assert abs(row.validation_cost - expected.validation_cost) <= 1e-13 * row.validation_cost
        assert abs(row.validation_accuracy - expected.validation_accuracy) <= 1e-13
    assert np.abs(flat(ours) - flat(fitted(network(backend, kind), X, Y, **how))).max() > 1e-3


def test_equal_weights_change_no_bit(backend: gpubp.Backend) -> None:
    how: dict[str, Any] = {"batch_size": 8, "optimizer": "adam", "shuffle": True}
    for dtype in ("float32", "float64"):
        plain = fitted(network(backend, dtype=dtype), X, Y, **how)
        weighted = fitted(
            network(backend, dtype=dtype), X, Y, **how, sample_weight=np.full(60, 0.5)
        )
        np.testing.assert_array_equal(flat(weighted), flat(plain))


def test_each_mini_batch_is_divided_by_its_own_weights(backend: gpubp.Backend) -> None:
    """Against the equations, mini-batch by mini-batch; one of them is of weight 0."""
    s = RNG.random(60)
    s[16:24] = 0.0
    ours = fitted(network(backend), X, Y, epochs=1, batch_size=8, sample_weight=s, l2=0.1)
    net = network("reference")
    costs = []
    for start in range(0, 60, 8):
        part = slice(start, start + 8)
        total = s[part].sum()
        g = [net.backprop(X[i : i + 1], Y[i : i + 1]) for i in range(start, min(start + 8, 60))]
        share = s[part] / total if total else 0 * s[part]
        penalty = sum(0.5 * 0.1 * np.sum(w * w) for w in net.weights)
        costs.append(
            len(g) * (sum(f * one.cost for f, one in zip(share, g, strict=True)) + penalty)
        )
        for l in range(2):
            net.weights[l] = net.weights[l] - 0.5 * (0.1 * net.weights[l] + sum(
                f * one.nabla_w[l] for f, one in zip(share, g, strict=True)))  # fmt: skip
            net.biases[l] = net.biases[l] - 0.5 * sum(
                f * one.nabla_b[l] for f, one in zip(share, g, strict=True))  # fmt: skip
    assert normwise(flat(ours), flat(net)) <= 1e-13
    assert abs(ours.history[0].cost - sum(costs) / 60) <= 1e-13


def test_importance_is_the_weight_beside_the_mean() -> None:
    found = importance_of(np.array([1.0, 3.0, 0.0, 0.0, 5.0]), 2)
    np.testing.assert_array_equal(found, [0.5, 1.5, 0.0, 0.0, 1.0])
    assert importance_of(np.zeros(0), 2).shape == (0,)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_300_steps_of_sklearn(solver: str, backend: gpubp.Backend) -> None:
    sklearn = pytest.importorskip("sklearn")
    if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 7):
        pytest.skip("scikit-learn's MLPClassifier takes weights since 1.7")
    from sklearn.neural_network import MLPClassifier

    s = np.random.default_rng(3).random(60)
    rate = {"sgd": 0.2, "adam": 0.01}[solver]
    model = MLPClassifier(
        (9,), activation="tanh", solver=solver, alpha=0.0, batch_size=12, max_iter=60, momentum=0.0,
        learning_rate_init=rate, shuffle=False, random_state=4, tol=0.0, n_iter_no_change=100,
    )  # fmt: skip
    start = MLPClassifier((9,), activation="tanh", max_iter=1, random_state=4, solver=solver,
                          learning_rate_init=1e-300, batch_size=60)  # fmt: skip
    with pytest.warns(match="iterations"):
        model.fit(X, Y, sample_weight=s)
    with pytest.warns(match="iterations"):
        start.fit(X, Y)
    net = network(backend, "softmax")
    for l in range(2):
        net.weights[l], net.biases[l] = start.coefs_[l].T, start.intercepts_[l]
    fitted(net, X, Y, epochs=60, batch_size=12, learning_rate=rate, sample_weight=s,
           optimizer="sgd" if solver == "sgd" else Adam(epsilon_hat=True))  # fmt: skip
    for found, right in zip(host(net, net.weights), model.coefs_, strict=True):
        assert normwise(found, right.T) <= 1e-11
    np.testing.assert_allclose(net.history.cost, model.loss_curve_, rtol=1e-10)
    evaluated = net.evaluate(X, Y, s)
    assert evaluated.accuracy is not None
    assert abs(evaluated.accuracy - model.score(X, Y, s)) <= 1e-12


def test_class_weight(backend: gpubp.Backend) -> None:
    y = np.array([0] * 30 + [1] * 20 + [2] * 10)
    by_class = {0: 2.0, 2: 0.5}
    each = np.array([2.0] * 30 + [1.0] * 20 + [0.5] * 10)
    hows: list[dict[str, Any]] = [
        {"class_weight": by_class, "sample_weight": S + 1}, {"sample_weight": each * (S + 1)}
    ]  # fmt: skip
    twice = [fitted(network(backend), X, y, batch_size=7, **how) for how in hows]
    np.testing.assert_array_equal(*map(flat, twice))
    balanced = np.array([60 / (3 * 30)] * 30 + [60 / (3 * 20)] * 20 + [60 / (3 * 10)] * 10)
    pairs = [fitted(network(backend), X, y, batch_size=7, class_weight="balanced"),
             fitted(network(backend), X, y, batch_size=7, sample_weight=balanced)]  # fmt: skip
    np.testing.assert_array_equal(*map(flat, pairs))
    unit = fitted(network(backend), X, np.eye(3)[y], batch_size=7, class_weight="balanced")
    assert normwise(flat(unit), flat(pairs[0])) <= 1e-14  # unit vectors name classes, too
    one = gpubp.Network([7, 1], rng=1, backend=backend, dtype="float64")
    other = gpubp.Network([7, 1], rng=1, backend=backend, dtype="float64")
    fitted(one, X, (y == 2).astype(float), class_weight={1: 5.0})
    fitted(other, X, (y == 2).astype(float), sample_weight=1 + 4.0 * (y == 2))
    np.testing.assert_array_equal(flat(one), flat(other))


def test_folds_of_a_fleet_take_their_rows_weights() -> None:
    folds = [(np.arange(0, 40), np.arange(40, 60)), (np.arange(20, 60), np.arange(0, 20))]
    fleet = gpubp.Fleet(network("cpu") for _ in range(2))
    how: dict[str, Any] = {"epochs": 3, "batch_size": 8, "learning_rate": 0.5}
    fleet.fit(X, Y, **how, folds=folds, sample_weight=S + 0.5, class_weight="balanced")
    for (rows, held_out), net in zip(folds, fleet, strict=True):
        alone = network("cpu")
        alone.fit(X[rows], Y[rows], **how, sample_weight=S[rows] + 0.5, class_weight="balanced",
                  validation=(X[held_out], Y[held_out], S[held_out] + 0.5))  # fmt: skip
        np.testing.assert_array_equal(flat(net), flat(alone))
        expected = alone.history[-1].validation_cost
        assert expected is not None
        assert net.history[-1].validation_cost is not None
        # What is balanced is what is trained on; validation has the examples' own weights.
        assert abs(net.history[-1].validation_cost - expected) <= 1e-13


def test_a_fold_of_no_weight_is_refused() -> None:
    weights = np.where(np.arange(60) < 40, 1.0, 0.0)
    fleet = gpubp.Fleet([network("cpu")])
    with pytest.raises(ValueError, match="network 0: its validation rows have a sample_weight of"):
        fleet.fit(X, Y, epochs=1, batch_size=8, learning_rate=0.5, sample_weight=weights,
                  folds=[(np.arange(40), np.arange(40, 60))])  # fmt: skip


def test_resumes_bit_for_bit(backend: gpubp.Backend, tmp_path: Path) -> None:
    how: dict[str, Any] = {"batch_size": 8, "sample_weight": S, "class_weight": "balanced"}
    whole = fitted(network(backend), X, Y, **how)
    half = fitted(network(backend), X, Y, **how, epochs=2)
    half.save(tmp_path / "net")
    loaded = fitted(gpubp.load(tmp_path / "net", backend), X, Y, **how, resume=True)
    np.testing.assert_array_equal(flat(loaded), flat(whole))


def fit(**how: Any) -> Callable[[], object]:
    return lambda: fitted(network("reference"), X, how.pop("y", Y), **how)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "too few": (fit(sample_weight=np.ones(59)), "sample_weight has shape (59,), but must be one "
                "number an example: (60,)"),
    "a column": (fit(sample_weight=np.ones((60, 1))), "sample_weight has shape (60, 1)"),
    "negative": (fit(sample_weight=np.where(np.arange(60) == 5, -1, 1)), "sample_weight holds -1, "
                 "first in row 5"),
    "NaN": (fit(sample_weight=np.where(np.arange(60) == 7, np.nan, 1)), "nan, first in row 7"),
    "all 0": (fit(sample_weight=np.zeros(60)), "is zero for every example"),
    "words": (fit(sample_weight=["a"] * 60), "sample_weight holds"),
    "validation": (fit(validation=(X, Y, np.ones(3))), "validation sample_weight has shape (3,)"),
    "four": (fit(validation=(X, Y, S, S)), "a pair (x, y), or (x, y, sample_weight)"),
    "targets": (fit(y=RNG.random((60, 3)), class_weight="balanced"), "class_weight needs classes"),
    "a word": (fit(class_weight="equal"), "class_weight='equal' must be 'balanced' or a dict"),
    "a list": (fit(class_weight=[1, 2, 3]), "class_weight=[1, 2, 3] must be 'balanced' or a dict"),
    "no class": (fit(class_weight={3: 1.0}), "names the class 3, but the labels are 0 to 2"),
    "a name": (fit(class_weight={"cat": 1.0}), "names the class 'cat', but the labels"),
    "less than none": (fit(class_weight={0: -1.0}), "class_weight[0]=-1.0 must be a finite number"),
    "no number": (fit(class_weight={0: "1"}), "class_weight[0]='1' must be a number"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_evaluate_weighs(backend: gpubp.Backend) -> None:
    net, rows = network(backend), np.repeat(np.arange(60), S)
    weighted, right = net.evaluate(X, Y, sample_weight=S), net.evaluate(X[rows], Y[rows])
    assert weighted.accuracy is not None
    assert right.accuracy is not None
    assert abs(weighted.cost - right.cost) <= 1e-13
    assert abs(weighted.accuracy - right.accuracy) <= 1e-13
