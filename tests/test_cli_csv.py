"""The commands on text files: classes by name, regressions, and what each says of how it read."""

from __future__ import annotations

import csv
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_harness import blobs, enter, refuse, run, succeed, weights

import gpubp
from gpubp import data
from gpubp.classes import check_classes, match_labels
from gpubp.cost import COSTS
from gpubp.regression import Targets, squares_of
from gpubp.tensorfile import read_tensors, write_tensors

KINDS = ("ant", "bee", "cow, brown")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(tmp_path, monkeypatch)
    return tmp_path


def write(name: str, rows: Any, delimiter: str = ",") -> None:
    with open(name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def kinds(name: str, n: int = 60, names: tuple[str, ...] = KINDS, seed: int = 0) -> Any:
    """Blobs whose last column names the class."""
    x, y = blobs(n, seed)
    write(name, [[*row, names[label]] for row, label in zip(x.tolist(), y, strict=True)])
    return x, y


def reals(name: str, n: int = 120, seed: int = 0) -> Any:
    """Two inputs and a linear target, with a header."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2)).round(3)
    y = (x @ [0.8, -0.5] + 0.25).round(4)
    write(name, [["p", "q", "out"], *np.c_[x, y].tolist()])
    return x.astype(np.float32), y.astype(np.float32)


# Classes


def test_classes_by_name_through_all_commands() -> None:
    x, y = kinds("k.csv")
    lines = succeed(run("train --data k.csv --epochs 40 --batch-size 5 --save k.net"))
    assert lines[0] == (
        "data: k.csv (commas, no header; target column 6, the only one of words: classification, "
        "examples of 20 ant, 20 bee, 20 cow, brown), 50 training and 10 test examples, 5 inputs, "
        "3 classes"
    )
    net = gpubp.load("k.net")
    assert net.classes == KINDS
    expected = [KINDS[label] for label in net.predict(x)]
    assert np.mean(net.predict(x) == y) > 0.9

    table = "\n".join(succeed(run("evaluate k.net --data k.csv --part all"))).partition("-+-")[2]
    assert re.search(r"\n +ant \|.*\n +bee \|.*\ncow, brown \|.*$", table)
    np.savetxt("bare.csv", x, delimiter=",")
    write("unknown.csv", [[*row, "?"] for row in x.tolist()])  # targets are not looked at
    for source in ("k.csv", "bare.csv", "unknown.csv"):
        rows = list(csv.reader(succeed(run(f"predict k.net --data {source} --proba"))))
        assert rows[0] == ["index", "class", "p ant", "p bee", "p cow, brown"]
        assert [row[1] for row in rows[1:]] == expected
    told = "\n".join(succeed(run("explain k.net --data k.csv --show health --part train")))
    train = data.load("k.csv")[0]
    first = KINDS[int(train[1][0])], KINDS[int(net.predict(train[0][:1])[0])]
    assert f"example 0, class {first[0]}, taken for {first[1]}\n" in told
    told = "\n".join(succeed(run("data --data k.csv")))
    assert "3 classes (ant: " in told
    assert re.search(r"\nclass (ant|bee|cow, brown): ", told)


def test_classes_are_matched_by_name_where_a_file_numbers_them_otherwise() -> None:
    kinds("k.csv")
    succeed(run("train --data k.csv --epochs 40 --batch-size 5 --save k.net --quiet"))
    x, y = blobs(60)
    some = y > 0  # bee alone becomes class 0
    write("two.csv", [[*row, KINDS[n]] for row, n in zip(x[some].tolist(), y[some], strict=True)])
    told = succeed(run("evaluate k.net --data two.csv --part all"))
    share = float(np.mean(gpubp.load("k.net").predict(x[some]) == y[some]))
    assert told[2].endswith(f"accuracy {100 * share:.2f}%")
    assert share > 0.9

    kinds("other.csv", names=("ant", "bee", "dog"))
    for command in ("evaluate k.net --data", "explain k.net --data",
                    "train --resume k.net --epochs 50 --data"):  # fmt: skip
        told = refuse(run(command, "other.csv"))
        assert "other.csv has the class 'dog', which k.net does not know: its classes are" in told
        assert "ant, bee, cow, brown" in told


def test_a_resumed_run_with_names_is_the_unbroken_one() -> None:
    kinds("k.csv")
    common = "--data k.csv --batch-size 7 --learning-rate 0.5 --quiet"
    succeed(run("train --epochs 4 --save whole.net", common))
    succeed(run("train --epochs 2 --save part.net", common))
    succeed(run("train --epochs 4 --resume part.net --save part.net", common))
    for a, b in zip(weights("whole.net"), weights("part.net"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert gpubp.load("part.net").classes == KINDS


def test_two_names_for_one_output_of_any_activation() -> None:
    x, y = blobs(60)
    names = ("no", "yes")
    write("b.csv", [[*row, names[int(n > 0)]] for row, n in zip(x.tolist(), y, strict=True)])
    for activation in ("sigmoid", "sigmoid,identity"):
        succeed(run("train --data b.csv --sizes 5,6,1 --learning-rate 0.1 --epochs 30 --save b.net",
                    "--activation", activation))  # fmt: skip
        net = gpubp.load("b.net")
        assert net.classes == names
        expected = [names[int(a > 0.5)] for a in np.asarray(net.feedforward(x))[:, 0]]
        rows = succeed(run("predict b.net --data b.csv"))[1:]
        assert [row.split(",")[1] for row in rows] == expected
        table = succeed(run("evaluate b.net --data b.csv"))[-2:]
        assert [row.split()[0] for row in table] == ["no", "yes"]


NAMES_REFUSED = [
    (["a", "b", "a"], "two classes have the same name"),
    (
        ["a", "b\x1b[2J", "c"],
        r"name of class 1 is 'b\\x1b\[2J', with characters that are not",
    ),
    (["a", "", "c"], "the name of class 1 is an empty name"),
    (["a", "b" * 201], "201 characters"),
    (["a", 3], "must be a list of names"),
    ("abc", "must be a list of names"),
    (7, "must be a list of names"),
    (["a", "b", "c", "d"], "4 names of classes for 3 outputs"),
    ([], "0 names of classes"),
]


@pytest.mark.parametrize(("names", "message"), NAMES_REFUSED)
def test_what_cannot_name_classes(names: Any, message: str) -> None:
    net = gpubp.Network([4, 3], rng=0)
    with pytest.raises(ValueError, match=message):
        net.classes = names
    assert net.classes is None
    # The same from a file, whoever wrote it.
    if isinstance(names, list):
        net.save("n.net")
        tensors, header = read_tensors("n.net")
        write_tensors("n.net", tensors, header | {"classes": names})
        with pytest.raises(gpubp.DataFormatError, match=message):
            gpubp.load("n.net")


def test_names_are_kept_in_the_checkpoint() -> None:
    net = gpubp.Network([4, 3], rng=0)
    net.classes = ["größe", "b", "c"]  # type: ignore[assignment]
    net.save("n.net")
    assert gpubp.load("n.net").classes == ("größe", "b", "c")
    net.classes = None
    net.save("n.net")
    assert gpubp.load("n.net").classes is None
    assert check_classes(("no", "yes"), 1) == ("no", "yes")
    for dtype in ("U3", object):  # as np.unique finds them in labels
        assert check_classes(np.array(["no", "yes"], dtype), 1) == ("no", "yes")
    y = np.array([0, 1, 1])
    assert match_labels(y, ("b", "c"), ("a", "b", "c"), "f", "n").tolist() == [1, 2, 2]
    assert match_labels(y, None, ("a", "b"), "f", "n") is y


# Regression


def test_regression_through_all_commands() -> None:
    x, y = reals("r.csv")
    lines = succeed(run("train --data r.csv --epochs 200 --learning-rate 0.1 --save r.net "
                        "--plot r.svg"))  # fmt: skip
    assert lines[0] == (
        "data: r.csv (commas, a header; target column 3 ('out'), the last, as the first holds no "
        f"labels: regression, numbers from {y.min():g} to {y.max():g}), 100 training and 20 test "
        "examples, 2 inputs, 1 real target"
    )
    assert "[2, 30, 1], activation=['sigmoid', 'identity'], cost='quadratic'" in lines[1]
    assert re.search(r"validation cost [\d.]+  R2 -?[\d.]+, RMSE [\d.]+$", lines[2])
    assert "accuracy" not in "\n".join(lines)
    assert "validation R2" in re.sub(r"<!-- (.*?) -->", r"\1", Path("r.svg").read_text())

    net = gpubp.load("r.net")
    _, (x_test, y_test) = data.load("r.csv")
    a = np.asarray(net.feedforward(x_test))[:, 0].astype(float)
    rmse = np.sqrt(np.mean((y_test - a) ** 2))
    r2 = 1 - np.sum((y_test - a) ** 2) / np.sum((y_test - y_test.mean(dtype=float)) ** 2)
    assert r2 > 0.95
    for told in (lines[-1], succeed(run("evaluate r.net --data r.csv"))[-1]):
        found = re.search(r"R2 ([\d.]+), RMSE ([\d.]+)", told)
        assert found is not None
        assert abs(float(found[1]) - r2) <= 1e-4
        assert abs(float(found[2]) - rmse) <= 1e-5 * rmse
    assert lines[-1].startswith("best epoch ")

    np.savetxt("bare.csv", x, delimiter=",")
    expected = np.asarray(net.feedforward(x))[:, 0]
    for source in ("r.csv --target out", "bare.csv"):
        rows = list(csv.reader(succeed(run(f"predict r.net --data {source}"))))
        assert rows[0] == ["index", "value"]
        np.testing.assert_allclose([float(row[1]) for row in rows[1:]], expected, rtol=1e-6)
    told = "\n".join(succeed(run("explain r.net --data r.csv")))
    assert f"example 0, target {y_test[0]:g}, taken for {a[0]:g}\n" in told
    told = "\n".join(succeed(run("data --data r.csv")))
    assert "1 real target, values" in told
    assert "\ntarget " in told
    assert "--proba" in refuse(run("predict r.net --data bare.csv --proba"))
    assert "real targets" in refuse(run("data --data r.csv --out made"))


@pytest.mark.parametrize("outputs", [1, 2])
def test_real_targets_of_an_npz(outputs: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3))
    y = (x @ rng.standard_normal((3, outputs))).squeeze()
    np.savez("r.npz", x=x, y=y)
    assert "real targets: task 'regression'" in refuse(run("train --data r.npz"))
    lines = succeed(run("train --data r.npz --task regression --epochs 3 --save r.net"))
    assert "R2" in lines[2]
    assert f"{outputs} real target" in lines[0]
    (_, y_train), (_, y_test) = data.load("r.npz", task="regression")
    assert y_train.dtype == np.float64
    np.testing.assert_array_equal(np.sort(np.concatenate([y_train, y_test]), 0), np.sort(y, 0))
    task = "--task regression" if outputs == 2 else ""
    assert "R2" in succeed(run("evaluate r.net --data r.npz", task))[-1]
    rows = succeed(run("predict r.net --data r.npz", task))
    assert len(rows) == 41
    np.savez("nan.npz", x=x, y=np.where(y > 1, np.nan, y))
    assert "finite targets" in refuse(run("train --data nan.npz --task regression"))
    assert "--delimiter" in refuse(run("predict r.net --data r.npz --delimiter ,"))


def test_a_regression_is_judged_as_one_by_labels_too() -> None:
    gpubp.Network([5, 3, 1], activation="identity", rng=0).save("r.net")
    x, y = blobs(24, seed=1)
    np.savez("two.npz", x_train=x, y_train=y % 2, x_test=x, y_test=y % 2)
    told = succeed(run("evaluate r.net --data two.npz"))[-1]
    assert str(Targets(x, y % 2).judge(gpubp.load("r.net"))) in told


def test_a_file_of_whole_targets_is_read_as_its_network_was_trained() -> None:
    reals("r.csv")
    succeed(run("train --data r.csv --epochs 2 --save r.net"))
    write("whole.csv", [["p", "q", "out"], *([j / 7, -j / 9, j % 4] for j in range(12))])
    assert "R2" in succeed(run("evaluate r.net --data whole.csv"))[-1]
    assert "1 real target" in succeed(run("evaluate r.net --data whole.csv"))[0]
    told = refuse(run("evaluate r.net --data whole.csv --task classification"))
    assert "does not fit the data of 2 inputs and 4 classes" in told


@pytest.mark.parametrize("cost", ["quadratic", "sum_squares", "huber"])
def test_several_real_targets(cost: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3)).round(3)
    y = np.c_[x[:, 0] - x[:, 1], 0.5 * x[:, 2]].round(3)
    write("m.csv", np.c_[x, y].tolist())
    form = "--data m.csv --target=-2,-1"
    lines = succeed(run("train --epochs 20 --save m.net --plot m.png --cost", cost, form))
    assert "2 real targets" in lines[0]
    assert all("RMSE" in line for line in lines[2:-2] if line.startswith("epoch"))
    net = gpubp.load("m.net")
    a = np.asarray(net.feedforward(x))
    rows = list(csv.reader(succeed(run("predict m.net --task regression", form))))
    assert rows[0] == ["index", "value0", "value1"]
    np.testing.assert_allclose(np.array(rows[1:], float)[:, 1:], a, rtol=1e-5)
    told = succeed(run("evaluate m.net --part all", form))[-1]
    rmse = np.sqrt(np.mean((y - a) ** 2))
    found = re.search(r"R2 (-?[\d.]+), RMSE ([\d.]+)", told)
    assert found is not None
    assert abs(float(found[2]) - rmse) <= 1e-4 * rmse
    r2 = 1 - np.sum((y - a) ** 2) / np.sum((y - y.mean(axis=0)) ** 2)
    assert abs(float(found[1]) - r2) <= 1e-3


def test_goodness_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import r2_score, root_mean_squared_error

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 3)), rng.standard_normal((50, 2))
    for cost in ("quadratic", "sum_squares", "huber"):
        net = gpubp.Network([3, 4, 2], activation="identity", cost=cost, rng=0, dtype="float64")
        value = net.evaluate(x, y).cost
        assert (squares_of(net.cost, value) is None) == (cost == "huber")
        found, a = Targets(x, y).judge(net, value), np.asarray(net.feedforward(x))
        assert found.r2 is not None
        expected = r2_score(y, a, multioutput="variance_weighted")
        assert abs(found.r2 - expected) <= 1e-9
        assert abs(found.rmse - root_mean_squared_error(y.ravel(), a.ravel())) <= 1e-9
    assert squares_of(COSTS["quadratic"], None) is None
    assert squares_of(replace(COSTS["huber"], name="quadratic"), 1.0) is None
    assert str(Targets(x, np.ones(50)).goodness(4.0)) == "R2 -, RMSE 2"


def test_options_of_the_form_reach_every_command_and_the_command_to_resume() -> None:
    rows = [[f"{j},5", f"{-j},25", j % 2] for j in range(12)]
    write("f.tsv", rows, delimiter="/")
    form = "--data f.tsv --delimiter / --decimal , --no-header --target 2 --task classification"
    first = succeed(run("train --epochs 2 --save f.net", form))[0]
    told = "delimiter '/', decimal commas, no header; target column 3, as asked for: classification"
    assert told in first
    for command in ("evaluate f.net", "explain f.net", "data"):
        assert told in succeed(run(command, form))[0]
    assert len(succeed(run("predict f.net", form))) == 13

    from gpubp.cli import _train
    from gpubp.train_command import _resume_command

    for given in (form, "--data f.tsv --header --target=-2,-1"):
        parser = _train("")
        args = parser.parse_strictly(shlex.split(f"{given} --save g.net"))
        args.default = parser.get_default
        again = parser.parse_strictly(shlex.split(_resume_command(args))[2:])
        for name in ("data", "delimiter", "decimal", "header", "target", "task"):
            assert getattr(again, name) == getattr(args, name), name


def test_far_values_of_a_regression_are_pointed_out() -> None:
    write("far.csv", [[0.5 + j, 250000 + j / 4] for j in range(30)])
    lines = succeed(run("train --data far.csv --epochs 0"))
    assert lines[1].startswith("note: inputs reach 29.5 and targets 250007")
    reals("r.csv")
    assert "note:" not in "\n".join(succeed(run("train --data r.csv --epochs 0")))


REFUSED = {
    "train --target 3": "--target says how to read a file: name it with --data",
    "train --data t.npz --target 1": "says how to read a .csv or .tsv file, which t.npz is",
    "train --data digits28 --task regression": "says how to read a .csv or .tsv file",
    "predict k.net --data t.npz --target 1": "says how to read a .csv or .tsv file",
    "train --data k.csv --task clasification": "did you mean 'classification'",
    "train --data k.csv --target kind": "k.csv has no header",
    "train --data k.csv --target 6": "target='6' is not a column of k.csv: it has 6",
    "train --data k.csv --delimiter ab": "must be one character",
    "train --data k.csv --task regression": "column 6 in line 1, found 'ant'",
    "train --data r.csv --sizes 2,3,2": "2 inputs and 1 real target: the first size must be 2, the "
    "last 1",
    "evaluate k.net --data r.csv": "integer label from 0",
    "evaluate k.net --data real5.csv --task regression": "real5.csv has real targets, but k.net "
    "tells the classes ant, bee, cow, brown apart: name their column with --target",
    "predict k.net --data r.csv": "r.csv has 3 columns, but k.net takes 5 inputs",
    "predict k.net --data k.csv --target 0,1": "4 columns, and 2 that --target names",
    "predict r.net --data bare3.csv": "bare3.csv has 3 columns, but r.net takes 2 "
    "inputs: name with --target the column that is no input",
    "predict k.net --data gap.csv": "column 2 in line 2, found '', a missing value: fill it in",
}


def test_each_wrong_input_is_refused_in_one_sentence() -> None:
    kinds("k.csv")
    succeed(run("train --data k.csv --epochs 1 --save k.net"))
    reals("r.csv")
    succeed(run("train --data r.csv --epochs 1 --save r.net"))
    write("bare3.csv", [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    write("real5.csv", [[*row, 0.25] for row in blobs(12)[0].tolist()])
    write("gap.csv", [[1, 2, 3, 4, 5], [1, "", 3, 4, 5]])
    for command, told in REFUSED.items():
        assert told in refuse(run(command)), command


# Columns by name

NAMES = ["p", "q", "r", "s", "t"]


def named(name: str, columns: list[str], n: int = 60) -> Any:
    """Blobs under a header with these of the columns, in this order; "kind" and "id" are others."""
    x, y = blobs(n)
    held = dict(zip(NAMES, x.T.tolist(), strict=True))
    held |= {"kind": [KINDS[label] for label in y], "id": [*range(n)]}
    write(name, [columns, *zip(*(held[column] for column in columns), strict=True)])
    return x


def test_columns_are_found_by_their_names() -> None:
    x = named("k.csv", [*NAMES, "kind"])
    succeed(run("train --data k.csv --epochs 20 --batch-size 5 --save k.net"))
    assert gpubp.load("k.net").inputs == tuple(NAMES)
    right = succeed(run("predict k.net --data k.csv --proba"))
    table = succeed(run("evaluate k.net --data k.csv --part all"))[2:]
    np.savetxt("bare.csv", x, delimiter=",")
    named("turned.csv", ["t", "kind", "id", "s", "p", "r", "q"])
    named("alone.csv", NAMES[::-1])
    for source in ("turned.csv", "alone.csv", "bare.csv"):
        assert succeed(run(f"predict k.net --data {source} --proba")) == right
    assert succeed(run("evaluate k.net --data turned.csv --target kind --part all"))[2:] == table
    assert succeed(run("evaluate k.net --data turned.csv --part all"))[2:] == table  # of words
    shown = succeed(run("explain k.net --data turned.csv --show trace"))
    assert shown[2:] == succeed(run("explain k.net --data k.csv --show trace"))[2:]


def test_columns_that_cannot_be_found_by_name() -> None:
    named("k.csv", [*NAMES, "kind"])
    succeed(run("train --data k.csv --epochs 1 --batch-size 5 --save k.net"))
    named("short.csv", ["p", "kind", "t"])
    for command in ("predict", "evaluate"):
        told = refuse(run(f"{command} k.net --data short.csv"))
        assert "short.csv has no column 'q', 'r', 's', which the network was trained on" in told
    named("twice.csv", [*NAMES, "kind", "p"])
    assert "several columns 'p'" in refuse(run("predict k.net --data twice.csv"))
    named("alone.csv", NAMES)
    told = refuse(run("evaluate k.net --data alone.csv"))
    assert "alone.csv has 5 columns, as many as k.net has inputs, and so none for the" in told
    bare = Path("alone.csv").read_text().partition("\n")[2]
    Path("bare.csv").write_text(bare)
    assert "gpubp predict tells what" in refuse(run("evaluate k.net --data bare.csv"))


def test_names_that_are_numbers() -> None:
    """A first line of numbers is taken for a row: not so where it may be the names."""
    rows = np.random.default_rng(0).random((30, 2)).round(3)
    write("k.csv", [["2019", "2020", "y"], *np.c_[rows, rows[:, 0] > 0.5].tolist()])
    succeed(run("train --data k.csv --header --epochs 2 --save k.net --quiet"))
    assert gpubp.load("k.net").inputs == ("2019", "2020")
    right = succeed(run("predict k.net --data k.csv --header --proba"))
    write("turned.csv", [["2020", "2019"], *rows[:, ::-1].tolist()])
    told = refuse(run("predict k.net --data turned.csv"))
    assert "holds the names of the network's inputs, and may be a row of numbers: say" in told
    assert succeed(run("predict k.net --data turned.csv --header --proba")) == right
    assert len(succeed(run("predict k.net --data turned.csv --no-header"))) == 32
    np.savetxt("bare.csv", rows, delimiter=",")
    assert succeed(run("predict k.net --data bare.csv --proba")) == right


def test_names_that_tell_no_columns_apart_are_not_kept() -> None:
    named("k.csv", ["p", "p", "r", "kind"])
    told = succeed(run("train --data k.csv --epochs 1 --batch-size 5 --save k.net"))
    assert "k.csv (commas, a header that does not tell the inputs apart; target" in told[0]
    assert gpubp.load("k.net").inputs is None
    reals("r.csv")
    succeed(run("train --data r.csv --epochs 1 --save r.net"))
    assert gpubp.load("r.net").inputs == ("p", "q")
    write("turned.csv", [["q", "p"], [0.5, 2.0]])
    net = gpubp.load("r.net")
    value = float(net.predict(np.array([[2.0, 0.5]], np.float32))[0])
    assert float(succeed(run("predict r.net --data turned.csv"))[1].split(",")[1]) == (
        pytest.approx(value, rel=1e-6)
    )


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (["a"], "1 names of inputs for 2 inputs"),
        (["a", "a"], "two inputs have the same name"),
        (["a", "\x1b[31m"], "characters that are not printed"),
        (["a", ""], "the name of input 1 is an empty name"),
        (["a", 3], "must be a list of names"),
        ("ab", "must be a list of names"),
    ],
)
def test_names_of_inputs_are_checked(inputs: Any, words: str) -> None:
    net = gpubp.Network([2, 3], rng=0)
    with pytest.raises(ValueError, match=re.escape(words)):
        net.inputs = inputs
    net.inputs = np.array(["x", "y"])
    net.save("n.net")
    tensors, header = read_tensors("n.net")
    write_tensors("n.net", tensors, header | {"inputs": inputs})
    with pytest.raises(gpubp.DataFormatError, match=re.escape(words)):
        gpubp.load("n.net")


def test_forms_of_headers_and_lines(folder: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 784))
    write("m.csv", [[*range(1, 785), "label"], *np.c_[grey, [0, 1, 2, 1]].tolist()])
    x, y = data.read_csv("m.csv")
    np.testing.assert_array_equal(x, grey.astype(np.uint8))
    assert (x.dtype, y.tolist()) == (np.uint8, [0, 1, 2, 1])
    Path("words.csv").write_text("#a,1,2\n#b,2,3\nc,4,5\n")
    assert data.read_csv("words.csv").classes == ("#a", "#b", "c")
    Path("quoted.csv").write_bytes(b'"a\rb",c,y\n1,2,0\n2,3,1\n')
    assert data.read_csv("quoted.csv").targets == ("y",)
    Path("hash.csv").write_text("# label,b,c\n1,2,3\n0,3,4\n")
    assert data.read_csv("hash.csv").inputs == ("b", "c")
    for text, words in (
        (b"1,2,3\r0,5,6\r", "found line ends of carriage returns alone"),
        (b'"a","b","y"\r1,2,3\r0,5,6\r', "found line ends of carriage returns alone"),
        (b"1,2\r" * 300_000, "found line ends of carriage returns alone"),  # past all limits
        (b"# made by hand\n1,2,3\n0,3,4\n", "in line 1, found a comment: remove it"),
        (b"# by hand, again\n1,2,3\n0,3,4\n", "in line 1, found a comment: remove it"),
        (b"# a\n# b\ny,p,q\n1,2,3\n0,3,4\n", "in line 1, found a comment: remove it"),
        (b"# by, hand, now\ny,p,q\n1,2,3\n0,3,4\n", "in line 1, found a comment: remove it"),
        (b" # a\ny,p,q\n1,2,3\n0,3,4\n", "in line 1, found a comment: remove it"),
        (b"y,p,q\n1,2,3\n# b\n0,3,4\n", "3 columns in line 3, found a comment: remove it"),
    ):
        Path("odd.csv").write_bytes(text)
        with pytest.raises(gpubp.DataFormatError, match=words):
            data.read_csv("odd.csv")


# The target by name


@pytest.fixture
def priced() -> None:
    """r.net, trained on r.csv: the inputs p and q, and what it tells, the price."""
    rng = np.random.default_rng(0)
    p, q = rng.random((2, 60)).round(3)
    held = {"p": p, "q": q, "price": (3 * p - q).round(3), "id": np.arange(60), "y": 9 * q}
    for name, columns in {
        "r": ["p", "q", "price"], "turned": ["id", "y", "price", "q", "p"], "id": ["p", "q", "id"],
    }.items():  # fmt: skip
        write(f"{name}.csv", [columns, *np.c_[*(held[c] for c in columns)].tolist()])
    succeed(run("train --data r.csv --target price --epochs 2 --save r.net --quiet"))


@pytest.mark.usefixtures("priced")
def test_target_is_found_by_its_name() -> None:
    """Neither what is called y, nor the first or the last column, nor the only one left over."""
    net = gpubp.load("r.net")
    assert (net.inputs, net.targets) == (("p", "q"), ("price",))
    right = succeed(run("evaluate r.net --data r.csv --part all"))
    assert "target column 3 ('price')" in right[0]
    told = succeed(run("evaluate r.net --data turned.csv --part all"))
    assert "target column 3 ('price')" in told[0]
    assert told[1:] == right[1:]
    shown = succeed(run("explain r.net --data turned.csv"))
    assert shown[1:] == succeed(run("explain r.net --data r.csv"))[1:]
    for source in ("r.csv", "turned.csv"):
        more = f"train --data {source} --resume r.net --epochs 4 --save {source}.net --quiet"
        succeed(run(more))
    for one, other in zip(weights("r.csv.net"), weights("turned.csv.net"), strict=True):
        np.testing.assert_array_equal(one, other)
    other = succeed(run("evaluate r.net --data id.csv --target id"))
    assert "target column 3 ('id'), as asked for" in other[0]


@pytest.mark.usefixtures("priced")
@pytest.mark.parametrize("command", ["evaluate r.net", "explain r.net", "train --resume r.net"])
def test_file_without_the_target(command: str) -> None:
    """Not judged on, nor trained on, what happens to be left over."""
    told = refuse(run(f"{command} --data id.csv"))
    assert "id.csv has no target column 'price', which r.net was trained on: name another" in told
    assert "let gpubp predict tell what" in told
    told = refuse(run(f"{command} --data r.csv --target p"))
    assert "target='p' is column 1 ('p') of r.csv, an input of the network: name another" in told
    assert len(succeed(run("predict r.net --data id.csv"))) == 61


def test_several_targets_are_found_by_their_names() -> None:
    rows = np.random.default_rng(0).random((30, 5)).round(3)
    write("r.csv", [["p", "q", "r", "u", "v"], *rows.tolist()])
    write("turned.csv", [["v", "u", "r", "q", "p"], *rows[:, ::-1].tolist()])
    succeed(run("train --data r.csv --target u,v --epochs 2 --save r.net --quiet"))
    assert gpubp.load("r.net").targets == ("u", "v")
    right = succeed(run("evaluate r.net --data r.csv"))
    assert succeed(run("evaluate r.net --data turned.csv"))[1:] == right[1:]
    write("one.csv", [["u", "r", "q", "p"], *rows[:, [3, 2, 1, 0]].tolist()])
    assert "has no target column 'v', which" in refuse(run("evaluate r.net --data one.csv"))


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["a", "b"], "2 names of targets for 3 outputs"),
        ([], "0 names of targets for 3 outputs"),
        (["a", "b", "a"], "two targets have the same name"),
        (["\x1b[31m"], "characters that are not printed"),
        ([" "], "the name of target 0 is an empty name"),
        (["a" * 201], "201 characters (a name has at most 200)"),
        ([3], "targets=[3] must be a list of names"),
        ("a", "targets='a' must be a list of names"),
    ],
)
def test_names_of_targets_are_checked(targets: Any, words: str) -> None:
    net = gpubp.Network([2, 3], rng=0)
    with pytest.raises(ValueError, match=re.escape(words)):
        net.targets = targets
    net.targets = np.array(["kind"])
    net.save("n.net")
    assert gpubp.load("n.net").targets == ("kind",)
    tensors, header = read_tensors("n.net")
    write_tensors("old.net", tensors, {k: v for k, v in header.items() if k != "targets"})
    assert gpubp.load("old.net").targets is None
    write_tensors("n.net", tensors, header | {"targets": targets})
    with pytest.raises(gpubp.DataFormatError, match=re.escape(words)):
        gpubp.load("n.net")


@pytest.mark.parametrize("low", [2**53, 10**18])
@pytest.mark.parametrize("header", [["label", "p"], ["p", "label"]])
def test_labels_that_floats_confuse(low: int, header: list[str]) -> None:
    """2^53 and 2^53 + 1 are one float, and 10^18 and 10^18 + 1: two classes all the same, and no
    regression."""
    x, labels = np.arange(24) / 8, [low + i % 2 for i in range(24)]
    cells = {"p": x.tolist(), "label": labels}
    write("k.csv", [header, *zip(*(cells[name] for name in header), strict=True)])
    for task in (None, "classification"):
        pair = data.read_csv("k.csv", task=task)  # type: ignore[call-overload]
        assert pair.classes == (str(low), str(low + 1))
        np.testing.assert_array_equal(pair[0][:, 0], x.astype(np.float32))
        assert pair[1].tolist() == [0, 1] * 12
    assert data.read_csv("k.csv", task="regression").classes is None
    succeed(run("train --data k.csv --epochs 1 --save k.net"))
    assert f"{low + 1} |" in "\n".join(succeed(run("evaluate k.net --data k.csv")))


def test_a_label_that_floats_confuse_among_others() -> None:
    write("k.csv", [["label", "p"], *[[i % 2, i / 8] for i in range(99)], [2**53 + 1, 0.5]])
    told = refuse(run("train --data k.csv --epochs 1"))
    assert "an integer label from 0 to 9007199254740991 in line 101, found 9.0072e+15 in" in told


def test_large_amounts_are_real_targets() -> None:
    write("k.csv", [["p", "amount"], *[[i / 8, 10**17 + 3**i] for i in range(30)]])
    assert ": regression, numbers" in data.read_csv("k.csv").reading


def test_labels_that_floats_tell_apart() -> None:
    write("k.csv", [["label", "p"], [2**53 - 2, 1.5], [2**53 - 1, 2.5]])
    assert data.read_csv("k.csv")[1].tolist() == [2**53 - 2, 2**53 - 1]


def test_classes_that_differ_in_spaces_alone() -> None:
    write("k.csv", [["p", "kind"], *[[i / 8, ("a b", "a  b")[i % 2]] for i in range(24)]])
    told = refuse(run("train --data k.csv --epochs 1"))
    assert "the names of two classes, 'a b', differ in spaces alone: spell them alike" in told
