"""Data as people hold them: words as labels, DataFrames, masks, images that are not scaled."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from cli_harness import enter, run, succeed

import gpubp
from gpubp import nielsen

RNG = np.random.default_rng(11)
X = RNG.random((23, 4))
LABELS = RNG.integers(0, 3, 23)
WORDS = np.array(["setosa", "versicolor", "virginica"])[LABELS]


def network(**kwargs: Any) -> gpubp.Network:
    return gpubp.Network(**{"sizes": [4, 6, 3], "rng": 0} | kwargs)


def pandas() -> Any:
    return pytest.importorskip("pandas", reason="pandas is not installed")


def polars() -> Any:
    return pytest.importorskip("polars", reason="polars is not installed")


def refusal(x: Any, y: Any, net: gpubp.Network | None = None) -> str:
    """The one sentence with which fit, evaluate and backprop refuse."""
    net = network() if net is None else net
    told = set()
    for ask in (net.evaluate, net.backprop, lambda x, y: net.fit(
        x, y, epochs=1, batch_size=5, learning_rate=1.0
    )):  # fmt: skip
        with pytest.raises((ValueError, TypeError)) as caught:
            ask(x, y)
        told.add(str(caught.value))
    (sentence,) = told
    assert "\n" not in sentence
    return sentence


WORD_ARRAYS: dict[str, Callable[[], Any]] = {
    "str": lambda: WORDS,
    "digits": lambda: LABELS.astype(str),  # of fetch_openml("mnist_784")
    "bytes": lambda: WORDS.astype(bytes),
    "object": lambda: WORDS.astype(object),
    "list": lambda: WORDS.tolist(),
    "StringDType": lambda: WORDS.astype(np.dtypes.StringDType()),
    "a column": lambda: WORDS[:, None],
    "pandas": lambda: pandas().Series(WORDS),
    "pandas, object": lambda: pandas().Series(WORDS.astype(object)),
    "pandas, category": lambda: pandas().Series(WORDS, dtype="category"),
    "pandas.Categorical": lambda: pandas().Categorical(WORDS),
    "polars": lambda: polars().Series(WORDS),
    "polars, category": lambda: polars().Series(WORDS.tolist(), dtype=polars().Categorical),
}


@pytest.mark.parametrize("kind", WORD_ARRAYS)
def test_labels_that_are_words_are_told_how_to_be_numbered(kind: str) -> None:
    y = WORD_ARRAYS[kind]()
    told = refusal(X, y)
    assert "y holds labels such as" in told
    codes = re.search(r"number them with (.*\)), and those of other examples with (.*\));", told)
    assert codes is not None
    names: dict[str, Any] = {"np": np, "y": y}
    exec(codes[1], names)  # what it says does what it says
    np.testing.assert_array_equal(names["y"], LABELS)
    names["y"] = y
    np.testing.assert_array_equal(eval(codes[2], names), LABELS)
    net = network()
    net.fit(X, LABELS, epochs=1, batch_size=5, learning_rate=1.0)
    assert re.search(r"classes\[net.predict\(x\)\] are the predicted ones$", told)
    assert set(names["classes"][net.predict(X)].tolist()) <= set(np.ravel(np.asarray(y)).tolist())


def test_labels_of_the_validation_are_named_as_such() -> None:
    with pytest.raises(TypeError, match=r"^validation y holds .* classes, y = np.unique\(y, "):
        network().fit(
            X, LABELS, epochs=1, batch_size=5, learning_rate=1.0, validation=(X, WORDS)
        )  # fmt: skip


def test_labels_that_are_missing_or_numbers_in_disguise() -> None:
    for nothing in (None, float("nan")):
        y = WORDS.astype(object)
        y[[4, 9]] = nothing
        assert refusal(X, y) == "y has no label in row 4: remove such rows from x and y"
    assert "y holds numbers as objects: convert it with astype(int)" in refusal(
        X, LABELS.astype(object)
    )
    assert "y holds datetime64[D], not numbers" in refusal(X, np.full(23, np.datetime64("2026-11")
                                                                  .astype("M8[D]")))  # fmt: skip
    missing = pandas().Series(LABELS, dtype="Int64")
    missing[7] = pandas().NA
    assert "first in row 7" in refusal(X, missing)
    words = pandas().Series(WORDS, dtype="string")
    words[5] = pandas().NA
    assert "y has no label in row 5" in refusal(X, words)


def test_labels_of_other_numeric_kinds_are_labels() -> None:
    expected = network().evaluate(X, LABELS)
    for y in (
        LABELS.astype(np.uint8), LABELS.tolist(), np.ma.array(LABELS),
        pandas().Series(LABELS, dtype="Int64"), pandas().Series(LABELS, dtype="category"),
        polars_labels(),
    ):  # fmt: skip
        assert network().evaluate(X, y) == expected
    one, truth = gpubp.Network([4, 1], rng=0), LABELS > 0
    assert one.evaluate(X, truth) == one.evaluate(X, truth.astype(int))
    assert network().evaluate(X, truth) == network().evaluate(X, truth.astype(int))


def polars_labels() -> Any:
    try:
        import polars
    except ImportError:
        return LABELS
    return polars.Series(LABELS)


def test_the_first_bad_label_or_target_is_named_with_its_row() -> None:
    x, y = np.zeros((100_000, 4)), np.zeros(100_000, np.int64)
    y[[77_123, 88_000]] = 3, -1
    told = refusal(x, y)
    assert told == (
        "y holds the label 3, first in row 77123, but a network with 3 outputs takes labels 0 to 2"
    )
    y[60_001] = -2
    assert "the label -2, first in row 60001," in refusal(x, y)
    targets = np.zeros((100_000, 3))
    targets[70_007, 2], targets[80_000, 0] = 1.25, -1
    net = network(cost="cross_entropy")
    assert "y holds the target 1.25, first in row 70007, but cost" in refusal(x, targets, net)


FRAMES = {"pandas": pandas, "polars": polars}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_of_numbers_are_arrays(kind: str) -> None:
    frames = FRAMES[kind]()
    columns = {"age": [1, 2, 3], "height": [0.5, 1.5, -2.0], "member": [True, False, True],
               "rate": [1.0, 2.0, 3.0]}  # fmt: skip
    array = np.array([[float(v) for v in row] for row in zip(*columns.values(), strict=True)])
    net, labels = network(), [0, 1, 2]
    given = [frames.DataFrame(columns)]
    if kind == "pandas":
        nullable = {"age": "Int64", "height": "Float64", "member": "boolean"}
        given += [given[0].astype(nullable), given[0].astype(nullable | {"age": "UInt8"})]
        given += [given[0].astype({"rate": "Float32", "age": "category"})]
    for frame in given:
        np.testing.assert_array_equal(net.feedforward(frame), net.feedforward(array))
        assert net.evaluate(frame, labels) == net.evaluate(array, labels)
    targets = frames.DataFrame({"a": [1, 0, 0], "b": [0.5, 0, 0], "c": [True, False, True]})
    expected = [[1, 0.5, 1], [0, 0, 0], [0, 0, 1]]
    assert net.evaluate(array, targets) == net.evaluate(array, expected)
    bytes_ = frames.DataFrame({name: np.array([0, 200, 255], np.uint8) for name in "abcd"})
    images = np.array([[0] * 4, [200] * 4, [255] * 4], np.uint8)
    np.testing.assert_array_equal(net.feedforward(bytes_), net.feedforward(images))


@pytest.mark.parametrize("kind", FRAMES)
def test_the_first_column_that_is_not_numeric_is_named_with_its_type(kind: str) -> None:
    frames = FRAMES[kind]()
    city = {"pandas": "str|object", "polars": "String"}[kind]
    columns = {"age": [1, 2], "city": ["Oslo", "Rome"], "name": ["a", "b"], "size": [1.0, 2.0]}
    told = refusal(frames.DataFrame(columns), [0, 1])
    assert re.match(
        rf"x holds column 'city' of ({city}), not numbers: convert it to numbers or leave", told
    )
    assert {"pandas": "pandas.get_dummies", "polars": "to_dummies()"}[kind] in told
    days = {"a": [1, 2], "b": [1, 2], "c": [1, 2], "day": np.array(["2026-11-27"] * 2, "M8[us]")}
    assert re.match(r"x holds column 'day' of [Dd]ate", refusal(frames.DataFrame(days), [0, 1]))


@pytest.mark.parametrize("kind", FRAMES)
def test_missing_values_are_named_by_row_and_column(kind: str) -> None:
    frames = FRAMES[kind]()
    full = {"a": [1, 2, 3], "b": [1.0, 2.0, 3.0], "c": [True, False, True], "d": [0, 0, 0]}
    for name, types in (("a", "Int64"), ("b", "Float64"), ("c", "boolean"), ("b", "float64")):
        columns: dict[str, Any] = full | {name: [full[name][0], None, full[name][2]]}
        frame = frames.DataFrame(columns)
        frame = frame.astype({name: types}) if kind == "pandas" else frame
        told = refusal(frame, [0, 1, 2])
        assert re.search(rf"row 1, column '{name}': remove or", told), told
    told = refusal(np.zeros((2, 4)), frames.DataFrame({"a": [0.5, 1], "b": [1, 1], "c": [1, None]}))
    assert re.match(r"y holds NaN, infinity or no value, first in row 1, column 'c'", told)


def test_columns_without_a_name() -> None:
    frame = pandas().DataFrame([[1, 2, 3, "x\x1b[2J" * 90], [1, 2, 3, "y"]])
    assert refusal(frame, [0, 1]).startswith("x holds column 3 of ")
    frame.columns = ["a", "b", "c", "\x1b[2J" * 90]
    told = refusal(frame, [0, 1])
    assert "\x1b" not in told
    assert len(told) < 250


MASKED = np.ma.array(X, mask=np.zeros_like(X, bool))


def test_masked_values_are_refused_as_nan_is(tmp_path: Path) -> None:
    masked = MASKED.copy()
    masked[[5, 7], 2] = np.ma.masked
    told = (
        "x has masked values, first in row 5: remove such rows, or put values in their place with "
        "x.filled(...)"
    )
    assert refusal(masked, LABELS) == told
    assert refusal(list(masked), LABELS) == told
    labels = np.ma.array(LABELS, mask=np.arange(23) == 9)
    assert "y has masked values, first in row 9" in refusal(X, labels)
    assert "y has masked values, first in row 2" in refusal(
        X, np.ma.masked_greater(np.eye(3)[LABELS] + (np.arange(23) == 2)[:, None], 1)
    )
    sparse = scipy.sparse.csr_array(X)
    sparse.data = np.ma.array(sparse.data, mask=np.arange(sparse.data.size) == 3)
    assert refusal(sparse, LABELS).startswith("x has masked values in its data")
    net = network()
    with pytest.raises(ValueError, match=r"^x has masked values"):
        net.predict(masked)
    with pytest.raises(ValueError, match=r"^weights\[0\] has masked values, first in row 1"):
        net.weights[0] = np.ma.array(np.zeros((6, 4)), mask=np.arange(24).reshape(6, 4) == 5)
    with pytest.raises(ValueError, match="w of init has masked values"):
        network(init=lambda rng, n_out, n_in: (
            np.ma.masked_less(np.zeros((n_out, n_in)), 1), np.zeros(n_out)
        ))  # fmt: skip
    with pytest.raises(ValueError, match=r"^array has masked values"):
        gpubp.data.write_idx(tmp_path / "a.idx", masked)
    column = np.ma.array(np.zeros((4, 1)), mask=[[0], [1], [0], [0]])
    with pytest.raises(ValueError, match=r"^a has masked values, first in row 1"):
        nielsen.Network([4, 3]).feedforward(column)


def test_masked_arrays_without_a_masked_entry_are_arrays() -> None:
    net = network()
    for x in (MASKED, np.ma.array(X), list(MASKED)):
        np.testing.assert_array_equal(net.feedforward(x), net.feedforward(X))
    assert net.evaluate(MASKED, np.ma.array(LABELS)) == net.evaluate(X, LABELS)
    with pytest.raises(ValueError, match="make all its rows of one length"):
        net.feedforward([np.ma.array([1, 2, 3, 4]), np.ma.array([1, 2])])


IMAGES = RNG.integers(0, 256, (300, 4))
KINDS_OF_IMAGES: dict[str, Callable[[], Any]] = {
    "int64": lambda: IMAGES,
    "float32": lambda: IMAGES.astype(np.float32),
    "list": lambda: IMAGES.tolist(),
    "pandas": lambda: pandas().DataFrame(IMAGES),
    "sparse": lambda: scipy.sparse.csr_array(IMAGES),
    "sparse, 0 and 255": lambda: scipy.sparse.csr_array(IMAGES // 128 * 255),
    "0 and 255": lambda: IMAGES // 128 * 255.0,
    "sparse floats": lambda: scipy.sparse.coo_array(IMAGES.astype(float)),
    "one row alone beyond the sample": lambda: np.where(
        np.arange(300)[:, None] == 299, 128, IMAGES
    ),
}
OTHERS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: IMAGES.astype(np.uint8),
    "sparse bytes": lambda: scipy.sparse.csr_array(IMAGES.astype(np.uint8)),
    "scaled": lambda: IMAGES / 255,
    "zeros and ones": lambda: IMAGES // 128,
    "digits of 4 bits": lambda: IMAGES // 16,
    "small counts": lambda: IMAGES // 2,
    "beyond 255": lambda: IMAGES + 1,
    "negative": lambda: IMAGES - 1,
    "one that is not whole": lambda: IMAGES + (np.arange(1200).reshape(300, 4) == 1197) / 2,
    "one number": lambda: np.full((300, 4), 200.0),
    "16 bits": lambda: 257 * IMAGES,
    "nothing": lambda: scipy.sparse.csr_array((300, 4)),
}


@contextmanager
def told(count: int) -> Iterator[None]:
    """So many IntensityWarnings, each at a line of this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert [item.category for item in caught] == [gpubp.IntensityWarning] * count
    assert all(item.filename == __file__ for item in caught)
    assert all("pass x.astype(np.uint8), read as x/255, or x / 255" in str(w.message)
               for w in caught)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_IMAGES)
