"""What a fleet's training has come to: a row a network, as text, as columns and as a file."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from .errors import DivergenceError
from .history import History
from .network import Network
from .printable import LONGEST, figure, printable


@dataclass(frozen=True)
class FleetRow:
    """One network of a fleet: what sets it apart, how far it came, and how good it is.

    ``settings`` are those in which the fleet's networks differ. ``cost`` and the validation figures
    belong to the weights that the network holds: to the best epoch's where early stopping restored
    them. Networks that a GPU trains in one launch all count its ``seconds``. ``error`` is the
    :class:`~gpubp.DivergenceError` of one that diverged, else ``None``.
    """

    index: int
    network: Network = field(repr=False)
    settings: dict[str, Any]
    epochs: int
    cost: float | None
    validation_cost: float | None
    validation_accuracy: float | None
    seconds: float
    status: str
    error: DivergenceError | None

    def to_dict(self) -> dict[str, Any]:
        """All but network and error, as a plain dictionary."""
        plain = (bool, int, float, str, list)
        own = {k: v if isinstance(v, plain) else _shown(v) for k, v in self.settings.items()}
        return {
            "network": self.index, **own, "epochs": self.epochs, "cost": self.cost,
            "validation_cost": self.validation_cost,
            "validation_accuracy": self.validation_accuracy,
            "seconds": self.seconds, "status": self.status,
        }  # fmt: skip


class FleetResult(Sequence[FleetRow]):
    """What training a fleet gave, a row a network, in the fleet's order; prints as a table."""

    def __init__(self, rows: Iterable[FleetRow]) -> None:
        self._rows = list(rows)

    @overload
    def __getitem__(self, index: int) -> FleetRow: ...
    @overload
    def __getitem__(self, index: slice) -> FleetResult: ...
    def __getitem__(self, index: int | slice) -> FleetRow | FleetResult:
        return FleetResult(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def histories(self) -> list[History]:
        """Each network's history."""
        return [row.network.history for row in self]

    @property
    def best(self) -> FleetRow:
        """The row of the highest validation accuracy, else of the lowest validation cost, else of
        the lowest cost; of equal ones the first. Networks that diverged do not count."""
        rows = [row for row in self if row.error is None and row.epochs]
        if not rows:
            raise ValueError("no network of the fleet has finished an epoch without diverging")
        figures = (("validation_accuracy", -1), ("validation_cost", 1), ("cost", 1))
        figure, sign = next(
            (name, sign)
            for name, sign in figures
            if all(getattr(row, name) is not None for row in rows)
        )

        def rank(row: FleetRow) -> float:
            value = sign * getattr(row, figure)
            return float("inf") if math.isnan(value) else value

        return min(rows, key=rank)

    def to_dict(self) -> dict[str, list[Any]]:
        """The table's columns by name, for a data frame or JSON."""
        rows = [row.to_dict() for row in self]
        return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table as comma-separated values; what is not there is left empty."""
        columns = self.to_dict()
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    def __repr__(self) -> str:
        return _table(self.to_dict()) if len(self) else "FleetResult of 0 networks"


def _shown(value: Any) -> str:
    """A setting in a few characters: a number, a name, or what the object says of itself."""
    if isinstance(value, (float, np.floating)):
        return f"{value:g}"
    return printable(str(getattr(value, "__name__", value)), LONGEST)


def _table(columns: dict[str, list[Any]]) -> str:
    """Columns as aligned text: numbers to the right, words to the left, empty ones left out."""
    formats: dict[str, Callable[[Any], str]] = {
        "cost": figure, "validation_cost": figure,
        "validation_accuracy": "{:.2%}".format, "seconds": "{:.2f}".format,
    }  # fmt: skip
    lines: list[list[str]] = [[] for _ in range(1 + len(next(iter(columns.values()))))]
    for name, values in columns.items():
        if all(value is None for value in values):
            continue
        show = formats.get(name, _shown)
        cells = [name.replace("_", " "), *("-" if v is None else show(v) for v in values)]
        words = any(isinstance(value, (str, list)) for value in values)
        width = max(map(len, cells))
        for line, cell in zip(lines, cells, strict=True):
            line.append(cell.ljust(width) if words else cell.rjust(width))
    return "\n".join("  ".join(line).rstrip() for line in lines)
