"""The mode of floating point, compiled: see ``flushing.py``."""

from __future__ import annotations

from numba import int32

from gpubp.kernels.cpu.calls import set_flushing
from gpubp.kernels.cpu.machine_code import kept_jit


@kept_jit
def mode(new):
    """Set it, and return what it was."""
    return set_flushing(int32(new))
