"""NVRTC, which needs neither GPU nor driver: what a kernel takes of a multiprocessor."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from . import build


@dataclass(frozen=True)
class Usage:
    """What ptxas says of a kernel: registers a thread, bytes spilled, bytes of shared memory."""

    registers: int
    spilled: int
    stack: int
    shared: int


class NVRTCError(Exception):
    """The compiler's log."""


@cache
def library() -> Any:
    """libnvrtc, from the system or from the wheel that cuda-toolkit[nvrtc] brings; None without."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(each) for each in spec.submodule_search_locations or ()] if spec else []
    wheels = sorted(path for folder in folders for path in folder.glob("*/lib/libnvrtc.so.*"))
    for path in (*wheels, "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"):
        try:
            if isinstance(path, Path):  # NVRTC looks for its built-in functions by name
                for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
                    ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None


def usage(text: str, arch: str, kernel: str) -> Usage:
    """``compiled``, once for each text, architecture and version of NVRTC."""
    content = "\0".join([version(), arch, kernel, text])
    kept = build.folder() / f"nvrtc-{hashlib.sha256(content.encode()).hexdigest()[:24]}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        found = json.dumps(asdict(compiled(text, arch, kernel)))
        with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False) as file:
            file.write(found)
        os.replace(file.name, kept)
    return Usage(**json.loads(kept.read_text()))


def compiled(text: str, arch: str, kernel: str) -> Usage:
    """Compile to the machine code of ``arch`` ("sm_90") as CuPy does, and read ptxas's report."""
    nvrtc = library()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    source, name = text.encode(), f"{kernel}.cu".encode()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name, 0, None, None):
        raise NVRTCError("nvrtcCreateProgram failed")
    options = [f"-arch={arch}".encode(), b"-std=c++17", b"--ptxas-options=-v"]
    failed = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*options)
    )
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    said = log.value.decode()
    if failed:
        raise NVRTCError(said)

    def number(pattern: str) -> int:
        found = re.search(pattern, said)
        if found is None:
            raise NVRTCError(f"no {pattern!r} in the log:\n{said}")
        return int(found[1])

    shared = re.search(r"(\d+) bytes smem", said)
    return Usage(
        number(r"Used (\d+) registers"),
        number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        number(r"(\d+) bytes stack frame"),
        int(shared[1]) if shared else 0,
    )


def version() -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"
