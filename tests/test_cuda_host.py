"""The host's side of CUDA: tiles, texts, graphs, pieces, data larger than memory, no memory."""

from __future__ import annotations

import itertools
import mmap
import re
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import build
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import CUDARuntimeError, imagined, machine
from oracle import flat, normwise, sgd, steps

import gpubp
from gpubp.activation import ACTIVATIONS
from gpubp.cost import COSTS
from gpubp.errors import DeviceMemoryError
from gpubp.optimizer import Adam, Update
from gpubp.parameters import Parameters
from gpubp.plan import Plan

needs_compiler = pytest.mark.skipif(bool(build.missing()), reason=str(build.missing()))
SIZES, BATCH = (5, 4, 3), 4


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", "graph")  # test_cuda_resident.py has the other
    with installed() as cupy:
        yield cupy


def cuda(module: str) -> Any:
    return import_module(f"gpubp.kernels.cuda.{module}")


# Tiles and texts


def test_every_tile_holds_what_tile_cuh_asks_of_it() -> None:
    sizes = (1, 2, 3, 7, 8, 10, 30, 100, 128, 784, 1024, 5000)
    for rows, columns, depth in itertools.product(sizes, repeat=3):
        for dtype, itemsize in (("float32", 4), ("float64", 8)):
            tile = cuda("tiling").choose_tile(rows, columns, depth, dtype)
            assert 128 <= tile.threads <= 256
            assert tile.threads % 32 == 0
            assert tile.bm % tile.tm == tile.bn % tile.tn == 0
            assert tile.bk % 8 == tile.bk % tile.slices == 0
            stage = 2 * tile.bk * (tile.bm + tile.bn + 8) * itemsize
            partial = tile.slices * tile.bm // tile.tm * tile.bn * itemsize
            assert stage + partial <= 48 << 10  # static shared memory
            assert tile.blocks(rows, columns) >= min(100, rows * columns / 32)


