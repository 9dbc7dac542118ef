"""What a file is that is not what it was taken for, told from its first bytes."""

from __future__ import annotations

import json
import os
import re
import reprlib
from typing import NamedTuple

_HEAD = 1 << 16  # bytes looked at; of another library's safetensors its header, up to a mebibyte
_MAX_HEADER = 1 << 20

_COPY = "and copy its weights in, net.weights[i] = w (n_out, n_in), net.biases[i] = b"
_UNPACK = "unpack it first"
_DATA = "if it holds data, give it to gpubp.data.load"


class Kind(NamedTuple):
    """What a file is, and what to do with it where a network was wanted."""

    what: str
    cure: str


# The bytes that a kind begins with. The more special ones come first.
_BEGINNINGS = (
    (rb"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", "PyTorch's old file (a pickle)",
     f"read it with torch.load {_COPY}"),
    (rb"\x80[\x02-\x05]", "a pickle", "never loaded here, as it may run any code: unpickle it if "
     f"you trust it {_COPY}"),
    (rb"\x93NUMPY", "a NumPy array (.npy)",
     "read it with np.load and assign it, net.weights[i] = w"),
    (rb"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes it", f"read it with h5py {_COPY}; Keras keeps "
     "weights as (n_in, n_out), so take w.T"),
    (rb"GGUF", "GGUF", f"read it with its own library {_COPY}"),
    (rb"....TFL3", "TensorFlow Lite", f"read it with its own library {_COPY}"),
    (rb"MATLAB 5", "a MATLAB file", f"read it with scipy.io.loadmat {_COPY}"),
    (rb"\x1f\x8b", "gzip", _UNPACK),
    (rb"BZh[1-9]", "bzip2", _UNPACK),
    (rb"\xfd7zXZ\0", "xz", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "Zstandard", _UNPACK),
    (rb"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (rb".{257}ustar", "a tar archive", _UNPACK),
    (rb"PK\x05\x06", "an empty zip archive", "give the checkpoint itself"),
    (rb"version https://git-lfs", "a pointer of Git LFS", "fetch the file with git lfs pull"),
    (rb"(?i)\s*<(!doctype html|html|head)", "a web page (HTML)", "the download gave a page instead "
     "of the file: take its raw form"),
    (rb"\s*<\?xml", "XML", "give the checkpoint itself"),
    (rb"\x89PNG", "a PNG picture", "give the checkpoint itself"),
    (rb"%PDF", "a PDF", "give the checkpoint itself"),
    (rb"\xff\xd8\xff", "a JPEG picture", "give the checkpoint itself"),
    (rb"\0\0[\x08\x09\x0b-\x0e][\x01-\x04]\0", "IDX, the format of MNIST", _DATA),
    # ONNX: the version of its representation, then the name of what wrote it, or the graph
    (rb"\x08[\x03-\x14][\x12\x1a\x22\x3a\x42].{0,8}[\x20-\x7e]", "ONNX",
     f"read it with onnx.load and onnx.numpy_helper.to_array {_COPY}"),
    (rb"\0{64}", "nothing but zeros at its beginning, as a power cut or a broken copy leaves",
     "take another copy"),
)  # fmt: skip
_ZIPPED = (  # by the name of the first member
    (r"(.*/)?(data\.pkl|\.format_version|\.storage_alignment|byteorder|version)",
     "PyTorch's .pt", f"read it with torch.load {_COPY}"),
    (r".*\.npy", "NumPy's .npz", f"read it with np.load {_COPY}; {_DATA}"),
    (r"metadata\.json|config\.json|model\.weights\.h5", "Keras' .keras",
     f"read it with Keras {_COPY}, of its kernels w.T"),
)  # fmt: skip


def kind_of(path: str | os.PathLike[str]) -> Kind | None:
    """What the file seems to be, ``None`` where nothing is known or it may be one of gpubp's."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            if safe := _header_length(head):
                head += file.read(max(0, 8 + safe - len(head)))
    except OSError:
        return None
    if not head:
        return Kind("an empty file", "take another copy")
    if safe:  # whose length may begin as another kind does
        return _safetensors(head, safe)
    for pattern, what, cure in _BEGINNINGS:
        if re.match(pattern, head, re.S):
            return Kind(what, cure)
    if head[:4] == b"PK\3\4":
        name = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("latin1")
        for pattern_of_name, what, cure in _ZIPPED:
            if re.fullmatch(pattern_of_name, name):
                return Kind(what, cure)
        return Kind("a zip archive", _UNPACK)
    return _text(head)


def _header_length(head: bytes) -> int:
    """That of a safetensors file's JSON, 0 where it does not look like one."""
    length = int.from_bytes(head[:8], "little")
    return length if head[8:9] == b"{" and length <= _MAX_HEADER else 0


def _safetensors(head: bytes, length: int) -> Kind | None:
    text = head[8 : 8 + length]
    if b'"gpubp"' in text:
        return None  # one of ours, damaged
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        return None
    table.pop("__metadata__", None)
    if not table or not all(isinstance(v, dict) and "data_offsets" in v for v in table.values()):
        return None
    names = ", ".join(reprlib.repr(name) for name in list(table)[:2])
    more = f" and {len(table) - 2} more" if len(table) > 2 else ""
    return Kind(
        f"another library's safetensors, of {names}{more}",
        f"read it with safetensors.numpy.load_file {_COPY}",
    )


def _text(head: bytes) -> Kind | None:
    start = head[:4096]
    if re.fullmatch(rb"[\x09\x0a\x0d\x20-\x7e\x80-\xff]+", start) is None:
        return None
    if re.match(rb"\s*\{", start) and re.search(rb'"(sizes|weights|biases)"\s*:\s*\[', start):
        return Kind(
            "the JSON of network2.py",
            "read it with gpubp.from_network2",
        )
    if re.match(rb"\s*[{\[]", start):
        return Kind("JSON", f"read it with json.load {_COPY}")
    if start.isascii():
        return Kind(f"text, {start[:20].decode()!a}", f"{_DATA} by a name in .csv")
    return None
