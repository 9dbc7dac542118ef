"""Designing an activation: what the equations say about one of your own, beside another.

BP1 and BP2 need nothing of sigma but its derivative, so an activation can be designed for what it
does to delta: a factor sigma'(z) well under 1 at every layer makes it vanish, one over 1 explode.
:func:`design` shows sigma and sigma', delta on its way through ten layers, and training.

Source: M. Nielsen, Neural Networks and Deep Learning, chapter 2 (an activation whose derivative
never comes near 0) and chapter 5 (unstable gradients).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp import data as datasets
from gpubp.activation import Activation, Softmax, get_activation
from gpubp.arrays import check_count
from gpubp.backend import Backend
from gpubp.errors import DivergenceError
from gpubp.network import Network

from .text import plain, table

Array = np.ndarray[Any, Any]

_EXAMPLES, _BATCH = 200, 10


@dataclass(frozen=True)
class Portrait:
    """One activation: ``sigma`` and ``sigma_prime`` over ``Design.z``; ``delta_norms``, the root
    mean square of ||delta^l|| as a multiple of the output layer's, for l = 2 .. L; and of training
    ``costs`` and ``accuracies`` on unseen examples, before it and after each epoch, up to
    divergence if it diverged."""

    name: str
    formula: str
    derivative: str
    sigma: Array
    sigma_prime: Array
    delta_norms: Array
    costs: Array
    accuracies: Array
    diverged: bool


@dataclass(frozen=True)
class Design:
    """Two activations compared: ``portraits`` of the one designed and of the one beside it, over
    the same ``z``, weights and mini-batches; ``training`` says in words what was trained."""

    z: Array
    portraits: tuple[Portrait, Portrait]
    training: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found: dict[str, Any] = plain(self)
        return found

    def __repr__(self) -> str:
        rows = [("", *(p.name for p in self.portraits))]
        rows += [
            ("sigma", *(p.formula for p in self.portraits)),
            ("sigma'", *(p.derivative for p in self.portraits)),
            ("steepest", *(f"{np.abs(p.sigma_prime).max():.4g}" for p in self.portraits)),
            (
                f"delta^2 / delta^{len(self.portraits[0].delta_norms) + 1}",
                *(f"{p.delta_norms[0]:.3g}" for p in self.portraits),
            ),
            ("accuracy", *(_accuracy(p) for p in self.portraits)),
        ]
        return f"Design\n{table(rows)}\n{self.training}"

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A picture: sigma, sigma', delta through the layers, and training: a matplotlib Figure,
        written to ``path`` if given."""
        from .pictures import draw_design

        return draw_design(self, path)


def _accuracy(p: Portrait) -> str:
    shown = f"{100 * p.accuracies[-1]:.1f}%"
    return shown + (", then diverged" if p.diverged else f" after {len(p.accuracies) - 1} epochs")


def design(
    activation: str | Activation | Softmax,
    beside: str | Activation | Softmax = "sigmoid",
    *,
    layers: int = 10,
    epochs: int = 5,
    learning_rate: float = 0.1,
    init: Any = "lecun",
    examples: int = 2000,
    rng: int = 0,
    backend: str | Backend = "cpu",
) -> Design:
    """An activation of your own beside another: formulas, delta through many layers, training.

    Args:
        activation: a formula in z such as ``"z/(1 + abs(z))"``, a name or an Activation.
        beside: the one to compare it with.
        layers: how many layers of 30 such neurons delta travels through, from a linear output
            down; initial weights, random inputs.
        epochs, learning_rate, examples: of training [784, 30, 30, 10] on generated digits
            (:func:`gpubp.data.digits28`), sigmoid outputs, cross-entropy, mini-batches of 10.
        init: of all weights; ``"lecun"``: w ~ N(0, 1/n_in), b = 0.
        rng: the seed of weights, inputs and order of examples, the same for both.
        backend: of training.

    Raises:
        ValueError, TypeError: one sentence on an activation that cannot be used in hidden layers.
    """
    layers, epochs = check_count(layers, "layers"), check_count(epochs, "epochs", least=0)
    pair = [get_activation(item) for item in (activation, beside)]
    for item in pair:
        if isinstance(item, Softmax):
            raise ValueError("softmax is not elementwise: it has no sigma'(z) to design")
    x, y = datasets.digits28(check_count(examples, "examples", least=_BATCH) + 1000, rng=rng)
    z = np.linspace(-6, 6, 241)

    def portrait(sigma: Any) -> Portrait:
        a = sigma(np, z)
        costs, accuracies, diverged = _train(sigma, x, y, epochs, learning_rate, init, rng, backend)
        return Portrait(
            sigma.name, sigma.sigma.source, sigma.sigma_prime.source, a, sigma.prime(np, z, a),
            _delta_norms(sigma, layers, init, rng), costs, accuracies, diverged,
        )  # fmt: skip

    return Design(
        z,
        (portrait(pair[0]), portrait(pair[1])),
        f"trained: [784, 30, 30, 10] on {examples} generated digits, sigmoid outputs, "
        f"cross-entropy, eta {learning_rate:g}, mini-batches of {_BATCH}; judged by 1000 unseen",
    )


def _delta_norms(sigma: Activation, layers: int, init: Any, rng: int) -> Array:
    """||delta^l|| / ||delta^L||, root mean squares over random examples, l = 2 .. L."""
    sizes = [30] * (layers + 1) + [10]
    net = Network(sizes, activation=[sigma] * layers + ["identity"], backend="reference",
                  dtype="float64", init=init, rng=rng)  # fmt: skip
    draw = np.random.default_rng(rng)
    x, y = draw.standard_normal((_EXAMPLES, 30)), draw.standard_normal((_EXAMPLES, 10))
    norms = np.array([np.linalg.norm(delta) for delta in net.backprop(x, y).delta])
    return np.asarray(norms / norms[-1])


def _train(
    sigma: Activation, x: Any, y: Any, epochs: int, learning_rate: float, init: Any, rng: int,
    backend: str | Backend,
) -> tuple[Array, Array, bool]:  # fmt: skip
    """(costs, accuracies) on the last 1000 rows, before training and after each epoch."""
    net = Network([784, 30, 30, 10], activation=[sigma, sigma, "sigmoid"], cost="cross_entropy",
                  init=init, rng=rng, backend=backend)  # fmt: skip
    before, diverged = net.evaluate(x[-1000:], y[-1000:]), False
    try:
        net.fit(x[:-1000], y[:-1000], epochs=epochs, batch_size=_BATCH, progress=False,
                learning_rate=learning_rate, validation=(x[-1000:], y[-1000:]))  # fmt: skip
    except DivergenceError:
        diverged = True
    costs = [before.cost, *net.history.validation_cost]
    accuracies = [before.accuracy, *net.history.validation_accuracy]
    return np.array(costs, float), np.array(accuracies, float), diverged
