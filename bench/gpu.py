"""Is the CUDA backend right on this GPU, and how long does a training step take beside others?

    python bench/gpu.py [--minutes M] [--only NAME,...] [--since FOLDER] [--out FOLDER]

One command for a machine with a GPU that is there for minutes: needs no network, installs nothing,
and asks for the most valuable facts first. Each section has seconds of its own:

    trains      each way to train, on case S and two ragged networks, against the reference, twice
    ways        microseconds a step of each way, beside what capacity.py and stepper.py predict
    peers       PyTorch and JAX on cases S, M and L, beside gpubp
    more        tensor cores; 1, 16, 132 and 1000 networks as a Fleet; time to accuracy
    sanitizer   compute-sanitizer's memcheck, racecheck and synccheck on the gates' networks
    cores       the CPU engines on 1, 2, 4, 8 and 16 threads
    tests       the CUDA tests, quickest files first

What is found lies in FOLDER (build/gpu) as soon as it is found: results.csv, summary.json, log.txt.
With ``--since`` that of an earlier run, what passed there is left out. At home,

    python bench/record.py FOLDER/results.csv && python bench/fit_capacity.py

record the rows, write the tables and correct the constants. Without a GPU it says so and exits with
2; with 1 if a part failed or was cut off. Set GPUBP_DATA to a folder with MNIST, else digits28.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import stand_in
from conductor import (
    CUT_OFF,
    FAILED,
    LEFT_OUT,
    PASSED,
    ROOT,
    Child,
    Ended,
    Run,
    Section,
    passed_before,
    python,
)

PACKAGES = ("numpy", "numba", "cupy-cuda13x", "cupy-cuda12x", "torch", "jax")
WAYS = ("resident, 1 block", "resident, 2 blocks", "resident, 4 blocks", "resident, 8 blocks",
        "cooperative", "graph")  # fmt: skip
NETWORKS = ("S", "ragged", "deep")
STEPS = 200  # of a network that is checked
SILENCE = 10.0  # seconds after which a way that trains a checked network hangs
# What is timed of each network: the choice, and the ways that can train it.
TIMED = {
    "S": ("choice", *WAYS),
    "M": ("choice", "cooperative", "graph"),
    "L": ("choice",),
    "S, batch 32": ("resident, 8 blocks", "cooperative"),
    "[784, 100, 10], batch 10": ("resident, 8 blocks", "graph"),
    "[784, 100, 100, 10], batch 100": ("cooperative", "graph"),
}
PEERS = ("gpubp cuda", "PyTorch eager", "PyTorch CUDA graph", "PyTorch CUDA graph, 50 steps",
         "PyTorch compiled", "JAX scan", "JAX scan, permuted")  # fmt: skip
MORE = {
    "L": ("gpubp cuda, tf32", "gpubp cuda, bf16"),
    "S": ("gpubp cuda, 1 network", "gpubp cuda, 16 networks", "gpubp cuda, 132 networks",
          "gpubp cuda, 1000 networks"),
    "M": ("gpubp cuda, tf32",),
}  # fmt: skip
GATES = ("ragged", "tile 0", "resident", "resident, deep", "cooperative", "cooperative, deep",
         "bf16, tile 0")  # fmt: skip
THREADS = (1, 2, 4, 8, 16)
TESTS = (
    "test_cuda_host.py", "test_kernels.py", "test_cuda_backend.py", "test_cuda_precision.py",
    "test_cuda_resident.py", "test_cuda_cooperative.py", "test_network.py", "test_sgd.py",
    "test_fleet_cuda.py", "test_cuda_fit.py", "test_truth.py", "test_sgd_truth.py",
)  # fmt: skip
# Of the cost: how far a subject may be from the reference after the checked steps.
CHECK = 1e-3
CHECK_ROUNDED = {"gpubp cuda, tf32": 1e-2, "gpubp cuda, bf16": 3e-2}
# One thread for what the host computes beside the GPU; JAX in float32, and no memory in advance.
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "JAX_DEFAULT_MATMUL_PRECISION": "highest",
               "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # fmt: skip


P = TypeVar("P")


class Found:
    """The rows of one run, appended to its results.csv one at a time, and what to leave out."""

    def __init__(self, where: str, skip: set[str]) -> None:
        self.where, self.skip = where, skip

    def wanted(self, run: Run, parts: Iterable[P]) -> list[P]:
        """Those of these parts, names or what has one, that have not passed before."""
        assert run.section is not None
        section = run.section.name
        return [p for p in parts if f"{section}/{getattr(p, 'name', p)}" not in self.skip]

    def row(self, *values: Any, packages: tuple[str, ...] = PACKAGES, here: bool = True) -> None:
        from record import Row, append

        append([Row(*values)], packages, self.where if here else None)


def trains(run: Run, found: Found) -> None:
    """Every way at once: this is about right and wrong."""
    children: dict[str, tuple[Child, list[str]]] = {}
    for way in (*WAYS, "fleet"):
        names = found.wanted(run, [f"{way}, {name}" for name in NETWORKS])
        networks = [name.removeprefix(f"{way}, ") for name in names]
        if networks:
            command = python("gpu_ways.py", "check", way, STEPS, *networks)
            children[way] = run.child(f"check {way}", command), networks
    for way, (child, networks) in children.items():
        done: list[str] = []
        try:
            started = False
            while len(done) < len(networks):
                # The first answer takes the start of Python, of CUDA, and a compilation.
                told = child.answer(SILENCE if started else 3 * SILENCE)
                started = True
                if "left out" in told:
                    raise Ended(LEFT_OUT, told["left out"])
                if "right" not in told:
                    continue  # it is alive
                good = told["right"] and told["repeats"]
                text = f"error {told['error']:.2e}, NumPy's {told['numpys']:.2e}"
                text += "" if told["repeats"] else ", and other bits the second time"
                done.append(told["network"])
                run.say(f"{way}, {told['network']}", PASSED if good else FAILED, text)
        except Ended as ended:
            for name in networks:
                if name not in done:
                    run.say(f"{way}, {name}", ended.state, str(ended))
        finally:
            child.kill()


@dataclass(frozen=True)
class Timed:
    """A part that is timed: its name, whose step on which case, and the script that answers."""

    name: str
    subject: str
    case: str
    command: list[str]


Tell = Callable[[Timed, dict[str, Any], list[float]], str]


def in_turns(run: Run, wanted: list[Timed], seconds: float, tell: Tell) -> None:
    """Children that prepare at once and are then timed one after another; ``tell`` makes a row of
    what one said when it was ready and of its times, and returns the part's line."""
    children = [run.child(timed.name, timed.command, **ENVIRONMENT) for timed in wanted]
    prepared: list[tuple[Timed, Child, dict[str, Any]]] = []
    until = time.monotonic() + 0.65 * run.left  # the rest is for timing what is ready by then
    try:
        for timed, child in zip(wanted, children, strict=True):
            try:
                prepared.append((timed, child, checked(timed, child, until)))
            except Ended as ended:
                run.say(timed.name, ended.state, str(ended))
        for timed, child, ready in prepared:

            def measure(timed: Timed = timed, child: Child = child, ready: Any = ready) -> str:
                child.go()
                return tell(timed, ready, child.answer(SILENCE + seconds)["microseconds"])

            run.attempt(timed.name, measure)
    finally:
        for child in children:
            child.kill()


