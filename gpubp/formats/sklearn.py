"""scikit-learn's multilayer perceptrons."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.activation import Activation
from gpubp.backend import Backend
from gpubp.cost import Cost
from gpubp.expression import Expression
from gpubp.network import Network
from gpubp.printable import brief

from .made import check_same, made

# a = exp(z) with C = half the Poisson deviance, y log(y/a) - y + a, where log a = z; 0 log 0 = 0.
EXP = Activation("exp", Expression("exp(z)", ("z",)), Expression("a", ("z", "a")))
_ZAY = ("z", "a", "y")
POISSON = Cost(
    "poisson",
    Expression("a - y*z + y*log(max(y, 1e-30)) - y", _ZAY),
    grad_a=Expression("1", _ZAY),
    grad_z=Expression("-y", _ZAY),
)

_HIDDEN = {"logistic": "sigmoid", "identity": "identity", "tanh": "tanh", "relu": "relu"}
_OUTPUT: dict[str, tuple[Any, Any]] = {
    "softmax": ("softmax", "log_likelihood"),
    "logistic": ("sigmoid", "cross_entropy"),
    "identity": ("identity", "quadratic"),
    "exp": (EXP, POISSON),
}


def from_sklearn(
    estimator: Any,
    *,
    check: Any = None,
    backend: str | Backend = "cpu",
    dtype: str | None = None,
) -> Network:
    """The network of a fitted ``sklearn.neural_network.MLPClassifier`` or ``MLPRegressor``.

    scikit-learn keeps w as (n_in, n_out); here it is (n_out, n_in). Names of classes and features
    that are text become ``classes`` and ``inputs``; labels are otherwise the index into the
    estimator's ``classes_``. With ``check`` (n, n_features) the outputs are compared, too. The
    optimizer's state is not taken over. An estimator of :mod:`gpubp.sklearn` holds its network
    already, as ``network_``.

    Raises:
        ValueError, TypeError: one sentence, for what is no fitted multilayer perceptron, or one
            that computes otherwise.
    """
    source = type(estimator).__name__
    if hasattr(estimator, "steps"):
        raise TypeError(
            f"{source} holds several steps: give its last one, estimator[-1], and to the network "
            "what the others make of the data"
        )
    if not hasattr(estimator, "hidden_layer_sizes"):
        raise TypeError(f"{brief(source)} is not scikit-learn's MLPClassifier or MLPRegressor")
    if not hasattr(estimator, "coefs_"):
        raise ValueError(f"this {source} is not fitted: call its fit first")
    if hasattr(estimator, "network_"):
        raise TypeError(f"this {source} is gpubp's own: its network is estimator.network_")
    if estimator.activation not in _HIDDEN or estimator.out_activation_ not in _OUTPUT:
        raise ValueError(
            f"{source}: activation {brief(estimator.activation)} with output "
            f"{brief(estimator.out_activation_)} is unknown here"
        )
    output, cost = _OUTPUT[estimator.out_activation_]
    network = made(
        source,
        [np.asarray(w).T for w in estimator.coefs_],
        [np.asarray(b) for b in estimator.intercepts_],
        [*[_HIDDEN[estimator.activation]] * (len(estimator.coefs_) - 1), output],
        cost, backend, dtype,
    )  # fmt: skip
    classes = np.asarray(getattr(estimator, "classes_", ())).tolist()
    if classes and all(isinstance(name, str) for name in classes):
        network.classes = tuple(classes)
    if (names := getattr(estimator, "feature_names_in_", None)) is not None:
        network.inputs = tuple(names.tolist())
    if check is not None:
        proba = getattr(estimator, "predict_proba", None)

        def outputs(x: Any) -> Any:
            a = np.asarray(estimator.predict(x) if proba is None else proba(x))
            return a[:, 1:] if proba is not None and network.sizes[-1] == 1 else a

        check_same(source, network, check, outputs)
    return network
