"""Networks of one kind in one launch on a GPU, or on the stand-in: each as it would train alone.

Bit for bit where all find room beside each other in the shape that one would have, else to
rounding.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from conftest import CUDA, opened
from oracle import normwise
from test_fleet import Interrupt, assert_same, blobs

import gpubp
from gpubp import fleet as fleet_module
from gpubp.optimizer import Adam, Lion
from gpubp.schedule import OneCycle

N = 41  # leaves a ragged last mini-batch
X, Y = blobs(N)
OTHER = np.where(np.arange(N) < 12, (Y + 1) % 3, Y)  # surer is soon worse on these
FIT: dict[str, Any] = {"epochs": 3, "batch_size": 9, "learning_rate": [0.5, 0.1, 0.3]}


@pytest.fixture(params=CUDA)
def launches(request: Any) -> Iterator[list[int]]:
    """How many networks each launch of a family had."""
    found: list[int] = []
    with opened(request.param), pytest.MonkeyPatch.context() as patch:
        patch.delenv("GPUBP_CUDA_STEPPER")
        family = import_module("gpubp.kernels.cuda.resident").Family
        enqueue = family.enqueue

        def counted(self: Any, members: Any, *rest: Any) -> None:
            found.append(len(members))
            enqueue(self, members, *rest)

        patch.setattr(family, "enqueue", counted)
        yield found


def networks(count: int = 3, **kind: Any) -> list[gpubp.Network]:
    kind = {"backend": "cuda", "dtype": "float64"} | kind
    return [gpubp.Network([5, 4, 3], rng=seed, **kind) for seed in range(count)]


def alone(nets: list[gpubp.Network], **how: Any) -> list[gpubp.Network]:
    """The networks trained one after another, each with its share of the settings."""
    for i, net in enumerate(nets):
        net.fit(X, Y, **{k: v[i] if isinstance(v, list) else v for k, v in (FIT | how).items()})
    return nets


def test_one_launch_a_piece(launches: list[int]) -> None:
    """Every epoch but the first is one piece, so that there is one launch for it."""
    fleet = gpubp.Fleet(networks())
    fleet.fit(X, Y, **FIT, l2=[1e-3, 1e-2, 0.1], momentum=0.5, validation=(X, OTHER))
    assert set(launches) == {3}
    pieces, launches[:] = len(launches), []
    twins = alone(networks(), l2=[1e-3, 1e-2, 0.1], momentum=0.5, validation=(X, OTHER))
    assert set(launches) == {1}
    assert 3 <= pieces <= len(launches)
    for net, twin in zip(fleet, twins, strict=True):
        assert_same(net, twin)


def test_a_launch_for_each_kind(launches: list[int]) -> None:
    how = FIT | {"learning_rate": 0.2}
    how |= {"momentum": [0.0, 0.5, 0.9, 0.0, 0.3], "l1": [0.0, 0.0, 0.0, 0.0, 1e-3]}
    fleet = gpubp.Fleet(networks(5))
    fleet.fit(X, Y, **how)
    assert set(launches) == {1, 2}  # two plain, two with momentum; one whose rule is its own
    for net, twin in zip(fleet, alone(networks(5), **how), strict=True):
        assert_same(net, twin)


def test_optimizers_of_one_rule_are_of_one_kind(launches: list[int]) -> None:
    given = [Adam(), Lion(), Adam(beta_1=0.8, epsilon=1e-4), Adam(amsgrad=True), Lion(beta_2=0.9)]
    how = FIT | {"learning_rate": OneCycle(0.02, 3, per_epoch=4), "optimizer": given}
    fleet = gpubp.Fleet(networks(5))
    fleet.fit(X, Y, **how)
    assert set(launches) == {1, 2}
    for net, twin in zip(fleet, alone(networks(5), **how), strict=True):
        assert_same(net, twin)


def test_folds_of_unequal_lengths(launches: list[int]) -> None:
    rows = [np.arange(10), np.arange(5, 41), np.array([*range(41), *range(20)])]
    fleet, twins = gpubp.Fleet(networks()), networks()
    fleet.fit(X, Y, **FIT, folds=[(own, rows[0]) for own in rows])
    assert max(launches) == 3
    for net, twin, own, rate in zip(fleet, twins, rows, FIT["learning_rate"], strict=True):
        twin.fit(
            X[own], Y[own], **FIT | {"learning_rate": rate}, validation=(X[rows[0]], Y[rows[0]])
        )
        assert_same(net, twin)


def test_those_that_end_are_waited_for_by_nobody(launches: list[int]) -> None:
    """One stops early, one diverges, one has fewer epochs, one asks for its rate seven times."""

    def kind() -> list[gpubp.Network]:
        return networks(5, activation="identity")

    rates: list[Any] = [0.02, 0.01, 50.0, 0.02, OneCycle(0.02, 6, per_epoch=7)]
    epochs = [6, 2, 6, 6, 6]

    def callbacks(i: int) -> list[Any]:
        return [lambda t: t.stop() if t.epoch == 3 else None] if i == 3 else []

    fleet, twins = gpubp.Fleet(kind()), kind()
    how = FIT | {"validation": (X, OTHER)}
    result = fleet.fit(
        X, Y, **how | {"learning_rate": rates, "epochs": epochs}, callbacks=callbacks
    )
    assert [row.status.split(" in ")[0] for row in result] == [
        "finished", "finished", "diverged", "stopped after epoch 2", "finished",
    ]  # fmt: skip
    assert launches[0] == 5
    assert launches[-1] == 2  # rates that change within an epoch cut no piece
    for i, net in enumerate(twins):
        own = how | {"learning_rate": rates[i], "epochs": epochs[i], "callbacks": callbacks(i)}
        if i == 2:
            with pytest.raises(gpubp.DivergenceError) as caught:
                net.fit(X, Y, **own)
            assert str(result[i].error) == str(caught.value)
        else:
            net.fit(X, Y, **own)
        assert_same(fleet[i], net)


def test_early_stopping_at_epochs_of_their_own(launches: list[int]) -> None:
    how = FIT | {"epochs": 12, "learning_rate": [20.0, 3.0, 0.01], "validation": (X, OTHER)}
    how["callbacks"] = gpubp.EarlyStopping(patience=1)
    fleet = gpubp.Fleet(networks())
    result = fleet.fit(X, Y, **how | {"callbacks": [how["callbacks"]]})
    assert len({row.epochs for row in result}) > 1
    assert {*launches} - {1, 3} <= {2}
    for i, (net, twin) in enumerate(zip(fleet, networks(), strict=True)):
        own = how | {"learning_rate": how["learning_rate"][i], "callbacks": [how["callbacks"]]}
        twin.fit(X, Y, **own)
        assert_same(net, twin)


@pytest.mark.parametrize("turn", [0.0, 1.0])
def test_ctrl_c_and_resume_are_the_unbroken_run(
    turn: float, launches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "_TURN_SECONDS", turn)
    how = FIT | {"epochs": [4, 1, 4], "momentum": 0.9}
    unbroken, fleet = gpubp.Fleet(networks()), gpubp.Fleet(networks())
    unbroken.fit(X, Y, **how)
    with pytest.raises(KeyboardInterrupt):
        fleet.fit(X, Y, **how, callbacks=[Interrupt(fleet[2], 1, 1)])
    assert fleet.result[2].status.startswith("interrupted in epoch ")
    assert fleet.result[1].status == "finished"
    launched = len(launches)
    fleet.fit(X, Y, **how, resume=True)
    assert len(launches) > launched
    for net, right in zip(fleet, unbroken, strict=True):
        assert_same(net, right)


def test_an_error_stops_all_at_step_boundaries(
    launches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a callback, and one in the midst of a launch, after some weights have changed."""
    family = import_module("gpubp.kernels.cuda.resident").Family
    unbroken = gpubp.Fleet(networks())
    unbroken.fit(X, Y, **FIT)

    def failing(training: Any) -> None:
        if training.network is fleet[1] and training.epoch == 1:
            raise RuntimeError("out of patience")

    fleet = gpubp.Fleet(networks())
    with pytest.raises(RuntimeError, match="out of patience"):
        fleet.fit(X, Y, **FIT, callbacks=[failing])
    enqueue, calls = family.enqueue, []

    def broken(self: Any, *arguments: Any) -> None:
        enqueue(self, *arguments)
        calls.append(arguments)
        if len(calls) == 2:
            raise RuntimeError("the GPU has fallen off the bus")

    with monkeypatch.context() as patch:
        patch.setattr(family, "enqueue", broken)
        with pytest.raises(RuntimeError, match="off the bus"):
            fleet.fit(X, Y, **FIT, resume=True)
    fleet.fit(X, Y, **FIT, resume=True)
    for net, right in zip(fleet, unbroken, strict=True):
        assert_same(net, right)


