"""The command line: what it prints, what it writes, and one sentence for all that goes wrong."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_harness import TRAIN, blobs, enter, refuse, run, succeed, weights

import gpubp
from gpubp import data

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals, pipes and devices")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(tmp_path, monkeypatch)
    return tmp_path


def assert_same(first: str, second: str) -> None:
    for a, b in zip(weights(first), weights(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_train_prints_one_line_an_epoch_and_a_last_one() -> None:
    lines = succeed(run(TRAIN))
    assert lines[0] == "data: t.npz, 60 training and 24 test examples, 5 inputs, 3 classes"
    assert "[5, 30, 3]" in lines[1]
    assert [line[:9] for line in lines[2:-1]] == ["epoch   0", "epoch   1", "epoch   2"]
    assert re.fullmatch(
        r"best epoch \d \(accuracy [\d.]+%\)  test cost [\d.]+, accuracy [\d.]+%  "
        r"[\d,]+ examples/s  [\d.]+ microseconds a step",
        lines[-1],
    )
    net = gpubp.Network([5, 30, 3], rng=0)
    train, test = data.load("t.npz")
    net.fit(*train, epochs=3, batch_size=6, learning_rate=3.0, progress=False)
    assert f"test {net.evaluate(*test)}" in lines[-1]


def test_quiet_prints_the_last_line_only() -> None:
    assert len(succeed(run(TRAIN, "--quiet"))) == 1


def test_no_epochs_is_an_evaluation() -> None:
    for schedule in ("constant", "cosine", "one_cycle"):
        lines = succeed(run("train --data t.npz --epochs 0 --schedule", schedule))
        assert lines[-1].startswith("test cost")


def test_overflow_is_not_a_warning() -> None:
    """Weights so large that the outputs overflow: the cost says so, in one stream."""
    code = (
        "import sys; from gpubp.cli import main; sys.exit(main(['train', '--data', 't.npz', "
        "'--epochs', '1', '--learning-rate', '1e37', '--activation', 'relu', '--batch-size', "
        "'60', '--save', 'o.net']) or main(['evaluate', 'o.net', '--data', 't.npz']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("cost inf") >= 2


@pytest.mark.parametrize("end", ["interrupt", "divergence"])
def test_the_last_state_is_written_once(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    save = gpubp.Network.save

    def counted(net: gpubp.Network, path: str) -> None:
        written.append(path)
        save(net, path)

    def interrupted(t: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpubp.Network, "save", counted)
    if end == "interrupt":
        monkeypatch.setattr("gpubp.history.Epoch.__str__", interrupted)
        assert "saved to a.net" in refuse(run(TRAIN, "--save a.net"), code=130)
    else:
        diverge = "--activation identity --learning-rate 1e30 --save a.net"
        refuse(run(TRAIN, diverge), code=3)
    assert written == ["a.net"]
    assert gpubp.load("a.net").training is not None


def test_interrupt_before_the_first_step_claims_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    succeed(run(TRAIN, "--save a.net"))
    monkeypatch.setattr(gpubp.Network, "fit", interrupted)
    for options in ("--save b.net", "--save b.net --resume a.net --epochs 9"):
        told = refuse(run(TRAIN, options), code=130)
        assert "nothing was saved, as training had not begun" in told
        assert not Path("b.net").exists()


def test_progress_bar_goes_to_stderr() -> None:
    code, out, err = run(TRAIN, "--progress")
    assert code == 0
    assert "examples" in err
    assert "epoch   2" in out


@pytest.mark.parametrize(
    "options",
    [
        "--sizes 5,4,6,3 --activation tanh,relu,softmax --cost log_likelihood --init normal",
        "--activation 'where(z > 0, max(z, 0.5*z), 0.1*z),sigmoid' --cost 'abs(a - y)'",
        "--momentum 0.9 --nesterov --l2 1e-4 --l1 1e-5 --learning-rate 0.1 --schedule one_cycle",
        "--dtype float64 --rng 7 --backend reference --schedule reduce_on_plateau",
    ],
)
def test_options_reach_the_library(options: str) -> None:
    last = succeed(run(TRAIN, options, "--save a.net"))[-1]
    net = gpubp.load("a.net")
    assert net.training is not None
    assert net.training.epoch == 3
    assert f"test {net.evaluate(*data.load('t.npz')[1])}" in last


def test_two_classes_may_have_one_output() -> None:
    x, y = blobs(30)
    np.savez("two.npz", x=x, y=(y > 0).astype(int))
    succeed(run("train --data two.npz --sizes 5,3,1 --epochs 2 --save two.net"))
    assert "predicted" in "\n".join(succeed(run("evaluate two.net --data two.npz --part all")))


def test_early_stopping_holds_out_training_examples() -> None:
    lines = succeed(run("train --data t.npz --epochs 500 --early-stopping 2 --batch-size 5 "
                        "--learning-rate 30 --save e.net"))  # fmt: skip
    assert "validation: the last 10 of the training examples, held out" in lines
    net = gpubp.load("e.net")
    assert net.training is not None
    assert net.training.examples == 50
    assert "kept" in lines[-1]
    assert f"test {net.evaluate(*data.load('t.npz')[1])}" in lines[-1]


def test_resumed_run_is_the_unbroken_one() -> None:
    common = "--data t.npz --batch-size 7 --learning-rate 0.5 --momentum 0.5 --quiet"
    succeed(run("train --epochs 5 --save whole.net", common))
    succeed(run("train --epochs 2 --save part.net", common))
    again = "train --data t.npz --resume part.net --save part.net --epochs 5 --learning-rate 0.5"
    lines = succeed(run(again))
    assert [line[:9] for line in lines if line.startswith("epoch")] == [
        "epoch   2", "epoch   3", "epoch   4",
    ]  # fmt: skip
    assert_same("whole.net", "part.net")
    assert "has finished its training" in "\n".join(succeed(run(again)))
    assert_same("whole.net", "part.net")


def test_plot() -> None:
    succeed(run(TRAIN, "--plot curves.png"))
    assert Path("curves.png").read_bytes()[:4] == b"\x89PNG"
    succeed(run("train --data t.npz --epochs 0 --plot empty.svg"))
    assert Path("empty.svg").stat().st_size > 0


def test_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert "gpubp[plot]" in refuse(run(TRAIN, "--plot curves.png"))


def test_default_data_is_mnist_at_hand_or_else_drawn(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    x, y = data.digits28(30)
    drawn = ((x[:20], y[:20]), (x[20:], y[20:]))
    monkeypatch.setattr("gpubp.commands.datasets.load", lambda source: drawn)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda project: str(folder / "cache"))
    assert "digits28 (no MNIST in the cache" in succeed(run("train --epochs 0"))[0]
    succeed(run("data --data digits28 --out cache"))
    assert succeed(run("train --epochs 0"))[0].startswith("data: mnist, 20 training")
    monkeypatch.setenv("GPUBP_DATA", str(folder / "cache"))
    assert "cache ($GPUBP_DATA), 20 training" in succeed(run("train --epochs 0"))[0]


@pytest.fixture
def net() -> str:
    succeed(run("train --data t.npz --epochs 30 --batch-size 6 --save t.net"))
    return "t.net"


@pytest.mark.parametrize(("part", "examples"), [("test", 24), ("train", 60), ("all", 84)])
def test_evaluate(net: str, part: str, examples: int) -> None:
    lines = succeed(run(f"evaluate {net} --data t.npz --part {part}"))
    assert lines[0] == "data: t.npz, 60 training and 24 test examples, 5 inputs, 3 classes"
    assert lines[2].startswith(f"{part} part, {examples} examples: cost")
    table = [line.split("|")[1].split() for line in lines[-3:]]
    assert sum(int(n) for row in table for n in row if n != ".") == examples


def test_confusions_of_many_classes_are_listed() -> None:
    rng = np.random.default_rng(0)
    np.savez("many.npz", x=rng.random((60, 4)), y=np.arange(60) % 25)
    succeed(run("train --data many.npz --epochs 1 --save m.net"))
    out = "\n".join(succeed(run("evaluate m.net --data many.npz --part all")))
    assert re.search(r"most frequent confusions\n +\d+ of class \d+ predicted as \d+\n", out)


def test_data_shows_and_writes() -> None:
    x, y = data.digits28(30)
    np.savez("d.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    lines = succeed(run("data --data d.npz --out made/idx"))
    assert "(20, 784) uint8, values 0 to 255" in lines[1]
    assert max(map(len, lines[5:])) <= 80
    assert "@" in "".join(lines[5:])
    for (a, b), (c, d) in zip(data.load("d.npz"), data.load("made/idx"), strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)


def test_data_that_are_no_images() -> None:
    lines = succeed(run("data --data t.npz"))
    assert len([line for line in lines if line.startswith("class ")]) == 3
    assert "uint8" in refuse(run("data --data t.npz --out made"))
    assert not Path("made").exists()


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    out = "\n".join(succeed(run("doctor")))
    for word in (gpubp.__version__, "Numba", "CuPy", "BLAS", "GPU", "kernels", "PASS"):
        assert word in out
    for broken in (lambda backend: 1.0, lambda backend: float("nan")):
        monkeypatch.setattr("gpubp.doctor.self_test", broken)
        code, out, _ = run("doctor")
        assert code == 1
        assert "FAIL" in out


def test_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    few = data.digits28(256)
    monkeypatch.setattr("gpubp.commands.datasets.digits28", lambda n: few)
    lines = succeed(run("bench --epochs 1"))
    assert [line[0] for line in lines] == ["b", "S", "M"]
    assert all("microseconds a step" in line for line in lines[1:])


def test_version_and_help() -> None:
    assert succeed(run("--version")) == [f"gpubp {gpubp.__version__}"]
    usage = succeed(run("--help"))
    assert usage == succeed(run())
    for command in ("train", "evaluate", "predict", "data", "bench", "doctor"):
        assert any(line.startswith(f"  {command}") for line in usage)
        assert succeed(run(command, "--help"))[0].startswith(f"usage: gpubp {command}")


def process(command: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gpubp", *shlex.split(command)],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


@posix
def test_interrupt_saves_and_says_how_to_resume() -> None:
    common = "--data t.npz --batch-size 6 --learning-rate 0.1"
    child = process(f"train {common} --epochs 1000000 --save i.net")
    assert child.stdout is not None
    while not child.stdout.readline().startswith("epoch"):
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, err = child.communicate(timeout=30)
    assert time.monotonic() - sent <= 2
    told = refuse((child.returncode, "", err), code=130)
    done = gpubp.load("i.net").training
    assert done is not None
    assert done.epoch >= 1

    resume = told.partition("continue with gpubp ")[2]
    assert resume.startswith("train --resume i.net --save i.net --data t.npz --epochs 1000000")
    total = done.epoch + 2
    succeed(run(resume.replace("1000000", str(total)), "--quiet"))
    succeed(run(f"train {common} --epochs {total} --save whole.net --quiet"))
    assert_same("i.net", "whole.net")


@posix
def test_reader_that_leaves() -> None:
    child = process("train --data t.npz --epochs 1000000 --save left.net")
    assert child.stdout is not None
    while not child.stdout.readline().startswith("epoch"):
        assert child.poll() is None
    child.stdout.close()
    assert child.stderr is not None
    assert child.stderr.read() == ""
    child.stderr.close()
    assert child.wait(timeout=30) == 141
    assert gpubp.load("left.net").training is not None


@posix
def test_full_disk_behind_stdout() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "gpubp", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False,
        )  # fmt: skip
    refuse((result.returncode, "", result.stderr))


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from gpubp.cli import main; main(['train', '--help']); "
        "print([m for m in ('numba', 'scipy', 'sympy', 'pooch', 'tqdm', 'matplotlib', 'cupy') "
        "if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert out.endswith("[]\n")


def test_what_is_stored_is_told() -> None:
    """Whose weights: the last epoch's, or those that early stopping went back to."""
    out = succeed(run(TRAIN, "--save a.net"))
    assert "saved to a.net: the weights after epoch 2" in out
    out = succeed(run("train --data t.npz --epochs 60 --learning-rate 30 --early-stopping 2",
                      "--save b.net"))  # fmt: skip
    (told,) = (line for line in out if line.startswith("saved to b.net"))
    best = re.match(r"best epoch (\d+) \(validation cost .*, kept\)", out[-1])
    assert best is not None
    assert told == f"saved to b.net: the weights after epoch {best[1]}"
    out = succeed(run("train --data t.npz --resume a.net --epochs 4"))
    assert "note: nothing is stored of this: --save FILE would keep it" in out
    out = succeed(run("train --data t.npz --resume a.net --epochs 4 --save c.net"))
    assert not any("nothing is stored" in line for line in out)


