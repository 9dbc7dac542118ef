"""Data sets and their files: what is written is read back, and each source is found."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from gpubp import data
from gpubp.errors import DataFormatError

IDX_DTYPES = ["u1", "i1", "i2", "i4", "f4", "f8"]


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# IDX


@settings(max_examples=60, deadline=None)
@given(
    array=st.sampled_from(IDX_DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=5, max_side=5))
    ),
    suffix=st.sampled_from(["", ".gz"]),
)
def test_idx_is_read_back_bit_for_bit(
    array: NDArray[Any], suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("idx") / f"array{suffix}"
    data.write_idx(path, array)
    read = data.read_idx(path)
    assert same(read, array)
    assert read.flags.writeable
    assert read.flags.c_contiguous


def test_idx_bytes_are_the_formats(tmp_path: Path) -> None:
    data.write_idx(tmp_path / "a", np.array([[1, -2, 3], [4, 5, 6]], np.int16))
    assert (tmp_path / "a").read_bytes() == bytes.fromhex(
        "00000b02 00000002 00000003 0001 fffe 0003 0004 0005 0006"
    )


@pytest.mark.parametrize("order", [">", "<"])
def test_idx_takes_any_byte_order_and_layout(order: str, tmp_path: Path) -> None:
    array = np.arange(24, dtype=f"{order}i4").reshape(4, 6).T[::2]
    data.write_idx(tmp_path / "a", array)
    assert same(data.read_idx(tmp_path / "a"), np.ascontiguousarray(array, "i4"))


def test_gzip_is_told_by_its_bytes_and_written_by_the_name(tmp_path: Path) -> None:
    array = np.arange(10, dtype=np.uint8)
    data.write_idx(tmp_path / "a.gz", array)
    packed = (tmp_path / "a.gz").read_bytes()
    assert packed[:2] == b"\x1f\x8b"
    assert packed[4:8] == bytes(4)  # no time stamp: the same array gives the same bytes
    (tmp_path / "misnamed").write_bytes(packed)
    assert same(data.read_idx(tmp_path / "misnamed"), array)
    (tmp_path / "plain.gz").write_bytes(gzip.decompress(packed))
    assert same(data.read_idx(tmp_path / "plain.gz"), array)


def test_a_gzipped_array_larger_than_what_is_allocated_unverified(tmp_path: Path) -> None:
    array = np.zeros((50, 1 << 20), np.uint8)
    array[::7, ::1001] = 3
    header = bytes([0, 0, 8, 2]) + np.array(array.shape, ">u4").tobytes()
    (tmp_path / "a").write_bytes(gzip.compress(header + array.tobytes(), 1))
    assert np.array_equal(data.read_idx(tmp_path / "a"), array)


def test_max_bytes_bounds_what_is_read(tmp_path: Path) -> None:
    for name in ("a", "a.gz"):
        data.write_idx(tmp_path / name, np.zeros(100, np.uint8))
        assert data.read_idx(tmp_path / name, max_bytes=100).size == 100
        with pytest.raises(DataFormatError, match="at most 99 bytes"):
            data.read_idx(tmp_path / name, max_bytes=99)
    np.savez(tmp_path / "a.npz", x=np.zeros((100, 1), np.uint8), y=np.zeros(100, np.uint8))
    assert data.read_npz(tmp_path / "a.npz", max_bytes=100)[0][0].size == 100
    with pytest.raises(DataFormatError, match="at most 99 bytes"):
        data.read_npz(tmp_path / "a.npz", max_bytes=99)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3, np.int64), "cannot write int64 as IDX: convert it to one of uint8, int8"),
        (np.zeros(3, bool), "cannot write bool"),
        (np.zeros(3, complex), "cannot write complex128"),
        (np.array(3, np.uint8), r"cannot write shape \(\)"),
        (np.zeros((2, 0), np.uint8), r"cannot write shape \(2, 0\)"),
        (np.zeros((1,) * 33, np.uint8), "1 to 32 dimensions"),
    ],
)
def test_what_idx_cannot_hold_is_refused(array: NDArray[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        data.write_idx(tmp_path / "a", array)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = np.arange(5, dtype=np.uint8)
    data.write_idx(tmp_path / "a", old)

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        data.write_idx(tmp_path / "a", np.zeros(1000, np.uint8))
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert same(data.read_idx(tmp_path / "a"), old)


# npz


@pytest.mark.parametrize("dtype", ["u1", "<f4", ">f4", "f8", "f2", "i2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_keeps_dtype_and_reads_either_order(dtype: str, order: Any, tmp_path: Path) -> None:
    x = np.arange(60).reshape(5, 3, 4).astype(dtype, order=order)
    y = np.arange(5, dtype=">u2")
    np.savez(tmp_path / "a.npz", x=x, y=y)
    (x_read, y_read), test = data.read_npz(tmp_path / "a.npz")
    assert test is None
    assert same(x_read, np.ascontiguousarray(x, x.dtype.newbyteorder("=")).reshape(5, 12))
    assert x_read.flags.c_contiguous
    assert same(y_read, np.arange(5))


def test_npz_member_larger_than_what_is_allocated_unverified(tmp_path: Path) -> None:
    x = np.zeros((50, 1 << 20), np.uint8)
    x[::7, ::1001] = 3
    np.savez_compressed(tmp_path / "a.npz", x=x, y=np.arange(50))
    (x_read, _), _ = data.read_npz(tmp_path / "a.npz")
    assert np.array_equal(x_read, x)


# csv


def read_text(tmp_path: Path, text: str, **options: Any) -> Any:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    return data.read_csv(path, **options)


@pytest.mark.parametrize(
    "text",
    [
        "7,0,255\n3,12,1\n",
        "7,0,255\n3,12,1",
        "7,0,255\r\n3,12,1\r\n",
        "label,p0,p1\n7,0,255\n3,12,1\n",
        '"label",0,1\n7,0,255\n3,12,1\n',
        "\ufefflabel,p0,p1\r\n7,0,255\r\n3,12,1\r\n",
        "\ufeff7,0,255\n3,12,1\n",
        "7, 0, 255\n3,\t12 ,1\n",
        "007,000,255\n003,012,001\n",
        "+7,0.0,2.55e2\n3.0,12.,1\n",
        "7,-0,255\n3,12,0001\n",
    ],
)
def test_csv_is_float32_as_it_stands(text: str, tmp_path: Path) -> None:
    x, y = read_text(tmp_path, text)
    assert same(abs(x), np.array([[0, 255], [12, 1]], np.float32))  # -0 stays -0
    assert same(y, np.array([7, 3]))


@pytest.mark.parametrize("value", ["0.5", "-1", "256", "1e3", ".5", "-3.25e-2", "999"])
@pytest.mark.parametrize("columns", [2, 784])
def test_csv_of_anything_else_is_float32(columns: int, value: str, tmp_path: Path) -> None:
    x, y = read_text(tmp_path, f"1{',7' * columns}\n12345{',9' * (columns - 1)},{value}\n")
    expected = np.repeat(np.array([[7], [9]], np.float32), columns, axis=1)
    expected[1, -1] = float(value)
    assert same(x, expected)
    assert same(y, np.array([1, 12345]))


@pytest.mark.parametrize("columns", [783, 784, 785])
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("cell", ["{}", "{}.0", "+{}"])
def test_only_rows_of_mnist_are_intensities(
    columns: int, labels: bool, cell: str, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, columns))
    rows = [",".join(cell.format(v) for v in row) for row in values]
    if labels:
        x, _ = read_text(tmp_path, "\n".join(f"5,{row}" for row in rows))
    else:
        x = read_text(tmp_path, "\n".join(rows), labels=False)
    assert same(x, values.astype(np.uint8 if columns == 784 else np.float32))


def test_csv_without_labels(tmp_path: Path) -> None:
    expected = np.array([[0.5, 2], [3, -4]], np.float32)
    for text in ("0.5,2\n3,-4\n", "\ufeffa,b\r\n0.5,2\r\n3,-4\r\n"):
        assert same(read_text(tmp_path, text, labels=False), expected)
    assert same(read_text(tmp_path, "a\n7\n8\n", labels=False), np.array([[7], [8]], np.float32))
    with pytest.raises(DataFormatError, match="column 2 in line 2, found 'nan'"):
        read_text(tmp_path, "1,2\n3,nan\n", labels=False)
    with pytest.raises(DataFormatError, match="found only a header"):
        read_text(tmp_path, "a,b\n", labels=False)


def test_csv_of_many_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1500, 784), dtype=np.uint8)
    y = rng.integers(0, 1000, 1500)
    rows = [",".join(map(str, (label, *row))) for label, row in zip(y, x.tolist(), strict=True)]
    x_read, y_read = read_text(tmp_path, "\n".join(rows))
    assert same(x_read, x)
    assert same(y_read, y)
    x_read, y_read = read_text(tmp_path, "\n".join([*rows, "5" + ",0.5" * 784]))
    assert same(x_read[:-1], x.astype(np.float32))
    assert same(x_read[-1], np.full(784, 0.5, np.float32))
    assert same(y_read[:-1], y)


# load


def test_load_splits_what_has_no_test_part(tmp_path: Path) -> None:
    x = np.arange(60, dtype=np.uint8).reshape(30, 2)
    y = np.arange(30)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    rows = "".join(f"{label},{a},{b}\n" for label, (a, b) in zip(y, x.tolist(), strict=True))
    (tmp_path / "a.CSV").write_text(rows)
    (x_train, y_train), (x_test, y_test) = parts = data.load(tmp_path / "a.npz")
    assert (len(x_train), len(x_test)) == (25, 5)
    assert sorted([*y_train, *y_test]) == list(range(30))
    assert np.array_equal(x_train, x[y_train])
    assert np.array_equal(x_test, x[y_test])
    assert y_train.tolist() != sorted(y_train)
    for a, b in zip(parts, data.load(str(tmp_path / "a.CSV")), strict=True):
        assert same(a[0].astype(np.float32), b[0])
        assert same(a[1], b[1])


def test_load_splits_two_rows_and_refuses_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    (x_train, _), (x_test, _) = data.load(tmp_path / "a.csv")
    assert len(x_train) == len(x_test) == 1
    (tmp_path / "a.csv").write_text("1,2\n")
    with pytest.raises(DataFormatError, match="at least 2 rows to split, found 1"):
        data.load(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("mnits", ValueError, "unknown data 'mnits': did you mean 'mnist'"),
        ("digit28", ValueError, "did you mean 'digits28'"),
        ("", ValueError, "names nothing"),
        ("zzz", ValueError, "choose one of .*digits28, mnist"),
        ("absent.npz", FileNotFoundError, "there is no file absent.npz"),
        ("absent.csv", FileNotFoundError, "there is no file absent.csv"),
        ("absent/folder", FileNotFoundError, "there is no file or folder absent/folder"),
        ("notes.txt", ValueError, "cannot tell what notes.txt holds"),
    ],
)
def test_load_of_what_it_does_not_know(
    source: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(error, match=message):
        data.load(source)


def test_importing_data_is_light() -> None:
    heavy = "numba pooch tqdm requests scipy matplotlib cupy"
    code = f"import sys, gpubp.data; print([m for m in {heavy.split()} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "[]"


DATA = (
    data.load, data.read_csv, data.read_idx, data.read_npz,
    lambda path: path is not None and data.mnist(path),
    lambda path: data.write_idx(path, np.zeros(3)),
)  # fmt: skip


@pytest.mark.parametrize("path", [3, b"a.csv", ["a.csv"], np.zeros(2), 0.5, True, io.BytesIO()])
@pytest.mark.parametrize("ask", DATA)
def test_what_is_no_path_is_answered(ask: Any, path: Any) -> None:
    with pytest.raises(TypeError, match=r"^(path|data)=.* must be the name of a file or folder, a"):
        ask(path)


def test_no_path_and_no_name() -> None:
    for ask in (data.read_csv, data.read_idx, data.read_npz):
        with pytest.raises(TypeError, match=r"^path=None must be the name of a file or folder"):
            ask(None)
    with pytest.raises(TypeError, match=r"^data=None must be the name of a file or folder"):
        data.load(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^data='a\\x00b' holds a zero byte"):
        data.load("a\0b")
    for ask in (data.load, data.read_csv, data.read_idx, data.read_npz, data.mnist):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            ask(Path("nowhere/a.csv"))


@pytest.mark.parametrize("n", [None, "3", b"3", 2.5, Path("3")])
def test_what_is_no_count_is_answered(n: Any) -> None:
    with pytest.raises(TypeError, match=r"^n=.* must be an integer"):
        data.digits28(n)
    with pytest.raises(TypeError, match=r"^rng=.* must be a non-negative int"):
        data.digits28(3, rng=Path("3"))  # type: ignore[arg-type]


def test_a_bad_label_of_a_file_is_named_with_its_row(tmp_path: Path) -> None:
    y = np.zeros(1000, np.int64)
    y[[321, 500]] = -4, -9
    np.savez(tmp_path / "a.npz", x=np.zeros((1000, 2)), y=y)
    with pytest.raises(DataFormatError, match="found -4 in row 321"):
        data.load(tmp_path / "a.npz")
