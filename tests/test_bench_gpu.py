"""bench/gpu.py, rehearsed without a GPU: order, limits, summary, rows, table; the constants."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
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
    names = ("gpu", "gpu_peers", "gpu_ways", "conductor", "record", "peers", "stand_in")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(BENCH)
    import conductor
    import gpu
    import peers
    import record

    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.csv")
    monkeypatch.setattr(record, "commit", lambda: "0123abc")
    case = peers.Case((6, 5, 10), 4, 0.5)
    monkeypatch.setattr(peers, "CASES", {"S": case, "M": case, "L": case})
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (450, 6), np.uint8), rng.integers(0, 10, 450)
    monkeypatch.setattr(peers, "data", lambda case: ("noise", images, labels))
    yield SimpleNamespace(gpu=gpu, conductor=conductor, peers=peers, record=record)
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


def child(*lines: object, then: str = "") -> list[str]:
    """A process that answers in these lines of JSON, waiting for its turn after the first."""
    code = ["import json, sys, time, os, signal"]
    for i, line in enumerate(lines):
        code += ["sys.stdin.readline()"] if i == 1 else []
        code += [f"print(json.dumps({line!r}, default=float), flush=True)"]
    return [sys.executable, "-c", "\n".join([*code, then])]


READY = {"ready": True, "data": "noise", "cost": 0.25001, "truth": 0.25}
TIMES = {"microseconds": [10.0, 12.0, 11.0]}
HANGS, CRASHES = "time.sleep(600)", "os.kill(os.getpid(), signal.SIGSEGV)"
# What the children of in_turns do, and how their part ends.
BEHAVIOUR = {
    "gpubp cuda": (child(READY, TIMES), "passed"),
    "PyTorch eager": (child(READY, {"microseconds": [110.0]}), "passed"),
    "PyTorch CUDA graph": (child(READY | {"cost": 0.26}, TIMES), "failed"),
    "PyTorch CUDA graph, 50 steps": (child(READY | {"cost": math.nan}, TIMES), "failed"),
    "PyTorch compiled": (child(then="import no_such_library"), "left out"),
    "JAX scan": (child(READY, then="sys.stdin.readline();" + HANGS), "cut off"),
    "JAX scan, permuted": (child(READY, then="sys.stdin.readline();" + CRASHES), "failed"),
}


def conducted(bench: Any, folder: Path, minutes: float = 1.0, **sections: Any) -> Any:
    """A run of these sections, (seconds, function of the run) each."""
    run = bench.conductor.Run(folder, minutes, {"device": "a GPU, driver 1", "commit": "0123abc"})
    run.conduct([bench.conductor.Section(name, *given) for name, given in sections.items()])
    return run


def states(folder: Path) -> dict[str, str]:
    """What summary.json says of sections, and of parts as "section/part"."""
    found = json.loads((folder / "summary.json").read_text())["sections"]
    parts = {f"{s['name']}/{p['name']}": p["state"] for s in found for p in s["parts"]}
    return {s["name"]: s["state"] for s in found} | parts


def test_rows_are_of_those_that_run_and_agree(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that crashes, one that hangs, one that computes something else, one that is missing."""
    monkeypatch.setattr(bench.gpu, "SILENCE", 0.5)
    monkeypatch.setattr(bench.gpu, "python", lambda script, subject, *_: BEHAVIOUR[subject][0])
    found = bench.gpu.Found("a GPU, driver 1", set())
    section = {"S": tuple(BEHAVIOUR)}
    conducted(bench, tmp_path, peers=(30, lambda run: bench.gpu.beside(run, found, section, 0.1)))
    told = states(tmp_path)
    assert told.pop("peers") == "failed"
    assert told == {f"peers/S: {name}": state for name, (_, state) in BEHAVIOUR.items()}
    rows = bench.record.newest("gpu")
    assert [row["subject"] for row in rows] == ["gpubp cuda", "PyTorch eager"]
    first = rows[0]
    assert (first["median"], first["low"], first["high"], first["runs"]) == ("11", "10", "12", "3")
    assert (first["device"], first["commit"], first["note"]) == (
        "a GPU, driver 1", "0123abc", "noise",
    )  # fmt: skip
    said = (tmp_path / "summary.json").read_text()
    assert "110.00 us a step, 10.0x gpubp's" in said
    assert "its cost is 0.26, not 0.25: not timed" in said
    assert "No module named 'no_such_library'" in said
    assert "exit -11" in said
    table = bench.record.gpu_table()
    assert "| gpubp cuda | 11 |" in table
    assert "| PyTorch eager | 110 (10.0x) |" in table
    assert "a GPU, driver 1" in table


