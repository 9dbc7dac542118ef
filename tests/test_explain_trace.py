"""trace, the demon, sums over paths and the matrix form, against the equations and each other."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import book_backprop, complex_step, legal_pairs, normwise, pair_id

import gpubp
from gpubp import explain
from gpubp.explain import pathsum

RNG = np.random.default_rng(3)
X, LABELS = RNG.random((5, 4)), RNG.integers(0, 3, 5)


def network(backend: Any = "reference", **kwargs: Any) -> gpubp.Network:
    kwargs = {"sizes": [4, 6, 5, 3], "rng": 1, "dtype": "float64", "init": "normal"} | kwargs
    return gpubp.Network(backend=backend, **kwargs)


def json_of(result: Any) -> Any:
    """to_dict is what strict JSON can hold."""
    return json.loads(json.dumps(result.to_dict(), allow_nan=False))


# trace


def test_trace_is_the_books_per_example(backend: gpubp.Backend) -> None:
    net = network(backend)
    t = net.trace(X, LABELS)
    y = np.eye(3)[LABELS]
    w = [net.backend.asnumpy(v) for v in net.weights]
    b = [net.backend.asnumpy(v)[:, None] for v in net.biases]
    for i in range(len(X)):
        nabla_w, nabla_b = book_backprop(w, b, "sigmoid", "quadratic", X[i][:, None], y[i][:, None])
        for layer, book_w, book_b in zip(t.layers, nabla_w, nabla_b, strict=True):
            assert normwise(layer.nabla_w[i], book_w) <= 1e-13
            assert normwise(layer.nabla_b[i], book_b[:, 0]) <= 1e-13
    assert normwise(t.grad_a, t[4].a - y) <= 1e-15
    assert normwise(t.cost, 0.5 * ((t[4].a - y) ** 2).sum(axis=1)) <= 1e-14
    for layer in t.layers:
        assert normwise(layer.a, 1 / (1 + np.exp(-layer.z))) <= 1e-14
        assert normwise(layer.sigma_prime, layer.a * (1 - layer.a)) <= 1e-14
    assert t[2].a_in.shape == (5, 4)
    np.testing.assert_array_equal(t[3].a_in, t[2].a)


def test_trace_says_which_equation_made_what() -> None:
    net = network(cost="cross_entropy", dtype="float32", backend="cpu")
    t = net.trace(X, LABELS)
    text = repr(t)
    assert "BP1: delta^4 = a^4 - y (sigmoid with cross_entropy: sigma' cancels)" in text
    assert "BP2: delta^2 = ((w^3)^T delta^3) (x) sigma'(z^2)" in text
    assert "BP3: dC/db^3 = delta^3" in text
    assert "BP4: dC/dw^4 = delta^4 (a^3)^T" in text
    assert all(line == line.rstrip() for line in text.splitlines())
    names = {f.name for f in dataclasses.fields(t[2])} | {"nabla_b", "nabla_w"}
    assert set(t[2].equations) <= names
    with pytest.raises(dataclasses.FrozenInstanceError):
        t.x = X  # type: ignore[misc]
    with pytest.raises(IndexError, match="from 2 to 4"):
        t[1]
    assert "BP1: delta^4 = grad_a C (x) sigma'(z^4)" in repr(network().trace(X, LABELS))


def test_names_and_formulas_of_ones_own(tmp_path: Path) -> None:
    """A name or formula that mathematics would choke on is shown as it stands."""
    odd = gpubp.define_activation("cost_in_$_", "z/(1 + abs(z))")
    net = network(activation=[odd, "where(z < 0, 0.1*z, z**2)", "sigmoid"])
    net.weights[2][0, 0] = np.inf  # what has overflowed can still be looked at
    t = net.trace(X, LABELS)
    assert "a^3 = sigma(z^3), sigma(z) = where(z < 0, 0.1*z, z**2)" in repr(t)
    t.plot(tmp_path / "own.png")


def test_trace_of_softmax_has_no_sigma_prime() -> None:
    net = network(activation=["tanh", "relu", "softmax"], cost="log_likelihood")
    t = net.trace(X, LABELS)
    assert t[4].sigma_prime is None
    assert normwise(t[4].delta, t[4].a - np.eye(3)[LABELS]) <= 1e-14
    assert json_of(t)["layers"][2]["sigma_prime"] is None


def test_trace_as_json() -> None:
    t = network().trace(X, LABELS)
    found = json_of(t)
    np.testing.assert_array_equal(found["layers"][1]["nabla_w"], t[3].nabla_w)
    np.testing.assert_array_equal(found["layers"][0]["a_in"], X)
    assert found["layers"][0]["equations"]["z"] == "z^2 = w^2 a^1 + b^2"


# the demon


@pytest.mark.parametrize("layer", [2, 3, 4])
def test_demons_error_shrinks_quadratically(backend: gpubp.Backend, layer: int) -> None:
    net = network(backend)
    g = net.backprop(X, LABELS)
    for neuron in range(net.sizes[layer - 1]):
        found = explain.perturb_input(net, X, LABELS, layer, neuron)
        rate = float(g.delta[layer - 2][:, neuron].mean())
        assert abs(found.rate - rate) <= 1e-13
        assert abs(found.order - 2) <= 0.1, found
        assert np.all(np.abs(found.error) <= 0.5 * found.step**2)
        np.testing.assert_array_equal(found.prediction, found.rate * found.step)
        np.testing.assert_array_equal(found.step, 0.1 / 2.0 ** np.arange(10))


def test_demon_on_a_weight() -> None:
    net = network(dtype="float32")  # computed in float64 all the same
    g = net.backprop(X, LABELS)
    for layer, j, k in ((2, 5, 3), (3, 0, 0), (4, 2, 4)):
        found = explain.perturb_weight(net, X, LABELS, layer, j, k, dw=0.05)
        assert abs(found.rate - g.nabla_w[layer - 2][j, k]) <= 1e-6
        assert abs(found.order - 2) <= 0.1, found
        # the real change is that of the network with this weight moved
        moved, before = network(), network()
        for one, other in ((moved, net), (before, net)):
            one.parameters.flat[:] = other.parameters.flat
        moved.weights[layer - 2][j, k] += 0.05
        change = moved.evaluate(X, LABELS).cost - before.evaluate(X, LABELS).cost
        assert abs(found.change[0] - change) <= 1e-7  # x was read as float32


def test_a_wrong_rate_shows_as_order_one(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    right = explain.double.Double.backprop

    def wrong(self: Any) -> Any:
        g = right(self)
        g.delta[0] *= 1.5
        return g

    monkeypatch.setattr(explain.double.Double, "backprop", wrong)
    assert abs(explain.perturb_input(net, X, LABELS, 2, 0).order - 1) <= 0.1


def test_where_the_cost_is_linear_the_prediction_is_exact() -> None:
    net = network(activation="identity", cost=gpubp.define_cost("line", "3*a - 3*y"))
    found = explain.perturb_input(net, X, LABELS, 2, 1, dz=[0.5, -0.25, 2.0])
    assert math.isnan(found.order)
    assert "linear here" in repr(found)
    assert np.abs(found.error).max() <= 1e-12
    assert json_of(found)["order"] is None
    np.testing.assert_array_equal(found.step, [0.5, -0.25, 2.0])


# paths

DEEP = [3, 4, 3, 5, 4, 2]


@pytest.mark.parametrize("method", ["enumerate", "matrix"])
@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("seed", range(4))
def test_paths_add_up_to_the_gradient(seed: int, m: int, method: str) -> None:
    rng = np.random.default_rng(seed)
    activation = ["sigmoid", "tanh", "softplus", "silu", "sigmoid"]
    net = gpubp.Network(DEEP, activation=activation, rng=seed, dtype="float64", init="glorot",
                        backend=("reference", "cpu")[seed % 2])  # fmt: skip
    x, y = rng.random((m, 3)), np.eye(2)[rng.integers(0, 2, m)]
    truth = complex_step(net, x, y)[0]  # not BP4's, the cost's own slope
    for i, nabla in enumerate(truth):
        for _ in range(4):
            j, k = int(rng.integers(nabla.shape[0])), int(rng.integers(nabla.shape[1]))
            found = explain.paths(net, x, y, i + 2, j, k, method=method)
            assert found.count == math.prod(DEEP[i + 2 :])
            assert abs(found.total - nabla[j, k]) <= 1e-12 * np.abs(nabla).max()
            assert abs(found.nabla_w - nabla[j, k]) <= 1e-12 * np.abs(nabla).max()
            assert found.error <= 1e-10


@pytest.mark.parametrize(("output", "cost"), legal_pairs(), ids=pair_id)
def test_paths_and_matrices_for_every_output(output: Any, cost: Any) -> None:
    net = network(activation=["tanh", "sigmoid", output], cost=cost, init="glorot")
    g = net.backprop(X, LABELS)
    for i, j, k in ((0, 1, 2), (1, 3, 1), (2, 2, 4)):
        found = explain.paths(net, X, LABELS, i + 2, j, k)
        scale = np.abs(g.nabla_w[i]).max()
        assert abs(found.total - g.nabla_w[i][j, k]) <= 1e-12 * max(scale, 1e-300)
    form = explain.matrix_form(net, X, LABELS, repeats=1)
    for delta, bp2 in zip(form.delta, g.delta, strict=True):
        assert normwise(delta, bp2) <= 1e-13
    assert max(form.errors) <= 1e-13


def test_saturated_outputs_overflow_nothing() -> None:
    net = network(cost="cross_entropy", init="normal")
    net.biases[-1] = [40.0, -800.0, 60.0]  # sigma' is 0 and dC/da infinite or nearly so
    g = net.backprop(X, LABELS)
    found = explain.paths(net, X, LABELS, 3, 1, 2)
    assert abs(found.total - g.nabla_w[1][1, 2]) <= 1e-13
    assert max(explain.matrix_form(net, X, LABELS).errors) <= 1e-13


@pytest.mark.parametrize("seed", range(3))
def test_strongest_paths_are_the_strongest_in_either_way(seed: int) -> None:
    net = gpubp.Network([3, 5, 4, 6, 3], activation="tanh", rng=seed, dtype="float64")
    x, y = X[:1, :3], LABELS[:1]
    every = explain.paths(net, x, y, 2, 1, 2, strongest=10**6)
    rates = [path.rate for path in every.strongest]
    assert len(rates) == every.count == 72
    assert len({path.neurons for path in every.strongest}) == 72
    assert math.isclose(math.fsum(rates), every.total, rel_tol=1e-12)
    assert rates == sorted(rates, key=abs, reverse=True)
    factors = explain.rate_factors(net, x)
    g = net.backprop(x, y)
    for path in every.strongest[:9]:
        q, r, s, t = path.neurons
        assert q == 1
        rate = (1 - g.a[0][0, 1] ** 2) * x[0, 2]  # da^2_1/dw^2_12
        rate *= factors[1][0, r, q] * factors[2][0, s, r] * factors[3][0, t, s]
        rate *= g.a[-1][0, t] - np.eye(3)[y[0], t]
        assert math.isclose(path.rate, rate, rel_tol=1e-12)
    best = explain.paths(net, x, y, 2, 1, 2, strongest=9, method="matrix")
    assert [p.neurons for p in best.strongest] == [p.neurons for p in every.strongest[:9]]
    assert "enumerated" in repr(every)
    assert json_of(best)["strongest"][0]["neurons"] == list(best.strongest[0].neurons)


def test_rate_factors_are_slopes() -> None:
    """da^l_j/da^{l-1}_k by the complex step on the layer's own input, softmax included."""
    net = network(activation=["gelu", "sigmoid", "softmax"], cost="log_likelihood")
    factors = explain.rate_factors(net, X)
    t = net.trace(X, LABELS)
    for i, sigma in enumerate(net.activations):
        for k in range(net.sizes[i]):
            a = t[i + 2].a_in.astype(complex)
            a[:, k] += 1e-30j
            stepped = sigma(np, a @ net.weights[i].T + net.biases[i])
            assert normwise(factors[i][:, :, k], stepped.imag / 1e-30) <= 1e-13
        assert factors[i].shape == (5, net.sizes[i + 1], net.sizes[i])


