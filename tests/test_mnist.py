"""MNIST from a folder, the environment, the cache and the network (a server on 127.0.0.1)."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import importlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpubp import data
from gpubp.errors import DataFormatError

# gpubp.data.mnist is the function; its module is had by name.
mnist_module = importlib.import_module("gpubp.data.mnist")
NAMES = tuple(mnist_module._SHA256)


def small_set() -> dict[str, NDArray[Any]]:
    """Four arrays in MNIST's form: 6 and 4 images of 28 x 28."""
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {}
    for name in NAMES:
        n = 6 if name.startswith("train") else 4
        shape = (n, 28, 28) if "images" in name else (n,)
        arrays[name] = rng.integers(0, 10, shape, dtype=np.uint8)
    return arrays


def write_set(folder: Path, suffix: str = ".gz") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in small_set().items():
        data.write_idx(folder / f"{name}{suffix}", array)


def check_small_set(sets: Any) -> None:
    arrays = small_set()
    for (x, y), part in zip(sets, ("train", "t10k"), strict=True):
        images, labels = arrays[f"{part}-images-idx3-ubyte"], arrays[f"{part}-labels-idx1-ubyte"]
        np.testing.assert_array_equal(x, images.reshape(-1, 784), strict=True)
        np.testing.assert_array_equal(y, labels.astype(np.int64), strict=True)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_in_a_folder(suffix: str, tmp_path: Path) -> None:
    write_set(tmp_path, suffix)
    check_small_set(data.mnist(tmp_path))
    check_small_set(data.mnist(str(tmp_path)))
    check_small_set(data.load(tmp_path))