def test_a_way_that_hangs_is_killed_and_named(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"network": "S", "error": 1e-7, "numpys": 1e-7, "right": True, "repeats": True}
    lines = [{"network": "S"}, good, good | {"network": "ragged", "repeats": False}]

    def command(script: str, what: str, way: str, steps: int, *networks: str) -> list[str]:
        assert (script, what, networks) == ("gpu_ways.py", "check", ("S", "ragged", "deep"))
        code = ";".join(f"print(json.dumps({line!r}), flush=True)" for line in lines)
        end = {"graph": HANGS, "cooperative": CRASHES, "resident, 2 blocks":
               "print(json.dumps({'left out': 'this GPU has no clusters'}))"}  # fmt: skip
        code = "pass" if way == "resident, 2 blocks" else code
        done = f"print(json.dumps({good | {'network': 'deep'}!r}), flush=True)"
        return [sys.executable, "-c", f"import json,time,os,signal;{code};{end.get(way, done)}"]

    monkeypatch.setattr(bench.gpu, "SILENCE", 0.5)
    monkeypatch.setattr(bench.gpu, "python", command)
    found = bench.gpu.Found("a GPU", set())
    conducted(bench, tmp_path, trains=(30, lambda run: bench.gpu.trains(run, found)))
    told = states(tmp_path)
    assert told["trains"] == "failed"
    assert [told[f"trains/graph, {name}"] for name in ("S", "ragged", "deep")] == [
        "passed", "failed", "cut off",
    ]  # fmt: skip
    assert told["trains/cooperative, deep"] == "failed"
    assert told["trains/resident, 8 blocks, deep"] == told["trains/fleet, S"] == "passed"
    assert told["trains/resident, 2 blocks, S"] == "left out"
    said = (tmp_path / "summary.json").read_text()
    assert "other bits the second time" in said
    assert "silent for" in said


def test_whatever_happens_the_folder_says_how_far_it_came(bench: Any, tmp_path: Path) -> None:
    """Sections in order, each within its limit; what has no time left is not begun."""

    def hang(run: Any) -> None:
        list(run.child("sleeper", [sys.executable, "-c", f"import time; {HANGS}"]).lines())

    def wrong(run: Any) -> None:
        run.say("one", "passed", "fine")
        raise KeyError("a bug of the section")

    def late(run: Any) -> None:
        run.say("last", "passed", "fine")

    started = time.monotonic()
    run = conducted(
        bench, tmp_path / "a", wrong=(5, wrong), hang=(0.5, hang), late=(5, late)
    )  # fmt: skip
    assert time.monotonic() - started < 20
    assert states(tmp_path / "a") == {
        "wrong": "failed", "wrong/one": "passed", "wrong/wrong": "failed", "hang": "cut off",
        "hang/hang": "cut off", "late": "passed", "late/last": "passed",
    }  # fmt: skip
    assert "hang: cut off, 0 of 1 parts" in run.summary()
    conducted(bench, tmp_path / "b", minutes=1.6 / 60, hang=(60, hang), late=(5, late))
    assert states(tmp_path / "b") == {
        "hang": "cut off", "hang/hang": "cut off", "late": "not begun",
    }  # fmt: skip
    assert bench.conductor.passed_before(tmp_path / "a") == {"wrong/one", "late/last"}


