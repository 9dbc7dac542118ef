"""Learning-rate schedules: eta as a function of the epoch.

``learning_rate`` in :meth:`gpubp.Network.fit` may be a number, one of these, or any callable of
the epoch (0, 1, 2, ...). A schedule keeps no state: it sees the epoch and the history so far, so
that a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from .arrays import check_count, check_number
from .errors import unknown
from .history import History, check_watched


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < check_number(value, name) < math.inf:
            raise ValueError(f"{name}={value!r} must be a finite number above 0")


def _between(initial: float, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= check_number(value, name) <= initial:
            raise ValueError(f"{name}={value!r} must lie between 0 and initial={initial!r}")


class Schedule(ABC):
    """``rate(t, history)`` is eta at time t in epochs; asked ``per_epoch`` times in each epoch."""

    per_epoch: int = 1

    @abstractmethod
    def rate(self, t: float, history: History) -> float:
        """eta at t (an integer at the start of an epoch), given the rows of the epochs before."""

    def check(self, validated: bool) -> None:  # noqa: B027 (most have nothing to check)
        """Before training; raise a ``ValueError`` if it needs validation data and has none."""


@dataclass(frozen=True)
class Constant(Schedule):
    """eta = initial."""

    initial: float

    def __post_init__(self) -> None:
        _positive(learning_rate=self.initial)

    def rate(self, t: float, history: History) -> float:
        return self.initial


@dataclass(frozen=True)
class Step(Schedule):
    """eta = initial * factor^floor(t / every): a drop every few epochs."""

    initial: float
    every: int = 10
    factor: float = 0.5

    def __post_init__(self) -> None:
        _positive(initial=self.initial, every=self.every, factor=self.factor)

    def rate(self, t: float, history: History) -> float:
        return float(self.initial * self.factor ** (int(t) // self.every))


@dataclass(frozen=True)
class Exponential(Schedule):
    """eta = initial * factor^t."""

    initial: float
    factor: float = 0.95

    def __post_init__(self) -> None:
        _positive(initial=self.initial, factor=self.factor)

    def rate(self, t: float, history: History) -> float:
        return float(self.initial * self.factor**t)


@dataclass(frozen=True)
class Cosine(Schedule):
    """eta = final + (initial - final) (1 + cos(pi t / epochs)) / 2, then final.

    Source: Loshchilov and Hutter, SGDR, 2017, without restarts.
    """

    initial: float
    epochs: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _positive(initial=self.initial, epochs=self.epochs)
        _between(self.initial, final=self.final)

    def rate(self, t: float, history: History) -> float:
        done = min(t / self.epochs, 1.0)
        return self.final + (self.initial - self.final) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from peak/start to peak over the ``warmup`` share, then down to peak/end, by cosines.

    Follows eta within an epoch, at ``per_epoch`` equal parts of it. Source: Smith and Topin,
    Super-Convergence, 2018.
    """

    peak: float
    epochs: int
    warmup: float = 0.3
    start: float = 25.0
    end: float = 1e4
    per_epoch: int = 32

    def __post_init__(self) -> None:
        _positive(peak=self.peak, epochs=self.epochs, start=self.start, end=self.end)
        check_count(self.per_epoch, "per_epoch")
        if not 0 < check_number(self.warmup, "warmup") < 1:
            raise ValueError(f"warmup={self.warmup} must lie in (0, 1)")

    def rate(self, t: float, history: History) -> float:
        done = min(t / self.epochs, 1.0)
        if done < self.warmup:
            low, part = self.peak / self.start, done / self.warmup
            return low + (self.peak - low) * (1 - math.cos(math.pi * part)) / 2
        low, part = self.peak / self.end, (done - self.warmup) / (1 - self.warmup)
        return low + (self.peak - low) * (1 + math.cos(math.pi * part)) / 2


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """eta = initial / (t + 1)^power."""

    initial: float
    power: float = 0.5

    def __post_init__(self) -> None:
        _positive(initial=self.initial, power=self.power)

    def rate(self, t: float, history: History) -> float:
        return float(self.initial / (t + 1) ** self.power)


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """eta times ``factor`` whenever ``patience`` epochs in a row have not improved the best cost.

    ``monitor`` is the watched column of the history: "validation_cost" or "cost".
    """

    initial: float
    factor: float = 0.5
    patience: int = 5
    monitor: str = "validation_cost"
    minimum: float = 0.0

    def __post_init__(self) -> None:
        _positive(initial=self.initial, factor=self.factor)
        check_count(self.patience, "patience")
        _between(self.initial, minimum=self.minimum)
        if self.factor >= 1:
            raise ValueError(f"factor={self.factor} must be below 1")
        if self.monitor not in ("cost", "validation_cost"):
            raise unknown("monitor", self.monitor, ("cost", "validation_cost"))

    def check(self, validated: bool) -> None:
        check_watched(self.monitor, validated or self.monitor == "cost")

    def rate(self, t: float, history: History) -> float:
        eta, best, waited = self.initial, math.inf, 0
        for cost in getattr(history, self.monitor):
            check_watched(self.monitor, cost is not None)
            if cost < best:
                best, waited = cost, 0
            else:
                waited += 1
            if waited == self.patience:
                eta, waited = max(eta * self.factor, self.minimum), 0
        return eta


@dataclass(frozen=True)
class _Callable(Schedule):
    function: Callable[[int], float]

    def rate(self, t: float, history: History) -> float:
        return check_number(self.function(int(t)), f"learning_rate({int(t)})")


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Constant,
    "step": Step,
    "exponential": Exponential,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "inverse_scaling": InverseScaling,
    "reduce_on_plateau": ReduceOnPlateau,
}


def make_schedule(name: str, learning_rate: float, epochs: int) -> Schedule:
    """The schedule of that name with its usual settings for a run of ``epochs`` epochs."""
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    lasts = (epochs,) if name in ("cosine", "one_cycle") else ()
    schedule: Schedule = SCHEDULES[name](learning_rate, *lasts)
    return schedule


def as_schedule(learning_rate: float | Schedule | Callable[[int], float]) -> Schedule:
    """A number, a Schedule or a callable of the epoch as a Schedule."""
    if isinstance(learning_rate, Schedule):
        return learning_rate
    if callable(learning_rate) and not isinstance(learning_rate, type):
        return _Callable(cache(learning_rate))  # asked once an epoch, however the epoch is cut
    try:
        return Constant(check_number(learning_rate, "learning_rate"))
    except (TypeError, ValueError):
        raise ValueError(
            f"learning_rate={learning_rate!r} must be a finite number above 0, a schedule or a "
            "callable of the epoch"
        ) from None
