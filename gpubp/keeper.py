"""The checkpoint of a run that is under way."""

from __future__ import annotations

import os
import time
import warnings
from typing import TYPE_CHECKING

from .callbacks import Callback
from .checkpoint import rehearse
from .errors import CheckpointError

if TYPE_CHECKING:
    from .network import Network
    from .training import Training

_SECONDS = 5.0  # between two checkpoints
_SHARE = 0.1  # of the time, at most, that goes into writing those of a large network


class Keeper(Callback):
    """Holds the run in a file: to within 5 seconds, or ten times what writing it takes.

    Making it does all that writing the file needs, but that the file takes its place. What cannot
    be written while training goes on is tried again later, with a warning the first time.
    """

    def __init__(self, network: Network, path: str | os.PathLike[str], resume: bool) -> None:
        started = time.monotonic()
        rehearse(network, path, resume)
        self._network, self._path, self._warned = network, path, False
        self._wait(started)

    def _wait(self, started: float) -> None:
        now = time.monotonic()
        self._due = now + max(_SECONDS, (now - started) * (1 / _SHARE - 1))

    def on_interval(self, training: Training) -> None:
        """Between two pieces, also inside an epoch."""
        started = time.monotonic()
        if started < self._due:
            return
        try:
            self._network.save(self._path)
        except (OSError, ValueError, TypeError) as error:
            if not self._warned:
                self._warned = True
                warnings.warn(f"{error}; training goes on, and it is tried again", stacklevel=2)
        self._wait(started)

    on_epoch = on_interval

    def keep(self, cause: BaseException | None = None) -> None:
        """Write it now, as training ends, by ``cause`` or well.

        Raises ``CheckpointError`` where that cannot be: the network in memory is as it was.
        """
        try:
            self._network.save(self._path)
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(error) from cause
