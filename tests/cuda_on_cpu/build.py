"""CUDA C text -> a shared library for the CPU, compiled once for each content.

The text is what NVRTC would get. g++ gets it behind ``cuda.h``, with one construct rewritten, in
its place and on its line: a declaration of shared memory, for which C++ has no equal,

    __shared__ float tile[16][17];        ->  float (&tile)[16][17] = gpu::shared<...>([] {});
    extern __shared__ float memory[];     ->  float* const memory = ... gpu::dynamic_shared();

and with a table of the kernels at its end. ``MODE`` is "plain", or the sanitizer to build with:
"thread" or "address" (with "undefined"). A sanitizer's library must be loaded before all else, so
these two are for a process of its own: see ``sanitized``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODE = os.environ.get("GPUBP_CUDA_ON_CPU", "plain")
_SANITIZER = {"thread": "tsan", "address": "asan"}
_MODES = {
    "plain": ["-O1"],
    "thread": ["-O1", "-g1", "-fsanitize=thread", "-Wno-tsan"],
    # -fno-sanitize=vptr: plain functions have none, and it would need another library.
    # -O0: to compile takes half the time, and longer than to run.
    "address": ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize=vptr",
                "-fno-sanitize-recover=all"],
}  # fmt: skip
_COMMON = ["-std=c++17", "-fPIC", "-fno-strict-aliasing", "-fno-exceptions",
           "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-Wall", "-Wno-unknown-pragmas",
           "-Wno-unused", "-Wno-comment"]  # fmt: skip


class Parameter(ctypes.Structure):
    """One parameter of a kernel, as ``cuda.h`` describes it: ``kind`` as NumPy names it."""

    _fields_ = (("pointer", ctypes.c_char), ("kind", ctypes.c_char), ("bytes", ctypes.c_short))


class Kernel(ctypes.Structure):
    """One kernel of a library."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("run", ctypes.c_void_p),
        ("parameters", ctypes.POINTER(Parameter)),
        ("count", ctypes.c_int),
        ("most_threads", ctypes.c_int),
        ("cluster", ctypes.c_int),
    )


class CompileError(Exception):
    """What g++ said of a kernel's text."""


def missing(mode: str = MODE) -> str | None:
    """Why kernels cannot be built here in this mode, or None."""
    if shutil.which("g++") is None:
        return "g++ is not installed: apt-get install g++"
    if mode != "plain" and _sanitizer_library(mode) is None:
        return f"g++ has no -fsanitize={mode} here (lib{_SANITIZER[mode]} is missing)"
    return None


@cache
def _sanitizer_library(mode: str) -> str | None:
    name = f"lib{_SANITIZER[mode]}.so"
    path = _run(["g++", f"-print-file-name={name}"]).stdout.strip()
    return path if os.path.isabs(path) else None


_DECLARATION = re.compile(
    r"(?P<dynamic>extern\s+)?__shared__\s+(?P<align>(?:__align__|alignas)\s*\([^)]*\)\s*)?"
    r"(?P<type>(?:(?:unsigned|long)\s+)*[\w:]+(?:\s*<[^;<>]*>)?)\s+(?P<name>\w+)\s*(?P<shape>(?:\[[^\]]*\]\s*)*);"
)
_KERNEL = re.compile(
    r"__global__\s+(?:void\s+)?(?:__launch_bounds__\s*\((?P<bounds>(?:[^()]|\([^()]*\))*)\)\s*)?"
    r"(?:#if.*\s+)?(?:__cluster_dims__\s*\((?P<cluster>[^()]*)\)\s*)?(?:#endif\s+)?"
    r"(?:void\s+)?(?P<name>\w+)\s*\("
)