def test_a_run_that_is_killed_leaves_what_it_found(bench: Any, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from conductor import Run, Section\n"
        "def first(run): run.say('one', 'passed', 'fine')\n"
        "def second(run): run.say('two', 'passed', 'fine'); print('now'); time.sleep(600)\n"
        "run = Run(Path(sys.argv[2]), 5, {})\n"
        "run.conduct([Section('first', 9, first), Section('second', 9, second),"
        " Section('third', 9, first)])"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(BENCH), str(tmp_path)], stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line == "now\n":
            break
    process.kill()
    process.communicate()
    assert states(tmp_path) == {
        "first": "passed", "first/one": "passed", "second": "not begun", "second/two": "passed",
        "third": "not begun",
    }  # fmt: skip
    assert len(list(tmp_path.iterdir())) <= 8  # that come back from the machine


def test_what_passed_before_is_left_out(bench: Any, tmp_path: Path) -> None:
    found = bench.gpu.Found("a GPU", {"peers/S: gpubp cuda", "ways/M: graph"})
    run = bench.conductor.Run(tmp_path, 1, {})
    run.section = bench.conductor.Section("peers", 1, lambda run: None)
    wanted = [bench.gpu.Timed(name, "", "", []) for name in ("S: gpubp cuda", "M: graph")]
    assert found.wanted(run, wanted) == wanted[1:]
    assert found.wanted(run, ["S: gpubp cuda", "M: graph"]) == ["M: graph"]


def test_tests_are_told_by_file(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_good_cuda.py").write_text("def test_a(): pass\ndef test_b(): pass")
    (tmp_path / "tests" / "test_bad_cuda.py").write_text("def test_a(): assert 0")
    monkeypatch.setattr(bench.gpu, "ROOT", tmp_path)
    monkeypatch.setattr(bench.gpu, "TESTS", ("test_good_cuda.py", "test_bad_cuda.py"))
    found = bench.gpu.Found("a GPU", set())
    conducted(bench, tmp_path / "out", tests=(60, lambda run: bench.gpu.tests(run, found)))
    told = states(tmp_path / "out")
    assert told["tests/test_good_cuda.py"] == "passed"
    assert told["tests/test_bad_cuda.py"] == "failed"
    assert "2 passed" in (tmp_path / "out" / "summary.json").read_text()


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_rehearsal_on_the_stand_in(tmp_path: Path) -> None:
    """The command itself, with its children, on few examples: all but the times is as on a GPU."""
    from cuda_on_cpu import build

    if why := build.missing():
        pytest.skip(why)
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import gpu\n"
        "gpu.WAYS, gpu.NETWORKS, gpu.STEPS = ('resident, 2 blocks', 'graph'), ('ragged',), 3\n"
        "gpu.TIMED = {'S': ('resident, 1 block',)}\n"
        "gpu.main()"
    )
    command = [sys.executable, "-c", code, str(BENCH), "--only", "trains,ways,sanitizer",
               "--minutes", "3", "--out", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, env=os.environ | {"GPUBP_REHEARSAL": "1"}, check=False,
                          capture_output=True, text=True, timeout=200)  # fmt: skip
    told = states(tmp_path)
    assert told.pop("sanitizer") in ("left out", "failed")
    assert {name: state for name, state in told.items() if "sanitizer" not in name} == {
        "trains": "passed", "trains/resident, 2 blocks, ragged": "passed",
        "trains/graph, ragged": "passed", "trains/fleet, ragged": "passed",
        "ways": "passed", "ways/S: resident, 1 block": "passed",
    }, done.stdout  # fmt: skip
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["script"], row["case"], row["subject"]) for row in rows] == [
        ("gpu_ways", "S", "resident, 1 block")
    ]
    assert rows[0]["note"].startswith("predicted 3.6")
    assert rows[0]["device"] == "rehearsal, the stand-in on a CPU"


def test_without_rows_the_table_says_so(bench: Any) -> None:
    assert bench.record.gpu_table().startswith("Nothing has been timed on a GPU yet")


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


@pytest.mark.parametrize("name", ["GpubpCuda", "GpubpFit", "Gpubp132"])
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
    monkeypatch.setattr(gpu_peers.Gpubp132, "networks", 3)
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

        monkeypatch.setattr(gpu_peers.Gpubp132, "networks", 2)
        monkeypatch.setattr(gpu_peers.Gpubp132, "epochs_at_once", 2)
        peer = gpu_peers.Gpubp132(case, x, y, list(start.weights), list(start.biases))
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

    subjects = {*bench.gpu.PEERS, *(name for names in bench.gpu.MORE.values() for name in names)}
    assert subjects == set(gpu_peers.GPU_PEERS)
    assert isinstance(gpu_peers, ModuleType)


