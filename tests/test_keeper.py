"""The checkpoint of a run: tried before training, kept while it runs, and not lost at its end."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_harness import TRAIN, enter, run, succeed
from test_sgd import pieces_of

import gpubp
from gpubp import keeper, tensorfile
from gpubp.interrupt import Terminated

posix = pytest.mark.skipif(os.name != "posix", reason="signals and modes as POSIX has them")
RNG = np.random.default_rng(3)
X, Y = RNG.random((60, 4)), RNG.integers(0, 3, 60)
FIT: dict[str, Any] = {"epochs": 3, "batch_size": 5, "learning_rate": 0.5}


def network(**more: Any) -> gpubp.Network:
    return gpubp.Network([4, 5, 3], rng=0, backend="reference", **more)


@pytest.fixture
def pieces() -> Iterator[None]:
    """An epoch of 12 mini-batches is cut into 6 pieces."""
    with pieces_of(2):
        yield


def listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# Before training


class Mine(np.random.PCG64):
    pass


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "no folder": ("nowhere/net", FileNotFoundError, "No such file or directory; check the name"),
    "a folder": (".", IsADirectoryError, "it is a directory; give the name of a file"),
    "nothing": ("", ValueError, "names nothing"),
    "bytes": (b"net", TypeError, "must be the name of a file or folder, a str"),
    "a number": (3, TypeError, "must be the name of a file or folder, a str"),
    "a zero byte": ("n\0t", ValueError, "holds a zero byte"),
    "a device": ("/dev/null", OSError, "it is a device or a pipe, not a file"),
    "a long name": ("n" * 256, OSError, "File name too long; choose a shorter name"),
    "a file as a folder": ("file/net", NotADirectoryError, "Not a directory"),
}


@posix
@pytest.mark.parametrize("case", REFUSED)
def test_what_could_not_be_saved_to_is_refused_before_the_first_step(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("of mine")
    path, kind, told = REFUSED[case]
    net = network()
    before = net.parameters.flat.copy()
    for attempt in (lambda: net.fit(X, Y, **FIT, checkpoint=path), lambda: net.save(path)):
        with pytest.raises(kind, match=told) as caught:
            attempt()
        assert not isinstance(caught.value, gpubp.CheckpointError)
    np.testing.assert_array_equal(net.parameters.flat, before)
    assert net.training is None
    assert listing(tmp_path) == ["file"]


def test_a_network_that_could_not_be_saved_is_refused_before_the_first_step(tmp_path: Path) -> None:
    net = gpubp.Network([4, 3], rng=np.random.Generator(Mine(1)), backend="reference")
    with pytest.raises(TypeError, match="a network whose rng is a Mine cannot be saved"):
        net.fit(X, Y, **FIT, checkpoint=tmp_path / "net")
    net = network()
    net.weights[0][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"weights\.0 holds nan at \[0, 0\]"):
        net.fit(X, Y, **FIT, checkpoint=tmp_path / "net")
    assert net.training is None
    assert listing(tmp_path) == []


def test_a_folder_that_may_not_be_written_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any, **__: Any) -> Any:  # to root every folder is open
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tensorfile, "open", read_only, raising=False)
    net = network()
    with pytest.raises(PermissionError, match="Permission denied; check the permissions"):
        net.fit(X, Y, **FIT, checkpoint=tmp_path / "net")
    assert net.training is None


def test_a_good_checkpoint_stays_until_there_is_a_newer_one(tmp_path: Path) -> None:
    path = tmp_path / "net"
    network().save(path)
    before = path.read_bytes()

    def stop(training: Any) -> None:
        assert path.read_bytes() == before  # tried, and not replaced
        assert listing(tmp_path) == ["net"]

    network().fit(X, Y, **FIT, checkpoint=path, callbacks=[stop])
    assert path.read_bytes() != before


def test_another_generator_for_a_new_run_is_no_obstacle(tmp_path: Path) -> None:
    """What the last run left behind is not part of a new one."""
    net = network()

    class Stop(gpubp.Callback):
        def on_interval(self, training: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        net.fit(X, Y, **FIT, callbacks=[Stop()])
    net.rng = np.random.Generator(np.random.MT19937(1))
    net.fit(X, Y, **FIT, checkpoint=tmp_path / "net")
    assert len(gpubp.load(tmp_path / "net", "reference").history) == 3


# While training


@pytest.mark.usefixtures("pieces")
def test_it_is_written_inside_an_epoch_and_resumes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_SECONDS", 0.0)
    monkeypatch.setattr(keeper, "_SHARE", 1.0)
    path, places = tmp_path / "net", []
    given = FIT | {"momentum": 0.5}

    class Look(gpubp.Callback):
        """What a kill here would leave; callbacks come before it is written again."""

        def on_interval(self, training: Any) -> None:
            if path.exists():
                found = gpubp.load(path, "reference")
                assert found.training is not None
                places.append((found.training.epoch, found.training.step))
                path.rename(tmp_path / f"{places[-1][0]}-{places[-1][1]}")

    unbroken = network()
    unbroken.fit(X, Y, **given, checkpoint=path, callbacks=[Look()])
    assert len(places) >= 15
    assert {step for _, step in places} >= {2, 4, 6, 8, 10}
    assert {(1, 0), (2, 0)} <= set(places)  # an epoch's end with its row
    for epoch, step in places:
        net = gpubp.load(tmp_path / f"{epoch}-{step}", "reference")
        net.fit(X, Y, **given, resume=True)
        np.testing.assert_array_equal(net.parameters.flat, unbroken.parameters.flat)
    np.testing.assert_array_equal(
        gpubp.load(path, "reference").parameters.flat, unbroken.parameters.flat
    )


def test_writing_takes_a_tenth_of_the_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    net = network()
    saved: list[float] = []

    def save(seconds: float) -> Callable[..., None]:
        def slow(*_: Any, **__: Any) -> None:
            saved.append(clock[0])
            clock[0] += seconds

        return slow

    kept = keeper.Keeper(net, tmp_path / "net", resume=False)
    training: Any = None
    for seconds, pause in ((0.01, 5.0), (2.0, 18.0)):
        monkeypatch.setattr(net, "save", save(seconds), raising=False)
        saved.clear()
        for _ in range(400):
            clock[0] += 0.1
            kept.on_interval(training)
        assert len(saved) >= 2
        gaps = np.diff(saved[-2:]) - seconds
        assert pause <= gaps[0] <= pause + 0.2


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """While ``full[0]``, nothing can be written to ``tmp_path``: its disk is full."""
    state, honest = [False], tensorfile.take_place

    def take_place(made: str, path: str) -> None:
        if state[0] and Path(path).parent == tmp_path:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(made, path)

    monkeypatch.setattr(tensorfile, "take_place", take_place)
    monkeypatch.setattr(keeper, "_SECONDS", 0.0)
    monkeypatch.setattr(keeper, "_SHARE", 1.0)
    return state


class Fill(gpubp.Callback):
    def __init__(self, full: list[bool], first: int = 1, last: int = 99) -> None:
        self.full, self.first, self.last = full, first, last

    def on_epoch(self, training: Any) -> None:
        self.full[0] = self.first <= training.epoch <= self.last


def test_a_disk_that_is_full_for_a_while_is_told_once_and_ends_nothing(
    tmp_path: Path, full: list[bool]
) -> None:
    net, path = network(), tmp_path / "net"
    with pytest.warns(UserWarning, match=r"No space left .*; training goes on, and it is") as told:
        net.fit(X, Y, **FIT | {"epochs": 6}, checkpoint=path, callbacks=[Fill(full, 1, 4)])
    assert len(told) == 1
    assert len(gpubp.load(path, "reference").history) == 6


@pytest.mark.filterwarnings("ignore:.*training goes on")
def test_a_disk_that_is_full_at_the_end_leaves_the_network_in_memory(
    tmp_path: Path, full: list[bool]
) -> None:
    net, path = network(), tmp_path / "net"
    with pytest.raises(
        gpubp.CheckpointError, match=r"^cannot write .*No space .* in memory holds .*net.save\(path"
    ) as caught:
        net.fit(X, Y, **FIT, checkpoint=path, callbacks=[Fill(full)])
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.__cause__ is None
    assert len(net.history) == 3
    full[0] = False
    net.save(path)
    np.testing.assert_array_equal(
        gpubp.load(path, "reference").parameters.flat, net.parameters.flat
    )


@pytest.mark.filterwarnings("ignore:.*training goes on")
def test_what_ended_training_is_the_cause(tmp_path: Path, full: list[bool]) -> None:
    net = network(activation=["relu", "identity"])
    with pytest.raises(gpubp.CheckpointError) as caught, np.errstate(all="ignore"):
        net.fit(X, Y, **FIT | {"learning_rate": lambda epoch: 0.1 if epoch < 2 else 1e30},
                checkpoint=tmp_path / "net", callbacks=[Fill(full)])  # fmt: skip
    assert isinstance(caught.value.__cause__, gpubp.DivergenceError)


# Signals


class Send(gpubp.Callback):
    """Sends this process a signal, some times over, at a step inside the second epoch."""

    def __init__(self, number: int, times: int = 1) -> None:
        self.number, self.times = number, times

    def on_interval(self, training: Any) -> None:
        if (training.epoch, training.step) >= (1, 4):
            while self.times:
                self.times -= 1
                os.kill(os.getpid(), self.number)


@pytest.fixture
def defaults() -> Iterator[None]:
    """SIGTERM and SIGHUP as a process of its own finds them, whatever runs the tests."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@posix