def _without_comments(text: str) -> str:
    """The text with its comments as blanks, line for line."""

    def blank(found: re.Match[str]) -> str:
        return found[0] if found[0][0] in "\"'" else re.sub(r"[^\n]", " ", found[0])

    return re.sub(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', blank, text, flags=re.DOTALL)


def translated(text: str) -> str:
    """The text as C++: shared memory declared as cuda.h has it, and the table of kernels."""
    text = _without_comments(text)

    def declare(found: re.Match[str]) -> str:
        kind, name, shape = found["type"], found["name"], found["shape"].strip()
        lines = "\n" * found[0].count("\n")
        if found["dynamic"]:
            return f"{kind}* const {name} = static_cast<{kind}*>(gpu::dynamic_shared());{lines}"
        reference = f"(&{name})" if shape else f"&{name}"
        return f"{kind} {reference}{shape} = gpu::shared<{kind}{shape}>([] {{}});{lines}"

    text = _DECLARATION.sub(declare, text)
    for found in re.finditer(r"^(?!\s*#).*\b__shared__\b.*$", text, re.MULTILINE):
        line = text.count("\n", 0, found.start()) + 1
        raise CompileError(
            f"kernel.cu:{line}: cannot rewrite {found[0].strip()!r}: declare one shared array a "
            "statement, '__shared__ T name[n];' or 'extern __shared__ T name[];'"
        )
    kernels = [
        f"CUDA_KERNEL({k['name']}, ({k['bounds'] or 1024}), ({k['cluster'] or 1}))"
        for k in _KERNEL.finditer(text)
    ]
    if not kernels:
        raise CompileError("kernel.cu: no __global__ function")
    return f"{text}\nCUDA_KERNELS({', '.join(dict.fromkeys(kernels))})\n"


def folder() -> Path:
    """Where what has been compiled is kept."""
    import platformdirs

    root = os.environ.get("GPUBP_CACHE") or platformdirs.user_cache_dir("gpubp", appauthor=False)
    return Path(root) / "cuda_on_cpu"


def _compiled(source: str, flags: Sequence[str], name: str) -> Path:
    """What g++ makes of this C++ text, from the cache where it has been made before."""
    command = ["g++", *_COMMON, *flags]
    header = (HERE / "cuda.h").read_text()
    content = "\0".join([_version(), *command, header, source])
    digest = hashlib.sha256(content.encode()).hexdigest()[:24]
    path = folder() / name.format(digest)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as place:
            text, built = Path(place) / "text", Path(place) / "built"
            text.write_text(source)
            done = _run([*command, str(text), "-o", str(built)])
            if done.returncode:
                raise CompileError(done.stderr)
            os.replace(built, path)
    return path


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # A sanitizer that is loaded before all else must not look at the compiler, too.
    clean = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=clean)


@cache
def _version() -> str:
    return _run(["g++", "-v"]).stderr


@cache
def runtime(mode: str = MODE) -> ctypes.CDLL:
    """runtime.cpp, loaded so that kernels find it; not instrumented, whatever the mode."""
    flags = ["-O2", "-shared", f"-DMODE_{mode.upper()}", f"-I{HERE}", "-x", "c++"]
    path = _compiled((HERE / "runtime.cpp").read_text(), flags, f"{mode}-{{}}.so")
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library.gpu_launch.restype = ctypes.c_char_p
    library.gpu_launch.argtypes = [
        ctypes.POINTER(Kernel), ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_uint),
        ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int,
    ]  # fmt: skip
    return library


@cache
def compile_kernels(
    text: str, defines: tuple[str, ...] = (), mode: str = MODE
) -> dict[str, Kernel]:
    """The kernels of a CUDA C text by name, with ``-D`` options as RawModule takes them."""
    runtime(mode)
    source = f'#include "cuda.h"\n#line 1 "kernel.cu"\n{translated(text)}'
    # cuda.h takes longer to read than a kernel to compile: it is read once for all of them.
    header = (HERE / "cuda.h").read_text()
    read = _compiled(header, [*_MODES[mode], "-x", "c++-header"], f"{mode}-{{}}/cuda.h.gch")
    # -Bsymbolic: a kernel may have the name of a function elsewhere in this process.
    flags = [*_MODES[mode], *defines, "-shared", "-Wl,-Bsymbolic", f"-I{read.parent}", "-x", "c++"]
    library = ctypes.CDLL(str(_compiled(source, flags, f"{mode}-{{}}.so")))
    count = ctypes.c_int.in_dll(library, "gpu_kernel_count").value
    kernels = (Kernel * count).in_dll(library, "gpu_kernels")
    return {kernel.name.decode(): kernel for kernel in kernels}


def run(
    command: Sequence[str], limit: float, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run, of a program that may do anything: it and its children end with the limit
    in seconds, which then is the last line of stderr, with a returncode of -SIGKILL."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace", env=env, start_new_session=True,
    ) as child:  # fmt: skip
        try:
            out, err = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            out, err = child.communicate()
            err += f"\nno end within {limit} s"
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def environment(mode: str, first: bool = False) -> dict[str, str]:
    """Of a process whose kernels are built in that mode. With ``first`` it ends with the first
    race; what is out of bounds always ends it."""
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "GPUBP_CUDA_ON_CPU": mode}
    if mode == "plain":
        return os.environ | one_thread
    library = _sanitizer_library(mode)
    assert library is not None, missing(mode)
    return (
        os.environ
        | one_thread
        | {
            "LD_PRELOAD": library,
            "TSAN_OPTIONS": "exitcode=66 history_size=4 suppress_equal_addresses=0"
            f" halt_on_error={int(first)}",
            "ASAN_OPTIONS": "detect_leaks=0 exitcode=66 verify_asan_link_order=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
    )


def sanitized(
    mode: str, script: Path, *arguments: str, first: bool = False, limit: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a Python script whose kernels are built with that sanitizer; its output is the report."""
    return run([sys.executable, str(script), *arguments], limit, environment(mode, first))
