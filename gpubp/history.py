"""What training did, one row an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

from .printable import figure


@dataclass(frozen=True)
class Epoch:
    """One epoch: ``cost`` is the mean over its mini-batches of the cost each had before its update,
    penalties included; ``seconds`` its training time without validation; the validation figures
    are of the weights at its end, without penalties, and ``None`` where there is no such figure.
    """

    epoch: int
    cost: float
    seconds: float
    learning_rate: float
    validation_cost: float | None = None
    validation_accuracy: float | None = None

    def __str__(self) -> str:
        text = f"epoch {self.epoch:3d}  cost {figure(self.cost)}  {self.seconds:.3f} s"
        if self.validation_cost is not None:
            text += f"  validation cost {figure(self.validation_cost)}"
        if self.validation_accuracy is not None:
            text += f"  accuracy {100 * self.validation_accuracy:.2f}%"
        return text


class History(Sequence[Epoch]):
    """The rows in order; each figure also as a list over the epochs, ``history.cost``."""

    def __init__(self, rows: Iterable[Epoch] = ()) -> None:
        self._rows = list(rows)

    @overload
    def __getitem__(self, index: int) -> Epoch: ...
    @overload
    def __getitem__(self, index: slice) -> History: ...
    def __getitem__(self, index: int | slice) -> Epoch | History:
        return History(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, row: Epoch) -> None:
        self._rows.append(row)

    @property
    def cost(self) -> list[float]:
        return [row.cost for row in self._rows]

    @property
    def seconds(self) -> list[float]:
        return [row.seconds for row in self._rows]

    @property
    def learning_rate(self) -> list[float]:
        return [row.learning_rate for row in self._rows]

    @property
    def validation_cost(self) -> list[float | None]:
        return [row.validation_cost for row in self._rows]

    @property
    def validation_accuracy(self) -> list[float | None]:
        return [row.validation_accuracy for row in self._rows]

    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows as plain dictionaries, for a table or JSON."""
        return [asdict(row) for row in self._rows]

    def __repr__(self) -> str:
        return "\n".join(str(row) for row in self._rows) or "History of 0 epochs"


def check_watched(monitor: str, there: bool) -> None:
    """Refuse to watch a figure that is not there."""
    if not there:
        raise ValueError(
            f"this run has no {monitor} to watch: pass validation=(x, labels) to fit, or "
            "monitor='cost'"
        )
