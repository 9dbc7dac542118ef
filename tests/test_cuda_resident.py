"""The resident Stepper's host side: what fits, which is chosen, launches, many networks at once.

What its kernel computes is judged by test_cuda_gates.py, test_kernels.py and test_cuda_fit.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import build
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import imagined
from oracle import normwise, sgd, steps

import gpubp
from gpubp.activation import ACTIVATIONS
from gpubp.cost import COSTS
from gpubp.optimizer import Adam, AdamW, Update
from gpubp.parameters import Parameters
from gpubp.plan import Plan
from gpubp.rule import PLAIN, UpdateRule

needs_compiler = pytest.mark.skipif(bool(build.missing()), reason=str(build.missing()))
SIGMOID, QUADRATIC = ACTIVATIONS["sigmoid"], COSTS["quadratic"]
SIZES, BATCH, ROWS = (15, 6, 3), 4, 43


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.delenv("GPUBP_CUDA_STEPPER", raising=False)
    with installed() as cupy, imagined():
        yield cupy


def cuda(module: str) -> Any:
    return import_module(f"gpubp.kernels.cuda.{module}")


def plan(
    sizes: tuple[int, ...] = SIZES, batch: int = BATCH, dtype: str = "float64",
    rule: UpdateRule = PLAIN,
) -> Plan:  # fmt: skip
    sigma = (SIGMOID,) * (len(sizes) - 1)
    return Plan(sizes, sigma, QUADRATIC, batch, dtype, rule)


# What fits, and which is chosen


def shape(of: Plan, capability: int = 90, networks: int = 1) -> Any:
    capacity = cuda("capacity")
    gpu = capacity.Device((227 if capability >= 90 else 163) << 10, capability >= 90, 132)
    return capacity.choose_shape(of, capacity.Data(1, 8, 1, 256), gpu, networks)


def test_case_s_is_shared_by_eight_blocks() -> None:
    s = plan((784, 30, 10), 10, "float32")
    alone = shape(s)
    assert (alone.cluster, alone.slice) == (8, 98)
    assert alone.seconds <= 1.6e-6  # a prediction
    assert shape(s, 80).cluster == 1
    assert shape(s, networks=132).cluster < 8  # more networks than clusters of 8
    # Layer 0 and the head, two buffers of inputs, and more; a sum that can be done by hand.
    least = 98 * 30 + 10 * 31 + 40 + 2 * 98 * 10 + 2 * 400 + 2 * 8 * 300
    assert 4 * least <= alone.shared_bytes <= 4 * (least + 16 * alone.groups * 20) + 1000


@pytest.mark.parametrize(
    ("sizes", "batch", "words"),
    [
        ((784, 1024, 1024, 10), 20, r"needs [\d,]+ bytes of shared memory in each of 4 blocks"),
        ((784, 30, 10), 128, "does not fit the registers of a block: take a batch_size of at most"),
    ],
)
def test_what_does_not_fit_is_told(
    sizes: Any, batch: int, words: str, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = plan(sizes, batch, "float32")
    with pytest.raises(cuda("capacity").DoesNotFitError, match=words):
        shape(large)
    x, y = stand_in.zeros((batch, sizes[0]), np.uint8), stand_in.zeros(batch, np.int64)
    choose = cuda("stepper").choose_way
    assert choose(large, x, y) in ("graph", "cooperative")
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", "resident")
    with pytest.raises(ValueError, match="GPUBP_CUDA_STEPPER='resident' does not apply: ") as said:
        choose(large, x, y)
    assert re.search(words, str(said.value))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "update", [Update(), Update(Adam()), Update(AdamW(amsgrad=True), 0.1)], ids=str
)
def test_the_batch_size_that_is_advised_fits(update: Update, dtype: str) -> None:
    tall = plan((64, 16, 10), 128, dtype, update.rule)
    with pytest.raises(cuda("capacity").DoesNotFitError, match="a batch_size of at most") as said:
        shape(tall)
    shape(replace(tall, batch_size=int(str(said.value).split()[-1])))


def test_state_takes_shared_memory_and_time() -> None:
    """An array of the state is as large as what the block has of the parameters."""
    plain, momentum, adam = (
        shape(plan(SIZES, rule=update.rule)) for update in (Update(), sgd(0.9), Update(Adam()))
    )
    assert plain.cluster == momentum.cluster == adam.cluster
    trained = 8 * (plain.slice * 6 + 6 * 3 + 3 + 6 + 3)
    for less, more, numbers in ((plain, momentum, 2), (momentum, adam, 6)):
        between = more.shared_bytes - less.shared_bytes
        assert trained <= between <= trained + 2 * 8 * numbers + 4 * 16
    assert plain.cycles <= momentum.cycles < adam.cycles


def test_the_rule_and_its_override(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = cuda("stepper")
    x, y = stand_in.zeros((60, 784), np.uint8), stand_in.zeros(60, np.int64)
    chosen = {
        sizes: module.choose_way(plan(sizes, batch, "float32"), x, y)
        for sizes, batch in (((784, 30, 10), 10), ((784, 128, 10), 128), ((784, 500, 10), 50))
    }
    assert list(chosen.values()) == ["resident", "cooperative", "cooperative"]
    assert module.describe().startswith("resident where a network fits 232,448 bytes a block")
    for name in module.WAYS:
        monkeypatch.setenv("GPUBP_CUDA_STEPPER", name)
        assert module.choose_way(plan((784, 30, 10), 10, "float32"), x, y) == name
        assert module.describe() == f"{name} (GPUBP_CUDA_STEPPER overrides)"
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", "rezident")
    with pytest.raises(ValueError, match="'rezident': did you mean 'resident'"):
        module.choose_way(plan(), x, y)


# Launches


def made(update: Update | None = None, rows: int = ROWS, backend: str = "cuda") -> Any:
    """(Stepper, parameters, an order) of a small network on ``rows`` examples on the host."""
    rng, where = np.random.default_rng(61), gpubp.get_backend(backend)
    rule = (update or Update()).rule
    parameters = Parameters(where.xp, SIZES, "float64")
    parameters.flat[...] = where.asarray(rng.standard_normal(parameters.flat.size))
    parameters.state = where.xp.zeros((len(rule.state), parameters.flat.size))
    x, y = rng.random((rows, SIZES[0])), rng.integers(0, SIZES[-1], rows)
    stepper = where.kernels.Stepper(plan(rule=rule), parameters, x, y)
    assert backend != "cuda" or stepper.way == "resident"
    return stepper, parameters, rng.permutation(rows)


@needs_compiler
@pytest.mark.parametrize("update", [sgd(0.9, True, 1e-3, 1e-4), Update(Adam())], ids=str)
def test_pieces_windows_and_launches_change_no_bit(
    update: Update, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step at a learning rate of its own."""
    one, whole, order = made(update)
    numbers = update.numbers(1, np.linspace(0.1, 0.5, -(-ROWS // BATCH)))
    costs = one.run(order, numbers)
    right, truth, _ = made(update, backend="reference")
    np.testing.assert_allclose(costs, right.run(order, numbers), rtol=1e-13, atol=0)
    assert normwise(whole.flat.get(), truth.flat) <= 1e-13
    pieces, found, _ = made(update)
    again = [
        pieces.run(order[step * BATCH : (step + 3) * BATCH], numbers[step : step + 3])
        for step in range(0, len(numbers), 3)
    ]
    np.testing.assert_array_equal(found.flat.get(), whole.flat.get())
    np.testing.assert_array_equal(np.concatenate(again), costs)
    monkeypatch.setattr(cuda("resident"), "_LAUNCH_SECONDS", 1e-9)
    short, found, _ = made(update)
    launched, kernel = [], short._way._family._kernel
    monkeypatch.setattr(
        short._way._family, "_kernel", lambda *a: (launched.append(a[-2:]), kernel(*a))
    )
    np.testing.assert_array_equal(short.run(order, numbers), costs)
    assert [int(end) for _, end in launched] == [*range(BATCH, ROWS, BATCH), ROWS]
    np.testing.assert_array_equal(found.flat.get(), whole.flat.get())
    np.testing.assert_array_equal(found.state.get(), whole.state.get())


@needs_compiler
def test_a_launch_ends_at_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the time that a launch may take is not a whole number of steps."""
    one, whole, order = made()
    costs = one.run(*steps(Update(), order, BATCH, 0.3))
    seconds = one._way._family.shape.seconds
    monkeypatch.setattr(cuda("resident"), "_LAUNCH_SECONDS", 2.5 * seconds)
    cut, found, _ = made()
    launched, kernel = [], cut._way._family._kernel
    monkeypatch.setattr(
        cut._way._family, "_kernel", lambda *a: (launched.append(int(a[-1])), kernel(*a))
    )
    np.testing.assert_array_equal(cut.run(*steps(Update(), order, BATCH, 0.3)), costs)
    np.testing.assert_array_equal(found.flat.get(), whole.flat.get())
    assert launched == [*range(2 * BATCH, ROWS, 2 * BATCH), ROWS]


def test_shared_memory_is_enough_or_it_is_not(stand_in: Any) -> None:
    """To the byte: what the kernel has beside Shared counts, too."""
    capacity, data = cuda("capacity"), cuda("capacity").Data(1, 8, 1, 256)

    def fits(room: int) -> bool:
        try:
            found = capacity.choose_shape(plan(), data, capacity.Device(room, False, 8))
        except capacity.DoesNotFitError:
            return False
        assert found.shared_bytes + capacity._STATIC_BYTES <= room
        return True

    enough = 227 << 10
    assert fits(enough)
    least = next(room for room in range(capacity._STATIC_BYTES, enough, 16) if fits(room))
    assert not any(fits(least - n) for n in (16, 17, 128, 240, 256))
    assert fits(least + 1)


@needs_compiler
def test_a_new_state_and_rate_are_noticed() -> None:
    flats, update = [], sgd(0.9)
    for backend in ("cuda", "reference"):
        one, parameters, order = made(update, backend=backend)
        xp = gpubp.get_backend(backend).xp
        for rate in (0.1, 0.2):
            one.run(*steps(update, order, BATCH, rate))
            parameters.state = xp.zeros_like(parameters.state) + 1
        one.run(*steps(update, order, BATCH, 0.1))
        flats.append([gpubp.get_backend(backend).asnumpy(a)
                      for a in (parameters.flat, parameters.state)])  # fmt: skip
    for found, right in zip(*flats, strict=True):
        assert normwise(found, right) <= 1e-14


@needs_compiler
def test_an_interrupt_leaves_the_device_at_rest(
    monkeypatch: pytest.MonkeyPatch, stand_in: Any
) -> None:
    monkeypatch.setattr(cuda("resident"), "_LAUNCH_SECONDS", 1e-9)
    one, parameters, order = made()
    before, kernel, calls = parameters.flat.get(), one._way._family._kernel, []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > 3:
            raise KeyboardInterrupt
        kernel(*arguments)

    monkeypatch.setattr(one._way._family, "_kernel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.run(*steps(Update(), order, BATCH, 0.1))
    after = parameters.flat.get()
    assert (after != before).any()
    stand_in.cuda.Device().synchronize()
    np.testing.assert_array_equal(parameters.flat.get(), after)


@needs_compiler
@pytest.mark.parametrize("shift", [0, 1, 2, 4])
def test_inputs_at_any_address(shift: int, stand_in: Any) -> None:
    """Rows of 16 bytes are read 4 bytes at a time, where they lie so."""
    rng = np.random.default_rng(62)
    x, y = rng.integers(0, 256, (20, 16), np.uint8), rng.integers(0, 3, 20)
    buffer = stand_in.zeros(20 * 16 + shift, np.uint8)
    there = buffer[shift:].reshape(20, 16)
    there.set(x)
    flats = []
    for where, data in (("cuda", there), ("reference", x)):
        backend = gpubp.get_backend(where)
        parameters = Parameters(backend.xp, (16, 5, 3), "float64")
        parameters.flat[...] = 0.1
        stepper = backend.kernels.Stepper(plan((16, 5, 3)), parameters, data, backend.asarray(y))
        stepper.run(*steps(Update(), np.arange(20), BATCH, 0.5))
        flats.append(backend.asnumpy(parameters.flat))
        if where == "cuda":
            assert stepper._way._family.shape.fetch == {0: 4, 1: 1, 2: 2, 4: 4}[shift]
    assert normwise(*flats) <= 1e-14


# Many networks


def family(stand_in: Any, members: int, networks: int = 1) -> tuple[Any, list[Any], Any, Any]:
    """(family, members, x, y): networks of one plan, each with numbers of its own at each step."""
    resident, capacity, rng = cuda("resident"), cuda("capacity"), np.random.default_rng(63)
    x = stand_in.asarray(rng.integers(0, 256, (30, SIZES[0]), np.uint8))
    y = stand_in.asarray(rng.integers(0, SIZES[-1], 30))
    kind = plan(rule=sgd(0.5, l2=0.01).rule)
    found = []
    for i in range(members):
        parameters = Parameters(stand_in, SIZES, "float64")
        parameters.flat.set(rng.standard_normal(parameters.flat.size))
        parameters.state = stand_in.zeros((1, parameters.flat.size))
        order, examples = stand_in.asarray(rng.permutation(30)), 30 - 5 * i
        rates = 0.1 * (i + 1) * np.linspace(0.5, 1, -(-examples // BATCH))
        numbers = sgd(0.5 + 0.1 * i, l2=0.01 * (i + 1)).numbers(1, rates)
        there = stand_in.asarray(numbers)
        found.append(resident.Member(kind, parameters, order, examples, there))
    data = resident.data_layout(x, y)
    chosen = capacity.choose_shape(kind, data, resident.device_limits(), networks)
    return resident.Family(kind, chosen, x, y), found, x, y


@needs_compiler
@pytest.mark.parametrize("clusters", [(1,), (4,)], ids=["blocks", "clusters"])
def test_networks_side_by_side_are_each_as_if_alone(
    clusters: tuple[int, ...], stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with weights, order, length, learning rate and rule's numbers of their own."""
    monkeypatch.setattr(cuda("capacity"), "CLUSTERS", clusters)
    results = []
    for together in (True, False):
        kernel, members, x, y = family(stand_in, 5)
        costs = kernel.costs(5, 6)
        costs.fill(0)  # what those leave that train on less
        if together:
            kernel.enqueue(members, x, y, costs)
        else:
            for i, member in enumerate(members):
                kernel.enqueue([member], x, y, costs[i : i + 1])
        flats = [a.get() for m in members for a in (m.parameters.flat, m.parameters.state)]
        results.append((*flats, costs.get()))
    for ours, alone in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, alone)
    right = Parameters(np, SIZES, "float64")
    _, members, x, y = family(stand_in, 5)
    last = members[-1]
    right.flat[...], right.state = last.parameters.flat.get(), np.zeros((1, right.flat.size))
    reference = gpubp.get_backend("reference").kernels.Stepper(last.plan, right, x.get(), y.get())
    costs = reference.run(last.order.get()[: last.examples], last.numbers.get())
    assert normwise(results[0][-3], right.flat) <= 1e-13
    ours = results[0][-1][-1].sum(axis=1)
    np.testing.assert_allclose(ours[: len(costs)], costs, rtol=1e-13, atol=0)
    assert not ours[len(costs) :].any()


def test_a_family_has_one_kind_of_network(stand_in: Any) -> None:
    kernel, members, x, y = family(stand_in, 1)
    for other, words in (
        (plan(), r"network 0 is .*own_numbers=\('eta',\).* in a family of .*'eta', 'mu'"),
        (replace(members[0].plan, batch_size=5), "network 0 is .* in a family of"),
    ):
        with pytest.raises(ValueError, match=words):
            kernel.enqueue([replace(members[0], plan=other)], x, y, kernel.costs(1, 6))
