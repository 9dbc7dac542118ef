"""What a user can ask of a network."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar

import numpy as np
import pytest
from oracle import flat

import gpubp
from gpubp.cost import output_error
from gpubp.expression import Expression

RNG = np.random.default_rng(11)
X = RNG.random((23, 4))
LABELS = RNG.integers(0, 3, 23)


def network(**kwargs: Any) -> gpubp.Network:
    return gpubp.Network(**{"sizes": [4, 6, 3], "rng": 0} | kwargs)


def test_shapes_and_views() -> None:
    net = network()
    assert [w.shape for w in net.weights] == [(6, 4), (3, 6)]
    assert [b.shape for b in net.biases] == [(6,), (3,)]
    assert len(net.weights) == 2
    assert net.weights[-1] is net.weights[1]
    g = net.backprop(X, LABELS)
    assert [z.shape for z in g.z] == [(23, 6), (23, 3)] == [a.shape for a in g.a]
    assert [d.shape for d in g.delta] == [(23, 6), (23, 3)]
    assert [w.shape for w in g.nabla_w] == [(6, 4), (3, 6)]
    assert [b.shape for b in g.nabla_b] == [(6,), (3,)]
    assert isinstance(g.cost, float)
    assert "cost=" in repr(g)
    assert "[4, 6, 3]" in repr(net)
    np.testing.assert_allclose(net.feedforward(X), g.a[-1], rtol=1e-6)
    net.weights[0][0, 0] = 5.0  # a view: writing to it writes to the network
    assert net.parameters.flat[0] == 5.0


def test_assigning_weights_copies_and_checks() -> None:
    net = network()
    w = np.arange(18.0).reshape(3, 6)
    net.weights[1] = w
    w[:] = 0
    np.testing.assert_array_equal(net.weights[1], np.arange(18.0).reshape(3, 6))
    net.biases[-1] = [1, 2, 3]
    np.testing.assert_array_equal(net.biases[1], [1, 2, 3])
    before = net.parameters.flat.copy()
    with pytest.raises(ValueError, match=r"weights\[1\] has shape \(3, 6\), not \(6, 3\)"):
        net.weights[1] = np.zeros((6, 3))
    with pytest.raises(IndexError):
        net.weights[2] = w
    np.testing.assert_array_equal(net.parameters.flat, before)


def test_same_seed_same_weights_on_every_backend_and_dtype(backend: gpubp.Backend) -> None:
    one = network(backend="reference", dtype="float64")
    for dtype in ("float32", "float64"):
        other = network(backend=backend, dtype=dtype)
        np.testing.assert_array_equal(flat(other), flat(one).astype(dtype))


def test_rng_kinds() -> None:
    seed = np.random.SeedSequence(5)
    one, two = network(rng=np.random.default_rng(seed)), network(rng=seed)
    np.testing.assert_array_equal(flat(one), flat(two))
    assert (network(rng=None).parameters.flat != network(rng=None).parameters.flat).any()


@pytest.mark.parametrize("init", ["normal", "scaled", "glorot", "he", "lecun", "orthogonal"])
def test_initialisers_have_their_moments(init: str) -> None:
    net = gpubp.Network([400, 300, 10], init=init, rng=1, dtype="float64")
    w = net.weights[0]
    spread = {
        "normal": 1, "scaled": 1 / 400, "glorot": 2 / 700, "he": 2 / 400, "lecun": 1 / 400,
        "orthogonal": 1 / 400,
    }[init]  # fmt: skip
    assert abs(w.var() / spread - 1) <= 0.02
    assert abs(w.mean()) <= 5 * np.sqrt(spread / w.size)
    zero_biases = init not in ("normal", "scaled")
    assert (net.biases[0] == 0).all() == zero_biases
    if init == "orthogonal":
        np.testing.assert_allclose(w @ w.T, np.eye(300), atol=1e-12)


def test_initialiser_callable() -> None:
    net = network(init=lambda rng, n_out, n_in: (np.full((n_out, n_in), 0.5), np.zeros(n_out)))
    assert (net.weights[1] == 0.5).all()
    with pytest.raises(ValueError, match=r"weights\[0\] has shape"):
        network(init=lambda rng, n_out, n_in: (np.zeros((n_in, n_out)), np.zeros(n_out)))


def test_uint8_is_read_as_intensity(backend: gpubp.Backend) -> None:
    x = RNG.integers(0, 256, (23, 4), dtype=np.uint8)
    net, same = network(backend=backend), network(backend=backend)
    np.testing.assert_allclose(
        *(backend.asnumpy(net.feedforward(u)) for u in (x, x / 255)), rtol=1e-6
    )
    net.fit(x, LABELS, epochs=2, batch_size=5, learning_rate=1.0)
    same.fit((x / 255).astype("float32"), LABELS, epochs=2, batch_size=5, learning_rate=1.0)
    np.testing.assert_allclose(flat(net), flat(same), rtol=1e-5, atol=1e-6)


def test_labels_equal_unit_vectors(backend: gpubp.Backend) -> None:
    net, same = network(backend=backend), network(backend=backend)
    net.fit(X, LABELS, epochs=2, batch_size=5, learning_rate=1.0)
    same.fit(X, np.eye(3)[LABELS], epochs=2, batch_size=5, learning_rate=1.0)
    np.testing.assert_array_equal(flat(net), flat(same))
    assert net.evaluate(X, LABELS) == net.evaluate(X, np.eye(3)[LABELS])


def test_inputs_of_other_kinds() -> None:
    net = network()
    expected = net.feedforward(X)
    for x in (X.tolist(), np.asfortranarray(X), X.astype(">f8"), np.repeat(X, 2, axis=0)[::2]):
        np.testing.assert_array_equal(net.feedforward(x), expected)
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    np.testing.assert_array_equal(net.feedforward(torch.from_numpy(X)), expected)


class OnlyDLPack:
    """An array that speaks DLPack and nothing else."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class OnGpu:
    __cuda_array_interface__: ClassVar = {"shape": (2, 4)}


