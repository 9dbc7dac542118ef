"""One safetensors file of named arrays and a JSON header: replaced whole, read strictly.

    n (8 bytes, little-endian) | n bytes of JSON: name -> dtype, shape, data_offsets | the data

The safetensors library writes, and is checked: some versions store strided arrays wrongly without
a word. Reading needs no library: once the header agrees with the size of the file, each array is
filled straight from it, so a lying header is refused before any memory is taken. The metadata hold
a digest of all bytes, those in the digest's own place taken as zeros: no changed byte is loaded.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import IO, Any

import numpy as np

from gpubp.errors import DataFormatError
from gpubp.filekind import kind_of
from gpubp.folders import path_text
from gpubp.printable import brief, printable

MAX_HEADER_BYTES = 2**20  # the worst JSON of this length takes some 32 MiB to parse

_CODES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U64": "<u8", "U8": "|u1", "BOOL": "|b1"}
_DTYPES: dict[str, np.dtype[Any]] = {code: np.dtype(text) for code, text in _CODES.items()}
_CURES = {
    errno.ENOENT: "; check the name, and that its directory exists",
    errno.EACCES: "; check the permissions of the file and of its directory",
    errno.ENOSPC: "; free some space, or choose another disk",
    errno.ENAMETOOLONG: "; choose a shorter name",
}
_DIGEST = re.compile(rb'("digest"\s*:\s*")([0-9a-f]{64})"')  # quotes inside a text are escaped
_NO_DIGEST = "0" * 64
_LONGEST_LABEL = 100  # bytes of a name that its temporary bears: no file system allows so few
_unfinished: set[str] = set()  # temporaries that this process is writing now, in any thread


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], header: Mapping[str, Any],
    *, rehearsal: bool = False,
) -> None:  # fmt: skip
    """Write ``tensors`` and ``header`` to ``path``, which at any moment is the old file or the new.

    tensors: float32, float64, int64, uint64, uint8 or bool; any shape, layout and byte order.
    header: what JSON holds, tuples read back as lists; inf, nan and int keys are refused.
    rehearsal: do it all, and remove it again in place of the last step: ``path`` stays as it is.
    A symbolic link stays and the file it names is replaced, in the mode that it has; temporaries
    whose writer no longer runs on this machine are removed. Raises ``TypeError`` or ``ValueError``
    for what the format cannot hold, and the system's ``OSError`` where it cannot write: the
    previous file then stands.
    """
    from safetensors.numpy import save

    target = os.path.realpath(path_text(path))
    arrays = {name: _plain(name, array) for name, array in tensors.items()}
    _check_header(dict(header))
    text = json.dumps(dict(header), sort_keys=True, allow_nan=False)
    data = memoryview(save(arrays, metadata={"gpubp": text, "digest": _NO_DIGEST}))
    if (length := int.from_bytes(data[:8], "little")) > MAX_HEADER_BYTES:
        raise ValueError(f"header of {length} bytes, over {MAX_HEADER_BYTES}: make lists tensors")
    start, body = bytes(data[: 8 + length]), data[8 + length :]
    digest = _hashed(start)
    digest.update(body)
    found = digest.hexdigest().encode()
    start = _DIGEST.sub(lambda match: match[1] + found + b'"', start)
    try:
        _replace(target, (start, body), arrays, rehearsal)
    except OSError as error:
        raise _explained(error, f"cannot write {_name(path)}") from error


def check_target(path: str | os.PathLike[str]) -> None:
    """``OSError``, ``TypeError`` or ``ValueError`` now, where writing ``path`` would fail later: a
    file is made beside it, and removed."""
    try:
        with temporary(os.path.realpath(path_text(path))) as (_, file):
            file.flush()
    except OSError as error:
        raise _explained(error, f"cannot write {_name(path)}") from error


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors and the header of ``path``; the arrays are writable and the caller's own.

    Raises ``DataFormatError`` at the first thing that is not as ``write_tensors`` leaves it, and
    ``OSError`` (``FileNotFoundError`` and the like) where there is no file to read. Files of older
    versions have no digest: a ``UserWarning`` says that.
    """
    path_text(path)
    try:
        _refuse_irregular(path)
        with open(path, "rb") as file:
            tensors, header, digested = _decode(file)
    except _Wrong as wrong:
        offset, expected, found = wrong.args
        if kind := kind_of(path):
            offset, expected, found = 0, "a file of gpubp's", f"{kind.what}: {kind.cure}"
        raise DataFormatError(path, offset=offset, expected=expected, found=found) from None
    except OSError as error:
        raise _explained(error, f"cannot read {_name(path)}") from error
    if not digested:
        warnings.warn(
            f"{_name(path)} has no digest, as an older version wrote it: a damaged byte in it "
            "would not be noticed; save it once more to give it one",
            stacklevel=3,
        )
    return tensors, header


def _name(path: str | os.PathLike[str]) -> str:
    return printable(os.fspath(path))


