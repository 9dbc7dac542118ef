"""The command line where streams, homes and encodings are missing or hostile: one sentence each,
and no result is lost for want of printing it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp

posix = pytest.mark.skipif(os.name != "posix", reason="signals and devices as POSIX has them")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x, y = rng.random((30, 4)).astype(np.float32), rng.integers(0, 3, 30)
    np.savez(tmp_path / "t.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return tmp_path


def command(words: str, folder: Path, code: str = "", **named: Any) -> Any:
    """``gpubp WORDS`` in a process of its own, after some Python."""
    program = f"import sys; {code}\nfrom gpubp.cli import main\nsys.exit(main(sys.argv[1:]))"
    environment = os.environ | named.pop("environment", {})
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | named
    return subprocess.run(
        [sys.executable, "-c", program, *words.split()], cwd=folder, env=environment, text=True,
        check=False, timeout=120, encoding="utf-8", errors="replace", **given,
    )  # fmt: skip


TRAIN = "train --data t.npz --epochs 2 --batch-size 5 --backend reference --save t.net"


def test_without_streams_it_trains_and_saves(folder: Path) -> None:
    """As under pythonw, whose stdout and stderr are None."""
    done = command(TRAIN, folder, "sys.stdout = sys.stderr = None")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(gpubp.load(folder / "t.net", backend="reference").history) == 2
    done = command("train --data nowhere.npz", folder, "sys.stdout = sys.stderr = None")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_behind_stdout_costs_no_training(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        done = command(TRAIN, folder, stdout=full)
    assert done.returncode == 2
    assert done.stderr == (
        "gpubp: the command did its work, but its output could not be written: no space left on "
        "device\n"
    )
    assert len(gpubp.load(folder / "t.net", backend="reference").history) == 2
    with open("/dev/full", "w") as full:
        done = command("train --data nowhere.npz", folder, stdout=full, stderr=full)
    assert done.returncode == 2


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_a_bar_that_cannot_be_drawn_costs_no_training(stream: str, folder: Path) -> None:
    with open("/dev/full", "w") as full:
        done = command(f"{TRAIN} --progress", folder, **{stream: full})
    assert done.returncode == (2 if stream == "stdout" else 0), done.stderr
    assert len(gpubp.load(folder / "t.net", backend="reference").history) == 2


def test_fit_without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    net = gpubp.Network([4, 3], rng=0, backend="reference")
    for progress in (None, True):
        net.fit(np.zeros((6, 4)), np.arange(6) % 3, epochs=1, batch_size=3, learning_rate=0.1,
                progress=progress)  # fmt: skip
        assert len(net.history) == 1


def test_class_names_that_the_locale_lacks_are_escaped(folder: Path) -> None:
    net = gpubp.Network([4, 3], rng=0, backend="reference")
    net.classes = ("gr\u00fc\u00df", "gr\u00fc\u00dfe", "gr\u00fc\u00dfen")
    net.save(folder / "g.net")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = command("predict g.net --data t.npz", folder, environment=plain)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gr\\xfc\\xdf" in done.stdout


def test_characters_that_the_terminal_lacks_are_escaped(folder: Path) -> None:
    name = "gr\u00fc\u00dfe.net"
    words = TRAIN.replace("t.net", name)
    done = command(words, folder, environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "saved to gr\\xfc\\xdfe.net" in done.stdout
    assert (folder / name).exists()


@pytest.mark.parametrize("threads", ["100000", "0", "-1", "many", "9" * 5000])
def test_numbers_of_threads_that_cannot_be(threads: str, folder: Path) -> None:
    words = TRAIN.replace("reference", "cpu")
    done = command(words, folder, environment={"GPUBP_NUM_THREADS": threads})
    assert done.returncode == 2
    assert done.stderr.startswith("gpubp: GPUBP_NUM_THREADS=")
    assert done.stderr.endswith(" must be an integer from 1 to 1024\n")
    assert done.stderr.count("\n") == 1


def test_a_compiler_that_is_turned_off(folder: Path) -> None:
    environment = {"NUMBA_DISABLE_JIT": "1"}
    done = command(TRAIN.replace("reference", "cpu"), folder, environment=environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "NUMBA_DISABLE_JIT=1 turns off the compiler" in done.stderr
    assert command(TRAIN, folder, environment=environment).returncode == 0


def test_doctor_explains_a_cache_that_cannot_be_written(folder: Path) -> None:
    (folder / "file").write_text("")
    environment = {"GPUBP_CACHE": str(folder / "file" / "cache"), "GPUBP_DATA": str(folder / "no")}
    done = command("doctor", folder, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "cache/kernels cannot be written (Not a directory)" in done.stdout
    assert "set GPUBP_CACHE to a folder that can be written" in done.stdout
    assert "self-test  PASS: backend cpu" in done.stdout
    (line,) = done.stderr.splitlines()  # and said where it compiles, once
    assert line.startswith("gpubp: warning: compiled kernels cannot be kept (")


@posix
def test_ctrl_c_while_the_command_starts_is_one_line(folder: Path) -> None:
    """In the first moments, while NumPy and gpubp are read: from when the command has begun."""
    code = "print('begun', flush=True)"
    for wait in (0.0, 0.03, 0.1, 0.2):
        program = f"import sys\nfrom gpubp.cli import main\n{code}\nsys.exit(main(sys.argv[1:]))"
        words = TRAIN.replace("epochs 2", "epochs 100000000").split()
        child = subprocess.Popen(
            [sys.executable, "-c", program, *words], cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        time.sleep(wait)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
        assert child.returncode == 130, (wait, err)
        assert err.startswith("gpubp: "), wait
        assert err.count("\n") == 1, (wait, err)