def test_too_many_paths_are_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    net = gpubp.Network([4, 30, 101, 100, 100], rng=0, backend="reference", dtype="float64")
    x, y = X[:1], LABELS[:1]
    with pytest.raises(ValueError, match=r"1,010,000 paths .* method='matrix'"):
        explain.paths(net, x, y, 2, 0, 0)
    found = explain.paths(net, x, y, 2, 0, 0, method="matrix")
    assert found.error <= 1e-10
    assert len(found.strongest) == 10
    monkeypatch.setattr(pathsum, "MAX_FACTORS", 100)
    with pytest.raises(ValueError, match="fewer rows"):
        explain.rate_factors(net, x)


# the matrix form


def test_matrix_form_is_what_it_says() -> None:
    net = network()
    form = explain.matrix_form(net, X, LABELS)
    g = net.backprop(X, LABELS)
    primes = [np.diag(a[0] * (1 - a[0])) for a in g.a]
    w = net.weights
    by_hand = primes[0] @ w[1].T @ primes[1] @ w[2].T @ primes[2]
    assert normwise(form.products[0][0], by_hand) <= 1e-14
    assert normwise(by_hand @ form.grad_a[0], g.delta[0][0]) <= 1e-14
    assert normwise(form.sigma_primes[1][0], primes[1]) <= 1e-14
    assert (form.matrix_products, form.hadamard_products) == (5 * (36 + 25 + 9), 5 * (6 + 5 + 3))
    assert min(form.matrix_seconds, form.hadamard_seconds) > 0
    assert "times as long" in repr(form)
    assert len(json_of(form)["delta"]) == 3


