"""Where a run of training stands: plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .history import History
from .printable import LONGEST, printable
from .settings import Settings

if TYPE_CHECKING:
    from .network import Network


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


def _shown(value: object) -> str:
    """A setting, which may be a text that a checkpoint chose."""
    return printable(str(value), LONGEST)


def resumable(network: Network, examples: int, settings: Settings) -> Training:
    """The network's interrupted run, after checking that this call continues the same one."""
    training = network.training
    if training is None:
        raise ValueError(
            "resume=True, but this network carries no training to resume: load a checkpoint "
            "that fit saved, or leave resume out"
        )
    now, then = settings.update.optimizer, training.optimizer
    same = [
        ("examples", examples, training.examples),
        ("batch_size", settings.batch_size, training.batch_size),
        ("optimizer", now.name, then["name"]),
        *((name, now.settings.get(name), value) for name, value in then["settings"].items()),
    ]
    if "formulas" in then:  # of one's own
        same.append(("the optimizer", now.description.get("formulas"), then["formulas"]))
    for name, asked, before in same:
        if asked != before:
            raise ValueError(
                f"resume=True continues a run with {printable(name, LONGEST)} {_shown(before)}, "
                f"not {_shown(asked)}: pass the same, or leave resume out to start a new run from "
                "these weights"
            )
    return training
