"""gpubp.sklearn against scikit-learn itself: its protocol, its own tests, its numbers."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

sklearn = pytest.importorskip("sklearn", "1.9")

from sklearn import neural_network as theirs  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_digits, load_iris  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

import gpubp  # noqa: E402
from gpubp import sklearn as ours  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = ("MLPClassifier", "MLPRegressor")
RNG = np.random.default_rng(8)
X = RNG.normal(size=(157, 6))  # batches of 20 leave 17 for the last
LABELS = {
    "two": (X[:, 0] + X[:, 1] > 0).astype(int),
    "three": np.array(["low", "mid", "top"])[np.digitize(X[:, 0] - X[:, 2], [-0.5, 0.7])],
    "several": (X[:, :4] > 0.3).astype(int),
}
REAL = {"one": np.sin(X[:, 0]) + X[:, 1], "three": X[:, :3] ** 2}
WEIGHTS = RNG.uniform(0.1, 3, len(X))


@pytest.mark.parametrize("kind", KINDS)
def test_same_parameters_in_the_same_order(kind: str) -> None:
    """The only line a user changes is the import."""
    wanted = inspect.signature(getattr(theirs, kind)).parameters
    found = inspect.signature(getattr(ours, kind)).parameters
    assert list(found)[: len(wanted)] == list(wanted)
    for name, parameter in wanted.items():
        assert found[name].default == parameter.default, name
        assert found[name].kind == parameter.kind, name


# Which settings, for which estimators and targets.
CASES: dict[str, dict[str, Any]] = {
    "adam": {},
    "relu": {"activation": "relu"},
    "identity": {"activation": "identity"},
    "logistic": {"activation": "logistic", "hidden_layer_sizes": (7, 5)},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.02},
    "plain": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.02},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.02},
    "alpha": {"alpha": 2.0, "solver": "sgd", "learning_rate_init": 0.02},
    "no alpha": {"alpha": 0.0},
    "in order": {"shuffle": False},
    "one batch": {"batch_size": 500},
    "auto": {"batch_size": "auto"},
    "betas": {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
    "invscaling": {
        "solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1, "power_t": 0.2,
    },
    "adaptive": {
        "solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.05, "tol": 2e-2,
        "n_iter_no_change": 2, "max_iter": 60,
    },
    "tol": {"tol": 3e-2, "n_iter_no_change": 2, "max_iter": 80, "alpha": 1.0},
    "early stopping": {
        "early_stopping": True, "n_iter_no_change": 3, "max_iter": 60, "validation_fraction": 0.2,
    },
}  # fmt: skip


def both(kind: str, settings: dict[str, Any]) -> list[Any]:
    base = {"hidden_layer_sizes": (8,), "activation": "tanh", "max_iter": 12, "batch_size": 20,
            "random_state": 3, "learning_rate_init": 0.01}  # fmt: skip
    return [getattr(library, kind)(**{**base, **settings}) for library in (ours, theirs)]


def assert_same(found: Any, wanted: Any, tolerance: float = 1e-10) -> None:
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(found, name), getattr(wanted, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(found, name) == getattr(wanted, name), name
    np.testing.assert_allclose(found.loss_curve_, wanted.loss_curve_, rtol=1e-9)
    for name in ("loss_", "best_loss_", "validation_scores_", "best_validation_score_"):
        a, b = getattr(found, name), getattr(wanted, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("target", [*LABELS, *(f"real {name}" for name in REAL)])
@pytest.mark.parametrize("case", CASES)
def test_same_numbers(case: str, target: str, weighted: bool) -> None:
    kind = KINDS["real" in target]
    y = LABELS[target] if target in LABELS else REAL[target.removeprefix("real ")]
    found, wanted = both(kind, CASES[case])
    weights = WEIGHTS if weighted else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 500 is more than the examples
        for estimator in (found, wanted):
            estimator.fit(X, y, sample_weight=weights)
    assert_same(found, wanted)
    np.testing.assert_allclose(
        np.asarray(found.score(X, y, weights)), wanted.score(X, y, weights), rtol=1e-9
    )


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_same_poisson(solver: str) -> None:
    y = RNG.poisson(np.exp(0.4 * X[:, 0] + 1))
    found, wanted = both("MLPRegressor", {"loss": "poisson", "solver": solver, "alpha": 0.3})
    assert_same(found.fit(X, y), wanted.fit(X, y))
    with pytest.raises(ValueError, match=r"y holds -1, but loss='poisson' is for y >= 0"):
        found.fit(X, y - 1 - y.min())


@pytest.mark.parametrize("settings", ["adam", "sgd", "invscaling"])
def test_same_numbers_in_parts_and_again(settings: str) -> None:
    """partial_fit keeps the optimizer's state; warm_start keeps the weights; both keep t_."""
    found, wanted = both("MLPClassifier", {**CASES[settings], "warm_start": True, "max_iter": 3})
    y = LABELS["three"]
    for estimator in (found, wanted):
        estimator.partial_fit(X[:90], y[:90], classes=np.unique(y))
        estimator.partial_fit(X[90:], y[90:], sample_weight=WEIGHTS[90:])
        estimator.fit(X, y)
        estimator.partial_fit(X[:50], y[:50])
        estimator.fit(X, y)
    assert_same(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_same_minimum(kind: str, weighted: bool) -> None:
    """L-BFGS takes the same path until rounding tells: a few iterations agree."""
    settings = {"solver": "lbfgs", "max_iter": 8, "alpha": 0.5}
    found, wanted = both(kind, settings)
    y = LABELS["three"] if kind == "MLPClassifier" else REAL["one"]
    for estimator in (found, wanted):
        estimator.fit(X, y, sample_weight=WEIGHTS if weighted else None)
    assert found.n_iter_ == wanted.n_iter_
    np.testing.assert_allclose(found.loss_, wanted.loss_, rtol=1e-9)
    for a, b in zip(found.coefs_, wanted.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8)


def test_float32_and_sparse() -> None:
    y = LABELS["three"]
    (dense, wanted), sparse = both("MLPClassifier", {}), both("MLPClassifier", {})[0]
    x = (X * (X > 0.5)).astype(np.float32)
    dense.fit(x, y)
    assert {w.dtype for w in dense.coefs_} == {np.dtype("float32")}
    for form in (scipy.sparse.csr_array, scipy.sparse.csc_array):
        sparse.fit(form(x), y)
        for a, b in zip(sparse.coefs_, dense.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(sparse.predict(form(x)), dense.predict(x))
    wanted.fit(x, y)
    np.testing.assert_allclose(dense.predict_proba(x), wanted.predict_proba(x), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_protocol(kind: str) -> None:
    """No check is expected to fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for result in check_estimator(getattr(ours, kind)(max_iter=100), on_skip=None):
            assert result["status"] in ("passed", "skipped"), result
            assert not result["expected_to_fail"]


# These reach into the private solver of scikit-learn's classes.
PRIVATE = ("test_fit", "test_gradient", "test_learning_rate_warmstart",
           "test_adaptive_learning_rate")  # fmt: skip


def test_their_own_tests_pass(tmp_path: Path) -> None:
    """The installed test file of scikit-learn's MLP, with our two classes in place of its own."""
    text = (Path(theirs.__file__).parent / "tests" / "test_mlp.py").read_text()
    old = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
    assert text.count(old) == 1
    (tmp_path / "test_mlp.py").write_text(text.replace(old, old.replace(
        "sklearn.neural_network", "gpubp.sklearn")))  # fmt: skip
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef global_random_seed():\n    return 42\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    select = [f"--deselect=test_mlp.py::{name}" for name in PRIVATE]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *select, "test_mlp.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 50


def test_in_pipelines_searches_and_pickles() -> None:
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    pipe = make_pipeline(
        StandardScaler(), ours.MLPClassifier((8,), max_iter=60, random_state=0, batch_size=30)
    )
    search = GridSearchCV(pipe, {"mlpclassifier__learning_rate_init": [1e-5, 0.02]}, cv=3)
    search.fit(x, names)
    assert search.best_params_ == {"mlpclassifier__learning_rate_init": 0.02}
    assert search.best_score_ > 0.9
    assert cross_val_score(pipe, x, names, cv=3).shape == (3,)
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict(x), search.predict(x))
    assert set(clone(pipe.steps[1][1]).get_params()) == set(pipe.steps[1][1].get_params())


def test_what_scikit_learn_has_not() -> None:
    """An activation a layer, a cost, a rule, class weights, a validation set, callbacks."""
    x, y = load_digits(return_X_y=True)
    x = x / 16
    seen: list[int] = []
    ours_only = ours.MLPClassifier(
        (20, 10), ["gelu", "z/(1 + abs(z))"], solver="adamw", cost="cross_entropy", dtype="float32",
        learning_rate_init=0.01, max_iter=15, batch_size=32, random_state=1,
        class_weight="balanced", early_stopping=True, scoring="neg_log_loss",
        callbacks=[lambda t: seen.append(t.epoch)],
    )  # fmt: skip
    ours_only.fit(x[:1200], y[:1200], validation_data=(x[1200:1500], y[1200:1500]))
    assert ours_only.score(x[:1200], y[:1200]) > 0.9
    assert len(seen) == ours_only.n_iter_ == len(ours_only.validation_scores_)
    assert all(score < 0 for score in ours_only.validation_scores_)
    np.testing.assert_allclose(ours_only.predict_proba(x[:9]).sum(axis=1), 1, rtol=1e-5)
    assert ours_only.network_.trace(x[:2], y[:2]) is not None
    assert ours_only.network_.activations[0].name == "gelu"


def test_class_weight_is_sample_weight() -> None:
    y = LABELS["three"]
    by_class, by_sample = both("MLPClassifier", {})[0], both("MLPClassifier", {})[0]
    by_class.set_params(class_weight={"low": 3.0, "mid": 0.5}).fit(X, y)
    by_sample.fit(X, y, sample_weight=np.where(y == "low", 3.0, np.where(y == "mid", 0.5, 1.0)))
    for a, b in zip(by_class.coefs_, by_sample.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_arrays_that_are_assigned_reach_the_network() -> None:
    estimator = both("MLPRegressor", {})[0].fit(X, REAL["one"])
    estimator.coefs_[0] = np.zeros((6, 8))
    estimator.coefs_[1][:] = 0
    estimator.intercepts_[1] = np.array([2.5])
    np.testing.assert_array_equal(estimator.predict(X), 2.5)
    estimator.coefs_ = [np.ones((6, 8)), np.ones((8, 1))]
    estimator.intercepts_ = [np.zeros(8), np.zeros(1)]
    np.testing.assert_allclose(estimator.predict(X[:1]), 8 * np.tanh(X[0].sum()))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"hidden_layer_sizes": (5, 0)}, "hidden_layer_sizes must be > 0"),
        ({"alpha": -1.0}, "alpha"),
        ({"activation": ["relu", "tanh"]}, "activation lists 2 for 1 hidden layers"),
        ({"solver": "adm"}, "did you mean 'adam'"),
        ({"activation": "rellu"}, "did you mean 'relu'"),
        ({"learning_rate": "falling"}, "learning_rate='falling' must be one of"),
        ({"learning_rate_init": 0}, "learning_rate_init=0 must be above 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"early_stopping": "yes"}, "early_stopping='yes' must be True or False"),
        ({"max_iter": 0}, "max_iter"),
        ({"loss": "poison"}, "loss='poison' must be"),
        ({"backend": "gpu"}, "cuda"),
    ],
)
def test_refusals(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(sentence)):
        ours.MLPRegressor(**settings).fit(X, REAL["one"])


