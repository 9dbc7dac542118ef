"""The contract in CUDA C through CuPy, for float32 and float64; see :mod:`gpubp.kernels`.

A kernel is a ``.cu`` file that reads as an essay: its equation, its plain twin, its launch and why
it has that shape. ``source`` makes them kernels, ``tiling`` cuts products into tiles. ``stepper``
chooses between three ways to train: ``minibatch`` strings launches together and ``graphs`` replays
them; ``cooperative`` does it all in one launch of the whole chip; ``resident`` trains a small
network with the weights in shared memory, where ``capacity`` finds that it fits, and
``together`` many such networks in one launch.
"""

from gpubp.kernels.cuda.evaluation import score
from gpubp.kernels.cuda.hadamard import hadamard_sigma_prime
from gpubp.kernels.cuda.outer import outer_sum
from gpubp.kernels.cuda.stepper import Stepper
from gpubp.kernels.cuda.together import side_by_side

__all__ = ["Stepper", "hadamard_sigma_prime", "outer_sum", "score", "side_by_side"]
