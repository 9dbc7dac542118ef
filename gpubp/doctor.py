"""``gpubp doctor``: what is installed, what the machine has, and whether the backends work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import tempfile
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .errors import BackendUnavailable
from .folders import cache_folder, user_cache
from .output import say

_PACKAGES = ("NumPy", "Numba", "llvmlite", "SciPy", "CuPy")
_CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")  # the names CuPy is installed by
_FEATURES = {
    "avx2": "AVX2", "fma": "FMA", "avx512f": "AVX-512F", "neon": "NEON", "sve": "SVE",
}  # fmt: skip
_BOUND = 1e-10  # on the weights after a few float64 steps on both backends


def doctor(args: Namespace) -> int:
    """Print the report; 0 where the CPU backend, and on a GPU the CUDA backend, compute what the
    reference computes, else 1."""
    say(f"gpubp      {__version__}")
    say(f"Python     {platform.python_version()} on {platform.platform()}")
    for name in _PACKAGES:
        say(f"{name:10} {_version(_CUPY if name == 'CuPy' else (name,))}")
    for name, describe in _REPORT.items():
        try:
            say(f"{name:10} {describe()}")
        except (ImportError, OSError, RuntimeError) as failure:  # what is broken is its subject
            say(f"{name:10} unknown ({' '.join(str(failure).split())})")
    failed = [name for name in ("cpu", *_cuda()) if not _passes(name)]
    return 1 if failed else 0


def _passes(backend: str) -> bool:
    try:
        error = self_test(backend)
    except (ImportError, OSError, RuntimeError, ValueError, MemoryError) as failure:
        reason = " ".join(str(failure).split())
        say(f"self-test  FAIL: backend {backend} raised {type(failure).__name__}: {reason}")
        return False
    verdict = "PASS" if error <= _BOUND else "FAIL"
    say(f"self-test  {verdict}: backend {backend} differs from reference by {error:.1e} in float64")
    return error <= _BOUND


def self_test(backend: str) -> float:
    """The largest difference of any weight after 12 steps of one small network from those of the
    reference."""
    from .network import Network

    rng = np.random.default_rng(0)
    x, y = rng.random((20, 7)), rng.integers(0, 3, 20)
    flat = []
    for name in ("reference", backend):
        net = Network([7, 5, 3], backend=name, dtype="float64", rng=1)
        net.fit(x, y, epochs=3, batch_size=6, learning_rate=1.0, progress=False)
        flat.append(net.backend.asnumpy(net.parameters.flat))
    return float(np.abs(flat[0] - flat[1]).max())


def _version(names: tuple[str, ...]) -> str:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _cpu_name() -> str:
    linux = Path("/proc/cpuinfo")
    for line in linux.read_text().splitlines() if linux.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _simd() -> str:
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    found = [label for name, label in _FEATURES.items() if features.get(name)]
    return f"{', '.join(found) or 'none'} (LLVM target {binding.get_host_cpu_name()})"


def _cores() -> str:
    cores = os.cpu_count() or 1
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else cores
    return f"{usable} of {cores} cores usable"


def _blas() -> str:
    built: Any = np.show_config(mode="dicts")
    blas = built.get("Build Dependencies", {}).get("blas", {})
    text = f"NumPy's {blas.get('name', 'unknown')} {blas.get('version', '')}".rstrip()
    if importlib.util.find_spec("threadpoolctl") is None:
        return f"{text}; threads unknown (pip install threadpoolctl shows them)"
    import_module("scipy.linalg")  # its BLAS is the one the CPU kernels call
    found = import_module("threadpoolctl").threadpool_info()
    pools = [pool for pool in found if pool["user_api"] == "blas"]
    loaded = (f"{p['internal_api']} {p['version']}, {p['num_threads']} threads" for p in pools)
    return f"{text}; loaded: {'; '.join(loaded)}"


def _engine() -> str:
    return str(import_module("gpubp.kernels.cpu.stepper").describe())


def _cuda() -> tuple[str, ...]:
    """The names of the CUDA backend's devices."""
    from .backend import get_backend

    try:
        runtime = get_backend("cuda").xp.cuda.runtime
    except BackendUnavailable:
        return ()
    return tuple(f"cuda:{index}" for index in range(runtime.getDeviceCount()))


def _gpu() -> str:
    from .backend import get_backend

    try:
        runtime = get_backend("cuda").xp.cuda.runtime
    except BackendUnavailable as error:
        return str(error)
    found = []
    for index in range(runtime.getDeviceCount()):
        gpu = runtime.getDeviceProperties(index)
        found.append(
            f"cuda:{index} {gpu['name'].decode()}, compute capability {gpu['major']}."
            f"{gpu['minor']}, {gpu['totalGlobalMem'] / 2**30:.0f} GiB"
        )
    driver, toolkit = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    versions = (f"{v // 1000}.{v % 1000 // 10}" for v in (driver, toolkit))
    return "; ".join(found) + "; the driver serves CUDA {}, CuPy uses {}".format(*versions)


def _stepper() -> str:
    from .backend import get_backend

    try:
        get_backend("cuda")
    except BackendUnavailable:
        return "none without a GPU"
    return str(import_module("gpubp.kernels.cuda.stepper").describe())


def _data_cache() -> str:
    return _size(Path(os.environ.get("GPUBP_DATA") or user_cache()), "*")


def _kernel_cache() -> str:
    return _kept(cache_folder() / "kernels")


def _size(folder: Path, pattern: str) -> str:
    if not folder.is_dir():
        return f"{folder}, not there yet"
    files = [file.stat().st_size for file in folder.glob(pattern) if file.is_file()]
    return f"{folder}, {len(files)} files, {sum(files) / 2**20:.1f} MiB"


def _kept(folder: Path) -> str:
    """What lies in the folder, and whether more can: by making a file there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return _size(folder, "**/*")
    except OSError as error:
        return (
            f"{folder} cannot be written ({error.strerror or error}): kernels that are not there "
            "are compiled anew in each process, which takes seconds: set GPUBP_CACHE to a folder "
            "that can be written"
        )


_REPORT = {
    "CPU": _cpu_name,
    "SIMD": _simd,
    "cores": _cores,
    "BLAS": _blas,
    "engine": _engine,
    "GPU": _gpu,
    "on a GPU": _stepper,
    "data": _data_cache,
    "kernels": _kernel_cache,
}
