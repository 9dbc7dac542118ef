"""Text files as people have them: what is read from each, and how it is told."""

from __future__ import annotations

import copy
import csv
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubp import data
from gpubp.data.csv import form_of
from gpubp.errors import DataFormatError

X = np.array([[5.1, 3.5], [7.0, 3.25], [6.3, 3.0], [5.0, 2.5]], np.float32)
NAMES = ("setosa", "versicolor", "virginica")
LABELS = np.array([0, 1, 2, 0])


def read(folder: Path, text: str | bytes, name: str = "a.csv", **options: Any) -> Any:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return data.read_csv(path, **options)


# name: (file, options, part of what is told); each holds X, LABELS and NAMES
WORDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "UCI": (
        "5.1,3.5,setosa\n7.0,3.25,versicolor\n6.3,3.0,virginica\n5.0,2.5,setosa\n", {},
        "commas, no header; target column 3, the only one of words: classification, examples of "
        "2 setosa, 1 versicolor, 1 virginica",
    ),
    "in front": (
        "setosa,5.1,3.5\nversicolor,7.0,3.25\nvirginica,6.3,3.0\nsetosa,5.0,2.5\n", {},
        "no header; target column 1",
    ),
    "named": (
        "l,species,w\n5.1,setosa,3.5\n7.0,versicolor,3.25\n6.3,virginica,3.0\n5,setosa,2.5\n",
        {"target": "species"}, "a header; target column 2 ('species'), as asked for",
    ),
    "R": (
        '"","l","w","Species"\n"1",5.1,3.5,"setosa"\n"2",7,3.25,"versicolor"\n'
        '"3",6.3,3,"virginica"\n"4",5,2.5,"setosa"\n', {},
        "a header, row names left out; target column 4 ('Species')",
    ),
    "Excel in Europe": (
        "\ufeffArt;L;B\r\nsetosa;5,1;3,5\r\nversicolor;7;3,25\r\nvirginica;6,3;3\r\n"
        "setosa;5;2,5\r\n", {}, "semicolons, decimal commas, a header; target column 1 ('Art')",
    ),
    "all quoted, decimal commas between commas": (
        '"5,1","3,5","setosa"\n"7,0","3,25","versicolor"\n"6,3","3,0","virginica"\n'
        '"5,0","2,5","setosa"\n', {}, "commas, decimal commas, no header",
    ),
    "tabs": (
        "5.1\t3.5\tsetosa\n7.0\t3.25\tversicolor\n6.3\t3.0\tvirginica\n5.0\t2.5\tsetosa", {},
        "tabs, no header",
    ),
    "bars and spaces": (
        "5.1 | 3.5 | setosa\n7.0 | 3.25 | versicolor\n6.3 | 3.0 | virginica\n5.0|2.5|setosa\n", {},
        "bars, no header",
    ),
    "spaces before quotes": (
        '"l", "w", "Species"\n5.1, 3.5, "setosa"\n7.0, 3.25, "versicolor"\n'
        '6.3, 3.0, "virginica"\n5.0, 2.5, "setosa"\n', {}, "target column 3 ('Species')",
    ),
    "asked for": (
        "5.1/3.5/setosa\n7.0/3.25/versicolor\n6.3/3.0/virginica\n5.0/2.5/setosa\n",
        {"delimiter": "/", "decimal": ".", "header": False, "target": -1,
         "task": "classification"}, "delimiter '/', no header; target column 3, as asked for",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WORDS)
def test_labels_as_words(case: str, tmp_path: Path) -> None:
    text, options, told = WORDS[case]
    pair = read(tmp_path, text, **options)
    x, y = pair
    np.testing.assert_array_equal(x, X)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(y, LABELS)
    assert y.dtype == np.int64
    assert pair.classes == NAMES
    assert told in pair.reading