def test_validation_data_without_early_stopping_is_refused() -> None:
    for settings in ({}, {"solver": "lbfgs", "early_stopping": True}):
        with pytest.raises(ValueError, match="validation_data is for early_stopping=True"):
            ours.MLPRegressor(**settings).fit(X, REAL["one"], validation_data=(X, REAL["one"]))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (3, "validation_data must be"),
        ((X,), "validation_data must be"),
        ((X[:, :2], REAL["one"]), "2 features"),
        ((X, REAL["one"][:9]), "inconsistent numbers of samples"),
        ((X, REAL["one"], -WEIGHTS), "sample_weight holds -"),
    ],
)
def test_wrong_validation_data(given: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ours.MLPRegressor(early_stopping=True).fit(X, REAL["one"], validation_data=given)


def test_labels_that_are_measurements() -> None:
    with pytest.raises(ValueError, match="Unknown label type"):
        ours.MLPClassifier().fit(X, REAL["one"])


def test_another_solver_goes_on() -> None:
    """After L-BFGS by Adam, by another rule in parts, with early stopping and then without."""
    y = REAL["one"]
    warm = ours.MLPRegressor(
        hidden_layer_sizes=5, solver="lbfgs", warm_start=True, max_iter=30, random_state=0
    )
    before = warm.fit(X, y).loss_
    warm.set_params(solver="adam", max_iter=5).fit(X, y)
    assert len(warm.loss_curve_) == 5
    assert warm.loss_ < 1.5 * before
    warm.set_params(early_stopping=True).fit(X, y)
    assert warm.validation_scores_ is not None
    warm.set_params(early_stopping=False, learning_rate_init=1e-12).fit(X, y)
    assert warm.validation_scores_ is None
    held = [w.copy() for w in warm.coefs_]
    for solver in ("sgd", "adam", "rmsprop", "sgd"):
        warm.set_params(solver=solver).partial_fit(X, y)
    for a, b in zip(warm.coefs_, held, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)
    with pytest.raises(ValueError, match=r"sizes \[6, 5, 1\], but .* ask for \[6, 7, 1\]"):
        warm.set_params(hidden_layer_sizes=7).fit(X, y)


def test_diverging() -> None:
    settings = {"solver": "sgd", "learning_rate_init": 1e9, "max_iter": 5, "random_state": 0}
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        ours.MLPRegressor(**settings).fit(100 * X, REAL["one"])


def test_not_fitted() -> None:
    with pytest.raises(NotFittedError):
        ours.MLPClassifier().predict(X)
    assert not hasattr(ours.MLPClassifier(), "coefs_")


def test_same_on_the_reference() -> None:
    found, _ = both("MLPClassifier", {})
    plain = clone(found).set_params(backend="reference").fit(X, LABELS["three"])
    assert plain.network_.backend.name == "reference"
    for a, b in zip(found.fit(X, LABELS["three"]).coefs_, plain.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    assert isinstance(plain.network_, gpubp.Network)


def test_a_warning_of_what_has_not_converged() -> None:
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\)"):
        ours.MLPClassifier(max_iter=2).fit(X, LABELS["two"])
