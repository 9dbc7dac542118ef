"""``gpubp predict`` and what a csv file means to it and to the other commands."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from cli_harness import blobs, enter, refuse, run, succeed

import gpubp
from gpubp import data


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def net() -> str:
    succeed(run("train --data t.npz --epochs 30 --batch-size 6 --save t.net"))
    return "t.net"


def test_predict_reads_with_labels_or_without(net: str) -> None:
    x, y = blobs(24, seed=1)
    expected = gpubp.load(net).predict(x)
    np.savetxt("labels.csv", np.c_[y, x], delimiter=",")
    np.savetxt("bare.csv", x, delimiter=",")
    np.savetxt("header.csv", x, delimiter=",", header="a,b,c,d,e", comments="")
    np.savez("one.npz", x=x, y=y)
    for source in ("labels.csv", "bare.csv", "header.csv", "one.npz", "t.npz"):
        index, label = zip(*csv.reader(succeed(run(f"predict {net} --data {source}"))), strict=True)
        assert index == ("index", *map(str, range(24)))
        assert label == ("class", *map(str, expected))


def test_a_row_is_predicted_alike_in_whatever_file_it_stands() -> None:
    """Values that all happen to be integers keep their meaning, with labels and without."""
    x = np.random.default_rng(0).integers(0, 4, (9, 5)).astype(float)
    gpubp.Network([5, 4, 3], rng=0, init="normal").save("n.net")
    expected = gpubp.load("n.net").predict_proba(x)
    np.savetxt("integers.csv", x, delimiter=",", fmt="%d")
    np.savetxt("labels.csv", np.c_[np.arange(9) % 3, x], delimiter=",", fmt="%d")
    x[-1] += 0.5
    np.savetxt("mixed.csv", x, delimiter=",")
    for name in ("integers", "labels", "mixed"):
        rows = list(csv.reader(succeed(run(f"predict n.net --data {name}.csv --proba"))))
        assert rows[0] == ["index", "class", "p0", "p1", "p2"]
        error = np.abs(np.array(rows[1:9], float)[:, 2:] - expected[:8]).max()
        assert error <= 1e-5


def test_csv_of_mnist_is_read_as_intensities_by_all_commands() -> None:
    x, y = data.digits28(30)
    np.savetxt("d.csv", np.c_[y, x], delimiter=",", fmt="%d")
    np.savetxt("bare.csv", x, delimiter=",", fmt="%d")
    lines = succeed(run("train --data d.csv --epochs 1 --save d.net"))
    told = "784 inputs (intensities, read as x/255), 10 classes"
    assert lines[0].endswith(told)
    assert succeed(run("evaluate d.net --data d.csv"))[0].endswith(told)
    assert "uint8, values 0 to 255 (intensities, read as x/255)" in "".join(
        succeed(run("data --data d.csv"))
    )
    expected = [str(label) for label in gpubp.load("d.net").predict(x)]
    for name in ("d", "bare"):
        rows = succeed(run(f"predict d.net --data {name}.csv"))[1:]
        assert [row.split(",")[1] for row in rows] == expected


def test_predict_into_a_file(net: str) -> None:
    assert succeed(run(f"predict {net} --data t.npz --output p.csv")) == []
    assert Path("p.csv").read_bytes().startswith(b"index,class\n0,")


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_predict_into_a_link_replaces_the_file_it_names(net: str) -> None:
    Path("p.csv").write_text("old")
    Path("link.csv").symlink_to("p.csv")
    succeed(run(f"predict {net} --data t.npz --output link.csv"))
    assert Path("link.csv").is_symlink()
    assert Path("p.csv").read_text().startswith("index,class\n")


def test_predict_leaves_the_old_output_where_it_fails(
    net: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError("No space left on device")

    Path("p.csv").write_text("old")
    before = set(folder.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    assert "No space" in refuse(run(f"predict {net} --data t.npz --output p.csv"))
    assert Path("p.csv").read_text() == "old"
    assert set(folder.iterdir()) == before
