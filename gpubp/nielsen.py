"""The book's own calls and data shapes, trained by this library.

    training_data, validation_data, test_data = nielsen.load_data_wrapper()
    net = nielsen.Network([784, 30, 10])
    net.SGD(training_data, 30, 10, 3.0, test_data=test_data)

Here x, y, a, z and the biases are columns, (n_l, 1), and a data set is a list of pairs, as in the
programs of the book; ``net.network`` is the :class:`gpubp.Network` that does the work, in rows.
README's table maps the notations: w from-to or to-from, the cost with its 1/2 or without, rows or
columns, lambda or l2.

Source: M. Nielsen, Neural Networks and Deep Learning, chapters 1 to 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from . import data as datasets
from .activation import ACTIVATIONS
from .backend import Backend
from .cost import Cost
from .frames import unmasked
from .network import Network as RowNetwork
from .training import Training

Array = np.ndarray[Any, Any]
Example = tuple[Any, Any]

_SIGMOID = ACTIVATIONS["sigmoid"]


def sigmoid(z: Any) -> Any:
    """sigma(z) = 1/(1 + exp(-z)), of a number or an array."""
    return _SIGMOID(np, np.asarray(z, float))


def sigmoid_prime(z: Any) -> Any:
    """sigma'(z) = sigma(z)(1 - sigma(z)), of a number or an array."""
    a = sigmoid(z)
    return a * (1 - a)


def vectorized_result(j: int, classes: int = 10) -> Array:
    """The target of class j: a column (classes, 1) with 1.0 in row j."""
    target = np.zeros((classes, 1))
    target[j] = 1.0
    return target


def load_data_wrapper(source: str = "mnist") -> tuple[list[Example], list[Example], list[Example]]:
    """(training_data, validation_data, test_data) as lists of (x, y), x (n_1, 1) from 0 to 1.

    y is a column (classes, 1) in the training data and a class in the others. ``source`` is as for
    :func:`gpubp.data.load`; the last sixth of its training part is the validation data, so that of
    MNIST there are 50,000, 10,000 and 10,000.
    """
    (x, y), (x_test, y_test) = datasets.load(source)
    classes, rest = 1 + int(max(y.max(), y_test.max())), len(y) - len(y) // 6

    def columns(x: Array) -> list[Array]:
        return list((x / np.float32(255) if x.dtype == np.uint8 else x)[:, :, None])

    targets = [vectorized_result(j, classes) for j in y[:rest]]
    return (
        list(zip(columns(x[:rest]), targets, strict=True)),
        list(zip(columns(x[rest:]), y[rest:].tolist(), strict=True)),
        list(zip(columns(x_test), y_test.tolist(), strict=True)),
    )


