// gather: a^1 of a mini-batch, the rows of x that it names, one below another.
//
//     a (m, k): row i is the example order[*first + offset + i] of x, bytes as x/255
//
// Plain twin: x[order] / 255. Smaller layers gather while they multiply and need no a^1 in memory;
// this is for those whose tiles copy their stages as they lie (tile_async.cuh): a row is converted
// once here, instead of once for each tile of a column, forward and again in BP4.
//
// Launch: 4 elements a thread, BLOCK threads a block.
// Cost: m k numbers read and written, of case L 0.4 MB and 1.6 MB, all in the second-level cache.

#include "common.cuh"
#include "runs.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK, 1) gather(
    int m, const Input* x, T* a, const long long* order, const long long* first, int offset)
{
    const long long run = (long long)blockIdx.x * BLOCK + threadIdx.x;
    const long long row = run / (K / 4), column = run % (K / 4) * 4;
    if (row >= m) return;
    T values[4];
    read_run(x + order[*first + offset + row] * K + column, values);
    write_run(a + row * K + column, values);
}
