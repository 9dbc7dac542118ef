// outer_sum: BP4 and BP3 summed over a mini-batch, and in training the update by them.
//
//     product (n, k) = sum_x delta a^T,  column_sum (n,) = sum_x delta,  delta (m, n), a (m, k)
//     g = product / m,  w <- w - eta (g + l2 w + l1 sign w),  b <- b - eta column_sum / m
//
// Plain twin: delta.T @ a, delta.sum(axis=0), and the update rule's passes over all parameters.
// Here the gradient never reaches memory: with UPDATE the epilogue of the product changes w, and
// velocity v where there is MOMENTUM (see gpubp/optimiser.py). The blocks of the first tile column
// add up delta's columns from the stages that lie in shared memory for the product.
//
// The penalty of the weights before their update belongs to the cost of this mini-batch. Each block
// adds m times its tile's share to a sum of its own, in double: no two blocks meet, launches follow
// each other, so a run repeats bit for bit without atomics.
//
// Launch: a block a tile of w. With GATHER, a is the data set; see forward.cu.
//
// Cost: m n k products; each weight (and velocity) read and written once; m (BM + BN) numbers read
// a block.

#include "common.cuh"
#include "tile.cuh"

#if UPDATE
#include "rule.cuh"
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) outer_sum(
    int m, int n, int k, const T* delta, const Input* a,
#if GATHER
    const long long* order, const long long* first, int offset,
#endif
#if UPDATE
    T* w, T* b, T* w_velocity, T* b_velocity, const T* eta, T momentum, T l2, T l1, double* penalty
#else
    T* product, T* column_sum
#endif
)
{
    const bool first_column = tile_column(K) == 0 && threadIdx.x < BM;
    const int j_bias = tile_row(K) * BM + threadIdx.x;
    T bias_sum = 0;
    double block_penalty = 0;
#if GATHER
    const long long* rows = order + *first + offset;
#ifdef MUTANT_ROWS_OUT_OF_ORDER
    const auto a_ik = [&](int c, int i) { return as_input(a[rows[0] * K + c]); };
#else
    const auto a_ik = [&](int c, int i) { return as_input(a[rows[i] * K + c]); };
#endif
#else
    const auto a_ik = [&](int c, int i) { return as_input(a[(long long)i * K + c]); };
#endif
    const auto delta_ij = [&](int j, int i) { return delta[(long long)i * N + j]; };
    const auto bp3 = [&](const AStage& stage) {
        for (int i = 0; first_column && i < BK; i++) bias_sum += element(stage, threadIdx.x, i);
    };
#if UPDATE
    const Rule rule = {*eta, momentum, l2, l1};
#endif
    const auto epilogue = [&](int j, int c, T sum) {
        const long long jc = (long long)j * K + c;
#if UPDATE
        T g = sum / T(m);
#if PENALTY
        const T w_jc = w[jc];
        block_penalty += penalty_of(w_jc, rule);
        g = penalised(g, w_jc, rule);
#endif
        update(w[jc], w_velocity + jc, g, rule);
#else
        product[jc] = sum;
#endif
    };
    tile_product<false, false>(N, K, m, delta_ij, a_ik, bp3, epilogue);

    if (first_column && j_bias < N) {
#if UPDATE
        update(b[j_bias], b_velocity + j_bias, bias_sum / T(m), rule);
#else
        column_sum[j_bias] = bias_sum;
#endif
    }
#if UPDATE && PENALTY
    block_penalty = block_sum<THREADS>(block_penalty);
    if (threadIdx.x == 0) penalty[blockIdx.x] += m * block_penalty;
#endif
}
