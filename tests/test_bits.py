"""The history's bits, as those of the weights: the same however an epoch is cut, by the clock or by
resuming, on any number of threads, alone and in a fleet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import CUDA, opened
from oracle import steps

import gpubp
from gpubp import sgd
from gpubp.examples import Examples
from gpubp.optimizer import Update
from gpubp.plan import Plan
from gpubp.progress import Bar
from gpubp.schedule import ReduceOnPlateau
from gpubp.settings import Settings

WAYS = [
    "reference", "cpu tiled", "cpu panels",
    *(
        pytest.param(f"{name.values[0]} {way}", marks=name.marks) if hasattr(name, "marks")
        else f"{name} {way}"
        for name in CUDA
        for way in ("graph", "cooperative", "resident")
    ),
]  # fmt: skip
Cut = Callable[[], int]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[gpubp.Backend]:
    """Each backend in each of its ways to train; on the CPU by all threads that there are."""
    name, _, how = request.param.partition(" ")
    # Patches of its own, which are undone before those of ``opened``.
    with opened(name) as backend, pytest.MonkeyPatch.context() as patch:
        if name == "cpu":
            from gpubp.kernels.cpu import stepper, threaded

            patch.setenv("GPUBP_ENGINE", how)
            patch.setattr(stepper, "_WORTH", 0)
            patch.setattr(threaded, "_FLOPS_WORTH", 0)
            patch.setattr(threaded.ThreadedStepper, "_best", lambda self: self.threads)
        elif how:
            patch.setenv("GPUBP_CUDA_STEPPER", how)
        yield backend


@pytest.fixture
def slow_device(way: gpubp.Backend) -> bool:
    return way.name == "cuda"


def examples(n: int = 61, n_in: int = 70) -> tuple[Any, Any]:
    rng = np.random.default_rng(2)
    return rng.random((n, n_in), np.float32), rng.integers(0, 3, n)


def made(backend: Any, seed: int = 4, dtype: str = "float32") -> gpubp.Network:
    return gpubp.Network([70, 18, 3], backend=backend, rng=seed, dtype=dtype)


FIT: dict[str, Any] = {
    "epochs": 2, "batch_size": 4, "learning_rate": 0.5, "momentum": 0.5, "l2": 1e-3, "l1": 1e-4,
}  # fmt: skip


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[Cut], None]:
    """Says how many mini-batches the next pieces have."""
    count = sgd.Run._count

    def by(pace: Cut) -> None:
        def paced(run: Any) -> int:
            run.pace = pace()
            return count(run)

        monkeypatch.setattr(sgd.Run, "_count", paced)

    return by


def bits(net: gpubp.Network) -> tuple[list[str], bytes]:
    weights = net.backend.asnumpy(net.parameters.flat).tobytes()
    return [cost.hex() for cost in net.history.cost], weights


def test_pieces_and_threads_change_no_bit(
    way: gpubp.Backend, cut: Any, slow_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = examples()
    rng = np.random.default_rng(0)
    paces: list[Cut] = [lambda: 1000, lambda: 1, lambda: 3, lambda: int(rng.integers(1, 9))]
    found = []
    for threads in ("1", "2"):
        monkeypatch.setenv("GPUBP_NUM_THREADS", threads)
        for pace in paces if slow_device else [*paces, lambda: 2, lambda: 7]:
            cut(pace)
            net = made(way)
            net.fit(x, y, **FIT)
            found.append(bits(net))
        if slow_device:
            break
    assert len(set(map(str, found))) == 1


class Stop(gpubp.Callback):
    """Ctrl-C after so many looks at the run."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def on_interval(self, training: Any) -> None:
        self.looks -= 1
        if self.looks == 0:
            raise KeyboardInterrupt