def test_images_on_the_scale_of_bytes_are_told_of(kind: str) -> None:
    x, y, net = KINDS_OF_IMAGES[kind](), np.arange(300) % 3, network()
    with told(2):
        net.fit(x, y, epochs=2, batch_size=50, learning_rate=0.1, validation=(x, y))
    for ask in (net.predict, net.predict_proba, net.feedforward):
        with told(1):
            ask(x)
    for ask in (net.evaluate, net.backprop):
        with told(1):
            ask(x, y)
    with told(1):
        gpubp.Fleet.of([4, 6, 3], rng=range(3)).fit(x, y, epochs=1, batch_size=50,
                                                     learning_rate=0.1)  # fmt: skip
    assert issubclass(gpubp.IntensityWarning, UserWarning)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_inputs_are_not(kind: str) -> None:
    with told(0):
        network().evaluate(OTHERS[kind](), np.arange(300) % 3)


def test_many_rows_are_looked_at_all_before_a_word() -> None:
    x = np.tile(IMAGES[:, :1], (100, 784)).astype(np.float32)  # several chunks
    net = gpubp.Network([784, 3], rng=0)
    with told(1):
        net.predict(x)
    for value in (0.5, 256, -1):
        x[29_999, 783] = value
        with told(0):
            net.predict(x)


