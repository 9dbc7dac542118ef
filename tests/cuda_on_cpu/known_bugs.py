"""Small kernels, each with one bug that must be found, and each with its cure, which must pass.

    python known_bugs.py NAME ...    launch these; under a sanitizer its report is the result

A kernel gets x and out, 64 floats each, and is launched on a block of 64 threads, or on three.
``-DCURED`` puts in what is missing.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import imagined

_FOLDER = files("gpubp.kernels") / "cuda"
_HEAD = (_FOLDER / "grid.cuh").read_text()
_CLUSTER = "#define CLUSTER 2\n" + (_FOLDER / "cluster.cuh").read_text()
_HEAD += 'extern "C" __global__ void kernel(const float* x, float* out, unsigned* flags) {\n'
_HEAD += "  const int t = threadIdx.x, b = blockIdx.x;\n"

# name: the report it must bring, and the kernel's body
RACES = {
    "a missing barrier": """
        __shared__ float s[64];
        s[t] = x[t];
        #ifdef CURED
        __syncthreads();
        #endif
        out[t] = s[63 - t];""",
    "a barrier that comes only before the loop": """
        __shared__ float s[64];
        for (int i = 0; i < 3; i++) {
          s[t] = x[t] + i;
          __syncthreads();
          out[t] = s[(t + i) % 64];
          #ifdef CURED
          __syncthreads();
          #endif
        }""",
    "a shuffle taken for a barrier": """
        __shared__ float s[64];
        s[t] = x[t];
        __shfl_sync(~0u, s[t], 0);
        #ifdef CURED
        __syncwarp();
        #endif
        out[t] = s[t ^ 1];""",
    "two blocks that write one number": """
        #ifdef CURED
        if (t == 0) out[b] = x[b];
        #else
        if (t == 0) out[0] = x[b];
        #endif""",
    "a flag without a fence behind the data": """
        if (t == 0) {
          out[b] = x[b];
          #ifdef CURED
          __threadfence();
          #endif
          if (atomicAdd(flags, 1u) == gridDim.x - 1) {
            __threadfence();
            for (int i = 0; i < gridDim.x; i++) out[32 + i] = out[i];
          }
        }""",
    "a flag without a fence before the data": """
        if (t == 0) {
          out[b] = x[b];
          __threadfence();
          if (atomicAdd(flags, 1u) == gridDim.x - 1) {
            #ifdef CURED
            __threadfence();
            #endif
            for (int i = 0; i < gridDim.x; i++) out[32 + i] = out[i];
          }
        }""",
    "a counter waited for, but not for all arrivals": """
        for (int i = 0; t == 0 && i < 2; i++) {
          out[8 * i + b] = x[b];
          __threadfence();
          atomicAdd(flags, 1u);
          #ifdef CURED
          wait_until(flags, (i + 1) * gridDim.x);
          #else
          wait_until(flags, i * gridDim.x + 1);
          #endif
          __threadfence();
          out[32 + 8 * i + b] = out[8 * i + (b + 1) % gridDim.x];
        }""",
}
_EXCHANGE = """
        __shared__ __align__(16) float s[2][64];
        __shared__ __align__(16) unsigned long long arrived[1];
        const unsigned rank = cluster_rank();
        if (t == 0) mbarrier_init(arrived, 1);
        cluster_sync();
        if (t == 0) mbarrier_expect(arrived, 64 * 4);
        if (t < 16) send(((const uint4*)x)[t], s[0] + 4 * t, arrived, 1 - rank);
"""
# On clusters of two blocks.
RACES |= {
    "numbers of another block that are not waited for": f"""{_EXCHANGE}
        #ifdef CURED
        mbarrier_wait(arrived, 0);
        #endif
        if (b == 0) out[t] = s[0][t];
        mbarrier_wait(arrived, 0);""",
    "a buffer that is filled again while it is read": f"""{_EXCHANGE}
        mbarrier_wait(arrived, 0);
        __syncthreads();  // all have sent: what comes now counts for the next phase
        if (b == 0) out[t] = s[0][t];
        #ifdef CURED
        float* next = s[1];
        #else
        float* next = s[0];
        #endif
        if (t == 0) mbarrier_expect(arrived, 64 * 4);
        if (t < 16) send(((const uint4*)x)[t], next + 4 * t, arrived, 1 - rank);
        mbarrier_wait(arrived, 1);
        if (b == 0) out[t] += next[t];""",
    "a block that does not wait for the cluster": """
        __shared__ float s[64];
        s[t] = x[t];
        if (t == 0) out[b] = 0;
        #ifdef CURED
        cluster_sync();
        #else
        __syncthreads();
        #endif
        if (t == 0) out[1 - b] += s[1];""",
}
BOUNDS = {
    "a read behind an array in memory": """
        #ifdef CURED
        out[t] = t < 63 ? x[t + 1] : 0;
        #else
        out[t] = x[t + 1];
        #endif""",
    "a write before an array in memory": """
        #ifdef CURED
        if (t) out[t - 1] = x[t];
        #else
        out[t - 1] = x[t];
        #endif""",
    "a read behind a shared array": """
        __shared__ float s[64];
        s[t] = x[t];
        __syncthreads();
        #ifdef CURED
        out[t] = s[(t + 1) % 64];
        #else
        out[t] = s[t + 1];
        #endif""",
    "a read behind dynamic shared memory": """
        extern __shared__ float s[];
        s[t] = x[t];
        __syncthreads();
        #ifdef CURED
        out[t] = s[(t + 1) % 64];
        #else
        out[t] = s[t + 1];
        #endif""",
    "a wide read off its alignment": """
        #ifdef CURED
        const float4 v = *(const float4*)(x + t / 4 * 4);
        #else
        const float4 v = *(const float4*)(x + t % 60);
        #endif
        out[t] = v.x;""",
}
STUCK = {
    "divergent barrier": """
        #ifndef CURED
        if (t < 32) __syncthreads();
        else
        #endif
          __syncthreads();""",
    "deadlock": """
        #ifdef CURED
        if (t % 32 < 2) __syncwarp(3u);
        __syncthreads();
        #else
        if (t % 32 == 0) __syncwarp(3u);
        else __syncthreads();
        #endif""",
    "is not in the mask it names": """
        #ifdef CURED
        __syncwarp();
        #else
        __syncwarp(0xffu);
        #endif""",
    "more shared memory than a block may have": """
        #ifdef CURED
        __shared__ float s[64];
        #else
        __shared__ float s[64 * 1024];
        #endif
        s[t] = 0;
        out[t] = s[t];""",
}
_WITHOUT_INIT = _EXCHANGE.replace("if (t == 0) mbarrier_init(arrived, 1);", "")
STUCK |= {
    "an mbarrier that is not initialised": f"""
        #ifdef CURED
        {_EXCHANGE}
        #else
        {_WITHOUT_INIT}
        #endif
        mbarrier_wait(arrived, 0);""",
    "4 bytes and 0 arrivals at an mbarrier": f"""{_EXCHANGE}
        mbarrier_wait(arrived, 0);
        #ifndef CURED
        if (t == 0) mbarrier_expect(arrived, 4);
        mbarrier_wait(arrived, 1);
        #endif""",
    "into a block that has ended": f"""{_EXCHANGE}
        mbarrier_wait(arrived, 0);
        #ifdef CURED
        cluster_sync();
        #else
        if (b == 1) return;
        for (int turn = 0; turn < 3; turn++) __syncthreads();
        #endif
        if (t == 0) send(((const uint4*)x)[0], s[1], arrived, 1 - rank);
        cluster_sync();""",
    "names no shared memory of its cluster": f"""{_EXCHANGE}
        mbarrier_wait(arrived, 0);
        #ifndef CURED
        if (t == 0) send(((const uint4*)x)[0], s[1], arrived, 2);
        #endif
        cluster_sync();""",
}
SEVERAL_BLOCKS = [
    name for name in RACES if "flag" in name or "two blocks" in name or "counter" in name
]
ALL = RACES | BOUNDS | STUCK
ON_CLUSTERS = [name for name in ALL if "cluster_sync" in ALL[name]]


