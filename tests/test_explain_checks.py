"""gradcheck, check_equations and health: what is wrong is found, and by its right name."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from oracle import host, legal_pairs, pair_id

import gpubp
from gpubp import backprop, explain
from gpubp.activation import Activation
from gpubp.explain import mistakes, vitals
from gpubp.expression import Expression

RNG = np.random.default_rng(5)
X, LABELS = RNG.random((4, 4)), RNG.integers(0, 3, 4)


def network(backend: Any = "reference", **kwargs: Any) -> gpubp.Network:
    kwargs = {"sizes": [4, 6, 5, 3], "rng": 1, "dtype": "float64"} | kwargs
    return gpubp.Network(backend=backend, **kwargs)


# gradcheck


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradcheck_passes_what_is_right(backend: gpubp.Backend, dtype: str) -> None:
    found = network(backend, dtype=dtype).gradcheck(X, LABELS)
    assert found.passed
    assert found.wrong == ()
    assert "all agree" in repr(found)
    assert [check.array for check in found.arrays[:3]] == ["delta^4", "nabla_b^4", "nabla_w^4"]
    assert [check.equation for check in found.arrays] == ["BP1", "BP3", "BP4"] + 2 * [
        "BP2", "BP3", "BP4",
    ]  # fmt: skip
    for check in found.arrays:
        assert check.error <= 1e-13
        assert check.central <= 1e-6
        assert check.own <= (1e-5 if dtype == "float32" else 0)
    assert json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("output", "cost"), legal_pairs(), ids=pair_id)
def test_gradcheck_knows_every_output(output: Any, cost: Any) -> None:
    found = network(activation=["gelu", "softplus", output], cost=cost).gradcheck(X, LABELS)
    assert found.passed, found


def test_gradcheck_of_large_arrays_sees_every_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(sizes=[60, 30, 3])
    x = RNG.random((4, 60))
    found = net.gradcheck(x, LABELS)
    assert found.passed
    assert found.arrays[-1].checked == "20 directions"
    right = backprop.bp4

    def one_entry_off(kernels: Any, delta: Any, a: Any) -> Any:
        nabla = right(kernels, delta, a)
        nabla[7 % len(nabla), 11] *= 1.01
        return nabla

    monkeypatch.setattr(backprop, "bp4", one_entry_off)
    found = net.gradcheck(x, LABELS)
    assert not found.passed
    assert {words.split(" is wrong")[0] for words in found.wrong} == {"BP4"}


def with_kernels(**changed: Any) -> gpubp.Network:
    """A float64 network whose backend has some kernels changed."""
    net = network()
    kernels = net.backend.kernels
    names = ("hadamard_sigma_prime", "outer_sum", "Stepper")
    net.backend = gpubp.Backend(
        "broken", np, SimpleNamespace(**{name: getattr(kernels, name) for name in names} | changed)
    )  # type: ignore[arg-type]
    return net


def blamed(net: gpubp.Network) -> set[tuple[str, int]]:
    found = net.gradcheck(X, LABELS)
    assert not found.passed
    words = [sentence.split(": ")[0].split(" is wrong at layer ") for sentence in found.wrong]
    return {(equation, int(layer)) for equation, layer in words}


def test_gradcheck_blames_the_equation_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sigma_prime(v: Any, z: Any, a: Any, activation: Any) -> Any:
        return v.copy()

    assert blamed(with_kernels(hadamard_sigma_prime=no_sigma_prime)) == {
        ("BP1", 4), ("BP2", 3), ("BP2", 2),
    }  # fmt: skip

    def other_scale(delta: Any, a: Any) -> Any:
        return 2 * delta.T @ a, delta.sum(axis=0)

    assert blamed(with_kernels(outer_sum=other_scale)) == {("BP4", l) for l in (2, 3, 4)}
    nan = with_kernels(outer_sum=lambda delta, a: (np.nan * (delta.T @ a), delta.sum(axis=0)))
    assert blamed(nan) == {("BP4", l) for l in (2, 3, 4)}
    assert json.dumps(nan.gradcheck(X, LABELS).to_dict(), allow_nan=False)

    with monkeypatch.context() as patch:
        right = backprop.bp2
        patch.setattr(
            backprop, "bp2", lambda kernels, w, delta, z, a, sigma: 1.001 * right(
                kernels, w, delta, z, a, sigma)
        )  # fmt: skip
        assert blamed(network()) == {("BP2", 3), ("BP2", 2)}  # BP3, BP4 only pass it on
    with monkeypatch.context() as patch:
        patch.setattr(backprop, "bp3", lambda delta: delta.sum(axis=0))
        assert blamed(network()) == {("BP3", l) for l in (2, 3, 4)}
    with monkeypatch.context() as patch:
        bp1 = backprop.bp1
        patch.setattr(backprop, "bp1", lambda *args: -bp1(*args))
        assert blamed(network()) == {("BP1", 4)}


def test_gradcheck_finds_a_wrong_derivative() -> None:
    wrong = Activation(
        "wrong", Expression("tanh(z)", ("z",)), Expression("1 - a*a + 0.01*z", ("z", "a"))
    )
    assert blamed(network(activation=["sigmoid", wrong, "sigmoid"])) == {("BP2", 3)}


def test_gradcheck_finds_what_only_float32_gets_wrong() -> None:
    def rough(delta: Any, a: Any) -> Any:
        off = 1.001 if delta.dtype == np.float32 else 1.0
        return off * (delta.T @ a), delta.sum(axis=0)

    net = network(dtype="float32")
    kernels = net.backend.kernels
    net.backend = gpubp.Backend("rough", np, SimpleNamespace(
        hadamard_sigma_prime=kernels.hadamard_sigma_prime, outer_sum=rough))  # type: ignore[arg-type]  # fmt: skip
    found = net.gradcheck(X, LABELS)
    assert not found.passed
    assert all("right in float64, but its float32" in words for words in found.wrong)
    assert len(found.wrong) == 3


# check_equations: a learner's functions, written here, not taken from the catalogue


def bp1(L: int, grad_a: Any, z: Any, sigma_prime: Any) -> Any:
    return grad_a * sigma_prime(z[L])


def bp2(l: int, weights: Any, delta: Any, z: Any, sigma_prime: Any) -> Any:
    return delta[l + 1] @ weights[l + 1] * sigma_prime(z[l])


def bp3(l: int, delta: Any) -> Any:
    return delta[l].mean(axis=0)


def bp4(l: int, delta: Any, a: Any) -> Any:
    return delta[l].T @ a[l - 1] / len(a[l - 1])


def test_right_equations_pass_in_rows_and_columns() -> None:
    report = explain.check_equations(bp1=bp1, bp2=bp2, bp3=bp3, bp4=bp4)
    assert report.right
    assert "bp2: right" in repr(report)
    columns = explain.check_equations(
        bp1=bp1,
        bp2=lambda l, w, delta, z, sp: (w[l + 1].T @ delta[l + 1]) * sp(z[l]),
        bp3=lambda l, delta: delta[l].mean(axis=1, keepdims=True),
        bp4=lambda l, delta, a: delta[l] @ a[l - 1].T / delta[l].shape[1],
        layout="columns",
    )
    assert columns.right, columns
    assert explain.check_equations(bp3=lambda l, delta: list(delta[l].mean(axis=0))).right
    single = explain.check_equations(bp4=lambda l, d, a: bp4(l, d, a).astype(np.float32))
    assert single.right


def test_example_by_example_as_in_the_book_passes() -> None:
    def loop(l: int, delta: Any, a: Any) -> Any:
        nabla_w = np.zeros((delta[l].shape[1], a[l - 1].shape[1]))
        for d, a_in in zip(delta[l], a[l - 1], strict=True):
            nabla_w += np.outer(d, a_in)
        return nabla_w / len(delta[l])

    assert explain.check_equations(bp4=loop).right


WRONG: list[tuple[str, Callable[..., Any], list[str]]] = [
    ("bp1", lambda L, g, z, sp: g, ["missing sigma'"]),
    ("bp1", lambda L, g, z, sp: -g * sp(z[L]), ["sign"]),
    ("bp1", lambda L, g, z, sp: 2 * g * sp(z[L]), ["without its 1/2"]),
    ("bp1", lambda L, g, z, sp: g * sp(z[L - 1]), ["wrong layer's z"]),
    ("bp1", lambda L, g, z, sp: g * sp(z[L]) / len(g), ["too early"]),
    ("bp1", lambda L, g, z, sp: g * sp(1 / (1 + np.exp(-z[L]))), ["sigma'(a)"]),
    ("bp1", lambda L, g, z, sp: -2 * g, ["missing sigma'", "without its 1/2", "sign"]),
    ("bp2", lambda l, w, d, z, sp: d[l + 1] @ w[l + 1].T * sp(z[l]), ["transposed w"]),
    ("bp2", lambda l, w, d, z, sp: d[l + 1] @ w[l + 1], ["missing sigma'"]),
    ("bp2", lambda l, w, d, z, sp: d[l + 1] @ w[l + 1] * sp(z[l + 1]), ["wrong layer's z"]),
    ("bp2", lambda l, w, d, z, sp: d[l + 1] @ w[l + 1] * sp(z[l - 1]), ["wrong layer's z"]),
    ("bp2", lambda l, w, d, z, sp: d[l + 1] @ w[l] * sp(z[l]), ["wrong layer's w"]),
    ("bp2", lambda l, w, d, z, sp: d[l] @ w[l + 1] * sp(z[l]), ["wrong layer's delta"]),
    ("bp2", lambda l, w, d, z, sp: d[l + 1] @ w[l + 1] * sp(z[l]) ** 2, ["sigma'(z) twice"]),
    ("bp2", lambda l, w, d, z, sp: d[l + 1] @ w[l + 1] + sp(z[l]), ["added, not multiplied"]),
    ("bp2", lambda l, w, d, z, sp: d[l + 1] @ w[l + 1].T, ["transposed w", "missing sigma'"]),
    ("bp2", lambda l, w, d, z, sp: d[l + 1] @ w[l + 1].T * sp(z[l + 1]) / len(d[l]),
     ["transposed w", "wrong layer's z", "too early"]),
    ("bp3", lambda l, d: d[l].sum(axis=0), ["not averaged"]),
    ("bp3", lambda l, d: 2 * d[l].mean(axis=0), ["summed twice"]),
    ("bp3", lambda l, d: 2 * d[l].sum(axis=0), ["summed twice", "not averaged"]),
    ("bp3", lambda l, d: d[l].mean(axis=0) / len(d[l]), ["averaged twice"]),
    ("bp3", lambda l, d: d[l], ["not summed over the examples"]),
    ("bp3", lambda l, d: d[l].mean(axis=1), ["summed over the neurons"]),
    ("bp3", lambda l, d: d[l + 1].mean(axis=0), ["wrong layer's delta: delta^{l+1}"]),
    ("bp3", lambda l, d: d[l][0], ["the first"]),
    ("bp3", lambda l, d: d[l][-1] / len(d[l]), ["overwritten"]),
    ("bp4", lambda l, d, a: d[l].T @ a[l - 1], ["not averaged"]),
    ("bp4", lambda l, d, a: 2 * d[l].T @ a[l - 1] / len(d[l]), ["summed twice"]),
    ("bp4", lambda l, d, a: a[l - 1].T @ d[l] / len(d[l]), ["transposed"]),
    ("bp4", lambda l, d, a: d[l].T @ a[l] / len(d[l]), ["wrong layer's a: a^l"]),
    ("bp4", lambda l, d, a: d[l].T @ a[l - 2] / len(d[l]), ["wrong layer's a: a^{l-2}"]),
    ("bp4", lambda l, d, a: d[l + 1].T @ a[l - 1] / len(d[l]), ["wrong layer's delta"]),
    ("bp4", lambda l, d, a: np.outer(d[l][-1], a[l - 1][-1]) / len(d[l]), ["overwritten"]),
    ("bp4", lambda l, d, a: -a[l - 1].T @ d[l], ["transposed", "not averaged", "sign"]),
]  # fmt: skip


@pytest.mark.parametrize(("equation", "function", "names"), WRONG)
def test_mistakes_are_named(equation: str, function: Any, names: list[str]) -> None:
    report = explain.check_equations(**{equation: function})
    verdict = report[equation]
    assert not report.right
    assert len(verdict.mistakes) == len(names), verdict
    for mistake, name in zip(verdict.mistakes, names, strict=True):
        assert name in mistake
    assert "on a network of" in verdict.detail
    assert json.dumps(report.to_dict(), allow_nan=False)


def broken(*args: Any) -> Any:
    raise RuntimeError("half done")


@pytest.mark.parametrize(
    ("equation", "function"),
    [
        ("bp1", lambda L, g, z, sp: 3 * g * sp(z[L])),
        ("bp1", lambda L, g, z, sp: np.full_like(g, np.nan)),
        ("bp1", lambda L, g, z, sp: g * sp(z[L]) + 1e-6),
        ("bp1", lambda L, g, z, sp: None),
        ("bp1", lambda L, g, z, sp: "delta"),
        ("bp1", broken),
        ("bp2", lambda l, w, d, z, sp: d[l + 1] @ np.abs(w[l + 1]) * sp(z[l])),
        ("bp2", lambda l, w, d, z, sp: np.zeros_like(z[l])),
        ("bp2", lambda l, w, d, z, sp: d[l + 1] @ w[l + 1] * sp(z[l]) if l > 2 else z[l]),
        ("bp3", lambda l, d: np.median(d[l], axis=0)),
        ("bp3", lambda l, d: d[l].mean()),
        ("bp3", lambda l, d: np.float64(1.0)),
        ("bp3", lambda l, d: d),
        ("bp4", lambda l, d, a: np.maximum(d[l], 0).T @ a[l - 1] / len(d[l])),
        ("bp4", lambda l, d, a: d[l].T @ a[l - 1] ** 2 / len(d[l])),
        ("bp4", lambda l, d: d),
    ],
)
def test_what_is_in_no_catalogue_gets_no_false_name(equation: str, function: Any) -> None:
    verdict = explain.check_equations(**{equation: function})[equation]
    assert not verdict.right
    assert verdict.mistakes == ()
    assert "wrong, in no way that the catalogue knows" in repr(verdict)
    assert verdict.detail
    if function is broken:
        assert "raised RuntimeError: half done" in verdict.detail


@pytest.mark.parametrize("equation", mistakes.CATALOGUE)
def test_every_mistake_and_every_two_are_told_apart(equation: str) -> None:
    """Whatever one or two mistakes give, the name found gives the same, with no more mistakes;
    and no single mistake passes for right or for another."""
    f, slots = mistakes.CATALOGUE[equation]
    cases = list(mistakes._cases(equation))
    right = dict.fromkeys(slots, "")
    options = [(slot, name) for slot, names in slots.items() for name in names if name]
    single = [dict([one]) for one in options]
    double = [dict(two) for two in combinations(options, 2) if two[0][0] != two[1][0]]
    for chosen in single + double:
        choice = {slot: slots[slot][name] for slot, name in (right | chosen).items()}
        found = [mistakes._attempt(lambda c=case, v=choice: f(c, **v)) for case in cases]
        if all(isinstance(result, Exception) for result in found):
            continue
        named = mistakes._name(equation, cases, found)
        assert named is not None
        if set(named) != set(chosen.values()):
            assert len(chosen) == 2, (chosen, named)
            assert len(named) <= 2
            # two mistakes of which one hides the other, or that are one and the same together
            wanted = {slot: names[n] for slot, names in slots.items() for n in names
                      if n in named or n == ""}  # fmt: skip
            again = [mistakes._attempt(lambda c=case, v=wanted: f(c, **v)) for case in cases]
            assert all(mistakes._same(a, b) for a, b in zip(found, again, strict=True))


def test_learners_may_write_into_what_they_are_given() -> None:
    def in_place(l: int, weights: Any, delta: Any, z: Any, sigma_prime: Any) -> Any:
        delta[l + 1] *= 1.0
        result = delta[l + 1] @ weights[l + 1]
        result *= sigma_prime(z[l])
        weights[l + 1][:] = 0
        z.clear()
        return result

    assert explain.check_equations(bp2=in_place).right


def test_check_equations_refuses_what_is_no_function() -> None:
    with pytest.raises(TypeError, match="bp1=, bp2=, bp3= or bp4="):
        explain.check_equations()
    with pytest.raises(TypeError, match="takes functions"):
        explain.check_equations(bp1=np.ones(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown layout"):
        explain.check_equations(bp1=bp1, layout="row")
    with pytest.raises(ValueError, match="unknown equation"):
        explain.check_equations(bp1=bp1)["bp2"]


# health


def test_health_counts(backend: gpubp.Backend) -> None:
    net = network(backend, activation=["sigmoid", "relu", "sigmoid"])
    net.biases[0] = [0, 0, 50, 0, -50, 0]
    net.biases[1] = [0, -100, -100, 0, 0]
    x = X.copy()
    x[:, 2] = 0.001
    h = net.health(x, LABELS, learning_rate=0.5)
    g = net.backprop(x, LABELS)
    z, a, delta_of, nabla_w = (host(net, each) for each in (g.z, g.a, g.delta, g.nabla_w))
    slopes = [a[0] * (1 - a[0]) / 0.25, (z[1] > 0) * 1.0, a[2] * (1 - a[2]) / 0.25]
    for s, slope, a_in, nabla, delta, w in zip(
        h.layers, slopes, [x, a[0], a[1]], nabla_w, delta_of, host(net, net.weights), strict=True
    ):
        assert s.saturated == (slope < 0.1).mean()
        assert s.dead == (slope < 0.1).all(axis=0).sum()
        assert s.quiet_inputs == (np.abs(a_in) < 0.01).mean()
        assert s.silent_inputs == (np.abs(a_in) < 0.01).all(axis=0).sum()
        ratio = 0.5 * np.linalg.norm(nabla) / np.linalg.norm(w)
        assert s.update_ratio == pytest.approx(ratio, rel=1e-12)
        assert s.speed == pytest.approx(np.linalg.norm(delta.mean(axis=0)), rel=1e-12)
        rms = np.sqrt((delta**2).sum(axis=1).mean())
        assert s.delta_norm == pytest.approx(rms, rel=1e-12)
        assert s.relative_speed == pytest.approx(s.speed / h.layers[-1].speed, rel=1e-12)
    assert h.layers[0].dead >= 2
    assert h.layers[1].dead >= 2
    assert h.layers[0].silent_inputs == 1
    assert (h.low, h.high) == (x.min(), x.max())
    assert json.dumps(h.to_dict(), allow_nan=False)
    alone = net.health(x)
    assert alone.layers[1].dead == h.layers[1].dead
    assert alone.layers[1].speed is None
    assert "-" in repr(alone)


def advice(net: gpubp.Network, x: Any = X, **kwargs: Any) -> str:
    return "\n".join(net.health(x, LABELS, **kwargs).advice)


def test_advice_names_layer_equation_and_cure() -> None:
    assert network(init="glorot").health(X, LABELS).advice == ()
    assert "nothing that slows learning" in repr(network().health(X, LABELS))

    net = network()
    net.weights[2] *= 100
    assert "of the outputs are saturated on the wrong side: by BP1, delta^4 = grad_a C" in advice(
        net
    )
    right = net.health(X, net.feedforward(X).round())  # saturated where they should be
    assert right.layers[-1].saturated > 0.5
    assert right.layers[-1].stuck == 0
    assert right.advice == ()
    cancels = network(cost="cross_entropy")
    cancels.weights[2] *= 100
    assert "BP1" not in advice(cancels)  # delta = a - y does not mind

    net = network()
    net.weights[0] *= 500
    assert "BP2, delta^2 = ((w^3)^T delta^3) (x) sigma'(z^2)" in advice(net)

    net = network(activation=["relu", "relu", "sigmoid"])
    net.biases[0] = np.full(6, -99.0)
    assert "layer 2: 6 of 6 neurons inactive for every example" in advice(net)
    assert "leaky_relu" in advice(net)
    assert "layer 3: 100.0% of its inputs" in advice(net)
    assert "(BP4); the neurons of layer 2 that are off" in advice(net)

    assert "inputs reach 200" in advice(network(), np.full((4, 4), 200.0))
    assert "background" in advice(network(), np.zeros((4, 4)))
    deep = network(sizes=[4, *[8] * 8, 3], init="scaled")
    assert "gradient vanishes, as BP2 multiplies by w^T and sigma'" in advice(deep)
    wild = network(sizes=[4, 8, 8, 8, 8, 3], activation="identity", init="glorot")
    for w in wild.weights:
        w *= 30
    assert "gradient explodes" in advice(wild)
    assert "lower the learning rate" in advice(network(), learning_rate=1000.0)
    assert "hardly move" in advice(network(), learning_rate=1e-9)
    assert "learning rate" not in advice(network())  # none is known


def test_health_sees_overflow() -> None:
    net = network(activation="identity", dtype="float32", backend="cpu")
    for w in net.weights:
        w[...] = 1e15
    h = net.health(X, LABELS)
    assert not h.layers[2].finite
    assert [line for line in h.advice if "z^4 = w^4 a^3 + b^4 overflows float32" in line]
    assert json.dumps(h.to_dict(), allow_nan=False)
    h.plot()


def test_health_takes_the_rate_of_the_last_epoch() -> None:
    net = network(backend="cpu", dtype="float32")
    net.fit(X, LABELS, epochs=1, batch_size=2, learning_rate=0.25, progress=False)
    assert net.health(X, LABELS).learning_rate == 0.25
    with pytest.raises(TypeError, match="learning_rate='x' must be a number"):
        net.health(X, LABELS, learning_rate="x")  # type: ignore[arg-type]


def test_monitor_stays_in_its_budget_and_changes_nothing() -> None:
    """Over a run of about a second, by the monitor's own clock and by this test's. Something else
    may stop the machine in the middle of a look: of three runs the quietest counts."""
    x, y = gpubp.data.digits28(3000, rng=0)

    def train(callbacks: list[Any]) -> tuple[gpubp.Network, float]:
        net, began = gpubp.Network([784, 30, 10], rng=0), time.perf_counter()
        net.fit(x, y, epochs=200, batch_size=10, learning_rate=3.0, callbacks=callbacks,
                progress=False)  # fmt: skip
        return net, time.perf_counter() - began

    plain, shares = train([])[0], []
    for _ in range(3):
        monitor = explain.HealthMonitor(x, y)
        net, elapsed = train([monitor])
        np.testing.assert_array_equal(net.parameters.flat, plain.parameters.flat)
        epoch, step, h = monitor.records[-1]
        assert (h.examples, len(h.layers)) == (200, 2)
        assert 0 <= epoch <= 200
        assert 0 <= step <= 300
        shares.append(max(monitor.share, monitor.seconds / elapsed))
        if shares[-1] <= 0.05:
            break
    assert 0 < min(shares) <= 0.05


def test_monitor_looks_only_when_it_can_afford_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0, 1000, 0.5))  # each look at the clock is half a second later
    monkeypatch.setattr(vitals.time, "perf_counter", lambda: next(clock))
    net = network()
    monitor = explain.HealthMonitor(X, LABELS, rows=3)
    monitor.check(False)
    training = SimpleNamespace(network=net, epoch=0, step=0)
    for _ in range(200):
        monitor.on_interval(training)  # type: ignore[arg-type]
        assert monitor.seconds <= 0.5 or monitor.share <= 0.03
    assert 3 <= len(monitor.records) <= 7  # of 0.5 s each, in about 100 s
    assert math.isclose(monitor.seconds, 0.5 * len(monitor.records))