def test_what_is_asked_of_gpu_ways_is_there(bench: Any) -> None:
    import gpu_ways

    assert set(bench.gpu.NETWORKS) == set(gpu_ways.CHECKED)
    assert set(bench.gpu.TIMED) == set(gpu_ways.TIMED)
    asked = {way for ways in bench.gpu.TIMED.values() for way in ways}
    assert asked == set(gpu_ways.WAYS)
    assert {"choice", *bench.gpu.WAYS} == set(gpu_ways.WAYS)


# The constants


@pytest.fixture
def fitting(bench: Any) -> Iterator[Any]:
    from cuda_on_cpu import build

    if why := build.missing():
        pytest.skip(why)
    import fit_capacity

    yield fit_capacity
    for name in ("fit_capacity", "capacity"):
        sys.modules.pop(name, None)


def test_the_constants_that_made_the_rows_are_found(fitting: Any) -> None:
    """Rows as a GPU with slower launches and a slower clock would give; tf32 is not among them."""
    old = fitting.old_values()
    launch, barrier = ("stepper", "_LAUNCH", None), ("stepper", "_BARRIER", None)
    products, tf32 = (("stepper", "_PRODUCTS", key) for key in ("float32", "tf32"))
    clock, latency = ("capacity", "CLOCK", None), ("capacity", "_LATENCY", None)
    made = old | {
        launch: 1.6 * old[launch], barrier: 0.7 * old[barrier], products: 0.8 * old[products],
        clock: 0.85 * old[clock], latency: 3 * old[latency],
    }  # fmt: skip
    small, large = (784, 30, 10), (784, 1024, 1024, 10)
    kinds = [
        (small, 10, "resident", 1), (small, 10, "resident", 4), (small, 10, "resident", 8),
        (small, 10, "cooperative", None), (small, 10, "graph", None),
        (large, 512, "graph", None), ((784, 128, 10), 128, "cooperative", None),
    ]  # fmt: skip
    rows = [fitting.Measured("made up", sizes, batch, None, way, blocks, 1.0)
            for sizes, batch, way, blocks in kinds]  # fmt: skip
    us = fitting.predict(made, rows)
    rows = [replace(row, us=float(each)) for row, each in zip(rows, us, strict=True)]
    found = fitting.fit(rows, old)
    for name in (launch, barrier, products, clock):
        assert abs(found[name] / made[name] - 1) <= 0.02, name
    assert abs(found[latency] / made[latency] - 1) <= 0.1
    assert abs(found[tf32] / old[tf32] - 1) <= 1e-6
    text = fitting.report(rows, old, found)
    assert "off by" in text
    assert "1.00x after" in text
    assert "S, batch 32: cooperative instead of resident" in text
    assert fitting.old_values() == old  # it changes nothing


def test_rows_become_what_is_fitted(fitting: Any, bench: Any) -> None:
    row = bench.record.Row
    bench.record.append([
        row("gpu_ways", "S", "choice: resident", "step", "us", 2, 2, 2, 3, "predicted 1.5; MNIST"),
        row("gpu_ways", "S", "resident, 8 blocks", "step", "us", 2.5, 2, 3, 3, "predicted 1; x"),
        row("gpu", "M", "gpubp cuda, tf32", "step", "us", 9, 9, 9, 3, "MNIST"),
        row("gpu", "M", "PyTorch eager", "step", "us", 99, 99, 99, 3, "MNIST"),
    ])  # fmt: skip
    found = [(m.case, m.way, m.blocks, m.precision, m.us) for m in fitting.measured()]
    assert found == [
        ("S", "resident", None, None, 2.0), ("S", "resident", 8, None, 2.5),
        ("M, tf32", "graph", None, "tf32", 9.0),
    ]  # fmt: skip
