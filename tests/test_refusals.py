"""How bad networks, data and settings are answered: with one sentence each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import schedule
from gpubp.callbacks import Callback, as_callbacks
from gpubp.errors import unknown
from gpubp.optimizer import SGD, Update
from gpubp.schedule import Cosine, OneCycle, ReduceOnPlateau, as_schedule

RNG = np.random.default_rng(11)
X = RNG.random((23, 4))
LABELS = RNG.integers(0, 3, 23)


def network(**kwargs: Any) -> gpubp.Network:
    return gpubp.Network(**{"sizes": [4, 6, 3], "rng": 0} | kwargs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": [4]}, "at least an input and an output"),
        ({"sizes": []}, "at least an input and an output"),
        ({"sizes": 4}, "must be a list"),
        ({"sizes": [4, 0, 3]}, "sizes[1]=0"),
        ({"sizes": [4, 2.5, 3]}, "sizes[1]=2.5"),
        ({"sizes": [4, -2, 3]}, "sizes[1]=-2"),
        ({"activation": "sigmiod"}, "did you mean 'sigmoid'"),
        ({"activation": ["relu"]}, "1 activations for 2 layers"),
        ({"activation": 3}, "an activation is a name, a formula in z or an Activation, not 3"),
        ({"activation": None}, "not None"),
        ({"activation": np.tanh}, "not <ufunc 'tanh'>"),
        ({"activation": "ReLU"}, "did you mean 'relu'"),
        ({"activation": "leaky-relu"}, "did you mean 'leaky_relu'"),
        ({"activation": ""}, "unknown activation ''"),
        ({"activation": [3, "relu"]}, "an activation is a name"),
        ({"activation": "import os"}, ""),
        ({"activation": "__import__('os')"}, ""),
        ({"activation": "softmax"}, "softmax in a hidden layer"),
        ({"activation": ["softmax", "sigmoid"]}, "softmax in a hidden layer"),
        ({"activation": ["relu", "softmax"]}, "cost='log_likelihood'"),
        ({"activation": ["relu", "softmax"], "cost": "cross_entropy"}, "log_likelihood"),
        ({"activation": "relu", "cost": "cross_entropy"}, "'sigmoid'"),
        ({"activation": "tanh", "cost": "log_likelihood"}, "'softmax'"),
        ({"cost": "quadratik"}, "did you mean 'quadratic'"),
        ({"cost": "cross-entropy"}, "unknown cost 'cross-entropy': did you mean 'cross_entropy'"),
        ({"cost": "Cross Entropy"}, "did you mean 'cross_entropy'"),
        ({"cost": 3}, "a cost is a name"),
        ({"init": "xavier"}, "unknown initialiser 'xavier': did you mean 'glorot'"),
        ({"init": "kaiming_normal"}, "did you mean 'he'"),
        ({"init": "lecun_normal"}, "did you mean 'lecun'"),
        ({"init": "uniform"}, "unknown initialiser"),
        ({"init": [1]}, "unknown initialiser [1]"),
        ({"init": lambda rng, n_out, n_in: np.zeros((n_out, n_in))}, "init must return two arrays"),
        ({"init": lambda rng, n_out, n_in: ([[math.nan]], [0])}, "w of init holds NaN"),
        ({"init": lambda rng, n_out, n_in: ([[0]], None)}, "b of init holds object"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"dtype": "flaot32"}, "dtype='flaot32'"),
        ({"dtype": None}, "dtype=None must be 'float32' or 'float64'"),
        ({"precision": "tf32"}, "precision='tf32'"),
        ({"rng": -1}, "rng=-1"),
        ({"rng": "seed"}, "rng='seed'"),
        ({"rng": True}, "rng=True must be a non-negative int"),
        ({"rng": np.True_}, "must be a non-negative int"),
        ({"backend": "cdua"}, "did you mean 'cuda'"),
        ({"backend": "CPU"}, "did you mean 'cpu'"),
        ({"backend": "gpu"}, "unknown backend 'gpu': did you mean 'cuda'?"),
        ({"backend": "GPU:0"}, "unknown backend 'GPU:0': did you mean 'cuda'?"),
        ({"backend": "gpu:1"}, "did you mean 'cuda:1'?"),
        ({"backend": "gpu2"}, "did you mean 'cuda:2'?"),
        ({"backend": "nvidia"}, "did you mean 'cuda'?"),
        ({"backend": "cupy"}, "did you mean 'cuda'?"),
        ({"backend": "numba"}, "did you mean 'cpu'?"),
        ({"backend": "NumPy"}, "did you mean 'reference'?"),
        ({"backend": "cuda0"}, "did you mean 'cuda'?"),
        ({"backend": "cpu:0"}, "did you mean 'cpu'?"),
        ({"backend": "quantum"}, "choose one of cpu, cuda, reference"),
        ({"backend": ""}, "choose one of cpu, cuda, reference"),
        ({"backend": "gpu٣"}, "unknown backend"),
        ({"backend": "7"}, "choose one of cpu, cuda, reference"),
        ({"cost": "hinge"}, "use 'max(0, 1 - a*y)' with targets -1 and 1, n times theirs"),
        ({"cost": "huber_loss"}, "use 'huber', n times theirs"),
        ({"cost": "sum_of_squares"}, "did you mean 'sum_squares'"),
        ({"activation": "linear"}, "did you mean 'identity'"),
        ({"activation": "logistic"}, "did you mean 'sigmoid'"),
        ({"activation": "Swish"}, "did you mean 'silu'"),
        ({"activation": "ReLU6"}, "use the formula 'min(max(z, 0), 6)'"),
    ],
)
def test_bad_networks_get_one_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        network(**change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def _mean_over_outputs(c: Any) -> Any:
    return lambda a, y: c(a, y).mean(axis=1).mean()


# The costs that other libraries compute of a, y (m, n), by name, and ours with its factor.
FOREIGN = {
    "mse MSELoss mean_squared_error squared_error mse_loss": (
        _mean_over_outputs(lambda a, y: (a - y) ** 2),
        {"'quadratic'": 3 / 2, "'sum_squares'": 3},
        "n/2 times theirs, the mean over n outputs",
    ),
    "binary_crossentropy bce BCELoss binary_cross_entropy": (
        _mean_over_outputs(lambda a, y: -y * np.log(a) - (1 - y) * np.log(1 - a)),
        {"'cross_entropy'": 3},
        "n times theirs, the mean over n outputs: divide the learning rate by n",
    ),
    "categorical_crossentropy sparse_categorical_crossentropy nll NLLLoss CrossEntropyLoss": (
        lambda a, y: -(y * np.log(a)).sum(axis=1).mean(),
        {"'log_likelihood'": 1},
        "'softmax' as the last activation, which is scaled as theirs",
    ),
    "l1 mae mean_absolute_error L1Loss": (
        _mean_over_outputs(lambda a, y: abs(a - y)),
        {"'abs(a - y)'": 3},
        "n times theirs",
    ),
}


@pytest.mark.parametrize("names", FOREIGN, ids=lambda names: names.split()[0])
def test_costs_under_other_libraries_names_point_to_ours_and_its_scale(names: str) -> None:
    theirs, ours, words = FOREIGN[names]
    for name in names.split():
        with pytest.raises(ValueError, match=f"unknown cost '{name}': use ") as caught:
            network(cost=name)
        assert words in str(caught.value)
    y = np.eye(3)[LABELS]
    for name, factor in ours.items():
        assert name in str(caught.value)
        soft = {"activation": "softmax"} if name == "'log_likelihood'" else {}
        net = gpubp.Network([4, 3], cost=name.strip("'"), rng=0, dtype="float64", **soft)
        expected = factor * theirs(net.feedforward(X), y)
        assert net.evaluate(X, y).cost == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X[0], LABELS[:1], "pass x[None, :]"),
        (X.reshape(23, 2, 2), LABELS, "x.reshape(len(x), -1)"),
        (X[:, :3], LABELS, "x has 3 values an example"),
        (X[:0], LABELS[:0], "no examples"),
        (np.full((2, 4), np.nan), [0, 1], "NaN or infinity, first in row 0"),
        (np.where(np.arange(23)[:, None] == 5, np.inf, X), LABELS, "first in row 5"),
        (np.full((2, 4), 1e300), [0, 1], "x as float32 holds NaN or infinity"),
        (X.astype(object), LABELS, "holds object"),
        (X.astype(complex), LABELS, "holds complex128"),
        ([["a", "b", "c", "d"]], [0], "not numbers"),
        ([[1, 2, 3, 4], [1, 2]], [0, 1], "does not form an array"),
        (X, LABELS[:5], "y holds 5 examples, but x holds 23"),
        (X, 3, "y is a single number: pass an array, [y] for one example"),
        (X, LABELS[:, None], "pass y.ravel() for labels"),
        (X, LABELS + 1, "label 3"),
        (X, LABELS - 1, "label -1"),
        (X, LABELS.astype(float), "labels must be integers"),
        (X, np.zeros((23, 4)), "targets (23, 3)"),
        (X, np.zeros((23, 3, 1)), "targets (23, 3)"),
        (X, np.full((23, 3), np.nan), "y holds NaN"),
    ],
)
def test_bad_data_gets_one_sentence(x: Any, y: Any, words: str) -> None:
    net = network()
    for ask in (net.backprop, net.evaluate, lambda x, y: net.fit(
        x, y, epochs=1, batch_size=1, learning_rate=1.0
    )):  # fmt: skip
        with pytest.raises((ValueError, TypeError)) as caught:
            ask(x, y)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_sparse_input_is_answered() -> None:
    from scipy.sparse import csr_matrix

    with pytest.raises(TypeError, match=r"^y is a sparse matrix: only x may be; pass y\.toarray"):
        network().backprop(X, csr_matrix(X))
    with pytest.raises(ValueError, match="x has 5 values an example"):
        network().predict(csr_matrix(np.ones((2, 5))))
    holes = csr_matrix(X)
    holes.data[-1] = np.inf
    with pytest.raises(ValueError, match=rf"x holds NaN or infinity .* in row {len(X) - 1}:"):
        network().predict(holes)
    broken = csr_matrix(X)
    broken.indices[0] = 99
    with pytest.raises(ValueError, match="x is not a valid CSR matrix"):
        network().predict(broken)
    with pytest.raises(TypeError, match="x holds complex"):
        network().predict(csr_matrix(X * 1j))


def test_a_tensor_with_gradient_is_answered() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.raises(ValueError, match=r"^x does not form an array: pass x.detach\(\)$"):
        network().feedforward(torch.tensor(X, requires_grad=True))


@pytest.mark.parametrize("cost", ["cross_entropy", "log_likelihood"])
def test_targets_of_probabilities_lie_in_the_unit_interval(cost: str) -> None:
    net = gpubp.Network([4, 1], cost=cost, rng=0)
    for y, target in ((LABELS, "2"), (LABELS - 1, "-1"), (LABELS / 2 + 0.5, "1.5")):
        for ask in (net.backprop, net.evaluate):
            with pytest.raises(
                ValueError,
                match=rf"y holds the target {target}, first in row \d+, but cost '{cost}'",
            ):
                ask(X, y)
    net.evaluate(X, LABELS / 2)
    gpubp.Network([4, 1], rng=0).evaluate(X, LABELS)  # the quadratic cost takes any target


def test_layers_are_assigned_one_at_a_time() -> None:
    net = network()
    with pytest.raises(TypeError, match=r"one layer at a time: weights\[i\] = array"):
        net.weights[0:1] = [np.zeros((6, 4))]
    with pytest.raises(AttributeError, match=r"one layer at a time: biases\[i\] = array"):
        net.biases = [np.zeros(6), np.zeros(3)]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGD(momentum="a"), "momentum='a' must be a number"),
        (lambda: SGD(momentum=True), "momentum=True must be a number"),
        (lambda: Update(l2=np.True_), "must be a number"),
        (lambda: SGD(momentum="0.9"), "momentum='0.9' must be a number"),
        (lambda: Update(l2=None), "l2=None must be a number"),
        (lambda: as_schedule(Cosine), "schedule.Cosine'> must be a finite number above 0"),
        (lambda: as_schedule(lambda epoch: "x").rate(2, gpubp.History()), "learning_rate(2)='x'"),
        (lambda: ReduceOnPlateau(1.0, minimum=2.0), "minimum=2.0 must lie between 0 and initial"),
        (lambda: ReduceOnPlateau(1.0, patience=2.5), "patience=2.5 must be an integer"),
        (lambda: gpubp.EarlyStopping(patience=2.5), "patience=2.5 must be an integer"),
        (lambda: gpubp.EarlyStopping(min_delta="a"), "min_delta='a' must be a number"),
        (lambda: Cosine("fast", 3), "initial='fast' must be a number"),
        (lambda: OneCycle(1.0, 3, per_epoch=1.5), "per_epoch=1.5 must be an integer"),
        (lambda: ReduceOnPlateau(1.0).check(validated=False), "no validation_cost to watch"),
        (lambda: gpubp.EarlyStopping().check(validated=False), "pass validation=(x, labels)"),
        (lambda: as_callbacks(None), "callbacks=None must be a list of callbacks"),
        (lambda: as_callbacks(gpubp.EarlyStopping()), "must be a list of callbacks"),
        (lambda: as_callbacks([gpubp.EarlyStopping]), "a callback is a gpubp.Callback object or a"),
        (lambda: as_callbacks([3]), "or a function, not 3"),
    ],
)
def test_bad_settings_get_one_sentence(make: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_needs_no_validation_is_not_asked_for_it() -> None:
    for watcher in (
        Callback(), as_schedule(0.1), gpubp.EarlyStopping(monitor="cost"),
        ReduceOnPlateau(1.0, monitor="cost"),
    ):  # fmt: skip
        watcher.check(validated=False)
    gpubp.EarlyStopping(monitor="validation_accuracy").check(validated=True)


def test_callbacks_of_other_kinds() -> None:
    class Watcher:
        seen: Any = None

        def on_resume(self, training: Any) -> None:
            self.seen = training

    watcher, epochs = Watcher(), []
    one, two = as_callbacks((watcher, epochs.append))
    for callback in (one, two):
        callback.on_resume("run")  # type: ignore[arg-type]
        callback.on_epoch("epoch")  # type: ignore[arg-type]
    assert watcher.seen == "run"
    assert epochs == ["epoch"]


def test_a_learning_rate_function_is_asked_once_an_epoch() -> None:
    asked: list[int] = []

    def rate(epoch: int) -> float:
        asked.append(epoch)
        return 0.1

    network().fit(X, LABELS, epochs=3, batch_size=2, learning_rate=rate)
    assert asked == [0, 1, 2]
    assert isinstance(as_schedule(np.float32(0.5)), schedule.Constant)


def test_slices_of_the_history_are_histories() -> None:
    history = network().fit(X, LABELS, epochs=3, batch_size=5, learning_rate=0.1)
    assert history[-2:].cost == history.cost[1:]
    assert history[-1].cost == history.cost[-1]


def test_unknown_names_the_nearest_as_it_is_written() -> None:
    error = unknown("option", "--LEARNIN RATE", ["--learning-rate", "--epochs"])
    assert str(error).endswith("did you mean '--learning-rate'?")
    assert str(unknown("thing", "zzz", ["b", "a"])).endswith("choose one of a, b")
