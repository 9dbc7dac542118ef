"""What a run leaves behind for the next one, ties, and threads that lose each other."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np
import pytest
from oracle import flat, host, steps
from oracle import sgd as update_by
from test_engines import case
from test_sgd import FIT, blobs, network

import gpubp
from gpubp import sgd
from gpubp.kernels.cpu.paneled import PanelStepper
from gpubp.kernels.cpu.tiled import TiledStepper
from gpubp.optimizer import Update
from gpubp.schedule import ReduceOnPlateau
from gpubp.training import Training

X, Y = blobs(60)


def test_a_fit_after_a_divergence_carries_no_error(backend: gpubp.Backend) -> None:
    fleet = gpubp.Fleet(
        gpubp.Network([5, 4, 3], activation="identity", rng=seed, backend=backend)
        for seed in range(2)
    )
    rates, start = [1e30, 1e-3], fleet[0].parameters.flat.copy()
    first = fleet.fit(X, Y, epochs=2, batch_size=10, learning_rate=rates)
    assert isinstance(first[0].error, gpubp.DivergenceError)
    assert (first[1].error, first[1].status) == (None, "finished")
    fleet[0].parameters.flat[...] = start  # what was the last to be finite is huge
    again = fleet.fit(X, Y, epochs=2, batch_size=10, learning_rate=1e-3)
    assert [(row.error, row.status) for row in again] == [(None, "finished")] * 2
    assert [row.epochs for row in again] == [2, 2]
    assert [(row.error, row.status) for row in fleet.result] == [(None, "finished")] * 2


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_second_fit_begins_at_rest(backend: gpubp.Backend, nesterov: bool) -> None:
    """As a network would that has these weights, this generator and no past."""
    how = FIT | {"momentum": 0.9, "nesterov": nesterov}
    net, fresh = network(backend), network(backend)
    net.fit(X, Y, **how)
    assert host(net, [net.parameters.state])[0].any()
    fresh.parameters.flat[...] = net.parameters.flat
    fresh.rng.bit_generator.state = net.rng.bit_generator.state
    for one in (net, fresh):
        one.fit(X, Y, **how)
    np.testing.assert_array_equal(flat(net), flat(fresh))
    net.fit(X, Y, **FIT)
    assert net.parameters.state.shape == (0, net.parameters.flat.size)


COSTS = [5.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0, 2.0]


def run_on(costs: list[float], monkeypatch: pytest.MonkeyPatch, **how: Any) -> gpubp.Network:
    """A fit whose epochs of one mini-batch have these costs."""
    net = network("reference")
    coming = iter(costs)
    stepper = net.backend.kernels.Stepper

    class Told(stepper):  # type: ignore[name-defined,misc]
        def run(self, order: Any, numbers: Any) -> Any:
            super().run(order, numbers)
            return np.array([next(coming) * len(order)])

    with monkeypatch.context() as patch:
        patch.setattr(net.backend.kernels, "Stepper", Told)
        net.fit(X, Y, **{"epochs": len(costs), "batch_size": 60, "learning_rate": 0.5} | how)
    return net


@pytest.mark.parametrize(("patience", "best", "ended"), [(2, 2, 4), (3, 5, 8), (4, 9, 9)])
def test_of_equal_epochs_the_first_is_the_best(
    patience: int, best: int, ended: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tie is no improvement: it leaves the best weights alone, and patience counts it."""
    stopping = gpubp.EarlyStopping(patience=patience, monitor="cost")
    kept: list[Any] = []
    net = run_on(
        COSTS, monkeypatch,
        callbacks=[stopping, lambda t: kept.append(t.network.parameters.flat.copy())],
    )  # fmt: skip
    assert net.training is not None
    assert (net.training.best_after, len(net.history)) == (best, ended)
    np.testing.assert_array_equal(net.parameters.flat, kept[best - 1])


def test_a_plateau_is_of_equal_costs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    net = run_on(COSTS, monkeypatch, learning_rate=ReduceOnPlateau(1.0, 0.5, 2, "cost"))
    assert net.history.learning_rate == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("pace", [1, 4, 100])