def test_resuming_at_any_step_changes_no_bit(
    way: gpubp.Backend, cut: Any, slow_device: bool
) -> None:
    x, y = examples()
    cut(lambda: 1000)
    unbroken = made(way)
    unbroken.fit(x, y, **FIT)
    for step in (1, 7, 20) if slow_device else range(1, 32):
        net = made(way)
        cut(lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            net.fit(x, y, **FIT, callbacks=[Stop(step)])
        cut(lambda: 1000)
        net.fit(x, y, **FIT, resume=True)
        assert bits(net) == bits(unbroken), step


def test_a_fleet_has_the_bits_of_each_alone(way: gpubp.Backend, cut: Any) -> None:
    x, y = examples()
    cut(lambda: 3)
    fleet = gpubp.Fleet(made(way, seed) for seed in range(3))
    fleet.fit(x, y, **FIT)
    cut(lambda: 1000)
    for seed, net in enumerate(fleet):
        alone = made(way, seed)
        alone.fit(x, y, **FIT)
        assert bits(net) == bits(alone)


@pytest.mark.parametrize("watching", ["stopping", "schedule"])
def test_nearly_tied_costs_are_decided_alike(watching: str, way: gpubp.Backend, cut: Any) -> None:
    """A rate that changes no weight: the costs of the epochs differ in their rounding alone."""
    x, y = examples()  # of float32 the sums in float64 would be exact, and really tied
    how: dict[str, Any] = {"epochs": 8, "batch_size": 4}
    if watching == "stopping":
        callbacks = [gpubp.EarlyStopping(patience=3, monitor="cost")]
        how["learning_rate"] = 1e-30
    else:
        callbacks = []
        how["learning_rate"] = ReduceOnPlateau(1e-30, patience=1, monitor="cost")
    cut(lambda: 1000)
    unbroken = made(way, dtype="float64")
    unbroken.fit(x, y, **how, callbacks=callbacks)
    assert len(set(unbroken.history.cost)) > 1
    assert np.ptp(unbroken.history.cost) <= 1e-6 * unbroken.history.cost[0]
    for step in (5, 23, 40) if way.name == "cuda" else range(3, 60, 7):
        net = made(way, dtype="float64")
        cut(lambda: 1)
        try:
            net.fit(x, y, **how, callbacks=[*callbacks, Stop(step)])
        except KeyboardInterrupt:
            cut(lambda: 2)
            net.fit(x, y, **how, callbacks=callbacks, resume=True)
        assert bits(net) == bits(unbroken)
        assert net.history.learning_rate == unbroken.history.learning_rate
        assert net.training is not None
        assert unbroken.training is not None
        assert net.training.best_after == unbroken.training.best_after


def test_each_mini_batch_has_its_cost(way: gpubp.Backend, cut: Any) -> None:
    """In their order, the ragged last one too: those of one Stepper are the reference's."""
    x, y = examples()
    rows, costs = np.random.default_rng(1).permutation(61), []
    for where in (way, gpubp.get_backend("reference")):
        net = made(where)
        update = Update(l2=1e-2)
        plan = Plan(net.sizes, net.activations, net.cost, 4, net.dtype, update.rule)
        data = [where.asarray(array) for array in (x, y)]
        stepper = where.kernels.Stepper(plan, net.parameters, *data)
        before = where.asnumpy(net.parameters.flat).copy()
        assert stepper.run(*steps(update, rows[:0], 4, 0.5)).shape == (0,)
        np.testing.assert_array_equal(where.asnumpy(net.parameters.flat), before)
        costs.append(stepper.run(*steps(update, rows, 4, 0.5)))
        assert (costs[-1].dtype, costs[-1].shape) == (np.float64, (16,))
    assert costs[1][-1] <= costs[1][0] / 2  # of one example
    np.testing.assert_allclose(*costs, rtol=1e-5)


def test_the_first_epoch_is_as_long_as_the_others(way: gpubp.Backend) -> None:
    """What is compiled, is compiled before the clock runs, and changes nothing."""
    compiling: list[bool] = []
    net = made(way)
    examples_ = Examples(*net.check_data(*examples()))
    settings = Settings(1, 4, 0.1, momentum=0.5)
    run = sgd.Run(net, examples_, None, settings, callbacks=(), resume=False)
    before = way.asnumpy(net.parameters.flat).copy()
    run.prepare()
    np.testing.assert_array_equal(way.asnumpy(net.parameters.flat), before)
    run.begin()
    with pytest.MonkeyPatch.context() as patch:
        if way.name == "cpu":
            from gpubp.kernels.cpu.generated import load_compiled

            trains = load_compiled(os.environ["GPUBP_ENGINE"].replace("tiled", "engine")).train
            patch.setattr(trains, "compile", lambda sig: compiling.append(True))
        elif way.name == "cuda":
            from gpubp.kernels.cuda import source

            patch.setattr(source, "compiled", lambda *a, **k: compiling.append(True))
        run.epoch(lambda: False, Bar(False, [run.training]))
    assert not compiling
    assert (way.asnumpy(net.parameters.flat) != before).any()
