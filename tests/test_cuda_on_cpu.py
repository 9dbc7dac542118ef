"""The machinery that judges CUDA C on the CPU, judged: each known bug is found, its cure passes.

And the stand-in for cupy: it refuses what CuPy or CUDA refuses, and what neither does but should.
"""

from __future__ import annotations

import gc
import signal
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import build, known_bugs
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import CUDARuntimeError, KernelError, OutOfMemoryError, imagined
from cuda_on_cpu.launch import SCHEDULES

BUGS = Path(known_bugs.__file__)
if build.missing():
    pytest.skip(str(build.missing()), allow_module_level=True)


def needs(mode: str) -> None:
    if why := build.missing(mode):
        pytest.skip(why)


@pytest.fixture
def cupy() -> Any:
    with installed() as module:
        yield module


def kernel(cupy: Any, body: str, arguments: str = "const float* x, float* out, int n") -> Any:
    code = f'extern "C" __global__ void kernel({arguments}) {{\n{body}\n}}\n'
    return cupy.RawModule(code=code, options=("-std=c++17",)).get_function("kernel")


# Known bugs


def reports(stderr: str) -> dict[str, str]:
    """What was said after each mark of known_bugs.py."""
    parts = stderr.split("== ")[1:]
    return {title: text for title, _, text in (part.partition("\n") for part in parts)}


def test_races_are_found() -> None:
    needs("thread")
    done = build.sanitized("thread", BUGS, *known_bugs.RACES)
    said = reports(done.stderr)
    for name in known_bugs.RACES:
        assert "WARNING" not in said[f"{name}, cured"], f"{name}\n{done.stderr}"
        report = said[f"{name}, with its bug"]
        assert "data race" in report, name
        assert "kernel.cu" in report, name


@pytest.mark.parametrize("name", known_bugs.BOUNDS)
def test_accesses_out_of_bounds_are_found(name: str) -> None:
    needs("address")
    done = build.sanitized("address", BUGS, name)
    said = reports(done.stderr)
    assert not said[f"{name}, cured"], done.stderr
    report = said[f"{name}, with its bug"]
    assert "AddressSanitizer" in report or "runtime error" in report, done.stderr
    assert "kernel.cu" in report
    assert done.returncode != 0


