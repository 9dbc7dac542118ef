"""Kernels with one thing taken out that they need, each of which a gate must stop.

A mutant is a text put in another's place in a file of kernels/cuda as it is read; the kernels know
nothing of it. Blanks in ``old`` stand for any white space, so that it may run over lines. It must
be there exactly once: a kernel that is changed at that place has to be thought about here, too,
and cannot lose its mutant unseen (``test_cuda_mutants.py``). What is compiled is kept by its
text, and so never taken for another's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from unittest import mock


@dataclass(frozen=True)
class Edit:
    """``new`` in the place of ``old`` in that file."""

    file: str
    old: str
    new: str

    def __call__(self, text: str) -> str:
        pattern = r"\s+".join(map(re.escape, self.old.split()))
        text, count = re.subn(pattern, lambda _: self.new, text)
        if count != 1:
            raise LookupError(f"{self.old!r} is {count} times in {self.file}, not once")
        return text


def without(file: str, old: str, what: str = "__syncthreads();") -> tuple[Edit]:
    """``what`` taken out of ``old``."""
    assert old.count(what) == 1
    return (Edit(file, old, old.replace(what, "")),)


def change(file: str, old: str, new: str) -> tuple[Edit]:
    return (Edit(file, old, new),)


def one_buffer(array: str, *places: tuple[str, str]) -> tuple[Edit, ...]:
    """That array's BUFFER(...) is always the first of the two, in all these places."""
    pattern = rf"(s\.{array}(?:\[| \+ ))BUFFER\([^)]*\)"
    return tuple(Edit(file, old, re.sub(pattern, r"\g<1>0", old)) for file, old in places)