def checked(timed: Timed, child: Child, until: float) -> dict[str, Any]:
    """What a child says once it is ready, if that is in time and its cost is the reference's."""
    ready = child.answer(max(0.5, until - time.monotonic()))
    if "left out" in ready:
        raise Ended(LEFT_OUT, ready["left out"])
    bound = CHECK_ROUNDED.get(timed.subject, CHECK) * ready["truth"]
    if not abs(ready["cost"] - ready["truth"]) <= bound:
        raise Ended(FAILED, f"its cost is {ready['cost']}, not {ready['truth']}: not timed")
    return ready


def ways(run: Run, found: Found, seconds: float = 0.7) -> None:
    """gpubp's choice and the other ways, beside the prediction."""

    def tell(timed: Timed, ready: dict[str, Any], times: list[float]) -> str:
        median, predicted = statistics.median(times), ready["predicted"]
        way = f"choice: {ready['way']}" if timed.subject == "choice" else timed.subject
        note = f"predicted {predicted:.6g}; {ready['data']}"
        found.row("gpu_ways", timed.case, way, "step", "us", median, min(times), max(times),
                  len(times), note)  # fmt: skip
        return f"{median:.2f} us a step, predicted {predicted:.2f}: {median / predicted:.2f}x"

    wanted = [
        Timed(f"{case}: {way}", way, case, python("gpu_ways.py", "time", way, seconds, case))
        for case, ways in TIMED.items() for way in ways
    ]  # fmt: skip
    in_turns(run, found.wanted(run, wanted), seconds, tell)