def function(name: str, cured: bool) -> Any:
    """This bug, or its cure, as a kernel."""
    import cupy

    head = _HEAD
    if name in ON_CLUSTERS:
        head = _CLUSTER + head.replace("void kernel", "void __cluster_dims__(2, 1, 1) kernel")
    options = ("-DCURED",) if cured else ()
    return cupy.RawModule(code=f"{head}{ALL[name]}\n}}\n", options=options).get_function("kernel")


def launch(name: str, kernel: Any) -> None:
    """Run it: once where it stops the process, else on three schedules."""
    import cupy

    grid = (2,) if name in ON_CLUSTERS else (3,) if name in SEVERAL_BLOCKS else (1,)
    for schedule in ("forward", "reverse", "random-1")[: 1 if name in BOUNDS else 3]:
        x, out = cupy.arange(64, dtype=np.float32), cupy.zeros(64, np.float32)
        with imagined(schedule=schedule):
            kernel(grid, (64,), (x, out, cupy.zeros(1, np.uint32)), shared_mem=64 * 4)


def main() -> None:
    with installed():
        # A sanitizer knows the lines of what was loaded before its first report.
        kernels = [
            (name, cured, function(name, cured)) for name in sys.argv[1:] for cured in (1, 0)
        ]
        for name, cured, kernel in kernels:
            print(f"== {name}, {'cured' if cured else 'with its bug'}", file=sys.stderr, flush=True)
            launch(name, kernel)


if __name__ == "__main__":
    main()
