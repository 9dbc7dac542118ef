"""Is the CUDA backend right on this GPU, and how long does a training step take beside others?

    python bench/gpu.py [--rounds N] [--seconds S] [--minutes M] [CASE ...]

One command for a machine with a GPU; needs no network and installs nothing. In this order: the CUDA
tests (GPUBP_REQUIRE_CUDA=1), compute-sanitizer's memcheck and racecheck on small networks, then
cases S, M and L beside PyTorch and JAX in float32 (gpubp also in tf32 and bf16, and 132 networks of
case S as a Fleet beside one), each library in a process of its own, after checking that its cost
agrees with the float64 reference. Rows go to bench/results.csv, the table into README.md. A part
that fails says so and the others go on; the end is a summary and the table. Without a GPU it says
so and exits with 2. Set GPUBP_DATA to a folder with MNIST, else digits28.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "torch", "jax")
SUBJECTS = (
    "gpubp cuda", "gpubp cuda, one block", "gpubp cuda, cooperative", "gpubp cuda, graph",
    "gpubp cuda, 1 network", "gpubp cuda, 132 networks", "gpubp cuda, tf32", "gpubp cuda, bf16",
    "PyTorch eager", "PyTorch CUDA graph", "PyTorch CUDA graph, 50 steps", "PyTorch compiled",
    "JAX scan", "JAX scan, permuted",
)  # fmt: skip
# torch.compile takes half a minute for each case, and on the large one there is nothing to gain;
# nor is there from tensor cores on the small one. The other ways of gpubp are beside its choice.
# The two told in networks are fits of a Fleet, which draw their orders; a step is one of each.
ONLY = {
    "PyTorch compiled": ("S", "M"), "gpubp cuda, one block": ("S",),
    "gpubp cuda, cooperative": ("S",), "gpubp cuda, graph": ("S", "M"),
    "gpubp cuda, 1 network": ("S",), "gpubp cuda, 132 networks": ("S",),
    "gpubp cuda, tf32": ("M", "L"), "gpubp cuda, bf16": ("M", "L"),
}  # fmt: skip
TESTS = ("test_cuda_backend.py", "test_cuda_fit.py", "test_cuda_precision.py", "test_cuda_host.py",
         "test_kernels.py", "test_truth.py", "test_sgd_truth.py", "test_network.py", "test_sgd.py",
         "test_fleet_cuda.py")  # fmt: skip
# Of the cost: how far a subject may be from the reference after the checked steps.
CHECK = 1e-3
CHECK_ROUNDED = {"gpubp cuda, tf32": 1e-2, "gpubp cuda, bf16": 3e-2}


class Clock:
    """What is left of the minutes given, and what each part said."""

    def __init__(self, minutes: float) -> None:
        self.until = time.monotonic() + 60 * minutes
        self.said: list[str] = []

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def say(self, text: str) -> None:
        self.said.append(text)
        print(text, flush=True)

    def run(self, command: list[str], seconds: float, **named: str) -> tuple[int | None, str]:
        """(exit status, all it printed); None where it took too long or could not start."""
        seconds = min(seconds, self.left)
        if seconds <= 0:
            return None, "no time left"
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | named, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return None, str(error)
        try:
            said = process.communicate(timeout=seconds)[0]
            return process.returncode, said
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
            process.communicate()
            return None, f"stopped after {seconds:.0f} s"


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def make_importable() -> None:
    """gpubp from this checkout also where it is not installed."""
    found = subprocess.run([sys.executable, "-c", "import gpubp.kernels"], check=False,
                           cwd=tempfile.gettempdir(), capture_output=True)  # fmt: skip
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
    import cupy

    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(0)["name"].decode()
    driver = f"CUDA {runtime.driverGetVersion() // 1000}"
    if tool := shutil.which("nvidia-smi"):
        asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False)
        if said.returncode == 0 and said.stdout.strip():
            driver = f"driver {said.stdout.split()[0]}, {driver}"
    return f"{name}, {driver}"


def run_tests(clock: Clock) -> None:
    """The tests that take a backend, on this GPU."""
    import importlib.util

    if importlib.util.find_spec("pytest") is None:
        return clock.say("tests: left out, pytest is not installed")
    workers = min(8, os.cpu_count() or 1)
    many = importlib.util.find_spec("xdist") is not None and workers > 1
    parallel = ["-n", str(workers), "--dist", "load"] if many else []
    files = [str(ROOT / "tests" / name) for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", *parallel, "-k", "cuda",
               *files]  # fmt: skip
    report("tests", clock, *clock.run(command, 150, GPUBP_REQUIRE_CUDA="1"))


def report(part: str, clock: Clock, code: int | None, said: str) -> None:
    """One line on a part, and the end of what it printed where it went wrong."""
    if code:
        print(said[-3000:])
    state = {0: "passed", None: "NOT FINISHED"}.get(code, "FAILED")
    clock.say(f"{part}: {state}, {last_line(said)}")


def sanitize(clock: Clock, tool: str) -> None:
    """compute-sanitizer on the small networks of the gates."""
    found = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if found is None:
        return clock.say(f"{tool}: left out, compute-sanitizer is not installed")
    gate = ROOT / "tests" / "cuda_on_cpu" / "gate.py"
    command = [found, "--tool", tool, "--error-exitcode", "66", sys.executable, str(gate),
               "--device", "ragged", "tile 0", "resident", "resident, deep", "cooperative",
               "cooperative, deep", "bf16, tile 0"]  # fmt: skip
    report(tool, clock, *clock.run(command, 60))


def measure(clock: Clock, key: str, rounds: int, seconds: float, where: str) -> None:
    """The rows of one case: each library that runs and whose cost agrees."""
    from epoch import true_cost
    from peers import CASES, data
    from record import Row, append

    truth, dataset = true_cost(key), data(CASES[key])[0]
    print(f"\ncase {key}, {dataset}: {CASES[key]}, cost after the checked steps {truth:.6f}")
    script, rows = Path(__file__).with_name("gpu_peers.py"), []
    environment = {"OMP_NUM_THREADS": "1", "JAX_DEFAULT_MATMUL_PRECISION": "highest",
                   "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # fmt: skip
    for subject in SUBJECTS:
        if key not in ONLY.get(subject, CASES):
            continue
        times: list[float] = []
        for _ in range(rounds):
            command = [sys.executable, str(script), subject, key, "1", str(seconds)]
            code, said = clock.run(command, 60, **environment)
            if code != 0:
                clock.say(f"{key}, {subject}: left out, {last_line(said)}")
                break
            result = json.loads(last_line(said))
            if not abs(result["cost"] - truth) <= CHECK_ROUNDED.get(subject, CHECK) * truth:
                clock.say(f"{key}, {subject}: left out, its cost is {result['cost']}, not {truth}")
                break
            times += result["microseconds"]
        else:
            median = statistics.median(times)
            print(f"  {subject:30}{median:10.1f} us a step", flush=True)
            rows.append(Row("gpu", key, subject, "step", "us", median, min(times), max(times),
                            len(times), dataset))  # fmt: skip
    if rows:
        append(rows, PACKAGES, where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["S", "M", "L"], help="S, M, L")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=7.5, help="for all parts together")
    arguments = parser.parse_args()
    make_importable()
    where = gpu()
    if where is None:
        sys.exit(2)
    from record import gpu_table, versions, write_readme

    clock = Clock(arguments.minutes)
    print(f"{where}; {versions(PACKAGES)}")
    run_tests(clock)
    for tool in ("memcheck", "racecheck"):
        sanitize(clock, tool)
    for key in arguments.cases:
        try:
            measure(clock, key, arguments.rounds, arguments.seconds, where)
        except Exception as error:  # of any kind: the other cases are measured all the same
            clock.say(f"{key}: FAILED, {error!r}")
    write_readme()
    print("\n" + "\n".join(clock.said) + f"\n\n{gpu_table()}")
    sys.exit(any("FAILED" in line or "NOT FINISHED" in line for line in clock.said))


if __name__ == "__main__":
    main()
