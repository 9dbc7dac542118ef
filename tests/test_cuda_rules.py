"""Update rules in CUDA: the reference's numbers in every way to train, and the text they become.

Each step has a learning rate, and for Adam and its kin further numbers, of its own: a kernel that
takes those of another step is wrong. Races and mutants are the gates'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import build
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import imagined
from oracle import normwise, sgd

import gpubp
from gpubp.activation import ACTIVATIONS
from gpubp.cost import COSTS
from gpubp.examples import importance_of
from gpubp.optimizer import (
    Adagrad,
    Adam,
    AdamW,
    Lion,
    NAdam,
    RMSprop,
    Update,
)
from gpubp.own_optimizer import define_optimizer
from gpubp.parameters import Parameters
from gpubp.plan import Plan

needs_compiler = pytest.mark.skipif(bool(build.missing()), reason=str(build.missing()))
SIZES, BATCH, ROWS = (15, 6, 3), 4, 43
STEPS = -(-ROWS // BATCH)
# Names that mean something to C, to a kernel or to source.py; one, in no formula, is not ASCII.
ODD = define_optimizer(
    "odd",
    {"int": "g + N*w", "T_": "float*T_ + int", "state": "state + (T_ - state)*BLOCK",
     "w": "w - eta*(0.5*int + where(M > 1, state, 0))"},
    state=["T_", "state"], float=0.5, M=2.0, N=0.1, BLOCK=lambda t: 1 / (1 + t), β=1.0,
)  # fmt: skip
# An epsilon of 0.01 keeps a gradient of nearly 0 from taking whole steps by its rounding errors.
UPDATES = {
    "plain": Update(),
    "momentum": sgd(0.9),
    "Nesterov, penalties": sgd(0.9, True, 1e-2, 1e-3),
    "Adam": Update(Adam(epsilon=0.01)),
    "AMSGrad, penalties": Update(Adam(epsilon=0.01, amsgrad=True), 1e-2, 1e-3),
    "AdamW": Update(AdamW(epsilon=0.01), l2=1e-2),
    "NAdam": Update(NAdam(epsilon=0.01)),
    "RMSprop, centered, momentum": Update(RMSprop(epsilon=0.01, momentum=0.5, centered=True)),
    "Adagrad": Update(Adagrad(epsilon=0.01, learning_rate_decay=0.1)),
    "Lion": Update(Lion(weight_decay=0.1), l2=1e-2),
    "odd names": Update(ODD),
}
WAYS = ("graph", "cooperative", "resident", "fleet")


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.delenv("GPUBP_CUDA_STEPPER", raising=False)
    with installed() as cupy, imagined():
        yield cupy


def plan(update: Update, dtype: str, weighted: str) -> Plan:
    sigma, cost = (ACTIVATIONS["tanh"], ACTIVATIONS["sigmoid"]), COSTS["quadratic"]
    if weighted == "softmax":
        sigma, cost = (ACTIVATIONS["tanh"], ACTIVATIONS["softmax"]), COSTS["log_likelihood"]
    return Plan(SIZES, sigma, cost, BATCH, dtype, update.rule, weighted=bool(weighted))


def trained(update: Update, dtype: str, way: str = "reference", weighted: str = "") -> list[Any]:
    """Of one or, in a fleet, the second of two networks: weights, state and costs of two epochs."""
    backend = gpubp.get_backend("reference" if way == "reference" else "cuda")
    rng, xp = np.random.default_rng(81), backend.xp
    networks = []
    for _ in range(2 if way == "fleet" else 1):
        parameters = Parameters(xp, SIZES, dtype)
        count = parameters.flat.size
        start = np.random.default_rng(82).standard_normal(count).astype(np.float32)
        parameters.flat[...] = backend.asarray(start.astype(dtype) / 2)
        parameters.state = xp.zeros((len(update.rule.state), count), dtype)
        networks.append(parameters)
    x = rng.integers(0, 256, (ROWS, SIZES[0]), np.uint8)
    y = rng.integers(0, SIZES[-1], ROWS)
    x, y = backend.asarray(x), backend.asarray(y)
    rates = np.geomspace(0.01, 0.1, 2 * STEPS)
    pieces: list[tuple[Any, ...]] = [
        (rng.permutation(ROWS), update.numbers(1 + epoch * STEPS, part))
        for epoch, part in enumerate(np.split(rates, 2))
    ]
    if weighted:
        weights = np.random.default_rng(83).integers(0, 3, ROWS).astype(float)
        pieces = [(*piece, importance_of(weights[piece[0]], BATCH)) for piece in pieces]
    the_plan, costs = plan(update, dtype, weighted), []
    if way == "fleet":
        together = backend.kernels.side_by_side(the_plan, 2, x, y)
        one, two = (together.stepper(the_plan, each) for each in networks)
        for order, *more in pieces:
            # The first has examples and numbers of its own, and fewer.
            other = (one, order[:BATCH], update.numbers(7, [0.05]), *(p[:BATCH] for p in more[1:]))
            costs.append(together.run([other, (two, order, *more)])[1])
    else:
        stepper = backend.kernels.Stepper(the_plan, networks[-1], x, y)
        costs = [stepper.run(*piece) for piece in pieces]
    arrays = (networks[-1].flat, networks[-1].state)
    return [*(backend.asnumpy(array) for array in arrays), np.concatenate(costs)]


@needs_compiler
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", UPDATES)
def test_every_rule_in_every_way(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(UPDATES[name], way, monkeypatch)


@needs_compiler
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
def test_weighted_examples_in_every_way(
    output: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(sgd(0.5, l2=1e-2), way, monkeypatch, output)


@needs_compiler
@pytest.mark.parametrize("clip_norm", [0.05, 0.3, 1e3])
@pytest.mark.parametrize("weighted", ["", "softmax"])
def test_a_clipped_gradient(
    clip_norm: float, weighted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for update in (
        Update(Adam(epsilon=0.01), 1e-2, 1e-3, clip_norm=clip_norm), Update(clip_norm=clip_norm)
    ):  # fmt: skip
        compare(update, "graph", monkeypatch, weighted)
        costs = [trained(one, "float64", weighted=weighted)[0] for one in
                 (update, Update(update.optimizer, update.l2, update.l1))]  # fmt: skip
        assert (normwise(*costs) > 1e-6) == (clip_norm < 1e3)


@pytest.mark.parametrize("way", ["cooperative", "resident"])
def test_one_launch_cannot_clip(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", way)
    with pytest.raises(ValueError, match="must be there whole before any update"):
        trained(Update(clip_norm=1.0), "float32", way)


def compare(update: Update, way: str, monkeypatch: pytest.MonkeyPatch, weighted: str = "") -> None:
    """float64 to 1e-12; float32 within twice the error of NumPy's, or some of its last bits."""
    if way != "fleet":
        monkeypatch.setenv("GPUBP_CUDA_STEPPER", way)
    exact, plain = (trained(update, dtype, weighted=weighted) for dtype in ("float64", "float32"))
    double, single = (trained(update, dtype, way, weighted) for dtype in ("float64", "float32"))
    for truth, found, ours, numpys in zip(exact, double, single, plain, strict=True):
        assert found.shape == ours.shape == truth.shape
        assert normwise(found, truth) <= 1e-12
        assert normwise(ours, truth) <= max(2 * normwise(numpys, truth), 1e-6)