def test_an_array_ends_at_a_page_that_nobody_may_touch() -> None:
    """Without a sanitizer, too: a process that writes to either side of an array dies of it."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:2]; import ctypes\n"
        "from cuda_on_cpu.device import Memory\n"
        "memory = Memory(int(sys.argv[2]))\n"
        "ctypes.memset(memory.ptr + int(sys.argv[3]), 1, 1); print('alive')"
    )

    def touched(nbytes: int, place: int) -> tuple[int, str]:
        tests = str(BUGS.parent.parent)
        command = [sys.executable, "-c", code, tests, str(nbytes), str(place)]
        done = build.run(command, 60)
        return done.returncode, done.stdout

    assert touched(4096, 4095) == (0, "alive\n")
    for nbytes, place in ((4096, 4096), (16, 16), (100, 112), (5000, -4096 - 16)):
        assert touched(nbytes, place) == (-signal.SIGSEGV, ""), (nbytes, place)


def test_a_write_beside_an_array_is_told(cupy: Any) -> None:
    f = kernel(cupy, "out[int(threadIdx.x) + first] = 1;", "float* out, int first")
    for first, right in ((0, True), (1, False), (-1, False)):
        out = cupy.zeros(5, np.float32)
        if right:
            f((1,), (5,), (out, np.int32(first)))
            continue
        with pytest.raises(KernelError, match="something was written out of an array's bounds"):
            f((1,), (5,), (out, np.int32(first)))


def test_a_process_that_never_ends_is_judged_in_time() -> None:
    """With all that it has started; what it said until then is there."""
    code = (
        "import subprocess, sys, time; print('begun', flush=True)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    started = time.monotonic()
    done = build.run([sys.executable, "-c", code], 2)
    assert time.monotonic() - started < 30
    assert done.returncode == -signal.SIGKILL
    assert done.stderr.endswith("no end within 2 s")
    begun, child = done.stdout.split()
    assert begun == "begun"
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split(") ")[1][0] == "Z":
            break
        time.sleep(0.1)
    else:
        raise AssertionError("what it started goes on")


@pytest.mark.parametrize("name", known_bugs.STUCK)
def test_what_cuda_leaves_undefined_is_reported(name: str, cupy: Any) -> None:
    known_bugs.launch(name, known_bugs.function(name, cured=True))
    with pytest.raises(KernelError, match=name) as caught:
        known_bugs.launch(name, known_bugs.function(name, cured=False))
    if name in ("divergent barrier", "deadlock"):
        assert "thread (" in str(caught.value)
        assert "block (0, 0, 0)" in str(caught.value)
        assert "kernel.cu:" in str(caught.value)


# What a kernel computes


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warp_and_block_collectives(cupy: Any, schedule: str) -> None:
    f = kernel(
        cupy,
        """
        __shared__ float by_warp[3];
        const int t = threadIdx.x + blockDim.x * threadIdx.y, lane = t % 32;
        float sum = t < n ? x[t] : 0.f;
        for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
        if (lane == 0) by_warp[t / 32] = sum;
        __syncthreads();
        out[t] = by_warp[0] + by_warp[1] + by_warp[2];
        out[96 + t] = __popc(__ballot_sync(~0u, t % 3 == 0));
        out[192 + t] = __shfl_up_sync(~0u, t, 3, 8) + 1000 * __shfl_down_sync(~0u, t, 1);
        out[288 + t] = __syncthreads_count(t < 40) + (__any_sync(~0u, t == 33) ? 100 : 0);
        if (t < 5) out[384 + t] = __shfl_sync(0x1fu, t, t + 1);
        """,
    )
    x, out = cupy.arange(96, dtype=np.float32), cupy.empty(389, np.float32)
    with imagined(schedule=schedule):
        f((1,), (48, 2), (x, out, np.int32(90)))
    found, t = out.get(), np.arange(96)
    assert (found[:96] == sum(range(90))).all()
    threes = [sum(i % 3 == 0 for i in range(w, w + 32)) for w in (0, 32, 64)]
    np.testing.assert_array_equal(found[96:192], np.repeat(threes, 32))
    up = np.where(t % 8 < 3, t, t - 3)
    down = np.where(t % 32 == 31, t, t + 1)
    np.testing.assert_array_equal(found[192:288], up + 1000 * down)
    np.testing.assert_array_equal(found[288:384], np.where(t // 32 == 1, 140, 40))
    np.testing.assert_array_equal(found[384:388], [1, 2, 3, 4])
    assert found[388] != 5  # lane 5 takes no part: its value is poison


def test_memory_starts_as_nan(cupy: Any) -> None:
    f = kernel(
        cupy,
        "__shared__ float s[4]; extern __shared__ double d[];\n"
        "out[0] = s[threadIdx.x]; out[1] = d[n];",
    )
    out = cupy.empty(3, np.float32)
    assert np.isnan(out.get()).all()
    assert np.isnan(cupy.empty(3, np.float64).get()).all()
    for _ in range(2):
        f((2,), (1,), (out, out, np.int32(1)), shared_mem=16)
        assert np.isnan(out.get()).all()


def test_integer_atomics(cupy: Any) -> None:
    f = kernel(
        cupy,
        "atomicAdd(a, threadIdx.x); atomicMax(a + 1, threadIdx.x); atomicExch(a + 2, 7);\n"
        "atomicCAS(a + 3, 0u, threadIdx.x + 1);",
        "unsigned* a",
    )
    for schedule in SCHEDULES:
        a = cupy.zeros(4, np.uint32)
        with imagined(schedule=schedule):
            f((3,), (64,), (a,))
        found = a.get()
        assert list(found[:3]) == [3 * 64 * 63 // 2, 63, 7]
        assert 1 <= found[3] <= 64
    with pytest.raises(build.CompileError, match="chance order"):
        kernel(cupy, "atomicAdd(out, 1.f);")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_clusters(cupy: Any, schedule: str) -> None:
    """Three clusters of four blocks pass numbers round, twice, and meet."""
    cluster = files("gpubp.kernels") / "cuda" / "cluster.cuh"
    code = f"#define CLUSTER 4\n{cluster.read_text()}"
    code += """
    extern "C" __global__ void __launch_bounds__(32) __cluster_dims__(4, 1, 1) kernel(float* out)
    {
        extern __shared__ float4 memory[];
        __shared__ __align__(16) unsigned long long arrived[2];
        const unsigned rank = cluster_rank(), t = threadIdx.x;
        if (t < 2) mbarrier_init(arrived + t, 1);
        cluster_sync();
        for (int turn = 0; turn < 2; turn++) {
            if (t == 0) mbarrier_expect(arrived + turn, 32 * 16);
            const uint4 v = {blockIdx.x, rank, t, unsigned(turn)};
            send(v, memory + 32 * turn + t, arrived + turn, (rank + 1) % 4);
            mbarrier_wait(arrived + turn, 0);
            uint4 got;
            memcpy(&got, memory + 32 * turn + (t + 1) % 32, sizeof got);
            out[32 * blockIdx.x + t] += got.x + 100 * got.y + 1000 * got.z + 100000 * got.w;
        }
        cluster_sync();
        if (t == 0) out[32 * (blockIdx.x ^ 3)] += 0.5f;
    }"""
    f, out = cupy.RawModule(code=code).get_function("kernel"), cupy.zeros(12 * 32, np.float32)
    with imagined(schedule=schedule):
        f((12,), (32,), (out,), shared_mem=2 * 32 * 16)
    found, (block, t) = out.get().reshape(12, 32), np.indices((12, 32))
    rank = (block - 1) % 4
    sent = 2 * (block // 4 * 4 + rank + 100 * rank + 1000 * ((t + 1) % 32)) + 100000
    np.testing.assert_array_equal(found, sent + 0.5 * (t == 0))
    with imagined(compute_capability="80"), pytest.raises(CUDARuntimeError, match="no clusters"):
        f((12,), (32,), (out,), shared_mem=2 * 32 * 16)
    with pytest.raises(CUDARuntimeError, match="clusters of 4"):
        f((6,), (32,), (out,), shared_mem=2 * 32 * 16)


def test_schedules_differ_and_repeat(cupy: Any) -> None:
    f = kernel(cupy, "out[atomicAdd(n, 1)] = 100 * blockIdx.x + threadIdx.x; __syncthreads();"
               "out[atomicAdd(n, 1)] = 1000;", "float* out, int* n")  # fmt: skip
    seen = []
    for schedule in (*SCHEDULES, *SCHEDULES):
        out, n = cupy.empty(256, np.float32), cupy.zeros(1, np.int32)
        with imagined(schedule=schedule):
            f((2,), (64,), (out, n))
        seen.append(out.get().tobytes())
    assert len(set(seen)) == len(SCHEDULES)
    assert seen[: len(SCHEDULES)] == seen[len(SCHEDULES) :]


def test_many_threads_and_dimensions(cupy: Any) -> None:
    f = kernel(
        cupy,
        "const int i = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);\n"
        "const int b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);\n"
        "__syncthreads(); out[b * n + i] = b * n + i;",
    )
    out = cupy.empty(3 * 2 * 5 * 1024, np.float32)
    for schedule in SCHEDULES:
        with imagined(schedule=schedule):
            f((3, 2, 5), (8, 16, 8), (out, out, np.int32(1024)))
        np.testing.assert_array_equal(out.get(), np.arange(out.size))
        out.fill(0)


# Launches


@pytest.mark.parametrize(
    "arguments",
    [
        lambda x: (x, x, 3),
        lambda x: (x, x, np.int64(3)),
        lambda x: (x, x, np.float32(3)),
        lambda x: (x, x),
        lambda x: (x, x.astype(float), np.int32(3)),
        lambda x: (x, x.get(), np.int32(3)),
        lambda x: (x, None, np.int32(3)),
    ],
    ids=["int", "int64", "float", "too few", "float64 array", "NumPy array", "None"],
)
def test_arguments_are_of_the_declared_type(cupy: Any, arguments: Any) -> None:
    f = kernel(cupy, "out[0] = n;")
    with pytest.raises(TypeError, match="kernel"):
        f((1,), (1,), arguments(cupy.zeros(4, np.float32)))


def test_launches_that_do_not_fit(cupy: Any) -> None:
    code = 'extern "C" __global__ void __launch_bounds__(8 * (4)) kernel(float* out) {}'
    f = cupy.RawModule(code=code).get_function("kernel")
    out = cupy.zeros((4, 4), np.float32)
    for grid, block, shared in (
        ((0,), (32,), 0), ((1,), (33,), 0), ((1, 65536), (1,), 0), ((1,), (32,), 49153),
    ):  # fmt: skip
        with pytest.raises(CUDARuntimeError, match="invalid argument"):
            f(grid, block, (out,), shared_mem=shared)
    f.max_dynamic_shared_size_bytes = 100_000
    f((1,), (32,), (out,), shared_mem=100_000)
    with pytest.raises(ValueError, match="C-contiguous"):
        f((1,), (32,), (out.T,))
    with pytest.raises(CUDARuntimeError, match="not found"):
        cupy.RawModule(code=code).get_function("another")


# Streams and graphs


def test_a_stream_is_read_after_it_is_waited_for(cupy: Any) -> None:
    f = kernel(cupy, "out[0] = n;")
    out = cupy.zeros(1, np.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    with pytest.raises(KernelError, match="nobody has waited"):
        f((1,), (1,), (out, out, np.int32(5)), stream=stream)
    cupy.cuda.get_current_stream().synchronize()
    with stream:
        f((1,), (1,), (out, out, np.int32(5)))
    assert out.get()[0] == 0  # the default stream does not wait for a non-blocking one
    stream.synchronize()
    assert out.get()[0] == 5
    with stream:
        f((1,), (1,), (out, out, np.int32(6)))
        event = stream.record()
        f((1,), (1,), (out, out, np.int32(7)))
    event.synchronize()
    assert out.get()[0] == 6
    cupy.cuda.Device().synchronize()
    assert out.get()[0] == 7
    blocking = cupy.cuda.Stream()
    f((1,), (1,), (out, out, np.int32(8)), stream=blocking)
    assert float((out * 2)[0]) == 16


def test_pinned_memory_is_read_when_the_stream_gets_there(cupy: Any) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(8), np.float32)
    ordinary = np.ones(2, np.float32)
    first, second = cupy.empty(2, np.float32), cupy.empty(2, np.float32)
    for host, there in ((pinned, first), (ordinary, second)):
        host[:] = 1
        there.set(host, stream=stream)
        host[:] = 2
    stream.synchronize()
    assert (first.get()[0], second.get()[0]) == (2, 1)


def never_captured(cupy: Any, f: Any, out: Any, other: Any) -> list[Any]:
    """What breaks a capture that is under way, on any stream."""
    return [
        out.get, lambda: cupy.zeros(3), lambda: out + 1, lambda: float(out[0]),
        lambda: out.set(np.zeros(1, np.float32)), lambda: cupy.asarray(np.zeros(2)),
        lambda: f((1,), (1,), (out, out, np.int32(1)), stream=other), other.synchronize,
        cupy.cuda.get_current_stream().synchronize, cupy.cuda.Device().synchronize,
    ]  # fmt: skip


def test_graphs(cupy: Any) -> None:
    f = kernel(cupy, "out[0] += n;")
    out = cupy.zeros(1, np.float32)
    other = cupy.cuda.Stream(non_blocking=True)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.get_current_stream().synchronize()
    with stream:
        stream.begin_capture()
        f((1,), (1,), (out, out, np.int32(2)))
        f((1,), (1,), (out, out, np.int32(3)))
        for refused in never_captured(cupy, f, out, other):
            with pytest.raises(CUDARuntimeError, match="captur"):
                refused()
        graph = stream.end_capture()
    stream.synchronize()
    assert out.get()[0] == 0  # capturing runs nothing
    for _ in range(3):
        graph.launch(stream)
    stream.synchronize()
    assert out.get()[0] == 15
    del out
    graph.launch(stream)
    with pytest.raises(KernelError, match="freed"):
        stream.synchronize()
    with pytest.raises(RuntimeError, match="default"):
        cupy.cuda.Stream.null.begin_capture()


# Arrays


def test_arrays_do_not_turn_into_numpys_unasked(cupy: Any) -> None:
    a = cupy.asarray([[1.0, 2.0], [3.0, 4.0]], np.float32)
    with pytest.raises(TypeError, match=r"\.get\(\)"):
        np.asarray(a)
    for mixed in (lambda: a + np.ones((2, 2)), lambda: np.ones((2, 2)) + a, lambda: a @ np.ones(2)):
        with pytest.raises(TypeError, match="Unsupported type"):
            mixed()
    with pytest.raises(TypeError, match="Unsupported type"):
        a[...] = np.ones((2, 2))
    for bad in (np.ones((2, 2)), [[1, 2], [3, 4]]):
        with pytest.raises(TypeError):
            a.set(bad)
    total = a.sum()
    assert isinstance(total, cupy.ndarray)
    assert (total.shape, float(total), int(a.argmax())) == ((), 10.0, 3)
    row = a[1]
    row += 1
    assert a.get()[1].tolist() == [4, 5]
    assert (a.T.data.ptr, a[1:].data.ptr) == (a.data.ptr, a.data.ptr + 8)
    assert cupy.divide(cupy.asarray([51], np.uint8), np.float32(255), dtype="float32").get() == 0.2


def test_an_imagined_machine(cupy: Any) -> None:
    runtime = cupy.cuda.runtime
    with imagined(driver=0):
        assert not cupy.cuda.is_available()
        with pytest.raises(runtime.CUDARuntimeError, match="InsufficientDriver"):
            cupy.zeros(3)
    with imagined(devices=0), pytest.raises(runtime.CUDARuntimeError, match="NoDevice"):
        runtime.getDeviceCount()
    with imagined(devices=2):
        assert runtime.getDeviceCount() == 2
        with pytest.raises(runtime.CUDARuntimeError, match="ordinal"):
            cupy.cuda.Device(2).use()
        f = kernel(cupy, "out[0] = 1;", "float* out")
        out = cupy.zeros(1, np.float32)
        with cupy.cuda.Device(1) as second:
            assert cupy.zeros(1).device == second != out.device == cupy.cuda.Device(0)
            with pytest.raises(KernelError, match="memory of device 0"):
                f((1,), (1,), (out,))
    with imagined(compute_capability="60"):
        assert cupy.cuda.Device(0).compute_capability == "60"
    with imagined(free=1000):
        kept = [cupy.zeros(100, np.float32)]
        with pytest.raises(OutOfMemoryError, match="800 bytes"):
            kept.append(cupy.zeros(100))
        kept.clear()
        cupy.zeros(100)


def test_freed_memory_stays_for_the_stream_it_was_allocated_on(cupy: Any) -> None:
    """CuPy's pool gives a block back to its stream, whose next user comes after what waits there;
    another stream may be using it already."""
    f = kernel(cupy, "out[0] = *x;", "const float* x, float* out")
    stream, other = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    out = cupy.zeros(1, np.float32)
    cupy.cuda.get_current_stream().synchronize()
    for home, right in ((stream, True), (other, False)):
        with home:
            x = cupy.full(1, 7, np.float32)
        home.synchronize()
        with stream:
            f((1,), (1,), (x, out))
        del x
        if right:
            stream.synchronize()
            assert out.get()[0] == 7
        else:
            with pytest.raises(KernelError, match="memory that was freed before its turn came"):
                stream.synchronize()


def test_what_a_table_points_to_is_used_as_an_argument_is(cupy: Any) -> None:
    """As the resident kernel's table of networks: written on the default stream and not waited for,
    or on another device, is seen."""
    code = """struct Row { const float* x; float* out; };
        extern "C" __global__ void kernel(const Row* table) { table->out[0] = *table->x; }"""
    f = cupy.RawModule(code=code).get_function("kernel")
    stream = cupy.cuda.Stream(non_blocking=True)

    def launch(x: Any, out: Any) -> None:
        words = np.array([x.data.ptr, out.data.ptr], np.uint64).view(np.uint8)
        with stream:
            table = cupy.empty(16, np.uint8)
            table.set(words, stream=stream)
            f((1,), (1,), (table,))
        stream.synchronize()

    x, out = cupy.full(1, 7, np.float32), cupy.zeros(1, np.float32)
    cupy.cuda.get_current_stream().synchronize()
    launch(x, out)
    assert out.get()[0] == 7
    x.fill(8)
    with pytest.raises(KernelError, match=r"by a table of addresses: .* nobody has waited"):
        launch(x, out)
    with imagined(devices=2):
        with cupy.cuda.Device(1):
            there = cupy.zeros(1, np.float32)
            cupy.cuda.get_current_stream().synchronize()
        with pytest.raises(KernelError, match="uses memory of device 1"):
            launch(there, out)


def test_work_in_a_dropped_stream_is_missed(cupy: Any) -> None:
    f = kernel(cupy, "out[0] = 1;", "float* out")
    out = cupy.zeros(1, np.float32)
    cupy.cuda.get_current_stream().synchronize()

    def run(waits: bool) -> None:
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            f((1,), (1,), (out,))
        if waits:
            stream.synchronize()
        del stream
        gc.collect()  # what waits knows its stream: a circle

    with imagined():
        run(waits=True)
    with pytest.raises(KernelError, match="left in a stream that was dropped"), imagined():
        run(waits=False)


def test_devices_may_differ(cupy: Any) -> None:
    runtime, device = cupy.cuda.runtime, cupy.cuda.Device
    with imagined(devices=2, second={"multiprocessors": 3, "compute_capability": "80"}):
        found = [runtime.getDeviceProperties(i) for i in range(2)]
        assert [p["multiProcessorCount"] for p in found] == [8, 3]
        assert [p["major"] for p in found] == [9, 8]
        assert [device(i).compute_capability for i in range(2)] == ["90", "80"]
        with device(1):
            stream = cupy.cuda.Stream(non_blocking=True)
            assert device().attributes["MultiProcessorCount"] == 3
        f = kernel(cupy, "out[0] = 1;", "float* out")
        out = cupy.zeros(1, np.float32)
        cupy.cuda.get_current_stream().synchronize()
        with stream, pytest.raises(KernelError, match="in a stream of device 1"):
            f((1,), (1,), (out,))
