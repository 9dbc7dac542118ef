"""The one mini-batch SGD loop of the library.

It draws the order of the examples, cuts it at the next event (a progress tick, a callback, an
interrupt, a change of the learning rate), hands each piece to the backend's stepper, and looks at
the costs that come back. How the pieces are cut never changes a bit of weights or history.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import as_input, check_count, module_of
from .backprop import feedforward
from .callbacks import as_callbacks
from .errors import DivergenceError
from .history import Epoch, History
from .interrupt import deferred_interrupt
from .keeper import Keeper
from .optimizer import Optimizer, Update, choose_optimizer
from .output import Unfailing
from .plan import Plan
from .schedule import as_schedule
from .weighting import ClassWeight, check_weights, class_weights

if TYPE_CHECKING:
    from .network import Network

_PIECE_SECONDS = 0.1  # between two looks at the cost, the callbacks and Ctrl-C

Shuffle = bool | Callable[[np.random.Generator, int], Any]


@dataclass
class Training:
    """Where a run stands, always at a step boundary: all that callbacks see and resuming needs.

    ``optimizer`` is its name, settings and, of one's own, formulas. ``epoch`` and ``step`` count
    from 0 and name the next mini-batch; ``order_state`` is the generator's state from which this
    epoch's order was drawn; ``cost_sum`` and ``seconds`` add up this epoch's finished mini-batches.
    ``best`` are the flat weights that early stopping remembers and ``best_after`` how many epochs
    had been trained then; once they have been restored, ``last`` are those that training ended with
    and resumes from.
    """

    network: Network
    examples: int
    batch_size: int
    optimizer: Mapping[str, Any]
    epochs: int = 0
    epoch: int = 0
    step: int = 0
    cost_sum: float = 0.0
    seconds: float = 0.0
    order_state: dict[str, Any] | None = None
    history: History = field(default_factory=History)
    best: Any = None
    best_after: int = 0
    last: Any = None
    stopped: bool = False

    @property
    def steps(self) -> int:
        """Mini-batches in an epoch, the last one smaller where the batch size does not divide."""
        return -(-self.examples // self.batch_size)

    @property
    def cost(self) -> float:
        """The mean cost over this epoch's examples so far; of the last epoch between two."""
        done = min(self.step * self.batch_size, self.examples)
        if not done:
            return self.history[-1].cost if len(self.history) else math.nan
        return self.cost_sum / done

    def stop(self) -> None:
        """End training after this epoch."""
        self.stopped = True

    def remember_best(self) -> None:
        """Keep the present weights as those to restore when training ends."""
        self.best = self.network.parameters.flat.copy()
        self.best_after = len(self.history)


def _draw_order(shuffle: Shuffle, rng: np.random.Generator, n: int) -> Any:
    if shuffle is True:
        return rng.permutation(n)
    if shuffle is False:
        return np.arange(n)
    order = np.ascontiguousarray(shuffle(rng, n))
    if order.shape != (n,) or order.dtype.kind not in "iu":
        raise ValueError(
            f"shuffle returned {order.dtype} of shape {order.shape}, but an epoch's order is "
            f"{n} integer indices"
        )
    if order.min() < 0 or order.max() >= n:
        raise ValueError(f"shuffle returned an index outside 0 to {n - 1}")
    return order.astype(np.int64)


def _added(total: float, costs: Any) -> float:
    """``total`` and each of ``costs``, from the first to the last: these bits are the same however
    the costs of an epoch are cut into pieces, which those of ``np.sum`` are not."""
    return float(np.cumsum(np.append(total, costs))[-1])


@dataclass(frozen=True)
class Examples:
    """Checked x (n, n_1), y and, unless all count alike, ``weights`` (n,) float64; or of them the
    examples that ``rows`` names, in that order."""

    x: Any
    y: Any
    rows: Any = None
    weights: Any = None

    def by_class(self, network: Network, class_weight: ClassWeight) -> Examples:
        """The same, with the weights of their classes."""
        xp, outputs = network.backend.xp, network.sizes[-1]
        weights = class_weights(xp, class_weight, self.y, outputs, self.rows)
        return replace(self, weights=weights if self.weights is None else weights * self.weights)

    def taken(self, take: Callable[[Any, Any], Any]) -> tuple[Any, Any, Any]:
        """(x, y, weights) of the rows named, as ``take`` finds them in an array."""
        if self.rows is None:
            return self.x, self.y, self.weights
        weights = None if self.weights is None else self.weights[self.rows]
        return take(self.x, self.rows), take(self.y, self.rows), weights

    def __len__(self) -> int:
        return int(self.x.shape[0]) if self.rows is None else len(self.rows)