def test_the_copied_tile_holds_what_tile_async_cuh_asks_of_it() -> None:
    tiling = cuda("tiling")
    tile = tiling.COPIED
    run = 16 // 4
    assert tile.bk // run % tile.slices == tile.tm % run == tile.tn % run == 0
    for across in (tile.bk, tile.bm, tile.bn):  # runs of a row, along k and across
        assert tile.threads % (across // run) == 0
    lines = max(tile.bm * (tile.bk + run), tile.bk * (tile.bm + run))
    biases = tile.threads * run
    assert 4 * (tile.stages * 2 * lines + biases) <= 48 << 10  # static shared memory
    assert tile.bk % 32 == 0  # so that rows along k begin 4 words further than 32 banks


def test_operands_are_copied_where_they_lie_as_the_tile_wants_them(stand_in: Any) -> None:
    """Of case L all but the output layer's products, whose lines of ten are no runs of four; of a
    network whose lines are odd, or in float64, or on tensor cores, none."""
    from gpubp.cost import COSTS
    from gpubp.parameters import Parameters
    from gpubp.plan import Plan

    def copied(n_in: int, dtype: str = "float32", precision: str | None = None) -> list[Any]:
        sizes, sigma = (n_in, 1024, 1024, 10), (ACTIVATIONS["sigmoid"],) * 3
        plan = Plan(sizes, sigma, COSTS["quadratic"], 512, dtype, precision=precision)
        x, y = stand_in.zeros((600, n_in), np.uint8), stand_in.zeros(600, np.int64)
        feed = cuda("feed").make_feed(x, y, 512)
        batch = cuda("minibatch").MiniBatch(plan, Parameters(stand_in, sizes, dtype), feed, 2)
        kernels = (batch.layers._kernels, batch._bp2, batch._update)
        return [batch.inputs.gather, *([k.tile.stages > 0 for k in part] for part in kernels)]

    with imagined(collected={}):
        assert copied(784) == [False, [True, True, False], [True, False], [True, True, False]]
        odd = [True, [False, True, False], [True, False], [False, True, False]]
        assert copied(785) == odd
        none = [True, [False] * 3, [False] * 2, [False] * 3]
        assert copied(784, "float64") == copied(784, "float32", "tf32") == none


def test_every_tile_holds_what_tile_mma_cuh_asks_of_it() -> None:
    sizes = (1, 2, 7, 8, 10, 16, 17, 30, 100, 128, 784, 1024, 5000)
    for rows, columns, depth in itertools.product(sizes, repeat=3):
        for precision, step in (("tf32", 8), ("bf16", 16)):
            tile = cuda("tiling").choose_tile(rows, columns, depth, precision)
            assert 128 <= tile.threads <= 256
            assert tile.bm % tile.tm == tile.bn % tile.tn == tile.tm % 16 == tile.tn % 8 == 0
            assert tile.bk % (step * tile.slices) == tile.bk % 16 == tile.threads % tile.bm == 0
            words = tile.bk // (step // 8)
            stage = 2 * 4 * max(words * (tile.bm + tile.bn + 8), (words + 8) * (tile.bm + tile.bn))
            assert stage <= 44 << 10  # static shared memory, with the biases' sums beside it
            assert tile.blocks(rows, columns) >= min(100, rows * columns / 256)


@pytest.mark.parametrize(
    ("size", "tile"),
    [
        ((10, 30, 784), (4, 8)),  # S, forward
        ((30, 784, 10), (8, 16)),  # S, weight gradient
        ((128, 128, 784), (8, 16)),  # M
        ((128, 784, 128), (32, 32)),
        ((512, 1024, 1024), (64, 64)),  # L
        ((1024, 784, 512), (64, 64)),
        ((512, 10, 1024), (4, 8)),
    ],
)
def test_tiles_of_the_measuring_cases(size: tuple[int, int, int], tile: tuple[int, int]) -> None:
    chosen = cuda("tiling").choose_tile(*size, "float32")
    assert (chosen.bm, chosen.bn) == tile


def test_texts_are_complete_and_say_what_they_are() -> None:
    text = cuda("source").source(
        "bp2", "float64", {"sigma_prime": ACTIVATIONS["gelu"].sigma_prime}, N=3, K="k"
    )
    assert text.startswith("typedef double T;\n#define N 3\n#define K k\n")
    assert ACTIVATIONS["gelu"].sigma_prime.to_c() in text
    assert "#include" not in text
    assert text.isascii()


def test_every_kernel_file_holds_the_kernel_of_its_name() -> None:
    folder = Path(cuda("source").__file__).parent
    stems = sorted(path.stem for path in folder.glob("*.cu"))
    assert len(stems) == 12
    for stem in stems:
        code = (folder / f"{stem}.cu").read_text()
        bounds, cluster = r"(?:__launch_bounds__\(\w+(?:, 1)?\)\s)?", r"(?:#if(?:.|\n)*?#endif\n)?"
        declared = rf"__global__ void {bounds}{cluster}(\w+)\("
        assert re.findall(declared, code) == [stem]
        assert code.startswith(f"// {stem}: " if "bp" not in stem else f"// {stem.upper()}: ")


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bytes_are_read_as_exactly_as_by_division(dtype: str, stand_in: Any) -> None:
    source = cuda("source")
    text = source.source("next_steps", dtype, BLOCK=64) + source._file("common.cuh")
    text += (
        'extern "C" __global__ void read(const unsigned char* x, T* out)\n'
        "{ out[threadIdx.x] = as_input(x[threadIdx.x]); }\n"
    )
    x, out = stand_in.asarray(np.arange(256, dtype=np.uint8)), stand_in.empty(256, dtype)
    source.compiled(text, "read")((1,), (256,), (x, out))
    right = np.arange(256).astype(dtype) / np.dtype(dtype).type(255)
    np.testing.assert_array_equal(out.get(), right)


@needs_compiler
def test_a_kernel_is_compiled_once(stand_in: Any) -> None:
    made = []

    class Counted(stand_in.RawModule):  # type: ignore[misc, name-defined]
        def __init__(self, **named: Any) -> None:
            made.append(named["code"])
            super().__init__(**named)

    stand_in.RawModule = Counted
    for _ in range(2):
        train(21)
    assert len(made) == len(set(made)) == 7  # 2 forward, bp1, bp2, 2 updates, next_steps


# Graphs and pieces


def stepper(
    rows: int, update: Update | None = None, backend: str = "cuda", dtype: str = "float64"
) -> Any:
    """A Stepper for ``rows`` examples on the host, and its parameters."""
    rng = np.random.default_rng(53)
    where, rule = gpubp.get_backend(backend), (update or Update()).rule
    parameters = Parameters(where.xp, SIZES, dtype)
    parameters.flat[...] = where.asarray(rng.standard_normal(parameters.flat.size), dtype)
    parameters.state = where.xp.zeros((len(rule.state), parameters.flat.size), dtype)
    sigma = (ACTIVATIONS["tanh"], ACTIVATIONS["sigmoid"])
    plan = Plan(SIZES, sigma, COSTS["quadratic"], BATCH, dtype, rule)
    x, y = rng.random((rows, 5)).astype(dtype), rng.integers(0, 3, rows)
    made = where.kernels.Stepper(plan, parameters, x, y)
    return getattr(made, "_stepper", made), parameters


def plain(rows: int) -> tuple[Any, Any]:
    """What ``run`` takes to train on so many examples by plain SGD."""
    return steps(Update(), np.arange(rows), BATCH, 0.1)


def train(
    rows: int, pieces: int = 1, backend: str = "cuda", update: Update | None = None
) -> tuple[Any, Any]:
    """(weights, costs of the mini-batches) after an epoch in that many pieces of whole steps, each
    step at a learning rate of its own."""
    one, parameters = stepper(rows, update, backend)
    numbers = (update or Update()).numbers(1, np.linspace(0.1, 0.5, -(-rows // BATCH)))
    order, costs = np.random.default_rng(54).permutation(rows), []
    cuts = [round(i * rows / pieces / BATCH) * BATCH for i in range(pieces)]
    for start, stop in itertools.pairwise([*cuts, rows]):
        if stop > start:
            costs.append(one.run(order[start:stop], numbers[start // BATCH : -(-stop // BATCH)]))
    return gpubp.get_backend(backend).asnumpy(parameters.flat), np.concatenate(costs)


@needs_compiler
def test_a_piece_is_graphs_and_a_remainder(monkeypatch: pytest.MonkeyPatch) -> None:
    launched, replayed = [], []
    one, _ = stepper(BATCH * 140 + 3)
    way = one._way
    enqueue, graph = way.minibatch.enqueue, type(way)._graph

    def counted(m: int, offset: int) -> None:
        launched.append((m, offset, machine.capturing is not None))
        enqueue(m, offset)

    monkeypatch.setattr(way.minibatch, "enqueue", counted)
    monkeypatch.setattr(
        type(way), "_graph", lambda self, steps: replayed.append(steps) or graph(self, steps)
    )
    one.run(*plain(BATCH * 140 + 3))
    assert cuda("graphs").GRAPH_STEPS == 64
    assert replayed == [64, 64, *[1] * 11]
    assert launched[0] == (BATCH, 0, False)  # the first, which loads the kernels
    assert launched[-1] == (3, 0, False)  # the ragged last
    captured = [offset for _, offset, capturing in launched[1:-1] if capturing]
    assert captured == [*range(0, 64 * BATCH, BATCH), 0]  # each graph once
    one.run(*plain(BATCH * 65))
    assert len(launched) == 67  # all of it replayed
    assert replayed[13:] == [64, 1]


@needs_compiler
@pytest.mark.parametrize("update", [Update(), sgd(0.9, True, 1e-3, 1e-4), Update(Adam())], ids=str)
def test_pieces_and_graphs_change_no_bit(update: Update) -> None:
    rows = BATCH * 75 + 1
    whole, costs = train(rows, update=update)
    for pieces in (2, 7, 40):
        found = train(rows, pieces, update=update)
        np.testing.assert_array_equal(found[0], whole)
        np.testing.assert_array_equal(found[1], costs)
    right, truth = train(rows, backend="reference", update=update)
    assert normwise(whole, right) <= 1e-13
    np.testing.assert_allclose(costs, truth, rtol=1e-13, atol=0)


@needs_compiler
def test_a_new_state_is_noticed() -> None:
    """A second fit with momentum has a state of its own; captured graphs know the old one's."""
    flats, update, order = [], sgd(0.9), np.arange(40)
    for backend in ("cuda", "reference"):
        one, parameters = stepper(40, update, backend)
        xp = gpubp.get_backend(backend).xp
        for _ in range(2):
            one.run(*steps(update, order, BATCH, 0.1))
            parameters.state = xp.zeros_like(parameters.state) + 1
        one.run(*steps(update, order, BATCH, 0.1))
        flats.append([gpubp.get_backend(backend).asnumpy(a)
                      for a in (parameters.flat, parameters.state)])  # fmt: skip
    for found, right in zip(*flats, strict=True):
        assert normwise(found, right) <= 1e-14


@needs_compiler
@pytest.mark.parametrize("update", [Update(), Update(Adam())], ids=["plain", "Adam"])
def test_a_stepper_is_made_before_the_state(update: Update) -> None:
    """As fit makes it: what is captured then knows the state's address, and for a rule without one
    nothing is made twice."""
    one, parameters = stepper(40, update)
    parameters.state = parameters.state[:0]
    first = cuda("graphs").Graphs(one.plan, parameters, one._feed, one._stream)
    one._way, made = first, first.minibatch
    n = parameters.flat.size
    parameters.state = gpubp.get_backend("cuda").xp.zeros((len(update.rule.state), n))
    order = np.random.default_rng(54).permutation(40)
    costs = one.run(order, update.numbers(1, np.linspace(0.1, 0.5, -(-40 // BATCH))))
    assert (first.minibatch is made) == (not update.rule.state)
    whole, right = train(40, update=update)
    np.testing.assert_array_equal(parameters.flat.get(), whole)
    np.testing.assert_array_equal(costs, right)


@needs_compiler
def test_an_interrupt_leaves_the_device_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    one, parameters = stepper(40)
    one.run(*plain(40))
    before = parameters.flat.get()
    way = one._way
    graph = way._graph

    def interrupted(steps: int) -> Any:
        monkeypatch.setattr(way, "_graph", broken)
        return graph(steps)

    def broken(steps: int) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(way, "_graph", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.run(*plain(40))
    after = parameters.flat.get()
    assert (after != before).any()
    gpubp.get_backend("cuda").xp.cuda.Device().synchronize()
    np.testing.assert_array_equal(parameters.flat.get(), after)


@needs_compiler
def test_a_failed_capture_is_told_and_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = stepper(40)
    one.run(*plain(BATCH))
    with monkeypatch.context() as patch:
        patch.setattr(one._way.minibatch, "next_steps", lambda examples, steps: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one.run(*plain(2 * BATCH))
    assert np.isfinite(one.run(*plain(2 * BATCH))).all()


# Memory


@needs_compiler
@pytest.mark.parametrize("which", ["graph", "resident"])
@pytest.mark.parametrize("targets", [False, True], ids=["labels", "targets"])
def test_more_data_than_memory_are_streamed(
    targets: bool, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", which)
    rng = np.random.default_rng(55)
    x = rng.integers(0, 256, (1000, 500), dtype=np.uint8)
    y = rng.random((1000, 2)) if targets else rng.integers(0, 2, 1000)
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 7, "learning_rate": 0.5}
    nets = []
    for windows in (False, True):
        net = gpubp.Network([500, 3, 2], backend="cuda", rng=1, dtype="float64")
        if not windows:
            net.fit(x, y, **settings)
        else:
            monkeypatch.setattr("gpubp.arrays._CHUNK_BYTES", 64 << 10)
            with imagined(free=300_000):
                with pytest.warns(UserWarning, match="stay on the host") as said:
                    net.fit(x, y, **settings, validation=(x, y))
                assert re.search(r"windows of 1\d\d examples", str(said[0].message))
                evaluation = net.evaluate(x, y)
            assert evaluation.cost == net.history[-1].validation_cost
        nets.append(net)
    np.testing.assert_array_equal(flat(nets[0]), flat(nets[1]))
    costs = [net.history.cost for net in nets]
    np.testing.assert_allclose(costs[0], costs[1], rtol=1e-15)


@needs_compiler
@pytest.mark.parametrize("which", ["graph", "cooperative", "resident"])
def test_many_windows_of_one_run_do_not_overtake_each_other(
    which: str, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two page-locked buffers for seven windows: none is filled anew before it has been copied."""
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", which)
    monkeypatch.setattr(cuda("feed"), "_WINDOW_BYTES", 5_000)
    rng, sizes = np.random.default_rng(5), (50, 3, 2)
    x, y = rng.integers(0, 256, (600, 50), np.uint8), rng.integers(0, 2, 600)
    sigma = (ACTIVATIONS["sigmoid"],) * 2
    plan = Plan(sizes, sigma, COSTS["quadratic"], 6, "float64")
    found = []
    for free in (1 << 30, 40_000):
        parameters = Parameters(stand_in, sizes, "float64")
        parameters.flat[...] = stand_in.asarray(np.linspace(-1, 1, parameters.flat.size))
        with imagined(free=free), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stepper = gpubp.get_backend("cuda").kernels.Stepper(plan, parameters, x, y)
            assert (stepper._feed.rows < 100) == (free < 1 << 30)
            order = np.random.default_rng(6).permutation(600)
            stepper.run(*steps(Update(), order, 6, 0.5))
        found.append(parameters.flat.get())
    np.testing.assert_array_equal(found[0], found[1])


def host(parameters: Parameters) -> Any:
    return parameters.flat.get() if hasattr(parameters.flat, "get") else parameters.flat


@needs_compiler
@pytest.mark.parametrize("which", ["graph", "cooperative", "resident"])
def test_rows_beyond_two_gigabytes_are_found(
    which: str, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row times width is more than 32 bits hold. Only pages that are read are there."""
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", which)
    rows, sizes, few = 2_800_000, (784, 3, 2), 12
    pages = np.frombuffer(
        mmap.mmap(-1, rows * sizes[0], mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8
    )
    images = np.random.default_rng(9).integers(0, 256, (few, sizes[0]), np.uint8)
    pages[-images.size :] = images.ravel()
    x = stand_in.empty(1, np.uint8)
    x._array, x._memory.bytes = pages.reshape(rows, sizes[0]), pages
    labels = np.zeros(rows, np.int64)
    labels[-few:] = np.arange(few) % 2
    sigma = (ACTIVATIONS["sigmoid"],) * 2
    plan = Plan(sizes, sigma, COSTS["quadratic"], 4, "float64")
    found = []
    for kernels, xp, given in (
        (gpubp.get_backend("cuda").kernels, stand_in, (x, stand_in.asarray(labels))),
        (gpubp.get_backend("reference").kernels, np, (images, labels[-few:])),
    ):
        parameters = Parameters(xp, sizes, "float64")
        start = np.linspace(-1, 1, parameters.flat.size)
        parameters.flat[...] = xp.asarray(start)
        order = np.arange(few) + (rows - few if xp is stand_in else 0)
        kernels.Stepper(plan, parameters, *given).run(*steps(Update(), order, 4, 0.5))
        found.append(host(parameters))
    assert normwise(found[0], found[1]) <= 1e-13


@needs_compiler
@pytest.mark.parametrize("which", ["graph", "cooperative", "resident"])
def test_no_rows_and_odd_addresses(
    which: str, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that begin at an odd address, and weights of a layer that are off their runs."""
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", which)
    sizes, n = (16, 3, 5, 8, 8), 20
    rng = np.random.default_rng(4)
    images, labels = rng.integers(0, 256, (n, 16), np.uint8), rng.integers(0, 8, n)
    shifted = stand_in.empty(images.size + 1, np.uint8)
    shifted[1:] = stand_in.asarray(images.ravel())
    sigma = (ACTIVATIONS["sigmoid"],) * 4
    plan = Plan(sizes, sigma, COSTS["quadratic"], 6, "float32")
    found = []
    for name, xp, x in (("cuda", stand_in, shifted[1:].reshape(n, 16)), ("reference", np, images)):
        parameters = Parameters(xp, sizes, "float32")
        start = np.linspace(-1, 1, parameters.flat.size, dtype=np.float32)
        parameters.flat[...] = xp.asarray(start)
        if xp is stand_in:
            assert x.data.ptr % 2 == 1
            run_length = cuda("launch").run_length
            assert run_length(x, "float32") == 1
            assert parameters.weights[3].data.ptr % 16 != 0
            assert run_length(parameters.weights[3], "float32") == 1
        stepper = gpubp.get_backend(name).kernels.Stepper(plan, parameters, x, xp.asarray(labels))
        assert stepper.run(*plain(0)).shape == (0,)
        np.testing.assert_array_equal(host(parameters), start)
        stepper.run(*steps(Update(), np.arange(n), 6, 0.5))
        found.append(host(parameters))
    assert normwise(found[0], found[1]) <= 1e-6


@needs_compiler
def test_running_out_of_memory_says_how_much_and_what_to_do(stand_in: Any) -> None:
    x, y = np.zeros((1000, 50), np.float32), np.zeros(1000, int)
    for memory, what in ((100_000, "500 examples of the"), (300_000, "the layers of a mini-batch")):
        with imagined(free=memory):
            net = gpubp.Network([50, 300, 2], backend="cuda", rng=0)
            with pytest.raises(DeviceMemoryError, match=what) as caught:
                net.fit(x, y, epochs=1, batch_size=500, learning_rate=1.0)
        assert "train with a smaller batch_size" in str(caught.value)
        assert re.search(r"need [\d,]+ bytes on the GPU, which has [\d,]+ free", str(caught.value))
        assert "\n" not in str(caught.value)
    too_large = pytest.raises(MemoryError, match=r"sizes=\[50, 3000, 2\] are .* bytes of float32")
    with imagined(free=100_000), too_large:
        gpubp.Network([50, 3000, 2], backend="cuda")
    with imagined(free=60_000):
        net = gpubp.Network([50, 3, 2], backend="cuda", rng=0)
        on_device = stand_in.asarray(x.astype(np.uint8))
        with pytest.raises(DeviceMemoryError, match=r"the training data need .* pass x as uint8"):
            net.fit(on_device, np.zeros((1000, 2)), epochs=1, batch_size=5, learning_rate=1.0)


def test_device_errors_are_not_mistaken_for_missing_memory() -> None:
    with (
        pytest.raises(CUDARuntimeError, match="illegal"),
        cuda("memory").allocating("data", 1, "less"),
    ):
        raise CUDARuntimeError("cudaErrorIllegalAddress", 700, "an illegal memory access")
