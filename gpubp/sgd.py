"""The one mini-batch SGD loop of the library.

It draws the order of the examples, cuts it at the next event (a progress tick, a callback, an
interrupt, a change of the learning rate), hands each piece to the backend's stepper, and looks at
the cost that comes back. How the pieces are cut never changes the weights.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import as_input, check_count, module_of
from .backprop import feedforward
from .callbacks import Callback, as_callbacks
from .errors import DivergenceError
from .history import Epoch, History
from .optimiser import UpdateRule
from .plan import Plan
from .schedule import Schedule, as_schedule

if TYPE_CHECKING:
    from .network import Network

_PIECE_SECONDS = 0.1  # between two looks at the cost, the callbacks and Ctrl-C

Shuffle = bool | Callable[[np.random.Generator, int], Any]


@dataclass
class Training:
    """Where a run stands, always at a step boundary: all that callbacks see and resuming needs.

    ``epoch`` and ``step`` count from 0 and name the next mini-batch; ``order_state`` is the
    generator's state from which this epoch's order was drawn; ``cost_sum`` and ``seconds`` add up
    this epoch's finished mini-batches. ``best`` are the flat weights that early stopping remembers;
    once they have been restored, ``last`` are those that training ended with and resumes from.
    """

    network: Network
    examples: int
    batch_size: int
    momentum: float
    epochs: int = 0
    epoch: int = 0
    step: int = 0
    cost_sum: float = 0.0
    seconds: float = 0.0
    order_state: dict[str, Any] | None = None
    history: History = field(default_factory=History)
    best: Any = None
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


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C sets a flag that the loop polls at step boundaries; a second one acts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Python delivers signals to the main thread only
        return
    hit = False

    def handler(number: int, frame: Any) -> None:
        nonlocal hit
        hit = True
        signal.signal(signal.SIGINT, previous)

    # None is a handler that was not installed from Python, and cannot be put back.
    previous = signal.getsignal(signal.SIGINT) or signal.SIG_DFL
    signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: hit
    finally:
        signal.signal(signal.SIGINT, previous)


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


class _Loop:
    """One call of fit: the stepper, the pace and the bookkeeping around ``Training``."""

    def __init__(
        self, training: Training, plan: Plan, x: Any, y: Any, schedule: Schedule,
        callbacks: Sequence[Callback], validation: Any, checkpoint: Any, bar: Any,
    ) -> None:  # fmt: skip
        self.training, self.plan, self.x, self.schedule = training, plan, x, schedule
        self.callbacks = callbacks
        self.checkpoint, self.bar = checkpoint, bar
        self.network = training.network
        self.parameters = self.network.parameters
        backend = self.network.backend
        self.stepper = backend.kernels.Stepper(plan, self.parameters, x, y)
        self.validation = validation and [backend.near(part) for part in validation]
        self.pace = 1  # mini-batches in a piece; grows to _PIECE_SECONDS
        self.saved = time.monotonic()

    def _finite(self) -> bool:
        return bool(self.network.backend.xp.isfinite(self.parameters.flat).all())

    def _snapshot(self) -> tuple[Any, Any]:
        velocity = self.parameters.velocity
        return self.parameters.flat.copy(), None if velocity is None else velocity.copy()

    def _restore(self, snapshot: tuple[Any, Any]) -> None:
        self.parameters.flat[...], velocity = snapshot[0], snapshot[1]
        if self.parameters.velocity is not None:
            self.parameters.velocity[...] = velocity

    def rate(self, step: int) -> float:
        """eta of this epoch's mini-batch ``step``, constant over 1/per_epoch of the epoch."""
        t, per_epoch = self.training, self.schedule.per_epoch
        rate = self.schedule.rate(t.epoch + step * per_epoch // t.steps / per_epoch, t.history)
        if not 0 <= rate < math.inf:
            raise ValueError(
                f"the learning rate of epoch {t.epoch} is {rate!r}, but must be a finite number "
                "that is not negative"
            )
        return float(rate)

    def _count(self) -> int:
        """Mini-batches in the next piece: up to the pace, eta's next change or the epoch's end."""
        t, per_epoch = self.training, self.schedule.per_epoch
        change = -(-(t.step * per_epoch // t.steps + 1) * t.steps // per_epoch)
        return min(self.pace, change - t.step, t.steps - t.step)

    def epoch(self, order: Any, interrupted: Callable[[], bool]) -> None:
        """The rest of the present epoch, then its row of the history."""
        t, m = self.training, self.plan.batch_size
        while t.step < t.steps:
            count, rate = self._count(), self.rate(t.step)
            piece = order[t.step * m : (t.step + count) * m]
            snapshot, counters = self._snapshot(), (t.step, t.cost_sum, t.seconds)
            started = time.perf_counter()
            try:
                cost = self.stepper.run(piece, rate)
                elapsed = time.perf_counter() - started
                finite = math.isfinite(cost) and self._finite()
                t.step += count
                t.cost_sum += cost * len(piece)
                t.seconds += elapsed
            except BaseException:  # a second Ctrl-C, say: back to the step boundary before
                self._restore(snapshot)
                t.step, t.cost_sum, t.seconds = counters
                raise
            if not finite:
                t.step, t.cost_sum, t.seconds = counters
                self._diverged(snapshot, order, count, rate)
            if elapsed < _PIECE_SECONDS / 2 and count == self.pace:
                self.pace *= 2 if elapsed > _PIECE_SECONDS / 8 else 8
            elif elapsed > 2 * _PIECE_SECONDS:
                self.pace = max(1, self.pace // 2)
            for callback in self.callbacks:
                callback.on_interval(t)
            self.bar.advance(t, len(piece))
            if interrupted() and t.step < t.steps:
                raise KeyboardInterrupt
        evaluation, rate = None, self.rate(t.steps - 1)
        if self.validation is not None:
            evaluation = self.network.evaluate_checked(*self.validation)
        t.history.append(
            Epoch(
                t.epoch, t.cost_sum / t.examples, t.seconds, rate,
                None if evaluation is None else evaluation.cost,
                None if evaluation is None else evaluation.accuracy,
            )
        )  # fmt: skip
        t.epoch, t.step, t.cost_sum, t.seconds = t.epoch + 1, 0, 0.0, 0.0
        t.order_state = None
        for callback in self.callbacks:
            callback.on_epoch(t)
        self.bar.end_of_epoch(t)

    def save(self, least_seconds: float = 0.0) -> None:
        """Write the checkpoint that was asked for, unless one was written so recently."""
        if self.checkpoint is None or time.monotonic() - self.saved < least_seconds:
            return
        self.network.save(self.checkpoint)
        self.saved = time.monotonic()

    def _diverged(self, snapshot: tuple[Any, Any], order: Any, count: int, rate: float) -> None:
        """Replay the piece step by step to the one that failed; keep the weights before it."""
        t, m, xp = self.training, self.plan.batch_size, self.network.backend.xp
        self._restore(snapshot)
        for step in range(t.step, t.step + count):
            rows = order[step * m : (step + 1) * m]
            before = self._snapshot()
            cost = self.stepper.run(rows, rate)
            if math.isfinite(cost) and self._finite():
                t.cost_sum += cost * len(rows)
                continue
            pairs = zip(self.parameters.weights, self.parameters.biases, strict=True)
            finite = [bool(xp.isfinite(w).all() and xp.isfinite(b).all()) for w, b in pairs]
            self._restore(before)
            t.step = step
            if not math.isfinite(cost):
                with np.errstate(all="ignore"):  # the overflow is what is being looked for
                    x = self.x[module_of(xp, self.x).asarray(rows)]
                    z, a = feedforward(
                        xp, self.parameters.weights, self.parameters.biases,
                        self.plan.activations, as_input(xp, x, self.plan.dtype),
                    )  # fmt: skip
                    finite = [
                        bool(xp.isfinite(zl).all() and xp.isfinite(al).all())
                        for zl, al in zip(z, a, strict=True)
                    ]
            layer = None if all(finite) else finite.index(False) + 2
            raise DivergenceError(t.epoch, step, layer, rate)
        raise RuntimeError(
            f"epoch {t.epoch}: a cost was not finite, but repeating its steps gave finite ones; "
            "the stepper is not deterministic"
        )


class _Bar:
    """The progress bar: cost, accuracy, examples a second and time left; or silence."""

    def __init__(self, progress: bool | None, t: Training) -> None:
        self._bar: Any = None
        if progress is False or (progress is None and not sys.stderr.isatty()):
            return
        from tqdm import tqdm

        done = t.epoch * t.examples + min(t.step * t.batch_size, t.examples)
        self._bar = tqdm(
            total=t.epochs * t.examples, initial=done, unit=" examples", unit_scale=True,
            desc=f"epoch {t.epoch + 1}/{t.epochs}", file=sys.stderr, dynamic_ncols=True,
        )  # fmt: skip

    def advance(self, t: Training, examples: int) -> None:
        if self._bar is not None:
            self._show(t)
            self._bar.update(examples)

    def end_of_epoch(self, t: Training) -> None:
        if self._bar is not None:
            self._bar.set_description(f"epoch {min(t.epoch + 1, t.epochs)}/{t.epochs}")
            self._show(t)

    def _show(self, t: Training) -> None:
        shown = {"cost": f"{t.cost:.4f}"}
        if len(t.history) and t.history[-1].validation_accuracy is not None:
            shown["accuracy"] = f"{100 * t.history[-1].validation_accuracy:.2f}%"
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def fit(
    network: Network, x: Any, y: Any, *, epochs: int, batch_size: int, learning_rate: Any,
    momentum: float, nesterov: bool, l2: float, l1: float, shuffle: Shuffle, validation: Any,
    callbacks: Sequence[Any], progress: bool | None, checkpoint: Any, resume: bool,
) -> History:  # fmt: skip
    """Mini-batch SGD; the arguments are those of :meth:`gpubp.Network.fit`."""
    backend, dtype, sizes = network.backend, network.dtype, network.sizes
    epochs = check_count(epochs, "epochs", least=0)
    batch_size = check_count(batch_size, "batch_size")
    rule = UpdateRule(momentum, bool(nesterov), l2, l1)
    schedule = as_schedule(learning_rate)
    x, y = network.check_data(x, y)
    if batch_size > x.shape[0]:
        raise ValueError(f"batch_size={batch_size} is larger than the {x.shape[0]} examples in x")
    if not (isinstance(shuffle, bool) or callable(shuffle)):
        raise TypeError(f"shuffle={shuffle!r} must be True, False or a callable of (rng, n)")
    if validation is not None:
        validation = _check_validation(network, validation)
    hooks = as_callbacks(callbacks)
    schedule.check(validation is not None)
    for hook in hooks:
        hook.check(validation is not None)

    parameters = network.parameters
    if resume:
        training = _resumed(network, x.shape[0], batch_size, rule)
    else:
        training = Training(network, x.shape[0], batch_size, rule.momentum)
    training.epochs, training.stopped = epochs, False
    plan = Plan(
        sizes, network.activations, network.cost, batch_size, dtype, rule, network.precision
    )
    loop = _Loop(
        training, plan, x, y, schedule, hooks, validation, checkpoint, _Bar(progress, training)
    )
    if training.epoch < epochs:
        loop.rate(training.step)  # what is wrong with the schedule is said before anything changes
    if resume:
        if training.last is not None:
            parameters.flat[...], training.last = training.last, None
        if not any(hook.remembers_best for hook in hooks):
            training.best = None
        for hook in hooks:
            hook.on_resume(training)
    else:
        parameters.velocity = backend.xp.zeros_like(parameters.flat) if rule.momentum else None
    network.training = training
    try:
        with _deferred_interrupt() as interrupted:
            while training.epoch < epochs and not training.stopped:
                if training.order_state is None:
                    training.order_state = dict(network.rng.bit_generator.state)
                order = _draw_order(shuffle, network.rng, x.shape[0])
                loop.epoch(order, interrupted)
                if interrupted():
                    raise KeyboardInterrupt
                loop.save(least_seconds=5.0)
    except BaseException:
        loop.save()  # whatever happened, the run stands at a step boundary
        raise
    finally:
        loop.bar.close()
    if training.best is not None:
        training.last = parameters.flat.copy()
        parameters.flat[...] = training.best
    loop.save()
    return training.history


def _check_validation(network: Network, validation: Any) -> tuple[Any, Any]:
    try:
        x, y = validation
    except (TypeError, ValueError):
        raise ValueError("validation must be a pair (x, y)") from None
    return network.check_data(x, y, "validation ")


def _resumed(network: Network, examples: int, batch_size: int, rule: UpdateRule) -> Training:
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
        ("momentum", rule.momentum, training.momentum),
    ):
        if now != then:
            raise ValueError(
                f"resume=True continues a run with {name} {then}, not {now}: pass the same, or "
                "leave resume out to start a new run from these weights"
            )
    if training.order_state is not None:  # inside an epoch: draw its order once more
        network.rng.bit_generator.state = training.order_state
    return training