# file, options, x, y, part of what is told
NUMBERS: dict[str, tuple[str, dict[str, Any], Any, Any, str]] = {
    "label last": (
        "0.5,2.5,1\n1.5,3.5,0\n", {}, [[0.5, 2.5], [1.5, 3.5]], [1, 0],
        "target column 3, the last, as the first holds no labels: classification, examples of "
        "1 0, 1 1",
    ),
    "label first": ("1,2.5\n0,3.5\n", {}, [[2.5], [3.5]], [1, 0], "target column 1, the first"),
    "first, others whole": ("1,2\n0,3\n", {}, [[2], [3]], [1, 0], "target column 1, the first"),
    "last, as asked for": ("1,2\n0,3\n", {"target": -1}, [[1], [0]], [2, 3], "as asked for"),
    "by index": ("1,2\n0,3\n", {"target": "1"}, [[1], [0]], [2, 3], "target column 2"),
    "by its name": (
        "a,Label,b\n1,2,3\n4,5,6\n", {}, [[1, 3], [4, 6]], [2, 5],
        "target column 2 ('Label'), by its name 'label'",
    ),
    "a name before an index": (
        "2,1,0\n0.5,7,8\n1.5,9,10\n", {"target": "0", "header": True}, [[0.5, 7], [1.5, 9]],
        [8, 10], "target column 3 ('0')",
    ),
    "no header, as asked for": (
        "0,1,2\n3,4.5,6\n", {"header": False}, [[1, 2], [4.5, 6]], [0, 3], "no header",
    ),
    "semicolons, whole numbers": ("1;2\n0;3\n", {}, [[2], [3]], [1, 0], "semicolons, no header"),
    "commas and tabs": ("7,\t0,\t25\n3,\t1,\t2\n", {}, [[0, 25], [1, 2]], [7, 3], "commas,"),
    "quoted numbers": ('"1","2"\n"0","3"\n', {}, [[2], [3]], [1, 0], "target column 1"),
    "a header of pandas": (
        "0,1,2\n0.5,2.5,1.0\n1.5,3.5,0.0\n", {}, [[0.5, 2.5], [1.5, 3.5]], [1, 0], "a header",
    ),
    "a header and an index of pandas": (
        ",0,1,2\n0,0.5,2.5,1\n1,1.5,3.5,0\n", {}, [[0.5, 2.5], [1.5, 3.5]], [1, 0],
        "a header, row names left out; target column 4 ('2')",
    ),
    "columns of pandas and a label behind": (
        "0,1,2,label\n5,6,7,1\n8,9,10,0\n", {}, [[5, 6, 7], [8, 9, 10]], [1, 0],
        "a header; target column 4 ('label'), by its name",
    ),
    "a label, columns of pandas": (
        "kind,0,1,2\n1,5,6,7\n0,8,9,10\n", {}, [[5, 6, 7], [8, 9, 10]], [1, 0], "a header",
    ),
    "a first row like pandas' header": (
        "0,1,2\n1,5,6\n", {}, [[1, 2], [5, 6]], [0, 1], "no header",
    ),
    "words over numbers of pandas": (
        "kind," + ",".join(map(str, range(10))) + "\n" + ("a" + ",5" * 10 + "\n") * 2, {},
        [[5] * 10] * 2, [0, 0], "a header; target column 1 ('kind')",
    ),
    "header over words": (
        "species,l\na,1\nb,2\n", {}, [[1], [2]], [0, 1], "a header; target column 1 ('species')",
    ),
    "signs": ("-1,2\n1,3\n-1,5\n", {}, [[2], [3], [5]], [0, 1, 0], "examples of 2 -1, 1 1"),
    "negative labels, as asked for": (
        "-10,2\n3,3\n-2,5\n", {"target": 0, "task": "classification"}, [[2], [3], [5]],
        [0, 2, 1], "examples of 1 -10, 1 -2, 1 3",
    ),
    "real targets": (
        "1.5,2,0.25\n2.5,3,-7\n", {}, [[1.5, 2], [2.5, 3]], [0.25, -7],
        "target column 3, the last, as the first holds no labels: regression, numbers from -7 to "
        "0.25",
    ),
    "whole numbers for real targets": (
        "1,2\n0,3\n", {"task": "regression"}, [[2], [3]], [1.0, 0.0], "regression",
    ),
    "several real targets": (
        "a,b,c\n1,2,3\n4,5,6\n", {"target": ["c", 0]}, [[2], [5]], [[3.0, 1], [6, 4]],
        "target column 3 ('c'), column 1 ('a'), as asked for: regression",
    ),
    "amounts": (
        "0.5,price\n" + "".join(f"{j}.5,{1000 + 7 * j}\n" for j in range(20)), {"header": True},
        [[j + 0.5] for j in range(20)], [1000.0 + 7 * j for j in range(20)], "regression",
    ),
    "amounts with a decimal mark": (
        "".join(f"{j},5;{7 * j},0\n" for j in range(20)), {},
        [[j + 0.5] for j in range(20)], [7.0 * j for j in range(20)], "regression",
    ),
    "a header and one line without an end": ("a,1\n5,2", {}, [[2]], [5], "a header"),
    "few amounts": (
        "".join(f"{j}.5,{j % 3}.0\n" for j in range(30)), {},
        [[j + 0.5] for j in range(30)], [j % 3 for j in range(30)], "classification",
    ),
    "many labels": (
        "".join(f"{j}.5,{3 * j}\n" for j in range(200)), {},
        [[j + 0.5] for j in range(200)], [3 * j for j in range(200)], "classification",
    ),
    "many labels in front": (
        "".join(f"{7 * j}.0,{j}.5\n" for j in range(200)), {},
        [[j + 0.5] for j in range(200)], [7 * j for j in range(200)], "classification",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NUMBERS)
def test_labels_and_targets_as_numbers(case: str, tmp_path: Path) -> None:
    text, options, x, y, told = NUMBERS[case]
    pair = read(tmp_path, text, **options)
    np.testing.assert_array_equal(pair[0], np.array(x, np.float32))
    np.testing.assert_array_equal(pair[1], np.array(y))
    real = isinstance(np.ravel(y).tolist()[0], float)
    assert pair[1].dtype == (np.float32 if real else np.int64)
    assert told in pair.reading


@pytest.mark.parametrize("columns", [10, 785])
def test_pandas_numbers_of_columns_are_no_example(columns: int, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (3, columns))
    rows[:, 0] = [5, 0, 4]
    lines = [range(columns), *rows.tolist()]
    x, y = read(tmp_path, "\n".join(",".join(map(str, line)) for line in lines))
    np.testing.assert_array_equal(x, rows[:, 1:])
    assert x.dtype == (np.uint8 if columns == 785 else np.float32)
    np.testing.assert_array_equal(y, rows[:, 0])


def test_images_with_words_for_labels_are_images(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (1500, 784))
    text = "".join(",".join(map(str, row)) + f",c{j % 11}\n" for j, row in enumerate(x.tolist()))
    pair = read(tmp_path, text)
    np.testing.assert_array_equal(pair[0], x)
    assert pair[0].dtype == np.uint8
    assert pair.classes == tuple(sorted(f"c{j}" for j in range(11)))
    assert [pair.classes[label] for label in pair[1]] == [f"c{j % 11}" for j in range(1500)]
    assert pair.reading.endswith("and 1 more")


def test_names_that_are_whole_numbers_are_sorted_by_size(tmp_path: Path) -> None:
    pair = read(tmp_path, "9,1.5\n-10,2.5\n10,1\n", target=0, task="classification")
    assert pair.classes == ("-10", "9", "10")
    assert pair[1].tolist() == [1, 0, 2]


def test_names_keep_their_points_and_commas_beside_decimal_commas(tmp_path: Path) -> None:
    assert read(tmp_path, "I. a,b;1,5\nII.;2,5\n").classes == ("I. a,b", "II.")


def test_none_is_a_name_but_no_number(tmp_path: Path) -> None:
    assert read(tmp_path, "mild,1\nNone,2\n", target=0).classes == ("None", "mild")
    with pytest.raises(DataFormatError, match="found 'None', a missing value"):
        read(tmp_path, "1,1\n2,None\n")


def test_the_pair_is_a_pair(tmp_path: Path) -> None:
    pair = read(tmp_path, "1,a\n2,b\n")
    for same in (pair, copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        x, y = same
        assert len(same) == 2
        assert (x.tolist(), y.tolist(), same.classes) == ([[1], [2]], [0, 1], ("a", "b"))
        assert same.reading == pair.reading
        assert (same.inputs, same.targets) == (pair.inputs, pair.targets)
    assert read(tmp_path, "1,2\n").classes is None


def test_load_passes_the_form_on_and_keeps_the_names(tmp_path: Path) -> None:
    text = "".join(f"{j};{'ab'[j % 2]};{j / 2}\n" for j in range(12)).replace(".", ",")
    (tmp_path / "a.tsv").write_text(text)
    train, test = data.load(tmp_path / "a.tsv", delimiter="semicolon", target=1)
    assert isinstance(train, data.Table)
    assert isinstance(test, data.Table)
    assert (len(train[1]), len(test[1])) == (10, 2)
    assert train.classes == test.classes == ("a", "b")
    for x, y in (train, test):
        np.testing.assert_array_equal(x[:, 0] % 2, y)
        np.testing.assert_array_equal(x[:, 0] / 2, x[:, 1])
    with pytest.raises(ValueError, match=r"task='regression' says how to read a \.csv"):
        data.load("digits28", task="regression")


def test_without_labels_a_target_is_left_out_unread(tmp_path: Path) -> None:
    x = read(tmp_path, "a,b,c\n1,?,3\n4,,6\n", labels=False, target="b")
    np.testing.assert_array_equal(x, np.array([[1, 3], [4, 6]], np.float32))
    assert form_of(tmp_path / "a.csv", labels=False).columns == 3
    with pytest.raises(DataFormatError, match=r"column 2 \('b'\) in line 2, found '\?', a missing"):
        read(tmp_path, "a,b,c\n1,?,3\n4,,6\n", labels=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": "comm"}, "delimiter='comm' must be one character such as ',' or ';'"),
        ({"delimiter": '"'}, "must be one character"),
        ({"delimiter": "é"}, "must be one character"),
        ({"decimal": ";"}, "decimal=';' must be '.' or ','"),
        ({"task": "regresion"}, "unknown task 'regresion': did you mean 'regression'"),
        (
            {"target": "lable"},
            r"unknown target \(column of .*\) 'lable': did you mean 'label'",
        ),
        ({"target": 3}, "target=3 is not a column of .*: it has 3, from 0 to 2 or from -1"),
        ({"target": "-4"}, "target='-4' is not a column"),
        ({"target": []}, "must name columns of .*, each once"),
        ({"target": [0, "label"]}, "must name columns of .*, each once"),
        ({"target": "p"}, "names several columns of .*: give an index"),
        ({"target": "label", "header": False}, "has no header: give an index, 0 for the first"),
        ({"target": [0, 1], "task": "classification"}, "a classification has one target"),
    ],
)
def test_keywords_that_do_not_fit(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, "label,p,p\n1,2,3\n4,5,6\n", **options)
    assert "\n" not in str(caught.value)


def test_an_unknown_target_names_no_more_than_ten_columns(tmp_path: Path) -> None:
    header = ",".join(["\x1b[2J", *(f"pixel{j}" for j in range(300))])
    with pytest.raises(ValueError, match=r"'zzz': choose one of pixel0, .*, pixel9$"):
        read(tmp_path, f"{header}\n" + "1" + ",2" * 300, target="zzz")
    with pytest.raises(ValueError, match="did you mean 'pixel299'"):
        read(tmp_path, f"{header}\n" + "1" + ",2" * 300, target="pixl299")


def test_a_wrong_word_in_a_column_of_numbers_is_named_as_such(tmp_path: Path) -> None:
    good = "".join(f"{j % 3},{j}.5\n" for j in range(50))
    for bad, words in (
        ("x,1.5\n", "a number in column 1 in line 51, found 'x'"),
        ("1.5,1.5\n", r"integer label from 0 in line 51, found 1.5 in column 1 \(is it the target"),
        (",1.5\n", "a number in column 1 in line 51, found '', a missing value"),
    ):
        with pytest.raises(DataFormatError, match=words) as caught:
            read(tmp_path, good + bad)
        assert caught.value.offset == len(good)
    with pytest.raises(DataFormatError, match="label in column 2 in line 51, found '', a missing"):
        read(tmp_path, good.replace(",", ",w") + "1,\n")


def test_a_label_in_another_encoding_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="column 2 in line 2, found bytes that are not UTF-8"):
        read(tmp_path, "1,the\n2,caf\xe9\n".encode("latin-1"))
    x, y = read(tmp_path, "label,caf\xe9\n1,2\n".encode("latin-1"))  # a header may be
    assert (x.tolist(), y.tolist()) == ([[2]], [1])
    assert read(tmp_path, "1,thé\n2,café\n").classes == ("café", "thé")


