"""The two CPU engines against the reference: shapes, rules, inputs, threads, and the same bits."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from oracle import sgd, steps

import gpubp
from gpubp.activation import get_activations
from gpubp.cost import get_cost
from gpubp.kernels import reference
from gpubp.kernels.cpu import simd, stepper, threaded
from gpubp.kernels.cpu.paneled import PanelStepper
from gpubp.kernels.cpu.stepper import Stepper, choose_engine
from gpubp.kernels.cpu.tiled import TiledStepper
from gpubp.optimizer import SGD, Adam, Update
from gpubp.parameters import Parameters
from gpubp.plan import Plan

N = 203


def case(
    sizes: tuple[int, ...], batch: int, dtype: Any, activation: Any = "sigmoid",
    cost: str = "quadratic", rule: Update | None = None, x: str = "uint8", y: str = "labels",
) -> tuple[Plan, Parameters, Any, Any]:  # fmt: skip
    rng = np.random.default_rng(0)
    rule = (rule or sgd()).rule
    activations = get_activations(activation, len(sizes) - 1)
    plan = Plan(sizes, activations, get_cost(cost), batch, np.dtype(dtype), rule)
    parameters = Parameters(np, sizes, dtype)
    for w, b in zip(parameters.weights, parameters.biases, strict=True):
        w[...] = rng.standard_normal(w.shape) / np.sqrt(w.shape[1])
        b[...] = rng.standard_normal(b.shape)
    parameters.state = np.zeros((len(rule.state), parameters.flat.size), dtype)
    values = rng.integers(1, 256, (N, sizes[0])) * (rng.random((N, sizes[0])) < 0.3)
    inputs = values.astype(np.uint8) if x == "uint8" else (values / 255).astype(dtype)
    targets: Any = rng.integers(0, sizes[-1], N)
    if y == "targets":
        targets = rng.random((N, sizes[-1])).astype(dtype)
    return plan, parameters, inputs, targets


def run(
    make: Any, arguments: tuple[Plan, Parameters, Any, Any], rule: Update | None = None
) -> tuple[Any, Any]:
    plan, parameters, x, y = arguments
    rule, m = rule or sgd(), plan.batch_size
    order = np.random.default_rng(1).permutation(N)
    engine = make(plan, parameters, x, y)
    some = engine.run(*steps(rule, order[:100], m, 0.3))
    costs = np.append(some, engine.run(*steps(rule, order[100:], m, 0.1, 1 + len(some))))
    return np.append(parameters.flat, parameters.state), costs


def tiled(parts: int, threads: int) -> Any:
    return lambda *arguments: TiledStepper(*arguments, parts, threads)


def panels(threads: int) -> Any:
    return lambda *arguments: PanelStepper(*arguments, threads)


MAKERS = {
    "tiled, one part": tiled(1, 1), "tiled, two parts": tiled(2, 2),
    "panels, one thread": panels(1), "panels, two threads": panels(2),
}  # fmt: skip
BY_COLUMNS, BY_ROWS = (200, 130, 70, 10), (200, 130, 20, 10)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled runs of a few steps, on one thread and on all in turns."""
    monkeypatch.setattr(threaded, "_FLOPS_PER_CALL", 1e5)
    monkeypatch.setattr(threaded, "_TRY_EVERY", 2)


@pytest.fixture(params=MAKERS)
def engine(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]


def compare(engine: Any, **arguments: Any) -> None:
    dtype = arguments["dtype"]
    expected, costs = run(reference.Stepper, case(**arguments), arguments.get("rule"))
    got, my_costs = run(engine, case(**arguments), arguments.get("rule"))
    bound = {np.float32: 2e-6, np.float64: 1e-14}[dtype]
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert error <= bound
    assert my_costs.shape == costs.shape
    assert (abs(my_costs - costs) <= bound * np.maximum(arguments["batch"], abs(costs))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("sizes", "batch"),
    [((7, 15, 2), 1), ((17, 16, 33, 3), 10), ((785, 31, 10), 10), ((1, 1), 10),
     ((64, 127, 1), 20), ((600, 17, 40), 130), ((3, 5, 4, 3, 2), 29), (BY_COLUMNS, 64),
     (BY_COLUMNS, 6), (BY_ROWS, 64)],
)  # fmt: skip
def test_shapes(sizes: tuple[int, ...], batch: int, dtype: Any, engine: Any) -> None:
    compare(engine, sizes=sizes, batch=batch, dtype=dtype)


@pytest.mark.parametrize(
    "rule",
    [sgd(l2=0.01), sgd(l1=0.01), sgd(momentum=0.9),
     sgd(momentum=0.8, nesterov=True, l2=0.02, l1=0.003), Update(Adam(), l2=0.02),
     Update(SGD(0.5), l2=0.02, l1=0.003, clip_norm=0.1), Update(clip_norm=3.0)],
)  # fmt: skip
def test_update_rules(rule: Update, engine: Any) -> None:
    compare(engine, sizes=(70, 21, 19, 5), batch=10, dtype=np.float64, rule=rule)


