"""NVRTC, which needs neither GPU nor driver: what it makes of a kernel, and what that takes."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
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


_OPTIONS = ("-std=c++17",)


class NVRTCError(Exception):
    """The compiler's log."""


def _folders() -> list[Path]:
    """Where NVIDIA's wheels are."""
    spec = importlib.util.find_spec("nvidia")
    return [Path(each) for each in spec.submodule_search_locations or ()] if spec else []


@cache
def library() -> Any:
    """libnvrtc, from the system or from the wheel that cuda-toolkit[nvrtc] brings; None without."""
    wheels = sorted(path for folder in _folders() for path in folder.glob("*/lib/libnvrtc.so.*"))
    for path in (*wheels, "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"):
        try:
            if isinstance(path, Path):  # NVRTC looks for its built-in functions by name
                for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
                    ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None


@cache
def disassembler() -> Path | None:
    """nvdisasm, from the wheel that cuda-toolkit[nvdisasm] brings (6 MB) or from the system."""
    found = [path for folder in _folders() for path in folder.glob("*/bin/nvdisasm*")]
    system = shutil.which("nvdisasm")
    return found[0] if found else Path(system) if system else None


def kept(name: str, content: Sequence[str], make: Callable[[], str]) -> str:
    """What ``make`` gives for this content and version of NVRTC, made once."""
    digest = hashlib.sha256("\0".join([version(), *content]).encode()).hexdigest()[:24]
    path = build.folder() / name.format(digest)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = make()
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(made)
        os.replace(file.name, path)
    return path.read_text()


def ptx(text: str, arguments: Sequence[str]) -> str:
    """The PTX of a text, compiled with these options."""
    return _made(text, arguments, "PTX")[0].rstrip(b"\0").decode()


def machine_code(text: str, arch: str) -> str:
    """The machine code of ``arch`` ("sm_90"), as nvdisasm writes it."""

    def make() -> str:
        code, _ = _made(text, [f"-arch={arch}", "-std=c++17", "-ftz=true"], "CUBIN")
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(code)
            file.flush()
            command = [str(disassembler()), "-c", file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return kept("sass-{}.txt", [arch, text], make)


def usage(text: str, arch: str, kernel: str, options: Sequence[str] = _OPTIONS) -> Usage:
    """``compiled``, once for each text, architecture and version of NVRTC."""
    found = kept(
        "nvrtc-{}.json", [arch, kernel, *options, text],
        lambda: json.dumps(asdict(compiled(text, arch, kernel, options))),
    )  # fmt: skip
    return Usage(**json.loads(found))


def compiled(text: str, arch: str, kernel: str, options: Sequence[str] = _OPTIONS) -> Usage:
    """Compile to the machine code of ``arch`` ("sm_90") as CuPy does, with RawModule's ``options``
    and its own, and read ptxas's report."""
    asked = [f"-arch={arch}", *options, "-ftz=true", "--ptxas-options=-v"]
    _, said = _made(text, asked, None)

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


def _made(text: str, arguments: Sequence[str], what: str | None) -> tuple[bytes, str]:
    """ "PTX" or "CUBIN" of a text, if that is wanted, and the compiler's log."""
    nvrtc = library()
    program = ctypes.c_void_p()

    def get(what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        found = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{what}")(program, found)
        return found.raw

    source = text.encode()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernel.cu", 0, None, None):
        raise NVRTCError("nvrtcCreateProgram failed")
    given = (ctypes.c_char_p * len(arguments))(*(a.encode() for a in arguments))
    failed = nvrtc.nvrtcCompileProgram(program, len(arguments), given)
    said = get("ProgramLog").rstrip(b"\0").decode()
    made = b"" if failed or what is None else get(what)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise NVRTCError(said)
    return made, said


def version() -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"
