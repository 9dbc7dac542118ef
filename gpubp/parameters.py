"""Weights and biases: one flat buffer, seen layer by layer.

All weights come first, layer by layer, each (n_l, n_{l-1}) in row-major order, then all biases.
So the update, the checkpoint and the check for finite numbers are each one pass over one array,
and the part that penalties touch is a slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, SupportsIndex, overload

import numpy as np

from .frames import unmasked


class LayerArrays(Sequence[Any]):
    """The arrays of the layers l = 2 .. L, as views; assigning to one copies the values in."""

    def __init__(self, name: str, views: Sequence[Any]) -> None:
        self._name = name
        self._views = list(views)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        return self._views[index]

    def __setitem__(self, index: SupportsIndex | slice, value: Any) -> None:
        if isinstance(index, slice):
            raise TypeError(f"assign one layer at a time: {self._name}[i] = array")
        view = self._views[index]
        value = unmasked(value, f"{self._name}[{index}]")
        shape = getattr(value, "shape", None)
        if shape is None:
            value = np.asarray(value)
            shape = value.shape
        if tuple(shape) != tuple(view.shape):
            raise ValueError(
                f"{self._name}[{index}] has shape {tuple(view.shape)}, not {tuple(shape)}"
            )
        if not hasattr(view, "set"):
            view[...] = value
            return
        with view.device:  # which takes host values by copy only
            if hasattr(value, "__cuda_array_interface__"):
                view[...] = value
            else:
                view.set(np.ascontiguousarray(value, view.dtype))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        return f"{self._name}: " + ", ".join(str(tuple(view.shape)) for view in self._views)


class Parameters:
    """All weights, then all biases, in ``flat``; ``state`` (k, n) is what an optimizer keeps beside
    them, in k rows like it."""

    def __init__(self, xp: ModuleType, sizes: Sequence[int], dtype: Any) -> None:
        n = sum(n_in * n_out + n_out for n_in, n_out in pairwise(sizes))
        self.__setstate__((tuple(sizes), xp.zeros(n, dtype), xp.zeros((0, n), dtype)))

    def __getstate__(self) -> tuple[Any, ...]:
        # Views pickle as copies: keep the buffer, and look at it anew.
        return self.sizes, self.flat, self.state

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.sizes: tuple[int, ...] = state[0]
        self.flat: Any = state[1]
        self.state: Any = state[2]
        self.n_weights = sum(n_in * n_out for n_in, n_out in pairwise(self.sizes))
        weights, biases = self.views(self.flat)
        self.weights = LayerArrays("weights", weights)
        self.biases = LayerArrays("biases", biases)

    @property
    def all_weights(self) -> Any:
        """The weights of every layer as one flat view."""
        return self.flat[: self.n_weights]

    def views(self, flat: Any) -> tuple[list[Any], list[Any]]:
        """(weights, biases) as views of any flat array laid out like the parameters."""
        weights, biases = [], []
        w, b = 0, self.n_weights
        for n_in, n_out in pairwise(self.sizes):
            weights.append(flat[w : w + n_in * n_out].reshape(n_out, n_in))
            biases.append(flat[b : b + n_out])
            w, b = w + n_in * n_out, b + n_out
        return weights, biases
