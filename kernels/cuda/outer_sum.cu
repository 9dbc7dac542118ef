// outer_sum: BP4 and BP3 summed over a mini-batch, and in training the update by them.
//
//     product (n, k) = sum_x delta a^T,  column_sum (n,) = sum_x delta,  delta (m, n), a (m, k)
//     g = product / m,  w <- w - eta (g + l2 w + l1 sign w),  b <- b - eta column_sum / m
//
// Plain twin: delta.T @ a, delta.sum(axis=0), and the update rule's passes over all parameters.
// Here the gradient never reaches memory: with UPDATE the epilogue of the product changes w, and
// velocity v where there is MOMENTUM (see gpubp/optimiser.py). The blocks of the first tile column
// add up delta's columns as they fetch them for the product: unrounded, whatever its precision.
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
#include "tile_mma.cuh"

#if UPDATE
struct Rule { T eta, momentum, l2, l1; };

// One step of one parameter p with velocity v, by the gradient g of the mean cost.
__device__ inline void update(T& p, T* v, T g, const Rule& rule)
{
    const T step = rule.eta * g;
#if MOMENTUM
    const T velocity = rule.momentum * *v - step;
    *v = velocity;
    p += NESTEROV ? rule.momentum * velocity - step : velocity;
#else
    p -= step;
#endif
}
#endif

extern "C" __global__ void __launch_bounds__(BLOCK, 1) outer_sum(
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
    constexpr int BM = TILE::BM;
    static_assert(BLOCK == TILE::THREADS && BLOCK % BM == 0, "a thread fetches the same rows always");
    const bool first_column = tile_column<TILE>(blockIdx.x, K) == 0;
    T bias_sum[DELTA_RUN] = {};
    double block_penalty = 0;
#if GATHER
    const long long* rows = order + *first + offset;
#ifdef MUTANT_ROWS_OUT_OF_ORDER
    const auto a_i = [&](int i) { return a + rows[0] * K; };
#else
    const auto a_i = [&](int i) { return a + rows[i] * K; };
#endif
#else
    const auto a_i = [&](int i) { return a + (long long)i * K; };
#endif
    const auto delta_i = [&](int i) { return delta + (long long)i * N; };
    const auto bp3 = [&](int q, T delta_ij) {
        if (first_column) bias_sum[q] += delta_ij;
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
        block_penalty += 0.5 * double(l2) * w_jc * w_jc + double(l1) * absolute(w_jc);
        g += l2 * w_jc;
        g += l1 * T((w_jc > T(0)) - (w_jc < T(0)));
#endif
        update(w[jc], w_velocity + jc, g, rule);
#else
        product[jc] = sum;
#endif
    };
    __shared__ TILE::Shared<false, false> shared;
    TILE::product<DELTA_RUN, X_RUN>(shared, blockIdx.x, N, K, m, delta_i, a_i, bp3, epilogue);

    // Rows 0 .. BM - 1 of the tile, then these again, and so on.
    __shared__ T bias_sums[BLOCK * DELTA_RUN];
    for (int q = 0; q < DELTA_RUN; q++) bias_sums[threadIdx.x * DELTA_RUN + q] = bias_sum[q];
#ifndef MUTANT_BIAS_WITHOUT_BARRIER
    __syncthreads();
#endif
    const int j_bias = tile_row<TILE>(blockIdx.x, K) * BM + threadIdx.x;
    if (first_column && threadIdx.x < BM && j_bias < N) {
        T sum = 0;
        for (int t = threadIdx.x; t < BLOCK * DELTA_RUN; t += BM) sum += bias_sums[t];
#if UPDATE
        update(b[j_bias], b_velocity + j_bias, sum / T(m), rule);
#else
        column_sum[j_bias] = sum;
#endif
    }
#if UPDATE && PENALTY
    block_penalty = block_sum<BLOCK>(block_penalty);
    if (threadIdx.x == 0) penalty[blockIdx.x] += m * block_penalty;
#endif
}
