"""The multilayer perceptron: sizes, activations, cost, parameters, and what can be asked of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from . import backprop as equations
from .activation import Activation, Softmax, get_activations
from .alone import training_alone
from .arrays import (
    as_generator,
    as_input,
    as_targets,
    check_count,
    check_x,
    check_y,
    classes_of,
    names_classes,
    row_chunks,
)
from .backend import Backend, get_backend
from .backprop import Gradients
from .checkpoint import read
from .checkpoint import save as write
from .classes import check_classes, check_inputs, check_targets
from .cost import Cost, check_pair, example_cost, get_cost
from .history import History
from .initialise import Initialiser, draw, get_initialiser
from .optimizer import Optimizer
from .parameters import LayerArrays, Parameters
from .printable import brief, figure
from .schedule import Schedule
from .settings import Settings, Shuffle
from .sgd import fit as sgd_fit
from .training import Training
from .weighting import ClassWeight, check_weights

if TYPE_CHECKING:
    from .explain import GradCheck, Health, Trace

P = ParamSpec("P")
R = TypeVar("R")


def _at_home(method: Callable[Concatenate[Network, P], R]) -> Callable[Concatenate[Network, P], R]:
    """Run a method on the network's device. Diverged weights show in the outputs and the cost, not
    in NumPy's warnings."""

    @wraps(method)
    def run(self: Network, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.backend.device(), np.errstate(over="ignore", invalid="ignore"):
            return method(self, *args, **kwargs)

    return run


@dataclass(frozen=True)
class Evaluation:
    """The mean cost over the examples, without penalties, and the share that is classified right
    (``None`` where y does not name classes, or the network tells none)."""

    cost: float
    accuracy: float | None

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f", accuracy {100 * self.accuracy:.2f}%"
        return f"cost {figure(self.cost)}{accuracy}"


class Network:
    """A multilayer perceptron trained by backpropagation.

    Args:
        sizes: neurons a layer, input first: ``[784, 30, 10]``.
        activation: a name, a formula in z or an :class:`~gpubp.Activation`, for all layers or one
            a layer with weights: sigmoid, tanh, relu, leaky_relu, elu, selu, gelu, silu, softplus,
            softsign, identity, and softmax for the output.
        cost: quadratic (1/2 ||y - a||^2), sum_squares (||y - a||^2), cross_entropy,
            log_likelihood, huber, a formula in a and y or a :class:`~gpubp.Cost`.
        backend: "cpu" (Numba), "cuda" (CuPy and CUDA C) or "reference" (plain NumPy).
        rng: seed of all randomness, of the initial weights and the order of examples: an int, a
            ``numpy.random.Generator``, a ``SeedSequence`` or ``None`` for fresh entropy.
        init: normal, scaled, glorot, he, lecun, orthogonal, or a callable
            (rng, n_out, n_in) -> (w, b).
        dtype: "float32" or "float64".
        precision: arithmetic of the products of training on a GPU: ``None`` for the dtype's own,
            "tf32" or "bf16" for tensor cores, which round each operand to 11 or 8 significant bits
            and add up in float32. Weights, updates and everything outside ``fit`` stay float32.

    ``classes`` may be set to the names of the classes, ``inputs`` to those of the inputs and
    ``targets`` to that of the labels or those of the real targets, which are saved with the
    network; labels stay numbers everywhere. The command line finds the columns of a file by the
    names of the inputs and targets.

    Raises:
        ValueError, TypeError: one sentence, for what cannot be a network.
        BackendUnavailable: with the reason and the cure.
    """

    classes: tuple[str, ...] | None = None
    inputs: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str | Activation | Softmax | Sequence[str | Activation | Softmax] = "sigmoid",
        cost: str | Cost = "quadratic",
        backend: str | Backend = "cpu",
        rng: int | np.random.Generator | np.random.SeedSequence | None = None,
        init: str | Initialiser = "scaled",
        dtype: Any = "float32",
        precision: str | None = None,
    ) -> None:
        try:
            sizes = list(sizes)
        except TypeError:
            raise TypeError(f"sizes={brief(sizes)} must be a list such as [784, 30, 10]") from None
        if len(sizes) < 2:
            raise ValueError(f"sizes={sizes} needs at least an input and an output layer")
        self.sizes = tuple(check_count(n, f"sizes[{i}]") for i, n in enumerate(sizes))
        try:
            self.dtype = np.dtype(dtype).name
        except TypeError:
            self.dtype = str(dtype)
        if dtype is None or self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype={brief(dtype)} must be 'float32' or 'float64'")
        self.activations = get_activations(activation, len(self.sizes) - 1)
        self.cost = get_cost(cost)
        check_pair(self.activations, self.cost)
        self.backend = get_backend(backend)
        self.precision = self.backend.check_precision(precision, self.dtype)
        self.rng = as_generator(rng)
        self.training: Training | None = None
        with self.backend.device():
            self.parameters = _allocate(self.backend.xp, self.sizes, self.dtype)
        initialise = get_initialiser(init)
        for l, (n_in, n_out) in enumerate(pairwise(self.sizes)):
            self.weights[l], self.biases[l] = draw(initialise, self.rng, n_out, n_in)

    def __repr__(self) -> str:
        names = [brief(activation.name) for activation in self.activations]
        activation = names[0] if len(set(names)) == 1 else f"[{', '.join(names)}]"
        precision = f", precision={self.precision!r}" if self.precision else ""
        return (
            f"Network({list(self.sizes)}, activation={activation}, cost={brief(self.cost.name)}, "
            f"backend={self.backend.name!r}, dtype={self.dtype!r}{precision})"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("weights", "biases"):
            raise AttributeError(f"assign one layer at a time: {name}[i] = array")
        if name == "classes":
            value = check_classes(value, self.sizes[-1])
        elif name == "inputs":
            value = check_inputs(value, self.sizes[0])
        elif name == "targets":
            value = check_targets(value, self.sizes[-1])
        super().__setattr__(name, value)

    @property
    def weights(self) -> LayerArrays:
        """w^l (n_l, n_{l-1}) for l = 2 .. L; ``net.weights[i] = array`` copies the array in."""
        return self.parameters.weights

    @property
    def biases(self) -> LayerArrays:
        """b^l (n_l,) for l = 2 .. L; ``net.biases[i] = array`` copies the array in."""
        return self.parameters.biases

    @property
    def history(self) -> History:
        """The history of the last call of ``fit``, also of an interrupted one."""
        return History() if self.training is None else self.training.history

    def check_data(self, x: Any, y: Any, name: str = "") -> tuple[Any, Any]:
        """x (n, n_1) and y (n,) or (n, n_L) as the equations take them, or one sentence why not.

        ``name`` stands before x and y in it.
        """
        xp = self.backend.xp
        x = check_x(xp, x, self.sizes[0], self.dtype, f"{name}x")
        y = check_y(xp, y, x.shape[0], self.sizes[-1], self.dtype, f"{name}y")
        if (
            self.cost.unit_interval
            and y.ndim == 2
            and not 0 <= float(y.min()) <= float(y.max()) <= 1
        ):
            first = int(((y < 0) | (y > 1)).reshape(-1).argmax())
            raise ValueError(
                f"{name}y holds the target {float(y.reshape(-1)[first]):g}, first in row "
                f"{first // y.shape[1]}, but cost {brief(self.cost.name)} needs targets "
                "between 0 and 1"
            )
        return x, y

    @_at_home
    def feedforward(self, x: Any) -> Any:
        """a^L (n, n_L) for x (n, n_1), an array of the backend; uint8 is read as x/255."""
        xp = self.backend.xp
        x = check_x(xp, x, self.sizes[0], self.dtype)
        out = xp.empty((x.shape[0], self.sizes[-1]), self.dtype)
        for rows, _, a in self._forward_chunks(x):
            out[rows] = a
        return out

    @_at_home
    def backprop(self, x: Any, y: Any) -> Gradients:
        """z, a, delta, nabla_b, nabla_w and cost by BP1-BP4, for x (m, n_1) and y (m,) or (m, n_L).

        ``delta`` is per example; ``cost``, ``nabla_b`` and ``nabla_w`` belong to the mean cost over
        the rows given. Lists run over l = 2 .. L.
        """
        xp = self.backend.xp
        x, y = self.check_data(x, y)
        return equations.backprop(
            xp,
            self.backend.kernels,
            self.weights,
            self.biases,
            self.activations,
            self.cost,
            as_input(xp, x, self.dtype),
            as_targets(xp, y, self.sizes[-1], self.dtype),
        )

    @_at_home
    def trace(self, x: Any, y: Any) -> Trace:
        """z, a, sigma'(z), delta, nabla_b and nabla_w of every layer for each example, labelled
        with the equation that made it: see :func:`gpubp.explain.trace`."""
        from .explain import trace

        return trace(self, x, y)

    @_at_home
    def gradcheck(self, x: Any, y: Any) -> GradCheck:
        """BP1-BP4 against the complex step and central differences, array by array; which equation
        is wrong when one is: see :func:`gpubp.explain.gradcheck`."""
        from .explain import gradcheck

        return gradcheck(self, x, y)

    @_at_home
    def health(self, x: Any, y: Any = None, learning_rate: float | None = None) -> Health:
        """Saturated, dead and slowly learning layers, with advice: see
        :func:`gpubp.explain.health`."""
        from .explain import health

        return health(self, x, y, learning_rate)

    @property
    def is_classifier(self) -> bool:
        """Whether ``predict`` gives classes: all networks but those of one output whose activation
        leaves [0, 1], such as identity, and whose classes have no names; these are for a
        regression."""
        bounded = self.activations[-1].in_unit_interval
        return self.sizes[-1] > 1 or bounded or self.classes is not None

    @_at_home
    def predict(self, x: Any) -> np.ndarray[Any, Any]:
        """The class of each row, (n,) int64: the largest output; of one output, whether a > 0.5.

        Of one output whose activation leaves [0, 1], such as identity: the output itself, (n,) of
        the network's dtype, as a regression's prediction. Where several outputs are each a real
        number, use ``feedforward``, which gives all of them.
        """
        a = self.feedforward(x)
        return self.backend.asnumpy(
            classes_of(self.backend.xp, a) if self.is_classifier else a[:, 0]
        )

    @_at_home
    def predict_proba(self, x: Any) -> np.ndarray[Any, Any]:
        """The probability of each class (n, classes): softmax outputs as they are, others scaled to
        sum to 1 (one output: 1 - a and a); they must lie between 0 and 1, as sigmoid's do."""
        if not self.activations[-1].in_unit_interval:
            raise ValueError(
                "predict_proba needs outputs between 0 and 1, which activation "
                f"{brief(self.activations[-1].name)} does not give: use feedforward for the outputs"
            )
        a = self.backend.asnumpy(self.feedforward(x))
        if a.shape[1] == 1:
            return np.concatenate([1 - a, a], axis=1)
        if isinstance(self.activations[-1], Softmax):
            return a
        # All-zero rows (every output saturated low) become uniform instead of 0/0.
        a = a + np.finfo(a.dtype).tiny
        return np.asarray(a / a.sum(axis=1, keepdims=True))

    @_at_home
    def evaluate(self, x: Any, y: Any, sample_weight: Any = None) -> Evaluation:
        """Mean cost and accuracy over x (n, n_1) and y, in bounded memory; with ``sample_weight``
        (n,) s_i, sum_i s_i C_i / sum_i s_i and the same of the examples that are right.

        Accuracy is the share of rows whose class (see ``predict``) is that of y; y names classes
        as labels, as unit vectors, or for one output as 0 and 1. It is ``None`` for other targets,
        and where ``predict`` gives no classes.
        """
        x, y = self.check_data(x, y)
        return self.evaluate_checked(x, y, check_weights(self.backend.xp, sample_weight, len(y)))

    @_at_home
    def evaluate_checked(self, x: Any, y: Any, weights: Any = None) -> Evaluation:
        """``evaluate`` for what has been through its checks, as the loop's validation has."""
        xp, score = self.backend.xp, getattr(self.backend.kernels, "score", None)
        n: float = x.shape[0] if weights is None else float(weights.sum())
        total: float
        right: float
        if score is not None and weights is None:
            total, right = score(self.parameters, self.activations, self.cost, x, y)
        else:
            total, right = 0.0, 0.0
            for rows, z, a in self._forward_chunks(x):
                targets = as_targets(xp, y[rows], self.sizes[-1], self.dtype)
                s = xp.ones(len(a)) if weights is None else xp.asarray(weights[rows])
                c = example_cost(xp, self.activations[-1], self.cost, z, a, targets)
                total += float((s * c).sum(dtype=float))
                right += float((s * (classes_of(xp, a) == classes_of(xp, targets))).sum())
        judged = self.is_classifier and names_classes(y)
        return Evaluation(total / n, right / n if judged else None)

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float | Schedule | Callable[[int], float],
        optimizer: str | Optimizer = "sgd",
        momentum: float = 0.0,
        nesterov: bool = False,
        l2: float = 0.0,
        l1: float = 0.0,
        clip_norm: float | None = None,
        shuffle: Shuffle = True,
        sample_weight: Any = None,
        class_weight: ClassWeight = None,
        validation: tuple[Any, ...] | None = None,
        callbacks: Sequence[Any] = (),
        progress: bool | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> History:
        """Train by mini-batch SGD; returns the history, one row an epoch.

        Args:
            x: (n, n_1) floats, or uint8 intensities read as x/255: an array, a DataFrame of numbers
                or, on the CPU, a SciPy sparse matrix. Whole numbers from 0 to 255, some above 127,
                of another dtype bring an :class:`~gpubp.IntensityWarning`.
            y: (n,) integer labels, or (n, n_L) targets.
            epochs: passes over the examples; with ``resume`` counted from the run's beginning.
            batch_size: m; the last mini-batch of an epoch may be smaller and is divided by its own
                size.
            learning_rate: eta, a :mod:`gpubp.schedule` or a callable of the epoch.
            optimizer: "sgd", "adam", "adamw", "nadam", "rmsprop", "adagrad", "lion", or an object
                of :mod:`gpubp.optimizer` with settings of its own.
            momentum, nesterov: the short form of ``optimizer=gpubp.optimizer.SGD(...)``.
            l2, l1: coefficients of 1/2 ||w||^2 and |w|_1 beside the mean cost; the book's
                lambda / n. Biases are not penalised.
            clip_norm: the gradient of cost and penalties, over all weights and biases, is made no
                longer than this: multiplied by min(1, clip_norm / (||g|| + 10^-6)), as by PyTorch's
                clip_grad_norm_. All of it must be there first, which costs memory of its size and,
                on a GPU, the ways that train in one launch.
            shuffle: draw a new order each epoch; ``False`` keeps the order given; a callable
                (rng, n) -> indices makes its own.
            sample_weight: (n,) weights s_i that are not negative: the cost of a mini-batch is
                sum_i s_i C_i / sum_i s_i.
            class_weight: of labels, {class: weight}, 1 for those that it does not name, or
                "balanced", n / (classes * examples of the class); multiplied with the above.
            validation: a pair (x, y) or a triple (x, y, sample_weight), evaluated after each epoch.
            callbacks: :class:`~gpubp.Callback` objects such as :class:`~gpubp.EarlyStopping`, or
                functions called after each epoch.
            progress: ``None`` shows a progress bar on a terminal only; ``True`` always, ``False``
                never.
            checkpoint: a file that holds the run, to within 5 seconds (or ten times what writing it
                takes): written at step boundaries, at the end, on Ctrl-C and on divergence. All
                that writing needs is tried before training.
            resume: continue the run that this network carries, after Ctrl-C or ``gpubp.load``:
                same order of examples, optimizer's state and history, bit for bit.

        Raises:
            ValueError, TypeError: one sentence on what cannot be trained with.
            RuntimeError: this network is in training already, by another thread or by the fit
                whose callback calls this one.
            DivergenceError: the cost or the weights left the finite numbers; the network keeps the
                last finite weights.
            KeyboardInterrupt: Ctrl-C, at a step boundary; the network keeps its weights. SIGTERM
                and SIGHUP too, in the main thread and where nobody else handles them.
            CheckpointError: training ended, and its last checkpoint could not be written; the
                network keeps its weights.
        """
        with training_alone([self]), self.backend.device():
            settings = Settings(
                epochs, batch_size, learning_rate, optimizer, momentum, nesterov, l2, l1, clip_norm,
                shuffle, class_weight,
            )  # fmt: skip
            return sgd_fit(
                self, x, y, settings, sample_weight=sample_weight, validation=validation,
                callbacks=callbacks, progress=progress, checkpoint=checkpoint, resume=resume,
            )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write network and training state to one safetensors file, atomically, with a digest.

        Raises ``OSError`` where that cannot be, ``ValueError`` or ``TypeError`` for what could not
        be loaded again: weights that are NaN, a bit generator of your own."""
        write(self, path)

    @staticmethod
    def load(
        path: str | os.PathLike[str], backend: str | Backend = "cpu", precision: str | None = None
    ) -> Network:
        """The network saved in ``path``; see :func:`gpubp.load`."""
        return load(path, backend, precision)

    def _forward_chunks(self, x: Any) -> Iterator[tuple[slice, Any, Any]]:
        """(rows, z^L, a^L) over checked x, never holding more than about 32 MiB of layers."""
        xp = self.backend.xp
        for rows in row_chunks(x.shape[0], 2 * sum(self.sizes) * np.dtype(self.dtype).itemsize):
            z, a = equations.feedforward(
                xp, self.weights, self.biases, self.activations, as_input(xp, x[rows], self.dtype)
            )
            yield rows, z[-1], a[-1]


def _allocate(xp: Any, sizes: tuple[int, ...], dtype: str) -> Parameters:
    try:
        return Parameters(xp, sizes, dtype)
    except (MemoryError, ValueError, OverflowError) as error:
        count = sum(n_out * (n_in + 1) for n_in, n_out in pairwise(sizes))
        needed = count * np.dtype(dtype).itemsize
        raise MemoryError(
            f"sizes={list(sizes)} are {count:,} weights and biases, {needed:,} bytes of {dtype}, "
            "more than this machine can hold: choose smaller layers"
        ) from error


def load(
    path: str | os.PathLike[str], backend: str | Backend = "cpu", precision: str | None = None
) -> Network:
    """The network saved in ``path``, on any backend, ready to predict or to resume its training.

    Like the backend, ``precision`` is no part of a checkpoint: give it again to go on in it.

    A ``UserWarning`` says that a file is of an older version, which has no digest.

    Raises:
        DataFormatError: the file is not a checkpoint of gpubp, or a byte of it is damaged.
        FileNotFoundError: there is no such file.
    """
    return read(Network, path, backend, precision)