CELLS = st.floats(-1e4, 1e4).map(lambda value: round(value, 3))
WORD = st.text("abcdexyzäß ,;\"'|.<>=-0123456789", max_size=8).map(lambda text: f"w{text}".strip())


@settings(max_examples=300, deadline=None)
@given(draw=st.data())
def test_what_is_written_is_read_back(
    draw: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any delimiter, quoting, decimal mark, line end and place of the target, all of them given;
    and where the values say enough, guessed as well."""
    delimiter = draw.draw(st.sampled_from(",;\t|"))
    decimal = draw.draw(st.sampled_from(".,"))
    quoting = draw.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    n, width = draw.draw(st.integers(1, 8)), draw.draw(st.integers(1, 4))
    place = draw.draw(st.integers(0, width))
    header, kind = (
        draw.draw(st.booleans()),
        draw.draw(st.sampled_from(["words", "labels", "reals"])),
    )
    values = draw.draw(st.lists(st.lists(CELLS, min_size=width, max_size=width),
                                min_size=n, max_size=n))  # fmt: skip
    target = draw.draw(
        st.lists({"words": WORD, "labels": st.integers(0, 99), "reals": CELLS}[kind],
                 min_size=n, max_size=n)
    )  # fmt: skip
    text = io.StringIO()
    end = draw.draw(st.sampled_from(["\n", "\r\n"]))
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end)
    if header:
        writer.writerow([f"n{j}" if j != place else "wanted" for j in range(width + 1)])
    for row, y in zip(values, target, strict=True):
        cells = [repr(value).replace(".", decimal) for value in row]
        shown = repr(y).replace(".", decimal) if kind == "reals" else str(y)
        writer.writerow([*cells[:place], shown, *cells[place:]])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    mark = draw.draw(st.sampled_from(["", "\ufeff"]))
    path.write_bytes((mark + text.getvalue()).encode())

    task: Any = "regression" if kind == "reals" else "classification"
    form: dict[str, Any] = {"delimiter": delimiter, "decimal": decimal, "header": header}
    pair = data.read_csv(path, target="wanted" if header else place, task=task, **form)
    np.testing.assert_array_equal(pair[0], np.array(values, np.float32))
    if kind == "reals":
        np.testing.assert_array_equal(pair[1], np.array(target, np.float32))
    elif pair.classes is not None:
        assert [pair.classes[label] for label in pair[1]] == [str(y) for y in target]
    else:
        assert kind == "labels"
        assert pair[1].tolist() == target
    bare = data.read_csv(path, labels=False, target=place, **form)
    np.testing.assert_array_equal(bare, pair[0])

    thousands = delimiter == decimal == ","  # "1,875" may be one, and is not guessed to be none
    if kind == "words" and all(word.isalpha() for word in target) and not thousands:
        guessed = data.read_csv(path)
        np.testing.assert_array_equal(guessed[0], pair[0])
        assert guessed.classes == pair.classes
        np.testing.assert_array_equal(guessed[1], pair[1])


@pytest.mark.parametrize(
    ("header", "inputs"),
    [
        ([*range(1, 17), "label"], [*map(str, range(1, 17))]),
        (["label", *range(1, 17)], [*map(str, range(1, 17))]),
        ([*range(16), "label"], [*map(str, range(16))]),
        ([*(f"pixel{j}" for j in range(16)), "label"], [f"pixel{j}" for j in range(16)]),
        (["label", *(f"1x{j}" for j in range(1, 17))], [f"1x{j}" for j in range(1, 17)]),
        ([*(f"1x{j}" for j in range(1, 17)), "label"], [f"1x{j}" for j in range(1, 17)]),
    ],
)
def test_headers_that_count(header: list[Any], inputs: list[str], tmp_path: Path) -> None:
    """From 0, as pandas does, or from 1, and with or without a word before the number."""
    place = header.index("label")
    values = np.random.default_rng(0).integers(0, 9, (12, 16))
    rows = np.insert(values, place, np.arange(12) % 3, axis=1)
    lines = [",".join(map(str, row)) for row in [header, *rows.tolist()]]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    pair = data.read_csv(tmp_path / "a.csv")
    np.testing.assert_array_equal(pair[0], values)
    assert pair[1].tolist() == [0, 1, 2] * 4
    assert (pair.inputs, pair.targets) == (tuple(inputs), ("label",))
    bare = tmp_path / "b.csv"  # 1, 2, 3 with a label in front may well be a row
    bare.write_text("1,2,3\n0,5,6\n1,8,9\n")
    assert len(data.read_csv(bare)[1]) == 3
