"""Callbacks of training: what they may implement, and early stopping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .arrays import check_count, check_number
from .errors import unknown
from .history import check_watched
from .printable import brief

if TYPE_CHECKING:
    from .training import Training


class Callback:
    """Override what you need; ``training`` holds the network, epoch, step, cost and history.

    ``training.stop()`` ends training after the current epoch. A plain function of ``training`` in
    ``fit(callbacks=[...])`` is called as ``on_epoch``.
    """

    remembers_best = False

    def check(self, validated: bool) -> None:
        """Before training; raise a ``ValueError`` if it needs validation data and has none."""

    def on_resume(self, training: Training) -> None:
        """Before a resumed run goes on, ``training`` as it was left."""

    def on_epoch(self, training: Training) -> None:
        """After each epoch, when ``training.history[-1]`` is its row."""

    def on_interval(self, training: Training) -> None:
        """Between mini-batches, about ten times a second; the weights are at a step boundary."""


class EarlyStopping(Callback):
    """Stop when ``monitor`` has not improved by ``min_delta`` for ``patience`` epochs; the weights
    of the best epoch are restored when training ends.

    ``monitor`` is a column of the history: "validation_cost", "validation_accuracy" or "cost". As
    a test set that chooses the epoch is no longer a test set, pass a validation set of its own.
    """

    def __init__(
        self, patience: int = 10, monitor: str = "validation_cost", min_delta: float = 0.0
    ) -> None:
        if monitor not in ("validation_cost", "validation_accuracy", "cost"):
            raise unknown("monitor", monitor, ("validation_cost", "validation_accuracy", "cost"))
        self.patience, self.monitor = check_count(patience, "patience"), monitor
        self.min_delta = check_number(min_delta, "min_delta")

    remembers_best = True

    def check(self, validated: bool) -> None:
        check_watched(self.monitor, validated or self.monitor == "cost")

    def on_resume(self, training: Training) -> None:
        if training.step == 0 and len(training.history):
            self.on_epoch(training)  # a run that had stopped has still stopped

    def on_epoch(self, training: Training) -> None:
        # Computed from the whole history each time: a resumed run decides as an unbroken one.
        best, since = float("-inf"), 0
        for value in getattr(training.history, self.monitor):
            check_watched(self.monitor, value is not None)
            score = value if self.monitor == "validation_accuracy" else -value
            best, since = (score, 0) if score > best + self.min_delta else (best, since + 1)
        if since == 0:
            training.remember_best()
        if since >= self.patience:
            training.stop()


def as_callbacks(callbacks: Any) -> list[Callback]:
    """A list of Callback objects, objects with some of their methods, or functions as Callbacks."""
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks={brief(callbacks)} must be a list of callbacks")
    return [_as_callback(item) for item in callbacks]


def _as_callback(item: Any) -> Callback:
    if isinstance(item, Callback):
        return item
    names = ("on_resume", "on_epoch", "on_interval")
    methods = {name: getattr(item, name) for name in names if hasattr(item, name)}
    if isinstance(item, type) or not (methods or callable(item)):
        raise TypeError(f"a callback is a gpubp.Callback object or a function, not {brief(item)}")
    adapted = Callback()
    vars(adapted).update(methods or {"on_epoch": item})
    return adapted
