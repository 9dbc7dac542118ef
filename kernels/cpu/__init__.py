"""The contract in Numba, for float32 and float64; see :mod:`gpubp.kernels`."""

from gpubp.kernels.cpu.hadamard import hadamard_sigma_prime
from gpubp.kernels.cpu.outer import outer_sum
from gpubp.kernels.cpu.paneled import score
from gpubp.kernels.cpu.stepper import Stepper

__all__ = ["Stepper", "hadamard_sigma_prime", "outer_sum", "score"]