def test_the_warning_is_shown_once_a_line() -> None:
    net = network()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            net.predict(IMAGES)
    assert len(caught) == 1


def test_images_on_a_gpu(cuda_backend: gpubp.Backend) -> None:
    net = network(backend=cuda_backend)
    with cuda_backend.device():
        on_device = cuda_backend.asarray(IMAGES.astype(np.float32))
        scaled = cuda_backend.asarray((IMAGES / 255).astype(np.float32))
    with told(1):
        net.predict(on_device)
    with told(0):
        net.predict(scaled)


def test_the_command_line_warns_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)
    np.savez("raw.npz", x=IMAGES, y=np.arange(300) % 3)
    monkeypatch.setattr("warnings.filters", [("default", None, Warning, None, 0)])
    code, _, err = run("train --data raw.npz --epochs 1 --sizes 4,3 --save raw.net")
    assert code == 0
    lines = err.splitlines()
    assert all(line.startswith("gpubp: warning: ") for line in lines), err
    assert [line.split()[2] for line in lines] == ["x", "validation"]


def test_a_regression_predicts_its_output(backend: gpubp.Backend) -> None:
    y = 3 * X[:, 0] - X[:, 1]
    net = gpubp.Network([4, 5, 1], activation=["tanh", "identity"], backend=backend, rng=0)
    net.fit(X, y, epochs=20, batch_size=5, learning_rate=0.1)
    found = net.predict(X)
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == ((23,), np.float32)
    np.testing.assert_array_equal(found, backend.asnumpy(net.feedforward(X))[:, 0])
    assert np.mean((found - y) ** 2) < 0.5 * y.var()
    assert not net.is_classifier
    assert net.evaluate(X, y).accuracy is None
    assert net.evaluate(X, y > 0).accuracy is None  # zeros and ones, and no class is predicted


