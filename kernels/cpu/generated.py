"""Compiled code that outlives the process: what is cached, where, and when it is out of date.

Numba caches what lies in a file and notices changes of that file only, but machine code here also
depends on the intrinsics it uses and on the width of the vectors. So generated source, and the
modules that use intrinsics, are compiled from copies in the user's cache folder, whose names hold
a digest of all that. Where no folder can be written, code is compiled anew in each process.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType

import numba

from gpubp.folders import cache_folder as gpubps_cache
from gpubp.kernels.cpu import simd
from gpubp.kernels.cpu.machine_code import tell

_HERE = Path(__file__).parent
_ABANDONED = 3600.0  # seconds after which nobody writes a file any more
_loading = threading.RLock()


def cache_folder() -> Path:
    """Where compiled kernels are kept; ``OSError`` where there is no place for a cache."""
    return gpubps_cache() / "kernels"


@cache
def _foundation() -> bytes:
    """A digest of everything that generated code is built on."""
    digest = hashlib.sha256(f"{simd.REGISTER_BYTES} {numba.__version__}".encode())
    for name in ("simd", "rows", "calls", "vmath", "tile", "penalty", "sparse"):
        digest.update((_HERE / f"{name}.py").read_bytes())
    return digest.digest()


def load_generated(text: str) -> ModuleType:
    """The module of this source, whose machine code is kept: one, however many threads ask for it.

    Of two modules, one would be dropped, and with it the machine code whose address was taken.
    """
    with _loading:
        return _load(text)


@cache
def _load(text: str) -> ModuleType:
    name = f"gpubp_{hashlib.sha256(_foundation() + text.encode()).hexdigest()[:24]}"
    try:
        path = cache_folder() / f"{name}.py"
        _write(path, text)
    except OSError as error:
        where = error.filename2 or error.filename
        reason = f"{where}: {error.strerror}" if error.strerror and where else str(error)
        tell("", f"compiled kernels cannot be kept ({reason})")
        path = Path(f"<{name}>")  # no file
    # Not imported: Python's own file of bytecode has no digest, and a damaged one may crash it.
    module = ModuleType(name)
    code = compile(text, path, "exec", dont_inherit=True)
    sys.modules[name] = module  # Numba finds it by name when it loads cached machine code
    try:
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _write(path: Path, text: str) -> None:
    """Make the file hold the text, at any moment whole; another process may be doing the same."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (FileNotFoundError, UnicodeDecodeError):
        pass  # not there yet, or damaged
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    part = path.with_name(f"{path.name}.tmp.{secrets.token_hex(8)}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed, or lost their power, left half written."""
    for part in folder.rglob("*.tmp.*"):
        with suppress(OSError):  # another process was faster
            if time.time() - part.stat().st_mtime > _ABANDONED:
                part.unlink()


@cache
def load_compiled(stem: str, folder: Path = _HERE) -> ModuleType:
    """The module ``stem`` of a folder, by default this one, compiled from a copy in the cache."""
    return load_generated((folder / f"{stem}.py").read_text(encoding="utf-8"))
