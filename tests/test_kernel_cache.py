"""The kernel cache is a saving, never a condition: damaged, full, missing, or interrupted."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMPUTE = """
import warnings, sys
warnings.simplefilter("always")
import gpubp, numpy as np
from gpubp.activation import ACTIVATIONS
z = np.linspace(-3, 3, 21, dtype=np.float32).reshape(7, 3)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    kernels = gpubp.get_backend("cpu").kernels
    found = kernels.hadamard_sigma_prime(z, z, z, ACTIVATIONS["tanh"])
print(found.tobytes().hex())
print(*(" ".join(str(w.message).split()) for w in told), sep="\\n")
"""


def compute(environment: dict[str, str], code: str = COMPUTE) -> tuple[str, list[str]]:
    """(the bytes of what a kernel computed, what was warned of) of one process."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result, *told = done.stdout.splitlines()
    return result, [line for line in told if line]


def at(folder: Path) -> dict[str, str]:
    return os.environ | {"GPUBP_CACHE": str(folder)}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cache in which all that COMPUTE needs lies, and the result it ends with."""
    folder = tmp_path_factory.mktemp("filled")
    result, told = compute(at(folder))
    assert told == []
    assert compute(at(folder)) == (result, [])
    return folder, result


def files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".nbi", ".nbc"))
    assert len(found) >= 4
    return found


@pytest.mark.parametrize("damage", ["empty", "half", "a byte", "other files"])
def test_a_damaged_cache_is_made_anew_and_told_once(
    damage: str, filled: tuple[Path, str], tmp_path: Path
) -> None:
    folder, result = tmp_path / "cache", filled[1]
    shutil.copytree(filled[0], folder)
    draw = random.Random(0)
    for path in files(folder):
        content = bytearray(path.read_bytes())
        if damage == "empty":
            content = bytearray()
        elif damage == "half":
            content = content[: len(content) // 2]
        elif damage == "a byte":
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        else:
            content = bytearray(b"\x80\x04N.") * 9
        path.write_bytes(content)
    found, told = compute(at(folder))
    assert found == result
    assert len(told) == 1
    assert told[0].startswith("removed a damaged file from the kernel cache: ")
    assert "GPUBP_CACHE" in told[0]
    assert compute(at(folder)) == (result, [])  # it is whole again


def test_damaged_source_is_written_again(filled: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(filled[0], folder)
    for path in folder.rglob("gpubp_*.py"):
        path.write_bytes(b"\xff\x00half a fi")
    assert compute(at(folder)) == (filled[1], [])


def test_without_a_folder_it_compiles_and_says_so_once(
    filled: tuple[Path, str], tmp_path: Path
) -> None:
    """Root may write anywhere, but not below a file."""
    (tmp_path / "file").write_text("")
    found, told = compute(at(tmp_path / "file" / "cache"))
    assert found == filled[1]
    (line,) = told
    assert line.startswith("compiled kernels cannot be kept (")
    assert "Not a directory" in line
    assert line.endswith("set GPUBP_CACHE to a folder that can be written")


def test_a_full_disk_under_the_cache_is_told_once(filled: tuple[Path, str], tmp_path: Path) -> None:
    """No file may grow beyond 2,000 bytes: sources fit, machine code does not."""
    resource = pytest.importorskip("resource")
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    found, told = compute(at(tmp_path), code + COMPUTE)
    assert found == filled[1]
    (line,) = told
    assert "cannot be written (File too large)" in line
    leftovers = [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
    assert leftovers == []
    assert compute(at(tmp_path)) == (filled[1], [])


def test_no_home_at_all(filled: tuple[Path, str], tmp_path: Path) -> None:
    """A user without HOME and without an entry in passwd, as in containers; nothing called "~"."""
    code = (
        "import os, pwd\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody; os.chdir(" + repr(str(tmp_path)) + ")\n"
    )
    names = ("HOME", "GPUBP_CACHE", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    found, told = compute(environment, code + COMPUTE)
    assert found == filled[1]
    (line,) = told
    assert "there is no home folder: set HOME, or GPUBP_CACHE and GPUBP_DATA" in line
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_kernels_compile_is_one_keyboard_interrupt(tmp_path: Path) -> None:
    """At whatever moment: never lost, never another exception; the network is as before."""
    code = (
        "import sys, gpubp, numpy as np\n"
        "net = gpubp.Network([3, 2], rng=0); before = net.parameters.flat.copy()\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    net.fit(np.eye(3, dtype=np.float32), [0, 1, 0], epochs=10**8, batch_size=2,\n"
        "            learning_rate=1e-9)\n"
        "except KeyboardInterrupt as error:\n"
        "    assert error.__cause__ is error.__context__ is None, error.__context__\n"
        "    assert abs(net.parameters.flat - before).max() < 1e-3\n"
        "    print('interrupted', flush=True)\n"
    )
    for i, wait in enumerate((0.1, 0.9, 1.9)):
        child = subprocess.Popen(
            [sys.executable, "-c", code], env=at(tmp_path / str(i)), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(wait)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert (out, err, child.returncode) == ("interrupted\n", "", 0), wait
