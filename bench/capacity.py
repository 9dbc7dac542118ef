"""Which way trains which network on a GPU, and what does it take of the chip?

    python bench/capacity.py

For networks from small to large: the way that the rule takes on an H200 (and for the smallest on
GPUs without clusters), the shared memory of a block and the registers of a thread as NVRTC
compiles the kernels, and the microseconds a step that the rule predicts. No GPU is needed, and
nothing is timed: predictions are arithmetic. The table has the times of ``gpu.py`` beside them
where there are any.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from record import Row, append, versions, write_readme

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from cuda_on_cpu import nvrtc
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import imagined

import gpubp
from gpubp.activation import ACTIVATIONS
from gpubp.cost import COSTS
from gpubp.parameters import Parameters
from gpubp.plan import Plan

H200 = {"compute_capability": "90", "multiprocessors": 132}
A100 = {"compute_capability": "80", "multiprocessors": 108}
Network = tuple[str, tuple[int, ...], int, str, dict[str, Any]]  # case, sizes, batch, arithmetic
S, M, L = (784, 30, 10), (784, 128, 10), (784, 1024, 1024, 10)
NETWORKS: list[Network] = [
    ("S", S, 10, "float32", H200),
    ("S on sm_80", S, 10, "float32", A100),
    ("S in float64", S, 10, "float64", H200),
    ("S, batch 1", S, 1, "float32", H200),
    ("S, batch 32", S, 32, "float32", H200),
    ("[784, 100, 10], batch 10", (784, 100, 10), 10, "float32", H200),
    ("[64, 16, 16, 10], batch 32", (64, 16, 16, 10), 32, "float32", H200),
    ("M", M, 128, "float32", H200),
    ("[784, 100, 100, 10], batch 100", (784, 100, 100, 10), 100, "float32", H200),
    ("L", L, 512, "float32", H200),
    ("L, tf32", L, 512, "tf32", H200),
    ("L, bf16", L, 512, "bf16", H200),
]


def row(network: Network) -> Row:
    """What one network takes: uint8 x, labels, sigmoid, quadratic cost, plain SGD."""
    case, sizes, batch, arithmetic, gpu = network
    precision = arithmetic if arithmetic in ("tf32", "bf16") else None
    dtype = "float32" if precision else arithmetic
    sigma = (ACTIVATIONS["sigmoid"],) * (len(sizes) - 1)
    plan = Plan(sizes, sigma, COSTS["quadratic"], batch, dtype, precision=precision)
    with installed() as cupy, imagined(collected={}, **gpu) as machine:
        kernels = gpubp.get_backend("cuda").kernels
        from gpubp.kernels.cuda.stepper import predicted

        x, y = cupy.zeros((batch, sizes[0]), np.uint8), cupy.zeros(batch, np.int64)
        stepper = kernels.Stepper(plan, Parameters(cupy, sizes, dtype), x, y)
        stepper.run(np.arange(batch), np.array([[0.1]]))  # asks for its kernels, and runs nothing
        us = 1e6 * predicted(plan, x, y)[0][stepper.way]
        texts = dict(machine.collected or {})
    registers = shared = 0
    for text, kernel in texts.items():
        head = text.partition("//")[0].splitlines()
        constants = dict(line.split()[1:3] for line in head if line.startswith("#define"))
        usage = nvrtc.usage(text, f"sm_{gpu['compute_capability']}", kernel)
        registers = max(registers, usage.registers)
        shared = max(shared, usage.shared + int(constants.get("SHARED_BYTES", 0)))
    blocks = {
        "resident": f"{constants.get('CLUSTER')} x {constants['BLOCK']} threads",
        "cooperative": f"{gpu['multiprocessors']} x {constants['BLOCK']} threads",
        "graph": f"{len(texts)} kernels",
    }[stepper.way]
    note = f"{blocks}; {shared}; {registers}"
    return Row("capacity", case, stepper.way, "predicted step", "us", us, us, us, 1, note)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    if nvrtc.library() is None:
        raise SystemExit("NVRTC is not installed: pip install 'cuda-toolkit[nvrtc]==13.*'")
    os.environ.pop("GPUBP_CUDA_STEPPER", None)
    print(f"NVRTC {nvrtc.version()}; {versions()}")
    rows = [row(network) for network in NETWORKS]
    for found in rows:
        print(f"{found.case:32}{found.subject:13}{found.median:8.2f} us  {found.note}")
    append(rows)
    write_readme()


if __name__ == "__main__":
    main()