@dataclass(eq=False)
class Piece:
    """Mini-batches that a run trains on next: ``rows`` of its epoch's order, and of each mini-batch
    the ``numbers`` of the update rule. Who has trained it on them, giving its Stepper what is
    ``asked``, says at what ``costs``, as the Stepper returned them, and in how many ``seconds``."""

    run: Run
    rows: slice
    numbers: Any
    costs: Any = math.nan
    seconds: float = 0.0

    @property
    def order(self) -> Any:
        """Their examples, as rows of x."""
        return self.run.order()[self.rows]

    @property
    def asked(self) -> tuple[Any, ...]:
        """The examples, numbers and, where examples have weights, their importance."""
        return self.run.asked(self.order, self.numbers)


def importance_of(weights: Any, batch_size: int) -> Any:
    """Each example's weight beside the mean of its mini-batch's, by which its cost and delta^L are
    multiplied, so that a mini-batch's cost is sum_i s_i C_i / sum_i s_i. Where all weights of a
    mini-batch are 0 its cost and gradient are 0, too."""
    starts = np.arange(0, len(weights), batch_size)
    totals = np.add.reduceat(weights, starts) if len(weights) else np.zeros(0)
    counts = np.diff(starts, append=len(weights))
    factors = np.divide(counts, totals, out=np.zeros(len(starts)), where=totals > 0)
    return weights * np.repeat(factors, counts)


