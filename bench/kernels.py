"""How near does each CPU kernel come to what the machine can do, beside plain NumPy?

    python bench/kernels.py [--rounds N]

``outer_sum`` at the layers of cases S, M and L: GFLOP/s, against a large sgemm through NumPy.
``hadamard_sigma_prime``: GB/s of the three arrays that it must move (two read, one written),
against ``np.multiply`` of arrays as large, which moves as many; from arrays that stay in the inner
caches to arrays that stay in none. Plain NumPy is ``kernels/reference.py``; both allocate their
results, the multiplication does not. Before a time is printed, the kernel's norm-wise error against
float64 must be at most twice that of plain NumPy, or one ulp. The three are timed in turns, with 1
thread and with all, in a process each. The third kernel, ``Stepper``, is timed by ``epoch.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from record import (
    Row,
    append,
    device,
    thread_counts,
    thread_environment,
    threads_name,
    versions,
    write_readme,
)

import gpubp
from gpubp.activation import get_activation

LAYERS = [  # (case, mini-batch, n_out, n_in): delta (m, n_out), a (m, n_in)
    ("S", 10, 30, 784), ("S", 10, 10, 30),
    ("M", 128, 128, 784), ("M", 128, 10, 128),
    ("L", 512, 1024, 784), ("L", 512, 1024, 1024), ("L", 512, 10, 1024),
]  # fmt: skip
# (m, n) of z: the hidden layers of cases M and L, and larger than any cache.
ELEMENTWISE = [("M", 128, 128), ("L", 512, 1024), ("in memory", 16_384, 1024)]
ACTIVATIONS = ("sigmoid", "relu", "gelu")
SGEMM = 2048
LEAST_SECONDS = 2e-3  # of one timing: shorter calls are repeated


Calls = dict[str, tuple[Callable[[], Any], float]]  # by subject: a call, and its work in units


class Measure(NamedTuple):
    """What is timed in turns, with its unit of work a second and a note on its errors."""

    case: str
    unit: str
    calls: Calls
    note: str


def error(found: Any, truth: Any) -> float:
    """||found - truth|| / ||truth||"""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def check(case: str, found: Any, plain: Any, truth: Any) -> str:
    """How many times plain NumPy's error the kernel's is; stops where it is above 2 and an ulp."""
    ours, theirs = error(found, truth), error(plain, truth)
    if not ours <= max(2 * theirs, float(np.finfo(np.float32).eps)):
        raise SystemExit(f"{case}: error {ours:.2e} against float64, plain NumPy's {theirs:.2e}")
    return f"{ours:.1e}, {ours / theirs:.2f} x" if theirs else f"{ours:.1e}, 0"


def outer_sums() -> Iterator[Measure]:
    """BP4 and BP3: 2 m n_out n_in + m n_out operations."""
    cpu, reference = (gpubp.get_backend(name).kernels for name in ("cpu", "reference"))
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((2, SGEMM, SGEMM), dtype=np.float32)
    for key, m, n_out, n_in in LAYERS:
        delta = rng.standard_normal((m, n_out), dtype=np.float32)
        a = rng.random((m, n_in), dtype=np.float32)
        case = f"`outer_sum` {key}: ({m}, {n_out}), ({m}, {n_in})"
        results = [
            np.concatenate([part.ravel() for part in parts])
            for parts in (
                cpu.outer_sum(delta, a), reference.outer_sum(delta, a),
                reference.outer_sum(delta.astype(float), a.astype(float)),
            )
        ]  # fmt: skip
        work = (2 * m * n_out * n_in + m * n_out) / 1e9
        calls: Calls = {
            "gpubp cpu": (partial(cpu.outer_sum, delta, a), work),
            "NumPy": (partial(reference.outer_sum, delta, a), work),
            "ceiling": (partial(np.matmul, u, v), 2 * SGEMM**3 / 1e9),
        }
        yield Measure(case, "GFLOP/s", calls, check(case, *results))


def hadamards() -> Iterator[Measure]:
    """BP1 and BP2: 3 arrays of 4 bytes an element."""
    cpu, reference = (gpubp.get_backend(name).kernels for name in ("cpu", "reference"))
    rng = np.random.default_rng(0)
    for key, m, n in ELEMENTWISE:
        v, z = rng.standard_normal((2, m, n), dtype=np.float32)
        room = np.empty_like(z)
        for name in ACTIVATIONS:
            activation = get_activation(name)
            a = activation(np, z)
            megabytes = 3 * z.nbytes / 1e6
            case = f"`hadamard_sigma_prime` {name}, {key}: ({m}, {n}), {megabytes:.1f} MB"
            few = slice(0, 512)  # rows checked
            note = check(
                case,
                cpu.hadamard_sigma_prime(v, z, a, activation)[few],
                reference.hadamard_sigma_prime(v, z, a, activation)[few],
                reference.hadamard_sigma_prime(
                    *(array[few].astype(float) for array in (v, z, a)), activation
                ),
            )
            work = megabytes / 1e3
            ours, plain = (kernels.hadamard_sigma_prime for kernels in (cpu, reference))
            calls: Calls = {
                "gpubp cpu": (partial(ours, v, z, a, activation), work),
                "NumPy": (partial(plain, v, z, a, activation), work),
                "ceiling": (partial(np.multiply, v, z, out=room), work),
            }
            yield Measure(case, "GB/s", calls, note)


def rates(measure: Measure, rounds: int) -> dict[str, list[float]]:
    """Work a second of each subject, timed in turns: ``rounds`` figures each."""
    repeats, found = {}, {}
    for subject, (call, _) in measure.calls.items():
        call()
        started = time.perf_counter()
        call()
        taken = time.perf_counter() - started
        repeats[subject] = max(1, math.ceil(LEAST_SECONDS / taken))
        found[subject] = [0.0] * rounds
    for turn in range(rounds):
        for subject, (call, work) in measure.calls.items():
            started = time.perf_counter()
            for _ in range(repeats[subject]):
                call()
            taken = (time.perf_counter() - started) / repeats[subject]
            found[subject][turn] = work / taken
    return found


def measure_here(threads: int, rounds: int) -> list[list[Any]]:
    """The fields of the rows that this process, with its threads, measures."""
    # Elementwise kernels run on the thread that calls them, and NumPy's ceiling does too.
    rows = []
    for measure in chain(outer_sums(), hadamards() if threads == 1 else ()):
        for subject, found in rates(measure, rounds).items():
            name = f"{subject}, {threads_name(threads)}"
            rows.append(
                ["kernels", measure.case, name, "rate", measure.unit,
                 statistics.median(found), min(found), max(found), rounds, measure.note]
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="timings of each (default 15)")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure_here(arguments.child, arguments.rounds)))
        return
    print(f"{device()}; {versions()}")
    rows = []
    for threads in thread_counts():
        command = [sys.executable, __file__, "--child", str(threads)]
        done = subprocess.run(
            [*command, "--rounds", str(arguments.rounds)],
            env=thread_environment(threads), stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{threads_name(threads)}: stopped, see above; nothing is recorded")
        rows += [Row(*fields) for fields in json.loads(done.stdout)]
    for row in rows:
        print(
            f"{row.case:72} {row.subject:20} {row.median:8.1f} {row.unit:8}"
            f" {row.low:8.1f} to {row.high:.1f}"
        )
    append(rows)
    write_readme()


if __name__ == "__main__":
    main()
