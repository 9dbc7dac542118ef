"""How much sooner do 64 networks side by side finish than one after another?

    python bench/fleet.py [--networks N] [--epochs E] [--rounds N]

Case S, [784, 30, 10] with batch 10 on MNIST-size uint8 images, from 64 seeds: as a ``Fleet``; by 64
calls of ``fit``, with the threads that it chooses; and by 64 calls that have one thread. With and
without validation on 10,000 examples after each epoch. Before a time is printed, all three must end
at the same weights, bit for bit. In turns, so that a slow moment of the machine strikes each.

What to expect: networks share nothing but the images they read, 47 MB in 50 ms a core, so a fleet
on two cores should take little more than half the time of one thread: 1.9x. Two threads in one
network of this size meet at a barrier every 7 us, and bring 1.3x at best: against them, 1.5x. Set
GPUBP_DATA to a folder with MNIST, else digits28 is used.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any
from unittest.mock import patch

import numpy as np
from peers import CASES
from record import Row, append, device, write_readme

import gpubp
from gpubp.plan import threads_at_hand

FLEET, PLAIN, SINGLE = "Fleet", "one after another", "one after another, one thread"


def train(way: str, fleet: gpubp.Fleet, x: Any, y: Any, **how: Any) -> float:
    """Seconds to train all networks in that way."""
    with patch.dict(os.environ, {"GPUBP_NUM_THREADS": "1"} if way == SINGLE else {}):
        started = time.perf_counter()
        if way == FLEET:
            fleet.fit(x, y, **how)
        else:
            for network in fleet:
                network.fit(x, y, **how)
        return time.perf_counter() - started


def measure(networks: int, epochs: int, rounds: int) -> list[Row]:
    case = CASES["S"]
    name = "MNIST" if os.environ.get("GPUBP_DATA") else "digits28"
    (x, y), test = gpubp.data.load(name.lower())
    rows = []
    for validated in (False, True):
        how = {
            "epochs": epochs, "batch_size": case.batch, "learning_rate": case.eta,
            "validation": test if validated else None, "progress": False,
        }  # fmt: skip
        label = f"{networks} x S, validated" if validated else f"{networks} x S"
        fleets = {
            way: gpubp.Fleet.of(case.sizes, rng=range(networks)) for way in (FLEET, PLAIN, SINGLE)
        }
        for way, fleet in fleets.items():
            train(way, fleet, x, y, **how)
            for i, (one, first) in enumerate(zip(fleet, fleets[FLEET], strict=True)):
                if not np.array_equal(one.parameters.flat, first.parameters.flat):
                    raise SystemExit(f"{way}: network {i} ends at other weights; not timed")
                if one.history.validation_cost != first.history.validation_cost:
                    raise SystemExit(f"{way}: network {i} is judged otherwise; not timed")
        times: dict[str, list[float]] = {way: [] for way in fleets}
        for _ in range(rounds):
            for way, fleet in fleets.items():
                times[way].append(train(way, fleet, x, y, **how) / epochs)
        print(f"\n{label}, {name}, {threads_at_hand()} threads at hand; the same bits in all ways")
        for way, found in times.items():
            median = statistics.median(found)
            rows.append(
                Row("fleet", label, way, "epoch", "s", median, min(found), max(found),
                    rounds, f"{threads_at_hand()} threads at hand; {name}")
            )  # fmt: skip
            times_fleet = median / statistics.median(times[FLEET])
            print(
                f"  {way:32}{median:8.3f} s an epoch of all, {min(found):.3f} to {max(found):.3f}"
                f"{times_fleet:8.2f} x the fleet's"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(device())
    append(measure(arguments.networks, arguments.epochs, arguments.rounds))
    write_readme()


if __name__ == "__main__":
    main()
