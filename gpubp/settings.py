"""How a network is trained: the options of ``fit`` that every way to train shares, checked once.

``Network.fit``, ``Fleet.fit`` and the command line make these; the loop, the checkpoint and the
check of a resumed run read them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from .arrays import check_count
from .optimizer import Optimizer, Update, choose_optimizer
from .schedule import Schedule, as_schedule
from .weighting import ClassWeight

Shuffle = bool | Callable[[np.random.Generator, int], Any]


@dataclass(frozen=True)
class Settings:
    """The fields mean what the arguments of :meth:`gpubp.Network.fit` mean; of them are made
    ``update``, the optimizer with penalties and clipping, and ``schedule``."""

    epochs: int
    batch_size: int
    learning_rate: float | Schedule | Callable[[int], float]
    optimizer: str | Optimizer = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    l2: float = 0.0
    l1: float = 0.0
    clip_norm: float | None = None
    shuffle: Shuffle = True
    class_weight: ClassWeight = None
    update: Update = field(init=False)
    schedule: Schedule = field(init=False)

    def __post_init__(self) -> None:
        optimizer = choose_optimizer(self.optimizer, self.momentum, self.nesterov)
        made = {
            "epochs": check_count(self.epochs, "epochs", least=0),
            "batch_size": check_count(self.batch_size, "batch_size"),
            "update": Update(optimizer, self.l2, self.l1, self.clip_norm),
            "schedule": as_schedule(self.learning_rate),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)
        if not (isinstance(self.shuffle, bool) or callable(self.shuffle)):
            raise TypeError(
                f"shuffle={self.shuffle!r} must be True, False or a callable of (rng, n)"
            )

    def check_size(self, examples: int) -> None:
        """Refuse a mini-batch larger than all that there is."""
        if self.batch_size > examples:
            raise ValueError(
                f"batch_size={self.batch_size} is larger than the {examples} examples in x"
            )


SETTINGS = tuple(f.name for f in fields(Settings) if f.init)
