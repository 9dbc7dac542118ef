"""The tiled engine against the reference: shapes, rules, inputs, threads, and its repeatability."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpubp.activation import get_activations
from gpubp.cost import get_cost
from gpubp.kernels import reference
from gpubp.kernels.cpu import tiled
from gpubp.kernels.cpu.tiled import TiledStepper
from gpubp.optimiser import UpdateRule
from gpubp.parameters import Parameters
from gpubp.plan import Plan

N = 203


def case(
    sizes: tuple[int, ...], batch: int, dtype: Any, activation: Any = "sigmoid",
    cost: str = "quadratic", rule: UpdateRule | None = None, x: str = "uint8", y: str = "labels",
) -> tuple[Plan, Parameters, Any, Any]:  # fmt: skip
    rng = np.random.default_rng(0)
    rule = rule or UpdateRule()
    activations = get_activations(activation, len(sizes) - 1)
    plan = Plan(sizes, activations, get_cost(cost), batch, np.dtype(dtype), rule)
    parameters = Parameters(np, sizes, dtype)
    for w, b in zip(parameters.weights, parameters.biases, strict=True):
        w[...] = rng.standard_normal(w.shape) / np.sqrt(w.shape[1])
        b[...] = rng.standard_normal(b.shape)
    if rule.momentum:
        parameters.velocity = np.zeros_like(parameters.flat)
    values = rng.integers(1, 256, (N, sizes[0])) * (rng.random((N, sizes[0])) < 0.3)
    inputs = values.astype(np.uint8) if x == "uint8" else (values / 255).astype(dtype)
    targets: Any = rng.integers(0, sizes[-1], N)
    if y == "targets":
        targets = rng.random((N, sizes[-1])).astype(dtype)
    return plan, parameters, inputs, targets


def run(
    stepper: Any, arguments: tuple[Plan, Parameters, Any, Any], *more: Any
) -> tuple[Any, float]:
    plan, parameters, x, y = arguments
    order = np.random.default_rng(1).permutation(N)
    engine = stepper(plan, parameters, x, y, *more)
    cost = engine.run(order[:100], 0.3) + engine.run(order[100:], 0.1)
    flats = [parameters.flat] + ([] if parameters.velocity is None else [parameters.velocity])
    return np.concatenate(flats), cost


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled runs of a few steps, on one thread and on two in turns."""
    monkeypatch.setattr(tiled, "_FLOPS_PER_CALL", 1e5)
    monkeypatch.setattr(tiled, "_TRY_EVERY", 2)


def compare(parts: int = 1, **arguments: Any) -> None:
    dtype = arguments["dtype"]
    expected, cost = run(reference.Stepper, case(**arguments))
    got, my_cost = run(TiledStepper, case(**arguments), parts, 2)
    bound = {np.float32: 2e-6, np.float64: 1e-14}[dtype]
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert error <= bound
    assert abs(my_cost - cost) <= bound * max(1, abs(cost))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("sizes", "batch"),
    [((7, 15, 2), 1), ((17, 16, 33, 3), 10), ((785, 31, 10), 10), ((1, 1), 10),
     ((64, 127, 1), 20), ((600, 17, 40), 130), ((3, 5, 4, 3, 2), 29)],
)  # fmt: skip
def test_shapes(sizes: tuple[int, ...], batch: int, dtype: Any, parts: int) -> None:
    compare(parts, sizes=sizes, batch=batch, dtype=dtype)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    "rule",
    [UpdateRule(l2=0.01), UpdateRule(l1=0.01), UpdateRule(momentum=0.9),
     UpdateRule(momentum=0.8, nesterov=True, l2=0.02, l1=0.003)],
)  # fmt: skip
def test_update_rules(rule: UpdateRule, parts: int) -> None:
    compare(parts, sizes=(70, 21, 19, 5), batch=10, dtype=np.float64, rule=rule)


@pytest.mark.parametrize(
    ("activation", "cost"),
    [(["tanh", "softmax"], "log_likelihood"), ("sigmoid", "cross_entropy"),
     (["relu", "identity"], "huber"), (["gelu", "softplus"], "sum_squares"),
     (["where(z > 0 and not z > 1, z**3, 0.1*z)", "sigmoid"], "log_likelihood")],
)  # fmt: skip
@pytest.mark.parametrize("y", ["labels", "targets"])
def test_activations_and_costs(activation: Any, cost: str, y: str) -> None:
    compare(sizes=(40, 21, 18), batch=10, dtype=np.float64, activation=activation, cost=cost,
            x="float", y=y)  # fmt: skip


@pytest.mark.parametrize("rule", [UpdateRule(), UpdateRule(momentum=0.9, l2=0.01)])
def test_bits_depend_on_parts_and_not_on_threads(rule: UpdateRule) -> None:
    def once(parts: int, threads: int) -> Any:
        return run(TiledStepper, case((200, 30, 20, 10), 10, np.float32, rule=rule), parts, threads)

    one, two, again = once(2, 1), once(2, 2), once(2, 2)
    np.testing.assert_array_equal(two[0], one[0])
    np.testing.assert_array_equal(two[0], again[0])
    assert abs(two[1] - one[1]) <= 1e-12


def test_divergence_shows_in_the_cost() -> None:
    plan, parameters, x, y = case((20, 9, 3), 10, np.float32, activation="identity")
    stepper = TiledStepper(plan, parameters, x, y)
    with np.errstate(over="ignore"):
        cost = stepper.run(np.tile(np.arange(N), 5), 1e4)
    assert not np.isfinite(cost)
