"""Compiled code that outlives the process: what is cached, where, and when it is out of date.

Numba caches what lies in a file and notices changes of that file only, but machine code here also
depends on the intrinsics it uses and on the width of the vectors. So generated source, and the
modules that use intrinsics, are compiled from copies in the user's cache folder, whose names hold
a digest of all that. Where no folder can be written, code is compiled anew in each process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from types import ModuleType

import numba
import platformdirs

from gpubp.kernels.cpu import simd

_HERE = Path(__file__).parent
_loading = threading.RLock()


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``$GPUBP_CACHE`` or the user's cache folder."""
    named = os.environ.get("GPUBP_CACHE")
    return (Path(named) if named else Path(platformdirs.user_cache_dir("gpubp"))) / "kernels"


@cache
def _foundation() -> bytes:
    """A digest of everything that generated code is built on."""
    digest = hashlib.sha256(f"{simd.REGISTER_BYTES} {numba.__version__}".encode())
    for name in ("simd", "rows", "calls", "vmath", "tile", "rule", "sparse"):
        digest.update((_HERE / f"{name}.py").read_bytes())
    return digest.digest()


def load_generated(text: str) -> ModuleType:
    """The module of this source, which says ``cache=True``: one, however many threads ask for it.

    Of two modules, one would be dropped, and with it the machine code whose address was taken.
    """
    with _loading:
        return _load(text)


@cache
def _load(text: str) -> ModuleType:
    name = f"gpubp_{hashlib.sha256(_foundation() + text.encode()).hexdigest()[:24]}"
    path = cache_folder() / f"{name}.py"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            with tempfile.NamedTemporaryFile(
                "w", dir=path.parent, delete=False, encoding="utf-8"
            ) as file:
                file.write(text)
            os.replace(file.name, path)  # another process may be doing the same
        return _import(name, path)
    except (OSError, RuntimeError) as error:
        # Numba's RuntimeError: the folder can be read, but nothing can be cached beside the file.
        if isinstance(error, RuntimeError) and "locator" not in str(error):
            raise
        module = ModuleType(name)
        exec(text.replace("cache=True", "cache=False"), module.__dict__)
        return module


def _import(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Numba finds it by name when it loads cached machine code
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@cache
def load_compiled(stem: str, folder: Path = _HERE) -> ModuleType:
    """The module ``stem`` of a folder, by default this one, compiled from a copy in the cache."""
    return load_generated((folder / f"{stem}.py").read_text(encoding="utf-8"))