# A barrier, a fence or a buffer less: ThreadSanitizer must report a race.
RACES: dict[str, tuple[Edit, ...]] = {
    "SUM_WITHOUT_BARRIER": without("common.cuh", "__syncthreads(); return threadIdx.x"),
    "NEXT_STEPS_WITHOUT_BARRIER": without(
        "next_steps.cu", "__syncthreads();  // all have read how many were done"
    ),
    # Products
    "SINGLE_BUFFER": without("tile.cuh", "buffer ^= 1;", "buffer ^= 1;"),
    "STAGE_WITHOUT_BARRIER": without(
        "tile.cuh", "if (k0 + BK < depth) deposit(buffer); __syncthreads();"
    ),
    "SLICES_WITHOUT_BARRIER": without("tile.cuh", "__syncthreads(); for (int e = t;"),
    "PARTIAL_REUSED_WITHOUT_BARRIER": without(
        "tile.cuh", "epilogue(i, j, c); } __syncthreads();"
    ),
    "ASYNC_STAGE_WITHOUT_BARRIER": without(
        "tile_async.cuh", "__syncthreads();  // all have waited"
    ),
    "MMA_SINGLE_BUFFER": without("tile_mma.cuh", "buffer ^= 1;", "buffer ^= 1;"),
    "MMA_STAGE_WITHOUT_BARRIER": without(
        "tile_mma.cuh", "if (k0 + BK < depth) deposit(buffer); __syncthreads();"
    ),
    "MMA_SLICES_WITHOUT_BARRIER": without("tile_mma.cuh", "__syncthreads(); for (int e = t;"),
    "MMA_PARTIAL_REUSED_WITHOUT_BARRIER": without(
        "tile_mma.cuh", "epilogue(i, j, c); } __syncthreads();"
    ),
    "BIAS_WITHOUT_BARRIER": without("outer_sum_tile.cuh", "__syncthreads(); const int j"),
    # The whole chip in one launch
    "GRID_BARRIER_WITHOUT_FENCE": without(
        "grid.cuh", "fence_acq_rel_gpu(); atomicAdd(", "fence_acq_rel_gpu();"
    ),
    "GRID_BARRIER_WITHOUT_FENCE_BEHIND_IT": without(
        "grid.cuh", "wait_until(arrived, goal); fence_acq_rel_gpu();", "fence_acq_rel_gpu();"
    ),
    "ROWS_UP_WITHOUT_BARRIER": without(
        "cooperative.cu", "__syncthreads(); forward_rows<l + 1>(at, begin, end);"
    ),
    "ROWS_DOWN_WITHOUT_BARRIER": without(
        "cooperative.cu", "__syncthreads(); backward_rows<l - 1>(at, begin, end);"
    ),
    "ROWS_WITHOUT_GRID_BARRIER": without(
        "cooperative.cu", "forward_first(at, work, rows, m); grid_barrier(arrived, goal);",
        "grid_barrier(arrived, goal);",
    ),
    "UPDATE_WITHOUT_GRID_BARRIER": without(
        "cooperative.cu",
        "backward_rows<LAYERS - 1>(at, begin, end); grid_barrier(arrived, goal);",
        "grid_barrier(arrived, goal);",
    ),
    "NEXT_STEP_WITHOUT_GRID_BARRIER": without(
        "cooperative.cu", "told.put(objective); grid_barrier(arrived, goal);",
        "grid_barrier(arrived, goal);",
    ),
    # Clusters, and what stays on the chip
    "WAIT_BARRIER_WITHOUT_FENCE": without(
        "cluster.cuh", "fence_acquire_cluster();", "fence_acquire_cluster();"
    ),
    "INDICES_IN_A_SINGLE_BUFFER": one_buffer(
        "row", ("resident_fetch.cuh", "s.row[BUFFER(step)][threadIdx.x]"),
        ("resident_fetch.cuh", "s.row[BUFFER(step)][i_of(e)]"),
        ("resident_fetch.cuh", "s.row[BUFFER(step)][e / Y_WIDTH]"),
    ),
    "RULES_IN_A_SINGLE_BUFFER": one_buffer(
        "rule", ("resident_fetch.cuh", "s.rule + BUFFER(step)"),
        ("resident_layer_0.cuh", "rule = s.rule[BUFFER(step)];"),
        ("resident.cu", "rule = s.rule[BUFFER(step - 1)];"),
    ),
    "Z_IN_A_SINGLE_BUFFER": one_buffer(
        "z", ("resident_exchange.cuh", "s.z[BUFFER(step)][rank]"),
        ("resident_row.cuh", "s.z[BUFFER(step)];"),
    ),
    "LAYER_0_WITHOUT_BARRIER": without(
        "resident_row.cuh", "s.a[at] = sigma<0>(z); } __syncwarp();", "__syncwarp();"
    ),
    "FORWARD_WITHOUT_BARRIER": without(
        "resident_row.cuh", "__syncwarp(); forward<layer + 1>(s, i);", "__syncwarp();"
    ),
    "BP1_WITHOUT_BARRIER": without(
        "resident_row.cuh", "__syncwarp(); bp2<OUT - 1>(s, i);", "__syncwarp();"
    ),
    "BP2_WITHOUT_BARRIER": without(
        "resident_row.cuh", "__syncwarp(); bp2<layer - 1>(s, i);", "__syncwarp();"
    ),
    "START_WITHOUT_BARRIER": without(
        "resident.cu", "cluster_sync();  // the mbarriers", "cluster_sync();"
    ),
    "PARTS_WITHOUT_BARRIER": without(
        "resident.cu", "for (int step = 0;; step++) { __syncthreads();"
    ),
    "ROWS_WITHOUT_BARRIER": without("resident.cu", "fetch_indices(step + 4); __syncthreads();"),
    "DELTA_WITHOUT_BARRIER": without("resident.cu", "__syncthreads();  // all of delta is there"),
    "END_WITHOUT_BARRIER": without("resident.cu", "__syncthreads();  // the last update is done"),
}  # fmt: skip