def beside(run: Run, found: Found, subjects: dict[str, tuple[str, ...]], seconds: float) -> None:
    """Libraries and settings on the cases, in rows of one table."""
    medians: dict[tuple[str, str], float] = {}

    def tell(timed: Timed, ready: dict[str, Any], times: list[float]) -> str:
        subject, case = timed.subject, timed.case
        median = medians[case, subject] = statistics.median(times)
        found.row("gpu", case, subject, "step", "us", median, min(times), max(times), len(times),
                  ready["data"])  # fmt: skip
        own = medians.get((case, PEERS[0]))
        ratio = f", {median / own:.1f}x gpubp's" if own and subject != PEERS[0] else ""
        return f"{median:.2f} us a step{ratio}"

    wanted = [
        Timed(f"{case}: {subject}", subject, case, python("gpu_peers.py", subject, case, seconds))
        for case, all_of_case in subjects.items() for subject in all_of_case
    ]  # fmt: skip
    in_turns(run, found.wanted(run, wanted), seconds, tell)


def peers(run: Run, found: Found) -> None:
    """The three cases beside the other libraries, gpubp's own time once more in the same minute."""
    beside(run, found, dict.fromkeys(("S", "M", "L"), PEERS), 0.7)


def more(run: Run, found: Found) -> None:
    """Tensor cores, fleets, and whole processes to an accuracy."""
    beside(run, found, MORE, 0.5)
    from time_to_accuracy import TASKS

    data = os.environ.get("GPUBP_DATA")
    dataset, source = ("MNIST", data) if data else ("digits28", "digits28")
    for key in found.wanted(run, TASKS):
        goal = TASKS[key].accuracy[dataset]

        def process(key: str = key, goal: float = goal) -> str:
            with tempfile.TemporaryDirectory() as folder:
                weights = str(Path(folder) / "weights.npz")
                command = python("time_to_accuracy.py", "--child", "gpubp cuda", key, source, goal,
                                 weights)  # fmt: skip
                for _ in range(2):  # the first one compiles
                    started = time.monotonic()
                    child = run.child(key, command)
                    try:
                        reached = [line for line in child.lines() if line.startswith("[")]
                        took = time.monotonic() - started
                        code = child.process.wait()
                    finally:
                        child.kill()
            if code or not reached:
                raise Ended(FAILED, child.last)
            last = json.loads(reached[-1])
            if not last[-1] >= goal:
                raise Ended(FAILED, f"{last[-1]:.2f}% after {len(last)} epochs, not {goal:g}%")
            found.row("gpu_time", f"{goal:g}% {dataset}", "gpubp cuda", "process", "s", took, took,
                      took, 1, f"{len(last)} epochs")  # fmt: skip
            return f"{took:.2f} s to {last[-1]:.2f}%, {len(last)} epochs"

        run.attempt(key, process)


def sanitizer(run: Run, found: Found) -> None:
    """The three tools at once, on the small networks of the gates."""
    tool = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    names = found.wanted(run, ("memcheck", "racecheck", "synccheck"))
    if tool is None:
        for name in names:
            run.say(name, LEFT_OUT, "compute-sanitizer is not installed")
        return
    gate = str(ROOT / "tests" / "cuda_on_cpu" / "gate.py")
    children = {
        name: run.child(name, [tool, "--tool", name, "--error-exitcode", "66", sys.executable, gate,
                               "--device", *GATES])
        for name in names
    }  # fmt: skip
    for name, child in children.items():

        def wait(child: Child = child) -> str:
            for _ in child.lines():
                pass
            if code := child.process.wait():
                raise Ended(FAILED, f"exit {code}, {child.last}")
            return child.last

        run.attempt(name, wait)
        child.kill()


def cores(run: Run, found: Found) -> None:
    """gpubp's CPU backend on more and more threads, what takes longest last."""
    from record import device, thread_environment

    counts = [n for n in THREADS if n <= (os.cpu_count() or 1)]
    names = [f"{case}: {n}" for n in counts for case in ("S", "M")]
    names += [f"L: {n}" for n in reversed(counts)]
    for name in found.wanted(run, names):
        case, _, threads = name.partition(": ")

        def step(case: str = case, threads: str = threads) -> str:
            command = python("peers.py", "gpubp cpu", case, threads, 0.3)
            child = run.child(f"{case}, {threads}", command, **thread_environment(int(threads)))
            try:
                told = child.answer()
            finally:
                child.kill()
            times = told["microseconds"]
            median = statistics.median(times)
            found.row("cores", case, f"{threads} threads", "step", "us", median, min(times),
                      max(times), len(times), told["data"], packages=("numpy", "numba", "scipy"),
                      here=False)  # fmt: skip
            return f"{median:.1f} us a step on {device()}"

        run.attempt(name, step)


