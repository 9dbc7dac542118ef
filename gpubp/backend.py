"""The seam between CPU and GPU: an array library and a module of kernels, found by name."""

from __future__ import annotations

import importlib
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from .errors import BackendUnavailable, unknown

BACKENDS = ("reference", "cpu", "cuda")
PRECISIONS = ("tf32", "bf16")
_ELSEWHERE = {
    **dict.fromkeys(("gpu", "nvidia", "cupy"), "cuda"), "numpy": "reference", "numba": "cpu",
}  # fmt: skip
TENSOR_CORES = 80  # the compute capability, times ten, whose tensor cores have these


@dataclass(frozen=True)
class Backend:
    """``xp`` (numpy or cupy) and ``kernels`` (a module of gpubp.kernels with the three names)."""

    name: str
    xp: ModuleType
    kernels: ModuleType

    def asarray(self, array: Any, dtype: Any = None) -> Any:
        """``array`` on this backend's device."""
        return self.xp.asarray(array, dtype=dtype)

    def asnumpy(self, array: Any) -> np.ndarray[Any, Any]:
        """``array`` as a NumPy array on the host."""
        if not hasattr(array, "get"):
            return np.asarray(array)
        with array.device:
            return np.asarray(array.get())

    def device(self) -> AbstractContextManager[Any]:
        """Inside it, arrays are made and kernels run on this backend's GPU; nothing on the CPU."""
        if self.xp is np:
            return nullcontext()
        device: AbstractContextManager[Any] = self.xp.cuda.Device(
            int(self.name.partition(":")[2] or 0)
        )
        return device

    def check_precision(self, precision: str | None, dtype: str) -> str | None:
        """``precision`` if products of this dtype can be computed in it here, else one sentence."""
        if precision is None:
            return None
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        way_out = f"precision={precision!r} rounds products of float32 on a GPU: leave it out"
        if self.xp is np:
            raise ValueError(f"{way_out}, or use backend='cuda' instead of {self.name!r}")
        if dtype != "float32":
            raise ValueError(f"{way_out}, or use dtype='float32' instead of {dtype!r}")
        with self.device() as device:
            capability = int(device.compute_capability)
        if capability < TENSOR_CORES:
            raise ValueError(
                f"precision={precision!r} needs a GPU of compute capability 8.0 (Ampere, 2020), "
                f"and backend {self.name!r} has {capability / 10}: leave precision out"
            )
        return precision

    def near(self, array: Any) -> Any:
        """``array`` on the device if it takes no more than a quarter of the memory free there, for
        what is used again and again; else as it is."""
        if self.xp is np or array.nbytes > self.xp.cuda.runtime.memGetInfo()[0] // 4:
            return array
        return self.xp.asarray(array)

    def synchronize(self) -> None:
        """Wait until the device has done all it was given; at once on the CPU."""
        if self.xp is not np:
            self.xp.cuda.get_current_stream().synchronize()

    def __reduce__(self) -> tuple[Any, ...]:
        return get_backend, (self.name,)  # modules do not pickle; names do


def get_backend(name: str | Backend) -> Backend:
    """The backend ``"reference"`` (plain NumPy), ``"cpu"`` (Numba) or ``"cuda"`` (CuPy, CUDA C).

    ``"cuda"`` is the first GPU that CUDA shows, ``"cuda:1"`` the second.
    It loads or raises :class:`~gpubp.BackendUnavailable` with the reason and the cure; nothing
    falls back silently, and no GPU is touched unless its backend is asked for.
    """
    if isinstance(name, Backend):
        return name
    if not isinstance(name, str):
        raise TypeError(f"backend={name!r} must be a name: one of {', '.join(BACKENDS)}")
    kind, _, index = name.partition(":")
    if kind not in BACKENDS or (index and (kind != "cuda" or not index.isdecimal())):
        bare = re.sub(r"[\W_]", "", name).casefold()
        other = bare.rstrip("0123456789")  # of "gpu:1" and "GPU1"
        meant, number = _ELSEWHERE.get(other, ""), bare[len(other) :].lstrip("0")
        meant += f":{number}" if meant == "cuda" and number else ""
        raise unknown("backend", name, BACKENDS, {bare: meant})
    xp = _cupy(name, int(index or 0)) if kind == "cuda" else np
    try:
        kernels = importlib.import_module(f"gpubp.kernels.{kind}")
    except ImportError as error:
        raise BackendUnavailable(
            f"backend {name!r} could not be loaded ({error}): reinstall it with "
            "'pip install --upgrade gpubp'"
        ) from error
    return Backend(name, xp, kernels)


# Compute capability: Volta, which CUDA 13 no longer compiles for, and Turing.
OLDEST_GPU, OLDEST_BY_CUDA_13 = (7, 0), (7, 5)
OLDEST_CUPY = (14, 2)
_INSUFFICIENT_DRIVER, _NO_DEVICE = 35, 100  # CUDA's numbers for what getDeviceCount answers


def _cupy(name: str, index: int) -> ModuleType:
    """CuPy, after making sure that it can compile for and reach the GPU of that index."""

    def unavailable(reason: str, cure: str) -> BackendUnavailable:
        return BackendUnavailable(
            f"backend {name!r} is not available: {reason}; {cure}, or use backend='cpu'"
        )

    extra = "pip install 'gpubp[cuda13]' (or 'gpubp[cuda12]' for drivers before 580)"
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
        reason = "CuPy is not installed" if missing else f"CuPy does not load ({_line(error)})"
        raise unavailable(reason, extra) from error
    if tuple(map(int, cupy.__version__.split(".")[:2])) < OLDEST_CUPY:
        raise unavailable(f"CuPy {cupy.__version__} is too old", extra)
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == _INSUFFICIENT_DRIVER:
            raise unavailable(
                "there is no NVIDIA driver here, or one too old for the installed CuPy",
                "install or update the driver until nvidia-smi lists the GPU",
            ) from error
        if error.status != _NO_DEVICE:
            raise unavailable(f"CUDA does not start ({_line(error)})", "see nvidia-smi") from error
        count = 0
    if not count:
        raise unavailable(
            "the driver sees no GPU", "see nvidia-smi, and CUDA_VISIBLE_DEVICES if it is set"
        )
    if index >= count:
        raise unavailable(f"there is no GPU {index}", f"choose from 'cuda:0' to 'cuda:{count - 1}'")
    version = runtime.getDeviceProperties(index)
    has = f"GPU {index} has compute capability {version['major']}.{version['minor']}"
    if (version["major"], version["minor"]) < OLDEST_GPU:
        raise unavailable(has, "use one of at least {}.{} (Volta, 2017)".format(*OLDEST_GPU))
    try:
        nvrtc = cupy.cuda.nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        raise unavailable(f"NVRTC, which compiles the kernels, does not load ({_line(error)})",
                          extra) from error  # fmt: skip
    if nvrtc >= (13, 0) and (version["major"], version["minor"]) < OLDEST_BY_CUDA_13:
        raise unavailable(f"{has}, for which CUDA 13 does not compile",
                          "pip install 'gpubp[cuda12]' instead of cuda13")  # fmt: skip
    return cupy


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