def test_another_shape_agrees_to_rounding(
    launches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More networks than clusters find room: a block each instead, and sums in another order."""
    capacity = import_module("gpubp.kernels.cuda.capacity")
    monkeypatch.setattr(capacity, "CLUSTERS", (4,))
    twins = alone(networks())
    monkeypatch.setattr(capacity, "CLUSTERS", (1,))
    fleet = gpubp.Fleet(networks())
    fleet.fit(X, Y, **FIT)
    assert launches[-1] == 3
    for net, twin in zip(fleet, twins, strict=True):
        flats = [one.backend.asnumpy(one.parameters.flat) for one in (net, twin)]
        assert normwise(*flats) <= 1e-13


@pytest.mark.parametrize("why", ["asked for graphs", "too large", "one only", "x on the host"])
def test_else_one_after_another(
    why: str, launches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fit trains each, and by none of the family's launches of several."""
    if why == "asked for graphs":
        monkeypatch.setenv("GPUBP_CUDA_STEPPER", "graph")
    if why == "too large":
        device = import_module("gpubp.kernels.cuda.capacity").Device(1000, True, 132)
        for module in ("resident", "stepper", "together"):
            monkeypatch.setattr(
                import_module(f"gpubp.kernels.cuda.{module}"), "device_limits", lambda: device
            )
    if why == "x on the host":
        monkeypatch.setattr(gpubp.Backend, "near", lambda self, array: array)
    count = 1 if why == "one only" else 3
    how = FIT | {"learning_rate": 0.3, "epochs": 1}
    fleet = gpubp.Fleet(networks(count))
    fleet.fit(X, Y, **how)
    assert set(launches) <= {1}
    for net, twin in zip(fleet, networks(count), strict=True):
        twin.fit(X, Y, **how)
        assert_same(net, twin)


def test_a_second_ctrl_c_leaves_step_boundaries(launches: list[int]) -> None:
    fleet = gpubp.Fleet(networks())

    def press(training: Any) -> None:
        if training.network is fleet[0]:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fleet.fit(X, Y, **FIT | {"epochs": 1000}, callbacks=[press])
    fleet.fit(X, Y, **FIT, resume=True)
    for net, twin in zip(fleet, alone(networks()), strict=True):
        assert_same(net, twin)