def tests(run: Run, found: Found) -> None:
    """The tests that take a backend, on this GPU: a part a file."""
    if importlib.util.find_spec("pytest") is None:
        return run.say("pytest", LEFT_OUT, "pytest is not installed")
    files = found.wanted(run, TESTS)
    parallel = ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "load"]
    parallel = parallel if importlib.util.find_spec("xdist") else []
    limit = ["--timeout", "60"] if importlib.util.find_spec("pytest_timeout") else []
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-o", "addopts=", *parallel,
               *limit, "-k", "cuda", *(str(ROOT / "tests" / name) for name in files)]  # fmt: skip
    child = run.child("tests", command, GPUBP_REQUIRE_CUDA="1")
    counts: dict[str, dict[str, int]] = {name: {} for name in files}
    over: Ended | None = None
    try:
        for line in child.lines():
            result = re.search(r"\b(PASSED|FAILED|ERROR)\b", line)
            file = re.search(r"(test_\w+\.py)::", line)
            if result and file:
                of_file = counts.setdefault(file[1], {})
                of_file[result[1]] = of_file.get(result[1], 0) + 1
    except Ended as ended:
        over = ended
    finally:
        child.kill()
    code = child.process.wait()
    for name, of_file in counts.items():
        text = ", ".join(f"{n} {word.lower()}" for word, n in of_file.items()) or "nothing ran"
        bad = "FAILED" in of_file or "ERROR" in of_file
        state = FAILED if bad else CUT_OFF if over else PASSED if of_file else FAILED
        run.say(name, state, text if state != CUT_OFF else f"{text} so far, {over}")
    if over is None and code not in (0, 1):
        run.say("pytest", FAILED, f"exit {code}, {child.last}")


SECTIONS = {
    "trains": (40, trains), "ways": (60, ways), "peers": (90, peers), "more": (60, more),
    "sanitizer": (60, sanitizer), "cores": (30, cores), "tests": (600, tests),
}  # fmt: skip


def make_importable() -> None:
    """gpubp from this checkout also where it is not installed."""
    found = subprocess.run([sys.executable, "-c", "import gpubp.kernels"], check=False,
                           cwd=tempfile.gettempdir(), capture_output=True, timeout=60)  # fmt: skip
    if found.returncode == 0:
        return
    copy = str(package_in(Path(tempfile.mkdtemp(prefix="gpubp-"))))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = copy + (os.pathsep + before if before else "")
    sys.path.insert(0, copy)


def package_in(folder: Path) -> Path:
    """The folder, with gpubp in it as it installs: kernels/ is inside."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gpubp", folder / "gpubp", ignore=ignore)
    shutil.copytree(ROOT / "kernels", folder / "gpubp" / "kernels", ignore=ignore)
    return folder


def gpu() -> str | None:
    """The GPU and its driver in words; None where gpubp can train on none."""
    import gpubp

    try:
        gpubp.get_backend("cuda")
    except gpubp.BackendUnavailable as error:
        print(f"There is no GPU to measure: {error}.", file=sys.stderr)
        return None
    if stand_in.REHEARSAL:
        return "rehearsal, the stand-in on a CPU"
    import cupy

    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(0)["name"].decode()
    driver = f"CUDA {runtime.driverGetVersion() // 1000}"
    if tool := shutil.which("nvidia-smi"):
        asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20)
        if said.returncode == 0 and said.stdout.strip():
            driver = f"driver {said.stdout.split()[0]}, {driver}"
    return f"{name}, {driver}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=6.0, help="for all sections together")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--since", type=Path, metavar="FOLDER", help="leave out what passed there")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", metavar="FOLDER")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            parser.error(f"unknown section {name!r}: choose from {', '.join(SECTIONS)}")
    skip = passed_before(arguments.since) if arguments.since else set()
    make_importable()
    with stand_in.gpu():
        where = gpu()
    if where is None:
        sys.exit(2)
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ["GPUBP_RESULTS"] = str(arguments.out.resolve() / "results.csv")
    from record import commit, versions

    about = {"device": where, "versions": versions(PACKAGES), "commit": commit()}
    print("; ".join(about.values()), flush=True)
    run, found = Run(arguments.out, arguments.minutes, about), Found(where, skip)
    sections = [
        Section(name, SECTIONS[name][0], lambda run, work=SECTIONS[name][1]: work(run, found))
        for name in names
    ]  # fmt: skip
    well = run.conduct(sections)
    print("\n" + run.summary())
    sys.exit(not well)


if __name__ == "__main__":
    main()
