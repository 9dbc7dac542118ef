"""How the CUDA backend answers: one sentence with the reason and the cure, or numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_harness import TRAIN, enter, refuse, run, succeed
from cuda_on_cpu import build
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import CUDARuntimeError, imagined
from oracle import flat, normwise

import gpubp

RNG = np.random.default_rng(51)
X, LABELS = RNG.random((37, 6)), RNG.integers(0, 4, 37)
needs_compiler = pytest.mark.skipif(bool(build.missing()), reason=str(build.missing()))


def reason(name: str = "cuda") -> str:
    """Why there is no such backend, in one sentence that ends with a way out."""
    with pytest.raises(gpubp.BackendUnavailable) as caught:
        gpubp.get_backend(name)
    text = str(caught.value)
    assert text.startswith(f"backend {name!r} is not available: ")
    assert text.endswith("or use backend='cpu'")
    assert "\n" not in text
    return text


@pytest.fixture
def stand_in() -> Iterator[Any]:
    with installed() as cupy:
        yield cupy


# Why there is none


def test_no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "CuPy is not installed; pip install 'gpubp[cuda13]'" in reason()


def test_cupy_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('libfoo.so.1:\\n no such file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    assert "CuPy does not load (libfoo.so.1: no such file); pip install" in reason()


def test_no_driver(stand_in: Any) -> None:
    with imagined(driver=0):
        assert "no NVIDIA driver here, or one too old" in reason()
        assert "install or update the driver" in reason("cuda:1")


def test_no_gpu(stand_in: Any) -> None:
    with imagined(devices=0):
        assert "the driver sees no GPU" in reason()
        assert "CUDA_VISIBLE_DEVICES" in reason()


def test_cuda_that_does_not_start(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        raise CUDARuntimeError("cudaErrorSystemNotReady", 802, "system not yet initialized")

    monkeypatch.setattr(stand_in.cuda.runtime, "getDeviceCount", count)
    assert "CUDA does not start (cudaErrorSystemNotReady: system not yet" in reason()


def test_wrong_index(stand_in: Any) -> None:
    with imagined(devices=2):
        assert "there is no GPU 2; choose from 'cuda:0' to 'cuda:1'" in reason("cuda:2")
        assert gpubp.get_backend("cuda:1").name == "cuda:1"


@pytest.mark.parametrize(
    ("capability", "cuda", "refused"),
    [
        ("61", 12, "GPU 0 has compute capability 6.1; use one of at least 7.0"),
        ("70", 12, None), ("75", 13, None), ("120", 13, None),
        ("70", 13, "GPU 0 has compute capability 7.0, for which CUDA 13 does not compile; pip in"),
    ],
)  # fmt: skip
def test_age_of_the_gpu(
    capability: str, cuda: int, refused: str | None, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_in.cuda.nvrtc, "getVersion", lambda: (cuda, 0))
    with imagined(compute_capability=capability):
        if refused is None:
            assert gpubp.get_backend("cuda").xp is stand_in
        else:
            assert refused in reason()


def test_age_of_cupy(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in, "__version__", "14.1.1")
    assert "CuPy 14.1.1 is too old; pip install" in reason()


def test_no_nvrtc(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def version() -> tuple[int, int]:
        raise RuntimeError("libnvrtc.so.13 not found")

    monkeypatch.setattr(stand_in.cuda.nvrtc, "getVersion", version)
    assert "NVRTC, which compiles the kernels, does not load (libnvrtc.so.13" in reason()


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: Any) -> None:
    enter(tmp_path, monkeypatch)
    with imagined(driver=0):
        assert "driver" in refuse(run(TRAIN, "--backend cuda"))
        assert "driver" in "\n".join(succeed(run("doctor")))


@needs_compiler
def test_command_line_on_the_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: Any
) -> None:
    enter(tmp_path, monkeypatch)
    succeed(run(TRAIN, "--backend cuda --sizes 5,4,3 --save net.safetensors"))
    on_cpu = succeed(run("evaluate net.safetensors --data t.npz"))
    on_cuda = succeed(run("evaluate net.safetensors --data t.npz --backend cuda"))
    assert [line.replace("'cuda'", "'cpu'") for line in on_cuda] == on_cpu
    lines = succeed(run("doctor"))
    assert any("cuda:0 imagined GPU, compute capability 9.0, 80 GiB" in line for line in lines)
    (line,) = (line for line in lines if line.startswith("on a GPU"))
    assert "resident where a network fits" in line
    assert sum("PASS: backend cuda:0 differs" in line for line in lines) == 1


def test_gpu_arrays_are_not_for_the_cpu(stand_in: Any) -> None:
    net = gpubp.Network([6, 4], rng=0)
    with pytest.raises(TypeError, match="x lives on a GPU and this network on the CPU"):
        net.feedforward(stand_in.asarray(X))


# Where there is one


def pair(backend: gpubp.Backend, **kwargs: Any) -> tuple[gpubp.Network, gpubp.Network]:
    """The same network on the reference and on CUDA."""
    made = [
        gpubp.Network([6, 5, 4], backend=where, rng=2, dtype="float64", **kwargs)
        for where in ("reference", backend)
    ]
    return made[0], made[1]


def test_everything_a_network_can_be_asked(cuda_backend: gpubp.Backend, tmp_path: Path) -> None:
    reference, net = pair(cuda_backend)
    settings: dict[str, Any] = {"batch_size": 5, "learning_rate": 0.7, "momentum": 0.5}
    for one in (reference, net):
        one.fit(X, LABELS, epochs=2, validation=(X, LABELS), **settings)
    assert normwise(flat(net), flat(reference)) <= 1e-14
    for ours, right in zip(net.history, reference.history, strict=True):
        assert abs(ours.cost - right.cost) <= 1e-14
        assert ours.validation_accuracy == right.validation_accuracy
    a = cuda_backend.asnumpy(net.feedforward(X))
    assert normwise(a, reference.feedforward(X)) <= 1e-14
    np.testing.assert_array_equal(net.predict(X), reference.predict(X))
    np.testing.assert_allclose(net.predict_proba(X), reference.predict_proba(X), rtol=1e-13)
    ours, right = net.evaluate(X, LABELS), reference.evaluate(X, LABELS)
    assert abs(ours.cost - right.cost) <= 1e-15
    assert ours.accuracy == right.accuracy
    net.save(tmp_path / "net")
    for where in ("cpu", cuda_backend):
        again = gpubp.load(tmp_path / "net", where)
        np.testing.assert_array_equal(flat(again), flat(net))
        again.fit(X, LABELS, epochs=3, resume=True, **settings)
        reference_again = gpubp.load(tmp_path / "net", "reference")
        reference_again.fit(X, LABELS, epochs=3, resume=True, **settings)
        assert normwise(flat(again), flat(reference_again)) <= 1e-14


def test_inputs_from_either_side(cuda_backend: gpubp.Backend) -> None:
    flats = []
    for place in (np.asarray, cuda_backend.asarray):
        net = pair(cuda_backend)[1]
        x, y = place(X), place(LABELS)
        net.fit(x, y, epochs=2, batch_size=5, learning_rate=0.5, validation=(x, y))
        flats.append((flat(net), net.evaluate(x, y), net.predict(x).tolist()))
    np.testing.assert_array_equal(flats[0][0], flats[1][0])
    assert flats[0][1:] == flats[1][1:]
    net.weights[0] = cuda_backend.asarray(np.ones((5, 6)))
    net.biases[0] = [1, 2, 3, 4, 5]
    assert flat(net)[:30].tolist() == [1] * 30
    with pytest.raises(ValueError, match=r"weights\[0\] has shape"):
        net.weights[0] = np.ones((6, 5))


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X[:, :5], LABELS, "5 values an example"),
        (np.where(X > 0.9, np.nan, X), LABELS, "NaN or infinity, first in row"),
        (X, LABELS + 1, "the label 4"),
        (X, LABELS[:-1], "36 examples"),
    ],
)
def test_bad_data_get_the_same_sentence(
    x: Any, y: Any, words: str, cuda_backend: gpubp.Backend
) -> None:
    said = []
    for net in pair(cuda_backend):
        for place in (np.asarray, net.backend.asarray):
            with pytest.raises(ValueError, match=words) as caught:
                net.fit(place(x), place(y), epochs=1, batch_size=5, learning_rate=1.0)
            said.append(str(caught.value))
    assert len(set(said)) == 1


@pytest.mark.parametrize("output", ["sigmoid", "softmax", "identity"])
@pytest.mark.parametrize("n", [1, 3, 33])
def test_accuracy_is_argmax_of_equals_the_first(
    output: str, n: int, cuda_backend: gpubp.Backend
) -> None:
    """Outputs with many ties, in rows of less and more than a warp."""
    cost = "log_likelihood" if output == "softmax" else "quadratic"
    nets = [
        gpubp.Network([n, n], activation=output, cost=cost, backend=where, dtype="float64", rng=0)
        for where in ("reference", cuda_backend)
    ]
    rng = np.random.default_rng(52)
    x, labels = rng.integers(0, 3, (60, n)).astype(float), rng.integers(0, n, 60)
    for net in nets:
        net.weights[0], net.biases[0] = np.eye(n), np.zeros(n)
    for y in (labels, np.eye(n)[labels], rng.random((60, n))):
        right, found = (net.evaluate(x, y) for net in nets)
        assert found.accuracy == right.accuracy
        assert abs(found.cost - right.cost) <= 1e-13 * abs(right.cost)


@needs_compiler
def test_second_device(stand_in: Any) -> None:
    with imagined(devices=2):
        one, two = (
            gpubp.Network([6, 5, 4], backend=name, rng=2, dtype="float64")
            for name in ("cuda", "cuda:1")
        )
        assert one.parameters.flat.device.id == 0
        assert two.parameters.flat.device.id == 1
        x = one.backend.asarray(X)  # on the first
        for net in (one, two):
            net.fit(x, LABELS, epochs=1, batch_size=5, learning_rate=1.0)
        np.testing.assert_array_equal(flat(one), flat(two))
        np.testing.assert_array_equal(one.predict(X), two.predict(X))
        assert stand_in.cuda.Device().id == 0
