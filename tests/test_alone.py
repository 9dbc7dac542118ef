"""One network in two fits at once is refused, and nothing of that outlasts a fit."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_fleet import assert_same
from test_sgd import FIT, blobs, network

import gpubp
from gpubp import alone

X, Y = blobs(60)
REFUSED = "in training already, in another thread or in the fit whose callback this is: wait for"


def as_if_nothing_was(net: gpubp.Network) -> None:
    """It trains, to the weights of one that had been asked nothing in between."""
    twin = network()
    twin.fit(X, Y, **FIT)
    assert_same(net, twin)
    assert not alone._training
    net.fit(X, Y, **FIT)


@pytest.mark.parametrize("second", ["fit", "fleet", "resume"])
def test_fit_within_its_own_callback_is_refused(second: str) -> None:
    net, found = network(), []

    def again(training: Any) -> None:
        one = gpubp.Fleet([network(), net]) if second == "fleet" else net
        name = "network 1" if second == "fleet" else "this network"
        with pytest.raises(RuntimeError, match=f"^{name} is {REFUSED}") as caught:
            one.fit(X, Y, **FIT, resume=second == "resume")
        assert "\n" not in str(caught.value)
        found.append(training)

    net.fit(X, Y, **FIT, callbacks=[again])
    assert len(found) == 4
    assert net.training is found[0]
    as_if_nothing_was(net)


def test_a_network_of_a_fleet_that_trains_is_refused() -> None:
    net, other = network(), network()
    refused = []

    def again(training: Any) -> None:
        with pytest.raises(RuntimeError, match=f"^this network is {REFUSED}"):
            net.fit(X, Y, **FIT)
        refused.append(True)

    gpubp.Fleet([net, other]).fit(X, Y, **FIT, callbacks=lambda i: [again])
    assert len(refused) == 8
    as_if_nothing_was(net)


def test_of_two_threads_one_is_refused() -> None:
    net, begun, go_on = network(), threading.Event(), threading.Event()

    def waits(training: Any) -> None:
        begun.set()
        assert go_on.wait(30)

    thread = threading.Thread(target=lambda: net.fit(X, Y, **FIT, callbacks=[waits]))
    thread.start()
    try:
        assert begun.wait(30)
        with pytest.raises(RuntimeError, match=REFUSED):
            net.fit(X, Y, **FIT)
        network().fit(X, Y, **FIT)  # another one trains
    finally:
        go_on.set()
        thread.join()
    as_if_nothing_was(net)


def test_copies_and_pickles_taken_in_a_fit_are_free() -> None:
    net, copies = network(), []

    def take(training: Any) -> None:
        copies.extend([copy.deepcopy(net), pickle.loads(pickle.dumps(net))])
        copies[-2].fit(X, Y, **FIT)

    net.fit(X, Y, **FIT, callbacks=[take])
    copies[1].fit(X, Y, **FIT)
    as_if_nothing_was(net)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_in_a_fit_goes_on_with_it() -> None:
    """With what its own thread trains, and with nothing of the other threads."""
    net, other, busy, done = network(), network(), threading.Event(), threading.Event()

    def wait(training: Any) -> None:
        busy.set()
        done.wait(60)

    thread = threading.Thread(target=lambda: other.fit(X, Y, **FIT, callbacks=[wait]))
    thread.start()
    busy.wait(60)
    try:
        with alone.training_alone([net]):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    with pytest.raises(RuntimeError, match="in training already"):
                        net.fit(X, Y, **FIT)
                    with alone.training_alone([other]):
                        code = 0
                finally:
                    if code:
                        os._exit(code)
        if child == 0:  # has left the block as its parent does
            os._exit(len(alone._training))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert list(alone._training) == [id(other)]
    finally:
        done.set()
        thread.join()
    net.fit(X, Y, **FIT)


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (ValueError, {"batch_size": 0}),
        (ValueError, {"learning_rate": -1.0}),
        (KeyError, {"callbacks": "raises"}),
        (KeyboardInterrupt, {"callbacks": "interrupts"}),
        (gpubp.DivergenceError, {"learning_rate": 1e30}),
        (OSError, {"checkpoint": "no/such/folder/x"}),
    ],
)
@pytest.mark.parametrize("fleet", [False, True])
def test_it_is_free_again_whatever_happened(
    fleet: bool, error: type[BaseException], how: dict[str, Any], tmp_path: Path
) -> None:
    def raises(training: Any) -> None:
        raise error("by the callback")

    how = FIT | {"learning_rate": 1e-3} | how
    if "callbacks" in how:
        how["callbacks"] = [raises]
    if "checkpoint" in how:
        how["checkpoint"] = tmp_path / how["checkpoint"]
    net = gpubp.Network([5, 8, 3], activation="identity", rng=3)
    start = net.parameters.flat.copy()
    if not fleet:
        with pytest.raises(error):
            net.fit(X, Y, **how)
    elif error is gpubp.DivergenceError:
        assert isinstance(gpubp.Fleet([net]).fit(X, Y, **how)[0].error, error)
    elif "checkpoint" not in how:
        with pytest.raises(error):
            gpubp.Fleet([net]).fit(X, Y, **how)
    assert not alone._training
    net.parameters.flat[...] = start
    net.fit(X, Y, epochs=1, batch_size=10, learning_rate=1e-6)
    assert np.isfinite(net.history.cost).all()
