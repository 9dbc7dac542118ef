"""The one mini-batch SGD loop of the library.

It draws the order of the examples, cuts it into pieces of about a tenth of a second, hands each to
the backend's stepper with the numbers of its steps, and looks at the costs that come back: then
there is time for a progress tick, callbacks and an interrupt. How the pieces are cut never changes
a bit of weights or history.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import as_input, module_of
from .backprop import feedforward
from .callbacks import as_callbacks
from .errors import DivergenceError
from .examples import Examples, check_examples, check_validation, draw_order, importance_of
from .history import Epoch, History
from .interrupt import deferred_interrupt
from .keeper import Keeper
from .plan import Plan
from .progress import Bar
from .settings import Settings
from .training import Training, resumable

if TYPE_CHECKING:
    from .network import Network

_PIECE_SECONDS = 0.1  # between two looks at the cost, the callbacks and Ctrl-C


def _added(total: float, costs: Any) -> float:
    """``total`` and each of ``costs``, from the first to the last: these bits are the same however
    the costs of an epoch are cut into pieces, which those of ``np.sum`` are not."""
    return float(np.cumsum(np.append(total, costs))[-1])


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


class Run:
    """One network's call of fit, to be driven an epoch at a time.

    Making it checks everything and changes nothing. Then ``begin``; ``epoch`` while ``unfinished``;
    ``finish``. Who has a way of his own to train takes the ``pieces`` in epoch's place, with a
    ``stepper`` that he has set. Whatever is raised in between, the network stands at a step
    boundary and carries the run, to be resumed. ``threads`` are at most those that it may compute
    with.
    """

    def __init__(
        self, network: Network, examples: Examples, validation: Examples | None,
        settings: Settings, *, callbacks: Sequence[Any], resume: bool, threads: int | None = None,
    ) -> None:  # fmt: skip
        settings.check_size(len(examples))
        self.settings, self.resume = settings, resume
        self.callbacks = as_callbacks(callbacks)
        settings.schedule.check(validation is not None)
        for callback in self.callbacks:
            callback.check(validation is not None)
        self.network, self.parameters = network, network.parameters
        if settings.class_weight is not None:
            examples = examples.by_class(network, settings.class_weight)
        self.examples, self.validation = examples, validation
        self.plan = Plan(
            network.sizes, network.activations, network.cost, settings.batch_size, network.dtype,
            settings.update.rule, network.precision, threads, examples.weights is not None,
        )  # fmt: skip
        if resume:
            self.training = resumable(network, len(examples), settings)
        else:
            described = settings.update.optimizer.description
            self.training = Training(network, len(examples), settings.batch_size, described)
        if self.training.epoch < settings.epochs:
            self.rates(self.training.step, 1)  # what is wrong from the start is refused now
        self.stepper: Any = None
        self._order: Any = None
        self.pace = 1  # mini-batches in a piece; grows to _PIECE_SECONDS

    @property
    def unfinished(self) -> bool:
        return self.training.epoch < self.settings.epochs and not self.training.stopped

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
        t.epochs, t.stopped = self.settings.epochs, False
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
        t, per_epoch = self.training, self.settings.schedule.per_epoch
        parts, of_step = np.unique(
            np.arange(first, first + count) * per_epoch // t.steps, return_inverse=True
        )
        rates = [
            self.settings.schedule.rate(t.epoch + int(part) / per_epoch, t.history)
            for part in parts
        ]
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
        return self.settings.update.numbers(
            t.epoch * t.steps + t.step + 1, self.rates(t.step, count)
        )

    def order(self) -> Any:
        """The examples of the present epoch in their order, as rows of x. It is drawn when first
        asked for, so that the orders of several networks can be drawn at once."""
        if self._order is None:
            t, rng, rows = self.training, self.network.rng, self.examples.rows
            if t.order_state is None:
                t.order_state = dict(rng.bit_generator.state)
            order = draw_order(self.settings.shuffle, rng, t.examples)
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
            update, rate = self.settings.update, float(self.rates(step, 1)[0])
            raise DivergenceError(t.epoch, step, layer, rate, update.l2, update.l1)
        raise RuntimeError(
            f"epoch {t.epoch}: a cost was not finite, but repeating its steps gave finite ones; "
            "the stepper is not deterministic"
        )


def fit(
    network: Network, x: Any, y: Any, settings: Settings, *, sample_weight: Any, validation: Any,
    callbacks: Sequence[Any], progress: bool | None, checkpoint: Any, resume: bool,
) -> History:  # fmt: skip
    """Mini-batch SGD; the arguments are those of :meth:`gpubp.Network.fit`."""
    examples = check_examples(network, x, y, sample_weight)
    validated = check_validation(network, validation)
    run = Run(network, examples, validated, settings, callbacks=callbacks, resume=resume)
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
