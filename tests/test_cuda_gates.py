"""The CUDA kernels run on the CPU: right numbers on all schedules, no race, all within bounds.

The cases are those of ``cuda_on_cpu/gate.py``; how the gates work is told in its README. Each
mutant, a kernel with one barrier or index taken out, must be stopped by a gate. Without g++, or
without its sanitizers, these tests are skipped with the reason.
"""

from __future__ import annotations

import ast
import json
import re
import signal
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import build, gate
from cuda_on_cpu.launch import SCHEDULES
from cuda_on_cpu.mutants import MUTANTS, RACES, file_of
from oracle import normwise
from test_kernels import ratio

import gpubp

if build.missing():
    pytest.skip(str(build.missing()), allow_module_level=True)

GATE = Path(gate.__file__)
NUMBERS = ("parameters", "state", "costs", "product", "column sum", "hadamard")


def needs(mode: str) -> None:
    if why := build.missing(mode):
        pytest.skip(why)


@cache
def truth(case: gate.Case, dtype: str, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = gate.results(case, gpubp.get_backend("reference"), dtype, seed)
    return found


# Numbers


@pytest.mark.parametrize("name", gate.CASES | gate.REAL)
def test_numbers(name: str) -> None:
    """Within twice NumPy's own error, pooled over draws; the same bits on all six schedules."""
    case = (gate.CASES | gate.REAL)[name]
    seeds = (5, 6, 7) if name in gate.CASES else (5,)
    found = [gate.on_cuda(case, seed=seed) for seed in seeds]
    exactly = replace(case, precision=None)  # the twin rounds operands, the truth does not
    wanted = [truth(exactly, "float64", seed) for seed in seeds]
    plain = [truth(case, case.dtype, seed) for seed in seeds]
    for key in wanted[0]:
        ours, numpys, exact = ([run[key] for run in runs] for runs in (found, plain, wanted))
        if key not in NUMBERS:
            assert ours == exact
        elif case.dtype == "float64":
            assert normwise(np.concatenate(ours), np.concatenate(exact)) <= 1e-12, key
        else:
            # An array of a few numbers shows rounding by chance: the ulp of its scale counts there.
            least = 2 if sum(array.size for array in ours) >= 20 else 8
            numpys = [np.asarray(array, case.dtype) for array in numpys]
            assert ratio(ours, numpys, exact) <= least, key
    for schedule in SCHEDULES:
        again = gate.on_cuda(case, schedule=schedule)
        for key, array in again.items():
            np.testing.assert_array_equal(array, found[0][key], err_msg=f"{key}, {schedule}")


# Races and bounds

# In a process each: a sanitizer can have only so many threads. Of graphs some stand for all: each
# kernel and each way to fetch and to share is among them.
_GRAPH = [name for name in gate.SANITIZED if name not in gate.RESIDENT]
_SOME = ["ragged", "softmax", "clipped", "tile 0", "copied", "bf16, tile 0", "cooperative, deep"]
SANITIZED = {
    "graph": _SOME,
    "graph, the others": [name for name in _GRAPH if name not in _SOME],
    "resident": list(gate.RESIDENT),
}
_KINDS = [
    pytest.param(kind, marks=pytest.mark.thorough if "others" in kind else ()) for kind in SANITIZED
]


@pytest.mark.parametrize("kind", _KINDS)
def test_no_race(kind: str) -> None:
    needs("thread")
    done = build.sanitized("thread", GATE, *SANITIZED[kind])
    assert done.returncode == 0, done.stderr[:5000]
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize("kind", _KINDS)
def test_nothing_out_of_bounds(kind: str) -> None:
    needs("address")
    done = build.sanitized("address", GATE, *SANITIZED[kind])
    assert done.returncode == 0, done.stderr[:5000]


# Mutants

# Where they show: several stages, slices and strips in one block, and edges everywhere; or, of what
# only resident.cu has, one block, and a deep network and penalties on clusters. By how the name of
# the file begins.
_TELLING = ("tile 0", "ragged", "softmax")
_TELLING_OF = {
    "mma.cuh": ("tf32, tile 0",), "tile_mma.cuh": ("tf32, tile 0",),
    "tile_async.cuh": ("copied", "copied, floats"),
    "bp1.cu": (*_TELLING, "clipped"), "clipped_update.cu": ("clipped",),
    "cooperative.cu": ("cooperative", "cooperative, deep", "cooperative, softmax"),
    "grid.cuh": ("cooperative", "cooperative, deep"),
    "cluster.cuh": ("resident, deep", "resident, softmax"),
    "resident": ("resident", "resident, deep", "resident, softmax"),
}  # fmt: skip


def telling(mutant: str) -> tuple[str, ...]:
    own = [cases for start, cases in _TELLING_OF.items() if file_of(mutant).startswith(start)]
    return own[0] if own else _TELLING


Verdict = tuple[int, str]  # exit status, stderr


@cache
def tried(mode: str, cases: tuple[str, ...], mutants: tuple[str, ...]) -> dict[str, Verdict]:
    """What became of each of these mutants; "numbers" judges what they compute, a sanitizer ends
    them at its first report."""
    numbers = mode == "numbers"
    command = [sys.executable, str(GATE), *cases, *(f"--mutant={m}" for m in mutants)]
    environment = build.environment("plain" if numbers else mode, first=True)
    limit = (len(mutants) + 1) * gate.LIMIT
    done = build.run(command + ["--numbers"] * numbers, limit, environment)
    assert done.returncode == 0, done.stderr[-5000:]
    found: dict[str, Verdict] = {m: tuple(each) for m, each in json.loads(done.stdout).items()}
    return found


def reason(verdict: Verdict) -> str | None:
    """Why this mutant counts as caught, in one line: a report, a wrong number, a death."""
    status, said = verdict
    assert not re.search("CompileError|LookupError", said), said  # no kernel was run
    lines = said.strip().splitlines()
    reports = [line for line in lines if "SUMMARY" in line or "error:" in line]
    return (reports or lines[-1:] or [f"exit {status}"])[0].strip() if status else None


@pytest.mark.parametrize("cases", dict.fromkeys(map(telling, MUTANTS)), ids=", ".join)
def test_the_judge_is_fair(cases: tuple[str, ...]) -> None:
    """The kernels as they are pass as no mutant may; the clean runs above say it of sanitizers."""
    verdict = tried("numbers", cases, (gate.NONE,))[gate.NONE]
    assert reason(verdict) is None, verdict


@pytest.mark.parametrize("file", sorted(set(map(file_of, MUTANTS))))
def test_mutants_are_caught(file: str) -> None:
    """One of RACES is a race; any other is wrong or out of bounds, or does not live to say so."""
    ours = [mutant for mutant in MUTANTS if file_of(mutant) == file]
    cases = telling(ours[0])
    if races := tuple(mutant for mutant in ours if mutant in RACES):
        needs("thread")
        for mutant, verdict in tried("thread", cases, races).items():
            assert reason(verdict) is not None, f"{mutant}: no race is reported"
            if verdict[0] > 0:  # it did not die of it first
                assert "data race" in verdict[1], f"{mutant}: {verdict}"
                assert "kernel.cu" in verdict[1], f"{mutant}: {verdict}"
    if others := tuple(mutant for mutant in ours if mutant not in RACES):
        numbers = tried("numbers", cases, others)
        survivors = tuple(mutant for mutant in others if not reason(numbers[mutant]))
        if survivors and not build.missing("address"):
            address = tried("address", cases, survivors)
            survivors = tuple(mutant for mutant in survivors if not reason(address[mutant]))
        assert not survivors, f"no gate stops {survivors}"


@pytest.mark.thorough
def test_schedules_show_most_missing_barriers_too() -> None:
    """Without ThreadSanitizer the numbers alone find all but a few of the races."""
    found: dict[str, Verdict] = {}
    for cases in dict.fromkeys(map(telling, RACES)):
        found |= tried("numbers", cases, tuple(m for m in RACES if telling(m) == cases))
    wrong = {mutant: reason(verdict) for mutant, verdict in found.items()}
    assert sum(map(bool, wrong.values())) >= 0.6 * len(RACES), wrong


# Each in a child of a small process, with a limit of 2 s of CPU time.
_ALONE = """
import ctypes, sys, time
sys.path.insert(0, {folder!r})
import numpy as np
from cuda_on_cpu import gate
from cuda_on_cpu.cupy_on_cpu import installed
gate.CPU_LIMIT, gate.LIMIT = 2, {limit}
def write(at):
    with installed() as cupy:
        x = cupy.zeros(999, np.float32)  # 96 bytes before it, 4 behind
        kernel = cupy.RawModule(code='extern "C" __global__ void kernel(float* x, int i)'
                                     '{{ x[i] = 1; }}').get_function("kernel")
        kernel((1,), (1,), (x, np.int32(at)))
def endless():
    while True:
        pass
print(gate.alone(lambda: {work}))
"""


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("write(998)", None),
        ("write(999)", "KernelError: kernel: something was written out of an array's bounds"),
        ("write(-1)", "KernelError: kernel: something was written out of an array's bounds"),
        ("write(1000)", "SIGSEGV"),
        ("write(-25)", "SIGSEGV"),
        ("endless()", "no end within 2 s of CPU time"),
        ("time.sleep(60)", "no end within 2 s"),
        ("sys.exit('numbers are wrong')", "numbers are wrong"),
    ],
)
def test_what_a_mutant_may_do_is_a_verdict(work: str, said: str | None) -> None:
    """A wild write reaches nothing of the process, and whatever ends a mutant is a reason."""
    limit = 2 if "sleep" in work else 100
    code = _ALONE.format(folder=str(GATE.parent.parent), work=work, limit=limit)
    done = build.run([sys.executable, "-c", code], 120, build.environment("plain"))
    assert done.returncode == 0, done.stderr
    assert reason(ast.literal_eval(done.stdout)) == said


def test_no_gate_leaves_a_child_running() -> None:
    """A process that passes its limit ends with its children, and says so."""
    child = "import time; print(1, flush=True); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    begun = time.monotonic()
    done = build.run([sys.executable, "-c", code], 2)  # the child holds stdout, too
    assert time.monotonic() - begun < 30
    assert done.returncode == -signal.SIGKILL
    assert done.stderr.endswith("no end within 2 s")
