"""What ``resident.cu`` needs of a GPU: which networks it can train, and in what shape.

A network fits where the arrays of ``Shared`` fit the shared memory that a block may have, and where
a thread's part of layer 0 fits its registers. In bytes of the network's precision T, for layers of
n_1, n_2, ..., n_L neurons, M examples and a cluster of C blocks, each array in steps of 16 bytes:

    parameters    n_1/C n_2 + sum_l n_{l+1} n_l + sum_l n_l      (and again for each array of the
                                                                  update rule's state)
    inputs        2 n_1/C M
    a, delta, z   2 M sum_l n_l + M n_L
    parts of z    GROUPS M n_2, and 2 C M n_2 where C > 1
    targets       2 M (labels: 8 bytes each) or 2 M n_L, and 2 M indices of 8 bytes
    the rule      2 rows of its numbers

Of the shapes that fit (cluster, threads, tile of a thread) the one with the fewest cycles a step is
taken, by the count that resident.cu tells for one network. The shape decides the order of sums: it
follows from the plan and the GPU's limits alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np

from gpubp.kernels.cuda.source import has_roots
from gpubp.plan import Plan

CLUSTERS = (1, 2, 4, 8)  # 8 is the largest that every GPU with clusters has
_THREADS = (128, 256, 320, 384, 512)
_TILES = (1, 2, 4)
_SHARES = (1, 2, 4)  # of the groups of threads there could be, one in so many
_MOST_GROUPS = 64
_REGISTERS = 16384  # of each of the 4 parts of a multiprocessor, which share out a block's warps
_BESIDE = 96  # registers of a thread for all but its tiles and the rows to come
# That leave registers for all but odd networks, one fewer where the rule takes two numbers more.
_MOST_EXAMPLES = {"float32": 64, "float64": 28}
_STATIC_BYTES = 256  # of the sum over the block
CLOCK = 1.9e9  # cycles a second, to tell microseconds
# Instructions for a number of the state beyond the first, as most rules that have it divide and
# take roots: an estimate. And what roots take in registers, with which NVRTC spills none in
# test_cuda_compile.py; where a batch is nearly too tall it may spill a few. What is counted beside
# these is for plain SGD and momentum.
_OF_A_STATE, _OF_ROOTS = 20, 8
_SEND, _LATENCY = 14, 250  # bytes a cycle between blocks of a cluster, and cycles on the way


@dataclass(frozen=True)
class Device:
    """What a GPU offers: shared memory a block may have, clusters, multiprocessors."""

    shared_bytes: int
    clusters: bool
    multiprocessors: int


@dataclass(frozen=True)
class Data:
    """The examples' bytes: of one input, of one target and how many targets an example has;
    ``aligned``, the largest power of two that divides the address of the inputs."""

    input_bytes: int
    target_bytes: int
    targets: int
    aligned: int


@dataclass(frozen=True)
class Shape:
    """The constants of resident.cu that are chosen, what they take and the cycles a step."""

    cluster: int
    threads: int
    j_tile: int
    j_threads: int
    groups: int
    slice: int
    fetch: int
    shared_bytes: int = 0
    registers: int = 0
    cycles: int = 0

    @property
    def seconds(self) -> float:
        """Predicted, a step."""
        return self.cycles / CLOCK

    def turns(self, networks: int, device: Device) -> int:
        """Of so many networks side by side; a block takes a multiprocessor."""
        return -(-networks // max(1, device.multiprocessors // self.cluster))


class DoesNotFitError(ValueError):
    """Why a network cannot be trained by resident.cu on a GPU."""


def choose_shape(plan: Plan, data: Data, device: Device, networks: int = 1) -> Shape:
    """The shape in which so many networks of this plan, side by side, take the fewest cycles."""
    clusters = [c for c in CLUSTERS if c == 1 or device.clusters]
    shapes = list(_shapes(plan, data, clusters))
    network = f"sizes={list(plan.sizes)} with batch_size={plan.batch_size}"
    if plan.rule.clipped:
        raise DoesNotFitError("a clipped gradient must be there whole before any update")
    if plan.precision is not None:
        raise DoesNotFitError(f"products in {plan.precision} are launches of their own")
    if not (held := [s for s in shapes if s.registers <= _registers_at_most(s.threads)]):
        raise DoesNotFitError(
            f"{network} does not fit the registers of a block: take a batch_size of at most "
            f"{_MOST_EXAMPLES[plan.dtype] - -(-_of_rule(plan, 1) // 2)}"
        )
    room = device.shared_bytes - _STATIC_BYTES
    if not (fitting := [s for s in held if s.shared_bytes <= room]):
        least = min(held, key=lambda s: s.shared_bytes)
        raise DoesNotFitError(
            f"{network} needs {least.shared_bytes:,} bytes of shared memory in "
            f"{f'each of {least.cluster} blocks' if least.cluster > 1 else 'a block'}, and this "
            f"GPU has {room:,}"
        )

    def time(s: Shape) -> tuple[int, int]:
        return s.turns(networks, device) * s.cycles, s.cluster

    return min(fitting, key=time)


def _shapes(plan: Plan, data: Data, clusters: Sequence[int]) -> Iterator[Shape]:
    n_in, n = plan.sizes[:2]
    for cluster, threads, j_tile, share in product(clusters, _THREADS, _TILES, _SHARES):
        own = -(-n_in // cluster)
        fetch = next(
            f for f in (4, 2, 1)
            if n_in % f == own % f == 0 and data.aligned % (f * data.input_bytes) == 0
            and f * data.input_bytes <= 16
        )  # fmt: skip
        across = _up(n, max(2, j_tile)) // j_tile
        j_threads = min(1 << (across - 1).bit_length(), 1 << (threads.bit_length() - 1))
        groups = max(1, min(threads // j_threads, own, _MOST_GROUPS) // share)
        if (cluster - 1) * own >= n_in:
            continue  # a block would have no input
        shape = Shape(cluster, threads, j_tile, j_threads, groups, own, fetch)
        yield replace(
            shape,
            shared_bytes=_shared_bytes(plan, data, shape),
            registers=_registers(plan, data, shape),
            cycles=_cycles(plan, shape),
        )


def _item(plan: Plan) -> int:
    return int(np.dtype(plan.dtype).itemsize)


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _shared_bytes(plan: Plan, data: Data, s: Shape) -> int:
    """sizeof(Shared), which the kernel compares with this number when it is compiled."""
    sizes, m, item = plan.sizes, plan.batch_size, _item(plan)
    pitch = _up(sizes[1], max(2, s.j_tile))
    pitches = [pitch, *(_up(n, 2) for n in sizes[2:])]
    rows = m * sum(pitches)
    head = sum(n * (k | 1) for k, n in pairwise(sizes[1:]))
    part = _up(m * pitch, 4)
    trained = [s.slice * pitch * item, max(1, head) * item, sum(sizes[1:]) * item]
    arrays = trained * (1 + len(plan.rule.state))
    arrays += [2 * s.slice * _up(m, 2) * item, rows * item, rows * item, m * pitches[-1] * item]
    arrays += [s.groups * part * item]
    if s.cluster > 1:
        arrays += [2 * s.cluster * part * item, 16]
    arrays += [2 * m * data.targets * data.target_bytes, 2 * m * 8]
    arrays += [2 * len(plan.rule.numbers) * item]
    return sum(_up(nbytes, 16) for nbytes in arrays)


def _registers_at_most(threads: int) -> int:
    return min(255, _REGISTERS // (-(-threads // 128) * 32) // 8 * 8)


def _registers(plan: Plan, data: Data, s: Shape) -> int:
    """A thread's delta and z of layer 0, its weights with a number of the state each, what more the
    update rule takes, the rows on their way, and the rest, with four of the rule's numbers."""
    m, words = plan.batch_size, _item(plan) // 4
    bundles = -(-(_up(s.slice // s.fetch, 8) * m) // s.threads)
    coming = bundles * -(-s.fetch * data.input_bytes // 4)
    coming += -(-m * data.targets // s.threads) * data.target_bytes // 4
    return ((2 * m + 8) * s.j_tile + _of_rule(plan, s.j_tile)) * words + coming + _BESIDE


def _of_rule(plan: Plan, j_tile: int) -> int:
    """Numbers that a thread holds for the update rule, beyond those of momentum."""
    rule = plan.rule
    roots = _OF_ROOTS if has_roots(rule) else 0
    return 2 * _more_states(plan) * j_tile + max(0, len(rule.numbers) - 4) + roots


def _more_states(plan: Plan) -> int:
    """Arrays of the rule's state beyond the first."""
    return max(0, len(plan.rule.state) - 1)


def _cycles(plan: Plan, s: Shape) -> int:
    """Cycles a step, phase by phase; reads of shared memory count a cycle for 128 bytes."""
    sizes, m, words = plan.sizes, plan.batch_size, _item(plan) // 4
    warps, item = s.threads // 32, 4 * words
    pitch = _up(sizes[1], max(2, s.j_tile))
    tiles = -(-pitch // (s.j_tile * s.j_threads))
    busy = -(-s.groups * s.j_threads // 32)
    turns, rest = divmod(s.slice, s.groups)
    of_one = -(-busy // 4) * turns + -(-rest * s.j_threads // 128)  # turns of the busiest scheduler
    more = _more_states(plan)
    of_state = more * (2 + _OF_A_STATE) * s.j_tile
    issued = of_one * tiles * ((2 * m * s.j_tile + m + 2 * s.j_tile + of_state) * words + 6)
    waiting = turns * tiles * (4 * m + 70) / 2  # two turns overlap
    in_turn = 2 * -(-m // 2) + 2 * s.j_tile * (1 + more)
    reads = busy * s.slice / s.groups * tiles * words * in_turn
    layer_0 = max(issued, reads, waiting) + 100
    groups = 2 * s.groups * m * pitch * words / 32 + 60
    sent = (s.cluster - 1) * m * pitch * item / _SEND + _LATENCY if s.cluster > 1 else 0
    row = 200.0
    row_reads = sizes[1] / 32 * s.cluster
    update = 0.0
    for k, n in pairwise(sizes[1:]):
        lanes = max(1, 32 >> (n - 1).bit_length())
        forward = -(-n * lanes // 32) * -(-k // (2 * lanes))
        back = -(-k // 32) * -(-n // 2)
        row += (forward + back) * 6 * words + 300
        row_reads += (forward + back) * 3 * words
        update += n * k * (2 * m + more * (2 + _OF_A_STATE)) * words / 32
    rows = max(-(-m // warps) * row, m * row_reads)
    shadow = max(sent, update) if s.cluster > 1 else update
    return round(layer_0 + groups + shadow + rows + 90)