def test_mnist_in_the_folder_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "set")
    monkeypatch.setenv("GPUBP_DATA", str(tmp_path / "set"))
    check_small_set(data.mnist())
    check_small_set(data.load("mnist"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        data.mnist(tmp_path / "named folders come first")


def test_a_folder_without_a_file_says_which(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no t10k-labels-idx1-ubyte\[.gz\]") as caught:
        data.mnist(tmp_path)
    assert "GPUBP_DATA" in str(caught.value)
    with pytest.raises(DataFormatError, match="expected a folder of four IDX files, found a file"):
        data.mnist(tmp_path / "t10k-images-idx3-ubyte.gz")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import platformdirs

    monkeypatch.delenv("GPUBP_DATA", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    return tmp_path / "cache" / "gpubp"


@pytest.fixture
def mirrors(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Path]]:
    """Two folders served on 127.0.0.1, in the order in which ``mnist`` tries them."""
    folders = tmp_path / "first", tmp_path / "second"
    servers = []
    for folder in folders:
        folder.mkdir()
        handler = functools.partial(QuietHandler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
    urls = tuple(f"http://127.0.0.1:{server.server_port}/" for server in servers)
    write_set(tmp_path / "plain", "")
    digests = {
        name: hashlib.sha256((tmp_path / "plain" / name).read_bytes()).hexdigest() for name in NAMES
    }
    monkeypatch.setattr(mnist_module, "_MIRRORS", urls)
    monkeypatch.setattr(mnist_module, "_SHA256", digests)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield folders
    for server in servers:
        server.shutdown()
        server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Tests are silent."""


def test_mnist_is_downloaded_once(
    mirrors: tuple[Path, Path], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(mirrors[0])
    check_small_set(data.mnist())
    assert "100%" in capsys.readouterr().err  # the progress bar
    assert sorted(file.name for file in cache.iterdir()) == sorted(f"{n}.gz" for n in NAMES)
    for file in mirrors[0].iterdir():
        file.unlink()
    check_small_set(data.mnist())
    assert capsys.readouterr().err == ""


def test_another_gzip_wrapper_is_the_same_file(mirrors: tuple[Path, Path]) -> None:
    write_set(mirrors[0])
    for file in mirrors[0].iterdir():
        file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), 1, mtime=12345))
    check_small_set(data.mnist())


@pytest.mark.parametrize("fault", ["absent", "other content", "truncated", "web page"])
def test_the_second_mirror_serves_what_the_first_does_not(
    fault: str, mirrors: tuple[Path, Path], cache: Path
) -> None:
    for folder in mirrors:
        write_set(folder)
    spoil(mirrors[0] / "train-images-idx3-ubyte.gz", fault)
    check_small_set(data.mnist())
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("absent", "HTTP 404"),
        ("other content", "wrong sha256"),
        ("truncated", "found a truncated file"),
        ("web page", "found 3c 68"),
    ],
)
def test_what_no_mirror_serves_is_one_sentence_with_the_ways_out(
    fault: str, reason: str, mirrors: tuple[Path, Path], cache: Path
) -> None:
    for folder in mirrors:
        write_set(folder)
        spoil(folder / "t10k-labels-idx1-ubyte.gz", fault)
    with pytest.raises(ConnectionError) as caught:
        data.mnist()
    message = str(caught.value)
    assert message.count(reason) == 2
    assert "\n" not in message
    for way in ("name a folder", "GPUBP_DATA", "data.digits28 (--data digits28)"):
        assert way in message
    assert "t10k-labels-idx1-ubyte.gz" not in [file.name for file in cache.iterdir()]
    write_set(mirrors[1])  # a second attempt needs only what is missing
    for name in NAMES[:-1]:
        (mirrors[1] / f"{name}.gz").unlink()
        (mirrors[0] / f"{name}.gz").unlink()
    check_small_set(data.mnist())


def spoil(file: Path, fault: str) -> None:
    if fault == "absent":
        file.unlink()
    elif fault == "other content":
        data.write_idx(file, data.read_idx(file) ^ 1)
    elif fault == "truncated":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        file.write_bytes(b"<html>sign in to this network</html>")


def test_without_a_network_the_ways_out_are_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Port 9 of the loopback: refused at once.
    monkeypatch.setattr(mnist_module, "_MIRRORS", ("http://127.0.0.1:9/", "http://127.0.0.1:9/"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(ConnectionError, match=r"127.0.0.1:9/: no connection.*digits28"):
        data.mnist()
    assert list(cache.iterdir()) == []


def test_a_damaged_cache_is_filled_again(mirrors: tuple[Path, Path], cache: Path) -> None:
    write_set(mirrors[0])
    data.mnist()
    spoil(cache / "train-labels-idx1-ubyte.gz", "truncated")
    check_small_set(data.mnist())


def test_the_digest_is_that_of_the_decompressed_file(tmp_path: Path) -> None:
    for dtype in ("u1", "i1", "i2", "i4", "f4", "f8"):
        array = np.arange(30).astype(dtype).reshape(5, 6)
        data.write_idx(tmp_path / dtype, array)
        expected = hashlib.sha256((tmp_path / dtype).read_bytes()).hexdigest()
        assert mnist_module._sha256(data.read_idx(tmp_path / dtype)) == expected


@pytest.mark.skipif(not os.environ.get("GPUBP_DATA"), reason="GPUBP_DATA names no folder")
def test_the_folder_of_the_environment_is_a_data_set() -> None:
    (x_train, y_train), (x_test, y_test) = data.mnist()
    assert x_train.dtype == x_test.dtype == np.uint8
    assert x_train.shape[1] == x_test.shape[1]
    assert (len(x_train), len(x_test)) == (len(y_train), len(y_test))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_a_split_like_keras(save: Any, tmp_path: Path) -> None:
    arrays = small_set()
    save(
        tmp_path / "mnist.npz",
        x_train=arrays["train-images-idx3-ubyte"],
        y_train=arrays["train-labels-idx1-ubyte"],
        x_test=arrays["t10k-images-idx3-ubyte"],
        y_test=arrays["t10k-labels-idx1-ubyte"],
        comment=np.array(["not looked at"], object),
    )
    check_small_set(data.read_npz(tmp_path / "mnist.npz"))
    check_small_set(data.load(tmp_path / "mnist.npz"))