@pytest.mark.parametrize(
    ("activation", "cost"),
    [(["tanh", "softmax"], "log_likelihood"), ("sigmoid", "cross_entropy"),
     (["relu", "identity"], "huber"), (["gelu", "softplus"], "sum_squares"),
     (["where(z > 0 and not z > 1, z**3, 0.1*z)", "sigmoid"], "log_likelihood")],
)  # fmt: skip
@pytest.mark.parametrize("y", ["labels", "targets"])
def test_activations_and_costs(activation: Any, cost: str, y: str, engine: Any) -> None:
    compare(engine, sizes=(40, 21, 18), batch=10, dtype=np.float64, activation=activation,
            cost=cost, x="float", y=y)  # fmt: skip


@pytest.mark.parametrize("rule", [sgd(), sgd(momentum=0.5)])
def test_sums_in_several_parts(rule: Update, monkeypatch: pytest.MonkeyPatch) -> None:
    # More examples in a mini-batch, and more units in a layer, than one tile sums at once.
    def long(dtype: Any) -> tuple[Plan, Parameters, Any, Any]:
        plan, parameters, x, y = case((1100, 70, 9), 1200, dtype, rule=rule)
        return plan, parameters, np.tile(x, (7, 1)), np.tile(y, 7)

    monkeypatch.setattr("test_engines.N", 7 * N)
    expected, _ = run(reference.Stepper, long(np.float64), rule)
    for make in MAKERS.values():
        found, _ = run(make, long(np.float64), rule)
        assert np.linalg.norm(found - expected) <= 1e-14 * np.linalg.norm(expected)


@pytest.mark.parametrize("x", ["uint8", "float"])
@pytest.mark.parametrize("sizes", [(200, 30, 20, 10), BY_COLUMNS, BY_ROWS])
def test_sparse_x_gives_the_same_bits(x: str, sizes: tuple[int, ...], engine: Any) -> None:
    def sparse(plan: Plan, parameters: Parameters, x: Any, y: Any) -> Any:
        return engine(plan, parameters, scipy.sparse.csr_array(x), y)

    dense, again = (run(make, case(sizes, 16, np.float32, x=x)) for make in (engine, sparse))
    np.testing.assert_array_equal(again[0], dense[0])
    np.testing.assert_array_equal(again[1], dense[1])


@pytest.mark.parametrize(
    "rule", [sgd(), sgd(momentum=0.9, l2=0.01), Update(Adam()), Update(clip_norm=0.1)]
)
@pytest.mark.parametrize(
    ("sizes", "some", "others"),
    [((200, 30, 20, 10), tiled(2, 1), tiled(2, 2)),
     (BY_COLUMNS, panels(1), panels(2)), (BY_COLUMNS, panels(2), panels(3)),
     (BY_ROWS, panels(1), panels(2)), (BY_ROWS, panels(2), panels(5))],
)  # fmt: skip
def test_bits_do_not_depend_on_threads(
    sizes: tuple[int, ...], some: Any, others: Any, rule: Update
) -> None:
    one, two, again = (
        run(make, case(sizes, 22, np.float32, rule=rule), rule) for make in (some, others, others)
    )
    np.testing.assert_array_equal(two[0], one[0])
    np.testing.assert_array_equal(two[0], again[0])
    np.testing.assert_array_equal(two[1], one[1])


