"""Networks of other libraries and files: the same outputs, or one sentence why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import DataFormatError

RNG = np.random.default_rng(5)


# scikit-learn

neural_network = pytest.importorskip("sklearn.neural_network")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = RNG.normal(size=(60, 4))
TARGETS: dict[str, Any] = {
    "two": (X[:, 0] > 0).astype(int),
    "three": np.digitize(X[:, 0], [-0.4, 0.5]),
    "words": np.array(["high", "low"])[(X[:, 1] > 0).astype(int)],
    "several": (X[:, :3] > 0).astype(int),
    "real": X[:, 0] ** 2,
    "reals": X[:, :2] ** 2,
    "counts": RNG.poisson(np.exp(X[:, 0])),
}


def fitted(target: str, **settings: Any) -> Any:
    kind = "MLPClassifier" if target in ("two", "three", "words", "several") else "MLPRegressor"
    more = {"loss": "poisson"} if target == "counts" else {}
    estimator = getattr(neural_network, kind)(
        hidden_layer_sizes=(6, 5), max_iter=20, random_state=0, **more, **settings
    )
    return estimator.fit(X, TARGETS[target])


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("target", TARGETS)
def test_from_sklearn(target: str, activation: str) -> None:
    estimator = fitted(target, activation=activation)
    net = gpubp.from_sklearn(estimator, check=X)
    if target == "words":
        assert net.classes == ("high", "low")
        assert [net.classes[i] for i in net.predict(X)] == estimator.predict(X).tolist()
    elif target in ("two", "three"):
        np.testing.assert_array_equal(net.predict(X), estimator.predict(X))
        np.testing.assert_allclose(net.predict_proba(X), estimator.predict_proba(X), rtol=1e-9)
    elif target != "several":
        wanted = estimator.predict(X).reshape(60, -1)
        np.testing.assert_allclose(net.feedforward(X), wanted, rtol=1e-9)
    assert np.isfinite(
        net.backprop(X, TARGETS[target] if target != "words" else net.predict(X)).cost
    )


def test_from_sklearn_on_other_numbers() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    estimator = neural_network.MLPClassifier(5, max_iter=5).fit(frame, TARGETS["three"])
    net = gpubp.from_sklearn(estimator, dtype="float32", backend="reference")
    assert (net.dtype, net.backend.name, net.inputs) == ("float32", "reference", tuple("abcd"))
    np.testing.assert_allclose(net.predict_proba(X), estimator.predict_proba(frame), atol=1e-5)


def test_what_is_no_network_of_sklearn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from gpubp.sklearn import MLPRegressor

    with pytest.raises(TypeError, match="'LogisticRegression' is not scikit-learn's MLPClassifier"):
        gpubp.from_sklearn(LogisticRegression())
    with pytest.raises(TypeError, match=r"give its last one, estimator\[-1\]"):
        gpubp.from_sklearn(make_pipeline(fitted("two")))
    with pytest.raises(ValueError, match="this MLPClassifier is not fitted"):
        gpubp.from_sklearn(neural_network.MLPClassifier())
    with pytest.raises(TypeError, match=r"its network is estimator\.network_"):
        gpubp.from_sklearn(MLPRegressor(max_iter=1).fit(X, TARGETS["real"]))
    changed = fitted("real")
    changed.coefs_[1] = changed.coefs_[1][:-1]
    with pytest.raises(ValueError, match="layer 3 has weights"):
        gpubp.from_sklearn(changed)
    changed = fitted("real")
    changed.coefs_[2][0, 0] = np.nan
    with pytest.raises(ValueError, match="layer 4 has weights or biases that are not finite"):
        gpubp.from_sklearn(changed)
    changed = fitted("real")
    predict = changed.predict
    changed.predict = lambda x: predict(x) + 1e-3
    with pytest.raises(ValueError, match=r"differ by up to 0\.001"):
        gpubp.from_sklearn(changed, check=X)


# The book's network2.py

WEIGHTS = [RNG.normal(size=(3, 4)), RNG.normal(size=(2, 3))]
BIASES = [RNG.normal(size=(3, 1)), RNG.normal(size=(2, 1))]


def stored(**changes: Any) -> dict[str, Any]:
    return {
        "sizes": [4, 3, 2],
        "weights": [w.tolist() for w in WEIGHTS],
        "biases": [b.tolist() for b in BIASES],
        "cost": "CrossEntropyCost",
        **changes,
    }


def test_from_network2(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text(json.dumps(stored()))
    net = gpubp.from_network2(path)
    a = X[:1].T  # the book's feedforward, in columns
    for w, b in zip(WEIGHTS, BIASES, strict=True):
        a = 1 / (1 + np.exp(-(w @ a + b)))
    np.testing.assert_allclose(net.feedforward(X[:1]), a.T, rtol=1e-14)
    assert net.cost.name == "cross_entropy"
    path.write_text(json.dumps(stored(cost="QuadraticCost")))
    assert gpubp.from_network2(path, dtype="float32").dtype == "float32"
    with pytest.raises(DataFormatError, match=r"read it with gpubp\.from_network2"):
        gpubp.load(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "expected the JSON of network2.py"),
        ("[" * 100_000, "expected the JSON of network2.py"),
        ("[1]", "an object with sizes"),
        (json.dumps({"sizes": [4, 3, 2]}), "an object with sizes"),
        (json.dumps(stored(cost=["x"])), "expected cost QuadraticCost or CrossEntropyCost"),
        (json.dumps(stored(sizes=[4, 3, 3])), "expected sizes .*those of the weights"),
        (json.dumps(stored(weights=[])), "0 arrays of weights and 2 of biases"),
        (json.dumps(stored(weights=[], biases=[])), "0 arrays of weights and 0 of biases"),
        (json.dumps(stored(weights=3)), "weights as a list of arrays"),
        (json.dumps(stored(biases=[[[1]], [["x"]]])), "biases of layer 3 as an array"),
        (json.dumps(stored(weights=[[[1, 2], [3]], [[1]]])), "weights of layer 2 as an array"),
        (json.dumps(stored(weights=[[[1, 2]], [[1]]])), "layer 2 has weights"),
        (json.dumps(stored(weights=[[], []])), "layer 2 has weights"),
        (json.dumps(stored(weights=[[[10**400] * 4] * 3, [[1] * 3] * 2])), "as an array"),
        (json.dumps(stored(biases=[[[np.nan]] * 3, [[0], [0]]])), "not finite"),
    ],
)  # fmt: skip
def test_malformed_network2(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "net.json"
    path.write_text(text)
    with pytest.raises(DataFormatError, match=sentence) as caught:
        gpubp.from_network2(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 400


def test_no_such_network2(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        gpubp.from_network2(tmp_path / "none.json")
