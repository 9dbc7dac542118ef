// BP1: delta^L = grad_a C (x) sigma'(z^L), and the cost, for the m rows of a mini-batch.
//
//     delta (m, n) = output_delta(z, a, y);  cost[block] = sum over its rows of C;  z, a, y (m, n)
//
// Plain twin: bp1 and example_cost of the equations, one array pass for each operation. Here both
// are one pass; see output_row.cuh.
//
// Launch: a warp a row, BLOCK / 32 rows a block, as many blocks as a full mini-batch has. A row's
// sums are butterflies within its warp. Each block writes the costs of its rows, in double, to a
// place of its own: no atomics; next_steps adds them up, in order. Row i is the example
// order[*first + offset + i] of y; its importance stands at that place of the order.
//
// Cost: nothing beside the launch: (m, n_L) numbers.

#include "common.cuh"
#include "formulas.cuh"
#include "output_row.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK) bp1(
    int m, int n, const T* z, const T* a, const Target* y, T* delta, double* cost,
    const T* importance, const long long* order, const long long* first, int offset)
{
    const int i = blockIdx.x * (BLOCK / 32) + threadIdx.x / 32;
    double sum = 0;
    if (i < m) {
        const long long place = *first + offset + i, row = order[place], at = (long long)i * N;
        const T counted = importance_of(importance, place);
        sum = output_row(z + at, a + at, y, row, N, counted, delta + at);
    }
    sum = block_sum<BLOCK>(sum);
    if (threadIdx.x == 0) cost[blockIdx.x] = sum;
}