def test_few_examples_are_one_mini_batch() -> None:
    x, y = blobs(8)
    np.savez("few.npz", x_train=x[:6], y_train=y[:6], x_test=x[6:], y_test=y[6:])
    out = succeed(run("train --data few.npz --epochs 1 --save f.net"))
    assert "note: --batch-size is 6, as there are no more examples to train on" in out
    net = gpubp.load("f.net")
    assert net.training is not None
    assert net.training.batch_size == 6


def test_optimizer_is_kept_and_taken_up_again() -> None:
    succeed(run(TRAIN, "--optimizer adam --save a.net"))
    net = gpubp.load("a.net")
    assert net.training is not None
    assert net.training.optimizer["name"] == "adam"
    assert net.history.learning_rate == [1e-3] * 3
    succeed(run("train --data t.npz --resume a.net --epochs 5 --save a.net"))
    succeed(run("train --data t.npz --epochs 5 --batch-size 6 --optimizer adam --save b.net"))
    for one, other in zip(weights("a.net"), weights("b.net"), strict=True):
        np.testing.assert_array_equal(one, other)
    told = refuse(run("train --data t.npz --resume a.net --epochs 6 --momentum 0.5"))
    assert "continues a run with optimizer adam, not sgd" in told


def test_huge_costs_are_short() -> None:
    row = gpubp.Epoch(0, 1.5e30, 0.1, 1.0, 2.5e6, 0.5)
    assert str(row) == (
        "epoch   0  cost 1.5e+30  0.100 s  validation cost 2.5e+06  accuracy 50.00%"
    )
    assert str(gpubp.Evaluation(999999.0, None)) == "cost 999999.000000"