# The text


def text(update: Update) -> str:
    source = import_module("gpubp.kernels.cuda.source").source
    return str(source("outer_sum", "float32", {}, update.rule, UPDATE=1, GATHER=0))


def body_of(function: str, found: str) -> str:
    return found.partition(f"void {function}(")[2].partition("{\n")[2].partition("}")[0]


def test_a_rule_is_written_from_its_formulas() -> None:
    found = text(sgd(0.9))
    assert "#define STATES 1\n#define PENALTY 0\n" in found
    assert "struct Rule { T eta_, mu_; };" in found
    assert body_of("update", found).split("\n") == [
        "    const T eta_ = rule.eta_;", "    const T mu_ = rule.mu_;",
        "    T v_ = state[0 * apart];", "    T w_ = w, g_ = g;",
        "    v_ = ((mu_ * v_) - (eta_ * g_));", "    w_ = (w_ + v_);",
        "    w = w_;", "    state[0 * apart] = v_;", "",
    ]  # fmt: skip


def test_no_state_is_touched_where_there_is_none() -> None:
    found = text(sgd(l2=0.1))
    assert "#define STATES 0\n#define PENALTY 1\n" in found
    assert "state[" not in body_of("update", found) + body_of("update_penalised", found)
    assert "struct Rule { T eta_, l2_, l1_; };" in found
    assert "l2_" in body_of("update_penalised", found)
    assert "l2_" not in body_of("update", found)


def test_a_value_in_between_is_declared_once() -> None:
    assert re.findall(r"^    T (\w+);$", text(Update(ODD)), re.M) == ["int_"] * 2  # two functions
    assert text(Update(Lion())).count("    T c_;\n") == 2
    assert text(Update(ODD)).isascii()


def test_networks_of_one_rule_share_a_kernel_whatever_its_numbers() -> None:
    assert text(sgd(0.9, l2=0.1)) == text(sgd(0.5, l1=0.2))
    assert text(sgd(0.9)) != text(sgd(0.9, True))