class Run:
    """One network's call of fit, to be driven an epoch at a time.

    Making it checks everything and changes nothing. Then ``begin``; ``epoch`` while ``unfinished``;
    ``finish``. Who has a way of his own to train takes the ``pieces`` in epoch's place, with a
    ``stepper`` that he has set. Whatever is raised in between, the network stands at a step
    boundary and carries the run, to be resumed. ``threads`` are at most those that it may compute
    with; the keywords are those of :meth:`gpubp.Network.fit`.
    """

    def __init__(
        self, network: Network, examples: Examples, validation: Examples | None, *,
        epochs: int, batch_size: int, learning_rate: Any, optimizer: str | Optimizer,
        momentum: float, nesterov: bool, l2: float, l1: float, shuffle: Shuffle,
        callbacks: Sequence[Any], resume: bool, clip_norm: float | None = None,
        class_weight: ClassWeight = None, threads: int | None = None,
    ) -> None:  # fmt: skip
        self.epochs = check_count(epochs, "epochs", least=0)
        batch_size = check_count(batch_size, "batch_size")
        self.update = Update(choose_optimizer(optimizer, momentum, nesterov), l2, l1, clip_norm)
        self.schedule = as_schedule(learning_rate)
        if batch_size > len(examples):
            raise ValueError(
                f"batch_size={batch_size} is larger than the {len(examples)} examples in x"
            )
        if not (isinstance(shuffle, bool) or callable(shuffle)):
            raise TypeError(f"shuffle={shuffle!r} must be True, False or a callable of (rng, n)")
        self.callbacks = as_callbacks(callbacks)
        self.schedule.check(validation is not None)
        for callback in self.callbacks:
            callback.check(validation is not None)
        self.network, self.parameters = network, network.parameters
        if class_weight is not None:
            examples = examples.by_class(network, class_weight)
        self.examples, self.validation, self.shuffle = examples, validation, shuffle
        self.plan = Plan(
            network.sizes, network.activations, network.cost, batch_size, network.dtype,
            self.update.rule, network.precision, threads, examples.weights is not None,
        )  # fmt: skip
        self.resume = resume
        if resume:
            self.training = _resumable(network, len(examples), batch_size, self.update.optimizer)
        else:
            described = self.update.optimizer.description
            self.training = Training(network, len(examples), batch_size, described)
        if self.training.epoch < self.epochs:
            self.rates(self.training.step, 1)  # what is wrong from the start is refused now
        self.stepper: Any = None
        self._order: Any = None
        self.pace = 1  # mini-batches in a piece; grows to _PIECE_SECONDS

    @property
    def unfinished(self) -> bool:
        return self.training.epoch < self.epochs and not self.training.stopped

    def prepare(self) -> None:
        """Make the stepper, with its buffers, unless it is there."""
        if self.stepper is None:
            kernels, examples = self.network.backend.kernels, self.examples
            self.stepper = kernels.Stepper(self.plan, self.parameters, examples.x, examples.y)

    def rest(self) -> None:
        """Give the stepper's memory back until the next epoch."""
        self.stepper = None

    def begin(self) -> None:
        """Make this run the network's training: new, or the one that it carried, as it stood."""
        t, network = self.training, self.network
        t.epochs, t.stopped = self.epochs, False
        if self.resume:
            if t.order_state is not None:  # inside an epoch: draw its order once more
                network.rng.bit_generator.state = t.order_state
            if t.last is not None:
                self.parameters.flat[...], t.last = t.last, None
            if not any(callback.remembers_best for callback in self.callbacks):
                t.best = None
            for callback in self.callbacks:
                callback.on_resume(t)
        else:
            flat, kept = self.parameters.flat, len(self.plan.rule.state)
            self.parameters.state = network.backend.xp.zeros((kept, flat.size), flat.dtype)
        network.training = t

    def finish(self) -> None:
        """Restore the best weights, where early stopping remembers them."""
        t = self.training
        if t.best is not None:
            t.last = self.parameters.flat.copy()
            self.parameters.flat[...] = t.best

    def _take(self, array: Any, rows: Any) -> Any:
        """Rows of x or y, wherever they lie."""
        return array[module_of(self.network.backend.xp, array).asarray(rows)]

    def _finite(self) -> bool:
        return bool(self.network.backend.xp.isfinite(self.parameters.flat).all())

    def _snapshot(self) -> tuple[Any, Any]:
        return self.parameters.flat.copy(), self.parameters.state.copy()

    def _restore(self, snapshot: tuple[Any, Any]) -> None:
        self.parameters.flat[...], self.parameters.state[...] = snapshot

    def rates(self, first: int, count: int) -> Any:
        """eta of ``count`` of this epoch's mini-batches from ``first`` on; each is constant over
        1/per_epoch of the epoch."""
        t, per_epoch = self.training, self.schedule.per_epoch
        parts, of_step = np.unique(
            np.arange(first, first + count) * per_epoch // t.steps, return_inverse=True
        )
        rates = [self.schedule.rate(t.epoch + int(part) / per_epoch, t.history) for part in parts]
        for rate in rates:
            if not 0 <= rate < math.inf:
                raise ValueError(
                    f"the learning rate of epoch {t.epoch} is {rate!r}, but must be a finite "
                    "number that is not negative"
                )
        return np.array(rates, np.float64)[of_step]

    def asked(self, order: Any, numbers: Any) -> tuple[Any, ...]:
        """What the Stepper is given to train on these examples."""
        if not self.plan.weighted:
            return order, numbers
        return order, numbers, importance_of(self.examples.weights[order], self.plan.batch_size)

    def _count(self) -> int:
        """Mini-batches in the next piece: up to the pace or the epoch's end."""
        return min(self.pace, self.training.steps - self.training.step)

    def numbers(self, count: int) -> Any:
        """(count, ...): those of the update rule in the next so many mini-batches."""
        t = self.training
        return self.update.numbers(t.epoch * t.steps + t.step + 1, self.rates(t.step, count))

    def order(self) -> Any:
        """The examples of the present epoch in their order, as rows of x. It is drawn when first
        asked for, so that the orders of several networks can be drawn at once."""
        if self._order is None:
            t, rng, rows = self.training, self.network.rng, self.examples.rows
            if t.order_state is None:
                t.order_state = dict(rng.bit_generator.state)
            order = _draw_order(self.shuffle, rng, t.examples)
            self._order = order if rows is None else rows[order]
        return self._order

    def epoch(self, interrupted: Callable[[], bool], bar: Bar) -> None:
        """The rest of the present epoch, then its row of the history."""
        self.prepare()
        with closing(self.pieces(interrupted, bar)) as pieces:
            for piece in pieces:
                asked, started = piece.asked, time.perf_counter()
                piece.costs = self.stepper.run(*asked)
                piece.seconds = time.perf_counter() - started

    def pieces(self, interrupted: Callable[[], bool], bar: Bar) -> Generator[Piece, None, None]:
        """An epoch in pieces: who takes one trains the network on it before taking the next. Close
        it where that was not to be: a piece begun is undone."""
        t, m = self.training, self.plan.batch_size
        while t.step < t.steps:
            count = self._count()
            first, last = t.step * m, min((t.step + count) * m, t.examples)
            piece = Piece(self, slice(first, last), self.numbers(count))
            snapshot, counters = self._snapshot(), (t.step, t.cost_sum, t.seconds)
            try:
                yield piece
                finite = bool(np.isfinite(piece.costs).all()) and self._finite()
                t.step += count
                t.cost_sum = _added(t.cost_sum, piece.costs)
                t.seconds += piece.seconds
            except BaseException:  # a second Ctrl-C, say: back to the step boundary before
                self._restore(snapshot)
                t.step, t.cost_sum, t.seconds = counters
                raise
            if not finite:
                t.step, t.cost_sum, t.seconds = counters
                self._diverged(snapshot, self.order(), piece.numbers)
            if piece.seconds < _PIECE_SECONDS / 2 and count == self.pace:
                self.pace *= 2 if piece.seconds > _PIECE_SECONDS / 8 else 8
            elif piece.seconds > 2 * _PIECE_SECONDS:
                self.pace = max(1, self.pace // 2)
            for callback in self.callbacks:
                callback.on_interval(t)
            bar.advance(t, last - first)
            if interrupted() and t.step < t.steps:
                raise KeyboardInterrupt
        self.order()  # an epoch that was stopped at its very end and resumed has drawn it too
        evaluation, rate = None, float(self.rates(t.steps - 1, 1)[0])
        if self.validation is not None:
            evaluation = self.network.evaluate_checked(*self.validation.taken(self._take))
        t.history.append(
            Epoch(
                t.epoch, t.cost_sum / t.examples, t.seconds, rate,
                None if evaluation is None else evaluation.cost,
                None if evaluation is None else evaluation.accuracy,
            )
        )  # fmt: skip
        t.epoch, t.step, t.cost_sum, t.seconds = t.epoch + 1, 0, 0.0, 0.0
        t.order_state = self._order = None
        for callback in self.callbacks:
            callback.on_epoch(t)
        bar.end_of_epoch(t)
        if interrupted():
            raise KeyboardInterrupt

    def _diverged(self, snapshot: tuple[Any, Any], order: Any, numbers: Any) -> None:
        """Replay the piece step by step to the one that failed; keep the weights before it."""
        t, m, xp = self.training, self.plan.batch_size, self.network.backend.xp
        self._restore(snapshot)
        for i, step in enumerate(range(t.step, t.step + len(numbers))):
            rows = order[step * m : (step + 1) * m]
            before = self._snapshot()
            costs = self.stepper.run(*self.asked(rows, numbers[i : i + 1]))
            finite_cost = bool(np.isfinite(costs).all())
            if finite_cost and self._finite():
                t.cost_sum = _added(t.cost_sum, costs)
                continue
            pairs = zip(self.parameters.weights, self.parameters.biases, strict=True)
            finite = [bool(xp.isfinite(w).all() and xp.isfinite(b).all()) for w, b in pairs]
            self._restore(before)
            t.step = step
            if not finite_cost:
                with np.errstate(all="ignore"):  # the overflow is what is being looked for
                    x = as_input(xp, self._take(self.examples.x, rows), self.plan.dtype)
                    z, a = feedforward(
                        xp, self.parameters.weights, self.parameters.biases,
                        self.plan.activations, x,
                    )  # fmt: skip
                    finite = [
                        bool(xp.isfinite(zl).all() and xp.isfinite(al).all())
                        for zl, al in zip(z, a, strict=True)
                    ]
            layer = None if all(finite) else finite.index(False) + 2
            raise DivergenceError(t.epoch, step, layer, float(self.rates(step, 1)[0]))
        raise RuntimeError(
            f"epoch {t.epoch}: a cost was not finite, but repeating its steps gave finite ones; "
            "the stepper is not deterministic"
        )


class Bar:
    """A progress bar over one run or several: what the last one's cost and accuracy are, examples a
    second and time left; or silence. Several threads may advance it."""

    def __init__(self, progress: bool | None, trainings: Sequence[Training]) -> None:
        self._bar: Any = None
        self._trainings = trainings
        self._lock = threading.Lock()
        stderr = sys.stderr  # None under pythonw
        if progress is False or stderr is None or (progress is None and not stderr.isatty()):
            return
        from tqdm import tqdm

        done = sum(t.epoch * t.examples + min(t.step * t.batch_size, t.examples) for t in trainings)
        self._bar = tqdm(
            total=sum(t.epochs * t.examples for t in trainings), initial=done,
            unit=" examples", unit_scale=True, desc=self._where(), file=Unfailing(stderr),
            dynamic_ncols=True,
        )  # fmt: skip

    def _where(self) -> str:
        epochs = [f"{min(t.epoch + 1, t.epochs)}/{t.epochs}" for t in self._trainings]
        if len(epochs) == 1:
            return f"epoch {epochs[0]}"
        done = sum(t.stopped or t.epoch >= t.epochs for t in self._trainings)
        return f"{done} of {len(epochs)} networks"

    def advance(self, t: Training, examples: int) -> None:
        if self._bar is not None:
            with self._lock:
                self._show(t)
                self._bar.update(examples)

    def end_of_epoch(self, t: Training) -> None:
        if self._bar is not None:
            with self._lock:
                if t.stopped:
                    self._leave_out(t)
                self._bar.set_description(self._where())
                self._show(t)

    def give_up(self, t: Training) -> None:
        """Expect no more of this run."""
        if self._bar is not None:
            with self._lock:
                self._leave_out(t)

    def _leave_out(self, t: Training) -> None:
        """What will not come is taken off the total."""
        done = min(t.step * t.batch_size, t.examples)
        self._bar.total -= (t.epochs - t.epoch) * t.examples - done

    def _show(self, t: Training) -> None:
        shown = {"cost": f"{t.cost:.4f}"}
        if len(t.history) and t.history[-1].validation_accuracy is not None:
            shown["accuracy"] = f"{100 * t.history[-1].validation_accuracy:.2f}%"
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def fit(
    network: Network, x: Any, y: Any, *, sample_weight: Any, validation: Any,
    progress: bool | None, checkpoint: Any, **settings: Any,
) -> History:  # fmt: skip
    """Mini-batch SGD; the arguments are those of :meth:`gpubp.Network.fit`."""
    examples = check_examples(network, x, y, sample_weight)
    run = Run(network, examples, check_validation(network, validation), **settings)
    keeper = None if checkpoint is None else Keeper(network, checkpoint, run.resume)
    run.prepare()  # what cannot be had for it is said before anything changes
    if keeper is not None:
        run.callbacks.append(keeper)  # the last one: it keeps what the others did
    run.begin()
    bar = Bar(progress, [run.training])
    with deferred_interrupt() as interrupted:
        try:
            while run.unfinished:
                run.epoch(interrupted, bar)
            run.finish()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                error = interrupted.exception()
            if keeper is not None:
                keeper.keep(error)  # whatever happened, the run stands at a step boundary
            raise
        finally:
            bar.close()
        if keeper is not None:
            keeper.keep()
        if interrupted():
            raise KeyboardInterrupt  # while the last checkpoint was written
    return run.training.history


def check_examples(
    network: Network, x: Any, y: Any, sample_weight: Any, name: str = ""
) -> Examples:
    """x, y and the examples' weights after their checks; ``name`` stands before their names."""
    x, y = network.check_data(x, y, name)
    xp = network.backend.xp
    weights = check_weights(xp, sample_weight, x.shape[0], f"{name}sample_weight")
    return Examples(x, y, weights=weights)


def check_validation(network: Network, validation: Any) -> Examples | None:
    """The pair (x, y) or triple (x, y, sample_weight), if there is one, checked and where it is
    used again and again."""
    if validation is None:
        return None
    try:
        x, y, *weights = validation
        (weight,) = weights or (None,)
    except (TypeError, ValueError):
        raise ValueError("validation must be a pair (x, y), or (x, y, sample_weight)") from None
    found = check_examples(network, x, y, weight, "validation ")
    return replace(found, x=network.backend.near(found.x), y=network.backend.near(found.y))


def _resumable(network: Network, examples: int, batch_size: int, optimizer: Optimizer) -> Training:
    """The network's interrupted run, after checking that this call continues the same one."""
    training = network.training
    if training is None:
        raise ValueError(
            "resume=True, but this network carries no training to resume: load a checkpoint "
            "that fit saved, or leave resume out"
        )
    for name, now, then in (
        ("examples", examples, training.examples),
        ("batch_size", batch_size, training.batch_size),
        ("optimizer", optimizer.name, training.optimizer["name"]),
        *(
            (name, optimizer.settings.get(name), then)
            for name, then in training.optimizer["settings"].items()
        ),
        *(
            ("the optimizer", optimizer.description.get("formulas"), then)
            for name, then in training.optimizer.items() if name == "formulas"
        ),
    ):  # fmt: skip
        if now != then:
            raise ValueError(
                f"resume=True continues a run with {name} {then}, not {now}: pass the same, or "
                "leave resume out to start a new run from these weights"
            )
    return training
