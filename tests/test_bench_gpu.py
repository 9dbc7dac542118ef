"""bench/gpu.py as far as it goes without a GPU: its sentence, its parts, its rows, its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules gpu and record, with their rows in a temporary file and small data."""
    names = ("gpu", "gpu_peers", "record", "peers", "epoch")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(BENCH)
    import gpu
    import peers
    import record

    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.csv")
    monkeypatch.setattr(record, "commit", lambda: "0123abc")
    case = peers.Case((6, 5, 10), 4, 0.5)
    monkeypatch.setattr(peers, "CASES", {"S": case, "M": case})
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (450, 6), np.uint8), rng.integers(0, 10, 450)
    monkeypatch.setattr(peers, "data", lambda case: ("noise", images, labels))
    yield SimpleNamespace(gpu=gpu, peers=peers, record=record)
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)


def has_gpu() -> bool:
    try:
        gpubp.get_backend("cuda")
    except gpubp.BackendUnavailable:
        return False
    return True


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_exits_with_2() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "gpu.py")], capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("There is no GPU to measure: ")
    assert done.stderr.count("\n") == 1


class Scripted:
    """A clock whose runs are told what happens, by the library's name."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers, self.said, self.ran = answers, [], []  # type: ignore[var-annotated]

    def run(self, command: list[str], seconds: float, **named: str) -> tuple[int | None, str]:
        self.ran.append((command, named))
        answer = self.answers.get(command[2], (1, "Traceback ...\nImportError: no such library\n"))
        return answer if isinstance(answer, tuple) else (0, "a warning\n" + json.dumps(answer))

    def say(self, text: str) -> None:
        self.said.append(text)


def test_rows_are_of_those_that_run_and_agree(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "epoch", SimpleNamespace(true_cost=lambda key: 0.25))
    right = {"data": "noise", "cost": 0.25001, "microseconds": [10.0, 12.0, 11.0]}
    clock = Scripted({
        "gpubp cuda": right,
        "PyTorch eager": right | {"microseconds": [110.0]},
        "PyTorch CUDA graph": right | {"cost": 0.26},
        "PyTorch CUDA graph, 50 steps": right | {"cost": float("nan")},
        "JAX scan": (None, "stopped after 60 s"),
    })  # fmt: skip
    bench.gpu.measure(clock, "S", rounds=2, seconds=0.5, where="a GPU, driver 1")
    rows = bench.record.newest("gpu")
    assert [row["subject"] for row in rows] == ["gpubp cuda", "PyTorch eager"]
    first = rows[0]
    assert (first["median"], first["low"], first["high"], first["runs"]) == ("11", "10", "12", "6")
    assert (first["device"], first["commit"], first["note"]) == (
        "a GPU, driver 1", "0123abc", "noise",
    )  # fmt: skip
    said = "\n".join(clock.said)
    assert "S, PyTorch CUDA graph: left out, its cost is 0.26, not 0.25" in said
    assert "S, PyTorch CUDA graph, 50 steps: left out, its cost is nan" in said
    assert "S, PyTorch compiled: left out, ImportError: no such library" in said
    assert "S, JAX scan: left out, stopped after 60 s" in said
    assert all(named["JAX_DEFAULT_MATMUL_PRECISION"] == "highest" for _, named in clock.ran)
    table = bench.record.gpu_table()
    assert "| gpubp cuda | 11 |" in table
    assert "| PyTorch eager | 110 (10.0x) |" in table
    assert "a GPU, driver 1" in table


def test_without_rows_the_table_says_so(bench: Any) -> None:
    assert bench.record.gpu_table().startswith("Nothing has been timed on a GPU yet")


def test_a_part_that_fails_hangs_or_is_missing_is_told(bench: Any) -> None:
    clock = bench.gpu.Clock(1)
    for code, wanted in (("print('3 passed')", "passed, 3 passed"),
                         ("print('bad'); raise SystemExit(1)", "FAILED, bad")):  # fmt: skip
        bench.gpu.report("part", clock, *clock.run([sys.executable, "-c", code], 30))
        assert clock.said[-1] == f"part: {wanted}"
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    bench.gpu.report("part", clock, *clock.run(slow, 0.2))
    assert clock.said[-1] == "part: NOT FINISHED, stopped after 0 s"
    bench.gpu.report("part", clock, *clock.run(["/no/such/program"], 1))
    assert "NOT FINISHED" in clock.said[-1]
    clock.until = 0
    assert clock.run(slow, 5) == (None, "no time left")


def test_gpubp_runs_where_it_is_not_installed(bench: Any, tmp_path: Path) -> None:
    folder = bench.gpu.package_in(tmp_path / "copy")
    code = (
        "import gpubp.kernels.reference as r; print(r.__file__)\n"
        "import gpubp; print(gpubp.Network([2, 1], backend='reference'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(folder)}, timeout=60,
    )  # fmt: skip
    assert str(folder / "gpubp" / "kernels" / "reference.py") in done.stdout
    assert "Network([2, 1]" in done.stdout


@pytest.mark.parametrize("name", ["GpubpCuda", "GpubpFit", "GpubpFleet"])
def test_the_gpus_peer_computes_the_reference(
    name: str, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cuda_on_cpu import build
    from cuda_on_cpu.cupy_on_cpu import installed

    if why := build.missing():
        pytest.skip(why)
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", "")
    with installed():
        import gpu_peers
    monkeypatch.setattr(gpu_peers.GpubpFleet, "networks", 3)
    check(bench, name, installed)


def test_a_fleet_trains_whole_epochs_at_once(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cuda_on_cpu import build
    from cuda_on_cpu.cupy_on_cpu import installed

    if why := build.missing():
        pytest.skip(why)
    monkeypatch.setenv("GPUBP_CUDA_STEPPER", "")
    case = bench.peers.CASES["S"]
    _, x, y = bench.peers.data(case)
    start = gpubp.Network(case.sizes, rng=0, backend="reference")
    with installed():
        import gpu_peers

        monkeypatch.setattr(gpu_peers.GpubpFleet, "networks", 2)
        monkeypatch.setattr(gpu_peers.GpubpFleet, "epochs_at_once", 2)
        peer = gpu_peers.GpubpFleet(case, x, y, list(start.weights), list(start.biases))
        peer.epoch(np.arange(len(x)))
    assert [len(net.history) for net in peer.fleet] == [2, 2]
    assert peer.fleet[0].history.cost != peer.fleet[1].history.cost  # orders of their own


@pytest.mark.parametrize("name", ["TorchOnGPU", "Jax", "JaxPermuted"])
def test_other_libraries_compute_the_reference(
    name: str, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU; CUDA graphs and torch.compile's are for a GPU alone."""
    from contextlib import nullcontext

    pytest.importorskip("torch" if "Torch" in name else "jax")
    monkeypatch.setenv("GPUBP_TORCH_DEVICE", "cpu")
    check(bench, name, nullcontext)


def check(bench: Any, name: str, context: Any) -> None:
    case = bench.peers.CASES["S"]
    _, x, y = bench.peers.data(case)
    start = gpubp.Network(case.sizes, rng=0, backend="reference", dtype="float64")
    w, b = ([np.float32(array) for array in part] for part in (start.weights, start.biases))
    order = np.random.default_rng(1).permutation(len(x))[:400]
    with context():
        import gpu_peers

        peer = getattr(gpu_peers, name)(case, x, y, w, b)
        peer.epoch(order)
        found = bench.peers.cost(*peer.parameters(), x, y)
    for l in range(len(w)):
        start.weights[l], start.biases[l] = w[l], b[l]
    start.fit(
        x[order], y[order], epochs=1, batch_size=case.batch, learning_rate=case.eta, shuffle=False
    )
    truth = bench.peers.cost(list(start.weights), list(start.biases), x, y)
    assert abs(found - truth) <= 1e-5 * truth


def test_every_subject_has_a_peer(bench: Any) -> None:
    import gpu_peers

    assert set(bench.gpu.SUBJECTS) == set(gpu_peers.GPU_PEERS)
    assert isinstance(gpu_peers, ModuleType)