@pytest.mark.usefixtures("defaults", "pieces")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_is_ctrl_c(number: int, tmp_path: Path) -> None:
    given = FIT | {"momentum": 0.5}
    unbroken, net = network(), network()
    unbroken.fit(X, Y, **given)
    with pytest.raises(Terminated) as caught:  # sent twice, as a shell and its terminal do
        net.fit(X, Y, **given, checkpoint=tmp_path / "net", callbacks=[Send(number, 2)])
    assert caught.value.number == number
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(number) == signal.SIG_DFL
    assert net.training is not None
    assert (net.training.epoch, net.training.step) == (1, 4)
    loaded = gpubp.load(tmp_path / "net", "reference")
    loaded.fit(X, Y, **given, resume=True)
    np.testing.assert_array_equal(loaded.parameters.flat, unbroken.parameters.flat)


@posix
@pytest.mark.usefixtures("defaults", "pieces")
def test_signals_that_are_ignored_or_handled_stay_so() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        handler, net = signal.getsignal(number), network()
        net.fit(X, Y, **FIT, callbacks=[Send(number)])
        assert len(net.history) == 3
        assert signal.getsignal(number) == handler
    assert seen == [signal.SIGTERM]


@posix
@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_acts_at_once(first: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    reached = []

    class Press(gpubp.Callback):
        def on_interval(self, training: Any) -> None:
            os.kill(os.getpid(), first)
            reached.append("after the first")
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("after the second")

    net = network()
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, Y, **FIT, callbacks=[Press()])
    assert reached == ["after the first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@posix
@pytest.mark.usefixtures("defaults", "pieces")
def test_a_fleet_obeys_a_signal_to_end() -> None:
    fleet = gpubp.Fleet.of([4, 5, 3], rng=range(3), backend="reference")
    given = FIT | {"epochs": 200}
    with pytest.raises(Terminated) as caught:
        fleet.fit(X, Y, **given, callbacks=[Send(signal.SIGTERM)])
    assert caught.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert any(row.status.startswith("interrupted") for row in fleet.result)


@posix
@pytest.mark.usefixtures("defaults")
def test_a_signal_while_the_last_checkpoint_is_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, honest = network(), gpubp.Network.save

    def save(self: gpubp.Network, path: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        honest(self, path)

    monkeypatch.setattr(gpubp.Network, "save", save)
    with pytest.raises(Terminated):
        net.fit(X, Y, **FIT, checkpoint=tmp_path / "net")
    assert len(gpubp.load(tmp_path / "net", "reference").history) == 3


# The command line


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_command_keeps_its_run_when_it_is_told_to_end(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)
    program = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from gpubp.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = "train --data t.npz --epochs 100000000 --batch-size 6 --backend reference --save t.net"
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words.split()], text=True, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    while not child.stdout.readline().startswith("epoch "):
        pass
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert re.fullmatch(
        r"gpubp: interrupted in epoch \d+; saved to t\.net: continue with gpubp train .*\n", err
    )
    assert len(gpubp.load(tmp_path / "t.net", "reference").history) >= 1


@pytest.mark.filterwarnings("ignore:.*training goes on")
def test_what_was_trained_is_saved_elsewhere_where_the_disk_is_full(
    tmp_path: Path, full: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)
    (tmp_path / "room").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "room"))
    honest, made = gpubp.Network.fit, []

    def fit(self: gpubp.Network, *args: Any, callbacks: Any, **named: Any) -> Any:
        made.append(self)
        return honest(self, *args, callbacks=[*callbacks, *more, Fill(full)], **named)

    monkeypatch.setattr(gpubp.Network, "fit", fit)
    words = f"{TRAIN} --backend reference --save t.net --quiet"
    more: list[Any] = []
    code, out, err = run(words)
    assert code == 2
    assert "test " in out  # the result is told
    found = re.fullmatch(
        r"gpubp: cannot write t\.net: No space .*; the network is saved in (\S+) instead\n", err
    )
    assert found, err
    np.testing.assert_array_equal(
        gpubp.load(found[1], "reference").parameters.flat, made[-1].parameters.flat
    )
    assert not (tmp_path / "t.net").exists() or len(gpubp.load("t.net", "reference").history) < 3

    full[0] = False

    class Press(gpubp.Callback):
        def on_epoch(self, training: Any) -> None:
            if training.epoch == 2:
                raise KeyboardInterrupt

    more = [Press()]
    code, _, err = run(words)
    assert code == 130
    found = re.fullmatch(
        r"gpubp: interrupted in epoch 2; cannot write t\.net: .*; the network is saved in (\S+) "
        r"instead: continue with (gpubp train --resume \1 --save \1 .*)\n", err
    )  # fmt: skip
    assert found, err
    monkeypatch.setattr(gpubp.Network, "fit", honest)
    full[0] = False
    succeed(run(found[2].removeprefix("gpubp ")))


def test_a_picture_that_cannot_be_written_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    code, out, err = run(f"{TRAIN} --backend reference --quiet --plot t.png")
    assert code == 2
    assert "test " in out
    assert err == "gpubp: cannot plot to t.png: No space left on device\n"


@posix
@pytest.mark.parametrize("option", ["--save", "--plot"])
def test_names_that_are_too_long_are_refused_before_the_data_are_read(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)
    for name in ("n" * 252 + ".png", "nowhere/n.png", "/dev/null"):
        code, out, err = run(f"train --data nowhere.npz {option} {name}")
        assert (code, out) == (2, "")
        assert err.startswith("gpubp: cannot write ")
