"""A file of another kind, given for a checkpoint: what it is, and what to do with it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import gpubp
from gpubp import data

SIZES = [4, 3, 2]
WEIGHTS = [np.arange(12.0).reshape(3, 4) / 10, np.ones((2, 3))]
BIASES = [np.zeros((3, 1)), np.ones((2, 1))]


def network2() -> bytes:
    """As network2.py's save writes it."""
    state = {
        "sizes": SIZES,
        "weights": [w.tolist() for w in WEIGHTS],
        "biases": [b.tolist() for b in BIASES],
        "cost": "CrossEntropyCost",
    }
    return json.dumps(state).encode()


def saved(write: Any) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("net.safetensors"))
    return stream.getvalue()


TENSORS = {f"layer{i}.weight": np.ones((2, 2), np.float32) for i in range(5)}
# name: (the file's content, what it is told to be, what to do)
FILES: dict[str, tuple[bytes, str, str]] = {
    "network2": (network2(), "the JSON of network2.py", "gpubp.from_network2"),
    "json": (b'\n {"layers": []}', "JSON", "json.load"),
    "pickle": (pickle.dumps(WEIGHTS), "a pickle", "may run any code"),
    "pickle 2": (pickle.dumps(WEIGHTS, protocol=2), "a pickle", "may run any code"),
    "torch": (zipped("archive/data.pkl", "archive/data/0"), "PyTorch's .pt", "torch.load"),
    "old torch": (
        pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2),
        "PyTorch's old file",
        "torch.load",
    ),
    "safetensors": (
        safetensors.numpy.save(TENSORS),
        "another library's safetensors, of 'layer0.weight', 'layer1.weight' and 3 more",
        "safetensors.numpy.load_file",
    ),
    "safetensors with metadata": (
        safetensors.numpy.save({"w": np.ones(3)}, metadata={"format": "pt"}),
        "another library's safetensors, of 'w'",
        "net.weights[i] = w",
    ),
    "npy": (saved(lambda file: np.save(file, WEIGHTS[0])), "a NumPy array", "np.load"),
    "npz": (saved(lambda file: np.savez(file, *WEIGHTS)), "NumPy's .npz", "gpubp.data.load"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5, as Keras writes it", "take w.T"),
    "keras": (zipped("metadata.json", "config.json"), "Keras' .keras", "w.T"),
    "zip": (zipped("readme.txt"), "a zip archive", "unpack it"),
    # the head of a model that PyTorch, scikit-learn and ONNX's own helper wrote
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.6.0:\xd3\x02", "ONNX", "onnx.load"),
    "onnx of scikit-learn": (b"\x08\n\x12\x08skl2onnx\x1a\x061.17.0", "ONNX", "to_array"),
    "onnx without a name": (b"\x08\x0a:\xb5\x01\n\x1c\n\x01x", "ONNX", "to_array"),
    "gzip": (gzip.compress(network2()), "gzip", "unpack it"),
    "bzip2": (bz2.compress(network2()), "bzip2", "unpack it"),
    "xz": (lzma.compress(network2()), "xz", "unpack it"),
    "tar": (tarred(), "a tar archive", "unpack it"),
    "empty": (b"", "an empty file", "another copy"),
    "zeros": (bytes(4096), "nothing but zeros", "power cut"),
    "html": (b"\n<!DOCTYPE html>\n<html><head>", "a web page (HTML)", "raw form"),
    "html without its type": (b"<HTML><title>Not found", "a web page (HTML)", "raw form"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS", "git lfs"),
    "idx": (b"\0\0\x08\x03\0\0\xea\x60\0\0\0\x1c\0\0\0\x1c", "IDX", "gpubp.data.load"),
    "csv": (b"5,0,0,128\n4,0,0,17\n", "text, '5,0,0,128", "gpubp.data.load"),
    "escapes": (b"label\x1b[2J", "", ""),
}


@pytest.mark.parametrize("name", FILES)
def test_another_kind_of_file_is_told_from_its_first_bytes(name: str, tmp_path: Path) -> None:
    content, what, cure = FILES[name]
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    for load in (gpubp.load, gpubp.Network.load):
        with pytest.raises(gpubp.DataFormatError) as caught:
            load(path)
        told = str(caught.value)
        assert told.isprintable()
        assert str(path) in told
        assert len(caught.value.found) <= 200
        if what:
            assert caught.value.found.startswith(what)
            assert cure in told
            assert "length of" not in told


def test_what_is_said_of_network2_is_true(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_bytes(network2())
    with pytest.raises(gpubp.DataFormatError, match=r"read it with gpubp\.from_network2"):
        gpubp.load(path)
    net = gpubp.from_network2(path)
    for found, given in ((net.weights, WEIGHTS), (net.biases, [b[:, 0] for b in BIASES])):
        for one, other in zip(found, given, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_our_own_files_are_never_taken_for_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    for hidden in range(1, 40):  # many lengths of the header
        gpubp.Network([3, *[2] * hidden, 1], rng=hidden).save(path)
        whole = path.read_bytes()
        for broken in (whole[:-1], whole + b"\0", whole[:100]):
            path.write_bytes(broken)
            with pytest.raises(gpubp.DataFormatError) as caught:
                gpubp.load(path)
            assert "a file of gpubp's" not in str(caught.value)


def test_data_files_say_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(FILES["html"][0])
    with pytest.raises(gpubp.DataFormatError, match=r"found a web page \(HTML\)$"):
        data.load(path)
