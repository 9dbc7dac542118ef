"""How the tests call the command line in this process, and what they expect of its streams."""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

import gpubp
from gpubp.cli import main

TRAIN = "train --data t.npz --epochs 3 --batch-size 6"


def blobs(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes in five dimensions that a small network tells apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    centres = np.array([[0, 0, 0, 2, 2], [2, 0, 2, 0, 0], [0, 2, 2, 2, 0]])
    return (centres[y] + 0.3 * rng.standard_normal((n, 5))).astype(np.float32), y


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in ``folder``, with ``t.npz`` in it, where no data set of the user's is at hand."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GPUBP_DATA", raising=False)
    monkeypatch.delenv("GPUBP_DEBUG", raising=False)
    x, y = blobs(60)
    x_test, y_test = blobs(24, seed=1)
    np.savez("t.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)


def run(*words: str) -> tuple[int, str, str]:
    """``run("train --epochs 3", "--quiet")`` -> (exit code, stdout, stderr)."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main([part for word in words for part in shlex.split(word)])
    return code, out.getvalue(), err.getvalue()


def succeed(result: tuple[int, str, str]) -> list[str]:
    code, out, err = result
    assert (code, err) == (0, ""), err
    return out.splitlines()


def refuse(result: tuple[int, str, str], code: int = 2) -> str:
    """Nothing but one line on stderr that begins with the program's name."""
    assert result[0] == code
    assert re.fullmatch(r"gpubp: .{10,}\n", result[2]), result[2]
    return result[2]


def weights(path: str) -> list[np.ndarray]:
    net = gpubp.load(path)
    return [*map(np.asarray, net.weights), *map(np.asarray, net.biases)]
