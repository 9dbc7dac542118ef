"""Initial weights and biases, drawn on the host in float64, so that every backend starts alike.

An initialiser is a function of (rng, n_out, n_in) that returns w (n_out, n_in) and b (n_out,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import as_array, check_finite
from .errors import unknown

Initialiser = Callable[[np.random.Generator, int, int], tuple[Any, Any]]


def normal(rng: np.random.Generator, n_out: int, n_in: int) -> tuple[Any, Any]:
    """w, b ~ N(0, 1): chapter 1 of the book; wide layers start saturated."""
    b = rng.standard_normal(n_out)
    return rng.standard_normal((n_out, n_in)), b


def scaled(rng: np.random.Generator, n_out: int, n_in: int) -> tuple[Any, Any]:
    """w ~ N(0, 1/n_in), b ~ N(0, 1): chapter 3 of the book; z starts at the scale of 1."""
    b = rng.standard_normal(n_out)
    return rng.standard_normal((n_out, n_in)) / math.sqrt(n_in), b


def glorot(rng: np.random.Generator, n_out: int, n_in: int) -> tuple[Any, Any]:
    """w ~ U(-r, r) with r = sqrt(6/(n_in + n_out)), b = 0: Glorot and Bengio, 2010."""
    r = math.sqrt(6 / (n_in + n_out))
    return rng.uniform(-r, r, (n_out, n_in)), np.zeros(n_out)


def he(rng: np.random.Generator, n_out: int, n_in: int) -> tuple[Any, Any]:
    """w ~ N(0, 2/n_in), b = 0: He et al., 2015, for relu and its relatives."""
    return rng.standard_normal((n_out, n_in)) * math.sqrt(2 / n_in), np.zeros(n_out)


def lecun(rng: np.random.Generator, n_out: int, n_in: int) -> tuple[Any, Any]:
    """w ~ N(0, 1/n_in), b = 0: LeCun et al., 1998, for tanh; Klambauer et al., 2017, for selu."""
    return rng.standard_normal((n_out, n_in)) / math.sqrt(n_in), np.zeros(n_out)


def orthogonal(rng: np.random.Generator, n_out: int, n_in: int) -> tuple[Any, Any]:
    """w with orthonormal rows or columns, b = 0: Saxe et al., 2014."""
    q, r = np.linalg.qr(rng.standard_normal((max(n_out, n_in), min(n_out, n_in))))
    q *= np.sign(np.diag(r))  # makes the distribution uniform over the orthogonal matrices
    return (q if n_out >= n_in else q.T), np.zeros(n_out)


INITIALISERS: dict[str, Initialiser] = {
    function.__name__: function for function in (normal, scaled, glorot, he, lecun, orthogonal)
}

_ELSEWHERE = {
    **dict.fromkeys(("xavier", "xavieruniform", "glorotuniform"), "glorot"),
    **dict.fromkeys(("kaiming", "kaimingnormal", "henormal"), "he"),
    "lecunnormal": "lecun",
}  # what other libraries call them


def get_initialiser(init: str | Initialiser) -> Initialiser:
    """The initialiser of that name, or the callable itself."""
    if callable(init):
        return init
    if not isinstance(init, str) or init not in INITIALISERS:
        raise unknown("initialiser", init, INITIALISERS, _ELSEWHERE)
    return INITIALISERS[init]


def draw(init: Initialiser, rng: np.random.Generator, n_out: int, n_in: int) -> list[Any]:
    """[w, b] as the initialiser draws them, once they are finite numbers."""
    drawn = init(rng, n_out, n_in)
    if not isinstance(drawn, tuple | list) or len(drawn) != 2:
        raise ValueError("init must return two arrays, w (n_out, n_in) and b (n_out,)")
    arrays = [as_array(np, part, f"{name} of init") for name, part in zip("wb", drawn, strict=True)]
    for name, array in zip("wb", arrays, strict=True):
        check_finite(np, array, f"{name} of init")
    return arrays
