// BP1: delta^L = grad_a C (x) sigma'(z^L), and the cost, for the m rows of a mini-batch.
//
//     delta (m, n) = output_delta(z, a, y);  cost[block] += sum over its rows of C;  z, a, y (m, n)
//
// Plain twin: bp1 and example_cost of the equations, one array pass for each operation. Here both
// are one pass: the formulas of this pair of activation and cost are compiled in (a - y where it
// simplifies). With SOFTMAX, delta = a sum_j y - y and C = -sum_j y log a, with log a = z - max z -
// log sum exp.
//
// Launch: a warp a row, BLOCK / 32 rows a block. A row's sums are butterflies within its warp. Each
// block adds the costs of its rows, in double, to a sum of its own: no atomics, and the host adds
// up these few sums once a piece of an epoch. Row i is the example order[*first + offset + i] of y.
//
// Cost: nothing beside the launch: (m, n_L) numbers.

#include "common.cuh"
#include "formulas.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK) bp1(
    int m, int n, const T* z, const T* a, const Target* y, T* delta, double* cost,
    const long long* order, const long long* first, int offset)
{
    const int lane = threadIdx.x % 32, i = blockIdx.x * (BLOCK / 32) + threadIdx.x / 32;
    double sum = 0;
    if (i < m) {
        const long long row = order[*first + offset + i];
        const T* z_i = z + (long long)i * N;
        T* delta_i = delta + (long long)i * N;
#if SOFTMAX
        T top = z_i[lane < N ? lane : 0], total = 0, y_total = 0;
        for (int j = lane; j < N; j += 32) top = maximum(top, z_i[j]);
        top = warp_maximum(top);
        for (int j = lane; j < N; j += 32) {
            total += exp(z_i[j] - top);
            y_total += target(y, row, j, N);
        }
        total = warp_sum(total);
        y_total = warp_sum(y_total);
        for (int j = lane; j < N; j += 32) {
            const T y_j = target(y, row, j, N), shifted = z_i[j] - top;
            delta_i[j] = exp(shifted) / total * y_total - y_j;
            sum -= y_j == T(0) ? T(0) : y_j * (shifted - log(total));  // 0 log 0 = 0
        }
#else
        const T* a_i = a + (long long)i * N;
        for (int j = lane; j < N; j += 32) {
            const T y_j = target(y, row, j, N);
            delta_i[j] = output_delta(z_i[j], a_i[j], y_j);
            sum += output_cost(z_i[j], a_i[j], y_j);
        }
#endif
    }
    sum = block_sum<BLOCK>(sum);
#ifdef MUTANT_COST_OF_THE_LAST_STEP
    if (threadIdx.x == 0) cost[blockIdx.x] = sum;
#else
    if (threadIdx.x == 0) cost[blockIdx.x] += sum;
#endif
}
