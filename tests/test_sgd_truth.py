"""Whole training runs against other programs: the book's loop and scikit-learn's MLPClassifier."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from oracle import book_epoch, host, normwise, sgd, steps
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils import shuffle as sklearn_shuffle
from threadpoolctl import threadpool_limits

import gpubp
from gpubp.initialise import INITIALISERS
from gpubp.optimizer import SGD, Adam
from gpubp.parameters import Parameters
from gpubp.plan import Plan

DTYPES = [("float64", 1e-12), ("float32", 1e-5)]


def worst(net: gpubp.Network, weights: Any, biases: Any) -> float:
    found = host(net, [*net.weights, *net.biases])
    return max(normwise(p, q) for p, q in zip(found, [*weights, *biases], strict=True))


# The book's loop: per example, in columns


def book_problem(labels: bool = False) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(11)
    x = rng.standard_normal((47, 6)).astype(np.float32)  # 47 in mini-batches of 10: the last has 7
    y = rng.integers(0, 4, 47) if labels else rng.random((47, 4)).astype(np.float32)
    targets = np.eye(4)[y] if labels else y.astype(float)
    return x, y, targets


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("labels", [False, True], ids=["targets", "labels"])
@pytest.mark.parametrize(
    ("activation", "cost"),
    [
        ("sigmoid", "quadratic"), ("sigmoid", "cross_entropy"), ("sigmoid", "sum_squares"),
        ("tanh", "quadratic"), ("relu", "quadratic"), ("identity", "sum_squares"),
    ],
)  # fmt: skip
def test_fit_is_the_books_loop(
    activation: str, cost: str, labels: bool, dtype: str, bound: float, backend: gpubp.Backend
) -> None:
    x, y, targets = book_problem(labels)
    net = gpubp.Network(
        [6, 8, 5, 4], activation=activation, cost=cost, backend=backend, dtype=dtype, rng=12
    )
    weights = [w.astype(float) for w in host(net, net.weights)]
    biases = [b.astype(float).reshape(-1, 1) for b in host(net, net.biases)]
    eta = 0.05
    orders = []

    def shuffle(rng: np.random.Generator, n: int) -> Any:
        orders.append(rng.permutation(n))
        return orders[-1]

    net.fit(x, y, epochs=3, batch_size=10, learning_rate=eta, shuffle=shuffle)
    for order in orders:
        book_epoch(weights, biases, activation, cost, x.astype(float), targets, order, 10, eta)
    assert len(orders) == 3
    assert worst(net, weights, [b[:, 0] for b in biases]) <= bound


def test_stepper_is_the_books_loop_on_uint8(backend: gpubp.Backend) -> None:
    rng = np.random.default_rng(13)
    x, y = rng.integers(0, 256, (23, 6), dtype=np.uint8), rng.integers(0, 4, 23)
    net = gpubp.Network([6, 5, 4], backend=backend, dtype="float64", rng=14)
    weights = [w.copy() for w in host(net, net.weights)]
    biases = [b.reshape(-1, 1).copy() for b in host(net, net.biases)]
    plan = Plan(net.sizes, net.activations, net.cost, 4, "float64")
    parameters: Parameters = net.parameters
    stepper = backend.kernels.Stepper(plan, parameters, *map(backend.asarray, (x, y)))
    for _ in range(3):
        order = rng.permutation(23)
        stepper.run(*steps(sgd(), order, 4, 0.7))
        book_epoch(weights, biases, "sigmoid", "quadratic", x / 255, np.eye(4)[y], order, 4, 0.7)
    assert worst(net, weights, [b[:, 0] for b in biases]) <= 1e-12


# scikit-learn


@pytest.fixture
def one_blas_thread() -> Iterator[None]:
    """On such small networks several are slower, by ten times when the cores are shared."""
    with threadpool_limits(1, user_api="blas"):
        yield


@cache
def digits() -> tuple[Any, Any]:
    x, y = load_digits(return_X_y=True)
    return MinMaxScaler().fit_transform(x), y


def quiet_fit(model: MLPClassifier, x: Any, y: Any) -> MLPClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are few on purpose
        return model.fit(x, y)


class SklearnDraws:
    """The initial weights and the orders that MLPClassifier(random_state=seed) draws.

    All come from one RandomState: per layer the weights (n_in, n_out), then the biases, uniform
    within Glorot's bound (for "logistic" sqrt(2/(n_in + n_out)), else sqrt(6/...)); then each
    epoch permutes the order of the epoch before.
    """

    def __init__(self, seed: int, activation: str) -> None:
        self.rng = np.random.RandomState(seed)
        self.factor = 2.0 if activation == "logistic" else 6.0
        self.order: Any = None

    def init(self, _: np.random.Generator, n_out: int, n_in: int) -> tuple[Any, Any]:
        bound = np.sqrt(self.factor / (n_in + n_out))
        w = self.rng.uniform(-bound, bound, (n_in, n_out))
        return w.T, self.rng.uniform(-bound, bound, n_out)

    def shuffle(self, _: np.random.Generator, n: int) -> Any:
        before = np.arange(n) if self.order is None else self.order
        self.order = sklearn_shuffle(before, random_state=self.rng)
        return self.order


def twin(
    model: MLPClassifier, seed: int, hidden: int, backend: gpubp.Backend, dtype: str
) -> tuple[gpubp.Network, Callable[..., Any]]:
    """Our network that starts where ``model`` starts, and its order of examples."""
    draws = SklearnDraws(seed, model.activation)
    name = {"logistic": "sigmoid"}.get(model.activation, model.activation)
    net = gpubp.Network(
        [64, hidden, 10], activation=[name, "softmax"], cost="log_likelihood", backend=backend,
        dtype=dtype, init=draws.init,
    )  # fmt: skip
    return net, draws.shuffle


RULES: dict[str, dict[str, Any]] = {
    "plain": {"momentum": 0.0, "nesterovs_momentum": False},
    "momentum": {"momentum": 0.9, "nesterovs_momentum": False},
    "nesterov": {"momentum": 0.9, "nesterovs_momentum": True},
    "adam": {"solver": "adam"},
}


@cache
def sklearn_run(activation: str, rule: str, alpha: float, rows: int | None = None) -> MLPClassifier:
    """Mini-batches of 50, 15 epochs, float64: on all rows 540 steps, the last of each epoch 47."""
    model = MLPClassifier(
        (20,), activation=activation, alpha=alpha, batch_size=50, max_iter=15, random_state=5,
        learning_rate_init={"plain": 0.2, "adam": 0.002}.get(rule, 0.02), tol=0.0,
        **{"solver": "sgd"} | RULES[rule],
    )  # fmt: skip
    x, y = digits()
    return quiet_fit(model, x[:rows], y[:rows])


def check_against_sklearn(
    model: MLPClassifier, backend: gpubp.Backend, dtype: str, bound: float,
    l2: float = 0.0, rows: int | None = None,
) -> None:  # fmt: skip
    net, shuffle = twin(model, 5, 20, backend, dtype)
    x, y = digits()
    history = net.fit(
        x[:rows], y[:rows], epochs=15, batch_size=50, learning_rate=model.learning_rate_init,
        l2=l2, shuffle=shuffle, optimizer=Adam(epsilon_hat=True) if model.solver == "adam" else
        SGD(model.momentum, model.momentum > 0 and model.nesterovs_momentum),
    )  # fmt: skip
    assert model.n_iter_ == 15
    assert worst(net, [w.T for w in model.coefs_], model.intercepts_) <= bound
    assert abs(history[-1].cost - model.loss_) <= bound * model.loss_


@pytest.mark.usefixtures("one_blas_thread")
@pytest.mark.long_on_the_stand_in("logistic-plain-float64", "relu-nesterov-float32")
@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("activation", ["logistic", "tanh", "relu"])
def test_540_steps_of_sklearn(
    activation: str, rule: str, dtype: str, bound: float, backend: gpubp.Backend
) -> None:
    check_against_sklearn(sklearn_run(activation, rule, 0.0), backend, dtype, bound)


@pytest.mark.usefixtures("one_blas_thread")
@pytest.mark.long_on_the_stand_in("momentum-float64")
@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_525_steps_of_sklearn_with_l2(
    rule: str, dtype: str, bound: float, backend: gpubp.Backend
) -> None:
    # scikit-learn divides alpha by the rows of the mini-batch: full ones only, one penalty.
    model = sklearn_run("tanh", rule, 0.01, 1750)
    check_against_sklearn(model, backend, dtype, bound, l2=0.01 / 50, rows=1750)


# The figures that scikit-learn's gallery prints for digits under "Compare Stochastic learning
# strategies for MLPClassifier": score on the training set and final loss.
PUBLISHED = {
    "plain": (0.956038, 0.243802),
    "momentum": (0.992766, 0.041297),
    "nesterov": (0.993879, 0.042898),
}


@cache
def gallery_run(rule: str) -> MLPClassifier:
    model = MLPClassifier(
        solver="sgd", learning_rate_init=0.2, max_iter=15, random_state=0, **RULES[rule]
    )
    return quiet_fit(model, *digits())


@pytest.mark.usefixtures("one_blas_thread")
@pytest.mark.long_on_the_stand_in("nesterov")
@pytest.mark.parametrize("rule", PUBLISHED)
def test_sklearn_gallery_to_all_six_digits(rule: str, backend: gpubp.Backend) -> None:
    x, y = digits()
    model = gallery_run(rule)
    net, shuffle = twin(model, 0, 100, backend, "float64")
    history = net.fit(
        x, y, epochs=15, batch_size=200, learning_rate=0.2, momentum=model.momentum,
        nesterov=model.nesterovs_momentum, l2=1e-4 / 200, shuffle=shuffle,
    )  # fmt: skip
    accuracy = net.evaluate(x, y).accuracy
    assert accuracy is not None
    assert (round(accuracy, 6), round(history[-1].cost, 6)) == PUBLISHED[rule]

    # The live run: its last mini-batch of 197 rows takes alpha/197, ours alpha/200, 1.5% of 5e-7.
    assert (round(model.score(x, y), 6), round(model.loss_, 6)) == PUBLISHED[rule]
    assert worst(net, [w.T for w in model.coefs_], model.intercepts_) <= 1e-6
    assert np.abs(np.array(history.cost) - model.loss_curve_).max() <= 1e-6


# Reproducibility


def trained(backend: gpubp.Backend, dtype: str, **rule: Any) -> gpubp.Network:
    net = gpubp.Network([64, 12, 10], backend=backend, dtype=dtype, rng=21)
    net.fit(*digits(), epochs=2, batch_size=30, learning_rate=0.5, **rule)
    return net


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", [{}, {"momentum": 0.5, "nesterov": True, "l2": 1e-4, "l1": 1e-5}])
def test_same_seed_same_weights_bitwise(
    dtype: str, rule: dict[str, Any], backend: gpubp.Backend
) -> None:
    one, two = (backend.asnumpy(trained(backend, dtype, **rule).parameters.flat) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def start_and_orders(backend: Any, dtype: str, init: str) -> tuple[Any, list[Any]]:
    """The initial parameters, and the order in which a Stepper is handed the examples."""
    net = gpubp.Network([64, 12, 10], backend=backend, dtype=dtype, init=init, rng=22)
    kernels, seen = net.backend.kernels, []

    class Recorder(kernels.Stepper):  # type: ignore[misc, name-defined]
        def run(self, order: Any, numbers: Any) -> Any:
            seen.extend(np.asarray(order).tolist())
            return super().run(order, numbers)

    start = net.backend.asnumpy(net.parameters.flat).copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "Stepper", Recorder)
        net.fit(np.zeros((50, 64)), np.zeros(50, int), epochs=3, batch_size=7, learning_rate=0.1)
    return start, seen


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("init", sorted(INITIALISERS))
def test_same_seed_same_start_and_order_everywhere(
    init: str, dtype: str, backend: gpubp.Backend
) -> None:
    here, there = start_and_orders(backend, dtype, init), start_and_orders("cpu", "float64", init)
    np.testing.assert_array_equal(here[0], there[0].astype(dtype))
    assert here[1] == there[1]
    epochs = [here[1][i : i + 50] for i in (0, 50, 100)]
    assert [sorted(order) for order in epochs] == [list(range(50))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
