"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28 x 28 grey levels.

Read from a folder the user names, else from the user's cache, else downloaded into that cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpubp.data._files import FilePath, Pair
from gpubp.data.idx import idx_header, read_idx
from gpubp.data.npz import check_pair, check_widths
from gpubp.errors import DataFormatError
from gpubp.folders import path_text, user_cache

_MIRRORS: Final = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# Of the decompressed bytes: mirrors compress them differently.
_SHA256: Final = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def mnist(path: FilePath | None = None) -> tuple[Pair, Pair]:
    """``((x_train, y_train), (x_test, y_test))``: x (n, 784) uint8, y (n,) int64.

    The four IDX files, gzipped or plain, come from the folder ``path``, else from the folder that
    the environment variable ``GPUBP_DATA`` names, else from the user's cache, where they are
    downloaded (11 MB, checked by sha256) the first time. A folder named by the user may hold any
    data set in these four files, such as Fashion-MNIST: its format is checked, not its content.

    Raises ``DataFormatError``, ``FileNotFoundError`` where a named folder lacks a file, and
    ``ConnectionError`` where MNIST cannot be downloaded.
    """
    if path is not None:
        return read_folder(path)
    if folder := os.environ.get("GPUBP_DATA"):
        return read_folder(folder)
    cache = user_cache()
    try:
        return read_folder(cache)
    except (FileNotFoundError, DataFormatError):
        # Absent, or damaged since: the cache is ours, so it is filled again.
        _download(cache, _MIRRORS, _SHA256)
    return read_folder(cache)


def read_folder(folder: FilePath) -> tuple[Pair, Pair]:
    """The examples in a folder's four IDX files: uint8 images (n, rows, columns), uint8 labels."""
    folder = Path(path_text(folder))
    train, test = (
        _read_part(folder, f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
        for part in ("train", "t10k")
    )
    check_widths(folder, train, test)
    return train, test


def _read_part(folder: Path, images: str, labels: str) -> Pair:
    arrays = []
    for name, rank in ((images, 3), (labels, 1)):
        file = _find(folder, name)
        array = read_idx(file)
        if array.ndim != rank or array.dtype != np.uint8:
            axes = "axis" if rank == 1 else "axes"
            raise DataFormatError(
                file,
                expected=f"uint8 with {rank} {axes}",
                found=f"{array.dtype.name} with {array.ndim}",
                offset=2,
            )
        arrays.append(array)
    x, y = arrays
    return check_pair(folder, x, y, f"{images.split('-')[0]} ")


def _find(folder: Path, name: str) -> Path:
    """The file ``name`` of the folder, plain or with ``.gz``."""
    for file in (folder / name, folder / f"{name}.gz"):
        if file.exists():
            return file
    if folder.exists() and not folder.is_dir():
        raise DataFormatError(folder, expected="a folder of four IDX files", found="a file")
    problem = f"has no {name}[.gz]" if folder.exists() else "does not exist"
    raise FileNotFoundError(
        f"the data folder {folder} {problem}: name a folder (or set GPUBP_DATA to one) with the "
        f"four files {', '.join(_SHA256)}, each plain or .gz"
    )


def _download(folder: Path, mirrors: Sequence[str], sha256: Mapping[str, str]) -> None:
    """Fill ``folder`` with the files of ``sha256``, each from the first mirror that has it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, digest in sha256.items():
        target = folder / f"{name}.gz"
        if target.exists() and _mismatch(target, digest) is None:
            continue
        problems = []
        for mirror in mirrors:
            if (problem := _fetch(f"{mirror}{name}.gz", target, digest)) is None:
                break
            problems.append(f"{mirror}: {problem}")
        else:
            raise ConnectionError(
                f"MNIST cannot be downloaded ({'; '.join(problems)}): name a folder that has it, "
                "set GPUBP_DATA to such a folder, or use data.digits28 (--data digits28), which "
                "needs no download"
            )


def _fetch(url: str, target: Path, digest: str) -> str | None:
    """Put the file at ``url`` in place if it has the digest; else say what is wrong."""
    import pooch

    download = pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 16, timeout=10)
    unchecked = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(unchecked, "wb") as file:
            download(url, file, None)
        problem = _mismatch(unchecked, digest)
        if problem is None:
            os.replace(unchecked, target)
        return problem
    except OSError as error:
        # requests derives its exceptions from OSError; of theirs only the status is worth reading.
        status = getattr(getattr(error, "response", None), "status_code", None)
        return f"HTTP {status}" if status else error.strerror or "no connection"
    finally:
        unchecked.unlink(missing_ok=True)


def _mismatch(file: Path, digest: str) -> str | None:
    """What is wrong with an IDX file that should have the digest; None if nothing is."""
    try:
        return None if _sha256(read_idx(file)) == digest else "wrong sha256"
    except DataFormatError as error:
        return f"expected {error.expected}, found {error.found}"


def _sha256(array: NDArray[Any]) -> str:
    """Of the IDX file that holds ``array``, whose bytes are determined by it."""
    digest = hashlib.sha256(idx_header(array))
    digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder(">")).data)
    return digest.hexdigest()
