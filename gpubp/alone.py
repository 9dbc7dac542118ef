"""One training at a time: a network in two fits at once would end at the weights of neither."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .network import Network

# Those in training, by identity, with the thread that trains them: it is of the process, so no
# copy, pickle or checkpoint takes part.
_training: dict[int, tuple[int, Network]] = {}


def _after_fork() -> None:
    """Of all threads the one that forked goes on in the child, and with it what it trains."""
    here = threading.get_ident()
    for identity in [i for i, (thread, _) in _training.items() if thread != here]:
        del _training[identity]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def training_alone(networks: Sequence[Network]) -> Iterator[None]:
    """These networks are in training in here: a ``RuntimeError`` where one of them is already, by
    another thread or by the fit that called this one's caller. It changes nothing then."""
    taken: list[int] = []
    try:
        for i, network in enumerate(networks):
            mine = threading.get_ident(), network
            if _training.setdefault(id(network), mine) is not mine:
                which = "this network" if len(networks) == 1 else f"network {i}"
                raise RuntimeError(
                    f"{which} is in training already, in another thread or in the fit whose "
                    "callback this is: wait for its end, or train a copy.deepcopy of it"
                )
            taken.append(id(network))
        yield
    finally:
        for identity in taken:
            del _training[identity]