class Network:
    """The book's network of sigmoid neurons, its weights and biases drawn from N(0, 1).

    Args:
        sizes: neurons a layer: [784, 30, 10].
        cost: "quadratic", 1/2 ||y - a||^2, as in chapters 1 and 2; "cross_entropy" as in chapter 3.
        backend, dtype, rng, init: as for :class:`gpubp.Network`; init="scaled" is chapter 3's.
    """

    def __init__(
        self, sizes: Sequence[int], *, cost: str | Cost = "quadratic",
        backend: str | Backend = "cpu", dtype: str = "float32", rng: Any = None,
        init: Any = "normal",
    ) -> None:  # fmt: skip
        self.network = RowNetwork(
            sizes, cost=cost, backend=backend, dtype=dtype, rng=rng, init=init
        )
        self.sizes = list(self.network.sizes)
        self.num_layers = len(self.sizes)

    @property
    def weights(self) -> list[Any]:
        """w^l (n_l, n_{l-1}) for l = 2 .. L, views; to be assigned as a list of as many."""
        return list(self.network.weights)

    @weights.setter
    def weights(self, arrays: Iterable[Any]) -> None:
        for l, w in self._by_layer("weights", arrays):
            self.network.weights[l] = w

    @property
    def biases(self) -> list[Any]:
        """b^l, columns (n_l, 1), for l = 2 .. L, views; to be assigned as a list of as many."""
        return [b.reshape(-1, 1) for b in self.network.biases]

    @biases.setter
    def biases(self, arrays: Iterable[Any]) -> None:
        for l, b in self._by_layer("biases", arrays):
            self.network.biases[l] = np.reshape(b, -1)

    def _by_layer(self, name: str, arrays: Iterable[Any]) -> Iterable[tuple[int, Any]]:
        found = list(arrays)
        if len(found) != self.num_layers - 1:
            raise ValueError(
                f"{name} must be a list of {self.num_layers - 1} arrays, one for each layer that "
                f"has them, not {len(found)}"
            )
        return enumerate(found)

    def feedforward(self, a: Any) -> Array:
        """a^L, a column (n_L, 1), for the input column a (n_1, 1)."""
        return self._host(self.network.feedforward(_rows([a], "a"))).T

    def SGD(
        self,
        training_data: Iterable[Example],
        epochs: int,
        mini_batch_size: int,
        eta: float,
        test_data: Iterable[Example] | None = None,
        *,
        lmbda: float = 0.0,
    ) -> None:
        """Train by mini-batch SGD, the examples in a fresh order each epoch, and print a line an
        epoch: how many of the test data are right.

        Args:
            training_data: pairs (x, y), x (n_1, 1) and y (n_L, 1).
            epochs, mini_batch_size, eta: how often, how many at a time, and the learning rate.
            test_data: pairs (x, y), y a class or a column; evaluated after each epoch.
            lmbda: chapter 3's regularisation lambda: l2 = lambda / n.
        """
        x, y = self._examples(training_data, "training_data")
        test = None if test_data is None else list(test_data)

        def report(training: Training) -> None:
            right = " complete" if test is None else f": {self.evaluate(test)} / {len(test)}"
            print(f"Epoch {training.history[-1].epoch}{right}", flush=True)

        self.network.fit(
            x, y, epochs=epochs, batch_size=min(mini_batch_size, len(x)), learning_rate=eta,
            l2=lmbda / len(x), callbacks=[report], progress=False,
        )  # fmt: skip

    def update_mini_batch(self, mini_batch: Iterable[Example], eta: float) -> None:
        """One step: w -= (eta/m) sum_x dC_x/dw, b -= (eta/m) sum_x dC_x/db over m pairs (x, y)."""
        x, y = self._examples(mini_batch, "mini_batch")
        self.network.fit(
            x, y, epochs=1, batch_size=len(x), learning_rate=eta, shuffle=False, progress=False
        )

    def backprop(self, x: Any, y: Any) -> tuple[list[Array], list[Array]]:
        """(nabla_b, nabla_w) of one example's cost, by BP1-BP4: columns (n_l, 1), and matrices
        (n_l, n_{l-1}), for l = 2 .. L."""
        g = self.network.backprop(_rows([x], "x"), _rows([y], "y"))
        return [self._host(b)[:, None] for b in g.nabla_b], list(map(self._host, g.nabla_w))

    def evaluate(self, test_data: Iterable[Example]) -> int:
        """How many of the pairs (x, y) are classified right; y is a class or a column."""
        pairs = list(test_data)
        if not pairs:
            return 0
        found = self.network.predict(_rows([x for x, _ in pairs], "test_data"))
        classes = [int(np.argmax(y)) if np.ndim(y) else int(y) for _, y in pairs]
        return int((found == np.array(classes)).sum())

    def cost_derivative(self, output_activations: Any, y: Any) -> Array:
        """grad_a C of the network's cost for columns a^L and y, (n_L, 1)."""
        a, y = np.asarray(output_activations, float), np.asarray(y, float)
        # A cost in a and y alone: z is not looked at.
        return np.asarray(self.network.cost.grad_a(np, z=np.zeros_like(a), a=a, y=y))

    def _examples(self, pairs: Iterable[Example], name: str) -> tuple[Array, Array]:
        examples = list(pairs)
        if not examples:
            raise ValueError(f"{name} holds no pairs (x, y)")
        try:
            xs, ys = zip(*examples, strict=True)
        except (TypeError, ValueError):
            raise ValueError(f"{name} must be a list of pairs (x, y)") from None
        return _rows(xs, name), _rows(ys, name)

    def _host(self, array: Any) -> Array:
        return self.network.backend.asnumpy(array)


def _rows(columns: Sequence[Any], name: str) -> Array:
    """Columns (n, 1) as the rows of one array (m, n)."""
    arrays = [np.asarray(unmasked(column, name)) for column in columns]
    for array in arrays:
        if array.ndim != 2 or array.shape[1] != 1:
            raise ValueError(
                f"{name} holds an array of shape {array.shape}, but must hold columns (n, 1): "
                "use array.reshape(-1, 1)"
            )
    try:
        return np.stack(arrays)[:, :, 0]
    except ValueError:
        raise ValueError(f"{name} holds columns of different lengths") from None
