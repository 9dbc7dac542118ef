"""The progress bar of a run or of several."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

from .output import Unfailing
from .printable import figure
from .training import Training


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
        shown = {"cost": figure(t.cost, 4)}
        if len(t.history) and t.history[-1].validation_accuracy is not None:
            shown["accuracy"] = f"{100 * t.history[-1].validation_accuracy:.2f}%"
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