def _hashed(start: bytes) -> Any:
    """The digest of a file so far, ``start`` being all before its tensors."""
    zeros = _NO_DIGEST.encode()
    return hashlib.blake2b(
        _DIGEST.sub(lambda match: match[1] + zeros + b'"', start), digest_size=32
    )


def _plain(name: object, array: object) -> np.ndarray:
    """``array`` as the file holds it: little-endian and C-contiguous."""
    if not isinstance(name, str) or not name.isascii() or name == "__metadata__":
        raise ValueError(f"{brief(name)} cannot name a tensor: use another str, in ASCII")
    if not isinstance(array, np.ndarray):
        raise TypeError(f"tensor {name!r} must be a NumPy array, not a {type(array).__name__}")
    if (dtype := array.dtype.newbyteorder("<")) not in _DTYPES.values():
        allowed = ", ".join(known.name for known in _DTYPES.values())
        raise TypeError(f"tensor {name!r} is {array.dtype}: convert it to one of {allowed}")
    return np.asarray(array, dtype, order="C")  # ascontiguousarray would make 0-d arrays 1-d


def _check_header(value: object, where: str = "header") -> None:
    """Refuse what JSON cannot hold (nan), or would change without a word (int keys)."""
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not isinstance(key, str):
                raise TypeError(f"{where} has the key {brief(key)}: JSON takes only str keys")
            _check_header(item, f"{where}[{brief(key)}]")
    elif not isinstance(value, str | int | float | None):
        raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold: convert it")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {float(value)}, which JSON cannot hold: use None or a str")


