"""Many networks at once: each as it would train alone, bit for bit, whatever befalls the others.

Only the training costs of the history agree to rounding instead: they are added up piece by piece,
and how long a piece is the clock decides, also between two runs of one network.
"""

from __future__ import annotations

import csv
import gc
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from conftest import CUDA, opened
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import flat
from sklearn.model_selection import KFold
from test_sgd import pieces_of

import gpubp
from gpubp import fleet as fleet_module
from gpubp.kernels.cpu import blocks, generated
from gpubp.schedule import Cosine, OneCycle, ReduceOnPlateau, Step

N = 203  # leaves a ragged last mini-batch
FIT: dict[str, Any] = {"epochs": 4, "batch_size": 10, "learning_rate": 0.5}
PER_NETWORK = ("epochs", "batch_size", "learning_rate", "momentum", "nesterov", "l2", "l1")


def blobs(n: int = N, n_in: int = 5, classes: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(7)
    y = rng.integers(0, classes, n)
    return rng.standard_normal((classes, n_in))[y] * 2 + 0.5 * rng.standard_normal((n, n_in)), y


X, Y = blobs()
OTHER = np.where(np.arange(N) < 60, (Y + 1) % 3, Y)  # surer is soon worse on these


def networks(count: int = 4, **kwargs: Any) -> list[gpubp.Network]:
    return [gpubp.Network([5, 8, 3], rng=seed, **kwargs) for seed in range(count)]


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks take turns after every epoch."""
    monkeypatch.setattr(fleet_module, "_TURN_SECONDS", 0.0)


def assert_same(ours: gpubp.Network, alone: gpubp.Network) -> None:
    """Weights, optimizer's state, generator and history."""
    np.testing.assert_array_equal(flat(ours), flat(alone))
    asnumpy = alone.backend.asnumpy
    np.testing.assert_array_equal(*(asnumpy(net.parameters.state) for net in (ours, alone)))
    assert ours.rng.bit_generator.state == alone.rng.bit_generator.state
    assert len(ours.history) == len(alone.history)
    for row, expected in zip(ours.history, alone.history, strict=True):
        assert row.epoch == expected.epoch
        assert row.learning_rate == expected.learning_rate
        assert row.validation_cost == expected.validation_cost
        assert row.validation_accuracy == expected.validation_accuracy
        assert abs(row.cost - expected.cost) <= 1e-12 * abs(expected.cost)
        assert row.seconds > 0


def check_as_alone(
    ours: list[gpubp.Network], alone: list[gpubp.Network], x: Any = X, y: Any = Y, **how: Any
) -> gpubp.FleetResult:
    """Train a fleet, and its twins one after another, with each one's share of the settings."""
    how = FIT | how
    result = gpubp.Fleet(ours).fit(x, y, **how)
    for i, net in enumerate(alone):
        own = {
            name: value[i] if name in PER_NETWORK and isinstance(value, list) else value
            for name, value in how.items()
        }
        net.fit(x, y, **own)
        assert_same(ours[i], net)
    return result


# As each alone


@pytest.mark.parametrize("engine", ["tiled", "panels"])
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ({}, {}),
        ({"dtype": "float64"}, {"l2": 1e-3, "l1": [0.0, 1e-4, 1e-3, 1e-2]}),
        ({"activation": ["relu", "identity"], "cost": "huber"}, {"momentum": [0, 0.5, 0.9, 0]}),
        (
            {"activation": ["gelu", "softmax"], "cost": "log_likelihood"},
            {"momentum": 0.9, "nesterov": [True, False, True, False], "l2": 1e-3},
        ),
        (
            {"activation": ["z/(1 + abs(z))", "sigmoid"], "cost": "log1p((a - y)*(a - y))"},
            {"batch_size": [1, 7, 64, 203], "learning_rate": [0.1, 0.2, 0.3, 0.4]},
        ),
    ],
    ids=["plain", "float64-penalties", "relu-momentum", "softmax-nesterov", "formulas-batches"],
)
def test_each_trains_as_alone(
    kind: dict[str, Any], how: dict[str, Any], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBP_ENGINE", engine)
    monkeypatch.setenv("GPUBP_NUM_THREADS", "3")
    check_as_alone(networks(**kind), networks(**kind), validation=(X, OTHER), **how)


def test_large_networks_on_one_thread_each_and_alone_on_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps so large that alone they use all threads, by either engine."""
    rng = np.random.default_rng(3)
    x, y = rng.random((300, 200), np.float32), rng.integers(0, 10, 300)
    monkeypatch.setenv("GPUBP_NUM_THREADS", "2")
    for engine in ("tiled", "panels"):
        monkeypatch.setenv("GPUBP_ENGINE", engine)
        ours, alone = (
            [gpubp.Network([200, 130, 70, 10], rng=seed) for seed in range(3)] for _ in range(2)
        )
        check_as_alone(ours, alone, x, y, epochs=2, batch_size=64, l2=1e-3, validation=(x, y))


def test_networks_may_differ_in_anything() -> None:
    def mixed() -> list[gpubp.Network]:
        return [
            gpubp.Network([5, 8, 3], rng=0),
            gpubp.Network([5, 3], rng=1, dtype="float64", cost="cross_entropy"),
            gpubp.Network([5, 4, 6, 3], rng=2, backend="reference"),
            gpubp.Network([5, 9, 3], rng=3, backend="reference", dtype="float64"),
            gpubp.Network([5, 6, 3], rng=4, activation=["tanh", "softmax"], cost="log_likelihood"),
        ]

    result = check_as_alone(
        mixed(), mixed(), epochs=[4, 2, 3, 0, 5], batch_size=[5, 10, 203, 2, 7], validation=(X, Y)
    )
    assert [row.epochs for row in result] == [4, 2, 3, 0, 5]
    assert list(result[0].settings) == [
        "sizes", "activation", "cost_function", "dtype", "backend", "epochs", "batch_size",
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["uint8", "float32", "sparse", "sparse uint8", "targets"])
def test_every_form_of_data(form: str) -> None:
    rng = np.random.default_rng(5)
    x = (rng.integers(1, 256, (N, 5)) * (rng.random((N, 5)) < 0.4)).astype(np.uint8)
    y: Any = np.eye(3)[Y] if form == "targets" else Y
    given: Any = x if "uint8" in form else (x / 255).astype(np.float32)
    if "sparse" in form:
        given = scipy.sparse.csr_array(given)
    result = check_as_alone(networks(), networks(), given, y, validation=(given, y))
    assert result[0].validation_accuracy is not None


def test_schedules_and_callbacks_of_each_network() -> None:
    """Those that read the history too, and early stopping, which restores the best weights."""
    rates = [
        OneCycle(1.0, 30, per_epoch=7), ReduceOnPlateau(20.0, patience=2), Cosine(3.0, 30),
        lambda epoch: 1 / (1 + epoch), Step(2.0, every=3),
    ]  # fmt: skip
    ours, alone = networks(5), networks(5)
    result = check_as_alone(
        ours, alone, epochs=30, learning_rate=rates, validation=(X, OTHER),
        callbacks=[gpubp.EarlyStopping(patience=3)],
    )  # fmt: skip
    stopped = [row for row in result if row.status.startswith("stopped after epoch")]
    assert len(stopped) >= 3
    for row in stopped:
        history = row.network.history
        best = int(np.argmin(history.validation_cost))
        assert row.status == f"stopped after epoch {history[-1].epoch}"
        assert row.epochs == len(history) == best + 4
        # The row's figures are those of the weights restored.
        assert row.validation_cost == min(history.validation_cost)
        assert row.validation_cost == row.network.evaluate(X, OTHER).cost
        assert row.cost == history[best].cost


def test_callbacks_made_for_each_network() -> None:
    seen: list[list[int]] = [[], [], []]

    def record(index: int) -> list[Any]:
        def on_epoch(training: Any) -> None:
            assert training.network is fleet[index]
            seen[index].append(training.epoch)
            if training.epoch == index + 1:
                training.stop()

        return [on_epoch]

    fleet = gpubp.Fleet(networks(3))
    result = fleet.fit(X, Y, **FIT, callbacks=record)
    assert seen == [[1], [1, 2], [1, 2, 3]]
    assert [row.status for row in result] == [f"stopped after epoch {i}" for i in range(3)]


def test_callbacks_that_can_be_listed_once_are_every_networks() -> None:
    epochs: list[int] = []
    gpubp.Fleet(networks(3)).fit(
        X, Y, **FIT | {"epochs": 1}, callbacks=iter([lambda training: epochs.append(1)])
    )
    assert epochs == [1] * 3


@pytest.mark.parametrize("shuffle", [True, False, lambda rng, n: rng.permutation(n)[::-1]])
@pytest.mark.parametrize("kind", ["uint8", "sparse", "float"])
def test_folds_train_as_on_their_rows_alone(kind: str, shuffle: Any) -> None:
    x = (np.abs(X) * 50).clip(0, 255).astype(np.uint8)
    given: Any = {"uint8": x, "sparse": scipy.sparse.csr_array(x), "float": X}[kind]
    folds = [*KFold(3, shuffle=True, random_state=0).split(X), ([5, 5, 9, 2, 0, 11, 5], None)]
    ours, alone = networks(4), networks(4)
    how = FIT | {"batch_size": 7, "momentum": 0.5, "shuffle": shuffle}
    result = gpubp.Fleet(ours).fit(given, Y, **how, folds=folds)
    for net, twin, (train, held_out) in zip(ours, alone, folds, strict=True):
        validation = None if held_out is None else (given[held_out], Y[held_out])
        twin.fit(given[train], Y[train], **how, validation=validation)
        assert_same(net, twin)
    assert [row.validation_cost is None for row in result] == [False, False, False, True]


def test_data_are_checked_once_and_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = X.astype(np.float32), Y
    steppers, checks = [], []
    kernels = gpubp.get_backend("cpu").kernels

    class Watched(kernels.Stepper):  # type: ignore[name-defined,misc]
        def __init__(self, plan: Any, parameters: Any, x: Any, y: Any) -> None:
            steppers.append((x, y))
            super().__init__(plan, parameters, x, y)

    monkeypatch.setattr(kernels, "Stepper", Watched)
    check = gpubp.Network.check_data
    monkeypatch.setattr(
        gpubp.Network, "check_data",
        lambda self, *args: checks.append(self) or check(self, *args),  # type: ignore[func-returns-value]
    )  # fmt: skip
    halves = [np.arange(100), np.arange(100, N)]
    gpubp.Fleet(networks(4)).fit(x, y, **FIT, folds=[(half, half) for half in halves * 2])
    assert len(checks) == 1
    assert all(np.shares_memory(mine, x) for mine, _ in steppers)
    assert all(np.shares_memory(mine, y) for _, mine in steppers)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_settings_train_as_alone(data: Any) -> None:
    count = data.draw(st.integers(1, 4))
    sizes = [5, *data.draw(st.lists(st.integers(1, 9), max_size=2)), 3]

    def each(values: Any) -> Any:
        return data.draw(values | st.lists(values, min_size=count, max_size=count))

    how = {
        "epochs": each(st.integers(0, 3)), "batch_size": each(st.integers(1, 30)),
        "learning_rate": each(st.floats(1e-3, 2.0)), "momentum": each(st.floats(0, 0.95)),
        "l2": each(st.floats(0, 0.1)), "l1": each(st.floats(0, 0.01)),
    }  # fmt: skip
    n = data.draw(st.integers(30, 60))
    seeds = data.draw(st.lists(st.integers(0, 2**32), min_size=count, max_size=count))
    ours, alone = ([gpubp.Network(sizes, rng=seed) for seed in seeds] for _ in range(2))
    check_as_alone(ours, alone, X[:n], Y[:n], validation=(X[n:], Y[n:]), **how)


# What befalls one


def exploding(count: int = 4) -> list[gpubp.Network]:
    return networks(count, activation=["relu", "identity"])


def test_one_that_diverges_leaves_the_others_alone() -> None:
    rates = [0.01, 50.0, 0.02, 80.0]
    ours, alone = exploding(), exploding()
    result = gpubp.Fleet(ours).fit(X, Y, **FIT | {"learning_rate": rates}, validation=(X, Y))
    for net, twin, row, rate in zip(ours, alone, result, rates, strict=True):
        if rate > 1:
            with pytest.raises(gpubp.DivergenceError) as caught:
                twin.fit(X, Y, **FIT | {"learning_rate": rate}, validation=(X, Y))
            assert str(row.error) == str(caught.value)
            assert row.status == f"diverged in epoch 0, step {caught.value.step}"
            assert row.cost is None
            assert np.isfinite(flat(net)).all()
        else:
            twin.fit(X, Y, **FIT | {"learning_rate": rate}, validation=(X, Y))
            assert (row.error, row.status) == (None, "finished")
        assert_same(net, twin)
    assert result.best.index in (0, 2)
    assert "diverged in epoch 0" in repr(result)
    with pytest.raises(ValueError, match="no network of the fleet has finished an epoch"):
        _ = gpubp.FleetResult(row for row in result if row.error).best


def test_an_error_of_a_callback_stops_all_and_is_raised_once() -> None:
    def failing(training: Any) -> None:
        if training.network is fleet[1] and training.epoch == 2:
            raise RuntimeError("out of patience")

    fleet, alone = gpubp.Fleet(networks()), networks()
    with pytest.raises(RuntimeError, match="out of patience"):
        fleet.fit(X, Y, **FIT | {"epochs": 50}, callbacks=[failing])
    assert all(len(net.history) < 50 for net in fleet)
    fleet.fit(X, Y, **FIT | {"epochs": 6}, resume=True)
    for net, twin in zip(fleet, alone, strict=True):
        if len(net.history) == 6:
            twin.fit(X, Y, **FIT | {"epochs": 6})
            assert_same(net, twin)


class Interrupt(gpubp.Callback):
    """Sends this process the signal that Ctrl-C sends, once, from inside one network's epoch."""

    def __init__(self, network: gpubp.Network, epoch: int, step: int) -> None:
        self.network, self.at, self.sent = network, (epoch, step), False

    def on_interval(self, training: Any) -> None:
        here = (training.epoch, training.step)
        if training.network is self.network and here >= self.at and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # the main thread takes the signal


@pytest.mark.parametrize("epoch", [0, 2])
def test_resume_after_ctrl_c_is_bitwise_the_unbroken_run(epoch: int, tmp_path: Path) -> None:
    how = FIT | {"learning_rate": [0.1, 0.2, 0.3, 0.4], "momentum": 0.9, "validation": (X, OTHER)}
    how["callbacks"] = [gpubp.EarlyStopping(patience=2)]
    how["epochs"] = 6
    unbroken = gpubp.Fleet(networks())
    unbroken.fit(X, Y, **how)
    before = signal.getsignal(signal.SIGINT)

    fleet = gpubp.Fleet(networks())
    broken = how | {"callbacks": [*how["callbacks"], Interrupt(fleet[1], epoch, 6)]}
    with pieces_of(3), pytest.raises(KeyboardInterrupt):
        fleet.fit(X, Y, **broken)
    assert signal.getsignal(signal.SIGINT) is before
    assert fleet[1].training is not None
    assert (fleet[1].training.epoch, 0 < fleet[1].training.step < 21) == (epoch, True)
    row = fleet.result[1]
    assert row.status == f"interrupted in epoch {epoch}, step {fleet[1].training.step}"
    assert row.epochs == epoch
    assert all(net.training is not None for net in fleet)  # also of those that had not begun

    for i, net in enumerate(fleet):
        net.save(tmp_path / f"{i}")
    again = gpubp.Fleet(gpubp.load(tmp_path / f"{i}") for i in range(4))
    alone = [gpubp.load(tmp_path / f"{i}") for i in range(4)]
    for one in (again, fleet):  # from files, and in the same process
        one.fit(X, Y, **how, resume=True)
        for net, expected in zip(one, unbroken, strict=True):
            assert_same(net, expected)
        assert [r.status for r in one.result] == [r.status for r in unbroken.result]
        for figure in ("epochs", "validation_cost", "validation_accuracy"):
            ours, right = ([getattr(r, figure) for r in f.result] for f in (one, unbroken))
            assert ours == right
    for net, expected, rate in zip(alone, unbroken, how["learning_rate"], strict=True):
        net.fit(X, Y, **how | {"learning_rate": rate}, resume=True)
        assert_same(net, expected)


def test_resuming_a_finished_fleet_changes_nothing(tmp_path: Path) -> None:
    how = FIT | {
        "epochs": 30, "validation": (X, OTHER), "callbacks": [gpubp.EarlyStopping(patience=3)],
    }  # fmt: skip
    fleet = gpubp.Fleet(networks())
    table = repr(fleet.fit(X, Y, **how))
    best = [flat(net).copy() for net in fleet]
    for i, net in enumerate(fleet):
        net.save(tmp_path / f"{i}")
    for again in (fleet, gpubp.Fleet(gpubp.load(tmp_path / f"{i}") for i in range(4))):
        assert repr(again.fit(X, Y, **how, resume=True)) == table
        for net, right in zip(again, best, strict=True):
            np.testing.assert_array_equal(flat(net), right)


def test_ctrl_c_is_answered_within_two_seconds() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((20000, 300), np.float32), rng.integers(0, 10, 20000)
    fleet = gpubp.Fleet.of([300, 300, 10], rng=range(5))
    sent = []

    def press() -> None:
        time.sleep(0.7)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fleet.fit(x, y, epochs=10_000, batch_size=10, learning_rate=0.01)
    answered = time.monotonic()
    thread.join()
    assert answered - sent[0] <= 2.0
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPool")]
    assert {row.status.split()[0] for row in fleet.result} == {"interrupted"}


def test_a_second_ctrl_c_acts_at_once() -> None:
    """It does not wait for a callback's sake; the workers stop at their next step boundary."""
    fleet = gpubp.Fleet(networks(2))

    def press(training: Any) -> None:
        if training.network is fleet[0]:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)

    with pytest.raises(KeyboardInterrupt):
        fleet.fit(X, Y, **FIT | {"epochs": 10_000}, callbacks=[press])
    fleet.fit(X, Y, **FIT | {"epochs": 2}, resume=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_the_main_thread() -> None:
    ours, alone = networks(), networks()
    thread = threading.Thread(target=gpubp.Fleet(ours).fit, args=(X, Y), kwargs=FIT)
    thread.start()
    thread.join()
    for net, twin in zip(ours, alone, strict=True):
        twin.fit(X, Y, **FIT)
        assert_same(net, twin)


# Threads


@pytest.mark.parametrize(("at_hand", "count", "each"), [(1, 3, 1), (2, 3, 1), (4, 2, 2), (3, 1, 3)])
def test_threads_are_shared_out(
    at_hand: int, count: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBP_NUM_THREADS", str(at_hand))
    kernels = gpubp.get_backend("cpu").kernels
    told, training, most = [], set(), [0]

    class Watched(kernels.Stepper):  # type: ignore[name-defined,misc]
        def __init__(self, plan: Any, *arguments: Any) -> None:
            super().__init__(plan, *arguments)
            told.append((plan.threads, self._stepper.threads))

        def run(self, order: Any, numbers: Any) -> Any:
            training.add(threading.get_ident())
            most[0] = max(most[0], len(training))
            costs = super().run(order, numbers)
            time.sleep(0.01)
            training.discard(threading.get_ident())
            return costs

    monkeypatch.setattr(kernels, "Stepper", Watched)
    monkeypatch.setenv("GPUBP_ENGINE", "panels")
    x = np.zeros((200, 300), np.float32)
    fleet = gpubp.Fleet.of([300, 100, 3], rng=range(count))
    fleet.fit(x, Y[:200], epochs=3, batch_size=100, learning_rate=0.1)
    assert set(told) == {(each, each)}
    assert most[0] <= min(at_hand, count)
    assert not training


def test_the_reference_trains_one_at_a_time() -> None:
    running, most = [0], [0]

    def watch(training: Any) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.01)
        running[0] -= 1

    kind: dict[str, Any] = {"backend": "reference", "dtype": "float64"}
    check_as_alone(networks(3, **kind), networks(3, **kind), callbacks=[watch])
    assert most == [1]


def test_threads_that_ask_for_a_kernel_get_one() -> None:
    """Of two modules made at once, one's machine code would be freed under the other's address."""
    text, found = f"import time\ntime.sleep(0.1)  # {time.time()}\n", []
    threads = [
        threading.Thread(target=lambda: found.append(generated.load_generated(text)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(id, found))) == 1


def test_formulas_are_read_by_one_thread_at_a_time() -> None:
    """Python before 3.11.8 fails with a SystemError if collecting garbage lets another read on."""
    nested = "".join(f"({i} + z*" for i in range(60)) + "z" + ")" * 60
    found: list[Any] = []

    def read(thread: int) -> None:
        try:
            for i in range(15):
                found.append(blocks._lanewise(f"{thread} + {i}*{nested}"))
        except SystemError as error:
            found.append(error)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    thresholds = gc.get_threshold()

    def give_way(phase: str, info: Any) -> None:
        time.sleep(1e-6)

    gc.callbacks.append(give_way)
    gc.set_threshold(100)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(give_way)
    assert len(found) == 60
    assert not [error for error in found if isinstance(error, SystemError)]


# The result


def test_the_result_is_a_table(tmp_path: Path) -> None:
    rates = np.array([0.01, 2.0, 0.5])
    fleet = gpubp.Fleet.of([5, 8, 3], rng=range(3))
    assert [row.status for row in fleet.result] == ["not trained"] * 3
    result = fleet.fit(
        X, Y, **FIT | {"learning_rate": rates, "batch_size": [10, 10, 20]}, validation=(X, Y)
    )
    assert [row.network for row in result] == list(fleet)
    assert result.histories == [net.history for net in fleet]
    for row, net in zip(result, fleet, strict=True):
        assert row.validation_cost == net.history[-1].validation_cost
        assert row.seconds == sum(net.history.seconds)
    best = result.best
    assert best.validation_accuracy == max(row.validation_accuracy or 0 for row in result)

    columns = result.to_dict()
    assert list(columns) == [
        "network", "rng", "batch_size", "learning_rate", "epochs", "cost", "validation_cost",
        "validation_accuracy", "seconds", "status",
    ]  # fmt: skip
    assert columns["learning_rate"] == [0.01, 2.0, 0.5]
    assert columns["rng"] == [0, 1, 2]
    result.to_csv(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(columns)
    assert [float(row[5]) for row in rows[1:]] == columns["cost"]

    lines = repr(result).splitlines()
    assert len(lines) == 4
    assert lines[0].split("  ")[0] == "network"
    at = lines[0].index("status")
    assert [line[at:] for line in lines[1:]] == ["finished"] * 3
    assert lines[2].split()[:4] == ["1", "1", "10", "2"]
    assert len(result[:2]) == 2
    assert repr(gpubp.FleetResult([])) == "FleetResult of 0 networks"


def test_best_by_what_there_is_to_judge_by() -> None:
    def row(index: int, cost: Any, validation_cost: Any, accuracy: Any) -> gpubp.FleetRow:
        return gpubp.FleetRow(
            index, networks(1)[0], {}, 1, cost, validation_cost, accuracy, 0.1, "finished", None
        )

    nan = math.nan
    assert gpubp.FleetResult([row(0, 1, 3, 0.5), row(1, 2, 4, 0.7)]).best.index == 1
    assert gpubp.FleetResult([row(0, 1, 4, None), row(1, 2, 3, 0.7)]).best.index == 1
    assert gpubp.FleetResult([row(0, 2, nan, None), row(1, 1, 5, None)]).best.index == 1
    assert gpubp.FleetResult([row(0, 1, None, None), row(1, 2, 3, None)]).best.index == 0


def test_columns_show_what_differs() -> None:
    fleet = gpubp.Fleet(
        [gpubp.Network([5, 3], rng=0), gpubp.Network([5, 4, 3], rng=1, activation=["relu", "tanh"])]
    )
    schedules = [Step(0.1, every=3), 0.25]
    text = repr(fleet.fit(X, Y, **FIT | {"learning_rate": schedules}))
    for words in ("[5, 4, 3]", "['relu', 'tanh']", "Step(initial=0.1", "0.25", "learning rate"):
        assert words in text
    for words in ("validation", "momentum", "dtype"):
        assert words not in text
    assert "1 x Network([5, 4, 3]" in repr(fleet)
    assert len(fleet[:1]) == 1


def test_progress_is_one_bar_and_silent_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    gpubp.Fleet(networks()).fit(X, Y, **FIT)
    assert capsys.readouterr().err == ""
    gpubp.Fleet(exploding(3)).fit(
        X, Y, **FIT | {"epochs": 6, "learning_rate": [0.01, 50.0, 0.01]}, validation=(X, OTHER),
        progress=True, callbacks=lambda i: [gpubp.EarlyStopping(1)] if i == 2 else [],
    )  # fmt: skip
    shown = capsys.readouterr().err
    for word in ("of 3 networks", "cost=", "accuracy=", "examples/s", "100%"):
        assert word in shown


# Refusals


def fit(**change: Any) -> Any:
    return lambda: gpubp.Fleet(networks(2)).fit(X, Y, **FIT | change)


ONE = gpubp.Network([5, 3], rng=0)
GENERATOR = np.random.default_rng(0)
REFUSED: dict[str, tuple[Any, str]] = {
    "empty": (lambda: gpubp.Fleet([]), "at least one network"),
    "no list": (lambda: gpubp.Fleet(3), "a list of networks, not of 3"),  # type: ignore[arg-type]
    "no network": (lambda: gpubp.Fleet([ONE, "net"]), "network 1 is 'net'"),  # type: ignore[list-item]
    "twice": (lambda: gpubp.Fleet([ONE, *networks(2), ONE]), "networks 0 and 3 are the same"),
    "one generator": (
        lambda: gpubp.Fleet(gpubp.Network([5, 3], rng=GENERATOR) for _ in range(2)),
        "networks 0 and 1 draw from the same generator",
    ),
    "one seed": (lambda: gpubp.Fleet.of([5, 3], rng=3), "rng=3 must hold one seed a network"),  # type: ignore[arg-type]
    "no seeds": (lambda: gpubp.Fleet.of([5, 3], rng=[]), "at least one network"),
    "too few rates": (fit(learning_rate=[0.1]), "learning_rate holds 1 values, but the fleet 2"),
    "too many": (fit(l2=np.zeros(3)), "l2 holds 3 values"),
    "a bad rate": (fit(learning_rate=[0.1, -1]), "network 1: learning_rate=-1 must be a finite"),
    "a later bad rate": (fit(learning_rate=[0.1, lambda epoch: -1.0]), "network 1: the learning r"),
    "bad epochs": (fit(epochs=2.5), "network 0: epochs=2.5 must be an integer"),
    "bad batch": (fit(batch_size=[10, 204]), "network 1: batch_size=204 is larger than the 203"),
    "bad momentum": (fit(momentum=[0.5, 1.0]), "network 1: momentum"),
    "bad nesterov": (fit(nesterov=True), "network 0: nesterov"),
    "bad shuffle": (fit(shuffle="yes"), "network 0: shuffle='yes'"),
    "bad callbacks": (fit(callbacks=3), "network 0: callbacks=3 must be a list"),
    "bad callback": (fit(callbacks=lambda i: [i]), "network 0: a callback is"),
    "no validation": (fit(callbacks=[gpubp.EarlyStopping()]), "pass validation"),
    "bad validation": (fit(validation=3), "network 0: validation must be a pair"),
    "nothing to resume": (fit(resume=True), "network 0: resume=True, but this network carries no"),
    "both": (fit(validation=(X, Y), folds=[([0], None)] * 2), "validation or folds"),
    "folds no list": (fit(folds=3), "folds=3 must hold one pair"),
    "too few folds": (fit(folds=[([0], [1])]), "folds holds 1 pairs, but the fleet 2 networks"),
    "no pair": (fit(folds=[3, 3]), "network 0: its fold must be a pair"),
    "row too large": (fit(folds=[([0, 203], None)] * 2), "its training rows name the row 203"),
    "negative row": (fit(folds=[(range(99), [-1])] * 2), "its validation rows name the row -1"),
    "no rows": (fit(folds=[([], None)] * 2), "its training rows are float64 of shape (0,)"),
    "a mask": (fit(folds=[(Y == 0, None)] * 2), "bool of shape (203,), but must be one or more"),
    "a batch beyond the fold": (fit(folds=[(range(9), None)] * 2), "larger than the 9 examples"),
    "x too narrow": (
        lambda: gpubp.Fleet(networks(2)).fit(X[:, 1:], Y, **FIT), "network 0: x has 4 values",
    ),
    "y for one only": (
        lambda: gpubp.Fleet([ONE, gpubp.Network([5, 2], rng=1)]).fit(X, Y, **FIT),
        "network 1: y holds the label 2",
    ),
    "x no array": (lambda: gpubp.Fleet(networks(2)).fit(3, Y, **FIT), "network 0: x has shape ()"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence_and_nothing_changes(case: str) -> None:
    call, words = REFUSED[case]
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ONE.training is None


def test_a_refusal_leaves_all_networks_as_they_were() -> None:
    fleet = gpubp.Fleet(networks(2))
    before = [flat(net).copy() for net in fleet]
    with pytest.raises(ValueError, match="network 1"):
        fleet.fit(X, Y, **FIT | {"momentum": [0.5, -1]})
    for net, weights in zip(fleet, before, strict=True):
        assert net.training is None
        assert not net.parameters.state.size
        np.testing.assert_array_equal(flat(net), weights)


# On a GPU


@pytest.mark.parametrize("name", CUDA)
def test_on_cuda_one_after_another(name: str) -> None:
    with opened(name) as backend:
        rows = [np.arange(0, 40), np.arange(20, 60)]
        ours, alone = (
            [gpubp.Network([5, 4, 3], rng=seed, backend=backend) for seed in range(2)]
            for _ in range(2)
        )
        result = gpubp.Fleet(ours).fit(
            X, Y, epochs=2, batch_size=9, learning_rate=[0.5, 0.3], momentum=0.5,
            folds=[(rows[0], rows[1]), (rows[1], rows[0])],
        )  # fmt: skip
        for net, rate, mine, other in zip(alone, (0.5, 0.3), rows, rows[::-1], strict=True):
            net.fit(
                X[mine], Y[mine], epochs=2, batch_size=9, learning_rate=rate, momentum=0.5,
                validation=(X[other], Y[other]),
            )  # fmt: skip
        for net, twin in zip(ours, alone, strict=True):
            assert_same(net, twin)
        assert [row.status for row in result] == ["finished"] * 2
