"""Machine code that outlives the process: Numba's cache on disk, which may be damaged or missing.

A cache is a saving, never a condition: whatever cannot be read, or be written, is compiled instead,
and told once. Entries carry a digest, because a power cut leaves files of the right name and the
wrong bytes, and damaged machine code does not raise, it crashes.

While code is compiled, Ctrl-C waits for the end of that compilation: inside LLVM an exception is
lost, and inside Numba it turns into another one.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import config
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

from gpubp.errors import BackendUnavailable
from gpubp.interrupt import uninterrupted

_DIGEST_BYTES = hashlib.sha256().digest_size
_told: set[str] = set()  # folders that were complained of


class CacheWarning(UserWarning):
    """Compiled kernels could not be kept, or what was kept could not be used."""


def tell(folder: Path | str, what: str) -> None:
    """Warn, once for each folder and process."""
    if str(folder) in _told:
        return
    _told.add(str(folder))
    warnings.warn(
        f"{what}; kernels are compiled anew where they are not kept: set GPUBP_CACHE to a folder "
        "that can be written",
        CacheWarning,
        stacklevel=2,
    )


class _Sealed(IndexDataCacheFile):  # type: ignore[misc]
    """Numba's index and data files, each behind a digest of its content."""

    def _dump(self, obj: Any) -> bytes:
        content: bytes = super()._dump(obj)
        return hashlib.sha256(content).digest() + content

    def _opened(self, path: str) -> bytes | None:
        """The content of a file; None where there is none, or a damaged one, which is removed."""
        try:
            sealed = Path(path).read_bytes()
        except FileNotFoundError:
            return None
        seal, content = sealed[:_DIGEST_BYTES], sealed[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() == seal:
            return content
        tell(self._cache_path, f"removed a damaged file from the kernel cache: {path}")
        os.unlink(path)
        return None

    def _load_index(self) -> Any:
        content = self._opened(self._index_path)
        if content is None:
            return {}
        version, stamp, overloads = _loads(content)
        fresh = version == self._version and stamp == self._source_stamp
        return overloads if fresh else {}

    def _save_index(self, overloads: Any) -> None:
        with self._open_for_write(self._index_path) as file:
            file.write(self._dump((self._version, self._source_stamp, overloads)))

    def _load_data(self, name: str) -> Any:
        content = self._opened(self._data_path(name))
        if content is None:
            raise FileNotFoundError(name)  # as where another process has removed it
        return _loads(content)


def _loads(content: bytes) -> Any:
    import pickle

    return pickle.loads(content)


class _Kept(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, which never fails."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = _Sealed(
            cache_path=self._cache_path, filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )  # fmt: skip

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        # Of any kind: sealed by a version whose classes are gone, say.
        except Exception as error:
            tell(self._cache_path, f"the kernel cache {self._cache_path} cannot be read ({error})")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            reason = error.strerror or error
            tell(
                self._cache_path,
                f"the kernel cache {self._cache_path} cannot be written ({reason})",
            )
            with suppress(OSError):  # an index that names data which is not there
                self.flush()


def _keep(compiled: Any, function: Any) -> None:
    """Give what Numba compiles from ``function`` a cache, where there is a folder for one."""
    try:
        compiled._cache = _Kept(function)
    except (RuntimeError, OSError):
        # No folder beside the source, nor Numba's own, can be written: see generated.py, which
        # has told it. Numba's stand-in for a cache, which keeps nothing, stays.
        return


def kept_jit(function: Any) -> Any:
    """``njit`` in the way of all kernels here, its machine code kept."""
    check_compiler()
    dispatcher = njit(nogil=True, error_model="numpy", boundscheck=False)(function)
    _keep(dispatcher, function)
    compile_it = dispatcher.compile

    def compiled(sig: Any) -> Any:
        with uninterrupted():
            return compile_it(sig)

    dispatcher.compile = compiled
    return dispatcher


def kept_cfunc(signature: Any) -> Callable[[Any], Any]:
    """``cfunc`` of that signature, compiled now, its machine code kept."""

    def decorate(function: Any) -> Any:
        options = {"error_model": "numpy"}
        callback = CFunc(function, normalize_signature(signature), locals={}, options=options)
        _keep(callback, function)
        with uninterrupted():
            callback.compile()
        return callback

    return decorate


def check_compiler() -> None:
    """``BackendUnavailable`` where Numba was told to compile nothing: no kernel runs as Python."""
    if config.DISABLE_JIT:
        raise BackendUnavailable(
            "NUMBA_DISABLE_JIT=1 turns off the compiler of backend 'cpu' and of digits28: unset "
            "it, or use backend='reference' and other data"
        )