def test_the_cost_after_a_divergence(
    backend: gpubp.Backend, pace: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over the examples of the mini-batches before the one that failed."""
    count = sgd.Run._count

    def paced(run: Any) -> int:
        run.pace = pace
        return count(run)

    monkeypatch.setattr(sgd.Run, "_count", paced)
    x, y = X.copy(), np.eye(3)[Y]
    x[-3:] = 1e20  # all mini-batches but the last train well
    net = gpubp.Network([5, 3], activation="identity", backend=backend, rng=3)
    assert net.history.cost == []
    how: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 8, "shuffle": False}
    with pytest.raises(gpubp.DivergenceError) as caught:
        net.fit(x, y, **how)
    assert (caught.value.epoch, caught.value.step) == (0, 7)
    twin = gpubp.Network([5, 3], activation="identity", backend=backend, rng=3)
    twin.fit(x[:56], y[:56], **how)
    assert net.training is not None
    assert (net.training.step, net.training.cost) == (7, twin.history.cost[0])
    np.testing.assert_array_equal(flat(net), flat(twin))
    assert math.isnan(Training(net, 5, 1, {}).cost)


@pytest.mark.parametrize("rule", [update_by(l2=0.1, l1=0.01), update_by(0.9, True, 0.1)])
@pytest.mark.parametrize("sizes", [(300, 130, 70, 10), (300, 260, 10), (300, 130, 20, 10)])
def test_penalties_are_added_when_all_are_there(sizes: tuple[int, ...], rule: Update) -> None:
    """By two threads, one of which may be far behind, as often as it takes to see it."""
    costs = []
    for threads in (1, 2):
        plan, parameters, x, y = case(sizes, 8, np.float32, rule=rule)
        stepper = PanelStepper(plan, parameters, x, y, threads)
        train = stepper._train

        def delayed(thread: int, *arguments: Any, train: Any = train) -> None:
            if thread:
                time.sleep(0.002)
            train(thread, *arguments)

        stepper._train = delayed  # type: ignore[method-assign]
        order = np.arange(len(x))
        found = [
            stepper._run(*in_type(stepper, steps(rule, order[i : i + n], 8, 0.1)), threads)
            for i, n in (*((i, 8) for i in range(0, 32, 8)),
                         *((i, 24) for i in range(32, len(x) - 23, 24)))
        ]  # fmt: skip
        costs.append(np.concatenate(found))
    np.testing.assert_array_equal(*costs)


def in_type(stepper: Any, given: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    dtype = stepper.plan.dtype
    return given[0], given[1].astype(dtype), np.zeros(0, dtype)


def plain(order: Any) -> tuple[Any, Any, Any]:
    """What a Stepper of ``two_threads`` takes."""
    numbers = np.full((-(-len(order) // 10), 1), 0.1, np.float32)
    return order, numbers, np.zeros(0, np.float32)


def two_threads(kind: str) -> Any:
    plan, parameters, x, y = case((200, 130, 10), 10, np.float32)
    if kind == "tiled":
        return TiledStepper(plan, parameters, x, y, 2, 2)
    return PanelStepper(plan, parameters, x, y, 2)


@pytest.mark.parametrize("kind", ["tiled", "panels"])
@pytest.mark.parametrize("struck", ["at its part", "at the other's start"])
def test_nobody_is_left_at_the_barrier(
    kind: str, struck: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may strike the first thread when the second waits for it already."""
    order, right = np.arange(100), two_threads(kind)
    right.run(*plain(order[:0]))  # compiled
    expected = right._run(*plain(order), 2)
    stepper = two_threads(kind)
    stepper.run(*plain(order[:0]))
    train, left = stepper._train, []

    def interrupted(thread: int, *arguments: Any) -> None:
        if thread == 0:
            time.sleep(0.05)  # the other is at the barrier
            raise KeyboardInterrupt
        train(thread, *arguments)
        left.append(thread)

    with monkeypatch.context() as patch:
        if struck == "at its part":
            patch.setattr(stepper, "_train", interrupted)
        else:
            submit = stepper._pool.submit

            def struck_after(*work: Any) -> Any:
                future = submit(*work)
                future.add_done_callback(lambda future: left.append(1))
                time.sleep(0.05)
                raise KeyboardInterrupt

            patch.setattr(stepper._pool, "submit", struck_after)
        with pytest.raises(KeyboardInterrupt):
            stepper._run(*plain(order), 2)
    for _ in range(200):
        if left:
            break
        time.sleep(0.05)
    assert left == [1]
    again = two_threads(kind)
    stepper.parameters.flat[...] = again.parameters.flat
    stepper._copy(inward=True)
    np.testing.assert_array_equal(stepper._run(*plain(order), 2), expected)


@pytest.mark.parametrize("kind", ["tiled", "panels"])
def test_a_thread_that_fails_is_not_waited_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = two_threads(kind)
    stepper.run(*plain(np.arange(0)))
    train = stepper._train

    def fails(thread: int, *arguments: Any) -> None:
        if thread:
            raise MemoryError("no room for its part")
        train(thread, *arguments)

    monkeypatch.setattr(stepper, "_train", fails)
    ended = threading.Event()

    def run() -> None:
        with pytest.raises(MemoryError, match="its part"):
            stepper._run(*plain(np.arange(100)), 2)
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    assert ended.wait(20)