def test_dlpack_and_gpu_arrays() -> None:
    net = network()
    np.testing.assert_array_equal(net.feedforward(OnlyDLPack(X)), net.feedforward(X))
    with pytest.raises(TypeError, match="lives on a GPU"):
        net.feedforward(OnGpu())


def test_predictions() -> None:
    net = network()
    a = net.feedforward(X)
    np.testing.assert_array_equal(net.predict(X), a.argmax(axis=1))
    assert net.predict(X).dtype == np.int64
    np.testing.assert_allclose(net.predict_proba(X), a / a.sum(1, keepdims=True), rtol=1e-5)
    soft = network(activation=["tanh", "softmax"], cost="log_likelihood")
    np.testing.assert_allclose(soft.predict_proba(X).sum(axis=1), 1, rtol=1e-6)
    one = gpubp.Network([4, 1], rng=0)
    np.testing.assert_array_equal(one.predict(X), one.feedforward(X)[:, 0] > 0.5)
    np.testing.assert_allclose(one.predict_proba(X).sum(axis=1), 1, rtol=1e-6)
    saturated = network()
    saturated.biases[1] = [-1e6] * 3
    np.testing.assert_allclose(saturated.predict_proba(X), 1 / 3, rtol=1e-6)
    with pytest.raises(ValueError, match="predict_proba needs outputs between 0 and 1"):
        network(activation="tanh").predict_proba(X)


def test_probabilities_of_formulas_in_the_unit_interval() -> None:
    logistic = network(activation="1/(1 + exp(-z))")
    np.testing.assert_allclose(logistic.predict_proba(X), network().predict_proba(X), rtol=1e-6)


def test_diverged_weights_show_in_the_cost_without_warnings() -> None:
    for activation, cost in (("relu", "quadratic"), (["relu", "softmax"], "log_likelihood")):
        net = network(activation=activation, cost=cost)
        net.parameters.flat[:] = 1e30
        assert not np.isfinite(net.evaluate(X, LABELS).cost)
        net.predict_proba(X) if "softmax" in activation else net.predict(X)


def test_softmax_cost_of_outputs_further_apart_than_the_range() -> None:
    net = gpubp.Network([1, 2], activation="softmax", cost="log_likelihood", rng=0)
    net.weights[0], net.biases[0] = np.zeros((2, 1)), [3e38, -3e38]
    assert net.evaluate([[0.0]], [0]).cost == 0  # 0 log 0
    assert net.evaluate([[0.0]], [1]).cost == np.inf


def test_evaluate_is_the_mean_over_everything(backend: gpubp.Backend) -> None:
    net = gpubp.Network([784, 300, 10], backend=backend, rng=0)
    x, y = RNG.random((9000, 784), np.float32), RNG.integers(0, 10, 9000)  # several chunks
    evaluation = net.evaluate(x, y)
    a = backend.asnumpy(net.feedforward(x)).astype("float64")
    assert abs(evaluation.cost - 0.5 * ((a - np.eye(10)[y]) ** 2).sum(axis=1).mean()) <= 1e-6
    assert evaluation.accuracy == (a.argmax(axis=1) == y).mean()
    assert "accuracy" in str(evaluation)


def test_accuracy_of_other_targets() -> None:
    net = network()
    assert net.evaluate(X, RNG.random((23, 3))).accuracy is None
    one = gpubp.Network([4, 1], rng=0)
    y = RNG.integers(0, 2, 23)
    assert one.evaluate(X, y).accuracy == (one.predict(X) == y).mean()
    assert one.evaluate(X, RNG.random(23)).accuracy is None
    assert one.evaluate(X, RNG.random(23)[:, None]).accuracy is None