def test_the_rule_that_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(sizes: tuple[int, ...], batch: int) -> tuple[str, int]:
        return choose_engine(case(sizes, batch, np.float32)[0])

    monkeypatch.delenv("GPUBP_ENGINE", raising=False)
    monkeypatch.setenv("GPUBP_NUM_THREADS", "3")
    assert chosen((16, 8, 2), 4) == ("tiled", 1)
    assert chosen((784, 30, 10), 10) == ("tiled", 2)
    assert chosen((784, 128, 10), 128) == ("panels", 3)
    monkeypatch.setenv("GPUBP_ENGINE", "panels")
    assert Stepper(*case((16, 8, 2), 4, np.float32)).engine == "panels"
    assert "panels" in stepper.describe()
    monkeypatch.setenv("GPUBP_ENGINE", "pannels")
    with pytest.raises(ValueError, match="unknown GPUBP_ENGINE 'pannels': did you mean 'panels'"):
        chosen((16, 8, 2), 4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("x", ["uint8", "float", "sparse"])
@pytest.mark.parametrize("y", ["labels", "targets", "unit vectors"])
@pytest.mark.parametrize(
    ("sizes", "activation", "cost"),
    [((70, 1), "sigmoid", "cross_entropy"), ((17, 33, 3), "tanh", "huber"),
     (BY_COLUMNS, ["relu", "gelu", "softmax"], "log_likelihood"),
     ((5, 4, 17), ["sigmoid", "identity"], "quadratic")],
)  # fmt: skip
def test_score_is_the_references(
    sizes: tuple[int, ...], activation: Any, cost: str, y: str, x: str, dtype: str
) -> None:
    """Cost and accuracy of 1, a block, a full batch and more, by the CPU's own forward pass."""
    _, parameters, inputs, labels = case(sizes, 1, dtype, activation, cost, x=x)
    inputs, labels = np.tile(inputs, (3, 1)), np.tile(labels, 3)
    if x == "sparse":
        inputs = scipy.sparse.csr_array(inputs)
    rng = np.random.default_rng(3)
    targets: Any = rng.random((len(labels), sizes[-1])) if y == "targets" else labels
    if y == "unit vectors":
        targets = np.eye(sizes[-1])[labels] if sizes[-1] > 1 else rng.integers(0, 2, (3 * N, 1))
    ours, reference = (
        gpubp.Network(sizes, activation=activation, cost=cost, dtype=dtype, backend=backend, rng=0)
        for backend in ("cpu", "reference")
    )
    for net in (ours, reference):
        net.parameters.flat[:] = parameters.flat
    for n in (1, 4, 131, 256, 257, 3 * N):
        found, right = (net.evaluate(inputs[:n], targets[:n]) for net in (ours, reference))
        assert abs(found.cost - right.cost) <= 4 * np.finfo(dtype).eps * abs(right.cost)
        assert found.accuracy == right.accuracy


def test_score_of_outputs_that_are_equal_or_not_numbers() -> None:
    """The class is the first of the largest outputs, and NaN counts as the largest."""
    outputs = np.array([[1, 2, 2], [3, 3, 1], [0, 0, 0], [np.nan, 5, 1], [7, np.nan, np.nan]])
    ours, reference = (
        gpubp.Network([3, 3], activation="identity", backend=backend, rng=0, dtype="float64")
        for backend in ("cpu", "reference")
    )
    for net in (ours, reference):
        net.weights[0] = np.zeros((3, 3))
        for row in outputs:
            net.biases[0] = row
            right = [net.evaluate(np.ones((1, 3)), [label]).accuracy for label in range(3)]
            assert right == [float(label == np.argmax(row)) for label in range(3)]


@pytest.mark.parametrize("make", [TiledStepper, PanelStepper])
def test_divergence_shows_in_the_cost(make: Any) -> None:
    plan, parameters, x, y = case((20, 9, 3), 10, np.float32, activation="identity")
    engine = make(plan, parameters, x, y)
    with np.errstate(over="ignore"):
        costs = engine.run(*steps(sgd(), np.tile(np.arange(N), 5), 10, 1e4))
    assert not np.isfinite(costs).all()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86 alone does it")
def test_tiny_numbers_are_0_while_training_and_only_then(make: Any) -> None:
    """Where all gradients are 0, momentum's mean is halved at each step: to 0, not ever smaller."""
    plan, parameters, x, targets = case((20, 9, 3), 10, np.float32, rule=sgd(0.5), y="targets")
    parameters.flat[...], targets[...] = 0, 0.5  # the output is 1/2
    parameters.state[...] = 2.0**-116
    engine = make(plan, parameters, x, targets)
    engine.run(*steps(sgd(0.5), np.arange(90), 10, 0.0))
    assert parameters.state.min() == 2.0**-125  # a normal number yet, the last but one
    engine.run(*steps(sgd(0.5), np.arange(30), 10, 0.0, 10))
    assert not parameters.state.any()  # 2^-128 would be there without
    assert (np.full(4, 1e-40, np.float32) * np.float32(1)).all()  # in this thread, which trained


# Features that Numba is told a processor has: no vectors but SSE2's, and AVX2 with fma.
PROCESSORS = {"generic": "", "haswell": "+avx2,+avx,+fma,+sse4.2,+sse4.1,+ssse3,+sse3,+popcnt,+bmi"}
ON_ANOTHER = """
import os
import numpy as np
import gpubp
from gpubp.kernels.cpu import simd
assert simd.REGISTER_BYTES == {width}
images, y = gpubp.data.digits28(200, rng=0)
for dtype, bound in (("float32", 2e-6), ("float64", 1e-14)):
    for n_in in (784, 785, 787):
        x = np.concatenate([images, images[:, 400 : 400 + n_in - 784]], axis=1)
        nets = [
            gpubp.Network([n_in, 30, 10], rng=0, backend=b, dtype=dtype)
            for b in ("reference", "cpu", "cpu")
        ]
        for net, engine in zip(nets, ("", "tiled", "panels")):
            os.environ["GPUBP_ENGINE"] = engine
            net.fit(x, y, epochs=2, batch_size=9, learning_rate=1.0, l2=1e-4, progress=False)
        right = nets[0].parameters.flat
        for net in nets[1:]:
            error = np.linalg.norm(net.parameters.flat - right) / np.linalg.norm(right)
            assert error <= bound, (dtype, n_in, error)
"""


@pytest.mark.skipif(not simd.X86, reason="these are x86 processors")
@pytest.mark.parametrize("name", [pytest.param("generic", marks=pytest.mark.thorough), "haswell"])
def test_other_processors(name: str, tmp_path: Path) -> None:
    """Machine code for less than this processor: LLVM puts together what it lacks."""
    width = 32 if "avx2" in PROCESSORS[name] else 16
    described = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": PROCESSORS[name]}
    done = subprocess.run(
        [sys.executable, "-c", ON_ANOTHER.format(width=width)], capture_output=True, text=True,
        check=False, env=os.environ | described | {"GPUBP_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
