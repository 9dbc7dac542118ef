"""The seam between CPU and GPU: an array library and a module of kernels, found by name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from .errors import BackendUnavailable, unknown

BACKENDS = ("reference", "cpu", "cuda")


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
        return array.get() if hasattr(array, "get") else np.asarray(array)

    def synchronize(self) -> None:
        """Wait until the device has done all it was given; at once on the CPU."""
        if self.xp is not np:
            self.xp.cuda.get_current_stream().synchronize()

    def __reduce__(self) -> tuple[Any, ...]:
        return get_backend, (self.name,)  # modules do not pickle; names do


def get_backend(name: str | Backend) -> Backend:
    """The backend ``"reference"`` (plain NumPy), ``"cpu"`` (Numba) or ``"cuda"`` (CuPy, CUDA C).

    It loads or raises :class:`~gpubp.BackendUnavailable` with the reason and the cure; nothing
    falls back silently, and no GPU is touched unless its backend is asked for.
    """
    if isinstance(name, Backend):
        return name
    if not isinstance(name, str):
        raise TypeError(f"backend={name!r} must be a name: one of {', '.join(BACKENDS)}")
    kind, _, index = name.partition(":")
    if kind not in BACKENDS or (index and (kind != "cuda" or not index.isdecimal())):
        raise unknown("backend", name, BACKENDS)
    if kind == "cuda":
        raise BackendUnavailable(
            f"backend {name!r} is not available: this version of gpubp has no CUDA kernels yet; "
            "use backend='cpu'"
        )
    try:
        kernels = importlib.import_module(f"gpubp.kernels.{kind}")
    except ImportError as error:
        raise BackendUnavailable(
            f"backend {name!r} could not be loaded ({error}): reinstall it with "
            "'pip install --upgrade gpubp'"
        ) from error
    return Backend(name, np, kernels)
