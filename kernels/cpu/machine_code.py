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
import pickle
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import config
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    _CacheLocator,
    _SourceFileBackedLocatorMixin,
)
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


class _Sealed(IndexDataCacheFile):
    """Numba's index and data files, each behind a digest of its content."""

    def _dump(self, obj: Any) -> bytes:
        content: bytes = super()._dump(obj)
        return hashlib.sha256(content).digest() + content

    def _read(self, path: str) -> Any:
        """What a file holds; None where there is none, or one that cannot be used, which is
        removed."""
        try:
            sealed = Path(path).read_bytes()
        except FileNotFoundError:
            return None
        seal, content = sealed[:_DIGEST_BYTES], sealed[_DIGEST_BYTES:]
        with suppress(Exception):  # whole, but of a version whose classes are gone, say
            if hashlib.sha256(content).digest() == seal:
                return pickle.loads(content)
        tell(self._cache_path, f"removed a damaged file from the kernel cache: {path}")
        os.unlink(path)
        return None

    def _load_index(self) -> Any:
        match self._read(self._index_path):
            case (self._version, self._source_stamp, dict() as overloads):
                return overloads
        return {}  # none, or of another version

    def _save_index(self, overloads: Any) -> None:
        with self._open_for_write(self._index_path) as file:
            file.write(self._dump((self._version, self._source_stamp, overloads)))

    def _load_data(self, name: str) -> Any:
        data = self._read(self._data_path(name))
        if data is None:
            raise FileNotFoundError(name)  # as where another process has removed it
        return data


class _BesideSource(_SourceFileBackedLocatorMixin, _CacheLocator):
    """In ``__pycache__`` beside the source. Numba's own locators pass over a folder that cannot be
    written, although all may be there to be read."""

    def __init__(self, function: Any, file: str) -> None:
        self._py_file, self._lineno = file, function.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return os.path.join(os.path.dirname(self._py_file), "__pycache__")

    def ensure_cache_path(self) -> None:
        os.makedirs(self.get_cache_path(), exist_ok=True)

    @classmethod
    def from_function(cls, function: Any, file: str) -> Any:
        return cls(function, file) if os.path.exists(file) else None


class _Entries(CompileResultCacheImpl):
    _locator_classes = [_BesideSource]  # noqa: RUF012  (it is the base's)


class _Kept(FunctionCache):
    """Numba's cache of one function, which never fails."""

    _impl_class = _Entries

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = _Sealed(
            cache_path=self._cache_path, filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )  # fmt: skip

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        # Of any kind: whole, but not what this version makes machine code of.
        except Exception as error:
            self._tell("read", error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            self._tell("written", error)
            with suppress(OSError):  # an index that names data which is not there
                self.flush()

    def _tell(self, what: str, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or error
        folder = self._cache_path
        tell(folder, f"the kernel cache {folder} cannot be {what} ({reason})")


def _keep(compiled: Any, function: Any) -> None:
    """Give what Numba compiles from ``function`` a cache, where there is a folder for one."""
    try:
        compiled._cache = _Kept(function)
    except (RuntimeError, OSError):
        # There is no source file, as generated.py has told. Numba's stand-in for a cache, which
        # keeps nothing, stays.
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

    dispatcher.compile = compiled  # type: ignore[method-assign]
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
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise BackendUnavailable(
            "NUMBA_DISABLE_JIT=1 turns off the compiler of backend 'cpu' and of digits28: unset "
            "it, or use backend='reference' and other data"
        )
