"""Training in one cooperative launch: when it applies, how it is launched, and the same numbers.

What it computes on all schedules, its races and its mutants are among the gates' cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import build
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import KernelError, imagined, machine
from cuda_on_cpu.launch import SCHEDULES
from oracle import flat, normwise, sgd, steps
from test_kernels import ratio

import gpubp
from gpubp.activation import ACTIVATIONS
from gpubp.cost import COSTS
from gpubp.optimizer import Adam, Update
from gpubp.parameters import Parameters
from gpubp.plan import Plan

needs_compiler = pytest.mark.skipif(bool(build.missing()), reason=str(build.missing()))
SIGMOID, QUADRATIC = ACTIVATIONS["sigmoid"], COSTS["quadratic"]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", "cooperative")
    with installed() as cupy:
        yield cupy


def cuda(module: str) -> Any:
    return import_module(f"gpubp.kernels.cuda.{module}")


def plan(sizes: tuple[int, ...], batch: int, **named: Any) -> Plan:
    settings = {"dtype": "float32"} | named
    return Plan(sizes, (SIGMOID,) * (len(sizes) - 1), QUADRATIC, batch, **settings)


# When it applies


def choose(plan: Plan) -> str:
    x = np.zeros((plan.batch_size, plan.sizes[0]), np.uint8)
    return str(cuda("stepper").choose_way(plan, x, np.zeros(plan.batch_size, np.int64)))


@pytest.mark.parametrize(
    ("sizes", "batch", "way"),
    [
        ((784, 30, 10), 10, "resident"),  # S
        ((784, 128, 10), 128, "cooperative"),  # M
        ((784, 100, 100, 10), 100, "cooperative"),
        ((784, 300, 10), 64, "cooperative"),
        ((784, 1024, 1024, 10), 512, "graph"),  # L: its head
        ((784, 1024, 1), 512, "graph"),  # its first layer
        ((784, 300, 300, 10), 64, "graph"),
    ],
)
def test_the_rule(
    sizes: tuple[int, ...], batch: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GPUBP_CUDA_STEPPER")
    assert choose(plan(sizes, batch)) == way


def test_asking_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for way in ("graph", "cooperative"):
        monkeypatch.setenv("GPUBP_CUDA_STEPPER", way)
        assert choose(plan((784, 30, 10), 10)) == way
    for other, words in (
        (plan((784, 1024, 1024, 10), 512), "first layer has more than 67,108,864 products"),
        (plan((784, 300, 300, 10), 64), "layers after the first have more than 2,097,152 products"),
        (plan((784, 30, 10), 10, precision="tf32"), "products in tf32 are launches of their own"),
    ):
        with pytest.raises(ValueError, match="GPUBP_CUDA_STEPPER='cooperative' does not") as caught:
            choose(other)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", "graphs")
    with pytest.raises(ValueError, match="GPUBP_CUDA_STEPPER 'graphs': did you mean 'graph'"):
        choose(plan((784, 30, 10), 10))


# How it is launched


def trained(
    sizes: tuple[int, ...], batch: int, rows: int, backend: str = "cuda", pieces: int = 1,
    host: bool = True, dtype: str = "float64", update: Update | None = None,
) -> tuple[Any, float]:  # fmt: skip
    """(weights, the last piece's cost) after an epoch in pieces of whole mini-batches."""
    rng = np.random.default_rng(71)
    where = gpubp.get_backend(backend)
    parameters = Parameters(where.xp, sizes, dtype)
    start = rng.standard_normal(parameters.flat.size) / np.sqrt(max(sizes))
    parameters.flat[...] = where.asarray(start.astype(np.float32).astype(dtype))
    update = update or sgd(l2=1e-3)
    parameters.state = where.xp.zeros((len(update.rule.state), parameters.flat.size), dtype)
    x = rng.integers(0, 256, (rows, sizes[0]), np.uint8)
    y = rng.integers(0, sizes[-1], rows)
    if not host:
        x, y = where.asarray(x), where.asarray(y)
    the_plan = plan(sizes, batch, dtype=dtype, rule=update.rule)
    stepper = where.kernels.Stepper(the_plan, parameters, x, y)
    order, costs = rng.permutation(rows), []
    cuts = [round(i * rows / pieces / batch) * batch for i in range(pieces)]
    for begin, end in itertools.pairwise([*cuts, rows]):
        costs.append(stepper.run(*steps(update, order[begin:end], batch, 0.3, begin // batch + 1)))
    return where.asnumpy(parameters.flat), np.concatenate(costs)


@needs_compiler
def test_any_number_of_blocks_gives_the_same_bits() -> None:
    right, costs = trained((33, 17, 7), 9, 31, "reference")
    found = []
    for multiprocessors in (1, 2, 3, 7, 132):
        with imagined(multiprocessors=multiprocessors):
            found.append(trained((33, 17, 7), 9, 31))
    for weights, our_costs in found:
        np.testing.assert_array_equal(weights, found[0][0])
        # Added up in parts, of which there are others.
        np.testing.assert_allclose(our_costs, costs, rtol=1e-14, atol=0)
    assert normwise(found[0][0], right) <= 1e-14


@needs_compiler
def test_no_more_blocks_than_have_something_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[int] = []
    kernel = cuda("launch").Kernel
    call = kernel.__call__

    def counted(self: Any, blocks: int, *arguments: Any) -> None:
        launched.append(blocks)
        call(self, blocks, *arguments)

    monkeypatch.setattr(kernel, "__call__", counted)
    with imagined(multiprocessors=132):
        trained((3, 2), 2, 4)
        trained((33, 17, 7), 9, 31)
    with imagined(multiprocessors=5):
        trained((33, 17, 7), 9, 31)
    assert launched == [2, 31, 5]  # rows; tiles of both updates; multiprocessors


@needs_compiler
@pytest.mark.parametrize("update", [sgd(l1=1e-3), sgd(0.9, True), Update(Adam())], ids=str)
def test_launches_and_pieces_change_no_bit(update: Update, monkeypatch: pytest.MonkeyPatch) -> None:
    case: Any = ((12, 8, 3), 4, 75)
    whole = trained(*case, update=update)
    right, costs = trained(*case, "reference", update=update)
    assert normwise(whole[0], right) <= 1e-13
    np.testing.assert_allclose(whole[1], costs, rtol=1e-13, atol=0)

    def same(found: Any) -> None:
        for ours, theirs in zip(found, whole, strict=True):  # weights, costs
            np.testing.assert_array_equal(ours, theirs)

    for pieces in (2, 5):
        same(trained(*case, pieces=pieces, update=update))
    before = machine.launches
    monkeypatch.setattr(cuda("cooperative"), "LAUNCH_STEPS", 3)
    same(trained(*case, update=update))
    assert machine.launches - before == 7  # 19 mini-batches by threes


@needs_compiler
def test_a_new_state_is_noticed() -> None:
    flats, update, order = [], sgd(0.9), np.arange(20)
    for backend in ("cuda", "reference"):
        where = gpubp.get_backend(backend)
        parameters = Parameters(where.xp, (5, 4, 3), "float64")
        rng = np.random.default_rng(72)
        parameters.flat[...] = where.asarray(rng.standard_normal(parameters.flat.size))
        parameters.state = where.xp.zeros((1, parameters.flat.size))
        x, y = rng.random((20, 5)), rng.integers(0, 3, 20)
        the_plan = plan((5, 4, 3), 4, dtype="float64", rule=update.rule)
        one = where.kernels.Stepper(the_plan, parameters, x, y)
        one.run(*steps(update, order, 4, 0.1))
        parameters.state = where.xp.zeros_like(parameters.state) + 1
        one.run(*steps(update, order, 4, 0.1))
        flats.append([where.asnumpy(a) for a in (parameters.flat, parameters.state)])
    for found, right in zip(*flats, strict=True):
        assert normwise(found, right) <= 1e-14


@needs_compiler
def test_data_in_windows() -> None:
    """More data than memory: each window is a launch."""
    rng = np.random.default_rng(73)
    x, y = rng.integers(0, 256, (700, 500), dtype=np.uint8), rng.integers(0, 2, 700)
    nets = [gpubp.Network([500, 3, 2], backend="cuda", rng=1, dtype="float64") for _ in range(2)]
    nets[0].fit(x, y, epochs=1, batch_size=7, learning_rate=0.5)
    with imagined(free=300_000), pytest.warns(UserWarning, match="on the host"):
        nets[1].fit(x, y, epochs=1, batch_size=7, learning_rate=0.5)
    np.testing.assert_array_equal(flat(nets[0]), flat(nets[1]))


@needs_compiler
@pytest.mark.parametrize(
    "sizes",
    [(1, 7, 1), (7, 15, 16), (16, 17, 31, 3), (31, 33, 127, 7), (127, 1, 9), (785, 33, 10)],
    ids=str,
)
def test_ragged_shapes(sizes: tuple[int, ...]) -> None:
    """Within twice the error of NumPy's float32, pooled over two sizes of a mini-batch."""
    found, plain, exact = [], [], []
    for batch in (1, 17):
        with imagined(multiprocessors=6):
            found.append(trained(sizes, batch, 2 * batch + 1, dtype="float32")[0])
        plain.append(trained(sizes, batch, 2 * batch + 1, "reference", dtype="float32")[0])
        exact.append(trained(sizes, batch, 2 * batch + 1, "reference")[0])
    assert ratio(found, plain, exact) <= 2


# The machinery: a barrier of the grid on fibers


def barrier_kernel(cupy: Any, cooperative: bool, body: str = "") -> Any:
    text = cuda("source")._file("grid.cuh")
    text += (
        'extern "C" __global__ void kernel(float* out, unsigned* arrived) {\n unsigned goal = 0;\n'
        " for (int i = 0; i < 3; i++) {\n"
        " if (threadIdx.x == 0) out[blockIdx.x] = 10 * i + blockIdx.x;\n"
        f" {body} grid_barrier(arrived, goal);\n"
        " const float other = out[(blockIdx.x + 1) % gridDim.x];\n"
        " grid_barrier(arrived, goal);\n"
        " if (threadIdx.x == 1) out[gridDim.x * (i + 1) + blockIdx.x] = other; } }"
    )
    module = cupy.RawModule(code=text, enable_cooperative_groups=cooperative)
    return module.get_function("kernel")


@needs_compiler
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_barriers_of_the_grid(schedule: str, stand_in: Any) -> None:
    out, arrived = stand_in.empty(28, np.float32), stand_in.zeros(1, np.uint32)
    kernel = barrier_kernel(stand_in, cooperative=True)
    with imagined(schedule=schedule):
        kernel((7,), (40,), (out, arrived))
    for i in range(3):
        wanted = 10 * i + (np.arange(7) + 1) % 7
        np.testing.assert_array_equal(out.get()[7 * i + 7 : 7 * i + 14], wanted)
    assert arrived.get()[0] == 7 * 6


@needs_compiler
def test_a_block_that_does_not_come_is_a_deadlock(stand_in: Any) -> None:
    out, arrived = stand_in.empty(28, np.float32), stand_in.zeros(1, np.uint32)
    kernel = barrier_kernel(stand_in, cooperative=True, body="if (blockIdx.x == 3) return;")
    with pytest.raises(KernelError, match=r"deadlock: .* counter at 6 to reach 7"):
        kernel((7,), (40,), (out, arrived))
    # In an ordinary launch nobody promises that all blocks are there together.
    arrived.fill(0)
    with pytest.raises(KernelError, match="deadlock"), imagined(schedule="greedy"):
        barrier_kernel(stand_in, cooperative=False)((7,), (40,), (out, arrived))
    kernel = barrier_kernel(stand_in, cooperative=True)
    with imagined(multiprocessors=6), pytest.raises(KernelError, match="CuPy launches fewer"):
        kernel((7,), (40,), (out, arrived))
