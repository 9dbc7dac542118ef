"""Which of the two engines trains a network, on how many threads: a rule, and how to override it.

``tiled`` lets threads share the inputs of layer 1 and meet once a mini-batch: for steps of
microseconds. ``panels`` shares every layer, and passes over inputs that are zero in a few examples
instead of in a whole mini-batch, at the price of keeping lists: for all that is larger. The rule
looks at sizes only, and neither engine's bits depend on the number of threads, so a run repeats
bit for bit.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import numpy as np

from gpubp.errors import unknown
from gpubp.kernels.cpu.paneled import PanelStepper
from gpubp.kernels.cpu.threaded import ThreadedStepper
from gpubp.kernels.cpu.tiled import TiledStepper
from gpubp.parameters import Parameters
from gpubp.plan import Plan, threads_at_hand

ENGINES = ("tiled", "panels")
_LARGE = 15e6  # operations a step from which the panels are faster
_WORTH = 5e5  # operations a step from which a second thread may earn its barrier


def choose_engine(plan: Plan) -> tuple[str, int]:
    """(engine, threads at most) for a plan; ``$GPUBP_ENGINE`` overrides the engine."""
    operations = 6 * plan.batch_size * sum(n_in * n_out for n_in, n_out in pairwise(plan.sizes))
    engine = os.environ.get("GPUBP_ENGINE") or ("panels" if operations >= _LARGE else "tiled")
    if engine not in ENGINES:
        raise unknown("GPUBP_ENGINE", engine, ENGINES)
    if operations < _WORTH:
        return engine, 1
    # Tiles: beyond two, each further thread repeats the upper layers and has less of the first.
    return engine, 2 if engine == "tiled" else threads_at_hand()


def describe() -> str:
    """The rule in a line, with what overrides it now."""
    rule = f"tiled below {_LARGE:,.0f} operations a mini-batch, from there panels"
    rule = os.environ.get("GPUBP_ENGINE") or rule
    return f"{rule}; {threads_at_hand()} threads (GPUBP_ENGINE, GPUBP_NUM_THREADS override)"


class Stepper:
    """Mini-batch SGD on the CPU; what it computes is defined by the reference's Stepper.

    x is (n, n_1) of the plan's dtype or uint8, C-ordered or a SciPy CSR array; y is (n,) labels or
    (n, n_L) targets, C-ordered.
    """

    def __init__(self, plan: Plan, parameters: Parameters, x: Any, y: Any) -> None:
        self.engine, threads = choose_engine(plan)
        at_most = plan.threads or threads_at_hand()
        self._stepper: ThreadedStepper
        if self.engine == "tiled":  # in as many parts on any machine, so that the bits are the same
            self._stepper = TiledStepper(plan, parameters, x, y, threads, at_most)
        else:
            self._stepper = PanelStepper(plan, parameters, x, y, min(threads, at_most))

        nothing = np.zeros(0, np.int64), np.zeros((0, len(plan.rule.numbers)))
        self._stepper.run(*nothing)  # compiles

    def run(self, order: Any, numbers: Any, importance: Any = None) -> Any:
        """Train on the examples of ``order``; each mini-batch's objective before its update, summed
        over its examples. ``numbers`` and ``importance`` are those of the reference's."""
        return self._stepper.run(order, numbers, importance)
