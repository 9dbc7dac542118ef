// BP1: delta^L = grad_a C (x) sigma'(z^L), and the cost, for the m rows of a mini-batch.
//
//     delta (m, n) = output_delta(z, a, y);  cost[block] += sum over its rows of C;  z, a, y (m, n)
//
// Plain twin: bp1 and example_cost of the equations, one array pass for each operation. Here both
// are one pass: the formulas of this pair of activation and cost are compiled in (a - y where it
// simplifies); see output_row.cuh.
//
// Launch: a warp a row, BLOCK / 32 rows a block. A row's sums are butterflies within its warp. Each
// block adds the costs of its rows, in double, to a sum of its own: no atomics, and the host adds
// up these few sums once a piece of an epoch. Row i is the example order[*first + offset + i] of y.
//
// Cost: nothing beside the launch: (m, n_L) numbers.

#include "common.cuh"
#include "formulas.cuh"
#include "output_row.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK) bp1(
    int m, int n, const T* z, const T* a, const Target* y, T* delta, double* cost,
    const long long* order, const long long* first, int offset)
{
    const int lane = threadIdx.x % 32, i = blockIdx.x * (BLOCK / 32) + threadIdx.x / 32;
    double sum = 0;
    if (i < m) {
        const long long row = order[*first + offset + i], i_0 = (long long)i * N;
        sum = output_row(lane, N, z + i_0, a + i_0, y, row, delta + i_0);
    }
    sum = block_sum<BLOCK>(sum);
#ifdef MUTANT_COST_OF_THE_LAST_STEP
    if (threadIdx.x == 0) cost[blockIdx.x] = sum;
#else
    if (threadIdx.x == 0) cost[blockIdx.x] += sum;
#endif
}