@pytest.mark.parametrize(
    ("sizes", "activation", "classes"),
    [
        ([4, 1], "sigmoid", True),
        ([4, 1], "1/(1 + exp(-z))", True),
        ([4, 1], "max(0, min(1, z))", True),
        ([4, 3], "identity", True),
        ([4, 3], "relu", True),
        ([4, 1], "relu", False),
        ([4, 1], "tanh", False),
        ([4, 1], "identity", False),
    ],
)
def test_which_networks_predict_classes(sizes: list[int], activation: str, classes: bool) -> None:
    net = gpubp.Network(sizes, activation=activation, rng=0)
    found, a = net.predict(X), net.feedforward(X)
    assert net.is_classifier == classes
    assert (found.dtype == np.int64) == classes
    y = np.arange(23) % (2 if sizes[-1] == 1 else 3)
    assert (net.evaluate(X, y).accuracy is not None) == classes
    if classes:
        np.testing.assert_array_equal(found, a.argmax(1) if sizes[-1] > 1 else a[:, 0] > 0.5)
    else:
        np.testing.assert_array_equal(found, a[:, 0])


def test_the_command_line_and_a_regression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)
    x = RNG.random((30, 5)).astype(np.float32)
    np.savez("two.npz", x=x, y=np.arange(30) % 2)
    lines = succeed(run("train --data two.npz --sizes 5,1 --activation identity --epochs 2 "
                        "--learning-rate 0.01 --save line.net"))  # fmt: skip
    assert not any("accuracy" in line for line in lines)
    assert succeed(run("evaluate line.net --data two.npz"))
    _, *rows = succeed(run("predict line.net --data two.npz"))
    expected = gpubp.load("line.net").predict(x)
    found = [float(row.split(",")[1]) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
