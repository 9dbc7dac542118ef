"""The kernel cache is a saving, never a condition: damaged, full, missing, or interrupted."""

from __future__ import annotations

import hashlib
import os
import pickle
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


def sealed(content: bytes) -> bytes:
    """A file that is whole: what its seal vouches for may still be of no use."""
    return hashlib.sha256(content).digest() + content


@pytest.mark.parametrize("damage", ["empty", "half", "a byte", "other files", "other classes"])
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
        elif damage == "other files":
            content = bytearray(b"\x80\x04N.") * 9
        else:
            content = bytearray(sealed(b"cnumba\nNoSuchClass\n."))
        path.write_bytes(content)
    found, told = compute(at(folder))
    assert found == result
    assert len(told) == 1
    assert told[0].startswith("removed a damaged file from the kernel cache: ")
    assert "GPUBP_CACHE" in told[0]
    assert compute(at(folder)) == (result, [])  # it is whole again


@pytest.mark.parametrize(("kind", "content"), [("nbi", 7), ("nbi", ("0", b"", {})), ("nbc", 7)])
def test_a_file_of_another_form_is_passed_over(
    kind: str, content: object, filled: tuple[Path, str], tmp_path: Path
) -> None:
    """Whole, but of another version of Numba or of gpubp."""
    shutil.copytree(filled[0], tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob(f"*.{kind}"):
        path.write_bytes(sealed(pickle.dumps(content)))
    assert compute(at(tmp_path))[0] == filled[1]
    assert compute(at(tmp_path)) == (filled[1], [])


def test_nothing_lies_in_the_cache_that_has_no_seal(tmp_path: Path) -> None:
    """Python would keep bytecode there, which crashes the interpreter when it is damaged."""
    environment = {k: v for k, v in at(tmp_path).items() if k != "PYTHONDONTWRITEBYTECODE"}
    compute(environment)
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".py", ".nbi", ".nbc"}


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "kernels" / "__pycache__"
    folder.mkdir(parents=True)
    old, new = folder / "gpubp_0.train-1.py311.nbi.tmp.0", folder.parent / "gpubp_0.py.tmp.1"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    compute(at(tmp_path))
    assert [path.name for path in tmp_path.rglob("*.tmp.*")] == [new.name]


def test_a_cache_that_can_only_be_read_is_read(filled: tuple[Path, str], tmp_path: Path) -> None:
    """As in an image of a container, for a user without a home: nothing compiles, nothing is said.
    Root may write anywhere, so every opening for writing is refused here."""
    code = (
        "import errno, os, sys\n"
        "def read_only(event, args):\n"
        "    writes = event == 'open' and args[2] & (os.O_WRONLY | os.O_RDWR)\n"
        "    if event == 'os.mkdir' or writes and isinstance(args[0], str):\n"
        "        raise OSError(errno.EROFS, os.strerror(errno.EROFS), args[0])\n"
        "sys.addaudithook(read_only)\n"
    )
    end = (
        "from gpubp.kernels.cpu.generated import load_compiled\n"
        "assert not load_compiled('contiguous').hadamard.stats.cache_misses\n"
    )
    assert compute(at(filled[0]) | {"HOME": "/proc/none"}, code + COMPUTE + end) == (filled[1], [])
    found, (line,) = compute(at(tmp_path), code + COMPUTE)  # the refusal is one
    assert found == filled[1]
    assert "Read-only file system" in line


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