def test_matrices_too_large_are_refused() -> None:
    net = gpubp.Network([2, 9000, 2], rng=0)
    with pytest.raises(ValueError, match="fewer rows"):
        explain.matrix_form(net, X[:, :2], LABELS % 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda net: explain.perturb_input(net, X, LABELS, 1, 0), "from 2 to 4"),
        (lambda net: explain.perturb_input(net, X, LABELS, 5, 0), "from 2 to 4"),
        (lambda net: explain.perturb_input(net, X, LABELS, 2, 6), "neuron=6 .* from 0 to 5"),
        (lambda net: explain.perturb_input(net, X, LABELS, 2, -1), "at least 0"),
        (lambda net: explain.perturb_input(net, X, LABELS, 2, 0, 0.0), "other than 0"),
        (lambda net: explain.perturb_input(net, X, LABELS, 2, 0, []), "other than 0"),
        (lambda net: explain.perturb_weight(net, X, LABELS, 3, 0, 6), "k=6 is not in layer 2"),
        (lambda net: explain.perturb_weight(net, X, LABELS, 3, 0, 0, np.nan), "dw=nan"),
        (lambda net: explain.paths(net, X, LABELS, 3, 5, 0), "j=5 is not in layer 3"),
        (lambda net: explain.paths(net, X, LABELS, 3, 0, 0, method="walk"), "unknown method"),
        (lambda net: net.trace(X[0], LABELS), "2-D"),
        (lambda net: net.trace(X, LABELS).plot(example=5), "0 to 4"),
    ],
)
def test_refusals_are_one_sentence(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call(network())
    assert "\n" not in str(caught.value)


# pictures


def drawn() -> dict[str, Any]:
    net = network(activation=["sigmoid", "relu", "softmax"], cost="log_likelihood")
    return {
        "trace": net.trace(X, LABELS),
        "demon": explain.perturb_input(net, X, LABELS, 2, 1),
        "paths": explain.paths(net, X, LABELS, 2, 1, 1),
        "health": net.health(X, LABELS),
        "health without y": net.health(X),
    }


@pytest.mark.parametrize("name", drawn())
def test_pictures_are_whole(name: str, tmp_path: Path) -> None:
    """All that is drawn, labels and ticks too, lies within the picture, and the file is a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = tmp_path / "picture.png"
    figure = drawn()[name].plot(file)
    assert file.read_bytes().startswith(b"\x89PNG")
    box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    width, height = figure.get_size_inches()
    assert -0.01 <= box.x0 <= box.x1 <= width + 0.01
    assert -0.01 <= box.y0 <= box.y1 <= height + 0.01
    assert box.width >= 0.8 * width  # and fills it


def test_pictures_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ValueError, match=r"need matplotlib: pip install 'gpubp\[plot\]'"):
        network().trace(X, LABELS).plot()


def test_wide_layers_are_drawn_in_part(tmp_path: Path) -> None:
    net = gpubp.Network([50, 60, 12, 1], rng=0)
    x = RNG.random((2, 50))
    y = np.array([[0.0], [1.0]])
    figure = explain.paths(net, x, y, 2, 59, 49).plot(tmp_path / "p.svg")
    words = [t.get_text() for t in figure.axes[0].texts]
    assert "49" in words
    assert any("of 60" in word for word in words)
    net.trace(x, y).plot(tmp_path / "t.pdf", example=1)


def test_a_layers_arrays_are_asked_of_the_layer() -> None:
    net = gpubp.Network([3, 4, 2], rng=0)
    found = net.trace(np.ones((1, 3)), [1])
    with pytest.raises(AttributeError, match=r"trace\[2\]\.delta is layer 2's, trace\[3\]\.delta"):
        _ = found.delta
    with pytest.raises(AttributeError, match="a trace has no 'loss'"):
        _ = found.loss
    assert copy.copy(found)[2].delta.shape == (1, 4)