def test_regression_learns() -> None:
    x = RNG.random((200, 2))
    y = np.sin(3 * x[:, 0]) * x[:, 1]
    net = gpubp.Network([2, 20, 1], activation=["tanh", "identity"], rng=0)
    history = net.fit(x, y, epochs=200, batch_size=10, learning_rate=0.1, momentum=0.9)
    assert history.cost[-1] <= 1e-3


def test_formulas_where_names_go() -> None:
    named = network(activation="softsign", cost="quadratic")
    formula = network(activation="z/(1 + abs(z))", cost="0.5*(a - y)**2")
    for net in (named, formula):
        net.fit(X, LABELS, epochs=3, batch_size=4, learning_rate=0.5)
    np.testing.assert_allclose(flat(formula), flat(named), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_defined_activation_and_cost_train(backend: gpubp.Backend, dtype: str) -> None:
    softsign = gpubp.define_activation("my_softsign", "z/(1 + abs(z))")
    student_t = gpubp.define_cost("student_t", "log1p((a - y)*(a - y))")
    net = network(activation=softsign, cost=student_t, backend=backend, dtype=dtype)
    history = net.fit(X, LABELS, epochs=60, batch_size=4, learning_rate=0.3)
    assert history.cost[-1] <= 0.6 * history.cost[0]


def test_long_formulas_are_joined_beyond_the_limits_of_one(backend: gpubp.Backend) -> None:
    long = " + ".join(["0*(" + "+".join("a" * 30) + ")"] * 4)
    sigma = gpubp.define_activation("long", "tanh(z)", f"1 - a*a + {long}")
    cost = gpubp.define_cost("long", "0.5*(a - y)**2 + 0.1*z*z", f"a - y + {long}")
    net = network(activation=sigma, cost=cost, backend=backend, dtype="float64")
    history = net.fit(X, LABELS, epochs=5, batch_size=4, learning_rate=0.1)
    assert history.cost[-1] < history.cost[0]
    error = output_error(sigma, cost)
    assert error.delta is not None
    with pytest.raises(ValueError, match="more than 300 terms"):
        Expression(error.delta.source, error.delta.variables)
    point = {name: RNG.random(5) for name in error.delta.variables}
    parts = cost.grad_a(np, **point) * sigma.sigma_prime(np, z=point["z"], a=point["a"])
    np.testing.assert_allclose(
        error.delta(np, **point), parts + cost.grad_z(np, **point), rtol=1e-12
    )


def test_wrong_derivatives_are_refused() -> None:
    with pytest.raises(ValueError, match=r"derivative|slope") as caught:
        gpubp.define_activation("wrong", "tanh(z)", "1 - a")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"derivative|slope"):
        gpubp.define_cost("wrong", "(a - y)*(a - y)", "a - y")
    gpubp.define_activation("right", "tanh(z)", "1 - a*a")
    with pytest.raises(ValueError, match="built in"):
        gpubp.define_activation("relu", "max(z, 0)")
    with pytest.raises(ValueError, match="built in"):
        gpubp.define_cost("huber", "abs(a - y)")
    with pytest.raises(ValueError, match="names neither a nor z"):
        gpubp.define_cost("constant", "y*y")


def test_pickle_and_copy() -> None:
    net = network(cost="cross_entropy")
    net.fit(X, LABELS, epochs=1, batch_size=4, learning_rate=0.3)
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.feedforward(X), net.feedforward(X))
    for one in (net, again):
        one.fit(X, LABELS, epochs=2, batch_size=4, learning_rate=0.3)
    np.testing.assert_array_equal(flat(again), flat(net))
    np.testing.assert_array_equal(again.weights[0].ravel(), again.parameters.flat[:24])


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_array"])
def test_sparse_x_is_x(kind: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(5)
    x = (rng.integers(0, 256, (50, 12)) * (rng.random((50, 12)) < 0.2)).astype(np.uint8)
    y = rng.integers(0, 4, 50)
    for backend in ("reference", "cpu"):
        nets = [gpubp.Network([12, 9, 4], backend=backend, rng=1) for _ in range(2)]
        for net, given in zip(nets, (x, getattr(sparse, kind)(x)), strict=True):
            net.fit(given, y, epochs=2, batch_size=7, learning_rate=0.5, validation=(given, y))
        np.testing.assert_array_equal(nets[0].parameters.flat, nets[1].parameters.flat)
        costs = [[row.validation_cost for row in net.history] for net in nets]
        assert costs[0] == costs[1]
        np.testing.assert_array_equal(nets[0].predict(x), nets[1].predict(given))
        g, h = nets[0].backprop(x, y), nets[1].backprop(given, y)
        np.testing.assert_array_equal(g.nabla_w[0], h.nabla_w[0])
