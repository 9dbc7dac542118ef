"""What the command line refuses: exit code 2 or 3, one sentence on stderr, nothing on the disk."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_harness import TRAIN, blobs, enter, refuse, run, weights

import gpubp


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(tmp_path, monkeypatch)
    return tmp_path


REFUSED = {
    "trian": "did you mean 'train'",
    "train --epcohs 3": "did you mean '--epochs'",
    "train more": "one argument too many: 'more': did you mean --data more?",
    f"{TRAIN} --lr 0.1": "unknown option '--lr': did you mean '--learning-rate'?",
    f"{TRAIN} --Batch 3": "did you mean '--batch-size'?",
    f"{TRAIN} --seed=3": "unknown option '--seed': did you mean '--rng'?",
    f"{TRAIN} --weight-decay 1": "did you mean '--l2'?",
    "predict t.net more --data t.npz": "one argument too many: 'more': did you mean --data more?",
    "train --epochs many": "--epochs",
    "train --epochs 1.5": "--epochs",
    "evaluate": "FILE",
    "predict t.net": "--data",
    f"{TRAIN} --activation sigmoyd": "did you mean 'sigmoid'",
    f"{TRAIN} --activation sigmoid,": "unknown activation ''",
    f"{TRAIN} --activation ''": "unknown activation ''",
    f"{TRAIN} --cost ''": "unknown cost ''",
    f"{TRAIN} --init ''": "unknown init",
    f"{TRAIN} --dtype ''": "'float32' or 'float64'",
    f"{TRAIN} --sizes ''": "whole numbers",
    f"{TRAIN} --schedule ''": "unknown schedule ''",
    "train --data ''": "names nothing",
    f"{TRAIN} --activation tanh,tanh,tanh": "3 activations for 2 layers",
    f"{TRAIN} --activation 'import(z)'": "",
    f"{TRAIN} --cost quadratik": "did you mean 'quadratic'",
    f"{TRAIN} --init nrmal": "did you mean 'normal'",
    f"{TRAIN} --schedule cosin": "did you mean 'cosine'",
    f"{TRAIN} --backend cpuu": "did you mean 'cpu'",
    f"{TRAIN} --backend cuda:x": "unknown backend",
    f"{TRAIN} --dtype float31": "'float32' or 'float64'",
    f"{TRAIN} --activation softmax": "hidden layer",
    f"{TRAIN} --activation sigmoid,softmax": "log_likelihood",
    f"{TRAIN} --activation relu --cost cross_entropy": "between 0 and 1",
    f"{TRAIN} --sizes 5,3,2": "5 inputs and 3 classes",
    f"{TRAIN} --sizes 4,3,3": "5 inputs and 3 classes",
    f"{TRAIN} --sizes 5": "5 inputs and 3 classes",
    f"{TRAIN} --sizes 5,x,3": "whole numbers",
    f"{TRAIN} --sizes 5,0,3": "sizes[1]",
    f"{TRAIN} --sizes 5,999999999999,3": "choose smaller layers",
    f"{TRAIN} --batch-size 0": "batch_size=0",
    f"{TRAIN} --batch-size 61": "--batch-size 61 is larger than the 60 examples to train on",
    f"{TRAIN} --optimizer adm": "did you mean 'adam'?",
    f"{TRAIN} --optimizer adam --momentum 0.9": "leave them out, or the optimizer",
    f"{TRAIN} --epochs -1": "epochs=-1",
    f"{TRAIN} --learning-rate 0": "learning_rate=0",
    f"{TRAIN} --learning-rate nan": "learning_rate=nan",
    f"{TRAIN} --momentum 1": "momentum=1",
    f"{TRAIN} --nesterov": "momentum",
    f"{TRAIN} --l2 -1": "l2=-1",
    f"{TRAIN} --l1 inf": "l1=inf",
    f"{TRAIN} --rng -1": "rng=-1",
    f"{TRAIN} --early-stopping 0": "patience=0",
    f"{TRAIN} --save nowhere/f.net": "there is no folder",
    f"{TRAIN} --save .": "it is a directory",
    f"{TRAIN} --save t.npz": "another file of this command",
    f"{TRAIN} --plot ./t.npz": "another file of this command",
    f"{TRAIN} --save a.png --plot a.png": "another file of this command",
    f"{TRAIN} --save ''": "names nothing",
    f"{TRAIN} --plot nowhere/f.png": "there is no folder",
    f"{TRAIN} --plot f.doc": ".png",
    f"{TRAIN} --resume missing.net": "missing.net",
    f"{TRAIN} --resume t.npz": "t.npz",
    f"{TRAIN} --resume broken.net": "broken.net",
    f"{TRAIN} --resume bare.net": "without training",
    f"{TRAIN} --resume t.net --sizes 5,3": "--sizes is part of t.net",
    f"{TRAIN} --resume t.net --epochs 99": "batch_size 7",
    "train --data other.npz --resume t.net --epochs 99": "4 inputs",
    "train --data more.npz --resume t.net --epochs 99": "examples 60",
    "train --data missing.npz": "missing.npz",
    "train --data missing": "missing",
    "train --data minst": "did you mean 'mnist'",
    "train --data empty.csv": "empty.csv",
    "train --data words.csv": "line 2",
    "train --data broken.npz": "broken.npz",
    "train --data bad.idx": "bad.idx",
    "train --data folder": "train-images-idx3-ubyte",
    "train --data ids.npz": "labels up to 999999999",
    "evaluate broken.net --data t.npz": "broken.net",
    "evaluate missing.net --data t.npz": "missing.net",
    "evaluate t.net --data other.npz": "4 inputs",
    "evaluate one.net --data t.npz": "5 inputs and 3 classes",
    "train --data other.npz --epochs 1 --sizes 4,3,2": "at least 3",
    "evaluate t.net --data t.npz --part tset": "did you mean 'test'",
    "evaluate t.net --data t.npz --backend cuda:x": "unknown backend",
    "predict t.net --data other.npz": "have 4",
    "predict t.net --data narrow.csv": "narrow.csv has 4 columns",
    "predict t.net --data t.npz --output t.npz": "another file of this command",
    "predict t.net --data wide.csv --output ./wide.csv": "another file of this command",
    "predict t.net --data wide.csv --output link.csv": "another file of this command",
    "predict t.net --data wide.csv --output t.net": "another file of this command",
    "predict t.net --data missing.csv": "missing.csv",
    "predict t.net --data ragged.csv": "ragged.csv",
    "predict t.net --data header.csv": "header.csv",
    "predict t.net --data nan.csv": "found 'nan'",
    "predict t.net --data t.npz --output nowhere/p.csv": "there is no folder",
    "predict linear.net --data t.npz --proba": "between 0 and 1",
    "data --data missing.npz": "missing.npz",
    "bench --epochs 0": "epochs=0",
    "doctor --fast": "--fast",
}


def hopeless_files() -> None:
    """What the commands of REFUSED name."""
    x, y = blobs(60)
    net = gpubp.Network([5, 4, 3], rng=0)
    net.save("bare.net")
    net.fit(x, y, epochs=1, batch_size=7, learning_rate=1.0, progress=False)
    net.save("t.net")
    gpubp.Network([5, 4, 3], activation="identity", rng=0).save("linear.net")
    Path("broken.net").write_bytes(Path("t.net").read_bytes()[:-5])
    Path("broken.npz").write_bytes(Path("t.npz").read_bytes()[:-5])
    Path("bad.idx").write_bytes(struct.pack(">HBBI", 0, 8, 1, 9))
    Path("folder").mkdir()
    np.savez("other.npz", x=x[:, :4], y=y)
    np.savez("more.npz", x=x[:30], y=y[:30])
    np.savez("ids.npz", x=x, y=np.full(60, 999_999_999))
    Path("empty.csv").write_text("")
    Path("words.csv").write_text("1,2,3\n2,three,4\n")
    Path("ragged.csv").write_text("1,2,3,4,5\n1,2,3\n")
    Path("header.csv").write_text("a,b,c,d,e\n")
    Path("nan.csv").write_text("1,2,3,4,nan\n")
    Path("narrow.csv").write_text("1,2,3,4\n")
    Path("wide.csv").write_text("1,2,3,4,5\n")
    Path("link.csv").symlink_to("wide.csv")
    gpubp.Network([5, 4, 1], rng=0).save("one.net")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def test_each_wrong_input_is_refused_in_one_sentence(folder: Path) -> None:
    hopeless_files()
    before = contents(folder)
    for command, told in REFUSED.items():
        assert told in refuse(run(command)), command
    assert contents(folder) == before


def test_a_folder_that_takes_no_files() -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc on this system")
    assert "no file can be made in /proc" in refuse(run(TRAIN, "--save /proc/x"))


def test_backend_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(name: Any) -> Any:
        raise gpubp.BackendUnavailable("backend 'cuda' is not available: no driver\nno device")

    monkeypatch.setattr("gpubp.train_command.get_backend", unavailable)
    assert "no driver no device" in refuse(run(TRAIN, "--backend cuda"))


def test_debug_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBP_DEBUG", "1")
    with pytest.raises(ValueError, match="batch_size"):
        run(TRAIN, "--batch-size 0")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_divergence_is_told_and_its_last_finite_state_saved(backend: str) -> None:
    diverge = "--activation identity --learning-rate 1e30 --epochs 5 --save d.net"
    told = refuse(run("train --data t.npz", diverge, "--backend", backend), code=3)
    assert "diverged" in told
    assert all(np.isfinite(array).all() for array in weights("d.net"))


def test_interrupt_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpubp.commands.datasets.load", interrupted)
    assert refuse(run(TRAIN), code=130) == "gpubp: interrupted\n"