# An index, a guard or a wait less: numbers are wrong, or something is out of bounds.
WRONG: dict[str, tuple[Edit, ...]] = {
    "ORDER_FROM_ITS_BEGINNING": without("forward.cu", "order + *first + offset;", "+ *first"),
    "BIAS_OF_THE_ROW": change("forward.cu", "sum + b[j];", "sum + b[i % N];"),
    "IMPORTANCE_OF_THE_EXAMPLE": change("bp1.cu", "(importance, place)", "(importance, row)"),
    "COSTS_IN_ONE_PLACE": change("bp1.cu", "cost[blockIdx.x] = sum;", "cost[0] = sum;"),
    "ROWS_OUT_OF_ORDER": change("outer_sum.cu", "a + rows[i] * K;", "a + rows[0] * K;"),
    "RULE_OF_THE_FIRST_STEP": change("outer_sum.cu", "(numbers, *done + step)", "(numbers, *done)"),
    "CLIP_BY_A_PART": change(
        "clipped_update.cu",
        "for (int block = 0; block < CLIP_BLOCKS; block++) square += squares[block];",
        "square = squares[blockIdx.x];",
    ),
    "STATES_ON_EACH_OTHER": change(
        "update.cuh", "update_penalised(w, state, apart, g, rule);",
        "update_penalised(w, state, 0, g, rule);",
    ),
    # Products
    "NO_GUARD_OF_COLUMNS": without(
        "tile.cuh", "if (i < rows && j < columns) epilogue", "&& j < columns"
    ),
    "COPY_NOT_WAITED_FOR": without(
        "tile_async.cuh", "wait_for_copies<STAGES - 2>();", "wait_for_copies<STAGES - 2>();"
    ),
    "PARTIAL_OVER_STAGES": without("tile_async.cuh", "__syncthreads();  // the partial sums"),
    "TRUNCATED_OPERANDS": (
        Edit("mma.cuh", "return cvt_rna_tf32(x);", "return __float_as_uint(x);"),
        Edit("mma.cuh", "return cvt_rn_bf16(x);", "return __float_as_uint(x) >> 16;"),
    ),
    "FRAGMENT_OF_THE_SAME_ROWS": without("tile_mma.cuh", "a[buffer].read(i + 8, w,", "+ 8"),
    # The whole chip in one launch
    "RULE_OF_THE_FIRST_STEP_OF_ALL": change(
        "cooperative.cu", "rule_of(numbers, start / M);", "rule_of(numbers, 0);"
    ),
    "IMPORTANCE_OF_THE_FIRST_STEP_OF_ALL": without(
        "cooperative.cu", "importance_of(importance, first + start + i);", "first + start +"
    ),
    # Clusters, and what stays on the chip
    "COUNTED_AT_THE_SENDER": change(
        "cluster.cuh", "mapa(count_at, rank)", "mapa(count_at, cluster_rank())"
    ),
    "X_OVERWRITTEN": one_buffer(
        "x", ("resident_fetch.cuh", "s.x[BUFFER(step)][k_of(e) + q]"),
        ("resident_layer_0.cuh", "s.x[BUFFER(step)][k]"),
        ("resident_layer_0.cuh", "s.x[BUFFER(step + 1)][k]"),
    ),
    "Y_OVERWRITTEN": one_buffer(
        "y", ("resident_fetch.cuh", "s.y[BUFFER(step)][e]"),
        ("resident_row.cuh", "s.y[BUFFER(step)], i,"),
    ),
    "SLICE_PAST_ITS_END": change(
        "resident_memory.cuh", "if (first_input + k < N_IN) to[", "if (first_input + k <= N_IN) to["
    ),
    "BIAS_OF_THE_EXAMPLE": change(
        "resident_row.cuh", "z += s.parameters.biases[j];", "z += s.parameters.biases[i % N_0];"
    ),
    "FIRST_INDICES_NOT_WAITED_FOR": without("resident.cu", "fetch_indices(2); __syncthreads();"),
    "HEAD_BY_THE_RULE_BEFORE": change(
        "resident.cu", "s.rule[BUFFER(step - 1)];", "s.rule[BUFFER(step)];"
    ),
    "NO_WAIT_FOR_THE_CLUSTER": change(
        "resident.cu", "mbarrier_wait(s.arrived + BUFFER(step), step / 2 & 1);", ""
    ),
    "IMPORTANCE_OF_THE_FIRST_STEP": change(
        "resident.cu", "(network.importance, place)", "(network.importance, i)"
    ),
    "ROWS_THAT_ARE_NOT_THERE": change("resident.cu", "else { no_row<0>(s, i); }", "else { }"),
    "STATE_IS_NOT_STORED": change(
        "resident.cu",
        "each_state(s, network.state, [&](Trained& here, T* there) "
        "{ store(here, there, first_input); });",
        "",
    ),
}  # fmt: skip
MUTANTS = dict(sorted((RACES | WRONG).items()))


def file_of(mutant: str) -> str:
    """Where it shows: the file that it changes, or changes first."""
    return MUTANTS[mutant][0].file


def pristine() -> dict[str, str]:
    """The files of kernels/cuda by name, read without importing it, which needs CuPy."""
    folder = files("gpubp.kernels") / "cuda"
    return {p.name: p.read_text() for p in folder.iterdir() if p.name.endswith((".cu", ".cuh"))}


@contextmanager
def planted(mutant: str | None) -> Iterator[None]:
    """Kernels are read as this mutant, if any, for the length of a ``with`` block; the stand-in is
    installed."""
    from gpubp.kernels.cuda import source

    read, edits = source._file, MUTANTS[mutant] if mutant else ()

    def edited(name: str) -> str:
        text = read(name)
        for edit in edits:
            text = edit(text) if edit.file == name else text
        return text

    with mock.patch.object(source, "_file", edited):
        yield
