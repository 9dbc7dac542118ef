"""The CUDA kernels run on the CPU: right numbers on all schedules, no race, all within bounds.

The cases are those of ``cuda_on_cpu/gate.py``; how the gates work is told in its README. Each
mutant, a kernel with one barrier or index taken out, must be stopped by a gate. Without g++, or
without its sanitizers, these tests are skipped with the reason.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import build, gate
from cuda_on_cpu.launch import SCHEDULES
from oracle import normwise
from test_kernels import ratio

import gpubp

if build.missing():
    pytest.skip(str(build.missing()), allow_module_level=True)

GATE = Path(gate.__file__)
NUMBERS = ("parameters", "velocity", "costs", "product", "column sum", "hadamard")


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

# In a process each: a sanitizer can have only so many threads.
SANITIZED = {
    "graph": [name for name in gate.SANITIZED if name not in gate.RESIDENT],
    "resident": list(gate.RESIDENT),
}


@pytest.mark.parametrize("stepper", SANITIZED)
def test_no_race(stepper: str) -> None:
    needs("thread")
    done = build.sanitized("thread", GATE, *SANITIZED[stepper])
    assert done.returncode == 0, done.stderr[:5000]
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize("stepper", SANITIZED)
def test_nothing_out_of_bounds(stepper: str) -> None:
    needs("address")
    done = build.sanitized("address", GATE, *SANITIZED[stepper])
    assert done.returncode == 0, done.stderr[:5000]


# Mutants

MUTANTS = gate.mutants()
# Where they show: several stages, slices and strips in one block, and edges everywhere; or, of what
# only resident.cu has, one block, and a deep network and penalties on clusters.
_TELLING = ("tile 0", "ragged", "softmax")
_TELLING_OF = {
    "mma.cuh": ("tf32, tile 0",), "tile_mma.cuh": ("tf32, tile 0",),
    "cooperative.cu": ("cooperative", "cooperative, deep"),
    "grid.cuh": ("cooperative", "cooperative, deep"),
    "cluster.cuh": ("resident, deep", "resident, softmax"),
    "resident.cu": ("resident", "resident, deep", "resident, softmax"),
}  # fmt: skip


def telling(mutant: str) -> tuple[str, ...]:
    return _TELLING_OF.get(MUTANTS[mutant], _TELLING)


def caught_by_numbers(mutant: str) -> str | None:
    """What the numbers gate says of this mutant, in a process of its own that may die of it."""
    command = [sys.executable, str(GATE), f"-D{mutant}", "--numbers", *telling(mutant)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else f"exit {done.returncode}") if done.returncode else None


def caught_by_sanitizer(mode: str, mutant: str) -> str | None:
    """What the sanitizer says of this mutant, in one line."""
    if build.missing(mode):
        return None
    done = build.sanitized(mode, GATE, f"-D{mutant}", *telling(mutant), first=True)
    lines = [line for line in done.stderr.splitlines() if "SUMMARY" in line or "error:" in line]
    return lines[0].strip() if done.returncode and lines else None


def test_there_are_mutants_and_their_judge_is_fair() -> None:
    assert len(MUTANTS) >= 6
    telling_of_all = dict.fromkeys(name for mutant in MUTANTS for name in telling(mutant))
    assert gate.judge(list(telling_of_all), ()) is None


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_caught(mutant: str) -> None:
    """One that takes out a barrier or a buffer is a race; any other is wrong or out of bounds."""
    if "BARRIER" in mutant or "BUFFER" in mutant:
        needs("thread")
        race = caught_by_sanitizer("thread", mutant)
        assert race is not None, "no race is reported"
        assert "data race" in race
        assert "kernel.cu" in race
    else:
        wrong = caught_by_numbers(mutant)
        assert wrong or caught_by_sanitizer("address", mutant), "no gate stops it"


def test_schedules_show_most_missing_barriers_too() -> None:
    """Without ThreadSanitizer the numbers alone find all but a few of the races."""
    races = [mutant for mutant in MUTANTS if "BARRIER" in mutant or "BUFFER" in mutant]
    found = {mutant: caught_by_numbers(mutant) for mutant in races}
    assert sum(wrong is not None for wrong in found.values()) >= 0.6 * len(races), found