def _replace(
    path: str, parts: Sequence[bytes | memoryview], arrays: Mapping[str, np.ndarray],
    rehearsal: bool,
) -> None:  # fmt: skip
    with temporary(path) as (name, file):
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
        written, _ = read_tensors(name)
        for key, array in arrays.items():
            back = written[key]
            if (back.shape, back.tobytes()) != (array.shape, array.tobytes()):
                raise OSError(errno.EIO, f"tensor {key!r} read back changed")
        if rehearsal:
            return
        take_place(name, path)
    with suppress(OSError):  # not every system syncs a directory; the data itself is on the disk
        descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def temporary(path: str) -> Iterator[tuple[str, IO[bytes]]]:
    """A file beside ``path`` to write, which is gone afterwards unless it took path's place. Where
    there is a file already, nobody but the owner may read it before."""
    _refuse_irregular(path)
    there = os.path.lexists(path)  # of a name that is too long only os.lstat would say so
    if not there:
        with suppress(FileNotFoundError):
            os.lstat(path)
    directory, name = os.path.split(os.path.abspath(path))
    if there and os.name == "posix" and (folder := os.stat(directory)).st_mode & stat.S_ISVTX:
        owners = (0, folder.st_uid, os.lstat(path).st_uid)  # in /tmp nobody else replaces a file
        if os.geteuid() not in owners:
            raise PermissionError(errno.EPERM, "it is another user's; choose another name")
    label = _label(name)
    _remove_stale(directory, label)
    made = os.path.join(directory, f".{label}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    private = (lambda name, flags: os.open(name, flags, 0o600)) if there else None
    _unfinished.add(made)
    try:
        with open(made, "xb", opener=private) as file:  # of a new one the umask says the mode
            yield made, file
    finally:
        with suppress(OSError):  # nothing to remove: it has its final name
            os.unlink(made)
        _unfinished.discard(made)


def take_place(made: str, path: str) -> None:
    """The temporary ``made`` becomes ``path``, in the mode of the file there, and its owner's and
    group's as far as may be."""
    with suppress(FileNotFoundError):
        before = os.stat(path)
        if os.name == "posix":
            mode = stat.S_IMODE(before.st_mode) & 0o777
            with suppress(OSError):  # only root gives files away
                os.chown(made, before.st_uid, -1)
            try:
                os.chown(made, -1, before.st_gid)
            except OSError:
                mode &= 0o707  # what that group was allowed is not for another one
            os.chmod(made, mode)
    os.replace(made, path)


def _label(name: str) -> str:
    """``name`` for a temporary's, short enough for any file system."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= _LONGEST_LABEL else hashlib.sha256(encoded).hexdigest()[:32]


def _remove_stale(directory: str, name: str) -> None:
    pattern = re.compile(rf"\.{re.escape(name)}\.([0-9]{{1,9}})\.[0-9a-f]{{8}}\.tmp")
    with suppress(OSError):  # a directory that may not be listed, a file that another removed
        for entry in os.listdir(directory):
            stale = os.path.join(directory, entry)
            match = pattern.fullmatch(entry)
            if match and stale not in _unfinished and not _runs_elsewhere(int(match[1])):
                os.unlink(stale)


def _runs_elsewhere(pid: int) -> bool:
    """Whether another process has this number. In containers one's own number comes back."""
    if pid == os.getpid() or os.name != "posix":
        return pid != os.getpid()  # outside POSIX os.kill(pid, 0) does not ask, it kills
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


class _Wrong(Exception):
    """The arguments (offset, expected, found) of a ``DataFormatError`` that lacks its file."""


def _decode(file: BufferedReader) -> tuple[dict[str, np.ndarray], dict[str, Any], bool]:
    """(tensors, header, whether a digest vouches for them)."""
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise _Wrong(0, "the 8-byte length of a header", f"{size} bytes in all")
    length, most = int.from_bytes(file.read(8), "little"), min(MAX_HEADER_BYTES, size - 8)
    if length > most:
        raise _Wrong(0, f"a header of at most {most} bytes", f"a length of {length}")
    raw = file.read(length)
    table = _json_object(raw, "a header")
    metadata = table.pop("__metadata__", None)
    text = metadata.get("gpubp") if isinstance(metadata, dict) else None
    if not isinstance(text, str) or not metadata.keys() <= {"gpubp", "digest"}:
        raise _Wrong(8, "__metadata__ of a text 'gpubp' and a digest", brief(metadata))
    found = _DIGEST.findall(raw)
    if "digest" in metadata and [metadata["digest"]] != [item.decode() for _, item in found]:
        raise _Wrong(8, "a digest of 64 hexadecimal digits", brief(metadata["digest"]))
    digest = _hashed(length.to_bytes(8, "little") + raw)
    header = _json_object(text, "the text 'gpubp' in __metadata__")
    start, end = 8 + length, 0
    entries = sorted(_entry(name, value) for name, value in table.items())
    for begin, next_end, name, _, _ in entries:
        if begin != end:
            raise _Wrong(start + end, f"tensor {brief(name)} at data offset {end}", f"{begin}")
        end = next_end
    if start + end != size:
        raise _Wrong(min(start + end, size), f"{end} bytes of data", f"{size - start}")
    arrays = {}
    for begin, _, name, shape, dtype in entries:
        array = arrays[name] = np.empty(shape, dtype)
        data = array.reshape(-1).view(np.uint8)
        if (count := file.readinto(data.data)) != data.size:  # cut short since the checks
            raise _Wrong(start + begin, f"tensor {brief(name)} of {data.size} bytes", f"{count}")
        digest.update(data.data)
        if dtype.kind == "b" and data.max(initial=0) > 1:
            first = start + begin + int(np.argmax(data > 1))
            raise _Wrong(first, f"0 or 1 in tensor {brief(name)}", "another byte")
    if "digest" in metadata and digest.hexdigest() != metadata["digest"]:
        raise _Wrong(
            None, "the bytes that were saved",
            "others, as their digest tells: the file is damaged, take another copy",
        )  # fmt: skip
    return arrays, header, "digest" in metadata


def _json_object(text: str | bytes, what: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(table := dict(pairs)) < len(pairs):
            raise ValueError(f"a key twice among {brief([key for key, _ in pairs])}")
        return table

    try:
        string = text if isinstance(text, str) else text.decode()
        value = json.loads(string, object_pairs_hook=unique)
        json.dumps(value, allow_nan=False)  # refuses NaN, Infinity and 1e999
    except (ValueError, RecursionError) as error:
        raise _Wrong(8, f"{what} to be JSON", str(error)) from None
    if not isinstance(value, dict):
        raise _Wrong(8, f"{what} to be a JSON object", brief(value))
    return value


def _entry(name: str, value: object) -> tuple[int, int, str, list[int], np.dtype[Any]]:
    what = f"tensor {brief(name)} with"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _Wrong(8, f"{what} dtype, shape and data_offsets", brief(value))
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise _Wrong(8, f"{what} a dtype among {', '.join(_DTYPES)}", brief(code))
    dtype = _DTYPES[code]
    if not _are_sizes(shape, 64) or math.prod(n or 1 for n in shape) * dtype.itemsize >= 2**63:
        raise _Wrong(8, f"{what} a shape that an array can have", brief(shape))
    count = math.prod(shape) * dtype.itemsize
    if not _are_sizes(offsets, 2) or len(offsets) < 2 or offsets[1] - offsets[0] != count:
        raise _Wrong(8, f"{what} data_offsets that span {count} bytes", brief(offsets))
    return offsets[0], offsets[1], name, shape, dtype


def _are_sizes(value: object, most: int) -> bool:
    # type(), since True is no size; the bounds keep products of these Python ints cheap.
    sizes = value if isinstance(value, list) and len(value) <= most else [None]
    return all(type(n) is int and 0 <= n < 2**63 for n in sizes)


def _refuse_irregular(path: str | os.PathLike[str]) -> None:
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "it is a directory; give the name of a file")
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file")


def _explained(error: OSError, what: str) -> OSError:
    """The same error as one sentence, with what to do about it."""
    cure = _CURES.get(error.errno or 0, "")
    told = type(error)(f"{what}: {error.strerror or error}{cure}")
    told.errno = error.errno
    return told
